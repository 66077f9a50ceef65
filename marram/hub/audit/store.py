"""The tables of the audit log. Rows are only ever added, and pruned from the old end."""

from collections.abc import Callable
from dataclasses import dataclass

from marram.kit.db import Row, Tx


@dataclass(frozen=True, slots=True)
class Stored:
    seq: int
    entry: bytes
    digest: bytes


def head(tx: Tx) -> tuple[int, bytes]:
    """Number and digest of the newest act; of the base when there is none, (0, b"") at the very start."""
    row = tx.one("SELECT seq, digest FROM audit ORDER BY seq DESC LIMIT 1") or tx.one(
        "SELECT seq, digest FROM audit_base WHERE id = 1"
    )
    return (int(row[0]), bytes(row[1])) if row else (0, b"")


@dataclass(frozen=True, slots=True)
class Base:
    """The last act that was pruned, with the hub's seal; number 0 when none was."""

    seq: int = 0
    digest: bytes = b""
    seal: bytes = b""


def base(tx: Tx) -> Base:
    row = tx.one("SELECT seq, digest, seal FROM audit_base WHERE id = 1")
    return Base(int(row[0]), _bytes(row[1]), _bytes(row[2])) if row else Base()


def insert(tx: Tx, stored: Stored, *, at_ms: int, principal: str, operation: str) -> None:
    tx.execute(
        "INSERT INTO audit (seq, at_ms, principal, operation, entry, digest) VALUES (?, ?, ?, ?, ?, ?)",
        stored.seq, at_ms, principal, operation, stored.entry, stored.digest,
    )  # fmt: skip


def after(tx: Tx, seq: int, limit: int) -> list[Stored]:
    """The acts behind `seq`, oldest first."""
    rows = tx.all("SELECT seq, entry, digest FROM audit WHERE seq > ? ORDER BY seq LIMIT ?", seq, limit)
    return [_stored(row) for row in rows]


def digest_of(tx: Tx, seq: int) -> bytes | None:
    row = tx.one("SELECT digest FROM audit WHERE seq = ?", seq)
    return bytes(row[0]) if row else None


def page(
    tx: Tx, *, before: int, limit: int, from_ms: int, to_ms: int, principal: str | None, operation: str | None
) -> list[Stored]:
    """Newest first, numbers below `before`."""
    where, params = ["seq < ?", "at_ms >= ?", "at_ms < ?"], [before, from_ms, to_ms]
    texts: list[str] = []
    for column, value in (("principal", principal), ("operation", operation)):
        if value is not None:
            where.append(f"{column} = ?")
            texts.append(value)
    rows = tx.all(
        f"SELECT seq, entry, digest FROM audit WHERE {' AND '.join(where)} ORDER BY seq DESC LIMIT ?",  # noqa: S608
        *params, *texts, limit,
    )  # fmt: skip
    return [_stored(row) for row in rows]


def prune(tx: Tx, before_ms: int, limit: int, seal: Callable[[int, bytes], bytes]) -> int:
    """Delete the oldest acts of before that time, at most `limit`; the base moves to the last of them, sealed."""
    rows = tx.all("SELECT seq, digest FROM audit WHERE at_ms < ? ORDER BY seq LIMIT ?", before_ms, limit)
    if not rows:
        return 0
    seq, digest = rows[-1]
    tx.execute("DELETE FROM audit WHERE seq <= ?", seq)
    tx.execute(
        "INSERT INTO audit_base (id, seq, digest, seal) VALUES (1, ?, ?, ?)"
        " ON CONFLICT (id) DO UPDATE SET seq = excluded.seq, digest = excluded.digest, seal = excluded.seal",
        seq, digest, seal(int(seq), _bytes(digest)),
    )  # fmt: skip
    return len(rows)


def _stored(row: Row) -> Stored:
    return Stored(int(row[0]), _bytes(row[1]), _bytes(row[2]))


def _bytes(value: object) -> bytes:
    """A hand that edits may leave text or nothing where bytes were: verify is to say so, not to stumble."""
    return value if isinstance(value, bytes) else str(value).encode()
