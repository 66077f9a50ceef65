"""Shadow updates a second, each on the disk before it is answered: `main() -> dict`, medians of three rounds.

1,000 things, 256 writers at once, a device that reports one leaf of a document of some 300 bytes. `update`: the slice alone;
`update_unheard`: as in a hub, of things whose messages nobody subscribes to, which are not made then;
`update_and_tell`: with accepted and documents (and a delta in every second update) going out through the broker, made as if
somebody heard them; `update_and_keep`: with a rule on documents, so that each goes through the journal too. The ratios are against the bare
rows of an update (document, three messages) in the same database with as many writers.
"""

import asyncio
import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from marram.hub.broker.service import Broker
from marram.hub.bus import Bus, Outbox
from marram.hub.identity.pki import Pki
from marram.hub.identity.service import Identity
from marram.hub.shadow.service import Shadows
from marram.kit.clock import SystemClock, SystemEntropy
from marram.kit.db import Db, Migrations
from marram.kit.seglog import Journal

THINGS, WRITERS, ROUNDS, ROUND_S = 1000, 256, 3, 1.0
SLICES = [Migrations(slice=name, package=f"marram.hub.{name}") for name in ("identity", "broker", "shadow")]
DESIRED = {"power": True, "level": 3, "site": {"hall": 7, "line": "b", "position": [1, 2, 3]}}


def main() -> dict[str, float]:
    return asyncio.run(_main())


async def _main() -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="marram-bench-") as name:
        async with _parts(Path(name)) as (db, shadows, broker, outbox):
            for at in range(THINGS):
                state = {"desired": DESIRED, "reported": DESIRED}
                await shadows.update(f"t{at}", "", json.dumps({"state": state}).encode())
            bare = await _rate(lambda at: _bare(db, at))
            alone = await _rate(lambda at: _update(shadows, at))
            quiet = Shadows(db, is_heard=broker.is_heard)
            unheard = await _rate(lambda at: _update(quiet, at))
            await _clear(db)
            async with asyncio.TaskGroup() as group:
                running = group.create_task(outbox.run(), name="outbox")
                told = await _rate(lambda at: _update(shadows, at), drained=lambda: _drained(db))
                broker.add_consumer("rules", lambda topic: topic.endswith("/documents"))
                kept = await _rate(lambda at: _update(shadows, at), drained=lambda: _drained(db))
                running.cancel()
    return {
        "bare_rows_per_s": bare,
        "update_per_s": alone,
        "update_ratio": alone / bare,
        "update_unheard_per_s": unheard,
        "update_unheard_ratio": unheard / bare,
        "update_and_tell_per_s": told,
        "update_and_tell_ratio": told / bare,
        "update_and_keep_per_s": kept,
        "update_and_keep_ratio": kept / bare,
    }


async def _update(shadows: Shadows, at: int) -> None:
    level = 3 if at % 2 else at
    await shadows.update(
        f"t{at % THINGS}", "", b'{"state":{"reported":{"level":%d}},"clientToken":"t%d"}' % (level, at)
    )


async def _bare(db: Db, at: int) -> None:
    body = b"x" * 500

    def work(tx: object) -> None:
        tx.one("SELECT body FROM shadow WHERE thing = ? AND name = ''", f"t{at % THINGS}")  # type: ignore[attr-defined]
        tx.execute("UPDATE shadow SET modified_ms = ? WHERE thing = ? AND name = ''", at, f"t{at % THINGS}")  # type: ignore[attr-defined]
        for _ in range(3):
            tx.emit("bare", body)  # type: ignore[attr-defined]

    await db.write(work)


async def _rate(
    work: Callable[[int], Awaitable[None]], *, drained: Callable[[], Awaitable[None]] | None = None
) -> float:
    rates: list[float] = []
    for _ in range(ROUNDS):
        done, end = 0, time.perf_counter() + ROUND_S

        async def writer(first: int, end: float = end) -> None:
            nonlocal done
            at = first
            while time.perf_counter() < end:
                await work(at)
                at += WRITERS
                done += 1

        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for first in range(WRITERS):
                group.create_task(writer(first), name="writer")
        if drained is not None:
            await drained()
        rates.append(done / (time.perf_counter() - began))
    return round(statistics.median(rates))


async def _clear(db: Db) -> None:
    await db.write(lambda tx: tx.execute("DELETE FROM outbox"))


async def _drained(db: Db) -> None:
    while db.outbox_pending(1):
        await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def _parts(folder: Path) -> AsyncIterator[tuple[Db, Shadows, Broker, Outbox]]:
    clock, entropy, bus = SystemClock(), SystemEntropy(), Bus()
    (folder / "pki").mkdir()
    with (
        Db.open(folder / "hub.db", clock=clock, migrations=SLICES) as db,
        Journal.open(folder / "log", clock=clock, entropy=entropy) as journal,
    ):
        pki = Pki.open(folder / "pki", clock=clock, entropy=entropy, names=["localhost"])
        identity = Identity(db, pki, bus, clock=clock, entropy=entropy, account="000000000001", region="local-1")
        broker = Broker(journal=journal, db=db, identity=identity, clock=clock, entropy=entropy, bus=bus)
        await broker.start()
        try:
            yield db, Shadows(db, bus), broker, Outbox(db, broker.publish_outbox)
        finally:
            await broker.stop()


if __name__ == "__main__":
    print(json.dumps(main(), indent=1))
