"""The HTTP/1.1 transport of both doors: bytes to requests, responses to bytes. One request at a time on a connection.

Deadlines (reliability T10): a head within 10 s of its first byte, a body that moves, an answer that is read; one tick a second
over all connections instead of a timer each. Limits are refused with a status and the connection is closed, since what
follows on it cannot be trusted. Source: RFC 9112. Not here: TLS and ALPN (kit/net.py), what a request means (chain.py).
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any, Final, Protocol

from marram.core import http1, websocket
from marram.core.errors import Invalid, LimitExceeded, Unavailable
from marram.hub.border.awsjson import Request, Response
from marram.hub.slice import Stream
from marram.kit import metrics
from marram.kit.clock import Clock
from marram.kit.log import Sparing, logger

log = logger(__name__)
strangers = Sparing(log)

WRITE_S: Final = 60.0
DRAIN_S: Final = 10.0
_HIGH_WATER: Final = 256 << 10
_DRAIN_BYTES: Final = 64 << 20
_REASONS: Final = {
    101: "Switching Protocols", 200: "OK", 201: "Created", 202: "Accepted", 204: "No Content", 206: "Partial Content", 304: "Not Modified",
    400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed",
    406: "Not Acceptable", 408: "Request Timeout", 409: "Conflict", 410: "Gone", 412: "Precondition Failed",
    413: "Content Too Large", 416: "Range Not Satisfiable", 426: "Upgrade Required",
    429: "Too Many Requests", 431: "Request Header Fields Too Large",
    500: "Internal Server Error", 501: "Not Implemented", 503: "Service Unavailable", 507: "Insufficient Storage",
}  # fmt: skip
_NOT_HTTP: Final = {
    0x16: "TLS on the plain HTTP port: use http:// here",
    0x10: "MQTT on an HTTP port: on the https port it wants TLS with the ALPN protocol x-amzn-mqtt-ca",
}
_STATUS_LINES: Final = {status: f"HTTP/1.1 {status} {reason}\r\n".encode() for status, reason in _REASONS.items()}

_connections = metrics.gauge("marram_http_connections", "Open HTTP connections")
_refused = metrics.counter("marram_http_refused_total", "HTTP requests refused before they were understood", ["reason"])
_hits = metrics.counter("marram_limit_hits_total", "What was over a limit, by limit", ["limit"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How long and how many."""

    head_s: float = 10.0  # from its first byte
    body_s: float = 30.0  # whole; of a stream, its next piece
    idle_s: float = 75.0
    connections: int = 4096
    connections_per_address: int = 1024


class Handler(Protocol):
    def body_limit(self, head: http1.RequestHead) -> int | None:
        """Bytes of body that are read before `handle` is called; None: the body is handed over as a stream."""
        ...

    async def handle(self, request: Request) -> Response: ...


class HttpDoor:
    """The connections of one handler, on any number of listeners."""

    def __init__(self, handler: Handler, clock: Clock, bounds: Bounds | None = None) -> None:
        self.handler = handler
        self.clock = clock
        self.bounds = bounds or Bounds()
        self.connections: set[HttpConnection] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.by_address: dict[str, int] = {}
        self.closing = False
        self.date = b""
        self._tick()

    def connection(self, *, secure: bool = False) -> "HttpConnection":
        """A protocol for one accepted connection."""
        return HttpConnection(self, secure)

    def over(self, of_address: int) -> str:
        """The limit that one more connection of an address with so many would break, or nothing."""
        if len(self.connections) >= self.bounds.connections:
            return "http_connections"
        most = self.bounds.connections_per_address
        return "http_connections_per_address" if most and of_address >= most else ""

    async def run(self) -> None:
        """The deadlines. Returns when cancelled."""
        while True:
            await asyncio.sleep(1.0)
            self._tick()

    def _tick(self) -> None:
        self.date = f"date: {formatdate(self.clock.wall_ms() / 1000, usegmt=True)}\r\n".encode()
        now_ns = self.clock.mono_ns()
        for connection in [item for item in self.connections if item.deadline_ns <= now_ns]:
            connection.expire()

    async def close(self, grace_s: float = 3.0) -> None:
        """Answers what is being answered, then closes every connection."""
        self.closing = True
        for connection in list(self.connections):
            connection.close_when_idle()
        if self.tasks:
            await asyncio.wait(self.tasks, timeout=grace_s)
        for task in list(self.tasks):
            task.cancel()
        if self.tasks:
            await asyncio.wait(self.tasks, timeout=1.0)
        for connection in list(self.connections):
            connection.abort()


