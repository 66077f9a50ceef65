"""The tables of executions. `job_execution` holds the present one of a thing, `job_execution_past` those before it.

What a device may see of a queue is decided here, in `_OPEN`: nothing of a job that is being deleted, nothing queued
unless its job is in progress, nothing begun when its job was canceled by force. So a cancellation holds from its commit
on, however long its executions take to be written.
"""

from dataclasses import dataclass
from typing import Final, cast

from marram.core import codec
from marram.core.jobs import TERMINAL, Status
from marram.kit.db import Row, Tx

_OPEN: Final = (
    "((e.status = 'QUEUED' AND j.status = 'IN_PROGRESS') OR (e.status = 'IN_PROGRESS'"
    " AND j.status <> 'DELETION_IN_PROGRESS' AND NOT (j.status = 'CANCELED' AND j.forced = 1)))"
)
_IN_LINE: Final = "ORDER BY CASE e.status WHEN 'IN_PROGRESS' THEN 0 ELSE 1 END, e.queued_ms, j.seq"
_COLUMNS: Final = (
    "e.job, e.thing, e.status, e.details, e.number, e.version, e.queued_ms, e.started_ms, e.updated_ms, e.forced,"
    " e.expires_ms, e.deadline_ms, e.retries_failed, e.retries_timed_out, j.namespace, j.seq"
)
_PAST: Final = _COLUMNS.replace("e.expires_ms, e.deadline_ms", "NULL, NULL")
_PRESENT_OF: Final = f"SELECT {_COLUMNS} FROM job_execution e JOIN job j ON j.id = e.job"  # noqa: S608 - constants, as in all of this file
_PAST_OF: Final = f"SELECT {_PAST} FROM job_execution_past e JOIN job j ON j.id = e.job"  # noqa: S608


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """Times are Unix milliseconds. `expires_ms` is the in-progress timer, `deadline_ms` the earlier of it and the step timer."""

    job: str
    thing: str
    status: Status
    details: dict[str, str]
    number: int
    version: int
    queued_ms: int
    started_ms: int | None
    updated_ms: int
    forced: bool
    expires_ms: int | None
    deadline_ms: int | None
    retries_failed: int
    retries_timed_out: int
    namespace: str
    seq: int  # of the job

    @property
    def final(self) -> bool:
        return self.status in TERMINAL

    @property
    def retries(self) -> int:
        return self.retries_failed + self.retries_timed_out

    @property
    def key(self) -> tuple[str, int]:
        """What a device tells one execution of a queue from another by."""
        return self.job, self.number

    @property
    def place(self) -> tuple[int, int, int]:
        """In the line of its thing; the order of `_IN_LINE`."""
        return 0 if self.status is Status.IN_PROGRESS else 1, self.queued_ms, self.seq


def insert(
    tx: Tx, job: str, thing: str, *, number: int = 1, retries_failed: int = 0, retries_timed_out: int = 0
) -> bool:
    """QUEUED now. False when the thing has one already."""
    return (
        tx.execute(
            "INSERT INTO job_execution (job, thing, status, details, number, version, queued_ms, updated_ms,"
            " retries_failed, retries_timed_out) VALUES (?, ?, 'QUEUED', '{}', ?, 1, ?, ?, ?, ?)"
            " ON CONFLICT (job, thing) DO NOTHING",
            job,
            thing,
            number,
            tx.now_ms,
            tx.now_ms,
            retries_failed,
            retries_timed_out,
        )
        > 0
    )


def shelve(tx: Tx, job: str, thing: str) -> None:
    """The present execution becomes a past one."""
    tx.execute(
        "INSERT INTO job_execution_past (job, thing, number, status, details, version, queued_ms, started_ms, updated_ms,"
        " forced, retries_failed, retries_timed_out) SELECT job, thing, number, status, details, version, queued_ms,"
        " started_ms, updated_ms, forced, retries_failed, retries_timed_out FROM job_execution WHERE job = ? AND thing = ?",
        job,
        thing,
    )
    delete(tx, job, thing)


