"""The local broker: MQTT 3.1.1 and 5 for client devices, on the local MQTT space of the core.

QoS 0 and 1, retained messages (kept in state.db), wills, sessions that outlive a connection but not the core. A publish with QoS 1
is acknowledged when what it has to leave behind is on the disk: a retained message, a local shadow, a message bridged to the hub.
Acknowledgements keep the order of the publishes. A refused publish gets PUBACK 0x87 (MQTT 5) or ends the connection (3.1.1), as at
the hub. Not here: shared subscriptions, subscription identifiers, QoS 2, passwords; each is refused by its reason code.
"""

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, Protocol

from marram.core import topic as topics
from marram.core.errors import Invalid, LimitExceeded, MarramError, Unauthenticated, Unavailable
from marram.core.mqtt import packets, v5, v311
from marram.core.mqtt.connection import ServerConnection, receive_all
from marram.core.mqtt.packets import (
    V5,
    Connack,
    Connect,
    Disconnect,
    Pingreq,
    Pingresp,
    Properties,
    Puback,
    Publish,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
    Will,
    Wish,
)
from marram.edge.broker import store
from marram.edge.broker.bridge import Bridge
from marram.edge.broker.devices import Devices
from marram.edge.broker.policy import CONNECT, PUBLISH, SUBSCRIBE, Policy
from marram.edge.pubsub.hub import Hub, Message, Subscription
from marram.kit import metrics, net
from marram.kit.clock import Entropy
from marram.kit.db import Db
from marram.kit.log import logger

log = logger(__name__)

MAX_PACKET: Final = 149_504
MAX_CONNECTIONS: Final = 500
MAX_FILTERS: Final = 50
MAX_VERDICTS: Final = 1000
WINDOW: Final = 100
QUEUE: Final = 1000
QOS0_BYTES: Final = 1 << 20
SESSION_S: Final = 3600  # of a 3.1.1 client that asked for one, as AWS
MAX_SESSION_S: Final = 86_400
CONNECT_S: Final = 10.0
SWEEP_S: Final = 5.0
CARRIED: Final = frozenset(
    {"payload_format", "message_expiry_s", "content_type", "response_topic", "correlation_data", "user_properties"}
)

CONNECTIONS: Final = metrics.gauge("marram_local_mqtt_connections", "connections of client devices")
MESSAGES: Final = metrics.counter("marram_local_mqtt_messages_total", "local MQTT messages", ("direction",))
DROPPED: Final = metrics.counter("marram_local_mqtt_dropped_total", "messages dropped for slow or absent devices")
REFUSED: Final = metrics.counter("marram_local_mqtt_refused_total", "what devices were refused", ("what",))


class Shadows(Protocol):
    async def handle(self, message: Message, answer: Callable[[Message], None]) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """`port` 0: a free one, the same at the next start where it is free again."""

    host: str = "127.0.0.1"
    port: int = 8883


@dataclass(slots=True, eq=False)
class Queued:
    topic: str
    payload: bytes
    retain: bool
    properties: Properties
    expires_at: float | None


@dataclass(slots=True, eq=False)
class Session:
    """What a client id has here, connected or not. `waiting` beyond its bound drops the newest, counted."""

    client_id: str
    thing: str
    expiry_s: float
    subscriptions: dict[str, tuple[Subscription, Wish]] = field(default_factory=dict[str, tuple[Subscription, Wish]])
    waiting: deque[Queued] = field(default_factory=deque[Queued])
    flight: dict[int, Queued] = field(default_factory=dict[int, Queued])
    packet_id: int = 0
    client: "Client | None" = None
    ends: asyncio.TimerHandle | None = None

    def end(self) -> None:
        for subscription, _ in self.subscriptions.values():
            subscription.cancel()
        self.subscriptions.clear()
        self.waiting.clear()
        self.flight.clear()
        if self.ends is not None:
            self.ends.cancel()


