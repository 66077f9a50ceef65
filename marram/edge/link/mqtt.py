"""The MQTT side of the link: one MQTT 5 connection to the hub, kept up, with the spool behind it.

Dead peers: TCP is told to give up after DEAD_S without an acknowledgement, and whenever the hub owes us an answer and has been
silent for `probe_s` it is pinged; without a word for `ping_s` after that the connection is dropped. An idle link pings at the keep-alive
only, so that it costs little. Reconnecting backs off with jitter.

What is sent: QoS 1 of components from the spool, up to `window` in flight, in order, with `mrm-seq`; QoS 1 of the core itself (jobs,
shadows, status) directly, which fails when the link is down; QoS 0 directly or not at all.
"""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from marram.core.errors import Conflict, Denied, Invalid, LimitExceeded, MarramError, Unauthenticated, Unavailable
from marram.core.mqtt import packets, v5
from marram.core.mqtt.connection import ClientConnection
from marram.core.mqtt.packets import Connack, Connect, Disconnect, Pingreq, Puback, Publish, Suback, Unsuback, Wish
from marram.edge.link.ledger import Ledger
from marram.edge.pubsub.hub import Hub, Message
from marram.edge.spool.service import SEQUENCE_PROPERTY, Item, Outgoing, Spool
from marram.kit import metrics, net
from marram.kit.clock import Entropy
from marram.kit.log import logger

log = logger(__name__)

T = TypeVar("T")

MAX_PACKET: Final = 256 * 1024
DEAD_S: Final = 6.0
CONNECT_S: Final = 10.0
ANSWER_S: Final = 10.0
STABLE_S: Final = 5.0
TAKEN_OVER_FAILURES: Final = 5  # waits as after so many failures: seconds
TWO_CORES: Final = (
    "another machine is connected as this core: a thing name belongs to one core; stop one of the two, and join it anew"
    " under a name of its own (marram edge join --replace)"
)
SAVE_S: Final = 1.0
TICK_S: Final = 0.02
QOS0_BYTES: Final = 1 << 20
RESERVED: Final = 8  # packets in flight that spooled messages leave to the core's own
FILTERS: Final = 8  # of one SUBSCRIBE, AWS's limit
PERMANENT: Final = frozenset({packets.NOT_AUTHORIZED, packets.TOPIC_NAME_INVALID, packets.PAYLOAD_FORMAT_INVALID})
BLAME: Final = frozenset(
    {packets.MALFORMED_PACKET, packets.PROTOCOL_ERROR, packets.PACKET_TOO_LARGE}
    | {packets.TOPIC_NAME_INVALID, packets.PAYLOAD_FORMAT_INVALID}
)

CONNECTED: Final = metrics.gauge("marram_link_connected", "1 while the hub is connected")
CONNECTS: Final = metrics.counter("marram_link_connects_total", "connections to the hub by outcome", ("outcome",))
QOS0_DROPPED: Final = metrics.counter("marram_link_qos0_dropped_total", "QoS 0 messages dropped: link down or slow")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """`dedup`: send `mrm-seq`, which Marram's hub understands. `session_s`: how long the hub keeps messages for us."""

    host: str
    port: int
    thing: str
    keep_alive_s: int = 60
    session_s: int = 604_800
    dedup: bool = True
    probe_s: float = 2.0
    ping_s: float = 3.0
    backoff_s: tuple[float, float] = (0.2, 60.0)