def one(tx: Tx, job: str, thing: str, number: int | None = None) -> Execution | None:
    """The present execution, or the one of that number."""
    row = tx.one(f"{_PRESENT_OF} WHERE e.job = ? AND e.thing = ?", job, thing)
    if row is not None and number is not None and _execution(row).number != number:
        row = tx.one(f"{_PAST_OF} WHERE e.job = ? AND e.thing = ? AND e.number = ?", job, thing, number)
    return _execution(row) if row else None


def first(tx: Tx, thing: str, namespace: str) -> Execution | None:
    """What the thing should run now: what it is at, else the oldest in the queue."""
    found = in_line(tx, thing, namespace, 1)
    return found[0] if found else None


def in_line(tx: Tx, thing: str, namespace: str, limit: int) -> list[Execution]:
    """What a device may see of its queue: begun ones first, then by age."""
    sql = f"{_PRESENT_OF} WHERE e.thing = ? AND e.status IN ('QUEUED', 'IN_PROGRESS') AND j.namespace = ? AND {_OPEN}"
    return [_execution(row) for row in tx.all(f"{sql} {_IN_LINE} LIMIT ?", thing, namespace, limit)]


def write(tx: Tx, found: Execution) -> None:
    """All that may change of the present execution."""
    tx.execute(
        "UPDATE job_execution SET status = ?, details = ?, version = ?, started_ms = ?, updated_ms = ?, forced = ?,"
        " expires_ms = ?, deadline_ms = ?, retries_failed = ?, retries_timed_out = ? WHERE job = ? AND thing = ?",
        str(found.status),
        codec.dumps(found.details).decode(),
        found.version,
        found.started_ms,
        found.updated_ms,
        int(found.forced),
        found.expires_ms,
        found.deadline_ms,
        found.retries_failed,
        found.retries_timed_out,
        found.job,
        found.thing,
    )


def delete(tx: Tx, job: str, thing: str) -> None:
    tx.execute("DELETE FROM job_execution WHERE job = ? AND thing = ?", job, thing)


def delete_past(tx: Tx, job: str, thing: str, number: int | None = None) -> None:
    """That of a number, or all."""
    only, params = ("", []) if number is None else (" AND number = ?", [number])
    tx.execute(f"DELETE FROM job_execution_past WHERE job = ? AND thing = ?{only}", job, thing, *params)  # noqa: S608


def expired(tx: Tx, limit: int) -> list[Execution]:
    rows = tx.all(
        f"{_PRESENT_OF} WHERE e.deadline_ms IS NOT NULL AND e.deadline_ms <= ? ORDER BY e.deadline_ms LIMIT ?",
        tx.now_ms,
        limit,
    )
    return [_execution(row) for row in rows]


def of_job(tx: Tx, job: str, *, status: str = "", after: str = "", limit: int = 1 << 31) -> list[Execution]:
    """Present executions by thing, those of names greater than `after`."""
    only, params = ("", []) if not status else (" AND e.status = ?", [status])
    rows = tx.all(
        f"{_PRESENT_OF} WHERE e.job = ?{only} AND e.thing > ? ORDER BY e.thing LIMIT ?", job, *params, after, limit
    )
    return [_execution(row) for row in rows]


def open_of_job(tx: Tx, job: str, after: str, limit: int, *, begun: bool = True) -> list[Execution]:
    """Executions that have not ended, by thing; without `begun` only those in the queue."""
    states = "('QUEUED', 'IN_PROGRESS')" if begun else "('QUEUED')"
    rows = tx.all(
        f"{_PRESENT_OF} WHERE e.job = ? AND e.status IN {states} AND e.thing > ? ORDER BY e.thing LIMIT ?",
        job,
        after,
        limit,
    )
    return [_execution(row) for row in rows]


