"""What the JSON door reads and what it refuses; its depth limit is in test_codec_depth.py."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marram.core import codec
from marram.core.errors import Invalid


@pytest.mark.parametrize(
    "text", [r'"\ud800"', r'{"\uDFFF": 1}', r'[{"a": ["x\uD83D"]}]', r'"\udc00\ud800"', r'"\ud800\\udc00"']
)
def test_half_a_surrogate_pair_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="surrogate"):
        codec.loads(text.encode())


@pytest.mark.parametrize(
    ("text", "value"), [(r'"\ud83d\ude00"', "\U0001f600"), (r'"\\ud800"', r"\ud800"), (r'"\u00e9"', "\u00e9")]
)
def test_whole_pairs_and_other_escapes_are_read(text: str, value: str) -> None:
    assert codec.loads(text.encode()) == value


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_our_own_text_reads_back(value: object) -> None:
    try:
        text = codec.dumps(value)
    except Invalid:
        return  # half of a surrogate pair
    assert codec.loads_own(text) == value


@pytest.mark.parametrize("text", [b"{", b"", b"\xff", b"[" * 100_000])
def test_text_that_is_not_ours_is_refused(text: bytes) -> None:
    with pytest.raises(Invalid, match="not what was written"):
        codec.loads_own(text)
