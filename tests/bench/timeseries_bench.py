"""Time series: append (fsynced), flush, range query and size on disk, against DuckDB over one sorted file. About 15 s."""

import asyncio
import json
import statistics
import tempfile
import time
from pathlib import Path

from marram.hub.timeseries.points import Point
from marram.hub.timeseries.service import TimeSeries
from marram.kit.clock import SystemClock
from marram.kit.db import Db, Migrations
from marram.kit.seglog import Journal

COUNT, BATCH = 200_000, 2_000
T0 = 1_750_000_000_000


def point(n: int) -> Point:
    return Point(
        "line.readings", T0 + n * 10, {"frame": n, "confidence": n % 997 / 997, "label": n % 10}, {"core": f"e{n % 3}"}
    )


async def ours(root: Path) -> dict[str, float]:
    clock = SystemClock()
    migrations = [Migrations(slice="timeseries", package="marram.hub.timeseries")]
    with (
        Db.open(root / "hub.db", clock=clock, migrations=migrations) as db,
        Journal.open(root / "log", clock=clock) as log,
    ):
        series = TimeSeries(db=db, journal=log, clock=clock, folder=root / "ts")
        await series.start()
        began = time.perf_counter()
        for start in range(0, COUNT, BATCH):
            await series.append([point(n) for n in range(start, start + BATCH)], None)
        appended = time.perf_counter()
        await series.flush()
        flushed = time.perf_counter()
        await series.query("line.readings", limit=1)  # the worker is up
        hour = T0 + COUNT * 10 - 100_000  # the last 10,000 points
        times, as_rows = [], []
        for _ in range(15):
            began_query = time.perf_counter()
            page = await series.page("line.readings", from_ms=hour, limit=10_000)
            times.append(time.perf_counter() - began_query)
            assert page.count == 10_000
            began_query = time.perf_counter()
            rows, _ = await series.query("line.readings", from_ms=hour, limit=10_000)
            as_rows.append(time.perf_counter() - began_query)
            assert len(rows) == 10_000
        size = sum(path.stat().st_size for path in (root / "ts").iterdir())
        await series.stop()
    return {
        "append": COUNT / (appended - began),
        "ingest": COUNT / (flushed - began),
        "query_s": statistics.median(times),
        "rows_s": statistics.median(as_rows),
        "bytes": size,
    }


def duckdb_alone(root: Path) -> dict[str, float]:
    import duckdb

    source, target = root / "points.jsonl", root / "sorted.parquet"
    with source.open("w") as file:
        for n in range(COUNT):
            made = point(n)
            file.write(json.dumps({"t": made.time_ms, **made.fields, **made.dimensions}) + "\n")
    connection = duckdb.connect()
    began = time.perf_counter()
    connection.execute(
        f"COPY (SELECT * FROM read_json('{source}') ORDER BY t) TO '{target}' (FORMAT parquet, COMPRESSION zstd)"
    )
    loaded = time.perf_counter()
    connection.execute(f"SELECT * FROM '{target}' LIMIT 1").fetchall()
    hour = T0 + COUNT * 10 - 100_000
    times = []
    for _ in range(15):
        began_query = time.perf_counter()
        rows = connection.execute(f"SELECT * FROM '{target}' WHERE t >= {hour} ORDER BY t").fetchall()
        times.append(time.perf_counter() - began_query)
        assert len(rows) == 10_000
    return {"load": COUNT / (loaded - began), "query_s": statistics.median(times), "bytes": target.stat().st_size}


def main() -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        mine = asyncio.run(ours(Path(folder)))
        peer = duckdb_alone(Path(folder))
    return {
        "append, fsynced, points/s": round(mine["append"]),
        "append and flush, points/s": round(mine["ingest"]),
        "DuckDB bulk load of the same points as JSON, points/s": round(peer["load"]),
        "ratio ingest (floor 0.04)": round(mine["ingest"] / peer["load"], 3),
        "query of the last 10,000 of 200,000 points, as JSON for the API, ms": round(mine["query_s"] * 1e3, 1),
        "the same as objects in this process, ms": round(mine["rows_s"] * 1e3, 1),
        "DuckDB on one sorted file, as Python tuples, ms": round(peer["query_s"] * 1e3, 1),
        "ratio query (goal <= 2)": round(mine["query_s"] / peer["query_s"], 2),
        "bytes a point": round(mine["bytes"] / COUNT, 2),
        "ratio bytes (goal <= 1.15)": round(mine["bytes"] / peer["bytes"], 2),
    }


if __name__ == "__main__":
    print(json.dumps(main(), indent=1))
