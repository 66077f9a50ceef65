"""What the broker knows of a client: its link while it is connected, its session, what it has not acknowledged.

A `Link` is the sink of the connection's parser, and the hot path: a PUBLISH whose topic was met before goes from here into
the pending bytes of every subscriber without leaving this file. Bytes are written once a tick, by the broker.
A durable session's queue is a list of journal offsets; a session that ends with its connection waits in memory, bounded.
The queue of a shared subscription is such a session too, without a client: its messages are lent to members (sharing.py).
mypyc compiles this module. Not here: matching (route.py), the journal, sockets.
"""

from collections import deque
from collections.abc import Mapping
from typing import Final, Protocol

from marram.core.mqtt import packets, v5
from marram.core.mqtt.connection import HAS_PROPERTIES
from marram.core.mqtt.packets import V5, Packet, Puback, Will
from marram.core.mqtt.session import Window
from marram.hub.broker.message import Asked, Entry, Lent, Message, Waiting
from marram.hub.broker.rates import LinkRates
from marram.hub.broker.route import Group, Match, Subscription
from marram.hub.identity.service import Subject
from marram.kit import metrics

MAX_PAYLOAD: Final = 128 << 10
MAX_IN_FLIGHT: Final = 100
MAX_PENDING: Final = 1000  # messages in one tick; more are written at once
MAX_PENDING_BYTES: Final = 1 << 20
MAX_ROUTES: Final = 1024  # topics a connection has a verdict for
MAX_MEMORY: Final = 1000
MAX_MEMORY_BYTES: Final = 1 << 20
NOTHING_QUEUED: Final[deque[int]] = deque(maxlen=0)  # of everybody who has none: an empty deque of its own is 760 bytes
PUBACK: Final = b"\x40\x02"
ALIAS: Final = b"\x23"  # MQTT 5.0, 2.2.2.2
ALIAS_BYTES: Final = 3

dropped: Final = metrics.counter("marram_mqtt_dropped_total", "Messages not delivered to one subscriber", ("reason",))
_slow: Final = dropped.labels(reason="slow subscriber")
_too_large: Final = dropped.labels(reason="over the client's packet size")
_full: Final = dropped.labels(reason="queue full")
_over: Final = dropped.labels(reason="over the rate")


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

    def acknowledged(self, session: "Session", waiting: "Waiting") -> None:
        """The session has room for more; `waiting` is what was acknowledged."""

    def discarded(self, link: "Link", flags: int, packet_id: int) -> None:
        """A PUBLISH over the rate."""

    def fresh(self, message: "Message") -> "Message | None":
        """A message that waited, with the expiry that is left; None when it has expired."""

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


