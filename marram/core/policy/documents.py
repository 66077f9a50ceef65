"""Policy documents of AWS IoT and IAM: JSON text to checked statements. Pure.

One grammar for both: identity policies without `Principal`. Everything that cannot be evaluated is refused here, with
the place (`Statement[1].Condition.StringLike`), so that a stored document means what it says.
Sources: IAM user guide, "Grammar of the IAM JSON policy language"; AWS IoT Core developer guide, "AWS IoT Core policies".
Not here: tags (`aws:ResourceTag` and the like), permission boundaries, resource policies.
"""

import binascii
import ipaddress
import re
from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Final

from marram.core import codec
from marram.core.codec import JsonObject, JsonValue
from marram.core.errors import Invalid
from marram.core.policy import variables
from marram.core.policy.variables import Pattern

CURRENT: Final = "2012-10-17"
OLDER: Final = "2008-10-17"  # also what a document without Version is: no variables
IOT_LIMIT: Final = 2048  # characters, white space not counted
IAM_LIMIT: Final = 6144
ACTION: Final = re.compile(r"\*|[A-Za-z0-9*?-]+:[A-Za-z0-9*?/]+")
SPACE: Final = re.compile(r"\s+")
NUMBER: Final = re.compile(r"-?\d{1,15}(\.\d+)?", re.ASCII)
SECONDS: Final = re.compile(r"\d{1,12}", re.ASCII)


class MalformedPolicy(Invalid):
    """The document cannot be a policy; the message says where."""

    def __init__(self, message: str, **data: object) -> None:
        super().__init__(message, kind="policy", **data)


class Effect(Enum):
    ALLOW = "Allow"
    DENY = "Deny"


class Quantifier(Enum):
    ALL = "ForAllValues"
    ANY = "ForAnyValue"


@dataclass(frozen=True, slots=True)
class Operator:
    """`family` says how two values compare, `test` which comparison; `negated` operators are true when the key is missing."""

    family: str
    test: str
    negated: bool = False


def _operators() -> dict[str, Operator]:
    table = {
        "StringEquals": Operator("string", "equals"),
        "StringNotEquals": Operator("string", "equals", negated=True),
        "StringEqualsIgnoreCase": Operator("caseless", "equals"),
        "StringNotEqualsIgnoreCase": Operator("caseless", "equals", negated=True),
        "StringLike": Operator("string", "like"),
        "StringNotLike": Operator("string", "like", negated=True),
        "ArnEquals": Operator("arn", "like"),
        "ArnLike": Operator("arn", "like"),
        "ArnNotEquals": Operator("arn", "like", negated=True),
        "ArnNotLike": Operator("arn", "like", negated=True),
        "Bool": Operator("bool", "equals"),
        "BinaryEquals": Operator("binary", "equals"),
        "IpAddress": Operator("ip", "within"),
        "NotIpAddress": Operator("ip", "within", negated=True),
        "Null": Operator("null", "equals"),
    }
    for name, family in (("Numeric", "number"), ("Date", "date")):
        table[f"{name}Equals"] = Operator(family, "equals")
        table[f"{name}NotEquals"] = Operator(family, "equals", negated=True)
        for spelling, test in (
            ("LessThan", "lt"),
            ("LessThanEquals", "le"),
            ("GreaterThan", "gt"),
            ("GreaterThanEquals", "ge"),
        ):
            table[f"{name}{spelling}"] = Operator(family, test)
    return table


