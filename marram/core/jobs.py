"""The state machines of a job and of a job execution: what a device may report, what ends it. Pure.

Source: AWS IoT Developer Guide, "Jobs and job execution states". Pace, abort and retries: core/rollout.py.
"""

import re
import unicodedata
from enum import StrEnum
from typing import Final, cast

from marram.core.errors import Conflict, Invalid


class Status(StrEnum):
    """Of an execution."""

    QUEUED = "QUEUED"
    IN_PROGRESS = "IN_PROGRESS"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    TIMED_OUT = "TIMED_OUT"
    REJECTED = "REJECTED"
    REMOVED = "REMOVED"
    CANCELED = "CANCELED"


class JobStatus(StrEnum):
    SCHEDULED = "SCHEDULED"
    IN_PROGRESS = "IN_PROGRESS"
    CANCELED = "CANCELED"
    COMPLETED = "COMPLETED"
    DELETION_IN_PROGRESS = "DELETION_IN_PROGRESS"


TERMINAL: Final = frozenset(
    {Status.SUCCEEDED, Status.FAILED, Status.TIMED_OUT, Status.REJECTED, Status.REMOVED, Status.CANCELED}
)
REPORTED: Final = frozenset({Status.IN_PROGRESS, Status.SUCCEEDED, Status.FAILED, Status.REJECTED})
ACTIVE: Final = frozenset({JobStatus.SCHEDULED, JobStatus.IN_PROGRESS})
MAX_DETAILS: Final = 10  # statusDetails pairs
MAX_DETAIL_VALUE: Final = 1024
MAX_MINUTES: Final = 10_080  # of any timer: seven days
NO_STEP: Final = -1  # as stepTimeoutInMinutes: no step timer any more
_DETAIL_NAME: Final = re.compile(r"[a-zA-Z0-9:_-]{1,128}")


def report(before: Status, text: str) -> Status:
    """The status after a device reported `text`. Raises Invalid for a word it may not report, Conflict out of a final state."""
    if text not in REPORTED:
        raise Invalid(f"status must be one of {', '.join(sorted(REPORTED))}, not {text!r}")
    after = Status(text)
    if before in TERMINAL:
        raise Conflict(f"the job execution is {before}, which is final", before=str(before), after=text)
    return after


def details(value: object) -> dict[str, str] | None:
    """Check `statusDetails`: at most ten pairs of strings; None when there is none, which leaves them. Raises Invalid.

    Numbers and booleans become their text: AWS's own jobs-agent.js reports its uptime as a number (aws-iot-device-sdk 2.2.16).
    """
    if value is None:
        return None
    if not isinstance(value, dict):
        raise Invalid("statusDetails must be an object of strings")
    found: dict[str, str] = {}
    for key, item in cast("dict[object, object]", value).items():
        if not isinstance(key, str) or not isinstance(item, str | int | float):
            raise Invalid("statusDetails must be an object of strings")
        found[key] = str(item).lower() if isinstance(item, bool) else str(item)
    if len(found) > MAX_DETAILS:
        raise Invalid(f"statusDetails has {len(found)} pairs; at most {MAX_DETAILS} are allowed")
    for key, item in found.items():
        if not _DETAIL_NAME.fullmatch(key):
            raise Invalid(f"statusDetails: the name {key[:140]!r} is not 1 to 128 of a-z A-Z 0-9 : _ -")
        if not 0 < len(item) <= MAX_DETAIL_VALUE or has_control(item):
            raise Invalid(
                f"statusDetails: the value of {key} is not 1 to {MAX_DETAIL_VALUE} characters without control characters"
            )
    return found


def has_control(text: str) -> bool:
    """Whether AWS's pattern for texts, [^\\p{C}]+, refuses it."""
    return not text.isprintable() and any(unicodedata.category(char)[0] == "C" for char in text)


def step_minutes(value: object, *, may_cancel: bool) -> int | None:
    """Check `stepTimeoutInMinutes`: 1 to 10,080, or NO_STEP in an update. Raises Invalid."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise Invalid("stepTimeoutInMinutes must be a whole number")
    if (value == NO_STEP and may_cancel) or 1 <= value <= MAX_MINUTES:
        return value
    raise Invalid(f"stepTimeoutInMinutes must be 1 to {MAX_MINUTES}" + (" or -1" if may_cancel else ""))


def deadline(now_ms: int, *, expires_ms: int | None, present_ms: int | None, step: int | None) -> int | None:
    """When an execution in progress times out. A step timer never outlasts the in-progress timer, which ends at `expires_ms`."""
    if step is None:
        return present_ms
    if step == NO_STEP:
        return expires_ms
    at = now_ms + step * 60_000
    return at if expires_ms is None else min(at, expires_ms)
