"""iot-data operations on shadows, and our own: what is not reached."""

from marram.core import arn, codec
from marram.hub.shadow.service import Shadows, Unreached, document_body
from marram.hub.slice import Call, Params, Result, anything, operation


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


@operation("marram", "shadow/ListUnreached", resource=anything)
async def list_unreached(service: Shadows, call: Call, params: Params) -> Result:
    limit = int(params.get("maxResults") or 100)
    match params.get("nextToken"):
        case [int(since_ms), str(thing), str(name)]:
            after = (since_ms, thing, name)
        case _:
            after = (-1, "", "")
    found = await service.unreached(int(params["minutes"]), after=after, limit=limit + 1)
    shown = found[:limit]
    result: dict[str, object] = {"shadows": [_shown(each) for each in shown]}
    if len(found) > limit:
        result["nextToken"] = [shown[-1].since_ms, shown[-1].thing, shown[-1].name]
    return result


def _shown(found: Unreached) -> dict[str, object]:
    row: dict[str, object] = {
        "thingName": found.thing,
        "version": found.version,
        "since": found.since_ms,
        "keys": [{"key": pointer, "since": since_ms} for pointer, since_ms in sorted(found.since.items())],
    }
    return row | ({"shadowName": found.name} if found.name else {})
