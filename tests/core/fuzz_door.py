"""The fuzz targets of the doors' bytes: HTTP heads and bodies, signatures, WebSocket frames.

Each target takes bytes and raises when the code lets out another error than ours, when pieces make a difference, when it holds
more than it was given, or when it disagrees with a slow reader written here that shares nothing with it. As a program with
atheris, where that is installed: python -m tests.core.fuzz_door TARGET CORPUS; else `run` makes inputs from the seeds.
"""

import hashlib
import json
import random
import sys
import time
from collections.abc import Callable, Iterable
from urllib.parse import quote, unquote_to_bytes

from marram.core import http1, sigv4, websocket
from marram.core.errors import Invalid, LimitExceeded, MarramError, Unauthenticated
from marram.core.websocket import Broken, Closed, Data, Ping

SLOW_S = 0.05  # for one input
MAX_INPUT = 4096
NOW_MS = 1_750_000_000_000
REGION = "local-1"
WHO = sigv4.Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")

# HTTP.


def http_head(data: bytes) -> None:
    head, _, rest = data.partition(b"\r\n\r\n")
    try:
        read = http1.parse_request(head)
    except (Invalid, LimitExceeded):
        read = None
    wanted = _slow_head(head)
    if read is None:
        # Narrower than the slow reader in the characters of a name or a value only, never the other way.
        return
    assert wanted is not None, f"accepted, and the slow reader refuses: {head!r}"
    method, target, headers, length = wanted
    assert (read.method, read.target, read.headers, read.length) == (method, target, headers, length), head
    if length:
        _body(rest, length)


def _slow_head(head: bytes) -> tuple[str, str, dict[str, str], int] | None:
    """One line at a time, one rule at a time: RFC 9112 with our refusals."""
    lines = head.split(b"\r\n")
    if any(b"\r" in line or b"\n" in line or b"\0" in line for line in lines):
        return None
    words = lines[0].split(b" ")
    if len(words) != 3 or words[2] not in (b"HTTP/1.1", b"HTTP/1.0") or not words[1].startswith(b"/"):
        return None
    if not words[0].isalpha() or words[0] != words[0].upper() or not all(0x21 <= byte <= 0x7E for byte in words[1]):
        return None
    headers: dict[str, str] = {}
    once = ("host", "content-length", "transfer-encoding", "authorization")
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        if not colon or not name or any(byte <= 0x20 or byte >= 0x7F or byte in b'()<>@,;\\"/[]?={}' for byte in name):
            return None
        key, text = name.decode().lower(), value.strip(b" \t").decode("latin-1")
        if key in headers:
            if key in once:
                return None
            text = f"{headers[key]},{text}"
        headers[key] = text
    if words[2] == b"HTTP/1.1" and "host" not in headers:
        return None
    if "," in headers.get("host", ""):
        return None
    coding, length = headers.get("transfer-encoding"), headers.get("content-length")
    if coding is not None:
        if length is not None or coding.lower() != "chunked" or words[2] == b"HTTP/1.0":
            return None
        return words[0].decode(), words[1].decode(), headers, http1.CHUNKED
    if length is not None and (not length or not set(length) <= set("0123456789")):
        return None
    return words[0].decode(), words[1].decode(), headers, int(length or 0)


def _body(data: bytes, length: int) -> None:
    def read(pieces: Iterable[bytes]) -> tuple[bytes, bytes, bool] | None:
        body = http1.Body(length)
        got = b""
        rest = b""
        for piece in pieces:
            if body.done:
                rest += piece
                continue
            try:
                got += b"".join(body.feed(piece))
            except Invalid:
                return None
            if body.done:
                rest = body.rest
        return got, rest, body.done

    whole = read([data])
    singly = read(data[at : at + 1] for at in range(len(data)))
    if whole is not None and singly is not None:
        assert whole == singly, "pieces make a difference"
    else:
        # A fault may be seen a byte sooner or later, never by one way only when the body was said to be whole.
        assert not (whole or (b"", b"", False))[2] and not (singly or (b"", b"", False))[2]
    if whole is not None:
        assert len(whole[0]) + len(whole[1]) <= len(data)


# Signatures.


def _pairs(text: str) -> list[tuple[str, str]]:
    out = []
    for item in text.split("&") if text else []:
        name, _, value = item.partition("=")
        out.append((unquote_to_bytes(name).decode("latin-1"), unquote_to_bytes(value).decode("latin-1")))
    return out


