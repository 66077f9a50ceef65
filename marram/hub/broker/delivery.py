"""One message to all who get it: live subscribers at the end of the turn, the journal when somebody wants it to last.

Record meta: c client id, p principal, q QoS, n consumers, s sessions, u user properties, v all MQTT 5 properties (base64),
e expires_ms, l labels, o [source, position, index], h hops.
Not here: plain messages on known topics, which session.py delivers by itself; what comes back from the journal (feeding.py).
"""

import base64
from collections.abc import Callable
from typing import Final

from marram.core import codec
from marram.core.codec import JsonObject, JsonValue
from marram.core.errors import MarramError
from marram.core.mqtt import v5
from marram.core.mqtt.packets import PUBLISH, Properties, Reader
from marram.core.segment import KIND_MESSAGE, Record
from marram.hub.broker.acks import Acks
from marram.hub.broker.commits import Commits
from marram.hub.broker.matching import Matching
from marram.hub.broker.message import Ack, Entry, Message
from marram.hub.broker.retained import RetainedMessages
from marram.hub.broker.route import Group, Match, Subscription
from marram.hub.broker.session import Link, Session
from marram.hub.broker.store import Retained
from marram.hub.broker.tick import Tick
from marram.kit.clock import Clock

MAX_MESSAGE_EXPIRY_S: Final = 604_800
Share = Callable[[Group, list[tuple[Session, Subscription]], Message, Entry, list[str]], None]
OURSELVES: Final = b'{"c":"","p":"marram"'


def head(client_id: str, principal: str) -> bytes:
    """How the meta of a sender's records begins."""
    return codec.dumps({"c": client_id, "p": principal})[:-1]


class Delivery:
    def __init__(
        self, tick: Tick, clock: Clock, matching: Matching, commits: Commits, acks: Acks, retained: RetainedMessages
    ) -> None:
        self._tick, self._clock, self._matching = tick, clock, matching
        self._commits, self._acks, self._retained = commits, acks, retained
        self._share: Share = _to_nobody

    def share_by(self, share: Share) -> None:
        """Who gets the messages of shared subscriptions."""
        self._share = share

    def message(self, topic: bytes, payload: bytes, qos: int, encoded: bytes, properties: Properties) -> Message:
        """`encoded`: the properties, for MQTT 5 subscribers."""
        expires_ms = 0
        wanted_s = properties.get("message_expiry_s")
        if isinstance(wanted_s, int):
            expiry_s = min(max(wanted_s, 1), MAX_MESSAGE_EXPIRY_S)
            if expiry_s != wanted_s:
                encoded = v5.write_properties({**properties, "message_expiry_s": expiry_s}, PUBLISH)
            expires_ms = self._clock.wall_ms() + expiry_s * 1000
        return Message(topic, payload, qos, encoded, False, expires_ms)

    def spread(
        self,
        message: Message,
        match: Match,
        entry: Entry,
        ack: Ack | None,
        sender: bytes,
        extra: JsonObject,
        properties: Properties,
        source: Session | None,
    ) -> None:
        """To everybody live, and into the journal when somebody wants it to last. `sender`: a `head`."""
        names: list[str] = []
        if message.qos:
            for link in match.zero4:
                link.send_message(message)
            for link in match.zero5:
                link.send_message(message)
            for session in match.one:
                session.deliver(message)
            for session in match.durable:
                session.deliver_durable(message, entry)
                names.append(session.client_id)
        else:
            for link in match.links4:
                link.send_message(message)
            for link in match.links5:
                link.send_message(message)
        for session, subscription in match.special:
            if subscription.no_local and session is source:
                continue
            self._send_one(session, subscription, message, entry, names)
        for group, able in match.groups:
            self._share(group, able, message, entry, names)
        if match.consumers or names:
            self._append(message, match, entry, ack, sender, extra, properties, names)

    def event(self, topic: str, body: bytes) -> None:
        """A lifecycle event."""
        match = self._matching.make(topic)  # not kept: the topic has a client id in it
        message = Message(topic.encode(), body, 1, b"")
        self.spread(message, match, Entry(), None, OURSELVES, {}, {}, None)
        self._tick.touch()

    def retain(self, message: Message, ack: Ack | None) -> None:
        """Keep it for later subscribers, or with an empty payload keep none; `ack` waits for the commit."""
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
        self._retained.put(topic, item, lambda failed: self._acks.settled(ack, failed))

    def send_retained(self, link: Link, session: Session, made: Subscription) -> None:
        """What is retained on the topic that `made` asks for."""
        now_ms = self._clock.wall_ms()
        found = self._retained.get(made.filter, now_ms)
        if found is None or not self._matching.may_receive(session, made.filter):
            return
        properties = aged(found.properties, found.expires_ms, now_ms)
        message = Message(made.filter.encode(), found.payload, min(found.qos, made.qos), properties, True)
        if message.qos:
            session.deliver(message)
        else:
            link.send_message(message)

    def _send_one(
        self, session: Session, subscription: Subscription, message: Message, entry: Entry, names: list[str]
    ) -> None:
        if message.was_retained and subscription.retain_as_published:
            message = message.as_published()
        if message.qos and subscription.qos:
            if session.is_durable:
                session.deliver_durable(message, entry)
                names.append(session.client_id)
            else:
                session.deliver(message)
        elif session.link is not None:
            session.link.send_message(message)

    def _append(
        self,
        message: Message,
        match: Match,
        entry: Entry,
        ack: Ack | None,
        sender: bytes,
        extra: JsonObject,
        properties: Properties,
        names: list[str],
    ) -> None:
        meta = sender + (b',"q":1' if message.qos else b',"q":0') + match.meta
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
        flags = 1 if message.was_retained else 0
        self._tick.add(
            Record(KIND_MESSAGE, flags, self._clock.wall_ms(), message.topic, meta, message.payload),
            entry,
        )


def aged(encoded: bytes, expires_ms: int | None, now_ms: int) -> bytes:
    """The properties with the message expiry that is left."""
    if expires_ms is None or not encoded:
        return encoded
    body = v5.with_length(encoded)
    properties = v5.read_properties(Reader(body, 0, len(body)), PUBLISH)
    properties["message_expiry_s"] = max(0, (expires_ms - now_ms + 999) // 1000)
    return v5.write_properties(properties, PUBLISH)


def _to_nobody(
    _group: Group, _able: list[tuple[Session, Subscription]], _message: Message, _entry: Entry, _names: list[str]
) -> None:
    """Until somebody knows."""


def _nobody(_failed: MarramError | None) -> None:
    """Nobody waits for it."""
