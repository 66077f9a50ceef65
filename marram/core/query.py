"""Queries of fleet indexing: text -> a small tree, and whether a document fits it. Pure and bounded.

A document is a set of entries, each the word or the number that a field holds; `entries` makes them of a value. The
search index stores the same entries as rows and asks the same tree of them by SQL (hub/registry/search.py); what both
mean by a leaf is written here once, in `fits`.

Not here: which fields there are (the caller's `resolve` says so), SQL, storage.
Sources: AWS IoT developer guide, "Query syntax", "Example thing queries", "Manage thing indexing: restrictions and
limitations"; quotas of fleet indexing. NOT binds closest, then AND (said or not), then OR: our choice.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple, NoReturn, TypeAlias, TypeVar, cast

from marram.core.errors import Invalid

MAX_LENGTH: Final = 1000  # characters of a query
MAX_LEADING_LENGTH: Final = 100  # of a query with a leading wildcard
MAX_LEADING: Final = 1  # terms with a leading wildcard
MAX_TERMS: Final = 12
MAX_STARS: Final = 2  # * in one term
MAX_MARKS: Final = 5  # ? in one term
MAX_DEPTH: Final = 16  # parentheses; our choice
MAX_WORD_BYTES: Final = 1000  # a longer word is not indexed; our choice, PostgreSQL's index keys end at 2,700
MAX_WORDS: Final = 64  # of one value that are indexed; our choice

K = TypeVar("K", float, str)

# Java's Character.isWhitespace, which is not Python's: a no-break space is part of a word.
SPACE: Final = "\t\n\x0b\f\r\x1c\x1d\x1e\x1f \u1680\u2000-\u2006\u2008-\u200a\u2028\u2029\u205f\u3000"
_SPACES: Final = re.compile(f"[{SPACE}\0]+")  # NUL: SQLite's LIKE ends at one
_NUMBER: Final = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?", re.ASCII)  # a number as JSON writes it
_SAFE: Final = 2**53


class QueryError(Invalid):
    """A query that is wrong. `data["at"]` is the place: characters from 1."""

    def __init__(self, message: str, at: int) -> None:
        super().__init__(f"{message} at character {at} of the query", kind="query", at=at)


# what a document holds


class Entry(NamedTuple):
    """`text`: a folded word; or the folded words of a whole value, a space before each and one behind; or nothing, of what
    is there and has no word (a blank text, an object with fields of its own).

    number: when the value is one. value: as it was given, on the one entry that stands for the whole value, else None.
    """

    text: str
    number: float | None = None
    value: str | None = None


Document: TypeAlias = Mapping[str, Sequence[Entry]]


PRESENT: Final = Entry("")


def entries(value: str | float | bool) -> list[Entry]:
    """What is indexed of a simple value."""
    given = written(value)
    words = split(given)[:MAX_WORDS]
    if not words:
        return [Entry("", None, given)]
    if len(words) == 1:
        only = words[0]
        number = numeric(only) if not isinstance(value, bool) else None
        if len(only.encode()) > MAX_WORD_BYTES:
            return [PRESENT]
        made = [Entry(only, number, given)]
        if number is not None and (canonical := _canonical(number)) != only:
            made.append(Entry(canonical))
        return made
    whole = f" {' '.join(words)} "
    found = {word for word in words if len(word.encode()) <= MAX_WORD_BYTES}
    made = [Entry(word) for word in sorted(found | {plain(word) for word in found})]
    if len(whole.encode()) <= MAX_WORD_BYTES:
        made.append(Entry(whole, None, given))
    return made


def written(value: str | float | bool) -> str:
    """A simple value as text."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else _canonical(value)


def split(text: str) -> list[str]:
    """Words, folded: not `lower`, which makes two of a capital sigma, by what stands behind it."""
    folded = text.casefold()
    if _SPACES.search(folded) is None:  # nearly always, and three times as quick
        return [folded] if folded else []
    return [word for word in _SPACES.split(folded) if word]


