"""The tables of the search index: a document a thing, what it holds as rows to search, and the settings.

`text` and `number` of a row are core.query.Entry's; fields have numbers, of which those below zero are not looked in by
a term without a field. Queries over the rows are in search.py.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from marram.core import codec
from marram.core.codec import JsonObject
from marram.core.query import Entry
from marram.kit.db import Tx

MAX_NAMES: Final = 65_536  # fields of all things together; new names beyond are not indexed

Key: TypeAlias = tuple[int, str]  # field, text
Rows: TypeAlias = dict[Key, Entry]


@dataclass(frozen=True, slots=True)
class State:
    """settings: as JSON. state: OFF, BUILDING, REBUILDING, ACTIVE. position: of the builder, the last thing it looked at."""

    settings: JsonObject
    state: str
    position: str


# settings


def load(tx: Tx) -> State:
    row = tx.one("SELECT settings, state, position FROM registry_index WHERE name = 'AWS_Things'")
    if row is None:
        return State({}, "OFF", "")
    return State(codec.loads_object(row[0]), str(row[1]), str(row[2]))


def save(tx: Tx, state: State) -> None:
    tx.execute(
        "INSERT INTO registry_index (name, settings, state, position) VALUES ('AWS_Things', ?, ?, ?) ON CONFLICT (name)"
        " DO UPDATE SET settings = excluded.settings, state = excluded.state, position = excluded.position",
        codec.dumps(state.settings).decode(),
        state.state,
        state.position,
    )


# documents


def doc(tx: Tx, thing: str) -> int | None:
    row = tx.one("SELECT id FROM registry_index_doc WHERE thing = ?", thing)
    return int(row[0]) if row else None


def thing_of(tx: Tx, doc: int) -> str | None:
    row = tx.one("SELECT thing FROM registry_index_doc WHERE id = ?", doc)
    return str(row[0]) if row else None


def add_doc(tx: Tx, thing: str) -> int:
    row = tx.one(
        "INSERT INTO registry_index_doc (id, thing) SELECT coalesce(max(id), 0) + 1, ? FROM registry_index_doc RETURNING id",
        thing,
    )
    assert row is not None
    return int(row[0])


def delete_doc(tx: Tx, doc: int) -> None:
    tx.execute("DELETE FROM registry_index_term WHERE doc = ?", doc)
    tx.execute("DELETE FROM registry_index_part WHERE doc = ?", doc)
    tx.execute("DELETE FROM registry_index_doc WHERE id = ?", doc)


def docs(tx: Tx, limit: int) -> list[int]:
    return [int(row[0]) for row in tx.all("SELECT id FROM registry_index_doc ORDER BY id LIMIT ?", limit)]


def things_after(tx: Tx, after: str, limit: int) -> list[str]:
    """Registered ones, by name."""
    return [
        str(row[0])
        for row in tx.all("SELECT name FROM registry_thing WHERE name > ? ORDER BY name LIMIT ?", after, limit)
    ]


def static_groups(tx: Tx, thing: str) -> list[str]:
    rows = tx.all(
        "SELECT m.thing_group FROM registry_member m WHERE m.thing = ? AND NOT EXISTS"
        " (SELECT 1 FROM registry_dynamic d WHERE d.thing_group = m.thing_group) ORDER BY m.thing_group",
        thing,
    )
    return [str(row[0]) for row in rows]


# parts


def part(tx: Tx, doc: int, name: str) -> JsonObject | None:
    row = tx.one("SELECT body FROM registry_index_part WHERE doc = ? AND part = ?", doc, name)
    return codec.loads_object(row[0]) if row else None


def parts(tx: Tx, doc: int) -> dict[str, JsonObject]:
    rows = tx.all("SELECT part, body FROM registry_index_part WHERE doc = ?", doc)
    return {str(name): codec.loads_object(body) for name, body in rows}


def save_part(tx: Tx, doc: int, name: str, body: JsonObject | None) -> None:
    """None: it is gone."""
    if body is None:
        tx.execute("DELETE FROM registry_index_part WHERE doc = ? AND part = ?", doc, name)
        return
    tx.execute(
        "INSERT INTO registry_index_part (doc, part, body) VALUES (?, ?, ?)"
        " ON CONFLICT (doc, part) DO UPDATE SET body = excluded.body",
        doc,
        name,
        codec.dumps(body).decode(),
    )


# fields


def names(tx: Tx) -> dict[str, int]:
    return {str(name): int(number) for number, name in tx.all("SELECT id, name FROM registry_index_field")}


def field(tx: Tx, name: str) -> int | None:
    row = tx.one("SELECT id FROM registry_index_field WHERE name = ?", name)
    return int(row[0]) if row else None


def field_name(tx: Tx, number: int) -> str:
    row = tx.one("SELECT name FROM registry_index_field WHERE id = ?", number)
    assert row is not None
    return str(row[0])


def add_field(tx: Tx, name: str, *, bare: bool) -> int | None:
    """None when there are too many."""
    row = tx.one("SELECT coalesce(max(abs(id)), 0) FROM registry_index_field")
    assert row is not None
    if row[0] >= MAX_NAMES:
        return None
    number = (int(row[0]) + 1) * (1 if bare else -1)
    tx.execute("INSERT INTO registry_index_field (id, name) VALUES (?, ?)", number, name)
    return number


def delete_fields(tx: Tx) -> None:
    tx.execute("DELETE FROM registry_index_field")


# rows


def rows(tx: Tx, doc: int, field: int | None = None) -> Rows:
    """All of a document, or of one of its fields."""
    only, params = ("", [doc]) if field is None else (" AND field = ?", [doc, field])
    found = tx.all(f"SELECT field, text, number, value FROM registry_index_term WHERE doc = ?{only}", *params)  # noqa: S608
    return {(field, text): Entry(text, number, text if value == "" else value) for field, text, number, value in found}


def change_rows(tx: Tx, doc: int, before: Mapping[Key, Entry], after: Mapping[Key, Entry]) -> None:
    gone = [(doc, *key) for key in before if key not in after]
    if gone:
        tx.many("DELETE FROM registry_index_term WHERE doc = ? AND field = ? AND text = ?", gone)
    other = [(key, entry) for key, entry in after.items() if before.get(key) != entry]
    if other:
        tx.many(
            "INSERT INTO registry_index_term (doc, field, text, number, value) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (doc, field, text) DO UPDATE SET number = excluded.number, value = excluded.value",
            [
                (doc, field, text, entry.number, "" if entry.value == text else entry.value)
                for (field, text), entry in other
            ],
        )


# dynamic groups


@dataclass(frozen=True, slots=True)
class DynamicGroup:
    """state: BUILDING, REBUILDING, ACTIVE. position: of the builder, JSON."""

    name: str
    query: str
    state: str
    position: str
    created_ms: int

    @property
    def shown_state(self) -> str:
        return self.state if self.state in ("BUILDING", "ACTIVE") else "REBUILDING"


_DYNAMIC: Final = "SELECT thing_group, query, state, position, created_ms FROM registry_dynamic"


def dynamic_groups(tx: Tx) -> list[DynamicGroup]:
    """The oldest first."""
    return [DynamicGroup(*row) for row in tx.all(f"{_DYNAMIC} ORDER BY created_ms, thing_group")]


def dynamic_group(tx: Tx, name: str) -> DynamicGroup | None:
    row = tx.one(f"{_DYNAMIC} WHERE thing_group = ?", name)
    return DynamicGroup(*row) if row else None


def save_dynamic_group(tx: Tx, group: DynamicGroup) -> None:
    tx.execute(
        "INSERT INTO registry_dynamic (thing_group, query, state, position, created_ms) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (thing_group) DO UPDATE SET query = excluded.query, state = excluded.state, position = excluded.position",
        group.name,
        group.query,
        group.state,
        group.position,
        group.created_ms,
    )


def delete_dynamic_group(tx: Tx, name: str) -> None:
    tx.execute("DELETE FROM registry_dynamic WHERE thing_group = ?", name)


def dynamic_groups_of(tx: Tx, thing: str) -> list[str]:
    """Those that a thing is in, the newest first."""
    rows = tx.all(
        "SELECT d.thing_group FROM registry_member m JOIN registry_dynamic d ON d.thing_group = m.thing_group"
        " WHERE m.thing = ? ORDER BY d.created_ms DESC, d.thing_group DESC",
        thing,
    )
    return [str(row[0]) for row in rows]


def groups_by_thing(tx: Tx, docs: Sequence[int]) -> dict[str, list[str]]:
    """Of the things of some documents; those in no group are left out."""
    if not docs:
        return {}
    marks = ", ".join("?" * len(docs))
    rows = tx.all(
        "SELECT m.thing, m.thing_group FROM registry_index_doc d JOIN registry_member m ON m.thing = d.thing"  # noqa: S608
        f" WHERE d.id IN ({marks})",
        *docs,
    )
    found: dict[str, list[str]] = {}
    for thing, group in rows:
        found.setdefault(str(thing), []).append(str(group))
    return found


def add_members(tx: Tx, group: str, things: Iterable[str]) -> None:
    """Of those that are not in it yet."""
    tx.many("INSERT INTO registry_member (thing_group, thing) VALUES (?, ?)", [(group, thing) for thing in things])


def remove_members(tx: Tx, group: str, things: Iterable[str]) -> None:
    tx.many("DELETE FROM registry_member WHERE thing_group = ? AND thing = ?", [(group, thing) for thing in things])
