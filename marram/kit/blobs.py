"""The blob store: bytes addressed by their SHA-256, written once, kept while a row refers to them.

A blob is a file `ab/cd...`, put there whole (temp, fsync, rename, fsync of the directory) before any transaction may name it.
References are rows, taken and given back in the transaction of the document that holds them. A blob without one for 24 hours
is marked dying in a transaction, and only then deleted; an upload of a dying digest writes the file anew and clears the mark.
Keys, names and types that users give are data and never become paths: a path is made of a checked digest alone.

Not here: what the bytes mean, who may read them, quotas (the slices). Tables: kit/migrations/0002_blobs.sql.
"""

import asyncio
import contextlib
import functools
import hashlib
import os
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from marram.core.errors import Corrupt, Invalid, LimitExceeded, NotFound
from marram.kit import disk, metrics
from marram.kit.clock import Entropy, SystemEntropy
from marram.kit.db import Db, Tx
from marram.kit.disk import failpoint
from marram.kit.log import logger

log = logger(__name__)

KEPT_MS: Final = 24 * 3600 * 1000
KEPT_SHORT_MS: Final = 60 * 1000  # at twice the reserve and below
COLLECTED_AT_ONCE: Final = 100
SWEPT_AT_ONCE: Final = 16  # of the 256 folders
CHUNK_BYTES: Final = 1 << 20
RESERVE_SHARE: Final = 0.05
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")

_written: Final = metrics.counter("marram_blobs_written_bytes_total", "Bytes put into the blob store").labels()
_collected: Final = metrics.counter(
    "marram_blobs_collected_total", "Blobs deleted because nothing referred to them"
).labels()


class _Hasher(Protocol):
    def update(self, data: bytes, /) -> None: ...


@dataclass(frozen=True, slots=True)
class Digest:
    sha256: str  # lower-case hex
    size: int


