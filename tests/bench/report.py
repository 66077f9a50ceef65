"""What `make bench` writes: docs/benchmarks.json holds the last figures of each bench, docs/benchmarks.md shows them.

Pure. A run is {"machine", "commit", "date", "seconds", "figures"}; large runs (MARRAM_FULL=1) are kept apart from small ones.
A goal is ">= n", "<= n" or a number that must be met exactly. The hard minimum is 0.6 of a floor, and as much above a ceiling;
an aim, ">= n (aim)", has none.
"""

import fnmatch
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal

HARD: Final = 0.6
Verdict = Literal["met", "missed", "under the hard minimum"]
Run = Mapping[str, Any]

HEAD: Final = """\
# Benchmarks

Written by `make bench`; `MARRAM_FULL=1 make bench` takes the large runs too. Ratios are against a peer or a bare baseline of the
same run; a shared machine moves absolute figures by a factor of two between minutes. Each bench says what it measures at the
head of its file in `tests/bench`. A goal that is missed has a note at the end; the hard minimum is 0.6 of a goal. Below the goals
is all that was measured.
"""


def flatten(value: object, prefix: str = "") -> list[tuple[str, object]]:
    """Rows of nested figures, with dotted names."""
    if not isinstance(value, Mapping):
        return [(prefix, value)]
    return [row for key, item in value.items() for row in flatten(item, f"{prefix}.{key}" if prefix else str(key))]


def shown(value: object) -> str:
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def judge(value: object, goal: str) -> Verdict | None:
    """None: there is no goal, or the value is no number. Raises ValueError for a goal that cannot be read."""
    if not goal or isinstance(value, bool) or not isinstance(value, int | float):
        return None
    found = re.fullmatch(r"(>=|<=)? ?([\d,]+(?:\.\d+)?)( \(aim\))?", goal)
    if found is None:
        raise ValueError(f"a goal is '>= n', '<= n' or a number, not {goal!r}")
    limit = float(found[2].replace(",", ""))
    hard = 0.0 if found[3] else HARD
    if found[1] == ">=":
        return "met" if value >= limit else "under the hard minimum" if not value >= hard * limit else "missed"
    if found[1] == "<=":
        return "met" if value <= limit else "under the hard minimum" if not hard * value <= limit else "missed"
    return "met" if value == limit else "missed"


def missed(name: str, figures: object, goals: Mapping[str, str]) -> Iterator[tuple[str, object, str, Verdict]]:
    """Rows of a bench that do not reach their goal."""
    for key, value in flatten(figures):
        row = f"{name}.{key}"
        verdict = judge(value, goals.get(row, ""))
        if verdict in ("missed", "under the hard minimum"):
            yield row, value, goals[row], verdict


def unmet(name: str, figures: object, goals: Mapping[str, str]) -> list[str]:
    """Goals of a bench for which it has no figure, a peer that is not there for one."""
    there = {f"{name}.{key}" for key, _ in flatten(figures)}
    return [row for row in goals if row.startswith(f"{name}.") and row not in there]


def noted(row: str, notes: str) -> bool:
    """Whether the notes name the row, in backticks; `gateway.p99.*` names many."""
    return any(fnmatch.fnmatchcase(row, pattern) for pattern in re.findall(r"`([^`\n]+)`", notes))


def merged(old: Mapping[str, Any], small: Mapping[str, Run], large: Mapping[str, Run]) -> dict[str, Any]:
    """The last run of each bench; those that did not run now keep theirs."""
    kept = old if old.get("format") == 2 else {}
    return {
        "format": 2,
        "runs": dict(sorted({**kept.get("runs", {}), **small}.items())),
        "full": dict(sorted({**kept.get("full", {}), **large}.items())),
    }


def render(results: Mapping[str, Any], goals: Mapping[str, str], notes: str) -> str:
    """docs/benchmarks.md: rows with a goal first, then each run whole."""
    parts = [HEAD, "## Goals\n\n" + _goals(results, goals)]
    for title, key in (("", "runs"), ("large", "full")):
        for name, run in results[key].items():
            machine = ", ".join(f"{what} {value}" for what, value in run["machine"].items())
            parts.append(
                f"## {name}{f', {title}' if title else ''}\n\n"
                f"Commit {run['commit']}, {run['date']}, {run['seconds']:.0f} s; {machine}.\n\n"
                + _table(name, run, goals)
            )
    return "\n".join([*parts, notes.rstrip()]) + "\n"


def _goals(results: Mapping[str, Any], goals: Mapping[str, str]) -> str:
    rows: list[Sequence[str]] = [("figure", "measured", "goal", "")]
    for title, key in (("", "runs"), (", large", "full")):
        for name, run in results[key].items():
            for figure, value in flatten(run["figures"]):
                if (verdict := judge(value, goal := goals.get(f"{name}.{figure}", ""))) is not None:
                    rows.append((f"{name}{title}: {figure}", shown(value), goal, _marked(verdict)))
            for row in unmet(name, run["figures"], goals):
                rows.append((f"{name}{title}: {row.partition('.')[2]}", "", goals[row], "not measured"))
    return _lines(rows)


def _table(name: str, run: Run, goals: Mapping[str, str]) -> str:
    rows: list[Sequence[str]] = [("figure", "measured", "goal", "")]
    for key, value in flatten(run["figures"]):
        goal = goals.get(f"{name}.{key}", "")
        rows.append((key, shown(value), goal, _marked(judge(value, goal))))
    return _lines(rows)


def _marked(verdict: Verdict | None) -> str:
    return "" if verdict is None else verdict if verdict == "met" else f"**{verdict}**"


def _lines(rows: Sequence[Sequence[str]]) -> str:
    lines = ["|" + "|".join(f" {cell} " if cell else " " for cell in row) + "|" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]) + "\n"