def numeric(word: str) -> float | None:
    """The number that a word is: as JSON writes it, an integer within 53 bits, or a double that is finite."""
    if word[0] not in "-0123456789" or len(word) > 64 or not _NUMBER.fullmatch(word):
        return None
    number = float(word)
    if not math.isfinite(number) or (word.lstrip("-").isdecimal() and not -_SAFE <= int(word) < _SAFE):
        return None
    return number


def plain(word: str) -> str:
    """A word as it is compared: of all ways to write a number the same."""
    number = numeric(word)
    return word if number is None else _canonical(number)


def _canonical(number: float) -> str:
    if number.is_integer() and abs(number) < _SAFE:
        return str(int(number))
    return repr(number)


# the tree

STAR: Final = "\0*"  # any characters; no word holds a NUL
MARK: Final = "\0?"  # exactly one


@dataclass(frozen=True, slots=True)
class Word:
    """The field has this word; without a field, any field has."""

    field: str | None
    text: str


@dataclass(frozen=True, slots=True)
class Wild:
    """A word of the field fits. `pattern`: pieces of text, STAR and MARK."""

    field: str | None
    pattern: tuple[str, ...]

    @property
    def prefix(self) -> str:
        return "" if self.pattern[0] in (STAR, MARK) else self.pattern[0]


@dataclass(frozen=True, slots=True)
class Phrase:
    """The words stand in this order, next to each other, in one value of the field."""

    field: str | None
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Range:
    """low and high are both numbers, or both words; None is open. At least one is given."""

    field: str
    low: float | str | None
    high: float | str | None
    with_low: bool = True
    with_high: bool = True

    @property
    def is_numeric(self) -> bool:
        return not isinstance(self.low if self.low is not None else self.high, str)


@dataclass(frozen=True, slots=True)
class Exists:
    field: str


@dataclass(frozen=True, slots=True)
class All:
    pass


@dataclass(frozen=True, slots=True)
class And:
    parts: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Or:
    parts: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Not:
    part: "Node"


Leaf: TypeAlias = Word | Wild | Phrase | Range | Exists
Node: TypeAlias = Leaf | All | And | Or | Not


def matches(node: Node, document: Document, bare: Sequence[Entry]) -> bool:
    """bare: the entries that a term without a field is looked for in."""
    match node:
        case All():
            return True
        case And(parts):
            return all(matches(part, document, bare) for part in parts)
        case Or(parts):
            return any(matches(part, document, bare) for part in parts)
        case Not(part):
            return not matches(part, document, bare)
        case Exists(field):
            return bool(document.get(field))
        case Range():
            return any(fits(node, entry) for entry in document.get(node.field, ()))
        case Word(field) | Wild(field) | Phrase(field):
            found = bare if field is None else document.get(field, ())
            return any(fits(node, entry) for entry in found)


def fits(leaf: Leaf, entry: Entry) -> bool:
    """Whether one entry of the right field satisfies the leaf."""
    match leaf:
        case Word():
            return entry.text == leaf.text
        case Wild():
            return _is_word(entry) and _regex(leaf.pattern).fullmatch(entry.text) is not None
        case Phrase():
            return f" {' '.join(leaf.words)} " in entry.text
        case Exists():
            return True
        case Range():
            if leaf.is_numeric:
                return entry.number is not None and _within(leaf, entry.number)
            return _is_word(entry) and _within(leaf, entry.text)


def _is_word(entry: Entry) -> bool:
    return entry.text[:1] not in ("", " ")


def _within(leaf: Range, found: K) -> bool:
    low, high = cast("K | None", leaf.low), cast("K | None", leaf.high)  # of the kind of the entries that are asked
    above = low is None or found > low or (leaf.with_low and found == low)
    below = high is None or found < high or (leaf.with_high and found == high)
    return above and below


