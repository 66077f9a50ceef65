"""Frame ids: expanded as the component writes them, compared both ways."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo import ids


def ranges(numbers: list[int]) -> str:
    """As the component writes them: 3,4,5,9 -> "3-5,9"."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][1] == number - 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


@given(st.sets(st.integers(0, 10_000), min_size=1).map(sorted))
def test_expand_gives_back_what_was_written(numbers: list[int]) -> None:
    assert ids.expand(f"ab12:{ranges(numbers)}") == [("ab12", number) for number in numbers]


def test_the_ledger_leaves_out_a_line_that_a_kill_cut_short() -> None:
    found = ids.ledger(["sending a:1-3\n", "sent a:1-3\n", "local a:4\n", "sending a:5-7\n", "sent a:5-"])
    assert found.sent == {("a", 1), ("a", 2), ("a", 3)}
    assert found.sending == found.sent | {("a", 5), ("a", 6), ("a", 7)}
    assert found.local == {("a", 4)}


EDGE = ids.ledger(["sending a:1-3\n", "sent a:1-3\n", "local a:4\n", "sending a:5-7\n"])


@pytest.mark.parametrize(
    ("rows", "missing", "twice", "unknown", "leaked"),
    [
        pytest.param(["a:1-3"], 0, 0, 0, 0, id="exact"),
        pytest.param(["a:1-3", "a:5-7"], 0, 0, 0, 0, id="taken just before the kill is allowed"),
        pytest.param(["a:1,3"], 1, 0, 0, 0, id="missing"),
        pytest.param(["a:1-3", "a:3"], 0, 1, 0, 0, id="twice"),
        pytest.param(["a:1-3", "a:99", "b:1"], 0, 0, 2, 0, id="never sent"),
        pytest.param(["a:1-4"], 0, 0, 1, 1, id="stays local"),
    ],
)
def test_compare(rows: list[str], missing: int, twice: int, unknown: int, leaked: int) -> None:
    found = ids.compare(EDGE, rows)
    assert (found.missing, found.twice, found.unknown, found.leaked) == (missing, twice, unknown, leaked)
    assert found.exact == (missing + twice + unknown + leaked == 0)
    assert (found + found).missing == 2 * missing
