"""The server's side of a WebSocket: the opening handshake, frames in, frames out. Sans-IO, strict, without extensions. Pure.

Source: RFC 6455. Narrower by our choice: no extensions, and data in binary messages only, as MQTT wants (MQTT 5.0, 6). Payload
is handed on as it arrives and is never gathered: MQTT has its own framing and sees no frame borders (6.0-2), so a peer cannot
make us hold a message. Not here: sockets, who may connect (hub/border/ws.py).
"""

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from marram.core.errors import Invalid, MarramError

MAX_FRAME: Final = 1 << 20
MAX_CONTROL: Final = 125

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

NORMAL: Final = 1000
GOING_AWAY: Final = 1001
PROTOCOL_ERROR: Final = 1002
UNSUPPORTED: Final = 1003
NO_STATUS: Final = 1005  # of a close frame without one; never on the wire
BAD_DATA: Final = 1007
TOO_BIG: Final = 1009
INTERNAL_ERROR: Final = 1011

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
# What may stand in a close frame: 7.4.1, and IANA's list; 1005, 1006 and 1015 are never sent.
_CODES: Final = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014})


class Broken(MarramError):
    """The peer does not speak WebSocket; close with `close`, and read nothing more."""

    def __init__(self, message: str, close: int = PROTOCOL_ERROR) -> None:
        super().__init__(message)
        self.close = close


@dataclass(slots=True)
class Data:
    """Bytes of a binary message, as far as they have come."""

    payload: bytes


@dataclass(slots=True)
class Ping:
    """To be answered by `pong`."""

    payload: bytes


@dataclass(slots=True)
class Closed:
    """The peer wants to end; nothing after it is read. `code` is NO_STATUS when it gave none."""

    code: int
    reason: str


Event = Data | Ping | Closed


def is_upgrade(headers: Mapping[str, str]) -> bool:
    """Whether a request asks for this protocol at all. headers: names in lower case."""
    return "websocket" in _tokens(headers.get("upgrade", ""))


def accept(
    *, method: str, version_1_1: bool, has_body: bool, headers: Mapping[str, str], subprotocol: str
) -> dict[str, str]:
    """The headers of the 101 answer to an opening handshake. Raises Invalid, saying what is wrong (RFC 6455, 4.2.1)."""
    if method != "GET" or not version_1_1 or has_body:
        raise Invalid("a WebSocket begins with a GET of HTTP/1.1 without a body")
    if not is_upgrade(headers) or "upgrade" not in _tokens(headers.get("connection", "")):
        raise Invalid("a WebSocket wants Upgrade: websocket and Connection: Upgrade", kind="upgrade")
    if headers.get("sec-websocket-version") != "13":
        raise Invalid("Sec-WebSocket-Version must be 13", kind="upgrade")
    key = headers.get("sec-websocket-key", "")
    try:
        nonce = base64.b64decode(key, validate=True)
    except (binascii.Error, ValueError):
        nonce = b""
    if len(nonce) != 16 or len(key) != 24:
        raise Invalid("Sec-WebSocket-Key must be the base64 of 16 bytes")
    # Subprotocol names are compared as they are: only header tokens of HTTP itself are without case.
    if subprotocol not in [item.strip() for item in headers.get("sec-websocket-protocol", "").split(",")]:
        raise Invalid(f"Sec-WebSocket-Protocol must offer {subprotocol}")
    digest = hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()
    return {
        "upgrade": "websocket",
        "connection": "Upgrade",
        "sec-websocket-accept": base64.b64encode(digest).decode(),
        "sec-websocket-protocol": subprotocol,
    }


def frame(payload: bytes, opcode: int = BINARY) -> bytes:
    """One whole frame from the server: final, unmasked."""
    size = len(payload)
    if size < 126:
        return bytes((0x80 | opcode, size)) + payload
    if size < 65536:
        return bytes((0x80 | opcode, 126)) + size.to_bytes(2) + payload
    return bytes((0x80 | opcode, 127)) + size.to_bytes(8) + payload


def pong(payload: bytes) -> bytes:
    return frame(payload, PONG)


def close(code: int, reason: str = "") -> bytes:
    """`reason` is cut to what a control frame holds. NO_STATUS gives an empty one."""
    if code == NO_STATUS:
        return frame(b"", CLOSE)
    text = reason.encode()[: MAX_CONTROL - 2]
    # Never half a character at the cut.
    return frame(code.to_bytes(2) + text.decode(errors="ignore").encode(), CLOSE)


