"""A query as SQL over the rows of the index, and a way through the documents that finds a page soon.

A condition looks at one document's rows, by their primary key. Which documents are looked at, and in which order, says
the way: the few that a selective part of the query has, or all that have one word, or all there are. Each step reads a
window of bounded size. All text of a query is a bound parameter.

What a leaf of a query means is core.query's `fits`: both are held against each other by a test.
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from marram.core import query
from marram.core.query import All, And, Entry, Exists, Leaf, Node, Not, Or, Phrase, Range, Wild, Word
from marram.kit.db import Tx, Value

MANY_FIELDS: Final = 2_000
_LAST: Final = "\U0010ffff"


class Sizes(NamedTuple):
    """few: documents; a part of a query with fewer is the way. window: documents of one step. counted: words are compared
    up to so many entries. merged: of two words with more entries, both lists are walked together, which costs less than to
    probe."""

    few: int = 2_000
    window: int = 10_000
    counted: int = 20_000
    merged: int = 5_000


class Sql(NamedTuple):
    text: str
    params: tuple[Value, ...] = ()


NOTHING: Final = Sql("")
DEFAULT: Final = Sizes()


class Way(NamedTuple):
    """`source` selects documents as column doc; `rest` is what they must fulfil besides. has_all: it is small.

    also: a second selection of which they must be; both are in order, and are walked together.
    """

    source: Sql
    rest: Sql
    has_all: bool
    also: Sql | None = None
    sizes: Sizes = DEFAULT


class Span(NamedTuple):
    """Documents with after < id <= last; None: to the end."""

    after: int
    last: int | None


# the way


def way(tx: Tx, node: Node, sizes: Sizes = DEFAULT) -> Way:
    """Choose by counting, which is bounded itself."""
    parts = [_settled(tx, part) for part in query.flat([node])]
    best: tuple[int, Sql, Node | None] | None = None
    for part in parts:
        for source, exact in _sources(part):
            size = _count(tx, source, sizes.few)
            if size < sizes.few and (best is None or size < best[0]):
                best = size, source, part if exact else None
    if best is not None:
        _, source, used = best
        distinct = Sql(f"SELECT DISTINCT doc FROM ({source.text}) s", source.params)  # noqa: S608 - of this module
        return Way(distinct, _all_of(part for part in parts if part is not used), has_all=True, sizes=sizes)
    words = [part for part in parts if isinstance(part, Word) and part.field is not None]
    if words:
        entries = [_count(tx, _entries(word), sizes.counted) if len(words) > 1 else 0 for word in words]
        ranked = sorted(range(len(words)), key=entries.__getitem__)
        by = [words[at] for at in ranked[: 2 if entries[ranked[0]] > sizes.merged else 1]]
        rest = _all_of(part for part in parts if not any(part is used for used in by))
        return Way(_entries(by[0]), rest, has_all=False, also=_entries(by[1]) if len(by) > 1 else None, sizes=sizes)
    return Way(Sql("SELECT id AS doc FROM registry_index_doc"), _all_of(parts), has_all=False, sizes=sizes)


def window(tx: Tx, way: Way, after: int, size: int = 0) -> Span:
    """The next documents of the way, as many as its sizes say, or `size` when that is less."""
    if way.has_all:
        return Span(after, None)
    row = tx.one(
        f"SELECT x.doc FROM ({way.source.text}) x WHERE x.doc > ? ORDER BY x.doc LIMIT 1 OFFSET ?",  # noqa: S608 - constants
        *way.source.params, after, min(size or way.sizes.window, way.sizes.window) - 1,
    )  # fmt: skip
    return Span(after, int(row[0]) if row else None)


def documents(tx: Tx, way: Way, span: Span, limit: int) -> list[int]:
    where = within(way, span)
    rows = tx.all(f"SELECT x.doc {where.text} ORDER BY x.doc LIMIT ?", *where.params, limit)
    return [int(row[0]) for row in rows]


def within(way: Way, span: Span, join: Sql = NOTHING) -> Sql:
    """FROM and WHERE for the documents of a window that fit, as x.doc. join: more of FROM."""
    bounds: tuple[Value, ...] = (span.after,) if span.last is None else (span.after, span.last)
    upto = "" if span.last is None else " AND {0}.doc <= ?"
    source = way.source
    if way.also is not None:
        # With the bounds within each half, and an order that a limit keeps SQLite from leaving out, it merges the two as
        # they lie in the index; else it would put one of them into a tree of its own first.
        inside = f" AND t.doc > ?{upto.format('t')}"
        source = Sql(
            f"{way.source.text}{inside} INTERSECT {way.also.text}{inside} ORDER BY 1 LIMIT {2 * way.sizes.window}",
            (*way.source.params, *bounds, *way.also.params, *bounds),
        )
    return Sql(
        f"FROM ({source.text}) x {join.text} WHERE x.doc > ?{upto.format('x')} AND {way.rest.text}",
        (*source.params, *join.params, *bounds, *way.rest.params),
    )


def how_many(tx: Tx, way: Way, span: Span) -> int:
    where = within(way, span)
    row = tx.one(f"SELECT count(*) {where.text}", *where.params)
    assert row is not None
    return int(row[0])


def values(tx: Tx, way: Way, span: Span, field: str) -> list[tuple[Entry, int]]:
    """Each different value of a field among the documents that fit, and how many have it."""
    join = Sql(
        "JOIN registry_index_term v ON v.doc = x.doc AND v.value IS NOT NULL"
        " AND v.field = (SELECT f.id FROM registry_index_field f WHERE f.name = ?)",
        (field,),
    )
    where = within(way, span, join)
    rows = tx.all(
        f"SELECT v.text, v.number, v.value, count(*) {where.text} GROUP BY v.text, v.number, v.value", *where.params
    )
    return [(Entry(text, number, text if value == "" else value), int(count)) for text, number, value, count in rows]


def fitting(tx: Tx, node: Node, docs: Sequence[int]) -> list[tuple[int, str]]:
    """(document, thing) of those among `docs` that fit."""
    if not docs:
        return []
    fits = condition(node, "d.id")
    marks = ", ".join("?" * len(docs))
    rows = tx.all(
        f"SELECT d.id, d.thing FROM registry_index_doc d WHERE d.id IN ({marks}) AND {fits.text} ORDER BY d.id",  # noqa: S608
        *docs, *fits.params,
    )  # fmt: skip
    return [(int(doc), str(thing)) for doc, thing in rows]


def _settled(tx: Tx, part: Node) -> Node:
    """A word that is in one field only is a word of that field, of which all documents are in order."""
    if not isinstance(part, Word) or part.field is not None:
        return part
    rows = tx.all(
        "SELECT f.name FROM registry_index_field f WHERE f.id > 0 AND f.id <= ? AND EXISTS"
        " (SELECT 1 FROM registry_index_term t WHERE t.field = f.id AND t.text = ?) LIMIT 2",
        MANY_FIELDS, part.text,
    )  # fmt: skip
    more = tx.one("SELECT 1 FROM registry_index_field WHERE id > ? LIMIT 1", MANY_FIELDS)
    return Word(str(rows[0][0]), part.text) if len(rows) == 1 and more is None else part


def _count(tx: Tx, source: Sql, limit: int) -> int:
    row = tx.one(f"SELECT count(*) FROM (SELECT 1 FROM ({source.text}) s LIMIT ?) c", *source.params, limit)  # noqa: S608
    assert row is not None
    return int(row[0])


def _sources(part: Node) -> list[tuple[Sql, bool]]:
    """Selections of documents with all that fit `part`; exact: with no others. Each can be counted quickly up to a limit."""
    match part:
        case Word() | Range() | Exists():
            return [(_entries(part), True)]
        case Wild():
            return [(_entries(part), True)] if part.prefix else []
        case Phrase():
            return [(_entries(Word(part.field, query.plain(word))), False) for word in part.words]
        case Or(parts):
            return _union(parts)
        case _:
            return []


def _union(parts: Sequence[Node]) -> list[tuple[Sql, bool]]:
    each = [_sources(part) for part in parts]
    if not all(each):
        return []
    chosen = [found[0] for found in each]
    text = " UNION ALL ".join(source.text for source, _ in chosen)
    params = tuple(value for source, _ in chosen for value in source.params)
    return [(Sql(text, params), all(exact for _, exact in chosen))]


# conditions


def condition(node: Node, doc: str) -> Sql:
    """What is true of a document that fits; `doc` is a column with its id."""
    match node:
        case All():
            return Sql("1 = 1")
        case And(parts):
            return _joined(" AND ", (condition(part, doc) for part in parts))
        case Or(parts):
            return _joined(" OR ", (condition(part, doc) for part in parts))
        case Not(part):
            found = condition(part, doc)
            return Sql(f"NOT {found.text}", found.params)
        case _:
            where = _where(node, is_probe=True)
            return Sql(
                f"EXISTS (SELECT 1 FROM registry_index_term t WHERE t.doc = {doc} AND {where.text})",  # noqa: S608
                where.params,
            )


def _all_of(parts: Iterable[Node]) -> Sql:
    return _joined(" AND ", (condition(part, "x.doc") for part in parts))


def _joined(sign: str, parts: Iterable[Sql]) -> Sql:
    found = list(parts)
    if not found:
        return Sql("1 = 1")
    return Sql(f"({sign.join(part.text for part in found)})", tuple(value for part in found for value in part.params))


def _entries(leaf: Leaf) -> Sql:
    """The documents of all entries that fit; one may come several times, but for a word of one field."""
    where = _where(leaf)
    return Sql(f"SELECT t.doc FROM registry_index_term t WHERE {where.text}", where.params)  # noqa: S608


def _where(leaf: Leaf, *, is_probe: bool = False) -> Sql:
    """What is true of an entry that fits: core.query's `fits`. is_probe: of one document."""
    if leaf.field is None and is_probe:
        field = Sql("t.field > 0")
    elif leaf.field is None:
        field = Sql("t.field IN (SELECT f.id FROM registry_index_field f WHERE f.id > 0)")
    else:
        field = Sql("t.field = (SELECT f.id FROM registry_index_field f WHERE f.name = ?)", (leaf.field,))
    fits = _fits(leaf, is_probe=is_probe)
    return Sql(f"{field.text}{' AND ' if fits.text else ''}{fits.text}", field.params + fits.params)


