from collections.abc import Iterator
from pathlib import Path

import pytest

from marram.core.errors import Invalid, LimitExceeded
from marram.edge.spool.service import MIGRATIONS, Outgoing, Settings, Spool
from marram.kit.clock import FakeClock, SeededEntropy
from marram.kit.db import Db

CLOCK = FakeClock()


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Db]:
    with Db.open(tmp_path / "state.db", clock=CLOCK, migrations=[MIGRATIONS]) as db:
        yield db


def open_spool(folder: Path, db: Db, *, seed: int = 1, **settings: object) -> Spool:
    return Spool.open(
        folder / "spool",
        db,
        clock=CLOCK,
        entropy=SeededEntropy(seed),
        settings=Settings(**{"segment_bytes": 64 << 10, "ahead_bytes": 0, **settings}),  # type: ignore[arg-type]
    )


def text(n: int, **more: object) -> Outgoing:
    return Outgoing(topic="t", payload=str(n).encode(), **more)  # type: ignore[arg-type]


async def test_first_in_first_out_and_numbered(tmp_path: Path, db: Db) -> None:
    spool = open_spool(tmp_path, db)
    for n in range(5):
        await spool.append(text(n))
    items = await spool.take(3) + await spool.take(3)
    assert [item.message.payload for item in items] == [b"0", b"1", b"2", b"3", b"4"]
    spool_id = spool.lanes["normal"].spool_id
    assert [item.dedup for item in items] == [f"{spool_id}:normal:{n}" for n in range(1, 6)]
    assert spool.waiting == 5
    for item in items:
        spool.acknowledge(item)
    assert spool.waiting == 0 and await spool.take(1) == []
    await spool.close()


async def test_after_a_restart_what_was_not_acknowledged_goes_out_again_under_its_number(
    tmp_path: Path, db: Db
) -> None:
    spool = open_spool(tmp_path, db)
    for n in range(4):
        await spool.append(text(n))
    first, second, *_ = items = await spool.take(4)
    spool.acknowledge(first)
    spool.acknowledge(items[2])  # out of order: does not move the cursor past the second
    await spool.close()
    again = await (reopened := open_spool(tmp_path, db, seed=2)).take(9)
    assert [(item.dedup, item.message.payload) for item in again] == [
        (item.dedup, item.message.payload) for item in items[1:]
    ]
    assert again[0].sequence == second.sequence
    await reopened.close()


async def test_a_crash_before_the_cursor_is_written_repeats_but_never_loses(tmp_path: Path, db: Db) -> None:
    spool = open_spool(tmp_path, db)
    await spool.append(text(1))
    (item,) = await spool.take(1)
    spool.acknowledge(item)
    for lane in spool.lanes.values():  # as a kill would leave it: the journal is there, the cursor is old
        lane.journal.close()
    (again,) = await (reopened := open_spool(tmp_path, db, seed=2)).take(1)
    assert again.dedup == item.dedup
    await reopened.close()


async def test_higher_lanes_leave_first_and_each_lane_keeps_its_order(tmp_path: Path, db: Db) -> None:
    spool = open_spool(tmp_path, db, lanes=[("bulk/#", "low")])
    await spool.append(Outgoing(topic="bulk/1", payload=b"low"))
    await spool.append(text(1))
    await spool.append(text(2, user_properties=[("mrm-lane", "high"), ("k", "v")]))
    await spool.append(text(3))
    items = await spool.take(10)
    assert [(item.lane.name, item.message.payload) for item in items] == [
        ("high", b"2"),
        ("normal", b"1"),
        ("normal", b"3"),
        ("low", b"low"),
    ]
    assert items[0].message.user_properties == [("k", "v")]
    with pytest.raises(Invalid, match="urgent"):
        await spool.append(text(4, user_properties=[("mrm-lane", "urgent")]))
    await spool.close()


async def test_properties_survive_and_expiry_counts_down(tmp_path: Path, db: Db) -> None:
    spool = open_spool(tmp_path, db)
    message = Outgoing(
        topic="t",
        payload=b"\0",
        retain=True,
        user_properties=[("a", "1"), ("a", "2")],
        expiry_s=10,
        correlation=b"\xff",
        response_topic="r",
        payload_format=1,
        content_type="c",
    )
    await spool.append(message)
    await spool.append(text(1, expiry_s=2))
    await spool.append(text(2))
    CLOCK.advance(4000)
    first, second = await spool.take(9)
    assert first.message.expiry_s == 6 and first.message.retain
    assert (first.message.user_properties, first.message.correlation) == ([("a", "1"), ("a", "2")], b"\xff")
    assert (first.message.response_topic, first.message.payload_format, first.message.content_type) == ("r", 1, "c")
    assert second.message.payload == b"2"  # the one between expired and is done
    spool.acknowledge(first)
    spool.acknowledge(second)
    assert spool.waiting == 0
    await spool.close()


