"""Shadows on a real database: what leaves by the outbox, versions after delete, writers at once."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from marram.core.errors import Invalid, NotFound, VersionConflict
from marram.hub.shadow.service import Shadows
from marram.kit.clock import FakeClock
from marram.kit.db import Db, Migrations


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def db(tmp_path: Path, clock: FakeClock) -> Iterator[Db]:
    with Db.open(
        tmp_path / "hub.db", clock=clock, migrations=[Migrations(slice="shadow", package="marram.hub.shadow")]
    ) as opened:
        yield opened


def emitted(db: Db) -> list[tuple[str, dict[str, object]]]:
    return [(topic, json.loads(body)) for _, topic, body, _ in db.outbox_pending(1000)]


async def test_an_update_leaves_accepted_delta_and_documents(db: Db) -> None:
    await Shadows(db).update("lamp", "", b'{"state": {"desired": {"on": true}}, "clientToken": "x"}')
    topics = [topic for topic, _ in emitted(db)]
    at = "$aws/things/lamp/shadow/update"
    assert topics == [f"{at}/accepted", f"{at}/delta", f"{at}/documents"]
    assert all(body["clientToken"] == "x" for _, body in emitted(db))


async def test_no_delta_when_reached(db: Db) -> None:
    shadows = Shadows(db)
    await shadows.update("lamp", "", b'{"state": {"desired": {"on": true}, "reported": {"on": true}}}')
    assert not [topic for topic, _ in emitted(db) if topic.endswith("delta")]


async def test_a_refused_update_changes_and_emits_nothing(db: Db) -> None:
    shadows = Shadows(db)
    await shadows.update("lamp", "a", b'{"state": {"desired": {"on": true}}}')
    before = emitted(db)
    with pytest.raises(VersionConflict):
        await shadows.update("lamp", "a", b'{"state": {"desired": {"on": false}}, "version": 7}')
    assert emitted(db) == before
    assert (await shadows.get("lamp", "a")).desired == {"on": True}


async def test_the_version_goes_on_after_delete_for_48_hours(db: Db, clock: FakeClock) -> None:
    shadows = Shadows(db)
    await shadows.update("lamp", "", b'{"state": {"reported": {"a": 1}}}')
    await shadows.update("lamp", "", b'{"state": {"reported": {"a": 2}}}')
    await shadows.delete("lamp")
    with pytest.raises(NotFound, match="No shadow exists"):
        await shadows.get("lamp")
    body = await shadows.update("lamp", "", b'{"state": {"reported": {"a": 3}}}')
    assert body["version"] == 3
    await shadows.delete("lamp")
    clock.advance(49 * 3600 * 1000)
    assert (await shadows.update("lamp", "", b'{"state": {"reported": {"a": 4}}}'))["version"] == 1


async def test_writers_at_once_lose_nothing(db: Db) -> None:
    shadows = Shadows(db)
    async with asyncio.TaskGroup() as group:
        for at in range(100):
            group.create_task(
                shadows.update("lamp", "", b'{"state": {"reported": {"k%d": %d}}}' % (at, at)), name=f"w{at}"
            )
    document = await shadows.get("lamp")
    assert document.version == 100
    assert document.reported == {f"k{at}": at for at in range(100)}


async def test_bad_names_are_refused(db: Db) -> None:
    with pytest.raises(Invalid, match="thing name"):
        await Shadows(db).get("a/b")
    with pytest.raises(Invalid, match="shadow name"):
        await Shadows(db).get("a", "b c")


async def test_named_shadows_in_pages(db: Db) -> None:
    shadows = Shadows(db)
    for name in ("c", "a", "b"):
        await shadows.update("lamp", name, b'{"state": {"reported": {"x": 1}}}')
    await shadows.update("lamp", "", b'{"state": {"reported": {"x": 1}}}')
    assert await shadows.names("lamp", limit=2) == ["a", "b"]
    assert await shadows.names("lamp", after="b") == ["c"]
