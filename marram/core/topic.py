"""Topic names and filters: limits, matching by AWS's rules, shared subscriptions, templates of reserved topics. Pure.

AWS differs from plain MQTT: `sensor/#` does not match `sensor`, at most 7 slashes and 256 bytes; `$aws/rules/<rule>/` and
`$share/<name>/` do not count. As in plain MQTT a wildcard in the first level does not reach topics that begin with `$`.
The trie serves hub and edge; who subscribes, and whether he may, is not here.
Source: AWS IoT Developer Guide, "MQTT topics", "Shared Subscriptions"; MQTT 5.0, 4.7.
"""

from collections.abc import Iterable, Mapping
from typing import Final, Generic, TypeVar

from marram.core.errors import Invalid

MAX_BYTES: Final = 256
MAX_SLASHES: Final = 7
MAX_SHARE_NAME: Final = 128
BASIC_INGEST: Final = "$aws/rules/"
SHARE: Final = "$share/"

V = TypeVar("V")
K = TypeVar("K")


def check_name(name: str) -> str:
    """Return the topic name itself. Raises Invalid when nobody may publish to it for its form."""
    _check_text(name, "topic name")
    if "#" in name or "+" in name:
        raise Invalid(f"topic name {name!r} has a wildcard; wildcards belong in filters", topic=name)
    _check_size(name, ingest_rest(name)[1] if name.startswith(BASIC_INGEST) else name, "topic name")
    return name


def check_filter(text: str) -> str:
    """Return the filter itself, `$share/<name>/` prefix included. Raises Invalid."""
    _check_text(text, "topic filter")
    share = parse_share(text)
    inner = share[1] if share is not None else text
    if inner != "#":
        for level in inner[:-2].split("/") if inner.endswith("/#") else inner.split("/"):
            if level != "+" and ("#" in level or "+" in level):
                raise Invalid(f"topic filter {text!r}: a wildcard fills a whole level, and # is the last", filter=text)
    _check_size(inner, inner, "topic filter")
    return text


def parse_share(text: str) -> tuple[str, str] | None:
    """(share name, filter) of `$share/<name>/<filter>`, None for an ordinary filter. Raises Invalid for a broken share."""
    if not text.startswith(SHARE):
        return None
    name, slash, inner = text[len(SHARE) :].partition("/")
    if not name or not slash or not inner or "+" in name or "#" in name:
        raise Invalid(f"{text!r} is not $share/<name>/<filter>", filter=text)
    if len(name) > MAX_SHARE_NAME:
        raise Invalid(f"share name is over {MAX_SHARE_NAME} characters", filter=text, limit=MAX_SHARE_NAME)
    return name, inner


def ingest_rest(name: str) -> tuple[str, str]:
    """(rule, topic that the rule sees) of `$aws/rules/<rule>/<topic>`. Raises Invalid without a rule name."""
    rule, _, rest = name[len(BASIC_INGEST) :].partition("/")
    if not rule:
        raise Invalid(f"{name!r} names no rule", topic=name)
    return rule, rest


def is_reserved(name: str) -> bool:
    return name.startswith("$")


def has_wildcard(text: str) -> bool:
    return "#" in text or "+" in text


def matches(text: str, name: str, *, parent: bool = False) -> bool:
    """Whether the filter covers the name. `parent`: `sensor/#` also covers `sensor`, as plain MQTT has it."""
    if name.startswith("$") and text[:1] in ("+", "#"):
        return False
    levels = name.split("/")
    wanted = text.split("/")
    for at, level in enumerate(wanted):
        if level == "#":
            return at < len(levels) or parent
        if at >= len(levels) or (level != "+" and level != levels[at]):
            return False
    return len(wanted) == len(levels)


def covers(wide: str, narrow: str) -> bool:
    """Whether every name that the filter `narrow` covers is covered by `wide` too."""
    if narrow[:1] == "$" and wide[:1] in ("+", "#"):
        return False
    inner = narrow.split("/")
    outer = wide.split("/")
    for at, level in enumerate(outer):
        if level == "#":
            return at < len(inner)
        if at >= len(inner) or inner[at] == "#" or (level != "+" and level != inner[at]):
            return False
    return len(outer) == len(inner)


class _Node(Generic[K, V]):
    __slots__ = ("below", "children", "here")

    def __init__(self) -> None:
        self.children: dict[str, _Node[K, V]] = {}
        self.here: dict[K, V] = {}  # filters that end at this level
        self.below: dict[K, V] = {}  # filters that end with # under this level


