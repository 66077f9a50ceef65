"""What the broker knows of a client: its link while it is connected, its session, what it has not acknowledged.

A `Link` is the sink of the connection's parser, and the hot path: a PUBLISH whose topic was met before goes from here into
the pending bytes of every subscriber without leaving this file. Bytes are written once a tick, by the broker.
A durable session's queue is a list of journal offsets; a session that ends with its connection waits in memory, bounded.
mypyc compiles this module. Not here: matching (route.py), the journal, sockets.
"""

from collections import deque
from collections.abc import Mapping
from typing import Final, Protocol

from marram.core.errors import MarramError
from marram.core.mqtt import packets, v5
from marram.core.mqtt.connection import HAS_PROPERTIES
from marram.core.mqtt.packets import V5, Packet, Puback, Will
from marram.core.mqtt.session import Window
from marram.hub.broker.route import Match, Subscription
from marram.hub.identity.service import Subject
from marram.kit import metrics

MAX_PAYLOAD: Final = 128 << 10
MAX_IN_FLIGHT: Final = 100
MAX_PENDING: Final = 1000  # messages in one tick; more are written at once
MAX_PENDING_BYTES: Final = 1 << 20
MAX_ROUTES: Final = 1024  # topics a connection has a verdict for
MAX_QUEUE: Final = 10_000
MAX_MEMORY: Final = 1000
MAX_MEMORY_BYTES: Final = 1 << 20
PUBACK: Final = b"\x40\x02"

dropped: Final = metrics.counter("marram_mqtt_dropped_total", "Messages not delivered to one subscriber", ("reason",))
_slow: Final = dropped.labels(reason="slow subscriber")
_too_large: Final = dropped.labels(reason="over the client's packet size")
_full: Final = dropped.labels(reason="queue full")


class Wire(Protocol):
    """The socket, as far as links go."""

    def write(self, data: bytes) -> None: ...
    def get_write_buffer_size(self) -> int: ...


class Core(Protocol):
    """The broker, as far as links go."""

    published: int

    def resolve(self, link: "Link", topic: bytes, flags: int, packet_id: int) -> Match | None:
        """The match of a topic that the link may publish to; None when that was refused and answered."""

    def publish_slowly(
        self, link: "Link", match: Match, frame: bytes, flags: int, packet_id: int, payload_at: int
    ) -> None: ...

    def acknowledged(self, session: "Session", entry: "Entry | None") -> None: ...

    def append(
        self, link: "Link", match: Match, topic: bytes, payload: bytes, packet_id: int, entry: "Entry | None"
    ) -> None:
        """Have a plain QoS 1 message appended, and acknowledged after the sync. `entry`: when sessions wait for its offset."""

    def too_large(self, link: "Link", size: int) -> None: ...


class Owner(Protocol):
    """The door's side of a connection."""

    def packet(self, packet: Packet) -> None: ...
    def end(self, reason: int, why: str, event: str) -> None:
        """Disconnect: MQTT 5 reason, text for the log, disconnectReason of the presence event."""

    def pause(self) -> None: ...
    def resume(self) -> None: ...


