"""Shadows on a real database: what leaves by the outbox, versions after delete, writers at once."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from marram.core.errors import Invalid, LimitExceeded, NotFound, VersionConflict
from marram.hub.bus import Bus
from marram.hub.shadow.service import Settings, ShadowChanged, Shadows
from marram.kit.clock import FakeClock
from marram.kit.db import Db, Migrations, Tx


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
    with pytest.raises(NotFound, match="No shadow exists with name: 'lamp'"):
        await shadows.get("lamp")
    with pytest.raises(NotFound, match="No shadow exists with name: 'lamp~light'"):
        await shadows.get("lamp", "light")
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


async def test_many_writers_that_expect_a_version_accepted_are_as_many_as_versions(db: Db) -> None:
    """Each reads, adds one to a counter, and writes with the version that it read; who was too late reads again."""
    shadows = Shadows(db)
    await shadows.update("lamp", "", b'{"state": {"reported": {"n": 0}}}')
    conflicts = 0

    async def writer() -> None:
        nonlocal conflicts
        left = 20
        while left:
            document = await shadows.get("lamp")
            count = document.reported["n"]
            assert isinstance(count, int)
            body = json.dumps({"state": {"reported": {"n": count + 1}}, "version": document.version})
            try:
                await shadows.update("lamp", "", body.encode())
                left -= 1
            except VersionConflict:
                conflicts += 1

    async with asyncio.TaskGroup() as group:
        for at in range(10):
            group.create_task(writer(), name=f"w{at}")
    document = await shadows.get("lamp")
    assert (document.version, document.reported) == (201, {"n": 200})
    assert conflicts > 0, "they never met: this proves nothing"
    bodies = [body for topic, body in emitted(db) if topic.endswith("/documents")]
    versions = [body["current"]["version"] for body in bodies]  # type: ignore[index]
    assert versions == list(range(1, 202)), "documents leave in the order of versions"
    for body in bodies[1:]:
        before, after = body["previous"], body["current"]
        assert after["version"] == before["version"] + 1  # type: ignore[index]
        assert after["state"]["reported"]["n"] == before["state"]["reported"]["n"] + 1  # type: ignore[index]


async def test_the_bus_and_the_index_are_told_in_the_same_commit(db: Db) -> None:
    told: list[object] = []
    indexed: list[tuple[str, str, object]] = []

    class Seen:
        def wants_shadow(self, shadow_name: str) -> bool:
            return shadow_name == "a"

        def shadow(self, tx: Tx, thing: str, shadow_name: str, document: object) -> None:
            indexed.append((thing, shadow_name, document))

    bus = Bus()
    bus.subscribe(ShadowChanged, told.append)
    shadows = Shadows(db, bus, index=Seen())
    await shadows.update("lamp", "a", b'{"state": {"desired": {"on": true}}}')
    with pytest.raises(VersionConflict):
        await shadows.update("lamp", "a", b'{"state": {"desired": {"on": false}}, "version": 7}')
    await shadows.delete("lamp", "a")
    assert told == [ShadowChanged("lamp", "a", 1), ShadowChanged("lamp", "a", 1)]
    stamp = {"timestamp": (await db.read(lambda tx: tx.now_ms)) // 1000}
    body = {"desired": {"on": True}, "reported": {}, "metadata": {"desired": {"on": stamp}}, "version": 1}
    assert indexed == [("lamp", "a", body), ("lamp", "a", None)]


async def test_the_size_is_a_setting(db: Db) -> None:
    body = json.dumps({"state": {"reported": {"a": "x" * 20_000}}}).encode()
    with pytest.raises(LimitExceeded, match="exceeds the maximum size"):
        await Shadows(db).update("lamp", "", body)
    await Shadows(db, settings=Settings(max_document_bytes=30 * 1024)).update("lamp", "", body)
    for wrong in ({"max_document_bytes": 1 << 20}, {"in_flight": -1}, {"unreached_minutes": -5}):
        with pytest.raises(Invalid, match=next(iter(wrong))):
            Settings(**wrong)


async def test_graves_are_forgotten_after_48_hours(db: Db, clock: FakeClock) -> None:
    shadows = Shadows(db)
    for name in ("a", "b"):
        await shadows.update("lamp", name, b'{"state": {}}')
    await shadows.delete("lamp", "a")
    clock.advance(48 * 3600 * 1000)
    await shadows.delete("lamp", "b")
    assert await shadows.forget_graves() == 1
    assert (await shadows.update("lamp", "b", b'{"state": {}}'))["version"] == 2


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


@pytest.mark.parametrize("heard", [(), ("accepted",), ("delta",), ("documents",), ("accepted", "delta", "documents")])
async def test_what_nobody_gets_is_not_told(db: Db, heard: tuple[str, ...]) -> None:
    at = "$aws/things/lamp/shadow/name/a/update"
    shadows = Shadows(db, is_heard=lambda topic: topic in {f"{at}/{kind}" for kind in heard})
    body = await shadows.update("lamp", "a", b'{"state": {"desired": {"on": true}}}')
    assert [topic for topic, _ in emitted(db)] == [f"{at}/{kind}" for kind in heard]
    assert body["version"] == 1 and (await shadows.get("lamp", "a")).desired == {"on": True}
