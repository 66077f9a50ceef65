"""What a changed policy would do, without changing it: to given requests, and to who is here now.

Of the clients that have the policy, asked as they were when they came: iot:Connect, iot:Subscribe for each subscription,
iot:Receive where the filter is a topic, iot:Publish for each topic that the client published on lately. What they were refused
is kept nowhere, so among those hardly anything can be newly allowed. Not here: traffic of the past.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from marram.core import arn
from marram.core import topic as topics
from marram.core.policy import documents, evaluate, trace
from marram.core.policy.evaluate import CompiledPolicy
from marram.core.policy.variables import Values
from marram.hub.broker.session import Session
from marram.hub.identity.service import Identity, Subject

CLIENTS_A_TURN: Final = 50
MAX_CHANGES: Final = 1000
NOTHING: Final[Mapping[str, str]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """principal: the ARN of a certificate."""

    principal: str
    client_id: str | None
    action: str
    resource: str
    context: Values


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """`before` and `after`: allowed, explicit deny or implicit deny. why: of `after`."""

    principal: str
    client_id: str | None
    thing: str | None
    action: str
    resource: str
    before: str
    after: str
    why: str

    @property
    def is_denied(self) -> bool:
        """Newly."""
        return self.before == "allowed" != self.after

    @property
    def is_allowed(self) -> bool:
        """Newly."""
        return self.before != "allowed" == self.after


@dataclass(slots=True)
class Live:
    """Counts of what was looked at, and the changes found, the first MAX_CHANGES of them."""

    clients: int = 0
    connections: int = 0
    subscriptions: int = 0
    topics: int = 0
    denied: int = 0
    allowed: int = 0
    changes: list[Outcome] = field(default_factory=list[Outcome])


class DryRun:
    def __init__(self, identity: Identity, sessions: Mapping[str, Session]) -> None:
        self._identity, self._sessions = identity, sessions

    async def compiled(self, name: str, document: str) -> CompiledPolicy:
        """The policy as it would be. Raises NotFound when there is none of that name, MalformedPolicy with the place."""
        await self._identity.policy(name)
        return evaluate.compile_policy(name, document, limit=documents.IOT_LIMIT)

    def requests(self, policy: CompiledPolicy, asked: Sequence[Request]) -> list[Outcome]:
        """Raises NotFound for an unknown certificate, Invalid for what is no ARN of one."""
        found: list[Outcome] = []
        for request in asked:
            certificate_id = self._identity.certificate_of(request.principal)
            subject = self._identity.subjects.hypothetical(certificate_id, request.client_id)
            supposed = self._identity.subjects.supposing(subject, policy)
            found.append(
                self._outcome(subject, supposed, request.action, request.resource, request.context, request.principal)
            )
        return found

    async def live(self, policy: CompiledPolicy) -> Live:
        """The loop gets its turn every so many clients; who comes or goes meanwhile may be seen or not."""
        seen = Live()
        for at, session in enumerate(list(self._sessions.values())):
            if at % CLIENTS_A_TURN == 0:
                await asyncio.sleep(0)
            if any(each.name == policy.name for each in session.subject.policies):
                self._client(policy, session, seen)
        return seen

    def _client(self, policy: CompiledPolicy, session: Session, seen: Live) -> None:
        subject = session.subject
        supposed = self._identity.subjects.supposing(subject, policy)
        may, context = self._identity.may, session.link.context if session.link is not None else NOTHING
        seen.clients += 1
        for action, resource, given in self._asked(session, context, seen):
            if may(subject, action, resource, given) == may(supposed, action, resource, given):
                continue
            outcome = self._outcome(
                subject, supposed, action, resource, given, self._identity.arn_of(subject.principal)
            )
            seen.denied += outcome.is_denied
            seen.allowed += outcome.is_allowed
            if len(seen.changes) < MAX_CHANGES:
                seen.changes.append(outcome)

    def _asked(self, session: Session, context: Mapping[str, str], seen: Live) -> Iterator[tuple[str, str, Values]]:
        """(action, resource, context) of what the client was allowed."""
        link = session.link
        if link is not None:
            seen.connections += 1
            yield "iot:Connect", self._arn(f"client/{session.client_id}"), link.connect_context or context
        for text in list(session.subscriptions):
            seen.subscriptions += 1
            yield "iot:Subscribe", self._arn(f"topicfilter/{text}"), context
            if not topics.has_wildcard(text) and not text.startswith(topics.SHARE):
                yield "iot:Receive", self._arn(f"topic/{text}"), context
        for topic in list(link.routes) if link is not None else ():
            seen.topics += 1
            yield "iot:Publish", self._arn(f"topic/{topic.decode()}"), context

    def _outcome(
        self, subject: Subject, supposed: Subject, action: str, resource: str, context: Values, principal: str
    ) -> Outcome:
        before = self._identity.explain(subject, action, resource, context).decision
        after = self._identity.explain(supposed, action, resource, context).decision
        timed = self._identity.subjects.context(context)
        steps = trace.steps(supposed.policies, action, resource, supposed.attributes, timed)
        return Outcome(
            principal=principal,
            client_id=subject.client_id,
            thing=subject.thing,
            action=action,
            resource=resource,
            before=before,
            after=after,
            why=trace.summary(steps, after),
        )

    def _arn(self, resource: str) -> str:
        return arn.build("iot", self._identity.region, self._identity.account, resource)
