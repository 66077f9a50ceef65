"""A component's configuration: leaves with the time they were set; merge, defaults and reset as deployments need them. Pure.

A tree is a map from path to `Leaf`; a leaf holds text, number, boolean, null, an array, or an empty object. Functions return
a new tree. Order of a deployment (AWS, "update component configurations"; Java nucleus KernelConfigResolver): running
values, minus reset pointers, plus the recipe's defaults where nothing is, plus the merge document. Keys are case-sensitive,
as in nucleus lite. Not here: storage and who listens (edge.nucleus.config).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from marram.core.codec import JsonObject, JsonValue
from marram.core.errors import Invalid, LimitExceeded, NotFound, VersionConflict

DEFAULT_TIME_MS: Final = 1  # when a recipe's default counts as written: before anything a person wrote
MAX_LEAVES: Final = 10_000
MAX_DEPTH: Final = 32

Path: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Leaf:
    value: JsonValue
    time_ms: int


Tree: TypeAlias = Mapping[Path, Leaf]
EMPTY: Final[Tree] = {}


def pointer(text: str) -> Path:
    """A JSON pointer (RFC 6901); "" is the whole. Raises Invalid."""
    if text == "":
        return ()
    if not text.startswith("/") or len(text) > 4096:
        raise Invalid(f"not a JSON pointer: {text[:100]!r}; it begins with '/'")
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in text[1:].split("/"))


def get(tree: Tree, path: Sequence[str] = ()) -> JsonValue:
    """The value at `path`, containers put together. Raises NotFound. Array elements have no path of their own."""
    wanted = tuple(path)
    leaf = tree.get(wanted)
    if leaf is not None:
        return leaf.value
    made: JsonObject = {}
    size = len(wanted)
    for place, each in tree.items():
        if place[:size] == wanted:
            at = made
            for key in place[size:-1]:
                inner = at.setdefault(key, {})
                assert isinstance(inner, dict)
                at = inner
            at[place[-1]] = each.value
    if not made and wanted:
        raise NotFound(f"no configuration at /{'/'.join(wanted)}")
    return made


def at_pointer(tree: Tree, text: str) -> JsonValue:
    """As `get`, by JSON pointer, into arrays too (recipe variables may)."""
    path = pointer(text)
    for size in range(len(path), -1, -1):
        leaf = tree.get(path[:size])
        if leaf is None:
            continue
        value = leaf.value
        for key in path[size:]:
            if isinstance(value, list) and key.isdecimal() and int(key) < len(value):
                value = value[int(key)]
            elif isinstance(value, dict) and key in value:
                value = value[key]
            else:
                raise NotFound(f"no configuration at {text}")
        return value
    return get(tree, path)


def merge(tree: Tree, path: Sequence[str], value: JsonValue, time_ms: int, *, strict: bool = False) -> Tree:
    """Objects merge, anything else replaces what is not newer than `time_ms`.

    strict: raise VersionConflict at the first newer leaf (IPC UpdateConfiguration) instead of leaving it.
    Raises LimitExceeded over 10,000 leaves or 32 levels.
    """
    made = dict(tree)
    _merge(made, tuple(path), value, time_ms, strict)
    if len(made) > MAX_LEAVES:
        raise LimitExceeded(f"a configuration has at most {MAX_LEAVES} values", limit=MAX_LEAVES)
    return made


def fill(tree: Tree, defaults: JsonObject) -> Tree:
    """Add the recipe's defaults where the tree has nothing; never overwrite."""
    made = dict(tree)
    inside = {place[:size] for place in made for size in range(len(place))}
    for place, value in _leaves((), defaults):
        if place not in inside and not any(place[:size] in made for size in range(len(place) + 1)):
            made[place] = Leaf(value, DEFAULT_TIME_MS)
        elif any(made.get(place[:size]) == Leaf({}, DEFAULT_TIME_MS) for size in range(1, len(place))):
            # An empty object that came from an older default is no wish for emptiness.
            made = dict(merge(made, place, value, DEFAULT_TIME_MS))
    return made


def reset(tree: Tree, pointers: Iterable[str]) -> Tree:
    """Remove what the pointers name; one that names nothing is fine, an array element is refused."""
    made = dict(tree)
    for text in pointers:
        path = pointer(text)
        for size in range(len(path)):
            if path[:size] in made and isinstance(made[path[:size]].value, list):
                raise Invalid(f"reset {text!r}: elements of an array cannot be reset")
        for place in [place for place in made if place[: len(path)] == path]:
            del made[place]
    return made


def remove(tree: Tree, path: Sequence[str]) -> Tree:
    wanted = tuple(path)
    return {place: leaf for place, leaf in tree.items() if place[: len(wanted)] != wanted}


def changes(before: Tree, after: Tree) -> list[Path]:
    """Paths whose leaf came, went or has another value, sorted."""
    return sorted(
        place
        for place in before.keys() | after.keys()
        if (old := before.get(place)) is None
        or (new := after.get(place)) is None
        or not _same(old.value, new.value)
    )  # fmt: skip


def _same(one: JsonValue, other: JsonValue) -> bool:
    # Python says 1 == True; a component that was told `true` has not been told 1.
    return type(one) is type(other) and one == other


def _leaves(path: Path, value: JsonValue) -> Iterable[tuple[Path, JsonValue]]:
    if len(path) > MAX_DEPTH:
        raise LimitExceeded(f"a configuration is at most {MAX_DEPTH} levels deep", limit=MAX_DEPTH)
    if isinstance(value, dict) and (value or not path):
        for key, member in value.items():
            yield from _leaves((*path, key), member)
    else:
        yield path, value


def _merge(tree: dict[Path, Leaf], path: Path, value: JsonValue, time_ms: int, strict: bool) -> None:
    if not path and not isinstance(value, dict):
        raise Invalid("the whole configuration is an object")
    for place, leaf_value in _leaves(path, value):
        below = [other for other in tree if other[: len(place)] == place]
        above = [place[:size] for size in range(1, len(place)) if place[:size] in tree]
        if leaf_value == {} and isinstance(leaf_value, dict) and any(other != place for other in below):
            continue  # an empty object merged into an object changes nothing
        in_the_way = [*below, *above]
        newer = [other for other in in_the_way if tree[other].time_ms > time_ms]
        if newer:
            if strict:
                raise VersionConflict(f"/{'/'.join(newer[0])} was set later than the timestamp given")
            continue
        for other in in_the_way:
            del tree[other]
        tree[place] = Leaf(leaf_value, time_ms)
