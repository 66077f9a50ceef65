"""The state machine of a job execution: what a device may report, what ends it. Pure.

Source: AWS IoT Developer Guide, "Jobs: job execution states". Rollout pace, abort criteria, timers and retries come with
the job operations themselves; a job here is created by another slice (a deployment) for a known list of things.
"""

from enum import StrEnum
from typing import Final, cast

from marram.core.errors import Conflict, Invalid


class Status(StrEnum):
    QUEUED = "QUEUED"
    IN_PROGRESS = "IN_PROGRESS"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    TIMED_OUT = "TIMED_OUT"
    REJECTED = "REJECTED"
    REMOVED = "REMOVED"
    CANCELED = "CANCELED"


TERMINAL: Final = frozenset(
    {Status.SUCCEEDED, Status.FAILED, Status.TIMED_OUT, Status.REJECTED, Status.REMOVED, Status.CANCELED}
)
REPORTED: Final = frozenset({Status.IN_PROGRESS, Status.SUCCEEDED, Status.FAILED, Status.REJECTED})
MAX_DETAILS: Final = 10  # statusDetails pairs
MAX_DETAIL_VALUE: Final = 1024


def report(before: Status, text: str) -> Status:
    """The status after a device reported `text`. Raises Invalid for a word it may not report, Conflict out of a final state."""
    if text not in REPORTED:
        raise Invalid(f"status must be one of {', '.join(sorted(REPORTED))}, not {text!r}")
    after = Status(text)
    if before in TERMINAL:
        raise Conflict(f"the job execution is {before}, which is final", before=str(before), after=text)
    return after


def details(value: object) -> dict[str, str]:
    """Check `statusDetails`: at most ten pairs of strings. Raises Invalid."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Invalid("statusDetails must be an object of strings")
    found: dict[str, str] = {}
    for key, item in cast("dict[object, object]", value).items():
        if not isinstance(key, str) or not isinstance(item, str):
            raise Invalid("statusDetails must be an object of strings")
        found[key] = item
    if len(found) > MAX_DETAILS or any(len(item) > MAX_DETAIL_VALUE or len(key) > 128 for key, item in found.items()):
        raise Invalid(
            f"statusDetails: at most {MAX_DETAILS} pairs, names to 128 and values to {MAX_DETAIL_VALUE} characters"
        )
    return found
