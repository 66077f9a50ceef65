"""The tables of buckets, objects and uploads. Keys sort by their UTF-8 bytes, as S3 lists them (SQLite's BINARY collation)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from marram.core import codec
from marram.kit.db import Tx


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """An object's row. `id` is new with each write: it owns the reference to the blob."""

    bucket: str
    key: str
    id: str
    digest: str
    size: int
    etag: str  # without quotes
    headers: Mapping[str, object] = field(
        default_factory=dict[str, object]
    )  # ContentType, Metadata, ..., by wire member name
    modified_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    id: str
    bucket: str
    key: str
    headers: Mapping[str, object]
    created_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    number: int
    id: str
    digest: str
    size: int
    etag: str
    modified_ms: int


_OBJECT = "SELECT bucket, object_key, id, digest, size, etag, headers, modified_ms FROM object"


def bucket_exists(tx: Tx, name: str) -> bool:
    return tx.one("SELECT 1 FROM bucket WHERE name = ?", name) is not None


def add_bucket(tx: Tx, name: str, *, internal: bool) -> None:
    tx.execute("INSERT INTO bucket (name, internal, created_ms) VALUES (?, ?, ?)", name, int(internal), tx.now_ms)


def delete_bucket(tx: Tx, name: str) -> None:
    tx.execute("DELETE FROM bucket WHERE name = ?", name)


def buckets(tx: Tx) -> list[tuple[str, int]]:
    """(name, created_ms) of those that users made, by name."""
    rows = tx.all("SELECT name, created_ms FROM bucket WHERE internal = 0 ORDER BY name")
    return [(str(row[0]), int(row[1])) for row in rows]


def is_empty(tx: Tx, bucket: str) -> bool:
    return tx.one("SELECT 1 FROM object WHERE bucket = ? LIMIT 1", bucket) is None


def load(tx: Tx, bucket: str, key: str) -> Stored | None:
    row = tx.one(f"{_OBJECT} WHERE bucket = ? AND object_key = ?", bucket, key)
    return _stored(row) if row else None


def save(tx: Tx, stored: Stored) -> None:
    tx.execute(
        "INSERT INTO object (bucket, object_key, id, digest, size, etag, headers, modified_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (bucket, object_key) DO UPDATE SET id = excluded.id, digest = excluded.digest, size = excluded.size,"
        " etag = excluded.etag, headers = excluded.headers, modified_ms = excluded.modified_ms",
        stored.bucket,
        stored.key,
        stored.id,
        stored.digest,
        stored.size,
        stored.etag,
        codec.dumps(stored.headers).decode(),
        stored.modified_ms,
    )


def delete(tx: Tx, bucket: str, key: str) -> None:
    tx.execute("DELETE FROM object WHERE bucket = ? AND object_key = ?", bucket, key)


def after(tx: Tx, bucket: str, prefix: str, start: str, *, inclusive: bool, limit: int) -> list[Stored]:
    """Objects whose key begins with `prefix`, from `start` on."""
    compare = ">=" if inclusive else ">"
    end = _end(prefix)
    if end is None:
        rows = tx.all(
            f"{_OBJECT} WHERE bucket = ? AND object_key {compare} ? ORDER BY object_key LIMIT ?", bucket, start, limit
        )
    else:
        rows = tx.all(
            f"{_OBJECT} WHERE bucket = ? AND object_key {compare} ? AND object_key < ? ORDER BY object_key LIMIT ?",
            bucket,
            start,
            end,
            limit,
        )
    return [_stored(row) for row in rows]


def _end(prefix: str) -> str | None:
    """The least text above all that begin with `prefix`; None when there is none."""
    for at in range(len(prefix) - 1, -1, -1):
        point = ord(prefix[at])
        if point < 0x10FFFF:
            # Surrogates are no characters: the one before them is followed by the one behind them.
            return prefix[:at] + chr(0xE000 if point == 0xD7FF else point + 1)
    return None


def end_of(prefix: str) -> str | None:
    return _end(prefix)


def add_upload(tx: Tx, upload: Upload) -> None:
    tx.execute(
        "INSERT INTO upload (id, bucket, object_key, headers, created_ms) VALUES (?, ?, ?, ?, ?)",
        upload.id,
        upload.bucket,
        upload.key,
        codec.dumps(upload.headers).decode(),
        upload.created_ms,
    )


def upload(tx: Tx, upload_id: str) -> Upload | None:
    row = tx.one("SELECT id, bucket, object_key, headers, created_ms FROM upload WHERE id = ?", upload_id)
    return _upload(row) if row else None


def uploads(tx: Tx, bucket: str, limit: int) -> list[Upload]:
    rows = tx.all(
        "SELECT id, bucket, object_key, headers, created_ms FROM upload WHERE bucket = ? ORDER BY object_key, id LIMIT ?",
        bucket,
        limit,
    )
    return [_upload(row) for row in rows]


def uploads_before(tx: Tx, created_ms: int, limit: int) -> list[str]:
    return [str(row[0]) for row in tx.all("SELECT id FROM upload WHERE created_ms < ? LIMIT ?", created_ms, limit)]


def delete_upload(tx: Tx, upload_id: str) -> None:
    tx.execute("DELETE FROM upload_part WHERE upload_id = ?", upload_id)
    tx.execute("DELETE FROM upload WHERE id = ?", upload_id)


def part(tx: Tx, upload_id: str, number: int) -> Part | None:
    row = tx.one(
        "SELECT number, id, digest, size, etag, modified_ms FROM upload_part WHERE upload_id = ? AND number = ?",
        upload_id,
        number,
    )
    return _part(row) if row else None


def save_part(tx: Tx, upload_id: str, part: Part) -> None:
    tx.execute(
        "INSERT INTO upload_part (upload_id, number, id, digest, size, etag, modified_ms) VALUES (?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (upload_id, number) DO UPDATE SET id = excluded.id, digest = excluded.digest, size = excluded.size,"
        " etag = excluded.etag, modified_ms = excluded.modified_ms",
        upload_id,
        part.number,
        part.id,
        part.digest,
        part.size,
        part.etag,
        part.modified_ms,
    )


def parts(tx: Tx, upload_id: str, after_number: int = 0, limit: int = 10_001) -> list[Part]:
    rows = tx.all(
        "SELECT number, id, digest, size, etag, modified_ms FROM upload_part WHERE upload_id = ? AND number > ?"
        " ORDER BY number LIMIT ?",
        upload_id,
        after_number,
        limit,
    )
    return [_part(row) for row in rows]


def _stored(row: tuple[object, ...]) -> Stored:
    bucket, key, identity, digest, size, etag, headers, modified_ms = row
    return Stored(
        bucket=str(bucket), key=str(key), id=str(identity), digest=str(digest), size=cast(int, size), etag=str(etag),
        headers=codec.loads_object(str(headers)), modified_ms=cast(int, modified_ms),
    )  # fmt: skip


def _upload(row: tuple[object, ...]) -> Upload:
    identity, bucket, key, headers, created_ms = row
    return Upload(
        id=str(identity), bucket=str(bucket), key=str(key), headers=codec.loads_object(str(headers)),
        created_ms=cast(int, created_ms),
    )  # fmt: skip


def _part(row: tuple[object, ...]) -> Part:
    number, identity, digest, size, etag, modified_ms = row
    return Part(
        number=cast(int, number), id=str(identity), digest=str(digest), size=cast(int, size), etag=str(etag),
        modified_ms=cast(int, modified_ms),
    )  # fmt: skip
