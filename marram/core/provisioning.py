"""Provisioning templates: JSON text to a checked template, template and parameters to what is to be made. Pure.

All that can be known without a device is refused by `parse`, with its place (`Resources.thing.Properties.ThingName`): unknown
keys, names that nothing declares, references in a circle. `evaluate` refuses what only the parameters show.
A logical name of a resource may be used by Ref and Fn::Sub: it stands for the thing's name, the certificate's id, the policy's
name (as in CloudFormation). Functions and references are in core/template_value.py.
Sources: AWS IoT Core developer guide, "Provisioning templates" and "Just-in-time provisioning".
Not here: whether things, groups and policies exist (hub/provisioning); billing groups, package versions (refused by name).
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal

from marram.core import codec, template_value
from marram.core.codec import JsonObject, JsonValue
from marram.core.errors import Invalid, LimitExceeded, Unsupported
from marram.core.template_value import BadParameters as BadParameters
from marram.core.template_value import BadTemplate as BadTemplate
from marram.core.template_value import Expression, Mappings, Scope

MAX_CHARACTERS: Final = 10_240  # botocore model, TemplateBody
MAX_DEPTH: Final = 16
MAX_RESOURCES: Final = 16
MAX_PARAMETERS: Final = 64
MAX_NAME: Final = 2048  # botocore model, Parameter
MAX_VALUE: Final = 4096  # botocore model, Value
CERTIFICATE_ID: Final = "AWS::IoT::Certificate::Id"
CERTIFICATE_FIELDS: Final = (
    "AWS::IoT::Certificate::Country",
    "AWS::IoT::Certificate::Organization",
    "AWS::IoT::Certificate::OrganizationalUnit",
    "AWS::IoT::Certificate::DistinguishedNameQualifier",
    "AWS::IoT::Certificate::StateName",
    "AWS::IoT::Certificate::CommonName",
    "AWS::IoT::Certificate::SerialNumber",
    CERTIFICATE_ID,
)
PLACE: Final = ("AWS::Region", "AWS::AccountId", "AWS::Partition")
# What a device says must stay inside the string that the template puts it in: no wildcard, no policy variable, no quote.
_LOOSE: Final = re.compile(r"[*?$\"\\{}\x00-\x1f\x7f]")

Action = Literal["DO_NOTHING", "REPLACE", "FAIL", "MERGE"]
Status = Literal["ACTIVE", "INACTIVE"]
Source = Literal["id", "csr", "pem"]


class Kind(Enum):
    """Who gives the parameters: a device with a claim, a device's own certificate, or an operator."""

    FLEET = "FLEET_PROVISIONING"
    JITP = "JITP"
    REGISTRATION = "registration"

    @property
    def given(self) -> tuple[str, ...]:
        """Names with a value of ours; nobody else can give them one."""
        match self:
            case Kind.FLEET:
                return (CERTIFICATE_ID, *PLACE)
            case Kind.JITP:
                return (*CERTIFICATE_FIELDS, *PLACE)
            case Kind.REGISTRATION:
                return PLACE


