"""HTTP/1.1 heads and bodies, strictly: what is not plainly right is refused, never repaired. Pure; hub and edge share it.

Source: RFC 9112 (message syntax), 9110 (fields). Narrower by our choice: no obs-fold, no bare LF or CR, one Host, one
Content-Length of digits, Transfer-Encoding only as exactly "chunked" and never in HTTP/1.0 or beside a length, no chunk
extensions, no trailer fields. Not here: sockets and deadlines (hub/border/https.py, kit/http.py).
"""

import re
from dataclasses import dataclass
from typing import Final

from marram.core.errors import Invalid, LimitExceeded

MAX_HEAD: Final = 16 << 10
MAX_HEADERS: Final = 100

_REQUEST_LINE = re.compile(rb"([A-Z]{1,20}) ([!-~]{1,8192}) HTTP/1\.([01])")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: ([\t -~\x80-\xff]*))?")
_FIELD = re.compile(
    rb"\r\n([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([!-~\x80-\xff](?:[\t -~\x80-\xff]*[!-~\x80-\xff])?)?[ \t]*(?=\r\n|\Z)"
)
_CHUNK_SIZE = re.compile(rb"[0-9a-fA-F]{1,12}")
CHUNKED: Final = -1
TO_CLOSE: Final = -2  # a response that ends with the connection


@dataclass(frozen=True, slots=True)
class RequestHead:
    method: str
    target: str
    version_1_1: bool
    headers: dict[str, str]  # names in lower case; repeated fields joined by ","
    length: int  # of the body, or CHUNKED
    keep_alive: bool


@dataclass(frozen=True, slots=True)
class ResponseHead:
    status: int
    headers: dict[str, str]
    length: int  # of the body, CHUNKED or TO_CLOSE
    keep_alive: bool


def parse_request(head: bytes) -> RequestHead:
    """head: up to, not including, the empty line. Raises Invalid, saying what is wrong."""
    end = head.find(b"\r\n")
    line = head if end < 0 else head[:end]
    found = _REQUEST_LINE.fullmatch(line)
    if found is None:
        raise Invalid("the request line is malformed")
    version_1_1 = found[3] == b"1"
    headers = _fields(head, len(line))
    target = found[2].decode("ascii")
    if target[0] != "/":
        raise Invalid("the request target must be a path")
    host = headers.get("host")
    if host is None:
        if version_1_1:
            raise Invalid("the Host header is missing")
    elif "," in host:
        raise Invalid("the Host header is given twice")
    length = _length(headers, version_1_1)
    connection = headers.get("connection", "").lower()
    keep_alive = version_1_1 and "close" not in connection
    return RequestHead(found[1].decode("ascii"), target, version_1_1, headers, max(length, CHUNKED), keep_alive)


def parse_response(head: bytes, *, method: str) -> ResponseHead:
    """As `parse_request`, for the answer to a request with `method`."""
    end = head.find(b"\r\n")
    line = head if end < 0 else head[:end]
    found = _STATUS_LINE.fullmatch(line)
    if found is None:
        raise Invalid("the status line is malformed")
    status = int(found[2])
    headers = _fields(head, len(line))
    length = _length(headers, version_1_1=True)
    if method == "HEAD" or status in (204, 304) or status < 200:
        length = 0
    elif length == 0 and "content-length" not in headers:
        length = TO_CLOSE
    keep_alive = found[1] == b"1" and "close" not in headers.get("connection", "").lower() and length != TO_CLOSE
    return ResponseHead(status, headers, length, keep_alive)


def _fields(head: bytes, at: int) -> dict[str, str]:
    headers: dict[str, str] = {}
    count = 0
    end = len(head)
    while at < end:
        found = _FIELD.match(head, at)
        if found is None:
            raise Invalid("a header line is malformed")
        at = found.end()
        count += 1
        name = found[1].decode("ascii").lower()
        value = (found[2] or b"").decode("latin-1")
        if name in headers:
            if name in ("content-length", "transfer-encoding", "host", "authorization"):
                raise Invalid(f"the {name} header is given twice")
            value = f"{headers[name]},{value}"
        headers[name] = value
    if count > MAX_HEADERS:
        raise LimitExceeded(f"{count} header lines are over the limit of {MAX_HEADERS}", limit=MAX_HEADERS)
    return headers


def _length(headers: dict[str, str], version_1_1: bool) -> int:
    coding, length = headers.get("transfer-encoding"), headers.get("content-length")
    if coding is not None:
        if length is not None:
            raise Invalid("Content-Length and Transfer-Encoding are given together")
        if not version_1_1:
            raise Invalid("Transfer-Encoding is not allowed in HTTP/1.0")
        if coding.lower() != "chunked":
            raise Invalid("Transfer-Encoding must be chunked")
        return CHUNKED
    if length is None:
        return 0
    if not (length.isascii() and length.isdigit()) or len(length) > 15:
        raise Invalid("Content-Length is not a number of bytes")
    return int(length)


class Body:
    """The bytes of one body: `feed` what arrives, get its payload; `rest` holds what came after its end."""

    __slots__ = ("_buffer", "_left", "_state", "done", "rest")

    def __init__(self, length: int) -> None:
        self._left = length if length >= 0 else 0
        self._state = "length" if length >= 0 else "close" if length == TO_CLOSE else "size"
        self._buffer: bytes = b""
        self.done = length == 0
        self.rest: bytes = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Raises Invalid when the chunk framing is wrong; nothing after that can be trusted."""
        if self._state == "length":
            if len(data) < self._left:
                self._left -= len(data)
                return [data] if data else []
            piece, self.rest = data[: self._left], data[self._left :]
            self._left, self.done = 0, True
            return [piece] if piece else []
        if self._state == "close":
            return [data] if data else []
        return self._chunked(data)

    def _chunked(self, data: bytes) -> list[bytes]:
        out: list[bytes] = []
        data = self._buffer + data if self._buffer else data
        at, end = 0, len(data)
        while not self.done:
            if self._state == "data":
                take = min(self._left, end - at)
                if take:
                    out.append(data[at : at + take])
                    at += take
                    self._left -= take
                if self._left:
                    break
                self._state = "crlf"
            line_end = data.find(b"\r\n", at)
            if line_end < 0:
                if end - at > 16:
                    raise Invalid("a chunk's size line is malformed")
                break
            line = data[at:line_end]
            if self._state == "crlf":
                if line:
                    raise Invalid("a chunk is longer than its size")
                self._state = "size"
            elif self._state == "size":
                if _CHUNK_SIZE.fullmatch(line) is None:
                    raise Invalid("a chunk's size line is malformed; extensions are not accepted")
                self._left = int(line, 16)
                self._state = "data" if self._left else "end"
            else:  # the line after the last chunk
                if line:
                    raise Invalid("trailer fields are not accepted")
                self.done = True
            at = line_end + 2
        if self.done:
            self._buffer, self.rest = b"", data[at:]
        else:
            self._buffer = data[at:]
        return out
