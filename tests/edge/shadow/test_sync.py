import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from marram.core import codec
from marram.core.codec import JsonObject
from marram.core.errors import Invalid, NotFound, Unavailable, VersionConflict
from marram.edge.pubsub.hub import Hub, Message
from marram.edge.shadow.service import MIGRATIONS, Shadows
from marram.edge.shadow.sync import Settings, Sync
from marram.hub.shadow import topics
from marram.hub.shadow.service import Shadows as HubShadows
from marram.hub.slice import TopicMessage
from marram.kit.clock import FakeClock, SeededEntropy
from marram.kit.db import Db, Migrations


@dataclass
class HubSide:
    """The real shadow slice of the hub behind a link that can be cut."""

    db: Db
    clock: FakeClock
    up: bool = False
    sent: int = 0
    told: int = 0
    hub: Hub = field(default_factory=Hub)
    watchers: list[Callable[[bool], None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.shadows = HubShadows(self.db)
        self.db.on_outbox(self._drain)

    async def send(self, topic: str, payload: bytes) -> None:
        if not self.up:
            raise Unavailable("down")
        self.sent += 1
        levels = topic.split("/")
        params = {"thing": levels[2]} | ({"name": levels[5]} if len(levels) == 7 else {})
        message = TopicMessage(
            topic=topic,
            params=params,
            payload=payload,
            subject=None,
            client_id="core",
            time_ms=self.clock.wall_ms(),  # type: ignore[arg-type]
        )
        await {"get": topics.get, "update": topics.update, "delete": topics.delete}[levels[-1]](self.shadows, message)
        self._drain()

    def _drain(self) -> None:
        for row_id, topic, body, _ in self.db.outbox_pending():
            if row_id > self.told:
                self.told = row_id
                if self.up:
                    self.hub.publish(Message(topic, body))

    async def subscribe(self, filter: str, qos: int, deliver: Callable[[Message], None]) -> Callable[[], None]:
        return self.hub.subscribe(filter, deliver).cancel

    def watch(self, changed: Callable[[bool], None]) -> Callable[[], None]:
        self.watchers.append(changed)
        changed(self.up)
        return lambda: self.watchers.remove(changed)

    def set(self, up: bool) -> None:
        self.up = up
        for changed in self.watchers:
            changed(up)

    async def state(self, name: str = "") -> JsonObject:
        document = await self.shadows.get("T", name)
        return {"desired": document.desired, "reported": document.reported}


@dataclass
class Both:
    hub: HubSide
    edge: Shadows
    sync: Sync
    clock: FakeClock
    space: Hub

    async def settled(self) -> None:
        async with asyncio.timeout(5):
            for _ in range(3):
                await asyncio.sleep(0)
                await self.sync.idle.wait()

    async def local(self, name: str = "") -> JsonObject:
        body = codec.loads_object(await self.edge.get("T", name))
        state = body["state"]
        assert isinstance(state, dict)
        return {"desired": state.get("desired", {}), "reported": state.get("reported", {})}

    async def same(self, name: str = "") -> JsonObject:
        await self.settled()
        local = await self.local(name)
        assert local == await self.hub.state(name)
        return local


def patch(**state: object) -> bytes:
    return json.dumps({"state": state}).encode()


@contextlib.asynccontextmanager
async def both(folder: Path, **settings: object) -> AsyncIterator[Both]:
    clock = FakeClock()
    with (
        Db.open(folder / "state.db", clock=clock, migrations=[MIGRATIONS]) as state,
        Db.open(
            folder / "hub.db", clock=clock, migrations=[Migrations(slice="shadow", package="marram.hub.shadow")]
        ) as hub_db,
    ):
        hub, space = HubSide(hub_db, clock), Hub()
        edge = Shadows(state, [space], wall_ms=clock.wall_ms)
        sync = Sync(
            state,
            edge,
            hub,
            entropy=SeededEntropy(1),
            settings=Settings(things=["T"], **settings),  # type: ignore[arg-type]
        )
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(sync.run())
            try:
                yield Both(hub, edge, sync, clock, space)
            finally:
                task.cancel()


async def test_changes_made_apart_meet_after_the_outage(tmp_path: Path) -> None:
    async with both(tmp_path) as pair:
        await pair.edge.update("T", "", patch(reported={"temp": 20}, desired={"mode": "eco"}))
        pair.hub.set(True)
        assert await pair.same() == {"desired": {"mode": "eco"}, "reported": {"temp": 20}}
        pair.hub.set(False)
        for temp in range(21, 60):  # a hundred changes while away cost one message
            pair.clock.advance(1000)
            await pair.edge.update("T", "", patch(reported={"temp": temp}))
        await pair.hub.shadows.update("T", "", patch(desired={"mode": "boost", "limit": 5}))
        sent = pair.hub.sent
        pair.hub.set(True)
        assert await pair.same() == {"desired": {"mode": "boost", "limit": 5}, "reported": {"temp": 59}}
        assert pair.hub.sent - sent == 2


async def test_with_the_link_up_both_ways_are_live(tmp_path: Path) -> None:
    async with both(tmp_path) as pair:
        pair.hub.set(True)
        await pair.settled()
        deltas: list[JsonObject] = []
        pair.space.subscribe(
            "$aws/things/T/shadow/update/delta", lambda message: deltas.append(codec.loads_object(message.payload))
        )
        await pair.hub.shadows.update("T", "", patch(desired={"on": True}))
        await pair.settled()
        assert deltas[-1]["state"] == {"on": True}
        await pair.edge.update("T", "", patch(reported={"on": True}))
        assert await pair.same() == {"desired": {"on": True}, "reported": {"on": True}}
        await pair.hub.shadows.update("T", "cfg", patch(desired={"n": 1}))  # a named one that this core has never seen
        assert await pair.same("cfg") == {"desired": {"n": 1}, "reported": {}}


async def test_deletion_travels_unless_the_other_side_changed(tmp_path: Path) -> None:
    async with both(tmp_path) as pair:
        pair.hub.set(True)
        await pair.edge.update("T", "a", patch(desired={"x": 1}))
        await pair.edge.update("T", "b", patch(desired={"x": 1}))
        await pair.edge.update("T", "c", patch(desired={"x": 1}))
        await pair.settled()
        pair.hub.set(False)
        await pair.edge.delete("T", "a")
        await pair.hub.shadows.delete("T", "b")
        await pair.edge.delete("T", "c")
        await pair.hub.shadows.update("T", "c", patch(desired={"x": 2}))
        pair.hub.set(True)
        await pair.settled()
        for name in "ab":
            with pytest.raises(NotFound):
                await pair.edge.get("T", name)
            with pytest.raises(NotFound):
                await pair.hub.shadows.get("T", name)
        assert await pair.same("c") == {"desired": {"x": 2}, "reported": {}}
        await pair.edge.update("T", "a", patch(desired={"x": 3}))  # made anew after its deletion was agreed
        assert await pair.same("a") == {"desired": {"x": 3}, "reported": {}}


async def test_a_change_at_the_hub_between_get_and_update_is_merged(tmp_path: Path) -> None:
    async with both(tmp_path) as pair:
        await pair.edge.update("T", "", patch(reported={"a": 1}))
        send = pair.hub.send

        async def sneaky(topic: str, payload: bytes) -> None:
            if topic.endswith("/update"):
                pair.hub.send = send  # type: ignore[method-assign]
                await pair.hub.shadows.update("T", "", patch(desired={"b": 2}))
            await send(topic, payload)

        pair.hub.send = sneaky  # type: ignore[method-assign]
        pair.hub.set(True)
        assert await pair.same() == {"desired": {"b": 2}, "reported": {"a": 1}}


async def test_local_requests_answer_like_the_hub(tmp_path: Path) -> None:
    async with both(tmp_path) as pair:
        answers: list[Message] = []
        await pair.edge.handle(Message("$aws/things/T/shadow/get", b'{"clientToken":"x"}'), answers.append)
        assert answers[-1].topic.endswith("/get/rejected")
        assert codec.loads_object(answers[-1].payload) | {"timestamp": 0} == {
            "code": 404,
            "message": "No shadow exists",
            "timestamp": 0,
            "clientToken": "x",
        }
        events: list[str] = []
        pair.space.subscribe("$aws/things/T/shadow/#", lambda message: events.append(message.topic.rsplit("/", 1)[1]))
        await pair.edge.handle(Message("$aws/things/T/shadow/update", patch(desired={"a": 1})), answers.append)
        assert events == ["accepted", "delta", "documents"]
        await pair.edge.handle(Message("$aws/things/T/shadow/update", b'{"state":{},"version":7}'), answers.append)
        assert codec.loads_object(answers[-1].payload)["code"] == 409
        await pair.edge.handle(Message("$aws/things/T/shadow/delete", b""), answers.append)
        assert events[-1] == "accepted"
        with pytest.raises(Invalid):
            await pair.edge.get("bad thing")
        with pytest.raises(VersionConflict):
            await pair.edge.update("T", "", b'{"state":{},"version":9}')
        await pair.edge.update("T", "", patch(desired={"a": 1}))
        body = codec.loads_object(await pair.edge.get("T"))
        assert body["version"] == 2  # goes on from the deleted one
