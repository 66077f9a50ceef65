"""The tables of identity. A policy's target is `cert/<certificate id>` or `thinggroup/<name>`."""

from collections.abc import Sequence
from dataclasses import dataclass

from marram.kit.db import Row, Tx


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    id: str
    der: bytes
    status: str
    version: int
    created_ms: int
    modified_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    name: str
    default_version: int
    last_version: int
    created_ms: int
    modified_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyVersion:
    policy: str
    version: int
    document: str
    created_ms: int


# certificates


def add_certificate(tx: Tx, certificate_id: str, der: bytes, status: str) -> None:
    tx.execute(
        "INSERT INTO identity_certificate (id, der, status, version, created_ms, modified_ms) VALUES (?, ?, ?, 1, ?, ?)",
        certificate_id,
        der,
        status,
        tx.now_ms,
        tx.now_ms,
    )


def certificate(tx: Tx, certificate_id: str) -> Certificate | None:
    row = tx.one(f"SELECT {_CERTIFICATE} FROM identity_certificate WHERE id = ?", certificate_id)  # noqa: S608 - constant
    return _certificate(row) if row else None


def certificates(tx: Tx, after: tuple[int, str] | None, limit: int, *, ascending: bool) -> list[Certificate]:
    """In order of creation; `after` is (created_ms, id)."""
    return [
        _certificate(row) for row in _ordered(tx, _CERTIFICATE, "identity_certificate", "id", after, limit, ascending)
    ]


def set_status(tx: Tx, certificate_id: str, status: str) -> None:
    tx.execute(
        "UPDATE identity_certificate SET status = ?, version = version + 1, modified_ms = ? WHERE id = ?",
        status,
        tx.now_ms,
        certificate_id,
    )


def delete_certificate(tx: Tx, certificate_id: str) -> None:
    tx.execute("DELETE FROM identity_certificate WHERE id = ?", certificate_id)


# policies


def add_policy(tx: Tx, name: str, document: str) -> None:
    tx.execute(
        "INSERT INTO identity_policy (name, default_version, last_version, created_ms, modified_ms) VALUES (?, 1, 0, ?, ?)",
        name,
        tx.now_ms,
        tx.now_ms,
    )
    add_version(tx, name, document)


def add_version(tx: Tx, name: str, document: str) -> int:
    """Numbers are never used again."""
    row = tx.one(
        "UPDATE identity_policy SET last_version = last_version + 1 WHERE name = ? RETURNING last_version", name
    )
    assert row is not None
    number = int(row[0])
    tx.execute(
        "INSERT INTO identity_policy_version (policy, version, document, created_ms) VALUES (?, ?, ?, ?)",
        name,
        number,
        document,
        tx.now_ms,
    )
    return number


def policy(tx: Tx, name: str) -> Policy | None:
    row = tx.one(f"SELECT {_POLICY} FROM identity_policy WHERE name = ?", name)  # noqa: S608 - constant
    return _policy(row) if row else None


def policies(tx: Tx, after: tuple[int, str] | None, limit: int, *, ascending: bool) -> list[Policy]:
    """In order of creation; `after` is (created_ms, name)."""
    return [_policy(row) for row in _ordered(tx, _POLICY, "identity_policy", "name", after, limit, ascending)]


def versions(tx: Tx, name: str) -> list[PolicyVersion]:
    """Newest first."""
    rows = tx.all(
        "SELECT policy, version, document, created_ms FROM identity_policy_version WHERE policy = ? ORDER BY version DESC",
        name,
    )
    return [_version(row) for row in rows]


def version(tx: Tx, name: str, number: int) -> PolicyVersion | None:
    row = tx.one(
        "SELECT policy, version, document, created_ms FROM identity_policy_version WHERE policy = ? AND version = ?",
        name,
        number,
    )
    return _version(row) if row else None


def default_document(tx: Tx, name: str) -> str | None:
    row = tx.one(
        "SELECT v.document FROM identity_policy p JOIN identity_policy_version v"
        " ON v.policy = p.name AND v.version = p.default_version WHERE p.name = ?",
        name,
    )
    return str(row[0]) if row else None


def set_default(tx: Tx, name: str, number: int) -> None:
    tx.execute(
        "UPDATE identity_policy SET default_version = ?, modified_ms = ? WHERE name = ?", number, tx.now_ms, name
    )


def delete_version(tx: Tx, name: str, number: int) -> None:
    tx.execute("DELETE FROM identity_policy_version WHERE policy = ? AND version = ?", name, number)


def delete_policy(tx: Tx, name: str) -> None:
    tx.execute("DELETE FROM identity_policy_version WHERE policy = ?", name)
    tx.execute("DELETE FROM identity_policy WHERE name = ?", name)


# attachments


def attach(tx: Tx, target: str, name: str) -> bool:
    """False when it was attached before."""
    sql = "INSERT INTO identity_attachment (target, policy) VALUES (?, ?) ON CONFLICT (target, policy) DO NOTHING"
    return tx.execute(sql, target, name) > 0


def detach(tx: Tx, target: str, name: str) -> bool:
    return tx.execute("DELETE FROM identity_attachment WHERE target = ? AND policy = ?", target, name) > 0