class Message:
    """One message on its way to subscribers. `properties`: encoded for MQTT 5, without their length."""

    __slots__ = (
        "_one4",
        "_one5",
        "_zero4",
        "_zero5",
        "expires_ms",
        "payload",
        "properties",
        "qos",
        "retain",
        "topic",
        "was_retained",
    )

    def __init__(
        self, topic: bytes, payload: bytes, qos: int, properties: bytes, retain: bool = False, expires_ms: int = 0
    ) -> None:
        self.topic = topic
        self.payload = payload
        self.qos = qos
        self.properties = properties
        self.retain = retain
        self.expires_ms = expires_ms
        self.was_retained = False  # the publisher asked for it; subscribers see so only with Retain As Published
        self._zero4 = b""
        self._zero5 = b""
        self._one4 = b""
        self._one5 = b""

    def zero(self, version: int) -> bytes:
        """The frame with QoS 0."""
        if version == V5:
            if not self._zero5:
                self._zero5 = packets.publish_frame(
                    V5, self.topic, self.payload, 0, 0, self.retain, False, self.properties
                )
            return self._zero5
        if not self._zero4:
            self._zero4 = packets.publish_frame(4, self.topic, self.payload, 0, 0, self.retain, False, b"")
        return self._zero4

    def one(self, version: int, packet_id: int) -> bytes:
        """The frame with QoS 1 and this packet id."""
        if version == V5:
            if not self._one5:
                self._one5 = packets.publish_frame(
                    V5, self.topic, self.payload, 1, packet_id, self.retain, False, self.properties
                )
                return self._one5
            frame = self._one5
        else:
            if not self._one4:
                self._one4 = packets.publish_frame(4, self.topic, self.payload, 1, packet_id, self.retain, False, b"")
                return self._one4
            frame = self._one4
        at = 2 if frame[1] < 128 else 3 if frame[2] < 128 else 4 if frame[3] < 128 else 5
        at += 2 + len(self.topic)
        return frame[:at] + packets.u16(packet_id) + frame[at + 2 :]


class Entry:
    """A record on its way into the journal; `offset` is -1 until the tick ends, and stays so when it was refused."""

    __slots__ = ("ack", "acks", "offset", "previous", "sessions", "source")

    def __init__(self) -> None:
        self.offset = -1
        self.sessions: list[Session] | None = None  # whose queue it joins
        self.ack: Ack | None = None  # who waits for it
        self.acks: list[Ack] | None = None  # who else does: senders of repeats
        self.source = ""  # a source that numbers its messages, and its highest position before this one
        self.previous = 0


class Ack:
    """A PUBACK that waits for `left` things. The link is None for those who publish in the process."""

    __slots__ = ("done", "failed", "left", "link", "packet_id")

    def __init__(self, link: "Link | None", packet_id: int, left: int) -> None:
        self.link = link
        self.packet_id = packet_id
        self.left = left
        self.failed: MarramError | None = None
        self.done: Waiter | None = None


class Waiter(Protocol):
    def settle(self, failed: MarramError | None) -> None: ...


