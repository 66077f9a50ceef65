"""Workload: upload, refer, let go, collect, upload again. argv: variant, folder.

Prints `has N` once blob N and its reference are committed, and `drops N` before the reference goes.
"""

import asyncio
import os
import sys
from pathlib import Path

from marram.kit.blobs import KEPT_MS, Blobs, Digest
from marram.kit.clock import FakeClock, SeededEntropy
from marram.kit.db import Db


def mark() -> None:
    """From here on the sweep looks."""
    Path(os.environ["MARRAM_SWEEP_MARK"]).touch()


class NoSync(Blobs):
    def _sync(self, handle: int) -> None:
        mark()


class NoFolderSync(Blobs):
    def _sync_folder(self, folder: Path) -> None:
        mark()


class RowFirst(Blobs):
    """Enters the row, then moves the file to its place."""

    def _place(self, temporary: Path, path: Path) -> None:
        mark()
        sha256 = path.parent.name + path.name
        self._db.write_sync(
            lambda tx: tx.execute(
                "INSERT INTO blob (sha256, size, refs, since_ms, dying) VALUES (?, ?, 0, ?, 0) ON CONFLICT DO NOTHING",
                sha256,
                temporary.stat().st_size,
                tx.now_ms,
            )
        )
        super()._place(temporary, path)


class NoMark(Blobs):
    """Deletes files of blobs that are not marked as dying."""

    async def collect(self) -> int:
        mark()
        rows = self._db.read_now(lambda tx: tx.all("SELECT sha256 FROM blob WHERE refs = 0"))
        for (sha256,) in rows:
            self.path(sha256).unlink(missing_ok=True)
            self._sync_folder(self.path(sha256).parent)
            await self._db.write(lambda tx, sha256=sha256: tx.execute("DELETE FROM blob WHERE sha256 = ?", sha256))
        return len(rows)


VARIANTS = {"good": Blobs, "no-sync": NoSync, "no-folder-sync": NoFolderSync, "row-first": RowFirst, "no-mark": NoMark}


def content(number: int) -> bytes:
    return f"blob {number} ".encode() * (number * 61 % 300 + 1)


async def run(kind: type[Blobs], folder: Path) -> None:
    clock = FakeClock()
    with Db.open(folder / "hub.db", clock=clock, entropy=SeededEntropy(1)) as db:
        blobs = kind(folder / "blobs", db, entropy=SeededEntropy(2))

        async def put(number: int) -> Digest:
            digest = await blobs.put(content(number))
            await db.write(lambda tx: blobs.ref(tx, digest, f"owner-{number}"))
            print(f"has {number}", flush=True)
            return digest

        digests = [await put(number) for number in range(5)]
        for number in (0, 2, 3):
            print(f"drops {number}", flush=True)
            await db.write(lambda tx, number=number: blobs.unref(tx, digests[number], f"owner-{number}"))
        clock.advance(KEPT_MS)
        await blobs.collect()
        await put(2)
        await put(5)


if __name__ == "__main__":
    asyncio.run(run(VARIANTS[sys.argv[1]], Path(sys.argv[2])))
