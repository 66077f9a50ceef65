"""Policy evaluation: a set of documents compiled to one program, asked `may` for an action on a resource. Pure.

Explicit Deny wins, then Allow, else refused. What is not known never grants: an Allow whose negative test (`NotResource`,
`StringNotEquals`, ...) hangs on a missing or unsafe variable does not apply, a Deny of that kind does.
The program holds nothing of a subject: a thousand devices under one policy share it, and their variables are passed in.
Source: IAM user guide, "Policy evaluation logic", "Condition operators"; a plain reading of it is in tests/core/policy/test_evaluate.py.
"""

import ipaddress
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, TypeAlias

from marram.core.policy import documents, variables
from marram.core.policy.documents import Condition, Document, Effect, Quantifier, Statement
from marram.core.policy.variables import ANY, ONE, Part, Pattern, Values, Variable, Wild

NOTHING: Final[Values] = {}
CACHED_VERDICTS: Final = 4096  # a program; then it starts anew

Truth: TypeAlias = "bool | None"  # None: not decidable from what is known
Test: TypeAlias = Callable[[Values, Values], Truth]  # (subject's values, request's values)


@dataclass(frozen=True, slots=True, eq=False)
class CompiledPolicy:
    """A named document ready for use. Compared by identity: a new version is a new object."""

    name: str
    document: Document


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A statement that applied."""

    policy: str
    statement: int
    sid: str
    effect: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`decision`: allowed, explicit deny, implicit deny (nothing allows it)."""

    allowed: bool
    decision: str
    matches: tuple[Match, ...]
    missing: tuple[str, ...] = ()  # variables and condition keys of the action's statements that nobody has a value for


@dataclass(slots=True)
class _Rows:
    """What one effect has for one action. The first two decide most requests in two C calls."""

    exact: frozenset[str]
    prefixes: tuple[str, ...]
    shaped: tuple[Callable[[str], object], ...]  # regular expressions
    tests: tuple[Callable[[str, Values, Values], bool], ...]  # with variables or conditions


class Program:
    """Built by `program`. `keys` are all variables and condition keys that it asks for; `timed`: the time is among them."""

    __slots__ = ("_rows", "_verdicts", "keys", "policies", "timed")

    def __init__(self, policies: Sequence[CompiledPolicy]) -> None:
        self.policies = tuple(policies)
        self._rows: dict[str, tuple[_Rows, _Rows, bool]] = {}
        self._verdicts: dict[tuple[str, str], bool] = {}
        self.keys = frozenset(key for policy in policies for key in _keys(policy.document))
        self.timed = not self.keys.isdisjoint(("aws:CurrentTime", "aws:EpochTime"))

    def may(self, action: str, resource: str, subject: Values = NOTHING, request: Values = NOTHING) -> bool:
        key = (action, resource)
        verdict = self._verdicts.get(key)
        if verdict is not None:
            return verdict
        rows = self._rows.get(action)
        if rows is None:
            if len(self._rows) >= CACHED_VERDICTS:
                self._rows.clear()
            rows = self._rows[action] = self._prepare(action)
        deny, allow, constant = rows
        verdict = not _applies(deny, resource, subject, request) and _applies(allow, resource, subject, request)
        if constant:
            if len(self._verdicts) >= CACHED_VERDICTS:
                self._verdicts.clear()
            self._verdicts[key] = verdict
        return verdict

    def explain(self, action: str, resource: str, subject: Values = NOTHING, request: Values = NOTHING) -> Verdict:
        """As `may`, with the statements that applied. Slow; for people and TestAuthorization."""
        matches: list[Match] = []
        missing: set[str] = set()
        for policy in self.policies:
            for statement in policy.document.statements:
                if not covers_action(statement, action):
                    continue
                missing |= {key for key in keys_of(statement) if key not in subject and key not in request}
                if _test(statement)(resource, subject, request):
                    matches.append(
                        Match(
                            policy=policy.name,
                            statement=statement.index,
                            sid=statement.sid,
                            effect=statement.effect.value,
                        )
                    )
        effects = {match.effect for match in matches}
        decision = "explicit deny" if "Deny" in effects else "allowed" if "Allow" in effects else "implicit deny"
        decisive = tuple(match for match in matches if "Deny" not in effects or match.effect == "Deny")
        return Verdict(
            allowed=decision == "allowed", decision=decision, matches=decisive, missing=tuple(sorted(missing))
        )

    def _prepare(self, action: str) -> tuple[_Rows, _Rows, bool]:
        by_effect: dict[Effect, list[Statement]] = {Effect.DENY: [], Effect.ALLOW: []}
        for policy in self.policies:
            for statement in policy.document.statements:
                if covers_action(statement, action):
                    by_effect[statement.effect].append(statement)
        deny, allow = _rows(by_effect[Effect.DENY]), _rows(by_effect[Effect.ALLOW])
        return deny, allow, not deny.tests and not allow.tests


