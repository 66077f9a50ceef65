"""iot-jobs-data: what a device does over MQTT, over HTTPS. By its client certificate, or signed; without namespaces."""

from marram.core import codec
from marram.core import jobs as machine
from marram.core.codec import JsonValue
from marram.core.jobs import Status
from marram.hub.jobs import shapes
from marram.hub.jobs.api import wire
from marram.hub.jobs.service import Jobs
from marram.hub.slice import Call, Params, Result, operation

NEXT = "$next"


@operation("iot-jobs-data", "GetPendingJobExecutions", resource=wire.thing)
async def get_pending_job_executions(service: Jobs, call: Call, params: Params) -> Result:
    found = service.device.pending(params["thingName"], "")
    return {
        "inProgressJobs": [shapes.summary(item) for item in found if item.status is Status.IN_PROGRESS],
        "queuedJobs": [shapes.summary(item) for item in found if item.status is Status.QUEUED],
    }


@operation("iot-jobs-data", "StartNextPendingJobExecution", resource=wire.thing)
async def start_next_pending_job_execution(service: Jobs, call: Call, params: Params) -> Result:
    found = await service.device.start_next(
        params["thingName"],
        "",
        machine.details(params.get("statusDetails")),
        machine.step_minutes(params.get("stepTimeoutInMinutes"), may_cancel=False),
    )
    if found is None:
        return {}
    return {"execution": shapes.execution(found, call.now_ms, _text(service, found.job))}


@operation("iot-jobs-data", "DescribeJobExecution", resource=wire.thing)
async def describe_job_execution(service: Jobs, call: Call, params: Params) -> Result:
    job, thing = params["jobId"], params["thingName"]
    device = service.device
    found = device.next(thing, "") if job == NEXT else device.get(job, thing, params.get("executionNumber"))
    if found is None:
        return {}
    document = _text(service, found.job) if params.get("includeJobDocument") is not False else None
    return {"execution": shapes.execution(found, call.now_ms, document)}


@operation("iot-jobs-data", "UpdateJobExecution", resource=wire.thing)
async def update_job_execution(service: Jobs, call: Call, params: Params) -> Result:
    request: dict[str, JsonValue] = dict(
        wire.given(params, "status", "statusDetails", "stepTimeoutInMinutes", "expectedVersion", "executionNumber")
    )
    found = await service.device.update(params["jobId"], params["thingName"], request)
    return {
        "executionState": shapes.state(found) if params.get("includeJobExecutionState") else None,
        "jobDocument": _text(service, found.job) if params.get("includeJobDocument") else None,
    }


def _text(service: Jobs, job: str) -> str:
    # Written anew: a document of one line however the operator wrote it.
    return codec.dumps(codec.loads(service.device.document(job))).decode()
