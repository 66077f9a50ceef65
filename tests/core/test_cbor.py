"""CBOR: the vectors of RFC 8949, Appendix A that we read, refusals, and any document there and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marram.core import cbor
from marram.core.errors import Invalid

VECTORS = [
    ("00", 0), ("17", 23), ("1818", 24), ("1903e8", 1000), ("1b000000e8d4a51000", 1_000_000_000_000),
    ("1bffffffffffffffff", 18446744073709551615), ("20", -1), ("3903e7", -1000), ("3bffffffffffffffff", -18446744073709551616),
    ("f93c00", 1.0), ("fa47c35000", 100000.0), ("fb3ff199999999999a", 1.1), ("f4", False), ("f5", True), ("f6", None),
    ("4401020304", b"\x01\x02\x03\x04"), ("60", ""), ("6161", "a"), ("62c3bc", "\u00fc"), ("80", []), ("83010203", [1, 2, 3]),
    ("a0", {}), ("a26161016162820203", {"a": 1, "b": [2, 3]}), ("5f42010243030405ff", b"\x01\x02\x03\x04\x05"),
    ("7f657374726561646d696e67ff", "streaming"), ("9f018202039f0405ffff", [1, [2, 3], [4, 5]]),
    ("bf6346756ef563416d7421ff", {"Fun": True, "Amt": -2}), ("d9d9f7a0", {}),
]  # fmt: skip

REFUSED = [
    pytest.param("", "ends early", id="nothing"),
    pytest.param("61", "ends early", id="text cut off"),
    pytest.param("0000", "after the value", id="two values"),
    pytest.param("1c", "well-formed", id="reserved length"),
    pytest.param("9bffffffffffffffff", "not there", id="array of 2**64"),
    pytest.param("bbffffffffffffffff", "not there", id="map of 2**64"),
    pytest.param("5affffffff", "ends early", id="string of 4 GB"),
    pytest.param("a2616101616102", "duplicate key", id="duplicate key"),
    pytest.param("a10102", "not text", id="key is a number"),
    pytest.param("f97e00", "not finite", id="NaN"),
    pytest.param("f97c00", "not finite", id="infinity"),
    pytest.param("c074", "tag", id="tag of a date"),
    pytest.param("e0", "not supported", id="unassigned simple value"),
    pytest.param("ff", "not supported", id="break alone"),
    pytest.param("61ff", "UTF-8", id="text that is not UTF-8"),
    pytest.param("7f6161", "ends early", id="text without its break"),
    pytest.param("7f4161ff", "another type", id="bytes within a text"),
    pytest.param("7f7f6161ffff", "another type", id="indefinite within indefinite"),
    pytest.param("81" * 40 + "00", "deeper", id="nested too deep"),
    pytest.param("9f" * 40 + "ff" * 40, "deeper", id="nested too deep, indefinite"),
    pytest.param("d9d9f7" * 40 + "00", "deeper", id="tags of tags"),
]


@pytest.mark.parametrize(("text", "value"), VECTORS)
def test_vectors(text, value):
    found = cbor.loads(bytes.fromhex(text))
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(("text", "why"), REFUSED)
def test_refused(text, why):
    with pytest.raises(Invalid, match=why):
        cbor.loads(bytes.fromhex(text))


def test_size_is_looked_at_first():
    with pytest.raises(Invalid, match="over the limit of 10"):
        cbor.loads(cbor.dumps("x" * 10), max_bytes=10)


def test_a_document_is_a_map():
    with pytest.raises(Invalid, match="must be a map"):
        cbor.loads_object(cbor.dumps([1]))


@pytest.mark.parametrize("value", [float("nan"), 1 << 64, {1: 2}, object(), "\ud800"])
def test_what_cannot_be_written(value):
    with pytest.raises(Invalid):
        cbor.dumps(value)


documents = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 64), (1 << 64) - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)  # fmt: skip


@given(documents)
def test_there_and_back(value):
    assert cbor.loads(cbor.dumps(value), max_depth=64) == value


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data):
    try:
        value = cbor.loads(data)
    except Invalid:
        return
    assert cbor.loads(cbor.dumps(value), max_depth=64) == value
