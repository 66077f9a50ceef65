"""A point: what it may hold, and its form as a journal record. The record's topic is the series, its meta has the origin.

Payload: {"t": Unix ms, "d": {dimension: text}, "f": {field: number, text or boolean}}. Limits are our choice, near Timestream's.
"""

import functools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias, cast

from marram.core import codec
from marram.core.errors import Corrupt, Invalid, LimitExceeded
from marram.core.segment import KIND_POINT, Origin, Record

Field: TypeAlias = "float | int | str | bool"

SERIES: Final = re.compile(r"[a-zA-Z0-9_-][a-zA-Z0-9_.:/-]{0,511}")
MAX_DIMENSIONS: Final = 128
MAX_FIELDS: Final = 1024
MAX_NAME: Final = 256
MAX_TEXT_BYTES: Final = 64 << 10
MAX_POINT_CHARACTERS: Final = 256 << 10  # of all texts in a point
MAX_TIME_MS: Final = 253_402_300_799_999  # the end of the year 9999
_INT64: Final = 1 << 63
_FIELDS: Final = b'},"f":{'


@dataclass(slots=True)
class Point:
    """One observation. Equal points are two points: only the origin tells a repeat."""

    series: str
    time_ms: int
    fields: Mapping[str, Field]
    dimensions: Mapping[str, str]


def check(point: Point) -> None:
    """Raises Invalid or LimitExceeded naming what is wrong."""
    check_series(point.series)
    time_ms = cast(object, point.time_ms)  # what a caller gives comes from JSON: its type is checked here
    if not isinstance(time_ms, int) or isinstance(time_ms, bool) or not 0 <= time_ms <= MAX_TIME_MS:
        raise Invalid(f"the time of a point is Unix milliseconds from 0 to {MAX_TIME_MS}, not {time_ms!r}")
    fields, dimensions = point.fields, cast("Mapping[str, object]", point.dimensions)
    if not fields:
        raise Invalid(f"a point of {point.series} has no field")
    if len(fields) > MAX_FIELDS or len(dimensions) > MAX_DIMENSIONS:
        raise LimitExceeded(f"a point has at most {MAX_FIELDS} fields and {MAX_DIMENSIONS} dimensions")
    characters = 0
    for name, text in dimensions.items():
        _check_name("dimension", name)
        if not isinstance(text, str):
            raise Invalid(f"the dimension {name!r} must be a string, not {codec.kind(text)}")
        _check_text(name, text)
        characters += len(text)
    for name, value in fields.items():
        _check_name("field", name)
        check_field(name, value)
        if isinstance(value, str):
            characters += len(value)
    if characters > MAX_POINT_CHARACTERS:
        raise LimitExceeded(
            f"the texts of a point are over {MAX_POINT_CHARACTERS} characters", limit=MAX_POINT_CHARACTERS
        )


@functools.lru_cache(4096)
def check_series(series: str) -> None:
    if not SERIES.fullmatch(series):
        raise Invalid(
            f"{series[:80]!r} is not a series name: 1 to 512 of a-z A-Z 0-9 _ . : / -, not beginning with . : or /"
        )


def check_field(name: str, value: object) -> None:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise Invalid(f"the field {name!r} is not a finite number")
    elif isinstance(value, int):  # true and false are two of them
        if not -_INT64 <= value < _INT64:
            raise Invalid(f"the field {name!r} is an integer beyond 64 bits")
    elif isinstance(value, str):
        _check_text(name, value)
    else:
        raise Invalid(f"the field {name!r} must be a number, a string or a boolean, not {codec.kind(value)}")


def encode(point: Point, time_ms: int, origin: Origin | None) -> Record:
    """The record of a checked point; `time_ms` is when the hub took it."""
    meta = b"{}" if origin is None else codec.dumps({"o": [origin.source, origin.position, origin.index]})
    text = payload(point.time_ms, point.dimensions, point.fields)
    return Record(KIND_POINT, 0, time_ms, point.series.encode(), meta, text)


def payload(time_ms: int, dimensions: Mapping[str, str], fields: Mapping[str, Field]) -> bytes:
    # Dimensions are sorted: one set of them has one text.
    ordered = dict(sorted(dimensions.items())) if len(dimensions) > 1 else dimensions
    return codec.dumps({"t": time_ms, "d": ordered, "f": fields})


def time_of(payload: bytes) -> int:
    """The point's time, without decoding the rest: "t" is written first."""
    end = payload.find(b",", 5)
    try:
        return int(payload[5:end])
    except ValueError as exc:
        raise Corrupt("a point record without its time") from exc


def dimensions_of(payload: bytes) -> bytes:
    """The text of the dimensions, without decoding: equal sets have equal texts."""
    start = payload.find(b',"d":') + 5
    # No text in the dimensions can look like this end: its quotes are escaped, and an opening one never follows "}".
    return payload[start : payload.find(_FIELDS, start) + 1]


def render(payload: bytes) -> bytes:
    """The point as an answer shows it: {"time_ms", "dimensions", "fields"}. Its parts are taken as they are."""
    at = payload.find(b',"d":')
    end = payload.find(_FIELDS, at)
    return b'{"time_ms":%b,"dimensions":%b,"fields":%b' % (payload[5:at], payload[at + 5 : end + 1], payload[end + 6 :])


def decode(payload: bytes) -> tuple[dict[str, str], dict[str, Field]]:
    """(dimensions, fields)."""
    value = codec.loads_object(payload, what="point")
    dimensions, fields = value.get("d"), value.get("f")
    if not isinstance(dimensions, dict) or not isinstance(fields, dict):
        raise Corrupt("a point record without dimensions or fields")
    return dimensions, fields  # type: ignore[return-value]  # written by `encode` from checked values


def origin_of(record: Record) -> Origin | None:
    found = codec.loads_object(record.meta, what="meta of a record").get("o")
    match found:
        case [str() as source, int() as position, int() as index]:
            return Origin(source, position, index)
        case _:
            return None


@functools.lru_cache(4096)
def _check_name(what: str, name: str) -> None:
    if not 0 < len(name) <= MAX_NAME or not name.isprintable():
        raise Invalid(f"a {what}'s name is 1 to {MAX_NAME} printable characters, not {name[:80]!r}")


def _check_text(name: str, value: str) -> None:
    if len(value) * 4 > MAX_TEXT_BYTES and len(value.encode(errors="surrogatepass")) > MAX_TEXT_BYTES:
        raise LimitExceeded(f"the text of {name!r} is over {MAX_TEXT_BYTES} bytes", limit=MAX_TEXT_BYTES)
