"""What runs in worker processes: writing Parquet files, compacting them, reading them through DuckDB.

A file holds points of one series and one UTC day, in order of (time, offset). Columns: t (Unix ms), o (journal offset),
`d:<name>` for a dimension, and for a field one column a type: `i:` integer, `r:` double, `s:` text, `b:` boolean.
DuckDB tells names apart without regard to case, so a capital X is written ^x in a column's name.
"""

# pyright: basic
# ...because pyarrow has no types: strict would report each of its names. mypy checks the rest strictly.

import itertools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from marram.core import codec
from marram.core.codec import JsonObject
from marram.core.errors import Corrupt, NotFound, Unavailable
from marram.kit import disk, pool

DAY_MS: Final = 86_400_000
MAX_COLUMNS: Final = 4_096
_TYPES: Final[Mapping[str, pa.DataType]] = {
    "i": pa.int64(),
    "r": pa.float64(),
    "s": pa.string(),
    "b": pa.bool_(),
    "d": pa.string(),
}
_PREFIX: Final[Mapping[type, str]] = {bool: "b", int: "i", float: "r", str: "s"}

Rows = list[tuple[int, int, bytes]]


def flush(params: JsonObject) -> object:
    """Write the points of `source` into files in `folder`, named `<prefix>-<n>.parquet`, and make them durable.

    source: lines of `["<series>", [offsets], [payloads]]`, ordered by series. Returns a list of {file, series, from_ms,
    to_ms, points, bytes}. Nothing refers to the files until the caller has committed their rows.
    """
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


def query(params: JsonObject) -> object:
    """Points after the key `after`, before `to_ms`, of `files`: at most `limit`, by column, because that is the smallest frame.

    Returns {t: [...], o: [...], dimensions: {name: [...]}, fields: [[name, [...]], ...]}; null where a point has not that
    field. A field that has had two types stands twice, and each point has one of them.
    """
    import duckdb  # heavy; the flushing worker never needs it

    folder = Path(str(params["folder"]))
    files = [str(folder / str(file)) for file in params["files"]]  # type: ignore[union-attr]  # a list, from service.py
    where: Any = params["where"]
    (after_ms, after_offset), to_ms = params["after"], params["to_ms"]  # type: ignore[misc,str-unpack]  # as above
    connection = _connection(duckdb, folder, str(params["memory"]))
    source = "read_parquet(?, union_by_name = true)"
    try:
        columns = [row[0] for row in connection.execute(f"DESCRIBE SELECT * FROM {source}", [files]).fetchall()]  # noqa: S608
        wanted = {f"d:{_escape(name)}": value for name, value in where.items()}
        if not wanted.keys() <= set(columns):
            return _columns(["t", "o"], [])
        conditions = ["t < ?", "(t > ? OR (t = ? AND o > ?))", *(f"{_quoted(column)} = ?" for column in wanted)]
        found = connection.execute(
            f"SELECT * FROM {source} WHERE t >= ? AND {' AND '.join(conditions)} ORDER BY t, o LIMIT ?",  # noqa: S608
            [files, after_ms, to_ms, after_ms, after_ms, after_offset, *wanted.values(), params["limit"]],
        ).fetchall()
    except duckdb.IOException as exc:
        # A file that has a row is never removed while it can be asked for.
        raise Corrupt(f"a time-series file cannot be read: {exc}") from exc
    except duckdb.OutOfMemoryException as exc:
        raise Unavailable(
            "the query needs more memory than it may have; ask for a shorter time or a smaller limit"
        ) from exc
    return _columns(columns, found)


def _line(line: bytes) -> tuple[str, list[int], list[JsonObject]]:
    return tuple(codec.loads(line, max_bytes=pool.MAX_FRAME))  # type: ignore[arg-type, return-value]  # written by service.py


def _table(rows: list[tuple[int, int, JsonObject]]) -> pa.Table:
    columns: dict[str, list[object]] = {}
    names: dict[tuple[str, str], list[object]] = {}  # (prefix, name) -> its column
    count = len(rows)

    def column_of(prefix: str, name: str) -> list[object]:
        found = names.get((prefix, name))
        if found is None:
            found = names[prefix, name] = columns[f"{prefix}:{_escape(name)}"] = [None] * count
        return found

    for index, (_, _, point) in enumerate(rows):
        for name, value in point["d"].items():  # type: ignore[union-attr]  # checked before it was recorded
            column_of("d", name)[index] = value
        for name, value in point["f"].items():  # type: ignore[union-attr]
            column_of(_PREFIX[type(value)], name)[index] = value
    arrays: dict[str, pa.Array] = {
        "t": pa.array([row[0] for row in rows], pa.int64()),
        "o": pa.array([row[1] for row in rows], pa.int64()),
    }
    for column in sorted(columns):
        arrays[column] = pa.array(columns[column], _TYPES[column[0]])
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


def _columns(names: list[str], found: list[tuple[Any, ...]]) -> dict[str, object]:
    by_name: dict[str, list[Any]] = {
        name: list(values)
        for name, values in zip(names, zip(*found, strict=True) if found else [()] * len(names), strict=True)
    }
    return {
        "t": by_name["t"],
        "o": by_name["o"],
        "dimensions": {_unescape(name[2:]): values for name, values in by_name.items() if name.startswith("d:")},
        "fields": [
            [_unescape(name[2:]), values] for name, values in by_name.items() if name[:2] in {"i:", "r:", "s:", "b:"}
        ],
    }


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


HANDLERS: Final[Mapping[str, pool.Handler]] = {"flush": flush, "compact": compact, "query": query}

if __name__ == "__main__":
    pool.serve(HANDLERS)
