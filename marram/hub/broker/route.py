"""Matching: which subscribers a topic has. A match is made once and kept until a subscription that covers it changes.

A change throws away only the matches that its filter covers, at the moment of the change: whoever holds a match looks at
one flag. So a SUBSCRIBE elsewhere empties nobody's cache. mypyc compiles this module.
"""

from typing import TYPE_CHECKING, Final

from marram.core import topic as topics
from marram.core.topic import Trie

if TYPE_CHECKING:
    from marram.hub.broker.session import Link, Session

MAX_MATCHES: Final = 65_536


class Subscription:
    """One filter of one session, as granted. `filter` is as the client wrote it, `$share` included."""

    __slots__ = ("filter", "no_local", "qos", "retain_as_published")

    def __init__(self, text: str, qos: int, no_local: bool, retain_as_published: bool) -> None:
        self.filter = text
        self.qos = qos
        self.no_local = no_local
        self.retain_as_published = retain_as_published

    @property
    def is_plain(self) -> bool:
        return not self.no_local and not self.retain_as_published


class Group:
    """A shared subscription: name and filter. `store` is its queue, while it has a member with a persistent session."""

    __slots__ = ("_everybody", "filter", "members", "name", "store")

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.filter = text
        self.members: dict[Session, Subscription] = {}
        self.store: Session | None = None
        self._everybody: list[tuple[Session, Subscription]] | None = None

    @property
    def text(self) -> str:
        """The subscription as its members write it; also the name of its queue: no client id begins with $."""
        return f"{topics.SHARE}{self.name}/{self.filter}"

    @property
    def everybody(self) -> "list[tuple[Session, Subscription]]":
        """The members as one list, the same until they change: matches hold it."""
        if self._everybody is None:
            self._everybody = list(self.members.items())
        return self._everybody

    def put(self, session: "Session", subscription: Subscription) -> None:
        self.members[session] = subscription
        self._everybody = None

    def remove(self, session: "Session") -> bool:
        self._everybody = None
        return self.members.pop(session, None) is not None


class Match:
    """The subscribers of one topic, iot:Receive applied, in the shapes that the hot path wants.

    links4, links5: everybody online, for a QoS 0 message. zero4, zero5: those online who asked for QoS 0, for a QoS 1
    message. one: sessions that asked for QoS 1 and end with their connection. durable: those that outlive it, online or not.
    special: with options that look at each message (No Local, Retain As Published).
    """

    __slots__ = (
        "consumers", "durable", "fast_one", "fast_zero", "groups", "is_ingest", "is_picky", "is_reserved", "keep", "lasts", "links4",
        "links5", "meta", "meta_one", "one", "special", "topic", "valid", "zero4", "zero5",
    )  # fmt: skip

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.valid = True
        self.keep = True
        self.links4: list[Link] = []
        self.links5: list[Link] = []
        self.zero4: list[Link] = []
        self.zero5: list[Link] = []
        self.one: list[Session] = []
        self.durable: list[Session] = []
        self.special: list[tuple[Session, Subscription]] = []
        self.groups: list[tuple[Group, list[tuple[Session, Subscription]]]] = []  # and the members that may get it
        self.consumers: tuple[str, ...] = ()
        self.is_picky = False  # somebody takes packets of a certain size only
        self.is_reserved = False  # a handler wants it
        self.is_ingest = False
        self.fast_zero = False
        self.fast_one = False
        self.lasts = False  # with QoS 1 it goes into the journal
        self.meta = b""  # of a record: the consumers
        self.meta_one = b""  # of a plain QoS 1 message: all but its sender

    @property
    def is_empty(self) -> bool:
        """Nobody gets what is published there."""
        return not (
            self.links4 or self.links5 or self.one or self.durable or self.special or self.groups or self.consumers
            or self.is_reserved or self.is_ingest
        )  # fmt: skip

    def add(self, session: "Session", subscription: Subscription) -> None:
        link = session.link
        if not subscription.is_plain:
            self.special.append((session, subscription))
            return
        if link is not None:
            self.is_picky = self.is_picky or link.is_picky
            (self.links5 if link.version == 5 else self.links4).append(link)
            if not subscription.qos:
                (self.zero5 if link.version == 5 else self.zero4).append(link)
        if subscription.qos:
            if session.is_durable:
                self.durable.append(session)
            elif link is not None:
                self.one.append(session)

    def finish(self, consumers: bytes, sessions: bytes) -> None:
        """`consumers`, `sessions`: their names as JSON."""
        self.lasts = bool(self.consumers or self.durable)
        self.fast_one = not (self.special or self.groups or self.is_picky or self.is_reserved or self.is_ingest)
        self.fast_zero = self.fast_one and not self.consumers
        self.meta = b',"n":' + consumers if self.consumers else b""
        self.meta_one = b',"q":1' + self.meta + (b',"s":' + sessions if self.durable else b"") + b"}"