class Link:
    """A live connection. Made by the door; the broker gives it a session."""

    __slots__ = (
        "client_id", "congested", "connected_ms", "context", "core", "dirty", "explains", "is_closed", "keep_alive_ms",
        "max_packet", "meta", "number", "owner", "pending", "receive_maximum", "routes", "session", "subject", "unacked", "version",
        "will", "wire",
    )  # fmt: skip

    def __init__(self, core: Core, owner: Owner, wire: Wire, dirty: "list[Link]", subject: Subject) -> None:
        self.core = core
        self.owner = owner
        self.wire = wire
        self.dirty = dirty
        self.subject = subject
        self.context: Mapping[str, str] = {}
        self.pending: list[bytes] = []
        self.routes: dict[bytes, Match] = {}
        self.congested = False
        self.is_closed = False
        self.session: Session | None = None
        self.version = 0
        self.client_id = ""
        self.meta = b""  # the beginning of the meta of records that come from here
        self.number = ""  # the session identifier of presence events
        self.max_packet = 0  # 0: no limit
        self.explains = True  # reason strings are wanted in every packet
        self.receive_maximum = MAX_IN_FLIGHT
        self.unacked = 0  # QoS 1 from the client that wait for their PUBACK
        self.keep_alive_ms = 0
        self.connected_ms = 0
        self.will: Will | None = None

    def __repr__(self) -> str:
        return f"Link({self.client_id!r}, version={self.version}, closed={self.is_closed})"

    # the sink of the parser

    def publish(self, frame: bytes, topic: bytes, flags: int, packet_id: int, payload_at: int) -> None:
        core = self.core
        core.published += 1
        size = len(frame) - payload_at
        if size > MAX_PAYLOAD:
            core.too_large(self, size)
            return
        match = self.routes.get(topic)
        if match is None or not match.valid:
            match = core.resolve(self, topic, flags, packet_id)
            if match is None:
                return
        if flags == 0 and match.fast_zero:
            own, other = (match.links5, match.links4) if self.version == V5 else (match.links4, match.links5)
            dirty = self.dirty
            for link in own:
                if link.congested:
                    _slow.inc()
                    continue
                pending = link.pending
                if not pending:
                    dirty.append(link)
                elif len(pending) >= MAX_PENDING:
                    link.flush()
                    pending = link.pending
                    dirty.append(link)
                pending.append(frame)
            if other:
                frame = Message(topic, frame[payload_at:], 0, b"").zero(V5 if self.version != V5 else 4)
                for link in other:
                    link.send_zero(frame)
        elif flags & 7 == 2 and flags & HAS_PROPERTIES == 0 and match.fast_one:
            message: Message | None = None
            if match.zero4 or match.zero5:
                message = Message(topic, frame[payload_at:], 1, b"")
                for link in match.zero4:
                    link.send_zero(message.zero(4))
                for link in match.zero5:
                    link.send_zero(message.zero(V5))
            version = self.version
            at = payload_at - (3 if version == V5 else 2)
            head = b""
            tail = b""
            for session in match.one:
                receiver = session.link
                if receiver is None:
                    continue
                if receiver.version == version and not session.memory and not receiver.congested:
                    window = session.window
                    if not window.is_full():
                        number = window.take(None)
                        if not head:
                            head = b"\x32" + frame[1:at]
                            tail = frame[at + 2 :]
                        receiver.send(head + bytes((number >> 8, number & 255)) + tail)
                        continue
                if message is None:
                    message = Message(topic, frame[payload_at:], 1, b"")
                session.deliver(message)
            if match.lasts:
                entry: Entry | None = None
                if match.durable:
                    entry = Entry()
                    if message is None:
                        message = Message(topic, frame[payload_at:], 1, b"")
                    for session in match.durable:
                        session.deliver_durable(message, entry)
                core.append(self, match, topic, frame[payload_at:], packet_id, entry)
            else:
                self.send(PUBACK + bytes((packet_id >> 8, packet_id & 255)))
        else:
            core.publish_slowly(self, match, frame, flags, packet_id, payload_at)

    def puback(self, packet_id: int, reason: int) -> None:
        session = self.session
        if session is None or packet_id not in session.window:
            return  # a late or doubled PUBACK: nothing waits for it
        entry = session.window.done(packet_id)
        if session.memory:
            session.drain_memory()
        if entry is not None or session.queue:
            self.core.acknowledged(session, entry)

    def packet(self, packet: Packet) -> None:
        self.owner.packet(packet)

    # sending

    def send(self, frame: bytes) -> None:
        """Whatever the state of the socket: acknowledgements and what has a window of its own."""
        pending = self.pending
        if not pending:
            self.dirty.append(self)
        pending.append(frame)

    def send_zero(self, frame: bytes) -> None:
        """A QoS 0 message: dropped when the client does not read."""
        if self.congested:
            _slow.inc()
            return
        if self.max_packet and len(frame) > self.max_packet:
            _too_large.inc()
            return
        pending = self.pending
        if not pending:
            self.dirty.append(self)
        elif len(pending) >= MAX_PENDING:
            self.flush()
            self.dirty.append(self)
            pending = self.pending
        pending.append(frame)

    def flush(self) -> None:
        """One write for all that is pending. The link stays in `dirty` until the tick's end; an empty flush does nothing."""
        pending = self.pending
        if not pending:
            return
        self.pending = []
        if self.is_closed:
            return
        self.wire.write(pending[0] if len(pending) == 1 else b"".join(pending))

    def acknowledge(self, packet_id: int, reason: int = 0, why: str = "") -> None:
        """`why`: the reason string of a refusal, where the client wants it and it fits (MQTT 5.0, 3.1.2-29 and 3.4.2-2)."""
        number = bytes((packet_id >> 8, packet_id & 255))
        if not reason or self.version != V5:
            self.send(PUBACK + number)
            return
        frame = b"\x40\x03" + number + bytes((reason,))
        if why and self.explains:
            longer = v5.encode(Puback(packet_id, reason, {"reason_string": why[:200]}))
            frame = longer if not self.max_packet or len(longer) <= self.max_packet else frame
        self.send(frame)


