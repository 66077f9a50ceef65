"""Workload: append points, flush, compact, restart; print the number of each acknowledged point. argv: variant, folder.

Variants but "good" are broken on purpose, so that the sweep can show that it notices. The workers' code runs in this process.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import cast

from marram.core import codec
from marram.core.codec import JsonObject, JsonValue
from marram.core.segment import Origin
from marram.hub.timeseries import service, store, work
from marram.hub.timeseries.points import Point
from marram.hub.timeseries.service import TimeSeries
from marram.kit import disk, pool
from marram.kit.clock import FakeClock, SystemEntropy
from marram.kit.db import Db, Migrations
from marram.kit.seglog import Journal

T0 = 1_750_000_000_000
DAY_MS = 86_400_000


class Here:
    """A worker without a process: the sweep counts its writes as everybody's."""

    pid: int | None = None

    async def call(self, method: str, params: Mapping[str, object], timeout_s: float) -> JsonValue:
        return codec.loads(codec.dumps(work.HANDLERS[method](cast(JsonObject, params))))

    async def call_raw(self, method: str, params: Mapping[str, object], timeout_s: float) -> tuple[JsonValue, bytes]:
        answer = work.HANDLERS[method](cast(JsonObject, params))
        if isinstance(answer, pool.Raw):
            return codec.loads(codec.dumps(answer.result)), b"".join(answer.parts)
        return codec.loads(codec.dumps(answer)), b""

    async def close(self) -> None:
        pass


class RowsBeforeSync(Here):
    """The manifest's rows are committed while the files are only in the page cache."""

    async def call(self, method: str, params: Mapping[str, object], timeout_s: float) -> JsonValue:
        kept, os.fsync = os.fsync, lambda _handle: None
        try:
            return await super().call(method, params, timeout_s)
        finally:
            os.fsync = kept


class NoFolderSync(Here):
    """The files' bytes are on the disk, their names perhaps not."""

    async def call(self, method: str, params: Mapping[str, object], timeout_s: float) -> JsonValue:
        kept, disk.fsync_dir = disk.fsync_dir, lambda _path: None
        try:
            return await super().call(method, params, timeout_s)
        finally:
            disk.fsync_dir = kept


class CursorFirst(TimeSeries):
    """The journal's position is moved before the files are written."""

    async def _write_files(self, batch: service.Tail) -> list[service.SeriesFile]:
        until = self._synced
        await self._db.write(lambda tx: store.set_position(tx, until))
        return await super()._write_files(batch)


class DeleteFirst(TimeSeries):
    """Compaction deletes the old files before the rows are swapped."""

    async def _compact_one(self) -> None:
        chosen = self._to_compact()
        write = self._db.write

        async def deleting(transaction: Callable[..., None]) -> None:
            for file in chosen[1] if chosen else ():
                (self._folder / file.file).unlink()
            await write(transaction)

        self._db.write = deleting  # type: ignore[method-assign, assignment]
        try:
            await super()._compact_one()
        finally:
            self._db.write = write  # type: ignore[method-assign]


VARIANTS: dict[str, tuple[type[TimeSeries], type[Here]]] = {
    "good": (TimeSeries, Here),
    "rows-before-sync": (TimeSeries, RowsBeforeSync),
    "no-folder-sync": (TimeSeries, NoFolderSync),
    "cursor-first": (CursorFirst, Here),
    "delete-first": (DeleteFirst, Here),
}


@contextlib.asynccontextmanager
async def opened(
    folder: Path, kind: type[TimeSeries] = TimeSeries, worker: type[Here] = Here
) -> AsyncIterator[TimeSeries]:
    clock = FakeClock()
    migrations = [Migrations(slice="timeseries", package="marram.hub.timeseries")]
    with (
        Db.open(folder / "hub.db", clock=clock, migrations=migrations) as db,
        Journal.open(
            folder / "log", clock=clock, segment_bytes=8192, budget_bytes=1 << 30, ahead_bytes=2048
        ) as journal,
    ):
        made = kind(
            db=db,
            journal=journal,
            clock=clock,
            folder=folder / "ts",
            entropy=SystemEntropy(),
            workers=lambda _name: worker(),
        )
        await made.start()
        try:
            yield made
        finally:
            # A worker's database ends with its process; here thousands would stay, each with its threads.
            while work._connections:
                work._connections.popitem()[1].close()


def point(n: int) -> Point:
    # Two series and two days, and every fifth point is late.
    return Point(f"s{n % 2}", T0 + n - (DAY_MS if n % 5 == 0 else 0), {"n": n}, {"d": str(n % 3)})


async def run(variant: str, folder: Path) -> None:
    service.COMPACT_FILES = 2  # type: ignore[misc]  # so that few flushes lead to a compaction
    kind, worker = VARIANTS[variant]
    n = 0
    for _ in range(2):
        async with opened(folder, kind, worker) as series:
            for size in (3, 1, 6):
                await series.append([point(n + i) for i in range(size)], Origin("work", n, 0))
                print(*range(n, n + size), sep="\n", flush=True)
                n += size
                await series.flush()
                await series._compact_one()
            await series.append([point(n)], Origin("work", n, 0))  # left in the tail
            print(n, flush=True)
            n += 1


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], Path(sys.argv[2])))
