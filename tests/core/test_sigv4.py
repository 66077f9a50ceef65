"""Signatures: AWS's published examples, botocore as oracle, and every part that must be covered."""

import hashlib
import hmac
import itertools
import re
from typing import Any

import botocore.auth
import botocore.awsrequest
import botocore.credentials
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marram.core import sigv4
from marram.core.errors import Invalid, MarramError, Unauthenticated
from marram.core.sigv4 import ChunkDecoder, Credentials

WHO = Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
NOW_MS = 1_750_000_000_000
HEADERS = {"host": "127.0.0.1:4566", "content-type": "application/json"}


def verify(
    headers: dict[str, str], *, method: str = "POST", path: str = "/things/a", query: Any = (), body: bytes = b"{}",
    secret: str = WHO.secret, now_ms: int = NOW_MS, region: str = "local-1", payload: str | None = None,
) -> None:  # fmt: skip
    found = sigv4.claim(headers, list(query))
    assert found is not None
    sigv4.verify(
        found, secret, method=method, path=path, query=list(query), headers=headers, now_ms=now_ms, region=region,
        payload_hash=payload if payload is not None else hashlib.sha256(body).hexdigest(),
    )  # fmt: skip


def signed(**changes: Any) -> dict[str, str]:
    given = {
        "method": "POST", "path": "/things/a", "query": [], "headers": HEADERS, "body": b"{}", "region": "local-1",
        "service": "iot", "now_ms": NOW_MS,
    }  # fmt: skip
    return sigv4.sign(WHO, **(given | changes))


def test_the_published_key_derivation() -> None:
    # AWS General Reference, "Examples of how to derive a signing key for Signature Version 4".
    key = sigv4.signing_key("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "20120215", "us-east-1", "iam")
    assert key.hex() == "f4780e2d9f65fa895f9c67b32ce1baf0b0d8a43505a000a1a9e090d414db404d"


def test_the_published_get_vanilla_query_order() -> None:
    # aws-sig-v4-test-suite, get-vanilla-query-order-key-case.
    headers = {"host": "example.amazonaws.com", "x-amz-date": "20150830T123600Z"}
    text = sigv4.canonical_request(
        "GET",
        "/",
        [("Param2", "value2"), ("Param1", "value1")],
        headers,
        ("host", "x-amz-date"),
        sigv4.EMPTY_SHA256,
        False,
    )
    key = sigv4.signing_key(WHO.secret, "20150830", "us-east-1", "service")
    assert (
        sigv4.signature(key, "20150830T123600Z", "20150830/us-east-1/service/aws4_request", text)
        == "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500"
    )


@pytest.mark.parametrize("service", ["iot", "s3"])
@pytest.mark.parametrize("path", ["/", "/a b/ä", "/things/a:b", "/topics/a%2Fb", "/x/(y)!*'~", "/a//b/../c"])
@pytest.mark.parametrize("query", ["", "a=b&A=c&a-b=%20+%2F", "k=", "x=%C3%A4&x=1"])
def test_botocore_and_we_agree(service: str, path: str, query: str) -> None:
    from urllib.parse import quote, unquote

    encoded = quote(path, safe="/~%" if "%2F" in path else "/~")
    clean = "&".join(
        f"{k}={quote(unquote(v), safe='-_.~')}" for k, _, v in (i.partition("=") for i in query.split("&")) if k
    )
    url = f"http://127.0.0.1:4566{encoded}" + (f"?{clean}" if clean else "")
    request = botocore.awsrequest.AWSRequest("POST", url, {"X-Amz-Meta-A": " two  words "}, b"body")
    cls = botocore.auth.S3SigV4Auth if service == "s3" else botocore.auth.SigV4Auth
    request.context["client_config"] = None
    botocore.auth.SigV4Auth.add_auth
    cls(botocore.credentials.Credentials(WHO.access_key_id, WHO.secret), service, "local-1").add_auth(request)
    headers = {k.lower(): v for k, v in request.headers.items()} | {"host": "127.0.0.1:4566"}
    pairs = [(unquote(k), unquote(v)) for k, _, v in (i.partition("=") for i in clean.split("&")) if k]
    found = sigv4.claim(headers, pairs)
    assert found is not None
    verify(headers, path=encoded, query=pairs, body=b"body", now_ms=found.time_ms)


def test_a_signed_request_is_good_and_any_change_is_not() -> None:
    good = signed()
    verify(good)
    for changed in (
        {"method": "PUT"}, {"path": "/things/b"}, {"query": [("a", "b")]}, {"body": b"[]"}, {"secret": "other"},
    ):  # fmt: skip
        with pytest.raises(Unauthenticated) as caught:
            verify(good, **changed)
        assert caught.value.data["reason"] == "signature"
    with pytest.raises(Unauthenticated):
        verify(good | {"host": "127.0.0.1:9999"})
    with pytest.raises(Unauthenticated):
        verify(good | {"x-amz-content-sha256": "0" * 64})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param({"x-amz-target": "SageMaker.Delete"}, "unsigned_header", id="x-amz header added"),
        pytest.param({"authorization": ""}, "incomplete", id="empty"),
        pytest.param({"authorization": "Basic abc"}, "incomplete", id="another scheme"),
        pytest.param(
            {"authorization": "AWS4-HMAC-SHA256 Credential=a/b, Signature=c"}, "incomplete", id="parts missing"
        ),
        pytest.param({"x-amz-date": "20250615"}, "incomplete", id="bad date"),
        pytest.param({"x-amz-date": "20200615T000000Z"}, "incomplete", id="another day than the scope"),
    ],
)
def test_malformed_signatures(change: dict[str, str], reason: str) -> None:
    with pytest.raises(Unauthenticated) as caught:
        verify(signed() | change)
    assert caught.value.data["reason"] == reason