class Link:
    """`run` until cancelled. Everything else may be called before it and at any time."""

    def __init__(
        self,
        settings: Settings,
        spool: Spool,
        ledger: Ledger,
        *,
        tls: Callable[[], ssl.SSLContext] | None,
        entropy: Entropy,
    ) -> None:
        self.settings = settings
        self._spool = spool
        self._ledger = ledger
        self._tls = tls
        self._entropy = entropy
        self.incoming = Hub()
        self._wants: dict[str, list[int]] = {}  # filter -> QoS of each that wants it
        self._watchers: list[Callable[[bool], None]] = []
        self._session: Session | None = None
        self._fresh = True
        self._wake = asyncio.Event()
        self._suspect = False  # the hub hung up on something that we sent: one at a time until it is known
        spool.on_ready(self._wake.set)

    @property
    def connected(self) -> bool:
        return self._session is not None

    # for the rest of the core

    async def publish(self, message: Outgoing) -> None:
        """For components. QoS 1: returns when it is durable in the spool. Raises LimitExceeded, Unavailable."""
        if message.qos:
            await self._spool.append(message)
            return
        if self._session is None or not self._session.send_qos0(message):
            QOS0_DROPPED.inc()

    async def send(self, topic: str, payload: bytes) -> None:
        """QoS 1, not spooled; returns when the hub has it. Raises Unavailable when the link is down, Denied, Invalid."""
        session = self._session
        if session is None:
            raise Unavailable("the hub is not connected")
        try:
            async with asyncio.timeout(ANSWER_S):
                reason = await session.publish(Outgoing(topic=topic, payload=payload))
        except TimeoutError as exc:
            raise Unavailable("the hub did not acknowledge") from exc
        if reason >= 0x80:
            raise _refusal(reason, topic)

    async def subscribe(self, filter: str, qos: int, deliver: Callable[[Message], None]) -> Callable[[], None]:
        """`deliver` is called for each message that matches. With the link up a refusal raises Denied or Invalid."""
        subscription = self.incoming.subscribe(filter, deliver)
        wants = self._wants.setdefault(filter, [])
        first = not wants or qos > max(wants)
        wants.append(qos)

        cancelled = False

        def cancel() -> None:
            nonlocal cancelled
            if cancelled:
                return
            cancelled = True
            subscription.cancel()
            wants.remove(qos)
            if not wants and self._wants.get(filter) is wants:
                del self._wants[filter]
                if self._session is not None:
                    self._session.unsubscribe(filter)

        if first and self._session is not None:
            try:
                async with asyncio.timeout(ANSWER_S):
                    reason = await self._session.subscribe(filter, max(wants))
            except (TimeoutError, Unavailable):
                return cancel  # the next connection subscribes
            except BaseException:
                cancel()
                raise
            if reason >= 0x80:
                cancel()
                raise _refusal(reason, filter)
        return cancel

    def watch(self, changed: Callable[[bool], None]) -> Callable[[], None]:
        """`changed(connected)` now and at each change."""
        self._watchers.append(changed)
        changed(self.connected)
        return lambda: self._watchers.remove(changed) if changed in self._watchers else None

    # running

    async def run(self) -> None:
        await self._spool.rewind()  # what an earlier run that failed had in its hands
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._save(), name="spool-save")
                await self._keep_connected(tasks)
        finally:
            if self._session is not None:
                self._session.disconnect()

    async def _keep_connected(self, tasks: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            began = loop.time()
            try:
                session = await self._connect()
            except (Unavailable, Unauthenticated, Denied, Invalid) as exc:
                CONNECTS.inc(outcome=type(exc).__name__.lower())
                log.warning("link.not_connected", host=self.settings.host, port=self.settings.port, why=exc.message)
            else:
                CONNECTS.inc(outcome="connected")
                pump = tasks.create_task(self._pump(session), name="link-pump")
                try:
                    await self._up(session)
                    why = await session.lost
                finally:
                    pump.cancel()
                    session.abort()
                    self._down(session)
                log.info("link.lost", why=why)
                await self._after(session)
                if session.reason == packets.SESSION_TAKEN_OVER:
                    # Two cores of one name would put each other out for ever: both wait, longer each time.
                    failures = max(failures, TAKEN_OVER_FAILURES)
                    log.error("link.taken_over", thing=self.settings.thing, why=why, hint=TWO_CORES)
                elif loop.time() - began > STABLE_S:
                    failures = 0
            await asyncio.sleep(self._pause_s(failures))
            failures += 1

    async def _connect(self) -> "Session":
        settings = self.settings
        tls = await asyncio.to_thread(self._tls) if self._tls is not None else None
        session: Session
        _, session = await net.connect(
            settings.host,
            settings.port,
            lambda: Session(self, self._fresh),
            tls=tls,
            server_hostname=settings.host,
            timeout_s=CONNECT_S,
        )
        try:
            async with asyncio.timeout(CONNECT_S):
                connack = await session.accepted
        except TimeoutError as exc:
            session.abort()
            raise Unavailable("the hub did not answer CONNECT") from exc
        except BaseException:
            session.abort()
            raise
        self._fresh = False
        log.info("link.connected", host=settings.host, port=settings.port, resumed=connack.session_present)
        return session

    async def _up(self, session: "Session") -> None:
        filters = list(self._wants)
        for at in range(0, len(filters), FILTERS):
            session.subscribe_many([(filter, max(self._wants[filter])) for filter in filters[at : at + FILTERS]])
        self._session = session
        CONNECTED.set(1)
        for changed in list(self._watchers):
            changed(True)
        self._wake.set()

    def _down(self, session: "Session") -> None:
        if self._session is session:
            self._session = None
            CONNECTED.set(0)
            for changed in list(self._watchers):
                changed(False)

    async def _after(self, session: "Session") -> None:
        """Give the spool back what was on the way."""
        blamed = session.first_in_flight() if session.reason in BLAME else None
        if blamed is not None and self._suspect:
            self._spool.refuse(blamed, session.reason, "the hub closed the connection on it")
            self._suspect = False
        else:
            self._suspect = blamed is not None
        with contextlib.suppress(MarramError):  # the cursors are written with the next save
            await self._spool.rewind(session.refused)

    async def _pump(self, session: "Session") -> None:
        rate = self._spool.settings.drain_per_s
        loop = asyncio.get_running_loop()
        next_at = loop.time()
        while not session.lost.done():
            free = session.free_slots(1 if self._suspect else self._spool.settings.window)
            items = await self._spool.take(free) if free > 0 else []
            if not items:
                self._wake.clear()
                await self._wake.wait()
                continue
            for item in items:
                if rate:
                    next_at = max(next_at, loop.time() - 1.0) + 1.0 / rate
                    if (wait := next_at - loop.time()) > 0:
                        await asyncio.sleep(wait)
                # The core's own messages may have filled the window meanwhile.
                while not session.lost.done() and not session.send_item(item):
                    self._wake.clear()
                    await self._wake.wait()
                if session.lost.done():
                    return  # `rewind` hands them out again

    async def _save(self) -> None:
        while True:
            await asyncio.sleep(SAVE_S)
            if self._spool.unsaved:
                try:
                    await self._spool.save()
                except MarramError as exc:
                    log.warning("spool.not_saved", why=exc.message)

    def _pause_s(self, failures: int) -> float:
        low, high = self.settings.backoff_s
        ceiling = min(high, low * 2**failures)
        return float(ceiling * (0.5 + int.from_bytes(self._entropy.bytes(2)) / 0x20000))

    # from the session

    def arrived(self, packet: Publish) -> None:
        self.incoming.publish(
            Message(
                packet.topic,
                packet.payload,
                publisher="hub",
                qos=packet.qos,
                retain=packet.retain,
                hops=1,
                properties={key: value for key, value in packet.properties.items() if key in CARRIED},
            )
        )

    def settled(self, item: Item, reason: int) -> bool:
        """The hub's word on a spooled message. False: refused for the moment, end the connection."""
        if reason < 0x80:
            self._spool.acknowledge(item)
            self._suspect = False
        elif reason in PERMANENT:
            self._spool.refuse(item, reason, REASONS.get(reason, f"reason {reason:#x}"))
        else:
            return False
        self._wake.set()
        return True

    def unsendable(self, item: Item, why: str) -> None:
        self._spool.refuse(item, packets.PACKET_TOO_LARGE, why)
        self._wake.set()

    def wake(self) -> None:
        self._wake.set()

    def spent(self, sent: int, received: int) -> None:
        self._ledger.add("mqtt", sent, received)


class Session(asyncio.Protocol):
    """One connection. `lost` resolves with the reason in words."""

    def __init__(self, link: Link, fresh: bool) -> None:
        loop = asyncio.get_running_loop()
        self._link = link
        self._loop = loop
        settings = link.settings
        self._client = ClientConnection(
            Connect(
                settings.thing,
                packets.V5,
                fresh,
                settings.keep_alive_s,
                properties={
                    "session_expiry_s": settings.session_s,
                    "receive_maximum": 100,
                    "maximum_packet_size": MAX_PACKET,
                },
            ),
            max_packet=MAX_PACKET,
        )
        self._transport: asyncio.Transport | None = None
        self.accepted: asyncio.Future[Connack] = loop.create_future()
        self.lost: asyncio.Future[str] = loop.create_future()
        self.refused: Item | None = None
        self.reason = 0  # of the hub's DISCONNECT
        self._items: dict[int, Item] = {}
        self._answers: dict[int, asyncio.Future[int]] = {}
        self._wishes: dict[int, list[str]] = {}
        self._out: list[bytes] = []
        self._heard = self._said = loop.time()
        self._pinged: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._counted = (1, 0)  # the kernel counts the SYN

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        sock = transport.get_extra_info("socket")
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(DEAD_S * 1000))
        self._send(self._client.start(self._now_ms()))
        self._arm()

    def data_received(self, data: bytes) -> None:
        self._heard = self._loop.time()
        self._pinged = None
        try:
            for packet in self._client.receive(data, self._now_ms()):
                self._receive(packet)
        except packets.ProtocolError as exc:
            log.warning("link.protocol_error", why=exc.message)
            self._send(v5.encode(Disconnect(exc.reason)))
            self._flush()
            if self._transport is not None:
                self._transport.close()
            self._end(f"the hub broke the protocol: {exc.message}")

    def connection_lost(self, exc: Exception | None) -> None:
        self._count()
        self._transport = None
        self._end(str(exc) if exc else "closed by the hub")

    # packets

    def _receive(self, packet: packets.Packet) -> None:
        if isinstance(packet, Puback):
            self._acknowledged(packet)
        elif isinstance(packet, Publish):
            # Components see it before the hub forgets it.
            self._link.arrived(packet)
            if packet.qos:
                self._send(self._client.ack(packet.packet_id, self._now_ms()))
        elif isinstance(packet, Suback):
            filters = self._wishes.pop(packet.packet_id, [])
            for filter, reason in zip(filters, packet.reasons, strict=False):
                if reason >= 0x80:
                    log.warning("link.subscription_refused", filter=filter, reason=reason)
            self._answer(packet.packet_id, packet.reasons[0] if packet.reasons else 0x80)
        elif isinstance(packet, Unsuback):
            self._answer(packet.packet_id, 0)
        elif isinstance(packet, Connack):
            self._connected(packet)
        elif isinstance(packet, Disconnect):
            self.reason = packet.reason
            text = packet.properties.get("reason_string", "")
            self._end(f"the hub disconnected with reason {packet.reason:#04x} {text!s}".rstrip())

    def _connected(self, packet: Connack) -> None:
        if not packet.reason:
            self.accepted.set_result(packet)
            self._arm()  # the hub may have said another keep-alive
            return
        text = packet.properties.get("reason_string") or REASONS.get(packet.reason, f"reason {packet.reason:#x}")
        kind = Denied if packet.reason in (packets.NOT_AUTHORIZED, packets.BAD_CREDENTIALS) else Unavailable
        self.accepted.set_exception(kind(f"the hub refused the connection: {text!s}"))

    def _acknowledged(self, packet: Puback) -> None:
        item = self._items.pop(packet.packet_id, None)
        if item is None:
            self._answer(packet.packet_id, packet.reason)
        elif not self._link.settled(item, packet.reason):
            self.refused = item
            log.warning("link.refused_for_now", topic=item.message.topic, reason=packet.reason)
            self.disconnect()
            self._end(f"the hub cannot take messages now, reason {packet.reason:#04x}")

    def _answer(self, packet_id: int, reason: int) -> None:
        self._link.wake()
        answer = self._answers.pop(packet_id, None)
        if answer is not None and not answer.done():
            answer.set_result(reason)

    # what the link asks

    def free_slots(self, window: int) -> int:
        """For spooled messages: some of the hub's window is left to the core's own."""
        unacked = self._client.unacked
        return min(window - len(self._items), unacked.limit - min(RESERVED, unacked.limit // 4) - len(unacked))

    def first_in_flight(self) -> Item | None:
        return next(iter(self._items.values()), None)

    def send_item(self, item: Item) -> bool:
        """A spooled message. False when the window is full; one that the hub says it cannot take is refused here."""
        packet = _publish(item.message, 1)
        if self._link.settings.dedup:
            packet.properties["user_properties"] = [
                *item.message.user_properties,
                (SEQUENCE_PROPERTY, item.dedup),
            ]
        try:
            frame = self._client.publish(packet, self._now_ms())
        except (LimitExceeded, Conflict):
            return False
        except Invalid as exc:
            self._link.unsendable(item, exc.message)
            return True
        self._items[packet.packet_id] = item
        self._send(frame)
        return True

    async def publish(self, message: Outgoing) -> int:
        """The reason code of the acknowledgement. Raises Unavailable, Invalid."""
        packet = _publish(message, 1)
        frame = self._sendable(lambda: self._client.publish(packet, self._now_ms()))
        return await self._ask(packet.packet_id, frame)

    def send_qos0(self, message: Outgoing) -> bool:
        """False when the connection is too far behind, or the hub does not take it."""
        if self._transport is None or self._transport.get_write_buffer_size() > QOS0_BYTES:
            return False
        try:
            self._send(self._client.publish(_publish(message, 0), self._now_ms()))
        except (Invalid, Conflict):
            return False
        return True

    async def subscribe(self, filter: str, qos: int) -> int:
        packet_id, frame = self._sendable(lambda: self._client.subscribe([Wish(filter, qos)], self._now_ms()))
        self._wishes[packet_id] = [filter]
        return await self._ask(packet_id, frame)

    def subscribe_many(self, wishes: Sequence[tuple[str, int]]) -> None:
        packet_id, frame = self._client.subscribe([Wish(filter, qos) for filter, qos in wishes], self._now_ms())
        self._wishes[packet_id] = [filter for filter, _ in wishes]
        self._send(frame)

    def unsubscribe(self, filter: str) -> None:
        with contextlib.suppress(Conflict, LimitExceeded):  # the hub's session has it until it ends; nobody listens
            self._send(self._client.unsubscribe([filter], self._now_ms())[1])

    def disconnect(self) -> None:
        if self._transport is not None:
            self._send(self._client.disconnect())
            self._flush()
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # inside

    async def _ask(self, packet_id: int, frame: bytes) -> int:
        if self.lost.done():
            raise Unavailable("the link went down")
        answer: asyncio.Future[int] = self._loop.create_future()
        self._answers[packet_id] = answer
        self._send(frame)
        return await answer

    @staticmethod
    def _sendable(make: Callable[[], T]) -> T:
        try:
            return make()
        except (Conflict, LimitExceeded) as exc:
            raise Unavailable(f"not now: {exc.message}") from exc

    def _now_ms(self) -> int:
        return int(self._loop.time() * 1000)

    def _send(self, frame: bytes) -> None:
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(frame)

    def _flush(self) -> None:
        out, self._out = self._out, []
        if out and self._transport is not None:
            self._said = self._loop.time()
            self._transport.write(b"".join(out))
            self._arm()

    def _end(self, why: str) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        error = Unavailable(f"the link went down: {why}")
        if not self.accepted.done():
            self.accepted.set_exception(error)
            self.accepted.exception()  # `run` may be waiting for the TLS handshake instead
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(error)
                answer.exception()
        self._answers.clear()
        if not self.lost.done():
            self.lost.set_result(why)
        self._link.wake()

    # the one timer

    @property
    def _owed(self) -> bool:
        return len(self._client.unacked) > 0

    def _arm(self) -> None:
        if self.lost.done():
            return
        now = self._loop.time()
        if self._pinged is not None:
            at = self._pinged + self._link.settings.ping_s
        elif self._owed:
            at = max(self._heard, self._said) + self._link.settings.probe_s
        else:
            at = self._said + self._client.keep_alive_ms / 1000
        if self._timer is not None:
            if self._timer.when() <= at:
                return  # it looks again when it fires
            self._timer.cancel()
        self._timer = self._loop.call_at(max(at, now + TICK_S), self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._count()
        now = self._loop.time()
        if self._pinged is not None:
            if now - self._pinged >= self._link.settings.ping_s - TICK_S:
                self._end("the hub is silent")
                self.abort()
                return
        elif not self.accepted.done():
            pass  # CONNECT has its own limit, and nothing else may be sent before CONNACK
        elif (self._owed and now - max(self._heard, self._said) >= self._link.settings.probe_s - TICK_S) or (
            now - self._said >= self._client.keep_alive_ms / 1000 - TICK_S
        ):
            self._send(v5.encode(Pingreq()))
            self._flush()
            self._pinged = now
        self._arm()

    def _count(self) -> None:
        """Tell the ledger what TCP has carried since the last time, TLS included."""
        sock = self._transport.get_extra_info("socket") if self._transport is not None else None
        if sock is None:
            return
        try:
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 136)
            acked, received = struct.unpack_from("QQ", info, 120)  # tcpi_bytes_acked, tcpi_bytes_received (Linux 4.1)
        except (OSError, struct.error):
            return
        sent_before, received_before = self._counted
        if acked > sent_before or received > received_before:
            self._link.spent(acked - sent_before, received - received_before)
            self._counted = (acked, received)


CARRIED: Final = frozenset(
    {"payload_format", "message_expiry_s", "content_type", "response_topic", "correlation_data", "user_properties"}
)
REASONS: Final[Mapping[int, str]] = {
    packets.CLIENT_ID_NOT_VALID: "the client id is not valid",
    packets.BAD_CREDENTIALS: "the certificate is not known or not active",
    packets.NOT_AUTHORIZED: "not authorized",
    packets.SERVER_UNAVAILABLE: "the hub is not available",
    packets.TOPIC_NAME_INVALID: "the topic name is not valid",
    packets.TOPIC_FILTER_INVALID: "the topic filter is not valid",
    packets.QUOTA_EXCEEDED: "the hub is full",
    packets.PAYLOAD_FORMAT_INVALID: "the payload is not what its format says",
}


def _publish(message: Outgoing, packet_id: int) -> Publish:
    properties: packets.Properties = {}
    if message.payload_format is not None:
        properties["payload_format"] = message.payload_format
    if message.expiry_s is not None:
        properties["message_expiry_s"] = message.expiry_s
    if message.content_type is not None:
        properties["content_type"] = message.content_type
    if message.response_topic is not None:
        properties["response_topic"] = message.response_topic
    if message.correlation is not None:
        properties["correlation_data"] = message.correlation
    if message.user_properties:
        properties["user_properties"] = list(message.user_properties)
    return Publish(
        message.topic,
        message.payload,
        1 if packet_id else 0,
        message.retain,
        packet_id=packet_id,
        properties=properties,
    )


def _refusal(reason: int, what: str) -> MarramError:
    text = f"{what}: {REASONS.get(reason, f'reason {reason:#x}')}"
    if reason == packets.NOT_AUTHORIZED:
        return Denied(text)
    if reason in (packets.TOPIC_NAME_INVALID, packets.TOPIC_FILTER_INVALID, packets.PAYLOAD_FORMAT_INVALID):
        return Invalid(text)
    return Unavailable(text)
