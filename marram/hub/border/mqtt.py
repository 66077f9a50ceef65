"""The MQTT door: sockets to links. One ordered list of steps for a CONNECT, one for a SUBSCRIBE; a PUBLISH goes straight on.

CONNECT: TLS and its deadline (kit/net), authenticate (certificate), parse, check what it asks, authorise iot:Connect and the
will, attach (takes over), CONNACK. What is denied: 3.1.1 CONNACK 5, or the connection closed; MQTT 5 a reason code.
No task and no timer a connection: one wheel looks at each once in its keep-alive. Not here: what a message does (hub/broker).
"""

import asyncio
from collections.abc import Mapping
from typing import Final

from marram.core import arn
from marram.core import topic as topics
from marram.core.errors import Denied, Invalid, LimitExceeded, Unauthenticated
from marram.core.mqtt import packets, v5, v311
from marram.core.mqtt.connection import MAX_PACKET, TOPIC_ALIASES, ServerConnection
from marram.core.mqtt.packets import (
    V5,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Properties,
    ProtocolError,
    Subscribe,
    Unsubscribe,
)
from marram.hub.broker import codes, presence
from marram.hub.broker.service import MAX_FILTERS, Broker
from marram.hub.broker.session import MAX_PAYLOAD, MAX_PENDING_BYTES, Link
from marram.hub.identity.service import Identity, Subject
from marram.kit import metrics
from marram.kit.clock import Clock, Entropy, uuid4
from marram.kit.log import Sparing, logger
from marram.kit.net import Deadlines, PeerInfo

log = logger(__name__)
strangers = Sparing(log)

CONNECT_S: Final = 10.0
LINGER_S: Final = 5.0  # for a peer to read what was written before the end
TICK_S: Final = 0.5
WATCH_MS: Final = 30_000
MIN_KEEP_ALIVE_S: Final = 30
MAX_KEEP_ALIVE_S: Final = 1200
MAX_CLIENT_ID: Final = 128

_accepted: Final = metrics.counter("marram_mqtt_connects_total", "CONNECTs by outcome", ("outcome",))
_hits: Final = metrics.counter("marram_limit_hits_total", "What was over a limit, by limit", ("limit",))
_ended: Final = metrics.counter("marram_mqtt_disconnects_total", "Connections ended, by reason", ("reason",))

_RETURN_CODES: Final[Mapping[int, int]] = {
    packets.UNSUPPORTED_VERSION: packets.V311_BAD_VERSION,
    packets.CLIENT_ID_NOT_VALID: packets.V311_ID_REJECTED,
    packets.BAD_CREDENTIALS: packets.V311_BAD_CREDENTIALS,
    packets.NOT_AUTHORIZED: packets.V311_NOT_AUTHORIZED,
    packets.SERVER_UNAVAILABLE: packets.V311_UNAVAILABLE,
    packets.QUOTA_EXCEEDED: packets.V311_UNAVAILABLE,
}


class Refused(Exception):
    """A CONNECT that is answered with a code."""

    def __init__(self, reason: int, why: str) -> None:
        super().__init__(why)
        self.reason = reason


