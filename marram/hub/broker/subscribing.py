"""SUBSCRIBE and UNSUBSCRIBE: checked, remembered, answered, with what is retained and the lifecycle events."""

from collections.abc import Mapping, Sequence
from typing import Final

from marram.core import arn
from marram.core import topic as topics
from marram.core.codec import JsonValue
from marram.core.errors import Invalid
from marram.core.mqtt import packets, v5
from marram.core.mqtt.packets import Properties, Subscribe, Unsubscribe, Wish
from marram.hub.broker import presence, recovery
from marram.hub.broker.acks import Later
from marram.hub.broker.delivery import Delivery
from marram.hub.broker.message import Ack
from marram.hub.broker.rates import HubRates
from marram.hub.broker.recovery import Changes
from marram.hub.broker.route import Router, Subscription
from marram.hub.broker.session import Link, Session
from marram.hub.broker.settings import Settings
from marram.hub.broker.sharing import Sharing
from marram.hub.broker.tick import Tick
from marram.hub.identity.service import Identity
from marram.kit.clock import Clock
from marram.kit.log import logger

log = logger(__name__)

MAX_FILTERS: Final = 8  # of one SUBSCRIBE

_REFUSED: Final[Mapping[int, str]] = {
    packets.TOPIC_FILTER_INVALID: "is not a topic filter",
    packets.QUOTA_EXCEEDED: "is over the number or the rate of subscriptions",
    packets.NOT_AUTHORIZED: "is not allowed: iot:Subscribe",
}


