"""The journal: records in segment files, appended with group commit, read by consumers with their own cursors.

Two ends: `end`, the next offset to hand out, and `synced`: all records below it are on the disk. One thread writes what
waits and calls fdatasync once for all of it; whatever leaves a trace reads only below `synced`. The hub's log/ and the edge's
spool are both this.

When a write or fsync fails, the segment is sealed at `synced`, the offsets above it are void for good, those who wait for them
get Unavailable, and the next segment states where it goes on. Damage below `synced` is an alarm and a gap; a torn tail is cut
off, in the last segment only.

Not here: the format (core/segment), who may trim what (the owner), long retention (consumers write their own files).
Sources: DESIGN of the project; PostgreSQL wiki "Fsync Errors" for what a failed fsync means.
"""

import asyncio
import bisect
import contextlib
import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Final, Self

from marram.core import segment
from marram.core.errors import Corrupt, LimitExceeded, MarramError, Unavailable
from marram.core.segment import Batch, Header, Record
from marram.kit import disk, metrics
from marram.kit.clock import Clock, Entropy, SystemEntropy
from marram.kit.disk import failpoint
from marram.kit.log import logger

log = logger(__name__)

WINDOW_S: Final = 0.005
INDEX_EVERY_BYTES: Final = 64 << 10
READ_BYTES: Final = 256 << 10
MAX_UNSYNCED_BYTES: Final = 64 << 20
RECORD_OVERHEAD: Final = 256  # of a Record in memory, for the bound on the tail
RETRY_NS: Final = 500_000_000
SPACE_CHECK_NS: Final = 1_000_000_000
BUDGET_SHARE: Final = 0.20
RESERVE_SHARE: Final = 0.05

_records_total: Final = metrics.counter("marram_journal_records_total", "Records made durable").labels()
_bytes_total: Final = metrics.counter("marram_journal_bytes_total", "Bytes written to the journal").labels()
_void_total: Final = metrics.counter("marram_journal_void_total", "Records lost before they were acknowledged").labels()
_damaged_total: Final = metrics.counter("marram_journal_damaged_total", "Records lost to damage on the disk").labels()
_sync_seconds: Final = metrics.histogram("marram_journal_sync_seconds", "Write and fdatasync of one group")


class JournalDamaged(Corrupt):
    """A reader's cursor points above what the journal holds: records that were on the disk are gone."""

    code = "MRM-1004"


@dataclass(frozen=True, slots=True)
class Damage:
    """Offsets `first` up to `end` were on the disk and are lost; `path` is where they were."""

    path: Path
    first: int
    end: int


@dataclass(slots=True)
class _Segment:
    path: Path
    header: Header
    length: int  # bytes that hold batches; the file may be longer by zeros
    index: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])  # (offset, position), one each 64 KB
    whole: bool = True  # its header could be read


class _Chunk:
    """Whole appends that become one batch: their records, and the same encoded, in pieces."""

    __slots__ = ("first", "nbytes", "parts", "records")

    def __init__(self, first: int) -> None:
        self.first = first
        self.records: list[Record] = []
        self.parts: list[bytes] = []
        self.nbytes = 0