class MqttDoor:
    """Makes a protocol for each connection; `run` is its wheel. `close` ends all connections."""

    def __init__(
        self,
        *,
        broker: Broker,
        identity: Identity,
        clock: Clock,
        entropy: Entropy,
        host: str = "localhost",
        connect_s: float = CONNECT_S,
        connections: int = 0,
        connections_per_address: int = 0,
        anonymous: Subject | None = None,
    ) -> None:
        """connections: in all, and of one address; 0: any number.
        `anonymous`: who peers without a certificate are; for benchmarks and tests of the codec, never in a hub."""
        self.broker, self.identity, self.clock, self.entropy, self.host = broker, identity, clock, entropy, host
        self.anonymous = anonymous
        self.tick = broker.tick
        self.now_ms = clock.mono_ns() // 1_000_000
        self.connections: set[Connection] = set()
        self._most, self._most_of_address = connections, connections_per_address
        self._by_address: dict[str, int] = {}
        self._waiting = Deadlines(connect_s, self._too_slow)
        self._leaving = Deadlines(LINGER_S, self._cut)
        self._wheel: dict[int, list[Connection]] = {}  # by the tick in which a connection is to be looked at
        self._tick = self._tick_of(self.now_ms)
        self._idle = asyncio.Event()

    def connection(self, peer: PeerInfo, subject: Subject | None = None, life_ms: int | None = None) -> "Connection":
        """The protocol of one accepted connection: what `kit.net.serve` asks for.

        `subject`: proven already, by the request that opened a WebSocket; else the client certificate says who it is.
        `life_ms`: how long it may live; then WEBSOCKET_TTL_EXPIRATION.
        """
        return Connection(self, peer, subject, life_ms)

    async def run(self) -> None:
        """The wheel. Returns when cancelled."""
        while True:
            await asyncio.sleep(TICK_S)
            self.turn()

    def turn(self) -> None:
        """Look at the connections that are due."""
        self.now_ms = self.clock.mono_ns() // 1_000_000
        tick = self._tick_of(self.now_ms)
        while self._tick < tick:
            self._tick += 1
            for connection in self._wheel.pop(self._tick, ()):
                connection.look()

    def watch(self, connection: "Connection", due_ms: int) -> None:
        # Not further ahead than this: the wheel would hold on to connections that are long gone.
        due_ms = min(due_ms, self.now_ms + WATCH_MS)
        self._wheel.setdefault(max(self._tick_of(due_ms), self._tick) + 1, []).append(connection)

    def opened(self, connection: "Connection", address: str) -> bool:
        """False: there are too many, and it is not taken in."""
        count = self._by_address.get(address, 0)
        limit = ""
        if self._most and len(self.connections) >= self._most:
            limit = "mqtt_connections"
        elif self._most_of_address and count >= self._most_of_address:
            limit = "mqtt_connections_per_address"
        if limit:
            _hits.inc(limit=limit)
            return False
        self.connections.add(connection)
        self._by_address[address] = count + 1
        self._waiting.add(connection)
        return True

    def connected(self, connection: "Connection") -> None:
        self._waiting.drop(connection)

    def leaving(self, connection: "Connection") -> None:
        self._waiting.drop(connection)
        self._leaving.add(connection)

    def closed(self, connection: "Connection", address: str) -> None:
        self._waiting.drop(connection)
        self._leaving.drop(connection)
        if connection in self.connections:
            self.connections.discard(connection)
            left = self._by_address.get(address, 1) - 1
            if left:
                self._by_address[address] = left
            else:
                self._by_address.pop(address, None)
        if not self.connections:
            self._idle.set()

    async def close(self) -> None:
        """DISCONNECT 0x8B to everybody, and wait until they are gone."""
        self._waiting.close()
        for connection in list(self.connections):
            connection.end(packets.SERVER_SHUTTING_DOWN, "the hub is stopping", presence.SERVER)
        while self.connections:
            self._idle.clear()
            await self._idle.wait()
        self._leaving.close()

    def _too_slow(self, connection: "Connection") -> None:
        _hits.inc(limit="mqtt_connect_s")
        connection.end(packets.KEEP_ALIVE_TIMEOUT, "no CONNECT in time", presence.CLIENT_ERROR)

    def _cut(self, connection: "Connection") -> None:
        connection.cut()

    @staticmethod
    def _tick_of(ms: int) -> int:
        return ms // int(TICK_S * 1000)


