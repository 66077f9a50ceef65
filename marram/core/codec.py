"""JSON in and out: the one door. Size before depth before objects; NaN, duplicate keys and lone surrogates are refused.

Unknown fields are kept: documents that are stored for others (shadows, recipes, job documents) come back as they came.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias, cast

from marram.core.errors import Invalid

JsonValue: TypeAlias = "str | int | float | bool | list[JsonValue] | dict[str, JsonValue] | None"
JsonObject: TypeAlias = dict[str, JsonValue]

MAX_BYTES: Final = 8 << 20
MAX_DEPTH: Final = 64


def loads(
    data: bytes | bytearray | memoryview | str, *, max_bytes: int = MAX_BYTES, max_depth: int = MAX_DEPTH
) -> JsonValue:
    """Parse one JSON text. Raises Invalid, naming the place, for anything RFC 8259 or our limits refuse."""
    if len(data) > max_bytes:
        raise Invalid(f"JSON of {len(data)} bytes is over the limit of {max_bytes}", limit=max_bytes)
    text = data if isinstance(data, str) else _decode(bytes(data))
    _check_depth(text, max_depth)
    try:
        value = cast(JsonValue, _DECODER.decode(text))
        if "\\u" in text and _SURROGATE.search(text) is not None:
            _encode(value).encode()  # of pairs one character was made; one that is left over cannot be written anywhere
        return value
    except UnicodeEncodeError as exc:
        raise Invalid("not acceptable JSON: half of a surrogate pair") from exc
    except json.JSONDecodeError as exc:
        raise Invalid(f"not JSON: {exc.msg} at line {exc.lineno} column {exc.colno}") from exc
    except (ValueError, RecursionError) as exc:  # 5,000-digit integers; nesting the depth check could not see
        raise Invalid(f"not acceptable JSON: {exc}") from exc


def loads_object(
    data: bytes | bytearray | memoryview | str,
    *,
    what: str = "document",
    max_bytes: int = MAX_BYTES,
    max_depth: int = MAX_DEPTH,
) -> JsonObject:
    """As `loads`, for texts that must be an object."""
    value = loads(data, max_bytes=max_bytes, max_depth=max_depth)
    if not isinstance(value, dict):
        raise Invalid(f"{what} must be a JSON object, not {kind(value)}")
    return value


def loads_own(data: bytes) -> JsonValue:
    """Read back what `dumps` wrote and nobody else touched: no limits, no look for duplicate keys. Raises Invalid."""
    try:
        text = data.decode()
        value, end = _scan_own(text, 0)
    except (ValueError, RecursionError, StopIteration) as exc:
        raise Invalid(f"not what was written: {exc}") from exc
    if end != len(text):
        raise Invalid(f"not what was written: it ends at {end} of {len(text)}")
    return value


def dumps(value: object) -> bytes:
    """Compact UTF-8. Raises Invalid on NaN, infinities and types that JSON has not."""
    try:
        return _encode(value).encode()
    except (ValueError, TypeError, UnicodeEncodeError, RecursionError) as exc:
        raise Invalid(f"cannot be written as JSON: {exc}") from exc


def canonical(value: object) -> bytes:
    """Compact with sorted keys: equal values give equal bytes, for digests and signatures."""
    try:
        return json.dumps(value, separators=(",", ":"), sort_keys=True, allow_nan=False).encode()
    except (ValueError, TypeError) as exc:
        raise Invalid(f"cannot be written as JSON: {exc}") from exc


def kind(value: object) -> str:
    """The JSON name of a value's type, for messages."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
        case Mapping():
            return "object"
        case Sequence():
            return "array"
        case _:
            return type(value).__name__


def _decode(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as exc:
        raise Invalid(f"not UTF-8 at byte {exc.start}") from exc


def _check_depth(text: str, limit: int) -> None:
    # Cheap first: most texts have fewer brackets in all than the limit allows in depth.
    if text.count("[") + text.count("{") <= limit:
        return
    depth = 0
    for char in _NOT_BRACKETS.sub("", _STRINGS.sub("", text)):
        if char in "[{":
            depth += 1
            if depth > limit:
                raise Invalid(f"JSON nested deeper than {limit} levels", limit=limit)
        else:
            depth -= 1


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise Invalid(f"duplicate key {key!r}")
            seen.add(key)
    return made


def _constant(text: str) -> object:
    raise Invalid(f"{text} is not JSON")


# A string that is not closed reaches to the end: else each of its quotes would be tried as a beginning, in quadratic time.
_STRINGS: Final = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)', re.DOTALL)
_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")
_NOT_BRACKETS: Final = re.compile(r"[^][{}]+")
_DECODER: Final = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)
# Without the decoder around it, which looks for white space twice: half of the time of a small text.
_scan_own: Final = cast("Callable[[str, int], tuple[JsonValue, int]]", json.scanner.make_scanner(json.JSONDecoder()))  # type: ignore[attr-defined]  # the module is not told of
_ENCODER: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _make_encode() -> Callable[[object], str]:
    # JSONEncoder makes its C half anew for each call, and a table of what it has entered to find circles in: a third of
    # the time of a small document. A circle ends in RecursionError here. CPython has the C half; others need not.
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return _ENCODER.encode
    parts = make(None, _ENCODER.default, json.encoder.encode_basestring, None, ":", ",", False, False, False)

    def encode(value: object) -> str:
        return "".join(parts(value, 0))

    return encode


_encode: Final = _make_encode()
