"""WebSocket frames of a client: the examples of RFC 6455, rows of what is not allowed, any split, any bytes."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marram.core import websocket
from marram.core.errors import Invalid
from marram.core.websocket import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Broken,
    Closed,
    Data,
    Event,
    Ping,
    Reader,
)
from tests.full import many

ROUNDS = many(400, 200_000)
MASK = b"\x37\xfa\x21\x3d"
GOOD = {
    "upgrade": "websocket",
    "connection": "keep-alive, Upgrade",
    "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    "sec-websocket-protocol": "mqtt",
}


def masked(payload: bytes, opcode: int = BINARY, *, final: bool = True, mask: bytes = MASK) -> bytes:
    """A frame as clients send it; written apart from the code under test."""
    size = len(payload)
    head = bytes([(0x80 if final else 0) | opcode])
    head += (
        bytes([0x80 | size])
        if size < 126
        else b"\xfe" + size.to_bytes(2)
        if size < 65536
        else b"\xff" + size.to_bytes(8)
    )
    return head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


def read(data: bytes, *cuts: int, reader: Reader | None = None) -> list[Event]:
    reader = reader or Reader()
    out: list[Event] = []
    at = 0
    for cut in (*sorted(cuts), len(data)):
        if cut > at:
            out += reader.receive(data[at:cut])
            at = cut
    return out


def joined(events: list[Event]) -> list[object]:
    """Data that follows data is one."""
    out: list[object] = []
    for event in events:
        if isinstance(event, Data):
            if out and isinstance(out[-1], bytes):
                out[-1] += event.payload
            else:
                out.append(event.payload)
        else:
            out.append(event)
    return out


def accept(**changes: object) -> dict[str, str]:
    given: dict[str, object] = {
        "method": "GET",
        "version_1_1": True,
        "has_body": False,
        "headers": GOOD,
        "subprotocol": "mqtt",
    }
    return websocket.accept(**{**given, **changes})  # type: ignore[arg-type]


def test_the_handshake_of_the_rfc() -> None:
    answer = accept()
    assert answer["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert answer["sec-websocket-protocol"] == "mqtt" and answer["connection"] == "Upgrade"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param({"method": "POST"}, "GET", id="not GET"),
        pytest.param({"version_1_1": False}, "HTTP/1.1", id="HTTP/1.0"),
        pytest.param({"has_body": True}, "without a body", id="a body"),
        pytest.param({"headers": GOOD | {"upgrade": "h2c"}}, "Upgrade", id="another upgrade"),
        pytest.param({"headers": GOOD | {"connection": "close"}}, "Connection", id="no Connection: Upgrade"),
        pytest.param({"headers": GOOD | {"sec-websocket-version": "8"}}, "13", id="version 8"),
        pytest.param({"headers": GOOD | {"sec-websocket-key": "c2hvcnQ="}}, "16 bytes", id="a short key"),
        pytest.param({"headers": GOOD | {"sec-websocket-key": "!" * 24}}, "16 bytes", id="no base64"),
        pytest.param({"headers": GOOD | {"sec-websocket-protocol": "MQTT"}}, "mqtt", id="upper case"),
        pytest.param({"headers": GOOD | {"sec-websocket-protocol": "mqttv3.1, chat"}}, "mqtt", id="others"),
        pytest.param({"headers": {k: v for k, v in GOOD.items() if k != "sec-websocket-protocol"}}, "mqtt", id="none"),
    ],
)
def test_a_handshake_that_is_refused(changes: dict[str, object], says: str) -> None:
    with pytest.raises(Invalid, match=says):
        accept(**changes)


def test_a_list_of_subprotocols_is_searched() -> None:
    assert accept(headers=GOOD | {"sec-websocket-protocol": "chat , mqtt"})["sec-websocket-protocol"] == "mqtt"


def test_the_masked_hello_of_the_rfc() -> None:
    # 5.7, as binary instead of text
    assert read(bytes.fromhex("82 85 37 fa 21 3d 7f 9f 4d 51 58")) == [Data(b"Hello")]
    assert read(bytes.fromhex("89 85 37 fa 21 3d 7f 9f 4d 51 58")) == [Ping(b"Hello")]
    assert websocket.frame(b"Hello") == bytes.fromhex("82 05") + b"Hello"
    assert websocket.frame(b"x" * 256)[:4] == bytes.fromhex("82 7e 01 00")
    assert websocket.frame(b"x" * 65536)[:10] == bytes.fromhex("82 7f 00 00 00 00 00 01 00 00")


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, websocket.MAX_FRAME])
def test_every_length(size: int) -> None:
    payload = os.urandom(size)
    assert joined(read(masked(payload) + masked(b"end"))) == [payload + b"end"]


def test_a_fragmented_message_with_a_ping_inside() -> None:
    data = masked(b"Hel", final=False) + masked(b"?", PING) + masked(b"lo", CONTINUATION)
    assert read(data) == [Data(b"Hel"), Ping(b"?"), Data(b"lo")]


def test_a_pong_is_nothing() -> None:
    assert read(masked(b"unasked", PONG) + masked(b"a")) == [Data(b"a")]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(b"\xc2\x80" + MASK, 1002, id="reserved bit 1"),
        pytest.param(b"\xa2\x80" + MASK, 1002, id="reserved bit 2"),
        pytest.param(b"\x92\x80" + MASK, 1002, id="reserved bit 3"),
        pytest.param(b"\x82\x05Hello", 1002, id="not masked"),
        pytest.param(masked(b"text", TEXT), 1003, id="text"),
        pytest.param(masked(b"", 3), 1002, id="reserved data opcode"),
        pytest.param(masked(b"", 0xB), 1002, id="reserved control opcode"),
        pytest.param(masked(b"a", PING, final=False), 1002, id="fragmented ping"),
        pytest.param(masked(b"x" * 126, PING), 1002, id="long ping"),
        pytest.param(masked(b"a", CONTINUATION), 1002, id="continuation of nothing"),
        pytest.param(masked(b"a", final=False) + masked(b"b"), 1002, id="a message inside of a message"),
        pytest.param(b"\x82\xfe\x00\x05" + MASK + b"Hello", 1002, id="16 bits for 5"),
        pytest.param(b"\x82\xff" + (200).to_bytes(8) + MASK, 1002, id="64 bits for 200"),
        pytest.param(b"\x82\xff\xff" + bytes(7) + MASK, 1009, id="a length with its highest bit"),
        pytest.param(b"\x82\xff" + (websocket.MAX_FRAME + 1).to_bytes(8) + MASK, 1009, id="too long"),
        pytest.param(masked(b"x", CLOSE), 1002, id="close of one byte"),
        pytest.param(masked((1005).to_bytes(2), CLOSE), 1002, id="close 1005"),
        pytest.param(masked((999).to_bytes(2), CLOSE), 1002, id="close 999"),
        pytest.param(masked((5000).to_bytes(2), CLOSE), 1002, id="close 5000"),
        pytest.param(masked((1000).to_bytes(2) + b"\xff", CLOSE), 1007, id="close with bad UTF-8"),
    ],
)
def test_what_breaks_the_protocol(data: bytes, code: int) -> None:
    for cuts in ((), tuple(range(1, len(data)))):
        with pytest.raises(Broken) as caught:
            read(data, *cuts)
        assert caught.value.close == code


def test_after_a_close_nothing_is_read() -> None:
    close = masked((1000).to_bytes(2) + b"bye", CLOSE)
    assert read(masked(b"a") + close + masked(b"b")) == [Data(b"a"), Closed(1000, "bye")]
    reader = Reader()
    assert read(close, reader=reader) == [Closed(1000, "bye")]
    assert reader.receive(b"\xff" * 100) == []
    assert read(masked(b"", CLOSE)) == [Closed(websocket.NO_STATUS, "")]


def test_our_own_close_fits_a_control_frame() -> None:
    made = websocket.close(1002, "ä" * 100)
    assert made[0] == 0x88 and made[1] == len(made) - 2 <= 125
    made[4:].decode()
    assert websocket.close(websocket.NO_STATUS) == b"\x88\x00"


def test_what_is_held_of_a_frame_that_is_not_whole() -> None:
    reader = Reader()
    reader.receive(b"\x82\xff" + (websocket.MAX_FRAME).to_bytes(8))
    assert len(reader._buffer) <= 13
    reader.receive(MASK + b"x" * 5000)
    assert reader._buffer == b""


frames = st.lists(
    st.tuples(st.binary(max_size=300), st.sampled_from([BINARY, PING, PONG]), st.binary(min_size=4, max_size=4)),
    max_size=6,
)


@given(frames, st.data())
@settings(max_examples=ROUNDS // 4, deadline=None)
def test_any_split_gives_the_same(made: list[tuple[bytes, int, bytes]], data: st.DataObject) -> None:
    made = [(payload if opcode == BINARY else payload[:125], opcode, mask) for payload, opcode, mask in made]
    whole = b"".join(masked(payload, opcode, mask=mask) for payload, opcode, mask in made)
    cuts = data.draw(st.lists(st.integers(0, len(whole)), max_size=12))
    wanted: list[Event] = [
        Data(payload) if opcode == BINARY else Ping(payload)
        for payload, opcode, _ in made
        if opcode != PONG and (payload or opcode == PING)
    ]
    assert joined(read(whole, *cuts)) == joined(wanted)


@given(st.lists(st.binary(max_size=60), max_size=6), st.booleans())
@settings(max_examples=ROUNDS, deadline=None)
def test_no_bytes_do_more_than_break_it(pieces: list[bytes], begun: bool) -> None:
    reader = Reader(max_frame=100)
    if begun:
        reader.receive(masked(b"a", final=False))
    given_bytes = 0
    for piece in pieces:
        try:
            events = reader.receive(piece)
        except Broken:
            return
        given_bytes += len(piece)
        # Nothing is made up: what comes out is at most what went in, and what is held is a head or a control frame.
        given_bytes -= sum(len(event.payload) for event in events if isinstance(event, Data))
        assert given_bytes >= 0
        assert len(reader._buffer) <= 13 and len(reader._payload) <= 125