@dataclass(frozen=True, slots=True, kw_only=True)
class ThingPlan:
    """None: the template says nothing about it. `on_...`: what to do when the thing exists and differs."""

    logical: str
    name: str
    attributes: Mapping[str, str] | None = None
    type_name: str | None = None
    groups: tuple[str, ...] | None = None
    on_attributes: Action = "FAIL"
    on_type: Action = "FAIL"
    on_groups: Action = "FAIL"
    overrides: bool = False  # the template says something about a thing that exists


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificatePlan:
    logical: str
    source: Source
    value: str
    ca_pem: str | None = None
    status: Status = "ACTIVE"
    on_status: Action = "REPLACE"


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyPlan:
    """document None: the policy of that name is there already."""

    logical: str
    name: str
    document: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    thing: ThingPlan | None
    certificate: CertificatePlan | None
    policies: tuple[PolicyPlan, ...]
    configuration: Mapping[str, JsonValue]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Resource:
    logical: str
    type: str
    properties: Mapping[str, Expression]
    override: Mapping[str, Action]


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A checked one. defaults: of declared parameters; None when a value must be given."""

    kind: Kind
    defaults: Mapping[str, str | None]
    mappings: Mappings
    resources: tuple[_Resource, ...]
    configuration: Mapping[str, Expression]

    @property
    def has_certificate(self) -> bool:
        return any(resource.type == _CERTIFICATE for resource in self.resources)


# parsing


def parse(text: str, kind: Kind) -> Template:
    """Raises BadTemplate, naming the place; Unsupported for what AWS has and Marram has not."""
    if len(text) > MAX_CHARACTERS:
        raise BadTemplate(f"template: {len(text)} characters; the limit is {MAX_CHARACTERS}", limit=MAX_CHARACTERS)
    try:
        body = codec.loads_object(text, what="template", max_depth=MAX_DEPTH)
    except Invalid as exc:
        raise BadTemplate(f"template: {exc.message}") from exc
    _only(body, "template", ("Parameters", "Resources", "Mappings", "DeviceConfiguration"))
    if "DeviceConfiguration" in body and kind is not Kind.FLEET:
        raise BadTemplate("DeviceConfiguration: only templates for fleet provisioning have one: nobody would get it")
    defaults = _parameters(_object(body.get("Parameters", {}), "Parameters"), kind)
    mappings = _mappings(_object(body.get("Mappings", {}), "Mappings"))
    rows = _object(body.get("Resources"), "Resources")
    if not rows:
        raise BadTemplate("Resources: declares nothing")
    if len(rows) > MAX_RESOURCES:
        raise BadTemplate(f"Resources: {len(rows)} of them; the limit is {MAX_RESOURCES}")
    names = {*defaults, *kind.given, *rows}
    for logical in rows:
        if logical in defaults or logical in kind.given:
            raise BadTemplate(f"Resources.{logical}: a parameter has the same name")
    resources = tuple(_resource(logical, row, names, mappings) for logical, row in rows.items())
    _check_set(resources, kind)
    configuration = {
        key: template_value.read(value, f"DeviceConfiguration.{key}", names, mappings)
        for key, value in _object(body.get("DeviceConfiguration", {}), "DeviceConfiguration").items()
    }
    _check_circles(resources)
    return Template(kind=kind, defaults=defaults, mappings=mappings, resources=resources, configuration=configuration)


def _parameters(rows: JsonObject, kind: Kind) -> dict[str, str | None]:
    if len(rows) > MAX_PARAMETERS:
        raise BadTemplate(f"Parameters: {len(rows)} of them; the limit is {MAX_PARAMETERS}")
    found: dict[str, str | None] = {}
    for name, row in rows.items():
        place = f"Parameters.{name[:100]}"
        if not name or len(name) > MAX_NAME:
            raise BadTemplate(f"{place}: a name has 1 to {MAX_NAME} characters")
        declared = _object(row, place)
        _only(declared, place, ("Type", "Default"))
        if declared.get("Type") != "String":
            raise BadTemplate(f'{place}.Type: must be "String"')
        default = declared.get("Default")
        if default is not None and not isinstance(default, str):
            raise BadTemplate(f"{place}.Default: must be a string")
        if name in kind.given:
            if default is not None:
                raise BadTemplate(f"{place}.Default: its value is always given")
            if name in PLACE:
                continue
        elif name.startswith("AWS::") and kind is not Kind.REGISTRATION:
            raise BadTemplate(
                f"{place}: there is no such parameter for {kind.value}; there are {', '.join(kind.given)}"
            )
        found[name] = default
    return found


def _mappings(rows: JsonObject) -> dict[str, dict[str, dict[str, JsonValue]]]:
    found: dict[str, dict[str, dict[str, JsonValue]]] = {}
    for name, row in rows.items():
        found[name] = {}
        for key, values in _object(row, f"Mappings.{name}").items():
            place = f"Mappings.{name}.{key}"
            found[name][key] = inner = _object(values, place)
            for second, value in inner.items():
                listed = value if isinstance(value, list) else [value]
                if not all(isinstance(item, str) for item in listed):
                    raise BadTemplate(f"{place}.{second}: must be a string or a list of strings; no functions here")
    return found


_THING: Final = "AWS::IoT::Thing"
_CERTIFICATE: Final = "AWS::IoT::Certificate"
_POLICY: Final = "AWS::IoT::Policy"
_PROPERTIES: Final[Mapping[str, tuple[str, ...]]] = {
    _THING: ("ThingName", "AttributePayload", "ThingTypeName", "ThingGroups"),
    _CERTIFICATE: ("CertificateId", "CertificateSigningRequest", "CertificatePem", "CACertificatePem", "Status"),
    _POLICY: ("PolicyName", "PolicyDocument"),
}
_ABSENT: Final = ("BillingGroup", "PackageVersions")  # AWS has them
_ACTIONS: Final[Mapping[str, Mapping[str, tuple[Action, ...]]]] = {
    _THING: {
        "AttributePayload": ("DO_NOTHING", "REPLACE", "FAIL", "MERGE"),
        "ThingTypeName": ("DO_NOTHING", "REPLACE", "FAIL"),
        "ThingGroups": ("DO_NOTHING", "REPLACE", "FAIL", "MERGE"),
    },
    _CERTIFICATE: {"Status": ("DO_NOTHING", "REPLACE", "FAIL")},
    _POLICY: {},
}
_SPELLINGS: Final = {"CertificateID": "CertificateId"}  # the guide has both


def _resource(logical: str, row: JsonValue, names: set[str], mappings: Mappings) -> _Resource:
    place = f"Resources.{logical[:100]}"
    body = _object(row, place)
    _only(body, place, ("Type", "Properties", "OverrideSettings"))
    kind = body.get("Type")
    if not isinstance(kind, str) or kind not in _PROPERTIES:
        raise BadTemplate(f"{place}.Type: must be {_THING}, {_CERTIFICATE} or {_POLICY}")
    properties = {
        _SPELLINGS.get(key, key): value
        for key, value in _object(body.get("Properties", {}), f"{place}.Properties").items()
    }
    for absent in _ABSENT:
        if kind == _THING and absent in properties:
            raise Unsupported(f"{place}.Properties.{absent}: not supported")
    _only(properties, f"{place}.Properties", _PROPERTIES[kind])
    override: dict[str, Action] = {}
    for key, value in _object(body.get("OverrideSettings", {}), f"{place}.OverrideSettings").items():
        allowed = _ACTIONS[kind].get(key)
        if allowed is None:
            known = ", ".join(_ACTIONS[kind]) or "none"
            raise BadTemplate(f"{place}.OverrideSettings.{key}: {kind} has {known}")
        chosen: Action | None = next((action for action in allowed if action == value), None)
        if chosen is None:
            raise BadTemplate(f"{place}.OverrideSettings.{key}: must be one of {', '.join(allowed)}")
        override[key] = chosen
    read = {
        key: template_value.read(value, f"{place}.Properties.{key}", names, mappings)
        for key, value in properties.items()
    }
    return _Resource(logical=logical, type=kind, properties=read, override=override)


def _check_set(resources: tuple[_Resource, ...], kind: Kind) -> None:
    by_type = {name: [row for row in resources if row.type == name] for name in _PROPERTIES}
    for name in (_THING, _CERTIFICATE):
        if len(by_type[name]) > 1:
            raise BadTemplate(f"Resources.{by_type[name][1].logical}: a template declares one {name}")
    for thing in by_type[_THING]:
        if "ThingName" not in thing.properties:
            raise BadTemplate(f"Resources.{thing.logical}.Properties: ThingName is missing")
    certificates = by_type[_CERTIFICATE]
    if not certificates and (by_type[_POLICY] or kind is not Kind.REGISTRATION):
        raise BadTemplate(f"Resources: declares no {_CERTIFICATE}")
    for certificate in certificates:
        place, properties = f"Resources.{certificate.logical}.Properties", certificate.properties
        ways = [key for key in ("CertificateId", "CertificateSigningRequest", "CertificatePem") if key in properties]
        if len(ways) != 1:
            raise BadTemplate(f"{place}: exactly one of CertificateId, CertificateSigningRequest and CertificatePem")
        if "CACertificatePem" in properties and ways != ["CertificatePem"]:
            raise BadTemplate(f"{place}.CACertificatePem: goes with CertificatePem only")
        own = template_value.Reference(CERTIFICATE_ID)
        if kind is not Kind.REGISTRATION and properties.get("CertificateId") != own:
            raise BadTemplate(
                f'{place}: a template for {kind.value} has "CertificateId": {{"Ref": "{CERTIFICATE_ID}"}}'
            )
    for policy in by_type[_POLICY]:
        if len(policy.properties) != 1:
            raise BadTemplate(
                f"Resources.{policy.logical}.Properties: either PolicyName, of a policy that exists, or PolicyDocument"
            )


def _check_circles(resources: tuple[_Resource, ...]) -> None:
    """The property that a logical name stands for must not need, over others, the name itself."""
    needs = {row.logical: template_value.names_in(_named_by(row)) for row in resources}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            raise BadTemplate(f"Resources: references in a circle: {' -> '.join((*path[path.index(name) :], name))}")
        if name not in needs or name in done:
            return
        for other in sorted(needs[name]):
            visit(other, (*path, name))
        done.add(name)

    for row in resources:
        visit(row.logical, ())


def _named_by(resource: _Resource) -> Expression:
    """The property that the logical name stands for; a policy without a name has that of its document."""
    properties = resource.properties
    match resource.type:
        case "AWS::IoT::Thing":
            return properties["ThingName"]
        case "AWS::IoT::Certificate":
            return properties.get("CertificateId")
        case _:
            return properties.get("PolicyName", properties.get("PolicyDocument"))


# evaluation


def evaluate(
    template: Template, parameters: Mapping[str, str], given: Mapping[str, str], *, certificate_id: str | None = None
) -> Plan:
    """What the template makes with these parameters. `given`: values of the names that `template.kind.given` lists.

    certificate_id: of a certificate that the template names by PEM or request, for Ref to its logical name.
    Raises BadParameters.
    """
    values = _values(template, parameters, given)
    by_logical = {row.logical: row for row in template.resources}

    def named(name: str) -> str:
        row = by_logical.get(name)
        if row is None:
            raise BadParameters(f"parameter {name[:100]} has no value: the certificate does not have that field")
        if row.type == _CERTIFICATE and "CertificateId" not in row.properties:
            if certificate_id is None:
                raise BadParameters(f"Resources.{name}: the certificate has no id before it is made")
            return certificate_id
        if row.type == _POLICY:
            return _policy(row, scope).name
        return scope.text(_named_by(row), f"Resources.{name}")

    scope = Scope(values, template.mappings, named)
    guarded: set[str] = set()
    if template.kind is not Kind.REGISTRATION:  # there an operator gives them, who may write any policy
        told = {**parameters, **{name: value for name, value in given.items() if name not in PLACE}}
        guarded = {name for name, value in told.items() if _LOOSE.search(value)}
    try:
        return _plan(template, scope, scope.without(guarded, _refuse_loose))
    except LimitExceeded as exc:
        raise BadParameters(exc.message) from exc


def _refuse_loose(name: str) -> None:
    raise BadParameters(
        f"parameter {name[:100]} goes into a policy, and its value has a character that could make the policy wider"
    )


def _values(template: Template, parameters: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    values = {name: value for name, value in given.items() if name in template.kind.given}
    for name, value in parameters.items():
        if name in template.kind.given:
            raise BadParameters(f"parameter {name[:100]} cannot be given")
        if name not in template.defaults:
            raise BadParameters(f"parameter {name[:100]!r} is not declared by the template")
        if len(value) > MAX_VALUE:
            raise BadParameters(f"parameter {name[:100]}: over {MAX_VALUE} characters", limit=MAX_VALUE)
        values[name] = value
    for name, default in template.defaults.items():
        if name in values:
            continue
        if default is None:
            raise BadParameters(f"parameter {name[:100]} is missing")
        values[name] = default
    return values


def _plan(template: Template, scope: Scope, strict: Scope) -> Plan:
    """`strict`: the scope for what goes into policies."""
    thing: ThingPlan | None = None
    certificate: CertificatePlan | None = None
    policies: list[PolicyPlan] = []
    for row in template.resources:
        match row.type:
            case "AWS::IoT::Thing":
                thing = _thing(row, scope)
            case "AWS::IoT::Certificate":
                certificate = _certificate(row, scope)
            case _:
                policies.append(_policy(row, strict))
    configuration = {
        key: scope.value(value, f"DeviceConfiguration.{key}") for key, value in template.configuration.items()
    }
    return Plan(thing=thing, certificate=certificate, policies=tuple(policies), configuration=configuration)


def _thing(row: _Resource, scope: Scope) -> ThingPlan:
    place = f"Resources.{row.logical}.Properties"
    properties, override = row.properties, row.override
    attributes: dict[str, str] | None = None
    if "AttributePayload" in properties:
        attributes = {}
        payload = scope.value(properties["AttributePayload"], f"{place}.AttributePayload")
        if not isinstance(payload, dict):
            raise BadParameters(f"{place}.AttributePayload: must be an object")
        for key, value in payload.items():
            if not isinstance(value, str):
                raise BadParameters(f"{place}.AttributePayload.{key}: must be a string")
            attributes[key] = value
    groups: tuple[str, ...] | None = None
    if "ThingGroups" in properties:
        groups = tuple(dict.fromkeys(scope.texts(properties["ThingGroups"], f"{place}.ThingGroups")))
    return ThingPlan(
        logical=row.logical,
        name=scope.text(properties["ThingName"], f"{place}.ThingName"),
        attributes=attributes,
        type_name=_maybe(properties, "ThingTypeName", scope, place),
        groups=groups,
        on_attributes=override.get("AttributePayload", "FAIL"),
        on_type=override.get("ThingTypeName", "FAIL"),
        on_groups=override.get("ThingGroups", "FAIL"),
        overrides=bool(override),
    )


def _certificate(row: _Resource, scope: Scope) -> CertificatePlan:
    place, properties = f"Resources.{row.logical}.Properties", row.properties
    status = (_maybe(properties, "Status", scope, place) or "ACTIVE").upper()
    if status not in ("ACTIVE", "INACTIVE"):
        raise BadParameters(f"{place}.Status: must be ACTIVE or INACTIVE, not {status[:50]!r}")
    chosen: tuple[Source, str] = next(pair for pair in _SOURCES if pair[1] in properties)
    source, key = chosen
    return CertificatePlan(
        logical=row.logical,
        source=source,
        value=scope.text(properties[key], f"{place}.{key}"),
        ca_pem=_maybe(properties, "CACertificatePem", scope, place),
        status="ACTIVE" if status == "ACTIVE" else "INACTIVE",
        on_status=row.override.get("Status", "REPLACE"),
    )


_SOURCES: Final[tuple[tuple[Source, str], ...]] = (
    ("id", "CertificateId"),
    ("csr", "CertificateSigningRequest"),
    ("pem", "CertificatePem"),
)


def _policy(row: _Resource, scope: Scope) -> PolicyPlan:
    place, properties = f"Resources.{row.logical}.Properties", row.properties
    name = _maybe(properties, "PolicyName", scope, place)
    if name is not None:
        return PolicyPlan(logical=row.logical, name=name)
    document = scope.value(properties["PolicyDocument"], f"{place}.PolicyDocument")
    if isinstance(document, dict):
        document = codec.dumps(document).decode()
    if not isinstance(document, str):
        raise BadParameters(f"{place}.PolicyDocument: must be an object, or its text")
    return PolicyPlan(logical=row.logical, name=hashlib.sha256(document.encode()).hexdigest(), document=document)


def _maybe(properties: Mapping[str, Expression], key: str, scope: Scope, place: str) -> str | None:
    return scope.text(properties[key], f"{place}.{key}") if key in properties else None


def _object(value: JsonValue, place: str) -> JsonObject:
    if not isinstance(value, dict):
        raise BadTemplate(f"{place}: must be an object, not {codec.kind(value)}")
    return value


def _only(body: Mapping[str, object], place: str, known: tuple[str, ...]) -> None:
    unknown = [key for key in body if key not in known]
    if unknown:
        raise BadTemplate(f"{place}: unknown key {unknown[0][:100]!r}; there are {', '.join(known)}")
