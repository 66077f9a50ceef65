"""Attacks on the API door: T7 signatures, T12 documents, each by its name in the threat model; what must not happen is reached.

T9 and T10, on a socket, are in test_https.py and tests/kit/test_net.py; T8, TLS, in tests/wire/test_attacks_tls.py.
"""

import hashlib
import time
from collections.abc import AsyncIterator, Iterable
from typing import Any
from urllib.parse import parse_qsl

import pytest

from marram.core import sigv4
from marram.hub.border.awsjson import Request, Response
from tests.hub.border import test_contract as contract
from tests.hub.border.conftest import REGION, Door

assert contract  # importing it declares the operations
HOST = {"host": "localhost"}
MINUTE_MS = 60_000
WRONG = ("InvalidSignatureException", "ForbiddenException", "SignatureDoesNotMatch")  # iot, iot-data, s3


def signed(
    door: Door, method: str = "GET", path: str = "/things/a", *, body: bytes = b"", query: Iterable[tuple[str, str]] = (),
    headers: dict[str, str] | None = None, service: str = "iot", region: str = REGION, shift_ms: int = 0,
    held: sigv4.Credentials | None = None,
) -> Request:  # fmt: skip
    query = list(query)
    made = sigv4.sign(
        held or door.admin, method=method, path=path, query=query, headers=HOST | (headers or {}), body=body,
        region=region, service=service, now_ms=door.clock.wall_ms() + shift_ms,
    )  # fmt: skip
    target = path + ("?" + sigv4.canonical_query(query) if query else "")
    return Request(method=method, target=target, headers=made, body=body, source_ip="127.0.0.1")


