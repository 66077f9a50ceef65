"""Things."""

from marram.core.errors import Invalid, Unsupported
from marram.hub.registry.api import wire
from marram.hub.registry.service import Registry, Search, Thing
from marram.hub.slice import Call, Params, Result, anything, operation


@operation("iot", "CreateThing", resource=wire.thing)
async def create_thing(service: Registry, call: Call, params: Params) -> Result:
    if params.get("billingGroupName"):
        raise Unsupported("CreateThing: billing groups are not supported")
    made = await service.things.create(
        params["thingName"],
        type_name=params.get("thingTypeName") or "",
        attributes=wire.inner(params, "attributePayload").get("attributes"),
    )
    return {"thingName": made.name, "thingArn": service.arns.thing(made.name), "thingId": made.id}


@operation("iot", "DescribeThing", resource=wire.thing)
async def describe_thing(service: Registry, call: Call, params: Params) -> Result:
    found = service.things.get(params["thingName"])
    return {**_shown(service, found), "defaultClientId": found.name, "thingId": found.id}


@operation("iot", "UpdateThing", resource=wire.thing)
async def update_thing(service: Registry, call: Call, params: Params) -> Result:
    payload = params.get("attributePayload")
    await service.things.update(
        params["thingName"],
        type_name=params.get("thingTypeName") or "",
        remove_type=bool(params.get("removeThingType")),
        attributes=None if payload is None else payload.get("attributes") or {},
        merge=bool(payload and payload.get("merge")),
        expected_version=params.get("expectedVersion"),
    )
    return {}


@operation("iot", "DeleteThing", resource=wire.thing)
async def delete_thing(service: Registry, call: Call, params: Params) -> Result:
    await service.things.delete(params["thingName"], expected_version=params.get("expectedVersion"))
    return {}


@operation("iot", "ListThings", resource=anything)
async def list_things(service: Registry, call: Call, params: Params) -> Result:
    attribute, value = params.get("attributeName") or "", params.get("attributeValue")
    if value is not None and not attribute:
        raise Invalid("attributeValue needs attributeName")
    if params.get("usePrefixAttributeValue") and (value is None or not attribute):
        raise Invalid("usePrefixAttributeValue needs attributeName and attributeValue")
    search = Search(
        type=params.get("thingTypeName") or "",
        attribute=attribute,
        value=value or "",
        prefix=bool(params.get("usePrefixAttributeValue")) or value is None,  # a name alone: whatever its value
    )
    rows, last = await service.things.page(search, params.get("nextToken"), int(params.get("maxResults") or wire.PAGE))
    return {"things": [_shown(service, row) for row in rows], "nextToken": last}


def _shown(service: Registry, thing: Thing) -> dict[str, object]:
    return {
        "thingName": thing.name,
        "thingArn": service.arns.thing(thing.name),
        "thingTypeName": thing.type or None,
        "attributes": dict(thing.attributes),
        "version": thing.version,
    }
