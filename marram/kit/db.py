"""Documents: one SQLite database, one writer thread, group commit. Used by the hub (hub.db) and the edge (state.db).

A transaction is a plain function from `Tx` to a value. Those that wait run in one SQLite transaction, a savepoint each;
their futures resolve after the commit is on the disk. A function may run twice: no clock, randomness, I/O or change of
memory in it (`tx.now_ms`, `tx.new_id`, `tx.emit`); memory changes go to `tx.after_commit`, which runs them in commit
order on the loop, before the writer's `await` returns. The one document cache of the process is here too.

Not here: SQL of any slice (its store.py), records (kit/seglog), bytes (kit/blobs), who reads the outbox (hub/bus).
Sources: sqlite.org/wal.html, sqlite.org/lang_transaction.html ("Response To Errors Within A Transaction").
"""

import asyncio
import contextlib
import hashlib
import importlib.resources
import itertools
import os
import queue
import re
import sqlite3
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, TypeAlias, TypeVar, cast

import marram
from marram.core import codec
from marram.core.errors import AlreadyExists, Conflict, Corrupt, LimitExceeded, MarramError, Unavailable, Unsupported
from marram.kit import disk, metrics
from marram.kit.clock import Clock, Entropy, SystemEntropy, ulid, uuid4
from marram.kit.log import logger

log = logger(__name__)

T = TypeVar("T")
Value: TypeAlias = "int | float | str | bytes | None"
Row: TypeAlias = tuple[Any, ...]  # the store that wrote the SQL knows the types; it hands on domain values, never rows

BATCH_FUNCTIONS: Final = 256
BATCH_NS: Final = 5_000_000
SLOW_NS: Final = 10_000_000
READ_LIMIT_NS: Final = 5_000_000_000
MAX_WAITING: Final = 65_536
WAL_CHECKPOINT_BYTES: Final = 4 << 20
WAL_RESET_BYTES: Final = 32 << 20
KEPT_BACKUPS: Final = 3
_NOT_NOW: Final = (
    *("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_NOMEM", "SQLITE_IOERR"),
    *("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PROTOCOL"),
)

_commits: Final = metrics.counter("marram_db_commits_total", "Transactions committed")
_functions: Final = metrics.counter("marram_db_functions_total", "Functions committed")
_refused: Final = metrics.counter("marram_db_refused_total", "Functions refused because too many were waiting")
_commit_seconds: Final = metrics.histogram(
    "marram_db_commit_seconds", "Time from BEGIN to the commit being on the disk"
)
_cache_hits: Final = metrics.counter("marram_db_cache_hits_total", "Documents served from memory").labels()
_cache_misses: Final = metrics.counter("marram_db_cache_misses_total", "Documents loaded from the database").labels()


class NewerDatabase(Unsupported):
    """A later Marram has changed this database; this one would misread it."""

    code = "MRM-1002"


class ChangedMigration(Corrupt):
    """A migration that was applied differs from the one in the program."""

    code = "MRM-1003"


@dataclass(frozen=True, slots=True, kw_only=True)
class Migrations:
    """Where a slice keeps its `migrations/NNNN_name.sql`; `package` is importable, `slice` is the name on record."""

    slice: str
    package: str


KIT: Final = Migrations(slice="kit", package="marram.kit")  # the outbox, the blob store's rows: in every database


