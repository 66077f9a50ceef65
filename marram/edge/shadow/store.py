"""Rows of local shadows and of the state that this core and the hub last agreed on. The classic shadow has the empty name."""

from marram.core import shadow as algebra
from marram.core.shadow import Document
from marram.kit.db import Tx


def load(tx: Tx, thing: str, name: str) -> Document:
    """Version 0 with the version it had in `load_version` when it is deleted or never was."""
    row = tx.one("SELECT body FROM shadow WHERE thing = ? AND name = ? AND deleted = 0", thing, name)
    return algebra.decode(bytes(row[0])) if row else algebra.EMPTY


def last_version(tx: Tx, thing: str, name: str) -> int:
    """The version of the shadow, or of the one that was deleted: a new one goes on from there."""
    row = tx.one("SELECT body FROM shadow WHERE thing = ? AND name = ?", thing, name)
    return algebra.decode(bytes(row[0])).version if row else 0


def save(tx: Tx, thing: str, name: str, document: Document, *, deleted: bool = False) -> None:
    tx.execute(
        "INSERT INTO shadow (thing, name, body, deleted) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (thing, name) DO UPDATE SET body = excluded.body, deleted = excluded.deleted",
        thing,
        name,
        algebra.encode(document),
        int(deleted),
    )


def names(tx: Tx, thing: str, after: str, limit: int) -> list[str]:
    rows = tx.all(
        "SELECT name FROM shadow WHERE thing = ? AND name > ? AND name <> '' AND deleted = 0 ORDER BY name LIMIT ?",
        thing,
        after,
        limit,
    )
    return [str(row[0]) for row in rows]


def keys(tx: Tx) -> list[tuple[str, str]]:
    """Every (thing, name) that is here or was, and every one that the hub had."""
    rows = tx.all("SELECT thing, name FROM shadow UNION SELECT thing, name FROM shadow_base ORDER BY 1, 2")
    return [(str(thing), str(name)) for thing, name in rows]


def load_base(tx: Tx, thing: str, name: str) -> Document:
    """EMPTY when they never agreed on one, or agreed that there is none."""
    row = tx.one("SELECT body FROM shadow_base WHERE thing = ? AND name = ?", thing, name)
    return algebra.decode(bytes(row[0])) if row else algebra.EMPTY


def save_base(tx: Tx, thing: str, name: str, document: Document) -> None:
    if not document.exists:
        tx.execute("DELETE FROM shadow_base WHERE thing = ? AND name = ?", thing, name)
        tx.execute("DELETE FROM shadow WHERE thing = ? AND name = ? AND deleted = 1", thing, name)
        return
    tx.execute(
        "INSERT INTO shadow_base (thing, name, body) VALUES (?, ?, ?)"
        " ON CONFLICT (thing, name) DO UPDATE SET body = excluded.body",
        thing,
        name,
        algebra.encode(document),
    )