@lru_cache(maxsize=8192)
def program(policies: tuple[CompiledPolicy, ...]) -> Program:
    """The program of these policies; the same one for the same objects."""
    return Program(policies)


def compile_policy(name: str, text: str, *, limit: int = documents.IOT_LIMIT) -> CompiledPolicy:
    """Raises documents.MalformedPolicy."""
    return CompiledPolicy(name, documents.parse(text, limit=limit))


def covers_action(statement: Statement, action: str) -> bool:
    listed = any(_action(pattern)(action.lower()) for pattern in statement.actions)
    return listed != statement.not_action


def _applies(rows: _Rows, resource: str, subject: Values, request: Values) -> bool:
    if resource in rows.exact or resource.startswith(rows.prefixes):
        return True
    for shape in rows.shaped:
        if shape(resource):
            return True
    return any(test(resource, subject, request) for test in rows.tests) if rows.tests else False


def _rows(statements: Sequence[Statement]) -> _Rows:
    exact: set[str] = set()
    prefixes: set[str] = set()
    shaped: list[Callable[[str], object]] = []
    tests: list[Callable[[str, Values, Values], bool]] = []
    for statement in statements:
        if (
            statement.conditions
            or statement.not_resource
            or not all(pattern.constant for pattern in statement.resources)
        ):
            tests.append(_test(statement))
            continue
        for pattern in statement.resources:
            match pattern.parts:
                case [str() as whole]:
                    exact.add(whole)
                case [part] if part is ANY:
                    prefixes.add("")
                case [str() as start, part] if part is ANY:
                    prefixes.add(start)
                case parts:
                    shaped.append(_glob(tuple(parts), wary=statement.effect is Effect.ALLOW))
    return _Rows(frozenset(exact), tuple(prefixes), tuple(shaped), tuple(tests))


@lru_cache(maxsize=8192)
def _test(statement: Statement) -> Callable[[str, Values, Values], bool]:
    """Whether the statement applies to a resource, its action being covered."""
    # In a Deny the undecidable counts as true, in an Allow as false: what is not known never grants.
    denies = statement.effect is Effect.DENY
    covers = resource_test(statement, denies=denies)
    conditions = tuple(condition_test(condition, denies=denies) for condition in statement.conditions)

    def applies(resource: str, subject: Values, request: Values) -> bool:
        found = covers(resource, subject, request)
        if found is False or (found is None and not denies):
            return False
        for condition in conditions:
            held = condition(subject, request)
            if held is False or (held is None and not denies):
                return False
        return True

    return applies


