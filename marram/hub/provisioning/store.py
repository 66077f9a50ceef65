"""The tables of provisioning: templates and their versions, certificates that wait, bulk tasks with their lines and reports."""

from collections.abc import Iterable
from dataclasses import dataclass

from marram.kit.db import Row, Tx


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """kind: FLEET_PROVISIONING or JITP."""

    name: str
    kind: str
    description: str
    enabled: bool
    role: str
    default_version: int = 1
    last_version: int = 0
    created_ms: int = 0
    modified_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateVersion:
    template: str
    version: int
    body: str
    created_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """position: bytes of the input that are reported; line: the number of the last line of them."""

    id: str
    template: str
    bucket: str
    object: str
    role: str
    status: str
    message: str = ""
    size: int = 0
    position: int = 0
    line: int = 0
    successes: int = 0
    failures: int = 0
    created_ms: int = 0
    modified_ms: int = 0


_TEMPLATE = "name, kind, description, enabled, role, default_version, last_version, created_ms, modified_ms"
_TASK = (
    "id, template, bucket, object, role, status, message, size, position, line, successes, failures, created_ms,"
    " modified_ms"
)


# templates


def save_template(tx: Tx, template: Template) -> None:
    tx.execute(
        f"INSERT INTO provisioning_template ({_TEMPLATE}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET"  # noqa: S608 - constant
        " description = excluded.description, enabled = excluded.enabled, role = excluded.role,"
        " default_version = excluded.default_version, last_version = excluded.last_version, modified_ms = excluded.modified_ms",
        template.name, template.kind, template.description, int(template.enabled), template.role, template.default_version,
        template.last_version, template.created_ms, template.modified_ms,
    )  # fmt: skip


def template(tx: Tx, name: str) -> Template | None:
    row = tx.one(f"SELECT {_TEMPLATE} FROM provisioning_template WHERE name = ?", name)  # noqa: S608 - constant
    return _template(row) if row else None


def templates(tx: Tx, after: str, limit: int) -> list[Template]:
    """By name."""
    rows = tx.all(f"SELECT {_TEMPLATE} FROM provisioning_template WHERE name > ? ORDER BY name LIMIT ?", after, limit)  # noqa: S608 - constant
    return [_template(row) for row in rows]


def delete_template(tx: Tx, name: str) -> None:
    tx.execute("DELETE FROM provisioning_template_version WHERE template = ?", name)
    tx.execute("DELETE FROM provisioning_template WHERE name = ?", name)


def add_version(tx: Tx, name: str, version: int, body: str) -> None:
    tx.execute(
        "INSERT INTO provisioning_template_version (template, version, body, created_ms) VALUES (?, ?, ?, ?)",
        name,
        version,
        body,
        tx.now_ms,
    )


def version(tx: Tx, name: str, number: int) -> TemplateVersion | None:
    row = tx.one(
        "SELECT template, version, body, created_ms FROM provisioning_template_version WHERE template = ? AND version = ?",
        name,
        number,
    )
    return _version(row) if row else None


def versions(tx: Tx, name: str, after: int = 0, limit: int = 1 << 30) -> list[TemplateVersion]:
    rows = tx.all(
        "SELECT template, version, body, created_ms FROM provisioning_template_version WHERE template = ? AND version > ?"
        " ORDER BY version LIMIT ?",
        name,
        after,
        limit,
    )
    return [_version(row) for row in rows]


def delete_version(tx: Tx, name: str, number: int) -> None:
    tx.execute("DELETE FROM provisioning_template_version WHERE template = ? AND version = ?", name, number)


# certificates that wait


def add_pending(tx: Tx, certificate_id: str, claim: str, expires_ms: int) -> None:
    tx.execute(
        "INSERT INTO provisioning_pending (certificate, claim, expires_ms) VALUES (?, ?, ?)",
        certificate_id,
        claim,
        expires_ms,
    )


def is_pending(tx: Tx, certificate_id: str) -> bool:
    """Whether it was made for a claim and its token has not ended."""
    sql = "SELECT 1 FROM provisioning_pending WHERE certificate = ? AND expires_ms > ?"
    return tx.one(sql, certificate_id, tx.now_ms) is not None


def end_pending(tx: Tx, certificate_id: str) -> None:
    tx.execute("DELETE FROM provisioning_pending WHERE certificate = ?", certificate_id)


def ended_pending(tx: Tx, limit: int) -> list[str]:
    sql = "SELECT certificate FROM provisioning_pending WHERE expires_ms <= ? ORDER BY expires_ms LIMIT ?"
    return [str(row[0]) for row in tx.all(sql, tx.now_ms, limit)]


def count_pending(tx: Tx, claim: str) -> int:
    row = tx.one("SELECT count(*) FROM provisioning_pending WHERE claim = ?", claim)
    return int(row[0]) if row else 0


# bulk tasks


