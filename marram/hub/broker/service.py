"""The broker: owns subscriptions, sessions, retained messages, wills; takes every publish and sees it to whoever wants it.

A message is matched once. Live subscribers get it at the end of the tick; it is appended to the journal when a durable
consumer (rules) or a persistent session wants it, and then acknowledged after the sync. Reserved topics go to the handler of
their slice, whose transaction comes before the PUBACK. Links are the door's (border/mqtt); journal records are made here.

Record meta: c client id, p principal, q QoS, n consumers, s sessions, u user properties, v all MQTT 5 properties (base64),
e expires_ms, l labels, o [source, position, index], h hops.
"""

import asyncio
import base64
import binascii
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from marram.core import arn, codec
from marram.core import topic as topics
from marram.core.codec import JsonObject, JsonValue
from marram.core.errors import Denied, Invalid, LimitExceeded, MarramError, Unavailable
from marram.core.mqtt import packets, v5
from marram.core.mqtt.connection import HAS_PROPERTIES, properties_of
from marram.core.mqtt.packets import PUBLISH, Properties, Reader, Subscribe, Unsubscribe, Will, Wish
from marram.core.segment import KIND_MESSAGE, KIND_SESSION, Origin, Record
from marram.hub.broker import presence, recovery, store
from marram.hub.broker.commits import Commits
from marram.hub.broker.reserved import Reserved
from marram.hub.broker.retained import RetainedMessages
from marram.hub.broker.route import Group, Match, Router, Subscription
from marram.hub.broker.session import (
    MAX_IN_FLIGHT,
    MAX_PAYLOAD,
    MAX_ROUTES,
    Ack,
    Entry,
    Link,
    Message,
    Session,
    dropped,
)
from marram.hub.broker.store import Retained
from marram.hub.bus import Bus
from marram.hub.identity.service import EVERYBODY, Identity, PrincipalChanged, Subject
from marram.kit import metrics
from marram.kit.clock import Clock, Entropy, uuid4
from marram.kit.db import Db, Tx
from marram.kit.log import logger
from marram.kit.seglog import Journal

log = logger(__name__)

DEFAULT_EXPIRY_S: Final = 3600
MAX_EXPIRY_S: Final = 7 * 24 * 3600
MAX_MESSAGE_EXPIRY_S: Final = 604_800
MAX_FILTERS: Final = 8  # of one SUBSCRIBE
MAX_SUBSCRIPTIONS: Final = 50
MAX_SESSIONS: Final = 1_000_000
MAX_HOPS: Final = 10
TAKEOVER_BURST: Final = 3  # of one client id; after that one a second
TAKEOVER_MS: Final = 1000
UNSYNCED_BYTES: Final = 8 << 20  # above it publishers are not read
CHECKPOINT_S: Final = 10.0
CHECKPOINT_SESSIONS: Final = 200
REPLAY_RECORDS: Final = 2000
SESSION_SHARE: Final = 0.5  # of the journal's budget: beyond it sessions lose their oldest messages
READ_RECORDS: Final = 64
READ_BYTES: Final = 256 << 10
REFRESHED_AT_ONCE: Final = 500
NOTHING: Final[Mapping[str, str]] = {}
MRM_SEQ: Final = "mrm-seq"

_repeats: Final = metrics.counter("marram_mqtt_repeats_total", "Repeats of numbered messages, dropped").labels()
_published: Final = metrics.gauge("marram_mqtt_published_total", "Messages that clients published").labels()
_links: Final = metrics.gauge("marram_mqtt_connections", "Clients connected").labels()
_sessions: Final = metrics.gauge("marram_mqtt_sessions", "Sessions, connected or waiting").labels()
_lost: Final = dropped.labels(reason="no longer in the journal")
_expired: Final = dropped.labels(reason="expired")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    expiry_s: int = DEFAULT_EXPIRY_S  # of a 3.1.1 session with clean session 0
    max_expiry_s: int = MAX_EXPIRY_S


class _Settled:
    """The end of a publish inside the process."""

    __slots__ = ("future",)

    def __init__(self, future: "asyncio.Future[MarramError | None]") -> None:
        self.future = future

    def settle(self, failed: MarramError | None) -> None:
        if not self.future.done():
            self.future.set_result(failed)


class _Later:
    """A frame that waits for the journal: the SUBACK of a persistent session."""

    __slots__ = ("broker", "frame", "link")

    def __init__(self, broker: "Broker", link: Link, frame: bytes) -> None:
        self.broker, self.link, self.frame = broker, link, frame

    def settle(self, failed: MarramError | None) -> None:
        if self.link.is_closed:
            return
        if failed is not None:
            self.link.owner.end(packets.QUOTA_EXCEEDED, failed.message, presence.SERVER_ERROR)
        else:
            self.link.send(self.frame)
            self.broker.touch()


