"""What a template makes, as rows: certificate, thing, groups, policies, all in one transaction or not at all.

A thing that exists is changed as the template's OverrideSettings say. Without any, a device cannot take the place of
another: a thing that has a certificate is refused to it (our choice; AWS attaches the second certificate).
Not here: what the template means (core/provisioning.py), who may use it (claims.py, arrivals.py, bulk.py).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from cryptography import x509

from marram.core import provisioning
from marram.core.errors import Conflict, Denied, Invalid, NotFound
from marram.core.policy.variables import Values
from marram.core.provisioning import CertificatePlan, Kind, Plan, PolicyPlan, Template, ThingPlan
from marram.hub.identity.service import Identity, Issued, Subject
from marram.hub.registry.service import Registry
from marram.kit.db import Tx

NOTHING: Final[Values] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A plan, and what of it must be made before the transaction: certificates cost time and randomness."""

    plan: Plan
    kind: Kind
    certificate_id: str | None = None
    issued: Issued | None = None
    foreign: x509.Certificate | None = None
    ca: x509.Certificate | None = None
    by: Subject  # whose rights all of it needs: of the caller, or of the role that the template provisions by
    seen: Values = field(default_factory=dict[str, str])  # what policies may ask about the caller's request


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """arns: by logical name."""

    thing: str | None
    certificate_id: str | None
    arns: Mapping[str, str]


