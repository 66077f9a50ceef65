"""Who is it and what may it do, as the other slices, the doors and the composition root see it: identity's parts put together.

The questions of the hot path (`certificate_subject`, `with_client`, `key`, `may`, `refresh`) are synchronous and answered
from the document cache (subjects.py); whoever changes a row drops it there within the same commit. A `Subject` is a
snapshot: when `subject.epoch != identity.epoch` something that concerns somebody has changed, and `refresh` gives the
present one. What things there are is the registry's to know; it fills the `Things` port. Signatures are checked by the border.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from marram.core.policy import documents, evaluate
from marram.hub.bus import Bus
from marram.hub.identity import store_iam
from marram.hub.identity.assuming import Assuming
from marram.hub.identity.authorities import Authorities
from marram.hub.identity.base import Base
from marram.hub.identity.certificates import Certificates
from marram.hub.identity.foreign import load as read_foreign
from marram.hub.identity.foreign import parameters as certificate_parameters
from marram.hub.identity.joining import Joining
from marram.hub.identity.keys import ALL_ALLOWED, Keys
from marram.hub.identity.managed import ManagedPolicies
from marram.hub.identity.model import (
    EVERYBODY,
    Key,
    Kind,
    Page,
    PrincipalChanged,
    Status,
    Strangers,
    Subject,
    ThingFacts,
    Things,
)
from marram.hub.identity.pki import Issued, Pki, certificate_id, pem_of, validity_ms
from marram.hub.identity.policies import Policies
from marram.hub.identity.roles import SERVICE_ROLE, Roles
from marram.hub.identity.sessions import Sessions
from marram.hub.identity.store_authorities import Authority
from marram.hub.identity.subjects import Subjects
from marram.hub.identity.trust import Trust
from marram.hub.identity.users import Users
from marram.kit.clock import Clock, Entropy
from marram.kit.db import Db, Tx

__all__ = [
    "ALL_ALLOWED",
    "EVERYBODY",
    "Authority",
    "Identity",
    "Issued",
    "Key",
    "Kind",
    "Page",
    "PrincipalChanged",
    "Status",
    "Subject",
    "ThingFacts",
    "Things",
    "Trust",
    "certificate_id",
    "certificate_parameters",
    "pem_of",
    "read_foreign",
    "validity_ms",
]


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
        endpoints: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        self.pki = pki
        self.metrics_token = pki.derived_key("metrics").hex()  # what /metrics asks for off loopback
        self.account, self.region = account, region
        # The parts, in the order in which they know each other. The API of this slice speaks to them; others use the names below.
        self._base = base = Base(db, bus, clock=clock, entropy=entropy, account=account, region=region)
        self.certificates = certificates = Certificates(base, pki)
        self.trust = trust = Trust(pki, db)
        self.authorities = Authorities(base, pki, certificates, trust)
        self.policies = policies = Policies(base, certificates)
        self.managed = managed = ManagedPolicies(base)
        self.users = users = Users(base, managed)
        self.roles = roles = Roles(base, managed)
        managed.on_change = self._rights_changed
        self.keys = keys = Keys(base, pki, users)
        self.subjects = subjects = Subjects(base, certificates, policies, keys)
        self.sessions = sessions = Sessions(base, pki, keys, roles, managed, subjects)
        self.assuming = Assuming(base, roles, managed, sessions, subjects)
        self.joining = joining = Joining(base, pki, certificates, policies, endpoints)
        everything = evaluate.compile_policy("marram-service", ALL_ALLOWED)
        self.internal = Subject(
            kind="service",
            principal="marram",
            arn=base.iam(f"role/{SERVICE_ROLE}"),
            policies=(everything,),
            epoch=base.epoch,
        )

        # The hot path
        self.certificate_subject = subjects.of_certificate
        self.with_client = subjects.with_client
        self.key = keys.key
        self.session = sessions.check
        self.may = subjects.may
        self.explain = subjects.explain
        self.denial = subjects.denial
        self.refresh = sessions.refresh
        self.attached_things = subjects.attached_things
        self.exclusive_thing = subjects.exclusive_thing

        # Certificates and policies, also within somebody's transaction
        self.create_certificate = certificates.create
        self.add_certificate = certificates.add
        self.certificate = certificates.certificate
        self.set_status_tx = certificates.set_status_tx
        self.set_status = certificates.set_status
        self.delete_certificate = certificates.delete
        self.certificate_of = certificates.of_arn
        self.arn_of = certificates.arn_of
        self.create_policy = policies.create
        self.create_policy_tx = policies.create_tx
        self.create_version = policies.create_version
        self.set_default_version = policies.set_default_version
        self.delete_version = policies.delete_version
        self.policy = policies.policy
        self.delete_policy = policies.delete
        self.attach_policy = policies.attach
        self.attach_policy_tx = policies.attach_tx
        self.detach_policy = policies.detach
        self.attached_policies = policies.attached

        # Things and their certificates: the registry's half
        self.attach_thing = certificates.attach_thing
        self.detach_thing = certificates.detach_thing
        self.principals_of = certificates.principals_of
        self.things_of = certificates.things_of
        self.thing_changed = certificates.thing_changed
        self.group_deleted = policies.group_deleted
        self.group_changed = policies.group_changed

        # Keys and joining
        self.create_key = keys.create
        self.delete_key = keys.delete
        self.own_key = keys.own
        self.key_used = keys.used
        self.create_join_token = joining.create_token
        self.join = joining.join

    @property
    def epoch(self) -> int:
        return self._base.epoch

    def use_things(self, things: Things) -> None:
        self._base.things = things

    def use_strangers(self, strangers: Strangers) -> None:
        self._base.strangers = strangers

    def admin_key(self) -> Key:
        """The administrator's key, made when there is none, and with it the role of the hub itself. For the start."""
        self.roles.ensure_service_role()
        return self.keys.admin()

    # roles

    def role_arn(self) -> str:
        return self._base.iam(f"role/{SERVICE_ROLE}")

    def check_role(
        self, role_arn: str, service: str = "iot.amazonaws.com", action: str | None = None, resource: str | None = None
    ) -> None:
        """Raises Invalid unless the role exists and its trust policy lets `service` assume it.

        With `action`, its policies have to allow that on `resource` as well. marram-service always does.
        """
        if role_arn != self.role_arn():
            self.roles.check(role_arn, service, action, resource)

    def role_subject(self, role_arn: str) -> Subject:
        """Whoever acts in the role, for `may`. Raises NotFound."""
        return self.internal if role_arn == self.role_arn() else self.roles.subject(self.roles.by_arn(role_arn))

    def act_as(self, role_arn: str, action: str, resource: str) -> None:
        """For what the hub does in a role's name, message by message. resource: the part of its ARN after the account.

        Raises Denied when the role's policies do not allow it, or when it is gone or no longer for the hub.
        """
        if role_arn != self.role_arn():
            self.roles.authorise(role_arn, action, self._base.arn(action.partition(":")[0], resource))

    def simulated(self, entity: tuple[Literal["user", "role"], str], more: Sequence[str]) -> Subject:
        """A user or role to ask `explain` of, with further policy documents. Raises NotFound, MalformedPolicy."""
        kind, name = entity
        entities = self.users if kind == "user" else self.roles
        added = tuple(
            evaluate.compile_policy(f"PolicyInputList.{at}", text, limit=documents.IAM_LIMIT)
            for at, text in enumerate(more, 1)
        )
        found, policies = self._base.db.read_now(lambda tx: (row := entities.find(tx, name), entities.rights(tx, row)))
        who = {"aws:PrincipalArn": entities.arn_of(found), "aws:PrincipalAccount": self.account, "aws:userid": found.id}
        return Subject(
            kind="key" if kind == "user" else "role",
            principal=found.id,
            arn=entities.arn_of(found),
            policies=(*policies, *added),
            attributes=who | ({"aws:username": found.name} if kind == "user" else {}),
        )

    def _rights_changed(self, tx: Tx, owners: Sequence[str]) -> None:
        """A managed policy is another one now."""
        for entity_id in owners:
            if (entity := store_iam.entity_by_id(tx, entity_id)) is not None:
                (self.users if entity.kind == self.users.kind else self.roles).changed(tx, entity)
