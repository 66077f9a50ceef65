"""The table of dataset versions."""

from marram.core import codec
from marram.core.codec import JsonObject
from marram.kit.db import Tx


def insert(tx: Tx, id: str, name: str, document: JsonObject) -> None:
    tx.execute(
        "INSERT INTO dataset (id, name, document, created_ms) VALUES (?, ?, ?, ?)",
        id, name, codec.dumps(document), tx.now_ms,
    )  # fmt: skip


def load(tx: Tx, id: str) -> JsonObject | None:
    row = tx.one("SELECT document FROM dataset WHERE id = ?", id)
    return None if row is None else codec.loads_object(row[0])


def listing(tx: Tx, name: str | None, limit: int) -> list[JsonObject]:
    if name is None:
        rows = tx.all("SELECT document FROM dataset ORDER BY created_ms DESC, id LIMIT ?", limit)
    else:
        rows = tx.all("SELECT document FROM dataset WHERE name = ? ORDER BY created_ms DESC, id LIMIT ?", name, limit)
    return [codec.loads_object(row[0]) for row in rows]
