"""What runs in worker processes: writing Parquet files, compacting them, reading them through DuckDB.

A file holds points of one series and one UTC day, in order of (time, offset). Columns: t (Unix ms), o (journal offset),
`d:<name>` for a dimension, and for a field one column a type: `i:` integer, `r:` double, `s:` text, `b:` boolean.
DuckDB tells names apart without regard to case, so a capital X is written ^x in a column's name.
"""

# pyright: basic
# ...because pyarrow has no types: strict would report each of its names. mypy checks the rest strictly.

import array
import bisect
import functools
import gc
import itertools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

import pyarrow as pa
import pyarrow.parquet as pq

from marram.core import codec
from marram.core.codec import JsonObject
from marram.core.errors import Corrupt, NotFound, Unavailable
from marram.kit import disk, pool

DAY_MS: Final = 86_400_000
SOURCE: Final = "read_parquet(?, union_by_name = true, hive_partitioning = false)"
_TYPES: Final[Mapping[str, pa.DataType]] = {
    "i": pa.int64(),
    "r": pa.float64(),
    "s": pa.string(),
    "b": pa.bool_(),
    "d": pa.string(),
}
_PREFIX: Final[Mapping[type, str]] = {bool: "b", int: "i", float: "r", str: "s"}


def flush(params: JsonObject) -> object:
    """Write the points of `source` into files in `folder`, named `<prefix>-<n>.parquet`, and make them durable.

    source: lines of `["<series>", [offsets], [payloads]]`, ordered by series. Returns a list of {file, series, from_ms,
    to_ms, points, bytes}. Nothing refers to the files until the caller has committed their rows.
    """
    gc.disable()  # a million dicts without a cycle among them: looking for one doubles the time
    try:
        return _flush(params)
    finally:
        gc.enable()


