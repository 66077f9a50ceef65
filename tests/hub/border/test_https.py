"""The HTTP transport with raw bytes: smuggling rows, limits, pipelining, deadlines, streamed bodies."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from marram.core import http1
from marram.hub.border import intent
from marram.hub.border.awsjson import Request, Response
from marram.hub.border.https import Bounds, HttpDoor
from marram.hub.slice import Stream
from marram.kit.clock import FakeClock

BOUNDS = Bounds()
OK = b"GET /ok HTTP/1.1\r\nHost: a\r\n\r\n"


class Echo:
    """Answers with what it got; PUT bodies are streamed."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []
        self.gate: asyncio.Event | None = None
        self.errors: list[BaseException] = []

    def body_limit(self, head: http1.RequestHead) -> int | None:
        return None if head.method == "PUT" else 1000

    async def handle(self, request: Request) -> Response:
        self.seen.append((request.method, request.target))
        if self.gate is not None:
            await self.gate.wait()
        if request.target == "/refuse":
            return Response(403, {}, b"no")
        if request.target == "/stream":
            return Response(200, {}, Stream(length=300_000, chunks=_pieces()))
        if isinstance(request.body, bytes):
            return Response(200, {"x-evil": "a\r\nb: c"}, request.target.encode() + b"|" + request.body)
        size = 0
        try:
            async for piece in request.body:
                size += len(piece)
        except Exception as error:
            self.errors.append(error)
            raise
        return Response(200, {}, b"%d" % size)


async def _pieces() -> AsyncIterator[bytes]:
    for _ in range(30):
        yield b"x" * 10_000


class Wire:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, method: str = "GET") -> tuple[int, bytes]:
        raw = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 5)
        head = http1.parse_response(raw[:-4], method=method)
        return head.status, await self.reader.readexactly(max(head.length, 0))

    async def closed(self) -> bool:
        try:
            return await asyncio.wait_for(self.reader.read(1), 5) == b""
        except ConnectionError:
            return True


