"""Event-stream frames, the framing of the Greengrass IPC. Pure: bytes in, messages out.

Frame, big endian: total length u32, headers length u32, CRC-32 of these 8 bytes | headers | payload | CRC-32 of all before it.
Header: name length u8, name, type u8, value. Source: the smithy "Amazon Event Stream Specification"; the `:message-type` numbers
and flags are observed from awsiotsdk 1.31. What the messages mean (streams, operations, shapes) is in marram.edge.ipc.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from functools import lru_cache
from typing import Final, TypeAlias
from zlib import crc32

from marram.core.errors import Invalid

HeaderValue: TypeAlias = bool | int | str | bytes

PRELUDE: Final = struct.Struct(">III")
LENGTHS: Final = struct.Struct(">II")
CRC: Final = struct.Struct(">I")
INT32: Final = struct.Struct(">i")

OVERHEAD: Final = 16  # prelude and the two checksums
MAX_HEADERS: Final = 128 * 1024
MAX_MESSAGE: Final = 16 * 1024 * 1024

VERSION: Final = "0.1.0"
JSON: Final = "application/json"


class MessageType(IntEnum):
    APPLICATION_MESSAGE = 0
    APPLICATION_ERROR = 1
    PING = 2
    PING_RESPONSE = 3
    CONNECT = 4
    CONNECT_ACK = 5
    PROTOCOL_ERROR = 6
    INTERNAL_ERROR = 7


class Flag(IntFlag):
    NONE = 0
    CONNECTION_ACCEPTED = 1
    TERMINATE_STREAM = 2


@dataclass(slots=True)
class Message:
    """One frame. Header names are as sent; an absent number reads as 0, an absent text as ""."""

    headers: dict[str, HeaderValue]
    payload: bytes

    def number(self, name: str) -> int:
        value = self.headers.get(name, 0)
        return value if isinstance(value, int) else 0

    def text(self, name: str) -> str:
        value = self.headers.get(name, "")
        return value if isinstance(value, str) else ""


def encode(headers: Mapping[str, HeaderValue], payload: bytes = b"") -> bytes:
    """A frame. `int` travels as int32, `str` as string, `bytes` as byte buffer, `bool` as the two bool types."""
    return frame(header_block(headers), payload)


def frame(block: bytes, payload: bytes) -> bytes:
    """A frame from headers that are bytes already: what a stream of equal messages pays."""
    size = len(block)
    lengths = LENGTHS.pack(OVERHEAD + size + len(payload), size)
    prelude_crc = crc32(lengths)
    head = lengths + CRC.pack(prelude_crc) + block
    body = head + payload
    return body + CRC.pack(crc32(body))


def header_block(headers: Mapping[str, HeaderValue]) -> bytes:
    parts: list[bytes] = []
    for name, value in headers.items():
        key = name.encode()
        if not 1 <= len(key) <= 255:
            raise Invalid("event-stream header name must have 1 to 255 bytes", name=name[:40])
        parts.append(bytes((len(key),)) + key)
        if value is True or value is False:
            parts.append(b"\x00" if value else b"\x01")
        elif isinstance(value, int):
            parts.append(b"\x04" + INT32.pack(value))
        else:
            raw = value.encode() if isinstance(value, str) else value
            if len(raw) > 0x7FFF:
                raise Invalid("event-stream header value is over 32767 bytes", name=name)
            parts.append((b"\x07" if isinstance(value, str) else b"\x06") + len(raw).to_bytes(2, "big") + raw)
    return b"".join(parts)


@lru_cache(maxsize=64)
def application_tail(shape: str) -> bytes:
    """The headers after the three numbers of an application message: the same for every message of a shape."""
    if not shape:
        return b""
    return header_block({":content-type": JSON, "service-model-type": shape})


def application_block(message_type: int, flags: int, stream_id: int, shape: str = "") -> bytes:
    """Headers of a message on a stream. An empty `shape` leaves content type and model name out."""
    return _numbers(message_type, flags, stream_id) + application_tail(shape)


def protocol_message(message_type: int, flags: int = 0, payload: bytes = b"") -> bytes:
    """A whole message on stream 0: CONNECT_ACK, PING_RESPONSE, PROTOCOL_ERROR, ..."""
    return frame(_numbers(message_type, flags, 0), payload)


def _numbers(message_type: int, flags: int, stream_id: int) -> bytes:
    return b"\x0d:message-type\x04%b\x0e:message-flags\x04%b\x0a:stream-id\x04%b" % (
        INT32.pack(message_type),
        INT32.pack(flags),
        INT32.pack(stream_id),
    )


class Decoder:
    """Cuts a byte stream into messages.

    After `receive` raised Invalid the stream has no next frame to find: close the connection.
    """

    __slots__ = ("_buffer", "limit")

    def __init__(self, max_message: int = MAX_MESSAGE) -> None:
        self._buffer = b""
        self.limit = max_message  # of the frames that have not begun to arrive

    def receive(self, data: bytes) -> list[Message]:
        """All whole messages so far. Raises Invalid at the first damaged or oversized frame."""
        buffer = self._buffer + data if self._buffer else data
        messages: list[Message] = []
        at = 0
        have = len(buffer)
        while have - at >= 12:
            total, headers, checksum = PRELUDE.unpack_from(buffer, at)
            # The prelude has its own checksum so that a wrong length is never believed.
            if crc32(buffer[at : at + 8]) != checksum:
                raise Invalid("event-stream prelude checksum is wrong")
            if total > self.limit or headers > MAX_HEADERS or total < OVERHEAD + headers:
                raise Invalid("event-stream frame lengths are out of range", total=total, headers=headers)
            if have - at < total:
                break
            end = at + total
            if crc32(buffer[at : end - 4]) != CRC.unpack_from(buffer, end - 4)[0]:
                raise Invalid("event-stream message checksum is wrong")
            body = at + 12 + headers
            messages.append(Message(_headers(buffer, at + 12, body), buffer[body : end - 4]))
            at = end
        self._buffer = buffer[at:] if at < have else b""
        return messages


def _headers(data: bytes, at: int, end: int) -> dict[str, HeaderValue]:
    found: dict[str, HeaderValue] = {}
    try:
        while at < end:
            size = data[at]
            at += 1
            name = data[at : at + size].decode()
            at += size
            kind = data[at]
            at += 1
            if kind == 4:
                found[name] = INT32.unpack_from(data, at)[0]
                at += 4
            elif kind in (6, 7):
                length = int.from_bytes(data[at : at + 2], "big")
                raw = data[at + 2 : at + 2 + length]
                at += 2 + length
                found[name] = raw.decode() if kind == 7 else raw
            elif kind in (0, 1):
                found[name] = kind == 0
            elif kind in _WIDTHS:
                width = _WIDTHS[kind]
                raw = data[at : at + width]
                found[name] = raw if kind == 9 else int.from_bytes(raw, "big", signed=True)
                at += width
            else:
                raise Invalid("event-stream header type is unknown", type=kind)
    except (IndexError, UnicodeDecodeError, struct.error) as exc:
        raise Invalid("event-stream headers are malformed") from exc
    if at != end:
        raise Invalid("event-stream headers are malformed")
    return found


_WIDTHS: Final = {2: 1, 3: 2, 5: 8, 8: 8, 9: 16}  # byte, int16, int64, timestamp (ms), uuid
