"""The tables of shadows. The classic shadow has the empty name."""

from typing import Final

from marram.core import shadow as algebra
from marram.kit.db import Tx

GRAVE_MS: Final = 48 * 3600 * 1000  # a deleted shadow's version is remembered this long, as AWS does


def load(tx: Tx, thing: str, name: str) -> algebra.Document:
    row = tx.one("SELECT body FROM shadow WHERE thing = ? AND name = ?", thing, name)
    return algebra.decode(bytes(row[0])) if row else algebra.EMPTY


def version_before(tx: Tx, thing: str, name: str) -> int:
    """The version that a new shadow goes on from: that of the one deleted within 48 h, else 0."""
    row = tx.one("SELECT version, deleted_ms FROM shadow_grave WHERE thing = ? AND name = ?", thing, name)
    return int(row[0]) if row and tx.now_ms - int(row[1]) < GRAVE_MS else 0


def save(tx: Tx, thing: str, name: str, document: algebra.Document) -> None:
    tx.execute(
        "INSERT INTO shadow (thing, name, body, modified_ms) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (thing, name) DO UPDATE SET body = excluded.body, modified_ms = excluded.modified_ms",
        thing,
        name,
        algebra.encode(document),
        tx.now_ms,
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


def names(tx: Tx, thing: str, after: str, limit: int) -> list[str]:
    """Named shadows of a thing in order, those greater than `after`."""
    rows = tx.all(
        "SELECT name FROM shadow WHERE thing = ? AND name > ? AND name <> '' ORDER BY name LIMIT ?", thing, after, limit
    )
    return [str(row[0]) for row in rows]
