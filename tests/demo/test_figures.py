"""The demo's arithmetic."""

import math

import pytest

from demo import figures


@pytest.mark.parametrize(
    ("values", "share", "wanted"),
    [
        pytest.param([5.0], 0.99, 5.0, id="one"),
        pytest.param([float(n) for n in range(1, 101)], 0.99, 99.0, id="p99 of 100"),
        pytest.param([float(n) for n in range(100, 0, -1)], 0.5, 50.0, id="median, any order"),
        pytest.param([1.0, 2.0, 3.0], 1.0, 3.0, id="all"),
    ],
)
def test_percentile(values: list[float], share: float, wanted: float) -> None:
    assert figures.percentile(values, share) == wanted


def test_of_nothing_is_nan() -> None:
    assert math.isnan(figures.percentile([], 0.99)) and math.isnan(figures.mean([]))


def row(time_ms: int, first: int, last: int) -> dict[str, float]:
    return {"time_ms": time_ms, "age_ms": 0.0, "first": first, "last": last}


def test_a_gap_is_between_the_last_frame_of_one_batch_and_the_first_of_the_next() -> None:
    rows = [row(1_000, 0, 10), row(2_100, 11, 20), row(5_000, 0, 10)]  # 10 frames a second; a restart in between
    assert figures.longest_gap_s(rows, 10.0) == pytest.approx(1.9)


def test_batches_out_of_order_make_no_gap() -> None:
    rows = [row(2_000, 11, 20), row(1_000, 1, 10)]
    assert figures.longest_gap_s(rows, 10.0) == pytest.approx(0.1)


def test_dropped_are_those_between_two_rows() -> None:
    first = {"due": 100, "dropped": 5, "skipped": 0, "failed": 0}
    last = {"due": 300, "dropped": 6, "skipped": 1, "failed": 0}
    assert figures.share_dropped(first, last) == pytest.approx(0.01)
    assert figures.share_dropped(first, first) == 0.0
