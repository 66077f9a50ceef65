"""Own operations on dataset versions."""

from marram.core import arn
from marram.hub.slice import Call, Params, Result, anything, operation
from marram.ml import access
from marram.ml.datasets.service import DEFAULT_SHARES, Datasets


def _named(call: Call, params: Params) -> str:
    return arn.build("marram", call.region, call.account, f"dataset/{params['name']}")


def _version(call: Call, params: Params) -> str:
    return arn.build("marram", call.region, call.account, f"dataset-version/{params['datasetId']}")


@operation("marram", "datasets/CreateDataset", resource=_named)
async def create(service: Datasets, call: Call, params: Params) -> Result:
    return await service.create(
        params["name"],
        params["manifestUri"],
        label_attribute=params.get("labelAttribute", "label"),
        shares=params.get("shares") or DEFAULT_SHARES,
        caller=access.of(call),
    )


@operation("marram", "datasets/DescribeDataset", resource=_version)
async def describe(service: Datasets, call: Call, params: Params) -> Result:
    return await service.describe(params["datasetId"])


@operation("marram", "datasets/ListDatasets", resource=anything)
async def listing(service: Datasets, call: Call, params: Params) -> Result:
    return {"datasets": await service.listing(params.get("name"), params.get("limit") or 100)}