class Trie(Generic[K, V]):
    """Filters with values: (filter, key) is unique. Filters are taken as checked, without a `$share` prefix."""

    def __init__(self, *, parent: bool = False) -> None:
        self._root = _Node[K, V]()
        self._parent = parent
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(self, text: str, key: K, value: V) -> bool:
        """Add or replace. Returns whether it is new."""
        slot = self._slot(text)
        is_new = key not in slot
        slot[key] = value
        if is_new:
            self._count += 1
        return is_new

    def remove(self, text: str, key: K) -> bool:
        """Returns whether it was there. Empty branches go."""
        path: list[tuple[_Node[K, V], str]] = []
        node = self._root
        levels = text.split("/")
        ends_with_hash = levels[-1] == "#"
        if ends_with_hash:
            levels.pop()
        for level in levels:
            child = node.children.get(level)
            if child is None:
                return False
            path.append((node, level))
            node = child
        slot = node.below if ends_with_hash else node.here
        if key not in slot:
            return False
        del slot[key]
        self._count -= 1
        for above, level in reversed(path):
            if node.here or node.below or node.children:
                break
            del above.children[level]
            node = above
        return True

    def match(self, name: str) -> list[tuple[K, V]]:
        """Every (key, value) whose filter covers the name; a key once for each of its filters."""
        found: list[tuple[K, V]] = []
        levels = name.split("/")
        special = name.startswith("$")
        nodes = [self._root]
        for at, level in enumerate(levels):
            wild = at > 0 or not special
            deeper: list[_Node[K, V]] = []
            for node in nodes:
                if wild and node.below:
                    found.extend(node.below.items())
                child = node.children.get(level)
                if child is not None:
                    deeper.append(child)
                if wild:
                    child = node.children.get("+")
                    if child is not None:
                        deeper.append(child)
            if not deeper:
                return found
            nodes = deeper
        for node in nodes:
            if node.here:
                found.extend(node.here.items())
            if self._parent and node.below:
                found.extend(node.below.items())
        return found

    def get(self, text: str) -> dict[K, V]:
        """The keys and values of exactly this filter; not to be changed."""
        node = self._root
        levels = text.split("/")
        ends_with_hash = levels[-1] == "#"
        if ends_with_hash:
            levels.pop()
        for level in levels:
            child = node.children.get(level)
            if child is None:
                return {}
            node = child
        return node.below if ends_with_hash else node.here

    def _slot(self, text: str) -> dict[K, V]:
        node = self._root
        levels = text.split("/")
        ends_with_hash = levels[-1] == "#"
        if ends_with_hash:
            levels.pop()
        for level in levels:
            child: _Node[K, V] | None = node.children.get(level)
            if child is None:
                child = _Node()
                node.children[level] = child
            node = child
        return node.below if ends_with_hash else node.here


class Templates(Generic[V]):
    """Reserved topics by template: `{name}` stands for one level. A literal level wins over a named one."""

    def __init__(self, templates: Mapping[str, V]) -> None:
        self._trie: Trie[str, tuple[V, tuple[tuple[int, str], ...]]] = Trie()
        for template, value in templates.items():
            levels = template.split("/")
            names = tuple((at, level[1:-1]) for at, level in enumerate(levels) if level[:1] == "{")
            filter_text = "/".join("+" if level[:1] == "{" else level for level in levels)
            self._trie.put(filter_text, template, (value, names))

    def match(self, name: str) -> tuple[V, dict[str, str]] | None:
        """(value, parameters by name), or None."""
        found = self._trie.match(name)
        if not found:
            return None
        _, (value, names) = min(found, key=_looseness)
        levels = name.split("/")
        return value, {key: levels[at] for at, key in names}


def fill(template: str, params: Mapping[str, str]) -> str:
    """The topic of a template. Raises Invalid when a value is empty or not one level."""
    levels: list[str] = []
    for level in template.split("/"):
        if level[:1] == "{":
            value = params[level[1:-1]]
            if not value or "/" in value or has_wildcard(value):
                raise Invalid(f"{value!r} is not one topic level", template=template)
            levels.append(value)
        else:
            levels.append(level)
    return "/".join(levels)


def first_levels(texts: Iterable[str]) -> set[str]:
    return {text.split("/", 1)[0] for text in texts}


def _looseness(found: tuple[str, tuple[object, tuple[tuple[int, str], ...]]]) -> int:
    return len(found[1][1])


def _check_text(text: str, what: str) -> None:
    if not text:
        raise Invalid(f"{what} is empty")
    if "\0" in text:
        raise Invalid(f"{what} has a NUL character")


def _check_size(text: str, counted: str, what: str) -> None:
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        raise Invalid(f"{what} is {size} bytes; the limit is {MAX_BYTES}", limit=MAX_BYTES)
    if counted.count("/") > MAX_SLASHES:
        raise Invalid(f"{what} {text!r} has more than {MAX_SLASHES} slashes", limit=MAX_SLASHES)