class Tx:
    """One transaction, for one function. Good only inside that function."""

    __slots__ = ("_clock", "_connection", "_entropy", "_writing", "after", "emitted", "now_ms", "touched")

    def __init__(self, connection: sqlite3.Connection, clock: Clock, entropy: Entropy, *, writing: bool) -> None:
        self._connection = connection
        self._clock = clock
        self._entropy = entropy
        self._writing = writing
        self.after: list[Callable[[], None]] = []
        self.touched: list[tuple[tuple[str, Hashable], object]] = []
        self.emitted = False
        self.now_ms = clock.wall_ms()

    def execute(self, sql: str, *params: Value) -> int:
        """Run one statement; the number of rows it changed. AlreadyExists: a unique key is taken. Conflict: a foreign key."""
        return self._run(sql, params).rowcount

    def many(self, sql: str, rows: Iterable[Sequence[Value]]) -> int:
        """Run one statement for each of `rows`."""
        self._check()
        try:
            return self._connection.executemany(sql, rows).rowcount
        except sqlite3.Error as exc:
            raise failure(exc) from exc

    def all(self, sql: str, *params: Value) -> list[Row]:
        cursor = self._run(sql, params)
        try:
            return cursor.fetchall()
        except sqlite3.Error as exc:
            raise failure(exc) from exc

    def one(self, sql: str, *params: Value) -> Row | None:
        """The first row, or None."""
        cursor = self._run(sql, params)
        try:
            return cast(Row | None, cursor.fetchone())
        except sqlite3.Error as exc:
            raise failure(exc) from exc
        finally:
            cursor.close()  # a statement left half read would hold the snapshot

    def new_id(self, kind: str) -> str:
        """`<kind>-<ULID>`."""
        return f"{kind}-{ulid(self._clock, self._entropy)}"

    def new_uuid(self) -> str:
        """A random UUID, for what AWS names so (deployments, jobs)."""
        return uuid4(self._entropy)

    def emit(self, topic: str, body: "codec.JsonValue | bytes") -> None:
        """Leave a message that goes out once this has committed, and goes out even if the process dies right after."""
        data = body if isinstance(body, bytes) else codec.dumps(body)
        self.execute("INSERT INTO outbox (topic, body, created_ms) VALUES (?, ?, ?)", topic, data, self.now_ms)
        self.emitted = True

    def emit_many(self, messages: "Sequence[tuple[str, codec.JsonValue | bytes]]") -> None:
        """As `emit`, in their order, in one statement."""
        if not messages:
            return
        values: list[Value] = []
        for topic, body in messages:
            values += (topic, body if isinstance(body, bytes) else codec.dumps(body), self.now_ms)
        marks = ", ".join(("(?, ?, ?)",) * len(messages))
        self.execute(f"INSERT INTO outbox (topic, body, created_ms) VALUES {marks}", *values)  # noqa: S608 - marks only
        self.emitted = True

    def after_commit(self, call: Callable[[], None]) -> None:
        """Call it on the loop once this has committed, in commit order, before the writer's `await` returns."""
        assert self._writing, "after_commit in a read"
        self.after.append(call)

    def touch(self, table: str, key: Hashable, value: object = None) -> None:
        """The document (table, key) changed: its cached copy goes with the commit, or becomes `value` when that is not None."""
        self.touched.append(((table, key), value))

    def _run(self, sql: str, params: tuple[Value, ...]) -> sqlite3.Cursor:
        self._check()
        try:
            return self._connection.execute(sql, params)
        except sqlite3.Error as exc:
            if not self._writing and exc.sqlite_errorname == "SQLITE_READONLY":
                raise RuntimeError(f"a write in a read: {sql[:80]}") from exc
            raise failure(exc) from exc

    def _check(self) -> None:
        # A full disk rolls back the whole transaction, and SQLite then runs on in autocommit: a function that swallowed
        # the error would write outside any transaction.
        if not self._connection.in_transaction:
            raise Unavailable("the transaction was rolled back; try again")


def _about(path: Path, error: MarramError | RuntimeError) -> MarramError | RuntimeError:
    """The same error, naming the file: at the start nobody knows yet which database is meant."""
    return type(error)(f"{path}: {error}")


def failure(exc: sqlite3.Error) -> MarramError | RuntimeError:
    """The exception that says what `exc` means for the caller; RuntimeError when it is our own mistake."""
    name: str = getattr(exc, "sqlite_errorname", "") or ""
    if name in ("SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY", "SQLITE_CONSTRAINT_ROWID"):
        return AlreadyExists(str(exc))
    if name == "SQLITE_CONSTRAINT_FOREIGNKEY":
        return Conflict(f"still referred to, or refers to nothing: {exc}")
    if name == "SQLITE_FULL":
        return disk.DiskFull(f"disk full: {exc}")
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return Corrupt(f"database damaged: {exc}")
    if name.startswith(
        (
            "SQLITE_BUSY",
            "SQLITE_LOCKED",
            "SQLITE_NOMEM",
            "SQLITE_IOERR",
            "SQLITE_CANTOPEN",
            "SQLITE_READONLY",
            "SQLITE_PROTOCOL",
        )
    ):
        return Unavailable(f"database not usable now: {exc}", sqlite=name)
    if name == "SQLITE_INTERRUPT":
        return LimitExceeded(f"a read transaction lasts at most {READ_LIMIT_NS // 1_000_000_000} s")
    if name == "SQLITE_TOOBIG":
        return LimitExceeded(f"value too large: {exc}")
    return RuntimeError(f"{name or type(exc).__name__}: {exc}")


