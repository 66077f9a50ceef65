"""Reserved topics of jobs, with and without a namespace level (`namespace-<id>`; Greengrass uses namespace-aws-gg-deployment).

Source: AWS IoT Developer Guide, "Jobs device MQTT API"; the namespaced forms: observed, aws-greengrass-lite 2.6.0.
Members of a request that are not known are left alone, as AWS does: lite sends jobId and thingName in the body.
"""

from collections.abc import Callable
from typing import Final

from marram.core import codec
from marram.core import jobs as machine
from marram.core.codec import JsonObject, JsonValue
from marram.core.errors import Conflict, Invalid, LimitExceeded, MarramError, NotFound, VersionConflict
from marram.core.jobs import Status
from marram.hub.jobs import shapes
from marram.hub.jobs.service import Jobs, whole
from marram.hub.slice import TopicMessage, topic
from marram.kit.db import Tx

CODES: Final[tuple[tuple[type[MarramError], str, str], ...]] = (
    (NotFound, "", "ResourceNotFound"),
    (VersionConflict, "", "VersionMismatch"),
    (Conflict, "terminal", "TerminalStateReached"),
    (Conflict, "", "InvalidStateTransition"),
    (LimitExceeded, "rate", "RequestThrottled"),
    (LimitExceeded, "", "InvalidRequest"),
    (Invalid, "json", "InvalidJson"),
    (Invalid, "topic", "InvalidTopic"),
    (Invalid, "", "InvalidRequest"),
)
MAX_BYTES: Final = 32 * 1024
MAX_DEPTH: Final = 16
MAX_TOKEN: Final = 128
NEXT: Final = "$next"


def _is_hubs_own(name: str) -> bool:
    """Answers and notifications: a device runs what comes there, so nobody else may say it."""
    first, last = name.split("/")[4], name.rpartition("/")[2]
    return last in ("accepted", "rejected") or (first == last and first.startswith("notify"))


@topic("$aws/things/{thing}/jobs/get", at_once=True)
@topic("$aws/things/{thing}/jobs/{namespace}/get", at_once=True)
async def get_pending(service: Jobs, message: TopicMessage) -> None:
    thing, namespace = message.params["thing"], message.params.get("namespace", "")
    if namespace and not namespace.startswith(shapes.PREFIX):
        return await get_one(service, message)  # `jobs/{jobId}/get` has the same number of levels

    def work(tx: Tx, _request: JsonObject) -> JsonObject:
        found = service.device.pending_tx(tx, thing, namespace)
        progress: list[JsonValue] = [shapes.summary(item) for item in found if item.status is Status.IN_PROGRESS]
        queued: list[JsonValue] = [shapes.summary(item) for item in found if item.status is Status.QUEUED]
        return {"inProgressJobs": progress, "queuedJobs": queued}

    service.device.asked(thing, namespace)
    return await _answered(service, message, work)


@topic("$aws/things/{thing}/jobs/start-next", at_once=True)
@topic("$aws/things/{thing}/jobs/start-next/{namespace}", at_once=True, is_hubs_own=_is_hubs_own)
async def start_next(service: Jobs, message: TopicMessage) -> None:
    thing, namespace = message.params["thing"], message.params.get("namespace", "")

    def work(tx: Tx, request: JsonObject) -> JsonObject:
        details = machine.details(request.get("statusDetails"))
        step = machine.step_minutes(request.get("stepTimeoutInMinutes"), may_cancel=False)
        found = service.device.start_next_tx(tx, thing, namespace, details, step)
        if found is None:
            return {}
        document = codec.loads(service.device.document_tx(tx, found.job))
        return {"execution": shapes.execution(found, tx.now_ms, document)}

    service.device.asked(thing, namespace)
    await _answered(service, message, work)


