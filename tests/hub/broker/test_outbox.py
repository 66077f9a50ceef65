"""Rows of the outbox through the broker: many in one append, in order; after a failure given again, none lost and none twice."""

import asyncio

import pytest

from marram.core.errors import Unavailable
from marram.core.segment import KIND_MESSAGE
from marram.hub.bus import Outbox
from marram.kit.db import Tx
from tests.hub.broker.conftest import World


def kept(world: World) -> list[bytes]:
    read = world.journal.read(world.journal.start, 100_000)
    return [record.payload for _, record in read if record.kind == KIND_MESSAGE]


def rows(first: int, end: int) -> list[tuple[int, str, bytes]]:
    """Every third is wanted by nobody durable."""
    return [(at, "live" if at % 3 == 0 else "kept", b"%d" % at) for at in range(first, end)]


async def test_many_rows_are_one_append_and_keep_their_order(world: World) -> None:
    world.broker.add_consumer("rules", lambda topic: topic == "kept")
    sub = await world.client("sub")
    await sub.subscribe("kept", "live", qos=0)
    synced: list[int] = []
    world.journal.on_synced(synced.append)
    await world.broker.publish_outbox(rows(1, 200))
    assert len(synced) == 1, "one fsync for all"
    assert [(await sub.message()).payload for _ in range(199)] == [b"%d" % at for at in range(1, 200)]
    assert kept(world) == [b"%d" % at for at in range(1, 200) if at % 3]


async def test_rows_that_were_not_stored_are_given_again(world: World) -> None:
    world.broker.add_consumer("rules", lambda topic: topic == "kept")
    await world.broker.publish_outbox(rows(1, 10))
    for end in (19, 20):  # the last is one that no record stands for, and one that has a record
        world.journal.is_broken = True
        with pytest.raises(Unavailable, match="not stored"):
            await world.broker.publish_outbox(rows(10, end))
        world.journal.is_broken = False
        world.clock.advance(1000)
    await world.broker.publish_outbox(rows(10, 20))
    await world.broker.publish_outbox(rows(15, 30))  # some were had already: the deleting of rows did not commit
    assert kept(world) == [b"%d" % at for at in range(1, 30) if at % 3]


async def test_a_row_that_cannot_be_published_does_not_stop_the_others(world: World) -> None:
    world.broker.add_consumer("rules", lambda topic: True)
    bad = [(2, "a/#", b"x"), (3, "b", b"x" * (128 * 1024 + 1))]
    await world.broker.publish_outbox([(1, "a", b"1"), *bad, (4, "a", b"4")])
    assert kept(world) == [b"1", b"4"]


async def test_the_runner_empties_the_table(world: World) -> None:
    world.broker.add_consumer("rules", lambda topic: True)
    outbox = Outbox(world.db, world.broker.publish_outbox)
    running = asyncio.ensure_future(outbox.run())

    def many(tx: Tx) -> None:
        for at in range(700):
            tx.emit("t", b"%d" % at)

    async with asyncio.timeout(10):
        await world.db.write(many)
        while world.db.outbox_pending(1):
            await asyncio.sleep(0)
    running.cancel()
    assert kept(world) == [b"%d" % at for at in range(700)]
