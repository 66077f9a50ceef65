"""The table of feedback items."""

from marram.core import codec
from marram.core.codec import JsonObject
from marram.kit.db import Tx


def insert(tx: Tx, sha256: str, thing: str, document: JsonObject) -> bool:
    """False when the item is known: devices send again after a crash, and two of them may see the same."""
    return bool(
        tx.execute(
            "INSERT INTO feedback (sha256, thing, document, created_ms) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (sha256) DO NOTHING",
            sha256, thing, codec.dumps(document), tx.now_ms,
        )
    )  # fmt: skip


def load(tx: Tx, sha256: str) -> JsonObject | None:
    row = tx.one("SELECT document FROM feedback WHERE sha256 = ?", sha256)
    return None if row is None else codec.loads_object(row[0])


def listing(tx: Tx, thing: str | None, after: tuple[int, str], limit: int) -> list[JsonObject]:
    where, params = ("", ()) if thing is None else ("thing = ? AND ", (thing,))
    rows = tx.all(
        f"SELECT document, created_ms FROM feedback WHERE {where}(created_ms > ? OR (created_ms = ? AND sha256 > ?))"  # noqa: S608 - two fixed texts
        " ORDER BY created_ms, sha256 LIMIT ?",
        *params, after[0], after[0], after[1], limit,
    )  # fmt: skip
    return [{**codec.loads_object(row[0]), "receivedMs": int(row[1])} for row in rows]


def count(tx: Tx) -> int:
    row = tx.one("SELECT COUNT(*) FROM feedback")
    return 0 if row is None else int(row[0])
