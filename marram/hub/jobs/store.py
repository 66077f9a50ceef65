"""The tables of jobs: the jobs themselves, their targets, the things that wait for the rollout, templates.

Executions are in store_executions.py. A job's counters are kept with each change of an execution, never counted.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any, Final, cast

from marram.core import codec
from marram.core.jobs import JobStatus, Status
from marram.core.rollout import Counts, Minute
from marram.kit.db import Row, Tx

ACTIVE: Final = "('SCHEDULED', 'IN_PROGRESS')"
FIRST: Final = ""  # a cursor over names that has not moved yet


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A row but for the document; times are Unix milliseconds.

    driven: another slice creates and ends its executions. spread: the targets have been walked once. spread_at,
    sweep_after, announce_after, cancel_after: where a walk in pieces stands, None when there is none.
    stopped: its end time has passed. due_ms: when the runner looks at it next.
    """

    id: str
    namespace: str
    status: JobStatus
    created_ms: int
    seq: int = 0
    selection: str = "SNAPSHOT"
    driven: bool = False
    description: str = ""
    source: str = ""
    template: str = ""
    config: str = "{}"
    updated_ms: int = 0
    completed_ms: int | None = None
    reason_code: str = ""
    comment: str = ""
    forced: bool = False
    stopped: bool = False
    spread: bool = False
    spread_at: int | None = None
    spread_after: str = FIRST
    sweep_after: str | None = None
    announce_after: str | None = None
    cancel_after: str | None = None
    waiting: int = 0
    notified: int = 0
    minute_ms: int | None = None
    minute_limit: int = 0
    minute_used: int = 0
    due_ms: int | None = None
    queued: int = 0
    in_progress: int = 0
    succeeded: int = 0
    failed: int = 0
    timed_out: int = 0
    rejected: int = 0
    removed: int = 0
    canceled: int = 0
    retried_failed: int = 0
    retried_timed_out: int = 0

    @property
    def continuous(self) -> bool:
        return self.selection == "CONTINUOUS"

    @property
    def rolling(self) -> bool:
        """Executions are still to come, or to be canceled."""
        return self.spread_at is not None or self.waiting > 0 or self.cancel_after is not None

    @property
    def minute(self) -> Minute:
        return Minute(self.minute_ms, self.minute_limit, self.minute_used)

    @property
    def counts(self) -> Counts:
        """Every attempt counts: a retry that failed is a failure."""
        return Counts(
            succeeded=self.succeeded,
            failed=self.failed + self.retried_failed,
            rejected=self.rejected,
            timed_out=self.timed_out + self.retried_timed_out,
        )


@dataclass(frozen=True, slots=True)
class Target:
    """kind: `thing` or `thinggroup`."""

    kind: str
    name: str
    group_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    id: str
    description: str
    document: bytes
    source: str
    config: dict[str, Any] = field(default_factory=dict[str, Any])
    created_ms: int = 0


_COLUMNS: Final = tuple(member.name for member in fields(Job))
_SELECT: Final = f"SELECT {', '.join(_COLUMNS)} FROM job"  # noqa: S608 - constants, as in all of this file
_STATUS: Final = {str(status): status for status in JobStatus}
_FLAGS: Final = frozenset({"driven", "forced", "stopped", "spread"})


# jobs


def insert_job(tx: Tx, job: Job, document: bytes) -> None:
    """`seq` is given here. Raises AlreadyExists."""
    last = tx.one("SELECT max(seq) FROM job")
    values = {name: getattr(job, name) for name in _COLUMNS} | {
        "seq": (int(last[0] or 0) if last is not None else 0) + 1
    }
    names = ", ".join([*_COLUMNS, "document"])
    marks = ", ".join("?" * (len(_COLUMNS) + 1))
    tx.execute(
        f"INSERT INTO job ({names}) VALUES ({marks})",  # noqa: S608
        *(_stored(value) for value in values.values()),
        document,
    )


def job(tx: Tx, job_id: str) -> Job | None:
    row = tx.one(f"{_SELECT} WHERE id = ?", job_id)
    return _job(row) if row else None


