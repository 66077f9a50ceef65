import asyncio
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from marram.core.errors import Corrupt, Invalid, LimitExceeded, NotFound
from marram.core.segment import Origin
from marram.hub.timeseries.points import Point
from marram.hub.timeseries.service import Row, TimeSeries

Opened = Callable[..., AbstractAsyncContextManager[TimeSeries]]
T0 = 1_750_000_000_000
DAY_MS = 86_400_000


def point(n: int, *, series: str = "plant.temp", **fields: float | int | str | bool) -> Point:
    return Point(series, T0 + n, fields or {"n": n}, {"core": f"c{n % 3}"})


async def everything(
    service: TimeSeries, series: str = "plant.temp", *, limit: int = 1_000, **options: object
) -> list[Row]:
    rows: list[Row] = []
    after = None
    while True:
        page, after = await service.query(series, limit=limit, after=after, **options)  # type: ignore[arg-type]
        rows += page
        assert len(page) <= limit
        if after is None:
            return rows


async def test_points_are_there_once_before_and_after_a_flush(opened: Opened, tmp_path: Path) -> None:
    async with opened(tmp_path) as service:
        await service.append([point(n) for n in range(10)], None)
        before = await everything(service)
        assert [row.fields for row in before] == [{"n": n} for n in range(10)]
        assert await service.flush() == 10
        assert await everything(service) == before
        await service.append([point(n) for n in range(10, 15)], None)
        assert [row.fields["n"] for row in await everything(service)] == list(range(15))
        assert await service.flush() == 5
        assert await service.flush() == 0


async def test_all_types_of_values_and_odd_names_come_back_as_they_were(opened: Opened, tmp_path: Path) -> None:
    fields = {
        "i": -(2**63),
        "r": 1.0,
        "text": "ü\n'",
        "yes": True,
        "Name": 1,
        "name": 2.5,
        "^x": "a",
        'a b.c"d': 3,
        "": 0,
    }
    del fields[""]
    async with opened(tmp_path) as service:
        await service.append(
            [Point("s", T0, fields, {"Core": "a", "core": "b"}), Point("s", T0, {"i": "text now"}, {})], None
        )
        before = await everything(service, "s")
        await service.flush()
        after = await everything(service, "s")
        assert after == before
        assert dict(after[0].fields) == fields
        assert [type(after[0].fields[name]) for name in ("i", "r", "yes")] == [int, float, bool]
        assert dict(after[0].dimensions) == {"Core": "a", "core": "b"}
        assert dict(after[1].fields) == {"i": "text now"}