class Reader:
    """Frames from one client: `receive` what arrives, get events. After Broken or Closed it reads nothing more."""

    __slots__ = (
        "_at",
        "_buffer",
        "_ended",
        "_in_message",
        "_left",
        "_mask",
        "_max_frame",
        "_opcode",
        "_payload",
    )

    def __init__(self, *, max_frame: int = MAX_FRAME) -> None:
        self._max_frame = max_frame
        self._buffer: bytes = b""  # of a head that is not whole: at most 13 bytes
        self._in_message = False  # between the frames of a fragmented one
        self._ended = False
        self._opcode = -1  # of the frame that is being read, -1: none
        self._left = 0
        self._at = 0  # in the mask
        self._mask = b""
        self._payload = b""  # of a control frame

    def receive(self, data: bytes) -> list[Event]:
        """Raises Broken; events before the fault are lost with it, as the connection is."""
        events: list[Event] = []
        at, end = 0, len(data)
        if self._buffer:
            data = self._buffer + data
            end = len(data)
            self._buffer = b""
        while at < end and not self._ended:
            if self._opcode < 0:
                start = at
                at = self._head(data, at)
                if at < 0:
                    self._buffer = data[start:]
                    break
                if self._left:
                    continue
            take = min(self._left, end - at)
            if take:
                piece = self._unmask(data[at : at + take])
                at += take
                self._left -= take
                if self._opcode >= CLOSE:
                    self._payload += piece
                else:
                    events.append(Data(piece))
            if not self._left:
                self._finish(events)
        return events

    def _head(self, data: bytes, at: int) -> int:
        """Where the payload begins; -1 when the head is not whole."""
        size = len(data) - at
        if size < 2:
            return -1
        first, second = data[at], data[at + 1]
        opcode, length = first & 0x0F, second & 0x7F
        if first & 0x70:
            raise Broken("a reserved bit is set and no extension was agreed")
        if not second & 0x80:
            raise Broken("a frame of a client must be masked")
        if opcode >= CLOSE:
            if opcode > PONG:
                raise Broken(f"opcode {opcode} is reserved")
            if not first & 0x80 or length > MAX_CONTROL:
                raise Broken("a control frame is one frame of at most 125 bytes")
        elif opcode == TEXT:
            raise Broken("MQTT travels in binary messages", UNSUPPORTED)
        elif opcode > BINARY:
            raise Broken(f"opcode {opcode} is reserved")
        elif self._in_message != (opcode == CONTINUATION):
            raise Broken("a continuation without a beginning, or a beginning inside of a message")
        wide = 2 if length == 126 else 8 if length == 127 else 0
        if size < 6 + wide:
            return -1
        at += 2
        if wide:
            length = int.from_bytes(data[at : at + wide])
            if length < (126 if wide == 2 else 65536):
                raise Broken("a length is not in its shortest form")
            at += wide
        if length > self._max_frame:
            raise Broken(f"a frame of {length} bytes is over the limit of {self._max_frame}", TOO_BIG)
        self._mask = data[at : at + 4]
        self._opcode, self._left, self._at = opcode, length, 0
        if opcode < CLOSE:
            self._in_message = not first & 0x80
        return at + 4

    def _unmask(self, piece: bytes) -> bytes:
        """As one large number: some 1 GB/s, where a loop over the bytes makes 20 MB/s."""
        size, mask = len(piece), self._mask
        turned = mask[self._at :] + mask[: self._at]
        self._at = (self._at + size) & 3
        pattern = int.from_bytes((turned * (size // 4 + 1))[:size])
        return (int.from_bytes(piece) ^ pattern).to_bytes(size)

    def _finish(self, events: list[Event]) -> None:
        opcode, payload = self._opcode, self._payload
        self._opcode, self._payload = -1, b""
        if opcode == PING:
            events.append(Ping(payload))
        elif opcode == CLOSE:
            self._ended = True
            events.append(_closed(payload))


def _closed(payload: bytes) -> Closed:
    if not payload:
        return Closed(NO_STATUS, "")
    if len(payload) == 1:
        raise Broken("a close frame of one byte")
    code = int.from_bytes(payload[:2])
    if code not in _CODES and not 3000 <= code <= 4999:
        raise Broken(f"close code {code} may not be sent")
    try:
        return Closed(code, payload[2:].decode())
    except UnicodeDecodeError as error:
        raise Broken("the reason of a close frame is not UTF-8", BAD_DATA) from error


def _tokens(value: str) -> list[str]:
    return [item.strip().lower() for item in value.split(",")]
