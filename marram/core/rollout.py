"""How fast a job reaches its things, when it gives up, what is tried again. Pure: counts and times come in, decisions go out.

All of it in whole numbers: a threshold of 3.25 % is 325 of 10,000, a factor of 1.5 is 15 tenths, so that a job stops at
its threshold and not one thing before or after. Time is cut into minutes that begin with the rollout.
Source: AWS IoT Developer Guide, "How job configurations work"; where it is silent the choice is ours and said.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from marram.core.jobs import Status

MINUTE_MS: Final = 60_000
MAX_PER_MINUTE: Final = 1000  # also what holds when nothing was asked for
FAILURES: Final = frozenset({Status.FAILED, Status.REJECTED, Status.TIMED_OUT})
ALL: Final = "ALL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exponential:
    """The rate grows by factor_tenths / 10 each time that another `notified`, or another `succeeded`, things were."""

    base: int
    factor_tenths: int
    notified: int | None = None
    succeeded: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Things a minute."""

    maximum: int = MAX_PER_MINUTE
    growth: Exponential | None = None


@dataclass(frozen=True, slots=True)
class Minute:
    """The minute that a rollout is in: when it began, how many things it may have, how many of these it has had."""

    began_ms: int | None = None
    limit: int = 0
    used: int = 0

    @property
    def left(self) -> int:
        return max(0, self.limit - self.used)


def rate(pace: Pace, *, notified: int, succeeded: int) -> int:
    """Things that a minute beginning now may have. `notified` and `succeeded` are of the whole job so far."""
    if pace.growth is None:
        return pace.maximum
    growth = pace.growth
    steps = max(
        notified // growth.notified if growth.notified else 0,
        succeeded // growth.succeeded if growth.succeeded else 0,
    )
    above, below = growth.base, 1
    for _ in range(steps):
        if above >= pace.maximum * below:  # beyond it nothing changes, and the numbers would only get long
            break
        above, below = above * growth.factor_tenths, below * 10
    return max(1, min(pace.maximum, above // below))


def minute_at(pace: Pace, minute: Minute, now_ms: int, *, notified: int, succeeded: int) -> Minute:
    """The minute that holds now: `minute`, or a new one with the rate of its beginning. One that begins later ends at once."""
    if minute.began_ms is not None and 0 <= now_ms - minute.began_ms < MINUTE_MS:
        return minute
    return Minute(now_ms, rate(pace, notified=notified, succeeded=succeeded))


@dataclass(frozen=True, slots=True, kw_only=True)
class Criterion:
    """Give up when `failure` is at least threshold / 10,000 of what was executed, once that is `minimum` executions."""

    failure: str
    threshold: int
    minimum: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Executions that have ended by having been tried. Those canceled or removed were not, and do not count (our choice)."""

    succeeded: int = 0
    failed: int = 0
    rejected: int = 0
    timed_out: int = 0

    @property
    def executed(self) -> int:
        return self.succeeded + self.failed + self.rejected + self.timed_out

    def of(self, failure: str) -> int:
        if failure == ALL:
            return self.failed + self.rejected + self.timed_out
        return {"FAILED": self.failed, "REJECTED": self.rejected, "TIMED_OUT": self.timed_out}[failure]


def broken(criteria: Iterable[Criterion], counts: Counts) -> Criterion | None:
    """The first criterion that is met: at its threshold, not beyond it. None of it without a failure."""
    for criterion in criteria:
        failures = counts.of(criterion.failure)
        reached = failures * 10_000 >= criterion.threshold * counts.executed
        if failures and reached and counts.executed >= criterion.minimum:
            return criterion
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """How often each failure is tried again on one thing; `of_all` counts both."""

    failed: int = 0
    timed_out: int = 0
    of_all: int = 0


def tries_again(retries: Retries, ended: Status, *, failed: int, timed_out: int) -> bool:
    """Whether an execution that ended so is queued once more. `failed`, `timed_out`: retries of this thing so far."""
    if ended is Status.FAILED:
        return failed < retries.failed or failed + timed_out < retries.of_all
    if ended is Status.TIMED_OUT:
        return timed_out < retries.timed_out or failed + timed_out < retries.of_all
    return False
