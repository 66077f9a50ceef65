"""Workload for a disk that fails: keep writing, retry what is refused, print what was acknowledged. argv: store, folder.

Exit code 0 always; the last line is `recovered` when the store took writes again after its last refusal.
"""

import asyncio
import sys
from pathlib import Path

from marram.core.errors import MarramError
from marram.core.segment import Record
from marram.kit.clock import FakeClock
from marram.kit.db import Db
from marram.kit.seglog import Journal

COUNT = 40
MORE = 5  # tries for a fault that struck at the last of them


def text(number: int) -> bytes:
    return f"record {number} ".encode() * 20


async def journal(folder: Path) -> None:
    clock = FakeClock()
    with Journal.open(folder / "log", clock=clock, segment_bytes=4096, budget_bytes=1 << 30, ahead_bytes=1024) as log:
        taken = False
        for number in range(COUNT + MORE):
            if taken and number >= COUNT:
                break
            try:
                first = await log.append_synced([Record(1, 0, 0, b"t", b"", text(number))])
                print(first, number, flush=True)
                taken = True
            except MarramError:
                taken = False
                clock.advance(1000)
    if taken:
        print("recovered", flush=True)


async def database(folder: Path) -> None:
    clock = FakeClock()
    db = Db.open(folder / "hub.db", clock=clock)
    taken = False
    for number in range(COUNT + MORE):
        if taken and number >= COUNT:
            break
        try:
            if number == 0:
                await db.write(
                    lambda tx: tx.execute("CREATE TABLE IF NOT EXISTS t (number INTEGER PRIMARY KEY, body BLOB)")
                )
            await db.write(lambda tx, number=number: tx.execute("INSERT INTO t VALUES (?, ?)", number, text(number)))
            print(number, flush=True)
            taken = True
        except MarramError:
            taken = False
            if db.failed:  # what the supervisor of the process does
                db.close()
                try:
                    db = Db.open(folder / "hub.db", clock=clock)
                except MarramError:
                    return  # refused at start, with the reason
    db.close()
    if taken:
        print("recovered", flush=True)


if __name__ == "__main__":
    asyncio.run({"journal": journal, "database": database}[sys.argv[1]](Path(sys.argv[2])))
