"""Thing groups whose members a query decides."""

from marram.core.errors import Invalid
from marram.hub import tagging
from marram.hub.registry import fields, search
from marram.hub.registry.api import wire
from marram.hub.registry.service import Registry
from marram.hub.slice import Call, Params, Result, operation


@operation("iot", "CreateDynamicThingGroup", resource=wire.group)
async def create_dynamic_thing_group(service: Registry, call: Call, params: Params) -> Result:
    _check_index(params)
    properties = wire.inner(params, "thingGroupProperties")
    await service.leaving.finish(params["thingGroupName"])
    made = await service.dynamic.create(
        params["thingGroupName"],
        params["queryString"],
        description=properties.get("thingGroupDescription") or "",
        attributes=wire.inner(properties, "attributePayload").get("attributes"),
        tags=tagging.read(params),
    )
    return {
        "thingGroupName": made.name,
        "thingGroupArn": service.arns.group(made.name),
        "thingGroupId": made.id,
        "indexName": fields.THINGS,
        "queryString": params["queryString"],
        "queryVersion": search.VERSION,
    }


@operation("iot", "UpdateDynamicThingGroup", resource=wire.group)
async def update_dynamic_thing_group(service: Registry, call: Call, params: Params) -> Result:
    _check_index(params)
    properties = wire.inner(params, "thingGroupProperties")
    payload = properties.get("attributePayload")
    version = await service.dynamic.update(
        params["thingGroupName"],
        text=params.get("queryString"),
        description=properties.get("thingGroupDescription"),
        attributes=None if payload is None else payload.get("attributes") or {},
        merge=bool(payload and payload.get("merge")),
        expected_version=params.get("expectedVersion"),
    )
    return {"version": version}


@operation("iot", "DeleteDynamicThingGroup", resource=wire.group)
async def delete_dynamic_thing_group(service: Registry, call: Call, params: Params) -> Result:
    await service.dynamic.delete(params["thingGroupName"], expected_version=params.get("expectedVersion"))
    return {}


def dynamic_members(service: Registry, name: str) -> dict[str, object]:
    """Of DescribeThingGroup: what a static group has not."""
    found = service.dynamic.described(name)
    if found is None:
        return {}
    return {
        "indexName": fields.THINGS,
        "queryString": found.query,
        "queryVersion": search.VERSION,
        "status": found.shown_state,
    }


def _check_index(params: Params) -> None:
    search.check_version(params.get("queryVersion"))
    index = params.get("indexName") or fields.THINGS
    if index != fields.THINGS:
        raise Invalid(f"indexName {index!r}: dynamic thing groups are of {fields.THINGS}")
