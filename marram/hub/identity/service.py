"""Who is it and what may it do, as the other slices, the doors and the composition root see it: identity's parts put together.

The questions of the hot path (`certificate_subject`, `with_client`, `key`, `may`, `refresh`) are synchronous and answered
from the document cache (subjects.py); whoever changes a row drops it there within the same commit. A `Subject` is a
snapshot: when `subject.epoch != identity.epoch` something that concerns somebody has changed, and `refresh` gives the
present one. What things there are is the registry's to know; it fills the `Things` port. Signatures are checked by the border.
"""

from collections.abc import Callable, Mapping
from typing import Final

from marram.core.errors import Invalid
from marram.core.policy import evaluate
from marram.hub.bus import Bus
from marram.hub.identity.authorities import Authorities
from marram.hub.identity.base import Base
from marram.hub.identity.certificates import Certificates
from marram.hub.identity.joining import Joining
from marram.hub.identity.keys import ALL_ALLOWED, Keys
from marram.hub.identity.model import (
    EVERYBODY,
    Key,
    Kind,
    PrincipalChanged,
    Status,
    Strangers,
    Subject,
    ThingFacts,
    Things,
)
from marram.hub.identity.pki import Pki
from marram.hub.identity.policies import Policies
from marram.hub.identity.sessions import Sessions
from marram.hub.identity.subjects import Subjects
from marram.hub.identity.trust import Trust
from marram.kit.clock import Clock, Entropy
from marram.kit.db import Db

__all__ = [
    "ALL_ALLOWED",
    "EVERYBODY",
    "Identity",
    "Key",
    "Kind",
    "PrincipalChanged",
    "Status",
    "Subject",
    "ThingFacts",
    "Things",
]

SERVICE_ROLE: Final = "role/marram-service"


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
        self.account, self.region = account, region
        # The parts, in the order in which they know each other. The API of this slice speaks to them; others use the names below.
        self._base = base = Base(db, bus, clock=clock, entropy=entropy, account=account, region=region)
        self.certificates = certificates = Certificates(base, pki)
        self.trust = trust = Trust(pki, db)
        self.authorities = Authorities(base, pki, certificates, trust)
        self.policies = policies = Policies(base, certificates)
        self.keys = keys = Keys(base, pki)
        self.subjects = subjects = Subjects(base, certificates, policies, keys)
        self.sessions = sessions = Sessions(base, pki, keys)
        self.joining = joining = Joining(base, pki, certificates, policies, endpoints)
        everything = evaluate.compile_policy("marram-service", ALL_ALLOWED)
        self.internal = Subject(
            kind="service", principal="marram", arn=base.iam(SERVICE_ROLE), policies=(everything,), epoch=base.epoch
        )

        # The hot path
        self.certificate_subject = subjects.of_certificate
        self.with_client = subjects.with_client
        self.key = keys.key
        self.session = sessions.check
        self.may = subjects.may
        self.explain = subjects.explain
        self.refresh = subjects.refresh
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
        self.admin_key = keys.admin
        self.own_key = keys.own
        self.create_join_token = joining.create_token
        self.join = joining.join

    @property
    def epoch(self) -> int:
        return self._base.epoch

    def use_things(self, things: Things) -> None:
        self._base.things = things

    def use_strangers(self, strangers: Strangers) -> None:
        self._base.strangers = strangers

    # roles

    def role_arn(self) -> str:
        return self._base.iam(SERVICE_ROLE)

    def check_role(self, role_arn: str) -> None:
        """Raises Invalid unless it is the built-in role; there are no others."""
        if role_arn != self.role_arn():
            raise Invalid(f"the role {role_arn!r} does not exist here; the only one is {self.role_arn()}")
