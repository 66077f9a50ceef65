"""iot operations on jobs."""

from typing import Final

from marram.core import codec
from marram.core.errors import Invalid
from marram.core.jobs import ACTIVE
from marram.hub import tagging
from marram.hub.jobs import documents, schedule, settings
from marram.hub.jobs.api import wire
from marram.hub.jobs.service import SNAPSHOT, Jobs, Wanted
from marram.hub.jobs.store import Job
from marram.hub.slice import Call, Params, Result, anything, operation

FIRST: Final = 1 << 62  # before the newest job


def _created(call: Call, params: Params) -> list[str]:
    """As AWS: the job, its targets, and the template it is made from."""
    found = [wire.job(call, params), *(str(target) for target in params["targets"])]
    return [*found, str(params["jobTemplateArn"])] if params.get("jobTemplateArn") else found


def _associated(call: Call, params: Params) -> list[str]:
    return [wire.job(call, params), *(str(target) for target in params["targets"])]


@operation("iot", "CreateJob", resource=_created)
async def create_job(service: Jobs, call: Call, params: Params) -> Result:
    if params.get("documentParameters"):
        raise Invalid("documentParameters are for AWS's managed templates, which are not here")
    _may_read(call, params)
    made = await service.control.create(
        Wanted(
            id=params["jobId"],
            targets=params["targets"],
            document=params.get("document"),
            source=params.get("documentSource"),
            description=params.get("description"),
            selection=params.get("targetSelection") or SNAPSHOT,
            namespace=wire.namespace(params) or "",
            template=params.get("jobTemplateArn") or "",
            config=settings.wanted(params),
            tags=tagging.read(params),
        )
    )
    return _named(service, made)


@operation("iot", "DescribeJob", resource=wire.job)
async def describe_job(service: Jobs, call: Call, params: Params) -> Result:
    found = service.control.get(params["jobId"])
    job = found.job
    targets = [wire.target_arn(service, target) for target in found.targets]
    config = codec.loads_object(job.config)
    shown: dict[str, object] = {
        "jobArn": service.arn(f"job/{job.id}"),
        "jobId": job.id,
        "targetSelection": job.selection,
        "status": str(job.status),
        "forceCanceled": True if job.forced else None,
        "reasonCode": job.reason_code or None,
        "comment": job.comment or None,
        "targets": targets or None,
        "description": job.description or None,
        "createdAt": job.created_ms,
        "lastUpdatedAt": job.updated_ms,
        "completedAt": job.completed_ms,
        "jobProcessDetails": {
            "processingTargets": targets if job.rolling and targets else None,
            "numberOfCanceledThings": job.canceled,
            "numberOfSucceededThings": job.succeeded,
            "numberOfFailedThings": job.failed,
            "numberOfRejectedThings": job.rejected,
            "numberOfQueuedThings": job.queued,
            "numberOfInProgressThings": job.in_progress,
            "numberOfRemovedThings": job.removed,
            "numberOfTimedOutThings": job.timed_out,
        },
        "namespaceId": job.namespace.removeprefix("namespace-") or None,
        "jobTemplateArn": job.template or None,
        "isConcurrent": job.rolling,
        **config,
    }
    plan = settings.read(job.config).schedule
    if plan.windows and job.status in ACTIVE:
        shown["scheduledJobRollouts"] = [{"startTime": schedule.shown(at)} for at in plan.upcoming(call.now_ms)]
    return {"job": shown, "documentSource": job.source or None}


@operation("iot", "GetJobDocument", resource=wire.job)
async def get_job_document(service: Jobs, call: Call, params: Params) -> Result:
    return {"document": service.control.document(params["jobId"]).decode()}


@operation("iot", "ListJobs", resource=anything)
async def list_jobs(service: Jobs, call: Call, params: Params) -> Result:
    limit = wire.limit(params)
    last = wire.last(params, 1)
    found = await service.control.page(
        status=params.get("status") or "",
        selection=params.get("targetSelection") or "",
        namespace=wire.namespace(params),
        group=params.get("thingGroupName") or "",
        group_id=params.get("thingGroupId") or "",
        before=int(last[0]) if last else FIRST,
        limit=limit + 1,
    )

    def shown(job: Job) -> object:
        return {
            "jobArn": service.arn(f"job/{job.id}"),
            "jobId": job.id,
            "targetSelection": job.selection,
            "status": str(job.status),
            "createdAt": job.created_ms,
            "lastUpdatedAt": job.updated_ms,
            "completedAt": job.completed_ms,
            "isConcurrent": job.rolling,
        }

    return wire.paged("jobs", found, limit, shown, lambda job: [job.seq])


@operation("iot", "UpdateJob", resource=wire.job)
async def update_job(service: Jobs, call: Call, params: Params) -> Result:
    await service.control.update(params["jobId"], params.get("description"), settings.wanted(params))
    return {}


@operation("iot", "CancelJob", resource=wire.job)
async def cancel_job(service: Jobs, call: Call, params: Params) -> Result:
    found = await service.control.cancel(
        params["jobId"],
        reason_code=params.get("reasonCode") or "",
        comment=params.get("comment") or "",
        forced=bool(params.get("force")),
    )
    return _named(service, found)


@operation("iot", "DeleteJob", resource=wire.job)
async def delete_job(service: Jobs, call: Call, params: Params) -> Result:
    await service.control.delete(params["jobId"], forced=bool(params.get("force")))
    return {}


@operation("iot", "AssociateTargetsWithJob", resource=_associated)
async def associate_targets_with_job(service: Jobs, call: Call, params: Params) -> Result:
    found = await service.control.associate(params["jobId"], params["targets"], params.get("comment") or "")
    return _named(service, found)


def _may_read(call: Call, params: Params) -> None:
    """Who names an object as the document must be allowed to read it."""
    source = params.get("documentSource")
    authorise = call.extra.get("authorise")
    if source is not None and callable(authorise):
        bucket, key = documents.place(str(source))
        authorise("s3:GetObject", f"arn:aws:s3:::{bucket}/{key}")


def _named(service: Jobs, job: Job) -> Result:
    return {"jobArn": service.arn(f"job/{job.id}"), "jobId": job.id, "description": job.description or None}
