"""Roles: rights that others take on for a time, and the trust policy that says who."""

from dataclasses import dataclass, replace
from typing import Final

from marram.core import arn
from marram.core.errors import Conflict, Denied, Invalid, NotFound
from marram.core.policy import trust
from marram.core.policy.documents import MalformedPolicy
from marram.core.policy.evaluate import CompiledPolicy
from marram.core.policy.trust import Trust
from marram.hub.identity import store_iam as store
from marram.hub.identity.base import Base
from marram.hub.identity.builtin import BUILTIN
from marram.hub.identity.entities import Entities
from marram.hub.identity.managed import ManagedPolicies
from marram.hub.identity.model import NOTHING, Subject
from marram.hub.identity.store_iam import Entity, Tags
from marram.kit.db import Tx
from marram.kit.log import logger

log = logger(__name__)

SERVICE_ROLE: Final = (
    "marram-service"  # is there from the start; everything may be done with it, by those who may pass it
)
SERVICE_TRUST: Final = (
    '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Service":["'
    + '","'.join(trust.SERVICES)
    + '"]},"Action":"sts:AssumeRole"}]}'
)
DEFAULT_SESSION_S: Final = 3600
MAX_ACTING: Final = 1024
_NOBODY: Final = '{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Principal":"*","Action":"sts:AssumeRole"}]}'


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """A role ready to be taken on: what the document cache holds."""

    id: str
    name: str
    arn: str
    max_session_s: int
    trust: Trust
    policies: tuple[CompiledPolicy, ...]


