"""What the JSON door reads and what it refuses; its depth limit is in test_codec_depth.py."""

import pytest

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
