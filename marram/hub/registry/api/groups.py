"""Thing groups and who is in them; those whose members a query decides are made in dynamic_groups.py."""

from marram.core.codec import JsonValue
from marram.hub import tagging
from marram.hub.listing import cut
from marram.hub.registry.api import wire
from marram.hub.registry.api.dynamic_groups import dynamic_members
from marram.hub.registry.service import Registry, ThingGroup
from marram.hub.slice import Call, Params, Result, anything, operation


@operation("iot", "CreateThingGroup", resource=wire.group_and_parent)
async def create_thing_group(service: Registry, call: Call, params: Params) -> Result:
    properties = wire.inner(params, "thingGroupProperties")
    made = await service.groups.create(
        params["thingGroupName"],
        parent=params.get("parentGroupName") or "",
        description=properties.get("thingGroupDescription") or "",
        attributes=wire.inner(properties, "attributePayload").get("attributes"),
        tags=tagging.read(params),
    )
    return {"thingGroupName": made.name, "thingGroupArn": service.arns.group(made.name), "thingGroupId": made.id}


@operation("iot", "DescribeThingGroup", resource=wire.group)
async def describe_thing_group(service: Registry, call: Call, params: Params) -> Result:
    found, parents = await service.groups.get(params["thingGroupName"])
    return {
        "thingGroupName": found.name,
        "thingGroupId": found.id,
        "thingGroupArn": service.arns.group(found.name),
        "version": found.version,
        "thingGroupProperties": _properties(found),
        "thingGroupMetadata": {
            "parentGroupName": found.parent or None,
            "rootToParentThingGroups": [_named(service, name) for name in parents],
            "creationDate": found.created_ms,
        },
        **dynamic_members(service, found.name),
    }


@operation("iot", "UpdateThingGroup", resource=wire.group)
async def update_thing_group(service: Registry, call: Call, params: Params) -> Result:
    properties = wire.inner(params, "thingGroupProperties")
    payload = properties.get("attributePayload")
    version = await service.groups.update(
        params["thingGroupName"],
        description=properties.get("thingGroupDescription"),
        attributes=None if payload is None else payload.get("attributes") or {},
        merge=bool(payload and payload.get("merge")),
        expected_version=params.get("expectedVersion"),
    )
    return {"version": version}


@operation("iot", "DeleteThingGroup", resource=wire.group)
async def delete_thing_group(service: Registry, call: Call, params: Params) -> Result:
    await service.groups.delete(params["thingGroupName"], expected_version=params.get("expectedVersion"))
    return {}


@operation("iot", "ListThingGroups", resource=anything)
async def list_thing_groups(service: Registry, call: Call, params: Params) -> Result:
    after, limit = wire.asked(params)
    rows = await service.groups.page(
        prefix=params.get("namePrefixFilter") or "",
        parent=params.get("parentGroup") or "",
        recursive=params.get("recursive"),
        after=after,
        limit=limit + 1,
    )
    return _groups(service, rows, limit)


@operation("iot", "AddThingToThingGroup", resource=wire.member)
async def add_thing_to_thing_group(service: Registry, call: Call, params: Params) -> Result:
    thing, group = wire.thing_and_group(call, params)
    await service.members.add(group, thing, override_dynamic=bool(params.get("overrideDynamicGroups")))
    return {}


@operation("iot", "RemoveThingFromThingGroup", resource=wire.member)
async def remove_thing_from_thing_group(service: Registry, call: Call, params: Params) -> Result:
    thing, group = wire.thing_and_group(call, params)
    await service.members.remove(group, thing)
    return {}


@operation("iot", "UpdateThingGroupsForThing", resource=wire.moved)
async def update_thing_groups_for_thing(service: Registry, call: Call, params: Params) -> Result:
    await service.members.move(
        wire.thing_name(params),
        add=params.get("thingGroupsToAdd") or (),
        remove=params.get("thingGroupsToRemove") or (),
        override_dynamic=bool(params.get("overrideDynamicGroups")),
    )
    return {}


@operation("iot", "ListThingsInThingGroup", resource=wire.group)
async def list_things_in_thing_group(service: Registry, call: Call, params: Params) -> Result:
    after, limit = wire.asked(params)
    recursive = bool(params.get("recursive"))
    rows = await service.members.of_group(params["thingGroupName"], after, limit + 1, recursive=recursive)
    shown, token = cut(rows, limit, _itself)
    return {"things": list(shown), "nextToken": token}


@operation("iot", "ListThingGroupsForThing", resource=wire.thing)
async def list_thing_groups_for_thing(service: Registry, call: Call, params: Params) -> Result:
    after, limit = wire.asked(params)
    rows = await service.members.of_thing(params["thingName"], after, limit + 1)
    return _groups(service, rows, limit)


def _groups(service: Registry, rows: list[str], limit: int) -> Result:
    shown, token = cut(rows, limit, _itself)
    return {"thingGroups": [_named(service, row) for row in shown], "nextToken": token}


def _named(service: Registry, group: str) -> dict[str, object]:
    return {"groupName": group, "groupArn": service.arns.group(group)}


def _properties(group: ThingGroup) -> dict[str, object]:
    return {
        "thingGroupDescription": group.description or None,
        "attributePayload": {"attributes": dict(group.attributes)},
    }


def _itself(name: str) -> JsonValue:
    return name