@lru_cache(maxsize=1024)
def _regex(pattern: tuple[str, ...]) -> re.Pattern[str]:
    signs = {STAR: ".*", MARK: "."}
    return re.compile("".join(signs.get(piece) or re.escape(piece) for piece in pattern), re.DOTALL)


def fields(node: Node) -> Iterator[str]:
    """Every field that the query names."""
    match node:
        case All():
            return
        case And(parts) | Or(parts):
            for part in parts:
                yield from fields(part)
        case Not(part):
            yield from fields(part)
        case _:
            if node.field is not None:
                yield node.field


# reading

Resolve: TypeAlias = Callable[[str], str]

_SYMBOLS: Final = '()[]{}":<>='
_REFUSED: Final[Mapping[str, str]] = {
    "/": "regular expressions, and a / that is neither quoted nor escaped",
    "^": "boosting (^)",
    "~": "fuzzy and proximity searches (~)",
    "'": "single quotes (a phrase stands in double quotes)",
    **{sign: f"the character {sign} that is neither quoted nor escaped" for sign in "`@#%;,"},
}


class _Piece(NamedTuple):
    """`kind` is a symbol of its own, "word", "quoted", or "end"; `chars` knows what was escaped: (character, is literal)."""

    kind: str
    at: int
    chars: tuple[tuple[str, bool], ...] = ()
    after_space: bool = False

    @property
    def text(self) -> str:
        return "".join(char for char, _ in self.chars)

    @property
    def keyword(self) -> str:
        """The word when nothing in it is escaped, for AND, OR, NOT and TO."""
        return self.text if self.kind == "word" and not any(literal for _, literal in self.chars) else ""


def parse(text: str, resolve: Resolve) -> Node:
    """Raises QueryError, naming the place. resolve: the field that a name means; raises Invalid for none."""
    if len(text) > MAX_LENGTH:
        raise QueryError(f"a query has at most {MAX_LENGTH} characters, and this one has {len(text)}", MAX_LENGTH + 1)
    reader = _Reader(list(_lex(text)), resolve)
    found = reader.query()
    if reader.leading and len(text) > MAX_LEADING_LENGTH:
        raise QueryError(
            f"a query with a leading wildcard has at most {MAX_LEADING_LENGTH} characters, and this one has {len(text)}",
            MAX_LEADING_LENGTH + 1,
        )
    return found


def _lex(text: str) -> Iterator[_Piece]:
    at, after_space = 0, True
    while at < len(text):
        sign = text[at]
        if _SPACES.match(sign):
            at, after_space = at + 1, True
            continue
        began = at
        if sign == '"':
            chars, at = _quoted(text, at)
            yield _Piece("quoted", began + 1, tuple(chars), after_space)
        elif sign in _SYMBOLS:
            at += 1
            yield _Piece(sign, began + 1, (), after_space)
        else:
            word, at = _bare(text, at)
            yield _Piece("word", began + 1, tuple(word), after_space)
        after_space = False
    yield _Piece("end", len(text) + 1, (), True)


def _quoted(text: str, at: int) -> tuple[list[tuple[str, bool]], int]:
    began, chars = at, list[tuple[str, bool]]()
    at += 1
    while at < len(text):
        sign = text[at]
        if sign == '"':
            return chars, at + 1
        if sign == "\\":
            at += 1
            if at == len(text):
                break
        chars.append((text[at], True))
        at += 1
    raise QueryError('the phrase that starts with " is not closed: it starts', began + 1)


def _bare(text: str, at: int) -> tuple[list[tuple[str, bool]], int]:
    chars: list[tuple[str, bool]] = []
    while at < len(text):
        sign = text[at]
        if sign in _SYMBOLS or _SPACES.match(sign):
            break
        if sign == "\\":
            if at + 1 == len(text):
                raise QueryError("nothing follows the escaping \\", at + 1)
            chars.append((text[at + 1], True))
            at += 2
            continue
        if sign in _REFUSED:
            raise QueryError(f"not supported: {_REFUSED[sign]},", at + 1)
        chars.append((sign, False))
        at += 1
    return chars, at


