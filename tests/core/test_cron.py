"""AWS cron expressions: when they come next, and what they refuse."""

from datetime import UTC, datetime

import pytest

from marram.core import cron
from marram.core.errors import Invalid


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1000


@pytest.mark.parametrize(
    ("expression", "now", "following"),
    [
        pytest.param("cron(0 10 * * ? *)", "2026-11-21 10:00", "2026-11-22 10:00", id="daily, later than now"),
        pytest.param("15 12 * * ? *", "2026-11-21 12:14", "2026-11-21 12:15", id="without the word"),
        pytest.param("cron(0 18 ? * MON-FRI *)", "2026-11-20 18:00", "2026-11-23 18:00", id="over the weekend"),
        pytest.param("cron(0 8 1 * ? *)", "2026-12-31 00:00", "2027-01-01 08:00", id="first of the month"),
        pytest.param("cron(0/15 * * * ? *)", "2026-11-21 10:31", "2026-11-21 10:45", id="steps"),
        pytest.param("cron(0 9 ? * 2#1 *)", "2026-11-21 00:00", "2026-12-07 09:00", id="first Monday"),
        pytest.param("cron(0 9 ? * FRIL *)", "2026-11-21 00:00", "2026-11-27 09:00", id="last Friday"),
        pytest.param("cron(30 0 L * ? *)", "2027-02-01 00:00", "2027-02-28 00:30", id="last day"),
        pytest.param("cron(0 0 29 2 ? *)", "2026-03-01 00:00", "2028-02-29 00:00", id="leap day"),
        pytest.param("cron(0 0 1 1 ? 2026)", "2026-11-21 00:00", None, id="a year that is over"),
        pytest.param("cron(5,10 8-17/3 ? JAN,JUL SUN *)", "2026-11-21 00:00", "2027-01-03 08:05", id="lists and names"),
    ],
)
def test_next(expression: str, now: str, following: str | None) -> None:
    assert cron.parse(expression).after(at(now)) == (None if following is None else at(following))


@pytest.mark.parametrize(
    "expression",
    [
        "", "cron()", "* * * * *", "cron(0 10 * * * *)", "cron(0 10 ? * ? *)", "cron(60 10 * * ? *)", "cron(0 24 * * ? *)",
        "cron(0 10 15W * ? *)", "cron(0 10 0 * ? *)", "cron(0 10 ? * 8 *)", "cron(5-1 10 * * ? *)", "cron(0 10 ? * MON#6 *)",
        "cron(0/0 10 * * ? *)", "cron(0 10 * FOO ? *)", "cron(0 10 * * ? 1969)", "cron(0 10 ? * L#2 *)", "cron(a b c d e f)",
        "cron(\u0663 10 * * ? *)",
    ],
)  # fmt: skip
def test_refused(expression: str) -> None:
    with pytest.raises(Invalid):
        cron.parse(expression)
