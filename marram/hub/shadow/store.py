"""The tables of shadows. The classic shadow has the empty name."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from marram.core import codec
from marram.core import shadow as algebra
from marram.hub.shadow import kept
from marram.hub.shadow.kept import Kept
from marram.kit.db import Row, Tx

GRAVE_MS: Final = 48 * 3600 * 1000  # a deleted shadow's version is remembered this long, as AWS does
UNKNOWN: Final = -1  # since_ms of a shadow that was written before times were kept


@dataclass(frozen=True, slots=True)
class Stored:
    """A shadow with the times of its delta (unreached.since). `told`: the event for it has left."""

    kept: Kept
    since: Mapping[str, int]
    told: bool = False
    is_timed: bool = True


@dataclass(frozen=True, slots=True)
class Unreached:
    """A shadow whose wish has not been reached since `since_ms`; `since`: the same for each leaf, by JSON pointer."""

    thing: str
    name: str
    since_ms: int
    since: Mapping[str, int]
    version: int


NOTHING: Final = Stored(kept.EMPTY, {})


def load(tx: Tx, thing: str, name: str) -> Stored:
    row = tx.one("SELECT body, since_ms, since, told FROM shadow WHERE thing = ? AND name = ?", thing, name)
    if row is None:
        return NOTHING
    return Stored(kept.decode(bytes(row[0])), _times(row[2]), bool(row[3]), row[1] != UNKNOWN)


def document(tx: Tx, thing: str, name: str) -> algebra.Document:
    row = tx.one("SELECT body FROM shadow WHERE thing = ? AND name = ?", thing, name)
    return kept.decode(bytes(row[0])).document if row else algebra.EMPTY


def documents(tx: Tx, thing: str) -> dict[str, algebra.Document]:
    """All of a thing, by name."""
    rows = tx.all("SELECT name, body FROM shadow WHERE thing = ?", thing)
    return {str(name): kept.decode(bytes(body)).document for name, body in rows}


def version_before(tx: Tx, thing: str, name: str) -> int:
    """The version that a new shadow goes on from: that of the one deleted within 48 h, else 0."""
    row = tx.one("SELECT version, deleted_ms FROM shadow_grave WHERE thing = ? AND name = ?", thing, name)
    return int(row[0]) if row and tx.now_ms - int(row[1]) < GRAVE_MS else 0


def save(tx: Tx, thing: str, name: str, stored: Stored, before: Stored) -> None:
    """before: what `load` gave in this transaction."""
    body = kept.encode(stored.kept)
    if before.kept.exists and before.is_timed and (before.since, before.told) == (stored.since, stored.told):
        sql = "UPDATE shadow SET body = ?, modified_ms = ? WHERE thing = ? AND name = ?"
        tx.execute(sql, body, tx.now_ms, thing, name)
        return
    tx.execute(
        "INSERT INTO shadow (thing, name, body, modified_ms, since_ms, since, told) VALUES (?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (thing, name) DO UPDATE SET body = excluded.body, modified_ms = excluded.modified_ms,"
        " since_ms = excluded.since_ms, since = excluded.since, told = excluded.told",
        thing,
        name,
        body,
        tx.now_ms,
        min(stored.since.values(), default=None),
        codec.dumps(stored.since) if stored.since else None,
        int(stored.told),
    )


def delete(tx: Tx, thing: str, name: str, version: int) -> None:
    tx.execute("DELETE FROM shadow WHERE thing = ? AND name = ?", thing, name)
    tx.execute(
        "INSERT INTO shadow_grave (thing, name, version, deleted_ms) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (thing, name) DO UPDATE SET version = excluded.version, deleted_ms = excluded.deleted_ms",
        thing,
        name,
        version,
        tx.now_ms,
    )


def forget_graves(tx: Tx, limit: int) -> int:
    """Versions of shadows that are gone for longer than they count."""
    return tx.execute(
        "DELETE FROM shadow_grave WHERE (thing, name) IN"
        " (SELECT thing, name FROM shadow_grave WHERE deleted_ms <= ? LIMIT ?)",
        tx.now_ms - GRAVE_MS,
        limit,
    )


def names(tx: Tx, thing: str, after: str, limit: int) -> list[str]:
    """Named shadows of a thing in order, those greater than `after`."""
    rows = tx.all(
        "SELECT name FROM shadow WHERE thing = ? AND name > ? AND name <> '' ORDER BY name LIMIT ?", thing, after, limit
    )
    return [str(row[0]) for row in rows]


# desired not reached


def unreached(tx: Tx, until_ms: int, after: tuple[int, str, str], limit: int) -> list[Unreached]:
    """Not reached since `until_ms` or longer, the longest first; those behind `after`."""
    rows = tx.all(
        "SELECT thing, name, since_ms, since, body FROM shadow"
        " WHERE since_ms >= 0 AND since_ms <= ? AND (since_ms, thing, name) > (?, ?, ?)"
        " ORDER BY since_ms, thing, name LIMIT ?",
        until_ms,
        *after,
        limit,
    )
    return [_unreached(row) for row in rows]


def untold(tx: Tx, until_ms: int, limit: int) -> list[Unreached]:
    """As `unreached`, those for which no event has left yet."""
    rows = tx.all(
        "SELECT thing, name, since_ms, since, body FROM shadow"
        " WHERE told = 0 AND since_ms >= 0 AND since_ms <= ? ORDER BY since_ms LIMIT ?",
        until_ms,
        limit,
    )
    return [_unreached(row) for row in rows]


def told(tx: Tx, thing: str, name: str) -> None:
    tx.execute("UPDATE shadow SET told = 1 WHERE thing = ? AND name = ?", thing, name)


def untimed(tx: Tx, limit: int) -> list[tuple[str, str]]:
    """(thing, name) of shadows that were written before times were kept."""
    rows = tx.all("SELECT thing, name FROM shadow WHERE since_ms = ? LIMIT ?", UNKNOWN, limit)
    return [(str(thing), str(name)) for thing, name in rows]


def set_times(tx: Tx, thing: str, name: str, since: Mapping[str, int]) -> None:
    tx.execute(
        "UPDATE shadow SET since_ms = ?, since = ? WHERE thing = ? AND name = ?",
        min(since.values(), default=None),
        codec.dumps(since) if since else None,
        thing,
        name,
    )


def _unreached(row: Row) -> Unreached:
    thing, name, since_ms, since, body = row
    return Unreached(str(thing), str(name), int(since_ms), _times(since), kept.decode(bytes(body)).version)


def _times(text: object) -> dict[str, int]:
    if not isinstance(text, bytes):
        return {}
    times = codec.loads_own(text)
    assert isinstance(times, dict)
    return {pointer: at for pointer, at in times.items() if isinstance(at, int)}
