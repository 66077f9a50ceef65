"""The blob store after a power cut: what is referred to is there and whole, and no live row is without its file."""

import asyncio
from pathlib import Path

import pytest

from marram.core.errors import NotFound
from marram.kit.blobs import KEPT_MS, Blobs
from marram.kit.clock import FakeClock
from marram.kit.db import Db
from tests.crash.sweep import python, sweep
from tests.crash.work import blobs as workload


async def look(root: Path, acks: list[str]) -> None:
    clock = FakeClock()
    with Db.open(root / "hub.db", clock=clock) as db:
        blobs = Blobs(root / "blobs", db)
        for sha256, size in db.read_now(lambda tx: tx.all("SELECT sha256, size FROM blob WHERE dying = 0")):
            try:
                found = await blobs.check(sha256)
            except NotFound:
                raise AssertionError(f"a row without its file: {sha256[:8]}") from None
            assert found.size == size
        held = {row[0] for row in db.read_now(lambda tx: tx.all("SELECT owner FROM blob_ref"))}
        last = dict(reversed(line.split()) for line in acks)
        for number, what in last.items():
            assert what == "drops" or f"owner-{number}" in held, f"acknowledged and lost: {number}"
        # it goes on: all of it can be uploaded again, collected, and is gone
        for number in range(6):
            digest = await blobs.put(workload.content(number))
            await db.write(lambda tx, digest=digest: blobs.ref(tx, digest, "again"))
        clock.advance(3 * KEPT_MS)
        await blobs.collect()
        for number in range(6):
            digest = await blobs.put(workload.content(number))
            await blobs.check(digest)


def check(root: Path, acks: list[str]) -> None:
    asyncio.run(look(root, acks))


def test_blobs_survive_a_power_cut_at_any_operation() -> None:
    sweep(python("blobs", "good"), check, every=16).assert_clean()


@pytest.mark.parametrize("broken", ["no-sync", "no-folder-sync", "row-first", "no-mark"])
def test_the_sweep_notices(broken: str) -> None:
    sweep(python("blobs", broken), check, every=1, stop_after=1, budget_s=30, marked=True).assert_caught()
