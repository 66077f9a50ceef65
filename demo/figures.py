"""Small arithmetic of what was measured. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any


def percentile(values: Sequence[float], share: float) -> float:
    """Nearest rank; NaN of nothing."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-int(share * 100 * len(ordered)) // 100) - 1))]


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")


def share_dropped(first: Mapping[str, Any], last: Mapping[str, Any]) -> float:
    """Of the frames due between two rows of one run, those that were dropped, skipped or failed."""
    due = last["due"] - first["due"]
    lost = sum(last[key] - first[key] for key in ("dropped", "skipped", "failed"))
    return lost / due if due else 0.0


def longest_gap_s(rows: Sequence[Mapping[str, Any]], fps: float) -> float:
    """The longest time between two predictions of one core, over restarts; from the times at which frames were read."""
    moments: list[tuple[float, float]] = []
    for row in rows:
        newest = (row["time_ms"] - row["age_ms"]) / 1000
        moments.append((newest - (row["last"] - row["first"]) / fps, newest))
    moments.sort()
    worst, reached = 0.0, moments[0][1] if moments else 0.0
    for begin, end in moments[1:]:
        worst = max(worst, begin - reached)
        reached = max(reached, end)
    return worst