def document(tx: Tx, job_id: str) -> bytes:
    row = tx.one("SELECT document FROM job WHERE id = ?", job_id)
    return bytes(row[0]) if row else b"{}"


def set_job(tx: Tx, job_id: str, **values: object) -> None:
    assert set(values) <= set(_COLUMNS)
    changes = ", ".join(f"{name} = ?" for name in values)
    tx.execute(f"UPDATE job SET {changes} WHERE id = ?", *(_stored(value) for value in values.values()), job_id)  # noqa: S608


def count(tx: Tx, job_id: str, **changes: int) -> Job:
    """Add to counters; the job as it is then."""
    assert set(changes) <= set(_COLUMNS)
    sums = ", ".join(f"{name} = {name} + ?" for name in changes)
    row = tx.one(f"UPDATE job SET {sums} WHERE id = ? RETURNING {', '.join(_COLUMNS)}", *changes.values(), job_id)  # noqa: S608
    assert row is not None
    return _job(row)


def counter(status: Status) -> str:
    return status.lower()


def delete_job(tx: Tx, job_id: str) -> None:
    tx.execute("DELETE FROM job WHERE id = ?", job_id)


def deleting(tx: Tx) -> int:
    row = tx.one("SELECT count(*) FROM job WHERE status = 'DELETION_IN_PROGRESS'")
    return int(row[0]) if row else 0


def jobs(
    tx: Tx, *, status: str, selection: str, namespace: str | None, group: str, group_id: str, before: int, limit: int
) -> list[Job]:
    """Newest first, those older than the sequence number `before`."""
    where, params = ["seq < ?"], [before]
    values: list[str] = []
    for column, value in (("status", status), ("selection", selection)):
        if value:
            where.append(f"{column} = ?")
            values.append(value)
    if namespace is not None:
        where.append("namespace = ?")
        values.append(namespace)
    for column, value in (("name", group), ("group_id", group_id)):
        if value:
            where.append(f"id IN (SELECT job FROM job_target WHERE kind = 'thinggroup' AND {column} = ?)")  # noqa: S608
            values.append(value)
    sql = f"{_SELECT} WHERE {' AND '.join(where)} ORDER BY seq DESC LIMIT ?"
    return [_job(row) for row in tx.all(sql, *params, *values, limit)]


def due_job(tx: Tx, now_ms: int) -> Job | None:
    row = tx.one(f"{_SELECT} WHERE due_ms IS NOT NULL AND due_ms <= ? ORDER BY due_ms, seq LIMIT 1", now_ms)
    return _job(row) if row else None


def next_due(tx: Tx) -> int | None:
    """When the next job or execution wants something."""
    times: list[int] = []
    for sql in (
        "SELECT due_ms FROM job WHERE due_ms IS NOT NULL ORDER BY due_ms LIMIT 1",
        "SELECT deadline_ms FROM job_execution WHERE deadline_ms IS NOT NULL ORDER BY deadline_ms LIMIT 1",
    ):
        if row := tx.one(sql):
            times.append(int(row[0]))
    return min(times, default=None)


def follow_groups(tx: Tx) -> int:
    """Let every job that follows groups be compared with them from the beginning."""
    return tx.execute(
        "UPDATE job SET spread_at = 0, spread_after = '', sweep_after = '', due_ms = ?"  # noqa: S608
        f" WHERE selection = 'CONTINUOUS' AND driven = 0 AND stopped = 0 AND status IN {ACTIVE}",
        tx.now_ms,
    )


def following(tx: Tx) -> list[Job]:
    """Jobs that follow groups."""
    rows = tx.all(
        f"{_SELECT} WHERE selection = 'CONTINUOUS' AND driven = 0 AND stopped = 0 AND status IN {ACTIVE} ORDER BY seq"
    )
    return [_job(row) for row in rows]


# targets