async def test_refused_for_good_goes_to_the_dead_letters_and_the_lane_goes_on(tmp_path: Path, db: Db) -> None:
    spool = open_spool(tmp_path, db)
    for n in range(2):
        await spool.append(text(n))
    bad, good = await spool.take(2)
    spool.refuse(bad, 0x87, "not authorized")
    spool.acknowledge(good)
    await spool.save()
    assert spool.waiting == 0
    (letter,) = await spool.dead()
    assert (letter.payload, letter.reason_code, letter.sequence) == (b"0", 0x87, 1)
    await spool.close()


async def test_a_lost_connection_hands_out_again(tmp_path: Path, db: Db) -> None:
    spool = open_spool(tmp_path, db)
    for n in range(3):
        await spool.append(text(n))
    items = await spool.take(3)
    spool.acknowledge(items[0])
    await spool.rewind()
    assert [item.dedup for item in await spool.take(9)] == [item.dedup for item in items[1:]]
    await spool.close()


async def test_a_refusal_for_the_moment_with_later_ones_on_the_way_renames_the_lane(tmp_path: Path, db: Db) -> None:
    spool = open_spool(tmp_path, db)
    for n in range(3):
        await spool.append(text(n))
    items = await spool.take(3)
    old = spool.lanes["normal"].spool_id
    await spool.rewind(items[2])
    assert spool.lanes["normal"].spool_id == old  # nothing was behind it: the hub's highest is below
    items = await spool.take(3)
    await spool.rewind(items[0])
    assert spool.lanes["normal"].spool_id != old
    await spool.close()
    reopened = open_spool(tmp_path, db, seed=9)
    assert reopened.lanes["normal"].spool_id == spool.lanes["normal"].spool_id
    await reopened.close()


@pytest.mark.parametrize("segment_bytes", [64 << 10, 1 << 20], ids=["small segments", "segments over the budget"])
async def test_when_full_it_rejects_by_default_and_frees_with_acknowledgement(
    tmp_path: Path, db: Db, segment_bytes: int
) -> None:
    spool = open_spool(tmp_path, db, budget_bytes=300_000, segment_bytes=segment_bytes)
    count = 0
    with pytest.raises(LimitExceeded, match="budget"):
        for _ in range(1000):
            await spool.append(Outgoing(topic="t", payload=b"x" * 1000))
            count += 1
    assert 250 < count < 320
    for item in await spool.take(count):
        spool.acknowledge(item)
    await spool.save()
    journal = spool.lanes["normal"].journal
    for _ in range(200):
        if spool.bytes_on_disk < 200_000:
            break
        await journal.append_synced([])
        await __import__("asyncio").sleep(0.005)
    await spool.append(text(1))
    await spool.close()


async def test_when_full_it_can_drop_the_oldest_of_the_lowest_lane(tmp_path: Path, db: Db) -> None:
    spool = open_spool(tmp_path, db, budget_bytes=300_000, when_full="drop_oldest")
    await spool.append(text(0), "high")
    for _ in range(600):
        await spool.append(Outgoing(topic="t", payload=b"x" * 1000), "low")
    high, low, *_ = await spool.take(2)
    assert high.lane.name == "high" and low.lane.name == "low"
    assert low.sequence > 100
    assert spool.bytes_on_disk < 450_000
    await spool.close()


async def test_a_cursor_above_the_end_means_damage_and_a_new_id(tmp_path: Path, db: Db) -> None:
    spool = open_spool(tmp_path, db)
    await spool.append(text(1))
    (item,) = await spool.take(1)
    spool.acknowledge(item)
    old = spool.lanes["normal"].spool_id
    await spool.close()
    for path in (tmp_path / "spool" / "normal").iterdir():
        path.unlink()
    reopened = open_spool(tmp_path, db, seed=5)
    assert reopened.lanes["normal"].spool_id != old
    await reopened.append(text(2))
    (again,) = await reopened.take(1)
    assert again.message.payload == b"2"
    await reopened.close()