class Making:
    def __init__(self, identity: Identity, registry: Registry) -> None:
        self._identity, self._registry = identity, registry

    def prepare(
        self,
        template: Template,
        parameters: Mapping[str, str],
        given: Mapping[str, str],
        *,
        by: Subject,
        seen: Values = NOTHING,
    ) -> Prepared:
        """On any thread. Raises BadParameters, BadCertificate, Invalid for a request that cannot be signed."""
        given = {
            "AWS::Region": self._identity.region,
            "AWS::AccountId": self._identity.account,
            "AWS::Partition": "aws",
            **given,
        }
        # Once to know the certificate, and once more with its id, which may be asked for by its logical name.
        plan = provisioning.evaluate(template, parameters, given, certificate_id="0" * 64)
        wanted = plan.certificate
        if wanted is None:
            return Prepared(plan=plan, kind=template.kind, by=by, seen=seen)
        if wanted.source == "id":
            return Prepared(plan=plan, kind=template.kind, certificate_id=wanted.value, by=by, seen=seen)
        issued = foreign = ca = None
        if wanted.source == "csr":
            issued = self._identity.pki.issue_device(wanted.value)
            certificate_id = issued.id
        else:
            foreign, ca = self._identity.authorities.read_leaf(wanted.value, wanted.ca_pem)
            certificate_id = self._identity.authorities.id_of(foreign)
        plan = provisioning.evaluate(template, parameters, given, certificate_id=certificate_id)
        return Prepared(
            plan=plan,
            kind=template.kind,
            certificate_id=certificate_id,
            issued=issued,
            foreign=foreign,
            ca=ca,
            by=by,
            seen=seen,
        )

    def make(self, tx: Tx, prepared: Prepared) -> Made:
        """Within a transaction. Raises Conflict, NotFound, Invalid, LimitExceeded; then nothing of it may be kept.

        Raises Denied when whoever does it may not do what the template says.
        """
        plan, certificate_id = prepared.plan, prepared.certificate_id
        arns: dict[str, str] = {}
        if plan.certificate is not None and certificate_id is not None:
            self._certificate(tx, plan.certificate, prepared, certificate_id)
            arns[plan.certificate.logical] = self._identity.arn_of(certificate_id)
        if plan.thing is not None:
            self._thing(tx, plan.thing, prepared)
            arns[plan.thing.logical] = self._registry.arns.thing(plan.thing.name)
            if certificate_id is not None:
                self._ask(prepared, "iot:AttachThingPrincipal", arns[plan.thing.logical])
                if prepared.kind is Kind.REGISTRATION:  # of a device it is the one that asks
                    self._ask(prepared, "iot:AttachThingPrincipal", self._identity.arn_of(certificate_id))
                self._identity.attach_thing(tx, plan.thing.name, certificate_id)
        for policy in plan.policies:
            assert certificate_id is not None, "a template with policies has a certificate"
            self._policy(tx, policy, prepared, certificate_id)
            arns[policy.logical] = self._identity.policies.arn_of(policy.name)
        return Made(thing=plan.thing.name if plan.thing else None, certificate_id=certificate_id, arns=arns)

    def _certificate(self, tx: Tx, wanted: CertificatePlan, prepared: Prepared, certificate_id: str) -> None:
        identity = self._identity
        present = identity.certificates.find(tx, certificate_id)
        if present is None:
            if prepared.issued is not None:
                self._ask(prepared, "iot:CreateCertificateFromCsr", "*")
                identity.add_certificate(tx, prepared.issued.der, status=wanted.status)
            elif prepared.foreign is not None:
                self._ask(prepared, "iot:RegisterCertificate", "*")
                identity.authorities.register_tx(tx, prepared.foreign, prepared.ca, wanted.status)
            else:
                raise NotFound(f"certificate {certificate_id[:100]} does not exist")
            return
        if present.status == wanted.status:
            return
        # One that waits for its activation has no status of its own that could be kept.
        if present.status != "PENDING_ACTIVATION":
            if wanted.on_status == "FAIL":
                raise _conflict(f"certificate {certificate_id} is {present.status}, and the template says FAIL")
            if wanted.on_status == "DO_NOTHING":
                return
        self._ask(prepared, "iot:UpdateCertificate", identity.arn_of(certificate_id))
        identity.set_status_tx(tx, certificate_id, wanted.status)

    def _thing(self, tx: Tx, wanted: ThingPlan, prepared: Prepared) -> None:
        registry = self._registry
        present = registry.thing_tx(tx, wanted.name)
        if present is None:
            self._ask(prepared, "iot:CreateThing", registry.arns.thing(wanted.name))
            registry.create_thing_tx(
                tx, wanted.name, type_name=wanted.type_name or "", attributes=wanted.attributes or {}
            )
            self._add(tx, prepared, wanted.groups or (), wanted.name)
            return
        if prepared.kind is not Kind.REGISTRATION and not wanted.overrides:
            others = [row for row, _ in self._identity.principals_of(tx, wanted.name) if row != prepared.certificate_id]
            if others:
                raise _conflict(
                    f"thing {wanted.name} exists and has a certificate, and the template has no OverrideSettings for it"
                )
        self._attributes_and_type(tx, wanted, prepared, present.type, present.attributes)
        if wanted.groups is not None:
            self._groups(tx, wanted, prepared, wanted.groups)

    def _attributes_and_type(
        self, tx: Tx, wanted: ThingPlan, prepared: Prepared, type_name: str, attributes: Mapping[str, str]
    ) -> None:
        new_type = wanted.type_name is not None and wanted.type_name != type_name
        kept = {key: value for key, value in (wanted.attributes or {}).items() if value}
        merge = wanted.on_attributes == "MERGE"
        new_attributes = wanted.attributes is not None and kept != (
            {key: attributes[key] for key in kept if key in attributes} if merge else attributes
        )
        if new_type and wanted.on_type == "FAIL":
            raise _conflict(f"thing {wanted.name} exists with thing type {type_name or 'none'}")
        if new_attributes and wanted.on_attributes == "FAIL":
            raise _conflict(f"thing {wanted.name} exists with other attributes")
        change_type = new_type and wanted.on_type == "REPLACE"
        change_attributes = new_attributes and wanted.on_attributes in ("REPLACE", "MERGE")
        if change_type or change_attributes:
            self._ask(prepared, "iot:UpdateThing", self._registry.arns.thing(wanted.name))
            self._registry.update_thing_tx(
                tx,
                wanted.name,
                type_name=(wanted.type_name or "") if change_type else "",
                attributes=wanted.attributes if change_attributes else None,
                merge=merge,
            )

    def _groups(self, tx: Tx, wanted: ThingPlan, prepared: Prepared, groups: tuple[str, ...]) -> None:
        registry = self._registry
        present = registry.groups_of_tx(tx, wanted.name)
        missing = [group for group in groups if group not in present]
        beyond = [group for group in present if group not in groups]
        match wanted.on_groups:
            case "DO_NOTHING":
                return
            case "FAIL":
                if missing or beyond:
                    raise _conflict(f"thing {wanted.name} exists in other thing groups")
                return
            case "REPLACE":
                for group in beyond:
                    self._ask(prepared, "iot:RemoveThingFromThingGroup", registry.arns.group(group))
                    registry.remove_from_group_tx(tx, group, wanted.name)
            case "MERGE":
                pass
        self._add(tx, prepared, missing, wanted.name)

    def _add(self, tx: Tx, prepared: Prepared, groups: Iterable[str], thing: str) -> None:
        for group in groups:
            self._ask(prepared, "iot:AddThingToThingGroup", self._registry.arns.group(group))
            self._registry.add_to_group_tx(tx, group, thing)

    def _policy(self, tx: Tx, wanted: PolicyPlan, prepared: Prepared, certificate_id: str) -> None:
        if wanted.document is not None and not self._identity.policies.exists(tx, wanted.name):
            self._ask(prepared, "iot:CreatePolicy", self._identity.policies.arn_of(wanted.name))
            self._identity.create_policy_tx(tx, wanted.name, wanted.document)
        self._ask(prepared, "iot:AttachPolicy", self._identity.arn_of(certificate_id))
        self._identity.attach_policy_tx(tx, wanted.name, f"cert/{certificate_id}")

    def acting(self, role: str) -> Subject:
        """Whoever provisions by this role. Raises Denied when the role is gone, or does not trust us any more."""
        try:
            self._identity.check_role(role)
            return self._identity.role_subject(role)
        except (Invalid, NotFound) as exc:
            raise Denied(f"the provisioning role cannot be used: {exc.message}") from exc

    def _ask(self, prepared: Prepared, action: str, resource: str) -> None:
        if not self._identity.may(prepared.by, action, resource, prepared.seen):
            raise Denied(f"the template needs {action} on {resource}, which {prepared.by.arn} may not")


def _conflict(message: str) -> Conflict:
    return Conflict(message, kind="resource")


def check_given(values: Mapping[str, object], what: str) -> dict[str, str]:
    """Parameters from outside: names and values are strings. Raises Invalid (kind parameters)."""
    found: dict[str, str] = {}
    for name, value in values.items():
        if not isinstance(value, str):
            raise Invalid(f"{what}: parameter {name[:100]!r} must be a string", kind="parameters")
        found[name] = value
    return found