def detach_all(tx: Tx, target: str) -> int:
    return tx.execute("DELETE FROM identity_attachment WHERE target = ?", target)


def attached(tx: Tx, target: str, after: str = "", limit: int = -1) -> list[str]:
    """Names of the policies of a target, in order."""
    sql = "SELECT policy FROM identity_attachment WHERE target = ? AND policy > ? ORDER BY policy"
    rows = tx.all(sql, target, after) if limit < 0 else tx.all(f"{sql} LIMIT ?", target, after, limit)
    return [str(row[0]) for row in rows]


def targets(tx: Tx, name: str, after: str, limit: int) -> list[str]:
    sql = "SELECT target FROM identity_attachment WHERE policy = ? AND target > ? ORDER BY target LIMIT ?"
    return [str(row[0]) for row in tx.all(sql, name, after, limit)]


def is_used(tx: Tx, name: str) -> bool:
    return tx.one("SELECT 1 FROM identity_attachment WHERE policy = ? LIMIT 1", name) is not None


# things and their certificates


def attach_thing(tx: Tx, thing: str, certificate_id: str, *, exclusive: bool) -> bool:
    sql = (
        "INSERT INTO identity_thing (thing, certificate, exclusive) VALUES (?, ?, ?)"
        " ON CONFLICT (thing, certificate) DO UPDATE SET exclusive = excluded.exclusive WHERE exclusive <> excluded.exclusive"
    )
    return tx.execute(sql, thing, certificate_id, int(exclusive)) > 0


def detach_thing(tx: Tx, thing: str, certificate_id: str) -> bool:
    return tx.execute("DELETE FROM identity_thing WHERE thing = ? AND certificate = ?", thing, certificate_id) > 0


def things_of(tx: Tx, certificate_id: str, after: str = "", limit: int = 1 << 30) -> list[tuple[str, bool]]:
    """(thing, exclusive) in order."""
    sql = "SELECT thing, exclusive FROM identity_thing WHERE certificate = ? AND thing > ? ORDER BY thing LIMIT ?"
    return [(str(row[0]), bool(row[1])) for row in tx.all(sql, certificate_id, after, limit)]


def principals_of(tx: Tx, thing: str, after: str = "", limit: int = 1 << 30) -> list[tuple[str, bool]]:
    """(certificate id, exclusive) in order."""
    sql = "SELECT certificate, exclusive FROM identity_thing WHERE thing = ? AND certificate > ? ORDER BY certificate LIMIT ?"
    return [(str(row[0]), bool(row[1])) for row in tx.all(sql, thing, after, limit)]


# join tokens


def add_token(tx: Tx, digest: bytes, thing: str, policy_name: str, expires_ms: int) -> None:
    tx.execute("DELETE FROM identity_join_token WHERE expires_ms <= ?", tx.now_ms)
    tx.execute(
        "INSERT INTO identity_join_token (hash, thing, policy, expires_ms) VALUES (?, ?, ?, ?)",
        digest,
        thing,
        policy_name,
        expires_ms,
    )


def token(tx: Tx, digest: bytes) -> tuple[str, str] | None:
    """(thing it is bound to or empty, policy) of a token that has not ended."""
    row = tx.one("SELECT thing, policy FROM identity_join_token WHERE hash = ? AND expires_ms > ?", digest, tx.now_ms)
    return (str(row[0]), str(row[1])) if row else None


def use_token(tx: Tx, digest: bytes) -> None:
    tx.execute("DELETE FROM identity_join_token WHERE hash = ?", digest)


_CERTIFICATE = "id, der, status, version, created_ms, modified_ms"
_POLICY = "name, default_version, last_version, created_ms, modified_ms"


def _ordered(
    tx: Tx, columns: str, table: str, key_column: str, after: tuple[int, str] | None, limit: int, ascending: bool
) -> Sequence[Row]:
    way, beyond = ("ASC", ">") if ascending else ("DESC", "<")
    tail = f"ORDER BY created_ms {way}, {key_column} {way} LIMIT ?"
    if after is None:
        return tx.all(f"SELECT {columns} FROM {table} {tail}", limit)  # noqa: S608 - constants of this file
    created_ms, key_value = after
    where = f"WHERE created_ms {beyond} ? OR (created_ms = ? AND {key_column} {beyond} ?)"
    return tx.all(f"SELECT {columns} FROM {table} {where} {tail}", created_ms, created_ms, key_value, limit)  # noqa: S608


def _certificate(row: Row) -> Certificate:
    return Certificate(
        id=str(row[0]),
        der=bytes(row[1]),
        status=str(row[2]),
        version=int(row[3]),
        created_ms=int(row[4]),
        modified_ms=int(row[5]),
    )


def _policy(row: Row) -> Policy:
    return Policy(
        name=str(row[0]),
        default_version=int(row[1]),
        last_version=int(row[2]),
        created_ms=int(row[3]),
        modified_ms=int(row[4]),
    )


def _version(row: Row) -> PolicyVersion:
    return PolicyVersion(policy=str(row[0]), version=int(row[1]), document=str(row[2]), created_ms=int(row[3]))
