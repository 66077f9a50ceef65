"""Policy variables and patterns: `${iot:ClientId}`, `*`, `?`. Pure.

A pattern is split once, when the document is written; values go in afterwards as opaque text and are never looked at
for wildcards or variables again. What a variable may be called is a closed list: an unknown one is refused when the
document is written, because a policy that silently means something else is worse than none.
Sources: AWS IoT Core developer guide, "Basic policy variables", "Thing policy variables", "X.509 certificate policy
variables"; IAM user guide, "Policy variables". `+` and `#` have no meaning in a policy.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

from marram.core.errors import Invalid

Values: TypeAlias = Mapping[str, "str | tuple[str, ...]"]

# Known from the connection or the credentials alone; the same for every request of one subject.
SUBJECT_KEYS: Final = (
    "iot:ClientId",
    "iot:CertificateId",
    "iot:Connection.Thing.ThingName",
    "iot:Connection.Thing.ThingTypeName",
    "iot:Connection.Thing.IsAttached",
    "iot:Certificate.SerialNumber",
    "iot:Certificate.AvailableKeys",
    "aws:PrincipalArn",
    "aws:PrincipalAccount",
    "aws:PrincipalType",
    "aws:userid",
    "aws:username",
    "aws:TokenIssueTime",
    "aws:MultiFactorAuthPresent",
    "credentials-iot:ThingName",
    "credentials-iot:ThingTypeName",
    "credentials-iot:AwsCertificateId",
)
# Given by the border with each request.
REQUEST_KEYS: Final = (
    "aws:SourceIp",
    "aws:SecureTransport",
    "aws:CurrentTime",
    "aws:EpochTime",
    "aws:RequestedRegion",
    "iot:DomainName",
    "iot:ConnectAttributes",
    "iot:LastWillTopic",
    "aws:SourceAccount",
    "aws:SourceArn",
    "iam:PassedToService",
    "sts:ExternalId",
    "sts:RoleSessionName",
)
# Spellings that AWS's own examples use beside the documented one.
ALIASES: Final = {"iot:Thing.ThingName": "iot:Connection.Thing.ThingName"}
NAME_FIELDS: Final = (
    "DistinguishedNameQualifier", "Country", "Organization", "OrganizationalUnit", "State", "CommonName", "SerialNumber",
    "Title", "Surname", "GivenName", "Initials", "Pseudonym", "GenerationQualifier",
)  # fmt: skip
ALTERNATIVE_FIELDS: Final = ("RFC822Name", "DNSName", "DirectoryName", "UniformResourceIdentifier", "IPAddress")
ATTRIBUTE: Final = "iot:Connection.Thing.Attributes["
CERTIFICATE_LISTS: Final = (
    *(f"iot:Certificate.{side}.{field}" for side in ("Subject", "Issuer") for field in NAME_FIELDS),
    *(
        f"iot:Certificate.{side}.AlternativeName.{field}"
        for side in ("Subject", "Issuer")
        for field in ALTERNATIVE_FIELDS
    ),
)
_PLAIN: Final = {key.lower(): key for key in (*SUBJECT_KEYS, *REQUEST_KEYS, *CERTIFICATE_LISTS)} | {
    key.lower(): known for key, known in ALIASES.items()
}
_LISTED: Final = {key.lower(): key for key in CERTIFICATE_LISTS}
_INDEXED: Final = re.compile(r"(.+)\.(\d{1,2})")
# A value with one of these never lets anything through: it could read as more than one level, or as a pattern elsewhere.
UNSAFE: Final = frozenset("*?#+/${}")

ESCAPED: Final = frozenset("*?$")


class Wild(Enum):
    ANY = "*"
    ONE = "?"


ANY: Final = Wild.ANY
ONE: Final = Wild.ONE


@dataclass(frozen=True, slots=True)
class Variable:
    key: str


Part: TypeAlias = "str | Variable | Wild"


@dataclass(frozen=True, slots=True)
class Pattern:
    """One string of a document, split into literal text, ANY, ONE and variables."""

    text: str
    parts: tuple[Part, ...]

    @property
    def constant(self) -> bool:
        return not any(isinstance(part, Variable) for part in self.parts)

    @property
    def keys(self) -> frozenset[str]:
        return frozenset(part.key for part in self.parts if isinstance(part, Variable))


def canonical(key: str) -> str:
    """The one spelling of a context key or variable. Raises Invalid when Marram does not know it."""
    lowered = key.lower()
    if (known := _PLAIN.get(lowered)) is not None:
        return known
    if lowered.startswith(ATTRIBUTE.lower()) and key.endswith("]") and len(key) > len(ATTRIBUTE) + 1:
        return ATTRIBUTE + key[len(ATTRIBUTE) :]
    # `.List` is all values of a certificate field, `.0` to `.99` one of them, the bare name the first.
    if lowered.endswith(".list") and (known := _LISTED.get(lowered[: -len(".list")])) is not None:
        return f"{known}.List"
    if (match := _INDEXED.fullmatch(lowered)) and (known := _LISTED.get(match[1])) is not None:
        return f"{known}.{int(match[2])}"
    raise Invalid(f"unknown condition key or policy variable {key!r}", key=key)


def is_list(key: str) -> bool:
    """Whether a condition key (in its one spelling) may have several values at once."""
    return key in ("iot:ConnectAttributes", "iot:Certificate.AvailableKeys") or key.endswith(".List")


def context(given: Mapping[str, Sequence[str]]) -> Values:
    """Values that somebody supposes, by condition key in any spelling. Raises Invalid for an unknown key or too many values."""
    values: dict[str, str | tuple[str, ...]] = {}
    for key, listed in given.items():
        known = canonical(key)
        if is_list(known):
            values[known] = tuple(listed)
        elif len(listed) == 1:
            values[known] = listed[0]
        else:
            raise Invalid(f"condition key {key!r} has one value, not {len(listed)}", key=key)
    return values


def parse(text: str, *, wild: bool, substitute: bool) -> Pattern:
    """Split `text`. `wild`: `*` and `?` are wildcards. `substitute`: `${...}` is a variable, `${*}` `${?}` `${$}` the character.

    Raises Invalid for an unknown or unclosed variable, and for `${` where the document's version has no variables.
    """
    parts: list[Part] = []
    literal: list[str] = []

    def flush() -> None:
        if literal:
            parts.append("".join(literal))
            literal.clear()

    at = 0
    while at < len(text):
        char = text[at]
        if char == "$" and text.startswith("${", at):
            if not substitute:
                raise Invalid(f'{text!r} has a policy variable, which needs "Version": "2012-10-17"')
            end = text.find("}", at)
            if end < 0:
                raise Invalid(f"{text!r}: the variable that begins at character {at} is not closed")
            name = text[at + 2 : end]
            if name in ESCAPED:
                literal.append(name)
            else:
                flush()
                parts.append(Variable(canonical(name.strip())))
            at = end + 1
            continue
        if wild and char in "*?":
            flush()
            if char == "?" or not (parts and parts[-1] is ANY):  # `**` is `*`
                parts.append(ONE if char == "?" else ANY)
        else:
            literal.append(char)
        at += 1
    flush()
    return Pattern(text, tuple(parts))


def is_safe(value: str) -> bool:
    return bool(value) and UNSAFE.isdisjoint(value)


def resolve(pattern: Pattern, values: Values, *, trusting: bool) -> tuple[Part, ...] | None:
    """The parts with every variable replaced by its literal text, or None when one is missing, unsafe or not single.

    trusting: take unsafe text literally. Right only where a match can refuse and never grant.
    """
    parts: list[Part] = []
    for part in pattern.parts:
        if not isinstance(part, Variable):
            parts.append(part)
            continue
        value = values.get(part.key)
        if not isinstance(value, str) or not (trusting or is_safe(value)):
            return None
        parts.append(value)
    return tuple(parts)
