"""The broker, as the other slices, the doors and the composition root see it: its parts put together, and publishing in the process.

A message is matched once (matching.py). Live subscribers get it at the end of the turn (delivery.py, tick.py); it is appended
to the journal when a durable consumer (rules) or a persistent session wants it, and acknowledged after the sync (commits.py,
acks.py). Reserved topics go to the handler of their slice, whose transaction comes before the PUBACK (reserved.py).
Links are the door's (border/mqtt).
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from marram.core import topic as topics
from marram.core.codec import JsonObject, JsonValue
from marram.core.errors import Denied, Invalid, LimitExceeded, MarramError, NotFound, Unavailable
from marram.core.mqtt import v5
from marram.core.mqtt.packets import PUBLISH, Properties, Subscribe, Unsubscribe
from marram.core.segment import Origin
from marram.hub.broker import store
from marram.hub.broker.acks import UNSYNCED_BYTES, Acks, Awaited
from marram.hub.broker.commits import Commits
from marram.hub.broker.connecting import Connecting
from marram.hub.broker.delivery import Delivery, head
from marram.hub.broker.dryrun import DryRun
from marram.hub.broker.feeding import Feeding
from marram.hub.broker.housekeeping import Housekeeping
from marram.hub.broker.matching import NOTHING, Matching
from marram.hub.broker.message import Ack, Asked, Entry, Message
from marram.hub.broker.publishing import Publishing
from marram.hub.broker.rates import HubRates
from marram.hub.broker.recovery import Changes
from marram.hub.broker.reserved import Reserved
from marram.hub.broker.retained import RetainedMessages
from marram.hub.broker.session import MAX_PAYLOAD, Link
from marram.hub.broker.settings import Settings
from marram.hub.broker.sharing import Sharing
from marram.hub.broker.states import ConnectionChanged, Index, States
from marram.hub.broker.store import ConnectionState, Retained
from marram.hub.broker.subscribing import MAX_FILTERS, Subscribing
from marram.hub.broker.tick import Tick
from marram.hub.broker.wills import Wills
from marram.hub.bus import Bus
from marram.hub.identity.service import Identity, PrincipalChanged, Subject
from marram.kit import metrics
from marram.kit.clock import Clock, Entropy
from marram.kit.db import Db, Tx
from marram.kit.log import logger
from marram.kit.seglog import Journal

__all__ = ["MAX_FILTERS", "Broker", "ConnectionChanged", "ConnectionState", "Settings"]

log = logger(__name__)

MAX_HOPS: Final = 10

_published: Final = metrics.gauge("marram_mqtt_published_total", "Messages that clients published").labels()


@dataclass(frozen=True, slots=True)
class _Begun:
    """A publish of the process that waits for its acknowledgement."""

    done: "asyncio.Future[MarramError | None]"
    topic: str
    payload: bytes
    subject: Subject
    client_id: str
    is_handled: bool


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
        self._journal, self._db, self._identity, self._clock = journal, db, identity, clock
        self.settings = settings = settings or Settings()
        # In the order in which they know each other; `changes` before `commits`: what a turn acknowledged is appended with it.
        self.tick = tick = Tick(clock)
        self._acks = acks = Acks(tick, journal, settings.in_flight)
        self._reserved = Reserved(clock, acks.settled)
        self._matching = matching = Matching(identity, self._reserved)
        changes = Changes(tick, clock)
        self._feeding = feeding = Feeding(journal, tick, clock, matching, changes)
        self._commits = commits = Commits(journal, tick, acks, feeding.queued)
        self._retained = RetainedMessages(db)
        self._delivery = delivery = Delivery(tick, clock, matching, commits, acks, self._retained)
        self.core = Publishing(tick, matching, delivery, commits, acks, self._reserved, feeding, changes)
        sharing, rates = Sharing(entropy, changes, feeding, settings), HubRates(clock, settings)
        delivery.share_by(sharing.spread)
        self._subscribing = Subscribing(
            tick, clock, identity, matching.router, delivery, changes, sharing, rates, settings
        )  # fmt: skip
        wills = Wills(tick, identity, matching, delivery)
        self._states = states = States(db, clock, bus)
        self._connecting = connecting = Connecting(
            tick, clock, entropy, identity, matching, delivery, feeding, changes, self._subscribing, wills, sharing, states,
            rates, settings,
        )  # fmt: skip
        self._housekeeping = Housekeeping(
            journal, db, clock, tick, commits, changes, feeding, connecting, sharing, states, settings.queue
        )
        self.sessions, self.links = connecting.sessions, connecting.links
        self.dry_run = DryRun(identity, connecting.sessions)
        bus.subscribe(PrincipalChanged, connecting.principal_changed)
        journal.on_synced(self._synced)

    # declarations

    def add_consumer(self, name: str, wants: Callable[[str], bool], *, required: bool = True) -> None:
        """A durable consumer: messages on topics that it wants are appended in its name; it reads the journal itself."""
        self._matching.add_consumer(name, wants)

    def consumers_changed(self) -> None:
        """What a consumer wants is another thing now."""
        self._matching.router.forget_all()

    def add_handlers(self, services: Mapping[str, object]) -> None:
        """Every reserved topic that a slice among `services` has declared."""
        self._reserved.declare(services)
        self._matching.router.forget_all()

    def keep(self, name: str, position: Callable[[], int]) -> None:
        """Somebody reads the journal: it is trimmed below the lowest `position` only."""
        self._housekeeping.keep(name, position)

    @property
    def position(self) -> int:
        """The journal may be trimmed below this offset, as far as the broker is concerned."""
        return self._housekeeping.position

    def use_index(self, index: Index) -> None:
        """Where the state of things' connections is to be found by search."""
        self._states.use_index(index)

    def connectivity_of(self, tx: Tx, thing: str) -> JsonObject | None:
        """What the index is told of a thing's connection; None when it was never connected."""
        return self._states.searchable(tx, thing)

    # life

    async def start(self) -> None:
        """Sessions, origins as they were. Raises JournalDamaged, Corrupt."""
        self.tick.start()
        await self._housekeeping.recover()

    async def run(self) -> None:
        """Reserved topics, retained messages, checkpoints, expiry. Returns when cancelled."""
        self._connecting.orphans()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._reserved.run(), name="broker-reserved")
            group.create_task(self._retained.run(), name="broker-retained")
            group.create_task(self._states.run(), name="broker-states")
            group.create_task(self._housekeeping.run(self.tend), name="broker-housekeeping")

    async def stop(self) -> None:
        """Write the checkpoint. Links are closed by the door, before."""
        self.tick.flush()
        await self._states.write()
        try:
            await self.checkpoint()
        except MarramError as exc:  # the journal has it all: the next start replays
            log.warning("broker.checkpoint_failed", reason=exc.message)

    def tend(self) -> None:
        """Once a second: delayed wills, sessions that expire, policies that ask for the time."""
        self._connecting.tend(self._clock.wall_ms())
        _published.set(self.core.published)

    async def checkpoint(self) -> None:
        """Write sessions and origins as of now, then let the journal go below what anybody needs. Raises Unavailable."""
        await self._housekeeping.checkpoint()

    # publishers in the process

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
        begun = self._begin(topic, payload, qos, retain, subject, origin, properties, labels, hops)
        if begun is None:
            return  # appended in the last life
        self.tick.flush()
        failed = await begun.done
        if failed is not None:
            raise _not_stored(failed)
        await self._handled(begun)

    def _begin(
        self,
        topic: str,
        payload: bytes,
        qos: int,
        retain: bool,
        subject: Subject | None,
        origin: Origin | None,
        properties: Mapping[str, object] | None = None,
        labels: frozenset[str] = frozenset(),
        hops: int = 0,
    ) -> "_Begun | None":
        """Deliver it and hand it to the next append; None when the origin was met before."""
        topics.check_name(topic)
        if len(payload) > MAX_PAYLOAD:
            raise LimitExceeded(f"payload of {len(payload)} bytes; the limit is {MAX_PAYLOAD}", limit=MAX_PAYLOAD)
        if hops > MAX_HOPS:
            raise LimitExceeded(f"the message came through {hops} republishes; the limit is {MAX_HOPS}", limit=MAX_HOPS)
        match = self._matching.of(topic)
        if subject is not None and topics.is_reserved(topic) and not (match.is_reserved or match.is_ingest):
            raise Denied(f"topic {topic} is reserved", topic=topic)
        if retain and topics.is_reserved(topic):
            raise Denied(f"no message can be retained on the reserved topic {topic}", topic=topic)
        given: Properties = dict(properties) if properties else {}  # type: ignore[arg-type]  # checked by the encoder
        encoded = v5.write_properties(given, PUBLISH)
        message = self._delivery.message(topic.encode(), payload, qos, encoded, given)
        entry = Entry()
        is_outbox = origin is not None and origin.source == "outbox"
        if origin is not None and is_outbox and not self._commits.accept("outbox", origin.position, entry):
            return None
        future: asyncio.Future[MarramError | None] = asyncio.get_running_loop().create_future()
        ack = Ack(None, 0, 1)
        ack.done = Awaited(future)
        client_id = subject.client_id if subject is not None and subject.client_id is not None else ""
        sender = head(client_id, subject.principal if subject is not None else "marram")
        extra: JsonObject = {}
        if origin is not None:
            extra["o"] = list[JsonValue]((origin.source, origin.position, origin.index))
        if labels:
            extra["l"] = list[JsonValue](sorted(labels))
        if hops:
            extra["h"] = hops
        self._delivery.spread(message, match, entry, ack, sender, extra, given, None)
        if retain:
            self._delivery.retain(message, ack)
        self._acks.settled(ack, None)  # the one that was counted for ourselves
        is_handled = match.is_reserved
        return _Begun(future, topic, payload, subject or self._identity.internal, client_id, is_handled)

    async def _handled(self, begun: "_Begun") -> None:
        if begun.is_handled:
            await self._reserved.handle(begun.topic, begun.payload, begun.subject, begun.client_id)

    def is_heard(self, topic: str) -> bool:
        """Whether somebody gets what is published there as things are now: a session, online or not, a rule, a handler."""
        return not self._matching.of(topic).is_empty

    async def publish_outbox(self, rows: Iterable[tuple[int, str, bytes]]) -> None:
        """Rows (id, topic, body) of the outbox, in order, in one append. Raises Unavailable: they are given again, and those
        that made it are not published twice: what is void is void to the end, and the highest row accepted falls back."""
        waiting: list[_Begun] = []
        for row_id, topic, body in rows:
            try:
                begun = self._begin(topic, body, 1, False, None, Origin("outbox", row_id, 0))
            except (Invalid, LimitExceeded) as exc:
                log.error("broker.outbox_refused", row=row_id, topic=topic[:300], reason=exc.message)
                continue
            if begun is not None:
                waiting.append(begun)
        self.tick.flush()
        failures = [failed for begun in waiting if (failed := await begun.done) is not None]
        if failures:
            raise _not_stored(failures[0])
        for begun in waiting:
            await self._handled(begun)

    def answer(self, client_id: str, principal: str, topic: str, payload: bytes) -> bool:
        """A reply for one connected client, which `principal` must be: when it subscribes to the topic and may receive it.

        No other subscriber gets it, no rule, and the journal does not: there may be a private key in it. False: not sent.
        """
        link = self.links.get(client_id)
        session = link.session if link is not None else None
        if link is None or session is None or link.is_closed or link.subject.principal != principal:
            return False
        qos = max((found.qos for text, found in session.subscriptions.items() if _covers(text, topic)), default=-1)
        if qos < 0 or not self._matching.may_receive(session, topic):
            return False
        message = Message(topic.encode(), payload, min(qos, 1), b"")
        if qos:
            session.deliver(message)
        else:
            link.send_message(message)
        self.tick.touch()
        return True

    def unsubscribed(self, client_id: str, principal: str, topic: str, payload: bytes) -> bool:
        """The same for a client that does not subscribe to the topic, with QoS 0; one that does gets what is published there."""
        link = self.links.get(client_id)
        session = link.session if link is not None else None
        if link is None or session is None or link.is_closed or link.subject.principal != principal:
            return False
        if any(_covers(text, topic) for text in session.subscriptions):
            return False
        if not self._matching.may_receive(session, topic):
            return False
        link.send_message(Message(topic.encode(), payload, 0, b""))
        self.tick.touch()
        return True

    def retained(self, topic: str) -> Retained | None:
        return self._retained.get(topic, self._clock.wall_ms())

    async def retained_page(self, after: str, limit: int) -> list[Retained]:
        return await self._db.read(lambda tx: store.retained_page(tx, after, limit))

    # clients, by their id

    def connection(self, client_id: str) -> ConnectionState | None:
        """The last connection of a client; None when nobody has heard of it."""
        return self._states.get(client_id)

    def subscriptions(self, client_id: str) -> list[tuple[str, int]]:
        """(filter, QoS) of its session, in order. Raises NotFound when it has none."""
        session = self.sessions.get(client_id)
        if session is None:
            raise NotFound(f"client {client_id} is not connected and has no session", client_id=client_id)
        return sorted((made.filter, made.qos) for made in session.subscriptions.values())

    def disconnect(self, client_id: str, *, clean: bool = False, will: bool = True) -> None:
        """Put a client out. `clean`: its session ends. `will`: its will is sent. Raises NotFound when it has neither."""
        if not self._connecting.end(client_id, clean=clean, will=will):
            raise NotFound(f"client {client_id} is not connected and has no session", client_id=client_id)

    async def send_direct(
        self,
        client_id: str,
        topic: str,
        payload: bytes,
        *,
        properties: Mapping[str, object] | None = None,
        confirm_s: float | None = None,
    ) -> None:
        """A message to one client, whatever it subscribes to. `confirm_s`: with QoS 1, and wait so long for its PUBACK.

        Raises NotFound when it is not connected, Denied when it may not receive the topic, Invalid for the topic,
        LimitExceeded for the payload, or when the client has no room; Unavailable without a PUBACK in time.
        """
        topics.check_name(topic)
        if len(payload) > MAX_PAYLOAD:
            raise LimitExceeded(f"payload of {len(payload)} bytes; the limit is {MAX_PAYLOAD}", limit=MAX_PAYLOAD)
        link = self.links.get(client_id)
        if link is None or link.session is None:
            raise NotFound(f"client {client_id} is not connected", client_id=client_id)
        session = link.session
        if not self._matching.may_receive(session, topic):
            raise Denied(f"iot:Receive on {topic} is not allowed to client {client_id}", topic=topic)
        given: Properties = dict(properties) if properties else {}  # type: ignore[arg-type]  # checked by the encoder
        encoded = v5.write_properties(given, PUBLISH)
        message = Message(topic.encode(), payload, 0 if confirm_s is None else 1, encoded)
        if confirm_s is None:
            link.send_message(message)
            self.tick.touch()
            return
        if not session.has_room:
            raise LimitExceeded(f"client {client_id} does not acknowledge what it has", kind="rate")
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        session.ask(message, Asked(lambda came: None if future.done() else future.set_result(came)))
        self.tick.flush()
        try:
            async with asyncio.timeout(confirm_s):
                came = await future
        except TimeoutError as exc:
            why = f"client {client_id} did not acknowledge within {confirm_s:g} s"
            raise Unavailable(why, kind="timeout") from exc
        if not came:
            raise Unavailable(f"client {client_id} left before it acknowledged", kind="timeout")

    # what the door asks; each link asks `core`

    def expiry_s(self, version: int, clean: bool, wanted_s: int) -> int:
        """How long a session outlives its connection."""
        return self._connecting.expiry_s(version, clean, wanted_s)

    def may_connect(self, subject: Subject, client_id: str, context: Mapping[str, str | tuple[str, ...]]) -> bool:
        return self._connecting.may_connect(subject, client_id, context)

    def may_publish(self, subject: Subject, topic: str, *, retain: bool, context: Mapping[str, str] = NOTHING) -> bool:
        """The policy, and the rules about reserved topics."""
        return self._matching.may_publish(subject, topic, retain=retain, context=context)

    def attach(self, link: Link, *, clean: bool, expiry_s: int, address: str) -> bool:
        """Give the link its session; a link of the same client id ends. Returns whether the session was there before."""
        return self._connecting.attach(link, clean=clean, expiry_s=expiry_s, address=address)

    def connect_failed(self, subject: Subject, client_id: str, address: str) -> None:
        self._connecting.failed(subject, client_id, address)

    def detach(self, link: Link, event: str, *, will: bool, expiry_s: int | None = None) -> None:
        """The link is at its end, for the reason `event`. `expiry_s`: from a DISCONNECT of MQTT 5. Called once."""
        self._connecting.detach(link, event, will=will, expiry_s=expiry_s)

    def subscribe(self, link: Link, packet: Subscribe) -> list[int]:
        """Answers with SUBACK, after the sync for a persistent session, and sends what is retained. Returns the codes."""
        return self._subscribing.subscribe(link, packet)

    def unsubscribe(self, link: Link, packet: Unsubscribe) -> None:
        self._subscribing.unsubscribe(link, packet)

    @property
    def is_overloaded(self) -> bool:
        return self._journal.unsynced_bytes > UNSYNCED_BYTES

    def pause(self, link: Link) -> None:
        """Stop reading from the link until the journal has caught up."""
        self._acks.pause(link)

    def writable(self, link: Link) -> None:
        """The socket takes bytes again."""
        session = link.session
        if session is not None:
            session.drain_memory()
            self.core.acknowledged(session, None)

    def _synced(self, _synced: int) -> None:
        """After `commits`, which hears it first."""
        self._feeding.feed()
        self._acks.resume()
        self.tick.flush()


def _covers(text: str, topic: str) -> bool:
    """Whether a subscription's filter, `$share` or not, covers the topic."""
    share = topics.parse_share(text)
    return topics.matches(share[1] if share is not None else text, topic)


def _not_stored(failed: MarramError) -> Unavailable:
    kind = type(failed) if isinstance(failed, Unavailable) else Unavailable
    return kind(f"the message was not stored: {failed.message}")
