"""Workload: append to a journal, rotate, trim, reopen; print each acknowledged offset. argv: variant, folder.

Variants but "good" are broken on purpose, so that the sweep can show that it notices.
"""

import asyncio
import os
import sys
from pathlib import Path

from marram.core.segment import Record
from marram.kit.clock import FakeClock
from marram.kit.seglog import Journal


class Small(Journal):
    """Each append is a batch of its own, so that one sync covers several: a disk may keep the second without the first."""

    batch_body_bytes = 1


class NoSync(Small):
    """Acknowledges what only the page cache has."""

    def _sync(self, handle: int) -> None:
        pass


class NoFolderSync(Small):
    """A segment whose name may not be on the disk."""

    def _sync_folder(self) -> None:
        pass


class AckFirst(Small):
    """Tells the waiters, then syncs."""

    def _sync(self, handle: int) -> None:
        for line in self.early:
            print(line, flush=True)
        os.fdatasync(handle)

    early: list[str] = []  # noqa: RUF012 - a workload of one journal


class NoCut(Small):
    """Leaves a torn tail where it is."""

    def _cut(self, handle: int, length: int) -> None:
        pass


VARIANTS = {"good": Small, "no-sync": NoSync, "no-folder-sync": NoFolderSync, "ack-first": AckFirst, "no-cut": NoCut}


SETTINGS = {"segment_bytes": 16384, "budget_bytes": 1 << 30, "ahead_bytes": 2048}


def text(number: int) -> str:
    return f"record {number} " + "x" * (200 + number * 37 % 500)


def record(number: int) -> Record:
    return Record(1, 0, number, b"topic", b"{}", text(number).encode())


async def run(kind: type[Journal], folder: Path) -> None:
    number = 0
    for _ in range(3):
        with kind.open(
            folder / "log", clock=FakeClock(), segment_bytes=8192, budget_bytes=1 << 30, ahead_bytes=2048
        ) as journal:
            number = journal.end
            for sizes in ([1], [1], [5], [1, 1, 1, 1], [12], [1, 2, 1], [3], [1] * 6):
                firsts = [number + sum(sizes[:i]) for i in range(len(sizes))]
                groups = [[record(first + i) for i in range(size)] for first, size in zip(firsts, sizes, strict=True)]
                offsets = [str(number + i) for i in range(sum(sizes))]
                if kind is AckFirst:
                    AckFirst.early = offsets
                assert await asyncio.gather(*map(journal.append_synced, groups)) == firsts
                if kind is not AckFirst:
                    print(*offsets, sep="\n", flush=True)
                number += len(offsets)
            journal.trim(number - 40)


if __name__ == "__main__":
    asyncio.run(run(VARIANTS[sys.argv[1]], Path(sys.argv[2])))
