"""Who is here: sessions and links by client id. A link gets its session, and leaves it behind; a policy that changes reaches both.

An EVERYBODY change is worked off a few hundred sessions a turn.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from marram.core import arn
from marram.core.errors import Denied, LimitExceeded
from marram.core.mqtt import packets
from marram.hub.broker import presence, recovery
from marram.hub.broker.delivery import Delivery, head
from marram.hub.broker.feeding import Feeding
from marram.hub.broker.recovery import Changes
from marram.hub.broker.route import Router
from marram.hub.broker.session import MAX_IN_FLIGHT, Link, Session
from marram.hub.broker.subscribing import Subscribing
from marram.hub.broker.tick import Tick
from marram.hub.broker.wills import Wills
from marram.hub.identity.service import EVERYBODY, Identity, PrincipalChanged, Subject
from marram.kit import metrics
from marram.kit.clock import Clock, Entropy, uuid4
from marram.kit.log import logger

log = logger(__name__)

DEFAULT_EXPIRY_S: Final = 3600
MAX_EXPIRY_S: Final = 7 * 24 * 3600
MAX_SESSIONS: Final = 1_000_000
REFRESHED_AT_ONCE: Final = 500
TAKEOVER_BURST: Final = 3  # of one client id; after that one a second
TAKEOVER_MS: Final = 1000

_links: Final = metrics.gauge("marram_mqtt_connections", "Clients connected").labels()
_sessions: Final = metrics.gauge("marram_mqtt_sessions", "Sessions, connected or waiting").labels()


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    expiry_s: int = DEFAULT_EXPIRY_S  # of a 3.1.1 session with clean session 0
    max_expiry_s: int = MAX_EXPIRY_S


class Connecting:
    def __init__(
        self,
        tick: Tick,
        clock: Clock,
        entropy: Entropy,
        identity: Identity,
        router: Router,
        delivery: Delivery,
        feeding: Feeding,
        changes: Changes,
        subscribing: Subscribing,
        wills: Wills,
        settings: Settings,
    ) -> None:
        self.sessions: dict[str, Session] = {}
        self.links: dict[str, Link] = {}
        self._tick, self._clock, self._entropy, self._identity, self._router = tick, clock, entropy, identity, router
        self._delivery, self._feeding, self._changes, self._subscribing = delivery, feeding, changes, subscribing
        self._wills, self._settings = wills, settings
        self._by_principal: dict[str, set[Session]] = {}
        self._takeovers: dict[str, int] = {}  # by client id: the time up to which its takeovers count, monotonic ms
        self._versions = presence.Versions()
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
        other = self.links.get(client_id)
        if other is not None:
            self._take_over(other, link, address)
        self._wills.back(client_id)
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
        link.meta = head(client_id, link.subject.principal)
        link.number = uuid4(self._entropy)
        link.connected_ms = self._clock.wall_ms()
        self.links[client_id] = link
        self._index(session)
        self._subscribing.review(link, session)
        self._subscribing.changed(session)
        if session.is_durable:
            self._changes.note([recovery.begin(session)])
        elif client_id in self._changes.floors:
            self._changes.ended(client_id)
        if session.queue:
            self._feeding.queued(session)
        self._count()
        now_ms = link.connected_ms
        if presence.has_events(client_id):
            number = self._versions.next(client_id, now_ms)
            self._delivery.event(
                *presence.connected(client_id, link.subject.principal, now_ms, number, link.number, address)
            )
        self._tick.touch()
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
        if presence.has_events(link.client_id):
            number = self._versions.left(link.client_id, now_ms)
            self._delivery.event(
                *presence.disconnected(link.client_id, link.subject.principal, now_ms, number, link.number, event)
            )
        self._count()
        self._tick.touch()

    def restore(self, session: Session) -> None:
        """One of the last life, at start."""
        self.sessions[session.client_id] = session
        self._refresh(session)
        self._index(session)
        for subscription in session.subscriptions.values():
            self._router.subscribe(session, subscription)

    def tend(self, now_ms: int) -> None:
        """Once a second: delayed wills, sessions that expire, policies that ask for the time."""
        self._wills.tend(now_ms)
        for session in list(self.sessions.values()):
            if session.expires_ms and session.expires_ms <= now_ms and session.link is None:
                self._discard(session)
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
            return
        if subject.policies == session.subject.policies and subject.attributes == session.subject.attributes:
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
        if not self.may_connect(subject, link.client_id, dict(link.context)):
            link.owner.end(packets.NOT_AUTHORIZED, "iot:Connect is no longer allowed", presence.FORBIDDEN)
            return
        self._subscribing.review(link, session)

    # the tables

    def _discard(self, session: Session) -> None:
        for text in list(session.subscriptions):
            self._router.unsubscribe(session, text)
        session.subscriptions.clear()
        session.queue.clear()
        session.window.clear()
        self._feeding.forget(session)
        self._unindex(session)
        client_id = session.client_id
        if self.sessions.get(client_id) is session:
            del self.sessions[client_id]
        self._changes.forget(client_id)
        if session.is_durable or client_id in self._changes.floors:
            self._changes.ended(client_id)

    def _index(self, session: Session) -> None:
        self._by_principal.setdefault(session.principal, set()).add(session)

    def _unindex(self, session: Session) -> None:
        found = self._by_principal.get(session.principal)
        if found is not None:
            found.discard(session)
            if not found:
                del self._by_principal[session.principal]

    def _count(self) -> None:
        _links.set(len(self.links))
        _sessions.set(len(self.sessions))
