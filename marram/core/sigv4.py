"""AWS Signature Version 4: verify and sign, in the header and in the query, and the `aws-chunked` body. Pure.

Source: "AWS Signature Version 4 for API requests" and "Signature calculations for the Authorization header: transferring
payload in multiple chunks" (S3 API reference). Not here: whose secret it is (hub/identity), SigV4A (refused by name).
"""

import base64
import hashlib
import hmac
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final, Protocol
from urllib.parse import quote, unquote_to_bytes

from marram.core.errors import Invalid, Unauthenticated

ALGORITHM: Final = "AWS4-HMAC-SHA256"
MQTT: Final = "iotdevicegateway"  # the service of MQTT over WebSocket
UNSIGNED: Final = "UNSIGNED-PAYLOAD"
STREAMING_UNSIGNED: Final = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
STREAMING_SIGNED: Final = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
STREAMING_SIGNED_TRAILER: Final = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
EMPTY_SHA256: Final = hashlib.sha256(b"").hexdigest()
SKEW_MS: Final = 5 * 60_000
SKEW_S3_MS: Final = 15 * 60_000
MAX_PRESIGN_S: Final = 7 * 86_400
MAX_SIGNED_CHUNK: Final = 16 << 20

_TIME = re.compile(r"\d{8}T\d{6}Z", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SIGNED_HEADERS = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+(;[a-z0-9!#$%&'*+.^_`|~-]+)*")


@dataclass(frozen=True, slots=True)
class Claim:
    """What a request says about its signature; nothing of it is proven yet."""

    access_key_id: str
    date: str  # YYYYMMDD of the scope
    region: str
    service: str
    signed_headers: tuple[str, ...]
    signature: str
    amz_date: str
    time_ms: int
    expires_s: int | None  # of a presigned URL, else None
    token: str | None
    payload: str | None  # the x-amz-content-sha256 that was stated, if any
    in_query: bool = False

    @property
    def scope(self) -> str:
        return f"{self.date}/{self.region}/{self.service}/aws4_request"


def claim(headers: Mapping[str, str], query: Sequence[tuple[str, str]]) -> Claim | None:
    """Read the signature of a request; None when it carries none.

    headers: names in lower case, repeated ones joined by ",". query: decoded pairs.
    Raises Unauthenticated (reason "incomplete") when there is one that cannot be read, or when there are two.
    """
    header = headers.get("authorization")
    in_query = any(name == "X-Amz-Algorithm" or name == "X-Amz-Signature" for name, _ in query)
    if header is None and not in_query:
        return None
    if header is not None and in_query:
        raise _incomplete("only one of the Authorization header and X-Amz-Algorithm in the query may be given")
    if header is not None:
        return _header_claim(header, headers)
    values = dict(query)
    if len(values) != len(query):
        raise _incomplete("a query parameter is given twice")
    return _query_claim(values, headers)


def _header_claim(header: str, headers: Mapping[str, str]) -> Claim:
    algorithm, _, rest = header.partition(" ")
    if algorithm != ALGORITHM:
        raise _incomplete(f"authorization algorithm {algorithm[:40]!r} is not supported: use {ALGORITHM}")
    parts: dict[str, str] = {}
    for item in rest.split(","):
        name, equals, value = item.strip().partition("=")
        if not equals or name in parts:
            raise _incomplete("the Authorization header is malformed")
        parts[name] = value
    if parts.keys() != {"Credential", "SignedHeaders", "Signature"}:
        raise _incomplete("the Authorization header needs Credential, SignedHeaders and Signature")
    amz_date = headers.get("x-amz-date", "")
    return _claim(
        parts["Credential"], parts["SignedHeaders"], parts["Signature"], amz_date, None,
        headers.get("x-amz-security-token"), headers.get("x-amz-content-sha256"),
    )  # fmt: skip


def _query_claim(values: Mapping[str, str], headers: Mapping[str, str]) -> Claim:
    if values.get("X-Amz-Algorithm") != ALGORITHM:
        raise _incomplete(f"X-Amz-Algorithm must be {ALGORITHM}")
    try:
        credential, signed, signature = (
            values["X-Amz-Credential"],
            values["X-Amz-SignedHeaders"],
            values["X-Amz-Signature"],
        )
        # MQTT over WebSocket alone is signed without one: then the skew that is allowed is how long it lives.
        expires = values["X-Amz-Expires"] if f"/{MQTT}/" not in credential else values.get("X-Amz-Expires")
    except KeyError as error:
        raise _incomplete(f"the query lacks {error.args[0]}") from error
    if expires is not None and (not re.fullmatch(r"[0-9]{1,7}", expires) or int(expires) > MAX_PRESIGN_S):
        raise _incomplete(f"X-Amz-Expires must be a number of seconds, at most {MAX_PRESIGN_S}")
    return _claim(
        credential, signed, signature, values.get("X-Amz-Date", ""), None if expires is None else int(expires),
        values.get("X-Amz-Security-Token"), headers.get("x-amz-content-sha256"), in_query=True,
    )  # fmt: skip


def _claim(
    credential: str,
    signed: str,
    signature: str,
    amz_date: str,
    expires_s: int | None,
    token: str | None,
    payload: str | None,
    *,
    in_query: bool = False,
) -> Claim:
    scope = credential.rsplit("/", 4)
    if len(scope) != 5 or scope[4] != "aws4_request" or not all(scope):
        raise _incomplete("Credential must be KEY/YYYYMMDD/REGION/SERVICE/aws4_request")
    if not _TIME.fullmatch(amz_date):
        raise _incomplete("X-Amz-Date must be given as YYYYMMDDTHHMMSSZ")
    if not amz_date.startswith(scope[1]) or len(scope[1]) != 8:
        raise _incomplete(f"the date of the credential scope, {scope[1]}, is not that of X-Amz-Date, {amz_date}")
    if not _SHA256.fullmatch(signature):
        raise _incomplete("Signature must be 64 lower-case hexadecimal digits")
    if payload is not None and len(payload) == 64 and not _SHA256.fullmatch(payload):
        raise _incomplete("x-amz-content-sha256 must be 64 lower-case hexadecimal digits")
    if not _SIGNED_HEADERS.fullmatch(signed):
        raise _incomplete("SignedHeaders must be lower-case names joined by semicolons")
    try:
        moment = datetime(
            int(amz_date[:4]), int(amz_date[4:6]), int(amz_date[6:8]), int(amz_date[9:11]), int(amz_date[11:13]),
            int(amz_date[13:15]), tzinfo=UTC,
        )  # fmt: skip
    except ValueError as error:
        raise _incomplete("X-Amz-Date is not a date") from error
    return Claim(
        access_key_id=scope[0], date=scope[1], region=scope[2], service=scope[3], signed_headers=tuple(signed.split(";")),
        signature=signature, amz_date=amz_date, time_ms=int(moment.timestamp() * 1000), expires_s=expires_s,
        token=token, payload=payload, in_query=in_query,
    )  # fmt: skip


def _incomplete(message: str) -> Unauthenticated:
    return Unauthenticated(message, reason="incomplete")


def verify(
    found: Claim,
    secret: str,
    *,
    method: str,
    path: str,
    query: Sequence[tuple[str, str]],
    headers: Mapping[str, str],
    payload_hash: str,
    now_ms: int,
    region: str,
) -> bytes:
    """Raises Unauthenticated (data["reason"]: signature, clock, expired, unsigned_header, region); returns the signing key.

    path: as it was sent, still encoded. payload_hash: what goes into the canonical request; the caller has made sure, or
    makes sure while it streams, that the body agrees with it.
    """
    s3 = found.service == "s3"
    _check_time(found, now_ms, SKEW_S3_MS if s3 else SKEW_MS)
    if found.region != region:
        raise Unauthenticated(
            f"Credential should be scoped to a valid region: the request was signed for {found.region}, this hub is {region}",
            reason="region",
        )
    signed = frozenset(found.signed_headers)
    if "host" not in signed:
        raise Unauthenticated("the Host header is not signed", reason="unsigned_header")
    for name in headers:
        if name.startswith("x-amz-") and name not in signed:
            # A content hash that a presigned request states without signing it could be swapped with the body.
            raise Unauthenticated(
                f"there is a header in the request that is not signed: {name}", reason="unsigned_header"
            )
    for name in found.signed_headers:
        if name not in headers:
            raise Unauthenticated(f"the signed header {name} is not in the request", reason="unsigned_header")
    key = signing_key(secret, found.date, found.region, found.service)
    pairs = [pair for pair in query if pair[0] != "X-Amz-Signature"] if found.in_query else query
    wanted = signature(
        key,
        found.amz_date,
        found.scope,
        canonical_request(method, path, pairs, headers, found.signed_headers, payload_hash, s3),
    )
    if hmac.compare_digest(wanted, found.signature):
        return key
    if found.token is not None and found.in_query:
        # The WebSocket form of MQTT adds the token after signing.
        pairs = [pair for pair in pairs if pair[0] != "X-Amz-Security-Token"]
        text = canonical_request(method, path, pairs, headers, found.signed_headers, payload_hash, s3)
        if found.service == MQTT and hmac.compare_digest(
            signature(key, found.amz_date, found.scope, text), found.signature
        ):
            return key
    raise Unauthenticated(
        "The request signature we calculated does not match the signature you provided. Check your secret access key and"
        " signing method.",
        reason="signature",
    )


def _check_time(found: Claim, now_ms: int, skew_ms: int) -> None:
    off_ms = now_ms - found.time_ms
    allowed = f"{skew_ms // 60_000} minutes are allowed"
    if found.expires_s is not None:
        if off_ms < -skew_ms:
            raise Unauthenticated(f"Request is not yet valid: {_off(off_ms)}; {allowed}", reason="clock")
        if off_ms > found.expires_s * 1000:
            raise Unauthenticated(f"Request has expired: it was valid for {found.expires_s} s", reason="expired")
    elif off_ms > skew_ms:
        raise Unauthenticated(f"Signature expired: {_off(off_ms)}; {allowed}", reason="clock", server_ms=now_ms)
    elif off_ms < -skew_ms:
        raise Unauthenticated(f"Signature not yet current: {_off(off_ms)}; {allowed}", reason="clock", server_ms=now_ms)


def _off(off_ms: int) -> str:
    side = "behind" if off_ms > 0 else "ahead of"
    return f"the clock of the client is {abs(off_ms) / 60_000:.0f} minutes {side} the clock of this hub"


def canonical_request(
    method: str,
    path: str,
    query: Iterable[tuple[str, str]],
    headers: Mapping[str, str],
    signed_headers: Sequence[str],
    payload_hash: str,
    s3: bool,
) -> str:
    lines = [f"{name}:{' '.join(headers[name].split())}\n" for name in signed_headers]
    return "\n".join(
        (
            method,
            canonical_path(path, s3),
            canonical_query(query),
            "".join(lines),
            ";".join(signed_headers),
            payload_hash,
        )
    )


def canonical_path(path: str, s3: bool) -> str:
    """S3 takes the path as it is, encoded once; every other service resolves dots and encodes what was sent again."""
    if s3:
        # Segment by segment: an encoded slash is signed as it was sent.
        return "/".join(quote(unquote_to_bytes(part), safe="-_.~") for part in path.split("/")) or "/"
    kept: list[str] = []
    for part in path.split("/"):
        if part == "..":
            if kept:
                kept.pop()
        elif part and part != ".":
            kept.append(part)
    joined = "/" + "/".join(kept) + ("/" if path.endswith("/") and kept else "")
    return quote(joined, safe="/-_.~")


def canonical_query(query: Iterable[tuple[str, str]]) -> str:
    return "&".join(
        f"{name}={value}" for name, value in sorted((quote(k, safe="-_.~"), quote(v, safe="-_.~")) for k, v in query)
    )


@lru_cache(maxsize=1024)
def signing_key(secret: str, date: str, region: str, service: str) -> bytes:
    key = ("AWS4" + secret).encode()
    for part in (date, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def signature(key: bytes, amz_date: str, scope: str, canonical: str) -> str:
    # Header values are held as Latin-1, so that these are the bytes that were on the wire.
    digest = hashlib.sha256(canonical.encode("latin-1")).hexdigest()
    return hmac.digest(key, f"{ALGORITHM}\n{amz_date}\n{scope}\n{digest}".encode(), "sha256").hex()


# Signing.


@dataclass(frozen=True, slots=True)
class Credentials:
    access_key_id: str
    secret: str = field(repr=False)
    token: str | None = field(default=None, repr=False)


def amz_date(now_ms: int) -> str:
    return (datetime(1970, 1, 1) + timedelta(milliseconds=now_ms)).strftime("%Y%m%dT%H%M%SZ")


def sign(
    credentials: Credentials,
    *,
    method: str,
    path: str,
    query: Sequence[tuple[str, str]],
    headers: Mapping[str, str],
    body: bytes,
    region: str,
    service: str,
    now_ms: int,
) -> dict[str, str]:
    """The headers to send: those given (names in lower case, `host` among them) and those of the signature."""
    date = amz_date(now_ms)
    payload = hashlib.sha256(body).hexdigest()
    out = dict(headers) | {"x-amz-date": date, "x-amz-content-sha256": payload}
    if credentials.token is not None:
        out["x-amz-security-token"] = credentials.token
    names = tuple(sorted(out))
    scope = f"{date[:8]}/{region}/{service}/aws4_request"
    key = signing_key(credentials.secret, date[:8], region, service)
    value = signature(key, date, scope, canonical_request(method, path, query, out, names, payload, service == "s3"))
    out["authorization"] = (
        f"{ALGORITHM} Credential={credentials.access_key_id}/{scope}, SignedHeaders={';'.join(names)}, Signature={value}"
    )
    return out


def presign(
    credentials: Credentials,
    *,
    method: str,
    host: str,
    path: str,
    query: Sequence[tuple[str, str]] = (),
    region: str,
    service: str = "s3",
    expires_s: int,
    now_ms: int,
) -> str:
    """The query string of a presigned request, without the question mark; only `host` is signed of the headers."""
    if not 1 <= expires_s <= MAX_PRESIGN_S:
        raise Invalid(f"a presigned URL is valid for 1 to {MAX_PRESIGN_S} s, not {expires_s}")
    date = amz_date(now_ms)
    scope = f"{date[:8]}/{region}/{service}/aws4_request"
    pairs = [
        *query,
        ("X-Amz-Algorithm", ALGORITHM),
        ("X-Amz-Credential", f"{credentials.access_key_id}/{scope}"),
        ("X-Amz-Date", date),
        ("X-Amz-Expires", str(expires_s)),
        ("X-Amz-SignedHeaders", "host"),
    ]
    if credentials.token is not None:
        pairs.append(("X-Amz-Security-Token", credentials.token))
    payload = UNSIGNED if service == "s3" else EMPTY_SHA256
    canonical = canonical_request(method, path, pairs, {"host": host}, ("host",), payload, service == "s3")
    key = signing_key(credentials.secret, date[:8], region, service)
    return f"{canonical_query(pairs)}&X-Amz-Signature={signature(key, date, scope, canonical)}"


# Bodies.


class Checksum(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def digest(self) -> bytes: ...


class Crc32:
    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes) -> None:
        self._value = zlib.crc32(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4)


class TableCrc:
    """A reflected CRC of 32 or 64 bits by four tables: what zlib does not have. Some 10 MB/s: not for the event loop."""

    def __init__(self, polynomial: int, bits: int) -> None:
        self._tables = _crc_tables(polynomial)
        self._bytes = bits // 8
        self._mask = (1 << bits) - 1
        self._value = self._mask

    def update(self, data: bytes) -> None:
        t0, t1, t2, t3 = self._tables
        value = self._value
        whole = len(data) & ~3
        for word in memoryview(data)[:whole].cast("I") if whole else ():
            mixed = value ^ int(word)
            value = (
                (value >> 32) ^ t3[mixed & 255] ^ t2[mixed >> 8 & 255] ^ t1[mixed >> 16 & 255] ^ t0[mixed >> 24 & 255]
            )
        for byte in data[whole:]:
            value = (value >> 8) ^ t0[(value ^ byte) & 255]
        self._value = value

    def digest(self) -> bytes:
        return (self._value ^ self._mask).to_bytes(self._bytes)


@lru_cache(maxsize=4)
def _crc_tables(polynomial: int) -> tuple[list[int], list[int], list[int], list[int]]:
    first: list[int] = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (polynomial if value & 1 else 0)
        first.append(value)
    tables = [first]
    for _ in range(3):
        tables.append([value >> 8 ^ first[value & 255] for value in tables[-1]])
    return tables[0], tables[1], tables[2], tables[3]


CHECKSUMS: Final = ("crc32", "crc32c", "crc64nvme", "sha1", "sha256")


def checksum(name: str) -> Checksum:
    """One of S3's checksum algorithms, named as in `x-amz-checksum-<name>`. Raises Invalid for any other."""
    match name:
        case "crc32":
            return Crc32()
        case "crc32c":
            return TableCrc(0x82F63B78, 32)
        case "crc64nvme":
            return TableCrc(0x9A6C9329AC4BC9B5, 64)
        case "sha1":
            return hashlib.sha1(usedforsecurity=False)
        case "sha256":
            return hashlib.sha256()
        case _:
            raise Invalid(f"checksum algorithm {name} is not supported: use one of {', '.join(CHECKSUMS)}")


def encode_digest(value: bytes) -> str:
    return base64.b64encode(value).decode()


class ChunkDecoder:
    """The body of `content-encoding: aws-chunked`: feed what arrives, get the object's bytes.

    Signed chunks are released only when their signature has been checked; unsigned ones at once (their trailer's checksum is
    the caller's to compare, in `trailers` when `done`).
    """

    def __init__(
        self, *, signed: bool, trailer: bool, key: bytes, date: str, scope: str, seed: str, decoded_length: int | None
    ) -> None:
        self._signed, self._trailer = signed, trailer
        self._key, self._date, self._scope, self._previous = key, date, scope, seed
        self._left_total = decoded_length
        self._buffer = bytearray()
        self._left = 0  # of the chunk that is being read
        self._state = "head"
        self._signature = ""
        self.trailers: dict[str, str] = {}
        self.done = False

    def feed(self, data: bytes) -> bytes:
        """Raises Invalid when it is malformed or longer than stated, Unauthenticated when a signature is wrong."""
        if self.done and data:
            raise Invalid("bytes follow the end of the aws-chunked body")
        self._buffer += data
        out: list[bytes] = []
        while self._step(out):
            pass
        return b"".join(out)

    def finish(self) -> None:
        """The transfer ended. Raises Invalid when the body did not."""
        if not self.done:
            raise Invalid("the aws-chunked body ends before its last chunk", kind="incomplete_body")
        if self._left_total:
            raise Invalid("the body is shorter than x-amz-decoded-content-length", kind="incomplete_body")

    def _step(self, out: list[bytes]) -> bool:
        buffer = self._buffer
        match self._state:
            case "head":
                end = buffer.find(b"\r\n")
                if end < 0:
                    if len(buffer) > 256:
                        raise Invalid("the head of an aws-chunked chunk is too long")
                    return False
                self._head(bytes(buffer[:end]))
                del buffer[: end + 2]
            case "data" if self._signed:
                if len(buffer) < self._left + 2:
                    return False
                chunk = bytes(buffer[: self._left])
                self._check_chunk(chunk)
                out.append(chunk)
                del buffer[: self._left]
                self._left, self._state = 0, "end"
            case "data":
                chunk = bytes(buffer[: self._left])
                if not chunk:
                    return False
                out.append(chunk)
                del buffer[: len(chunk)]
                self._left -= len(chunk)
                if not self._left:
                    self._state = "end"
            case "end":
                if len(buffer) < 2:
                    return False
                if not buffer.startswith(b"\r\n"):
                    raise Invalid("an aws-chunked chunk does not end with CRLF")
                del buffer[:2]
                self._state = "head"
            case "trailer":
                end = buffer.find(b"\r\n")
                if end < 0:
                    if len(buffer) > 4096:
                        raise Invalid("the trailer of the aws-chunked body is too long")
                    if not buffer:
                        return False
                    return False
                line = bytes(buffer[:end])
                del buffer[: end + 2]
                self._trailer_line(line)
            case _:
                if buffer:
                    raise Invalid("bytes follow the end of the aws-chunked body")
                return False
        return True

    def _head(self, line: bytes) -> None:
        size, _, extension = line.partition(b";")
        if not re.fullmatch(rb"[0-9a-fA-F]{1,12}", size):
            raise Invalid("the size of an aws-chunked chunk is not a hexadecimal number")
        self._left = int(size, 16)
        if self._signed:
            found = re.fullmatch(rb"chunk-signature=([0-9a-f]{64})", extension)
            if found is None:
                raise Invalid("an aws-chunked chunk lacks its chunk-signature")
            self._signature = found[1].decode()
            if self._left > MAX_SIGNED_CHUNK:
                raise Invalid(f"an aws-chunked chunk of {self._left} bytes is over the limit of {MAX_SIGNED_CHUNK}")
        elif extension:
            raise Invalid("an aws-chunked chunk has an extension in an unsigned body")
        if self._left_total is not None:
            self._left_total -= self._left
            if self._left_total < 0:
                raise Invalid("the body is longer than x-amz-decoded-content-length", kind="incomplete_body")
        if self._left:
            self._state = "data"
        else:
            if self._signed:
                self._check_chunk(b"")
            self._state = "trailer"

    def _check_chunk(self, chunk: bytes) -> None:
        text = (
            f"{ALGORITHM}-PAYLOAD\n{self._date}\n{self._scope}\n{self._previous}\n{EMPTY_SHA256}\n"
            f"{hashlib.sha256(chunk).hexdigest()}"
        )
        self._check(text, self._signature, "a chunk")

    def _check(self, text: str, given: str, what: str) -> None:
        wanted = hmac.digest(self._key, text.encode(), "sha256").hex()
        if not hmac.compare_digest(wanted.encode(), given.encode()):
            raise Unauthenticated(f"The signature of {what} of the body does not match.", reason="signature")
        self._previous = wanted

    def _trailer_line(self, line: bytes) -> None:
        if not line:
            if self._signed and self._trailer:
                self._check_trailer()
            self.done, self._state = True, "done"
            return
        if not self._trailer:
            raise Invalid("the aws-chunked body has a trailer that was not announced")
        name, colon, value = line.decode("latin-1").partition(":")
        name = name.strip().lower()
        if not colon or name in self.trailers or len(self.trailers) > 8:
            raise Invalid("the trailer of the aws-chunked body is malformed")
        self.trailers[name] = value.strip()

    def _check_trailer(self) -> None:
        given = self.trailers.pop("x-amz-trailer-signature", "")
        text = "".join(f"{name}:{value}\n" for name, value in sorted(self.trailers.items()))
        digest = hashlib.sha256(text.encode()).hexdigest()
        self._check(
            f"{ALGORITHM}-TRAILER\n{self._date}\n{self._scope}\n{self._previous}\n{digest}", given, "the trailer"
        )