class _Bound(NamedTuple):
    word: str
    number: float | None

    @property
    def value(self) -> float | str:
        return self.word if self.number is None else self.number


class _Reader:
    def __init__(self, pieces: list[_Piece], resolve: Resolve) -> None:
        self._pieces, self._resolve = pieces, resolve
        self._at = self._terms = self._depth = 0
        self.leading = 0

    def query(self) -> Node:
        if self._peek.kind == "end":
            self._fail("the query is empty")
        found = self._either(None)
        if self._peek.kind != "end":
            self._fail(f"{self._peek.kind} closes nothing" if self._peek.kind in ")]}" else "this cannot stand here")
        return found

    # operators

    def _either(self, field: str | None) -> Node:
        parts = [self._every(field)]
        while self._peek.keyword == "OR":
            self._next()
            parts.append(self._every(field))
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def _every(self, field: str | None) -> Node:
        parts = [self._one(field)]
        while True:
            piece = self._peek
            if piece.keyword == "AND":
                self._next()
            elif piece.kind in ("end", ")") or piece.keyword == "OR":
                break
            parts.append(self._one(field))
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _one(self, field: str | None) -> Node:
        """A clause, with what is said before it: NOT or a hyphen."""
        piece = self._peek
        if piece.keyword == "NOT":
            self._next()
            self._deeper()
            found = Not(self._one(field))
            self._depth -= 1
            return found
        if piece.kind == "word" and piece.chars[0] == ("-", False):
            rest = piece.chars[1:]
            if rest:
                self._pieces[self._at] = piece._replace(at=piece.at + 1, chars=rest)
            else:
                self._next()
                if self._peek.after_space:
                    self._fail("a term follows a hyphen without space")
            self._deeper()
            found = Not(self._one(field))
            self._depth -= 1
            return found
        return self._clause(field)

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self._fail(f"nested deeper than {MAX_DEPTH} levels")

    def _clause(self, field: str | None) -> Node:
        piece = self._peek
        if piece.kind == "(":
            return self._group(field)
        if piece.kind not in ("word", "quoted"):
            self._fail("a term is missing" if piece.kind in ("end", ")") else f"{piece.kind} cannot start a term")
        if piece.keyword in ("AND", "OR", "NOT"):
            self._fail(f"a term is missing before {piece.keyword}")
        follows = self._pieces[self._at + 1].kind
        if follows in (":", "<", ">", "="):
            return self._fielded(field)
        return self._value(field, self._next())

    def _group(self, field: str | None) -> Node:
        opened = self._next()
        self._deeper()
        if self._peek.kind == ")":
            self._fail("there is nothing between the parentheses")
        found = self._either(field)
        if self._peek.kind != ")":
            raise QueryError("a parenthesis is not closed: it opens", opened.at)
        self._next()
        self._depth -= 1
        return found

    def _fielded(self, outer: str | None) -> Node:
        piece = self._next()
        if outer is not None:
            raise QueryError(f"{piece.text}: a field within the group of field {outer}", piece.at)
        if any(char in "*?" and not literal for char, literal in piece.chars) or piece.kind == "quoted":
            raise QueryError("a field's name has no wildcards or quotes", piece.at)
        try:
            field = self._resolve(piece.text)
        except Invalid as exc:
            raise QueryError(exc.message, piece.at) from exc
        sign = self._next()
        if sign.kind == "=":
            raise QueryError("= is not an operator of queries; use field:value", sign.at)
        if sign.kind in "<>":
            return self._compared(field, sign.kind)
        if self._peek.kind == "(":
            return self._group(field)
        if self._peek.kind in ("[", "{"):
            return self._range(field)
        if self._peek.kind not in ("word", "quoted"):
            self._fail(f"the value of {field} is missing")
        return self._value(field, self._next())

    # leaves

    def _compared(self, field: str, sign: str) -> Node:
        inclusive = self._peek.kind == "=" and not self._peek.after_space
        if inclusive:
            self._next()
        self._count()
        bound = self._bound()
        if bound is None:
            raise QueryError("a comparison needs a value", self._pieces[self._at - 1].at)
        if sign == "<":
            return Range(field, None, bound.value, with_high=inclusive)
        return Range(field, bound.value, None, with_low=inclusive)

    def _range(self, field: str) -> Node:
        opened = self._next()
        self._count()
        low = self._bound()
        if self._peek.keyword != "TO":
            self._fail("TO is missing in the range")
        self._next()
        high = self._bound()
        closed = self._peek
        if closed.kind not in ("]", "}"):
            raise QueryError("a range is not closed by ] or }: it opens", opened.at)
        self._next()
        if low is None and high is None:
            return Exists(field)
        given = [bound for bound in (low, high) if bound is not None]
        numeric_both = all(bound.number is not None for bound in given)  # one that is no number makes both words
        ends = [None if bound is None else bound.number if numeric_both else bound.word for bound in (low, high)]
        return Range(field, ends[0], ends[1], opened.kind == "[", closed.kind == "]")

    def _bound(self) -> "_Bound | None":
        """None: open, written *."""
        piece = self._peek
        if piece.kind not in ("word", "quoted"):
            self._fail("a value is missing")
        self._next()
        if piece.chars == (("*", False),):
            return None
        if any(char in "*?" and not literal for char, literal in piece.chars):
            raise QueryError("a bound has no wildcards", piece.at)
        words = split(piece.text)
        if len(words) != 1:
            raise QueryError("a bound is one word", piece.at)
        return _Bound(words[0], numeric(words[0]) if piece.kind == "word" else None)

    def _value(self, field: str | None, piece: _Piece) -> Node:
        self._count()
        if piece.chars == (("*", False),):
            return All() if field is None else Exists(field)
        stars = sum(one == ("*", False) for one in piece.chars)
        marks = sum(one == ("?", False) for one in piece.chars)
        if stars or marks:
            return self._wild(field, piece, stars, marks)
        words = [plain(word) for word in split(piece.text)]
        if not words:
            raise QueryError("the term is empty", piece.at)
        if len(words) == 1:
            return Word(field, words[0])
        return Phrase(field, tuple(split(piece.text)))

    def _wild(self, field: str | None, piece: _Piece, stars: int, marks: int) -> Node:
        if stars > MAX_STARS or marks > MAX_MARKS:
            raise QueryError(f"a term has at most {MAX_STARS} * and {MAX_MARKS} ?", piece.at)
        if _SPACES.search(piece.text):
            raise QueryError("a term with wildcards is one word", piece.at)
        if piece.chars[0] in (("*", False), ("?", False)):
            self.leading += 1
            if self.leading > MAX_LEADING:
                raise QueryError(f"at most {MAX_LEADING} term of a query has a leading wildcard: a second is", piece.at)
        pattern: list[str] = []
        for char, literal in piece.chars:
            if not literal and char in "*?":
                pattern.append(STAR if char == "*" else MARK)
            elif pattern and pattern[-1] not in (STAR, MARK):
                pattern[-1] += char.casefold()
            else:
                pattern.append(char.casefold())
        return Wild(field, tuple(pattern))

    # pieces

    @property
    def _peek(self) -> _Piece:
        return self._pieces[self._at]

    def _next(self) -> _Piece:
        self._at += 1
        return self._pieces[self._at - 1]

    def _count(self) -> None:
        self._terms += 1
        if self._terms > MAX_TERMS:
            raise QueryError(f"a query has at most {MAX_TERMS} terms: the next is", self._pieces[self._at - 1].at)

    def _fail(self, message: str) -> NoReturn:
        raise QueryError(message, self._peek.at)


def flat(parts: Iterable[Node]) -> Iterator[Node]:
    """The parts, with those of an And among them in its place."""
    for part in parts:
        if isinstance(part, And):
            yield from flat(part.parts)
        else:
            yield part