def _fits(leaf: Leaf, *, is_probe: bool) -> Sql:
    match leaf:
        case Exists():
            return Sql("")
        case Word():
            return Sql("t.text = ?", (leaf.text,))
        case Wild():
            between = (
                Sql("t.text >= ? AND t.text < ? AND ", (leaf.prefix, leaf.prefix + _LAST)) if leaf.prefix else Sql("")
            )
            return Sql(f"{between.text}t.text LIKE ? ESCAPE '\\' AND {_IS_WORD}", (*between.params, _pattern(leaf)))
        case Phrase():
            return Sql("t.text LIKE ? ESCAPE '\\'", (f"%{_escaped(' ' + ' '.join(leaf.words) + ' ')}%",))
        case Range():
            return _range(leaf, is_probe=is_probe)


def _range(leaf: Range, *, is_probe: bool) -> Sql:
    column = "t.number" if leaf.is_numeric else "t.text"
    tests: list[str] = []
    bounds: list[Value] = []
    if leaf.low is not None:
        tests.append(f"{column} {'>=' if leaf.with_low else '>'} ?")
        bounds.append(leaf.low)
    if leaf.high is not None:
        tests.append(f"{column} {'<=' if leaf.with_high else '<'} ?")
        bounds.append(leaf.high)
    found = " AND ".join(tests)
    if not leaf.is_numeric:
        found += f" AND {_IS_WORD}"
    elif is_probe:
        # Else SQLite takes the index of numbers, and walks all numbers of the field for each document.
        found = f"coalesce({found}, 1 = 0)"
    else:
        found += " AND t.number IS NOT NULL"  # as the index of numbers says
    return Sql(found, tuple(bounds))


# The words of a value begin with a space, and what has no word is empty.
_IS_WORD: Final = "substr(t.text, 1, 1) <> ' ' AND t.text <> ''"


def _pattern(leaf: Wild) -> str:
    signs = {query.STAR: "%", query.MARK: "_"}
    return "".join(signs.get(piece) or _escaped(piece) for piece in leaf.pattern)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
