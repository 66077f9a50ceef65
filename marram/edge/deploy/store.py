"""Rows of deployments in state.db: the journal (phase before deed), and the roots that each target asks for."""

from collections.abc import Mapping
from typing import Final

from marram.core import codec
from marram.core.codec import JsonObject
from marram.core.errors import AlreadyExists, NotFound
from marram.edge.deploy.record import IN_PROGRESS, QUEUED, TERMINAL, Deployment
from marram.kit.db import Row, Tx

KEPT: Final = 30

_COLUMNS: Final = (
    "number, id, target, source, document, phase, status, detail, snapshot, reported, created_ms, updated_ms"
)


def add(tx: Tx, deployment_id: str, target: str, source: str, document: JsonObject) -> None:
    """Raises AlreadyExists when it is known: a job that is delivered again is the same deployment."""
    if tx.one("SELECT 1 FROM deployment WHERE id = ?", deployment_id):
        raise AlreadyExists(f"deployment {deployment_id} is known already")
    tx.execute(
        "INSERT INTO deployment (id, target, source, document, phase, status, detail, snapshot, reported,"
        " created_ms, updated_ms) VALUES (?, ?, ?, ?, '', ?, '{}', '{}', 0, ?, ?)",
        deployment_id,
        target,
        source,
        codec.dumps(document).decode(),
        QUEUED,
        tx.now_ms,
        tx.now_ms,
    )


def get(tx: Tx, deployment_id: str) -> Deployment:
    row = tx.one(f"SELECT {_COLUMNS} FROM deployment WHERE id = ?", deployment_id)  # noqa: S608 - a constant
    if row is None:
        raise NotFound(f"no deployment {deployment_id!r} on this core")
    return _from(row)


def newest(tx: Tx, limit: int) -> list[Deployment]:
    rows = tx.all(f"SELECT {_COLUMNS} FROM deployment ORDER BY number DESC LIMIT ?", limit)  # noqa: S608
    return [_from(row) for row in rows]


def next_open(tx: Tx) -> Deployment | None:
    """What is in progress (at most one), else the oldest that waits."""
    row = tx.one(
        f"SELECT {_COLUMNS} FROM deployment WHERE status IN (?, ?)"  # noqa: S608
        " ORDER BY CASE status WHEN 'IN_PROGRESS' THEN 0 ELSE 1 END, number LIMIT 1",
        IN_PROGRESS,
        QUEUED,
    )
    return _from(row) if row else None


def waiting(tx: Tx, target: str) -> list[Deployment]:
    rows = tx.all(
        f"SELECT {_COLUMNS} FROM deployment WHERE status = ? AND target = ? ORDER BY number",  # noqa: S608
        QUEUED,
        target,
    )
    return [_from(row) for row in rows]


def unreported(tx: Tx) -> list[Deployment]:
    marks = ", ".join("?" for _ in TERMINAL)
    rows = tx.all(
        f"SELECT {_COLUMNS} FROM deployment WHERE reported = 0 AND status IN ({marks}) ORDER BY number",  # noqa: S608
        *sorted(TERMINAL),
    )
    return [_from(row) for row in rows]


def enter(tx: Tx, deployment_id: str, phase: str, *, snapshot: JsonObject | None = None) -> None:
    """The phase is on disk before its first deed."""
    tx.execute(
        "UPDATE deployment SET phase = ?, status = ?, updated_ms = ? WHERE id = ?",
        phase,
        IN_PROGRESS,
        tx.now_ms,
        deployment_id,
    )
    if snapshot is not None:
        tx.execute("UPDATE deployment SET snapshot = ? WHERE id = ?", codec.dumps(snapshot).decode(), deployment_id)


def note(tx: Tx, deployment_id: str, detail: JsonObject) -> None:
    tx.execute("UPDATE deployment SET detail = ? WHERE id = ?", codec.dumps(detail).decode(), deployment_id)


def end(tx: Tx, deployment_id: str, status: str, detail: JsonObject) -> None:
    tx.execute(
        "UPDATE deployment SET status = ?, detail = ?, phase = 'report', snapshot = '{}', updated_ms = ? WHERE id = ?",
        status,
        codec.dumps(detail).decode(),
        tx.now_ms,
        deployment_id,
    )
    marks = ", ".join("?" for _ in TERMINAL)
    tx.execute(
        f"DELETE FROM deployment WHERE reported = 1 AND status IN ({marks}) AND number <="  # noqa: S608
        " (SELECT MAX(number) FROM deployment) - ?",
        *sorted(TERMINAL),
        KEPT,
    )


def set_reported(tx: Tx, deployment_id: str) -> None:
    tx.execute("UPDATE deployment SET reported = 1 WHERE id = ?", deployment_id)


def roots(tx: Tx) -> dict[str, dict[str, str]]:
    """target -> component -> requirement."""
    made: dict[str, dict[str, str]] = {}
    for target, component, requirement in tx.all("SELECT target, component, requirement FROM target_root"):
        made.setdefault(target, {})[component] = requirement
    return made


def save_roots(tx: Tx, wanted: Mapping[str, Mapping[str, str]]) -> None:
    tx.execute("DELETE FROM target_root")
    for target, components in wanted.items():
        for component, requirement in components.items():
            tx.execute(
                "INSERT INTO target_root (target, component, requirement) VALUES (?, ?, ?)",
                target,
                component,
                requirement,
            )


def _from(row: Row) -> Deployment:
    number, deployment_id, target, source, document, phase, status, detail, snapshot, reported, created, updated = row
    return Deployment(
        number=number,
        id=deployment_id,
        target=target,
        source=source,
        document=codec.loads_object(document),
        phase=phase,
        status=status,
        detail=codec.loads_object(detail),
        snapshot=codec.loads_object(snapshot, max_bytes=64 << 20),
        reported=bool(reported),
        created_ms=created,
        updated_ms=updated,
    )
