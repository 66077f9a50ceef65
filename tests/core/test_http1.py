"""HTTP/1.1 framing: never two readings of the same bytes. The refusals on a socket are in tests/hub/border/test_https.py."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marram.core import http1
from marram.core.errors import Invalid, MarramError

HEAD = b"POST /a?b=c HTTP/1.1\r\nHost: h\r\nX-A:  one\t \r\nx-a: two\r\nEmpty:\r\nContent-Length: 5"


def test_a_head() -> None:
    head = http1.parse_request(HEAD)
    assert (head.method, head.target, head.length, head.keep_alive) == ("POST", "/a?b=c", 5, True)
    assert head.headers == {"host": "h", "x-a": "one,two", "empty": "", "content-length": "5"}


@pytest.mark.parametrize(
    ("line", "keep"),
    [
        (b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Close", False),
        (b"GET / HTTP/1.0", False),
        (b"GET / HTTP/1.1\r\nHost: h", True),
    ],
)
def test_keep_alive(line: bytes, keep: bool) -> None:
    assert http1.parse_request(line).keep_alive is keep


@given(st.binary(max_size=200))
def test_no_bytes_do_more_than_be_refused(data: bytes) -> None:
    for text in (data, b"GET / HTTP/1.1\r\nHost: h\r\n" + data, b"HTTP/1.1 200 OK\r\n" + data):
        for parse in (http1.parse_request, lambda raw: http1.parse_response(raw, method="GET")):
            try:
                head = parse(text)
            except MarramError:
                continue
            assert all("\r" not in v and "\n" not in v and "\0" not in v for v in head.headers.values())


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=6), st.binary(max_size=20), st.data())
def test_a_chunked_body_in_any_pieces(chunks: list[bytes], rest: bytes, data: st.DataObject) -> None:
    wire = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    whole = wire + rest
    cut = data.draw(st.integers(0, len(whole)))
    body = http1.Body(http1.CHUNKED)
    out = body.feed(whole[:cut])
    left = body.rest
    if not body.done:
        out += body.feed(whole[cut:])
        left = body.rest
    else:
        left += whole[cut:]
    assert b"".join(out) == b"".join(chunks)
    assert body.done and left == rest


@given(st.binary(max_size=100), st.binary(max_size=20))
def test_a_body_of_a_length(payload: bytes, rest: bytes) -> None:
    body = http1.Body(len(payload))
    out = b"".join(b"".join(body.feed(bytes([byte]))) for byte in payload) if payload else b""
    assert out == payload and body.done
    body = http1.Body(len(payload))
    if payload:
        assert b"".join(body.feed(payload + rest)) == payload
        assert body.rest == rest


@pytest.mark.parametrize(
    "data", [b"g\r\n", b"1;a\r\n", b"-1\r\n", b"\r\n", b"1\r\nab", b"0\r\nx: y\r\n", b"1" * 20, b"0x1\r\n", b"1 \r\n"]
)
def test_chunk_framing_that_is_refused(data: bytes) -> None:
    with pytest.raises(Invalid):
        http1.Body(http1.CHUNKED).feed(data + b"\r\n" * (b"\r\n" not in data[2:]))
