"""SageMaker's training operations, in the form that scripts use."""

from typing import Any

from marram.core import arn
from marram.core.codec import JsonObject
from marram.core.errors import Unsupported
from marram.hub.slice import Call, Params, Result, anything, operation
from marram.ml import access
from marram.ml.training.service import Training


def _job(call: Call, params: Params) -> str:
    return arn.build("sagemaker", call.region, call.account, f"training-job/{params['TrainingJobName']}")


@operation("sagemaker", "CreateTrainingJob", resource=_job)
async def create(service: Training, call: Call, params: Params) -> Result:
    return {"TrainingJobArn": await service.create(params, access.of(call))}


@operation("sagemaker", "DescribeTrainingJob", resource=_job)
async def describe(service: Training, call: Call, params: Params) -> Result:
    name = str(params["TrainingJobName"])
    document: dict[str, Any] = dict(await service.describe(name))
    request = document["request"]
    result: dict[str, object] = {key: value for key, value in request.items() if key not in ("Tags",)}
    result |= {
        "TrainingJobArn": service.arn(name),
        "TrainingJobStatus": document["status"],
        "SecondaryStatus": document["secondary"],
        "CreationTime": document["createdMs"],
        "LastModifiedTime": document["changedMs"],
        "ModelArtifacts": {"S3ModelArtifacts": document.get("model", "")},
        "SecondaryStatusTransitions": [
            {"Status": status, "StartTime": begin, "StatusMessage": message} | ({"EndTime": end} if end else {})
            for status, begin, end, message in document["transitions"]
        ],
        "FinalMetricDataList": [
            {"MetricName": name, "Value": value, "Timestamp": time} for name, value, time in document.get("metrics", [])
        ],
    }
    for key, member in (
        ("startedMs", "TrainingStartTime"),
        ("endedMs", "TrainingEndTime"),
        ("failure", "FailureReason"),
    ):
        if key in document:
            result[member] = document[key]
    if "startedMs" in document and "endedMs" in document:
        result["TrainingTimeInSeconds"] = max(1, (document["endedMs"] - document["startedMs"]) // 1000)
    return result


@operation("sagemaker", "StopTrainingJob", resource=_job)
async def stop(service: Training, call: Call, params: Params) -> Result:
    await service.stop(str(params["TrainingJobName"]))
    return {}


@operation("sagemaker", "ListTrainingJobs", resource=anything)
async def listing(service: Training, call: Call, params: Params) -> Result:
    given = sorted(set(params) - {"MaxResults"})
    if given:
        raise Unsupported(f"ListTrainingJobs with {given[0]} is not supported; MaxResults is")
    found = await service.listing(int(params.get("MaxResults") or 100))
    return {"TrainingJobSummaries": [_summary(service, document) for document in found]}


def _summary(service: Training, document: JsonObject) -> dict[str, object]:
    request: Any = document["request"]
    name = str(request["TrainingJobName"])
    summary: dict[str, object] = {
        "TrainingJobName": name,
        "TrainingJobArn": service.arn(name),
        "CreationTime": document["createdMs"],
        "LastModifiedTime": document["changedMs"],
        "TrainingJobStatus": document["status"],
    }
    if "endedMs" in document:
        summary["TrainingEndTime"] = document["endedMs"]
    return summary
