"""Who presents a certificate or a key, and the one decision `may`. The hot path: synchronous, from the document cache.

Whoever changes a row drops it there within the same commit.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from marram.core.errors import Unauthenticated
from marram.core.policy import documents, evaluate
from marram.core.policy.evaluate import CompiledPolicy, Verdict
from marram.core.policy.variables import ATTRIBUTE, Values
from marram.hub.identity import pki, store, store_authorities
from marram.hub.identity.base import Base, certificate_target
from marram.hub.identity.certificates import Certificates
from marram.hub.identity.keys import Keys
from marram.hub.identity.model import NOTHING, Subject, ThingFacts
from marram.hub.identity.policies import Policies, readable
from marram.kit.db import Tx


@dataclass(frozen=True, slots=True, kw_only=True)
class _Principal:
    """The cached document of a certificate."""

    status: str
    policies: tuple[str, ...] = ()
    things: tuple[str, ...] = ()
    exclusive: str | None = None  # the one thing, where the attachment is exclusive
    own_policy: CompiledPolicy | None = None  # of a claim
    ends_ms: int | None = None


class Subjects:
    def __init__(self, base: Base, certificates: Certificates, policies: Policies, keys: Keys) -> None:
        self._base, self._certificates, self._policies, self._keys = base, certificates, policies, keys

    def of_certificate(self, der: bytes) -> Subject:
        """Who presents this certificate. Raises Unauthenticated (a Denied) when it is unknown or not active."""
        certificate_id = pki.certificate_id(der)
        strangers = self._base.strangers
        if strangers is not None:
            found = self._principal(certificate_id)
            if found is None or found.status == "PENDING_ACTIVATION":
                strangers.presented(der)
        return self._subject(certificate_id, None, der)

    def with_client(self, subject: Subject, client_id: str) -> Subject:
        """The subject as client `client_id`, bound to the thing of that name if its certificate is attached to it."""
        if subject.kind != "certificate":
            return replace(subject, client_id=client_id, attributes={**subject.attributes, "iot:ClientId": client_id})
        return self._subject(subject.principal, client_id, None)

    def may(self, subject: Subject, action: str, resource: str, context: Values = NOTHING) -> bool:
        """Whether the subject's policies allow it; no policy, no right."""
        program, bound = subject.program, subject.bound
        if program.timed or (bound is not None and bound.timed):
            context = self._base.with_time(context)
        if not program.may(action, resource, subject.attributes, context):
            return False
        return bound is None or bound.may(action, resource, subject.attributes, context)

    def explain(self, subject: Subject, action: str, resource: str, context: Values = NOTHING) -> Verdict:
        """As `may`, with the statements that decided. For people, not for every message."""
        context = self._base.with_time(context)
        verdict = subject.program.explain(action, resource, subject.attributes, context)
        if subject.bound is None or not verdict.allowed:
            return verdict
        return subject.bound.explain(action, resource, subject.attributes, context)

    def denial(self, subject: Subject, action: str, resource: str, context: Values = NOTHING) -> str:
        """The sentence for somebody who may not."""
        context = self._base.with_time(context)
        kind, program = "identity-based", subject.program
        if subject.bound is not None and program.may(action, resource, subject.attributes, context):
            kind, program = "session", subject.bound
        verdict = program.explain(action, resource, subject.attributes, context)
        article = "an" if kind == "identity-based" else "a"
        why = (
            f"with an explicit deny in {article} {kind} policy"
            if verdict.decision == "explicit deny"
            else f"because no {kind} policy allows the {action} action"
        )
        return f"User: {subject.arn} is not authorized to perform: {action} on resource: {resource} {why}"

    def context(self, given: Values = NOTHING) -> Values:
        """`given` with the time, as `may` and `explain` add it."""
        return self._base.with_time(given)

    def refresh(self, subject: Subject) -> Subject:
        """The subject as of now. Raises Unauthenticated when its certificate or key is gone, revoked or inactive."""
        if self._base.changed_at(subject.principal) <= subject.epoch:
            return self._now(subject)  # the change was somebody else's
        if subject.kind == "certificate":
            return self._subject(subject.principal, subject.client_id, None)
        if subject.kind == "key":
            fresh = self._keys.key(subject.principal).subject
            return self.with_client(fresh, subject.client_id) if subject.client_id is not None else fresh
        return self._now(subject)

    def is_active(self, certificate_id: str) -> bool:
        found = self._principal(certificate_id)
        return found is not None and found.status == "ACTIVE"

    def attached_things(self, certificate_id: str) -> tuple[str, ...]:
        """The things that a certificate is attached to, from memory; none when it is unknown. In order."""
        found = self._principal(certificate_id)
        return found.things if found is not None else ()

    def exclusive_thing(self, certificate_id: str) -> str | None:
        """The thing that a certificate belongs to alone: it is bound to it under whatever client id it connects."""
        found = self._principal(certificate_id)
        return found.exclusive if found is not None else None

    def hypothetical(
        self, certificate_id: str | None, client_id: str | None, add: Sequence[str] = (), skip: Sequence[str] = ()
    ) -> Subject:
        """A subject to ask `explain` of: of a certificate whatever its status, or of no one, with other policies.

        Raises NotFound for an unknown certificate or policy.
        """
        subject = Subject(kind="certificate", principal="", arn="", client_id=client_id)
        if certificate_id is not None:
            self._base.db.read_now(lambda tx: self._certificates.get(tx, certificate_id))
            subject = self._subject(certificate_id, client_id, None, hypothetical=True)
        added: list[CompiledPolicy] = []
        for name in add:
            self._base.db.read_now(lambda tx, name=name: self._policies.get(tx, name))  # type: ignore[misc]  # mypy: lambda default
            compiled = self._policies.compiled(name)
            assert compiled is not None
            added.append(compiled)
        policies = tuple(policy for policy in subject.policies if policy.name not in skip) + tuple(added)
        values = self._values(certificate_id, client_id, subject.thing, evaluate.program(policies).keys, None)
        return replace(subject, policies=policies, attributes=values)

    def supposing(self, subject: Subject, policy: CompiledPolicy) -> Subject:
        """The subject as if the policy of that name, where it has it, read so."""
        if subject.kind != "certificate" or all(each.name != policy.name for each in subject.policies):
            return subject
        policies = tuple(policy if each.name == policy.name else each for each in subject.policies)
        keys = evaluate.program(policies).keys
        values = self._values(subject.principal or None, subject.client_id, subject.thing, keys, None)
        return replace(subject, policies=policies, attributes=values)

    def _subject(
        self, certificate_id: str, client_id: str | None, der: bytes | None, *, hypothetical: bool = False
    ) -> Subject:
        found = self._principal(certificate_id)
        if found is None or (found.status != "ACTIVE" and not hypothetical):
            raise Unauthenticated(
                f"certificate {certificate_id} is {'not known' if found is None else found.status}",
                reason="certificate",
            )
        if found.ends_ms is not None and self._base.clock.wall_ms() >= found.ends_ms:
            raise Unauthenticated(f"certificate {certificate_id} was temporary and has ended", reason="certificate")
        if not hypothetical:
            self._base.seen(certificate_id)
        facts = [self._base.things.facts(thing) for thing in found.things]
        groups = sorted({group for fact in facts if fact is not None for group in fact.groups})
        names = sorted({*found.policies, *(name for group in groups for name in self._policies.of_group(group))})
        policies = tuple(policy for name in names if (policy := self._policies.compiled(name)) is not None)
        if found.own_policy is not None:
            policies = (found.own_policy,)
        thing = client_id if client_id in found.things else None
        if client_id is not None and found.exclusive is not None:
            thing = found.exclusive
        return Subject(
            kind="certificate",
            principal=certificate_id,
            arn=self._certificates.arn_of(certificate_id),
            policies=policies,
            thing=thing,
            client_id=client_id,
            attributes=self._values(certificate_id, client_id, thing, evaluate.program(policies).keys, der),
            epoch=self._base.epoch,
        )

    def _values(
        self,
        certificate_id: str | None,
        client_id: str | None,
        thing: str | None,
        keys: frozenset[str],
        der: bytes | None,
    ) -> Values:
        """Values of the variables in `keys`, no others: ten thousand connections hold one of these each."""
        values: dict[str, str | tuple[str, ...]] = {"iot:Connection.Thing.IsAttached": "true" if thing else "false"}
        if client_id is not None:
            values["iot:ClientId"] = client_id
        if thing is not None:
            values |= _thing_values(thing, self._base.things.facts(thing))
        if certificate_id is not None:
            values["iot:CertificateId"] = certificate_id
            if any(key.startswith("iot:Certificate.") for key in keys):
                values |= pki.policy_variables(
                    der or self._base.db.read_now(lambda tx: self._certificates.get(tx, certificate_id).der)
                )
        return {key: value for key, value in values.items() if key in keys} or NOTHING

    def _now(self, subject: Subject) -> Subject:
        return subject if subject.epoch == self._base.epoch else replace(subject, epoch=self._base.epoch)

    def _principal(self, certificate_id: str) -> _Principal | None:
        return self._base.db.cached("identity_certificate", certificate_id, lambda tx: _load(tx, certificate_id))


def _load(tx: Tx, certificate_id: str) -> _Principal | None:
    found = store.certificate(tx, certificate_id)
    if found is None:
        claim = store_authorities.claim(tx, certificate_id)
        if claim is None:
            return None
        return _Principal(
            status="ACTIVE", own_policy=readable("claim", claim[0], limit=documents.IOT_LIMIT), ends_ms=claim[1]
        )
    things = store.things_of(tx, certificate_id)
    return _Principal(
        status=found.status,
        policies=tuple(store.attached(tx, certificate_target(certificate_id))),
        things=tuple(thing for thing, _ in things),
        exclusive=next((thing for thing, is_exclusive in things if is_exclusive), None),
    )


def _thing_values(thing: str, facts: ThingFacts | None) -> dict[str, str]:
    values = {"iot:Connection.Thing.ThingName": thing}
    if facts is not None:
        if facts.type_name is not None:
            values["iot:Connection.Thing.ThingTypeName"] = facts.type_name
        values |= {f"{ATTRIBUTE}{name}]": value for name, value in facts.attributes.items()}
    return values
