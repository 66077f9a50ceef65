"""Tables of the time series: one row for each Parquet file, the journal offset up to which points are in files, and the
highest origin of each source among them. A flush writes all three in one transaction."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from marram.kit.db import Tx


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesFile:
    """One file of one series; `from_ms` and `to_ms` are the times of its first and last point, both included."""

    file: str
    series: str
    from_ms: int
    to_ms: int
    points: int
    bytes: int


def files(tx: Tx) -> list[SeriesFile]:
    rows = tx.all("SELECT file, series, from_ms, to_ms, points, bytes FROM ts_file ORDER BY file")
    return [
        SeriesFile(file=file, series=series, from_ms=from_ms, to_ms=to_ms, points=points, bytes=size)
        for file, series, from_ms, to_ms, points, size in rows
    ]


def add_files(tx: Tx, added: Iterable[SeriesFile]) -> None:
    tx.many(
        "INSERT INTO ts_file (file, series, from_ms, to_ms, points, bytes, created_ms) VALUES (?, ?, ?, ?, ?, ?, ?)",
        [(f.file, f.series, f.from_ms, f.to_ms, f.points, f.bytes, tx.now_ms) for f in added],
    )


def remove_files(tx: Tx, names: Iterable[str]) -> None:
    tx.many("DELETE FROM ts_file WHERE file = ?", [(name,) for name in names])


def position(tx: Tx) -> int | None:
    """The journal offset below which every point is in a file; None before the first flush."""
    row = tx.one("SELECT position FROM ts_progress WHERE id = 1")
    return None if row is None else int(row[0])


def set_position(tx: Tx, offset: int) -> None:
    tx.execute(
        "INSERT INTO ts_progress (id, position) VALUES (1, ?) ON CONFLICT (id) DO UPDATE SET position = excluded.position",
        offset,
    )


def origins(tx: Tx) -> dict[str, tuple[int, int]]:
    return {source: (at, result) for source, at, result in tx.all("SELECT source, position, result FROM ts_origin")}


def set_origins(tx: Tx, highest: Mapping[str, tuple[int, int]]) -> None:
    tx.many(
        "INSERT INTO ts_origin (source, position, result) VALUES (?, ?, ?) "
        "ON CONFLICT (source) DO UPDATE SET position = excluded.position, result = excluded.result",
        [(source, at, result) for source, (at, result) in sorted(highest.items())],
    )
