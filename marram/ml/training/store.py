"""The table of training jobs. The document is our state of a job with SageMaker's request in it, verbatim."""

from marram.core import codec
from marram.core.codec import JsonObject
from marram.kit.db import Tx


def insert(tx: Tx, name: str, document: JsonObject) -> None:
    tx.execute(
        "INSERT INTO training_job (name, status, document, created_ms) VALUES (?, ?, ?, ?)",
        name, str(document["status"]), codec.dumps(document), tx.now_ms,
    )  # fmt: skip


def load(tx: Tx, name: str) -> JsonObject | None:
    row = tx.one("SELECT document FROM training_job WHERE name = ?", name)
    return None if row is None else codec.loads_object(row[0])


def save(tx: Tx, name: str, document: JsonObject) -> None:
    tx.execute(
        "UPDATE training_job SET status = ?, document = ? WHERE name = ?",
        str(document["status"]), codec.dumps(document), name,
    )  # fmt: skip


def open_jobs(tx: Tx) -> list[str]:
    """Names of jobs that are not finished, oldest first."""
    rows = tx.all("SELECT name FROM training_job WHERE status IN ('InProgress', 'Stopping') ORDER BY created_ms, name")
    return [str(row[0]) for row in rows]


def listing(tx: Tx, limit: int) -> list[JsonObject]:
    rows = tx.all("SELECT document FROM training_job ORDER BY created_ms DESC, name LIMIT ?", limit)
    return [codec.loads_object(row[0]) for row in rows]