class Broker:
    def __init__(
        self,
        *,
        journal: Journal,
        db: Db,
        identity: Identity,
        clock: Clock,
        entropy: Entropy,
        bus: Bus,
        settings: Settings | None = None,
    ) -> None:
        self.published = 0
        self.dirty: list[Link] = []
        self.router = Router()
        self.sessions: dict[str, Session] = {}
        self.links: dict[str, Link] = {}
        self.settings = settings or Settings()
        self._journal, self._db, self._identity, self._clock, self._entropy = journal, db, identity, clock, entropy
        self._topic_arn = arn.build("iot", identity.region, identity.account, "topic/")
        self._filter_arn = arn.build("iot", identity.region, identity.account, "topicfilter/")
        self._by_principal: dict[str, set[Session]] = {}
        self._commits = Commits(journal, self._settled, self._hungry_now)
        self._retained = RetainedMessages(db)
        self._versions = presence.Versions()
        self._consumers: dict[str, Callable[[str], bool]] = {}
        self._reserved = Reserved(clock, self._settled)
        self._acked: dict[str, list[int]] = {}  # offsets by client id, for the record at the tick's end
        self._hungry: set[Session] = set()  # connected, with offsets that are not synced yet or wait for room
        self._wills: dict[str, tuple[int, Will, Subject]] = {}  # delayed: due (wall), by client id
        self._paused: list[Link] = []
        self._takeovers: dict[str, int] = {}  # by client id: the time up to which its takeovers count, monotonic ms
        self._scheduled = False
        self._wall_ms = 0  # of this tick, once somebody asked
        self._loop: asyncio.AbstractEventLoop | None = None
        self._checkpoint = 0
        self._floors: dict[str, int] = {}  # the lowest offset in each stored row
        self._keepers: dict[str, Callable[[], int]] = {}
        self._to_refresh: list[Session] = []
        bus.subscribe(PrincipalChanged, self._principal_changed)
        journal.on_synced(self._synced)

    # declarations

    def add_consumer(self, name: str, wants: Callable[[str], bool], *, required: bool = True) -> None:
        """A durable consumer: messages on topics that it wants are appended in its name; it reads the journal itself."""
        self._consumers[name] = wants
        self.consumers_changed()

    def consumers_changed(self) -> None:
        """What a consumer wants is another thing now."""
        self.router.forget_all()

    def add_handlers(self, services: Mapping[str, object]) -> None:
        """Every reserved topic that a slice among `services` has declared."""
        self._reserved.declare(services)
        self.router.forget_all()

    def keep(self, name: str, position: Callable[[], int]) -> None:
        """Somebody reads the journal: it is trimmed below the lowest `position` only."""
        self._keepers[name] = position

    @property
    def position(self) -> int:
        """The journal may be trimmed below this offset, as far as the broker is concerned."""
        return min([self._checkpoint, *self._floors.values()])

    # life

    async def start(self) -> None:
        """Sessions, origins as they were. Raises JournalDamaged, Corrupt."""
        self._loop = asyncio.get_running_loop()
        rows, origins, checkpoint = self._db.read_now(
            lambda tx: (store.sessions(tx), store.origins(tx), store.checkpoint(tx))
        )
        position = self._journal.start if checkpoint is None else checkpoint
        self._journal.check_cursors({"broker": position})
        replay = recovery.Replay(self._clock.wall_ms())
        for client_id, stored in rows:
            replay.row(client_id, stored)
        replay.origins.update(origins)
        await self._replay(replay, max(position, self._journal.start))
        for session in replay.sessions.values():
            self.sessions[session.client_id] = session
            self._refresh(session)
            self._index(session)
            for subscription in session.subscriptions.values():
                self.router.subscribe(session, subscription)
        self._commits.highest = replay.origins
        self._commits.changed_sources.update(replay.origins)
        self._checkpoint = position
        self._floors = {client_id: min(session.queue, default=position) for client_id, session in self.sessions.items()}
        log.info("broker.recovered", sessions=len(self.sessions), origins=len(replay.origins))

    async def run(self) -> None:
        """Reserved topics, retained messages, checkpoints, expiry. Returns when cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._reserved.run(), name="broker-reserved")
            group.create_task(self._retained.run(), name="broker-retained")
            group.create_task(self._housekeeping(), name="broker-housekeeping")

    async def stop(self) -> None:
        """Write the checkpoint. Links are closed by the door, before."""
        self._flush()
        try:
            await self.checkpoint()
        except MarramError as exc:  # the journal has it all: the next start replays
            log.warning("broker.checkpoint_failed", reason=exc.message)

    # in-process publishers

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 0,
        retain: bool = False,
        subject: Subject | None = None,
        origin: Origin | None = None,
        properties: Mapping[str, object] | None = None,
        labels: frozenset[str] = frozenset(),
        hops: int = 0,
    ) -> None:
        """Publish for a part of the hub, or for a `subject` whose right was checked. Returns when acknowledged: when it
        was appended, after the sync; on a reserved topic, after its handler's transaction.

        Raises Invalid for the topic, LimitExceeded for the payload or the hops, Denied for a reserved topic that nobody
        handles (with a subject only), Unavailable when it could not be written.
        """
        topics.check_name(topic)
        if len(payload) > MAX_PAYLOAD:
            raise LimitExceeded(f"payload of {len(payload)} bytes; the limit is {MAX_PAYLOAD}", limit=MAX_PAYLOAD)
        if hops > MAX_HOPS:
            raise LimitExceeded(f"the message came through {hops} republishes; the limit is {MAX_HOPS}", limit=MAX_HOPS)
        match = self._match(topic)
        if subject is not None and topics.is_reserved(topic) and not (match.is_reserved or match.is_ingest):
            raise Denied(f"topic {topic} is reserved", topic=topic)
        if retain and topics.is_reserved(topic):
            raise Denied(f"no message can be retained on the reserved topic {topic}", topic=topic)
        given: Properties = dict(properties) if properties else {}  # type: ignore[arg-type]  # checked by the encoder
        message = self._message(topic.encode(), payload, qos, v5.write_properties(given, PUBLISH), given)
        entry = Entry()
        assert self._loop is not None
        if (
            origin is not None
            and origin.source == "outbox"
            and not self._commits.accept("outbox", origin.position, entry)
        ):
            return  # appended in the last life
        future: asyncio.Future[MarramError | None] = self._loop.create_future()
        ack = Ack(None, 0, 1)
        ack.done = _Settled(future)
        client_id = subject.client_id if subject is not None and subject.client_id is not None else ""
        head: JsonObject = {"c": client_id, "p": subject.principal if subject is not None else "marram"}
        extra: JsonObject = {}
        if origin is not None:
            extra["o"] = list[JsonValue]((origin.source, origin.position, origin.index))
        if labels:
            extra["l"] = list[JsonValue](sorted(labels))
        if hops:
            extra["h"] = hops
        self._spread(message, match, entry, ack, codec.dumps(head)[:-1], extra, given, None)
        if retain:
            self._retain(message, ack)
        self._settled(ack, None)  # the one that was counted for ourselves
        self._flush()
        failed = await future
        if failed is not None:
            kind = type(failed) if isinstance(failed, Unavailable) else Unavailable
            raise kind(f"the message was not stored: {failed.message}")
        if match.is_reserved:
            await self._reserved.handle(topic, payload, subject or self._identity.internal, client_id)

    async def publish_outbox(self, row_id: int, topic: str, body: bytes) -> None:
        """A row of the outbox, in order. Raises Unavailable: it is given again."""
        try:
            await self.publish(topic, body, qos=1, origin=Origin("outbox", row_id, 0))
        except Invalid as exc:
            log.error("broker.outbox_refused", row=row_id, topic=topic[:300], reason=exc.message)

    def retained(self, topic: str) -> Retained | None:
        return self._retained.get(topic, self._clock.wall_ms())

    async def retained_page(self, after: str, limit: int) -> list[Retained]:
        return await self._db.read(lambda tx: store.retained_page(tx, after, limit))

    # what the door asks

    def expiry_s(self, version: int, clean: bool, wanted_s: int) -> int:
        """How long a session outlives its connection."""
        if version == packets.V5:
            return min(wanted_s, self.settings.max_expiry_s)
        return 0 if clean else self.settings.expiry_s

    def may_connect(self, subject: Subject, client_id: str, context: Mapping[str, str | tuple[str, ...]]) -> bool:
        resource = arn.build("iot", self._identity.region, self._identity.account, f"client/{client_id}")
        return self._identity.may(subject, "iot:Connect", resource, context)

    def may_publish(self, subject: Subject, topic: str, *, retain: bool, context: Mapping[str, str] = NOTHING) -> bool:
        """The policy, and the rules about reserved topics."""
        if topics.is_reserved(topic):
            match = self._match(topic)
            if retain or not (match.is_reserved or match.is_ingest):
                return False
        resource = self._topic_arn + topic
        return self._identity.may(subject, "iot:Publish", resource, context) and (
            not retain or self._identity.may(subject, "iot:RetainPublish", resource, context)
        )

    def attach(self, link: Link, *, clean: bool, expiry_s: int, address: str) -> bool:
        """Give the link its session; a link of the same client id ends. Returns whether the session was there before."""
        client_id = link.client_id
        other = self.links.get(client_id)
        if other is not None:
            self._take_over(other, link, address)
        self._wills.pop(client_id, None)
        session = self.sessions.get(client_id)
        if session is not None and (clean or session.version != link.version):
            self._discard(session)  # AWS: a 3.1.1 session cannot be resumed as MQTT 5, nor the reverse
            session = None
        present = session is not None
        if session is None:
            if len(self.sessions) >= MAX_SESSIONS:
                raise LimitExceeded(f"{MAX_SESSIONS} sessions", limit=MAX_SESSIONS)
            session = Session(client_id, link.version, expiry_s, link.subject)
            self.sessions[client_id] = session
        else:
            self._unindex(session)
        session.expiry_s = expiry_s
        session.subject = link.subject
        session.principal = link.subject.principal
        session.expires_ms = 0
        session.link = link
        session.window.limit = min(MAX_IN_FLIGHT, link.receive_maximum)
        link.session = session
        link.meta = codec.dumps({"c": client_id, "p": link.subject.principal})[:-1]
        link.number = uuid4(self._entropy)
        link.connected_ms = self._clock.wall_ms()
        self.links[client_id] = link
        self._index(session)
        for text in list(session.subscriptions):
            if self._may_subscribe(link, text):
                self.router.changed(_inner(text))
            else:
                self._unsubscribe(session, text)
        if session.is_durable:
            self._note([recovery.begin(session)])
        elif client_id in self._floors:
            self._note([[recovery.END, client_id]])
        if session.queue:
            self._hungry_now(session)
        _links.set(len(self.links))
        _sessions.set(len(self.sessions))
        now_ms = link.connected_ms
        if presence.has_events(client_id):
            number = self._versions.next(client_id, now_ms)
            self._event(*presence.connected(client_id, link.subject.principal, now_ms, number, link.number, address))
        self.touch()
        return present

    def _take_over(self, old: Link, new: Link, address: str) -> None:
        """End `old`. Raises LimitExceeded when the client id goes to and fro: two clients that reconnect would never stop."""
        client_id, now_ms = new.client_id, self._clock.mono_ns() // 1_000_000
        since_ms = max(self._takeovers.get(client_id, 0), now_ms - TAKEOVER_BURST * TAKEOVER_MS) + TAKEOVER_MS
        if since_ms > now_ms:
            raise LimitExceeded(
                f"client id {client_id} was taken over {TAKEOVER_BURST} times in as many seconds: two clients use it",
                kind="rate",
            )
        self._takeovers[client_id] = since_ms
        log.warning(
            "mqtt.taken_over", client=client_id, certificate=new.subject.principal, address=address,
            from_certificate=old.subject.principal, from_address=old.context.get("aws:SourceIp", ""),
        )  # fmt: skip
        who = f"certificate {new.subject.principal[:12]} at {address}"
        old.owner.end(
            packets.SESSION_TAKEN_OVER, f"another connection has the client id {client_id}: {who}", presence.DUPLICATE
        )

    def connect_failed(self, subject: Subject, client_id: str, address: str) -> None:
        if client_id and presence.has_events(client_id):
            now_ms = self._clock.wall_ms()
            number = uuid4(self._entropy)
            self._event(*presence.connect_failed(client_id, subject.principal, now_ms, number, address))

    def detach(self, link: Link, event: str, *, will: bool, expiry_s: int | None = None) -> None:
        """The link is at its end, for the reason `event`. `expiry_s`: from a DISCONNECT of MQTT 5. Called once."""
        session = link.session
        if session is None:
            return
        link.session = None
        self._flush()  # entries in its window learn their offsets
        if self.links.get(link.client_id) is link:
            del self.links[link.client_id]
        if expiry_s is not None and session.expiry_s > 0:
            session.expiry_s = min(expiry_s, self.settings.max_expiry_s)
        session.link = None
        self._hungry.discard(session)
        session.requeue()
        now_ms = self._clock.wall_ms()
        if session.is_durable:
            session.expires_ms = now_ms + session.expiry_s * 1000
            for text in session.subscriptions:
                self.router.changed(_inner(text))
            self._note([[recovery.LEFT, session.client_id, session.expires_ms]])
        else:
            self._discard(session)
        if will and link.will is not None:
            delay_s = link.will.properties.get("will_delay_s")
            if isinstance(delay_s, int) and delay_s and session.is_durable:
                due_ms = now_ms + min(delay_s, session.expiry_s) * 1000
                self._wills[link.client_id] = (due_ms, link.will, link.subject)
            else:
                self._send_will(link.client_id, link.will, link.subject)
        if presence.has_events(link.client_id):
            number = self._versions.left(link.client_id, now_ms)
            self._event(
                *presence.disconnected(link.client_id, link.subject.principal, now_ms, number, link.number, event)
            )
        _links.set(len(self.links))
        _sessions.set(len(self.sessions))
        self.touch()

    def subscribe(self, link: Link, packet: Subscribe) -> list[int]:
        """Answers with SUBACK, after the sync for a persistent session, and sends what is retained. Returns the codes."""
        session = link.session
        assert session is not None
        reasons: list[int] = []
        granted: list[tuple[Wish, Subscription, bool]] = []
        changes: list[list[JsonValue]] = []
        for wish in packet.wishes:
            reason = self._check_wish(link, session, wish)
            reasons.append(reason)
            if reason > 1:
                continue
            made = Subscription(wish.filter, wish.qos, wish.no_local, wish.retain_as_published)
            is_new = wish.filter not in session.subscriptions
            session.subscriptions[wish.filter] = made
            self.router.subscribe(session, made)
            changes.append(recovery.subscribed(session, made))
            granted.append((wish, made, is_new))
        answer = (
            v5.encode(
                packets.Suback(packet.packet_id, reasons, _why_not(packet.wishes, reasons) if link.explains else {})
            )
            if link.version == packets.V5
            else packets.frame(0x90, packets.u16(packet.packet_id) + bytes(reasons))
        )
        if session.is_durable and changes:
            ack = Ack(None, 0, 1)
            ack.done = _Later(self, link, answer)
            self._note(changes, ack)
        else:
            link.send(answer)
        for wish, made, is_new in granted:
            if wish.retain_handling == 0 or (wish.retain_handling == 1 and is_new):
                self._send_retained(link, session, made)
        filters = [made.filter for _, made, _ in granted]
        if filters and presence.has_events(link.client_id):
            self._event(
                *presence.subscriptions(
                    "subscribed", link.client_id, link.subject.principal, self._clock.wall_ms(), link.number, filters
                )
            )
        self.touch()
        return reasons

    def unsubscribe(self, link: Link, packet: Unsubscribe) -> None:
        session = link.session
        assert session is not None
        reasons: list[int] = []
        gone: list[str] = []
        for text in packet.filters:
            if text in session.subscriptions:
                self._unsubscribe(session, text)
                gone.append(text)
                reasons.append(packets.SUCCESS)
            else:
                reasons.append(packets.NO_SUBSCRIPTION_EXISTED)
        answer = packets.Unsuback(packet.packet_id, reasons)
        link.send(v5.encode(answer) if link.version == packets.V5 else b"\xb0\x02" + packets.u16(packet.packet_id))
        if gone and presence.has_events(link.client_id):
            self._event(
                *presence.subscriptions(
                    "unsubscribed", link.client_id, link.subject.principal, self._clock.wall_ms(), link.number, gone
                )
            )
        self.touch()

    def touch(self) -> None:
        """Have pending bytes and records go out at the end of this tick."""
        if not self._scheduled and self._loop is not None:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    @property
    def is_overloaded(self) -> bool:
        return self._journal.unsynced_bytes > UNSYNCED_BYTES

    def pause(self, link: Link) -> None:
        """Stop reading from the link until the journal has caught up."""
        self._paused.append(link)
        link.owner.pause()

    def writable(self, link: Link) -> None:
        """The socket takes bytes again."""
        session = link.session
        if session is not None:
            session.drain_memory()
            if session.queue:
                self._drain(session)
            self.touch()

    # what links ask

    def resolve(self, link: Link, topic: bytes, flags: int, packet_id: int) -> Match | None:
        try:
            text = topics.check_name(topic.decode())
        except (UnicodeDecodeError, Invalid) as exc:
            why = exc.message if isinstance(exc, Invalid) else "the topic name is not UTF-8"
            self._refuse(link, packet_id, packets.TOPIC_NAME_INVALID, why, presence.CLIENT_ERROR)
            return None
        if not self.may_publish(link.subject, text, retain=False, context=link.context):
            self._refuse(
                link,
                packet_id,
                packets.NOT_AUTHORIZED,
                f"iot:Publish on {text[:300]} is not allowed",
                presence.FORBIDDEN,
            )
            return None
        match = self._match(text)
        if match.keep:
            if len(link.routes) >= MAX_ROUTES:
                link.routes.clear()
            link.routes[topic] = match
        return match

    def publish_slowly(
        self, link: Link, match: Match, frame: bytes, flags: int, packet_id: int, payload_at: int
    ) -> None:
        topic = match.topic.encode()
        qos = flags >> 1 & 3
        if flags & 1 and not self.may_publish(link.subject, match.topic, retain=True, context=link.context):
            self._refuse(
                link,
                packet_id,
                packets.NOT_AUTHORIZED,
                f"retaining on {match.topic[:300]} is not allowed",
                presence.FORBIDDEN,
            )
            return
        encoded = b""
        properties: Properties = {}
        if flags & HAS_PROPERTIES:
            encoded = properties_of(frame, topic, flags, payload_at)
            body = v5.with_length(encoded)
            properties = v5.read_properties(Reader(body, 0, len(body)), PUBLISH)
        message = self._message(topic, frame[payload_at:], qos, encoded, properties)
        message.was_retained = flags & 1 == 1
        ack: Ack | None = None
        if qos:
            ack = Ack(link, packet_id, 1)
            link.unacked += 1
            if link.unacked > MAX_IN_FLIGHT and not self._too_many(link):
                return
        entry = Entry()
        extra: JsonObject = {}
        if flags & HAS_PROPERTIES and not self._number(link, properties, entry, extra, ack):
            self.touch()
            return
        self._spread(message, match, entry, ack, link.meta, extra, properties, link.session)
        if flags & 1:
            self._retain(message, ack)
        if match.is_reserved:
            self._reserved.hand_over(link, match.topic, message.payload, ack)
        if ack is not None:
            self._settled(ack, None)
        self.touch()

    def append(self, link: Link, match: Match, topic: bytes, payload: bytes, packet_id: int, entry: Entry) -> None:
        entry.ack = Ack(link, packet_id, 1)
        link.unacked += 1
        if link.unacked > MAX_IN_FLIGHT:
            self._too_many(link)  # what was delivered is appended all the same
        if not self._wall_ms:
            self._wall_ms = self._clock.wall_ms()
        self._commits.add(Record(KIND_MESSAGE, 0, self._wall_ms, topic, link.meta + match.meta_one, payload), entry)
        self.touch()

    def _too_many(self, link: Link) -> bool:
        """Over 100 unacknowledged: MQTT 5 ends, 3.1.1 is not read for a while. Whether the message is taken."""
        if link.version == packets.V5:
            link.owner.end(packets.RECEIVE_MAXIMUM_EXCEEDED, "over 100 unacknowledged", presence.CLIENT_ERROR)
            return False
        self.pause(link)
        return True

    def acknowledged(self, session: Session, entry: Entry | None) -> None:
        if entry is not None and entry.offset >= 0:
            self._acked.setdefault(session.client_id, []).append(entry.offset)
        if session.queue:
            self._drain(session)
        self.touch()

    def too_large(self, link: Link, size: int) -> None:
        link.owner.end(
            packets.QUOTA_EXCEEDED,
            f"PAYLOAD_LIMIT_EXCEEDED: {size} bytes, the limit is {MAX_PAYLOAD}",
            presence.CLIENT_ERROR,
        )

    # matching

    def _match(self, topic: str) -> Match:
        match = self.router.known(topic)
        if match is None:
            match = self._make_match(topic)
            if match.keep:
                self.router.keep(match)
        return match

    def _make_match(self, topic: str) -> Match:
        match = Match(topic)
        if topic.startswith(topics.BASIC_INGEST):
            match.is_ingest = True
        else:
            for session, subscription in self.router.sessions(topic).items():
                if self._may_receive(session, topic, match):
                    match.add(session, subscription)
            match.groups = self.router.groups(topic)
            match.is_reserved = topics.is_reserved(topic) and self._reserved.has(topic)
        match.consumers = tuple(name for name, wants in self._consumers.items() if wants(topic))
        match.finish(codec.dumps(list(match.consumers)), codec.dumps([session.client_id for session in match.durable]))
        return match

    def _may_receive(self, session: Session, topic: str, match: Match | None) -> bool:
        if match is not None and session.subject.program.timed:
            match.keep = False  # the answer depends on the clock
        context = session.link.context if session.link is not None else NOTHING
        return self._identity.may(session.subject, "iot:Receive", self._topic_arn + topic, context)

    def _spread(
        self,
        message: Message,
        match: Match,
        entry: Entry,
        ack: Ack | None,
        head: bytes,
        extra: JsonObject,
        properties: Properties,
        source: Session | None,
    ) -> None:
        """To everybody live, and into the journal when somebody wants it to last."""
        names: list[str] = []
        if message.qos:
            for link in match.zero4:
                link.send_zero(message.zero(4))
            for link in match.zero5:
                link.send_zero(message.zero(5))
            for session in match.one:
                session.deliver(message)
            for session in match.durable:
                session.deliver_durable(message, entry)
                names.append(session.client_id)
        else:
            for link in match.links4:
                link.send_zero(message.zero(4))
            for link in match.links5:
                link.send_zero(message.zero(5))
        for session, subscription in match.special:
            if subscription.no_local and session is source:
                continue
            self._send_one(session, subscription, message, entry, names)
        for group in match.groups:
            self._send_group(group, message, entry, names)
        if match.consumers or names:
            self._append(message, match, entry, ack, head, extra, properties, names)

    def _send_one(
        self, session: Session, subscription: Subscription, message: Message, entry: Entry, names: list[str]
    ) -> None:
        if message.was_retained and subscription.retain_as_published:
            message = Message(message.topic, message.payload, message.qos, message.properties, True, message.expires_ms)
        if message.qos and subscription.qos:
            if session.is_durable:
                session.deliver_durable(message, entry)
                names.append(session.client_id)
            else:
                session.deliver(message)
        elif session.link is not None:
            session.link.send_zero(message.zero(session.link.version))

    def _send_group(self, group: Group, message: Message, entry: Entry, names: list[str]) -> None:
        """To one member: one that is connected and reads, else for QoS 1 the queue of a persistent one."""
        topic, members = message.topic.decode(), group.members
        able = [session for session in members if self._may_receive(session, topic, None)]
        chosen = [s for s in able if s.link is not None and not s.link.congested and not s.window.is_full()]
        if not chosen and message.qos:
            chosen = [s for s in able if s.is_durable and members[s].qos] or [s for s in able if s.link is not None]
        if not chosen:
            return
        group.turn += 1
        session = chosen[group.turn % len(chosen)]
        self._send_one(session, members[session], message, entry, names)

    def _append(
        self,
        message: Message,
        match: Match,
        entry: Entry,
        ack: Ack | None,
        head: bytes,
        extra: JsonObject,
        properties: Properties,
        names: list[str],
    ) -> None:
        meta = head + (b',"q":1' if message.qos else b',"q":0') + match.meta
        if names:
            extra["s"] = list[JsonValue](names)
        if properties:
            users = properties.get("user_properties")
            if isinstance(users, list):
                extra["u"] = [list(pair) for pair in users]  # type: ignore[arg-type]  # pairs of strings
            extra["v"] = base64.b64encode(message.properties).decode()
        if message.expires_ms:
            extra["e"] = message.expires_ms
        meta += b"," + codec.dumps(extra)[1:] if extra else b"}"
        if ack is not None:
            ack.left += 1
            entry.ack = ack
        if entry.source:
            self._commits.carried(entry)
        self._commits.add(
            Record(
                KIND_MESSAGE,
                1 if message.was_retained else 0,
                self._clock.wall_ms(),
                message.topic,
                meta,
                message.payload,
            ),
            entry,
        )

    def _message(self, topic: bytes, payload: bytes, qos: int, encoded: bytes, properties: Properties) -> Message:
        expires_ms = 0
        expiry_s = properties.get("message_expiry_s")
        if isinstance(expiry_s, int):
            expires_ms = self._clock.wall_ms() + min(max(expiry_s, 1), MAX_MESSAGE_EXPIRY_S) * 1000
        return Message(topic, payload, qos, encoded, False, expires_ms)

    def _number(self, link: Link, properties: Properties, entry: Entry, extra: JsonObject, ack: Ack | None) -> bool:
        """`mrm-seq` of an edge core: False when it is a repeat, which is then acknowledged and goes nowhere."""
        users = properties.get("user_properties")
        if not isinstance(users, list):
            return True
        for pair in users:
            if isinstance(pair, tuple) and pair[0] == MRM_SEQ:
                spool, _, rest = pair[1].partition(":")
                lane, _, digits = rest.rpartition(":")
                if not spool or not digits.isascii() or not digits.isdigit() or len(digits) > 18 or len(pair[1]) > 200:
                    return True  # not ours: an ordinary property of that name
                source = f"{MRM_SEQ}:{link.subject.principal}:{spool}:{lane}"
                if self._commits.accept(source, int(digits), entry):
                    extra["o"] = [source, int(digits), 0]
                    return True
                _repeats.inc()
                if ack is not None:
                    ack.left += 1
                    if not self._commits.join(source, ack):
                        ack.left -= 1
                    self._settled(ack, None)
                return False
        return True

    # acknowledgements

    def _settled(self, ack: Ack, failed: MarramError | None) -> None:
        """One of the things that `ack` waits for has come about."""
        if failed is not None and ack.failed is None:
            ack.failed = failed
        ack.left -= 1
        if ack.left:
            return
        link = ack.link
        if link is None:
            if ack.done is not None:
                ack.done.settle(ack.failed)
            return
        link.unacked -= 1
        if self._paused and link.unacked == MAX_IN_FLIGHT // 2:
            self._resume()
        if link.is_closed:
            return
        if ack.failed is None:
            link.acknowledge(ack.packet_id)
            self.touch()
        elif link.version == packets.V5:
            link.acknowledge(ack.packet_id, packets.QUOTA_EXCEEDED, ack.failed.message)
            self.touch()
        else:
            link.owner.end(packets.QUOTA_EXCEEDED, ack.failed.message, presence.SERVER_ERROR)

    def _refuse(self, link: Link, packet_id: int, reason: int, why: str, event: str) -> None:
        """MQTT 5 with QoS 1: a PUBACK that says so. Else the connection ends, as AWS has it."""
        if link.version == packets.V5 and packet_id:
            link.acknowledge(packet_id, reason, why)
            log.info("mqtt.publish_refused", client=link.client_id, reason=why)
            self.touch()
        else:
            link.owner.end(reason, why, event)

    # retained

    def _retain(self, message: Message, ack: Ack | None) -> None:
        topic = message.topic.decode()
        item: Retained | None = None
        if message.payload:
            item = Retained(
                topic=topic,
                payload=message.payload,
                qos=message.qos,
                properties=message.properties,
                created_ms=self._clock.wall_ms(),
                expires_ms=message.expires_ms or None,
            )
        if ack is None:
            self._retained.put(topic, item, _nobody)
            return
        ack.left += 1
        self._retained.put(topic, item, lambda failed: self._settled(ack, failed))

    def _send_retained(self, link: Link, session: Session, made: Subscription) -> None:
        """AWS: only to a filter that is the topic itself."""
        if topics.has_wildcard(made.filter) or made.filter.startswith(topics.SHARE):
            return
        found = self.retained(made.filter)
        if found is None or not self._may_receive(session, made.filter, None):
            return
        properties = _aged(found.properties, found.expires_ms, self._clock.wall_ms())
        message = Message(made.filter.encode(), found.payload, min(found.qos, made.qos), properties, True)
        if message.qos:
            session.deliver(message)
        else:
            link.send_zero(message.zero(link.version))

    # wills and events

    def _send_will(self, client_id: str, will: Will, subject: Subject) -> None:
        try:
            subject = self._identity.refresh(subject)
        except Denied:
            return  # revoked: its last will too
        if not self.may_publish(subject, will.topic, retain=will.retain):
            return
        properties = {name: value for name, value in will.properties.items() if name != "will_delay_s"}
        topic = will.topic.encode()
        message = self._message(topic, will.payload, will.qos, v5.write_properties(properties, PUBLISH), properties)
        match = self._match(will.topic)
        head = codec.dumps({"c": client_id, "p": subject.principal})[:-1]
        self._spread(message, match, Entry(), None, head, {}, properties, None)
        if will.retain:
            self._retain(message, None)
        self.touch()

    def _event(self, topic: str, body: bytes) -> None:
        match = self._make_match(topic)  # not kept: the topic has a client id in it
        message = Message(topic.encode(), body, 1, b"")
        self._spread(message, match, Entry(), None, b'{"c":"","p":"marram"', {}, {}, None)
        self.touch()

    # subscriptions

    def _check_wish(self, link: Link, session: Session, wish: Wish) -> int:
        """The code for the SUBACK: the granted QoS, or why not."""
        is_new_style = link.version == packets.V5
        try:
            topics.check_filter(wish.filter)
        except Invalid:
            return packets.TOPIC_FILTER_INVALID if is_new_style else packets.SUBACK_FAILURE
        if wish.filter not in session.subscriptions and len(session.subscriptions) >= MAX_SUBSCRIPTIONS:
            return packets.QUOTA_EXCEEDED if is_new_style else packets.SUBACK_FAILURE
        if not self._may_subscribe(link, wish.filter):
            log.info("mqtt.subscribe_refused", client=link.client_id, filter=wish.filter)
            return packets.NOT_AUTHORIZED if is_new_style else packets.SUBACK_FAILURE
        return wish.qos

    def _may_subscribe(self, link: Link, text: str) -> bool:
        return self._identity.may(link.subject, "iot:Subscribe", self._filter_arn + text, link.context)

    def _unsubscribe(self, session: Session, text: str) -> None:
        del session.subscriptions[text]
        self.router.unsubscribe(session, text)
        if session.is_durable:
            self._note([recovery.unsubscribed(session, text)])

    def _discard(self, session: Session) -> None:
        for text in list(session.subscriptions):
            self.router.unsubscribe(session, text)
        session.subscriptions.clear()
        session.queue.clear()
        session.window.clear()
        self._hungry.discard(session)
        self._unindex(session)
        if self.sessions.get(session.client_id) is session:
            del self.sessions[session.client_id]
        self._acked.pop(session.client_id, None)
        if session.is_durable or session.client_id in self._floors:
            self._note([[recovery.END, session.client_id]])

    def _index(self, session: Session) -> None:
        self._by_principal.setdefault(session.principal, set()).add(session)

    def _unindex(self, session: Session) -> None:
        found = self._by_principal.get(session.principal)
        if found is not None:
            found.discard(session)
            if not found:
                del self._by_principal[session.principal]

    # the tick

    def _flush(self) -> None:
        self._scheduled = False
        self._wall_ms = 0
        if self._acked:
            acked, self._acked = self._acked, {}
            changes: list[list[JsonValue]] = [
                [recovery.ACKED, client_id, list[JsonValue](offsets)] for client_id, offsets in acked.items()
            ]
            self._note(changes)
        self._commits.flush()
        if self.dirty:
            dirty = self.dirty[:]
            self.dirty.clear()
            for link in dirty:
                link.flush()

    def _note(self, changes: list[list[JsonValue]], ack: Ack | None = None) -> None:
        """Session changes, into the batch of this tick."""
        entry = Entry()
        if ack is not None:
            entry.ack = ack
        self._commits.add(recovery.record(changes, self._clock.wall_ms()), entry)
        self.touch()

    def _hungry_now(self, session: Session) -> None:
        if session.link is not None:
            self._hungry.add(session)
            if session.queue and session.queue[0] < self._journal.synced and self._loop is not None:
                self._loop.call_soon(self._feed)

    def _synced(self, _synced: int) -> None:
        if self._hungry:
            self._feed()
        if self._paused:
            self._resume()
        self._flush()

    def _resume(self) -> None:
        """Read again from those whose messages are safe by now."""
        if self._journal.unsynced_bytes >= UNSYNCED_BYTES // 2:
            return
        paused, self._paused = self._paused, []
        for link in paused:
            if link.is_closed:
                continue
            if link.unacked > MAX_IN_FLIGHT // 2:
                self._paused.append(link)
            else:
                link.owner.resume()

    def _feed(self) -> None:
        hungry, self._hungry = self._hungry, set()
        for session in hungry:
            self._drain(session)
        if self.dirty:
            self.touch()

    def _drain(self, session: Session) -> None:
        """Send from the journal what there is room for; what is not synced yet waits for `_synced`."""
        queue, window, journal = session.queue, session.window, self._journal
        while queue and not window.is_full():
            link = session.link
            if link is None or link.congested:
                return
            offset = queue[0]
            if offset >= journal.synced:
                self._hungry.add(session)
                return
            try:
                rows = journal.read(offset, READ_RECORDS, READ_BYTES)
            except Unavailable as exc:
                log.error("broker.read_failed", client=session.client_id, offset=offset, reason=exc.message)
                self._hungry.add(session)
                return
            if not rows:
                queue.popleft()
                session.lost += 1
                _lost.inc()
                continue
            for at, record in rows:
                while queue and queue[0] < at:
                    self._acked.setdefault(session.client_id, []).append(queue.popleft())
                    session.lost += 1
                    _lost.inc()
                if not queue or window.is_full():
                    break
                if queue[0] == at:
                    queue.popleft()
                    self._send_stored(session, at, record)
            link.flush()

    def _send_stored(self, session: Session, offset: int, record: Record) -> None:
        if record.kind != KIND_MESSAGE:
            return
        meta = codec.loads_object(record.meta, what="meta of a record")
        now_ms = self._clock.wall_ms()
        expires_ms = meta.get("e")
        topic = record.topic.decode()
        is_expired = isinstance(expires_ms, int) and expires_ms <= now_ms
        if is_expired or not self._may_receive(session, topic, None):
            if is_expired:
                _expired.inc()
            self._acked.setdefault(session.client_id, []).append(offset)
            return
        properties = _unpacked(meta.get("v"))
        if isinstance(expires_ms, int):
            properties = _aged(properties, expires_ms, now_ms)
        session.send_stored(Message(record.topic, record.payload, 1, properties), offset)

    # live revocation

    def _principal_changed(self, event: PrincipalChanged) -> None:
        if event.principal == EVERYBODY:
            self._to_refresh = list(self.sessions.values())
        else:
            self._to_refresh += self._by_principal.get(event.principal, ())
        if self._to_refresh and self._loop is not None:
            self._loop.call_soon(self._refresh_some)

    def _refresh_some(self) -> None:
        for _ in range(min(REFRESHED_AT_ONCE, len(self._to_refresh))):
            session = self._to_refresh.pop()
            if self.sessions.get(session.client_id) is session:
                self._refresh(session)
        if self._to_refresh and self._loop is not None:
            self._loop.call_soon(self._refresh_some)

    def _refresh(self, session: Session) -> None:
        """What may this client do now? Its verdicts are thrown away; one that may not even be here is disconnected."""
        link = session.link
        try:
            subject = self._identity.refresh(session.subject)
        except Denied as exc:
            if link is not None:
                link.owner.end(packets.NOT_AUTHORIZED, exc.message, presence.AUTH_ERROR)
            return
        if subject.policies == session.subject.policies and subject.attributes == session.subject.attributes:
            session.subject = subject
            if link is not None:
                link.subject = subject
            return
        session.subject = subject
        for text in session.subscriptions:
            self.router.changed(_inner(text))
        if link is None:
            return
        link.subject = subject
        link.routes.clear()
        if not self.may_connect(subject, link.client_id, dict(link.context)):
            link.owner.end(packets.NOT_AUTHORIZED, "iot:Connect is no longer allowed", presence.FORBIDDEN)
            return
        for text in list(session.subscriptions):
            if not self._may_subscribe(link, text):
                self._unsubscribe(session, text)

    # housekeeping

    async def _housekeeping(self) -> None:
        elapsed_s = 0.0
        while True:
            await asyncio.sleep(1.0)
            elapsed_s += 1.0
            self.tend()
            if elapsed_s >= CHECKPOINT_S:
                elapsed_s = 0.0
                try:
                    await self.checkpoint()
                except Unavailable as exc:
                    log.warning("broker.checkpoint_failed", reason=exc.message)

    def tend(self) -> None:
        """Once a second: delayed wills, sessions that expire, policies that ask for the time."""
        now_ms = self._clock.wall_ms()
        for client_id, (due_ms, will, subject) in list(self._wills.items()):
            if due_ms <= now_ms:
                del self._wills[client_id]
                self._send_will(client_id, will, subject)
        for session in list(self.sessions.values()):
            if session.expires_ms and session.expires_ms <= now_ms and session.link is None:
                self._discard(session)
        if self._takeovers:
            past_ms = self._clock.mono_ns() // 1_000_000 - TAKEOVER_BURST * TAKEOVER_MS
            self._takeovers = {client_id: at for client_id, at in self._takeovers.items() if at > past_ms}
        for link in self.links.values():
            if link.subject.program.timed:
                link.routes.clear()
        _published.set(self.published)
        _sessions.set(len(self.sessions))

    async def checkpoint(self) -> None:
        """Write sessions and origins as of now, then let the journal go below what anybody needs. Raises Unavailable."""
        self._flush()
        position = self._journal.end
        rows: list[tuple[str, str]] = []
        durable = {session.client_id for session in self.sessions.values() if session.is_durable}
        floors: dict[str, int] = {}
        for session in self.sessions.values():
            if session.is_durable:
                rows.append((session.client_id, recovery.body(session, position)))
                lowest = session.unacknowledged()[:1] + list(session.queue)[:1]
                if lowest:
                    floors[session.client_id] = min(lowest)
        gone = [client_id for client_id in self._floors if client_id not in durable]
        origins = {source: self._commits.highest[source] for source in self._commits.changed_sources}
        self._commits.changed_sources.clear()
        if position > self._journal.synced:
            await self._journal.wait_synced(position - 1)
        for at in range(0, max(len(rows), 1), CHECKPOINT_SESSIONS):
            part = rows[at : at + CHECKPOINT_SESSIONS]
            await self._db.write(lambda tx, part=part: _save_sessions(tx, part))  # type: ignore[misc]  # mypy: lambda default
        await self._db.write(lambda tx: _save_rest(tx, gone, origins, position))
        stored = {client_id: position for client_id, _ in rows}
        self._floors = {**stored, **floors}
        self._checkpoint = position
        self._trim()

    def _trim(self) -> None:
        """Below the lowest reader. A journal half full because a client stays away gives up that client's oldest."""
        journal = self._journal
        if self._keepers:
            journal.trim(min(self.position, *(position() for position in self._keepers.values())))
        if journal.bytes_on_disk <= journal.budget_bytes * SESSION_SHARE:
            return
        before = journal.start + (journal.end - journal.start) // 2
        given_up = 0
        for session in self.sessions.values():
            while session.queue and session.queue[0] < before:
                self._acked.setdefault(session.client_id, []).append(session.queue.popleft())
                session.lost += 1
                given_up += 1
        if given_up:
            _lost.inc(given_up)
            log.warning("broker.sessions_gave_up", messages=given_up, before=before)
            self.touch()

    async def _replay(self, replay: recovery.Replay, offset: int) -> None:
        while offset < self._journal.synced:
            rows = await asyncio.to_thread(self._journal.read, offset, REPLAY_RECORDS, 4 << 20)
            if not rows:
                offset = self._journal.past_gap(offset)
                continue
            for at, record in rows:
                if record.kind == KIND_MESSAGE:
                    if b'"s":' in record.meta or b'"o":' in record.meta:
                        replay.message(at, codec.loads_object(record.meta, what="meta of a record"))
                elif record.kind == KIND_SESSION:
                    replay.change(at, codec.loads_object(record.meta, what="meta of a record"))
            offset = rows[-1][0] + 1
        replay.finish()


