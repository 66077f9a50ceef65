"""The face of the slice: templates, claims, first connections, single and bulk registration, registration settings of CAs.

Everything of one provision is one transaction. Hooks (a function asked before) come with functions: refused at creation.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from marram.core.errors import Invalid
from marram.core.policy.variables import Values
from marram.core.provisioning import Kind
from marram.hub.identity.service import Authority, Identity, Subject, pem_of
from marram.hub.objects.service import Objects
from marram.hub.provisioning.arrivals import Arrivals
from marram.hub.provisioning.bulk import Bulk
from marram.hub.provisioning.claims import Claims, Replies, by_operator
from marram.hub.provisioning.making import Made, Making
from marram.hub.provisioning.store import Task, Template, TemplateVersion
from marram.hub.provisioning.templates import Templates, parse
from marram.hub.registry.service import Registry
from marram.kit.clock import Clock
from marram.kit.db import Db, Tx

__all__ = ["Made", "Provisioning", "Replies", "Settings", "Task", "Template", "TemplateVersion"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """What a CA's devices are provisioned by: a template of ours by name, or one of their own with its role."""

    template_name: str | None = None
    template_body: str | None = None
    role: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Section [provisioning] of marram.toml. Raises Invalid for a value that cannot be."""

    report_days: int = 90  # reports of bulk registration are deleted so long after their task ended; 0 = never

    def __post_init__(self) -> None:
        if not 0 <= self.report_days <= 36_500:
            raise Invalid(f"[provisioning] report_days is 0 to 36500, not {self.report_days}")


class Provisioning:
    def __init__(
        self, db: Db, identity: Identity, registry: Registry, objects: Objects, replies: Replies, *, clock: Clock,
        settings: Settings | None = None,
    ) -> None:  # fmt: skip
        self.settings = settings or Settings()
        self.account = identity.account
        self._db, self._identity = db, identity
        self.authorities = identity.authorities
        making = self._making = Making(identity, registry)
        self.templates = Templates(db, identity, registry.tags.tag_tx)
        self.claims = Claims(db, identity, self.templates, making, replies, clock=clock)
        self.arrivals = Arrivals(db, identity, self.templates, making, clock=clock)
        self.bulk = Bulk(db, identity, objects, making)
        self._tags = registry.tags
        registry.tags.declare("provisioningtemplate", self.templates.bearer_id)
        identity.use_strangers(self.arrivals)

    async def tend(self) -> None:
        """Every few seconds: what was temporary and has ended goes."""
        await self.claims.end_pending()
        await self._identity.authorities.end_claims()
        await self.bulk.expire_reports(self.settings.report_days)

    async def register_thing(
        self, body: str, parameters: Mapping[str, str], by: Subject, seen: Values
    ) -> tuple[Made, str | None]:
        """RegisterThing of an operator, with his rights: what was made, and the certificate's PEM.

        Raises BadTemplate, BadParameters, Denied.
        """
        template = parse(body, Kind.REGISTRATION)
        prepared = self._making.prepare(template, parameters, {}, by=by, seen=seen)
        made = await self._db.write(lambda tx: self._making.make(tx, prepared))
        by_operator.inc()
        if made.certificate_id is None:
            return made, None
        certificate = await self._identity.certificate(made.certificate_id)
        return made, pem_of(certificate.der)

    # registration settings of CAs

    async def register_authority(
        self,
        pem: str,
        verification_pem: str,
        *,
        active: bool,
        is_open: bool,
        registration: Registration | None,
        tags: Mapping[str, str] | None = None,
    ) -> Authority:
        """Raises BadCertificate, AlreadyExists, LimitExceeded; Invalid (kind registration_code); BadTemplate, NotFound."""
        checked = self.authorities.checked(pem, verification_pem)
        wanted = replace(checked, status="ACTIVE" if active else "INACTIVE", is_open=is_open)
        if registration is not None:
            self._check(registration)
            wanted = _with(wanted, registration)

        def work(tx: Tx) -> None:
            self._check_name(tx, registration)
            self.authorities.add(tx, wanted)
            self._tags.tag_tx(tx, "cacert", wanted.id, tags or {})

        await self._db.write(work)
        return wanted

    async def update_authority(
        self,
        authority_id: str,
        *,
        status: str | None = None,
        is_open: bool | None = None,
        registration: Registration | None = None,
        close: bool = False,
    ) -> None:
        """None leaves it as it is. close: nothing registers itself any more, and the template goes."""
        if registration is not None:
            if close:
                raise Invalid("registrationConfig and removeAutoRegistration exclude each other")
            self._check(registration)

        def work(tx: Tx) -> None:
            present = self.authorities.get(tx, authority_id)
            self._check_name(tx, registration)
            changed = replace(
                present,
                status=present.status if status is None else status,
                is_open=present.is_open if is_open is None else is_open,
            )
            if close:
                changed = _with(replace(changed, is_open=bool(is_open)), Registration())
            elif registration is not None:
                changed = _with(changed, registration)
            self.authorities.save(tx, changed)

        await self._db.write(work)

    def _check(self, wanted: Registration) -> None:
        if (wanted.template_name is None) == (wanted.template_body is None):
            raise Invalid("registrationConfig: either templateName, or templateBody with roleArn")
        if wanted.template_body is not None:
            if wanted.role is None:
                raise Invalid("registrationConfig: templateBody needs roleArn")
            parse(wanted.template_body, Kind.JITP)
            self._identity.check_role(wanted.role)
        elif wanted.role is not None:
            raise Invalid("registrationConfig: templateName has its own role; roleArn goes with templateBody")

    def _check_name(self, tx: Tx, wanted: Registration | None) -> None:
        if wanted is not None and wanted.template_name is not None:
            self.templates.check_kind(tx, wanted.template_name, Kind.JITP)


def _with(authority: Authority, registration: Registration) -> Authority:
    return replace(
        authority,
        template_name=registration.template_name,
        template_body=registration.template_body,
        role=registration.role,
    )