def _flush(params: JsonObject) -> object:
    folder, prefix = Path(str(params["folder"])), str(params["prefix"])
    counter = itertools.count()
    made: list[dict[str, object]] = []
    with disk.errors_of(str(params["source"])), Path(str(params["source"])).open("rb") as source:
        for series, group in itertools.groupby(map(_line, source), key=lambda line: line[0]):
            days: dict[int, list[tuple[int, int, JsonObject]]] = {}
            for _, offsets, given in group:
                for offset, point in zip(offsets, given, strict=True):
                    time_ms = point["t"]
                    assert isinstance(time_ms, int)
                    days.setdefault(time_ms // DAY_MS, []).append((time_ms, offset, point))
            for _, rows in sorted(days.items()):
                rows.sort(key=lambda row: row[:2])
                name = f"{prefix}-{next(counter)}.parquet"
                made.append(_write(folder, name, series, _table(rows)))
    disk.failpoint("timeseries.flush.before_dir_fsync")
    disk.fsync_dir(folder)
    return made


def compact(params: JsonObject) -> object:
    """Merge `files` of one series into the new file `target`; returns its row as `flush` does. The old ones stay."""
    folder, files = Path(str(params["folder"])), params["files"]
    assert isinstance(files, list)
    tables = [_read(folder / str(file)) for file in files]
    whole = pa.concat_tables(tables, promote_options="default").sort_by([("t", "ascending"), ("o", "ascending")])
    made = _write(folder, str(params["target"]), str(params["series"]), whole)
    disk.fsync_dir(folder)
    return made


class _OutOfMemory(Unavailable):
    """The engine's limit was met."""


def page(params: JsonObject) -> pool.Raw:
    """Points after the key `after`, before `to_ms`, of `files`, in order: at most `limit`, and about `max_bytes` of text.

    The result is {count, more}: `more` when `max_bytes`, or the memory that there is, cut it short. The bytes are, in this
    order, the points' times and offsets and the ends of their texts (each `count` little-endian int64), then the texts:
    JSON objects {time_ms, dimensions, fields}, a comma after each. They are made by the engine's threads and never parsed
    on their way to the reader.
    """
    where: Any = params["where"]
    (after_ms, after_offset), to_ms = params["after"], params["to_ms"]  # type: ignore[misc,str-unpack]  # from service.py
    schema = _Schema(_paths(params))
    wanted = {f"d:{_escape(name)}": value for name, value in where.items()}
    if not wanted.keys() <= schema.nullable.keys():
        return _raw(None, 0)
    conditions = ["t >= ?", "t < ?", "(t > ? OR o > ?)", *(f"{_quoted(column)} = ?" for column in wanted)]
    inner = f"SELECT * FROM {SOURCE} WHERE {' AND '.join(conditions)} ORDER BY t, o LIMIT ?"  # noqa: S608
    limit = asked = int(str(params["limit"]))
    while True:
        values = [schema.files, after_ms, to_ms, after_ms, after_offset, *wanted.values(), limit]
        try:
            table = _run(params, schema, inner, values)
        except _OutOfMemory:
            if limit < 16:
                raise
            limit //= 8  # long texts: fewer rows are a page too
        else:
            return _raw(table, int(str(params["max_bytes"])), more=limit < asked and len(table) == limit)


def newest(params: JsonObject) -> pool.Raw:
    """The newest point of each set of dimensions in `files`, newest first, at most `limit`; bytes as of `page`."""
    schema = _Schema(_paths(params))
    dimensions = ", ".join(_quoted(column) for column in schema.nullable if column.startswith("d:"))
    groups = f"SELECT max({{'t': t, 'o': o}}) AS last FROM {SOURCE}" + (f" GROUP BY {dimensions}" if dimensions else "")  # noqa: S608
    inner = (
        f"WITH lasts AS ({groups} ORDER BY last DESC LIMIT ?) "  # noqa: S608
        f"SELECT * FROM {SOURCE} WHERE o IN (SELECT last.o FROM lasts) ORDER BY t DESC, o DESC"
    )
    return _raw(
        _run(params, schema, inner, [schema.files, params["limit"], schema.files]), int(str(params["max_bytes"]))
    )


def _paths(params: JsonObject) -> list[Path]:
    return [Path(str(params["folder"])) / str(file) for file in params["files"]]  # type: ignore[union-attr]  # a list


def _run(params: JsonObject, schema: "_Schema", inner: str, values: list[object]) -> pa.Table:
    """The rows of `inner` as the table (t, o, text)."""
    import duckdb  # heavy; the flushing worker never needs it

    connection = _connection(duckdb, Path(str(params["folder"])), str(params["memory"]))
    try:
        statement = f"SELECT t, o, {schema.text} AS text FROM ({inner})"  # noqa: S608
        return connection.sql(statement, params=values).to_arrow_table()
    except duckdb.IOException as exc:
        # A file that has a row is never removed while it can be asked for.
        raise Corrupt(f"a time-series file cannot be read: {exc}") from exc
    except duckdb.OutOfMemoryException as exc:
        raise _OutOfMemory(
            "the query needs more memory than it may have; ask for a shorter time or a smaller limit"
        ) from exc


def _raw(table: pa.Table | None, max_bytes: int, *, more: bool = False) -> pool.Raw:
    if table is None or not len(table):
        return pool.Raw({"count": 0, "more": False}, ())
    text = pa.concat_arrays(table.column("text").cast(pa.large_string()).chunks)
    _, offsets, data = text.buffers()
    ends = array.array("q", memoryview(offsets).cast("B").cast("q")[text.offset : text.offset + len(text) + 1])
    base, count = ends[0], len(text)
    if ends[-1] - base > max_bytes:
        count = max(1, bisect.bisect_right(ends, base + max_bytes) - 1)
    texts = memoryview(data)[base : ends[count]]
    if base:
        ends = array.array("q", [end - base for end in ends])
    keys = [memoryview(pa.concat_arrays(table.column(name).chunks).buffers()[1]) for name in ("t", "o")]
    parts = [*(key[: 8 * count] for key in keys), memoryview(ends)[1 : count + 1], texts]
    return pool.Raw({"count": count, "more": more or count < len(text)}, parts)


class _Schema:
    """The columns of some files together, and the SQL that writes a row of them as JSON."""

    def __init__(self, paths: list[Path]) -> None:
        found = [_columns(str(path)) for path in paths]
        self.files = [str(path) for path in paths]
        names = sorted({name for columns in found for name in columns})
        self.nullable = {name: any(columns.get(name, True) for columns in found) for name in names}
        dimensions = self._members([name for name in names if name.startswith("d:")])
        fields = self._members([name for name in names if name[:2] in {"i:", "r:", "s:", "b:"}])
        self.text = (
            f"""concat('{{"time_ms":', t, ',"dimensions":{{', {dimensions}, '}},"fields":{{', {fields}, '}}}},')"""
        )

    def _members(self, columns: list[str]) -> str:
        """Arguments for concat. Where no row lacks a column, its comma is part of the name: that is a third faster."""
        pairs: list[tuple[str, str]] = []
        for column in columns:
            # Numbers and booleans are cast to text by concat: shortest digits that give the same double, true, false.
            value = f"to_json({_quoted(column)})" if column[:2] in {"d:", "s:"} else _quoted(column)
            pairs.append((codec.dumps(_unescape(column[2:])).decode().replace("'", "''") + ":", value))
        if not pairs:
            return "''"
        if any(self.nullable[column] for column in columns):
            joined = ", ".join(f"'{name}' || {value}" for name, value in pairs)
            return f"concat_ws(',', {joined})"
        return ", ".join(f"'{',' if n else ''}{name}', {value}" for n, (name, value) in enumerate(pairs))


@functools.lru_cache(maxsize=4096)  # a file never changes, and no other ever gets its name
def _columns(path: str) -> dict[str, bool]:
    """The columns of a file; True for one that may be null somewhere."""
    try:
        metadata = pq.read_metadata(path)
    except FileNotFoundError as exc:
        raise Corrupt(f"a time-series file is missing: {path}") from exc
    except (pa.ArrowInvalid, OSError) as exc:
        raise Corrupt(f"a time-series file cannot be read: {path}: {exc}") from exc
    names = [metadata.schema.column(n).name for n in range(metadata.num_columns)]
    groups = range(metadata.num_row_groups)
    if len(groups) * len(names) > 20_000:
        return dict.fromkeys(names, True)
    return {
        name: any(_has_nulls(metadata.row_group(group).column(n)) for group in groups) for n, name in enumerate(names)
    }


def _has_nulls(chunk: pq.ColumnChunkMetaData) -> bool:
    statistics = chunk.statistics
    return statistics is None or not statistics.has_null_count or statistics.null_count > 0


def _line(line: bytes) -> tuple[str, list[int], list[JsonObject]]:
    # Not core.codec: its checks are for what others wrote, and cost three times the decoding; service.py wrote this.
    return tuple(json.loads(line))


def _table(rows: list[tuple[int, int, JsonObject]]) -> pa.Table:
    columns: dict[str, list[object]] = {}
    dimensions: dict[str, list[object]] = {}
    fields: dict[tuple[str, type], list[object]] = {}
    count = len(rows)

    def new(prefix: str, name: str) -> list[object]:
        made = columns[f"{prefix}:{_escape(name)}"] = [None] * count
        return made

    for index, (_, _, point) in enumerate(rows):
        for name, value in cast(JsonObject, point["d"]).items():
            column = dimensions.get(name)
            if column is None:
                column = dimensions[name] = new("d", name)
            column[index] = value
        for name, value in cast(JsonObject, point["f"]).items():
            key = (name, value.__class__)
            column = fields.get(key)
            if column is None:
                column = fields[key] = new(_PREFIX[key[1]], name)
            column[index] = value
    arrays: dict[str, pa.Array] = {
        "t": pa.array([row[0] for row in rows], pa.int64()),
        "o": pa.array([row[1] for row in rows], pa.int64()),
    }
    for written in sorted(columns):
        arrays[written] = pa.array(columns[written], _TYPES[written[0]])
    return pa.table(arrays)


def _write(folder: Path, name: str, series: str, table: pa.Table) -> dict[str, object]:
    path = folder / name
    texts = [column for column in table.column_names if column[:2] in {"d:", "s:"}]
    with disk.errors_of(path):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as file:
            pq.write_table(
                table,
                file,
                compression="zstd",
                use_dictionary=texts,  # pyright: ignore[reportArgumentType]  # a list of columns is documented
                column_encoding={"t": "DELTA_BINARY_PACKED", "o": "DELTA_BINARY_PACKED"},
                row_group_size=128 << 10,
            )
            file.flush()
            disk.failpoint("timeseries.flush.before_fsync")
            os.fsync(file.fileno())
            size = file.tell()
    times = table.column("t")
    return {
        "file": name,
        "series": series,
        "from_ms": times[0].as_py(),
        "to_ms": times[len(times) - 1].as_py(),
        "points": len(times),
        "bytes": size,
    }


def _read(path: Path) -> pa.Table:
    try:
        return pq.read_table(path, partitioning=None)  # pyright: ignore[reportArgumentType]  # None: no folders
    except FileNotFoundError as exc:
        raise NotFound(f"no such file: {path}") from exc
    except (pa.ArrowInvalid, OSError) as exc:
        raise Corrupt(f"a time-series file cannot be read: {path}: {exc}") from exc


_connections: dict[str, Any] = {}


def _connection(duckdb: Any, folder: Path, memory: str) -> Any:
    """One database in memory that sees `folder` and nothing else of the machine."""
    found = _connections.get(str(folder))
    if found is None:
        found = duckdb.connect(":memory:", config={"threads": 2, "memory_limit": memory, "temp_directory": ""})
        found.execute("SET autoinstall_known_extensions = false")
        found.execute("SET autoload_known_extensions = false")
        found.execute(f"SET allowed_directories = ['{str(folder).replace(chr(39), chr(39) * 2)}']")
        found.execute("SET enable_external_access = false")
        found.execute("SET lock_configuration = true")
        _connections[str(folder)] = found
    return found


def _escape(name: str) -> str:
    return "".join(f"^{char.lower()}" if "A" <= char <= "Z" else "^^" if char == "^" else char for char in name)


def _unescape(name: str) -> str:
    if "^" not in name:
        return name
    out, chars = [], iter(name)
    for char in chars:
        out.append(next(chars).upper() if char == "^" else char)
    return "".join(out)


def _quoted(column: str) -> str:
    return '"' + column.replace('"', '""') + '"'


HANDLERS: Final[Mapping[str, pool.Handler]] = {"flush": flush, "compact": compact, "page": page, "newest": newest}

if __name__ == "__main__":
    pool.serve(HANDLERS)