class Subscribing:
    def __init__(
        self,
        tick: Tick,
        clock: Clock,
        identity: Identity,
        router: Router,
        delivery: Delivery,
        changes: Changes,
        sharing: Sharing,
        rates: HubRates,
        settings: Settings,
    ) -> None:
        self._tick, self._clock, self._identity, self._router = tick, clock, identity, router
        self._delivery, self._changes, self._sharing = delivery, changes, sharing
        self._rates, self._settings = rates, settings
        self._filter_arn = arn.build("iot", identity.region, identity.account, "topicfilter/")

    def subscribe(self, link: Link, packet: Subscribe) -> list[int]:
        """Answers with SUBACK, after the sync for a persistent session, and sends what is retained. Returns the codes."""
        session = link.session
        assert session is not None
        reasons: list[int] = []
        granted: list[tuple[Wish, Subscription, bool]] = []
        changes: list[list[JsonValue]] = []
        for wish in packet.wishes:
            reason = self._check(link, session, wish)
            reasons.append(reason)
            if reason > 1:
                continue
            made = Subscription(wish.filter, wish.qos, wish.no_local, wish.retain_as_published)
            is_new = wish.filter not in session.subscriptions
            self.put(session, made)
            changes.append(recovery.subscribed(session, made))
            granted.append((wish, made, is_new))
        answer = _suback(link, packet, reasons)
        if session.is_durable and changes:
            ack = Ack(None, 0, 1)
            ack.done = Later(self._tick, link, answer)
            self._changes.note(changes, ack)
        else:
            link.send(answer)
        for wish, made, is_new in granted:
            # AWS: only to a filter that is the topic itself.
            is_topic = not topics.has_wildcard(made.filter) and not made.filter.startswith(topics.SHARE)
            if is_topic and (wish.retain_handling == 0 or (wish.retain_handling == 1 and is_new)):
                self._delivery.send_retained(link, session, made)
        self._tell("subscribed", link, [made.filter for _, made, _ in granted])
        self._tick.touch()
        return reasons

    def unsubscribe(self, link: Link, packet: Unsubscribe) -> None:
        session = link.session
        assert session is not None
        reasons: list[int] = []
        gone: list[str] = []
        for text in packet.filters:
            if text in session.subscriptions:
                self.drop(session, text)
                gone.append(text)
                reasons.append(packets.SUCCESS)
            else:
                reasons.append(_unsubscribed(text))
        answer = packets.Unsuback(packet.packet_id, reasons)
        link.send(v5.encode(answer) if link.version == packets.V5 else b"\xb0\x02" + packets.u16(packet.packet_id))
        self._tell("unsubscribed", link, gone)
        self._tick.touch()

    def drop(self, session: Session, text: str) -> None:
        """The session has this subscription no more."""
        del session.subscriptions[text]
        self._remove(session, text)
        if session.is_durable:
            self._changes.note([recovery.unsubscribed(session, text)])

    def put(self, session: Session, made: Subscription) -> None:
        """It gets what the filter covers from now on."""
        session.subscriptions[made.filter] = made
        group = self._router.subscribe(session, made)
        if group is not None:
            self._sharing.joined(group, session)

    def forget(self, session: Session) -> None:
        """It ends, and all of its subscriptions."""
        for text in session.subscriptions:
            self._remove(session, text)
        session.subscriptions.clear()

    def _remove(self, session: Session, text: str) -> None:
        group = self._router.unsubscribe(session, text)
        if group is not None:
            self._sharing.left(group, session)

    def may_subscribe(self, link: Link, text: str) -> bool:
        return self._identity.may(link.subject, "iot:Subscribe", self._filter_arn + text, link.context)

    def review(self, link: Link, session: Session) -> None:
        """Drop what its policy allows no more."""
        for text in list(session.subscriptions):
            if not self.may_subscribe(link, text):
                self.drop(session, text)

    def changed(self, session: Session) -> None:
        """Its subscriptions mean something else now: it came, it left, its policy changed."""
        for text in session.subscriptions:
            share = topics.parse_share(text)
            self._router.changed(text if share is None else share[1])
        for group in list(session.groups or ()):
            self._sharing.joined(group, session)

    def _check(self, link: Link, session: Session, wish: Wish) -> int:
        """The code for the SUBACK: the granted QoS, or why not."""
        is_new_style = link.version == packets.V5
        try:
            topics.check_filter(wish.filter)
        except Invalid:
            return packets.TOPIC_FILTER_INVALID if is_new_style else packets.SUBACK_FAILURE
        is_many = (
            wish.filter not in session.subscriptions and len(session.subscriptions) >= self._settings.subscriptions
        )
        if is_many or not self._rates.may_subscribe():
            return packets.QUOTA_EXCEEDED if is_new_style else packets.SUBACK_FAILURE
        if not self.may_subscribe(link, wish.filter):
            log.info("mqtt.subscribe_refused", client=link.client_id, filter=wish.filter)
            return packets.NOT_AUTHORIZED if is_new_style else packets.SUBACK_FAILURE
        return wish.qos

    def _tell(self, kind: str, link: Link, filters: list[str]) -> None:
        if filters and presence.has_events(link.client_id):
            now_ms, principal = self._clock.wall_ms(), link.subject.principal
            self._delivery.event(*presence.subscriptions(kind, link.client_id, principal, now_ms, link.number, filters))


def _unsubscribed(text: str) -> int:
    """For a filter that was not subscribed to. AWS has no 0x11: what is a filter at all succeeds."""
    try:
        topics.check_filter(text)
    except Invalid:
        return packets.TOPIC_FILTER_INVALID
    return packets.SUCCESS


def _suback(link: Link, packet: Subscribe, reasons: list[int]) -> bytes:
    if link.version != packets.V5:
        return packets.frame(0x90, packets.u16(packet.packet_id) + bytes(reasons))
    why = _why_not(packet.wishes, reasons) if link.explains else {}
    answer = v5.encode(packets.Suback(packet.packet_id, reasons, why))
    if why and link.max_packet and len(answer) > link.max_packet:
        return v5.encode(packets.Suback(packet.packet_id, reasons))
    return answer


def _why_not(wishes: Sequence[Wish], reasons: Sequence[int]) -> Properties:
    """The reason string for the first filter that was not granted."""
    for wish, reason in zip(wishes, reasons, strict=True):
        if reason in _REFUSED:
            return {"reason_string": f"{wish.filter[:160]} {_REFUSED[reason]}"}
    return {}
