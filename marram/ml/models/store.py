"""The table of model versions."""

from marram.core import codec
from marram.core.codec import JsonObject
from marram.kit.db import Tx


def next_version(tx: Tx, name: str) -> int:
    row = tx.one("SELECT MAX(version) FROM model_version WHERE name = ?", name)
    return 1 + int(row[0] or 0) if row else 1


def insert(tx: Tx, name: str, version: int, document: JsonObject) -> None:
    tx.execute(
        "INSERT INTO model_version (name, version, status, document, created_ms) VALUES (?, ?, ?, ?, ?)",
        name, version, str(document["status"]), codec.dumps(document), tx.now_ms,
    )  # fmt: skip


def load(tx: Tx, name: str, version: int) -> JsonObject | None:
    row = tx.one("SELECT document FROM model_version WHERE name = ? AND version = ?", name, version)
    return None if row is None else codec.loads_object(row[0])


def save(tx: Tx, name: str, version: int, document: JsonObject) -> None:
    tx.execute(
        "UPDATE model_version SET status = ?, document = ? WHERE name = ? AND version = ?",
        str(document["status"]), codec.dumps(document), name, version,
    )  # fmt: skip


def incumbent(tx: Tx, name: str) -> JsonObject | None:
    """The newest approved version."""
    row = tx.one(
        "SELECT document FROM model_version WHERE name = ? AND status = 'Approved' ORDER BY version DESC LIMIT 1", name
    )
    return None if row is None else codec.loads_object(row[0])


def listing(tx: Tx, name: str | None, limit: int) -> list[JsonObject]:
    if name is None:
        rows = tx.all("SELECT document FROM model_version ORDER BY created_ms DESC, name, version LIMIT ?", limit)
    else:
        rows = tx.all("SELECT document FROM model_version WHERE name = ? ORDER BY version DESC LIMIT ?", name, limit)
    return [codec.loads_object(row[0]) for row in rows]