def resource_test(statement: Statement, *, denies: bool) -> Callable[[str, Values, Values], Truth]:
    """Whether the Resource (or NotResource) of the statement covers a resource."""
    wary = not denies
    constant = [_glob(pattern.parts, wary=wary) for pattern in statement.resources if pattern.constant]
    negated = statement.not_resource
    trusting = denies and not negated
    varying = [
        _varying(pattern, trusting=trusting, wary=wary) for pattern in statement.resources if not pattern.constant
    ]

    def test(resource: str, subject: Values, request: Values) -> Truth:
        for match in constant:
            if match(resource):
                return not negated
        unknown = False
        for compare in varying:
            same = compare(resource, subject, request)
            if same:
                return not negated
            unknown = unknown or same is None
        return (None if unknown else True) if negated else False

    return test


def _varying(pattern: Pattern, *, trusting: bool, wary: bool) -> Callable[[str, Values, Values], Truth]:
    """Match against a pattern with variables; None when one has no usable value."""
    *before, last = pattern.parts
    open_end = last is ANY
    head = tuple(before) if open_end else pattern.parts
    if ANY in head or ONE in head:

        def general(text: str, subject: Values, request: Values) -> Truth:
            parts = _resolved(pattern, subject, request, trusting=trusting)
            return None if parts is None else _matches(parts, text, wary=wary)

        return general
    # The usual form, `topic/${iot:ClientId}/*`, without building lists.
    pieces = [
        (part.key, True) if isinstance(part, Variable) else (part, False) for part in head if not isinstance(part, Wild)
    ]

    def plain(text: str, subject: Values, request: Values) -> Truth:
        built = ""
        for piece, is_key in pieces:
            if not is_key:
                built += piece
                continue
            value = subject.get(piece)
            if value is None:
                value = request.get(piece)
            if not isinstance(value, str) or not (trusting or _is_safe(value)):
                return None
            built += value
        return text.startswith(built) if open_end else text == built

    return plain


_is_safe = lru_cache(maxsize=65536)(variables.is_safe)


def _resolved(pattern: Pattern, subject: Values, request: Values, *, trusting: bool) -> tuple[Part, ...] | None:
    values = {**request, **subject} if request and not pattern.keys <= subject.keys() else subject
    return variables.resolve(pattern, values, trusting=trusting)


def _matches(parts: tuple[Part, ...], text: str, *, wary: bool) -> bool:
    """Match without a regular expression where there is no `?`: the parts differ for each subject, so compiling would not pay."""
    if ONE in parts:
        return bool(_glob(parts, wary=wary)(text))
    pieces: list[str] = [""]
    for part in parts:
        if isinstance(part, str):
            pieces[-1] += part
        else:
            pieces.append("")
    if len(pieces) == 1:
        return text == pieces[0]
    first, last = pieces[0], pieces[-1]
    if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
        return False
    at, end = len(first), len(text) - len(last)
    for piece in pieces[1:-1]:
        found = text.find(piece, at, end)
        if found < 0:
            return False
        at = found + len(piece)
    return True


@lru_cache(maxsize=16384)
def _glob(parts: tuple[Part, ...], *, wary: bool) -> Callable[[str], object]:
    # wary: `?` is one character but not a wildcard of MQTT. As an Allow, `topicfilter/a/?` would else let `a/+` through,
    # which receives far more than the one-character names that were meant.
    one = "[^+#]" if wary else "."
    pieces = [""]
    for part in parts:
        if part is ANY:
            pieces.append("")
        else:
            pieces[-1] += re.escape(part) if isinstance(part, str) else one
    first, *middle, last = pieces if len(pieces) > 1 else (pieces[0], "")
    if len(pieces) > 1:
        # Atomic: the first place of a piece is as good as any later one, so nothing is tried twice and
        # `*a*a*a*a*b` costs a few passes over the text, not its fifth power.
        last = "".join(f"(?>.*?{piece})" for piece in middle) + f".*{last}"
    return re.compile(first + last, re.DOTALL).fullmatch


@lru_cache(maxsize=16384)
def _action(pattern: str) -> Callable[[str], object]:
    return _glob(variables.parse(pattern.lower(), wild=True, substitute=False).parts, wary=False)