def _save_sessions(tx: Tx, rows: Iterable[tuple[str, str]]) -> None:
    for client_id, body in rows:
        store.save_session(tx, client_id, body)


def _save_rest(tx: Tx, gone: Iterable[str], origins: Mapping[str, int], position: int) -> None:
    for client_id in gone:
        store.delete_session(tx, client_id)
    for source, highest in origins.items():
        store.save_origin(tx, source, highest)
    store.set_checkpoint(tx, position)


_REFUSED_WISH: Final[Mapping[int, str]] = {
    packets.TOPIC_FILTER_INVALID: "is not a topic filter",
    packets.QUOTA_EXCEEDED: f"is one more than {MAX_SUBSCRIPTIONS} subscriptions",
    packets.NOT_AUTHORIZED: "is not allowed: iot:Subscribe",
}


def _why_not(wishes: Sequence[Wish], reasons: Sequence[int]) -> Properties:
    """The reason string for the first filter that was not granted."""
    for wish, reason in zip(wishes, reasons, strict=True):
        if reason in _REFUSED_WISH:
            return {"reason_string": f"{wish.filter[:160]} {_REFUSED_WISH[reason]}"}
    return {}


def _inner(text: str) -> str:
    """The filter without its share."""
    share = topics.parse_share(text)
    return text if share is None else share[1]


def _nobody(_failed: MarramError | None) -> None:
    """Nobody waits for it."""


def _unpacked(value: JsonValue) -> bytes:
    if not isinstance(value, str):
        return b""
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error:
        return b""


def _aged(encoded: bytes, expires_ms: int | None, now_ms: int) -> bytes:
    """The properties with the message expiry that is left."""
    if expires_ms is None or not encoded:
        return encoded
    body = v5.with_length(encoded)
    properties = v5.read_properties(Reader(body, 0, len(body)), PUBLISH)
    properties["message_expiry_s"] = max(0, (expires_ms - now_ms + 999) // 1000)
    return v5.write_properties(properties, PUBLISH)