def open_of_thing(tx: Tx, thing: str) -> list[Execution]:
    """Of all its jobs, whatever a device may see."""
    rows = tx.all(f"{_PRESENT_OF} WHERE e.thing = ? AND e.status IN ('QUEUED', 'IN_PROGRESS')", thing)
    return [_execution(row) for row in rows]


def statuses(tx: Tx, thing: str) -> dict[str, str]:
    """Of the present execution, by job."""
    rows = tx.all("SELECT job, status FROM job_execution WHERE thing = ?", thing)
    return {str(job): str(status) for job, status in rows}


def waiting_jobs(tx: Tx, thing: str) -> list[str]:
    return [str(row[0]) for row in tx.all("SELECT job FROM job_waiting WHERE thing = ?", thing)]


def things_open(tx: Tx, after: str, limit: int) -> list[str]:
    """Names of things with executions that have not ended."""
    rows = tx.all(
        "SELECT DISTINCT thing FROM job_execution WHERE status IN ('QUEUED', 'IN_PROGRESS') AND thing > ?"
        " ORDER BY thing LIMIT ?",
        after,
        limit,
    )
    return [str(row[0]) for row in rows]


def page_of_job(tx: Tx, job: str, status: str, after: tuple[str, int], limit: int) -> list[Execution]:
    """Present and past, by thing and number."""
    only, params = ("", []) if not status else (" AND e.status = ?", [status])
    where = f"WHERE e.job = ?{only} AND (e.thing > ? OR (e.thing = ? AND e.number > ?))"
    rows: list[Row] = []
    for source in (_PRESENT_OF, _PAST_OF):
        sql = f"{source} {where} ORDER BY e.thing, e.number LIMIT ?"
        rows += tx.all(sql, job, *params, after[0], after[0], after[1], limit)
    return sorted((_execution(row) for row in rows), key=lambda found: (found.thing, found.number))[:limit]


def page_of_thing(
    tx: Tx, thing: str, *, status: str, namespace: str | None, job: str, before: tuple[int, str, int], limit: int
) -> list[Execution]:
    """Present and past, the newest first: those before (queued_ms, job, number)."""
    where, params = ["e.thing = ?"], [thing]
    for column, value in (("e.status", status), ("e.job", job)):
        if value:
            where.append(f"{column} = ?")
            params.append(value)
    if namespace is not None:
        where.append("j.namespace = ?")
        params.append(namespace)
    where.append("(e.queued_ms < ? OR (e.queued_ms = ? AND (e.job < ? OR (e.job = ? AND e.number < ?))))")
    at, job_at, number_at = before
    rows: list[Row] = []
    for source in (_PRESENT_OF, _PAST_OF):
        sql = f"{source} WHERE {' AND '.join(where)} ORDER BY e.queued_ms DESC, e.job DESC, e.number DESC LIMIT ?"
        rows += tx.all(sql, *params, at, at, job_at, job_at, number_at, limit)
    found = [_execution(row) for row in rows]
    return sorted(found, key=lambda item: (item.queued_ms, item.job, item.number), reverse=True)[:limit]


def _execution(row: Row) -> Execution:
    (
        job, thing, status, details, number, version, queued, started, updated, forced, expires, deadline,
        retries_failed, retries_timed_out, namespace, seq,
    ) = row  # fmt: skip
    return Execution(
        job=str(job),
        thing=str(thing),
        status=Status(str(status)),
        details={} if details == "{}" else cast("dict[str, str]", codec.loads_object(str(details))),
        number=int(number),
        version=int(version),
        queued_ms=int(queued),
        started_ms=started,
        updated_ms=int(updated),
        forced=bool(forced),
        expires_ms=expires,
        deadline_ms=deadline,
        retries_failed=int(retries_failed),
        retries_timed_out=int(retries_timed_out),
        namespace=str(namespace),
        seq=int(seq),
    )