class LocalBroker:
    """`run` until cancelled; `ready` is set and `port` known when devices may connect. `configure` at any time."""

    def __init__(
        self,
        settings: Settings,
        db: Db,
        hub: Hub,
        devices: Devices,
        *,
        bridge: Bridge | None = None,
        shadows: Shadows | None = None,
        tls: Callable[[], ssl.SSLContext] | None,
        entropy: Entropy,
    ) -> None:
        self.settings = settings
        self.hub = hub
        self.devices = devices
        self.bridge = bridge
        self.port = 0
        self.ready = asyncio.Event()
        self.policy = Policy()
        self.entropy = entropy
        self.sessions: dict[str, Session] = {}
        self.clients: set[Client] = set()
        self.retained: dict[str, tuple[bytes, int]] = db.read_now(store.retained)
        self._db = db
        self._shadows = shadows
        self._tls = tls
        self._tasks: asyncio.TaskGroup | None = None

    def configure(self, policy: Policy) -> None:
        """Take new policies or devices: live connections that may no longer be here are closed, filters dropped."""
        self.policy = policy
        for client in list(self.clients):
            client.recheck()

    async def run(self) -> None:
        if self._tls is not None:
            await asyncio.to_thread(self._tls)  # before there is a port: a certificate that is missing is said once
        executor = ThreadPoolExecutor(2, "local-tls") if self._tls is not None else None
        server = await self._listen(executor)
        self.port = server.port
        try:
            async with asyncio.TaskGroup() as self._tasks:
                log.info("local_mqtt.ready", host=self.settings.host, port=self.port)
                self.ready.set()
                while True:
                    await asyncio.sleep(SWEEP_S)
                    now = asyncio.get_running_loop().time()
                    for client in list(self.clients):
                        client.check_alive(now)
        finally:
            self.ready.clear()
            server.close()
            for client in list(self.clients):
                client.close(packets.SERVER_SHUTTING_DOWN)
            for session in list(self.sessions.values()):
                session.end()
            self.sessions.clear()
            if executor is not None:
                executor.shutdown(wait=False, cancel_futures=True)

    async def _listen(self, executor: ThreadPoolExecutor | None) -> net.Server:
        settings = self.settings

        async def listen(port: int) -> net.Server:
            return await net.serve(
                settings.host, port, lambda peer: Client(self, peer), tls=self._tls, handshakes=executor
            )

        if settings.port:
            return await listen(settings.port)
        before = self._db.read_now(store.port)
        try:
            server = await listen(before)
        except Unavailable:
            server = await listen(0)  # somebody has taken the port of the last start
        if server.port != before:
            await self._db.write(lambda tx: store.save_port(tx, server.port))
        return server

    # for the clients

    def _answer(self, message: Message) -> None:
        self.hub.publish(message)

    def publish(self, message: Message) -> list[Awaitable[None]]:
        """Deliver at once; returns what must be done before the acknowledgement."""
        MESSAGES.inc(direction="in")
        first: list[Awaitable[None]] = []
        if message.retain:
            first.append(self._keep(message))
        if self._shadows is not None and message.topic.startswith("$aws/things/"):
            first.append(self._shadows.handle(message, self._answer))
        if self.bridge is not None:
            first += self.bridge.to_iot_core(message)
        self.hub.publish(message)
        return first

    def start(self, work: Awaitable[None], name: str) -> None:
        assert self._tasks is not None
        self._tasks.create_task(work, name=name)  # type: ignore[arg-type]  # our coroutines only

    async def _keep(self, message: Message) -> None:
        topic, payload, qos = message.topic, message.payload, message.qos
        await self._db.write(lambda tx: store.save_retained(tx, topic, payload, qos))
        if payload:
            self.retained[topic] = (payload, qos)
        else:
            self.retained.pop(topic, None)

    def session_of(self, client: "Client", connect: Connect, client_id: str, expiry_s: float) -> tuple[Session, bool]:
        """The session to go on with, and whether it was there. A client of the same id is put out."""
        old = self.sessions.get(client_id)
        if old is not None and old.client is not None:
            old.client.close(packets.SESSION_TAKEN_OVER)
            old = self.sessions.get(client_id)  # it may have ended with its connection
        if old is not None and (connect.clean or old.thing != client.thing):
            self.forget(old)
            old = None
        present = old is not None
        session = old or Session(client_id, client.thing, expiry_s)
        session.expiry_s = expiry_s
        session.client = client
        if session.ends is not None:
            session.ends.cancel()
            session.ends = None
        self.sessions[client_id] = session
        return session, present

    def left(self, session: Session, client: "Client") -> None:
        if session.client is not client:
            return
        session.client = None
        # Unacknowledged ones go first when it comes back.
        session.waiting.extendleft(reversed(session.flight.values()))
        session.flight.clear()
        if session.expiry_s <= 0:
            self.forget(session)
        else:
            session.ends = asyncio.get_running_loop().call_later(session.expiry_s, self.forget, session)

    def forget(self, session: Session) -> None:
        session.end()
        if self.sessions.get(session.client_id) is session:
            del self.sessions[session.client_id]