# Conditions


def condition_test(condition: Condition, *, denies: bool) -> Test:
    """Whether the condition holds."""
    key, negated, if_exists, quantifier = (
        condition.key,
        condition.operator.negated,
        condition.if_exists,
        condition.quantifier,
    )
    if condition.operator.family == "null":
        wants_missing = {documents.boolean(documents.literal(pattern)) for pattern in condition.values}

        def null(subject: Values, request: Values) -> Truth:
            return (key not in subject and key not in request) in wants_missing

        return null
    compare = _comparison(condition)
    trusting = denies and not negated

    def one(actual: str, subject: Values, request: Values) -> Truth:
        """Whether one value of the request satisfies the operator against the listed values."""
        unknown = False
        for pattern in condition.values:
            parts = _resolved(pattern, subject, request, trusting=trusting)
            same = None if parts is None else compare(actual, parts)
            if same:
                return not negated
            # A value that cannot be compared is no match for a positive operator and undecidable for a negative one.
            unknown = unknown or same is None
        return (None if unknown else True) if negated else False

    def test(subject: Values, request: Values) -> Truth:
        actual = subject.get(key)
        if actual is None:
            actual = request.get(key)
        if actual is None or actual == ():
            if if_exists or quantifier is Quantifier.ALL:
                return True
            return False if quantifier is Quantifier.ANY else negated
        values = (actual,) if isinstance(actual, str) else actual
        held = [one(value, subject, request) for value in values]
        if quantifier is Quantifier.ANY or (quantifier is None and not negated):
            return True if True in held else None if None in held else False
        return False if False in held else None if None in held else True

    return test


def _comparison(condition: Condition) -> Callable[[str, tuple[Part, ...]], Truth]:
    """Compare an actual value with one resolved value of the policy; None when either is not of the operator's kind."""
    family, test = condition.operator.family, condition.operator.test
    if family == "string" and test == "equals":
        return lambda actual, parts: actual == _text(parts)
    if family == "string":
        return lambda actual, parts: _matches(parts, actual, wary=False)
    if family == "caseless":
        return lambda actual, parts: actual.lower() == _text(parts).lower()
    if family == "arn":
        return lambda actual, parts: actual.startswith("arn:") and _matches(parts, actual, wary=False)
    if family == "ip":
        return _within
    if family in _EXACT:
        same = _EXACT[family]

        def equal(actual: str, parts: tuple[Part, ...]) -> Truth:
            left, right = same(actual), same(_text(parts))
            return None if left is None or right is None else left == right

        return equal
    read, ordered = _MEASURES[family], _ORDERED[test]

    def compare(actual: str, parts: tuple[Part, ...]) -> Truth:
        left, right = read(actual), read(_text(parts))
        return None if left is None or right is None else ordered(left, right)

    return compare


def _within(actual: str, parts: tuple[Part, ...]) -> Truth:
    network = documents.network(_text(parts))
    try:
        address = ipaddress.ip_address(actual)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return None if network is None else address in network


def _text(parts: tuple[Part, ...]) -> str:
    return "".join(part for part in parts if isinstance(part, str))


def keys_of(statement: Statement) -> set[str]:
    """The variables and condition keys that the statement asks for."""
    found: set[str] = set()
    for pattern in statement.resources:
        found |= pattern.keys
    for condition in statement.conditions:
        found.add(condition.key)
        for pattern in condition.values:
            found |= pattern.keys
    return found


def _keys(document: Document) -> set[str]:
    return {key for statement in document.statements for key in keys_of(statement)}


_EXACT: Final[Mapping[str, Callable[[str], object]]] = {"bool": documents.boolean, "binary": documents.binary}
_MEASURES: Final[Mapping[str, Callable[[str], float | None]]] = {"number": documents.number, "date": documents.date}
_ORDERED: Final[Mapping[str, Callable[[float, float], bool]]] = {
    "equals": operator.eq,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}