class Blobs:
    """One for each folder, used from one loop. The database is the one whose transactions hold the references."""

    def __init__(
        self, folder: Path, db: Db, *, entropy: Entropy | None = None, reserve_share: float = RESERVE_SHARE
    ) -> None:
        self.folder = folder
        self._db = db
        self._entropy = entropy or SystemEntropy()
        self._reserve_share = reserve_share
        self._incoming = folder / "incoming"
        self._durable: set[str] = set()  # folders whose name this process has synced
        self._placing: dict[str, int] = {}  # digests between the rename and the commit
        self._deleting: dict[str, asyncio.Event] = {}
        self._swept = 0
        disk.make_dirs(self._incoming)
        with disk.errors_of(self._incoming):
            for left in self._incoming.iterdir():  # of uploads that a crash ended
                left.unlink()
        disk.fsync_dir(folder)
        disk.fsync_dir(folder.parent)

    async def put(self, source: AsyncIterator[bytes] | bytes, *, limit: int | None = None) -> Digest:
        """Store the bytes. When this returns they are durable, and safe from collection for 24 hours.

        Raises LimitExceeded beyond `limit` bytes and DiskFull when the disk is at its reserve; then nothing is kept.
        """
        free, share = disk.free_share(self.folder)
        if share < self._reserve_share:
            raise disk.DiskFull(f"{free} bytes are free on the disk of {self.folder}: that is its reserve")
        temporary = self._incoming / self._entropy.bytes(16).hex()
        try:
            digest = await self._receive(source, temporary, limit)
            await self._adopt(temporary, digest)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        _written.inc(digest.size)
        return digest

    def path(self, digest: str | Digest) -> Path:
        """Where the bytes are; open it for reading only. Raises Invalid when it is not a SHA-256 in lower-case hex."""
        sha256 = digest.sha256 if isinstance(digest, Digest) else digest
        if _DIGEST.fullmatch(sha256) is None:
            raise Invalid(f"{sha256[:80]!r} is not a SHA-256")
        return self.folder / sha256[:2] / sha256[2:]

    def ref(self, tx: Tx, digest: str | Digest, owner: str) -> None:
        """Keep the blob until `owner` lets go; a second time does nothing. Raises NotFound when it must be uploaded (again)."""
        sha256 = digest.sha256 if isinstance(digest, Digest) else digest
        row = tx.one("SELECT dying FROM blob WHERE sha256 = ?", sha256)
        if row is None or row[0]:
            raise NotFound(f"no blob {sha256}", sha256=sha256)
        added = tx.execute("INSERT INTO blob_ref (sha256, owner) VALUES (?, ?) ON CONFLICT DO NOTHING", sha256, owner)
        if added:
            tx.execute("UPDATE blob SET refs = refs + 1 WHERE sha256 = ?", sha256)

    def unref(self, tx: Tx, digest: str | Digest, owner: str) -> None:
        """`owner` needs it no more; one who did not hold it does nothing."""
        sha256 = digest.sha256 if isinstance(digest, Digest) else digest
        if tx.execute("DELETE FROM blob_ref WHERE sha256 = ? AND owner = ?", sha256, owner):
            tx.execute("UPDATE blob SET refs = refs - 1, since_ms = ? WHERE sha256 = ?", tx.now_ms, sha256)

    async def check(self, digest: str | Digest) -> Digest:
        """Read the bytes and compare. Raises NotFound, or Corrupt when they are not what was put; an upload heals it."""
        path = self.path(digest)
        found = await asyncio.to_thread(_hash, path)
        if path != self.path(found):
            raise Corrupt(f"blob {path.parent.name}{path.name} is damaged", path=str(path))
        return found

    async def collect(self) -> int:
        """Delete what has had no reference for 24 hours, at most 100 at a time; how many went. For a periodic task.

        When the disk nears its reserve a minute must do: somebody deleted these to make room.
        """
        await self._find_strays()
        is_short = disk.free_share(self.folder)[1] < 2 * self._reserve_share
        kept_ms = KEPT_SHORT_MS if is_short else KEPT_MS

        def mark(tx: Tx) -> list[str]:
            tx.execute(
                "UPDATE blob SET dying = 1 WHERE sha256 IN"
                " (SELECT sha256 FROM blob WHERE refs = 0 AND since_ms <= ? ORDER BY since_ms LIMIT ?)",
                tx.now_ms - kept_ms,
                COLLECTED_AT_ONCE,
            )
            rows = tx.all("SELECT sha256 FROM blob WHERE refs = 0 AND dying = 1 LIMIT ?", COLLECTED_AT_ONCE)
            return [str(row[0]) for row in rows]

        gone = 0
        for sha256 in await self._db.write(mark):
            if await self._delete(sha256):
                gone += 1
        _collected.inc(gone)
        return gone

    # putting

    async def _receive(self, source: AsyncIterator[bytes] | bytes, temporary: Path, limit: int | None) -> Digest:
        if isinstance(source, bytes):
            return await asyncio.to_thread(_write_all, temporary, source, limit, self._sync)
        hasher, size, waiting = hashlib.sha256(), 0, bytearray()
        with disk.errors_of(temporary):
            handle = await asyncio.to_thread(
                os.open, temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600
            )
            try:
                async for chunk in source:
                    size += len(chunk)
                    _limited(size, limit)
                    waiting += chunk
                    if len(waiting) >= CHUNK_BYTES:
                        await asyncio.to_thread(_take, handle, hasher, bytes(waiting))
                        waiting.clear()
                await asyncio.to_thread(_take, handle, hasher, bytes(waiting))
                await asyncio.to_thread(self._sync, handle)
            finally:
                os.close(handle)
        return Digest(hasher.hexdigest(), size)

    async def _adopt(self, temporary: Path, digest: Digest) -> None:
        """Move the file to its place and enter its row. The order matters: a row promises a file."""
        sha256 = digest.sha256
        while (deleting := self._deleting.get(sha256)) is not None:
            await deleting.wait()
        self._placing[sha256] = self._placing.get(sha256, 0) + 1
        try:
            await asyncio.to_thread(self._place, temporary, self.path(sha256))
            failpoint("blobs.before_row")
            await self._db.write(
                lambda tx: tx.execute(
                    "INSERT INTO blob (sha256, size, refs, since_ms, dying) VALUES (?, ?, 0, ?, 0)"
                    " ON CONFLICT (sha256) DO UPDATE SET since_ms = excluded.since_ms, dying = 0",
                    sha256,
                    digest.size,
                    tx.now_ms,
                )
            )
        finally:
            self._placing[sha256] -= 1
            if not self._placing[sha256]:
                del self._placing[sha256]

    def _place(self, temporary: Path, path: Path) -> None:
        with disk.errors_of(path):
            if path.parent.name not in self._durable:
                path.parent.mkdir(mode=0o700, exist_ok=True)
                # Even when it was there: a process that was killed may have made it and not come to this line.
                self._sync_folder(self.folder)
                self._durable.add(path.parent.name)
            os.rename(temporary, path)
            self._sync_folder(path.parent)

    def _sync(self, handle: int) -> None:
        os.fsync(handle)

    def _sync_folder(self, folder: Path) -> None:
        disk.fsync_dir(folder)

    # collecting

    async def _delete(self, sha256: str) -> bool:
        """Delete a dying blob, unless an upload has just brought it back."""
        row = self._db.read_now(lambda tx: tx.one("SELECT dying FROM blob WHERE sha256 = ?", sha256))
        if sha256 in self._placing or sha256 in self._deleting or row is None or not row[0]:
            return False
        done = self._deleting[sha256] = asyncio.Event()
        try:
            await asyncio.to_thread(disk.remove, self.path(sha256))
            failpoint("blobs.before_row_goes")
            await self._db.write(lambda tx: tx.execute("DELETE FROM blob WHERE sha256 = ? AND dying = 1", sha256))
        finally:
            del self._deleting[sha256]
            done.set()
        return True

    async def _find_strays(self) -> None:
        """Enter rows for files that have none, of uploads that a crash ended before their commit: they age like all others."""
        names: list[str] = []
        for number in range(self._swept, self._swept + SWEPT_AT_ONCE):
            names += await asyncio.to_thread(_names, self.folder / f"{number % 256:02x}")
        self._swept = (self._swept + SWEPT_AT_ONCE) % 256
        for at in range(0, len(names), COLLECTED_AT_ONCE):
            page = names[at : at + COLLECTED_AT_ONCE]

            def known(tx: Tx, page: list[str] = page) -> list[str]:
                return [name for name in page if tx.one("SELECT 1 FROM blob WHERE sha256 = ?", name) is None]

            for sha256 in await self._db.read(known):
                if sha256 in self._placing or sha256 in self._deleting:
                    continue
                try:
                    size = self.path(sha256).stat().st_size
                except OSError:
                    continue
                await self._db.write(functools.partial(_enter_stray, sha256=sha256, size=size))
                log.info("blobs.stray", sha256=sha256, bytes=size)