def changed(request: Request, **headers: str | None) -> Request:
    fields = {**request.headers, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return Request(
        method=request.method, target=request.target, body=request.body, source_ip=request.source_ip,
        headers={name: value for name, value in fields.items() if value is not None},
    )  # fmt: skip


def code(answer: Response) -> str:
    assert isinstance(answer.body, bytes)
    return answer.headers.get("x-amzn-errortype") or answer.body.decode().partition("<Code>")[2].partition("<")[0]


async def refused(door: Door, request: Request, *codes: str) -> Response:
    reached, answer = await door.ask(request)
    assert not reached and answer.status in (400, 401, 403), answer
    assert code(answer) in codes, answer
    return answer


async def test_t07_a_good_one_is_reached(real_door: Door) -> None:
    """So that the refusals below are for the reason they name."""
    assert (await real_door.ask(signed(real_door)))[0]


@pytest.mark.parametrize(("service", "minutes"), [("iot", 5), ("s3", 15)])
@pytest.mark.parametrize("side", [-1, 1], ids=["behind", "ahead"])
async def test_t07_replay_outside_of_the_window(real_door: Door, service: str, minutes: int, side: int) -> None:
    path = "/things/a" if service == "iot" else "/bucket/key"
    inside = signed(real_door, path=path, service=service, shift_ms=side * (minutes * MINUTE_MS - 2000))
    assert (await real_door.ask(inside))[0]
    outside = signed(real_door, path=path, service=service, shift_ms=side * (minutes * MINUTE_MS + 2000))
    await refused(real_door, outside, *WRONG, "RequestTimeTooSkewed")


async def test_t07_the_server_clock_moves_on_and_the_captured_request_dies(real_door: Door) -> None:
    request = signed(real_door)
    assert (await real_door.ask(request))[0]
    real_door.clock.advance(5 * MINUTE_MS + 2000)
    await refused(real_door, request, *WRONG)


@pytest.mark.parametrize(
    ("change", "codes"),
    [
        pytest.param({"x_amz_target": "SageMaker.DeleteAll"}, {*WRONG}, id="x-amz header added"),
        pytest.param({"x_amz_security_token": "abc"}, {*WRONG, "UnrecognizedClientException"}, id="token added"),
        pytest.param({"host": "elsewhere"}, {*WRONG}, id="host swapped"),
        pytest.param({"x_amz_date": None}, {"IncompleteSignatureException"}, id="no date"),
        pytest.param({"x_amz_content_sha256": "UNSIGNED-PAYLOAD"}, {"IncompleteSignatureException"}, id="unsigned payload"),
        pytest.param({"x_amz_content_sha256": hashlib.sha256(b"x").hexdigest()}, {*WRONG}, id="another hash"),
        pytest.param({"x_amz_content_sha256": "\xe9" * 64}, {"IncompleteSignatureException"}, id="no hash at all"),
        pytest.param({"authorization": None}, {"MissingAuthenticationTokenException", "AccessDenied"}, id="no signature"),
    ],
)  # fmt: skip
async def test_t07_headers(real_door: Door, change: dict[str, str | None], codes: set[str]) -> None:
    await refused(real_door, changed(signed(real_door), **change), *codes)


async def test_t07_a_header_that_was_signed_is_taken_away(real_door: Door) -> None:
    request = signed(real_door, headers={"x-amz-meta-a": "1"})
    await refused(real_door, changed(request, x_amz_meta_a=None), *WRONG)


async def test_t07_host_is_not_signed(real_door: Door) -> None:
    request = signed(real_door)
    stated = request.headers["authorization"].replace("host;", "")
    await refused(real_door, changed(request, authorization=stated), *WRONG)


async def test_t07_query_and_header_together(real_door: Door) -> None:
    request = signed(real_door)
    request.target += "?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=" + "0" * 64
    await refused(real_door, request, "IncompleteSignatureException")


@pytest.mark.parametrize("first", ["nobody", "admin"])
async def test_t07_a_parameter_given_twice(real_door: Door, first: str) -> None:
    text = sigv4.presign(
        real_door.admin, method="GET", host="localhost", path="/things/a", region=REGION, service="iot", expires_s=60,
        now_ms=real_door.clock.wall_ms(),
    )  # fmt: skip
    more = "X-Amz-Credential=nobody/20250101/local-1/iot/aws4_request"
    text = f"{more}&{text}" if first == "nobody" else f"{text}&{more}"
    request = Request(method="GET", target=f"/things/a?{text}", headers=HOST, body=b"", source_ip="127.0.0.1")
    await refused(real_door, request, "IncompleteSignatureException")


@pytest.mark.parametrize(
    ("sent", "signed_path"),
    [
        pytest.param("/things/a%252Fb", "/things/a%2Fb", id="encoded twice"),
        pytest.param("/things/a%2fb", "/things/a/b", id="slash encoded"),
        pytest.param("/topics//a", "/topics/a", id="empty segment"),
        pytest.param("/topics/x/../a", "/topics/a", id="dot dot"),
        pytest.param("/topics/./a", "/topics/a", id="dot"),
        pytest.param("/./topics/a", "/topics/a", id="dot in front"),
        pytest.param("//topics/a", "/topics/a", id="two slashes in front"),
        pytest.param("/topics/a/", "/topics/a", id="slash behind"),
    ],
)
async def test_t07_a_path_that_is_signed_as_another(real_door: Door, sent: str, signed_path: str) -> None:
    """What dots and empty segments resolve to has the same signature; the topic `x/../a` is another than `a`."""
    service = "iot" if signed_path.startswith("/things") else "iotdata"
    request = signed(real_door, "POST", signed_path, service=service, body=b"x")
    request.target = sent
    await refused(real_door, request, *WRONG, "InvalidRequestException")


async def test_t07_a_topic_with_an_empty_level_is_sent_encoded(real_door: Door) -> None:
    reached, answer = await real_door.ask(signed(real_door, "POST", "/topics/a%2F%2Fb", service="iotdata", body=b"x"))
    assert reached and real_door.params["topic"] == "a//b", answer


async def test_t07_a_body_that_was_swapped(real_door: Door) -> None:
    request = signed(real_door, "POST", "/things/a", body=b"{}")
    request.body = b'{"thingTypeName": "x"}'
    await refused(real_door, request, *WRONG)
    await refused(real_door, changed(request, x_amz_content_sha256=hashlib.sha256(b"{}").hexdigest()), *WRONG)


async def test_t07_a_method_that_was_swapped(real_door: Door) -> None:
    request = signed(real_door, "GET", "/things/a")
    request.method = "DELETE"
    await refused(real_door, request, *WRONG)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"region": "us-east-1"}, id="region"),
        pytest.param({"service": "greengrass"}, id="service"),
        pytest.param({"service": "nothing"}, id="no such service"),
        pytest.param({"held": sigv4.Credentials("AKIAANOTHERACCOUNT00", "secret")}, id="key of another account"),
    ],
)
async def test_t07_scope(real_door: Door, changes: dict[str, Any]) -> None:
    reached, answer = await real_door.ask(signed(real_door, **changes))
    assert not reached and answer.status in (400, 403, 404), answer