class Client(asyncio.Protocol):
    """One connection of a device."""

    def __init__(self, broker: LocalBroker, peer: net.PeerInfo) -> None:
        self._broker = broker
        self._peer = peer
        self._connection = ServerConnection(MAX_PACKET)
        self._transport: asyncio.Transport | None = None
        self._session: Session | None = None
        self._will: Will | None = None
        self._keep_alive_s = 0
        self._heard = 0.0
        self._window = WINDOW
        self._out: list[bytes] = []
        self._acks: deque[list[int]] = deque()  # [packet id, reason or -1 while it is worked on]
        self._verdicts: dict[tuple[str, str], bool] = {}
        self._deadline: asyncio.TimerHandle | None = None
        self._closed = False
        self.thing = ""

    def __repr__(self) -> str:
        return f"Client({self._session.client_id if self._session else 'unknown'}, thing={self.thing!r})"

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if len(self._broker.clients) >= MAX_CONNECTIONS:
            REFUSED.inc(what="connection")
            transport.abort()
            return
        self._broker.clients.add(self)
        CONNECTIONS.set(len(self._broker.clients))
        self._deadline = asyncio.get_running_loop().call_later(CONNECT_S, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._broker.clients.discard(self)
        CONNECTIONS.set(len(self._broker.clients))
        if self._deadline is not None:
            self._deadline.cancel()
        self._leave()

    def data_received(self, data: bytes) -> None:
        self._heard = asyncio.get_running_loop().time()
        try:
            for packet in receive_all(self._connection, data, int(self._heard * 1000)):
                if self._closed:
                    return
                self._receive(packet)
        except packets.ProtocolError as exc:
            log.info("local_mqtt.protocol_error", client=repr(self), why=exc.message)
            self.close(exc.reason)

    # packets

    def _receive(self, packet: packets.Packet) -> None:
        if isinstance(packet, Publish):
            self._publish(packet)
        elif isinstance(packet, Puback):
            self._acknowledged(packet.packet_id)
        elif isinstance(packet, Subscribe):
            self._subscribe(packet)
        elif isinstance(packet, Unsubscribe):
            self._unsubscribe(packet)
        elif isinstance(packet, Pingreq):
            self._write(Pingresp())
        elif isinstance(packet, Connect):
            self._connect(packet)
        elif isinstance(packet, Disconnect):
            if packet.reason != packets.DISCONNECT_WITH_WILL:
                self._will = None
            expiry = packet.properties.get("session_expiry_s")
            if isinstance(expiry, int) and self._session is not None:
                self._session.expiry_s = min(expiry, MAX_SESSION_S)
            self._closed = True
            if self._transport is not None:
                self._transport.close()
        else:
            raise packets.ProtocolError("a packet that only servers send", packets.PROTOCOL_ERROR)

    def _connect(self, packet: Connect) -> None:
        if self._session is not None:
            raise packets.ProtocolError("a second CONNECT", packets.PROTOCOL_ERROR)
        self._connection.version = packet.version
        broker = self._broker
        new = packet.version == V5
        properties: Properties = {}
        client_id = packet.client_id
        if not client_id:
            client_id = broker.entropy.bytes(8).hex()
            properties["assigned_client_id"] = client_id
        try:
            self.thing = broker.devices.identify(self._peer.certificate_der)
        except Unauthenticated as exc:
            self._refuse(packets.NOT_AUTHORIZED, packets.V311_NOT_AUTHORIZED, exc.message)
            return
        if not packet.client_id and not new and not packet.clean:
            self._refuse(packets.CLIENT_ID_NOT_VALID, packets.V311_ID_REJECTED, "a session needs a client id")
            return
        if packet.client_id and not self._may(CONNECT, client_id):
            self._refuse(packets.NOT_AUTHORIZED, packets.V311_NOT_AUTHORIZED, f"{self.thing} may not be {client_id}")
            return
        if packet.will is not None:
            if packet.will.qos > 1:
                self._refuse(packets.QOS_NOT_SUPPORTED, packets.V311_UNAVAILABLE, "a will with QoS 2 is not supported")
                return
            if packet.will.properties.get("will_delay_s"):
                self._refuse(packets.IMPLEMENTATION_SPECIFIC, 0, "a delayed will is not supported")
                return
            if not _is_name(packet.will.topic) or not self._may(PUBLISH, packet.will.topic):
                self._refuse(packets.NOT_AUTHORIZED, packets.V311_NOT_AUTHORIZED, "the will's topic is not allowed")
                return
        asked = packet.properties.get("session_expiry_s", 0)
        expiry_s = (
            min(asked if isinstance(asked, int) else 0, MAX_SESSION_S) if new else 0 if packet.clean else SESSION_S
        )
        self._session, present = broker.session_of(self, packet, client_id, expiry_s)
        self._will = packet.will
        self._keep_alive_s = packet.keep_alive_s
        limit = packet.properties.get("receive_maximum")
        self._window = min(limit, WINDOW) if isinstance(limit, int) else WINDOW
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if new:
            properties |= {
                "receive_maximum": WINDOW,
                "maximum_qos": 1,
                "maximum_packet_size": MAX_PACKET,
                "topic_alias_maximum": 8,
                "subscription_identifiers_available": 0,
                "shared_available": 0,
            }
            if expiry_s != asked:
                properties["session_expiry_s"] = int(expiry_s)
        self._write(Connack(0, present, properties if new else {}))
        log.info("local_mqtt.connected", client=client_id, thing=self.thing, resumed=present)
        self._send_waiting()

    def _refuse(self, reason: int, old_reason: int, why: str) -> None:
        REFUSED.inc(what="connect")
        log.warning("local_mqtt.refused", address=self._peer.address[0], why=why)
        if self._connection.version == V5:
            self._write(Connack(reason, False, {"reason_string": why}))
        else:
            self._write(Connack(old_reason))
        self._will = None
        self._closed = True
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def _publish(self, packet: Publish) -> None:
        session = self._need()
        reason = packets.SUCCESS
        if not _is_name(packet.topic):
            reason = packets.TOPIC_NAME_INVALID
        elif not self._may(PUBLISH, packet.topic):
            reason = packets.NOT_AUTHORIZED
        if reason:
            self._refuse_publish(packet, reason)
            return
        message = Message(
            packet.topic,
            packet.payload,
            publisher=f"mqtt:{session.client_id}",
            qos=packet.qos,
            retain=packet.retain,
            properties={key: value for key, value in packet.properties.items() if key in CARRIED},
        )
        first = self._broker.publish(message)
        if not packet.qos:
            for work in first:
                self._broker.start(self._quietly(work), "local-mqtt-work")
        elif not first and not self._acks:
            self._write(Puback(packet.packet_id))
        else:
            if len(self._acks) > 2 * WINDOW:
                raise packets.ProtocolError("too many unacknowledged publishes", packets.RECEIVE_MAXIMUM_EXCEEDED)
            ack = [packet.packet_id, -1 if first else packets.SUCCESS]
            self._acks.append(ack)
            if first:
                self._broker.start(self._before_ack(ack, first), "local-mqtt-work")

    async def _before_ack(self, ack: list[int], first: list[Awaitable[None]]) -> None:
        reason = packets.SUCCESS
        try:
            async with asyncio.TaskGroup() as tasks:
                for work in first:
                    tasks.create_task(work, name="local-mqtt-part")  # type: ignore[arg-type]  # our coroutines only
        except* LimitExceeded:
            reason = packets.QUOTA_EXCEEDED
        except* MarramError as group:
            log.warning("local_mqtt.not_kept", why=str(group.exceptions[0]))
            reason = packets.UNSPECIFIED_ERROR
        ack[1] = reason
        while self._acks and self._acks[0][1] >= 0:
            packet_id, reason = self._acks.popleft()
            if reason and self._connection.version != V5:
                self.close(reason)  # 3.1.1 has no way to say it: it is sent again on the next connection
                return
            self._write(Puback(packet_id, reason))

    @staticmethod
    async def _quietly(work: Awaitable[None]) -> None:
        try:
            await work
        except MarramError as exc:
            log.warning("local_mqtt.not_kept", why=exc.message)

    def _refuse_publish(self, packet: Publish, reason: int) -> None:
        REFUSED.inc(what="publish")
        log.warning("local_mqtt.publish_refused", client=repr(self), topic=packet.topic, reason=reason)
        if packet.qos and self._connection.version == V5:
            self._acks.append([packet.packet_id, reason])
            if len(self._acks) == 1:
                self._acks.clear()
                self._write(Puback(packet.packet_id, reason))
        else:
            self.close(reason)

    def _subscribe(self, packet: Subscribe) -> None:
        session = self._need()
        reasons: list[int] = []
        granted: list[tuple[Wish, bool]] = []
        for wish in packet.wishes:
            reason = self._check_filter(session, wish)
            if not reason:
                reason = wish.qos = min(wish.qos, 1)
                old = session.subscriptions.pop(wish.filter, None)
                if old is not None:
                    old[0].cancel()
                subscription = self._broker.hub.subscribe(
                    wish.filter,
                    lambda message, wish=wish: self._broker_deliver(session, message, wish),  # type: ignore[misc]
                    owner=f"mqtt:{session.client_id}",
                    others_only=wish.no_local,
                )
                session.subscriptions[wish.filter] = (subscription, wish)
                granted.append((wish, old is None))
            else:
                REFUSED.inc(what="subscribe")
            reasons.append(reason)
        if self._connection.version != V5:
            reasons = [packets.SUBACK_FAILURE if reason > 1 else reason for reason in reasons]
        self._write(Suback(packet.packet_id, reasons))
        for wish, new in granted:
            if wish.retain_handling == 0 or (wish.retain_handling == 1 and new):
                for topic, (payload, qos) in self._broker.retained.items():
                    if topics.matches(wish.filter, topic, parent=True):
                        deliver(session, Queued(topic, payload, True, {}, None), min(qos, wish.qos))

    def _check_filter(self, session: Session, wish: Wish) -> int:
        if wish.filter.startswith(topics.SHARE):
            return packets.SHARED_NOT_SUPPORTED
        try:
            topics.check_filter(wish.filter)
        except Invalid:
            return packets.TOPIC_FILTER_INVALID
        if not self._may(SUBSCRIBE, wish.filter):
            log.warning("local_mqtt.subscribe_refused", client=repr(self), filter=wish.filter)
            return packets.NOT_AUTHORIZED
        if len(session.subscriptions) >= MAX_FILTERS and wish.filter not in session.subscriptions:
            return packets.QUOTA_EXCEEDED
        return 0

    @staticmethod
    def _broker_deliver(session: Session, message: Message, wish: Wish) -> None:
        expiry = message.properties.get("message_expiry_s")
        expires_at = asyncio.get_running_loop().time() + expiry if isinstance(expiry, int) else None
        retain = message.retain and wish.retain_as_published
        deliver(
            session,
            Queued(message.topic, message.payload, retain, message.properties, expires_at),
            min(message.qos, wish.qos),
        )

    def _unsubscribe(self, packet: Unsubscribe) -> None:
        session = self._need()
        reasons: list[int] = []
        for filter in packet.filters:
            found = session.subscriptions.pop(filter, None)
            if found is not None:
                found[0].cancel()
            reasons.append(packets.SUCCESS if found else packets.NO_SUBSCRIPTION_EXISTED)
        self._write(Unsuback(packet.packet_id, reasons if self._connection.version == V5 else []))

    # to the device

    def send_qos0(self, item: Queued) -> None:
        transport = self._transport
        if transport is None or transport.get_write_buffer_size() > QOS0_BYTES:
            DROPPED.inc()
            return
        self._send_publish(item, 0)

    @property
    def has_room(self) -> bool:
        return (
            self._session is not None
            and not self._closed
            and self._transport is not None
            and len(self._session.flight) < self._window
            and self._transport.get_write_buffer_size() < QOS0_BYTES
        )

    def send_qos1(self, item: Queued) -> None:
        session = self._need()
        while True:
            session.packet_id = session.packet_id % 65_535 + 1
            if session.packet_id not in session.flight:
                break
        session.flight[session.packet_id] = item
        self._send_publish(item, session.packet_id)

    def _send_publish(self, item: Queued, packet_id: int) -> None:
        properties: Properties = {}
        if self._connection.version == V5 and item.properties:
            properties = dict(item.properties)
            if item.expires_at is not None:
                left = item.expires_at - asyncio.get_running_loop().time()
                properties["message_expiry_s"] = max(0, int(left + 0.999))
        MESSAGES.inc(direction="out")
        self._write(
            Publish(
                item.topic, item.payload, 1 if packet_id else 0, item.retain, packet_id=packet_id, properties=properties
            )
        )

    def _acknowledged(self, packet_id: int) -> None:
        self._need().flight.pop(packet_id, None)
        self._send_waiting()

    def _send_waiting(self) -> None:
        session = self._need()
        now = asyncio.get_running_loop().time()
        while session.waiting and self.has_room:
            item = session.waiting.popleft()
            if item.expires_at is None or item.expires_at > now:
                self.send_qos1(item)

    # ends

    def recheck(self) -> None:
        """Policies or devices have changed."""
        self._verdicts.clear()
        session = self._session
        if session is None:
            return
        try:
            known = self._broker.devices.identify(self._peer.certificate_der) == self.thing
        except Unauthenticated:
            known = False
        if not known or not self._may(CONNECT, session.client_id):
            self.close(packets.NOT_AUTHORIZED)
            return
        for filter in list(session.subscriptions):
            if not self._may(SUBSCRIBE, filter):
                session.subscriptions.pop(filter)[0].cancel()

    def check_alive(self, now: float) -> None:
        if self._session is not None and self._keep_alive_s and now - self._heard > 1.5 * self._keep_alive_s:
            self.close(packets.KEEP_ALIVE_TIMEOUT)
        elif self._session is not None:
            self._send_waiting()  # what a full write buffer held back

    def close(self, reason: int) -> None:
        """End it from our side; the will is sent."""
        if self._closed:
            return
        self._closed = True
        if self._connection.version == V5 and self._session is not None:
            self._write(Disconnect(reason))
        self._flush()
        if self._transport is not None:
            self._transport.close()
        self._leave()

    def _leave(self) -> None:
        self._closed = True
        session, will, self._will = self._session, self._will, None
        if session is None:
            return
        self._session = None
        self._broker.left(session, self)
        if will is not None:
            message = Message(
                will.topic,
                will.payload,
                publisher=f"mqtt:{session.client_id}",
                qos=will.qos,
                retain=will.retain,
                properties={key: value for key, value in will.properties.items() if key in CARRIED},
            )
            for work in self._broker.publish(message):
                try:
                    self._broker.start(self._quietly(work), "local-mqtt-will")
                except RuntimeError:  # the broker is ending
                    if asyncio.iscoroutine(work):
                        work.close()

    # inside

    def _need(self) -> Session:
        if self._session is None:
            raise packets.ProtocolError("CONNECT comes first", packets.PROTOCOL_ERROR)
        return self._session

    def _may(self, operation: str, target: str) -> bool:
        key = (operation, target)
        verdict = self._verdicts.get(key)
        if verdict is None:
            if len(self._verdicts) >= MAX_VERDICTS:
                self._verdicts.clear()
            verdict = self._verdicts[key] = self._broker.policy.may(self.thing, operation, target)
        return verdict

    def _write(self, packet: packets.Packet) -> None:
        if self._transport is None:
            return
        if not self._out:
            asyncio.get_running_loop().call_soon(self._flush)
        self._out.append(v5.encode(packet) if self._connection.version == V5 else v311.encode(packet))

    def _flush(self) -> None:
        out, self._out = self._out, []
        if out and self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(out))


def deliver(session: Session, item: Queued, qos: int) -> None:
    """To the device if it is there, else into its queue (QoS 1 of a session that is kept)."""
    client = session.client
    if not qos:
        if client is not None:
            client.send_qos0(item)
        return
    if client is not None and not session.waiting and client.has_room:
        client.send_qos1(item)
    elif len(session.waiting) < QUEUE:
        session.waiting.append(item)
    else:
        DROPPED.inc()


def server_context(certificate: str, key: str, authorities: str) -> ssl.SSLContext:
    """Mutual TLS for the listener. `authorities`: PEM text of the hub's root and what it issues with."""
    context = net.harden(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(cadata=authorities)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # a device shows its own certificate alone
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def _is_name(topic: str) -> bool:
    with contextlib.suppress(Invalid):
        topics.check_name(topic)
        return True
    return False