def signature(data: bytes) -> None:
    """A request as JSON: what verifies must say the same as one that was signed, by the slow canonical form below."""
    try:
        made = json.loads(data)
        method, path, query = str(made["method"]), str(made["path"]), str(made["query"])
        headers = {str(name).lower(): str(value) for name, value in dict(made["headers"]).items()}
        body = str(made["body"]).encode("latin-1", "replace")
    except (ValueError, KeyError, TypeError, RecursionError):
        return
    if any(ord(character) > 255 for text in (method, path, query, *headers, *headers.values()) for character in text):
        return
    pairs = _pairs(query)
    try:
        claim = sigv4.claim(headers, pairs)
        if claim is None:
            return
        sigv4.verify(
            claim, WHO.secret, method=method, path=path, query=pairs, headers=headers, now_ms=NOW_MS, region=REGION,
            payload_hash=hashlib.sha256(body).hexdigest(),
        )  # fmt: skip
    except Unauthenticated:
        return
    assert claim.region == REGION and abs(claim.time_ms - NOW_MS) <= 7 * 86_400_000
    assert "host" in claim.signed_headers, "host is not signed"
    assert all(name in claim.signed_headers for name in headers if name.startswith("x-amz-")), "a header is not signed"
    said = _slow_canonical(method, path, pairs, headers, claim.signed_headers, body, claim.service == "s3")
    assert said in SIGNED, f"verified, and nobody signed it: {said}"


def _slow_canonical(
    method: str, path: str, pairs: list[tuple[str, str]], headers: dict[str, str], signed: tuple[str, ...], body: bytes,
    s3: bool,
) -> tuple[object, ...]:  # fmt: skip
    if not s3:
        kept: list[str] = []
        for part in path.split("/"):
            if part == "..":
                kept = kept[:-1]
            elif part not in ("", "."):
                kept.append(part)
        path = "/" + "/".join(kept) + ("/" if path.endswith("/") and kept else "")
    else:
        path = quote(unquote_to_bytes(path.replace("%2F", "%252F").replace("%2f", "%252F")), safe="/%-_.~")
    query = tuple(sorted((n, v) for n, v in pairs if n not in ("X-Amz-Signature", "X-Amz-Security-Token")))
    fields = tuple((name, " ".join(headers.get(name, "").split())) for name in signed)
    return method, path, query, fields, hashlib.sha256(body).hexdigest()


def _seeds_of_signatures() -> tuple[list[bytes], set[tuple[object, ...]]]:
    seeds: list[bytes] = []
    signed: set[tuple[object, ...]] = set()

    def add(method: str, path: str, query: str, headers: dict[str, str], body: str) -> None:
        made = {"method": method, "path": path, "query": query, "headers": headers, "body": body}
        seeds.append(json.dumps(made).encode())
        claim = sigv4.claim(headers, _pairs(query))
        assert claim is not None
        signed.add(
            _slow_canonical(
                method,
                path,
                _pairs(query),
                headers,
                claim.signed_headers,
                body.encode("latin-1"),
                claim.service == "s3",
            )
        )

    for service, path, query in (
        ("iot", "/things/a", ""), ("iot", "/things/a%20b", "b=2&a=1"), ("iotdata", "/topics/a%2Fb", "qos=1"),
        ("s3", "/bucket/a%2Fb/c", "list-type=2&prefix=x%20y"), ("sts", "/", ""),
    ):  # fmt: skip
        headers = {"host": "localhost:4566", "x-amz-meta-a": "one  two", "content-type": "application/json"}
        made = sigv4.sign(
            WHO, method="POST", path=path, query=_pairs(query), headers=headers, body=b"{}", region=REGION,
            service=service, now_ms=NOW_MS,
        )  # fmt: skip
        add("POST", path, query, made, "{}")
    for service, path in (("iot", "/things/a"), ("iotdevicegateway", "/mqtt")):
        query = sigv4.presign(
            WHO, method="GET", host="localhost", path=path, region=REGION, service=service, expires_s=300, now_ms=NOW_MS
        )
        add("GET", path, query, {"host": "localhost"}, "")
    # Signed well, an hour ago: no signature of now.
    old = sigv4.sign(
        WHO, method="GET", path="/things/a", query=(), headers={"host": "localhost"}, body=b"", region=REGION,
        service="iot", now_ms=NOW_MS - 3_600_000,
    )  # fmt: skip
    made = {"method": "GET", "path": "/things/a", "query": "", "headers": old, "body": ""}
    return [*seeds, json.dumps(made).encode()], signed


SIGNATURES, SIGNED = _seeds_of_signatures()

