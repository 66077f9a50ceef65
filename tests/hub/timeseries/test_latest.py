from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from marram.core.errors import NotFound
from marram.hub.timeseries import points
from marram.hub.timeseries.newest import Newest
from marram.hub.timeseries.points import Point
from marram.hub.timeseries.service import TimeSeries

Opened = Callable[..., AbstractAsyncContextManager[TimeSeries]]
T0 = 1_750_000_000_000
DAY_MS = 86_400_000


def reading(n: int, core: str = "a", series: str = "temp") -> Point:
    return Point(series, T0 + n, {"n": n}, {"core": core, "site": "x"})


async def seen(service: TimeSeries, series: str | None = None, limit: int = 20) -> list[tuple[str, str, object]]:
    return [
        (name, row.dimensions.get("core", ""), row.fields["n"])
        for name, row in await service.latest(series, limit=limit)
    ]


@pytest.fixture(params=["tail", "flushed", "restarted", "restarted without a flush"])
def moment(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_one_row_a_set_newest_first(opened: Opened, tmp_path: Path, moment: str) -> None:
    wanted = [("temp", "b", 9), ("power", "a", 8), ("temp", "a", 6)]
    async with opened(tmp_path, stop=moment != "restarted without a flush") as service:
        await service.append(
            [reading(1), reading(9, "b"), reading(6), reading(3, "b"), reading(8, series="power")], None
        )
        await service.append([Point("temp", T0 + 2, {"n": 2}, {"site": "x", "core": "a"})], None)  # late, other order
        if moment == "flushed":
            await service.flush()
        assert await seen(service) == wanted
        assert await seen(service, limit=1) == wanted[:1]
        assert await seen(service, "temp") == [wanted[0], wanted[2]]
        with pytest.raises(NotFound, match="no series 'nothing'"):
            await service.latest("nothing")
    if moment.startswith("restarted"):
        async with opened(tmp_path, seed=2) as service:
            assert await seen(service, limit=1) == wanted[:1]
            assert await seen(service) == wanted
            assert await seen(service, "power") == [wanted[1]]
            await service.append([reading(7), reading(10, series="new"), reading(5, "b")], None)
            assert await seen(service) == [("new", "a", 10), wanted[0], wanted[1], ("temp", "a", 7)]


async def test_equal_times_the_later_one_counts(opened: Opened, tmp_path: Path) -> None:
    async with opened(tmp_path) as service:
        await service.append([Point("s", T0, {"n": 1}, {}), Point("s", T0, {"n": 2}, {})], None)
        assert await seen(service) == [("s", "", 2)]
    async with opened(tmp_path, seed=2) as service:
        assert await seen(service) == [("s", "", 2)]


async def test_after_a_start_only_files_that_matter_are_read(opened: Opened, tmp_path: Path) -> None:
    async with opened(tmp_path) as service:
        await service.append([reading(n, series=f"s{n:02}") for n in range(50)], None)
        await service.append([Point("s49", T0 - 3 * DAY_MS, {"n": -1}, {"core": "silent"})], None)
    async with opened(tmp_path, seed=2) as service:
        asked: list[object] = []
        call = service._reader.call_raw

        async def counted(method: str, params: dict[str, object], timeout_s: float) -> object:
            asked.append(params["files"])
            return await call(method, params, timeout_s)

        service._reader.call_raw = counted  # type: ignore[method-assign, assignment]
        await service.append([reading(100 + n, series="live", core=str(n)) for n in range(20)], None)
        assert len(await seen(service, limit=20)) == 20
        assert asked == []  # all that is newest is in memory
        assert await seen(service, "s49") == [("s49", "a", 49)]  # of its last day
        assert len(asked) == 1
        assert len(await seen(service, limit=70)) == 70
        assert len(asked) == 50
        await service.latest(limit=1000)
        assert len(asked) == 50


def test_memory_is_bounded_and_what_is_pushed_out_is_cold() -> None:
    newest = Newest(sets=100, size_bytes=1 << 20, sets_of_series=40)
    for n in range(1_000):
        newest.note("flood", (n, n, points.payload(n, {"frame": str(n)}, {"n": n})))
        assert newest.sets <= 51
    newest.note("old", (0, 5_000, points.payload(0, {}, {"n": 0})))
    assert newest.cold(None, 1_000) == []
    for n in range(100):
        newest.note(f"s{n}", (2_000 + n, 6_000 + n, points.payload(2_000 + n, {}, {"n": n})))
        assert newest.sets <= 100
    assert [name for name, _ in newest.top(None, 3)] == ["s99", "s98", "s97"]
    assert newest.top("old", 10) == []
    assert newest.cold("old", 10) == ["old"]
    assert newest.cold(None, 20) == []  # too old to be among the newest 20
    assert {"old", "flood"} <= set(newest.cold(None, 1_000))
    big = Newest(sets=1_000, size_bytes=100_000)
    for n in range(100):
        big.note("s", (n, n, points.payload(n, {"d": str(n)}, {"text": "x" * 5_000})))
        assert big.bytes <= 100_000
    assert big.top("s", 1)[0][1][0] == 99
    assert big.bytes == sum(len(entry[2]) + 400 for _, entry in big.top("s", 1_000))
    assert big.sets == len(big.top("s", 1_000))
