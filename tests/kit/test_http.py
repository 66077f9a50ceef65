"""The HTTP client against a server that does what servers do wrong."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from marram.core.errors import Corrupt, Denied, Invalid, LimitExceeded, MarramError, NotFound, Unavailable
from marram.kit import http
from tests.listening import listening

BODY = bytes(range(256)) * 1000
Serve = Callable[[Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]], Awaitable[str]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    held = contextlib.AsyncExitStack()

    async def start(answer: Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]) -> str:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await answer(await reader.readuntil(b"\r\n\r\n"), writer)
            finally:
                writer.close()

        return f"http://127.0.0.1:{await held.enter_async_context(listening(connected))}/file?secret=1"

    async with held:
        yield start


def saying(data: bytes) -> Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]:
    async def answer(_head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(data)

    return answer


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", b"abc", id="length"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n", b"abc", id="chunked"
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\nabc", b"abc", id="until it closes"),
        pytest.param(
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"", id="continue first"
        ),
        pytest.param(b"HTTP/1.1 204\r\n\r\n", b"", id="no content"),
    ],
)
async def test_a_good_answer(serve: Serve, answer: bytes, body: bytes) -> None:
    counted = [0, 0]

    def meter(sent: int, received: int) -> None:
        counted[0] += sent
        counted[1] += received

    found = await http.request("GET", await serve(saying(answer)), meter=meter)
    assert (found.status in (200, 204), found.body) == (True, body)
    assert counted[0] > 40 and counted[1] == len(answer)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        pytest.param(b"", Unavailable, id="nothing"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", Unavailable, id="cut"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc", Invalid, id="two lengths"
        ),
        pytest.param(b"220 smtp ready\r\n\r\n", Invalid, id="another protocol"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n01234567890", LimitExceeded, id="too long"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 20_000 + b"\r\n\r\n", Invalid, id="long head"),
    ],
)
async def test_a_bad_answer_is_an_error_of_ours_that_keeps_the_query_secret(
    serve: Serve, answer: bytes, error: type[MarramError]
) -> None:
    with pytest.raises(error) as caught:
        await http.request("GET", await serve(saying(answer)), max_bytes=10)
    assert "secret" not in str(caught.value)


async def test_a_silent_server_and_a_closed_port(serve: Serve) -> None:
    async def silent(_head: bytes, writer: asyncio.StreamWriter) -> None:
        gone.set()
        await stop.wait()

    gone, stop = asyncio.Event(), asyncio.Event()

    with pytest.raises(Unavailable, match="did not answer"):
        await http.request("GET", await serve(silent), timeout_s=0.05)
    stop.set()
    await gone.wait()
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="cannot be reached"):
        await http.request("GET", "http://127.0.0.1:1/")
    with pytest.raises(Invalid):
        await http.request("GET", "ftp://127.0.0.1/")
    with pytest.raises(Invalid):
        await http.request("GET", "http://127.0.0.1:1/", headers={"x": "a\r\nb: c"})


class File:
    """Serves BODY with ranges, breaking off after `stop` bytes of an answer."""

    def __init__(self, stop: int | None = None, *, ranges: bool = True, status: int = 200) -> None:
        self.stop, self.ranges, self.status = stop, ranges, status
        self.starts: list[int] = []

    async def answer(self, head: bytes, writer: asyncio.StreamWriter) -> None:
        start = int(head.partition(b"range: bytes=")[2].partition(b"-")[0] or b"0") if self.ranges else 0
        self.starts.append(start)
        if self.status != 200:
            writer.write(b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % self.status)
        elif start >= len(BODY):
            writer.write(b"HTTP/1.1 416 No\r\nContent-Range: bytes */%d\r\nContent-Length: 0\r\n\r\n" % len(BODY))
        else:
            part = BODY[start:]
            line = b"206 Partial" if start else b"200 OK"
            span = b"Content-Range: bytes %d-%d/%d\r\n" % (start, len(BODY) - 1, len(BODY)) if start else b""
            writer.write(b"HTTP/1.1 %b\r\n%bContent-Length: %d\r\n\r\n" % (line, span, len(part)) + part[: self.stop])


async def test_a_download_goes_on_where_it_broke_off(serve: Serve, tmp_path: Path) -> None:
    file = File(stop=100_000)
    url = await serve(file.answer)
    target = tmp_path / "file"
    digest = hashlib.sha256(BODY).hexdigest()
    for _ in range(2):
        with pytest.raises(Unavailable):
            await http.download(url, target, limit=1 << 20, sha256=digest)
        assert not target.exists()
    file.stop = None
    found = await http.download(url, target, limit=1 << 20, sha256=digest)
    assert target.read_bytes() == BODY and found.sha256 == digest
    assert file.starts == [0, 100_000, 200_000] and found.resumed_at == 200_000
    assert list(tmp_path.iterdir()) == [target]


async def test_a_server_without_ranges_begins_anew(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(b"stale")
    found = await http.download(await serve(File(ranges=False).answer), tmp_path / "file", limit=1 << 20)
    assert (tmp_path / "file").read_bytes() == BODY and found.resumed_at == 0


async def test_a_part_that_is_whole_is_taken(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(BODY)
    await http.download(await serve(File().answer), tmp_path / "file", limit=1 << 20)
    assert (tmp_path / "file").read_bytes() == BODY


async def test_a_wrong_digest_leaves_nothing(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(b"x" * 10)
    with pytest.raises(Corrupt):
        await http.download(
            await serve(File().answer), tmp_path / "file", limit=1 << 20, sha256=hashlib.sha256(BODY).hexdigest()
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("status", "error"), [(404, NotFound), (403, Denied), (503, Unavailable), (302, Unavailable)])
async def test_statuses(serve: Serve, tmp_path: Path, status: int, error: type[MarramError]) -> None:
    with pytest.raises(error):
        await http.download(await serve(File(status=status).answer), tmp_path / "file", limit=1 << 20)


async def test_a_download_over_the_limit(serve: Serve, tmp_path: Path) -> None:
    with pytest.raises(LimitExceeded):
        await http.download(await serve(File().answer), tmp_path / "file", limit=1000)
    assert not (tmp_path / "file").exists()
