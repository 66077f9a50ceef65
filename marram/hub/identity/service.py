"""Who is it and what may it do: principals, their policies, keys, and the one decision `may`.

The questions of the hot path (`certificate_subject`, `with_client`, `key`, `may`, `refresh`) are synchronous and answered
from the document cache; whoever changes a row drops it there within the same commit. A `Subject` is a snapshot: when
`subject.epoch != identity.epoch` something that concerns somebody has changed, and `refresh` gives the present one.
What things there are is the registry's to know; it fills the `Things` port. Signatures are checked by the border.
"""

import hashlib
import re
from base64 import b32encode, urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final, Literal, Protocol

from marram.core import arn, codec
from marram.core.errors import (
    AlreadyExists,
    Conflict,
    Denied,
    Invalid,
    LimitExceeded,
    NotFound,
    Unauthenticated,
)
from marram.core.policy import documents, evaluate
from marram.core.policy.documents import MalformedPolicy
from marram.core.policy.evaluate import CompiledPolicy, Program, Verdict
from marram.core.policy.variables import ATTRIBUTE, Values
from marram.hub.bus import Bus
from marram.hub.identity import pki, store
from marram.hub.identity.pki import Issued, Pki
from marram.hub.identity.store import Certificate as Certificate
from marram.hub.identity.store import Policy as Policy
from marram.hub.identity.store import PolicyVersion
from marram.hub.listing import Paging
from marram.kit import clock as clocks
from marram.kit.clock import Clock, Entropy
from marram.kit.db import Db, Tx
from marram.kit.log import logger

log = logger(__name__)

EVERYBODY: Final = "*"  # principal of a change that may concern all
POLICY_NAME: Final = re.compile(r"[\w+=,.@-]{1,128}", re.ASCII)
CERTIFICATE_ID: Final = re.compile(r"[0-9a-f]{64}")
KEY_NAME: Final = re.compile(r"[\w+=,.@-]{1,64}", re.ASCII)
THING: Final = re.compile(r"[a-zA-Z0-9:_-]{1,128}")
MAX_VERSIONS: Final = 5
MAX_POLICIES: Final = 10  # of one target
TOKEN_LIFE_MS: Final = 15 * 60 * 1000
ADMIN: Final = "admin"
SERVICE_ROLE: Final = "role/marram-service"
CORE_POLICY: Final = "MarramCoreDevice"
ALL_ALLOWED: Final = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}'
# What an edge core may do: AWS's own default for core devices, but only under its own client ids. The certificate's
# common name is set at joining; a core bridges for others, so topics and shadows are not narrowed to its own.
CORE_DOCUMENT: Final = (
    '{"Version":"2012-10-17","Statement":['
    '{"Effect":"Allow","Action":"iot:Connect","Resource":['
    '"arn:aws:iot:*:*:client/${iot:Certificate.Subject.CommonName}",'
    '"arn:aws:iot:*:*:client/${iot:Certificate.Subject.CommonName}#*"]},'
    '{"Effect":"Allow","Action":["iot:Publish","iot:Receive","iot:RetainPublish","iot:Subscribe",'
    '"iot:GetThingShadow","iot:UpdateThingShadow","iot:DeleteThingShadow","iot:ListNamedShadowsForThing",'
    '"iot:AssumeRoleWithCertificate","greengrass:*"],"Resource":"*"}]}'
)

Status = Literal["ACTIVE", "INACTIVE", "REVOKED"]
Kind = Literal["certificate", "key", "role", "service"]
NOTHING: Final[Mapping[str, str]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Somebody whose identity is proven, with all that decides what they may do.

    principal: certificate id or access key id. thing: set when the client id is the name of a thing that the certificate
    is attached to. attributes: values of the policy variables that the subject's own policies name (`iot:ClientId`,
    `iot:Connection.Thing.Attributes[x]`, ...), no others.
    """

    kind: Kind
    principal: str
    arn: str
    policies: tuple[CompiledPolicy, ...] = ()
    thing: str | None = None
    client_id: str | None = None
    attributes: Values = field(default_factory=dict[str, str], hash=False)
    epoch: int = 0
    program: Program = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "program", evaluate.program(self.policies))


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """An access key in use. The secret is in clear, for signatures; it has no place in a log."""

    id: str
    name: str
    secret: str = field(repr=False)
    subject: Subject


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyInfo:
    id: str
    name: str
    arn: str
    policy: str
    created_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Which part of a list: the key after which it goes on, and how many at most."""

    after: tuple[int, str] | None = None
    limit: int = 26
    ascending: bool = False