async def test_t07_the_scope_is_swapped_after_signing(real_door: Door) -> None:
    request = signed(real_door)
    stated = request.headers["authorization"].replace("/iot/", "/marram/")
    await refused(real_door, changed(request, authorization=stated), *WRONG)


async def test_t07_one_keys_signature_under_anothers_name(real_door: Door) -> None:
    request = signed(real_door, held=real_door.viewer)
    stated = request.headers["authorization"].replace(real_door.viewer.access_key_id, real_door.admin.access_key_id)
    await refused(real_door, changed(request, authorization=stated), *WRONG)


async def test_t07_a_session_token_with_another_sessions_key(real_door: Door) -> None:
    held = sigv4.Credentials(real_door.admin.access_key_id, real_door.admin.secret, real_door.component.token)
    await refused(real_door, signed(real_door, held=held), "UnrecognizedClientException")


def presigned(door: Door, expires_s: int = 60, **changes: Any) -> Request:
    options: dict[str, Any] = {
        "method": "GET", "host": "localhost", "path": "/bucket/key", "region": REGION, "expires_s": expires_s,
        "now_ms": door.clock.wall_ms(),
    }  # fmt: skip
    text = sigv4.presign(door.admin, **{**options, **changes})
    return Request(method="GET", target=f"/bucket/key?{text}", headers=HOST, body=b"", source_ip="127.0.0.1")


async def test_t07_presigned_urls(real_door: Door) -> None:
    request = presigned(real_door)
    assert (await real_door.ask(request))[0]
    real_door.clock.advance(61_000)
    await refused(real_door, request, "AccessDenied")
    week = presigned(real_door, sigv4.MAX_PRESIGN_S)
    assert (await real_door.ask(week))[0]
    longer = presigned(real_door, sigv4.MAX_PRESIGN_S)
    longer.target = longer.target.replace(f"={sigv4.MAX_PRESIGN_S}", f"={sigv4.MAX_PRESIGN_S + 1}")
    await refused(real_door, longer, "AuthorizationHeaderMalformed")
    stretched = presigned(real_door, 60)
    stretched.target = stretched.target.replace("Expires=60", "Expires=600")
    await refused(real_door, stretched, *WRONG)
    other = presigned(real_door)
    other.target = other.target.replace("/bucket/key?", "/bucket/other?")
    await refused(real_door, other, *WRONG)
    put = presigned(real_door)
    put.method = "PUT"
    await refused(real_door, put, *WRONG)
    # Only MQTT over WebSocket takes a URL without an expiry, and a token behind the signature.
    pairs = [pair for pair in parse_qsl(presigned(real_door).target.partition("?")[2]) if pair[0] != "X-Amz-Expires"]
    bare = presigned(real_door)
    bare.target = "/bucket/key?" + sigv4.canonical_query(pairs)
    await refused(real_door, bare, "AuthorizationHeaderMalformed")