def test_host_must_be_signed() -> None:
    headers = signed()
    headers["authorization"] = re.sub("host;", "", headers["authorization"])
    with pytest.raises(Unauthenticated) as caught:
        verify(headers)
    assert caught.value.data["reason"] == "unsigned_header"


@pytest.mark.parametrize(("service", "minutes"), [("iot", 5), ("s3", 15)])
def test_the_clock_may_be_off_by_minutes(service: str, minutes: int) -> None:
    headers = signed(service=service)
    for side in (-1, 1):
        verify(headers, now_ms=NOW_MS + side * (minutes * 60_000 - 1000))
        with pytest.raises(Unauthenticated) as caught:
            verify(headers, now_ms=NOW_MS + side * (minutes * 60_000 + 1000))
        assert caught.value.data["reason"] == "clock"


def test_another_region_or_service_is_another_signature() -> None:
    with pytest.raises(Unauthenticated) as caught:
        verify(signed(region="us-east-1"))
    assert caught.value.data["reason"] == "region"
    swapped = signed()
    swapped["authorization"] = swapped["authorization"].replace("/iot/", "/sts/")
    with pytest.raises(Unauthenticated):
        verify(swapped)


def test_presigned_until_it_expires() -> None:
    from urllib.parse import parse_qsl

    text = sigv4.presign(WHO, method="GET", host="h", path="/b/k%20x", region="local-1", expires_s=60, now_ms=NOW_MS)
    pairs = parse_qsl(text, keep_blank_values=True)

    def check(pairs: list[tuple[str, str]], now_ms: int = NOW_MS, path: str = "/b/k%20x") -> None:
        verify({"host": "h"}, method="GET", path=path, query=pairs, now_ms=now_ms, payload=sigv4.UNSIGNED)

    check(pairs)
    check(pairs, NOW_MS + 59_000)
    for changed in (
        [*pairs, ("response-content-type", "text/html")],
        [(k, "99" if k == "X-Amz-Expires" else v) for k, v in pairs],
    ):
        with pytest.raises(Unauthenticated):
            check(changed)
    with pytest.raises(Unauthenticated) as caught:
        check(pairs, NOW_MS + 61_000)
    assert caught.value.data["reason"] == "expired"
    with pytest.raises(Unauthenticated):
        check([(k, str(8 * 86_400) if k == "X-Amz-Expires" else v) for k, v in pairs])
    with pytest.raises(Unauthenticated):
        check([*pairs, ("X-Amz-Expires", "99999")])
    with pytest.raises(Unauthenticated):
        sigv4.claim({"authorization": "x"}, pairs)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("crc32", "cbf43926"), ("crc32c", "e3069283"), ("crc64nvme", "ae8b14860a799888")],
)
def test_check_values_of_the_checksums(name: str, wanted: str) -> None:
    # The "check" column of the catalogue of CRC algorithms: the checksum of "123456789".
    for pieces in ([b"123456789"], [b"1", b"23456", b"", b"789"]):
        running = sigv4.checksum(name)
        for piece in pieces:
            running.update(piece)
        assert running.digest().hex() == wanted