@pytest.mark.parametrize("flushed", [0, 50, 100])
async def test_pages_have_every_row_once_in_order(opened: Opened, tmp_path: Path, flushed: int) -> None:
    async with opened(tmp_path) as service:
        # Many with one time: a page may end between them.
        given = [Point("s", T0 + n // 10, {"n": n}, {"odd": str(n % 2)}) for n in range(100)]
        await service.append(given[:flushed], None)
        await service.flush()
        await service.append(given[flushed:], None)
        for limit in (1, 7, 50, 100, 1000):
            if limit == 1 and flushed == 50:
                continue
            assert [row.fields["n"] for row in await everything(service, "s", limit=limit)] == list(range(100))
        odd = await everything(service, "s", where={"odd": "1"}, limit=9)
        assert [row.fields["n"] for row in odd] == list(range(1, 100, 2))
        assert await everything(service, "s", where={"nothing": "1"}) == []
        middle = await everything(service, "s", from_ms=T0 + 2, to_ms=T0 + 5)
        assert [row.fields["n"] for row in middle] == list(range(20, 50))


async def test_late_points_and_days_are_sorted_in(opened: Opened, tmp_path: Path) -> None:
    async with opened(tmp_path) as service:
        await service.append([Point("s", T0 + DAY_MS, {"n": 2}, {}), Point("s", T0, {"n": 1}, {})], None)
        await service.flush()
        assert len(service._files["s"]) == 2  # one a day
        await service.append([Point("s", T0 - DAY_MS, {"n": 0}, {}), Point("s", T0 + 2 * DAY_MS, {"n": 3}, {})], None)
        assert [row.fields["n"] for row in await everything(service, "s")] == [0, 1, 2, 3]


async def test_a_restart_without_a_flush_replays_the_journal(opened: Opened, tmp_path: Path) -> None:
    async with opened(tmp_path, stop=False) as service:
        await service.append([point(n) for n in range(5)], Origin("rules", 7, 0))
        await service.flush()
        await service.append([point(n) for n in range(5, 9)], Origin("rules", 8, 0))
        before = await everything(service)
    async with opened(tmp_path, seed=2) as service:
        assert await everything(service) == before
        assert [row.fields["n"] for row in before] == list(range(9))
    async with opened(tmp_path, seed=3) as service:
        assert await everything(service) == before


@pytest.mark.parametrize("flush", [False, True], ids=["tail", "files"])
async def test_an_origin_that_is_there_is_skipped_also_after_a_restart(
    opened: Opened, tmp_path: Path, flush: bool
) -> None:
    async with opened(tmp_path, stop=flush) as service:
        await service.append([point(1), point(2)], Origin("rules", 5, 0))
        await service.append([point(1), point(2)], Origin("rules", 5, 0))
        await service.append([point(2), point(3)], Origin("rules", 5, 1))
        await service.append([point(0)], Origin("rules", 4, 9))
        await service.append([point(4)], Origin("other", 1, 0))
        assert [row.fields["n"] for row in await everything(service)] == [1, 2, 3, 4]
    async with opened(tmp_path, seed=2) as service:
        await service.append([point(1), point(2), point(3)], Origin("rules", 5, 0))
        await service.append([point(4)], Origin("other", 1, 0))
        await service.append([point(5)], Origin("rules", 6, 0))
        assert [row.fields["n"] for row in await everything(service)] == [1, 2, 3, 4, 5]


async def test_files_without_a_row_are_deleted_at_start_and_a_missing_one_is_refused(
    opened: Opened, tmp_path: Path
) -> None:
    async with opened(tmp_path) as service:
        await service.append([point(1)], None)
    stray = tmp_path / "ts" / "stray-0.parquet"
    stray.write_bytes(b"half")
    (tmp_path / "ts" / "x.points").write_bytes(b"")
    async with opened(tmp_path, seed=2):
        assert not stray.exists()
        assert [path.suffix for path in (tmp_path / "ts").iterdir()] == [".parquet"]
    next((tmp_path / "ts").iterdir()).unlink()
    with pytest.raises(Corrupt, match="missing"):
        async with opened(tmp_path, seed=3):
            pass


async def test_a_full_disk_at_the_flush_keeps_the_points(
    opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as service:
        await service.append([point(n) for n in range(3)], None)
        (tmp_path / "ts").chmod(0o700)
        service._writer._env["MARRAM_FAILPOINTS"] = "timeseries.flush.before_fsync=ENOSPC"
        with pytest.raises(Exception, match="disk full"):
            await service.flush()
        assert [row.fields["n"] for row in await everything(service)] == [0, 1, 2]
        await service._writer.close()
        service._writer._env.clear()
        service._writer._closed = False
        assert await service.flush() == 3
        assert [row.fields["n"] for row in await everything(service)] == [0, 1, 2]


async def test_a_worker_killed_in_the_flush_loses_nothing(opened: Opened, tmp_path: Path) -> None:
    async with opened(tmp_path) as service:
        await service.append([point(n) for n in range(3)], None)
        service._writer._env["MARRAM_FAILPOINTS"] = "timeseries.flush.before_dir_fsync=kill"
        with pytest.raises(Exception, match="SIGKILL"):
            await service.flush()
        service._writer._env.clear()
        assert await service.flush() == 3
        assert [row.fields["n"] for row in await everything(service)] == [0, 1, 2]


async def test_appends_and_queries_during_flushes_see_every_point_once(opened: Opened, tmp_path: Path) -> None:
    async with opened(tmp_path) as service:
        await service.append([point(0)], Origin("rules", 0, 0))
        done = asyncio.Event()

        async def flushes() -> None:
            while not done.is_set():
                await service.flush()
                await service._compact_one()
                await asyncio.sleep(0)  # with nothing to flush neither call gives the turn away

        async def appends() -> None:
            for n in range(1, 60):
                await service.append([point(n)], Origin("rules", n, 0))
                rows = await everything(service)
                assert [row.fields["n"] for row in rows] == list(range(n + 1))
            done.set()

        async with asyncio.timeout(50), asyncio.TaskGroup() as tasks:
            tasks.create_task(flushes())
            tasks.create_task(appends())


async def test_compaction_makes_one_file_of_many(opened: Opened, tmp_path: Path) -> None:
    async with opened(tmp_path) as service:
        for n in range(8):
            await service.append([point(n), point(n, series="other", x=float(n))], None)
            await service.flush()
        before = await everything(service)
        await service._compact_one()
        await service._compact_one()
        assert [len(files) for files in service._files.values()] == [1, 1]
        assert len(list((tmp_path / "ts").iterdir())) == 2
        assert await everything(service) == before
    async with opened(tmp_path, seed=2) as service:
        assert await everything(service) == before


async def test_series_are_listed_with_their_range(opened: Opened, tmp_path: Path) -> None:
    async with opened(tmp_path) as service:
        assert service.series() == []
        await service.append([point(1), point(5)], None)
        await service.flush()
        await service.append([point(3), point(9, series="b")], None)
        found = service.series()
        assert [(s.series, s.points, s.first_ms - T0, s.last_ms - T0) for s in found] == [
            ("b", 1, 9, 9),
            ("plant.temp", 3, 1, 5),
        ]


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        pytest.param(Point("", T0, {"a": 1}, {}), Invalid, id="no name"),
        pytest.param(Point("a b", T0, {"a": 1}, {}), Invalid, id="name with a space"),
        pytest.param(Point("a", -1, {"a": 1}, {}), Invalid, id="time below zero"),
        pytest.param(Point("a", T0, {}, {}), Invalid, id="no field"),
        pytest.param(Point("a", T0, {"a": float("nan")}, {}), Invalid, id="not a number"),
        pytest.param(Point("a", T0, {"a": 2**63}, {}), Invalid, id="over 64 bits"),
        pytest.param(Point("a", T0, {"a": None}, {}), Invalid, id="null"),  # type: ignore[dict-item]
        pytest.param(Point("a", T0, {"a": "x" * 70_000}, {}), LimitExceeded, id="long text"),
        pytest.param(Point("a", T0, {str(n): "x" * 60_000 for n in range(5)}, {}), LimitExceeded, id="many long texts"),
        pytest.param(Point("a", T0, {"a": 1}, {"d": 1}), Invalid, id="dimension not text"),  # type: ignore[dict-item]
        pytest.param(Point("a", T0, {"": 1}, {}), Invalid, id="field without a name"),
        pytest.param(Point("a", T0, {str(n): n for n in range(2000)}, {}), LimitExceeded, id="many fields"),
    ],
)
async def test_a_bad_point_is_refused_and_nothing_of_the_call_kept(
    opened: Opened, tmp_path: Path, bad: Point, error: type[Exception]
) -> None:
    async with opened(tmp_path) as service:
        with pytest.raises(error):
            await service.append([point(1), bad], None)
        assert service.series() == []


async def test_an_unknown_series_is_not_found(opened: Opened, tmp_path: Path) -> None:
    async with opened(tmp_path) as service:
        with pytest.raises(NotFound, match="no series 'nothing'"):
            await service.query("nothing")


async def test_100_000_rows_are_read_by_pages_quickly(opened: Opened, tmp_path: Path) -> None:
    async with opened(tmp_path) as service:
        for start in range(0, 100_000, 10_000):
            await service.append(
                [
                    Point("s", T0 + n, {"frame": f"f-{n:06}", "c": n / 7}, {"core": "a"})
                    for n in range(start, start + 10_000)
                ],
                None,
            )
        await service.flush()
        began = time.perf_counter()
        rows = await everything(service, "s", limit=10_000)
        took = time.perf_counter() - began
        assert len({row.fields["frame"] for row in rows}) == len(rows) == 100_000
        assert took < 20, f"{took:.1f} s"


def test_the_hub_side_imports_neither_duckdb_nor_pyarrow() -> None:
    script = (
        "import sys, marram.hub.timeseries.api, marram.hub.timeseries.service, marram.hub.rules.api, marram.hub.rules.service\n"
        "heavy = {'duckdb', '_duckdb', 'pyarrow', 'numpy', 'pandas', 'multiprocessing', 'pickle'}\n"
        "print(sorted(heavy & {name.partition('.')[0] for name in sys.modules}))"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