def add_targets(tx: Tx, job_id: str, wanted: Iterable[Target]) -> int:
    """Those that are new; how many targets the job has then."""
    row = tx.one("SELECT count(*) FROM job_target WHERE job = ?", job_id)
    at = int(row[0]) if row else 0
    for target in wanted:
        at += max(
            0,
            tx.execute(
                "INSERT INTO job_target (job, position, kind, name, group_id) VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT (job, kind, name) DO NOTHING",
                job_id,
                at,
                target.kind,
                target.name,
                target.group_id,
            ),
        )
    return at


def targets(tx: Tx, job_id: str) -> list[Target]:
    rows = tx.all("SELECT kind, name, group_id FROM job_target WHERE job = ? ORDER BY position", job_id)
    return [Target(str(kind), str(name), str(group_id)) for kind, name, group_id in rows]


# things that the rollout has not reached


def add_waiting(tx: Tx, job_id: str, things: Iterable[str]) -> None:
    """Those that have no execution and do not wait yet."""
    added = 0
    for thing in things:
        if tx.one("SELECT 1 FROM job_execution WHERE job = ? AND thing = ?", job_id, thing) is None:
            added += max(
                0,
                tx.execute(
                    "INSERT INTO job_waiting (job, thing) VALUES (?, ?) ON CONFLICT (job, thing) DO NOTHING",
                    job_id,
                    thing,
                ),
            )
    count(tx, job_id, waiting=added)


def take_waiting(tx: Tx, job_id: str, limit: int) -> list[str]:
    found = [
        str(row[0])
        for row in tx.all("SELECT thing FROM job_waiting WHERE job = ? ORDER BY thing LIMIT ?", job_id, limit)
    ]
    if found:
        tx.execute("DELETE FROM job_waiting WHERE job = ? AND thing <= ?", job_id, found[-1])
        count(tx, job_id, waiting=-len(found))
    return found


def waits(tx: Tx, job_id: str, thing: str) -> bool:
    return tx.one("SELECT 1 FROM job_waiting WHERE job = ? AND thing = ?", job_id, thing) is not None


def forget_waiting(tx: Tx, job_id: str, thing: str) -> None:
    gone = tx.execute("DELETE FROM job_waiting WHERE job = ? AND thing = ?", job_id, thing)
    if gone > 0:
        count(tx, job_id, waiting=-gone)


# templates


def insert_template(tx: Tx, template: Template) -> None:
    """Raises AlreadyExists."""
    tx.execute(
        "INSERT INTO job_template (id, description, document, source, config, created_ms) VALUES (?, ?, ?, ?, ?, ?)",
        template.id,
        template.description,
        template.document,
        template.source,
        codec.dumps(template.config).decode(),
        tx.now_ms,
    )


def template(tx: Tx, template_id: str) -> Template | None:
    row = tx.one(f"SELECT {_TEMPLATE} FROM job_template WHERE id = ?", template_id)  # noqa: S608
    return _template(row) if row else None


def templates(tx: Tx, after: str, limit: int) -> list[Template]:
    rows = tx.all(f"SELECT {_TEMPLATE} FROM job_template WHERE id > ? ORDER BY id LIMIT ?", after, limit)  # noqa: S608
    return [_template(row) for row in rows]


def delete_template(tx: Tx, template_id: str) -> bool:
    return tx.execute("DELETE FROM job_template WHERE id = ?", template_id) > 0


_TEMPLATE: Final = "id, description, document, source, config, created_ms"


def _template(row: Row) -> Template:
    found, description, text, source, config, created = row
    return Template(
        id=str(found),
        description=str(description),
        document=bytes(text),
        source=str(source),
        config=cast("dict[str, Any]", codec.loads_object(str(config))),
        created_ms=int(created),
    )


def _job(row: Row) -> Job:
    values = dict(zip(_COLUMNS, row, strict=True))
    values["status"] = _STATUS[values["status"]]
    for name in _FLAGS:
        values[name] = values[name] != 0
    return Job(**values)


def _stored(value: Any) -> Any:
    return int(value) if isinstance(value, bool) else str(value) if isinstance(value, JobStatus) else value
