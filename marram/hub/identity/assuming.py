"""Who gets the credentials of a role: sts AssumeRole for users and other roles, role aliases for devices."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from marram.core.errors import AlreadyExists, Denied, Invalid, NotFound
from marram.core.policy import documents, trust
from marram.core.policy.variables import Values
from marram.hub.identity import store_iam as store
from marram.hub.identity.base import Base
from marram.hub.identity.managed import ManagedPolicies
from marram.hub.identity.model import Session, Subject
from marram.hub.identity.roles import Role, Roles
from marram.hub.identity.sessions import Minted, Sessions, session_arn
from marram.hub.identity.store_iam import Alias
from marram.hub.identity.subjects import Subjects
from marram.kit.db import Tx

CHAINED_S: Final = 3600  # the longest life of a role's credentials that were got with a role's credentials
DEFAULT_S: Final = 3600
SESSION_POLICY_LIMIT: Final = 2048
MAX_POLICY_ARNS: Final = 10
ALIAS: Final = re.compile(r"[\w=,@-]{1,128}", re.ASCII)
DEVICE_ACTION: Final = "iot:AssumeRoleWithCertificate"
DEVICE_SERVICE: Final = "credentials.iot.amazonaws.com"
ASSUME: Final = "sts:AssumeRole"
# A session of a user (GetSessionToken) may what the user may, but make no lasting credentials, as in AWS without MFA.
SESSION_BOUND: Final = (
    '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"},'
    '{"Effect":"Deny","Action":["iam:*","marram:CreateKey","marram:DeleteKey","marram:CreateLoginLink"],"Resource":"*"}]}'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumed:
    """id: `<role id>:<session name>`."""

    minted: Minted
    id: str
    arn: str


class Assuming:
    def __init__(
        self, base: Base, roles: Roles, managed: ManagedPolicies, sessions: Sessions, subjects: Subjects
    ) -> None:
        self._base, self._roles, self._managed = base, roles, managed
        self._sessions, self._subjects = sessions, subjects

    # sts

    def role(
        self,
        caller: Subject,
        role_arn: str,
        name: str,
        *,
        duration_s: int | None = None,
        external_id: str | None = None,
        policy: str | None = None,
        policy_arns: Sequence[str] = (),
        context: Values,
    ) -> Assumed:
        """Credentials of a role. Raises Denied, the same whether the role is not there or not for the caller; Invalid."""
        if policy is not None:
            documents.parse(policy, limit=SESSION_POLICY_LIMIT)
        if len(policy_arns) > MAX_POLICY_ARNS:
            raise Invalid(f"at most {MAX_POLICY_ARNS} policy ARNs can narrow a session")
        for policy_arn in policy_arns:
            self._check_policy(policy_arn)
        asked = {**context, "sts:RoleSessionName": name}
        if external_id is not None:
            asked["sts:ExternalId"] = external_id
        role = self._role_for(caller, role_arn, asked)
        chained = caller.session is not None and caller.session.kind == "role"
        life_s = duration_s or DEFAULT_S
        if chained and life_s > CHAINED_S:
            raise Invalid(
                "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining"
            )
        if life_s > role.max_session_s:
            raise Invalid("The requested DurationSeconds exceeds the MaxSessionDuration set for this role.")
        session = Session(
            kind="role",
            owner=role.id,
            name=name,
            policies=(policy,) if policy is not None else (),
            policy_arns=tuple(policy_arns),
        )
        return self._mint(role, session, life_s)

    def session_token(self, caller: Subject, duration_s: int | None) -> Minted:
        """Temporary credentials of a user. Raises Denied for whoever has temporary ones already."""
        if caller.kind != "key" or caller.session is not None:
            raise Denied("Cannot call GetSessionToken with session credentials")
        session = Session(kind="key", owner=caller.principal, policies=(SESSION_BOUND,))
        return self._sessions.mint(session, duration_s or 12 * 3600)

    def _role_for(self, caller: Subject, role_arn: str, context: Values) -> Role:
        refused = Denied(
            f"User: {caller.arn} is not authorized to perform: {ASSUME} on resource: {role_arn}",
            action=ASSUME,
            resource=role_arn,
        )
        try:
            role = self._roles.by_arn(role_arn)
        except NotFound as exc:
            raise refused from exc
        if caller.kind not in ("key", "role"):
            raise refused
        own = str(caller.attributes["aws:userid"])
        named = frozenset([own, own.partition(":")[0]])
        delegates = frozenset([trust.ANYBODY, trust.root_of(self._base.account)])
        timed = self._base.with_time(context)
        standing = role.trust.judge(named, delegates, caller.attributes, timed)
        if standing is None:
            raise refused
        if standing == "delegated" and not self._subjects.may(caller, ASSUME, role_arn, context):
            raise refused
        # Named by the trust policy itself: the caller's own policies need not allow it, but they may forbid it.
        verdict = caller.program.explain(ASSUME, role_arn, caller.attributes, timed)
        if verdict.decision == "explicit deny":
            raise refused
        if caller.bound is not None and not caller.bound.may(ASSUME, role_arn, caller.attributes, timed):
            raise refused
        return role

    def _check_policy(self, policy_arn: str) -> None:
        try:
            self._base.db.read_now(lambda tx: self._managed.check(tx, policy_arn))
        except NotFound as exc:
            raise Invalid(f"the policy {policy_arn} does not exist") from exc

    def _mint(self, role: Role, session: Session, life_s: int) -> Assumed:
        minted = self._sessions.mint(session, life_s)
        return Assumed(
            minted=minted, id=f"{role.id}:{session.name}", arn=session_arn(self._base, role.name, session.name)
        )

    # role aliases

    def alias_arn(self, name: str) -> str:
        return self._base.iot(f"rolealias/{name}")

    async def create_alias(
        self, name: str, role_arn: str, duration_s: int, tags: Mapping[str, str] | None = None
    ) -> None:
        """Raises AlreadyExists, Invalid for a role that is not there or not for devices."""
        if not ALIAS.fullmatch(name):
            raise Invalid(f"{name!r} is not a role alias: 1 to 128 of letters, digits and _=,@-")
        self._check_device_role(role_arn, duration_s)

        def work(tx: Tx) -> None:
            if store.alias(tx, name) is not None:
                raise AlreadyExists(f"role alias {name} exists", resourceId=name, resourceArn=self.alias_arn(name))
            store.add_alias(tx, name, role_arn, duration_s)
            self._base.things.tag(tx, "rolealias", name, tags or {})

        await self._base.db.write(work)

    def bearer(self, tx: Tx, name: str) -> str | None:
        """What tells this alias from one made anew under its name; None when there is none."""
        found = store.alias(tx, name)
        return str(found.created_ms) if found is not None else None

    async def alias(self, name: str) -> Alias:
        return self._base.db.read_now(lambda tx: _alias(tx, name))

    async def update_alias(self, name: str, role_arn: str | None, duration_s: int | None) -> None:
        before = await self.alias(name)
        self._check_device_role(role_arn or before.role_arn, duration_s or before.duration_s)

        def work(tx: Tx) -> None:
            found = _alias(tx, name)
            store.save_alias(tx, name, role_arn or found.role_arn, duration_s or found.duration_s)

        await self._base.db.write(work)

    async def aliases(self, after: str | None, limit: int, *, ascending: bool) -> list[str]:
        return await self._base.db.read(lambda tx: store.aliases(tx, after, limit, ascending=ascending))

    async def delete_alias(self, name: str) -> None:
        def work(tx: Tx) -> None:
            _alias(tx, name)
            store.delete_alias(tx, name)

        await self._base.db.write(work)

    def _check_device_role(self, role_arn: str, duration_s: int) -> None:
        self._roles.check(role_arn, DEVICE_SERVICE)
        role = self._roles.by_arn(role_arn)
        if duration_s > role.max_session_s:
            raise Invalid(
                f"credentialDurationSeconds {duration_s} exceeds the MaxSessionDuration {role.max_session_s} of {role_arn}"
            )

    # the credentials provider

    async def for_device(self, alias_name: str, device: Subject, thing: str | None, source_ip: str) -> Minted:
        """Credentials of an alias's role for a device that may have them (`iot:AssumeRoleWithCertificate`).

        thing: that the device says it is; its policies may ask about it. Raises Denied when they do not allow it, when the
        certificate is not attached to the thing, when the role is gone or does not trust the credentials provider; NotFound.
        """
        certificate_id = device.principal
        if thing is not None:
            if thing not in self._subjects.attached_things(certificate_id):
                raise Denied(f"the certificate is not attached to thing {thing}")
            device = self._subjects.with_client(device, thing)
        seen = {"aws:SourceIp": source_ip, "aws:SecureTransport": "true", "aws:RequestedRegion": self._base.region}
        if not self._subjects.may(device, DEVICE_ACTION, self.alias_arn(alias_name), seen):
            why = self._subjects.denial(device, DEVICE_ACTION, self.alias_arn(alias_name), seen)
            raise Denied(why, action=DEVICE_ACTION, resource=self.alias_arn(alias_name))
        alias = await self.alias(alias_name)
        facts = self._base.things.facts(thing) if thing is not None else None
        values = {
            "credentials-iot:ThingName": thing or "",
            "credentials-iot:ThingTypeName": (facts.type_name if facts is not None else None) or "",
            "credentials-iot:AwsCertificateId": certificate_id,
        }
        context: Values = {
            "aws:SourceIp": source_ip,
            "aws:SourceAccount": self._base.account,
            "aws:SourceArn": self.alias_arn(alias_name),
            "sts:RoleSessionName": certificate_id,
            **{key: value for key, value in values.items() if value},
        }
        try:
            role = self._roles.by_arn(alias.role_arn)
        except NotFound as exc:
            raise Denied(f"the role {alias.role_arn} of role alias {alias_name} does not exist") from exc
        if role.trust.judge(frozenset([DEVICE_SERVICE]), frozenset(), {}, self._base.with_time(context)) is None:
            raise Denied(f"the trust policy of {alias.role_arn} does not let {DEVICE_SERVICE} assume it")
        if alias.duration_s > role.max_session_s:
            raise Denied(f"role alias {alias_name}: its duration exceeds the MaxSessionDuration of {alias.role_arn}")
        session = Session(
            kind="role",
            owner=role.id,
            name=certificate_id,
            certificate=certificate_id,
            thing=values["credentials-iot:ThingName"],
            thing_type=values["credentials-iot:ThingTypeName"],
        )
        return self._sessions.mint(session, alias.duration_s)


def _alias(tx: Tx, name: str) -> Alias:
    found = store.alias(tx, name)
    if found is None:
        raise NotFound(f"role alias {name} does not exist")
    return found
