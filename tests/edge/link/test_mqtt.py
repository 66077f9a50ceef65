import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from marram.core.errors import Denied, Unavailable
from marram.core.mqtt import packets, v5
from marram.core.mqtt.connection import ServerConnection, receive_all
from marram.core.mqtt.packets import (
    Connack,
    Connect,
    Disconnect,
    Pingresp,
    Puback,
    Publish,
    Suback,
    Subscribe,
    Unsuback,
)
from marram.edge.link.ledger import MIGRATIONS, Ledger
from marram.edge.link.mqtt import Link, Settings
from marram.edge.pubsub.hub import Message
from marram.edge.spool import service as spool
from marram.edge.spool.service import Outgoing, Spool
from marram.kit import net
from marram.kit.clock import SeededEntropy, SystemClock
from marram.kit.db import Db


@dataclass
class FakeHub:
    """An MQTT 5 server that does what a test says. `reason(publish)` is the code of the PUBACK, None = none at all."""

    reason: Callable[[Publish], int | None] = lambda packet: 0
    got: list[Publish] = field(default_factory=list)
    connects: list[Connect] = field(default_factory=list)
    filters: list[str] = field(default_factory=list)
    connack: Connack = field(default_factory=Connack)
    pings: int = 0
    answer_pings: bool = True
    peers: list["Peer"] = field(default_factory=list)
    port: int = 0
    moved: asyncio.Event = field(default_factory=asyncio.Event)
    server: net.Server | None = None

    async def open(self) -> None:
        self.server = await net.serve("127.0.0.1", self.port, lambda peer: Peer(self), tls=None, handshakes=None)
        self.port = self.server.port

    def close(self) -> None:
        if self.server is not None:
            self.server.close()
        for peer in self.peers:
            if peer.transport is not None:
                peer.transport.abort()

    async def until(self, ready: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not ready():
                self.moved.clear()
                await self.moved.wait()

    def send(self, packet: packets.Packet) -> None:
        transport = self.peers[-1].transport
        assert transport is not None
        transport.write(v5.encode(packet))


class Peer(asyncio.Protocol):
    def __init__(self, hub: FakeHub) -> None:
        self.hub = hub
        self.connection = ServerConnection()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.hub.peers.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self.hub.moved.set()

    def data_received(self, data: bytes) -> None:
        hub = self.hub
        assert self.transport is not None
        for packet in receive_all(self.connection, data):
            answer: packets.Packet | None = None
            if isinstance(packet, Connect):
                self.connection.version = packets.V5
                hub.connects.append(packet)
                answer = hub.connack
            elif isinstance(packet, Publish):
                hub.got.append(packet)
                code = hub.reason(packet) if packet.qos else None
                if code == 0x1000:
                    answer = Disconnect(packets.PAYLOAD_FORMAT_INVALID)
                elif code is not None:
                    answer = Puback(packet.packet_id, code)
            elif isinstance(packet, Subscribe):
                hub.filters += [wish.filter for wish in packet.wishes]
                answer = Suback(packet.packet_id, [0x87 if "secret" in wish.filter else 1 for wish in packet.wishes])
            elif isinstance(packet, packets.Unsubscribe):
                hub.filters = [each for each in hub.filters if each not in packet.filters]
                answer = Unsuback(packet.packet_id, [0])
            elif isinstance(packet, packets.Pingreq):
                hub.pings += 1
                answer = Pingresp() if hub.answer_pings else None
            if answer is not None and self.transport is not None:
                self.transport.write(v5.encode(answer))
        hub.moved.set()


@contextlib.asynccontextmanager
async def linked(folder: Path, hub: FakeHub, **settings: object) -> AsyncIterator[tuple[Link, Spool, Db]]:
    clock = SystemClock()
    with Db.open(folder / "state.db", clock=clock, migrations=[MIGRATIONS, spool.MIGRATIONS]) as db:
        store = Spool.open(
            folder / "spool", db, clock=clock, entropy=SeededEntropy(1), settings=spool.Settings(ahead_bytes=0)
        )
        link = Link(
            Settings(host="127.0.0.1", port=hub.port, thing="core1", backoff_s=(0.01, 0.05), **settings),  # type: ignore[arg-type]
            store,
            Ledger(db, wall_ms=clock.wall_ms),
            tls=None,
            entropy=SeededEntropy(2),
        )
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(link.run())
            try:
                yield link, store, db
            finally:
                task.cancel()
                hub.close()
        await store.close()


def sequences(hub: FakeHub) -> list[str]:
    found = []
    for packet in hub.got:
        pairs = dict(packet.properties.get("user_properties", []))  # type: ignore[arg-type]
        found.append(pairs.get("mrm-seq", "").partition(":")[2])
    return found


async def test_what_was_published_before_the_hub_was_there_arrives_in_order(tmp_path: Path) -> None:
    hub = FakeHub()
    await hub.open()
    hub.server.close()  # type: ignore[union-attr]
    async with linked(tmp_path, hub) as (link, store, db):
        for n in range(250):
            await link.publish(Outgoing(topic="t", payload=str(n).encode(), user_properties=[("k", "v")]))
        assert not link.connected and store.waiting == 250
        await hub.open()
        await hub.until(lambda: len(hub.got) == 250)
        assert [packet.payload for packet in hub.got] == [str(n).encode() for n in range(250)]
        assert sequences(hub)[:2] == ["normal:1", "normal:2"]
        assert hub.got[0].properties["user_properties"][0] == ("k", "v")  # type: ignore[index]
        async with asyncio.timeout(5):
            while store.waiting:
                await asyncio.sleep(0.01)
        await store.save()
        (row,) = db.read_now(lambda tx: tx.all("SELECT position FROM spool_lane"))
        assert row == (250,)
    assert hub.connects[0].client_id == "core1" and hub.connects[0].clean
    assert hub.connects[0].properties["session_expiry_s"] == 604_800


async def test_refused_for_good_is_put_aside_and_the_lane_goes_on(tmp_path: Path) -> None:
    hub = FakeHub(reason=lambda packet: packets.NOT_AUTHORIZED if packet.topic == "secret" else 0)
    await hub.open()
    async with linked(tmp_path, hub) as (link, store, _):
        for topic in ("a", "secret", "b"):
            await link.publish(Outgoing(topic=topic, payload=b"x"))
        await hub.until(lambda: len(hub.got) == 3)
        async with asyncio.timeout(5):
            while store.waiting:
                await asyncio.sleep(0.01)
        await store.save()
        (letter,) = await store.dead()
        assert (letter.topic, letter.reason_code) == ("secret", 0x87)
        assert len(hub.connects) == 1


async def test_refused_for_the_moment_is_sent_again_and_nothing_is_lost(tmp_path: Path) -> None:
    full = True

    def reason(packet: Publish) -> int:
        nonlocal full
        if packet.payload == b"3" and full:
            full = False
            return packets.QUOTA_EXCEEDED
        return 0

    hub = FakeHub(reason=reason)
    await hub.open()
    hub.server.close()  # type: ignore[union-attr]
    async with linked(tmp_path, hub) as (link, store, _):
        for n in range(6):
            await link.publish(Outgoing(topic="t", payload=str(n).encode()))
        old = store.lanes["normal"].spool_id
        await hub.open()
        async with asyncio.timeout(10):
            while store.waiting:
                await asyncio.sleep(0.01)
        accepted = [packet.payload for packet in hub.got]
        assert accepted[:6] == [b"0", b"1", b"2", b"3", b"4", b"5"] and b"3" in accepted[6:]
        assert store.lanes["normal"].spool_id != old  # else the hub would drop the repeat of 3, having seen 4 and 5


async def test_a_silent_hub_is_noticed_within_seconds_when_it_owes_an_answer(tmp_path: Path) -> None:
    hub = FakeHub(reason=lambda packet: None, answer_pings=False)
    await hub.open()
    async with linked(tmp_path, hub, probe_s=0.2, ping_s=0.2) as (link, _, _):
        await hub.until(lambda: bool(hub.connects))
        began = asyncio.get_running_loop().time()
        await link.publish(Outgoing(topic="t", payload=b"x"))
        await hub.until(lambda: len(hub.connects) == 2)
        assert 0.3 < asyncio.get_running_loop().time() - began < 2
        assert hub.pings >= 1 and not hub.connects[1].clean  # the session goes on
        hub.reason = lambda packet: 0
        await hub.until(lambda: len(hub.got) >= 2)


async def test_a_hub_that_is_only_slow_is_kept(tmp_path: Path) -> None:
    hub = FakeHub(reason=lambda packet: None)
    await hub.open()
    async with linked(tmp_path, hub, probe_s=0.1, ping_s=0.2) as (link, store, _):
        await link.publish(Outgoing(topic="t", payload=b"x"))
        await hub.until(lambda: hub.pings >= 3)
        hub.send(Puback(hub.got[0].packet_id))
        async with asyncio.timeout(5):
            while store.waiting:
                await asyncio.sleep(0.01)
        assert len(hub.connects) == 1


async def test_an_idle_link_pings_at_its_keep_alive_only(tmp_path: Path) -> None:
    hub = FakeHub(connack=Connack(properties={"server_keep_alive_s": 1}))
    await hub.open()
    async with linked(tmp_path, hub, probe_s=0.1) as (_, _, _):
        began = asyncio.get_running_loop().time()
        await hub.until(lambda: hub.pings == 1)
        assert asyncio.get_running_loop().time() - began > 0.9


async def test_subscriptions_deliver_survive_a_new_connection_and_end(tmp_path: Path) -> None:
    hub = FakeHub()
    await hub.open()
    async with linked(tmp_path, hub) as (link, _, _):
        got: list[Message] = []
        states: list[bool] = []
        link.watch(states.append)
        await link.subscribe("early/#", 1, got.append)  # before there is a connection
        await hub.until(lambda: "early/#" in hub.filters)
        cancel = await link.subscribe("cmd/+", 1, got.append)
        second = await link.subscribe("cmd/+", 0, got.append)
        assert hub.filters == ["early/#", "cmd/+"]
        hub.send(Publish("cmd/1", b"x", 1, packet_id=7))
        async with asyncio.timeout(5):
            while len(got) < 2:
                await asyncio.sleep(0.01)
        with pytest.raises(Denied):
            await link.subscribe("secret", 1, got.append)
        hub.filters.clear()
        hub.peers[-1].transport.abort()  # type: ignore[union-attr]
        await hub.until(lambda: len(hub.filters) == 2)
        assert states[:3] == [False, True, False]
        cancel()
        second()
        second()
        await hub.until(lambda: hub.filters == ["early/#"])


async def test_direct_messages_need_the_link(tmp_path: Path) -> None:
    hub = FakeHub(reason=lambda packet: packets.NOT_AUTHORIZED if packet.topic == "no" else 0)
    await hub.open()
    async with linked(tmp_path, hub) as (link, _, _):
        await hub.until(lambda: bool(hub.connects))
        async with asyncio.timeout(5):
            while not link.connected:
                await asyncio.sleep(0.01)
        await link.send("yes", b"x")
        with pytest.raises(Denied):
            await link.send("no", b"x")
        await link.publish(Outgoing(topic="zero", payload=b"", qos=0))
        await hub.until(lambda: hub.got[-1].topic == "zero")
        hub.reason = lambda packet: None
        waiting = asyncio.ensure_future(link.send("never", b""))
        await hub.until(lambda: hub.got[-1].topic == "never")
        hub.close()
        with pytest.raises(Unavailable):
            await waiting
        async with asyncio.timeout(5):
            while link.connected:
                await asyncio.sleep(0.01)
        with pytest.raises(Unavailable):
            await link.send("yes", b"x")


async def test_a_message_that_the_hub_hangs_up_on_does_not_block_the_lane(tmp_path: Path) -> None:
    hub = FakeHub(reason=lambda packet: 0x1000 if packet.payload == b"bad" else 0)
    await hub.open()
    async with linked(tmp_path, hub) as (link, store, _):
        for payload in (b"1", b"bad", b"2"):
            await link.publish(Outgoing(topic="t", payload=payload))
        await hub.until(lambda: bool(hub.got) and hub.got[-1].payload == b"2" and len(hub.connects) >= 3)
        async with asyncio.timeout(5):
            while store.waiting:
                await asyncio.sleep(0.01)
        await store.save()
        (letter,) = await store.dead()
        assert letter.payload == b"bad"


async def test_too_large_for_the_hub_is_put_aside(tmp_path: Path) -> None:
    hub = FakeHub(connack=Connack(properties={"maximum_packet_size": 200, "receive_maximum": 1}))
    await hub.open()
    async with linked(tmp_path, hub) as (link, store, _):
        await link.publish(Outgoing(topic="t", payload=b"x" * 300))
        await link.publish(Outgoing(topic="t", payload=b"small"))
        await hub.until(lambda: [packet.payload for packet in hub.got] == [b"small"])
        await store.save()
        assert [letter.reason_code for letter in await store.dead()] == [packets.PACKET_TOO_LARGE]


async def test_the_ledger_counts_what_tcp_carried(tmp_path: Path) -> None:
    hub = FakeHub()
    await hub.open()
    async with linked(tmp_path, hub, probe_s=0.05) as (link, _, _):
        await link.publish(Outgoing(topic="t", payload=b"x" * 10_000))
        await hub.until(lambda: len(hub.got) == 1)
        ledger = link._ledger
        hub.peers[-1].transport.close()  # type: ignore[union-attr]
        async with asyncio.timeout(5):
            while not ledger._unsaved:
                await asyncio.sleep(0.01)
        (row,) = await ledger.spent()
        assert row.destination == "mqtt" and 10_000 < row.sent < 10_400 and 0 < row.received < 400


async def test_the_cores_own_messages_pass_a_backlog(tmp_path: Path) -> None:
    held: list[int] = []

    def reason(packet: Publish) -> int | None:
        if packet.topic == "t":
            held.append(packet.packet_id)
            return None
        return 0

    hub = FakeHub(reason=reason)
    await hub.open()
    async with linked(tmp_path, hub) as (link, store, _):
        async with asyncio.TaskGroup() as tasks:
            for n in range(300):
                tasks.create_task(link.publish(Outgoing(topic="t", payload=str(n).encode())))
        await hub.until(lambda: len(held) == 100)
        await link.send("own", b"x")
        async with asyncio.timeout(10):
            while store.waiting:
                for packet_id in held:
                    hub.send(Puback(packet_id))
                held.clear()
                await link.send("own", b"y")
                await asyncio.sleep(0.01)
        sent = [packet.payload for packet in hub.got if packet.topic == "t"]
        assert sent == [str(n).encode() for n in range(300)] and len(hub.connects) == 1