class Session:
    """The state of a client id. `expiry_s` 0: it ends with its connection."""

    __slots__ = (
        "client_id", "expires_ms", "expiry_s", "joining", "link", "lost", "memory", "memory_bytes", "number", "principal", "queue",
        "subject", "subscriptions", "version", "window",
    )  # fmt: skip

    def __init__(self, client_id: str, version: int, expiry_s: int, subject: Subject) -> None:
        self.client_id = client_id
        self.version = version
        self.expiry_s = expiry_s
        self.subject = subject
        self.principal = subject.principal
        self.subscriptions: dict[str, Subscription] = {}
        self.link: Link | None = None
        self.window: Window[Entry | None] = Window(MAX_IN_FLIGHT)
        self.queue: deque[int] = deque()  # offsets to send, oldest first
        self.joining = 0  # messages of this tick that will join the queue
        self.memory: deque[Message] = deque()
        self.memory_bytes = 0
        self.expires_ms = 0  # wall clock; 0 while it is connected
        self.lost = 0

    def __repr__(self) -> str:
        return f"Session({self.client_id!r}, queued={len(self.queue)}, unacked={len(self.window)}, filters={len(self.subscriptions)})"

    @property
    def is_durable(self) -> bool:
        return self.expiry_s > 0

    def deliver(self, message: Message) -> None:
        """A QoS 1 message to a session that ends with its connection."""
        link = self.link
        if link is None:
            return
        if self.memory or self.window.is_full() or link.congested:
            if len(self.memory) >= MAX_MEMORY or self.memory_bytes + len(message.payload) > MAX_MEMORY_BYTES:
                self.lost += 1
                _full.inc()
                return
            self.memory.append(message)
            self.memory_bytes += len(message.payload)
            return
        self._send(link, message, None)

    def deliver_durable(self, message: Message, entry: Entry) -> None:
        """A QoS 1 message that `entry` carries into the journal: at once when there is room, else by its offset."""
        link = self.link
        if link is None or self.queue or self.joining or self.window.is_full() or link.congested:
            if len(self.queue) + self.joining >= MAX_QUEUE:  # as AWS: the old ones stay
                self.lost += 1
                _full.inc()
                return
            if entry.sessions is None:
                entry.sessions = []
            entry.sessions.append(self)
            self.joining += 1
            return
        self._send(link, message, entry)

    def drain_memory(self) -> None:
        link = self.link
        while self.memory and link is not None and not self.window.is_full() and not link.congested:
            message = self.memory.popleft()
            self.memory_bytes -= len(message.payload)
            self._send(link, message, None)

    def send_stored(self, message: Message, offset: int) -> None:
        """One from the journal."""
        assert self.link is not None
        entry = Entry()
        entry.offset = offset
        self._send(self.link, message, entry)

    def unacknowledged(self) -> list[int]:
        """Offsets that were sent and not acknowledged, in order."""
        offsets: list[int] = []
        for entry in self.window.values():
            if entry is not None and entry.offset >= 0:
                offsets.append(entry.offset)
        offsets.sort()
        return offsets

    def requeue(self) -> None:
        """The connection is gone: what it did not acknowledge is sent again."""
        unacked = self.unacknowledged()
        unacked.reverse()
        self.queue.extendleft(unacked)
        self.window.clear()
        self.memory.clear()
        self.memory_bytes = 0

    def _send(self, link: Link, message: Message, entry: Entry | None) -> None:
        packet_id = self.window.take(entry)
        frame = message.one(link.version, packet_id)
        if link.max_packet and len(frame) > link.max_packet:
            self.window.done(packet_id)  # MQTT 5.0, 3.1.2-25: as if it had been sent
            _too_large.inc()
            if entry is not None:
                link.core.acknowledged(self, entry)
            return
        link.send(frame)
