"""AWS cron expressions of six fields, for maintenance windows: minutes, hours, day of month, month, day of week, year. UTC. Pure.

Source: Amazon EventBridge User Guide, "Cron expressions": `*`, `,`, `-`, `/` everywhere, `?` in one of the two day fields,
`L` in both, `#` in the day of week. `W` is refused by name.
"""

import calendar
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from marram.core.errors import Invalid

_MONTHS: Final = {name.upper(): at for at, name in enumerate(calendar.month_abbr) if name}
_DAYS: Final = {name: at for at, name in enumerate(("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"), 1)}
_YEARS: Final = (1970, 2199)
_WRAPPED: Final = re.compile(r"cron\((.*)\)", re.DOTALL)
HORIZON_DAYS: Final = 366 * 8  # 29 February may be eight years away


@dataclass(frozen=True, slots=True, kw_only=True)
class Cron:
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    last_day: bool
    months: frozenset[int]
    weekdays: frozenset[int]  # 1 is Sunday
    last_weekdays: frozenset[int]  # the last one of the month
    nth_weekdays: frozenset[tuple[int, int]]
    years: frozenset[int]

    def after(self, now_ms: int) -> int | None:
        """The first time later than `now_ms`, or None when there is none within eight years."""
        start = datetime.fromtimestamp(now_ms // 1000, UTC).replace(second=0, microsecond=0) + timedelta(minutes=1)
        day = start.replace(hour=0, minute=0)
        for _ in range(HORIZON_DAYS):
            if self._on(day):
                for hour in self.hours:
                    for minute in self.minutes:
                        at = day.replace(hour=hour, minute=minute)
                        if at >= start:
                            return int(at.timestamp()) * 1000
            day += timedelta(days=1)
        return None

    def _on(self, day: datetime) -> bool:
        if day.month not in self.months or day.year not in self.years:
            return False
        length = calendar.monthrange(day.year, day.month)[1]
        weekday = day.isoweekday() % 7 + 1
        return (
            day.day in self.days
            or (self.last_day and day.day == length)
            or weekday in self.weekdays
            or (weekday in self.last_weekdays and day.day + 7 > length)
            or (weekday, (day.day - 1) // 7 + 1) in self.nth_weekdays
        )


def parse(text: str) -> Cron:
    """`text` with or without `cron(...)`. Raises Invalid, naming the field."""
    wrapped = _WRAPPED.fullmatch(text.strip())
    fields = (wrapped[1] if wrapped else text).upper().split()
    if len(fields) != 6:
        raise Invalid(
            f"cron expression {text!r} has {len(fields)} fields; it needs minutes hours day month weekday year"
        )
    minutes, hours, days, months, weekdays, years = fields
    if (days == "?") == (weekdays == "?"):
        raise Invalid(f"cron expression {text!r}: exactly one of day of month and day of week must be ?")
    by_day = days != "?"
    last, nth = _specials(weekdays) if not by_day else (frozenset[int](), frozenset[tuple[int, int]]())
    plain = ",".join(part for part in weekdays.split(",") if not ("#" in part or part.endswith("L")))
    return Cron(
        minutes=tuple(sorted(_field("minutes", minutes, 0, 59))),
        hours=tuple(sorted(_field("hours", hours, 0, 23))),
        days=_field("day of month", days, 1, 31) if by_day and days != "L" else frozenset(),
        last_day=days == "L",
        months=_field("month", months, 1, 12, _MONTHS),
        weekdays=_field("day of week", plain, 1, 7, _DAYS) if not by_day and plain else frozenset(),
        last_weekdays=last,
        nth_weekdays=nth,
        years=_field("year", years, *_YEARS),
    )


def _specials(text: str) -> tuple[frozenset[int], frozenset[tuple[int, int]]]:
    last: set[int] = set()
    nth: set[tuple[int, int]] = set()
    for part in text.split(","):
        if "#" in part:
            day, _, which = part.partition("#")
            nth.add((_number("day of week", day, 1, 7, _DAYS), _number("day of week", which, 1, 5, {})))
        elif part.endswith("L"):
            last.add(_number("day of week", part[:-1] or "7", 1, 7, _DAYS))
    return frozenset(last), frozenset(nth)


def _field(what: str, text: str, low: int, high: int, names: dict[str, int] | None = None) -> frozenset[int]:
    known = names or {}
    found: set[int] = set()
    for part in text.split(","):
        span, slash, step_text = part.partition("/")
        step = _number(what, step_text, 1, high, {}) if slash else 1
        if span == "*":
            first, last = low, high
        else:
            begin, dash, end = span.partition("-")
            first = _number(what, begin, low, high, known)
            last = _number(what, end, low, high, known) if dash else (high if slash else first)
        if first > last:
            raise Invalid(f"cron {what}: {part!r} goes backwards")
        found.update(range(first, last + 1, step))
    return frozenset(found)


def _number(what: str, text: str, low: int, high: int, names: dict[str, int]) -> int:
    if text in names:
        return names[text]
    if text.endswith("W"):
        raise Invalid(f"cron {what}: W is not supported here")
    if not (text.isascii() and text.isdigit() and len(text) <= 4 and low <= int(text) <= high):
        raise Invalid(f"cron {what}: {text!r} is not {low} to {high}")
    return int(text)
