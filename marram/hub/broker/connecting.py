"""Who is here: sessions and links by client id. A link gets its session, and leaves it behind; a policy that changes reaches both.

An EVERYBODY change is worked off a few hundred sessions a turn.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from marram.core import arn
from marram.core.errors import Denied, LimitExceeded
from marram.core.mqtt import packets
from marram.hub.broker import presence, recovery
from marram.hub.broker.delivery import Delivery, head
from marram.hub.broker.feeding import Feeding
from marram.hub.broker.matching import NOTHING, Matching
from marram.hub.broker.rates import HubRates
from marram.hub.broker.recovery import Changes
from marram.hub.broker.session import Link, Session
from marram.hub.broker.settings import Settings
from marram.hub.broker.sharing import Sharing
from marram.hub.broker.states import States
from marram.hub.broker.store import ConnectionState
from marram.hub.broker.subscribing import Subscribing
from marram.hub.broker.tick import Tick
from marram.hub.broker.wills import Wills, weight
from marram.hub.identity.service import EVERYBODY, Identity, PrincipalChanged, Subject
from marram.kit import metrics
from marram.kit.clock import Clock, Entropy, uuid4
from marram.kit.log import logger

log = logger(__name__)

MAX_SESSIONS: Final = 1_000_000
REFRESHED_AT_ONCE: Final = 500
TAKEOVER_BURST: Final = 3  # of one client id; after that one a second
TAKEOVER_MS: Final = 1000

_links: Final = metrics.gauge("marram_mqtt_connections", "Clients connected").labels()
_sessions: Final = metrics.gauge("marram_mqtt_sessions", "Sessions, connected or waiting").labels()


class Connecting:
    def __init__(
        self,
        tick: Tick,
        clock: Clock,
        entropy: Entropy,
        identity: Identity,
        matching: Matching,
        delivery: Delivery,
        feeding: Feeding,
        changes: Changes,
        subscribing: Subscribing,
        wills: Wills,
        sharing: Sharing,
        states: States,
        rates: HubRates,
        settings: Settings,
    ) -> None:
        self.sessions: dict[str, Session] = {}
        self.links: dict[str, Link] = {}
        self._tick, self._clock, self._entropy, self._identity, self._matching = (
            tick,
            clock,
            entropy,
            identity,
            matching,
        )
        self._delivery, self._feeding, self._changes, self._subscribing = delivery, feeding, changes, subscribing
        self._wills, self._sharing, self._states, self._rates, self._settings = wills, sharing, states, rates, settings
        self._by_principal: dict[str, set[Session]] = {}
        self._takeovers: dict[str, int] = {}  # by client id: the time up to which its takeovers count, monotonic ms
        self._to_refresh: list[Session] = []

    def expiry_s(self, version: int, clean: bool, wanted_s: int) -> int:
        """How long a session outlives its connection."""
        if version == packets.V5:
            return min(wanted_s, self._settings.max_expiry_s)
        return 0 if clean else self._settings.expiry_s

    def may_connect(self, subject: Subject, client_id: str, context: Mapping[str, str | tuple[str, ...]]) -> bool:
        resource = arn.build("iot", self._identity.region, self._identity.account, f"client/{client_id}")
        return self._identity.may(subject, "iot:Connect", resource, context)

    def attach(self, link: Link, *, clean: bool, expiry_s: int, address: str) -> bool:
        """Give the link its session; a link of the same client id ends. Returns whether the session was there before."""
        client_id = link.client_id
        self._check_room(link)
        other = self.links.get(client_id)
        if other is not None:
            self._take_over(other, link, address)
        session = self.sessions.get(client_id)
        if session is not None and (clean or session.version != link.version):
            self._discard(session)  # AWS: a 3.1.1 session cannot be resumed as MQTT 5, nor the reverse
            session = None
        self._wills.back(client_id)
        self._wills.weight += weight(link.will)
        present = session is not None
        if session is None:
            if len(self.sessions) >= MAX_SESSIONS:
                raise LimitExceeded(f"{MAX_SESSIONS} sessions", limit=MAX_SESSIONS)
            session = Session(client_id, link.version, expiry_s, link.subject)
            session.limit = self._settings.queue
            self.sessions[client_id] = session
        else:
            self._unindex(session)
        session.expiry_s = expiry_s
        session.subject = link.subject
        session.principal = link.subject.principal
        session.expires_ms = 0
        session.link = link
        session.window.limit = min(self._settings.in_flight, link.receive_maximum)
        link.rates = self._rates.of_link()
        link.session = session
        link.meta = head(client_id, link.subject.principal)
        link.number = uuid4(self._entropy)
        link.connected_ms = self._clock.wall_ms()
        self.links[client_id] = link
        self._index(session)
        self._subscribing.review(link, session)
        self._subscribing.changed(session)
        if session.is_durable:
            self._changes.note([recovery.begin(session)])
            session.is_noted = True
        elif session.is_noted:
            self._changes.ended(client_id)
            session.is_noted = False
        if session.queue:
            self._feeding.queued(session)
        self._count()
        self._arrived(link, expiry_s, address)
        self._tick.touch()
        return present

    def _check_room(self, link: Link) -> None:
        """Raises LimitExceeded, before anybody is put out."""
        over = self._rates.may_connect(link.client_id)
        if over:
            raise LimitExceeded(f"more CONNECTs a second than {over} allows", kind="rate")
        limit = self._settings.will_bytes
        if link.will is not None and self._wills.weight + weight(link.will) > limit:
            raise LimitExceeded(f"all wills together are over {limit} bytes", limit=limit)

    def _arrived(self, link: Link, expiry_s: int, address: str) -> None:
        client_id, subject, now_ms = link.client_id, link.subject, link.connected_ms
        exclusive = self._identity.exclusive_thing(subject.principal) if subject.kind == "certificate" else None
        state = ConnectionState(
            client_id=client_id,
            connected=True,
            principal=subject.principal,
            session_id=link.number,
            version=self._states.next_version(client_id, now_ms),
            address=address,
            port=link.port,
            connected_ms=now_ms,
            thing=exclusive or subject.thing,
            exclusive=exclusive is not None,
            keep_alive_s=link.keep_alive_ms // 1000,
            expiry_s=expiry_s,
        )
        self._states.put(state)
        if presence.has_events(client_id):
            self._delivery.event(*presence.connected(state))

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

    def failed(self, subject: Subject, client_id: str, address: str) -> None:
        """A CONNECT that was denied."""
        if client_id and presence.has_events(client_id):
            now_ms = self._clock.wall_ms()
            number = uuid4(self._entropy)
            self._delivery.event(*presence.connect_failed(client_id, subject.principal, now_ms, number, address))

    def detach(self, link: Link, event: str, *, will: bool, expiry_s: int | None = None) -> None:
        """The link is at its end, for the reason `event`. `expiry_s`: from a DISCONNECT of MQTT 5. Called once."""
        session = link.session
        if session is None:
            return
        link.session = None
        self._tick.flush()  # entries in its window learn their offsets
        if self.links.get(link.client_id) is link:
            del self.links[link.client_id]
        if expiry_s is not None and session.expiry_s > 0:
            session.expiry_s = min(expiry_s, self._settings.max_expiry_s)
        session.link = None
        self._feeding.forget(session)
        self._sharing.returned(session)
        session.requeue()
        now_ms = self._clock.wall_ms()
        if session.is_durable:
            session.expires_ms = now_ms + session.expiry_s * 1000
            self._subscribing.changed(session)
            self._changes.note([[recovery.LEFT, session.client_id, session.expires_ms]])
        else:
            self._discard(session)
        if will:
            self._wills.left(link, session, now_ms)
        else:
            self._wills.dropped(link)
        state = self._states.get(link.client_id)
        if state is not None and state.session_id == link.number:
            self._gone(replace(state, connected=False, disconnected_ms=now_ms, reason=event, expiry_s=session.expiry_s))
        self._count()
        self._tick.touch()

    def _gone(self, state: ConnectionState) -> None:
        self._states.put(state)
        if presence.has_events(state.client_id):
            self._delivery.event(*presence.disconnected(state))

    def restore(self, session: Session) -> None:
        """One of the last life, at start."""
        self.sessions[session.client_id] = session
        session.limit = self._settings.queue
        session.is_noted = True
        self._refresh(session)
        self._index(session)
        for made in list(session.subscriptions.values()):
            self._subscribing.put(session, made)

    def orphans(self) -> None:
        """Those whose connection the last life did not end: it is told now."""
        for state in self._states.orphans(presence.SERVER_ERROR):
            if state.client_id not in self.links:
                self._gone(state)

    def end(self, client_id: str, *, clean: bool, will: bool) -> bool:
        """Put a client out by the API; `clean`: its session too. False when there is neither."""
        link, session = self.links.get(client_id), self.sessions.get(client_id)
        if link is not None:
            if not will:
                self._wills.dropped(link)
                link.will = None
            link.owner.end(packets.ADMINISTRATIVE_ACTION, "disconnected by DeleteConnection", presence.API)
        elif clean and not will:
            self._wills.back(client_id)
        if clean and session is not None and self.sessions.get(client_id) is session:
            self._discard(session)
        self._tick.touch()
        return link is not None or session is not None

    def tend(self, now_ms: int) -> None:
        """Once a second: delayed wills, sessions that expire, policies that ask for the time."""
        self._wills.tend(now_ms)
        for session in list(self.sessions.values()):
            if session.expires_ms and session.expires_ms <= now_ms and session.link is None:
                self._discard(session)
            elif session.lost != session.told:
                _overflowed(session)
        for store in self._sharing.stores.values():
            if store.lost != store.told:
                _overflowed(store)
        self._rates.tend()
        if self._takeovers:
            past_ms = self._clock.mono_ns() // 1_000_000 - TAKEOVER_BURST * TAKEOVER_MS
            self._takeovers = {client_id: at for client_id, at in self._takeovers.items() if at > past_ms}
        for link in self.links.values():
            if link.subject.program.timed:
                link.routes.clear()
        self._count()

    # live revocation

    def principal_changed(self, event: PrincipalChanged) -> None:
        if event.principal == EVERYBODY:
            self._to_refresh = list(self.sessions.values())
        else:
            self._to_refresh += self._by_principal.get(event.principal, ())
        if self._to_refresh:
            self._tick.soon(self._refresh_some)

    def _refresh_some(self) -> None:
        for _ in range(min(REFRESHED_AT_ONCE, len(self._to_refresh))):
            session = self._to_refresh.pop()
            if self.sessions.get(session.client_id) is session:
                self._refresh(session)
        if self._to_refresh:
            self._tick.soon(self._refresh_some)

    def _refresh(self, session: Session) -> None:
        """What may this client do now? Its verdicts are thrown away; one that may not even be here is disconnected."""
        link = session.link
        try:
            subject = self._identity.refresh(session.subject)
        except Denied as exc:
            if link is not None:
                link.owner.end(packets.NOT_AUTHORIZED, exc.message, presence.AUTH_ERROR)
            # Nothing more waits for it; when its certificate comes back, `refresh` gives it its rights again.
            session.subject = replace(session.subject, policies=(), attributes=NOTHING, epoch=-1)
            self._subscribing.changed(session)
            return
        before = session.subject
        if (subject.policies, subject.bounds, subject.attributes) == (
            before.policies,
            before.bounds,
            before.attributes,
        ):
            session.subject = subject
            if link is not None:
                link.subject = subject
            return
        session.subject = subject
        self._subscribing.changed(session)
        if link is None:
            return
        link.subject = subject
        link.routes.clear()
        if not self.may_connect(subject, link.client_id, link.connect_context or link.context):
            link.owner.end(packets.NOT_AUTHORIZED, "iot:Connect is no longer allowed", presence.FORBIDDEN)
            return
        self._subscribing.review(link, session)
        if session.memory:
            allowed = [m for m in session.memory if self._matching.may_receive(session, m.topic.decode())]
            session.memory.clear()
            session.memory.extend(allowed)
            session.memory_bytes = sum(len(message.payload) for message in allowed)

    # the tables

    def _discard(self, session: Session) -> None:
        self._subscribing.forget(session)
        session.fill([])
        session.window.clear()
        self._feeding.forget(session)
        self._unindex(session)
        client_id = session.client_id
        if self.sessions.get(client_id) is session:
            del self.sessions[client_id]
        self._changes.forget(client_id)
        if session.is_noted:
            session.is_noted = False
            self._changes.ended(client_id)
        self._wills.ended(client_id)

    def _index(self, session: Session) -> None:
        for principal in _principals(session):
            self._by_principal.setdefault(principal, set()).add(session)

    def _unindex(self, session: Session) -> None:
        for principal in _principals(session):
            found = self._by_principal.get(principal)
            if found is not None:
                found.discard(session)
                if not found:
                    del self._by_principal[principal]

    def _count(self) -> None:
        _links.set(len(self.links))
        _sessions.set(len(self.sessions))


def _principals(session: Session) -> Iterator[str]:
    """Whose changes concern it: with credentials that a device got for its certificate, those of the certificate too."""
    yield session.principal
    temporary = session.subject.session
    if temporary is not None and temporary.certificate:
        yield temporary.certificate


def _overflowed(session: Session) -> None:
    """Said once a second for each whose queue is full or was cut, however many messages it cost."""
    log.warning(
        "broker.messages_lost", client=session.client_id, count=session.lost - session.told, in_all=session.lost
    )
    session.told = session.lost
