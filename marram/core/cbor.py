"""CBOR in and out for small documents with the data model of JSON. Pure, bounded: size before depth before objects.

Read: integers, text, byte strings, arrays, maps with text keys, booleans, null, floats; definite and indefinite lengths; the
tag that only says "this is CBOR". Written: the shortest definite form. Refused: other tags and simple values, duplicate keys,
NaN and infinities, bytes after the value. Source: RFC 8949.
Not here: canonical order of keys (RFC 8949, 4.2), dates and big numbers as tags.
"""

import math
import struct
from typing import Final, TypeAlias

from marram.core.errors import Invalid

CborValue: TypeAlias = "str | bytes | int | float | bool | list[CborValue] | dict[str, CborValue] | None"

MAX_BYTES: Final = 128 << 10
MAX_DEPTH: Final = 16
SELF_DESCRIBED: Final = 55799  # RFC 8949, 3.4.6
INDEFINITE: Final = 31
BREAK: Final = 0xFF
_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = range(8)
_MAX_INT: Final = (1 << 64) - 1


def loads(data: bytes, *, max_bytes: int = MAX_BYTES, max_depth: int = MAX_DEPTH) -> CborValue:
    """Parse one value. Raises Invalid, naming the byte, for anything that is not in the list above."""
    if len(data) > max_bytes:
        raise Invalid(f"CBOR of {len(data)} bytes is over the limit of {max_bytes}", limit=max_bytes)
    reader = _Reader(data, max_depth)
    value = reader.value(0)
    if reader.at != len(data):
        raise Invalid(f"CBOR: {len(data) - reader.at} bytes after the value at byte {reader.at}")
    return value


def loads_object(data: bytes, *, max_bytes: int = MAX_BYTES, max_depth: int = MAX_DEPTH) -> dict[str, CborValue]:
    """As `loads`, for a map."""
    value = loads(data, max_bytes=max_bytes, max_depth=max_depth)
    if not isinstance(value, dict):
        raise Invalid("CBOR: the document must be a map")
    return value


def dumps(value: object) -> bytes:
    """Raises Invalid for NaN, infinities, integers over 64 bits and types that JSON has not."""
    out = bytearray()
    try:
        _write(out, value)
    except RecursionError as exc:
        raise Invalid("cannot be written as CBOR: nested too deep") from exc
    return bytes(out)


