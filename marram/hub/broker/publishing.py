"""What links ask for the messages of their clients: may this topic be published to, and all that is not plain and known.

A plain message on a topic that was met before is delivered by session.py; QoS 1 that must last comes here as `append`.
An edge core numbers what it sends (`mrm-seq`): repeats are acknowledged with the first and go nowhere.
"""

from typing import Final

from marram.core import topic as topics
from marram.core.codec import JsonObject
from marram.core.errors import Invalid
from marram.core.mqtt import packets, v5
from marram.core.mqtt.connection import HAS_PROPERTIES, properties_of
from marram.core.mqtt.packets import PUBLISH, Properties, Reader
from marram.core.segment import KIND_MESSAGE, Record
from marram.hub.broker import presence
from marram.hub.broker.acks import Acks
from marram.hub.broker.commits import Commits
from marram.hub.broker.delivery import Delivery, aged
from marram.hub.broker.feeding import Feeding
from marram.hub.broker.matching import Matching
from marram.hub.broker.message import Ack, Entry, Lent, Message, Waiting
from marram.hub.broker.recovery import Changes
from marram.hub.broker.reserved import Reserved
from marram.hub.broker.route import Match
from marram.hub.broker.session import MAX_PAYLOAD, MAX_ROUTES, Link, Session, dropped
from marram.hub.broker.tick import Tick
from marram.kit import metrics

MRM_SEQ: Final = "mrm-seq"
MAX_NUMBER_TEXT: Final = 200

_repeats: Final = metrics.counter("marram_mqtt_repeats_total", "Repeats of numbered messages, dropped").labels()
_unnumbered: Final = metrics.counter(
    "marram_mqtt_unnumbered_total", "Messages with a number of a source that is one too many"
).labels()
_expired: Final = dropped.labels(reason="expired")
_discarded: Final = metrics.counter("marram_mqtt_discarded_total", "Publishes over a connection's rate").labels()


