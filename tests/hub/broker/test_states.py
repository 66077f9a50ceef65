"""Who is connected and who was: events, the bus, the table, the API; over restarts and crashes."""

import json
from dataclasses import replace

import pytest

from marram.core.errors import Denied, Invalid, LimitExceeded, NotFound, Unavailable
from marram.core.mqtt import packets
from marram.core.mqtt.packets import Connack, Disconnect, Publish, Will
from marram.hub.broker import presence
from marram.hub.broker.service import ConnectionChanged

ARN = "arn:aws:iot:local-1:000000000001:"


async def watcher(world, *filters: str):
    client = await world.client("watcher")
    await client.subscribe(*(filters or ("$aws/events/presence/+/c", "$aws/events/subscriptions/+/c")))
    return client


async def event(client) -> dict[str, object]:
    found = await client.message()
    body = json.loads(found.payload)
    assert found.topic.split("/")[3] == body["eventType"]
    return body


async def test_the_events_of_a_life(world) -> None:
    watch = await watcher(world)
    der = await world.device()
    principal = world.identity.certificate_subject(der).principal
    client = await world.client("c", der)
    now_ms = world.clock.wall_ms()
    came = await event(watch)
    session = came.pop("sessionIdentifier")
    assert came == {
        "clientId": "c", "timestamp": now_ms, "eventType": "connected", "principalIdentifier": principal,
        "ipAddress": "127.0.0.1", "versionNumber": 0,
    }  # fmt: skip
    await client.subscribe("a", "b/#")
    told = await event(watch)
    assert told == {
        "clientId": "c", "timestamp": now_ms, "eventType": "subscribed", "sessionIdentifier": session,
        "principalIdentifier": principal, "topics": ["a", "b/#"],
    }  # fmt: skip
    await client.unsubscribe("a", "never")
    told = await event(watch)
    assert (told["eventType"], told["topics"]) == ("unsubscribed", ["a"])
    world.clock.advance(5_000)
    await client.disconnect()
    assert await event(watch) == {
        "clientId": "c", "timestamp": now_ms + 5_000, "eventType": "disconnected", "sessionIdentifier": session,
        "principalIdentifier": principal, "clientInitiatedDisconnect": True,
        "disconnectReason": "CLIENT_INITIATED_DISCONNECT", "versionNumber": 0,
    }  # fmt: skip


async def _lost(client, world) -> None:
    client.socket.close()


async def _broken(client, world) -> None:
    client.raw(b"\x00\x00")


async def _silent(client, world) -> None:
    world.clock.advance(46_000)
    world.door.turn()


async def _taken(client, world) -> None:
    await world.client("c")


async def _forbidden(client, world) -> None:
    client.publish("$aws/nobody")


async def _revoked(client, world) -> None:
    await world.identity.set_status(client.principal, "REVOKED")


async def _deleted(client, world) -> None:
    world.broker.disconnect("c")


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        pytest.param(_lost, "CONNECTION_LOST", id="lost"),
        pytest.param(_broken, "CLIENT_ERROR", id="broken"),
        pytest.param(_silent, "MQTT_KEEP_ALIVE_TIMEOUT", id="silent"),
        pytest.param(_taken, "DUPLICATE_CLIENTID", id="taken over"),
        pytest.param(_forbidden, "FORBIDDEN_ACCESS", id="forbidden"),
        pytest.param(_revoked, "AUTH_ERROR", id="revoked"),
        pytest.param(_deleted, "API_INITIATED_DISCONNECT", id="deleted"),
    ],
)
async def test_why_a_client_left(world, end, reason: str) -> None:
    watch = await watcher(world, "$aws/events/presence/disconnected/c", "will")
    der = await world.device()
    client = await world.client("c", der, keep_alive_s=30, will=Will("will", b"x", 1))
    client.principal = world.identity.certificate_subject(der).principal
    await end(client, world)
    await client.end()
    await watch.until(lambda: any(isinstance(p, Publish) and p.topic != "will" for p in watch.got))
    found = {p.topic: p.payload for p in watch.got if isinstance(p, Publish)}
    told = json.loads(found.pop("$aws/events/presence/disconnected/c"))
    assert (told["disconnectReason"], told["clientInitiatedDisconnect"]) == (reason, False)
    # The will is sent each time, but for one whose certificate may nothing any more.
    assert found == ({} if end is _revoked else {"will": b"x"})
    kept = world.broker.connection("c")
    assert (kept.connected, kept.reason) == ((True, "") if end is _taken else (False, reason))


