"""When a job may roll out: start, end, and recurring maintenance windows. Pure; times are Unix milliseconds, UTC.

Source: the model's documentation of SchedulingConfig; windows by AWS cron (core/cron.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from marram.core import cron
from marram.core.cron import Cron
from marram.core.errors import Invalid

MINUTE_MS: Final = 60_000
SOON_MS: Final = 30 * MINUTE_MS  # a start or an end lies at least so far ahead, and they so far apart
YEAR_MS: Final = 366 * 24 * 60 * MINUTE_MS
SHOWN_WINDOWS: Final = 7
STOP_ROLLOUT: Final = "STOP_ROLLOUT"
CANCEL: Final = "CANCEL"
FORCE_CANCEL: Final = "FORCE_CANCEL"
LATEST_MS: Final = int(datetime(2199, 12, 31, tzinfo=UTC).timestamp()) * 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    opens: Cron
    length_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    start_ms: int | None = None
    end_ms: int | None = None
    at_end: str = STOP_ROLLOUT
    windows: tuple[Window, ...] = ()

    def next_window(self, after_ms: int) -> int | None:
        """When the next window opens, later than `after_ms`."""
        times = [at for window in self.windows if (at := window.opens.after(after_ms)) is not None]
        return min(times, default=None)

    def open_until(self, now_ms: int) -> int | None:
        """When the window that is open now closes; None while none is. Without windows it is open to the end, or for good."""
        if self.start_ms is not None and now_ms < self.start_ms:
            return None
        last = self.end_ms if self.end_ms is not None else LATEST_MS
        if not self.windows:
            return last
        # Of a window that opens again before it closes the first end is given: at that time it is looked at anew.
        ends = [
            min(last, opened + window.length_ms)
            for window in self.windows
            if (opened := window.opens.after(now_ms - window.length_ms - 1)) is not None and opened <= now_ms
        ]
        return max((end for end in ends if end > now_ms), default=None)

    def opens_after(self, now_ms: int) -> int | None:
        """When a job that may not roll out now may next."""
        begin = max(now_ms, self.start_ms if self.start_ms is not None else now_ms)
        if not self.windows:
            return begin if begin > now_ms else None
        if begin > now_ms and self.open_until(begin) is not None:
            return begin
        return self.next_window(begin)

    def upcoming(self, now_ms: int) -> list[int]:
        """The next seven openings."""
        found: list[int] = []
        at = self.next_window(max(now_ms, (self.start_ms or 0) - 1))
        while at is not None and len(found) < SHOWN_WINDOWS and (self.end_ms is None or at < self.end_ms):
            found.append(at)
            at = self.next_window(at)
        return found


def parse_schedule(config: Mapping[str, Any] | None) -> Schedule:
    """Raises Invalid."""
    if not config:
        return Schedule()
    start, end = config.get("startTime"), config.get("endTime")
    if end is None and config.get("endBehavior") is not None:
        raise Invalid("schedulingConfig: endBehavior needs an endTime")
    return Schedule(
        start_ms=None if start is None else moment(str(start), "startTime"),
        end_ms=None if end is None else moment(str(end), "endTime"),
        at_end=str(config.get("endBehavior") or STOP_ROLLOUT),
        windows=parse_windows(config.get("maintenanceWindows") or ()),
    )


def parse_windows(wanted: Sequence[Mapping[str, Any]]) -> tuple[Window, ...]:
    return tuple(
        Window(opens=cron.parse(str(found["startTime"])), length_ms=int(found["durationInMinutes"]) * MINUTE_MS)
        for found in wanted
    )


def check(schedule: Schedule, now_ms: int) -> None:
    """What holds for a schedule that is made now. Raises Invalid."""
    start, end = schedule.start_ms, schedule.end_ms
    if start is not None and not SOON_MS <= start - now_ms <= YEAR_MS:
        raise Invalid("schedulingConfig.startTime must lie 30 minutes to a year ahead")
    if end is not None and not SOON_MS <= end - now_ms <= 2 * YEAR_MS:
        raise Invalid("schedulingConfig.endTime must lie 30 minutes to two years ahead")
    if start is not None and end is not None and not SOON_MS <= end - start <= 2 * YEAR_MS:
        raise Invalid("schedulingConfig: endTime must lie 30 minutes to two years after startTime")
    if schedule.windows and schedule.next_window(now_ms) is None:
        raise Invalid("schedulingConfig: no maintenance window opens within eight years")


def moment(text: str, what: str) -> int:
    """`YYYY-MM-DD HH:MM`, ISO 8601 with or without zone (UTC), or seconds since 1970. Raises Invalid."""
    if text.isascii() and text.isdigit() and len(text) <= 10:
        return int(text) * 1000
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise Invalid(f"schedulingConfig.{what}: {text!r} is not a time; write YYYY-MM-DD HH:MM in UTC") from error
    if found.tzinfo is None:
        found = found.replace(tzinfo=UTC)
    return int((found - _EPOCH) / timedelta(milliseconds=1))


def shown(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms // 1000, UTC).strftime("%Y-%m-%d %H:%M")


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