@topic("$aws/things/{thing}/jobs/{job}/{namespace}/get", at_once=True)
async def get_one(service: Jobs, message: TopicMessage) -> None:
    thing, namespace = message.params["thing"], message.params.get("namespace", "")
    job = message.params.get("job", namespace)
    if "job" not in message.params:
        namespace = ""

    def work(tx: Tx, request: JsonObject) -> JsonObject:
        with_document = _flag(request, "includeJobDocument", absent=True)
        number = whole(request, "executionNumber")
        device = service.device
        found = device.next_tx(tx, thing, namespace) if job == NEXT else device.get_tx(tx, job, thing, number)
        if found is None:
            return {}
        document = codec.loads(device.document_tx(tx, found.job)) if with_document else None
        return {"execution": shapes.execution(found, tx.now_ms, document)}

    if job == NEXT:
        service.device.asked(thing, namespace)
    await _answered(service, message, work)


@topic("$aws/things/{thing}/jobs/{job}/update", at_once=True)
@topic("$aws/things/{thing}/jobs/{job}/{namespace}/update", at_once=True)
async def update(service: Jobs, message: TopicMessage) -> None:
    def work(tx: Tx, request: JsonObject) -> JsonObject:
        with_state = _flag(request, "includeJobExecutionState", absent=False)
        with_document = _flag(request, "includeJobDocument", absent=False)
        found = service.device.update_tx(tx, message.params["job"], message.params["thing"], request)
        answer: JsonObject = {}
        if with_state:
            answer["executionState"] = shapes.state(found)
        if with_document:
            answer["jobDocument"] = codec.loads(service.device.document_tx(tx, found.job))
        return answer

    await _answered(service, message, work)


@topic("$aws/things/{thing}/jobs/{first}", is_hubs_own=_is_hubs_own)
@topic("$aws/things/{thing}/jobs/{first}/{second}", is_hubs_own=_is_hubs_own)
@topic("$aws/things/{thing}/jobs/{first}/{second}/{third}", is_hubs_own=_is_hubs_own)
async def unknown(service: Jobs, message: TopicMessage) -> None:
    """What names no request."""

    def work(_tx: Tx, _request: JsonObject) -> JsonObject:
        raise Invalid(f"{message.topic} is not a topic of a jobs request", kind="topic")

    await _answered(service, message, work)


def _flag(request: JsonObject, name: str, *, absent: bool) -> bool:
    value = request.get(name)
    if value is None:
        return absent
    if not isinstance(value, bool):
        raise Invalid(f"{name} must be true or false, not {codec.kind(value)}")
    return value


def _code(error: MarramError) -> str:
    said = str(error.data.get("kind", ""))
    return next(name for kind, detail, name in CODES if isinstance(error, kind) and detail in ("", said))


def _request(payload: bytes) -> JsonObject:
    try:
        value = codec.loads(payload or b"{}", max_bytes=MAX_BYTES, max_depth=MAX_DEPTH)
    except Invalid as error:
        raise Invalid(error.message, kind="json") from error
    if not isinstance(value, dict):
        raise Invalid(f"the request must be a JSON object, not {codec.kind(value)}")
    token = value.get("clientToken")
    if token is not None and not (isinstance(token, str) and len(token) <= MAX_TOKEN):
        value.pop("clientToken")
        raise Invalid(f"clientToken must be text of at most {MAX_TOKEN} characters")
    return value


async def _answered(service: Jobs, message: TopicMessage, work: Callable[[Tx, JsonObject], JsonObject]) -> None:
    """One transaction: what the request does, and its reply. Refusals come before anything is written, and are replies too.

    Who asked gets the reply whether or not it subscribes to it; others by their subscriptions.
    """

    def answer(tx: Tx) -> tuple[str, JsonObject]:
        token: JsonValue = None
        body: JsonObject
        try:
            request = _request(message.payload)
            token = request.get("clientToken")
            body = work(tx, request)
            kind = "accepted"
        except (NotFound, VersionConflict, Conflict, LimitExceeded, Invalid) as error:
            body = {"code": _code(error), "message": error.message}
            state = error.data.get("state")
            if isinstance(state, dict):
                body["executionState"] = state
            kind = "rejected"
        body["timestamp"] = message.time_ms // 1000
        if isinstance(token, str):
            body["clientToken"] = token
        tx.emit(f"{message.topic}/{kind}", body)
        return f"{message.topic}/{kind}", body

    topic, body = await service.write(answer)
    service.replies.unsubscribed(message.client_id, message.subject.principal, topic, codec.dumps(body))