class Link:
    """A live connection. Made by the door; the broker gives it a session."""

    __slots__ = (
        "alias_maximum", "aliases", "client_id", "congested", "connect_context", "connected_ms", "context", "core",
        "dirty", "explains", "is_closed", "keep_alive_ms", "max_packet", "meta", "number", "owner", "pending",
        "port", "rates", "receive_maximum", "routes", "session", "subject", "unacked", "version", "will", "wire",
    )  # fmt: skip

    def __init__(self, core: Core, owner: Owner, wire: Wire, dirty: "list[Link]", subject: Subject) -> None:
        self.core = core
        self.owner = owner
        self.wire = wire
        self.dirty = dirty
        self.subject = subject
        self.context: Mapping[str, str] = {}
        self.connect_context: Mapping[str, str | tuple[str, ...]] = {}  # what iot:Connect was asked with
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
        self.port = 0  # of the client
        self.will: Will | None = None
        self.rates: LinkRates | None = None  # None: no rate is on
        self.alias_maximum = 0  # topic aliases that the client takes
        self.aliases: dict[bytes, int] | None = None  # those it was told

    def __repr__(self) -> str:
        return f"Link({self.client_id!r}, version={self.version}, closed={self.is_closed})"

    @property
    def is_picky(self) -> bool:
        """Messages for it are made one by one: it takes packets of a certain size, topic aliases, a certain rate."""
        return (
            self.max_packet > 0
            or self.alias_maximum > 0
            or (self.rates is not None and self.rates.delivery is not None)
        )

    # the sink of the parser

    def publish(self, frame: bytes, topic: bytes, flags: int, packet_id: int, payload_at: int) -> None:
        core = self.core
        core.published += 1
        size = len(frame) - payload_at
        if size > MAX_PAYLOAD:
            core.too_large(self, size)
            return
        rates = self.rates
        if rates is not None and rates.publish is not None and not rates.publish.take():
            core.discarded(self, flags, packet_id)
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
        waiting = session.window.done(packet_id)
        if session.memory:
            session.drain_memory()
        if waiting is not None or session.queue or session.groups is not None:
            self.core.acknowledged(session, waiting)

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

    def send_message(self, message: Message) -> None:
        """A message with QoS 0, whatever this client is picky about."""
        rates = self.rates
        if rates is not None and not self.congested and not rates.may_deliver():
            _over.inc()
            return
        if self.alias_maximum and not self.congested:
            self.send_zero(self.aliased(message, 0, 0))
        else:
            self.send_zero(message.zero(self.version))

    def aliased(self, message: Message, qos: int, packet_id: int) -> bytes:
        """The frame for a client of MQTT 5 that takes topic aliases: the first topics get one, and keep it."""
        aliases, topic = self.aliases, message.topic
        if aliases is None:
            aliases = self.aliases = {}
        number = aliases.get(topic)
        if number is None and len(aliases) < self.alias_maximum and len(topic) > ALIAS_BYTES:
            number = len(aliases) + 1
            frame = packets.publish_frame(
                V5, topic, message.payload, qos, packet_id, message.retain, False,
                ALIAS + packets.u16(number) + message.properties,
            )  # fmt: skip
            if not self.max_packet or len(frame) <= self.max_packet:
                aliases[topic] = number
                return frame
        elif number is not None:
            return packets.publish_frame(
                V5, b"", message.payload, qos, packet_id, message.retain, False,
                ALIAS + packets.u16(number) + message.properties,
            )  # fmt: skip
        return message.one(V5, packet_id) if qos else message.zero(V5)

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
        "client_id", "expires_ms", "expiry_s", "group", "groups", "is_noted", "joining", "lent", "limit", "link", "lost", "memory",
        "memory_bytes", "principal", "queue", "subject", "subscriptions", "told", "version", "window",
    )  # fmt: skip

    def __init__(self, client_id: str, version: int, expiry_s: int, subject: Subject) -> None:
        self.client_id = client_id
        self.version = version
        self.expiry_s = expiry_s
        self.subject = subject
        self.principal = subject.principal
        self.subscriptions: dict[str, Subscription] = {}
        self.link: Link | None = None
        self.window: Window[Waiting] = Window(MAX_IN_FLIGHT)  # until its first connection
        self.queue = (
            NOTHING_QUEUED  # offsets to send, oldest first; changed by `enqueue`, `fill`, and by taking from it
        )
        self.limit = 0  # of the queue
        self.joining = 0  # messages of this tick that will join the queue
        self.memory: deque[Message] | None = None  # made when it is needed: an empty one is 700 bytes
        self.memory_bytes = 0
        self.expires_ms = 0  # wall clock; 0 while it is connected
        self.lost = 0
        self.told = 0  # of those that were lost, how many were reported
        self.is_noted = False  # the journal or the checkpoint has a beginning of it
        self.groups: list[Group] | None = None  # shared subscriptions it is a member of
        self.group: Group | None = None  # this is the queue of a shared subscription
        self.lent: set[Lent] | None = None  # of that queue: what is with members

    def __repr__(self) -> str:
        return f"Session({self.client_id!r}, queued={len(self.queue)}, unacked={len(self.window)}, filters={len(self.subscriptions)})"

    @property
    def is_durable(self) -> bool:
        return self.expiry_s > 0

    @property
    def has_room(self) -> bool:
        """It can be sent a message now."""
        link = self.link
        return link is not None and not link.congested and not self.memory and not self.window.is_full()

    def deliver(self, message: Message) -> None:
        """A QoS 1 message to a session that ends with its connection."""
        link = self.link
        if link is None:
            return
        if link.rates is not None and not link.rates.may_deliver():
            _over.inc()
            return
        if self.memory or self.window.is_full() or link.congested:
            self.remember(message)
            return
        self._send(link, message, None)

    def remember(self, message: Message) -> None:
        """It waits in memory for room."""
        memory = self.memory
        if memory is None:
            memory = self.memory = deque()
        if len(memory) >= MAX_MEMORY or self.memory_bytes + len(message.payload) > MAX_MEMORY_BYTES:
            self.lost += 1
            _full.inc()
            return
        memory.append(message)
        self.memory_bytes += len(message.payload)

    def deliver_durable(self, message: Message, entry: Entry) -> None:
        """A QoS 1 message that `entry` carries into the journal: at once when there is room, else by its offset."""
        link = self.link
        if link is None or self.window.is_full() or link.congested or self._must_wait(link):
            self.join(entry)
            return
        self._send(link, message, entry)

    def join(self, entry: Entry) -> None:
        """Its queue gets the offset of `entry` at the end of the turn; a full queue does not, as AWS: the old ones stay."""
        if len(self.queue) + self.joining >= self.limit:
            self.lost += 1
            _full.inc()
            return
        if entry.sessions is None:
            entry.sessions = []
        entry.sessions.append(self)
        self.joining += 1

    def enqueue(self, offset: int) -> None:
        """Behind all that waits."""
        if self.queue is NOTHING_QUEUED:
            made: deque[int] = deque()
            self.queue = made
        self.queue.append(offset)

    def fill(self, offsets: list[int]) -> None:
        """These wait, in this order, and nothing else."""
        self.queue = deque(offsets) if offsets else NOTHING_QUEUED

    def lend(self, message: Message, lent: Lent) -> None:
        """A message of a shared subscription; there is room."""
        assert self.link is not None
        if lent.store.lent is not None:
            lent.store.lent.add(lent)
        self._send(self.link, message, lent)

    def ask(self, message: Message, asked: Asked) -> None:
        """A message that somebody waits for; there is room."""
        assert self.link is not None
        self._send(self.link, message, asked)

    def drain_memory(self) -> None:
        link, memory = self.link, self.memory
        while memory and link is not None and not self.window.is_full() and not link.congested:
            message = memory.popleft()
            self.memory_bytes -= len(message.payload)
            fresh = link.core.fresh(message) if message.expires_ms else message
            if fresh is not None:
                self._send(link, fresh, None)

    def send_stored(self, message: Message, offset: int) -> None:
        """One from the journal."""
        assert self.link is not None
        entry = Entry()
        entry.offset = offset
        self._send(self.link, message, entry)

    def unacknowledged(self) -> list[int]:
        """Offsets that were sent and not acknowledged, in order."""
        offsets: list[int] = []
        if self.lent is not None:
            for lent in self.lent:
                if lent.entry.offset >= 0:
                    offsets.append(lent.entry.offset)
        else:
            for waiting in self.window.values():
                if isinstance(waiting, Entry) and waiting.offset >= 0:
                    offsets.append(waiting.offset)
        offsets.sort()
        return offsets

    def requeue(self) -> None:
        """The connection is gone: what it did not acknowledge is sent again."""
        unacked = self.unacknowledged()
        if unacked:
            self.fill([*unacked, *self.queue])
        for waiting in self.window.values():
            if isinstance(waiting, Asked):
                waiting.done(False)
        self.window.clear()
        self.memory = None
        self.memory_bytes = 0

    def _must_wait(self, link: Link) -> bool:
        """What is new stands behind what waits, or the rate does not allow it."""
        rates = link.rates
        if rates is None:
            return len(self.queue) + self.joining > 0
        # AWS sends what waited slowly, and what is new beside it.
        if len(self.queue) + self.joining > 0 and rates.stored is None:
            return True
        return not rates.may_deliver()

    def _send(self, link: Link, message: Message, waiting: Waiting) -> None:
        packet_id = self.window.take(waiting)
        frame = link.aliased(message, 1, packet_id) if link.alias_maximum else message.one(link.version, packet_id)
        if link.max_packet and len(frame) > link.max_packet:
            self.window.done(packet_id)  # MQTT 5.0, 3.1.2-25: as if it had been sent
            _too_large.inc()
            if waiting is not None:
                link.core.acknowledged(self, waiting)
            return
        link.send(frame)
