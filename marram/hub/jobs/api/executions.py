"""iot operations on job executions."""

from typing import Final

from marram.core import jobs as machine
from marram.hub.jobs import shapes
from marram.hub.jobs.api import wire
from marram.hub.jobs.service import Execution, Jobs
from marram.hub.slice import Call, Params, Result, operation

FIRST: Final = (1 << 62, "", 0)  # before the newest execution


@operation("iot", "DescribeJobExecution", resource=wire.job_and_thing)
async def describe_job_execution(service: Jobs, call: Call, params: Params) -> Result:
    found = service.control.execution(params["jobId"], params["thingName"], params.get("executionNumber"))
    return {
        "execution": {
            "jobId": found.job,
            "status": str(found.status),
            "forceCanceled": True if found.forced else None,
            "statusDetails": {"detailsMap": dict(found.details)},
            "thingArn": service.arn(f"thing/{found.thing}"),
            "queuedAt": found.queued_ms,
            "startedAt": found.started_ms,
            "lastUpdatedAt": found.updated_ms,
            "executionNumber": found.number,
            "versionNumber": found.version,
            "approximateSecondsBeforeTimedOut": shapes.seconds_left(found, call.now_ms),
        }
    }


@operation("iot", "CancelJobExecution", resource=wire.job_and_thing)
async def cancel_job_execution(service: Jobs, call: Call, params: Params) -> Result:
    await service.control.cancel_execution(
        params["jobId"],
        params["thingName"],
        forced=bool(params.get("force")),
        expected_version=params.get("expectedVersion"),
        details=machine.details(params.get("statusDetails")),
    )
    return {}


@operation("iot", "DeleteJobExecution", resource=wire.job_and_thing)
async def delete_job_execution(service: Jobs, call: Call, params: Params) -> Result:
    await service.control.delete_execution(
        params["jobId"], params["thingName"], int(params["executionNumber"]), forced=bool(params.get("force"))
    )
    return {}


@operation("iot", "ListJobExecutionsForJob", resource=wire.job)
async def list_job_executions_for_job(service: Jobs, call: Call, params: Params) -> Result:
    limit = wire.limit(params)
    last = wire.last(params, 2)
    after = (str(last[0]), int(last[1])) if last else ("", 0)
    found = await service.control.executions_of_job(
        params["jobId"], status=params.get("status") or "", after=after, limit=limit + 1
    )

    def shown(item: Execution) -> object:
        return {"thingArn": service.arn(f"thing/{item.thing}"), "jobExecutionSummary": wire.summary(item)}

    return wire.paged("executionSummaries", found, limit, shown, lambda item: [item.thing, item.number])


@operation("iot", "ListJobExecutionsForThing", resource=wire.thing)
async def list_job_executions_for_thing(service: Jobs, call: Call, params: Params) -> Result:
    limit = wire.limit(params)
    last = wire.last(params, 3)
    found = await service.control.executions_of_thing(
        params["thingName"],
        status=params.get("status") or "",
        namespace=wire.namespace(params),
        job=params.get("jobId") or "",
        before=(int(last[0]), str(last[1]), int(last[2])) if last else FIRST,
        limit=limit + 1,
    )

    def shown(item: Execution) -> object:
        return {"jobId": item.job, "jobExecutionSummary": wire.summary(item)}

    return wire.paged("executionSummaries", found, limit, shown, lambda item: [item.queued_ms, item.job, item.number])
