"""The tables of the registry. Empty text stands for no type and no parent."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, cast

from marram.core import codec
from marram.core.codec import JsonValue
from marram.core.errors import Invalid
from marram.kit.db import Row, Tx


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    name: str
    id: str
    type: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict[str, str])
    version: int = 1
    created_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ThingType:
    name: str
    id: str
    description: str = ""
    searchable: tuple[str, ...] = ()
    deprecated_ms: int | None = None
    created_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ThingGroup:
    name: str
    id: str
    parent: str = ""
    description: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict[str, str])
    version: int = 1
    created_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """All that is set must hold."""

    type: str = ""
    attribute: str = ""
    value: str = ""
    prefix: bool = False


# things


def thing(tx: Tx, name: str) -> Thing | None:
    row = tx.one(f"SELECT {_THING} FROM registry_thing t WHERE t.name = ?", name)  # noqa: S608 - constant
    return _thing(row) if row else None


def thing_exists(tx: Tx, name: str) -> bool:
    return tx.one("SELECT 1 FROM registry_thing WHERE name = ?", name) is not None


def add_thing(tx: Tx, thing: Thing) -> None:
    tx.execute(
        "INSERT INTO registry_thing (name, id, type, attributes, version, created_ms) VALUES (?, ?, ?, ?, ?, ?)",
        thing.name,
        thing.id,
        thing.type,
        codec.dumps(dict(thing.attributes)).decode(),
        thing.version,
        thing.created_ms,
    )
    _add_attributes(tx, thing)


def save_thing(tx: Tx, thing: Thing) -> None:
    """Of one that is there: type, attributes and version."""
    tx.execute(
        "UPDATE registry_thing SET type = ?, attributes = ?, version = ? WHERE name = ?",
        thing.type,
        codec.dumps(dict(thing.attributes)).decode(),
        thing.version,
        thing.name,
    )
    tx.execute("DELETE FROM registry_attribute WHERE thing = ?", thing.name)
    _add_attributes(tx, thing)


def _add_attributes(tx: Tx, thing: Thing) -> None:
    rows = [(name, value, thing.name) for name, value in thing.attributes.items()]
    if rows:
        tx.many("INSERT INTO registry_attribute (name, value, thing) VALUES (?, ?, ?)", rows)


def delete_thing(tx: Tx, name: str) -> None:
    tx.execute("DELETE FROM registry_attribute WHERE thing = ?", name)
    tx.execute("DELETE FROM registry_member WHERE thing = ?", name)
    tx.execute("DELETE FROM registry_thing WHERE name = ?", name)


def things(tx: Tx, search: Search, after: JsonValue, limit: int) -> tuple[list[Thing], JsonValue]:
    """(at most `limit` that match, where to go on or None at the end). Raises Invalid for an `after` of another search."""
    if not search.attribute:
        return _things_by_name(tx, search.type, after, limit)
    return _things_by_attribute(tx, search, after, limit)


def _things_by_name(tx: Tx, type_name: str, after: JsonValue, limit: int) -> tuple[list[Thing], JsonValue]:
    match after:
        case None:
            last = ""
        case str():
            last = after
        case _:
            raise Invalid("the page token is of another search")
    where, params = ("AND t.type = ?", [last, type_name]) if type_name else ("", [last])
    sql = f"SELECT {_THING} FROM registry_thing t WHERE t.name > ? {where} ORDER BY t.name LIMIT ?"  # noqa: S608 - constants
    found = [_thing(row) for row in tx.all(sql, *params, limit + 1)]
    return (found, None) if len(found) <= limit else (found[:limit], found[limit - 1].name)


def _things_by_attribute(tx: Tx, search: Search, after: JsonValue, limit: int) -> tuple[list[Thing], JsonValue]:
    """In the order of the index: by value, then by name. A type is looked at thing by thing, so a page ends after SCANNED."""
    match after:
        case None:
            value, last = search.value, ""
        case [str(value), str(last)]:
            pass
        case _:
            raise Invalid("the page token is of another search")
    scan = max(SCANNED, limit) if search.type else limit
    if search.prefix:
        where, params = "a.value < ? AND (a.value, a.thing) > (?, ?)", [search.value + _LAST, value, last]
    else:  # not as a range of one value: SQLite would read on to the end of the attribute
        where, params = "a.value = ? AND a.thing > ?", [search.value, last]
    sql = (
        f"SELECT a.value, {_THING} FROM (SELECT a.value, a.thing FROM registry_attribute a WHERE a.name = ? AND {where}"  # noqa: S608
        " ORDER BY a.value, a.thing LIMIT ?) a JOIN registry_thing t ON t.name = a.thing ORDER BY a.value, a.thing"
    )
    rows = tx.all(sql, search.attribute, *params, scan + 1)
    found: list[Thing] = []
    for number, row in enumerate(rows):
        if len(found) == limit or number == scan:
            before = rows[number - 1]
            return found, [str(before[0]), str(before[1])]
        thing = _thing(row[1:])
        if not search.type or thing.type == search.type:
            found.append(thing)
    return found, None


# types


def thing_type(tx: Tx, name: str) -> ThingType | None:
    row = tx.one(f"SELECT {_TYPE} FROM registry_type WHERE name = ?", name)  # noqa: S608 - constant
    return _type(row) if row else None


def save_type(tx: Tx, kind: ThingType) -> None:
    tx.execute(
        "INSERT INTO registry_type (name, id, description, searchable, deprecated_ms, created_ms) VALUES (?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (name) DO UPDATE SET description = excluded.description, searchable = excluded.searchable,"
        " deprecated_ms = excluded.deprecated_ms",
        kind.name,
        kind.id,
        kind.description,
        codec.dumps(list(kind.searchable)).decode(),
        kind.deprecated_ms,
        kind.created_ms,
    )


def delete_type(tx: Tx, name: str) -> None:
    tx.execute("DELETE FROM registry_type WHERE name = ?", name)


def types(tx: Tx, only: str, after: str, limit: int) -> list[ThingType]:
    sql = f"SELECT {_TYPE} FROM registry_type WHERE name > ? AND (? = '' OR name = ?) ORDER BY name LIMIT ?"  # noqa: S608
    return [_type(row) for row in tx.all(sql, after, only, only, limit)]


def type_used(tx: Tx, name: str) -> bool:
    return tx.one("SELECT 1 FROM registry_thing WHERE type = ? LIMIT 1", name) is not None


# groups


def group(tx: Tx, name: str) -> ThingGroup | None:
    row = tx.one(f"SELECT {_GROUP} FROM registry_group WHERE name = ?", name)  # noqa: S608 - constant
    return _group(row) if row else None


def save_group(tx: Tx, group: ThingGroup) -> None:
    tx.execute(
        "INSERT INTO registry_group (name, id, parent, description, attributes, version, created_ms)"
        " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET description = excluded.description,"
        " attributes = excluded.attributes, version = excluded.version",
        group.name,
        group.id,
        group.parent,
        group.description,
        codec.dumps(dict(group.attributes)).decode(),
        group.version,
        group.created_ms,
    )


def delete_group(tx: Tx, name: str) -> None:
    tx.execute("DELETE FROM registry_member WHERE thing_group = ?", name)
    tx.execute("DELETE FROM registry_group WHERE name = ?", name)


def take_out_group(tx: Tx, group: ThingGroup, above: Iterable[ThingGroup]) -> None:
    """It is leaving now, with all its members."""
    tx.execute("DELETE FROM registry_group WHERE name = ?", group.name)
    tx.execute(
        f"INSERT INTO registry_leaving ({_GROUP}, above) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - constant
        group.name,
        group.id,
        group.parent,
        group.description,
        codec.dumps(dict(group.attributes)).decode(),
        group.version,
        group.created_ms,
        codec.dumps([[each.name, each.id] for each in above]).decode(),
    )


def leaving(tx: Tx, name: str) -> tuple[ThingGroup, list[ThingGroup]] | None:
    """With the groups it was below, the root first: their names and ids."""
    row = tx.one(f"SELECT {_GROUP}, above FROM registry_leaving WHERE name = ?", name)  # noqa: S608 - constant
    if row is None:
        return None
    above = cast("list[tuple[str, str]]", codec.loads(str(row[7])))
    return _group(row), [ThingGroup(name=each, id=its) for each, its in above]


def first_leaving(tx: Tx) -> str | None:
    row = tx.one("SELECT name FROM registry_leaving ORDER BY name LIMIT 1")
    return str(row[0]) if row else None


def forget_leaving(tx: Tx, name: str) -> None:
    tx.execute("DELETE FROM registry_leaving WHERE name = ?", name)


def groups(tx: Tx, prefix: str, parent: str | None, after: str, limit: int) -> list[str]:
    """Names by order; `parent` restricts to its children, the empty one to the roots."""
    where, params = ["name > ?"], [after]
    if prefix:
        where.append("name >= ? AND name < ?")
        params += [prefix, prefix + _LAST]
    if parent is not None:
        where.append("parent = ?")
        params.append(parent)
    sql = f"SELECT name FROM registry_group WHERE {' AND '.join(where)} ORDER BY name LIMIT ?"  # noqa: S608 - constants
    return [str(row[0]) for row in tx.all(sql, *params, limit)]


def descendants(tx: Tx, name: str) -> list[str]:
    """The groups below a group, at any depth, without itself, in order."""
    rows = tx.all(
        "WITH RECURSIVE below (name) AS (SELECT name FROM registry_group WHERE parent = ?"
        " UNION SELECT g.name FROM registry_group g JOIN below b ON g.parent = b.name) SELECT name FROM below ORDER BY name",
        name,
    )
    return [str(row[0]) for row in rows]


def children(tx: Tx, name: str) -> int:
    """How many groups are directly below it."""
    row = tx.one("SELECT count(*) FROM registry_group WHERE parent = ?", name)
    return int(row[0]) if row else 0


# membership


def add_member(tx: Tx, group_name: str, thing_name: str) -> bool:
    sql = "INSERT INTO registry_member (thing_group, thing) VALUES (?, ?) ON CONFLICT (thing_group, thing) DO NOTHING"
    return tx.execute(sql, group_name, thing_name) > 0


def remove_member(tx: Tx, group_name: str, thing_name: str) -> bool:
    return tx.execute("DELETE FROM registry_member WHERE thing_group = ? AND thing = ?", group_name, thing_name) > 0


def remove_members(tx: Tx, group_name: str, thing_names: Iterable[str]) -> None:
    rows = [(group_name, name) for name in thing_names]
    if rows:
        tx.many("DELETE FROM registry_member WHERE thing_group = ? AND thing = ?", rows)


def groups_of(tx: Tx, thing_name: str, after: str = "", limit: int = 1 << 30) -> list[str]:
    """Without those that are leaving."""
    sql = (
        "SELECT thing_group FROM registry_member m WHERE thing = ? AND thing_group > ? AND NOT EXISTS"
        " (SELECT 1 FROM registry_leaving l WHERE l.name = m.thing_group) ORDER BY thing_group LIMIT ?"
    )
    return [str(row[0]) for row in tx.all(sql, thing_name, after, limit)]


def members(tx: Tx, group_name: str, after: str = "", limit: int = 1 << 30, *, recursive: bool = False) -> list[str]:
    """Things by name; recursive: those of the groups below as well, each once."""
    if not recursive:
        sql = "SELECT thing FROM registry_member WHERE thing_group = ? AND thing > ? ORDER BY thing LIMIT ?"
    else:
        sql = (
            "WITH RECURSIVE below (name) AS (SELECT name FROM registry_group WHERE name = ?"
            " UNION SELECT g.name FROM registry_group g JOIN below b ON g.parent = b.name)"
            " SELECT DISTINCT m.thing FROM below b JOIN registry_member m ON m.thing_group = b.name"
            " WHERE m.thing > ? ORDER BY m.thing LIMIT ?"
        )
    return [str(row[0]) for row in tx.all(sql, group_name, after, limit)]


# tags


def tags(tx: Tx, resource: str, bearer: str) -> dict[str, str]:
    sql = "SELECT key, value FROM registry_tag WHERE resource = ? AND bearer = ? ORDER BY key"
    return {str(row[0]): str(row[1]) for row in tx.all(sql, resource, bearer)}


def set_tags(tx: Tx, resource: str, bearer: str, tags: Mapping[str, str]) -> None:
    """Those of an earlier bearer of the name go."""
    tx.execute("DELETE FROM registry_tag WHERE resource = ? AND bearer <> ?", resource, bearer)
    tx.many(
        "INSERT INTO registry_tag (resource, key, value, bearer) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (resource, key) DO UPDATE SET value = excluded.value",
        [(resource, key, value, bearer) for key, value in tags.items()],
    )


def drop_tags(tx: Tx, resource: str, keys: Iterable[str]) -> None:
    tx.many("DELETE FROM registry_tag WHERE resource = ? AND key = ?", [(resource, key) for key in keys])


# events


@dataclass(frozen=True, slots=True, kw_only=True)
class EventType:
    enabled: bool
    created_ms: int
    modified_ms: int


def event_enabled(tx: Tx, name: str) -> bool:
    row = tx.one("SELECT enabled FROM registry_event WHERE name = ?", name)
    return bool(row and row[0])


def events(tx: Tx) -> dict[str, EventType]:
    """Those that were ever set, by name."""
    rows = tx.all("SELECT name, enabled, created_ms, modified_ms FROM registry_event")
    return {
        str(row[0]): EventType(enabled=bool(row[1]), created_ms=int(row[2]), modified_ms=int(row[3])) for row in rows
    }


def set_event(tx: Tx, name: str, enabled: bool) -> None:
    tx.execute(
        "INSERT INTO registry_event (name, enabled, created_ms, modified_ms) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (name) DO UPDATE SET enabled = excluded.enabled, modified_ms = excluded.modified_ms",
        name,
        int(enabled),
        tx.now_ms,
        tx.now_ms,
    )


SCANNED: Final = 2_000
_THING: Final = "t.name, t.id, t.type, t.attributes, t.version, t.created_ms"
_TYPE: Final = "name, id, description, searchable, deprecated_ms, created_ms"
_GROUP: Final = "name, id, parent, description, attributes, version, created_ms"
_LAST: Final = "\U0010ffff"  # sorts behind every character that a name or value may have


def _thing(row: Row) -> Thing:
    return Thing(
        name=str(row[0]),
        id=str(row[1]),
        type=str(row[2]),
        attributes=_attributes(row[3]),
        version=int(row[4]),
        created_ms=int(row[5]),
    )


def _type(row: Row) -> ThingType:
    return ThingType(
        name=str(row[0]),
        id=str(row[1]),
        description=str(row[2]),
        searchable=tuple(cast("list[str]", codec.loads(row[3]))),
        deprecated_ms=int(row[4]) if row[4] is not None else None,
        created_ms=int(row[5]),
    )


def _group(row: Row) -> ThingGroup:
    return ThingGroup(
        name=str(row[0]),
        id=str(row[1]),
        parent=str(row[2]),
        description=str(row[3]),
        attributes=_attributes(row[4]),
        version=int(row[5]),
        created_ms=int(row[6]),
    )


def _attributes(text: str) -> dict[str, str]:
    return cast("dict[str, str]", codec.loads_object(text))
