"""Points in and out. Append: journal record, fsync, then the tail. Flush: Parquet files, fsynced, then one Tx with their rows,
the journal position and the highest origins. Query: files through DuckDB in a worker, merged with the tail.

A point is in exactly one place: offsets below `position` in files, the others in the tail; a query takes both at one moment.
A page is JSON text from the worker to the client: the worker renders rows of files, the tail holds its points as text, and
nothing in this process parses either, unless rows of both must be put in order or filtered.
Not here: the files' format (work), SQL of users, retention.
"""

import asyncio
import contextlib
import heapq
import itertools
import json
import re
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias, cast

from marram.core import codec
from marram.core.codec import JsonValue
from marram.core.errors import Corrupt, Invalid, MarramError, NotFound, Unavailable
from marram.core.segment import KIND_POINT, Origin, Record
from marram.hub.timeseries import newest, points, store
from marram.hub.timeseries.newest import Newest
from marram.hub.timeseries.points import Field, Point
from marram.hub.timeseries.store import SeriesFile
from marram.hub.timeseries.tail import Entry, Key, Tail
from marram.kit import disk, metrics, pool
from marram.kit.clock import Clock, Entropy, SystemEntropy, ulid
from marram.kit.db import Db, Tx
from marram.kit.log import logger
from marram.kit.seglog import Journal

log = logger(__name__)

WORKER: Final = "marram.hub.timeseries.work"
QUERY_S: Final = 30.0
FLUSH_S: Final = 300.0
MAX_ROWS: Final = 10_000
MAX_LATEST: Final = newest.SETS_OF_SERIES
MAX_PAGE_BYTES: Final = 4 << 20  # a page of long texts ends early; clients of our own refuse JSON over 8 MB
LOADED_AT_ONCE: Final = 32
LOADED_OF_TAIL: Final = 10_000
BATCH_BYTES: Final = 4 << 20  # of one append to the journal, which takes 16 MB
SPOOL_LINE: Final = (
    50  # points a line: decoding them one by one costs twice as much, and 64 KB of text in each still fits
)
COMPACT_FILES: Final = 8  # so many files of one series and day become one
COMPACT_POINTS: Final = 2_000_000  # larger files are left as they are
DAY_MS: Final = 86_400_000

_points_total: Final = metrics.counter("marram_timeseries_points_total", "Points made durable").labels()
_repeats_total: Final = metrics.counter(
    "marram_timeseries_repeats_total", "Points skipped: their origin was there"
).labels()
_tail_points: Final = metrics.gauge("marram_timeseries_tail_points", "Points that are not in files yet").labels()
_tail_bytes: Final = metrics.gauge("marram_timeseries_tail_bytes", "Memory that they take").labels()
_flushes: Final = metrics.counter("marram_timeseries_flushes_total", "Flushes", ("result",))
_flush_seconds: Final = metrics.histogram("marram_timeseries_flush_seconds", "Time of a flush that wrote files")
_query_seconds: Final = metrics.histogram("marram_timeseries_query_seconds", "Time of one page of a query")


class Caller(Protocol):
    """A worker, as pool.Worker is one."""

    @property
    def pid(self) -> int | None: ...

    async def call(self, method: str, params: Mapping[str, object], timeout_s: float) -> JsonValue: ...

    async def call_raw(
        self, method: str, params: Mapping[str, object], timeout_s: float
    ) -> tuple[JsonValue, bytes]: ...

    async def close(self) -> None: ...


def spawn(name: str) -> Caller:
    """A process of its own: the flushing one yields to everything else."""
    limits = pool.Limits(nice=5 if name == "timeseries-flush" else 0)
    return pool.Worker(name, pool.python_module(WORKER), limits=limits)


