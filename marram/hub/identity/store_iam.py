"""The tables of users, roles, their policies and keys, and of role aliases. An owner is a user or a role, by its id."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from marram.core import codec
from marram.kit.db import Row, Tx

Tags = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entity:
    """A user, or a role with its trust policy. principals: the ids of those whom that policy names, by ARN."""

    id: str
    kind: str
    name: str
    path: str
    description: str
    tags: Tags
    trust: str
    principals: Mapping[str, str]
    max_session_s: int
    created_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Managed:
    name: str
    id: str
    path: str
    description: str
    tags: Tags
    default_version: int
    last_version: int
    created_ms: int
    modified_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagedVersion:
    version: int
    document: str
    created_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredKey:
    id: str
    owner: str
    sealed: bytes
    status: str
    used_ms: int
    used_service: str
    created_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Alias:
    name: str
    role_arn: str
    duration_s: int
    created_ms: int
    modified_ms: int


# users and roles

_ENTITY: Final = "id, kind, name, path, description, tags, trust, principals, max_session_s, created_ms"


def add_entity(tx: Tx, entity: Entity) -> None:
    tx.execute(
        f"INSERT INTO identity_entity ({_ENTITY}, folded) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - constant
        entity.id, entity.kind, *_values(entity), entity.created_ms, entity.name.lower(),
    )  # fmt: skip


def save_entity(tx: Tx, entity: Entity) -> None:
    """All but id, kind and when it was created."""
    tx.execute(
        "UPDATE identity_entity SET name = ?, path = ?, description = ?, tags = ?, trust = ?, principals = ?,"
        " max_session_s = ?, folded = ? WHERE id = ?",
        *_values(entity), entity.name.lower(), entity.id,
    )  # fmt: skip


def entity(tx: Tx, kind: str, name: str) -> Entity | None:
    """By its name as it is written, else in whatever case."""
    sql = f"SELECT {_ENTITY} FROM identity_entity WHERE kind = ? AND folded = ? ORDER BY name = ? DESC LIMIT 1"  # noqa: S608
    return _entity(tx.one(sql, kind, name.lower(), name))


def entity_by_id(tx: Tx, entity_id: str) -> Entity | None:
    return _entity(tx.one(f"SELECT {_ENTITY} FROM identity_entity WHERE id = ?", entity_id))  # noqa: S608 - constant


def entities(tx: Tx, kind: str, prefix: str, after: str, limit: int) -> list[Entity]:
    """By name, those whose path begins with `prefix`."""
    sql = (
        f"SELECT {_ENTITY} FROM identity_entity WHERE kind = ? AND substr(path, 1, ?) = ? AND name > ?"  # noqa: S608
        " ORDER BY name LIMIT ?"
    )
    return [found for row in tx.all(sql, kind, len(prefix), prefix, after, limit) if (found := _entity(row))]


def count_entities(tx: Tx, kind: str) -> int:
    return _count(tx.one("SELECT COUNT(*) FROM identity_entity WHERE kind = ?", kind))


def delete_entity(tx: Tx, entity_id: str) -> None:
    tx.execute("DELETE FROM identity_entity WHERE id = ?", entity_id)


# inline policies


def put_inline(tx: Tx, owner: str, name: str, document: str) -> None:
    tx.execute(
        "INSERT INTO identity_inline (owner, name, document) VALUES (?, ?, ?)"
        " ON CONFLICT (owner, name) DO UPDATE SET document = excluded.document",
        owner,
        name,
        document,
    )


def inline(tx: Tx, owner: str) -> dict[str, str]:
    """{name: document}, in order of names."""
    rows = tx.all("SELECT name, document FROM identity_inline WHERE owner = ? ORDER BY name", owner)
    return {str(row[0]): str(row[1]) for row in rows}


def delete_inline(tx: Tx, owner: str, name: str) -> bool:
    return tx.execute("DELETE FROM identity_inline WHERE owner = ? AND name = ?", owner, name) > 0


# managed policies

_MANAGED: Final = "name, id, path, description, tags, default_version, last_version, created_ms, modified_ms"


def add_managed(tx: Tx, policy: Managed, document: str) -> None:
    tx.execute(
        f"INSERT INTO identity_managed ({_MANAGED}, folded) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - constant
        policy.name, policy.id, policy.path, policy.description, _tags(policy.tags), 1, 0, policy.created_ms,
        policy.modified_ms, policy.name.lower(),
    )  # fmt: skip
    add_managed_version(tx, policy.name, document)


def managed(tx: Tx, name: str) -> Managed | None:
    return _managed(tx.one(f"SELECT {_MANAGED} FROM identity_managed WHERE folded = ?", name.lower()))  # noqa: S608


def all_managed(tx: Tx, prefix: str, after: str, limit: int) -> list[Managed]:
    sql = f"SELECT {_MANAGED} FROM identity_managed WHERE substr(path, 1, ?) = ? AND name > ? ORDER BY name LIMIT ?"  # noqa: S608
    return [found for row in tx.all(sql, len(prefix), prefix, after, limit) if (found := _managed(row))]


def count_managed(tx: Tx) -> int:
    return _count(tx.one("SELECT COUNT(*) FROM identity_managed"))


def delete_managed(tx: Tx, name: str) -> None:
    tx.execute("DELETE FROM identity_managed_version WHERE policy = ?", name)
    tx.execute("DELETE FROM identity_managed WHERE name = ?", name)


def set_managed_tags(tx: Tx, name: str, tags: Tags) -> None:
    tx.execute("UPDATE identity_managed SET tags = ? WHERE name = ?", _tags(tags), name)


def add_managed_version(tx: Tx, name: str, document: str) -> int:
    """Numbers are never used again."""
    row = tx.one(
        "UPDATE identity_managed SET last_version = last_version + 1, modified_ms = ? WHERE name = ? RETURNING last_version",
        tx.now_ms,
        name,
    )
    assert row is not None
    number = int(row[0])
    tx.execute(
        "INSERT INTO identity_managed_version (policy, version, document, created_ms) VALUES (?, ?, ?, ?)",
        name,
        number,
        document,
        tx.now_ms,
    )
    return number


def managed_versions(tx: Tx, name: str) -> list[ManagedVersion]:
    """Newest first."""
    rows = tx.all(
        "SELECT version, document, created_ms FROM identity_managed_version WHERE policy = ? ORDER BY version DESC",
        name,
    )
    return [ManagedVersion(version=int(row[0]), document=str(row[1]), created_ms=int(row[2])) for row in rows]


def set_managed_default(tx: Tx, name: str, number: int) -> None:
    tx.execute(
        "UPDATE identity_managed SET default_version = ?, modified_ms = ? WHERE name = ?", number, tx.now_ms, name
    )


def delete_managed_version(tx: Tx, name: str, number: int) -> None:
    tx.execute("DELETE FROM identity_managed_version WHERE policy = ? AND version = ?", name, number)


# which owner has which managed policy


def grant(tx: Tx, owner: str, policy_arn: str) -> bool:
    """False when it had it before."""
    sql = "INSERT INTO identity_grant (owner, policy) VALUES (?, ?) ON CONFLICT (owner, policy) DO NOTHING"
    return tx.execute(sql, owner, policy_arn) > 0


def withdraw(tx: Tx, owner: str, policy_arn: str) -> bool:
    return tx.execute("DELETE FROM identity_grant WHERE owner = ? AND policy = ?", owner, policy_arn) > 0


def granted(tx: Tx, owner: str) -> list[str]:
    """ARNs, in order."""
    return [str(row[0]) for row in tx.all("SELECT policy FROM identity_grant WHERE owner = ? ORDER BY policy", owner)]


def owners_of(tx: Tx, policy_arn: str) -> list[str]:
    return [
        str(row[0]) for row in tx.all("SELECT owner FROM identity_grant WHERE policy = ? ORDER BY owner", policy_arn)
    ]


def count_grants(tx: Tx, policy_arn: str) -> int:
    return _count(tx.one("SELECT COUNT(*) FROM identity_grant WHERE policy = ?", policy_arn))


# access keys

_KEY: Final = "id, owner, secret, status, used_ms, used_service, created_ms"


def add_key(tx: Tx, key_id: str, owner: str, sealed: bytes) -> None:
    tx.execute(
        f"INSERT INTO identity_access_key ({_KEY}) VALUES (?, ?, ?, 'Active', 0, '', ?)",  # noqa: S608 - constant
        key_id,
        owner,
        sealed,
        tx.now_ms,
    )


def key(tx: Tx, key_id: str) -> StoredKey | None:
    return _key(tx.one(f"SELECT {_KEY} FROM identity_access_key WHERE id = ?", key_id))  # noqa: S608 - constant


def keys_of(tx: Tx, owner: str) -> list[StoredKey]:
    """Oldest first."""
    sql = f"SELECT {_KEY} FROM identity_access_key WHERE owner = ? ORDER BY created_ms, id"  # noqa: S608 - constant
    return [found for row in tx.all(sql, owner) if (found := _key(row))]


def all_keys(tx: Tx, after: tuple[str, str], limit: int) -> list[tuple[str, StoredKey]]:
    """(user name, key) by user name, then key id; `after` is that pair."""
    columns = ", ".join(f"k.{column}" for column in _KEY.split(", "))
    sql = (
        f"SELECT {columns}, e.name FROM identity_access_key k JOIN identity_entity e ON e.id = k.owner"  # noqa: S608
        " WHERE e.name > ? OR (e.name = ? AND k.id > ?) ORDER BY e.name, k.id LIMIT ?"
    )
    name, key_id = after
    return [(str(row[-1]), found) for row in tx.all(sql, name, name, key_id, limit) if (found := _key(row[:-1]))]


def set_key_status(tx: Tx, key_id: str, status: str) -> None:
    tx.execute("UPDATE identity_access_key SET status = ? WHERE id = ?", status, key_id)


def set_key_used(tx: Tx, key_id: str, used_ms: int, service: str) -> None:
    tx.execute("UPDATE identity_access_key SET used_ms = ?, used_service = ? WHERE id = ?", used_ms, service, key_id)


def delete_key(tx: Tx, key_id: str) -> bool:
    return tx.execute("DELETE FROM identity_access_key WHERE id = ?", key_id) > 0


# role aliases

_ALIAS: Final = "name, role_arn, duration_s, created_ms, modified_ms"


def add_alias(tx: Tx, name: str, role_arn: str, duration_s: int) -> None:
    tx.execute(
        f"INSERT INTO identity_role_alias ({_ALIAS}) VALUES (?, ?, ?, ?, ?)",  # noqa: S608 - constant
        name,
        role_arn,
        duration_s,
        tx.now_ms,
        tx.now_ms,
    )


def save_alias(tx: Tx, name: str, role_arn: str, duration_s: int) -> None:
    sql = "UPDATE identity_role_alias SET role_arn = ?, duration_s = ?, modified_ms = ? WHERE name = ?"
    tx.execute(sql, role_arn, duration_s, tx.now_ms, name)


def alias(tx: Tx, name: str) -> Alias | None:
    return _alias(tx.one(f"SELECT {_ALIAS} FROM identity_role_alias WHERE name = ?", name))  # noqa: S608 - constant


def aliases(tx: Tx, after: str | None, limit: int, *, ascending: bool) -> list[str]:
    """Names, in order."""
    if ascending:
        rows = tx.all("SELECT name FROM identity_role_alias WHERE name > ? ORDER BY name LIMIT ?", after or "", limit)
    elif after is None:
        rows = tx.all("SELECT name FROM identity_role_alias ORDER BY name DESC LIMIT ?", limit)
    else:
        rows = tx.all("SELECT name FROM identity_role_alias WHERE name < ? ORDER BY name DESC LIMIT ?", after, limit)
    return [str(row[0]) for row in rows]


def delete_alias(tx: Tx, name: str) -> bool:
    return tx.execute("DELETE FROM identity_role_alias WHERE name = ?", name) > 0


# rows to values


def _values(entity: Entity) -> tuple[str, str, str, str, str, str, int]:
    principals = codec.dumps(dict(entity.principals)).decode()
    return (
        entity.name, entity.path, entity.description, _tags(entity.tags), entity.trust, principals, entity.max_session_s,
    )  # fmt: skip


def _entity(row: Row | None) -> Entity | None:
    if row is None:
        return None
    return Entity(
        id=str(row[0]),
        kind=str(row[1]),
        name=str(row[2]),
        path=str(row[3]),
        description=str(row[4]),
        tags=_read_tags(row[5]),
        trust=str(row[6]),
        principals={name: str(value) for name, value in codec.loads_object(row[7]).items()},
        max_session_s=int(row[8]),
        created_ms=int(row[9]),
    )


def _managed(row: Row | None) -> Managed | None:
    if row is None:
        return None
    return Managed(
        name=str(row[0]),
        id=str(row[1]),
        path=str(row[2]),
        description=str(row[3]),
        tags=_read_tags(row[4]),
        default_version=int(row[5]),
        last_version=int(row[6]),
        created_ms=int(row[7]),
        modified_ms=int(row[8]),
    )


def _key(row: Row | None) -> StoredKey | None:
    if row is None:
        return None
    return StoredKey(
        id=str(row[0]),
        owner=str(row[1]),
        sealed=bytes(row[2]),
        status=str(row[3]),
        used_ms=int(row[4]),
        used_service=str(row[5]),
        created_ms=int(row[6]),
    )


def _alias(row: Row | None) -> Alias | None:
    if row is None:
        return None
    return Alias(
        name=str(row[0]),
        role_arn=str(row[1]),
        duration_s=int(row[2]),
        created_ms=int(row[3]),
        modified_ms=int(row[4]),
    )


def _tags(tags: Tags) -> str:
    return codec.dumps([list(pair) for pair in tags]).decode()


def _read_tags(text: str) -> Tags:
    rows = codec.loads(text)
    assert isinstance(rows, list)
    return tuple((str(row[0]), str(row[1])) for row in rows if isinstance(row, list))


def _count(row: Row | None) -> int:
    assert row is not None
    return int(row[0])
