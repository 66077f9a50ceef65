"""The time series after a power cut: every acknowledged point is there exactly once, in a file or in the tail, and it goes on."""

import asyncio
from pathlib import Path

import pytest

from marram.core.errors import NotFound
from marram.core.segment import Origin
from marram.hub.timeseries.service import TimeSeries
from tests.crash.sweep import python, sweep
from tests.crash.work import timeseries as workload


async def numbers(series: TimeSeries) -> list[int]:
    found: list[int] = []
    for name in ("s0", "s1"):
        try:
            rows, more = await series.query(name, limit=10_000)
        except NotFound:
            continue
        assert more is None
        found += [int(row.fields["n"]) for row in rows]
    return sorted(found)


async def examine(root: Path, acks: list[str]) -> None:
    acked = {int(line) for line in acks}
    async with workload.opened(root) as series:
        before = await numbers(series)
        assert len(set(before)) == len(before), f"twice: {before}"
        assert acked <= set(before), f"acknowledged and lost: {sorted(acked - set(before))}"
        # What is there is not taken again; what is new is.
        for n in before:
            await series.append([workload.point(n)], Origin("work", -1, n))
        await series.append([workload.point(1_000)], Origin("work", 1_000, 0))
        await series.flush()
        assert await numbers(series) == [*before, 1_000]
    async with workload.opened(root) as series:
        assert await numbers(series) == [*before, 1_000]


def check(root: Path, acks: list[str]) -> None:
    root.mkdir(exist_ok=True)
    asyncio.run(examine(root, acks))


def test_points_survive_a_power_cut_at_any_operation() -> None:
    sweep(python("timeseries", "good"), check, every=8, budget_s=10).assert_clean()


@pytest.mark.parametrize(
    ("broken", "mode"),
    [("rows-before-sync", "drop"), ("no-folder-sync", "drop"), ("cursor-first", "drop"), ("delete-first", "keep")],
)
def test_the_sweep_notices(broken: str, mode: str) -> None:
    # Only the kind of disk on which this one shows: a fifth of the work.
    sweep(python("timeseries", broken), check, every=1, modes=(mode,), stop_after=1, budget_s=40).assert_caught()
