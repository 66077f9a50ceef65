"""Reserved topics of jobs, with and without a namespace level (`namespace-<id>`; Greengrass uses namespace-aws-gg-deployment).

Source: AWS IoT Developer Guide, "Jobs device MQTT API"; the namespaced forms: observed, aws-greengrass-lite 2.6.0.
"""

from collections.abc import Awaitable, Callable
from typing import Final

from marram.core import codec
from marram.core import jobs as machine
from marram.core.codec import JsonObject, JsonValue
from marram.core.errors import Conflict, Invalid, LimitExceeded, MarramError, NotFound, VersionConflict
from marram.hub.jobs.service import Execution, Jobs, execution_body, summary
from marram.hub.slice import TopicMessage, topic

CODES: Final[tuple[tuple[type[MarramError], str], ...]] = (
    (NotFound, "ResourceNotFound"),
    (VersionConflict, "VersionMismatch"),
    (Conflict, "InvalidStateTransition"),
    (LimitExceeded, "InvalidRequest"),
    (Invalid, "InvalidRequest"),
)
MAX_BYTES: Final = 32 * 1024


@topic("$aws/things/{thing}/jobs/get")
@topic("$aws/things/{thing}/jobs/{namespace}/get")
async def get_pending(service: Jobs, message: TopicMessage) -> None:
    namespace = message.params.get("namespace", "")
    if namespace and not namespace.startswith("namespace-"):
        return await get_one(service, message)  # `jobs/{jobId}/get` has the same number of levels

    async def work(_request: JsonObject) -> JsonObject:
        found = await service.pending(message.params["thing"], namespace)
        progress: list[JsonValue] = [summary(item) for item in found if item.status is machine.Status.IN_PROGRESS]
        queued: list[JsonValue] = [summary(item) for item in found if item.status is machine.Status.QUEUED]
        return {"inProgressJobs": progress, "queuedJobs": queued}

    return await _answered(service, message, work)


@topic("$aws/things/{thing}/jobs/start-next")
@topic("$aws/things/{thing}/jobs/start-next/{namespace}")
async def start_next(service: Jobs, message: TopicMessage) -> None:
    async def work(request: JsonObject) -> JsonObject:
        details = machine.details(request.get("statusDetails"))
        found = await service.start_next(message.params["thing"], message.params.get("namespace", ""), details)
        return {} if found is None else {"execution": execution_body(found)}

    await _answered(service, message, work)


@topic("$aws/things/{thing}/jobs/{job}/{namespace}/get")
async def get_one(service: Jobs, message: TopicMessage) -> None:
    thing, namespace = message.params["thing"], message.params.get("namespace", "")
    job = message.params.get("job", namespace)
    if "job" not in message.params:
        namespace = ""

    async def work(request: JsonObject) -> JsonObject:
        with_document = request.get("includeJobDocument", True) is not False
        found: Execution | None
        found = await service.next(thing, namespace) if job == "$next" else await service.get(job, thing)
        return {} if found is None else {"execution": execution_body(found, with_document=with_document)}

    await _answered(service, message, work)


@topic("$aws/things/{thing}/jobs/{job}/update")
@topic("$aws/things/{thing}/jobs/{job}/{namespace}/update")
async def update(service: Jobs, message: TopicMessage) -> None:
    async def work(request: JsonObject) -> JsonObject:
        found = await service.update(message.params["job"], message.params["thing"], request)
        answer: JsonObject = {}
        if request.get("includeJobExecutionState"):
            state: JsonObject = {"status": str(found.status), "versionNumber": found.version}
            if found.details:
                state["statusDetails"] = dict(found.details)
            answer["executionState"] = state
        if request.get("includeJobDocument"):
            answer["jobDocument"] = codec.loads(found.document)
        return answer

    await _answered(service, message, work)


def _code(error: MarramError) -> str:
    return next(name for kind, name in CODES if isinstance(error, kind))


async def _answered(service: Jobs, message: TopicMessage, work: Callable[[JsonObject], Awaitable[JsonObject]]) -> None:
    token: JsonValue = None
    body: JsonObject
    try:
        request = codec.loads_object(message.payload or b"{}", what="request", max_bytes=MAX_BYTES)
        token = request.get("clientToken")
        body = await work(request)
        kind = "accepted"
    except (NotFound, VersionConflict, Conflict, LimitExceeded, Invalid) as error:
        body = {"code": _code(error), "message": error.message}
        kind = "rejected"
    body["timestamp"] = message.time_ms // 1000
    if isinstance(token, str):
        body["clientToken"] = token
    await service.answer(f"{message.topic}/{kind}", body)