class _Job(Generic[T]):
    """A function that waits, and where its outcome goes: `future` for a coroutine, `done` for a thread."""

    __slots__ = ("done", "error", "future", "here", "tx", "value", "work")

    def __init__(self, work: Callable[[Tx], T], future: "asyncio.Future[T] | None", *, here: bool) -> None:
        self.work = work
        self.future = future
        self.here = here  # the calling thread runs the after_commit calls itself
        self.done: threading.Event | None = threading.Event() if future is None else None
        self.tx: Tx | None = None
        self.value: T | None = None
        self.error: BaseException | None = None

    def resolve(self) -> None:
        if self.future is None:
            assert self.done is not None
            self.done.set()
        elif not self.future.done():
            if self.error is not None:
                self.future.set_exception(self.error)
            else:
                self.future.set_result(cast(T, self.value))


class Db:
    """Open with `Db.open`. Reads and writes from any thread; `write`, `read` and the callbacks belong to one loop at a time."""

    def __init__(self, path: Path, *, clock: Clock, entropy: Entropy, cache_entries: int) -> None:
        self.path = path
        self.failed: str | None = (
            None  # set when the disk failed under a commit: no write is taken until it is opened anew
        )
        self._clock = clock
        self._entropy = entropy
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._jobs: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._finished: deque[list[_Job[Any]]] = deque()
        self._draining = threading.Lock()
        self._drainer: int | None = None
        self._gate = threading.Lock()  # held by a batch, and by the checkpoint that resets the WAL
        self._cache: OrderedDict[tuple[str, Hashable], object] = OrderedDict()
        self._cache_entries = cache_entries
        self._cache_epoch = 0
        self._cache_lock = threading.Lock()
        self._outbox_callbacks: list[Callable[[], None]] = []
        self._local = threading.local()
        self._readers: list[sqlite3.Connection] = []
        self._readers_lock = threading.Lock()
        self._pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="db-read")
        self._checkpoint_wanted = threading.Event()
        self._writer = self._connect()
        self._checkpointer = threading.Thread(target=self._checkpoints, name="db-checkpoint", daemon=True)
        self._thread = threading.Thread(target=self._writes, name="db-write", daemon=True)

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        clock: Clock,
        entropy: Entropy | None = None,
        migrations: Sequence[Migrations] = (),
        cache_entries: int = 16_384,
    ) -> "Db":
        """Open or create, bring the schema up to date, start the threads.

        Raises NewerDatabase when a later Marram wrote it, Corrupt when it is damaged, Unavailable when it cannot be used
        now. Its folder must exist. Call from the loop's thread where there is a loop.
        """
        path = Path(path)
        existed = path.exists() and path.stat().st_size > 0
        try:
            db = cls(path, clock=clock, entropy=entropy or SystemEntropy(), cache_entries=cache_entries)
        except Corrupt as exc:
            raise _about(path, exc) from exc
        try:
            db._prepare()
            _migrate(db._writer, path, [KIT, *migrations], clock, existed=existed)
            disk.fsync_dir(path.parent)
        except sqlite3.Error as exc:
            db._writer.close()
            raise _about(path, failure(exc)) from exc
        except Corrupt as exc:
            db._writer.close()
            raise _about(path, exc) from exc
        except BaseException:
            db._writer.close()
            raise
        with contextlib.suppress(RuntimeError):
            db._loop = asyncio.get_running_loop()
        db._checkpointer.start()
        db._thread.start()
        return db

    # writing

    async def write(self, work: Callable[[Tx], T]) -> T:
        """Run `work` in a transaction and return its value once that is on the disk.

        Raises what `work` raised (nothing of it is kept then), or Unavailable when the batch could not be committed.
        Cancelling the wait does not undo a commit.
        """
        loop = asyncio.get_running_loop()
        self._loop = loop
        future: asyncio.Future[T] = loop.create_future()
        self._enqueue(_Job(work, future, here=False))
        return await future

    def write_sync(self, work: Callable[[Tx], T]) -> T:
        """As `write`, blocking the thread: for start-up, worker threads and the CLI."""
        thread = threading.get_ident()
        if self._drainer == thread:
            raise RuntimeError("write_sync inside after_commit: it would run later commits' calls first")
        loop = self._loop
        here = loop is None or not loop.is_running() or _is_current(loop)
        job = _Job(work, None, here=here)
        self._enqueue(job)
        assert job.done is not None
        job.done.wait()
        if here:
            self._drain()
        if job.error is not None:
            raise job.error
        return cast(T, job.value)

    # reading

    async def read(self, work: Callable[[Tx], T]) -> T:
        """Run `work` on a reader thread, in one snapshot of at most 5 s. For scans; a keyed read is `read_now` or `cached`."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, self.read_now, work)

    def read_now(self, work: Callable[[Tx], T]) -> T:
        """Run `work` on this thread, in one snapshot. A keyed read costs some 10 us; on the loop do nothing longer."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._reader()
        if connection.in_transaction:  # a read inside a read shares its snapshot
            return work(Tx(connection, self._clock, self._entropy, writing=False))
        self._local.deadline_ns = self._clock.mono_ns() + READ_LIMIT_NS
        try:
            connection.execute("BEGIN")
            try:
                return work(Tx(connection, self._clock, self._entropy, writing=False))
            finally:
                if connection.in_transaction:
                    connection.execute("COMMIT")
        except sqlite3.Error as exc:
            raise failure(exc) from exc

    def cached(self, table: str, key: Hashable, load: Callable[[Tx], T]) -> T:
        """The decoded document (table, key): from memory, else by `load`. Shared: never change it.

        Whoever writes the row calls `tx.touch(table, key)`. What `load` returns for a missing row is kept as well.
        """
        slot = (table, key)
        with self._cache_lock:
            if slot in self._cache:
                self._cache.move_to_end(slot)
                _cache_hits.inc()
                return cast(T, self._cache[slot])
            epoch = self._cache_epoch
        _cache_misses.inc()
        value = self.read_now(load)
        with self._cache_lock:
            if epoch == self._cache_epoch:  # else it may be older than a commit that has just thrown the slot out
                self._put(slot, value)
        return value

    # outbox

    def outbox_pending(self, limit: int = 256) -> list[tuple[int, str, bytes, int]]:
        """The oldest emitted messages: (id, topic, body, created_ms). Ids rise with commits and are never used again."""
        rows = self.read_now(
            lambda tx: tx.all("SELECT id, topic, body, created_ms FROM outbox ORDER BY id LIMIT ?", limit)
        )
        return [(int(i), str(topic), bytes(body), int(created)) for i, topic, body, created in rows]

    async def outbox_done(self, up_to_id: int) -> None:
        """Those up to and including `up_to_id` are safe elsewhere: delete them."""
        await self.write(lambda tx: tx.execute("DELETE FROM outbox WHERE id <= ?", up_to_id))

    def on_outbox(self, call: Callable[[], None]) -> None:
        """Call it on the loop whenever a commit has left messages in the outbox."""
        self._outbox_callbacks.append(call)

    # the rest

    async def backup(self, target: Path) -> None:
        """A consistent copy at `target`, while writing goes on. Whole or not there."""
        await asyncio.get_running_loop().run_in_executor(None, self.backup_sync, target)

    def backup_sync(self, target: Path) -> None:
        try:
            source = self._connect()
            try:
                _copy(source, target)
            finally:
                source.close()
        except sqlite3.Error as exc:
            raise failure(exc) from exc

    def close(self) -> None:
        """Commit what waits, checkpoint, close. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self._jobs.put(None)
        self._thread.join()
        self._checkpoint_wanted.set()
        self._checkpointer.join()
        self._pool.shutdown()
        self._drain()
        with contextlib.suppress(queue.Empty):
            while True:  # put by another thread while this one was closing
                late = self._jobs.get_nowait()
                if late is not None:
                    late.error = Unavailable("the database is closed")
                    late.resolve()
        with self._readers_lock:
            for connection in self._readers:
                connection.close()
            self._readers.clear()
        # The last connection to close folds the WAL into the database and deletes it.
        with contextlib.suppress(sqlite3.Error):
            self._writer.close()

    def __enter__(self) -> "Db":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # the writer thread

    def _enqueue(self, job: _Job[Any]) -> None:
        if self._closed:
            raise Unavailable("the database is closed")
        if self.failed is not None:
            raise Unavailable(self.failed)
        if self._jobs.qsize() >= MAX_WAITING:
            _refused.inc()
            raise Unavailable(f"{MAX_WAITING} transactions are waiting")
        self._jobs.put(job)

    def _writes(self) -> None:
        while (job := self._jobs.get()) is not None:
            with self._gate:
                stop = self._batch(job)
            if _size(self._wal_path) > WAL_CHECKPOINT_BYTES:
                self._checkpoint_wanted.set()
            if stop:
                return

    def _batch(self, first: _Job[Any]) -> bool:
        """Run `first` and what waits behind it in one transaction. True when the end of the queue was met."""
        clock, connection = self._clock, self._writer
        began_ns = clock.mono_ns()
        batch: list[_Job[Any]] = []
        job: _Job[Any] | None = first
        stop = False
        lost: BaseException | None = None
        if self.failed is not None:
            lost = Unavailable(self.failed)
        else:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.Error as exc:
                lost = failure(exc)
        while job is not None:
            batch.append(job)
            if lost is None:
                self._one(connection, job)
                if not connection.in_transaction:
                    lost = Unavailable("the transaction was rolled back; try again")
                    if isinstance(job.error, disk.DiskFull):
                        lost = job.error
            if len(batch) >= BATCH_FUNCTIONS or clock.mono_ns() - began_ns > BATCH_NS:
                break
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                break
            stop = job is None
        if lost is None:
            lost = self._commit(connection)
        if lost is not None:
            for job in batch:
                job.tx = None
                if job.error is None:
                    job.error = lost
        else:
            _commits.inc()
            _functions.inc(len(batch))
            _commit_seconds.observe((clock.mono_ns() - began_ns) / 1e9)
        self._finish(batch)
        return stop

    def _one(self, connection: sqlite3.Connection, job: _Job[Any]) -> None:
        if job.future is not None and job.future.cancelled():
            return
        began_ns = self._clock.mono_ns()
        tx = Tx(connection, self._clock, self._entropy, writing=True)
        try:
            connection.execute("SAVEPOINT f")
            job.value = job.work(tx)
            connection.execute("RELEASE f")
            job.tx = tx
        except BaseException as exc:  # whatever it is belongs to the caller, and this thread serves all
            job.error = _fit(exc)
            if connection.in_transaction:
                try:
                    connection.execute("ROLLBACK TO f")
                    connection.execute("RELEASE f")
                except sqlite3.Error as worse:
                    _roll_back(connection)
                    job.error = failure(worse)
        spent_ns = self._clock.mono_ns() - began_ns
        if spent_ns > SLOW_NS:
            log.warning("db.slow_function", function=_name(job.work), ms=spent_ns // 1_000_000)

    def _commit(self, connection: sqlite3.Connection) -> BaseException | None:
        try:
            connection.execute("COMMIT")
            return None
        except sqlite3.Error as exc:
            _roll_back(connection)
            error = failure(exc)
            if (getattr(exc, "sqlite_errorname", "") or "").startswith("SQLITE_IOERR"):
                # After a failed fsync the kernel may have dropped the pages it could not write: a later fsync of the same
                # file says yes and means nothing. Opening anew moves what is good into the database file.
                self.failed = f"the disk failed under a commit of {self.path.name}: restart to recover"
                log.error("db.disk_failed", path=str(self.path), error=str(exc))
            return error if isinstance(error, MarramError) else Unavailable(f"commit failed: {exc}")

    # after the commit

    def _finish(self, batch: list[_Job[Any]]) -> None:
        self._finished.append(batch)
        for job in batch:
            if job.here:
                job.resolve()
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: close() or the next write_sync drains
                loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        """Run what the finished batches left for after the commit, in commit order."""
        with self._draining:
            self._drainer = threading.get_ident()
            try:
                while self._finished:
                    self._settle(self._finished.popleft())
            finally:
                self._drainer = None

    def _settle(self, batch: list[_Job[Any]]) -> None:
        emitted = False
        for job in batch:
            tx = job.tx
            if tx is not None:
                emitted |= tx.emitted
                if tx.touched:
                    self._forget(tx.touched)
                for call in tx.after:
                    _guarded(call)
            if not job.here:
                job.resolve()
        if emitted:
            for call in self._outbox_callbacks:
                _guarded(call)

    def _forget(self, touched: list[tuple[tuple[str, Hashable], object]]) -> None:
        with self._cache_lock:
            self._cache_epoch += 1
            for slot, value in touched:
                if value is None:
                    self._cache.pop(slot, None)
                else:
                    self._put(slot, value)

    def _put(self, slot: tuple[str, Hashable], value: object) -> None:
        self._cache[slot] = value
        self._cache.move_to_end(slot)
        if len(self._cache) > self._cache_entries:
            self._cache.popitem(last=False)

    # connections and checkpoints

    @property
    def _wal_path(self) -> Path:
        return self.path.with_name(self.path.name + "-wal")

    def _connect(self) -> sqlite3.Connection:
        try:
            connection = sqlite3.connect(
                self.path, timeout=5.0, isolation_level=None, check_same_thread=False, cached_statements=512
            )
            # FULL: every commit waits for the disk. NORMAL loses acknowledged commits in a power cut.
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA foreign_keys=ON")
            connection.execute("PRAGMA wal_autocheckpoint=0")
            connection.execute("PRAGMA temp_store=MEMORY")
            connection.execute("PRAGMA cell_size_check=ON")
        except sqlite3.Error as exc:
            raise failure(exc) from exc
        return connection

    def _prepare(self) -> None:
        mode = self._writer.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        if mode != "wal":
            raise Unavailable(f"{self.path}: this file system does not allow SQLite's WAL (journal mode {mode})")
        self._writer.execute(f"PRAGMA journal_size_limit={WAL_RESET_BYTES}")
        # What a killed process left in the WAL is in the page cache, perhaps not on the disk: into the database with it.
        self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        with disk.errors_of(self.path):
            os.chmod(self.path, 0o600)  # the WAL takes its mode from here

    def _reader(self) -> sqlite3.Connection:
        if self._closed:
            raise Unavailable("the database is closed")
        connection = self._connect()
        connection.execute("PRAGMA query_only=ON")
        local = self._local
        connection.set_progress_handler(lambda: self._clock.mono_ns() > local.deadline_ns, 50_000)
        local.connection = connection
        with self._readers_lock:
            self._readers.append(connection)
        return connection

    def _checkpoints(self) -> None:
        """Own thread, own connection: the writer never waits for the database file but in the short reset."""
        connection = self._connect()
        try:
            while not self._closed:
                self._checkpoint_wanted.wait()
                self._checkpoint_wanted.clear()
                if self._closed:
                    return
                try:
                    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
                    if _size(self._wal_path) > WAL_RESET_BYTES:
                        connection.execute("PRAGMA busy_timeout=100")
                        with self._gate:
                            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                except sqlite3.Error as exc:
                    log.warning("db.checkpoint_failed", error=str(exc))
        finally:
            connection.close()


# migrations

_MIGRATION_TABLE: Final = (
    "CREATE TABLE IF NOT EXISTS migration (slice TEXT NOT NULL, number INTEGER NOT NULL, name TEXT NOT NULL,"
    " checksum TEXT NOT NULL, program TEXT NOT NULL, applied_ms INTEGER NOT NULL, PRIMARY KEY (slice, number))"
)
_FILE_NAME: Final = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Migration:
    slice: str
    number: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


def _load(source: Migrations) -> list[_Migration]:
    found: list[_Migration] = []
    folder = importlib.resources.files(source.package) / "migrations"
    if not folder.is_dir():
        return []
    for entry in folder.iterdir():
        if not entry.name.endswith(".sql"):
            continue
        match = _FILE_NAME.fullmatch(entry.name)
        if match is None:
            raise RuntimeError(f"{source.package}/migrations/{entry.name} is not named NNNN_name.sql")
        sql = entry.read_text(encoding="utf-8")
        if re.search(r"\bDEFERR", sql, re.IGNORECASE):
            raise RuntimeError(
                f"{source.package}/migrations/{entry.name}: a deferred constraint would fail a whole batch at its commit"
            )
        found.append(_Migration(slice=source.slice, number=int(match[1]), name=match[2], sql=sql))
    found.sort(key=lambda migration: migration.number)
    for before, after in itertools.pairwise(found):
        if before.number == after.number:
            raise RuntimeError(f"{source.package}: two migrations have the number {after.number:04d}")
    return found


def _migrate(
    connection: sqlite3.Connection, path: Path, sources: Sequence[Migrations], clock: Clock, *, existed: bool
) -> None:
    known = {(m.slice, m.number): m for source in sources for m in _load(source)}
    slices = {source.slice for source in sources}
    if existed and connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'migration'").fetchone()[0]:
        applied = connection.execute("SELECT slice, number, name, checksum, program FROM migration").fetchall()
    else:
        applied = []
    for slice_name, number, name, checksum, program in applied:
        mine = known.get((slice_name, number))
        if mine is None:
            # A slice that this process does not run is fine, unless a later program brought it.
            if slice_name in slices or _version(program) > _version(marram.VERSION):
                raise NewerDatabase(
                    f"{path.name} was changed by Marram {program} (migration {slice_name}/{number:04d}_{name}); this is {marram.VERSION}:"
                    f" run {program} or later",
                    version=program,
                )
        elif mine.checksum != checksum:
            raise ChangedMigration(
                f"migration {slice_name}/{number:04d}_{name} was applied to {path.name} in another form, by Marram {program}"
            )
    done = {(slice_name, number) for slice_name, number, *_ in applied}
    pending = [known[at] for at in known if at not in done]
    if existed and pending and applied:
        backup = path.with_name(f"{path.name}.before-{marram.VERSION}-{clock.wall_ms()}")
        _copy(connection, backup)
        _drop_old_backups(path)
        log.info("db.backed_up", path=str(backup), pending=len(pending))
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute(_MIGRATION_TABLE)
        for migration in pending:
            for statement in _statements(migration.sql):
                try:
                    connection.execute(statement)
                except sqlite3.Error as exc:
                    if isinstance(failure(exc), MarramError):
                        raise
                    raise RuntimeError(
                        f"migration {migration.slice}/{migration.number:04d}_{migration.name}: {exc} in: {statement.strip()[:200]}"
                    ) from exc
            connection.execute(
                "INSERT INTO migration (slice, number, name, checksum, program, applied_ms) VALUES (?, ?, ?, ?, ?, ?)",
                (
                    migration.slice,
                    migration.number,
                    migration.name,
                    migration.checksum,
                    marram.VERSION,
                    clock.wall_ms(),
                ),
            )
        connection.execute("COMMIT")
    except BaseException:
        _roll_back(connection)
        raise


def _statements(script: str) -> Iterable[str]:
    # executescript would commit first, and the migrations must be one transaction.
    statement = ""
    for piece in script.split(";"):
        statement += piece + ";"
        if sqlite3.complete_statement(statement):
            if re.sub(r"--[^\n]*|/\*.*?\*/", "", statement, flags=re.DOTALL).strip(" \n\t;"):
                yield statement
            statement = ""
    rest = re.sub(r"--[^\n]*|/\*.*?\*/", "", statement, flags=re.DOTALL).strip(" \n\t;")
    if rest:
        raise RuntimeError(f"a statement does not end: {rest[:200]}")


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


def _copy(source: sqlite3.Connection, target: Path) -> None:
    temporary = target.with_name(f".{target.name}.tmp")
    with disk.errors_of(target):
        temporary.unlink(missing_ok=True)
        copy = sqlite3.connect(temporary, isolation_level=None)
        try:
            source.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE")  # one file, complete in itself
        finally:
            copy.close()
        os.chmod(temporary, 0o600)
        handle = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    disk.rename(temporary, target)


def _drop_old_backups(path: Path) -> None:
    backups = sorted(path.parent.glob(f"{path.name}.before-*"), key=lambda backup: backup.stat().st_mtime_ns)
    for backup in backups[:-KEPT_BACKUPS]:
        disk.remove(backup)


# small things


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")


def _fit(exc: BaseException) -> BaseException:
    """An exception that a future can carry."""
    if isinstance(exc, sqlite3.Error):
        mine = failure(exc)
        mine.__cause__ = exc
        return mine
    if isinstance(exc, Exception) and not isinstance(exc, StopIteration):
        return exc
    wrapped = RuntimeError(f"a transaction function raised {type(exc).__name__}")
    wrapped.__cause__ = exc
    return wrapped


def _guarded(call: Callable[[], None]) -> None:
    try:
        call()
    except Exception as exc:  # the commit stands, and the others' calls must still come
        log.error("db.after_commit_failed", exc_info=exc, call=_name(call))


def _name(call: object) -> str:
    return str(getattr(call, "__qualname__", repr(call)))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _is_current(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