class Journal:
    """Open with `Journal.open`. `append` and the reads from any thread; `wait_synced` and callbacks on one loop."""

    batch_body_bytes: ClassVar[int] = 256 << 10  # appends are put together into one batch up to here

    def __init__(
        self,
        folder: Path,
        *,
        clock: Clock,
        entropy: Entropy,
        segment_bytes: int,
        budget_bytes: int,
        reserve_share: float,
        ahead_bytes: int,
        tail_bytes: int,
    ) -> None:
        self.folder = folder
        self.end = 0
        self.synced = 0
        self.damage: list[Damage] = []
        self.unsynced_bytes = 0
        self._clock = clock
        self._entropy = entropy
        self._segment_bytes = segment_bytes
        self._budget_bytes = budget_bytes
        self._reserve_share = reserve_share
        self._ahead_bytes = ahead_bytes
        self._tail_limit = tail_bytes
        self._segments: list[_Segment] = []
        self._active: int | None = None  # descriptor of the last segment; None: the next group starts a new one
        self._ahead = 0  # the active file has zeros up to here
        self._stated = 0  # the highest `synced` that a batch states
        self._sealed_end: int | None = None  # where the last segment ended when a failure closed it
        self._bytes = 0
        self._last_ms = 0
        self._lock = threading.Lock()  # guards what append, the thread and the loop share
        self._pending: list[_Chunk] = []
        self._filling: _Chunk | None = None  # the last of it, while it takes more
        self._waiting = 0  # appends in it
        self._wake_at = 0  # so many pending appends wake the thread; 0 = it does not sleep
        self._wake = threading.Event()
        self._void: list[tuple[int, int]] = []
        self._untold_void: list[tuple[int, int]] = []
        self.void_error: MarramError = Unavailable("the journal failed")
        self._trim_before = 0
        self._refusal: MarramError | None = None
        self._refused_until_ns = 0
        self._space_checked_ns = 0
        self._room = 0  # an append that would make more than this unsynced is looked at closely
        self._closing = False
        self._closed = False
        self._tail: list[_Chunk] = []
        self._tail_firsts: list[int] = []
        self._tail_bytes = 0
        self._tail_lock = threading.Lock()
        self._index_lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._flushers: list[tuple[int, threading.Event]] = []
        self._told = False  # a call of _notify is on its way
        self._told_synced = 0
        self._synced_callbacks: list[Callable[[int], None]] = []
        self._void_callbacks: list[Callable[[int, int], None]] = []
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)

    @classmethod
    def open(
        cls,
        folder: Path | str,
        *,
        clock: Clock,
        entropy: Entropy | None = None,
        segment_bytes: int = 64 << 20,
        budget_bytes: int | None = None,
        reserve_share: float = RESERVE_SHARE,
        ahead_bytes: int = 256 << 10,
        tail_bytes: int = 4 << 20,
    ) -> Self:
        """Open or create the journal in `folder`; cut off a torn tail; start the thread. Call from the loop's thread.

        budget_bytes: appends are refused beyond it (None = 20 % of the file system). reserve_share: they are refused when
        less of the file system than that is free. ahead_bytes: zeros are written so far ahead, because fdatasync of bytes
        inside a file is cheaper than of bytes that make it longer; 0 on flash that must not wear. tail_bytes: so much of
        what was written last is read from memory. Damage below `synced` is in `damage` and in the log: what is left is
        served. Raises Unavailable when the disk fails.
        """
        folder = Path(folder)
        disk.make_dirs(folder)
        disk.fsync_dir(folder.parent)
        if budget_bytes is None:
            free, share = disk.free_share(folder)
            budget_bytes = max(4 * segment_bytes, int(free / max(share, 0.001) * BUDGET_SHARE))
        journal = cls(
            folder,
            clock=clock,
            entropy=entropy or SystemEntropy(),
            segment_bytes=segment_bytes,
            budget_bytes=budget_bytes,
            reserve_share=reserve_share,
            ahead_bytes=ahead_bytes,
            tail_bytes=tail_bytes,
        )
        with disk.errors_of(folder):
            journal._recover()
        with contextlib.suppress(RuntimeError):
            journal._loop = asyncio.get_running_loop()
        journal._thread.start()
        return journal

    # appending

    @property
    def start(self) -> int:
        """The oldest offset that is kept."""
        segments = self._segments
        return segments[0].header.base if segments else self.end

    @property
    def bytes_on_disk(self) -> int:
        return self._bytes

    @property
    def budget_bytes(self) -> int:
        """Beyond it appends are refused."""
        return self._budget_bytes

    def append(self, records: Sequence[Record]) -> int:
        """Queue `records`, all or nothing, and return the offset of the first; durable when `synced` is above it.

        A record whose time is before the one before it gets that one's time: times in the journal never go back.
        Raises LimitExceeded over the byte budget or over 16 MB at once, Unavailable (DiskFull) when the disk is at its reserve
        or failed a moment ago.
        """
        parts: list[bytes] = []
        nbytes, last_ms = _encode_into(parts, records, self._last_ms)
        if self._refusal is not None or self.unsynced_bytes + nbytes > self._room:
            self._refuse(nbytes)
        wake = False
        lock = self._lock
        lock.acquire()  # `with` costs twice as much
        try:
            if self._closing:
                raise Unavailable("the journal is closed")
            first = self.end
            if parts:
                self._last_ms = last_ms
                self.end = first + len(records)
                self.unsynced_bytes += nbytes
                chunk = self._filling
                if chunk is None or chunk.nbytes + nbytes > self.batch_body_bytes:
                    chunk = self._filling = _Chunk(first)
                    self._pending.append(chunk)
                chunk.records += records
                chunk.parts += parts
                chunk.nbytes += nbytes
                waiting = self._waiting = self._waiting + 1
                if waiting == self._wake_at:
                    self._wake_at = 0
                    wake = True
        finally:
            lock.release()
        if wake:
            self._wake.set()
        return first

    async def wait_synced(self, offset: int) -> None:
        """Return once the record at `offset` is on the disk. Raises Unavailable when it never will be.

        A batch is all or nothing: waiting for its first offset is enough.
        """
        if offset < self.synced and not self._void:
            return
        loop = self._loop = asyncio.get_running_loop()
        with self._lock:
            if self._is_void(offset):
                raise self._void_failure(offset)
            if offset < self.synced:
                return
            if offset >= self.end:
                raise RuntimeError(f"offset {offset} was never appended: the end is {self.end}")
            future: asyncio.Future[None] = loop.create_future()
            self._waiters.append((offset, future))
        await future

    async def append_synced(self, records: Sequence[Record]) -> int:
        """`append` and `wait_synced` in one."""
        first = self.append(records)
        if records:
            await self.wait_synced(first)
        return first

    def flush(self) -> None:
        """Block until all that was appended before is on the disk: for threads and the CLI. Raises Unavailable as `wait_synced`."""
        with self._lock:
            first, end = self.synced, self.end
            done = threading.Event()
            if first < end:
                self._flushers.append((end, done))
        if first < end:
            done.wait()
            with self._lock:
                if any(first <= void_end - 1 and void_first < end for void_first, void_end in self._void):
                    raise self._void_failure(first)

    def on_synced(self, call: Callable[[int], None]) -> None:
        """Call it on the loop with the new `synced` whenever that has risen; several commits may be told as one."""
        self._synced_callbacks.append(call)
        if self._loop is None:
            with contextlib.suppress(RuntimeError):
                self._loop = asyncio.get_running_loop()

    def on_void(self, call: Callable[[int, int], None]) -> None:
        """Call it on the loop with (first, end) when those offsets were handed out and will never be read."""
        self._void_callbacks.append(call)

    # reading

    def read(self, offset: int, max_records: int, max_bytes: int = 1 << 20) -> list[tuple[int, Record]]:
        """Records from `offset` on, in order, only below `synced`; at least one if there is one, whatever its size.

        What was written last comes from memory; older records from the files, blocking: call it in a thread when far behind.
        Void and damaged offsets are left out; `[]` with `offset` below `synced` means nothing but those is left: go on at
        `past_gap(offset)`. An offset below `start` begins at `start`. Raises JournalDamaged when it is above `end`.
        """
        if offset > self.end:
            raise JournalDamaged(f"offset {offset} is above the journal's end {self.end}", offset=offset, end=self.end)
        synced = self.synced
        if offset >= synced or max_records <= 0:
            return []
        found = self._read_tail(offset, max_records, max_bytes)
        if found is not None:
            return found
        with disk.errors_of(self.folder):
            return self._read_files(offset, max_records, max_bytes, synced)

    def past_gap(self, offset: int) -> int:
        """Where to go on when `read(offset)` found nothing: the next offset that holds a record, else `synced`."""
        synced = self.synced
        rows = self.read(offset, 1)
        return rows[0][0] if rows else max(offset, synced)

    def check_cursors(self, cursors: Mapping[str, int]) -> None:
        """At start: raise JournalDamaged, naming the consumer, when one has read more than there is."""
        for name, position in cursors.items():
            if position > self.end:
                raise JournalDamaged(
                    f"consumer {name} has read up to offset {position}, but the journal ends at {self.end}:"
                    f" acknowledged records are gone from {self.folder}; restore it, or reset that consumer",
                    consumer=name,
                    position=position,
                    end=self.end,
                )

    def trim(self, before: int) -> None:
        """Give up all whole segments below offset `before`; the last one always stays."""
        with self._lock:
            self._trim_before = max(self._trim_before, before)
            wake, self._wake_at = self._wake_at > 0, 0
        if wake:
            self._wake.set()

    def verify(self) -> list[Damage]:
        """Read every segment and report what is damaged below `synced`. Slow: for a thread."""
        found: list[Damage] = []
        synced, segments = self.synced, list(self._segments)
        for at, part in enumerate(segments):
            limit = _limit(segments, at, synced)
            with disk.errors_of(part.path):
                try:
                    data = part.path.read_bytes()
                except FileNotFoundError:  # trimmed meanwhile, or gone
                    data = b""
            end = part.header.base
            for item in segment.scan(data, part.header.segment_id, end):
                if isinstance(item, Batch):
                    end = item.base + item.count
                elif item.first < limit:
                    end = limit if item.end is None else min(item.end, limit)
                    found.append(Damage(part.path, item.first, end))
                if end >= limit:
                    break
            if end < limit and part in self._segments:
                found.append(Damage(part.path, end, limit))
        return found

    def close(self) -> None:
        """Write and sync what waits, then stop. A second call does nothing. Call from the loop's thread."""
        if self._closed:
            return
        self._closed = True
        with self._lock:
            self._closing = True
            self._wake_at = 0
        self._wake.set()
        self._thread.join()
        self._notify()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # admission

    def _refuse(self, nbytes: int) -> None:
        """Raise what stands against an append of so many bytes; nothing, when that has passed."""
        if nbytes > segment.MAX_BATCH_BYTES:
            limit = segment.MAX_BATCH_BYTES
            raise LimitExceeded(f"{nbytes} bytes at once; the limit is {limit}", limit=limit)
        if self._bytes + self.unsynced_bytes + nbytes > self._budget_bytes:
            raise LimitExceeded(f"the journal is at its budget of {self._budget_bytes} bytes", limit=self._budget_bytes)
        refusal = self._refusal
        if refusal is not None:
            if self._clock.mono_ns() < self._refused_until_ns:
                raise type(refusal)(refusal.message)
            self._refusal = None
            self._check_space()
            if self._refusal is not None:
                raise self._refusal
        if self.unsynced_bytes + nbytes > MAX_UNSYNCED_BYTES:
            raise Unavailable(f"{self.unsynced_bytes} bytes wait for the disk")

    def _check_space(self) -> None:
        """Is the disk at its reserve? At start, and then once a second by the thread that writes."""
        self._space_checked_ns = self._clock.mono_ns()
        free, share = disk.free_share(self.folder)
        if share < self._reserve_share:
            self._refused_until_ns = self._space_checked_ns + SPACE_CHECK_NS
            self._refusal = disk.DiskFull(f"{free} bytes are free on the disk of {self.folder}: that is its reserve")

    def _count(self, nbytes: int) -> None:
        """So many more bytes are on the disk."""
        self._bytes += nbytes
        self._room = min(segment.MAX_BATCH_BYTES, self._budget_bytes - self._bytes)

    def _is_void(self, offset: int) -> bool:
        return any(first <= offset < end for first, end in self._void)

    def _void_failure(self, offset: int) -> MarramError:
        return type(self.void_error)(f"offset {offset} was not written: {self.void_error.message}")

    # the thread

    def _run(self) -> None:
        target, window_s = 1, 0.0
        while True:
            self._gather(target, window_s)
            with self._lock:
                group, self._pending = self._pending, []
                self._filling = None
                appends, self._waiting = self._waiting, 0
                before, self._trim_before = self._trim_before, 0
                closing = self._closing
            began_ns = self._clock.mono_ns()
            if before:
                self._drop(before)
            if group:
                self._commit(group)
            if closing and not group:
                self._finish()
                return
            ended_ns = self._clock.mono_ns()
            # Those who got their answer will be back: wait for as many as there were, but never longer than a sync takes.
            target = appends
            window_s = min(WINDOW_S, (ended_ns - began_ns) / 1e9) if target > 1 else 0.0
            if ended_ns - self._space_checked_ns >= SPACE_CHECK_NS:
                with contextlib.suppress(MarramError):
                    self._check_space()

    def _gather(self, target: int, window_s: float) -> None:
        """Sleep until there is something to do; with a window, a little longer, for company."""
        if window_s:
            with self._lock:
                alone = self._waiting < target and not self._closing
                if alone:
                    self._wake.clear()
                    self._wake_at = target
            if alone:
                self._wake.wait(window_s)
        with self._lock:
            self._wake_at = 0
            if self._pending or self._closing or self._trim_before:
                return
            self._wake.clear()
            self._wake_at = 1
        self._wake.wait()
        with self._lock:
            self._wake_at = 0

    def _commit(self, group: list[_Chunk]) -> None:
        first, end = group[0].first, group[-1].first + len(group[-1].records)
        began_ns = self._clock.mono_ns()
        try:
            self._write(first, group)
        except (
            Exception
        ) as exc:  # OSError; anything else is our mistake, and must not leave the others waiting for ever
            self._fail(exc)
            return
        self._remember(group)
        with self._lock:
            self.unsynced_bytes -= sum(chunk.nbytes for chunk in group)
            self.synced = end
        _records_total.inc(end - first)
        _sync_seconds.observe((self._clock.mono_ns() - began_ns) / 1e9)
        self._tell()

    def _write(self, first: int, group: list[_Chunk]) -> None:
        """Write and sync one group; then, and only then, move the segment's length. Raises OSError."""
        if self._active is None:
            self._start_segment(first)
        part = self._segments[-1]
        total = sum(segment.BATCH_BYTES + chunk.nbytes for chunk in group)
        if part.length + total > self._segment_bytes and part.length > segment.HEADER_BYTES:
            self._seal(part)
            self._start_segment(first)
            part = self._segments[-1]
        batches = [_frame(chunk, part.header.segment_id, self.synced) for chunk in group]
        assert self._active is not None
        self._put(self._active, part, batches[0] if len(batches) == 1 else b"".join(batches))
        position = part.length
        for chunk, batch in zip(group, batches, strict=True):
            if not part.index or position - part.index[-1][1] >= INDEX_EVERY_BYTES:
                part.index.append((chunk.first, position))
            position += len(batch)
        part.length = position
        self._count(total)
        self._stated = self.synced
        _bytes_total.inc(total)

    def _put(self, handle: int, part: _Segment, data: bytes) -> None:
        position, length = part.length, len(data)
        ahead = 0
        if length * 4 < self._ahead_bytes and position + length > self._ahead:
            # One write makes the file longer, and the next few stay inside it. A large one pays for itself.
            ahead = min(self._ahead_bytes, max(0, self._segment_bytes - position - length))
            data += bytes(ahead)
        failpoint("seglog.before_write")
        _write_at(handle, data, position)
        failpoint("seglog.before_sync")
        self._sync(handle)
        self._ahead = max(self._ahead, position + length + ahead)

    def _sync(self, handle: int) -> None:
        os.fdatasync(handle)

    def _sync_folder(self) -> None:
        handle = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def _start_segment(self, base: int) -> None:
        """Create the file under a temporary name, so that no segment is ever seen without its header. Raises OSError."""
        header = Header(
            segment_id=int.from_bytes(self._entropy.bytes(8)),
            base=base,
            previous_end=base if self._sealed_end is None else self._sealed_end,
            created_ms=self._clock.wall_ms(),
        )
        path = self.folder / f"{base:020}-{header.segment_id:016x}.seg"
        temporary = path.with_suffix(".tmp")
        handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            _write_at(handle, segment.encode_header(header), 0)
            os.fsync(handle)
            os.rename(temporary, path)
            self._sync_folder()
        except OSError:
            os.close(handle)
            for name in (temporary, path):
                with contextlib.suppress(OSError):
                    name.unlink()
            raise
        self._active = handle
        self._ahead = segment.HEADER_BYTES
        self._count(segment.HEADER_BYTES)
        self._sealed_end = None
        self._segments.append(_Segment(path, header, segment.HEADER_BYTES))

    def _seal(self, part: _Segment) -> None:
        """The segment ends at `part.length`: no more is written to it."""
        handle, self._active = self._active, None
        if handle is not None:
            # Best effort: a reader stops where the next segment says that this one ended.
            with contextlib.suppress(OSError):
                os.ftruncate(handle, part.length)
            with contextlib.suppress(OSError):
                os.close(handle)

    def _fail(self, exc: Exception) -> None:
        """The group cannot be made durable, and what an fsync that failed left behind cannot be known: start elsewhere."""
        error = (
            disk.failure(exc, self.folder) if isinstance(exc, OSError) else Unavailable(f"the journal failed: {exc}")
        )
        if not isinstance(error, Unavailable):
            error = Unavailable(f"the disk failed under the journal: {exc}", path=str(self.folder))
        if self._segments:
            self._seal(self._segments[-1])
        with self._lock:
            void = (self.synced, self.end)
            if self._sealed_end is None:
                self._sealed_end = self.synced
            self._pending.clear()
            self._filling = None
            self._waiting = 0
            self._void.append(void)
            self._untold_void.append(void)
            self.void_error = error
            self.synced = self.end  # nothing below is still to come
            self.unsynced_bytes = 0
            self._refusal = error
            self._refused_until_ns = self._clock.mono_ns() + RETRY_NS
        _void_total.inc(void[1] - void[0])
        trace = None if isinstance(exc, OSError) else exc
        log.error("journal.write_failed", exc_info=trace, error=str(exc), void_first=void[0], void_end=void[1])
        self._tell()

    def _finish(self) -> None:
        """Say in the file that all of it was synced, so that damage to the last batch is told from a torn tail."""
        if self._active is None:
            return
        part = self._segments[-1]
        with contextlib.suppress(OSError):
            if self._stated < self.synced:
                mark = segment.encode_batch((), segment_id=part.header.segment_id, base=self.synced, synced=self.synced)
                _write_at(self._active, mark, part.length)
                part.length += len(mark)
            os.ftruncate(self._active, part.length)
            os.fdatasync(self._active)
        os.close(self._active)
        self._active = None

    def _drop(self, before: int) -> None:
        count = 0
        while count + 1 < len(self._segments) and self._segments[count + 1].header.base <= before:
            part = self._segments[count]
            try:
                part.path.unlink(missing_ok=True)
            except OSError as exc:
                log.warning("journal.trim_failed", path=str(part.path), error=str(exc))
                break
            self._count(-part.length)
            count += 1
        if count:
            with self._lock:
                del self._segments[:count]
                self._void = [void for void in self._void if void[1] > self.start]
            # Oldest first and synced at once: a hole left by a cut would look like damage.
            with contextlib.suppress(OSError):
                self._sync_folder()

    # memory of what was written last

    def _remember(self, group: list[_Chunk]) -> None:
        with self._tail_lock:
            for chunk in group:
                chunk.parts.clear()  # the records alone are kept
                self._tail.append(chunk)
                self._tail_firsts.append(chunk.first)
                self._tail_bytes += _memory(chunk)
            if self._tail_bytes > 2 * self._tail_limit:
                count = 0
                while self._tail_bytes > self._tail_limit and count < len(self._tail):
                    self._tail_bytes -= _memory(self._tail[count])
                    count += 1
                del self._tail[:count]
                del self._tail_firsts[:count]

    def _read_tail(self, offset: int, max_records: int, max_bytes: int) -> list[tuple[int, Record]] | None:
        """From memory, or None when `offset` is older than what is kept there."""
        with self._tail_lock:
            at = bisect.bisect_right(self._tail_firsts, offset) - 1
            if at < 0:
                return None
            chunks = self._tail[at : at + max_records]
        found: list[tuple[int, Record]] = []
        for chunk in chunks:
            first, records = chunk.first, chunk.records
            for number in range(max(0, offset - first), len(records)):
                record = records[number]
                max_bytes -= segment.RECORD_BYTES + len(record.topic) + len(record.meta) + len(record.payload)
                if found and max_bytes < 0:
                    return found
                found.append((first + number, record))
                if len(found) == max_records:
                    return found
        return found

    # files

    def _read_files(self, offset: int, max_records: int, max_bytes: int, synced: int) -> list[tuple[int, Record]]:
        segments = list(self._segments)
        found: list[tuple[int, Record]] = []
        nearest = max(0, bisect.bisect_right(segments, offset, key=lambda part: part.header.base) - 1)
        left = max_bytes
        for at in range(nearest, len(segments)):
            part = segments[at]
            limit = _limit(segments, at, synced)
            left = self._read_segment(part, max(offset, part.header.base), limit, max_records, left, found)
            if len(found) >= max_records or left <= 0:
                break
        return found

    def _read_segment(
        self,
        part: _Segment,
        offset: int,
        limit: int,
        max_records: int,
        left: int,
        found: list[tuple[int, Record]],
    ) -> int:
        """Append to `found` the records from `offset` up to `limit`; how many bytes are left to read."""
        if offset >= limit:
            return left
        with self._index_lock:
            at = bisect.bisect_right(part.index, offset, key=lambda entry: entry[0]) - 1
            expected, position = part.index[at] if at >= 0 else (part.header.base, segment.HEADER_BYTES)
        try:
            handle = os.open(part.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            if part in self._segments:
                self._damaged(part.path, offset, limit)
            return left
        try:
            data, start = b"", position  # data = the file's bytes from `start`
            while expected < limit:
                batch = segment.batch_at(data, position - start, part.header.segment_id)
                if batch is None or batch.base != expected:
                    claimed = segment.batch_length(data, position - start) or 0
                    if start != position or len(data) < claimed or not data:
                        start = position
                        data = os.pread(handle, max(claimed, READ_BYTES), position)
                        if segment.batch_at(data, 0, part.header.segment_id) is None:
                            claimed = segment.batch_length(data, 0) or 0
                            if claimed > len(data):
                                data = os.pread(handle, claimed, position)
                        batch = segment.batch_at(data, 0, part.header.segment_id)
                if batch is None or batch.base != expected:
                    expected, position = self._skip_damage(handle, part, expected, position, limit)
                    data, start = b"", position
                    continue
                if batch.base + batch.count > offset:
                    for number, record in enumerate(segment.decode_records(data, batch), batch.base):
                        if number < offset:
                            continue
                        left -= segment.RECORD_BYTES + len(record.topic) + len(record.meta) + len(record.payload)
                        if found and left < 0:
                            return 0
                        found.append((number, record))
                        if len(found) >= max_records:
                            return left
                self._indexed(part, expected, position)
                position += batch.end - batch.position
                expected += batch.count
        finally:
            os.close(handle)
        return left

    def _indexed(self, part: _Segment, offset: int, position: int) -> None:
        with self._index_lock:
            if not part.index or (position - part.index[-1][1] >= INDEX_EVERY_BYTES and offset > part.index[-1][0]):
                part.index.append((offset, position))

    def _skip_damage(self, handle: int, part: _Segment, expected: int, position: int, limit: int) -> tuple[int, int]:
        """Look for the next good batch; (its offset, its position), or (limit, position) when none is left."""
        rest = os.pread(handle, max(0, os.fstat(handle).st_size - position), position)
        end, found_at = limit, position
        for item in segment.scan(rest, part.header.segment_id, expected, 0):
            if isinstance(item, Batch) and item.base < limit:
                end, found_at = item.base, position + item.position
                break
        self._damaged(part.path, expected, end)
        return end, found_at

    def _damaged(self, path: Path, first: int, end: int) -> None:
        damage = Damage(path, first, end)
        with self._index_lock:
            if damage in self.damage:
                return
            self.damage.append(damage)
        _damaged_total.inc(end - first)
        log.error("journal.damaged", path=str(path), first=first, end=end)

    # start

    def _recover(self) -> None:
        for name in self.folder.glob("*.tmp"):
            name.unlink()
        found = sorted(self.folder.glob("*.seg"))
        for path in found:
            self._segments.append(self._inspect(path))
        self._count(sum(part.length for part in self._segments))
        if self._segments:
            self._recover_last(self._segments[-1])
        self._check_space()
        self.synced = self._stated = self._told_synced = self.end

    def _inspect(self, path: Path) -> _Segment:
        with path.open("rb") as file:
            data = file.read(segment.HEADER_BYTES)
            length = os.fstat(file.fileno()).st_size
        try:
            header = segment.decode_header(data)
        except Corrupt:
            # The name says again what the header said, so that one bad sector does not cost the segment.
            match = _FILE_NAME.fullmatch(path.name)
            if match is None:
                raise
            log.error("journal.header_damaged", path=str(path))
            base = int(match[1])
            header = Header(segment_id=int(match[2], 16), base=base, previous_end=base, created_ms=0)
            return _Segment(path, header, length, whole=False)
        return _Segment(path, header, length)

    def _recover_last(self, part: _Segment) -> None:
        handle = os.open(part.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            data = _read_all(handle)
            state = segment.recover(data, part.header.segment_id, part.header.base)
            for gap in state.damage:
                self._damaged(part.path, gap.first, gap.end or state.end)
            if len(data) > state.keep_bytes:
                self._cut(handle, state.keep_bytes)
            # Batches of a process that was killed may be in the page cache alone, or be what a failed fsync left behind,
            # clean in the kernel's eyes and not on the disk. Written again, they must go there.
            if state.stated < state.keep_bytes:
                _write_at(handle, data[state.stated : state.keep_bytes], state.stated)
            self._settle(handle)
        except BaseException:
            os.close(handle)
            raise
        if any(data[state.keep_bytes :]):
            log.warning("journal.torn_tail", path=str(part.path), kept_bytes=state.keep_bytes, bytes=len(data))
        self.end = state.end
        for batch in state.batches:
            if not part.index or batch.position - part.index[-1][1] >= INDEX_EVERY_BYTES:
                part.index.append((batch.base, batch.position))
        for batch in reversed(state.batches):
            if batch.count:
                self._last_ms = segment.decode_records(data, batch)[-1].time_ms
                break
        self._count(state.keep_bytes - part.length)
        part.length = self._ahead = state.keep_bytes
        if state.whole and part.whole:
            self._active = handle
        else:
            os.close(handle)

    def _cut(self, handle: int, length: int) -> None:
        os.ftruncate(handle, length)

    def _settle(self, handle: int) -> None:
        os.fsync(handle)

    # telling the others

    def _tell(self) -> None:
        with self._lock:
            synced = self.synced
            for end, done in self._flushers:
                if end <= synced:
                    done.set()
            self._flushers = [flusher for flusher in self._flushers if flusher[0] > synced]
        loop = self._loop
        if loop is None or self._told:
            return
        self._told = True
        try:
            loop.call_soon_threadsafe(self._notify)
        except RuntimeError:  # the loop is closed
            self._told = False

    def _notify(self) -> None:
        self._told = False
        with self._lock:
            synced = self.synced
            untold, self._untold_void = self._untold_void, []
            ready = [waiter for waiter in self._waiters if waiter[0] < synced]
            if ready:
                self._waiters = [waiter for waiter in self._waiters if waiter[0] >= synced]
        for first, end in untold:
            for tell_void in self._void_callbacks:
                _guarded(tell_void, first, end)
        if synced > self._told_synced:
            self._told_synced = synced
            for tell in self._synced_callbacks:
                _guarded(tell, synced)
        for offset, future in ready:
            if future.done():
                continue
            if self._void and self._is_void(offset):
                future.set_exception(self._void_failure(offset))
            else:
                future.set_result(None)


_encode_into: Final = segment.encode_into
_FILE_NAME: Final = re.compile(r"(\d{20})-([0-9a-f]{16})\.seg")


def _frame(chunk: _Chunk, segment_id: int, synced: int) -> bytes:
    body = b"".join(chunk.parts)
    return segment.frame_batch(body, len(chunk.records), segment_id=segment_id, base=chunk.first, synced=synced)


def _memory(chunk: _Chunk) -> int:
    return chunk.nbytes + RECORD_OVERHEAD * len(chunk.records)


def _limit(segments: Sequence[_Segment], at: int, synced: int) -> int:
    """The offset at which the segment ends: where the next one says so, else what is synced."""
    return min(synced, segments[at + 1].header.previous_end) if at + 1 < len(segments) else synced


def _write_at(handle: int, data: bytes, position: int) -> None:
    written = os.pwrite(handle, data, position)
    while written < len(data):
        written += os.pwrite(handle, memoryview(data)[written:], position + written)


def _read_all(handle: int) -> bytes:
    pieces: list[bytes] = []
    position = 0
    while piece := os.pread(handle, 1 << 24, position):
        pieces.append(piece)
        position += len(piece)
    return b"".join(pieces)


def _guarded(call: Callable[..., None], *args: int) -> None:
    try:
        call(*args)
    except Exception as exc:  # the others must still be told
        log.error("journal.callback_failed", exc_info=exc, call=str(getattr(call, "__qualname__", call)))
