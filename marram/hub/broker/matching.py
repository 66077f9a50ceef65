"""Who may publish on a topic, and who gets what is published there: sessions with iot:Receive applied, consumers, a handler.

A match is made once and kept (route.py) until a subscription, a policy or what a consumer wants changes it.
"""

from collections.abc import Callable, Mapping
from typing import Final

from marram.core import arn, codec
from marram.core import topic as topics
from marram.hub.broker.reserved import Reserved
from marram.hub.broker.route import Group, Match, Router, Subscription
from marram.hub.broker.session import Session
from marram.hub.identity.service import Identity, Subject

NOTHING: Final[Mapping[str, str]] = {}


class Matching:
    def __init__(self, identity: Identity, reserved: Reserved) -> None:
        self.router = Router()
        self._identity, self._reserved = identity, reserved
        self._topic_arn = arn.build("iot", identity.region, identity.account, "topic/")
        self._consumers: dict[str, Callable[[str], bool]] = {}

    def add_consumer(self, name: str, wants: Callable[[str], bool]) -> None:
        self._consumers[name] = wants
        self.router.forget_all()

    def of(self, topic: str) -> Match:
        match = self.router.known(topic)
        if match is None:
            match = self.make(topic)
            if match.keep:
                self.router.keep(match)
        return match

    def make(self, topic: str) -> Match:
        """A new one, that is not kept."""
        match = Match(topic)
        if topic.startswith(topics.BASIC_INGEST):
            match.is_ingest = True
        elif topics.is_reserved(topic) and self._reserved.is_private(topic):
            match.is_reserved = True
            match.finish(b"[]", b"[]")
            return match
        else:
            for session, subscription in self.router.sessions(topic).items():
                if self.may_receive(session, topic, match):
                    match.add(session, subscription)
            for group in self.router.groups(topic):
                match.groups.append((group, self._able(group, topic, match)))
            match.is_reserved = topics.is_reserved(topic) and self._reserved.has(topic)
        match.consumers = tuple(name for name, wants in self._consumers.items() if wants(topic))
        match.finish(codec.dumps(list(match.consumers)), codec.dumps([session.client_id for session in match.durable]))
        return match

    def may_receive(self, session: Session, topic: str, match: Match | None = None) -> bool:
        """`match`: the one that the answer goes into; it is not kept when the answer depends on the clock."""
        if match is not None and session.subject.program.timed:
            match.keep = False
        context = session.link.context if session.link is not None else NOTHING
        return self._identity.may(session.subject, "iot:Receive", self._topic_arn + topic, context)

    def may_share(self, session: Session, share: str, topic: str, match: Match | None = None) -> bool:
        """iot:Receive for a member of a shared subscription, `share` its name.

        Policies of AWS's own samples name the topic, or $share/<name>/<topic>, or both: one that is allowed is enough, and
        one that is denied in so many words is too much.
        """
        if match is not None and session.subject.program.timed:
            match.keep = False
        context = session.link.context if session.link is not None else NOTHING
        subject, resources = (
            session.subject,
            (self._topic_arn + topic, f"{self._topic_arn}{topics.SHARE}{share}/{topic}"),
        )
        may = [self._identity.may(subject, "iot:Receive", resource, context) for resource in resources]
        if all(may) or not any(may):
            return may[0]
        other = resources[1 if may[0] else 0]
        return self._identity.explain(subject, "iot:Receive", other, context).decision != "explicit deny"

    def _able(self, group: Group, topic: str, match: Match) -> list[tuple[Session, Subscription]]:
        everybody = group.everybody
        able = [item for item in everybody if self.may_share(item[0], group.name, topic, match)]
        return everybody if len(able) == len(everybody) else able

    def may_publish(self, subject: Subject, topic: str, *, retain: bool, context: Mapping[str, str] = NOTHING) -> bool:
        """The policy, and the rules about reserved topics."""
        if topics.is_reserved(topic):
            match = self.of(topic)
            if retain or not (match.is_reserved or match.is_ingest):
                return False
        resource = self._topic_arn + topic
        return self._identity.may(subject, "iot:Publish", resource, context) and (
            not retain or self._identity.may(subject, "iot:RetainPublish", resource, context)
        )