class Publishing:
    """The `Core` of every link."""

    def __init__(
        self,
        tick: Tick,
        matching: Matching,
        delivery: Delivery,
        commits: Commits,
        acks: Acks,
        reserved: Reserved,
        feeding: Feeding,
        changes: Changes,
    ) -> None:
        self.published = 0
        self._tick, self._matching, self._delivery, self._commits = tick, matching, delivery, commits
        self._acks, self._reserved, self._feeding, self._changes = acks, reserved, feeding, changes

    def resolve(self, link: Link, topic: bytes, flags: int, packet_id: int) -> Match | None:
        try:
            text = topics.check_name(topic.decode())
        except (UnicodeDecodeError, Invalid) as exc:
            why = exc.message if isinstance(exc, Invalid) else "the topic name is not UTF-8"
            self._acks.refuse(link, packet_id, packets.TOPIC_NAME_INVALID, why, presence.CLIENT_ERROR)
            return None
        if not self._matching.may_publish(link.subject, text, retain=False, context=link.context):
            why = f"iot:Publish on {text[:300]} is not allowed"
            self._acks.refuse(link, packet_id, packets.NOT_AUTHORIZED, why, presence.FORBIDDEN)
            return None
        match = self._matching.of(text)
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
        if flags & 1 and not self._matching.may_publish(link.subject, match.topic, retain=True, context=link.context):
            why = f"retaining on {match.topic[:300]} is not allowed"
            self._acks.refuse(link, packet_id, packets.NOT_AUTHORIZED, why, presence.FORBIDDEN)
            return
        encoded = b""
        properties: Properties = {}
        if flags & HAS_PROPERTIES:
            encoded = properties_of(frame, topic, flags, payload_at)
            body = v5.with_length(encoded)
            properties = v5.read_properties(Reader(body, 0, len(body)), PUBLISH)
        message = self._delivery.message(topic, frame[payload_at:], qos, encoded, properties)
        message.was_retained = flags & 1 == 1
        ack: Ack | None = None
        if qos:
            ack = Ack(link, packet_id, 1)
            link.unacked += 1
            if link.unacked > self._acks.in_flight and not self._acks.too_many(link):
                return
        entry = Entry()
        extra: JsonObject = {}
        if flags & HAS_PROPERTIES and not self._number(link, properties, entry, extra, ack):
            self._tick.touch()
            return
        self._delivery.spread(message, match, entry, ack, link.meta, extra, properties, link.session)
        if flags & 1:
            self._delivery.retain(message, ack)
        if match.is_reserved:
            self._reserved.hand_over(link.client_id, link.subject, match.topic, message.payload, ack)
        if ack is not None:
            self._acks.settled(ack, None)
        self._tick.touch()

    def append(
        self, link: Link, match: Match, topic: bytes, payload: bytes, packet_id: int, entry: Entry | None
    ) -> None:
        ack = Ack(link, packet_id, 1)
        link.unacked += 1
        if link.unacked > self._acks.in_flight:
            self._acks.too_many(link)  # what was delivered is appended all the same
        tick = self._tick
        record = Record(KIND_MESSAGE, 0, tick.wall_ms(), topic, link.meta + match.meta_one, payload)
        if entry is None:
            tick.add(record, ack)
        else:
            entry.ack = ack
            tick.add(record, entry)

    def acknowledged(self, session: Session, waiting: Waiting) -> None:
        if isinstance(waiting, Entry):
            if waiting.offset >= 0:
                self._changes.acked(session.client_id, waiting.offset)
        elif isinstance(waiting, Lent):
            store = waiting.store
            if store.lent is not None:
                store.lent.discard(waiting)
                if waiting.entry.offset >= 0:
                    self._changes.acked(store.client_id, waiting.entry.offset)
        elif waiting is not None:
            waiting.done(True)
        if session.queue:
            self._feeding.drain(session)
        if session.groups is not None:
            for group in session.groups:
                if group.store is not None and group.store.queue:
                    self._feeding.drain(group.store)
        self._tick.touch()

    def discarded(self, link: Link, flags: int, packet_id: int) -> None:
        _discarded.inc()
        if packet_id and link.version == packets.V5:
            link.acknowledge(packet_id, packets.QUOTA_EXCEEDED, "more publishes a second than a connection may send")
            self._tick.touch()

    def fresh(self, message: Message) -> Message | None:
        now_ms = self._tick.wall_ms()
        if message.expires_ms <= now_ms:
            _expired.inc()
            return None
        properties = aged(message.properties, message.expires_ms, now_ms)
        return Message(message.topic, message.payload, message.qos, properties, message.retain, message.expires_ms)

    def too_large(self, link: Link, size: int) -> None:
        why = f"PAYLOAD_LIMIT_EXCEEDED: {size} bytes, the limit is {MAX_PAYLOAD}"
        link.owner.end(packets.QUOTA_EXCEEDED, why, presence.CLIENT_ERROR)

    def _number(self, link: Link, properties: Properties, entry: Entry, extra: JsonObject, ack: Ack | None) -> bool:
        """`mrm-seq` of an edge core: False when it is a repeat, which is then acknowledged and goes nowhere."""
        users = properties.get("user_properties")
        if not isinstance(users, list):
            return True
        for pair in users:
            if isinstance(pair, tuple) and pair[0] == MRM_SEQ:
                text = pair[1]
                spool, _, rest = text.partition(":")
                lane, _, digits = rest.rpartition(":")
                is_number = digits.isascii() and digits.isdigit() and len(digits) <= 18
                if not spool or not is_number or len(text) > MAX_NUMBER_TEXT:
                    return True  # not ours: an ordinary property of that name
                source = f"{MRM_SEQ}:{link.subject.principal}:{spool}:{lane}"
                if not self._commits.has_room(source):
                    _unnumbered.inc()
                    return True  # an ordinary message, of which a repeat is another one
                if self._commits.accept(source, int(digits), entry):
                    extra["o"] = [source, int(digits), 0]
                    return True
                _repeats.inc()
                if ack is not None:
                    ack.left += 1
                    if not self._commits.join(source, ack):
                        ack.left -= 1
                    self._acks.settled(ack, None)
                return False
        return True
