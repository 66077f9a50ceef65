"""HTTP/1.1 client over asyncio streams: one request, or a download that goes on where it broke off. Standard library only.

Every wait has a limit, every body a bound. `meter(sent, received)` is told of all bytes of head and body (TLS and TCP apart),
for the edge's ledger. Not here: signatures (core/sigv4), redirects and cookies (none are followed or kept), serving
(hub/border/https).
"""

import asyncio
import hashlib
import os
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final
from urllib.parse import urlsplit

from marram.core import http1
from marram.core.errors import Corrupt, Denied, Invalid, LimitExceeded, NotFound, Unavailable
from marram.kit import disk

CONNECT_S: Final = 10.0
_PIECE: Final = 64 << 10

Meter = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes


@dataclass(frozen=True, slots=True)
class Downloaded:
    size: int
    sha256: str
    resumed_at: int  # bytes that were there already


def _nothing(_sent: int, _received: int) -> None:
    return


async def request(
    method: str,
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    body: "bytes | AsyncIterator[bytes]" = b"",
    tls: ssl.SSLContext | None = None,
    timeout_s: float = 30.0,
    max_bytes: int = 8 << 20,
    meter: Meter = _nothing,
) -> Response:
    """One exchange on a connection of its own. A status is never an error here.

    An iterator as `body` is sent chunked unless `headers` have content-length. Raises Unavailable when the peer cannot be
    reached, breaks off or is late; Denied when its certificate is not trusted; LimitExceeded over `max_bytes`; Invalid when what
    it says is no HTTP.
    """
    try:
        async with asyncio.timeout(timeout_s):
            async with _exchange(method, url, headers or {}, body, tls, meter) as (head, pieces):
                out: list[bytes] = []
                size = 0
                async for piece in pieces:
                    size += len(piece)
                    if size > max_bytes:
                        raise LimitExceeded(
                            f"{_shown(url)}: the answer is over the limit of {max_bytes} bytes", limit=max_bytes
                        )
                    out.append(piece)
                return Response(head.status, head.headers, b"".join(out))
    except TimeoutError as error:
        raise Unavailable(f"{_shown(url)} did not answer within {timeout_s:g} s") from error