class HttpConnection(asyncio.Protocol):
    def __init__(self, door: HttpDoor, secure: bool) -> None:
        self._door = door
        self._secure = secure
        self._certificate: bytes | None = None
        self._address = ""
        self._transport: Any = None  # asyncio's or kit.net's, which has the same methods
        self._buffer: bytes = b""
        self._head: http1.RequestHead | None = None
        self._body: http1.Body | None = None
        self._pieces: list[bytes] = []
        self._size = 0
        self._limit: int | None = 0
        self._stream: BodyStream | None = None
        self._busy = False
        self._paused = False
        self._closed = False
        self._draining = 0
        self._can_write = asyncio.Event()
        self._can_write.set()
        self.deadline_ns = 0

    # Called by the transport.

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        peer = transport.get_extra_info("peer")
        if peer is not None:
            self._address, self._certificate, self._secure = peer.address[0], peer.certificate_der, peer.tls
        else:
            name = transport.get_extra_info("peername")
            self._address = name[0] if name else ""
        door = self._door
        count = door.by_address.get(self._address, 0)
        limit = door.over(count)
        if door.closing or limit:
            _refused.inc(reason="connections")
            if limit:
                _hits.inc(limit=limit)
            self._closed = True
            transport.abort()
            return
        door.connections.add(self)
        door.by_address[self._address] = count + 1
        _connections.inc()
        self._deadline(self._door.bounds.head_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        self._closed = True
        self._can_write.set()
        if self._stream is not None:
            self._stream.fail(Unavailable("the client closed the connection before its body was complete"))

    def _leave(self) -> None:
        """The door knows this connection no longer."""
        door = self._door
        if self in door.connections:
            door.connections.discard(self)
            left = door.by_address.get(self._address, 1) - 1
            if left:
                door.by_address[self._address] = left
            else:
                door.by_address.pop(self._address, None)
            _connections.inc(-1)

    def data_received(self, data: bytes) -> None:
        if self._closed:
            return
        if self._draining:
            self._draining -= len(data)
            if self._draining <= 0:
                self.abort()
            return
        try:
            self._take(data)
        except LimitExceeded as error:
            self._refuse(431, error.message)
        except Invalid as error:
            self._refuse(400, error.message)

    def eof_received(self) -> bool:
        # A client that has said all may still read; one that broke off in mid-request is gone.
        return self._busy and self._stream is None

    def pause_writing(self) -> None:
        self._can_write.clear()

    def resume_writing(self) -> None:
        self._can_write.set()

    # Reading.

    def _take(self, data: bytes) -> None:
        if self._body is not None:
            if self._stream is not None:  # a buffered body has its deadline as a whole: it is small
                self._deadline(self._door.bounds.body_s)
            self._take_body(data)
            return
        if self._busy:
            self._buffer += data
            if len(self._buffer) > http1.MAX_HEAD and not self._paused:
                self._paused = True
                self._transport.pause_reading()
            return
        if not self._buffer:
            self._deadline(self._door.bounds.head_s)
            if not 0x41 <= data[0] <= 0x5A:  # at once: what speaks another protocol may send no line end, and wait
                raise Invalid(_NOT_HTTP.get(data[0], "the request line is malformed"))
        self._buffer = self._buffer + data if self._buffer else data
        self._next()

    def _next(self) -> None:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > http1.MAX_HEAD:
                raise LimitExceeded(f"the request head is over the limit of {http1.MAX_HEAD} bytes")
            return
        if end > http1.MAX_HEAD:
            raise LimitExceeded(f"the request head is over the limit of {http1.MAX_HEAD} bytes")
        head = http1.parse_request(self._buffer[:end])
        rest, self._buffer = self._buffer[end + 4 :], b""
        self._limit = self._door.handler.body_limit(head)
        if self._limit is not None and head.length > self._limit:
            _refused.inc(reason="body")
            self._refuse(413, f"a body of {head.length} bytes is over the limit of {self._limit}")
            return
        expect = head.headers.get("expect")
        if expect is not None and expect.lower() != "100-continue":
            raise Invalid("Expect may only be 100-continue")
        self._head = head
        if head.length == 0:
            self._buffer = rest
            self._start(b"")
            return
        if expect is not None and head.version_1_1 and not rest:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._body = http1.Body(head.length)
        self._pieces, self._size = [], 0
        self._deadline(self._door.bounds.body_s)
        if self._limit is None:
            self._stream = BodyStream(self)
            self._start(self._stream)
        if rest:
            self._take_body(rest)

    def _take_body(self, data: bytes) -> None:
        body = self._body
        assert body is not None
        pieces = body.feed(data)
        if self._stream is not None:
            self._stream.put(pieces)
            if body.done:
                self._buffer, self._body = body.rest, None
                self._stream.end()
            return
        for piece in pieces:
            self._size += len(piece)
        if self._limit is not None and self._size > self._limit:
            _refused.inc(reason="body")
            self._refuse(413, f"the body is over the limit of {self._limit} bytes")
            return
        self._pieces += pieces
        if body.done:
            self._buffer, self._body = body.rest, None
            self._start(b"".join(self._pieces))
            self._pieces = []

    def hold(self, held: bool) -> None:
        """The consumer of a streamed body is behind (True) or has room again."""
        if held == self._paused or self._closed:
            return
        self._paused = held
        if held:
            self.deadline_ns = 1 << 63
            self._transport.pause_reading()
        else:
            self._deadline(self._door.bounds.body_s)
            self._transport.resume_reading()

    # Answering.

    def _start(self, body: "bytes | BodyStream") -> None:
        head = self._head
        assert head is not None
        self._busy = True
        if self._stream is None:
            self.deadline_ns = 1 << 63  # the handler's time is its own affair
        request = Request(
            method=head.method, target=head.target, headers=head.headers, body=body, source_ip=self._address,
            secure=self._secure, certificate=self._certificate, version_1_1=head.version_1_1,
        )  # fmt: skip
        # The door holds its tasks as a group would: `close` waits for them, none outlives it.
        task = asyncio.get_running_loop().create_task(self._answer(head, request), name="http-request")
        self._door.tasks.add(task)
        task.add_done_callback(self._door.tasks.discard)

    async def _answer(self, head: http1.RequestHead, request: Request) -> None:
        try:
            response = await self._door.handler.handle(request)
            await self._write(head, response)
        except (Exception, asyncio.CancelledError) as error:  # the border: whatever it is, the connection ends cleanly
            if not isinstance(error, asyncio.CancelledError) and not self._closed:
                log.error("http.failed", exc_info=error)
            self.abort()
            if isinstance(error, asyncio.CancelledError):
                raise

    async def _write(self, head: http1.RequestHead, response: Response) -> None:
        if self._closed:
            await _drop(response)
            return
        if response.upgrade is not None:
            self._hand_over(response)
            return
        unread = self._stream is not None and self._body is not None
        # A proxy may take the answer to a refused upgrade for the end of HTTP, and pass on whatever comes as frames.
        refused = websocket.is_upgrade(head.headers)
        keep = head.keep_alive and not unread and not refused and not self._door.closing
        body = response.body
        length = body.length if isinstance(body, Stream) else len(body)
        lines = [
            _STATUS_LINES.get(response.status) or f"HTTP/1.1 {response.status} Other\r\n".encode(),
            self._door.date,
        ]
        headers = response.headers
        lines += [f"{name}: {_clean(value)}\r\n".encode("latin-1", "replace") for name, value in headers.items()]
        if "content-length" not in headers and response.status not in (204, 304):
            lines.append(b"content-length: %d\r\n" % length)
        lines.append(b"\r\n" if keep else b"connection: close\r\n\r\n")
        self._deadline(WRITE_S)
        if isinstance(body, Stream):
            self._transport.write(b"".join(lines))
            if head.method == "HEAD":
                await _drop(response)
            else:
                await self._write_stream(body)
        else:
            if head.method != "HEAD" and body:
                lines.append(body)
            self._transport.write(b"".join(lines))
            if not self._can_write.is_set():
                await self._can_write.wait()
        self._stream, self._head, self._busy = None, None, False
        if self._closed:
            return
        if not keep:
            self._finish(unread)
            return
        self._deadline(self._door.bounds.idle_s)
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        if self._buffer:
            self._deadline(self._door.bounds.head_s)
            self.data_received(b"")

    def _hand_over(self, response: Response) -> None:
        """The connection speaks another protocol from here on; what has come after the request is its beginning."""
        assert response.upgrade is not None
        headers = "".join(f"{name}: {_clean(value)}\r\n" for name, value in response.headers.items())
        transport, rest = self._transport, self._buffer
        transport.write(b"%b%b%b\r\n" % (_STATUS_LINES[101], self._door.date, headers.encode("latin-1")))
        self._leave()
        self._closed = True
        self._buffer = b""
        protocol = response.upgrade()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if self._paused:
            transport.resume_reading()
        if rest:
            protocol.data_received(rest)

    async def _write_stream(self, body: Stream) -> None:
        sent = 0
        async for piece in body.chunks:
            if self._closed:
                break
            sent += len(piece)
            self._transport.write(piece)
            self._deadline(WRITE_S)
            await self._can_write.wait()
        if sent != body.length and not self._closed:
            raise RuntimeError(f"a body of {body.length} bytes was stated and {sent} were given")

    def _finish(self, unread: bool) -> None:
        if unread:
            # Closing with unread bytes sends a reset, which can overtake the answer: read and drop for a while first.
            self._draining = _DRAIN_BYTES
            self._deadline(DRAIN_S)
            if self._paused:
                self._paused = False
                self._transport.resume_reading()
            return
        self._closed = True
        self._transport.close()

    def _refuse(self, status: int, text: str) -> None:
        """Answer a request that was not understood, and close."""
        if status in (400, 431):
            _refused.inc(reason="malformed")
        strangers.info("http.refused", status=status, reason=text, source=self._address)
        if self._busy:
            if self._stream is not None:
                self._stream.fail(Invalid(text))
            self.abort()
            return
        if not self._closed:
            code = {413: "RequestEntityTooLargeException"}.get(status, "BadRequestException")
            body = b'{"message":"%s"}' % text.replace('"', "'").encode()
            self._transport.write(
                b"%b%bcontent-type: application/json\r\nx-amzn-errortype: %b\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
                % (_STATUS_LINES[status], self._door.date, code.encode(), len(body), body)
            )
        self._closed = True
        self._transport.close()

    # Ending.

    def _deadline(self, seconds: float) -> None:
        self.deadline_ns = self._door.clock.mono_ns() + int(seconds * 1e9)

    def expire(self) -> None:
        if self._draining or (self._head is None and not self._buffer):
            self._closed = True
            self._transport.close()
            return
        _refused.inc(reason="slow")
        _hits.inc(limit="http_body_s" if self._body is not None else "http_head_s")
        if self._busy or self._body is not None or self._closed:
            self.abort()
            return
        self._closed = True
        self._transport.write(_STATUS_LINES[408] + b"content-length: 0\r\nconnection: close\r\n\r\n")
        self._transport.close()

    def close_when_idle(self) -> None:
        if not self._busy and not self._closed:
            self._closed = True
            self._transport.close()

    def abort(self) -> None:
        self._closed = True
        if self._stream is not None:
            self._stream.fail(Unavailable("the transfer stalled"))
        if self._transport is not None:
            self._transport.abort()


class BodyStream:
    """The body of one request as it arrives: an async iterator with a bound, which holds the socket when it is behind."""

    def __init__(self, connection: HttpConnection) -> None:
        self._connection = connection
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._ended = False
        self._error: Exception | None = None
        self._waiting: asyncio.Future[None] | None = None

    def put(self, pieces: list[bytes]) -> None:
        for piece in pieces:
            self._pieces.append(piece)
            self._size += len(piece)
        if self._size > _HIGH_WATER:
            self._connection.hold(True)
        self._wake()

    def end(self) -> None:
        self._ended = True
        self._wake()

    def fail(self, error: Exception) -> None:
        if not self._ended and self._error is None:
            self._error = error
            self._wake()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if self._ended:
                raise StopAsyncIteration
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        # Small reads are joined: what consumes them pays per piece.
        piece = b"".join(self._pieces) if len(self._pieces) > 1 else self._pieces[0]
        self._pieces.clear()
        self._size = 0
        self._connection.hold(False)
        return piece


async def _drop(response: Response) -> None:
    close = getattr(response.body.chunks, "aclose", None) if isinstance(response.body, Stream) else None
    if close is not None:
        await close()


def _clean(value: str) -> str:
    # A stored value must never end the header and begin another.
    return value.replace("\r", " ").replace("\n", " ")
