"""iot operations on things, their principals, thing types, thing groups, and DescribeEndpoint."""

from collections.abc import Sequence
from typing import Final

from marram.core import arn
from marram.core.codec import JsonValue
from marram.core.errors import Invalid, Unsupported
from marram.hub.listing import page
from marram.hub.registry.service import Registry, Search, Thing, ThingGroup, ThingType
from marram.hub.slice import Call, Params, Result, anything, operation

PAGE: Final = 50
EXCLUSIVE: Final = "EXCLUSIVE_THING"
SHARED: Final = "NON_EXCLUSIVE_THING"


def _thing(call: Call, params: Params) -> str:
    return arn.build("iot", call.region, call.account, f"thing/{params['thingName']}")


def _thing_and_principal(call: Call, params: Params) -> list[str]:
    return [_thing(call, params), str(params["principal"])]


def _principal(_call: Call, params: Params) -> str:
    return str(params["principal"])


def _type(call: Call, params: Params) -> str:
    return arn.build("iot", call.region, call.account, f"thingtype/{params['thingTypeName']}")


def _group(call: Call, params: Params) -> str:
    return arn.build("iot", call.region, call.account, f"thinggroup/{params['thingGroupName']}")


def _member(call: Call, params: Params) -> list[str]:
    thing, group = _names(call, params)
    return [f"arn:aws:iot:{call.region}:{call.account}:{kind}" for kind in (f"thing/{thing}", f"thinggroup/{group}")]


# things


@operation("iot", "CreateThing", resource=_thing)
async def create_thing(service: Registry, call: Call, params: Params) -> Result:
    if params.get("billingGroupName"):
        raise Unsupported("CreateThing: billing groups are not supported")
    payload = _inner(params, "attributePayload") or {}
    made = await service.create_thing(
        params["thingName"],
        type_name=params.get("thingTypeName") or "",
        attributes=payload.get("attributes"),
    )
    return {"thingName": made.name, "thingArn": service.thing_arn(made.name), "thingId": made.id}


@operation("iot", "DescribeThing", resource=_thing)
async def describe_thing(service: Registry, call: Call, params: Params) -> Result:
    found = service.thing(params["thingName"])
    return {**_shown(service, found), "defaultClientId": found.name, "thingId": found.id}


@operation("iot", "UpdateThing", resource=_thing)
async def update_thing(service: Registry, call: Call, params: Params) -> Result:
    payload = _inner(params, "attributePayload")
    await service.update_thing(
        params["thingName"],
        type_name=params.get("thingTypeName") or "",
        remove_type=bool(params.get("removeThingType")),
        attributes=None if payload is None else payload.get("attributes") or {},
        merge=bool(payload and payload.get("merge")),
        expected_version=params.get("expectedVersion"),
    )
    return {}


@operation("iot", "DeleteThing", resource=_thing)
async def delete_thing(service: Registry, call: Call, params: Params) -> Result:
    await service.delete_thing(params["thingName"], expected_version=params.get("expectedVersion"))
    return {}


@operation("iot", "ListThings", resource=anything)
async def list_things(service: Registry, call: Call, params: Params) -> Result:
    if bool(params.get("attributeName")) != (params.get("attributeValue") is not None):
        raise Invalid("attributeName and attributeValue go together")
    search = Search(
        type=params.get("thingTypeName") or "",
        attribute=params.get("attributeName") or "",
        value=params.get("attributeValue") or "",
        prefix=bool(params.get("usePrefixAttributeValue")),
    )
    after, limit = _asked(service, "ListThings", params)
    rows = await service.things(search, after, limit + 1)
    shown, token = page(service.pages, "ListThings", rows, limit, lambda row: row.name)
    return {"things": [_shown(service, row) for row in shown], "nextToken": token}


def _shown(service: Registry, thing: Thing) -> dict[str, object]:
    return {
        "thingName": thing.name,
        "thingArn": service.thing_arn(thing.name),
        "thingTypeName": thing.type or None,
        "attributes": dict(thing.attributes),
        "version": thing.version,
    }


# principals


@operation("iot", "AttachThingPrincipal", resource=_thing_and_principal)
async def attach_thing_principal(service: Registry, call: Call, params: Params) -> Result:
    exclusive = params.get("thingPrincipalType") == EXCLUSIVE
    await service.attach_principal(params["thingName"], params["principal"], exclusive=exclusive)
    return {}


@operation("iot", "DetachThingPrincipal", resource=_thing_and_principal)
async def detach_thing_principal(service: Registry, call: Call, params: Params) -> Result:
    await service.detach_principal(params["thingName"], params["principal"])
    return {}


@operation("iot", "ListThingPrincipals", resource=_thing)
async def list_thing_principals(service: Registry, call: Call, params: Params) -> Result:
    rows, token = await _principals(service, "ListThingPrincipals", params)
    return {"principals": [principal for principal, _ in rows], "nextToken": token}