def _enter_stray(tx: Tx, *, sha256: str, size: int) -> None:
    tx.execute(
        "INSERT INTO blob (sha256, size, refs, since_ms, dying) VALUES (?, ?, 0, ?, 0) ON CONFLICT DO NOTHING",
        sha256,
        size,
        tx.now_ms,
    )


def _write_all(temporary: Path, data: bytes, limit: int | None, sync: Callable[[int], None]) -> Digest:
    _limited(len(data), limit)
    hasher = hashlib.sha256()
    with disk.errors_of(temporary):
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _take(handle, hasher, data)
            sync(handle)
        finally:
            os.close(handle)
    return Digest(hasher.hexdigest(), len(data))


def _take(handle: int, hasher: _Hasher, data: bytes) -> None:
    hasher.update(data)
    disk.write_all(handle, data)


def _limited(size: int, limit: int | None) -> None:
    if limit is not None and size > limit:
        raise LimitExceeded(f"over {limit} bytes", limit=limit)


def _hash(path: Path) -> Digest:
    with disk.errors_of(path), path.open("rb") as file:
        hasher = hashlib.file_digest(file, "sha256")
        return Digest(hasher.hexdigest(), file.tell())


def _names(folder: Path) -> list[str]:
    try:
        return [folder.name + name for name in os.listdir(folder) if _DIGEST.fullmatch(folder.name + name)]
    except FileNotFoundError:
        return []
