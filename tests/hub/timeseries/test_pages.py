"""Pages as text: every value comes back as it was, from files and from the tail, and no page loses or repeats a row."""

import asyncio
import json
import math
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from marram.core import codec
from marram.hub.timeseries import points, service
from marram.hub.timeseries.points import Point
from marram.hub.timeseries.service import Key, TimeSeries

Opened = Callable[..., AbstractAsyncContextManager[TimeSeries]]
T0 = 1_750_000_000_000

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    ['},"f":{', '"},"f":{"', "\\", '\\"', "\0", "\u2028", "\x1f", "'", "','", "😀", ',"d":', "null", "{}"]
)
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(
    str.isprintable
) | st.sampled_from(["a", "A", "b", "^a", "'", '"', "\\", "t", "o", "time_ms", "f", "d"])
numbers = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
values = numbers | st.booleans() | texts
given_points = st.builds(
    lambda time_ms, fields, dimensions: Point("s", time_ms, fields, dimensions),
    st.integers(0, 5) | st.integers(0, points.MAX_TIME_MS),
    st.dictionaries(names, values, min_size=1, max_size=4),
    st.dictionaries(names, texts, max_size=3),
)


def same(a: object, b: object) -> bool:
    """Equal, of one type, and with the sign of zero: 1, 1.0 and True are three values."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, float) and isinstance(b, float):
        return a == b and math.copysign(1, a) == math.copysign(1, b)
    return type(a) is type(b) and a == b


async def pages(series: TimeSeries, limit: int = 1_000, **options: object) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    after: Key | None = None
    while True:
        page = await series.page("s", limit=limit, after=after, **options)  # type: ignore[arg-type]
        found = json.loads(page.rows)
        assert len(found) == page.count <= limit
        rows += found
        if page.key is None:
            return rows
        assert page.count
        after = page.key


@given(st.lists(given_points, min_size=1, max_size=6))
def test_a_payload_is_rendered_without_decoding(made: list[Point]) -> None:
    for point in made:
        payload = points.encode(point, 0, None).payload
        shown = codec.loads_object(points.render(payload))
        assert shown["time_ms"] == point.time_ms
        assert same(shown["fields"], point.fields)
        assert shown["dimensions"] == point.dimensions == codec.loads(points.dimensions_of(payload))


async def test_files_give_back_what_the_tail_gave(opened: Opened, tmp_path: Path) -> None:
    # One service for all examples: each has a series of its own days, so that one file does not make columns for another.
    loop = asyncio.get_running_loop()
    async with opened(tmp_path) as series:

        async def check(made: list[Point], number: int) -> None:
            name = f"s{number}"
            await series.append([Point(name, p.time_ms, p.fields, p.dimensions) for p in made], None)
            before = json.loads((await series.page(name)).rows)
            await series.flush()
            after = json.loads((await series.page(name)).rows)
            wanted = [made[n] for n in sorted(range(len(made)), key=lambda n: (made[n].time_ms, n))]
            for found in (before, after):
                assert [row["time_ms"] for row in found] == [p.time_ms for p in wanted]
                for row, point in zip(found, wanted, strict=True):
                    assert same(row["fields"], dict(point.fields)), (row, point)
                    assert same(row["dimensions"], dict(point.dimensions)), (row, point)

        counter = iter(range(1_000))

        @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.lists(given_points, min_size=1, max_size=6))
        def examples(made: list[Point]) -> None:
            asyncio.run_coroutine_threadsafe(check(made, next(counter)), loop).result(30)

        await asyncio.to_thread(examples)


async def test_a_thousand_fields_and_columns_that_are_missing_in_some_files(opened: Opened, tmp_path: Path) -> None:
    async with opened(tmp_path) as series:
        wide = Point("s", T0, {f"n{n}": n / 3 for n in range(1024)}, {f"d{n}": str(n) for n in range(128)})
        await series.append([wide], None)
        await series.flush()
        await series.append([Point("s", T0 + 1, {"x": 1}, {}), Point("s", T0 + 2, {"x": True}, {"d0": "a"})], None)
        await series.flush()
        first, second, third = await pages(series)
        assert first["fields"] == wide.fields
        assert first["dimensions"] == wide.dimensions
        assert (second["fields"], second["dimensions"]) == ({"x": 1}, {})
        assert same(third, {"time_ms": T0 + 2, "dimensions": {"d0": "a"}, "fields": {"x": True}})


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
async def test_files_and_tail_are_put_in_order_where_they_overlap(opened: Opened, tmp_path: Path, limit: int) -> None:
    async with opened(tmp_path) as series:
        await series.append([Point("s", T0 + n, {"n": n}, {"half": str(n % 2)}) for n in range(0, 20, 2)], None)
        await series.flush()
        await series.append([Point("s", T0 + n, {"n": n}, {"half": str(n % 2)}) for n in range(19, 25)], None)
        await series.append([Point("s", T0 + n, {"n": n}, {"half": str(n % 2)}) for n in range(1, 19, 2)], None)
        found = [row["fields"] for row in await pages(series, limit)]
        assert found == [{"n": n} for n in [*range(20), *range(20, 25)] if n in {*range(0, 20, 2), *range(1, 25)}]
        odd = [row["fields"] for row in await pages(series, limit, where={"half": "1"})]
        assert odd == [{"n": n} for n in range(1, 25, 2)]


@pytest.mark.parametrize("flushed", [0, 20, 40], ids=["tail", "both", "files"])
async def test_a_page_of_long_texts_ends_early(
    opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flushed: int
) -> None:
    monkeypatch.setattr(service, "MAX_PAGE_BYTES", 10_000)
    async with opened(tmp_path) as series:
        late = [Point("s", T0 + n, {"n": n, "text": "x" * 3_000}, {}) for n in range(40)]
        await series.append(late[40 - flushed :], None)  # the tail comes before the files
        await series.flush()
        await series.append(late[: 40 - flushed], None)
        await series.append([Point("s", T0 + 39, {"n": 40}, {})], None)
        first = await series.page("s")
        assert first.key is not None
        assert 0 < first.count < 10
        assert len(first.rows) < 20_000
        assert [row["fields"]["n"] for row in await pages(series)] == list(range(41))  # type: ignore[index]


async def test_rows_too_long_for_the_memory_come_in_smaller_pages(opened: Opened, tmp_path: Path) -> None:
    async with opened(tmp_path, query_memory="100MB") as series:
        for n in range(0, 1_500, 100):
            await series.append(
                [Point("s", T0 + n + m, {"n": n + m, "text": "x" * 40_000}, {}) for m in range(100)], None
            )
        await series.flush()
        first = await series.page("s", limit=10_000)
        assert 0 < first.count < 1_500
        assert first.key is not None
        assert [row["fields"]["n"] for row in await pages(series, 10_000)] == list(range(1_500))  # type: ignore[index]


async def test_a_folder_whose_name_looks_like_a_column_adds_none(opened: Opened, tmp_path: Path) -> None:
    (tmp_path / "t=5" / "o=6").mkdir(parents=True)
    async with opened(tmp_path / "t=5" / "o=6") as series:
        await series.append([Point("s", T0, {"n": 1}, {})], None)
        await series.flush()
        assert await pages(series) == [{"time_ms": T0, "dimensions": {}, "fields": {"n": 1}}]
