"""Last wills: published when a link ends without DISCONNECT, at once or after their delay, with the rights of that moment."""

from marram.core.errors import Denied
from marram.core.mqtt import v5
from marram.core.mqtt.packets import PUBLISH, Will
from marram.hub.broker.delivery import Delivery, head
from marram.hub.broker.matching import Matching
from marram.hub.broker.message import Entry
from marram.hub.broker.session import Link, Session
from marram.hub.broker.tick import Tick
from marram.hub.identity.service import Identity, Subject


class Wills:
    def __init__(self, tick: Tick, identity: Identity, matching: Matching, delivery: Delivery) -> None:
        self._tick, self._identity, self._matching, self._delivery = tick, identity, matching, delivery
        self.weight = 0  # bytes of the wills of those who are here
        self._delayed: dict[str, tuple[int, Will, Subject]] = {}  # due (wall), by client id

    def left(self, link: Link, session: Session, now_ms: int) -> None:
        """The link of this session ended, and its will is to be known."""
        if link.will is None:
            return
        self.weight -= weight(link.will)
        delay_s = link.will.properties.get("will_delay_s")
        if isinstance(delay_s, int) and delay_s and session.is_durable:
            due_ms = now_ms + min(delay_s, session.expiry_s) * 1000
            self._delayed[link.client_id] = (due_ms, link.will, link.subject)
        else:
            self._send(link.client_id, link.will, link.subject)

    def dropped(self, link: Link) -> None:
        """The link ended, and its will is not to be known."""
        if link.will is not None:
            self.weight -= weight(link.will)

    def back(self, client_id: str) -> None:
        """Its session goes on: a will that waits is void."""
        self._delayed.pop(client_id, None)

    def ended(self, client_id: str) -> None:
        """Its session ended: a will that waits is due (MQTT 5.0, 3.1.3.2.2)."""
        waiting = self._delayed.pop(client_id, None)
        if waiting is not None:
            self._send(client_id, waiting[1], waiting[2])

    def tend(self, now_ms: int) -> None:
        for client_id, (due_ms, will, subject) in list(self._delayed.items()):
            if due_ms <= now_ms:
                del self._delayed[client_id]
                self._send(client_id, will, subject)

    def _send(self, client_id: str, will: Will, subject: Subject) -> None:
        try:
            subject = self._identity.refresh(subject)
        except Denied:
            return  # revoked: its last will too
        if not self._matching.may_publish(subject, will.topic, retain=will.retain):
            return
        properties = {name: value for name, value in will.properties.items() if name != "will_delay_s"}
        encoded = v5.write_properties(properties, PUBLISH)
        message = self._delivery.message(will.topic.encode(), will.payload, will.qos, encoded, properties)
        sender = head(client_id, subject.principal)
        message.was_retained = will.retain
        self._delivery.spread(message, self._matching.of(will.topic), Entry(), None, sender, {}, properties, None)
        if will.retain:
            self._delivery.retain(message, None)
        # Not to the handler of a reserved topic: subscribers and rules get it, the shadow service does not (AWS IoT Developer
        # Guide, "Using shadows in apps and services").
        self._tick.touch()


def weight(will: Will | None) -> int:
    return 0 if will is None else len(will.topic) + len(will.payload)
