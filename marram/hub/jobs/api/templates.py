"""iot operations on job templates. AWS's managed templates are none of ours: the list is empty, and each is not found."""

from marram.core.errors import NotFound
from marram.hub import tagging
from marram.hub.jobs import documents, schedule, settings
from marram.hub.jobs.api import wire
from marram.hub.jobs.service import Jobs, Template
from marram.hub.slice import Call, Params, Result, anything, operation


def _created(call: Call, params: Params) -> list[str]:
    found = [wire.template(call, params)]
    return [*found, str(params["jobArn"])] if params.get("jobArn") else found


@operation("iot", "CreateJobTemplate", resource=_created)
async def create_job_template(service: Jobs, call: Call, params: Params) -> Result:
    config = settings.wanted(params)
    windows = params.get("maintenanceWindows")
    if windows:
        schedule.parse_windows(windows)
        config["schedulingConfig"] = {"maintenanceWindows": windows}
    source = params.get("documentSource")
    authorise = call.extra.get("authorise")
    if source is not None and callable(authorise):
        bucket, key = documents.place(str(source))
        authorise("s3:GetObject", f"arn:aws:s3:::{bucket}/{key}")
    await service.templates.create(
        params["jobTemplateId"],
        description=params["description"],
        job_arn=params.get("jobArn"),
        document=params.get("document"),
        source=source,
        config=config,
        tags=tagging.read(params),
    )
    return {
        "jobTemplateArn": service.templates.arn(params["jobTemplateId"]),
        "jobTemplateId": params["jobTemplateId"],
    }


@operation("iot", "DescribeJobTemplate", resource=wire.template)
async def describe_job_template(service: Jobs, call: Call, params: Params) -> Result:
    found = service.templates.get(params["jobTemplateId"])
    config = dict(found.config)
    scheduled = config.pop("schedulingConfig", None)
    return {
        **_shown(service, found),
        "documentSource": found.source or None,
        "document": found.document.decode(),
        "maintenanceWindows": scheduled["maintenanceWindows"] if scheduled else None,
        **config,
    }


@operation("iot", "ListJobTemplates", resource=anything)
async def list_job_templates(service: Jobs, call: Call, params: Params) -> Result:
    limit = wire.limit(params)
    last = wire.last(params, 1)
    found = await service.templates.page(str(last[0]) if last else "", limit + 1)
    return wire.paged("jobTemplates", found, limit, lambda item: _shown(service, item), lambda item: [item.id])


@operation("iot", "DeleteJobTemplate", resource=wire.template)
async def delete_job_template(service: Jobs, call: Call, params: Params) -> Result:
    await service.templates.delete(params["jobTemplateId"])
    return {}


@operation("iot", "ListManagedJobTemplates", resource=anything)
async def list_managed_job_templates(service: Jobs, call: Call, params: Params) -> Result:
    return {"managedJobTemplates": []}


@operation("iot", "DescribeManagedJobTemplate", resource=anything)
async def describe_managed_job_template(service: Jobs, call: Call, params: Params) -> Result:
    raise NotFound(
        f"there is no managed job template {params['templateName']}: none of AWS's are here; make one with CreateJobTemplate"
    )


def _shown(service: Jobs, template: Template) -> dict[str, object]:
    return {
        "jobTemplateArn": service.templates.arn(template.id),
        "jobTemplateId": template.id,
        "description": template.description,
        "createdAt": template.created_ms,
    }
