"""iot operations that register things by a template: one at a time, and in bulk."""

from typing import Final, cast

from marram.core.errors import Invalid
from marram.core.policy.variables import Values
from marram.hub.listing import cut
from marram.hub.provisioning.service import Provisioning, Task
from marram.hub.slice import Call, Params, Result, anything, operation

PAGE: Final = 25


@operation("iot", "RegisterThing", resource=anything)
async def register_thing(service: Provisioning, call: Call, params: Params) -> Result:
    seen = cast("Values", call.extra.get("seen") or {})
    made, pem = await service.register_thing(params["templateBody"], params.get("parameters") or {}, call.subject, seen)
    return {"certificatePem": pem, "resourceArns": dict(made.arns)}


@operation("iot", "StartThingRegistrationTask", resource=anything)
async def start_thing_registration_task(service: Provisioning, call: Call, params: Params) -> Result:
    task_id = await service.bulk.start(
        template=params["templateBody"],
        bucket=params["inputFileBucket"],
        key=params["inputFileKey"],
        role=params["roleArn"],
    )
    return {"taskId": task_id}


@operation("iot", "StopThingRegistrationTask", resource=anything)
async def stop_thing_registration_task(service: Provisioning, call: Call, params: Params) -> Result:
    await service.bulk.stop(params["taskId"])
    return {}


@operation("iot", "DescribeThingRegistrationTask", resource=anything)
async def describe_thing_registration_task(service: Provisioning, call: Call, params: Params) -> Result:
    found = await service.bulk.task(params["taskId"])
    return {
        "taskId": found.id,
        "creationDate": found.created_ms,
        "lastModifiedDate": found.modified_ms,
        "templateBody": found.template,
        "inputFileBucket": found.bucket,
        "inputFileKey": found.object,
        "roleArn": found.role,
        "status": found.status,
        "message": found.message or None,
        "successCount": found.successes,
        "failureCount": found.failures,
        "percentageProgress": _progress(found),
    }


@operation("iot", "ListThingRegistrationTasks", resource=anything)
async def list_thing_registration_tasks(service: Provisioning, call: Call, params: Params) -> Result:
    limit = int(params.get("maxResults") or PAGE)
    match params.get("nextToken"):
        case None:
            after = None
        case [int(created_ms), str(key)]:
            after = (created_ms, key)
        case _:
            raise Invalid("the page token is not valid")
    rows = await service.bulk.page(params.get("status"), after, limit + 1)
    shown, last = cut(rows, limit, lambda row: [row[0], row[1]])
    return {"taskIds": [task_id for _, task_id in shown], "nextToken": last}


@operation("iot", "ListThingRegistrationTaskReports", resource=anything)
async def list_thing_registration_task_reports(service: Provisioning, call: Call, params: Params) -> Result:
    limit, after = int(params.get("maxResults") or PAGE), params.get("nextToken")
    if after is not None and not isinstance(after, int):
        raise Invalid("the page token is not valid")
    rows = await service.bulk.reports(params["taskId"], params["reportType"], after or 0, limit + 1)
    shown, last = cut(rows, limit, lambda row: row[0])
    return {"resourceLinks": [link for _, link in shown], "reportType": params["reportType"], "nextToken": last}


def _progress(task: Task) -> int:
    if task.status == "Completed" or not task.size:
        return 100
    return min(99, task.position * 100 // task.size)
