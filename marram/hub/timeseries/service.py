"""Points in and out. Append: journal record, fsync, then the tail. Flush: Parquet files, fsynced, then one Tx with their rows,
the journal position and the highest origins. Query: files through DuckDB in a worker, merged with the tail.

A point is in exactly one place: offsets below `position` in files, the others in the tail; a query takes both at one moment.
Not here: the files' format (work), SQL of users, retention.
"""

import asyncio
import contextlib
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, TypeAlias, TypedDict, cast

from marram.core import codec
from marram.core.codec import JsonValue
from marram.core.errors import Corrupt, Invalid, MarramError, NotFound, Unavailable
from marram.core.segment import KIND_POINT, Origin, Record
from marram.hub.timeseries import points, store
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
    """One point of an answer; `offset` makes its key unique."""

    time_ms: int
    offset: int
    dimensions: Mapping[str, str]
    fields: Mapping[str, Field]


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesSummary:
    series: str
    points: int
    first_ms: int
    last_ms: int


class _Columns(TypedDict):
    """The answer of work.query."""

    t: list[int]
    o: list[int]
    dimensions: dict[str, list[str | None]]
    fields: "list[tuple[str, list[Field | None]]]"


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
        for records, highest in self._encoded(given):
            first = self._journal.append(records)
            entries = [
                (record.topic.decode(), (points.time_of(record.payload), first + n, record.payload))
                for n, record in enumerate(records)
            ]
            self._pending.append((first, entries, highest))
            self._pending_points += len(entries)
            last = first
        if last >= 0:
            await self._journal.wait_synced(last)
            while last >= self._synced:  # synced, but this loop has not been told: its points are not visible yet
                await asyncio.sleep(0)

    def _encoded(self, given: Sequence[tuple[Origin | None, Point]]) -> Iterator[tuple[list[Record], Highest]]:
        now_ms = self._clock.wall_ms()
        records: list[Record] = []
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
            size += len(record.payload) + len(record.topic) + len(record.meta) + 64
            if size > BATCH_BYTES:
                yield records, highest
                records, highest, size = [], {}, 0
        if records:
            yield records, highest

    def _on_synced(self, synced: int) -> None:
        self._synced = synced
        while self._pending and self._pending[0][0] < synced:
            _, entries, highest = self._pending.popleft()
            for series, entry in entries:
                self._tail.add(series, entry)
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
                self._tail.add(record.topic.decode(), (points.time_of(record.payload), offset, record.payload))
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

    async def query(
        self,
        series: str,
        *,
        from_ms: int = 0,
        to_ms: int | None = None,
        where: Mapping[str, str] | None = None,
        limit: int = 1_000,
        after: Key | None = None,
    ) -> tuple[list[Row], Key | None]:
        """Points with from_ms <= time < to_ms and these dimensions, by (time, offset), at most `limit` (1 to 10,000).

        Returns the rows and the key to pass as `after` for the next page, None at the end. Raises NotFound for a series
        without a point, Unavailable when the worker fails or needs over 30 s.
        """
        if (
            series not in self._files
            and not self._tail.of(series)
            and not (self._flushing and self._flushing.of(series))
        ):
            raise NotFound(f"there is no series {series!r}", series=series)
        began = time.perf_counter()
        key: Key = after if after is not None else (from_ms, -1)
        until = points.MAX_TIME_MS + 1 if to_ms is None else to_ms
        filters = dict(where or {})
        files = [file.file for file in self._files.get(series, ()) if file.to_ms >= key[0] and file.from_ms < until]
        # Both tails at this moment, before the first await: together with `files` they hold every point once.
        tails = [tail.after(series, key, until) for tail in (self._flushing, self._tail) if tail is not None]
        snapshot = [list(_take(tail, limit + 1)) for tail in tails] if not filters else [list(tail) for tail in tails]
        self._readers += 1
        try:
            rows = await self._from_files(files, key, until, filters, limit + 1) if files else []
            for entries in snapshot:
                rows += await _decoded(series, entries, filters, limit + 1)
        finally:
            self._readers -= 1
        rows.sort(key=_key)
        await self._bury()
        _query_seconds.observe(time.perf_counter() - began)
        if len(rows) <= limit:
            return rows, None
        return rows[:limit], _key(rows[limit - 1])

    async def _from_files(self, files: list[str], key: Key, to_ms: int, where: dict[str, str], limit: int) -> list[Row]:
        self._reader_used_ns = self._clock.mono_ns()
        params = {
            "folder": str(self._folder),
            "files": files,
            "after": list(key),
            "to_ms": to_ms,
            "where": where,
            "limit": limit,
            "memory": self.settings.query_memory,
        }
        return _rows(cast(_Columns, await self._reader.call("query", params, QUERY_S)))

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


def _rows(columns: _Columns) -> list[Row]:
    dimensions, fields = list(columns["dimensions"].items()), columns["fields"]
    return [
        Row(
            time_ms=at,
            offset=offset,
            dimensions={name: value for name, values in dimensions if (value := values[n]) is not None},
            fields={name: field for name, values in fields if (field := values[n]) is not None},
        )
        for n, (at, offset) in enumerate(zip(columns["t"], columns["o"], strict=True))
    ]


def _key(row: Row) -> Key:
    return (row.time_ms, row.offset)


def _take(entries: Iterator[Entry], count: int) -> Iterator[Entry]:
    for _, entry in zip(range(count), entries, strict=False):
        yield entry


async def _decoded(series: str, entries: list[Entry], where: Mapping[str, str], limit: int) -> list[Row]:
    rows: list[Row] = []
    for index, (time_ms, offset, payload) in enumerate(entries):
        if index % 2_000 == 1_999:
            await asyncio.sleep(0)  # the loop serves others between pieces of a long tail
        dimensions, fields = points.decode(payload)
        if all(dimensions.get(name) == value for name, value in where.items()):
            rows.append(Row(time_ms=time_ms, offset=offset, dimensions=dimensions, fields=fields))
            if len(rows) >= limit:
                break
    return rows


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