class Roles(Entities):
    kind, title, id_prefix = "role", "Role", "AROA"
    quota, max_entities, max_inline = "RolesPerAccount", 1000, 10240

    def __init__(self, base: Base, managed: ManagedPolicies) -> None:
        super().__init__(base, managed)
        self._acting: dict[tuple[str, str], Subject] = {}

    def changed(self, tx: Tx, entity: Entity) -> None:
        tx.touch("identity_role", entity.id)
        self._base.role_changed(tx, entity.id)

    def check_mutable(self, entity: Entity) -> None:
        if entity.name == SERVICE_ROLE:
            raise Conflict(f"The role {SERVICE_ROLE} comes with Marram and cannot be changed.", kind="unmodifiable")

    async def create(
        self, name: str, path: str, trust_text: str, *, description: str, max_session_s: int, tags: Tags
    ) -> Entity:
        """Raises MalformedPolicy, AlreadyExists, LimitExceeded."""
        parsed = trust.parse(trust_text, self._base.account)
        role_id = self.new_id()

        def work(tx: Tx) -> Entity:
            entity = Entity(
                id=role_id, kind=self.kind, name=name, path=path, description=description, tags=tags, trust=trust_text,
                principals=self._principals(tx, parsed), max_session_s=max_session_s, created_ms=tx.now_ms,
            )  # fmt: skip
            self.add(tx, entity)
            return entity

        return await self._base.db.write(work)

    def ensure_service_role(self) -> None:
        """For the start."""
        if self._base.db.read_now(lambda tx: store.entity(tx, self.kind, SERVICE_ROLE)) is not None:
            return
        administrator = next(policy.arn for policy in BUILTIN.values() if policy.name == "AdministratorAccess")
        role_id = self.new_id()

        def work(tx: Tx) -> None:
            entity = Entity(
                id=role_id, kind=self.kind, name=SERVICE_ROLE, path="/", tags=(), trust=SERVICE_TRUST, principals={},
                description="What the hub does for rules, jobs and training when no other role is named.",
                max_session_s=DEFAULT_SESSION_S, created_ms=tx.now_ms,
            )  # fmt: skip
            store.add_entity(tx, entity)
            store.grant(tx, role_id, administrator)

        self._base.db.write_sync(work)

    async def update(self, name: str, *, description: str | None = None, max_session_s: int | None = None) -> Entity:
        def change(_tx: Tx, entity: Entity) -> Entity:
            return replace(
                entity,
                description=entity.description if description is None else description,
                max_session_s=max_session_s or entity.max_session_s,
            )

        return await self.change(name, change)

    async def update_trust(self, name: str, trust_text: str) -> None:
        """Raises MalformedPolicy. Who got credentials under the trust of before keeps them until they end."""
        parsed = trust.parse(trust_text, self._base.account)
        await self.change(
            name, lambda tx, entity: replace(entity, trust=trust_text, principals=self._principals(tx, parsed))
        )

    async def delete(self, name: str) -> None:
        """Raises Conflict while it has policies. Its sessions end with it."""
        await self._base.db.write(lambda tx: self.remove(tx, self.find(tx, name)))

    def _principals(self, tx: Tx, parsed: Trust) -> dict[str, str]:
        """The ids of those whom the trust policy names. Raises MalformedPolicy for one who does not exist."""
        found: dict[str, str] = {}
        for principal in sorted(parsed.named):
            kind, _, rest = arn.parse(principal).resource.partition("/")
            session = ""
            if kind == "assumed-role":  # arn:aws:sts::<account>:assumed-role/<name, without a path>/<session>
                kind, (rest, _, session) = "role", rest.partition("/")
            entity = store.entity(tx, kind, rest.rpartition("/")[2])
            if entity is None or (not session and self.arn_of(entity) != principal):
                raise MalformedPolicy(f'Invalid principal in policy: "AWS":"{principal}": there is no such {kind}')
            found[principal] = f"{entity.id}:{session}" if session else entity.id
        return found

    # for those who take them on

    def by_id(self, role_id: str) -> Role | None:
        """From memory."""

        def load(tx: Tx) -> Role | None:
            entity = store.entity_by_id(tx, role_id)
            return self._ready(tx, entity) if entity is not None else None

        return self._base.db.cached("identity_role", role_id, load)

    def by_arn(self, role_arn: str) -> Role:
        """Raises NotFound; Invalid for what is no ARN of a role."""
        parsed = arn.parse(role_arn)
        if parsed.service != "iam" or not parsed.resource.startswith("role/"):
            raise Invalid(f"{role_arn!r} is not the ARN of a role (arn:aws:iam::<account>:role/<name>)")
        name = parsed.resource.rpartition("/")[2]
        entity = self._base.db.read_now(lambda tx: store.entity(tx, self.kind, name))
        if entity is None or self.arn_of(entity) != role_arn:
            raise NotFound(f"the role {role_arn} does not exist")
        found = self.by_id(entity.id)
        if found is None:
            raise NotFound(f"the role {role_arn} does not exist")
        return found

    def _ready(self, tx: Tx, entity: Entity) -> Role:
        try:
            trusted = trust.parse(entity.trust, self._base.account)
        except MalformedPolicy as exc:  # written by another version of Marram
            log.error("identity.trust_unreadable", role=entity.name, reason=exc.message)
            trusted = trust.parse(_NOBODY, self._base.account)
        return Role(
            id=entity.id,
            name=entity.name,
            arn=self.arn_of(entity),
            max_session_s=entity.max_session_s,
            trust=trust.resolved(trusted, entity.principals),
            policies=self.rights(tx, entity),
        )

    # for services that are handed a role

    def check(
        self, role_arn: str, service: str = "iot.amazonaws.com", action: str | None = None, resource: str | None = None
    ) -> None:
        """Raises Invalid unless the role exists and lets the service take it on, and allows the action, if one is named."""
        try:
            role = self.by_arn(role_arn)
        except NotFound as exc:
            raise Invalid(
                f"the role {role_arn!r} does not exist here; {self._base.iam(f'role/{SERVICE_ROLE}')} always does"
            ) from exc
        source = {"aws:SourceArn": resource} if resource is not None else {}
        seen = self._base.with_time({"aws:SourceAccount": self._base.account, **source})
        if role.trust.judge(frozenset([service]), frozenset(), NOTHING, seen) is None:
            raise Invalid(f"the role {role_arn} cannot be assumed by {service}: its trust policy does not allow it")
        if action is not None:
            subject = self.subject(role)
            if not subject.program.may(action, resource or "*", subject.attributes, seen):
                raise Invalid(f"the role {role_arn} does not allow {action} on {resource or '*'}")

    def authorise(self, role_arn: str, action: str, resource: str, service: str = "iot.amazonaws.com") -> None:
        """Raises Denied unless `service` may do this in the role now. From memory while nothing changes."""
        subject = self._acting.get((role_arn, service))
        if subject is None or self._base.changed_at(subject.principal) > subject.epoch:
            try:
                self.check(role_arn, service)
            except Invalid as exc:
                raise Denied(exc.message, action=action, resource=resource) from exc
            subject = self.subject(self.by_arn(role_arn))
            self._base.seen(subject.principal)  # a change of it makes another epoch
            if len(self._acting) >= MAX_ACTING:
                self._acting.clear()
            self._acting[role_arn, service] = subject
        context = self._base.with_time({}) if subject.program.timed else NOTHING
        if not subject.program.may(action, resource, subject.attributes, context):
            raise Denied(
                f"the role {role_arn} is not authorized to perform: {action} on resource: {resource}", action=action,
                resource=resource,
            )  # fmt: skip

    def subject(self, role: Role) -> Subject:
        """The role itself, as a service of the hub acts in it."""
        return Subject(
            kind="role",
            principal=role.id,
            arn=role.arn,
            policies=role.policies,
            attributes={
                "aws:PrincipalArn": role.arn,
                "aws:PrincipalAccount": self._base.account,
                "aws:PrincipalType": "AssumedRole",
                "aws:userid": role.id,
            },
            epoch=self._base.epoch,
        )