# WebSocket.


def frames(data: bytes) -> None:
    def read(pieces: Iterable[bytes]) -> tuple[list[object], int]:
        reader = websocket.Reader(max_frame=1000)
        out: list[object] = []
        for piece in pieces:
            try:
                events = reader.receive(piece)
            except Broken as error:
                return [event for event in out if not isinstance(event, bytes)], error.close
            for event in events:
                if isinstance(event, Data):
                    if out and isinstance(out[-1], bytes):
                        out[-1] += event.payload
                    elif event.payload:
                        out.append(event.payload)
                else:
                    out.append(event)
            assert len(reader._buffer) <= 13 and len(reader._payload) <= 125, "it holds more than a head"
        return out, 0

    step = 1 if len(data) < 120 else 7
    whole, singly = read([data]), read(data[at : at + step] for at in range(0, len(data), step))
    assert whole[1] == singly[1], "pieces make a difference to the close code"
    if not whole[1]:
        assert whole == singly, "pieces make a difference"
    wanted = _slow_frames(data)
    assert whole[1] == wanted[1], f"close code {whole[1]}, and the slow reader says {wanted[1]}"
    if not whole[1]:
        assert whole[0] == wanted[0]


def _slow_frames(data: bytes) -> tuple[list[object], int]:
    """RFC 6455, 5.2, a frame at a time, a byte of payload at a time."""
    out: list[object] = []
    at, inside = 0, False
    while at < len(data):
        if len(data) - at < 2:
            break
        final, opcode, length = bool(data[at] & 128), data[at] & 15, data[at + 1] & 127
        if data[at] & 0x70 or not data[at + 1] & 128:
            return [], 1002
        if opcode in (3, 4, 5, 6, 7) or opcode > 10:
            return [], 1002
        if opcode >= 8 and (not final or length > 125):
            return [], 1002
        if opcode == 1:
            return [], 1003
        if opcode in (0, 2) and inside != (opcode == 0):
            return [], 1002
        wide = {126: 2, 127: 8}.get(length, 0)
        if len(data) - at < 6 + wide:
            break
        if wide:
            length = int.from_bytes(data[at + 2 : at + 2 + wide])
            if length < {2: 126, 8: 65536}[wide]:
                return [], 1002
        if length > 1000:
            return [], 1009
        mask, begin = data[at + 2 + wide : at + 6 + wide], at + 6 + wide
        raw = data[begin : begin + length]
        payload = bytes(byte ^ mask[number % 4] for number, byte in enumerate(raw))
        if opcode in (0, 2):
            inside = not final
            if payload:
                if out and isinstance(out[-1], bytes):
                    out[-1] += payload
                else:
                    out.append(payload)
        if len(raw) < length:
            break
        if opcode == 9:
            out.append(Ping(payload))
        elif opcode == 8:
            if len(payload) == 1:
                return [], 1002
            code = int.from_bytes(payload[:2]) if payload else 1005
            legal = {1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014}
            if payload and code not in legal and not 3000 <= code <= 4999:
                return [], 1002
            try:
                out.append(Closed(code, payload[2:].decode()))
            except UnicodeDecodeError:
                return [], 1007
            return out, 0
        at = begin + length
    return out, 0


# Inputs.

HEAD = b"POST /a?b=c HTTP/1.1\r\nHost: h\r\nX-A: one \r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\na\r\n0123456789\r\n0\r\n\r\nrest"
HEADS = [
    HEAD, b"GET / HTTP/1.0\r\n\r\n", b"PUT /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nAuthorization: b\r\n\r\nhello world",
    b"GET /mqtt HTTP/1.1\r\nhost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n\x82\x85abcd",
]  # fmt: skip


def _frame(payload: bytes, opcode: int, final: bool = True) -> bytes:
    size = len(payload)
    head = bytes([(128 if final else 0) | opcode]) + (bytes([128 | size]) if size < 126 else b"\xfe" + size.to_bytes(2))
    mask = b"\x37\xfa\x21\x3d"
    return head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


