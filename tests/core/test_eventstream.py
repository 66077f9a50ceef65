import contextlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from marram.core import eventstream as es
from marram.core.errors import Invalid

values = st.one_of(
    st.booleans(), st.integers(-(2**31), 2**31 - 1), st.text("aé€😀\0", max_size=9), st.binary(max_size=9)
)
names = st.text("abcdefghij:-", min_size=1, max_size=9)
messages = st.builds(es.Message, st.dictionaries(names, values, max_size=4), st.binary(max_size=99))


def test_connect_as_awsiotsdk_frames_it() -> None:
    # observed, awsiotsdk 1.31 (aws-c-event-stream): empty frame is 16 bytes, CRC-32 of the prelude and of all before.
    assert es.encode({}).hex() == "00000010" + "00000000" + "05c248eb" + "7d98c8ff"


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(messages, max_size=3), st.data())
def test_any_cut_of_the_stream_gives_the_same_messages(sent: list[es.Message], data: st.DataObject) -> None:
    stream = b"".join(es.encode(m.headers, m.payload) for m in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=4)))
    decoder = es.Decoder()
    got: list[es.Message] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        got += decoder.receive(stream[start:end])
    assert got == sent


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(messages, st.data())
def test_no_flipped_bit_is_believed(message: es.Message, data: st.DataObject) -> None:
    frame = bytearray(es.encode(message.headers, message.payload))
    bit = data.draw(st.integers(0, len(frame) * 8 - 1))
    frame[bit // 8] ^= 1 << bit % 8
    with pytest.raises(Invalid):
        if not es.Decoder().receive(bytes(frame)):
            raise Invalid("waits for more, which the checksum of the prelude must not allow")


@given(st.binary(max_size=300))
def test_noise_is_refused_or_waits(noise: bytes) -> None:
    with contextlib.suppress(Invalid):
        es.Decoder().receive(noise)


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(b"\x05abc", id="name cut"),
        pytest.param(b"\x01a", id="no type"),
        pytest.param(b"\x01a\x0a", id="unknown type"),
        pytest.param(b"\x01a\x04\x00", id="int cut"),
        pytest.param(b"\x01a\x07\x00\x09b", id="text cut"),
        pytest.param(b"\x01a\x07\x00\x01\xff", id="text not UTF-8"),
        pytest.param(b"\x01a\x05\x00\x00", id="int64 cut"),
    ],
)
def test_malformed_headers_are_refused(block: bytes) -> None:
    with pytest.raises(Invalid):
        es.Decoder().receive(es.frame(block, b"payload"))


def test_a_frame_over_the_limit_is_refused_before_it_is_buffered() -> None:
    with pytest.raises(Invalid):
        es.Decoder(max_message=100).receive(es.encode({}, b"x" * 100)[:12])


def test_the_quick_header_block_equals_the_general_one() -> None:
    quick = es.application_block(1, 2, 7, "aws.greengrass#ServiceError")
    assert quick == es.header_block(
        {
            ":message-type": 1,
            ":message-flags": 2,
            ":stream-id": 7,
            ":content-type": "application/json",
            "service-model-type": "aws.greengrass#ServiceError",
        }
    )


def test_all_header_types_are_read() -> None:
    block = (
        b"\x01b\x02\xff" + b"\x01s\x03\xff\xfe" + b"\x01l\x05" + b"\0" * 7 + b"\x05" + b"\x01u\x09" + bytes(range(16))
    )
    (message,) = es.Decoder().receive(es.frame(block, b""))
    assert message.headers == {"b": -1, "s": -2, "l": 5, "u": bytes(range(16))}
