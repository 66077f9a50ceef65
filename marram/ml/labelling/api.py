"""SageMaker's labeling jobs, and own operations for whoever labels."""

from typing import Any

from marram.core import arn
from marram.core.errors import Invalid
from marram.hub.slice import Call, Params, Result, operation
from marram.ml import access
from marram.ml.labelling.service import Labelling


def _job(call: Call, params: Params) -> str:
    return arn.build("sagemaker", call.region, call.account, f"labeling-job/{params['LabelingJobName']}")


def _own(call: Call, params: Params) -> str:
    return arn.build("sagemaker", call.region, call.account, f"labeling-job/{params['labelingJobName']}")


@operation("sagemaker", "CreateLabelingJob", resource=_job)
async def create(service: Labelling, call: Call, params: Params) -> Result:
    return {"LabelingJobArn": await service.create(params, access.of(call))}


@operation("sagemaker", "DescribeLabelingJob", resource=_job)
async def describe(service: Labelling, call: Call, params: Params) -> Result:
    name = str(params["LabelingJobName"])
    found, total, done = await service.describe(name)
    document: dict[str, Any] = dict(found)
    request = document["request"]
    kept = ("LabelAttributeName", "InputConfig", "OutputConfig", "RoleArn", "LabelCategoryConfigS3Uri")
    result: dict[str, object] = {key: request[key] for key in (*kept, "HumanTaskConfig", "Tags") if key in request}
    result |= {
        "LabelingJobName": name,
        "LabelingJobArn": service.arn(name),
        "LabelingJobStatus": "InProgress" if document["status"] == "Writing" else document["status"],
        "LabelCounters": {
            "TotalLabeled": done,
            "HumanLabeled": done,
            "MachineLabeled": 0,
            "FailedNonRetryableError": 0,
            "Unlabeled": total - done,
        },
        "JobReferenceCode": document["reference"],
        "CreationTime": document["createdMs"],
        "LastModifiedTime": document["changedMs"],
    }
    if "output" in document:
        result["LabelingJobOutput"] = {"OutputDatasetS3Uri": document["output"]}
    return result


@operation("marram", "labelling/ListLabelTasks", resource=_own)
async def tasks(service: Labelling, call: Call, params: Params) -> Result:
    limit = int(params.get("limit") or 100)
    after = params.get("nextToken")
    if after is not None and not isinstance(after, int):
        raise Invalid("the page token is of another list")
    categories, found = await service.tasks(
        params["labelingJobName"],
        open_only=not params.get("all", False),
        after=-1 if after is None else after,
        limit=limit,
    )
    result: dict[str, object] = {
        "categories": categories,
        "tasks": [
            {"number": task.number, "sourceRef": task.line["source-ref"], "line": task.line}
            | ({} if task.label is None else {"label": task.label})
            for task in found
        ],
    }
    if len(found) == limit:
        result["nextToken"] = found[-1].number
    return result


@operation("marram", "labelling/SubmitLabel", resource=_own)
async def submit(service: Labelling, call: Call, params: Params) -> Result:
    labels = {int(entry["number"]): str(entry["label"]) for entry in params["labels"]}
    left = await service.submit(params["labelingJobName"], labels, params.get("labeller") or call.subject.principal)
    return {"open": left}
