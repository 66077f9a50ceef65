"""What client devices may do: `deviceGroups` of the configuration of aws.greengrass.clientdevices.Auth. Pure; deny by default.

    deviceGroups:
      formatVersion: "2021-03-05"
      definitions: {sensors: {selectionRule: "thingName: sensor-* OR thingName: gauge", policyName: publish}}
      policies:
        publish:
          connect: {operations: ["mqtt:connect"], resources: ["mqtt:clientId:*"]}
          own: {operations: ["mqtt:publish"], resources: ["mqtt:topic:plant/${iot:Connection.Thing.ThingName}/*"]}

Effect is ALLOW when left out; a DENY that matches wins. `*` in a resource is any text. Source: AWS IoT Greengrass V2 Developer
Guide, "Client device auth".
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from marram.core.codec import JsonValue
from marram.core.errors import Invalid

FORMAT: Final = "2021-03-05"
CONNECT: Final = "mqtt:connect"
PUBLISH: Final = "mqtt:publish"
SUBSCRIBE: Final = "mqtt:subscribe"
OPERATIONS: Final = frozenset({CONNECT, PUBLISH, SUBSCRIBE, "*", "mqtt:*"})
KINDS: Final[Mapping[str, str]] = {CONNECT: "mqtt:clientId:", PUBLISH: "mqtt:topic:", SUBSCRIBE: "mqtt:topicfilter:"}
VARIABLES: Final = re.compile(r"\$\{([^}]*)\}")
THING_VARIABLE: Final = "iot:Connection.Thing.ThingName"
_TERM: Final = re.compile(r"\s*(\(|\)|AND\b|OR\b|NOT\b|thingName\s*:\s*[A-Za-z0-9:_*-]+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    allow: bool
    operations: frozenset[str]
    resources: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    name: str
    rule: "Rule"
    statements: tuple[Statement, ...]


class Rule:
    """A selection rule: thingName terms with AND, OR, NOT and brackets; `*` as the last character of a name."""

    def __init__(self, text: str) -> None:
        self._tokens: list[str] = []
        at = 0
        while text[at:].strip():
            found = _TERM.match(text, at)
            if found is None:
                raise Invalid(
                    f"selectionRule {text!r}: expected thingName, AND, OR, NOT or a bracket at {text[at:][:20]!r}"
                )
            self._tokens.append(found[1])
            at = found.end()
        self._text = text
        self.covers("")  # refuses what does not parse

    def covers(self, thing: str) -> bool:
        value, rest = self._any(self._tokens, thing)
        if rest:
            raise Invalid(f"selectionRule {self._text!r}: {rest[0]!r} is out of place")
        return value

    def _any(self, tokens: list[str], thing: str) -> tuple[bool, list[str]]:
        value, tokens = self._all(tokens, thing)
        while tokens and tokens[0].upper() == "OR":
            other, tokens = self._all(tokens[1:], thing)
            value = value or other
        return value, tokens

    def _all(self, tokens: list[str], thing: str) -> tuple[bool, list[str]]:
        value, tokens = self._one(tokens, thing)
        while tokens and tokens[0].upper() == "AND":
            other, tokens = self._one(tokens[1:], thing)
            value = value and other
        return value, tokens

    def _one(self, tokens: list[str], thing: str) -> tuple[bool, list[str]]:
        if not tokens:
            raise Invalid(f"selectionRule {self._text!r} ends too early")
        first, rest = tokens[0], tokens[1:]
        if first.upper() == "NOT":
            value, rest = self._one(rest, thing)
            return not value, rest
        if first == "(":
            value, rest = self._any(rest, thing)
            if not rest or rest[0] != ")":
                raise Invalid(f"selectionRule {self._text!r}: a bracket is not closed")
            return value, rest[1:]
        if not first.lower().startswith("thingname"):
            raise Invalid(f"selectionRule {self._text!r}: {first!r} is out of place")
        name = first.partition(":")[2].strip()
        if "*" in name[:-1]:
            raise Invalid(f"selectionRule {self._text!r}: * stands at the end of a name")
        return (thing.startswith(name[:-1]) if name.endswith("*") else thing == name), rest


class Policy:
    """Compiled device groups. `may` is what the broker asks; answers are remembered by the connection."""

    def __init__(self, document: JsonValue = None) -> None:
        """Raises Invalid naming the place. None is no group at all: nobody may anything."""
        self._groups = _groups(document)

    def groups_of(self, thing: str) -> list[str]:
        return [group.name for group in self._groups if group.rule.covers(thing)]

    def may(self, thing: str, operation: str, target: str) -> bool:
        """`target` is a client id, a topic or a topic filter, by the operation."""
        allowed = False
        for group in self._groups:
            if not group.rule.covers(thing):
                continue
            for statement in group.statements:
                if not statement.operations & {operation, "*", "mqtt:*"}:
                    continue
                if any(_covers(resource, operation, target, thing) for resource in statement.resources):
                    if not statement.allow:
                        return False
                    allowed = True
        return allowed


def _covers(resource: str, operation: str, target: str, thing: str) -> bool:
    if resource == "*":
        return True
    prefix = KINDS[operation]
    if not resource.startswith(prefix):
        return False
    text = resource[len(prefix) :].replace("${" + THING_VARIABLE + "}", thing)
    return re.fullmatch(".*".join(map(re.escape, text.split("*"))), target, re.DOTALL) is not None


def _groups(document: JsonValue) -> tuple[Group, ...]:
    if document is None:
        return ()
    top = _object(document, "deviceGroups")
    if (version := top.get("formatVersion")) not in (None, FORMAT):
        raise Invalid(f"deviceGroups.formatVersion: {version!r}; {FORMAT} is known")
    policies = {
        name: _statements(value, f"deviceGroups.policies.{name}")
        for name, value in _object(top.get("policies") or {}, "deviceGroups.policies").items()
    }
    groups: list[Group] = []
    for name, value in _object(top.get("definitions") or {}, "deviceGroups.definitions").items():
        place = f"deviceGroups.definitions.{name}"
        definition = _object(value, place)
        policy, rule = definition.get("policyName"), definition.get("selectionRule")
        if not isinstance(rule, str):
            raise Invalid(f"{place}.selectionRule: must be text")
        if not isinstance(policy, str) or policy not in policies:
            raise Invalid(f"{place}.policyName: there is no policy {policy!r}")
        groups.append(Group(name=name, rule=Rule(rule), statements=policies[policy]))
    return tuple(groups)


def _statements(value: JsonValue, place: str) -> tuple[Statement, ...]:
    made: list[Statement] = []
    for name, each in _object(value, place).items():
        entry = _object(each, f"{place}.{name}")
        effect = str(entry.get("effect", "ALLOW")).upper()
        if effect not in ("ALLOW", "DENY"):
            raise Invalid(f"{place}.{name}.effect: {effect!r}; ALLOW and DENY are known")
        operations = _texts(entry.get("operations"), f"{place}.{name}.operations")
        for operation in operations:
            if operation not in OPERATIONS:
                raise Invalid(f"{place}.{name}.operations: {operation!r}; known are {', '.join(sorted(OPERATIONS))}")
        resources = _texts(entry.get("resources"), f"{place}.{name}.resources")
        for resource in resources:
            if resource != "*" and not resource.startswith(tuple(KINDS.values())):
                raise Invalid(f"{place}.{name}.resources: {resource!r} begins with none of {', '.join(KINDS.values())}")
            for variable in VARIABLES.findall(resource):
                if variable != THING_VARIABLE:
                    raise Invalid(f"{place}.{name}.resources: ${{{variable}}} is not known; ${{{THING_VARIABLE}}} is")
        made.append(Statement(allow=effect == "ALLOW", operations=frozenset(operations), resources=tuple(resources)))
    return tuple(made)


def _object(value: JsonValue, place: str) -> Mapping[str, JsonValue]:
    if not isinstance(value, dict):
        raise Invalid(f"{place}: must be an object")
    return value


def _texts(value: JsonValue, place: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise Invalid(f"{place}: must be a list of texts")
    return [str(each) for each in value]