async def test_t07_an_unsigned_body_under_a_presigned_url_of_another_service(real_door: Door) -> None:
    text = sigv4.presign(
        real_door.admin, method="POST", host="localhost", path="/topics/a", region=REGION, service="iotdata", expires_s=60,
        now_ms=real_door.clock.wall_ms(),
    )  # fmt: skip
    request = Request(method="POST", target=f"/topics/a?{text}", headers=HOST, body=b"swapped", source_ip="127.0.0.1")
    await refused(real_door, request, *WRONG)


def upload(door: Door, body: bytes, length: int) -> Request:
    """A signed aws-chunked PUT: the first chunk's signature chains to the request's own."""
    date = sigv4.amz_date(door.clock.wall_ms())
    scope = f"{date[:8]}/{REGION}/s3/aws4_request"
    headers = HOST | {
        "x-amz-date": date, "x-amz-content-sha256": sigv4.STREAMING_SIGNED, "x-amz-decoded-content-length": str(length),
    }  # fmt: skip
    names = tuple(sorted(headers))
    key = sigv4.signing_key(door.admin.secret, date[:8], REGION, "s3")
    canonical = sigv4.canonical_request("PUT", "/bucket/key", (), headers, names, sigv4.STREAMING_SIGNED, True)
    seed = sigv4.signature(key, date, scope, canonical)
    headers["authorization"] = (
        f"{sigv4.ALGORITHM} Credential={door.admin.access_key_id}/{scope}, SignedHeaders={';'.join(names)}, Signature={seed}"
    )

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal seed
        for chunk in (body, b""):
            seed = _chunk_signature(key, date, scope, seed, chunk)
            yield b"%x;chunk-signature=%b\r\n%b\r\n" % (len(chunk), seed.encode(), chunk)

    return Request(method="PUT", target="/bucket/key", headers=headers, body=pieces(), source_ip="127.0.0.1")


def _chunk_signature(key: bytes, date: str, scope: str, previous: str, chunk: bytes) -> str:
    import hmac

    text = f"{sigv4.ALGORITHM}-PAYLOAD\n{date}\n{scope}\n{previous}\n{sigv4.EMPTY_SHA256}\n{hashlib.sha256(chunk).hexdigest()}"
    return hmac.digest(key, text.encode(), "sha256").hex()


@pytest.mark.parametrize("touch", ["nothing", "body", "signature", "order", "cut"])
async def test_t07_chunk_signatures(real_door: Door, monkeypatch: pytest.MonkeyPatch, touch: str) -> None:
    request = upload(real_door, b"hello world", 11)
    whole = b"".join([piece async for piece in request.body])  # type: ignore[union-attr]
    altered = {
        "nothing": whole,
        "body": whole.replace(b"hello", b"jello"),
        "signature": whole.replace(b"chunk-signature=", b"chunk-signature=0", 1),
        "order": whole[whole.index(b"0;chunk") :] + whole[: whole.index(b"0;chunk")],
        "cut": whole[: whole.index(b"0;chunk")],
    }[touch]

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(altered), 7):
            yield altered[at : at + 7]

    request.body = pieces()
    visible: list[bytes] = []
    key = ("s3", "PutObject")

    async def store(_: object, call: Any, params: Any) -> dict[str, object]:
        held = b"".join([piece async for piece in params["Body"]])
        visible.append(held)  # only after the last byte was checked
        return {}

    from dataclasses import replace

    monkeypatch.setitem(real_door.api._operations, key, replace(real_door.api._operations[key], function=store))  # type: ignore[index]
    answer = await real_door.api.handle(request)
    if touch == "nothing":
        assert answer.status == 200 and visible == [b"hello world"]
    else:
        assert answer.status in (400, 403) and visible == []


# T12: documents.

