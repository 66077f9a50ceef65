"""Own operations on compilations."""

from marram.core import arn
from marram.hub.slice import Call, Params, Result, operation
from marram.ml import access
from marram.ml.compilation.service import Compilation


def _job(call: Call, params: Params) -> str:
    return arn.build("sagemaker", call.region, call.account, f"training-job/{params['trainingJobName']}")


def _one(call: Call, params: Params) -> str:
    return arn.build("marram", call.region, call.account, f"compilation/{params['compilationId']}")


@operation("marram", "compilation/CreateCompilation", resource=_job)
async def create(service: Compilation, call: Call, params: Params) -> Result:
    return await service.create(
        params["trainingJobName"], params["datasetId"], params.get("split", "gate"), access.of(call)
    )


@operation("marram", "compilation/DescribeCompilation", resource=_one)
async def describe(service: Compilation, call: Call, params: Params) -> Result:
    return await service.describe(params["compilationId"])
