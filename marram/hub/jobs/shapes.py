"""Jobs and executions as devices see them: the bodies of replies and notifications, over MQTT and in iot-jobs-data.

Source: AWS IoT Developer Guide, "Jobs device MQTT and HTTPS APIs", "Jobs notifications"; times are whole seconds.
"""

from marram.core.codec import JsonObject, JsonValue
from marram.core.jobs import Status
from marram.hub.jobs.store_executions import Execution

PREFIX = "namespace-"


def summary(found: Execution) -> JsonObject:
    body: JsonObject = {
        "jobId": found.job,
        "queuedAt": found.queued_ms // 1000,
        "lastUpdatedAt": found.updated_ms // 1000,
        "executionNumber": found.number,
        "versionNumber": found.version,
    }
    if found.started_ms is not None:
        body["startedAt"] = found.started_ms // 1000
    return body


def execution(found: Execution, now_ms: int, document: JsonValue = None) -> JsonObject:
    """`document`: parsed over MQTT, text in iot-jobs-data, None to leave it out."""
    body = summary(found) | {"thingName": found.thing, "status": str(found.status)}
    if found.details:
        body["statusDetails"] = dict(found.details)
    if (left := seconds_left(found, now_ms)) is not None:
        body["approximateSecondsBeforeTimedOut"] = left
    if document is not None:
        body["jobDocument"] = document
    return body


def state(found: Execution) -> JsonObject:
    body: JsonObject = {"status": str(found.status), "versionNumber": found.version}
    if found.details:
        body["statusDetails"] = dict(found.details)
    return body


def seconds_left(found: Execution, now_ms: int) -> int | None:
    if found.final or found.deadline_ms is None:
        return None
    return max(0, (found.deadline_ms - now_ms) // 1000)


def by_status(waiting: list[Execution]) -> JsonObject:
    """The lists of a notification; a status without executions has none."""
    lists: JsonObject = {}
    for status in (Status.IN_PROGRESS, Status.QUEUED):
        if chosen := [summary(item) for item in waiting if item.status is status]:
            lists[str(status)] = list[JsonValue](chosen)
    return lists
