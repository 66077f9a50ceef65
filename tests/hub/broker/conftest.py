"""A broker with its door on real stores and a real identity; clients are core.mqtt's own, joined by memory, not sockets."""

import asyncio
import errno
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from marram.core.mqtt import packets
from marram.core.mqtt.connection import ClientConnection
from marram.core.mqtt.packets import Connack, Connect, Packet, Publish, Suback, Unsuback, Wish
from marram.hub.border.mqtt import MqttDoor
from marram.hub.broker.service import Broker, Settings
from marram.hub.bus import Bus
from marram.hub.identity.pki import Pki
from marram.hub.identity.service import Identity
from marram.kit.clock import FakeClock, SeededEntropy
from marram.kit.db import Db, Migrations
from marram.kit.net import PeerInfo
from marram.kit.seglog import Journal

ARN = "arn:aws:iot:local-1:000000000001:"
LIMIT_S = 5.0


class Socket(asyncio.Transport):
    """Both ends of a connection in memory; `full` makes it one that nobody reads."""

    def __init__(self, peer: PeerInfo, got: Callable[[bytes], None], lost: Callable[[], None]) -> None:
        super().__init__()
        self.peer, self.got, self.lost = peer, got, lost
        self.protocol: asyncio.Protocol | None = None
        self.closing = False
        self.reading = True
        self.writes = 0
        self.full = False
        self.held = bytearray()
        self.high = 1 << 20

    def get_extra_info(self, name: str, default: object = None) -> object:
        return self.peer if name == "peer" else default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.high = high or self.high

    def get_write_buffer_size(self) -> int:
        return len(self.held)

    def write(self, data: bytes) -> None:
        if self.closing:
            return
        self.writes += 1
        if self.full:
            self.held += data
            if len(self.held) > self.high:
                self.protocol.pause_writing()
        else:
            asyncio.get_running_loop().call_soon(self.got, data)

    def drain(self) -> None:
        self.full = False
        held, self.held = bytes(self.held), bytearray()
        asyncio.get_running_loop().call_soon(self.got, held)
        self.protocol.resume_writing()

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            asyncio.get_running_loop().call_soon(self._lose)

    abort = close

    def _lose(self) -> None:
        self.protocol.connection_lost(None)
        self.lost()

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


@dataclass
class Client:
    world: "World"
    connect: Connect
    der: bytes | None
    auto_ack: bool = True
    got: list[Packet] = field(default_factory=list)
    closed: bool = False
    silent: bool = False

    def __post_init__(self) -> None:
        self.machine = ClientConnection(self.connect)
        self._changed = asyncio.Event()
        peer = PeerInfo(address=("127.0.0.1", 1), tls=True, certificate_der=self.der)
        self.socket = Socket(peer, self._data, self._lost)
        self.socket.protocol = self.world.door.connection(peer)
        self.socket.protocol.connection_made(self.socket)
        if not self.socket.closing and not self.silent:
            self.raw(self.machine.start(0))

    def raw(self, data: bytes) -> None:
        self.socket.protocol.data_received(data)

    def _data(self, data: bytes) -> None:
        for packet in self.machine.receive(data, 0):
            self.got.append(packet)
            if isinstance(packet, Publish) and packet.qos and self.auto_ack:
                self.raw(self.machine.ack(packet.packet_id, 0))
        self._changed.set()

    def _lost(self) -> None:
        self.closed = True
        self._changed.set()

    async def until(self, test: Callable[[], object]) -> None:
        async with asyncio.timeout(LIMIT_S):
            while not test():
                self._changed.clear()
                await self._changed.wait()

    async def next(self, kind: type) -> Packet:
        """The oldest packet of this kind that was not asked for before."""
        await self.until(lambda: any(isinstance(packet, kind) for packet in self.got))
        found = next(packet for packet in self.got if isinstance(packet, kind))
        self.got.remove(found)
        return found

    async def end(self) -> None:
        await self.until(lambda: self.closed)

    async def subscribe(self, *filters: str, qos: int = 1, **options: object) -> list[int]:
        _, data = self.machine.subscribe([Wish(text, qos, **options) for text in filters], 0)
        self.raw(data)
        return (await self.next(Suback)).reasons

    async def unsubscribe(self, *filters: str) -> list[int]:
        _, data = self.machine.unsubscribe(list(filters), 0)
        self.raw(data)
        return (await self.next(Unsuback)).reasons

    def publish(self, topic: str, payload: bytes | str = b"x", qos: int = 0, retain: bool = False, **properties) -> int:
        body = payload.encode() if isinstance(payload, str) else payload
        packet = Publish(topic, body, qos, retain, properties=properties)
        self.raw(self.machine.publish(packet, 0))
        return packet.packet_id

    async def acked(self, topic: str, payload: bytes | str = b"x", retain: bool = False, **properties) -> int:
        """Publish with QoS 1 and wait: the reason."""
        self.publish(topic, payload, 1, retain, **properties)
        return (await self.next(packets.Puback)).reason

    async def message(self) -> Publish:
        return await self.next(Publish)

    async def disconnect(self) -> None:
        self.raw(self.machine.disconnect())
        await self.end()