class Router:
    """Subscriptions in a trie, and the matches made of it."""

    def __init__(self) -> None:
        self._sessions: Trie[Session, Subscription] = Trie()
        self._groups: Trie[tuple[str, str], Group] = Trie()
        self._matches: dict[str, Match] = {}
        self._below_one: dict[str, dict[str, Match]] = {}  # by first level
        self._below_two: dict[str, dict[str, Match]] = {}  # by the first two

    def __len__(self) -> int:
        return len(self._sessions)

    def subscribe(self, session: "Session", subscription: Subscription) -> Group | None:
        """Returns the shared subscription, where it is one."""
        share = topics.parse_share(subscription.filter)
        if share is None:
            self._sessions.put(subscription.filter, session, subscription)
            self.changed(subscription.filter)
            return None
        group = self._groups.get(share[1]).get(share)
        if group is None:
            group = Group(share[0], share[1])
            self._groups.put(share[1], share, group)
        group.put(session, subscription)
        self.changed(share[1])
        return group

    def unsubscribe(self, session: "Session", text: str) -> Group | None:
        """Returns the shared subscription that it left."""
        share = topics.parse_share(text)
        if share is None:
            self._sessions.remove(text, session)
            self.changed(text)
            return None
        group = self._groups.get(share[1]).get(share)
        if group is None or not group.remove(session):
            return None
        if not group.members:
            self._groups.remove(share[1], share)
        self.changed(share[1])
        return group

    def known(self, topic: str) -> Match | None:
        return self._matches.get(topic)

    def keep(self, match: Match) -> None:
        """Have it found by `known`, and thrown away when a filter that covers it changes."""
        if len(self._matches) >= MAX_MATCHES:
            self.forget_all()
        topic = match.topic
        self._matches[topic] = match
        one, two = _levels(topic)
        self._below_one.setdefault(one, {})[topic] = match
        self._below_two.setdefault(two, {})[topic] = match

    def sessions(self, topic: str) -> dict["Session", Subscription]:
        """Who has a filter that covers it; the one with the highest QoS where one has several."""
        found: dict[Session, Subscription] = {}
        for session, subscription in self._sessions.match(topic):
            present = found.get(session)
            if present is None or subscription.qos > present.qos:
                found[session] = subscription
        return found

    def groups(self, topic: str) -> list[Group]:
        return [group for _, group in self._groups.match(topic)]

    def changed(self, text: str) -> None:
        """A subscription with this filter came, went or means something else now."""
        if not topics.has_wildcard(text):
            match = self._matches.get(text)
            if match is not None:
                self._forget(match)
            return
        if text == "#":
            candidates = list(self._matches.values())
        else:
            one, two = _levels(text)
            if topics.has_wildcard(one):
                candidates = list(self._matches.values())
            elif topics.has_wildcard(two):
                candidates = list(self._below_one.get(one, {}).values())
            else:
                candidates = list(self._below_two.get(two, {}).values())
        for match in candidates:
            if topics.matches(text, match.topic):
                self._forget(match)

    def forget_all(self) -> None:
        for match in self._matches.values():
            match.valid = False
        self._matches.clear()
        self._below_one.clear()
        self._below_two.clear()

    def _forget(self, match: Match) -> None:
        match.valid = False
        topic = match.topic
        self._matches.pop(topic, None)
        one, two = _levels(topic)
        below = self._below_one.get(one)
        if below is not None:
            below.pop(topic, None)
            if not below:
                del self._below_one[one]
        below = self._below_two.get(two)
        if below is not None:
            below.pop(topic, None)
            if not below:
                del self._below_two[two]


def _levels(text: str) -> tuple[str, str]:
    """The first level, and the first two."""
    one, slash, rest = text.partition("/")
    return one, one + slash + rest.partition("/")[0]