FRAMES = [
    _frame(b"hello", 2) + _frame(b"ping", 9) + _frame(b"x" * 300, 2) + _frame(b"\x03\xe8bye", 8),
    _frame(b"a", 2, False)
    + _frame(b"", 9)
    + _frame(b"b", 0, False)
    + _frame(b"c", 0)
    + _frame(b"", 10)
    + _frame(b"", 8),
]
TARGETS: dict[str, tuple[Callable[[bytes], None], list[bytes]]] = {
    "http": (http_head, HEADS), "sigv4": (signature, SIGNATURES), "websocket": (frames, FRAMES),
}  # fmt: skip
WORDS = {
    "http": [
        b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b"\0", b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"HTTP/1.0",
        b"Host: b\r\n", b"0\r\n\r\n", b"ffffffff\r\n", b";a=b", b"\x0b", b"\xc3\xa4", b"GET / HTTP/1.1\r\n", b", ", b"+1", b"0x1",
    ],
    "sigv4": [
        b"x-amz-date", b"host", b";", b"&", b"%2F", b"%252F", b"/../", b"//", b"AWS4-HMAC-SHA256", b"X-Amz-Expires", b"20250615T",
        b"iot", b"s3", b"us-east-1", b"\\u0000", b'", "', b"x-amz-target", b"Signature=", b"X-Amz-Signature", b" ", b"UNSIGNED-PAYLOAD",
    ],
    "websocket": [
        b"\x81", b"\x82", b"\x02", b"\x00", b"\x88", b"\x89", b"\x8a", b"\xfe", b"\xff", b"\x80", b"\x7e", b"\x7f", bytes(8), b"\xff" * 8,
    ],
}  # fmt: skip


def _restated(data: bytes, source: random.Random) -> bytes:
    """A signed request with one part of it another."""
    made = json.loads(data)
    headers, names = made["headers"], sorted(made["headers"])
    match source.randrange(6):
        case 0:
            headers[source.choice(("x-amz-target", "x-amz-security-token", "x-amz-acl", "x-other"))] = "x"
        case 1:
            del headers[source.choice(names)]
        case 2:
            name = source.choice(names)
            at = source.randrange(len(headers[name]) + 1)
            headers[name] = headers[name][:at] + chr(source.randrange(32, 127)) + headers[name][at:]
        case 3:
            made["path"] += source.choice(("/", "/..", "/../b", "%2F", "//", "?", "/./", ""))
        case 4:
            made["query"] += source.choice(("&a=1", "&X-Amz-Expires=9", "&x=%00", "&", "&X-Amz-Date=1"))
        case _:
            made["method"], made["body"] = source.choice(("GET", "PUT", "post")), source.choice(("", "{}", "[]"))
    return json.dumps(made).encode()


def mutated(name: str, source: random.Random) -> bytes:
    _, seeds = TARGETS[name]
    if name == "sigv4" and source.randrange(2):
        return _restated(source.choice(seeds), source)
    data = bytearray(source.choice(seeds))
    for _ in range(source.choice((1, 1, 1, 2, 3, 8))):
        at = source.randrange(len(data) + 1)
        match source.randrange(7):
            case 0 if at < len(data):
                data[at] ^= 1 << source.randrange(8)
            case 1 if at < len(data):
                data[at] = source.randrange(256)
            case 2:
                data[at:at] = source.choice(WORDS[name])
            case 3:
                del data[at : at + source.choice((1, 1, 2, 5, 40))]
            case 4:
                begin = source.randrange(len(data) + 1)
                data[at:at] = data[begin : begin + source.choice((1, 4, 30))]
            case 5:
                word = source.choice(WORDS[name])
                data[at : at + len(word)] = word
            case _:
                data[at:at] = source.randbytes(source.choice((1, 2, 8)))
    return bytes(data[:MAX_INPUT])


def run(name: str, seconds: float, seed: int) -> tuple[int, float]:
    """(inputs, the slowest in seconds). Raises AssertionError naming seed and input."""
    target, seeds = TARGETS[name]
    source = random.Random(seed)
    end, count, slowest = time.monotonic() + seconds, 0, 0.0
    while time.monotonic() < end:
        data = seeds[count] if count < len(seeds) else mutated(name, source)
        began = time.perf_counter()
        try:
            target(data)
        except (
            AssertionError,
            MarramError,
            ArithmeticError,
            LookupError,
            TypeError,
            ValueError,
            RecursionError,
        ) as error:
            raise AssertionError(f"{name}, seed {seed}, input {count}: {error!r} for {data!r}") from error
        slowest = max(slowest, time.perf_counter() - began)
        count += 1
    return count, slowest


if __name__ == "__main__":
    try:
        import atheris
    except ImportError:
        for each in TARGETS:
            print(each, run(each, float(sys.argv[1]), random.SystemRandom().randrange(1 << 31)))
    else:
        chosen = TARGETS[sys.argv.pop(1)][0]
        atheris.Setup(sys.argv, chosen)
        atheris.Fuzz()
