"""Where devices and their services find the hub."""

from marram.hub.registry.service import Registry
from marram.hub.slice import Call, Params, Result, anything, operation


@operation("iot", "DescribeEndpoint", resource=anything)
async def describe_endpoint(service: Registry, call: Call, params: Params) -> Result:
    return {"endpointAddress": service.endpoint(params.get("endpointType") or "iot:Data-ATS")}