@operation("iot", "ListThingPrincipalsV2", resource=_thing)
async def list_thing_principals_v2(service: Registry, call: Call, params: Params) -> Result:
    rows, token = await _principals(service, "ListThingPrincipalsV2", params)
    objects = [{"principal": principal, "thingPrincipalType": _kind(bound)} for principal, bound in rows]
    return {"thingPrincipalObjects": _of_kind(objects, params), "nextToken": token}


@operation("iot", "ListPrincipalThings", resource=_principal)
async def list_principal_things(service: Registry, call: Call, params: Params) -> Result:
    rows, token = await _things_of(service, "ListPrincipalThings", params)
    return {"things": [thing for thing, _ in rows], "nextToken": token}


@operation("iot", "ListPrincipalThingsV2", resource=_principal)
async def list_principal_things_v2(service: Registry, call: Call, params: Params) -> Result:
    rows, token = await _things_of(service, "ListPrincipalThingsV2", params)
    objects = [{"thingName": thing, "thingPrincipalType": _kind(bound)} for thing, bound in rows]
    return {"principalThingObjects": _of_kind(objects, params), "nextToken": token}


async def _principals(service: Registry, name: str, params: Params) -> tuple[Sequence[tuple[str, bool]], JsonValue]:
    after, limit = _asked(service, name, params)
    rows = await service.principals(params["thingName"], after, limit + 1)
    return page(service.pages, name, rows, limit, lambda row: row[0].rpartition("/")[2])


async def _things_of(service: Registry, name: str, params: Params) -> tuple[Sequence[tuple[str, bool]], JsonValue]:
    after, limit = _asked(service, name, params)
    rows = await service.principal_things(params["principal"], after, limit + 1)
    return page(service.pages, name, rows, limit, lambda row: row[0])


def _kind(exclusive: bool) -> str:
    return EXCLUSIVE if exclusive else SHARED


def _of_kind(objects: list[dict[str, str]], params: Params) -> list[dict[str, str]]:
    wanted = params.get("thingPrincipalType")
    return [found for found in objects if wanted is None or found["thingPrincipalType"] == wanted]


# types


@operation("iot", "CreateThingType", resource=_type)
async def create_thing_type(service: Registry, call: Call, params: Params) -> Result:
    properties = _inner(params, "thingTypeProperties") or {}
    if params.get("tags") or properties.get("mqtt5Configuration"):
        raise Unsupported("CreateThingType: tags and mqtt5Configuration are not supported")
    made = await service.create_type(
        params["thingTypeName"],
        description=properties.get("thingTypeDescription") or "",
        searchable=tuple(properties.get("searchableAttributes") or ()),
    )
    return {"thingTypeName": made.name, "thingTypeArn": service.type_arn(made.name), "thingTypeId": made.id}


@operation("iot", "DescribeThingType", resource=_type)
async def describe_thing_type(service: Registry, call: Call, params: Params) -> Result:
    found = await service.type(params["thingTypeName"])
    return {**_shown_type(service, found), "thingTypeId": found.id}


@operation("iot", "ListThingTypes", resource=anything)
async def list_thing_types(service: Registry, call: Call, params: Params) -> Result:
    after, limit = _asked(service, "ListThingTypes", params)
    rows = await service.types(params.get("thingTypeName") or "", after, limit + 1)
    shown, token = page(service.pages, "ListThingTypes", rows, limit, lambda row: row.name)
    return {"thingTypes": [_shown_type(service, row) for row in shown], "nextToken": token}


@operation("iot", "DeprecateThingType", resource=_type)
async def deprecate_thing_type(service: Registry, call: Call, params: Params) -> Result:
    await service.deprecate_type(params["thingTypeName"], undo=bool(params.get("undoDeprecate")))
    return {}


@operation("iot", "DeleteThingType", resource=_type)
async def delete_thing_type(service: Registry, call: Call, params: Params) -> Result:
    await service.delete_type(params["thingTypeName"])
    return {}


