"""Shared subscriptions: each message goes to one member, taken at random among those that are here and have room.

With QoS 1 and a member whose session is persistent the group has a queue of its own (a session without a client, `store`):
every message is in the journal in its name, is lent to a member, and comes back when that member leaves without having
acknowledged it. Without such a member nothing outlives the moment. Overflow: the old ones stay. QoS 0 is dropped on any failure.
Source: AWS IoT Developer Guide, "MQTT", Shared Subscriptions.
"""

from collections.abc import Iterable
from typing import Final

from marram.core import topic as topics
from marram.hub.broker import recovery
from marram.hub.broker.feeding import Feeding
from marram.hub.broker.message import Entry, Lent, Message
from marram.hub.broker.recovery import Changes
from marram.hub.broker.route import Group, Subscription
from marram.hub.broker.session import Link, Session, dropped
from marram.hub.broker.settings import Settings
from marram.hub.identity.service import Subject
from marram.kit.clock import Entropy

GUESSES: Final = 4

_nobody: Final = dropped.labels(reason="nobody of the group")


class Sharing:
    def __init__(self, entropy: Entropy, changes: Changes, feeding: Feeding, settings: Settings) -> None:
        self.stores: dict[str, Session] = {}  # the queues of groups, by `Group.text`
        self._changes, self._feeding, self._settings = changes, feeding, settings
        self._dice = int.from_bytes(entropy.bytes(8)) | 1
        feeding.share_by(self._take)

    # members

    def joined(self, group: Group, session: Session) -> None:
        """It subscribed, or it is another kind of session now."""
        if session.groups is None:
            session.groups = []
        if group not in session.groups:
            session.groups.append(group)
        self.settle(group)
        if group.store is not None and session.link is not None:
            self._feeding.queued(group.store)

    def left(self, group: Group, session: Session) -> None:
        if session.groups is not None and group in session.groups:
            session.groups.remove(group)
            if not session.groups:
                session.groups = None
        self.settle(group)  # what it was lent stays with it: it may still acknowledge that

    def settle(self, group: Group) -> None:
        """It has a queue as long as it has a member whose session is persistent and that asked for QoS 1."""
        lasts = any(session.is_durable and made.qos for session, made in group.members.items())
        if lasts and group.store is None:
            store = self.stores.get(group.text) or self._store(group.text)
            store.group, group.store = group, store
            self.stores[store.client_id] = store
            if not store.is_noted:
                store.is_noted = True
                self._changes.note([recovery.begin(store)])
        elif not lasts and group.store is not None:
            self._drop(group.store)
            group.store = None

    def returned(self, session: Session) -> None:
        """Its connection is gone: what it was lent goes to the others."""
        back: dict[Session, list[int]] = {}
        for waiting in session.window.values():
            if not isinstance(waiting, Lent) or waiting.store.lent is None:
                continue
            waiting.store.lent.discard(waiting)
            if waiting.entry.offset >= 0:
                back.setdefault(waiting.store, []).append(waiting.entry.offset)
        for store, offsets in back.items():
            offsets += store.queue
            offsets.sort()
            store.fill(offsets)
            self._feeding.queued(store)

    # messages

    def spread(
        self,
        group: Group,
        able: list[tuple[Session, Subscription]],
        message: Message,
        entry: Entry,
        names: list[str],
    ) -> None:
        """To one of `able`; `names` gets the name of the group's queue when the journal has to have it."""
        found = self._pick(able, message.qos)
        store = group.store
        if found is not None:
            session, made = found
            if message.was_retained and made.retain_as_published:
                message = message.as_published()
            if not (message.qos and made.qos):
                assert session.link is not None
                session.link.send_message(message)
            elif store is None:
                session.deliver(message)
            else:
                assert session.link is not None
                if session.link.rates is not None:
                    session.link.rates.may_deliver()
                session.lend(message, Lent(entry, store))
                names.append(store.client_id)
        elif message.qos and store is not None:
            store.join(entry)
            names.append(store.client_id)
        elif message.qos:
            # Somebody who is here, and has much to do.
            for session, made in able:
                if session.link is not None and made.qos:
                    session.remember(message)
                    return
            _nobody.inc()
        else:
            _nobody.inc()

    # across a restart

    def restore(self, store: Session) -> None:
        """The queue of the last life; its members come after it."""
        store.lent = set()
        store.limit = self._settings.queue
        store.expires_ms = 0
        store.is_noted = True
        self.stores[store.client_id] = store

    def restored(self) -> None:
        """All sessions are here: a queue that nobody takes from goes."""
        for store in list(self.stores.values()):
            if store.group is None:
                self._drop(store)

    def _store(self, text: str) -> Session:
        subject = Subject(kind="service", principal="", arn="")
        store = Session(text, 0, self._settings.max_expiry_s, subject)
        store.lent = set()
        store.limit = self._settings.queue
        return store

    def _drop(self, store: Session) -> None:
        self.stores.pop(store.client_id, None)
        self._feeding.forget(store)
        store.fill([])
        store.lent = None
        store.group = None
        if store.is_noted:
            store.is_noted = False
            self._changes.forget(store.client_id)
            self._changes.ended(store.client_id)

    # whose turn it is

    def _take(self, store: Session, topic: str) -> tuple[Session | None, bool]:
        """Who gets a message that waited; nobody yet, or (True) nobody ever."""
        group = store.group
        if group is None:
            return None, True
        able = [
            (session, made)
            for session, made in group.everybody
            if made.qos and self._feeding.may_share(session, group.name, topic)
        ]
        if not able:
            return None, True
        found = self._pick(able, 1, stored=True)
        return (None if found is None else found[0]), False

    def _pick(
        self, able: list[tuple[Session, Subscription]], qos: int, *, stored: bool = False
    ) -> tuple[Session, Subscription] | None:
        """At random among those that are here, read and have room."""
        count = len(able)
        if not count:
            return None
        for at in self._order(count):
            session, made = able[at]
            link = session.link
            if link is None or link.congested:
                continue
            if qos and made.qos and not session.has_room:
                continue
            if link.rates is not None and not _within(link, stored):
                continue
            return able[at]
        return None

    def _order(self, count: int) -> Iterable[int]:
        """Some at random, then all from a random one on."""
        for _ in range(GUESSES):
            yield self._random(count)
        start = self._random(count)
        for step in range(count):
            yield (start + step) % count

    def _random(self, count: int) -> int:
        # Knuth's linear congruential generator; the high bits are the good ones.
        self._dice = (self._dice * 6364136223846793005 + 1442695040888963407) & 0xFFFF_FFFF_FFFF_FFFF
        return (self._dice >> 33) % count


def _within(link: Link, stored: bool) -> bool:
    rates = link.rates
    assert rates is not None
    if stored:
        return rates.shared is None or rates.shared.take()
    # `send_message` and `deliver` take the token.
    return rates.delivery is None or rates.delivery.has()


def is_store(client_id: str) -> bool:
    """Whether the name is that of a group's queue, and no client's."""
    return client_id.startswith(topics.SHARE)
