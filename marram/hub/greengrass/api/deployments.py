"""greengrassv2 operations on deployments, and our canary."""

from typing import Any

from marram.core import arn
from marram.core.codec import JsonObject
from marram.core.errors import Invalid
from marram.core.jobs import Status
from marram.hub.greengrass.deployments import target_arn, why
from marram.hub.greengrass.service import Greengrass
from marram.hub.greengrass.store import Canary, Deployment
from marram.hub.slice import Call, Params, Result, operation


def _any_deployment(call: Call, _params: Params) -> str:
    return arn.build("greengrass", call.region, call.account, "deployments:*")


def _deployment_arn(call: Call, params: Params) -> str:
    return arn.build("greengrass", call.region, call.account, f"deployments:{params['deploymentId']}")


def _core_arn(call: Call, params: Params) -> str:
    return arn.build("greengrass", call.region, call.account, f"coreDevices:{params['coreDeviceThingName']}")


def _may(call: Call, action: str, resource: str) -> None:
    """A deployment is a job on its target: AWS's table of actions names the job's right beside the deployment's own."""
    authorise = call.extra.get("authorise")
    if callable(authorise):  # filled by the border
        authorise(action, resource)


@operation("greengrassv2", "CreateDeployment", resource=_any_deployment)
async def create_deployment(service: Greengrass, call: Call, params: Params) -> Result:
    _may(call, "iot:CreateJob", params["targetArn"])
    made, _ = await service.deployments.create(_request(params), token=str(params.get("clientToken") or ""))
    return {"deploymentId": made.id, "iotJobId": made.job, "iotJobArn": _job_arn(call, made.job)}


@operation("marram", "greengrass/CreateCanaryDeployment", resource=_any_deployment)
async def create_canary_deployment(service: Greengrass, call: Call, params: Params) -> Result:
    things = list(params.get("canaryThings") or [])
    count = int(params.get("canaryCount") or 0)
    if things and count:
        raise Invalid("give canaryThings or canaryCount, not both")
    _may(call, "iot:CreateJob", params["targetArn"])
    made, canary = await service.deployments.create(
        _request(params), canary_things=things or count or 1, bake_ms=int(params.get("bakeSeconds") or 0) * 1000
    )
    assert canary is not None
    return {
        "deploymentId": made.id,
        "iotJobId": made.job,
        "iotJobArn": _job_arn(call, made.job),
        "canaryThings": list(canary.things),
    }


@operation("marram", "greengrass/GetRollout", resource=_deployment_arn)
async def get_rollout(service: Greengrass, call: Call, params: Params) -> Result:
    found, _, canary = await service.deployments.get(params["deploymentId"])
    result: dict[str, object] = {
        "deploymentId": found.id,
        "deploymentStatus": found.status,
        "reason": found.reason,
        "executions": await service.deployments.executions(found.id),
    }
    if canary is not None:
        result["canary"] = _canary(canary)
    return result


@operation("greengrassv2", "GetDeployment", resource=_deployment_arn)
async def get_deployment(service: Greengrass, call: Call, params: Params) -> Result:
    found, is_latest, _ = await service.deployments.get(params["deploymentId"])
    request = found.request
    return {
        **_summary(call, found, is_latest),
        "iotJobId": found.job,
        "iotJobArn": _job_arn(call, found.job),
        "components": request.get("components") or {},
        "deploymentPolicies": request.get("deploymentPolicies")
        or {"failureHandlingPolicy": found.document["failureHandlingPolicy"]},
        "iotJobConfiguration": request.get("iotJobConfiguration") or {},
        "tags": {},
    }


@operation("greengrassv2", "ListDeployments", resource=_any_deployment)
async def list_deployments(service: Greengrass, call: Call, params: Params) -> Result:
    limit = int(params.get("maxResults") or 50)
    last: list[Any] | None = params.get("nextToken")
    before = (int(last[0]), str(last[1])) if isinstance(last, list) else (1 << 62, "")
    found = await service.deployments.page(params.get("targetArn"), before=before, limit=limit + 1)
    only_latest = params.get("historyFilter", "LATEST_ONLY") == "LATEST_ONLY"
    result: dict[str, object] = {
        "deployments": [
            _summary(call, item, is_latest) for item, is_latest in found[:limit] if is_latest or not only_latest
        ]
    }
    if len(found) > limit:
        item = found[limit - 1][0]
        result["nextToken"] = [item.created_ms, item.id]
    return result


@operation("greengrassv2", "CancelDeployment", resource=_deployment_arn)
async def cancel_deployment(service: Greengrass, call: Call, params: Params) -> Result:
    found, _, _ = await service.deployments.get(params["deploymentId"])
    _may(call, "iot:CancelJob", _job_arn(call, found.job))
    await service.deployments.cancel(params["deploymentId"])
    return {"message": f"deployment {params['deploymentId']} is canceled"}


@operation("greengrassv2", "ListEffectiveDeployments", resource=_core_arn)
async def list_effective_deployments(service: Greengrass, call: Call, params: Params) -> Result:
    limit = int(params.get("maxResults") or 50)
    start = params.get("nextToken") or 0
    assert isinstance(start, int)
    found = await service.deployments.effective(params["coreDeviceThingName"])
    result: dict[str, object] = {
        "effectiveDeployments": [
            {
                "deploymentId": item.deployment.id,
                "deploymentName": item.deployment.name,
                "iotJobId": item.deployment.job,
                "iotJobArn": _job_arn(call, item.deployment.job),
                "targetArn": target_arn(call.region, call.account, item.deployment.target),
                "coreDeviceExecutionStatus": _EXECUTION[item.status],
                "reason": why(item.details),
                "creationTimestamp": item.deployment.created_ms,
                "modifiedTimestamp": item.modified_ms,
            }
            for item in found[start : start + limit]
        ]
    }
    if len(found) > start + limit:
        result["nextToken"] = start + limit
    return result


_EXECUTION = {
    Status.QUEUED: "QUEUED",
    Status.IN_PROGRESS: "IN_PROGRESS",
    Status.SUCCEEDED: "SUCCEEDED",
    Status.FAILED: "FAILED",
    Status.TIMED_OUT: "TIMED_OUT",
    Status.REJECTED: "REJECTED",
    Status.CANCELED: "CANCELED",
}


def _request(params: Params) -> JsonObject:
    kept = (
        *("targetArn", "deploymentName", "components", "deploymentPolicies"),
        *("iotJobConfiguration", "parentTargetArn", "tags"),
    )
    return {key: params[key] for key in kept if params.get(key) is not None}


def _summary(call: Call, found: Deployment, is_latest: bool) -> dict[str, object]:
    return {
        "targetArn": target_arn(call.region, call.account, found.target),
        "revisionId": str(found.revision),
        "deploymentId": found.id,
        "deploymentName": found.name,
        "deploymentStatus": found.status,
        "creationTimestamp": found.created_ms,
        "isLatestForTarget": is_latest,
    }


def _canary(canary: Canary) -> dict[str, object]:
    made: dict[str, object] = {
        "things": list(canary.things),
        "state": canary.state,
        "bakeSeconds": canary.bake_ms // 1000,
    }
    if canary.reason:
        made["reason"] = canary.reason
    return made


def _job_arn(call: Call, job: str) -> str:
    return arn.build("iot", call.region, call.account, f"job/{job}")