class Breakable(Journal):
    is_broken = False

    def _sync(self, handle: int) -> None:
        if self.is_broken:
            raise OSError(errno.EIO, "the disk failed")
        super()._sync(handle)


class World:
    def __init__(self, folder: Path, settings: Settings | None = None) -> None:
        self.folder, self.settings = folder, settings
        self.budget: int | None = None
        self.clock, self.entropy = FakeClock(), SeededEntropy(7)

    async def open(self) -> None:
        self.bus = Bus()
        migrations = [Migrations(slice=name, package=f"marram.hub.{name}") for name in ("identity", "broker")]
        self.db = Db.open(self.folder / "hub.db", clock=self.clock, entropy=self.entropy, migrations=migrations)
        self.journal = self.open_journal()
        self.pki = Pki.open(self.folder / "pki", clock=self.clock, entropy=self.entropy)
        self.identity = Identity(
            self.db, self.pki, self.bus, clock=self.clock, entropy=self.entropy, account="000000000001",
            region="local-1",
        )  # fmt: skip
        self.broker = Broker(
            journal=self.journal, db=self.db, identity=self.identity, clock=self.clock, entropy=self.entropy,
            bus=self.bus, settings=self.settings,
        )  # fmt: skip
        self.door = MqttDoor(broker=self.broker, identity=self.identity, clock=self.clock, entropy=self.entropy)
        await self.broker.start()
        self.running = asyncio.get_running_loop().create_task(self.broker.run())

    def open_journal(self) -> Journal:
        return Breakable.open(self.folder / "log", clock=self.clock, entropy=self.entropy, budget_bytes=self.budget)

    async def close(self, *, checkpoint: bool = True) -> None:
        """Without a checkpoint it is as after a crash whose last sync went well."""
        await self.door.close()
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)
        if checkpoint:
            await self.broker.stop()
        self.broker.tick.flush()
        self.journal.close()
        self.db.close()

    async def reopen(self, *, checkpoint: bool = True) -> None:
        await self.close(checkpoint=checkpoint)
        await self.open()

    async def device(self, *statements: dict[str, object]) -> bytes:
        """The DER of a new certificate that may do this; everything when nothing is said."""
        rows = statements or ({"Action": "iot:*", "Resource": "*"},)
        document = json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", **row} for row in rows]})
        issued = await self.identity.create_certificate(active=True)
        await self.identity.create_policy(f"p-{issued.id[:12]}", document)
        await self.identity.attach_policy(f"p-{issued.id[:12]}", f"{ARN}cert/{issued.id}")
        return issued.der

    async def client(self, client_id: str, der: bytes | None = None, **options: object) -> Client:
        client = await self.unaccepted(client_id, der, **options)
        answer = await client.next(Connack)
        assert answer.reason == 0, answer
        client.connack = answer
        return client

    async def unaccepted(self, client_id: str, der: bytes | None = None, *, auto_ack: bool = True, **options) -> Client:
        if der is None:
            if not hasattr(self, "everybody"):
                self.everybody = await self.device()
            der = self.everybody
        return Client(self, Connect(client_id, **options), der, auto_ack)

    async def silent(self) -> Client:
        return Client(self, Connect(""), await self.device(), silent=True)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    await made.open()
    yield made
    await made.close()