BOMBS = [
    pytest.param(b"[" * 100_000, id="depth 100,000"),
    pytest.param(b'{"a":' * 65 + b"1" + b"}" * 65, id="depth 65"),
    pytest.param(b'{"thingTypeName": ' + b"9" * 5000 + b"}", id="5,000 digits"),
    pytest.param(b'{"thingTypeName": 1e400}', id="a number without end"),
    pytest.param(b'{"thingTypeName": NaN}', id="NaN"),
    pytest.param(b'{"thingTypeName": -Infinity}', id="Infinity"),
    pytest.param(b'{"thingTypeName": "\\ud800"}', id="half a surrogate pair"),
    pytest.param(b'{"thingTypeName": "\xff"}', id="no UTF-8"),
    pytest.param(b"\xef\xbb\xbf{}x", id="a mark and more"),
    pytest.param(b'{"thingTypeName": "a", "thingTypeName": "b"}', id="a key twice"),
    pytest.param(b'{"a": 1} {"b": 2}', id="two documents"),
    pytest.param(b'{"thingTypeName": "%b"}' % (b"x" * 3_000_000), id="3 MB of text"),
    pytest.param(b'{"x": "' + b"\\u0000" * 400_000 + b'"}', id="400,000 NULs"),
    pytest.param(b"[]", id="a list"),
    pytest.param(b"null", id="null"),
    pytest.param(b'"x"', id="a text"),
]  # fmt: skip


@pytest.mark.parametrize("body", BOMBS)
async def test_t12_a_document_is_refused_and_quickly(real_door: Door, body: bytes) -> None:
    began = time.perf_counter()
    answer = await refused(
        real_door, signed(real_door, "POST", "/things/a", body=body), "InvalidRequestException", "ValidationException"
    )
    assert time.perf_counter() - began < 5  # a second at most where nothing else runs
    assert isinstance(answer.body, bytes) and len(answer.body) < 2000
    assert (await real_door.ask(signed(real_door)))[0]


async def test_t12_many_keys_are_read_in_time(real_door: Door) -> None:
    """How many there may be is the slice's to say; to read them takes time in proportion."""
    keys = b",".join(b'"k%d":"v"' % number for number in range(200_000))
    began = time.perf_counter()
    body = b'{"attributePayload": {"attributes": {%b}}}' % keys
    reached, answer = await real_door.ask(signed(real_door, "POST", "/things/a", body=body))
    assert time.perf_counter() - began < 5
    assert (reached and len(real_door.params["attributePayload"]["attributes"]) == 200_000) or answer.status == 400


async def test_t12_a_body_over_the_limit_is_not_read_to_its_end(real_door: Door) -> None:
    from marram.core import http1
    from marram.hub.border.chain import BODY_LIMIT, BODY_LIMIT_RAW

    head = http1.parse_request(b"POST /things/a HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999")
    assert real_door.api.body_limit(head) == BODY_LIMIT_RAW
    head.headers["authorization"] = signed(real_door, "POST").headers["authorization"]
    assert real_door.api.body_limit(head) == BODY_LIMIT


async def test_t12_forms_and_queries(real_door: Door) -> None:
    many = "&".join(f"A{n}=1" for n in range(300)).encode()
    form = {"content-type": "application/x-www-form-urlencoded"}
    request = signed(real_door, "POST", "/", service="sts", body=b"Action=GetCallerIdentity&" + many, headers=form)
    await refused(real_door, request, "ValidationError")
    request = signed(
        real_door, "POST", "/", service="sts", body=b"Action=GetCallerIdentity&Action=AssumeRole", headers=form
    )
    await refused(real_door, request, "ValidationError")
    wide = Request(
        method="GET", target="/things/a?" + "&".join(f"a{n}=1" for n in range(300)), headers=HOST, body=b"", source_ip="127.0.0.1",
    )  # fmt: skip
    await refused(real_door, wide, "InvalidRequestException")


async def test_t07_what_older_sdks_sign_iot_as(real_door: Door) -> None:
    """The service `execute-api` is iot and nothing else."""
    assert (await real_door.ask(signed(real_door, service="execute-api")))[0]
    reached, answer = await real_door.ask(signed(real_door, "POST", "/topics/a", service="execute-api", body=b"x"))
    assert not reached and answer.status == 404
