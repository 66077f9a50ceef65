"""The depth limit of the JSON door: brackets count outside strings only, in linear time."""

import json
import time

import pytest

from marram.core import codec
from marram.core.errors import Invalid


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("[" * 64 + "]" * 64, id="at the limit"),
        pytest.param('["' + "[{" * 100 + '"]', id="brackets in a string"),
        pytest.param('["\\"' + "[{" * 100 + '"]', id="behind an escaped quote"),
        pytest.param('["\\\\",' + "[]," * 100 + "0]", id="behind an escaped backslash"),
        pytest.param(json.dumps([{"a": [n]} for n in range(500)]), id="wide"),
    ],
)
def test_texts_within_the_limit_are_read(text: str) -> None:
    assert codec.loads(text) == json.loads(text)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("[" * 65 + "]" * 65, id="one over"),
        pytest.param('["\\\\",' + "[" * 64 + "]" * 64 + "]", id="behind an escaped backslash"),
        pytest.param("[" * 100 + '"never closed\\', id="torn"),
    ],
)
def test_deeper_texts_are_refused(text: str) -> None:
    with pytest.raises(Invalid, match="deeper than 64"):
        codec.loads(text)


def test_a_torn_string_of_quotes_is_not_quadratic() -> None:
    began = time.perf_counter()
    with pytest.raises(Invalid):
        codec.loads("[" * 100 + '"' + '\\"' * 1_000_000)
    assert time.perf_counter() - began < 5
