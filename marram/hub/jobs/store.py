"""The tables of jobs and executions."""

from dataclasses import dataclass
from typing import cast

from marram.core import codec
from marram.core.jobs import TERMINAL, Status
from marram.kit.db import Tx

_OPEN = "('QUEUED', 'IN_PROGRESS')"
_COLUMNS = "e.job, e.thing, e.status, e.details, e.number, e.version, e.queued_ms, e.started_ms, e.updated_ms, j.namespace, j.document"


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """`document` is the job's, as bytes of JSON; times are Unix milliseconds."""

    job: str
    thing: str
    status: Status
    details: dict[str, str]
    number: int
    version: int
    queued_ms: int
    started_ms: int | None
    updated_ms: int
    namespace: str
    document: bytes

    @property
    def final(self) -> bool:
        return self.status in TERMINAL


def insert_job(tx: Tx, job: str, namespace: str, document: bytes) -> None:
    tx.execute(
        "INSERT INTO job (id, namespace, document, status, created_ms) VALUES (?, ?, ?, 'IN_PROGRESS', ?)",
        job,
        namespace,
        document,
        tx.now_ms,
    )


def insert_execution(tx: Tx, job: str, thing: str) -> bool:
    """False when the thing has one already."""
    return (
        tx.execute(
            "INSERT INTO job_execution (job, thing, status, details, number, version, queued_ms, updated_ms)"
            " VALUES (?, ?, 'QUEUED', '{}', 1, 1, ?, ?) ON CONFLICT (job, thing) DO NOTHING",
            job,
            thing,
            tx.now_ms,
            tx.now_ms,
        )
        > 0
    )


def job_status(tx: Tx, job: str) -> str | None:
    row = tx.one("SELECT status FROM job WHERE id = ?", job)
    return str(row[0]) if row else None


def set_job_status(tx: Tx, job: str, status: str) -> None:
    tx.execute("UPDATE job SET status = ? WHERE id = ?", status, job)


def execution(tx: Tx, job: str, thing: str) -> Execution | None:
    row = tx.one(
        f"SELECT {_COLUMNS} FROM job_execution e JOIN job j ON j.id = e.job WHERE e.job = ? AND e.thing = ?",  # noqa: S608
        job,
        thing,
    )
    return _execution(row) if row else None


def next_execution(tx: Tx, thing: str, namespace: str) -> Execution | None:
    """What the thing should run now: what it is at, else the oldest in the queue."""
    row = tx.one(
        f"SELECT {_COLUMNS} FROM job_execution e JOIN job j ON j.id = e.job"  # noqa: S608 - constants only
        f" WHERE e.thing = ? AND j.namespace = ? AND e.status IN {_OPEN}"
        " ORDER BY CASE e.status WHEN 'IN_PROGRESS' THEN 0 ELSE 1 END, e.queued_ms, e.job LIMIT 1",
        thing,
        namespace,
    )
    return _execution(row) if row else None


def open_executions(tx: Tx, job: str) -> list[Execution]:
    rows = tx.all(
        f"SELECT {_COLUMNS} FROM job_execution e JOIN job j ON j.id = e.job WHERE e.job = ? AND e.status IN {_OPEN}",  # noqa: S608
        job,
    )
    return [_execution(row) for row in rows]


def executions(tx: Tx, job: str) -> list[Execution]:
    rows = tx.all(
        f"SELECT {_COLUMNS} FROM job_execution e JOIN job j ON j.id = e.job WHERE e.job = ? ORDER BY e.thing",  # noqa: S608
        job,
    )
    return [_execution(row) for row in rows]


def pending(tx: Tx, thing: str, namespace: str) -> list[Execution]:
    """All that is not final for a thing, oldest first."""
    rows = tx.all(
        f"SELECT {_COLUMNS} FROM job_execution e JOIN job j ON j.id = e.job"  # noqa: S608
        f" WHERE e.thing = ? AND j.namespace = ? AND e.status IN {_OPEN} ORDER BY e.queued_ms, e.job",
        thing,
        namespace,
    )
    return [_execution(row) for row in rows]


def set_execution(tx: Tx, found: Execution, status: Status, details: dict[str, str]) -> Execution:
    """Write a change: the version goes up, the start is noted once."""
    started = (
        found.started_ms if found.started_ms is not None else (tx.now_ms if status is Status.IN_PROGRESS else None)
    )
    tx.execute(
        "UPDATE job_execution SET status = ?, details = ?, version = version + 1, started_ms = ?, updated_ms = ?"
        " WHERE job = ? AND thing = ?",
        str(status),
        codec.dumps(details).decode(),
        started,
        tx.now_ms,
        found.job,
        found.thing,
    )
    changed = execution(tx, found.job, found.thing)
    assert changed is not None
    return changed


def _execution(row: tuple[object, ...]) -> Execution:
    job, thing, status, details, number, version, queued, started, updated, namespace, document = row
    return Execution(
        job=str(job),
        thing=str(thing),
        status=Status(str(status)),
        details=cast("dict[str, str]", codec.loads_object(str(details))),
        number=cast(int, number),
        version=cast(int, version),
        queued_ms=cast(int, queued),
        started_ms=cast("int | None", started),
        updated_ms=cast(int, updated),
        namespace=str(namespace),
        document=bytes(cast(bytes, document)),
    )