async def test_version_numbers_grow_and_begin_again(world) -> None:
    watch = await watcher(world, "$aws/events/presence/+/c")

    async def come_and_go(**options: object) -> int:
        client = await world.client("c", **options)
        came = await event(watch)
        await client.disconnect()
        left = await event(watch)
        assert left["versionNumber"] == came["versionNumber"]
        return came["versionNumber"]

    assert [await come_and_go() for _ in range(3)] == [0, 1, 2]
    world.clock.advance(3_600_000)
    assert await come_and_go() == 3
    world.clock.advance(3_600_001)
    assert await come_and_go() == 0
    options = {"version": 5, "clean": False, "properties": {"session_expiry_s": 86_400}}
    assert await come_and_go(**options) == 1
    world.clock.advance(80_000_000)
    assert await come_and_go(**options) == 2  # its session lived on
    await world.reopen()
    watch = await watcher(world, "$aws/events/presence/+/c")
    assert await come_and_go(**options) == 3
    world.clock.advance(86_400_001)
    assert await come_and_go(**options) == 0


@pytest.mark.parametrize(("client_id", "has"), [("a/b", True), ("a b", True), ("a+b", False), ("a#", False)])
async def test_client_ids_with_wildcards_have_no_events(world, client_id: str, has: bool) -> None:
    watch = await watcher(world, "$aws/events/presence/connected/#")
    await world.client(client_id)
    await world.client("end")
    first = json.loads((await watch.message()).payload)["clientId"]
    assert first == (client_id if has else "end")


async def test_connect_failed_says_why(world) -> None:
    watch = await watcher(world, "$aws/events/presence/+/c")
    der = await world.device({"Action": "iot:Connect", "Resource": f"{ARN}client/other"})
    refused = await world.unaccepted("c", der)
    await refused.next(Connack)
    told = await event(watch)
    assert (told["eventType"], told["connectFailureReason"], told["ipAddress"]) == (
        "connect_failed", "AUTHORIZATION_FAILED", "127.0.0.1",
    )  # fmt: skip
    assert world.broker.connection("c") is None


@pytest.mark.parametrize("exclusive", [True, False])
async def test_the_thing_is_named_for_exclusive_things_only(world, exclusive: bool) -> None:
    watch = await watcher(world, "$aws/events/presence/+/+")
    der = await world.device()
    principal = world.identity.certificate_subject(der).principal
    await world.db.write(lambda tx: world.identity.attach_thing(tx, "lamp", principal, exclusive=exclusive))
    client = await world.client("another-id" if exclusive else "lamp", der)
    came = await event(watch)
    await client.disconnect()
    left = await event(watch)
    assert came.get("thingName") == left.get("thingName") == ("lamp" if exclusive else None)
    assert world.broker.connection(client.connect.client_id).thing == "lamp"


async def test_the_bus_hears_of_each(world) -> None:
    heard: list[ConnectionChanged] = []
    world.bus.subscribe(ConnectionChanged, heard.append)
    client = await world.client("c")
    world.clock.advance(1_000)
    client.socket.close()
    await client.end()
    came, left = heard
    assert (came.connected, came.reason, came.thing, came.version) == (True, "", None, 0)
    now_ms = world.clock.wall_ms()
    assert left == replace(came, connected=False, reason="CONNECTION_LOST", at_ms=now_ms)
    assert came.at_ms == now_ms - 1_000


class _Index:
    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, object]]] = []

    def connectivity(self, tx, thing: str, state) -> None:
        self.told.append((thing, dict(state)))


async def test_the_index_hears_of_things_once_for_many_changes(world) -> None:
    index = _Index()
    world.broker.use_index(index)
    der = await world.device()
    principal = world.identity.certificate_subject(der).principal
    await world.db.write(lambda tx: world.identity.attach_thing(tx, "lamp", principal))
    for _ in range(3):
        client = await world.client("lamp", der)
        await client.disconnect()
    await world.client("not-a-thing")
    await world.broker._states.write()
    assert [(thing, state["connected"], state["disconnectReason"]) for thing, state in index.told] == [
        ("lamp", False, "CLIENT_INITIATED_DISCONNECT")
    ]
    await world.client("lamp", der, clean=False)
    await world.broker._states.write()
    state = index.told[-1][1]
    assert (state["connected"], state["sessionExpiry"], state["cleanSession"]) == (True, 3600, False)
    assert "disconnectReason" not in state
    found = await world.db.read(lambda tx: world.broker.connectivity_of(tx, "lamp"))
    assert found == state
    assert await world.db.read(lambda tx: world.broker.connectivity_of(tx, "other")) is None


async def test_states_survive_and_a_crash_is_told(world) -> None:
    await (await world.client("left")).disconnect()
    await world.client("here")
    await world.broker._states.write()
    world.broker._states.write = lambda: _nothing()  # as after kill -9: nothing more is written
    await world.close(checkpoint=False)
    heard: list[ConnectionChanged] = []
    await world.open()
    world.bus.subscribe(ConnectionChanged, heard.append)
    watch = await watcher(world, "$aws/events/presence/disconnected/here")
    assert world.broker.connection("left").reason == "CLIENT_INITIATED_DISCONNECT"
    gone = world.broker.connection("here")
    assert (gone.connected, gone.reason) == (False, presence.SERVER_ERROR)
    again = await world.client("here")
    await again.disconnect()
    assert (await event(watch))["versionNumber"] == 1
    assert [(h.connected, h.reason) for h in heard if h.client_id == "here"][-1] == (False, presence.CLIENT)