Highest: TypeAlias = dict[str, tuple[int, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Section [timeseries] of marram.toml. Raises Invalid for a value that cannot be."""

    flush_s: float = 60.0
    flush_bytes: int = 64 << 20
    query_memory: str = "512MB"

    def __post_init__(self) -> None:
        if not 0.1 <= self.flush_s <= 86_400:
            raise Invalid(f"[timeseries] flush_s is 0.1 to 86400 seconds, not {self.flush_s:g}")
        if not 1 << 16 <= self.flush_bytes <= 1 << 32:
            raise Invalid(f"[timeseries] flush_bytes is 65536 to {1 << 32}, not {self.flush_bytes}")
        if not re.fullmatch(r"[1-9][0-9]{0,5}(MB|GB)", self.query_memory):
            raise Invalid(f"[timeseries] query_memory looks like 512MB or 2GB, not {self.query_memory!r}")


@dataclass(slots=True, kw_only=True)  # not frozen: tens of thousands a query
class Row:
    """One point of an answer."""

    time_ms: int
    dimensions: Mapping[str, str]
    fields: Mapping[str, Field]


@dataclass(frozen=True, slots=True)
class Page:
    """`rows` is a JSON list of {time_ms, dimensions, fields}. `key` continues after the last of them; None at the end."""

    rows: bytes
    count: int
    key: Key | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesSummary:
    series: str
    points: int
    first_ms: int
    last_ms: int


class _FromFiles:
    """An answer of work.page: keys and texts of rows, in order, the texts with a comma after each."""

    __slots__ = ("count", "ends", "more", "offsets", "texts", "times")

    def __init__(self, head: JsonValue, data: bytes) -> None:
        found = cast(dict[str, int], head)
        self.count, self.more = found["count"], bool(found["more"])
        view, size = memoryview(data), 8 * self.count
        self.times, self.offsets, self.ends = (view[n * size : (n + 1) * size].cast("q") for n in range(3))
        self.texts = view[3 * size :]

    def key(self, index: int) -> Key:
        return (self.times[index], self.offsets[index])

    def rows(self) -> list[tuple[int, int, bytes]]:
        starts = [0, *self.ends]
        return [
            (at, offset, bytes(self.texts[start : end - 1]))
            for at, offset, start, end in zip(self.times, self.offsets, starts, self.ends, strict=False)
        ]


NOTHING: Final = _FromFiles({"count": 0, "more": False}, b"")


class TimeSeries:
    """Build, `await start()`, run `run()` for the life of the process, `await stop()`."""

    def __init__(
        self,
        *,
        db: Db,
        journal: Journal,
        clock: Clock,
        folder: Path,
        entropy: Entropy | None = None,
        settings: Settings | None = None,
        workers: Callable[[str], Caller] = spawn,
    ) -> None:
        """`folder` is DIR/ts; only this class and its workers write there. `workers` makes one, given its name."""
        self.settings = settings or Settings()
        self._db, self._journal, self._clock = db, journal, clock
        self._entropy = entropy or SystemEntropy()
        self._folder = folder
        self._files: dict[str, list[SeriesFile]] = {}
        self._tail = Tail()
        self._newest = Newest()
        self._loading = asyncio.Lock()
        self._flushing: Tail | None = None
        self._pending: deque[tuple[int, list[tuple[str, Entry]], Highest]] = deque()
        self._pending_points = 0
        self._highest: Highest = {}  # of points in the tail and in files
        self._in_flight: Highest = {}  # and of those appended, not synced
        self._synced = 0  # as far as the journal has told this loop
        self._position = 0
        self._flush_lock = asyncio.Lock()
        self._wake = asyncio.Event()
        self._readers = 0
        self._dying: list[str] = []
        self._workers = workers
        self._writer, self._reader = workers("timeseries-flush"), workers("timeseries-query")
        self._reader_used_ns = 0

    @property
    def position(self) -> int:
        """The journal may be trimmed below this offset, as far as the series are concerned."""
        return self._position

    async def start(self) -> None:
        """Load the manifest, delete files without a row, take the points after `position` from the journal into the tail."""
        disk.make_dirs(self._folder)
        files, position, origins = self._db.read_now(
            lambda tx: (store.files(tx), store.position(tx), store.origins(tx))
        )
        for file in files:
            self._files.setdefault(file.series, []).append(file)
            self._newest.chill(file.series, file.to_ms)
        await asyncio.to_thread(_sweep, self._folder, {file.file for file in files})
        self._highest = dict(origins)
        self._position = self._journal.start if position is None else position
        self._journal.check_cursors({"timeseries": self._position})
        self._synced = self._journal.synced
        await self._replay()
        self._in_flight = dict(self._highest)
        self._journal.on_void(self._on_void)
        self._journal.on_synced(self._on_synced)
        self._gauges()

    async def run(self) -> None:
        """Flush every `flush_s` seconds, or when the tail reaches `flush_bytes`. Returns when cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.settings.flush_s):
                    await self._wake.wait()
            self._wake.clear()
            try:
                await self.flush()
                await self._compact_one()
            except MarramError as exc:
                # The tail keeps the points and the journal has them: the next turn tries again.
                log.warning("timeseries.flush_failed", reason=exc.message)
            if self._clock.mono_ns() - self._reader_used_ns > 60 * 10**9 and self._reader.pid is not None:
                await self._rest_reader()

    async def stop(self) -> None:
        """Flush once more, end the workers. Without it nothing is lost: the next start replays the journal."""
        try:
            await self.flush()
        except MarramError as exc:
            log.warning("timeseries.flush_failed", reason=exc.message)
        await self._writer.close()
        await self._reader.close()

    # in

    async def append(self, given: Sequence[Point], origin: Origin | None) -> None:
        """Make points durable and visible. The index of the origin counts up from `origin.index` with each point.

        Points whose origin, or a higher one of its source, is there already are skipped: calls of one source come in order.
        Raises Invalid for a bad point (none is kept then), Unavailable when they could not be written or there is no room.
        """
        if origin is None:
            await self.append_many([(None, point) for point in given])
        else:
            source, at, index = origin.source, origin.position, origin.index
            await self.append_many([(Origin(source, at, index + n), point) for n, point in enumerate(given)])

    async def append_many(self, given: Sequence[tuple[Origin | None, Point]]) -> None:
        """As `append`, with an origin for each point; origins of one source rise. One fsync for all."""
        for _, point in given:
            points.check(point)
        if self._tail.bytes + (self._flushing.bytes if self._flushing else 0) > 4 * self.settings.flush_bytes:
            self._wake.set()
            raise Unavailable("the time series cannot be written to files as fast as points come; try again later")
        last = -1
        for records, taken, highest in self._encoded(given):
            first = self._journal.append(records)
            entries = [
                (point.series, (point.time_ms, first + n, record.payload))
                for n, (point, record) in enumerate(zip(taken, records, strict=True))
            ]
            self._pending.append((first, entries, highest))
            self._pending_points += len(entries)
            last = first
        if last >= 0:
            await self._journal.wait_synced(last)
            while last >= self._synced:  # synced, but this loop has not been told: its points are not visible yet
                await asyncio.sleep(0)

    def _encoded(
        self, given: Sequence[tuple[Origin | None, Point]]
    ) -> Iterator[tuple[list[Record], list[Point], Highest]]:
        """Batches for the journal: records, the points that they are of, the highest origins among them."""
        now_ms = self._clock.wall_ms()
        records: list[Record] = []
        taken: list[Point] = []
        highest: Highest = {}
        size = 0
        for origin, point in given:
            if origin is not None:
                key = (origin.position, origin.index)
                if key <= self._in_flight.get(origin.source, (-1, -1)):
                    _repeats_total.inc()
                    continue
                self._in_flight[origin.source] = highest[origin.source] = key
            record = points.encode(point, now_ms, origin)
            records.append(record)
            taken.append(point)
            size += len(record.payload) + len(record.topic) + len(record.meta) + 64
            if size > BATCH_BYTES:
                yield records, taken, highest
                records, taken, highest, size = [], [], {}, 0
        if records:
            yield records, taken, highest

    def _on_synced(self, synced: int) -> None:
        self._synced = synced
        while self._pending and self._pending[0][0] < synced:
            _, entries, highest = self._pending.popleft()
            for series, entry in entries:
                self._tail.add(series, entry)
                self._newest.note(series, entry)
            self._highest.update(highest)
            self._pending_points -= len(entries)
            _points_total.inc(len(entries))
        if self._tail.bytes >= self.settings.flush_bytes and self._flushing is None:
            self._wake.set()
        self._gauges()

    def _on_void(self, first: int, end: int) -> None:
        """Appended and lost before the fsync: whoever waits gets Unavailable and may append the same origins again."""
        self._pending = deque(batch for batch in self._pending if not first <= batch[0] < end)
        self._in_flight = dict(self._highest)
        for _, _, highest in self._pending:
            self._in_flight.update(highest)

    async def _replay(self) -> None:
        at = self._position
        while at < self._synced:
            found = await asyncio.to_thread(self._journal.read, at, 10_000, 8 << 20)
            if not found:
                at = await asyncio.to_thread(self._journal.past_gap, at)
                continue
            for offset, record in found:
                if record.kind != KIND_POINT or offset < self._position:
                    continue
                series, entry = record.topic.decode(), (points.time_of(record.payload), offset, record.payload)
                self._tail.add(series, entry)
                self._newest.note(series, entry)
                origin = points.origin_of(record)
                if origin is not None:
                    key = (origin.position, origin.index)
                    self._highest[origin.source] = max(key, self._highest.get(origin.source, key))
            at = found[-1][0] + 1

    # to files

    async def flush(self) -> int:
        """Put all points below the journal's synced end into files; returns their number. Raises Unavailable (disk full)."""
        async with self._flush_lock:
            self._on_synced(self._synced)
            batch, until, origins = self._tail, self._synced, dict(self._highest)
            if not batch.points and until == self._position:
                return 0
            self._tail, self._flushing = Tail(), batch
            began = time.perf_counter()
            try:
                made = await self._write_files(batch) if batch.points else []
                disk.failpoint("timeseries.flush.before_tx")

                def work(tx: Tx) -> None:
                    store.add_files(tx, made)
                    store.set_position(tx, until)
                    store.set_origins(tx, origins)

                await self._db.write(work)
            except BaseException:
                batch.extend(self._tail)
                self._tail, self._flushing = batch, None
                _flushes.inc(result="failed")
                raise
            # From here on without an await: a query sees either the files or the tail.
            for file in made:
                self._files.setdefault(file.series, []).append(file)
            self._flushing, self._position = None, until
            if made:
                _flushes.inc(result="done")
                _flush_seconds.observe(time.perf_counter() - began)
            self._gauges()
            return batch.points

    async def _write_files(self, batch: Tail) -> list[SeriesFile]:
        prefix = ulid(self._clock, self._entropy).lower()
        source = self._folder / f"{prefix}.points"
        try:
            await asyncio.to_thread(_spool, source, batch)
            params = {"folder": str(self._folder), "prefix": prefix, "source": str(source)}
            answer = await self._writer.call("flush", params, FLUSH_S)
        finally:
            source.unlink(missing_ok=True)
        return [_file(row) for row in cast(list[object], answer)]

    async def _compact_one(self) -> None:
        """Merge the small files of one series and day, if there are many: one swap of rows in one Tx."""
        async with self._flush_lock:
            chosen = self._to_compact()
            if chosen is None:
                return
            series, old = chosen
            target = f"{ulid(self._clock, self._entropy).lower()}-0.parquet"
            params = {
                "folder": str(self._folder),
                "series": series,
                "files": [file.file for file in old],
                "target": target,
            }
            made = _file(await self._writer.call("compact", params, FLUSH_S))
            if made.points != sum(file.points for file in old):
                raise Corrupt(f"compaction of {series} would lose points; the files are left as they are")
            gone = [file.file for file in old]

            def work(tx: Tx) -> None:
                store.remove_files(tx, gone)
                store.add_files(tx, [made])

            await self._db.write(work)
            self._files[series] = [file for file in self._files[series] if file not in old] + [made]
            self._dying += gone
            await self._bury()

    def _to_compact(self) -> tuple[str, list[SeriesFile]] | None:
        for series, files in self._files.items():
            by_day: dict[int, list[SeriesFile]] = {}
            for file in files:
                if file.points < COMPACT_POINTS // 2:
                    by_day.setdefault(file.from_ms // DAY_MS, []).append(file)
            for small in by_day.values():
                if len(small) >= COMPACT_FILES:
                    taken: list[SeriesFile] = []
                    count = 0
                    for file in sorted(small, key=lambda file: file.points):
                        if count + file.points <= COMPACT_POINTS:
                            taken.append(file)
                            count += file.points
                    if len(taken) > 1:
                        return series, taken
        return None

    async def _bury(self) -> None:
        """Delete files whose rows are gone, once no query can still read them."""
        if self._readers == 0 and self._dying:
            names, self._dying = self._dying, []
            await asyncio.to_thread(_delete, self._folder, names)

    # out

    async def page(
        self,
        series: str,
        *,
        from_ms: int = 0,
        to_ms: int | None = None,
        where: Mapping[str, str] | None = None,
        limit: int = 1_000,
        after: Key | None = None,
    ) -> Page:
        """Points with from_ms <= time < to_ms and these dimensions, by (time, offset), at most `limit` (1 to 10,000).

        `after` is the key of the page before. A page ends early at 4 MB. Raises NotFound for a series without a point,
        Unavailable when the worker fails or needs over 30 s.
        """
        self._check_known(series)
        began = time.perf_counter()
        key: Key = after if after is not None else (from_ms, -1)
        until = points.MAX_TIME_MS + 1 if to_ms is None else to_ms
        filters = dict(where or {})
        files = [file.file for file in self._files.get(series, ()) if file.to_ms >= key[0] and file.from_ms < until]
        # Both tails at this moment, before the first await: together with `files` they hold every point once.
        tails = [tail.after(series, key, until) for tail in (self._flushing, self._tail) if tail is not None]
        taken = [list(tail) if filters else list(itertools.islice(tail, limit + 1)) for tail in tails]
        found = NOTHING
        async with self._reading():
            if files:
                params = {"files": files, "after": list(key), "to_ms": until, "where": filters, "limit": limit + 1}
                found = await self._ask("page", params)
        entries = list(heapq.merge(*taken))
        if filters:
            entries = await _filtered(entries, filters, limit + 1)
        made = _page(found, entries, limit)
        _query_seconds.observe(time.perf_counter() - began)
        return made

    async def query(self, series: str, **options: Any) -> tuple[list[Row], Key | None]:
        """As `page`, for use in this process: its rows as objects, and the key of the next page."""
        found = await self.page(series, **options)
        # Not core.codec: its checks are for what others wrote, and cost five times the decoding.
        rows = cast("list[dict[str, Any]]", json.loads(found.rows))
        return [Row(**row) for row in rows], found.key

    async def latest(self, series: str | None = None, *, limit: int = 20) -> list[tuple[str, Row]]:
        """The newest point of each set of dimensions, of one series or over all, newest first: at most `limit` (1 to 1,000).

        From memory. After a start what only files know is read when it could be among the answer: of each such series the
        files of its last day, so a set that has been silent for longer is not seen again until it speaks. Raises NotFound
        for a series without a point, Unavailable as `page`.
        """
        if series is not None:
            self._check_known(series)
        async with self._loading:
            tried: set[str] = set()
            while cold := [name for name in self._newest.cold(series, limit) if name not in tried][:LOADED_AT_ONCE]:
                for name in cold:
                    await self._load_newest(name)
                tried.update(cold)
        return [
            (name, Row(time_ms=time_ms, dimensions=dimensions, fields=fields))
            for name, (time_ms, _, payload) in self._newest.top(series, limit)
            for dimensions, fields in (points.decode(payload),)
        ]

    async def _load_newest(self, series: str) -> None:
        files = self._files.get(series, ())
        last_day = max((file.to_ms // DAY_MS for file in files), default=0)
        names = [file.file for file in files if file.to_ms // DAY_MS == last_day]
        for tail in (self._flushing, self._tail):
            for entry in tail.of(series)[-LOADED_OF_TAIL:] if tail is not None else ():
                self._newest.note(series, entry)
        if names:
            async with self._reading():
                found = await self._ask("newest", {"files": names, "limit": newest.SETS_OF_SERIES})
            for time_ms, offset, text in found.rows():
                row = codec.loads_object(text, max_bytes=MAX_PAGE_BYTES)
                payload = points.payload(
                    time_ms, cast("dict[str, str]", row["dimensions"]), cast("dict[str, Field]", row["fields"])
                )
                self._newest.note(series, (time_ms, offset, payload))
        self._newest.warm(series)

    def _check_known(self, series: str) -> None:
        flushing = self._flushing
        if series not in self._files and not self._tail.of(series) and not (flushing and flushing.of(series)):
            raise NotFound(f"there is no series {series!r}", series=series)

    async def _ask(self, method: str, params: Mapping[str, object]) -> _FromFiles:
        self._reader_used_ns = self._clock.mono_ns()
        common = {"folder": str(self._folder), "memory": self.settings.query_memory, "max_bytes": MAX_PAGE_BYTES}
        return _FromFiles(*await self._reader.call_raw(method, {**common, **params}, QUERY_S))

    @contextlib.asynccontextmanager
    async def _reading(self) -> AsyncGenerator[None, None]:
        """Files that are in use here are not deleted."""
        self._readers += 1
        try:
            yield
        finally:
            self._readers -= 1
        await self._bury()

    def series(self) -> list[SeriesSummary]:
        """All series with at least one point, by name."""
        found: dict[str, list[int]] = {}
        for series, files in self._files.items():
            found[series] = [
                sum(file.points for file in files),
                min(file.from_ms for file in files),
                max(file.to_ms for file in files),
            ]
        for tail in (self._flushing, self._tail):
            for series in tail.series() if tail is not None else ():
                entries = tail.of(series)  # type: ignore[union-attr]  # None gave no series
                first, last = entries[0][0], entries[-1][0]
                known = found.setdefault(series, [0, first, last])
                known[:] = [known[0] + len(entries), min(known[1], first), max(known[2], last)]
        return [
            SeriesSummary(series=series, points=count, first_ms=first, last_ms=last)
            for series, (count, first, last) in sorted(found.items())
        ]

    async def _rest_reader(self) -> None:
        # DuckDB keeps its memory: a worker that nobody asked for a minute goes; the next query starts another.
        if self._readers == 0:
            old, self._reader = self._reader, self._workers("timeseries-query")
            await old.close()

    def _gauges(self) -> None:
        flushing = self._flushing
        _tail_points.set(self._tail.points + (flushing.points if flushing else 0))
        _tail_bytes.set(self._tail.bytes + (flushing.bytes if flushing else 0))


def _page(found: _FromFiles, entries: list[Entry], limit: int) -> Page:
    """One page of the rows of files and of the tail, both in order and given beyond `limit` if there are more."""
    count = found.count
    rows = ((at, offset, points.render(payload)) for at, offset, payload in entries)
    if count and entries and entries[0][:2] < found.key(count - 1):
        last = found.key(count - 1)
        both = heapq.merge(found.rows(), rows)
        # Where files were cut short, what follows in them is not here and may come before what follows in the tail.
        return _cut([], None, (row for row in both if not found.more or row[:2] <= last), limit, more=found.more)
    taken = min(count, limit)
    key = found.key(taken - 1) if taken else None
    texts: list[bytes | memoryview] = [found.texts[: found.ends[taken - 1] - 1]] if taken else []
    if found.more or count > limit:
        return Page(b"[%b]" % b",".join(texts), taken, key)
    made = _cut(texts, key, rows, limit - taken, more=False)
    return Page(made.rows, taken + made.count, made.key)


def _cut(
    texts: "list[bytes | memoryview]",
    key: Key | None,
    rows: Iterable[tuple[int, int, bytes]],
    limit: int,
    *,
    more: bool,
) -> Page:
    """A page of `texts`, which end at `key`, and up to `limit` of `rows`; its count is of the rows alone."""
    count = size = 0
    for at, offset, text in rows:
        if count == limit or size > MAX_PAGE_BYTES:
            more = True
            break
        texts.append(text)
        key, count, size = (at, offset), count + 1, size + len(text)
    return Page(b"[%b]" % b",".join(texts), count, key if more else None)


async def _filtered(entries: list[Entry], where: Mapping[str, str], limit: int) -> list[Entry]:
    found: list[Entry] = []
    texts = [codec.dumps({name: value})[1:-1] for name, value in where.items()]
    for index, entry in enumerate(entries):
        if index % 2_000 == 1_999:
            await asyncio.sleep(0)  # the loop serves others between pieces of a long tail
        payload = entry[2]
        if all(text in payload for text in texts):  # cheap, and true of every match: payloads have the same encoder
            dimensions, _ = points.decode(payload)
            if all(dimensions.get(name) == value for name, value in where.items()):
                found.append(entry)
                if len(found) >= limit:
                    break
    return found


def _file(row: object) -> SeriesFile:
    found = cast(dict[str, object], row)
    return SeriesFile(
        file=str(found["file"]),
        series=str(found["series"]),
        from_ms=cast(int, found["from_ms"]),
        to_ms=cast(int, found["to_ms"]),
        points=cast(int, found["points"]),
        bytes=cast(int, found["bytes"]),
    )


def _spool(path: Path, batch: Tail) -> None:
    """Hand the points to the worker: lines of `["series", [offsets], [payloads]]`. Not synced: a crash makes the file garbage."""
    with disk.errors_of(path), path.open("wb", buffering=1 << 20) as file:
        for series in sorted(batch.series()):
            entries, quoted = batch.of(series), codec.dumps(series)
            for start in range(0, len(entries), SPOOL_LINE):
                part = entries[start : start + SPOOL_LINE]
                offsets = b",".join([b"%d" % entry[1] for entry in part])
                file.write(b"[%b,[%b],[%b]]\n" % (quoted, offsets, b",".join([entry[2] for entry in part])))


def _sweep(folder: Path, known: set[str]) -> None:
    with disk.errors_of(folder):
        present = {path.name for path in folder.iterdir()}
    missing = known - present
    if missing:
        raise Corrupt(f"time-series files are missing from {folder}: {', '.join(sorted(missing)[:5])}")
    stray = sorted(present - known)
    if stray:
        log.info("timeseries.strays_deleted", files=len(stray))
    _delete(folder, stray)


def _delete(folder: Path, names: Sequence[str]) -> None:
    for name in names:
        (folder / name).unlink(missing_ok=True)
