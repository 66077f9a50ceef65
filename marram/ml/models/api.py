"""Own operations on model versions."""

from marram.core import arn
from marram.hub.slice import Call, Params, Result, anything, operation
from marram.ml import access
from marram.ml.models.service import Models


def _model(call: Call, params: Params) -> str:
    return arn.build("marram", call.region, call.account, f"model/{params['name']}")


@operation("marram", "models/CreateModelVersion", resource=_model)
async def create(service: Models, call: Call, params: Params) -> Result:
    access.of(call).compilation(params["compilationId"])
    least = params.get("leastAccuracy")
    return await service.create(params["name"], params["compilationId"], least_accuracy=float(least or 0.0))


@operation("marram", "models/DescribeModelVersion", resource=_model)
async def describe(service: Models, call: Call, params: Params) -> Result:
    return await service.describe(params["name"], int(params["version"]))


@operation("marram", "models/ListModelVersions", resource=anything)
async def listing(service: Models, call: Call, params: Params) -> Result:
    return {"versions": await service.listing(params.get("name"), params.get("limit") or 100)}


@operation("marram", "models/EvaluateModelVersion", resource=_model)
async def evaluate(service: Models, call: Call, params: Params) -> Result:
    access.of(call).dataset(params["datasetId"])
    against = params.get("against")
    report = await service.evaluate(
        params["name"],
        int(params["version"]),
        params["datasetId"],
        params["split"],
        None if against is None else int(against),
    )
    return {"evaluation": report}


@operation("marram", "models/PublishModelVersion", resource=_model)
async def publish(service: Models, call: Call, params: Params) -> Result:
    everywhere = arn.build("greengrass", call.region, call.account, "components:*")  # as CreateComponentVersion itself
    access.of(call).authorise("greengrass:CreateComponentVersion", everywhere)
    return await service.publish(
        params["name"],
        int(params["version"]),
        params["componentName"],
        params["componentVersion"],
        params.get("configuration") or {},
        force=bool(params.get("force", False)),
    )