def _shown_type(service: Registry, kind: ThingType) -> dict[str, object]:
    return {
        "thingTypeName": kind.name,
        "thingTypeArn": service.type_arn(kind.name),
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


# groups


@operation("iot", "CreateThingGroup", resource=_group)
async def create_thing_group(service: Registry, call: Call, params: Params) -> Result:
    if params.get("tags"):
        raise Unsupported("CreateThingGroup: tags are not supported")
    properties = _inner(params, "thingGroupProperties") or {}
    made = await service.create_group(
        params["thingGroupName"],
        parent=params.get("parentGroupName") or "",
        description=properties.get("thingGroupDescription") or "",
        attributes=(_inner(properties, "attributePayload") or {}).get("attributes"),
    )
    return {"thingGroupName": made.name, "thingGroupArn": service.group_arn(made.name), "thingGroupId": made.id}


@operation("iot", "DescribeThingGroup", resource=_group)
async def describe_thing_group(service: Registry, call: Call, params: Params) -> Result:
    found, parents = await service.group(params["thingGroupName"])
    return {
        "thingGroupName": found.name,
        "thingGroupId": found.id,
        "thingGroupArn": service.group_arn(found.name),
        "version": found.version,
        "thingGroupProperties": _properties(found),
        "thingGroupMetadata": {
            "parentGroupName": found.parent or None,
            "rootToParentThingGroups": [_named(service, name) for name in parents],
            "creationDate": found.created_ms,
        },
    }


@operation("iot", "UpdateThingGroup", resource=_group)
async def update_thing_group(service: Registry, call: Call, params: Params) -> Result:
    properties = _inner(params, "thingGroupProperties") or {}
    payload = _inner(properties, "attributePayload")
    version = await service.update_group(
        params["thingGroupName"],
        description=properties.get("thingGroupDescription"),
        attributes=None if payload is None else payload.get("attributes") or {},
        merge=bool(payload and payload.get("merge")),
        expected_version=params.get("expectedVersion"),
    )
    return {"version": version}


@operation("iot", "DeleteThingGroup", resource=_group)
async def delete_thing_group(service: Registry, call: Call, params: Params) -> Result:
    await service.delete_group(params["thingGroupName"], expected_version=params.get("expectedVersion"))
    return {}


@operation("iot", "ListThingGroups", resource=anything)
async def list_thing_groups(service: Registry, call: Call, params: Params) -> Result:
    after, limit = _asked(service, "ListThingGroups", params)
    rows = await service.groups(
        prefix=params.get("namePrefixFilter") or "",
        parent=params.get("parentGroup") or "",
        recursive=params.get("recursive"),
        after=after,
        limit=limit + 1,
    )
    return _groups(service, "ListThingGroups", rows, limit)


@operation("iot", "AddThingToThingGroup", resource=_member)
async def add_thing_to_thing_group(service: Registry, call: Call, params: Params) -> Result:
    thing, group = _names(call, params)
    await service.add_to_group(group, thing)
    return {}


@operation("iot", "RemoveThingFromThingGroup", resource=_member)
async def remove_thing_from_thing_group(service: Registry, call: Call, params: Params) -> Result:
    thing, group = _names(call, params)
    await service.remove_from_group(group, thing)
    return {}


@operation("iot", "ListThingsInThingGroup", resource=_group)
async def list_things_in_thing_group(service: Registry, call: Call, params: Params) -> Result:
    after, limit = _asked(service, "ListThingsInThingGroup", params)
    recursive = bool(params.get("recursive"))
    rows = await service.members(params["thingGroupName"], after, limit + 1, recursive=recursive)
    shown, token = page(service.pages, "ListThingsInThingGroup", rows, limit, _itself)
    return {"things": list(shown), "nextToken": token}


@operation("iot", "ListThingGroupsForThing", resource=_thing)
async def list_thing_groups_for_thing(service: Registry, call: Call, params: Params) -> Result:
    after, limit = _asked(service, "ListThingGroupsForThing", params)
    rows = await service.thing_groups(params["thingName"], after, limit + 1)
    return _groups(service, "ListThingGroupsForThing", rows, limit)


def _groups(service: Registry, name: str, rows: list[str], limit: int) -> Result:
    shown, token = page(service.pages, name, rows, limit, _itself)
    return {"thingGroups": [_named(service, row) for row in shown], "nextToken": token}


def _named(service: Registry, group: str) -> dict[str, object]:
    return {"groupName": group, "groupArn": service.group_arn(group)}


def _properties(group: ThingGroup) -> dict[str, object]:
    return {
        "thingGroupDescription": group.description or None,
        "attributePayload": {"attributes": dict(group.attributes)},
    }


def _names(call: Call, params: Params) -> tuple[str, str]:
    """(thing, group), each given by name or ARN."""
    return _one_name(call, params, "thing", "thing"), _one_name(call, params, "thingGroup", "thinggroup")


def _one_name(call: Call, params: Params, member: str, kind: str) -> str:
    name, text = params.get(f"{member}Name"), params.get(f"{member}Arn")
    if text is not None:
        parsed = arn.parse(text)
        found, _, of_arn = parsed.resource.partition("/")
        if found != kind or (parsed.service, parsed.region, parsed.account) != ("iot", call.region, call.account):
            raise Invalid(f"{member}Arn {text!r} is not the ARN of a {kind} of this hub")
        if name is not None and name != of_arn:
            raise Invalid(f"{member}Name and {member}Arn name two of them")
        return of_arn
    if name is None:
        raise Invalid(f"{member}Name or {member}Arn is needed")
    return str(name)


# endpoints


@operation("iot", "DescribeEndpoint", resource=anything)
async def describe_endpoint(service: Registry, call: Call, params: Params) -> Result:
    return {"endpointAddress": service.endpoint(params.get("endpointType") or "iot:Data-ATS")}


# small things


def _asked(service: Registry, name: str, params: Params) -> tuple[str, int]:
    """(last name of the page before, size of this one)."""
    last = service.pages.last(name, params.get("nextToken"))
    return last if isinstance(last, str) else "", int(params.get("maxResults") or PAGE)


def _inner(params: Params, name: str) -> Params | None:
    """A structure within the parameters."""
    found: Params | None = params.get(name)
    return found


def _itself(name: str) -> JsonValue:
    return name
