"""iot-data operations on shadows."""

from marram.core import arn, codec
from marram.hub.shadow.service import Shadows, document_body
from marram.hub.slice import Call, Params, Result, operation


def _resource(call: Call, params: Params) -> str:
    name = params.get("shadowName")
    tail = f"/{name}" if name else ""
    return arn.build("iot", call.region, call.account, f"thing/{params['thingName']}{tail}")


@operation("iot-data", "GetThingShadow", resource=_resource)
async def get_thing_shadow(service: Shadows, call: Call, params: Params) -> Result:
    document = await service.get(params["thingName"], params.get("shadowName") or "")
    return {"payload": codec.dumps(document_body(document, call.now_ms))}


@operation("iot-data", "UpdateThingShadow", resource=_resource)
async def update_thing_shadow(service: Shadows, call: Call, params: Params) -> Result:
    body = await service.update(params["thingName"], params.get("shadowName") or "", bytes(params["payload"]))
    return {"payload": codec.dumps(body)}


@operation("iot-data", "DeleteThingShadow", resource=_resource)
async def delete_thing_shadow(service: Shadows, call: Call, params: Params) -> Result:
    body = await service.delete(params["thingName"], params.get("shadowName") or "")
    return {"payload": codec.dumps(body)}


@operation("iot-data", "ListNamedShadowsForThing", resource=_resource)
async def list_named_shadows_for_thing(service: Shadows, call: Call, params: Params) -> Result:
    limit = int(params.get("pageSize") or 25)
    found = await service.names(params["thingName"], after=str(params.get("nextToken") or ""), limit=limit + 1)
    result: dict[str, object] = {"results": found[:limit], "timestamp": call.now_ms // 1000}
    if len(found) > limit:
        result["nextToken"] = found[limit - 1]
    return result
