"""Pace, abort and retries against slow models that count with fractions and go thing by thing."""

import itertools
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marram.core import rollout
from marram.core.jobs import Status
from marram.core.rollout import Counts, Criterion, Exponential, Minute, Pace, Retries

GUIDE = Pace(maximum=1000, growth=Exponential(base=50, factor_tenths=20, notified=1000, succeeded=1000))


@pytest.mark.parametrize(
    ("notified", "succeeded", "expected"),
    [
        pytest.param(0, 0, 50, id="begins at the base"),
        pytest.param(999, 0, 50, id="one short"),
        pytest.param(1000, 0, 100, id="notified"),
        pytest.param(900, 2000, 200, id="succeeded, twice"),
        pytest.param(4000, 0, 800, id="four times"),
        pytest.param(5000, 0, 1000, id="not above the maximum"),
        pytest.param(10_000_000, 0, 1000, id="nor ever"),
    ],
)
def test_the_table_of_the_guide(notified: int, succeeded: int, expected: int) -> None:
    assert rollout.rate(GUIDE, notified=notified, succeeded=succeeded) == expected


growths = st.builds(
    Exponential,
    base=st.integers(1, 1000),
    factor_tenths=st.integers(11, 50),
    notified=st.none() | st.integers(1, 500),
    succeeded=st.none() | st.integers(1, 500),
)


@given(growths, st.integers(1, 1000), st.integers(0, 5000), st.integers(0, 5000))
def test_the_rate_is_that_of_fractions(growth: Exponential, maximum: int, notified: int, succeeded: int) -> None:
    steps = [0]
    if growth.notified:
        steps.append(notified // growth.notified)
    if growth.succeeded:
        steps.append(succeeded // growth.succeeded)
    exact = growth.base * Fraction(growth.factor_tenths, 10) ** max(steps)
    found = rollout.rate(Pace(maximum=maximum, growth=growth), notified=notified, succeeded=succeeded)
    assert found == max(1, min(maximum, int(exact)))


@given(st.lists(st.tuples(st.integers(0, 90_000), st.integers(0, 40)), max_size=60), st.integers(1, 50))
def test_no_minute_has_more_than_its_rate(calls: list[tuple[int, int]], maximum: int) -> None:
    """Whatever the pauses and however many are taken at once: what began within one minute is never over the maximum."""
    pace, minute, now, notified = Pace(maximum=maximum), Minute(), 0, 0
    by_minute: dict[int, int] = {}
    for pause, wanted in calls:
        now += pause
        minute = rollout.minute_at(pace, minute, now, notified=notified, succeeded=0)
        taken = min(wanted, minute.left)
        minute = Minute(minute.began_ms, minute.limit, minute.used + taken)
        notified += taken
        assert minute.began_ms is not None
        assert 0 <= now - minute.began_ms < rollout.MINUTE_MS
        by_minute[minute.began_ms] = by_minute.get(minute.began_ms, 0) + taken
    assert all(count <= maximum for count in by_minute.values())
    starts = sorted(by_minute)
    assert all(after - before >= rollout.MINUTE_MS for before, after in itertools.pairwise(starts))


def test_a_clock_that_goes_back_does_not_stop_a_rollout() -> None:
    late = Minute(10 * rollout.MINUTE_MS, 5, 5)
    assert rollout.minute_at(Pace(maximum=5), late, 1000, notified=5, succeeded=0) == Minute(1000, 5, 0)


class SlowAbort:
    """Goes thing by thing, with fractions, as the guide has it in words."""

    def __init__(self, criteria: list[Criterion]) -> None:
        self.criteria = criteria
        self.ended: list[str] = []

    def end(self, status: str) -> bool:
        self.ended.append(status)
        for criterion in self.criteria:
            failures = [
                found for found in self.ended
                if found != "SUCCEEDED" and criterion.failure in ("ALL", found)
            ]  # fmt: skip
            if len(self.ended) < criterion.minimum or not failures:
                continue
            if Fraction(len(failures), len(self.ended)) * 100 >= Fraction(criterion.threshold, 100):
                return True
        return False


criteria = st.lists(
    st.builds(
        Criterion,
        failure=st.sampled_from(["FAILED", "REJECTED", "TIMED_OUT", "ALL"]),
        threshold=st.integers(1, 10_000),
        minimum=st.integers(1, 60),
    ),
    min_size=1,
    max_size=3,
)


@given(criteria, st.lists(st.sampled_from(["SUCCEEDED", "FAILED", "REJECTED", "TIMED_OUT"]), max_size=120))
def test_aborts_with_the_very_execution_that_the_slow_model_names(wanted: list[Criterion], ends: list[str]) -> None:
    slow = SlowAbort(wanted)
    counts = dict.fromkeys(("succeeded", "failed", "rejected", "timed_out"), 0)
    for status in ends:
        counts[status.lower()] += 1
        assert (rollout.broken(wanted, Counts(**counts)) is not None) == slow.end(status)


@pytest.mark.parametrize(
    ("failed", "executed", "threshold", "aborts"),
    [
        pytest.param(3, 100, 300, True, id="at the threshold"),
        pytest.param(299, 10_000, 300, False, id="one failure short of 3 %"),
        pytest.param(300, 10_000, 300, True, id="3 % of 10,000"),
        pytest.param(1099, 10_000, 1099, True, id="10.99 % exactly"),
        pytest.param(0, 100, 1, False, id="never without a failure"),
    ],
)
def test_abort_is_exact(failed: int, executed: int, threshold: int, *, aborts: bool) -> None:
    counts = Counts(succeeded=executed - failed, failed=failed)
    found = rollout.broken([Criterion(failure="FAILED", threshold=threshold, minimum=100)], counts)
    assert (found is not None) == aborts


@pytest.mark.parametrize(
    ("retries", "ended", "failed", "timed_out", "again"),
    [
        pytest.param(Retries(failed=2), Status.FAILED, 1, 9, True, id="each type has its own count"),
        pytest.param(Retries(failed=2), Status.FAILED, 2, 0, False, id="used up"),
        pytest.param(Retries(failed=2), Status.TIMED_OUT, 0, 0, False, id="not of this type"),
        pytest.param(Retries(of_all=3), Status.TIMED_OUT, 1, 1, True, id="all share one count"),
        pytest.param(Retries(of_all=3), Status.FAILED, 1, 2, False, id="and use it up together"),
        pytest.param(Retries(failed=9, of_all=9), Status.REJECTED, 0, 0, False, id="a rejection is final"),
    ],
)
def test_retries(retries: Retries, ended: Status, failed: int, timed_out: int, *, again: bool) -> None:
    assert rollout.tries_again(retries, ended, failed=failed, timed_out=timed_out) == again
