"""Thing types."""

from marram.core.errors import Unsupported
from marram.hub import tagging
from marram.hub.listing import cut
from marram.hub.registry.api import wire
from marram.hub.registry.service import Registry, ThingType
from marram.hub.slice import Call, Params, Result, anything, operation


@operation("iot", "CreateThingType", resource=wire.thing_type)
async def create_thing_type(service: Registry, call: Call, params: Params) -> Result:
    properties = wire.inner(params, "thingTypeProperties")
    _refuse_propagation("CreateThingType", properties)
    made = await service.types.create(
        params["thingTypeName"],
        description=properties.get("thingTypeDescription") or "",
        searchable=tuple(properties.get("searchableAttributes") or ()),
        tags=tagging.read(params),
    )
    return {"thingTypeName": made.name, "thingTypeArn": service.arns.type(made.name), "thingTypeId": made.id}


@operation("iot", "DescribeThingType", resource=wire.thing_type)
async def describe_thing_type(service: Registry, call: Call, params: Params) -> Result:
    found = await service.types.get(params["thingTypeName"])
    return {**_shown(service, found), "thingTypeId": found.id}


@operation("iot", "ListThingTypes", resource=anything)
async def list_thing_types(service: Registry, call: Call, params: Params) -> Result:
    after, limit = wire.asked(params)
    rows = await service.types.page(params.get("thingTypeName") or "", after, limit + 1)
    shown, token = cut(rows, limit, lambda row: row.name)
    return {"thingTypes": [_shown(service, row) for row in shown], "nextToken": token}


@operation("iot", "UpdateThingType", resource=wire.thing_type)
async def update_thing_type(service: Registry, call: Call, params: Params) -> Result:
    properties = wire.inner(params, "thingTypeProperties")
    _refuse_propagation("UpdateThingType", properties)
    searchable = properties.get("searchableAttributes")
    await service.types.update(
        params["thingTypeName"],
        description=properties.get("thingTypeDescription"),
        searchable=None if searchable is None else tuple(searchable),
    )
    return {}


@operation("iot", "DeprecateThingType", resource=wire.thing_type)
async def deprecate_thing_type(service: Registry, call: Call, params: Params) -> Result:
    await service.types.deprecate(params["thingTypeName"], undo=bool(params.get("undoDeprecate")))
    return {}


@operation("iot", "DeleteThingType", resource=wire.thing_type)
async def delete_thing_type(service: Registry, call: Call, params: Params) -> Result:
    await service.types.delete(params["thingTypeName"])
    return {}


def _refuse_propagation(operation: str, properties: Params) -> None:
    if wire.inner(properties, "mqtt5Configuration").get("propagatingAttributes"):
        raise Unsupported(f"{operation}: mqtt5Configuration (propagating attributes) is not supported")


def _shown(service: Registry, kind: ThingType) -> dict[str, object]:
    return {
        "thingTypeName": kind.name,
        "thingTypeArn": service.arns.type(kind.name),
        "thingTypeProperties": {
            "thingTypeDescription": kind.description,
            "searchableAttributes": list(kind.searchable),
        },
        "thingTypeMetadata": {
            "deprecated": kind.deprecated_ms is not None,
            "deprecationDate": kind.deprecated_ms,
            "creationDate": kind.created_ms,
        },
    }
