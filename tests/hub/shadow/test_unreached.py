"""Wishes that are not reached: since when, who is told, once, also over a restart and at a hundred thousand shadows."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from marram.hub.shadow import store, unreached
from marram.hub.shadow.service import Settings, Shadows
from marram.kit.clock import FakeClock
from marram.kit.db import Db, Migrations, Tx

MINUTE = 60_000
TEN = Settings(unreached_minutes=10)
SHADOW = [Migrations(slice="shadow", package="marram.hub.shadow")]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def db(tmp_path: Path, clock: FakeClock) -> Iterator[Db]:
    with Db.open(tmp_path / "hub.db", clock=clock, migrations=SHADOW) as opened:
        yield opened


def events(db: Db) -> list[tuple[str, dict[str, Any]]]:
    pending = [(topic, json.loads(body)) for _, topic, body, _ in db.outbox_pending(100_000)]
    return [(topic, body) for topic, body in pending if topic.startswith("$marram/")]


async def say(shadows: Shadows, name: str = "", thing: str = "lamp", **state: object) -> None:
    await shadows.update(thing, name, json.dumps({"state": state}).encode())


async def test_which_keys_differ_and_since_when(db: Db, clock: FakeClock) -> None:
    shadows, start = Shadows(db, settings=TEN), clock.wall_ms()
    await say(shadows, desired={"on": True, "a/b": {"c~d": [1, 2]}, "same": 1}, reported={"same": 1})
    clock.advance(MINUTE)
    await say(shadows, desired={"level": 3})
    clock.advance(MINUTE)
    await say(shadows, reported={"on": False})
    clock.advance(MINUTE)
    found = await shadows.unreached(0)
    assert [(each.thing, each.name, each.version, each.since_ms) for each in found] == [("lamp", "", 3, start)]
    assert found[0].since == {"/on": start, "/a~1b/c~0d": start, "/level": start + MINUTE}
    assert await shadows.unreached(3) and not await shadows.unreached(4)


async def test_the_same_wish_again_does_not_start_anew_another_does(db: Db, clock: FakeClock) -> None:
    shadows, start = Shadows(db), clock.wall_ms()
    await say(shadows, desired={"on": True, "level": 1, "bit": 1})
    clock.advance(MINUTE)
    await say(shadows, desired={"on": True, "level": 2, "bit": True})
    assert (await shadows.unreached(0))[0].since == {"/on": start, "/level": start + MINUTE, "/bit": start + MINUTE}
    await say(shadows, reported={"on": True})
    clock.advance(MINUTE)
    await say(shadows, reported={"on": False})
    assert (await shadows.unreached(0))[0].since["/on"] == start + 2 * MINUTE, "it was right in between"


async def test_an_event_when_it_is_too_long_once_and_one_when_it_is_over(db: Db, clock: FakeClock) -> None:
    shadows, start = Shadows(db, settings=TEN), clock.wall_ms()
    await say(shadows, "light", desired={"on": True}, reported={"on": False})
    clock.advance(10 * MINUTE - 1)
    assert await shadows.tell_unreached() == 0 and not events(db)
    clock.advance(1)
    assert await shadows.tell_unreached() == 1
    assert await shadows.tell_unreached() == 0
    await say(shadows, "light", reported={"other": 1})
    assert events(db) == [
        (
            "$marram/events/shadow/unreached/lamp",
            {
                "eventType": "unreached", "thingName": "lamp", "shadowName": "light", "version": 1, "minutes": 10,
                "since": start // 1000, "keys": [{"key": "/on", "since": start // 1000}],
                "timestamp": (start + 10 * MINUTE) // 1000,
            },
        )
    ]  # fmt: skip
    await say(shadows, "light", reported={"on": True})
    topic, body = events(db)[1]
    assert topic == "$marram/events/shadow/reached/lamp"
    assert body == {
        "eventType": "reached", "thingName": "lamp", "shadowName": "light", "version": 3,
        "timestamp": (start + 10 * MINUTE) // 1000,
    }  # fmt: skip
    assert not await shadows.unreached(0)


async def test_it_is_over_when_nothing_is_too_old_any_more(db: Db, clock: FakeClock) -> None:
    shadows = Shadows(db, settings=TEN)
    await say(shadows, desired={"on": True})
    clock.advance(10 * MINUTE)
    assert await shadows.tell_unreached() == 1
    await say(shadows, desired={"level": 3}, reported={"on": True})
    assert [body["eventType"] for _, body in events(db)] == ["unreached", "reached"]
    clock.advance(10 * MINUTE)
    assert await shadows.tell_unreached() == 1, "the newer wish has its own ten minutes"


async def test_deleting_ends_it(db: Db, clock: FakeClock) -> None:
    shadows = Shadows(db, settings=TEN)
    await say(shadows, desired={"on": True})
    clock.advance(10 * MINUTE)
    await shadows.tell_unreached()
    await shadows.delete("lamp")
    assert [body["eventType"] for _, body in events(db)] == ["unreached", "reached"]
    await say(shadows, desired={"on": True})
    assert await shadows.tell_unreached() == 0, "a new shadow with the same wish begins anew"


async def test_no_minutes_no_event_but_the_list(db: Db, clock: FakeClock) -> None:
    shadows = Shadows(db, settings=Settings(unreached_minutes=0))
    await say(shadows, desired={"on": True})
    clock.advance(10_000 * MINUTE)
    assert await shadows.tell_unreached() == 0
    assert len(await shadows.unreached(10_000)) == 1


async def test_it_survives_a_restart(tmp_path: Path, clock: FakeClock) -> None:
    for at in range(3):
        with Db.open(tmp_path / "hub.db", clock=clock, migrations=SHADOW) as db:
            shadows = Shadows(db, settings=TEN)
            if at == 0:
                await say(shadows, desired={"on": True})
            assert await shadows.tell_unreached() == (1 if at == 1 else 0), f"life {at}"
        clock.advance(10 * MINUTE)


async def test_shadows_of_a_folder_without_times_are_timed_by_their_stamps(tmp_path: Path, clock: FakeClock) -> None:
    with Db.open(tmp_path / "hub.db", clock=clock, migrations=SHADOW) as db:
        shadows = Shadows(db)
        start = clock.wall_ms()
        await say(shadows, desired={"on": True, "deep": {"er": 1}}, reported={"deep": 5, "fine": 1})
        await say(shadows, thing="door", desired={"a": 1}, reported={"a": 1})
        clock.advance(MINUTE)
        await say(shadows, reported={"on": False})
        await db.write(lambda tx: tx.execute("UPDATE shadow SET since_ms = -1, since = NULL"))
        assert not await shadows.unreached(0)
        assert await shadows.time_old_ones() == 2
        assert await shadows.time_old_ones() == 0
        (found,) = await shadows.unreached(0)
        assert found.since == {"/on": start + MINUTE, "/deep/er": start}


async def test_an_update_times_an_old_one_too(db: Db, clock: FakeClock) -> None:
    shadows, start = Shadows(db), clock.wall_ms()
    await say(shadows, desired={"on": True})
    await db.write(lambda tx: tx.execute("UPDATE shadow SET since_ms = -1, since = NULL"))
    clock.advance(MINUTE)
    await say(shadows, desired={"level": 1})
    assert (await shadows.unreached(0))[0].since == {"/on": start, "/level": start + MINUTE}


async def test_pages_lose_nobody(db: Db) -> None:
    shadows = Shadows(db)
    for at in range(25):
        await say(shadows, f"s{at % 2}", thing=f"t{at:02}", desired={"on": True})
    seen: list[tuple[str, str]] = []
    after = (-1, "", "")
    while found := await shadows.unreached(0, after=after, limit=4):
        seen += [(each.thing, each.name) for each in found]
        after = (found[-1].since_ms, found[-1].thing, found[-1].name)
    assert seen == [(f"t{at:02}", f"s{at % 2}") for at in range(25)], "all began in the same millisecond"


async def test_looking_is_cheap_among_a_hundred_thousand(db: Db, clock: FakeClock) -> None:
    """By the plan of the queries, not by a stopwatch: an index answers, and only what is due is read."""
    shadows = Shadows(db, settings=TEN)
    await say(shadows, desired={"on": True})

    def fill(tx: Tx) -> None:
        body = tx.one("SELECT body FROM shadow")
        assert body is not None
        rows = ((f"t{at}", body[0], None if at % 2 else at, at % 4 == 0) for at in range(100_000))
        tx.many("INSERT INTO shadow (thing, name, body, modified_ms, since_ms, told) VALUES (?, '', ?, 0, ?, ?)", rows)

    await db.write(fill)
    for query in (
        "SELECT thing FROM shadow WHERE told = 0 AND since_ms >= 0 AND since_ms <= 5 ORDER BY since_ms LIMIT 1",
        "SELECT thing FROM shadow WHERE since_ms >= 0 AND since_ms <= 5 AND (since_ms, thing, name) > (1, '', '')"
        " ORDER BY since_ms, thing, name LIMIT 5",
        "SELECT thing FROM shadow WHERE since_ms = -1 LIMIT 5",
    ):
        plan = str(await db.read(lambda tx, query=query: tx.all("EXPLAIN QUERY PLAN " + query)))  # type: ignore[misc]
        assert "USING INDEX" in plan or "USING COVERING INDEX" in plan, plan
        assert "SCAN" not in plan and "TEMP B-TREE" not in plan, plan
    clock.advance(10 * MINUTE)
    assert await shadows.tell_unreached(50) == 50
    assert await db.read(lambda tx: len(store.untold(tx, clock.wall_ms(), 100_000))) == 25_001 - 50


def test_leaves_by_pointer() -> None:
    assert unreached.leaves({"a": {"b/c": 1, "~": [{}]}, "d": None}) == {"/a/b~1c": 1, "/a/~0": [{}], "/d": None}
