"""The tables of labelling jobs and their tasks (one line of the manifest each)."""

from dataclasses import dataclass

from marram.core import codec
from marram.core.codec import JsonObject
from marram.kit.db import Tx


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """`line` is the manifest's line as it came; `label` None: open."""

    job: str
    number: int
    line: JsonObject
    label: str | None
    labeller: str | None
    labelled_ms: int | None


def insert(tx: Tx, name: str, document: JsonObject, lines: list[bytes]) -> None:
    tx.execute(
        "INSERT INTO labelling_job (name, status, document, created_ms) VALUES (?, ?, ?, ?)",
        name, str(document["status"]), codec.dumps(document), tx.now_ms,
    )  # fmt: skip
    tx.many(
        "INSERT INTO labelling_task (job, number, line) VALUES (?, ?, ?)",
        [(name, number, line) for number, line in enumerate(lines)],
    )


def load(tx: Tx, name: str) -> JsonObject | None:
    row = tx.one("SELECT document FROM labelling_job WHERE name = ?", name)
    return None if row is None else codec.loads_object(row[0])


def save(tx: Tx, name: str, document: JsonObject) -> None:
    tx.execute(
        "UPDATE labelling_job SET status = ?, document = ? WHERE name = ?",
        str(document["status"]), codec.dumps(document), name,
    )  # fmt: skip


def with_status(tx: Tx, status: str) -> list[str]:
    return [
        str(row[0]) for row in tx.all("SELECT name FROM labelling_job WHERE status = ? ORDER BY created_ms", status)
    ]


def counts(tx: Tx, name: str) -> tuple[int, int]:
    """(tasks, labelled)."""
    row = tx.one("SELECT COUNT(*), COUNT(label) FROM labelling_task WHERE job = ?", name)
    assert row is not None
    return int(row[0]), int(row[1])


def tasks(tx: Tx, name: str, *, open_only: bool, after: int, limit: int) -> list[Task]:
    columns = "SELECT job, number, line, label, labeller, labelled_ms FROM labelling_task WHERE job = ? AND number > ?"
    condition = " AND label IS NULL" if open_only else ""
    rows = tx.all(f"{columns}{condition} ORDER BY number LIMIT ?", name, after, limit)
    return [
        Task(
            job=row[0],
            number=row[1],
            line=codec.loads_object(row[2]),
            label=row[3],
            labeller=row[4],
            labelled_ms=row[5],
        )
        for row in rows
    ]


def label(tx: Tx, name: str, number: int, value: str, labeller: str) -> bool:
    """False when there is no such task."""
    return bool(
        tx.execute(
            "UPDATE labelling_task SET label = ?, labeller = ?, labelled_ms = ? WHERE job = ? AND number = ?",
            value, labeller, tx.now_ms, name, number,
        )
    )  # fmt: skip