# The S3 API reference's example of a chunked upload ("Signature calculations: multiple chunks").
KEY = sigv4.signing_key("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "20130524", "us-east-1", "s3")
SEED = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9"
CHUNKS = [
    (b"a" * 65536, "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648"),
    (b"a" * 1024, "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497"),
    (b"", "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9"),
]


def decoder(*, signed: bool = True, trailer: bool = False, length: int | None = 66560) -> ChunkDecoder:
    return ChunkDecoder(
        signed=signed, trailer=trailer, key=KEY, date="20130524T000000Z", scope="20130524/us-east-1/s3/aws4_request",
        seed=SEED, decoded_length=length,
    )  # fmt: skip


def body(chunks: list[tuple[bytes, str]] = CHUNKS) -> bytes:
    return b"".join(b"%x;chunk-signature=%b\r\n%b\r\n" % (len(c), s.encode(), c) for c, s in chunks[:-1]) + (
        b"0;chunk-signature=%b\r\n\r\n" % chunks[-1][1].encode()
    )


@given(st.lists(st.integers(0, 70_000), max_size=6))
def test_the_published_chunked_upload_in_any_pieces(cuts: list[int]) -> None:
    data, found, chunks = body(), b"", decoder()
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for start, end in itertools.pairwise(edges):
        found += chunks.feed(data[start:end])
    chunks.finish()
    assert found == b"a" * 66560


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(body().replace(b"a\r\n400", b"b\r\n400", 1), id="changed byte"),
        pytest.param(body([CHUNKS[0], CHUNKS[2]]), id="chunk left out"),
        pytest.param(body()[:-40], id="cut"),
        pytest.param(body() + b"x", id="more"),
        pytest.param(body().replace(b"400;", b"401;"), id="longer chunk"),
        pytest.param(body().replace(b";chunk-signature=0055", b";x=0055"), id="no signature"),
    ],
)
def test_a_chunked_body_that_was_touched(data: bytes) -> None:
    chunks = decoder()
    with pytest.raises(MarramError) as caught:
        chunks.feed(data)
        chunks.finish()
    assert isinstance(caught.value, Unauthenticated | Invalid)


def test_signed_bytes_are_not_released_before_their_signature() -> None:
    chunks = decoder()
    assert chunks.feed(body()[:60_000]) == b""


def test_an_unsigned_body_with_a_trailer() -> None:
    chunks = decoder(signed=False, trailer=True, length=3)
    assert chunks.feed(b"3\r\nabc\r\n0\r\nx-amz-checksum-crc32:NSRBwg==\r\n\r\n") == b"abc"
    chunks.finish()
    assert chunks.trailers == {"x-amz-checksum-crc32": "NSRBwg=="}
    for wrong in (b"4\r\nabcd\r\n", b"3;x=y\r\nabc\r\n", b"-3\r\n", b"3\r\nabcX\r\n"):
        with pytest.raises(Invalid):
            decoder(signed=False, trailer=True, length=3).feed(wrong)


def test_a_signed_trailer_is_checked() -> None:
    key, date, scope = KEY, "20130524T000000Z", "20130524/us-east-1/s3/aws4_request"
    line = "x-amz-checksum-crc32:NSRBwg=="

    def sign(text: str) -> str:
        return hmac.digest(key, text.encode(), "sha256").hex()

    def chunk(previous: str, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        return sign(f"AWS4-HMAC-SHA256-PAYLOAD\n{date}\n{scope}\n{previous}\n{sigv4.EMPTY_SHA256}\n{digest}")

    first = chunk(SEED, b"abc")
    last = chunk(first, b"")
    digest = hashlib.sha256(f"{line}\n".encode()).hexdigest()
    end = sign(f"AWS4-HMAC-SHA256-TRAILER\n{date}\n{scope}\n{last}\n{digest}")
    data = f"3;chunk-signature={first}\r\nabc\r\n0;chunk-signature={last}\r\n{line}\r\n"
    good = decoder(trailer=True, length=3)
    assert good.feed(f"{data}x-amz-trailer-signature:{end}\r\n\r\n".encode()) == b"abc"
    good.finish()
    with pytest.raises(Unauthenticated):
        decoder(trailer=True, length=3).feed(f"{data}x-amz-trailer-signature:{first}\r\n\r\n".encode())


def test_credentials_do_not_show_their_secrets() -> None:
    assert "wJalr" not in repr(sigv4.Credentials("AKID", "wJalr-secret", "wJalr-token"))