async def _nothing() -> None:
    """Writes nothing."""


async def test_states_that_could_not_be_written_are_written_later(world, monkeypatch) -> None:
    async def fails(_work) -> None:
        raise Unavailable("the disk is full")

    await (await world.client("c")).disconnect()
    with monkeypatch.context() as patch:
        patch.setattr(world.db, "write", fails)
        await world.broker._states.write()
    assert world.broker.connection("c").reason == presence.CLIENT
    await world.broker._states.write()
    assert not world.broker._states._changed
    assert world.broker.connection("c").reason == presence.CLIENT


async def test_what_is_long_gone_is_forgotten(world) -> None:
    await (await world.client("old")).disconnect()
    await world.broker._states.write()
    world.clock.advance(31 * 24 * 3_600_000)
    await world.client("new")
    await world.broker._states.write()
    await world.broker._housekeeping.sweep()
    assert world.broker.connection("old") is None
    assert world.broker.connection("new").connected


# by client id


async def test_put_out_with_its_session_or_without(world) -> None:
    sub = await world.client("sub")
    await sub.subscribe("will")
    client = await world.client(
        "c", version=5, clean=False, properties={"session_expiry_s": 60}, will=Will("will", b"1", 1)
    )
    await client.subscribe("a")
    world.broker.disconnect("c")
    ended = await client.next(Disconnect)
    assert ended.reason == packets.ADMINISTRATIVE_ACTION
    assert (await sub.message()).payload == b"1"
    assert world.broker.subscriptions("c") == [("a", 1)]
    client = await world.client(
        "c", version=5, clean=False, properties={"session_expiry_s": 60}, will=Will("will", b"2")
    )
    assert client.connack.session_present
    world.broker.disconnect("c", clean=True, will=False)
    await client.end()
    with pytest.raises(NotFound):
        world.broker.subscriptions("c")
    with pytest.raises(NotFound):
        world.broker.disconnect("c")
    await world.reopen(checkpoint=False)
    assert "c" not in world.broker.sessions
    away = await world.client("c", clean=False)
    await away.disconnect()
    world.broker.disconnect("c", clean=True)  # a session without a connection
    assert "c" not in world.broker.sessions


@pytest.mark.parametrize("version", [4, 5])
async def test_a_message_to_one_client(world, version: int) -> None:
    one, two = await world.client("one", version=version), await world.client("two")
    await two.subscribe("direct/#")
    await world.broker.send_direct("one", "direct/1", b"x", properties={"content_type": "text/plain"})
    got = await one.message()
    assert (got.topic, got.payload, got.qos) == ("direct/1", b"x", 0)
    assert got.properties == ({"content_type": "text/plain"} if version == 5 else {})
    await world.broker.send_direct("one", "direct/1", b"y", confirm_s=5)
    assert (await one.message()).qos == 1
    assert not two.got


async def test_a_message_to_one_client_that_does_not_get_there(world) -> None:
    der = await world.device(
        {"Action": "iot:Connect", "Resource": "*"}, {"Action": "iot:Receive", "Resource": f"{ARN}topic/mine"}
    )
    await world.client("deaf", der, auto_ack=False)
    with pytest.raises(NotFound):
        await world.broker.send_direct("nobody", "mine", b"")
    with pytest.raises(Denied):
        await world.broker.send_direct("deaf", "theirs", b"")
    with pytest.raises(Invalid):
        await world.broker.send_direct("deaf", "mine/#", b"")
    with pytest.raises(LimitExceeded):
        await world.broker.send_direct("deaf", "mine", b"x" * (128 * 1024 + 1))
    with pytest.raises(Unavailable) as caught:
        await world.broker.send_direct("deaf", "mine", b"", confirm_s=0.01)
    assert caught.value.data["kind"] == "timeout"
    for _ in range(99):
        with pytest.raises(Unavailable):
            await world.broker.send_direct("deaf", "mine", b"", confirm_s=0)
    with pytest.raises(LimitExceeded):
        await world.broker.send_direct("deaf", "mine", b"", confirm_s=1)


async def test_a_client_that_leaves_before_it_acknowledges(world) -> None:
    deaf = await world.client("deaf", auto_ack=False)
    deaf.socket.got = lambda data: deaf.socket.close()
    with pytest.raises(Unavailable, match="left"):
        await world.broker.send_direct("deaf", "mine", b"", confirm_s=5)