def save_task(tx: Tx, task: Task) -> None:
    tx.execute(
        f"INSERT INTO provisioning_task ({_TASK}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET"  # noqa: S608 - constant
        " status = excluded.status, message = excluded.message, size = excluded.size, position = excluded.position,"
        " line = excluded.line, successes = excluded.successes, failures = excluded.failures, modified_ms = excluded.modified_ms",
        task.id, task.template, task.bucket, task.object, task.role, task.status, task.message, task.size, task.position,
        task.line, task.successes, task.failures, task.created_ms, task.modified_ms,
    )  # fmt: skip


def task(tx: Tx, task_id: str) -> Task | None:
    row = tx.one(f"SELECT {_TASK} FROM provisioning_task WHERE id = ?", task_id)  # noqa: S608 - constant
    return _task(row) if row else None


def task_ids(tx: Tx, status: str | None, after: tuple[int, str] | None, limit: int) -> list[tuple[int, str]]:
    """(created_ms, id), newest first."""
    where, values = ["1 = 1"], list[int | str]()
    if status is not None:
        where.append("status = ?")
        values.append(status)
    if after is not None:
        where.append("(created_ms < ? OR (created_ms = ? AND id < ?))")
        values += [after[0], after[0], after[1]]
    sql = f"SELECT created_ms, id FROM provisioning_task WHERE {' AND '.join(where)} ORDER BY created_ms DESC, id DESC LIMIT ?"  # noqa: S608 - constants
    return [(int(row[0]), str(row[1])) for row in tx.all(sql, *values, limit)]


def unfinished(tx: Tx) -> Task | None:
    """The oldest one that has work left."""
    row = tx.one(
        f"SELECT {_TASK} FROM provisioning_task WHERE status IN ('InProgress', 'Cancelling') ORDER BY created_ms, id LIMIT 1"  # noqa: S608 - constant
    )
    return _task(row) if row else None


def add_line(tx: Tx, task_id: str, number: int, report: str, *, failed: bool) -> None:
    tx.execute(
        "INSERT INTO provisioning_line (task, line, failed, report) VALUES (?, ?, ?, ?)",
        task_id,
        number,
        int(failed),
        report,
    )


def lines(tx: Tx, task_id: str) -> list[tuple[int, bool, str]]:
    """(number, failed, report) of lines that are done and in no report yet."""
    rows = tx.all("SELECT line, failed, report FROM provisioning_line WHERE task = ? ORDER BY line", task_id)
    return [(int(row[0]), bool(row[1]), str(row[2])) for row in rows]


def delete_lines(tx: Tx, task_id: str) -> None:
    tx.execute("DELETE FROM provisioning_line WHERE task = ?", task_id)


def add_report(tx: Tx, task_id: str, number: int, kind: str, key: str) -> None:
    tx.execute(
        "INSERT INTO provisioning_report (task, number, kind, object) VALUES (?, ?, ?, ?)", task_id, number, kind, key
    )


def reports(tx: Tx, task_id: str, kind: str, after: int, limit: int) -> list[tuple[int, str]]:
    """(number, key of the object)."""
    sql = "SELECT number, object FROM provisioning_report WHERE task = ? AND kind = ? AND number > ? ORDER BY number LIMIT ?"
    return [(int(row[0]), str(row[1])) for row in tx.all(sql, task_id, kind, after, limit)]


def old_reports(tx: Tx, ended_before_ms: int, limit: int) -> list[tuple[str, str]]:
    """(task, key of the object) of tasks that ended before then, the oldest first."""
    sql = (
        "SELECT r.task, r.object FROM provisioning_task t JOIN provisioning_report r ON r.task = t.id"
        " WHERE t.status NOT IN ('InProgress', 'Cancelling') AND t.modified_ms < ?"
        " ORDER BY t.modified_ms, r.task, r.number, r.kind LIMIT ?"
    )
    return [(str(task), str(key)) for task, key in tx.all(sql, ended_before_ms, limit)]


def delete_reports(tx: Tx, reports: Iterable[tuple[str, str]]) -> None:
    """reports: as `old_reports` gives them."""
    tx.many("DELETE FROM provisioning_report WHERE task = ? AND object = ?", reports)


def last_report(tx: Tx, task_id: str) -> int:
    row = tx.one("SELECT max(number) FROM provisioning_report WHERE task = ?", task_id)
    return int(row[0]) if row and row[0] is not None else 0


def _template(row: Row) -> Template:
    return Template(
        name=str(row[0]),
        kind=str(row[1]),
        description=str(row[2]),
        enabled=bool(row[3]),
        role=str(row[4]),
        default_version=int(row[5]),
        last_version=int(row[6]),
        created_ms=int(row[7]),
        modified_ms=int(row[8]),
    )


def _version(row: Row) -> TemplateVersion:
    return TemplateVersion(template=str(row[0]), version=int(row[1]), body=str(row[2]), created_ms=int(row[3]))


def _task(row: Row) -> Task:
    return Task(
        id=str(row[0]),
        template=str(row[1]),
        bucket=str(row[2]),
        object=str(row[3]),
        role=str(row[4]),
        status=str(row[5]),
        message=str(row[6]),
        size=int(row[7]),
        position=int(row[8]),
        line=int(row[9]),
        successes=int(row[10]),
        failures=int(row[11]),
        created_ms=int(row[12]),
        modified_ms=int(row[13]),
    )
