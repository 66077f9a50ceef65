"""The table of compilations."""

from marram.core import codec
from marram.core.codec import JsonObject
from marram.kit.db import Tx


def insert(tx: Tx, id: str, document: JsonObject) -> None:
    tx.execute(
        "INSERT INTO compilation (id, status, document, created_ms) VALUES (?, ?, ?, ?)",
        id, str(document["status"]), codec.dumps(document), tx.now_ms,
    )  # fmt: skip


def load(tx: Tx, id: str) -> JsonObject | None:
    row = tx.one("SELECT document FROM compilation WHERE id = ?", id)
    return None if row is None else codec.loads_object(row[0])


def save(tx: Tx, id: str, document: JsonObject) -> None:
    tx.execute(
        "UPDATE compilation SET status = ?, document = ? WHERE id = ?",
        str(document["status"]), codec.dumps(document), id,
    )  # fmt: skip


def open_ids(tx: Tx) -> list[str]:
    rows = tx.all("SELECT id FROM compilation WHERE status = 'InProgress' ORDER BY created_ms, id")
    return [str(row[0]) for row in rows]