class Door:
    def __init__(self) -> None:
        self.handler, self.clock = Echo(), FakeClock()
        self.door = HttpDoor(self.handler, self.clock)
        self.wires: list[Wire] = []

    async def open(self) -> Wire:
        wire = Wire(*await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 20))
        self.wires.append(wire)
        return wire

    def tick(self, seconds: float) -> None:
        self.clock.advance(int(seconds * 1000))
        self.door._tick()


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    made = Door()
    server = await asyncio.get_running_loop().create_server(made.door.connection, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    for wire in made.wires:
        wire.writer.close()
    server.close()
    await made.door.close(0.2)


HEAD = b"POST /first HTTP/1.1\r\nHost: a\r\n"
SMUGGLING = [
    pytest.param(HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", id="length and coding"),
    pytest.param(HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", id="coding and length"),
    pytest.param(HEAD + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc", id="two lengths"),
    pytest.param(HEAD + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", id="two equal lengths"),
    pytest.param(HEAD + b"Content-Length: 3, 3\r\n\r\nabc", id="list of lengths"),
    pytest.param(HEAD + b"Content-Length: +3\r\n\r\nabc", id="signed length"),
    pytest.param(HEAD + b"Content-Length: 0x3\r\n\r\nabc", id="hexadecimal length"),
    pytest.param(HEAD + "Content-Length: ٣\r\n\r\nabc".encode(), id="arabic length"),
    pytest.param(HEAD + b"X: a\r\n b\r\n\r\n", id="obs-fold"),
    pytest.param(HEAD + b"X: a\rb\r\n\r\n", id="bare CR"),
    pytest.param(b"POST / HTTP/1.1\nHost: a\n\n\r\n\r\n", id="bare LF"),
    pytest.param(HEAD + b"X: a\nContent-Length: 5\r\n\r\n", id="LF in a header"),
    pytest.param(HEAD + b"X : a\r\n\r\n", id="space before colon"),
    pytest.param(HEAD + b"X: a\0b\r\n\r\n", id="NUL"),
    pytest.param(HEAD + b": a\r\n\r\n", id="no name"),
    pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\n\r\n", id="chunk extension"),
    pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\n 3\r\nabc\r\n0\r\n\r\n", id="space before chunk size"),
    pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n", id="chunk longer than its size"),
    pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\n\r\n", id="chunk trailer"),
    pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n", id="chunk size overflow"),
    pytest.param(HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", id="unknown coding"),
    pytest.param(HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", id="two codings"),
    pytest.param(HEAD + b"Transfer-Encoding: identity\r\n\r\n", id="identity"),
    pytest.param(b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", id="HTTP/1.0 chunked"),
    pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="no Host"),
    pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", id="two Hosts"),
    pytest.param(b"GET http://x/ HTTP/1.1\r\nHost: a\r\n\r\n", id="absolute target"),
    pytest.param(b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", id="two spaces"),
    pytest.param(b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", id="space after version"),
    pytest.param(b"GET /\xc3\xa4 HTTP/1.1\r\nHost: a\r\n\r\n", id="raw UTF-8 in target"),
    pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="HTTP/2"),
    pytest.param(b"\r\n\r\n" + OK, id="empty lines first"),
    pytest.param(
        HEAD + b"Content-Length: 3\r\nContent-length : 0\r\n\r\nabc", id="a length with a space before its colon"
    ),
    pytest.param(
        HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        id="two codings in two lines",
    ),
    pytest.param(HEAD + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n", id="vertical tab"),
    pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n", id="negative chunk"),
    pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\nabc\n0\n\n\r\n", id="chunks with bare LF"),
    pytest.param(HEAD + b"Expect: 200-maybe\r\nContent-Length: 3\r\n\r\nabc", id="another expectation"),
    pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nHost : b\r\n\r\n", id="a second Host in disguise"),
    pytest.param(b"GET / HTTP/3.0\r\nHost: a\r\n\r\n", id="HTTP/3.0"),
    pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", id="TLS"),
    pytest.param(b"\x10\x10\x00\x04MQTT\x04\x02\x00<\x00\x04test\r\n\r\n", id="MQTT"),
]


@pytest.mark.parametrize("data", SMUGGLING)
async def test_t09_what_is_not_plainly_right_is_400_and_closed(door: Door, data: bytes) -> None:
    wire = await door.open()
    await wire.send(data + OK)
    assert (await wire.answer())[0] == 400
    assert await wire.closed()
    assert ("GET", "/ok") not in door.handler.seen


async def test_pipelined_requests_are_answered_in_order(door: Door) -> None:
    wire = await door.open()
    await wire.send(OK + HEAD + b"Content-Length: 3\r\n\r\nabc" + b"GET /last HTTP/1.1\r\nHost: a\r\n\r\n")
    assert [(await wire.answer())[1] for _ in range(3)] == [b"/ok|", b"/first|abc", b"/last|"]


@pytest.mark.parametrize("cut", range(0, 90, 7))
async def test_any_split_of_the_bytes_gives_the_same(door: Door, cut: int) -> None:
    data = HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\na\r\n0123456789\r\n0\r\n\r\n" + OK
    wire = await door.open()
    await wire.send(data[:cut])
    await asyncio.sleep(0)
    for at in range(cut, len(data), 5):
        await wire.send(data[at : at + 5])
        await asyncio.sleep(0)
    assert (await wire.answer())[1] == b"/first|abc0123456789"
    assert (await wire.answer())[1] == b"/ok|"


async def test_a_stored_line_break_never_ends_a_header(door: Door) -> None:
    wire = await door.open()
    await wire.send(OK)
    raw = await wire.reader.readuntil(b"\r\n\r\n")
    assert b"\r\nb: c" not in raw


async def test_t10_limits(door: Door) -> None:
    wire = await door.open()
    await wire.send(HEAD + b"Content-Length: 1001\r\n\r\n")
    assert (await wire.answer())[0] == 413
    assert await wire.closed()
    wire = await door.open()
    await wire.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"200\r\n%b\r\n" % (b"x" * 512) * 3)
    assert (await wire.answer())[0] == 413
    wire = await door.open()
    await wire.send(HEAD + b"X: " + b"y" * 17_000)
    assert (await wire.answer())[0] == 431
    wire = await door.open()
    await wire.send(HEAD + b"".join(b"X%d: y\r\n" % n for n in range(101)) + b"\r\n")
    assert (await wire.answer())[0] == 431


async def test_continue_is_said_before_the_body(door: Door) -> None:
    wire = await door.open()
    await wire.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
    assert await wire.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    await wire.send(b"12345")
    assert await wire.answer() == (200, b"5")


async def test_a_large_body_streams_with_bounded_memory(door: Door) -> None:
    wire = await door.open()
    door.handler.gate = asyncio.Event()
    size = 8 << 20
    await wire.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
    sending = asyncio.ensure_future(wire.send(b"x" * size))
    connection = next(iter(door.door.connections))
    while not connection._paused:
        await asyncio.sleep(0)
    assert connection._stream is not None and connection._stream._size < 1 << 20
    door.handler.gate.set()
    await sending
    assert await wire.answer() == (200, b"%d" % size)
    await wire.send(OK)
    assert (await wire.answer())[1] == b"/ok|"


async def test_a_refusal_is_read_although_the_body_still_comes(door: Door) -> None:
    wire = await door.open()
    await wire.send(b"PUT /refuse HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\n" + b"x" * 3_000_000)
    assert await wire.answer() == (403, b"no")


async def test_a_client_that_goes_in_mid_body_fails_the_handler(door: Door) -> None:
    wire = await door.open()
    await wire.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
    while not door.door.tasks:
        await asyncio.sleep(0)
    wire.writer.close()
    async with asyncio.timeout(5):
        await asyncio.gather(*door.door.tasks)
    assert len(door.handler.errors) == 1


async def test_t10_a_slow_head_is_cut(door: Door) -> None:
    wire = await door.open()
    await wire.send(b"GET / HTTP/1.1\r\n")
    while not door.door.connections or b"GET" not in next(iter(door.door.connections))._buffer:
        await asyncio.sleep(0)
    door.tick(BOUNDS.head_s / 2)
    await wire.send(b"X: y\r\n")
    while b"X: y" not in next(iter(door.door.connections))._buffer:
        await asyncio.sleep(0)
    door.tick(BOUNDS.head_s / 2)
    assert (await wire.answer())[0] == 408
    assert await wire.closed()


async def test_t10_a_stalled_body_is_cut(door: Door) -> None:
    wire = await door.open()
    await wire.send(HEAD + b"Content-Length: 10\r\n\r\nabc")
    while not door.door.connections or next(iter(door.door.connections))._body is None:
        await asyncio.sleep(0)
    door.tick(BOUNDS.body_s + 1)
    assert await wire.closed()


async def test_t10_an_idle_connection_is_closed(door: Door) -> None:
    wire = await door.open()
    await wire.send(OK)
    await wire.answer()
    door.tick(BOUNDS.idle_s - 1)
    await wire.send(OK)
    await wire.answer()
    door.tick(BOUNDS.idle_s + 1)
    assert await wire.closed()


async def test_a_streamed_answer(door: Door) -> None:
    wire = await door.open()
    await wire.send(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\nHEAD /stream HTTP/1.1\r\nHost: a\r\n\r\n" + OK)
    assert await wire.answer() == (200, b"x" * 300_000)
    raw = await wire.reader.readuntil(b"\r\n\r\n")
    assert b"content-length: 300000" in raw
    assert (await wire.answer())[1] == b"/ok|"


async def test_closing_lets_the_answer_out(door: Door) -> None:
    wire = await door.open()
    door.handler.gate = asyncio.Event()
    await wire.send(OK)
    while not door.door.tasks:
        await asyncio.sleep(0)
    closing = asyncio.ensure_future(door.door.close(2.0))
    await asyncio.sleep(0)
    door.handler.gate.set()
    assert (await wire.answer())[1] == b"/ok|"
    await closing
    assert await wire.closed()


def test_the_scope_of_a_head_is_found_in_one_pass() -> None:
    scope = "MRAK/20260101/local-1/{}/aws4_request"
    for form in ("AWS4-HMAC-SHA256 Credential={}, SignedHeaders=host", "X-Amz-Credential={}&X-Amz-Date=x"):
        assert intent.is_for_s3(form.format(scope.format("s3")))
        assert intent.is_for_s3(form.format(scope.format("s3").replace("/", "%2F")))
        assert not intent.is_for_s3(form.format(scope.format("iot")))
    assert not intent.is_for_s3("Credential=a, SignedHeaders=/s3/aws4_request")
    began = time.perf_counter()
    assert not intent.is_for_s3(" Credential=" * 100_000)  # each was tried to the end once: 0.1 s for a head of 16 KB
    assert time.perf_counter() - began < 0.5