class Connection(asyncio.Protocol):
    """One socket."""

    __slots__ = (
        "_address", "_door", "_ends_ms", "_is_lost", "_is_slowed", "_link", "_mqtt", "_peer", "_proven", "_reading", "_transport",
        "_was_attached",
    )  # fmt: skip

    def __init__(self, door: MqttDoor, peer: PeerInfo, subject: Subject | None, life_ms: int | None) -> None:
        self._door = door
        self._peer = peer
        self._proven = subject
        self._ends_ms = None if life_ms is None else door.clock.mono_ns() // 1_000_000 + life_ms
        self._mqtt = ServerConnection(checks_format=False)  # AWS has no code for it: it is the receiver's to check
        self._transport: asyncio.Transport | None = None
        self._link: Link | None = None
        self._address = peer.address[0]
        self._is_lost = False
        self._is_slowed = False
        self._reading = True
        self._was_attached = False

    # from the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(MAX_PENDING_BYTES, MAX_PENDING_BYTES // 4)
        door = self._door
        try:
            subject = self._subject(self._peer)
        except Unauthenticated as exc:
            _accepted.inc(outcome="unauthenticated")
            strangers.info("mqtt.unauthenticated", address=self._address, reason=exc.message)
            transport.close()
            self._is_lost = True
            return
        self._link = Link(door.broker.core, self, transport, door.tick.dirty, subject)
        self._link.context = {"aws:SourceIp": self._address, "iot:DomainName": door.host}
        self._link.port = self._peer.address[1]
        if not door.opened(self, self._address):
            _accepted.inc(outcome="too many")
            self._link = None
            self._is_lost = True
            transport.abort()

    def data_received(self, data: bytes) -> None:
        link = self._link
        if link is None:
            return
        door = self._door
        try:
            self._mqtt.receive(data, door.now_ms, link)
        except ProtocolError as exc:
            self._broken(exc)
        except Exception as exc:  # a border: a fault of ours ends one connection, not the door
            log.error("mqtt.failed", exc_info=exc, client=link.client_id, address=self._address)
            self.end(packets.UNSPECIFIED_ERROR, "internal error", presence.SERVER_ERROR)
        if door.tick.dirty:
            door.tick.touch()
        if link.rates is not None and link.rates.bytes_in is not None:
            self._slow_down(link.rates.bytes_in.owe(len(data)))
        broker = door.broker
        if broker.is_overloaded and not link.is_closed:
            broker.pause(link)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True
        self._finish(presence.LOST, will=True)
        self._door.closed(self, self._address)

    def pause_writing(self) -> None:
        if self._link is not None:
            self._link.congested = True

    def resume_writing(self) -> None:
        link = self._link
        if link is not None:
            link.congested = False
            if not link.is_closed:
                self._door.broker.writable(link)

    # the owner of the link

    def packet(self, packet: Packet) -> None:
        link = self._link
        assert link is not None
        if isinstance(packet, Pingreq):
            link.send(b"\xd0\x00")
        elif isinstance(packet, Connect):
            self._connect(link, packet)
        elif isinstance(packet, Subscribe):
            self._subscribe(link, packet)
        elif isinstance(packet, Unsubscribe):
            if len(packet.filters) > MAX_FILTERS:
                raise ProtocolError(f"over {MAX_FILTERS} filters in one UNSUBSCRIBE", packets.QUOTA_EXCEEDED)
            self._door.broker.unsubscribe(link, packet)
        elif isinstance(packet, Disconnect):
            self._goodbye(link, packet)

    def end(self, reason: int, why: str, event: str) -> None:
        link = self._link
        if link is None or link.is_closed:
            return
        log.info("mqtt.disconnected", client=link.client_id, address=self._address, reason=why, code=event)
        if self._was_attached and link.version == V5:
            code = codes.disconnect(reason)
            frame = v5.encode(Disconnect(code, _reason_string(why)))
            fits = not link.max_packet or len(frame) <= link.max_packet
            link.pending.append(frame if fits else v5.encode(Disconnect(code)))
        link.flush()
        self._finish(event, will=True)
        self._close()

    def cut(self) -> None:
        """Without a word: it does not read."""
        if self._transport is not None:
            self._transport.abort()

    def pause(self) -> None:
        if self._reading and self._transport is not None:
            self._reading = False
            self._transport.pause_reading()

    def resume(self) -> None:
        if not self._reading and not self._is_slowed and self._transport is not None:
            self._reading = True
            self._transport.resume_reading()

    def _slow_down(self, wait_s: float) -> None:
        """It sent more bytes a second than it may: the next are read when their time has come."""
        if wait_s > 0 and not self._is_slowed:
            self._is_slowed = True
            self.pause()
            asyncio.get_running_loop().call_later(wait_s, self._read_on)

    def _read_on(self) -> None:
        self._is_slowed = False
        link = self._link
        if link is not None and not link.is_closed:
            self.resume()

    def look(self) -> None:
        """Has the client been silent for one and a half times its keep-alive?"""
        link = self._link
        if link is None or link.is_closed or not self._was_attached:
            return
        now_ms, due_ms = self._door.now_ms, self._mqtt.last_ms + link.keep_alive_ms * 3 // 2
        if now_ms > due_ms and self._reading:
            self.end(packets.KEEP_ALIVE_TIMEOUT, "silent for 1.5 times the keep-alive", presence.KEEP_ALIVE)
        elif self._ends_ms is not None and now_ms >= self._ends_ms:
            _hits.inc(limit="websocket_s")
            self.end(packets.ADMINISTRATIVE_ACTION, "the WebSocket's time is over", presence.WEBSOCKET_TTL)
        else:
            self._watch(max(due_ms, now_ms))

    def _watch(self, due_ms: int) -> None:
        self._door.watch(self, due_ms if self._ends_ms is None else min(due_ms, self._ends_ms))

    # from a WebSocket

    def left(self) -> None:
        """A close frame ends it as DISCONNECT does (AWS, lifecycle events): the client's own wish, without a will."""
        if self._link is not None:
            self._link.flush()
        self._finish(presence.CLIENT, will=False)
        self._close()

    def not_understood(self, why: str) -> None:
        self.end(packets.MALFORMED_PACKET, why, presence.CLIENT_ERROR)

    # CONNECT

    def _subject(self, peer: PeerInfo) -> Subject:
        """Step 1, authenticate: whose certificate is it, and is it active?"""
        if self._proven is not None:
            return self._proven
        if peer.certificate_der is None:
            if self._door.anonymous is not None:
                return self._door.anonymous
            raise Unauthenticated("no client certificate")
        return self._door.identity.certificate_subject(peer.certificate_der)

    def _connect(self, link: Link, packet: Connect) -> None:
        link.version = packet.version
        client_id = packet.client_id
        try:
            client_id = self._check(packet)
            self._authorise(link, packet, client_id)
            self._attach(link, packet, client_id)
        except Refused as exc:
            _accepted.inc(outcome="refused")
            strangers.info("mqtt.connect_refused", client=client_id[:128], address=self._address, reason=str(exc))
            if exc.reason == packets.NOT_AUTHORIZED:
                self._door.broker.connect_failed(link.subject, client_id, self._address)
            if packet.version == V5:
                link.send(v5.encode(Connack(codes.connack(exc.reason), False, _reason_string(str(exc)))))
            else:
                link.send(v311.encode(Connack(_RETURN_CODES.get(exc.reason, packets.V311_UNAVAILABLE))))
            link.flush()
            self._finish(presence.AUTH_ERROR, will=False)
            self._close()

    def _check(self, packet: Connect) -> str:
        """Step 2: what it asks is something we do. Returns the client id, made where it is empty."""
        client_id = packet.client_id
        if len(client_id.encode()) > MAX_CLIENT_ID:
            raise Refused(packets.CLIENT_ID_NOT_VALID, f"the client id is over {MAX_CLIENT_ID} bytes")
        if client_id.startswith("$"):
            raise Refused(packets.CLIENT_ID_NOT_VALID, "client ids that begin with $ are reserved")
        if not client_id:
            if packet.version != V5 and not packet.clean:
                raise Refused(packets.CLIENT_ID_NOT_VALID, "a persistent session wants a client id")
            client_id = uuid4(self._door.entropy)
        if "authentication_method" in packet.properties:
            raise Refused(packets.BAD_AUTHENTICATION_METHOD, "enhanced authentication is not supported")
        if packet.will is not None:
            if packet.will.qos == 2:
                raise Refused(packets.QOS_NOT_SUPPORTED, "a will with QoS 2")
            if len(packet.will.payload) > MAX_PAYLOAD:
                raise Refused(packets.QUOTA_EXCEEDED, "the will's payload is too large")
            try:
                topics.check_name(packet.will.topic)
            except Invalid as exc:
                raise Refused(packets.TOPIC_NAME_INVALID, exc.message) from exc
        return client_id

    def _authorise(self, link: Link, packet: Connect, client_id: str) -> None:
        """Step 3: iot:Connect, and for a will iot:Publish and iot:RetainPublish."""
        door, will = self._door, packet.will
        try:
            subject = link.subject if link.subject is door.anonymous else door.identity.refresh(link.subject)
            subject = door.identity.with_client(subject, client_id)
        except Denied as exc:
            raise Refused(packets.NOT_AUTHORIZED, exc.message) from exc
        context: dict[str, str | tuple[str, ...]] = dict(link.context)
        attributes = [
            name
            for name, asked in (("PersistentConnect", self._expiry_s(packet) > 0), ("LastWill", will is not None))
            if asked
        ]
        if attributes:
            context["iot:ConnectAttributes"] = tuple(attributes)
            link.connect_context = context
        if will is not None:
            context["iot:LastWillTopic"] = arn.build(
                "iot", door.identity.region, door.identity.account, f"topic/{will.topic}"
            )
        if not door.broker.may_connect(subject, client_id, context):
            raise Refused(packets.NOT_AUTHORIZED, "iot:Connect is not allowed")
        if will is not None and not door.broker.may_publish(
            subject, will.topic, retain=will.retain, context=link.context
        ):
            raise Refused(packets.NOT_AUTHORIZED, "the will's topic is not allowed")
        link.subject = subject

    def _attach(self, link: Link, packet: Connect, client_id: str) -> None:
        """Step 4: the session, and CONNACK."""
        asked = packet.properties
        link.client_id = client_id
        link.will = packet.will
        link.max_packet = _number(asked, "maximum_packet_size", 0)
        link.explains = _number(asked, "request_problem_information", 1) != 0
        link.receive_maximum = _number(asked, "receive_maximum", 65535)
        link.alias_maximum = min(_number(asked, "topic_alias_maximum", 0), TOPIC_ALIASES)
        keep_alive_s = min(max(packet.keep_alive_s or MAX_KEEP_ALIVE_S, MIN_KEEP_ALIVE_S), MAX_KEEP_ALIVE_S)
        link.keep_alive_ms = keep_alive_s * 1000
        expiry_s = self._expiry_s(packet)
        # CONNACK goes before anything that the session has waiting: `attach` only puts it in line.
        at = len(link.pending)
        try:
            present = self._door.broker.attach(link, clean=packet.clean, expiry_s=expiry_s, address=self._address)
        except LimitExceeded as exc:
            is_rate = exc.data.get("kind") == "rate"
            raise Refused(packets.CONNECTION_RATE_EXCEEDED if is_rate else packets.QUOTA_EXCEEDED, exc.message) from exc
        if packet.version == V5:
            given: Properties = {
                "session_expiry_s": expiry_s,
                "receive_maximum": self._door.broker.settings.in_flight,
                "maximum_qos": 1,
                "retain_available": 1,
                "maximum_packet_size": MAX_PACKET,
                "topic_alias_maximum": TOPIC_ALIASES,
                "wildcard_available": 1,
                "subscription_identifiers_available": 0,
                "shared_available": 1,
                "server_keep_alive_s": keep_alive_s,
            }
            if client_id != packet.client_id:
                given["assigned_client_id"] = client_id
            answer = v5.encode(Connack(0, present, given))
        else:
            answer = v311.encode(Connack(0, present))
        if not link.pending:
            self._door.tick.dirty.append(link)
        link.pending.insert(at, answer)
        self._was_attached = True
        _accepted.inc(outcome="accepted")
        self._door.connected(self)
        self._watch(self._door.now_ms + link.keep_alive_ms * 3 // 2)

    def _expiry_s(self, packet: Connect) -> int:
        return self._door.broker.expiry_s(
            packet.version, packet.clean, _number(packet.properties, "session_expiry_s", 0)
        )

    # SUBSCRIBE, DISCONNECT

    def _subscribe(self, link: Link, packet: Subscribe) -> None:
        if len(packet.wishes) > MAX_FILTERS:
            raise ProtocolError(f"over {MAX_FILTERS} filters in one SUBSCRIBE", packets.QUOTA_EXCEEDED)
        if "subscription_identifiers" in packet.properties:
            raise ProtocolError("subscription identifiers are not supported", packets.SUBSCRIPTION_IDS_NOT_SUPPORTED)
        for wish in packet.wishes:
            if wish.qos == 2:
                raise ProtocolError("QoS 2 is not supported", packets.QOS_NOT_SUPPORTED)
        self._door.broker.subscribe(link, packet)

    def _goodbye(self, link: Link, packet: Disconnect) -> None:
        expiry = packet.properties.get("session_expiry_s")
        session = link.session
        if isinstance(expiry, int) and expiry and session is not None and not session.is_durable:
            raise ProtocolError("a session expiry where CONNECT had none", packets.PROTOCOL_ERROR)
        link.flush()
        will = packet.reason == packets.DISCONNECT_WITH_WILL
        self._finish(presence.CLIENT, will=will, expiry_s=expiry if isinstance(expiry, int) else None)
        self._close()

    # the end

    def _broken(self, error: ProtocolError) -> None:
        link = self._link
        assert link is not None
        if not self._was_attached:
            _accepted.inc(outcome="malformed")
            strangers.info("mqtt.not_accepted", address=self._address, reason=error.message)
            if error.reason == packets.UNSUPPORTED_VERSION:
                link.send(v311.encode(Connack(packets.V311_BAD_VERSION)))
                link.flush()
            self._finish(presence.CLIENT_ERROR, will=False)
            self._close()
            return
        self.end(error.reason, error.message, presence.CLIENT_ERROR)

    def _finish(self, event: str, *, will: bool, expiry_s: int | None = None) -> None:
        link = self._link
        if link is None or link.is_closed:
            return
        link.is_closed = True
        self._mqtt.stop()
        if self._was_attached:
            _ended.inc(reason=event)
            self._door.broker.detach(link, event, will=will, expiry_s=expiry_s)
        link.routes.clear()

    def _close(self) -> None:
        if self._transport is not None and not self._is_lost:
            self.resume()
            self._door.leaving(self)
            self._transport.close()


def _number(properties: Properties, name: str, otherwise: int) -> int:
    value = properties.get(name)
    return value if isinstance(value, int) else otherwise


def _reason_string(why: str) -> Properties:
    return {"reason_string": why[:200]}