class _Reader:
    def __init__(self, data: bytes, max_depth: int) -> None:
        self.at = 0
        self._data = data
        self._max_depth = max_depth

    def value(self, depth: int) -> CborValue:
        if depth > self._max_depth:
            raise Invalid(f"CBOR nested deeper than {self._max_depth} levels", limit=self._max_depth)
        start = self.at
        major, info = self._head()
        match major:
            case 0:
                return self._argument(info)
            case 1:
                return -1 - self._argument(info)
            case 2:
                return self._string(major, info)
            case 3:
                return self._text(self._string(major, info), start)
            case 4:
                return self._array(info, depth)
            case 5:
                return self._map(info, depth)
            case 6:
                if self._argument(info) != SELF_DESCRIBED:
                    raise Invalid(f"CBOR: a tag at byte {start} is not supported")
                return self.value(depth + 1)
            case _:
                return self._simple(info, start)

    def _head(self) -> tuple[int, int]:
        byte = self._take(1)[0]
        return byte >> 5, byte & 31

    def _take(self, count: int) -> bytes:
        end = self.at + count
        if end > len(self._data):
            raise Invalid(f"CBOR: ends early, at byte {len(self._data)}")
        found = self._data[self.at : end]
        self.at = end
        return found

    def _argument(self, info: int) -> int:
        if info < 24:
            return info
        if info > 27:
            raise Invalid(f"CBOR: a length at byte {self.at - 1} is not well-formed")
        return int.from_bytes(self._take(1 << (info - 24)))

    def _string(self, major: int, info: int) -> bytes:
        if info != INDEFINITE:
            return self._take(self._argument(info))
        parts: list[bytes] = []
        while not self._at_break():
            inner, length = self._head()
            if inner != major or length == INDEFINITE:
                raise Invalid(f"CBOR: a piece of a string at byte {self.at - 1} is of another type")
            parts.append(self._take(self._argument(length)))
        return b"".join(parts)

    def _text(self, raw: bytes, start: int) -> str:
        try:
            return raw.decode()
        except UnicodeDecodeError as exc:
            raise Invalid(f"CBOR: the text at byte {start} is not UTF-8") from exc

    def _array(self, info: int, depth: int) -> list[CborValue]:
        found: list[CborValue] = []
        if info == INDEFINITE:
            while not self._at_break():
                found.append(self.value(depth + 1))
            return found
        count = self._count(info, 1)
        for _ in range(count):
            found.append(self.value(depth + 1))
        return found

    def _map(self, info: int, depth: int) -> dict[str, CborValue]:
        found: dict[str, CborValue] = {}
        left = -1 if info == INDEFINITE else self._count(info, 2)
        while left != 0 and not (left < 0 and self._at_break()):
            start = self.at
            key = self.value(depth + 1)
            if not isinstance(key, str):
                raise Invalid(f"CBOR: the key at byte {start} is not text")
            if key in found:
                raise Invalid(f"CBOR: duplicate key {key!r}")
            found[key] = self.value(depth + 1)
            left -= 1 if left > 0 else 0
        return found

    def _count(self, info: int, least: int) -> int:
        # Before anything is made: a few bytes can claim 2**64 items.
        count = self._argument(info)
        if count * least > len(self._data) - self.at:
            raise Invalid(f"CBOR: {count} items announced at byte {self.at}, and the bytes for them are not there")
        return count

    def _at_break(self) -> bool:
        if self.at < len(self._data) and self._data[self.at] == BREAK:
            self.at += 1
            return True
        return False

    def _simple(self, info: int, start: int) -> CborValue:
        match info:
            case 20:
                return False
            case 21:
                return True
            case 22 | 23:  # null, undefined
                return None
            case 25 | 26 | 27:
                raw = self._take(1 << (info - 24))
                number: float = struct.unpack({2: ">e", 4: ">f", 8: ">d"}[len(raw)], raw)[0]
                if not math.isfinite(number):
                    raise Invalid(f"CBOR: the number at byte {start} is not finite")
                return number
            case _:
                raise Invalid(f"CBOR: a value at byte {start} is not supported")


def _write(out: bytearray, value: object) -> None:
    match value:
        case None:
            out.append(0xF6)
        case bool():
            out.append(0xF5 if value else 0xF4)
        case int():
            number = value if value >= 0 else -1 - value
            if number > _MAX_INT:
                raise Invalid("cannot be written as CBOR: an integer over 64 bits")
            _write_head(out, _UNSIGNED if value >= 0 else _NEGATIVE, number)
        case float():
            if not math.isfinite(value):
                raise Invalid("cannot be written as CBOR: a number that is not finite")
            out.append(0xFB)
            out += struct.pack(">d", value)
        case str():
            try:
                raw = value.encode()
            except UnicodeEncodeError as exc:
                raise Invalid("cannot be written as CBOR: half of a surrogate pair") from exc
            _write_head(out, _TEXT, len(raw))
            out += raw
        case bytes():
            _write_head(out, _BYTES, len(value))
            out += value
        case list() | tuple():
            _write_head(out, _ARRAY, len(value))  # pyright: ignore[reportUnknownArgumentType]  # of anything
            for item in value:  # pyright: ignore[reportUnknownVariableType]
                _write(out, item)  # pyright: ignore[reportUnknownArgumentType]
        case dict():
            _write_head(out, _MAP, len(value))  # pyright: ignore[reportUnknownArgumentType]
            for key, item in value.items():  # pyright: ignore[reportUnknownVariableType]
                if not isinstance(key, str):
                    raise Invalid("cannot be written as CBOR: a key that is not text")
                _write(out, key)
                _write(out, item)  # pyright: ignore[reportUnknownArgumentType]
        case _:
            raise Invalid(f"cannot be written as CBOR: {type(value).__name__}")


def _write_head(out: bytearray, major: int, number: int) -> None:
    if number < 24:
        out.append(major << 5 | number)
        return
    for info, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if number < 1 << 8 * size:
            out.append(major << 5 | info)
            out += number.to_bytes(size)
            return
    raise AssertionError(number)