async def download(
    url: str,
    path: Path,
    *,
    resume: bool = True,
    limit: int,
    sha256: str | None = None,
    headers: Mapping[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
    stall_s: float = 30.0,
    meter: Meter = _nothing,
    progress: Callable[[int], None] | None = None,
) -> Downloaded:
    """Fetch `url` into `path`, which appears whole, synced, or not at all; what came stands in `path.part` until then.

    With `resume` an earlier part is continued by a range. Raises NotFound for 404, Denied for 401 and 403, Unavailable when it
    breaks off (call again to go on), LimitExceeded over `limit` bytes, Corrupt when the digest is not `sha256` (the part is gone).
    """
    part = path.with_name(path.name + ".part")
    with disk.errors_of(part):
        file = await asyncio.to_thread(_open_part, part, resume)
    try:
        have = file.tell()
        if have > limit:
            raise LimitExceeded(f"{_shown(url)}: over the limit of {limit} bytes", limit=limit)
        asked = dict(headers or {})
        if have:
            asked["range"] = f"bytes={have}-"
        try:
            done = await _fetch(url, file, have, asked, limit, tls, stall_s, meter, progress)
        except TimeoutError as error:
            raise Unavailable(f"{_shown(url)}: nothing came for {stall_s:g} s") from error
        with disk.errors_of(part):
            found, size = await asyncio.to_thread(_finish, file)
    finally:
        file.close()
    if sha256 is not None and found != sha256:
        disk.remove(part)
        raise Corrupt(f"{_shown(url)}: the digest is {found}, not {sha256}")
    await asyncio.to_thread(disk.rename, part, path)
    return Downloaded(size, found, done)


async def _fetch(
    url: str,
    file: BinaryIO,
    have: int,
    headers: dict[str, str],
    limit: int,
    tls: ssl.SSLContext | None,
    stall_s: float,
    meter: Meter,
    progress: Callable[[int], None] | None,
) -> int:
    """Returns where the transfer began: `have`, or 0 when the server gave all of it anew."""
    # The deadline is moved on by every piece that arrives: a slow transfer may last, a dead one may not.
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(stall_s) as deadline:
        async with _exchange("GET", url, headers, b"", tls, meter) as (head, pieces):
            if head.status == 416 and have:
                if head.headers.get("content-range", f"bytes */{have}").rpartition("/")[2] == str(have):
                    return have
                file.truncate(0)
                raise Unavailable(f"{_shown(url)}: the part does not fit the file any more; it was dropped")
            _check_status(url, head.status)
            start = have if head.status == 206 else 0
            if head.status == 206 and not head.headers.get("content-range", "").startswith(f"bytes {have}-"):
                raise Invalid(f"{_shown(url)}: another range was sent than was asked for")
            if start != have:
                file.seek(0)
                file.truncate(0)
            size = start
            if head.length > 0 and size + head.length > limit:
                raise LimitExceeded(f"{_shown(url)}: over the limit of {limit} bytes", limit=limit)
            async for piece in pieces:
                size += len(piece)
                if size > limit:
                    raise LimitExceeded(f"{_shown(url)}: over the limit of {limit} bytes", limit=limit)
                with disk.errors_of(Path(file.name)):
                    await asyncio.to_thread(file.write, piece)
                deadline.reschedule(loop.time() + stall_s)
                if progress is not None:
                    progress(size)
            return start


def _check_status(url: str, status: int) -> None:
    if status in (200, 206):
        return
    if status == 404:
        raise NotFound(f"{_shown(url)} does not exist")
    if status in (401, 403):
        raise Denied(f"{_shown(url)} may not be read (status {status})")
    raise Unavailable(f"{_shown(url)} answered with status {status}", status=status)


def _open_part(part: Path, resume: bool) -> BinaryIO:
    file = part.open("r+b" if resume and part.exists() else "w+b")
    file.seek(0, 2)
    return file


def _finish(file: BinaryIO) -> tuple[str, int]:
    file.flush()
    os.fsync(file.fileno())
    file.seek(0)
    digest = hashlib.sha256()
    while piece := file.read(1 << 20):
        digest.update(piece)
    return digest.hexdigest(), file.tell()


@asynccontextmanager
async def _exchange(
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: "bytes | AsyncIterator[bytes]",
    tls: ssl.SSLContext | None,
    meter: Meter,
) -> AsyncGenerator[tuple[http1.ResponseHead, AsyncIterator[bytes]]]:
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Invalid(f"{_shown(url)} is not an http or https URL")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    head_bytes, chunked = _request_head(method, parts.netloc, target, headers, body)
    if secure and tls is None:
        tls = ssl.create_default_context()
    try:
        async with asyncio.timeout(CONNECT_S):
            reader, writer = await asyncio.open_connection(
                parts.hostname,
                parts.port or (443 if secure else 80),
                ssl=tls if secure else None,
                limit=http1.MAX_HEAD * 4,
            )
    except ssl.SSLCertVerificationError as error:
        raise Denied(f"the certificate of {parts.netloc} is not trusted: {error.verify_message}") from error
    except TimeoutError as error:
        raise Unavailable(f"{parts.netloc} did not take the connection within {CONNECT_S:g} s") from error
    except (OSError, ssl.SSLError) as error:
        raise Unavailable(f"{parts.netloc} cannot be reached: {error}") from error
    try:
        await _send(writer, head_bytes, body, chunked, meter)
        head = await _receive_head(reader, method, meter)
        yield head, _pieces(reader, head.length, meter)
    except asyncio.IncompleteReadError as error:
        raise Unavailable(f"{parts.netloc} broke off") from error
    except (OSError, ssl.SSLError) as error:
        if isinstance(error, TimeoutError):
            raise
        raise Unavailable(f"the connection to {parts.netloc} broke: {error}") from error
    finally:
        writer.transport.abort()


def _request_head(
    method: str, host: str, target: str, headers: Mapping[str, str], body: "bytes | AsyncIterator[bytes]"
) -> tuple[bytes, bool]:
    """The head, and whether the body is to be chunked."""
    lowered = {name.lower(): value for name, value in headers.items()}
    lowered.setdefault("host", host.rpartition("@")[2])
    lowered["connection"] = "close"
    chunked = not isinstance(body, bytes) and "content-length" not in lowered
    if isinstance(body, bytes) and (body or method in ("POST", "PUT")):
        lowered["content-length"] = str(len(body))
    elif chunked:
        lowered["transfer-encoding"] = "chunked"
    for name, value in lowered.items():
        if any(char in value or char in name for char in "\r\n\0"):
            raise Invalid(f"the header {name!r} has a line break")
    lines = [f"{method} {target} HTTP/1.1\r\n", *(f"{name}: {value}\r\n" for name, value in lowered.items()), "\r\n"]
    return "".join(lines).encode("latin-1"), chunked


async def _send(
    writer: asyncio.StreamWriter, head: bytes, body: "bytes | AsyncIterator[bytes]", chunked: bool, meter: Meter
) -> None:
    if isinstance(body, bytes):
        writer.write(head + body)
        meter(len(head) + len(body), 0)
    else:
        writer.write(head)
        meter(len(head), 0)
        async for piece in body:
            data = b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece
            if piece:
                writer.write(data)
                meter(len(data), 0)
                await writer.drain()
        if chunked:
            writer.write(b"0\r\n\r\n")
            meter(5, 0)
    await writer.drain()


async def _receive_head(reader: asyncio.StreamReader, method: str, meter: Meter) -> http1.ResponseHead:
    while True:
        try:
            raw = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError as error:
            raise Invalid("the head of the answer is too long") from error
        meter(0, len(raw))
        if len(raw) > http1.MAX_HEAD:
            raise Invalid("the head of the answer is too long")
        head = http1.parse_response(raw[:-4], method=method)
        if head.status >= 200:
            return head


async def _pieces(reader: asyncio.StreamReader, length: int, meter: Meter) -> AsyncIterator[bytes]:
    body = http1.Body(length)
    while not body.done:
        data = await reader.read(_PIECE)
        if not data:
            if length == http1.TO_CLOSE:
                return
            raise asyncio.IncompleteReadError(b"", None)
        meter(0, len(data))
        for piece in body.feed(data):
            yield piece
    if body.rest:
        raise Invalid("bytes follow the end of the answer")


def _shown(url: str) -> str:
    # A presigned query is a credential: it stays out of messages and logs.
    return url.partition("?")[0]