@dataclass(frozen=True, slots=True)
class PrincipalChanged:
    """Bus: what this principal may do has changed or ended. `principal` is EVERYBODY when a policy of several changed."""

    principal: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ThingFacts:
    """What policies may ask about a thing. groups: all it is in, with their parents."""

    type_name: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict[str, str])
    groups: tuple[str, ...] = ()


class Things(Protocol):
    """Filled by the registry."""

    def facts(self, thing: str) -> ThingFacts | None:
        """From memory, on the loop."""
        ...

    def check_group(self, tx: Tx, group: str) -> None:
        """Raises NotFound."""
        ...

    def lineage(self, group: str) -> tuple[str, ...]:
        """The group and its parents, from memory."""
        ...

    def enrol(self, tx: Tx, thing: str, thing_id: str) -> None:
        """Make the thing, with this id, when it does not exist."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Principal:
    """The cached document of a certificate."""

    status: str
    policies: tuple[str, ...]
    things: tuple[str, ...]


class _NoThings:
    def facts(self, thing: str) -> ThingFacts | None:
        return None

    def check_group(self, tx: Tx, group: str) -> None:
        raise NotFound(f"thing group {group} does not exist")

    def lineage(self, group: str) -> tuple[str, ...]:
        return (group,)

    def enrol(self, tx: Tx, thing: str, thing_id: str) -> None:
        return None


class SessionKeys(Protocol):
    """Filled by sessions.py, which lies above this file."""

    def check(self, access_key_id: str, token: str) -> Key: ...


class Identity:
    """Constructed by the composition root. `endpoints` is asked at each joining: {"mqtt": url, "https": url}."""

    def __init__(
        self,
        db: Db,
        pki: Pki,
        bus: Bus,
        *,
        clock: Clock,
        entropy: Entropy,
        account: str,
        region: str,
        pages: Paging,
        endpoints: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        self.pki = pki
        self.account = account
        self.region = region
        self.pages = pages
        self.epoch = 1
        self._db, self._bus, self._clock, self._entropy = db, bus, clock, entropy
        self._endpoints = endpoints
        self._things: Things = _NoThings()
        self.sessions: SessionKeys | None = None
        self._seen: set[str] = set()  # principals that a Subject was given for: only they can have something to refresh
        self._changed_at: dict[str, int] = {}
        everything = evaluate.compile_policy("marram-service", ALL_ALLOWED)
        self.internal = Subject(
            kind="service", principal="marram", arn=self._iam(SERVICE_ROLE), policies=(everything,), epoch=self.epoch
        )

    def use_things(self, things: Things) -> None:
        self._things = things

    # the hot path

    def certificate_subject(self, der: bytes) -> Subject:
        """Who presents this certificate. Raises Unauthenticated (a Denied) when it is unknown or not active."""
        return self._subject(pki.certificate_id(der), None, der)

    def with_client(self, subject: Subject, client_id: str) -> Subject:
        """The subject as client `client_id`, bound to the thing of that name if its certificate is attached to it."""
        if subject.kind != "certificate":
            return replace(subject, client_id=client_id, attributes=self._own_values(subject, client_id))
        return self._subject(subject.principal, client_id, None)

    def key(self, access_key_id: str) -> Key:
        """Raises Unauthenticated when there is no such key."""
        found = self._db.cached("identity_key", access_key_id, lambda tx: self._load_key(tx, access_key_id))
        if found is None:
            raise Unauthenticated("the access key id is not known", reason="unknown_key")
        self._seen.add(access_key_id)
        return found if found.subject.epoch == self.epoch else replace(found, subject=self._now(found.subject))

    def use_sessions(self, sessions: SessionKeys) -> None:
        self.sessions = sessions

    def session(self, access_key_id: str, token: str) -> Key:
        """The key that temporary credentials act as. Raises Unauthenticated."""
        if self.sessions is None:
            raise Unauthenticated("there are no sessions here", reason="token")
        return self.sessions.check(access_key_id, token)

    def may(self, subject: Subject, action: str, resource: str, context: Values = NOTHING) -> bool:
        """Whether the subject's policies allow it; no policy, no right."""
        program = subject.program
        if program.timed:
            context = self._with_time(context)
        return program.may(action, resource, subject.attributes, context)

    def explain(self, subject: Subject, action: str, resource: str, context: Values = NOTHING) -> Verdict:
        """As `may`, with the statements that decided. For people, not for every message."""
        return subject.program.explain(action, resource, subject.attributes, self._with_time(context))

    def refresh(self, subject: Subject) -> Subject:
        """The subject as of now. Raises Unauthenticated when its certificate or key is gone, revoked or inactive."""
        if max(self._changed_at.get(EVERYBODY, 0), self._changed_at.get(subject.principal, 0)) <= subject.epoch:
            return self._now(subject)  # the change was somebody else's
        if subject.kind == "certificate":
            return self._subject(subject.principal, subject.client_id, None)
        if subject.kind == "key":
            fresh = self.key(subject.principal).subject
            return self.with_client(fresh, subject.client_id) if subject.client_id is not None else fresh
        return self._now(subject)

    def attached_things(self, certificate_id: str) -> tuple[str, ...]:
        """The things that a certificate is attached to, from memory; none when it is unknown. In order."""
        found = self._db.cached(
            "identity_certificate", certificate_id, lambda tx: self._load_principal(tx, certificate_id)
        )
        return found.things if found is not None else ()

    def test(
        self, certificate_id: str | None, client_id: str | None, add: Sequence[str] = (), skip: Sequence[str] = ()
    ) -> Subject:
        """A subject to ask `explain` of: of a certificate whatever its status, or of no one, with other policies.

        Raises NotFound for an unknown certificate or policy.
        """
        subject = Subject(kind="certificate", principal="", arn="", client_id=client_id)
        if certificate_id is not None:
            self._db.read_now(lambda tx: self._certificate(tx, certificate_id))
            subject = self._subject(certificate_id, client_id, None, hypothetical=True)
        added: list[CompiledPolicy] = []
        for name in add:
            self._db.read_now(lambda tx, name=name: self._policy(tx, name))  # type: ignore[misc]  # mypy: lambda default
            compiled = self._compiled(name)
            assert compiled is not None
            added.append(compiled)
        policies = tuple(policy for policy in subject.policies if policy.name not in skip) + tuple(added)
        values = self._values(certificate_id, client_id, subject.thing, evaluate.program(policies).keys, None)
        return replace(subject, policies=policies, attributes=values)

    def arn_of(self, certificate_id: str) -> str:
        return arn.build("iot", self.region, self.account, f"cert/{certificate_id}")

    def policy_arn(self, name: str) -> str:
        return arn.build("iot", self.region, self.account, f"policy/{name}")

    def check_role(self, role_arn: str) -> None:
        """Raises Invalid unless it is the built-in role; there are no others."""
        mine = self._iam(SERVICE_ROLE)
        if role_arn != mine:
            raise Invalid(f"the role {role_arn!r} does not exist here; the only one is {mine}")

    def role_arn(self) -> str:
        return self._iam(SERVICE_ROLE)

    # access keys

    async def create_key(self, name: str, policy: str) -> Key:
        """A new access key with this IAM policy document. Raises AlreadyExists, MalformedPolicy. The secret is shown once."""
        key_id, secret, sealed = self._new_key(name, policy)
        await self._db.write(lambda tx: self._store_key(tx, key_id, name, sealed, policy))
        return Key(id=key_id, name=name, secret=secret, subject=self.key(key_id).subject)

    def admin_key(self) -> Key:
        """The administrator's key, made when there is none. For the start, before the loop serves anybody."""
        return self.own_key(ADMIN, ALL_ALLOWED)

    def own_key(self, name: str, policy: str) -> Key:
        """A key of the hub itself by its name, made when there is none. For the start."""
        present = self._db.read_now(lambda tx: store.key_named(tx, name))
        if present is not None:
            return self.key(present.id)
        key_id, _secret, sealed = self._new_key(name, policy)
        self._db.write_sync(lambda tx: self._store_key(tx, key_id, name, sealed, policy))
        log.info("identity.key_made", name=name, key=key_id)
        return self.key(key_id)

    async def keys(self, after: str, limit: int) -> list[KeyInfo]:
        rows = await self._db.read(lambda tx: store.keys(tx, after, limit))
        return [
            KeyInfo(
                id=row.id,
                name=row.name,
                arn=self._iam(f"user/{row.name}"),
                policy=row.policy,
                created_ms=row.created_ms,
            )
            for row in rows
        ]

    async def delete_key(self, key_id: str) -> None:
        """Raises NotFound. Requests under way are finished; the next one is refused."""

        def work(tx: Tx) -> None:
            if not store.delete_key(tx, key_id):
                raise NotFound(f"access key {key_id} does not exist")
            tx.touch("identity_key", key_id)
            self._changed(tx, key_id)

        await self._db.write(work)

    # certificates

    async def create_certificate(self, csr_pem: str | None = None, *, active: bool = False) -> Issued:
        """Sign a request, or make key and certificate. Raises Invalid for a request that cannot be signed."""
        issued = self.pki.issue_device(csr_pem)
        await self._db.write(lambda tx: self.add_certificate(tx, issued.der, active=active))
        return issued

    def add_certificate(self, tx: Tx, der: bytes, *, active: bool) -> str:
        """Record a certificate inside somebody's transaction. Raises AlreadyExists. Returns its id."""
        certificate_id = pki.certificate_id(der)
        store.add_certificate(tx, certificate_id, der, "ACTIVE" if active else "INACTIVE")
        self._touch_certificate(tx, certificate_id)
        return certificate_id

    async def certificate(self, certificate_id: str) -> Certificate:
        return self._db.read_now(lambda tx: self._certificate(tx, certificate_id))

    async def certificates(self, page: Page) -> list[Certificate]:
        return await self._db.read(lambda tx: store.certificates(tx, page.after, page.limit, ascending=page.ascending))

    async def set_status(self, certificate_id: str, status: str) -> None:
        """Raises NotFound; Invalid for a status that only AWS's transfers and provisioning set."""
        if status not in ("ACTIVE", "INACTIVE", "REVOKED"):
            raise Invalid(f"newStatus must be ACTIVE, INACTIVE or REVOKED, not {status}")

        def work(tx: Tx) -> None:
            if self._certificate(tx, certificate_id).status != status:
                store.set_status(tx, certificate_id, status)
                self._touch_certificate(tx, certificate_id)

        await self._db.write(work)

    async def delete_certificate(self, certificate_id: str, *, force: bool = False) -> None:
        """Raises Conflict while it is active, attached to a thing, or, without `force`, has a policy."""

        def work(tx: Tx) -> None:
            if self._certificate(tx, certificate_id).status == "ACTIVE":
                raise Conflict(
                    f"certificate {certificate_id} is ACTIVE: set it to INACTIVE or REVOKED first",
                    kind="certificate_state",
                )
            if store.things_of(tx, certificate_id, limit=1):
                raise Conflict(f"certificate {certificate_id} is attached to a thing: detach it first")
            target = _target_of_certificate(certificate_id)
            if store.attached(tx, target, limit=1) and not force:
                raise Conflict(f"certificate {certificate_id} has policies attached: detach them, or force")
            store.detach_all(tx, target)
            store.delete_certificate(tx, certificate_id)
            self._touch_certificate(tx, certificate_id)

        await self._db.write(work)

    # policies

    async def create_policy(self, name: str, document: str) -> None:
        """Raises MalformedPolicy, AlreadyExists."""
        _check_policy_name(name)
        documents.parse(document)

        def work(tx: Tx) -> None:
            if store.policy(tx, name) is not None:
                raise AlreadyExists(f"policy {name} exists", resourceArn=self.policy_arn(name), resourceId=name)
            store.add_policy(tx, name, document)
            tx.touch("identity_policy", name)

        await self._db.write(work)

    async def policy(self, name: str) -> tuple[Policy, PolicyVersion]:
        """With its default version."""

        def work(tx: Tx) -> tuple[Policy, PolicyVersion]:
            found = self._policy(tx, name)
            return found, self._version(tx, name, found.default_version)

        return self._db.read_now(work)

    async def policies(self, page: Page) -> list[Policy]:
        return await self._db.read(lambda tx: store.policies(tx, page.after, page.limit, ascending=page.ascending))

    async def delete_policy(self, name: str) -> None:
        """Raises Conflict while it has other versions than the default, or targets."""

        def work(tx: Tx) -> None:
            self._policy(tx, name)
            if len(store.versions(tx, name)) > 1:
                raise Conflict(f"policy {name} has versions beside the default one: delete them first")
            if store.is_used(tx, name):
                raise Conflict(f"policy {name} is attached: detach it first")
            store.delete_policy(tx, name)
            tx.touch("identity_policy", name)

        await self._db.write(work)

    async def create_version(self, name: str, document: str, *, as_default: bool) -> int:
        """Raises LimitExceeded at five versions."""
        documents.parse(document)

        def work(tx: Tx) -> int:
            self._policy(tx, name)
            if len(store.versions(tx, name)) >= MAX_VERSIONS:
                raise LimitExceeded(
                    f"policy {name} has {MAX_VERSIONS} versions: delete one first", kind="versions", limit=MAX_VERSIONS
                )
            number = store.add_version(tx, name, document)
            if as_default:
                self._set_default(tx, name, number)
            return number

        return await self._db.write(work)

    async def versions(self, name: str) -> tuple[Policy, list[PolicyVersion]]:
        return self._db.read_now(lambda tx: (self._policy(tx, name), store.versions(tx, name)))

    async def version(self, name: str, number: str) -> tuple[Policy, PolicyVersion]:
        return self._db.read_now(lambda tx: (self._policy(tx, name), self._version(tx, name, _number(number))))

    async def set_default_version(self, name: str, number: str) -> None:
        def work(tx: Tx) -> None:
            self._policy(tx, name)
            self._set_default(tx, name, self._version(tx, name, _number(number)).version)

        await self._db.write(work)

    async def delete_version(self, name: str, number: str) -> None:
        """Raises Conflict for the default one."""

        def work(tx: Tx) -> None:
            found = self._policy(tx, name)
            version = self._version(tx, name, _number(number)).version
            if version == found.default_version:
                raise Conflict(f"version {version} of policy {name} is the default: make another the default first")
            store.delete_version(tx, name, version)

        await self._db.write(work)

    # attachments of policies

    async def attach_policy(self, name: str, target_arn: str) -> None:
        """Raises NotFound for an unknown policy or target, LimitExceeded at ten policies. Again is fine."""
        target = self.target(target_arn)

        def work(tx: Tx) -> None:
            self._policy(tx, name)
            self._check_target(tx, target)
            self._attach(tx, target, name)

        await self._db.write(work)

    async def detach_policy(self, name: str, target_arn: str) -> bool:
        """False when it was not attached."""
        target = self.target(target_arn)

        def work(tx: Tx) -> bool:
            detached = store.detach(tx, target, name)
            if detached:
                self._touch_target(tx, target)
            return detached

        return await self._db.write(work)

    async def attached_policies(self, target_arn: str, after: str, limit: int, *, recursive: bool = False) -> list[str]:
        """Names in order. recursive: for a group, those of its parents as well."""
        target = self.target(target_arn)

        def work(tx: Tx) -> list[str]:
            self._check_target(tx, target)
            return store.attached(tx, target, after, limit)

        if not (recursive and target.startswith("thinggroup/")):
            return self._db.read_now(work)
        lineage = self._things.lineage(target.removeprefix("thinggroup/"))
        self._db.read_now(lambda tx: self._check_target(tx, target))
        names = sorted({name for group in lineage for name in self._group_policies(group)})
        return [name for name in names if name > after][:limit]

    async def targets(self, name: str, after: str, limit: int) -> list[str]:
        """ARNs of certificates and thing groups. Their order is that of the part after the account."""

        def work(tx: Tx) -> list[str]:
            self._policy(tx, name)
            return store.targets(tx, name, after, limit)

        return [arn.build("iot", self.region, self.account, target) for target in await self._db.read(work)]

    def target(self, text: str) -> str:
        """The part of a target's ARN after the account. Raises Invalid when it is neither certificate nor group of this hub."""
        parsed = arn.parse(text)
        resource = parsed.resource
        named = resource.startswith("thinggroup/") or CERTIFICATE_ID.fullmatch(resource.removeprefix("cert/"))
        if parsed.service != "iot" or not named:
            raise Invalid(
                f"{text!r} is not the ARN of a certificate (.../cert/<id>) or thing group (.../thinggroup/<name>)"
            )
        if (parsed.region, parsed.account) != (self.region, self.account):
            raise Invalid(f"{text!r} is of another account or region: this hub is {self.account} in {self.region}")
        return resource

    # things and their principals (the registry's half is marram.hub.registry.service)

    def certificate_of(self, principal_arn: str) -> str:
        """The certificate id in a principal's ARN. Raises Invalid for anything else."""
        target = self.target(principal_arn)
        if not target.startswith("cert/"):
            raise Invalid(f"{principal_arn!r} is not the ARN of a certificate")
        return target.removeprefix("cert/")

    def attach_thing(self, tx: Tx, thing: str, certificate_id: str, *, exclusive: bool = False) -> None:
        """Raises NotFound for an unknown certificate, Conflict when exclusiveness does not allow it. Again is fine."""
        self._certificate(tx, certificate_id)
        others = [row for row in store.things_of(tx, certificate_id) if row[0] != thing]
        if others and (exclusive or any(bound for _, bound in others)):
            raise Invalid(
                f"certificate {certificate_id} is attached to thing {others[0][0]}, and one of the two is exclusive"
            )
        if store.attach_thing(tx, thing, certificate_id, exclusive=exclusive):
            self._touch_certificate(tx, certificate_id)

    def detach_thing(self, tx: Tx, thing: str, certificate_id: str) -> bool:
        """False when it was not attached."""
        detached = store.detach_thing(tx, thing, certificate_id)
        if detached:
            self._touch_certificate(tx, certificate_id)
        return detached

    def principals_of(self, tx: Tx, thing: str, after: str = "", limit: int = 1 << 30) -> list[tuple[str, bool]]:
        """(certificate id, exclusive)."""
        return store.principals_of(tx, thing, after, limit)

    def things_of(self, tx: Tx, certificate_id: str, after: str = "", limit: int = 1 << 30) -> list[tuple[str, bool]]:
        """(thing, exclusive)."""
        return store.things_of(tx, certificate_id, after, limit)

    def thing_changed(self, tx: Tx, thing: str) -> None:
        """The registry says: type, attributes or groups of the thing are others now."""
        for certificate_id, _ in store.principals_of(tx, thing):
            self._changed(tx, certificate_id)

    def group_deleted(self, tx: Tx, group: str) -> None:
        """The registry says: its policies go with it."""
        if store.detach_all(tx, f"thinggroup/{group}"):
            self._touch_target(tx, f"thinggroup/{group}")

    def group_changed(self, tx: Tx) -> None:
        """The registry says: the tree of groups is another now."""
        self._changed(tx, EVERYBODY)

    # joining

    async def create_join_token(
        self, *, thing: str = "", policy: str = "", life_ms: int = TOKEN_LIFE_MS
    ) -> tuple[str, int]:
        """(token, when it ends). One use. thing: the only one it may join as. policy: instead of MarramCoreDevice."""
        if thing and not THING.fullmatch(thing):
            raise Invalid(f"{thing!r} is not a thing name: 1 to 128 of a-z A-Z 0-9 : _ -")
        if not 0 < life_ms <= TOKEN_LIFE_MS:
            raise Invalid(f"a join token lives 1 to {TOKEN_LIFE_MS // 1000} seconds")
        secret = urlsafe_b64encode(self._entropy.bytes(32)).decode().rstrip("=")
        ends_ms = self._clock.wall_ms() + life_ms

        def work(tx: Tx) -> None:
            if policy:
                self._policy(tx, policy)
            store.add_token(tx, _digest(secret), thing, policy, ends_ms)

        await self._db.write(work)
        return f"mrm1.{secret}.{self.pki.root_fingerprint}", ends_ms

    async def join(
        self, token: str, thing: str, csr_pem: str | None = None, *, names: Sequence[str] = ()
    ) -> dict[str, object]:
        """Make `thing` a core device: certificate, thing, policy, in one commit with the end of the token.

        Without a request the hub makes the key and the bundle holds it. names: what the certificate of the core's own
        listener covers beside localhost, 127.0.0.1 and the thing's name; it is on the same key.
        Raises Unauthenticated for a token that is wrong, used or too old; Denied when it is bound to another thing, or to
        none and the thing has a certificate: whoever holds a token must not become a machine that is there already.
        """
        if not THING.fullmatch(thing):
            raise Invalid(f"{thing!r} is not a thing name: 1 to 128 of a-z A-Z 0-9 : _ -")
        digest = _digest(_secret_of(token))
        self._db.read_now(lambda tx: self._check_token(tx, digest, thing))  # before any key is made
        issued = self.pki.issue_device(csr_pem, name=thing)
        thing_id = clocks.uuid4(self._entropy)
        own = [thing] if pki.HOST.fullmatch(thing) and not self.pki.is_own_name(thing) else []
        listener = self.pki.issue_local_server(issued.pem, [*own, *names])

        def work(tx: Tx) -> tuple[str, int]:
            policy = self._check_token(tx, digest, thing)
            others = len(store.principals_of(tx, thing))
            store.use_token(tx, digest)
            certificate_id = self.add_certificate(tx, issued.der, active=True)
            self._things.enrol(tx, thing, thing_id)
            self.attach_thing(tx, thing, certificate_id)
            if not policy:
                policy = CORE_POLICY
                if store.policy(tx, policy) is None:
                    store.add_policy(tx, policy, CORE_DOCUMENT)
                    tx.touch("identity_policy", policy)
            self._policy(tx, policy)
            self._attach(tx, _target_of_certificate(certificate_id), policy)
            return certificate_id, others

        certificate_id, others = await self._db.write(work)
        log.info(
            "identity.core_joined", thing=thing, certificate=certificate_id, own_key=csr_pem is not None,
            other_certificates=others,
        )  # fmt: skip
        bundle: dict[str, object] = {
            "format": 1,
            "thingName": thing,
            "accountId": self.account,
            "region": self.region,
            "certificateId": certificate_id,
            "certificateArn": self.arn_of(certificate_id),
            "certificatePem": issued.pem,
            "localServerCertificatePem": listener.pem,
            "rootCaPem": self.pki.root_pem,
            "signingKey": self.pki.public_signing_key.hex(),
            "endpoints": dict(self._endpoints()),
        }
        if issued.private_key_pem is not None:
            bundle["privateKeyPem"] = issued.private_key_pem
        return bundle

    # within transactions

    def _certificate(self, tx: Tx, certificate_id: str) -> Certificate:
        found = store.certificate(tx, certificate_id)
        if found is None:
            raise NotFound(f"certificate {certificate_id} does not exist")
        return found

    def _policy(self, tx: Tx, name: str) -> Policy:
        found = store.policy(tx, name)
        if found is None:
            raise NotFound(f"policy {name} does not exist")
        return found

    def _version(self, tx: Tx, name: str, number: int) -> PolicyVersion:
        found = store.version(tx, name, number)
        if found is None:
            raise NotFound(f"policy {name} has no version {number}")
        return found

    def _set_default(self, tx: Tx, name: str, number: int) -> None:
        store.set_default(tx, name, number)
        tx.touch("identity_policy", name)
        if store.is_used(tx, name):
            self._changed(tx, EVERYBODY)

    def _check_target(self, tx: Tx, target: str) -> None:
        kind, _, name = target.partition("/")
        if kind == "cert":
            self._certificate(tx, name)
        else:
            self._things.check_group(tx, name)

    def _attach(self, tx: Tx, target: str, name: str) -> None:
        if store.attach(tx, target, name):
            if len(store.attached(tx, target, limit=MAX_POLICIES + 1)) > MAX_POLICIES:
                raise LimitExceeded(f"{target} has {MAX_POLICIES} policies already", limit=MAX_POLICIES)
            self._touch_target(tx, target)

    def _touch_target(self, tx: Tx, target: str) -> None:
        kind, _, name = target.partition("/")
        if kind == "cert":
            self._touch_certificate(tx, name)
        else:
            tx.touch("identity_group", name)
            self._changed(tx, EVERYBODY)

    def _touch_certificate(self, tx: Tx, certificate_id: str) -> None:
        tx.touch("identity_certificate", certificate_id)
        self._changed(tx, certificate_id)

    def _changed(self, tx: Tx, principal: str) -> None:
        tx.after_commit(lambda: self._announce(principal))

    def _announce(self, principal: str) -> None:
        if principal != EVERYBODY and principal not in self._seen:
            return  # nobody holds a Subject of it: provisioning a fleet must not make all the others refresh
        self.epoch += 1
        self._changed_at[principal] = self.epoch
        self._bus.publish(PrincipalChanged(principal))

    def _check_token(self, tx: Tx, digest: bytes, thing: str) -> str:
        """The policy that the token names, or empty."""
        found = store.token(tx, digest)
        if found is None:
            raise Unauthenticated(
                "the join token is wrong, used or over 15 minutes old: make a new one", reason="join_token"
            )
        bound, policy = found
        if bound and bound != thing:
            raise Denied(f"the join token is for thing {bound}, not {thing}")
        if not bound and store.principals_of(tx, thing, limit=1):
            raise Denied(
                f"thing {thing} has a certificate: to put another machine in its place make a token for it"
                f" (marram hub join-token --thing {thing}), else join under another name"
            )
        return policy

    # subjects

    def _subject(
        self, certificate_id: str, client_id: str | None, der: bytes | None, *, hypothetical: bool = False
    ) -> Subject:
        found = self._db.cached(
            "identity_certificate", certificate_id, lambda tx: self._load_principal(tx, certificate_id)
        )
        if found is None or (found.status != "ACTIVE" and not hypothetical):
            raise Unauthenticated(
                f"certificate {certificate_id} is {'not known' if found is None else found.status}",
                reason="certificate",
            )
        if not hypothetical:
            self._seen.add(certificate_id)
        facts = [self._things.facts(thing) for thing in found.things]
        groups = sorted({group for fact in facts if fact is not None for group in fact.groups})
        names = sorted({*found.policies, *(name for group in groups for name in self._group_policies(group))})
        policies = tuple(policy for name in names if (policy := self._compiled(name)) is not None)
        thing = client_id if client_id in found.things else None
        return Subject(
            kind="certificate",
            principal=certificate_id,
            arn=self.arn_of(certificate_id),
            policies=policies,
            thing=thing,
            client_id=client_id,
            attributes=self._values(certificate_id, client_id, thing, evaluate.program(policies).keys, der),
            epoch=self.epoch,
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
            values |= _thing_values(thing, self._things.facts(thing))
        if certificate_id is not None:
            values["iot:CertificateId"] = certificate_id
            if any(key.startswith("iot:Certificate.") for key in keys):
                values |= pki.policy_variables(
                    der or self._db.read_now(lambda tx: self._certificate(tx, certificate_id).der)
                )
        return {key: value for key, value in values.items() if key in keys} or NOTHING

    def _own_values(self, subject: Subject, client_id: str) -> Values:
        return {**subject.attributes, "iot:ClientId": client_id}

    def _now(self, subject: Subject) -> Subject:
        return subject if subject.epoch == self.epoch else replace(subject, epoch=self.epoch)

    def _load_principal(self, tx: Tx, certificate_id: str) -> _Principal | None:
        found = store.certificate(tx, certificate_id)
        if found is None:
            return None
        return _Principal(
            status=found.status,
            policies=tuple(store.attached(tx, _target_of_certificate(certificate_id))),
            things=tuple(thing for thing, _ in store.things_of(tx, certificate_id)),
        )

    def _group_policies(self, group: str) -> tuple[str, ...]:
        return self._db.cached("identity_group", group, lambda tx: tuple(store.attached(tx, f"thinggroup/{group}")))

    def _compiled(self, name: str) -> CompiledPolicy | None:
        def load(tx: Tx) -> CompiledPolicy | None:
            text = store.default_document(tx, name)
            if text is None:
                return None
            try:
                return evaluate.compile_policy(name, text)
            except MalformedPolicy as exc:
                # Written by another version of Marram. Skipping it could skip a Deny.
                log.error("identity.policy_unreadable", policy=name, reason=exc.message)
                return evaluate.compile_policy(name, _ALL_DENIED)

        return self._db.cached("identity_policy", name, load)

    def _load_key(self, tx: Tx, key_id: str) -> Key | None:
        row = store.key(tx, key_id)
        if row is None:
            return None
        subject_arn = self._iam(f"user/{row.name}")
        policy = evaluate.compile_policy(f"key {row.name}", row.policy, limit=documents.IAM_LIMIT)
        subject = Subject(
            kind="key",
            principal=key_id,
            arn=subject_arn,
            policies=(policy,),
            attributes={
                "aws:PrincipalArn": subject_arn,
                "aws:PrincipalAccount": self.account,
                "aws:PrincipalType": "User",
                "aws:username": row.name,
                "aws:userid": key_id,
            },
        )
        secret = self.pki.unseal(row.sealed, label=f"key:{key_id}").decode()
        return Key(id=key_id, name=row.name, secret=secret, subject=subject)

    def _new_key(self, name: str, policy: str) -> tuple[str, str, bytes]:
        if not KEY_NAME.fullmatch(name):
            raise Invalid(f"{name!r} is not a key name: 1 to 64 of letters, digits and _+=,.@-")
        documents.parse(policy, limit=documents.IAM_LIMIT)
        key_id = "MRAK" + b32encode(self._entropy.bytes(10)).decode()
        secret = urlsafe_b64encode(self._entropy.bytes(30)).decode()
        return key_id, secret, self.pki.seal(secret.encode(), label=f"key:{key_id}")

    def _store_key(self, tx: Tx, key_id: str, name: str, sealed: bytes, policy: str) -> None:
        if store.key_named(tx, name) is not None:
            raise AlreadyExists(f"an access key named {name} exists", resourceId=name)
        store.add_key(tx, key_id, name, sealed, policy)
        tx.touch("identity_key", key_id)

    def _iam(self, resource: str) -> str:
        return arn.build("iam", "", self.account, resource)

    def _with_time(self, context: Values) -> Values:
        now_ms = self._clock.wall_ms()
        moment = datetime.fromtimestamp(now_ms // 1000, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {"aws:CurrentTime": moment, "aws:EpochTime": str(now_ms // 1000), **context}


_ALL_DENIED: Final = '{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Action":"*","Resource":"*"}]}'


def policy_text(value: object) -> str:
    """A policy document given as text or as an object."""
    return value if isinstance(value, str) else codec.dumps(value).decode()


def _thing_values(thing: str, facts: ThingFacts | None) -> dict[str, str]:
    values = {"iot:Connection.Thing.ThingName": thing}
    if facts is not None:
        if facts.type_name is not None:
            values["iot:Connection.Thing.ThingTypeName"] = facts.type_name
        values |= {f"{ATTRIBUTE}{name}]": value for name, value in facts.attributes.items()}
    return values


def _target_of_certificate(certificate_id: str) -> str:
    return f"cert/{certificate_id}"


def _check_policy_name(name: str) -> None:
    if not POLICY_NAME.fullmatch(name):
        raise Invalid(f"{name!r} is not a policy name: 1 to 128 of letters, digits and _+=,.@-")


def _number(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,8}", text):
        raise Invalid(f"{text!r} is not a policy version: a number from 1")
    return int(text)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _secret_of(token: str) -> str:
    parts = token.split(".")
    if len(parts) != 3 or parts[0] != "mrm1" or not parts[1]:
        raise Invalid("the join token must read mrm1.<secret>.<sha256 of the root certificate>")
    return parts[1]