OPERATORS: Final[Mapping[str, Operator]] = _operators()


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    name: str
    operator: Operator
    quantifier: Quantifier | None
    if_exists: bool
    key: str
    values: tuple[Pattern, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """`actions` and `resources` list what is meant, or with `not_...` what is not."""

    index: int
    sid: str
    effect: Effect
    actions: tuple[str, ...]
    not_action: bool
    resources: tuple[Pattern, ...]
    not_resource: bool
    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    text: str
    version: str
    statements: tuple[Statement, ...]


def parse(text: str, *, limit: int = IOT_LIMIT) -> Document:
    """Read one document. limit: characters without white space. Raises MalformedPolicy, naming the place."""
    if len(SPACE.sub("", text)) > limit:
        raise MalformedPolicy(f"policy document is over {limit} characters (white space not counted)", limit=limit)
    try:
        document = codec.loads_object(text, what="policy document", max_depth=10)
    except Invalid as exc:
        raise MalformedPolicy(f"policy document: {exc.message}") from exc
    _only(document, "policy document", {"Version", "Id", "Statement"})
    version = document.get("Version", OLDER)
    if version not in (CURRENT, OLDER):
        raise MalformedPolicy(f'Version: must be "{CURRENT}", not {version!r}')
    if not isinstance(document.get("Id", ""), str):
        raise MalformedPolicy("Id: must be a string")
    listed = document.get("Statement")
    rows = [listed] if isinstance(listed, dict) else listed
    if not isinstance(rows, list) or not rows:
        raise MalformedPolicy("Statement: must be an object or a list of at least one")
    statements = tuple(_statement(index, row, substitute=version == CURRENT) for index, row in enumerate(rows))
    sids = [statement.sid for statement in statements if statement.sid]
    if len(set(sids)) != len(sids):
        raise MalformedPolicy(f"Statement: Sid {next(sid for sid in sids if sids.count(sid) > 1)!r} is used twice")
    return Document(text=text, version=str(version), statements=statements)


def _statement(index: int, row: JsonValue, *, substitute: bool) -> Statement:
    where = f"Statement[{index}]"
    if not isinstance(row, dict):
        raise MalformedPolicy(f"{where}: must be an object, not {codec.kind(row)}")
    if refused := {"Principal", "NotPrincipal"} & row.keys():
        raise MalformedPolicy(f"{where}.{min(refused)}: not allowed, a policy is attached to its principal")
    _only(row, where, {"Sid", "Effect", "Action", "NotAction", "Resource", "NotResource", "Condition"})
    sid = row.get("Sid", "")
    if not isinstance(sid, str) or not re.fullmatch(r"[A-Za-z0-9_ .-]*", sid):
        raise MalformedPolicy(f"{where}.Sid: must be letters and digits")
    effect = row.get("Effect")
    if effect not in ("Allow", "Deny"):
        raise MalformedPolicy(f'{where}.Effect: must be "Allow" or "Deny", not {effect!r}')
    actions_at, actions = _either(row, where, "Action")
    for action in actions:
        if not ACTION.fullmatch(action):
            raise MalformedPolicy(f'{where}.{actions_at}: {action!r} is not "*" or "service:Action"')
    resources_at, resources = _either(row, where, "Resource")
    patterns = tuple(_pattern(text, f"{where}.{resources_at}", wild=True, substitute=substitute) for text in resources)
    for pattern in patterns:
        if pattern.text != "*" and not pattern.text.startswith("arn:"):
            raise MalformedPolicy(f'{where}.{resources_at}: {pattern.text!r} is not "*" or an ARN')
    return Statement(
        index=index,
        sid=sid,
        effect=Effect(effect),
        actions=actions,
        not_action=actions_at == "NotAction",
        resources=patterns,
        not_resource=resources_at == "NotResource",
        conditions=tuple(_conditions(row.get("Condition", {}), f"{where}.Condition", substitute=substitute)),
    )


def _either(row: JsonObject, where: str, name: str) -> tuple[str, tuple[str, ...]]:
    present = [member for member in (name, f"Not{name}") if member in row]
    if len(present) != 1:
        raise MalformedPolicy(f"{where}: needs {name} or Not{name}{', not both' if present else ''}")
    return present[0], _strings(row[present[0]], f"{where}.{present[0]}")


def _strings(value: JsonValue, where: str) -> tuple[str, ...]:
    listed = value if isinstance(value, list) else [value]
    strings = tuple(item for item in listed if isinstance(item, str))
    if not strings or len(strings) != len(listed) or "" in strings:
        raise MalformedPolicy(f"{where}: must be a string or a list of strings")
    return strings


def _pattern(text: str, where: str, *, wild: bool, substitute: bool) -> Pattern:
    try:
        return variables.parse(text, wild=wild, substitute=substitute)
    except Invalid as exc:
        raise MalformedPolicy(f"{where}: {exc.message}") from exc


def _conditions(value: JsonValue, where: str, *, substitute: bool) -> list[Condition]:
    if not isinstance(value, dict):
        raise MalformedPolicy(f"{where}: must be an object, not {codec.kind(value)}")
    found: list[Condition] = []
    for spelled, keys in value.items():
        at = f"{where}.{spelled}"
        prefix, colon, name = spelled.rpartition(":")
        if colon and prefix not in ("ForAllValues", "ForAnyValue"):
            raise MalformedPolicy(f"{at}: {prefix!r} is not ForAllValues or ForAnyValue")
        if_exists = name.endswith("IfExists")
        base = name.removesuffix("IfExists")
        operator = OPERATORS.get(base)
        if operator is None or (base == "Null" and (if_exists or colon)):
            raise MalformedPolicy(f"{at}: unknown condition operator {spelled!r}", operator=spelled)
        if not isinstance(keys, dict) or not keys:
            raise MalformedPolicy(f"{at}: must be an object of condition keys")
        for key, values in keys.items():
            try:
                known = variables.canonical(key)
            except Invalid as exc:
                raise MalformedPolicy(f"{at}: {exc.message}", key=key) from exc
            texts = _scalars(values, f"{at}.{key}", may_be_empty=bool(colon))
            patterns = tuple(
                _pattern(text, f"{at}.{key}", wild=operator.test == "like", substitute=substitute) for text in texts
            )
            check = _CHECKS.get(operator.family)
            for pattern in patterns:
                if check is not None and pattern.constant and check(literal(pattern)) is None:
                    raise MalformedPolicy(f"{at}.{key}: {pattern.text!r} is not a value that {base} can compare")
            found.append(
                Condition(
                    name=spelled,
                    operator=operator,
                    quantifier=Quantifier(prefix) if colon else None,
                    if_exists=if_exists,
                    key=known,
                    values=patterns,
                )
            )
    return found


def _scalars(value: JsonValue, where: str, *, may_be_empty: bool) -> list[str]:
    """Condition values: strings, or booleans and numbers written without quotes.

    may_be_empty: AWS's own example of a CONNECT without extras is `ForAllValues:StringEquals` of an empty list.
    """
    listed = value if isinstance(value, list) else [value]
    texts: list[str] = []
    for item in listed:
        match item:
            case bool():
                texts.append("true" if item else "false")
            case str() | int() | float():
                texts.append(str(item))
            case _:
                raise MalformedPolicy(
                    f"{where}: must be a string, a number, a boolean or a list of them, not {codec.kind(item)}"
                )
    if not texts and not may_be_empty:
        raise MalformedPolicy(f"{where}: needs at least one value")
    return texts


def _only(value: JsonObject, where: str, allowed: set[str]) -> None:
    if unknown := value.keys() - allowed:
        raise MalformedPolicy(f"{where}: unknown element {min(unknown)!r}; known are {', '.join(sorted(allowed))}")


def literal(pattern: Pattern) -> str:
    """The text of a pattern without wildcards and variables, escapes resolved."""
    return "".join(part if isinstance(part, str) else "*" for part in pattern.parts)


# Readers of single values, shared with the evaluator: None = not such a value.


def number(text: str) -> float | None:
    """An integer or a decimal, as JSON writes them: not all that Python takes for one (`1_000`, `nan`, ` 1`)."""
    return float(text) if NUMBER.fullmatch(text) and len(text) < 300 else None


def date(text: str) -> float | None:
    """Seconds since 1970: ISO 8601 (UTC when it names no zone), or the number of seconds itself."""
    if SECONDS.fullmatch(text):  # fromisoformat reads 20250101 as a day; here digits alone are seconds
        return float(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def boolean(text: str) -> bool | None:
    return {"true": True, "false": False}.get(text.lower())


def network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def binary(text: str) -> bytes | None:
    try:
        return b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None


_CHECKS: Final[Mapping[str, Callable[[str], object]]] = {
    "number": number,
    "date": date,
    "bool": boolean,
    "null": boolean,
    "ip": network,
    "binary": binary,
}
