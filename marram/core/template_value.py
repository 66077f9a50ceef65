"""Values of provisioning templates: literals, Ref and the functions Join, Select, FindInMap, Split, Sub. Pure.

`read` checks form and names, `Scope` gives values. An object with one key `Ref` or `Fn::...` is a function; any other object
holds values. `${Name}` counts in Fn::Sub only, `${!Name}` is the text `${Name}` there.
Source: AWS IoT Core developer guide, "Provisioning templates", "Intrinsic functions".
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn, TypeAlias

from marram.core import codec
from marram.core.codec import JsonValue
from marram.core.errors import Invalid, LimitExceeded

MAX_TEXT: Final = 65_536  # botocore model, CertificatePem: the longest thing a template hands on
MAX_ITEMS: Final = 1_000
_VARIABLE: Final = re.compile(r"\$\{(!?)([^}]*)\}")

Mappings: TypeAlias = Mapping[str, Mapping[str, Mapping[str, JsonValue]]]


@dataclass(frozen=True, slots=True)
class Reference:
    name: str


@dataclass(frozen=True, slots=True)
class Join:
    delimiter: "Expression"
    items: "Expression"


@dataclass(frozen=True, slots=True)
class Select:
    index: "Expression"
    items: "Expression"


@dataclass(frozen=True, slots=True)
class FindInMap:
    map: "Expression"
    first: "Expression"
    second: "Expression"


@dataclass(frozen=True, slots=True)
class Split:
    delimiter: "Expression"
    text: "Expression"


@dataclass(frozen=True, slots=True)
class Sub:
    """`pieces`: literal texts, and references or own variables between them."""

    pieces: "tuple[str | Reference | Expression, ...]"


Function: TypeAlias = Reference | Join | Select | FindInMap | Split | Sub
Expression: TypeAlias = "Function | str | int | float | bool | tuple[Expression, ...] | dict[str, Expression] | None"
NameOf = Callable[[str], str]


class BadTemplate(Invalid):
    """The template cannot be used, whatever the parameters; the message says where."""

    def __init__(self, message: str, **data: object) -> None:
        super().__init__(message, kind="template", **data)


class BadParameters(Invalid):
    """The template is good, and these parameters do not fit it."""

    def __init__(self, message: str, **data: object) -> None:
        super().__init__(message, kind="parameters", **data)


def read(value: JsonValue, place: str, names: set[str], mappings: Mappings) -> Expression:
    """The expression of one value. Raises BadTemplate for a function of another form, or a name that is not in `names`."""
    if isinstance(value, list):
        return tuple(read(item, f"{place}[{index}]", names, mappings) for index, item in enumerate(value))
    if not isinstance(value, dict):
        return value
    function = next((key for key in value if key == "Ref" or key.startswith("Fn:")), None)
    if function is None:
        return {key: read(item, f"{place}.{key[:100]}", names, mappings) for key, item in value.items()}
    if len(value) != 1:
        raise BadTemplate(f"{place}: {function} stands alone in its object")
    return _function(function, value[function], f"{place}.{function}", names, mappings)


def _function(name: str, value: JsonValue, place: str, names: set[str], mappings: Mappings) -> Function:
    if name == "Ref":
        return _reference(value, place, names)
    if name == "Fn::Sub":
        return _sub(value, place, names, mappings)
    counts = {"Fn::Join": 2, "Fn::Select": 2, "Fn::FindInMap": 3, "Fn::Split": 2}
    if name not in counts:
        raise BadTemplate(f"{place}: there are Ref, Fn::Sub, {', '.join(counts)}")
    if not isinstance(value, list) or len(value) != counts[name]:
        raise BadTemplate(f"{place}: must be a list of {counts[name]}")
    parts = [read(item, f"{place}[{index}]", names, mappings) for index, item in enumerate(value)]
    match name:
        case "Fn::Join":
            _list(parts[1], place)
            return Join(parts[0], parts[1])
        case "Fn::Select":
            _list(parts[1], place)
            if isinstance(parts[0], bool) or not isinstance(parts[0], int | str | Reference | Function):
                raise BadTemplate(f"{place}: the index must be a number")
            return Select(parts[0], parts[1])
        case "Fn::Split":
            if not isinstance(parts[0], str) or not parts[0]:
                raise BadTemplate(f"{place}: the delimiter must be a string of at least one character")
            return Split(parts[0], parts[1])
        case _:
            if isinstance(parts[0], str) and parts[0] not in mappings:
                raise BadTemplate(f"{place}: Mappings has no {parts[0][:100]!r}")
            return FindInMap(parts[0], parts[1], parts[2])


def _list(value: Expression, place: str) -> None:
    # What is a list for certain, or may give one.
    if not isinstance(value, tuple | Split | FindInMap | Select):
        raise BadTemplate(f"{place}: needs a list")


def _reference(value: JsonValue, place: str, names: set[str]) -> Reference:
    if not isinstance(value, str):
        raise BadTemplate(f"{place}: must be the name of a parameter or resource")
    if value not in names:
        raise BadTemplate(f"{place}: neither a parameter nor a resource is called {value[:100]!r}")
    return Reference(value)


def _sub(value: JsonValue, place: str, names: set[str], mappings: Mappings) -> Sub:
    own: dict[str, Expression] = {}
    if isinstance(value, list) and len(value) == 2 and isinstance(value[1], dict):
        for key, item in value[1].items():
            own[key] = read(item, f"{place}[1].{key[:100]}", names, mappings)
        value = value[0]
    if not isinstance(value, str):
        raise BadTemplate(f"{place}: must be a string, or a list of a string and an object of variables")
    pieces: list[str | Reference | Expression] = []
    at = 0
    for found in _VARIABLE.finditer(value):
        pieces.append(value[at : found.start()])
        at = found.end()
        name = found[2]
        if found[1]:
            pieces.append("${" + name + "}")
        elif name in own:
            pieces.append(own[name])
        else:
            pieces.append(_reference(name, place, names))
    pieces.append(value[at:])
    return Sub(tuple(piece for piece in pieces if piece != ""))


def names_in(value: Expression) -> set[str]:
    """Every name that it refers to."""
    match value:
        case Reference(name):
            return {name}
        case Join(delimiter, items):
            return names_in(delimiter) | names_in(items)
        case Select(index, items):
            return names_in(index) | names_in(items)
        case Split(delimiter, text):
            return names_in(delimiter) | names_in(text)
        case FindInMap(first, second, third):
            return names_in(first) | names_in(second) | names_in(third)
        case Sub(pieces):
            return set[str]().union(*(names_in(piece) for piece in pieces))
        case tuple():
            return set[str]().union(*(names_in(item) for item in value))
        case dict():
            return set[str]().union(*(names_in(item) for item in value.values()))
        case _:
            return set()


class Scope:
    """Where names have values. `named` gives those of resources. What is made stays below a total, whatever refers to what."""

    def __init__(
        self,
        values: Mapping[str, str],
        mappings: Mappings,
        named: NameOf,
        *,
        guard: Callable[[str], None] | None = None,
        guarded: frozenset[str] = frozenset(),
    ) -> None:
        self._values, self._mappings, self._named = values, mappings, named
        self._guard, self._guarded = guard, guarded

    def without(self, names: set[str], refuse: Callable[[str], None]) -> "Scope":
        """The same, where asking for one of `names` calls `refuse`."""
        return Scope(self._values, self._mappings, self._named, guard=refuse, guarded=frozenset(names))

    def text(self, value: Expression, place: str) -> str:
        found = self.value(value, place)
        if not isinstance(found, str):
            raise BadParameters(f"{place}: must be a string, not {codec.kind(found)}")
        return found

    def texts(self, value: Expression, place: str) -> list[str]:
        found = self.value(value, place)
        if not isinstance(found, list):
            raise BadParameters(f"{place}: must be a list, not {codec.kind(found)}")
        return [_string(item, place) for item in found]

    def value(self, value: Expression, place: str) -> JsonValue:
        """Raises BadParameters, LimitExceeded."""
        match value:
            case Reference(name):
                return self._reference(name)
            case Join(delimiter, items):
                return _bounded(self.text(delimiter, place).join(self.texts(items, place)), place)
            case Split(delimiter, text):
                parts = self.text(text, place).split(self.text(delimiter, place))
                if len(parts) > MAX_ITEMS:
                    raise LimitExceeded(f"{place}: over {MAX_ITEMS} parts", limit=MAX_ITEMS)
                return list[JsonValue](parts)
            case Select(index, items):
                return self._select(self.value(index, place), self.texts(items, place), place)
            case FindInMap(first, second, third):
                return self._find(self.text(first, place), self.text(second, place), self.text(third, place), place)
            case Sub(pieces):
                return _bounded("".join(self.text(piece, place) for piece in pieces), place)
            case tuple():
                return [self.value(item, place) for item in value]
            case dict():
                return {key: self.value(item, f"{place}.{key}") for key, item in value.items()}
            case _:
                return value

    def _reference(self, name: str) -> str:
        if name in self._guarded and self._guard is not None:
            self._guard(name)
        if name in self._values:
            return self._values[name]
        return self._named(name)

    def _select(self, index: JsonValue, items: Sequence[str], place: str) -> str:
        text = index if isinstance(index, str) else str(index)
        if not (text.isascii() and text.isdigit() and len(text) <= 6) or int(text) >= len(items):
            raise BadParameters(f"{place}: the index {text[:20]!r} is not in a list of {len(items)}")
        return items[int(text)]

    def _find(self, name: str, first: str, second: str, place: str) -> JsonValue:
        try:
            return self._mappings[name][first][second]
        except KeyError:
            _no_entry(place, name, first, second)


def _no_entry(place: str, *keys: str) -> NoReturn:
    raise BadParameters(f"{place}: Mappings has no {'.'.join(key[:100] for key in keys)!r}")


def _string(value: JsonValue, place: str) -> str:
    if not isinstance(value, str):
        raise BadParameters(f"{place}: a list of strings, and one is {codec.kind(value)}")
    return value


def _bounded(text: str, place: str) -> str:
    if len(text) > MAX_TEXT:
        raise LimitExceeded(f"{place}: over {MAX_TEXT} characters", limit=MAX_TEXT)
    return text
