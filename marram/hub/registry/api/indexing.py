"""What is indexed, and which indices there are."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from marram.core import arn
from marram.core.errors import Invalid, Unsupported
from marram.hub.registry import fields
from marram.hub.registry.api import wire
from marram.hub.registry.fields import Kind, Settings
from marram.hub.registry.service import Registry
from marram.hub.slice import Call, Params, Result, anything, operation


def index_arn(call: Call, params: Params) -> str:
    return arn.build("iot", call.region, call.account, f"index/{params.get('indexName') or fields.THINGS}")


@operation("iot", "UpdateIndexingConfiguration", resource=anything)
async def update_indexing_configuration(service: Registry, call: Call, params: Params) -> Result:
    things, groups = params.get("thingIndexingConfiguration"), params.get("thingGroupIndexingConfiguration")
    if things is None and groups is None:
        raise Invalid("thingIndexingConfiguration or thingGroupIndexingConfiguration is needed")

    def change(settings: Settings) -> Settings:
        if things is not None:
            settings = _things(settings, things)
        return settings if groups is None else _groups(settings, groups)

    await service.index.configure(change, check=service.dynamic.check_settings)
    return {}


@operation("iot", "GetIndexingConfiguration", resource=anything)
async def get_indexing_configuration(service: Registry, call: Call, params: Params) -> Result:
    settings = service.index.settings
    things: dict[str, object] = {"thingIndexingMode": "OFF"}
    if settings.things:
        things = {
            "thingIndexingMode": "REGISTRY_AND_SHADOW" if settings.shadow else "REGISTRY",
            "thingConnectivityIndexingMode": "STATUS" if settings.connectivity else "OFF",
            "deviceDefenderIndexingMode": "OFF",
            "namedShadowIndexingMode": "ON" if settings.named else "OFF",
            "managedFields": _shown(settings.managed()),
            "customFields": _shown(dict(settings.custom)),
            "filter": {"namedShadowNames": list(settings.named)} if settings.named else None,
        }
    groups: dict[str, object] = {"thingGroupIndexingMode": "OFF"}
    if settings.groups:
        groups = {
            "thingGroupIndexingMode": "ON",
            "managedFields": _shown(fields.GROUP_KINDS),
            "customFields": _shown(dict(settings.group_custom)),
        }
    return {"thingIndexingConfiguration": things, "thingGroupIndexingConfiguration": groups}


@operation("iot", "DescribeIndex", resource=index_arn)
async def describe_index(service: Registry, call: Call, params: Params) -> Result:
    name = params["indexName"]
    status = service.index.status_of(name)
    schema = _schema(service.index.settings) if name == fields.THINGS else "THING_GROUPS"
    return {"indexName": name, "indexStatus": status, "schema": schema}


@operation("iot", "ListIndices", resource=anything)
async def list_indices(service: Registry, call: Call, params: Params) -> Result:
    settings = service.index.settings
    on = {fields.THINGS: settings.things, fields.GROUPS: settings.groups}
    after, limit = str(params.get("nextToken") or ""), int(params.get("maxResults") or 500)
    names = [name for name in sorted(on, reverse=True) if on[name] and (not after or name < after)]
    return {"indexNames": names[:limit], "nextToken": names[limit - 1] if len(names) > limit else None}


def _things(settings: Settings, given: Params) -> Settings:
    """The part of the settings that is about things. Raises Invalid; Unsupported for what is not indexed here."""
    mode = given["thingIndexingMode"]
    chosen = wire.inner(given, "filter")
    if given.get("deviceDefenderIndexingMode", "OFF") != "OFF":
        raise Unsupported("UpdateIndexingConfiguration: deviceDefenderIndexingMode VIOLATIONS is not supported")
    if chosen.get("geoLocations"):
        raise Unsupported("UpdateIndexingConfiguration: filter.geoLocations is not supported")
    if wire.inner(chosen, "connectivity").get("includeSocketInformation"):
        raise Unsupported("UpdateIndexingConfiguration: filter.connectivity.includeSocketInformation is not supported")
    has_connectivity = given.get("thingConnectivityIndexingMode", "OFF") == "STATUS"
    has_named = given.get("namedShadowIndexingMode", "OFF") == "ON"
    named = tuple(dict.fromkeys(chosen.get("namedShadowNames") or ()))
    if mode == "OFF" and (has_connectivity or has_named):
        raise Invalid("thingIndexingMode OFF: connectivity and named shadows are indexed with the registry only")
    if has_named != bool(named):
        raise Invalid("namedShadowIndexingMode ON and filter.namedShadowNames go together")
    if len(named) > fields.MAX_SHADOWS:
        raise Invalid(f"filter.namedShadowNames: at most {fields.MAX_SHADOWS}", limit=fields.MAX_SHADOWS)
    wanted = replace(
        settings,
        things=mode != "OFF",
        shadow=mode == "REGISTRY_AND_SHADOW",
        connectivity=has_connectivity,
        named=named,
    )
    custom = _custom(given, wanted.managed())
    if custom and not wanted.things:
        raise Invalid("thingIndexingMode OFF: there are no customFields")
    for name, _ in custom:
        wanted.check_custom(name)
    return replace(wanted, custom=custom)


def _groups(settings: Settings, given: Params) -> Settings:
    is_on = given["thingGroupIndexingMode"] == "ON"
    custom = _custom(given, fields.GROUP_KINDS if is_on else {})
    if custom and not is_on:
        raise Invalid("thingGroupIndexingMode OFF: there are no customFields")
    for name, _ in custom:
        if not name.startswith("attributes.") or name == "attributes.":
            raise Invalid(
                f"customFields: {name!r} is not attributes.*, the fields of a thing group that are not managed"
            )
    return replace(settings, groups=is_on, group_custom=custom)


def _custom(given: Params, managed: Mapping[str, Kind]) -> tuple[tuple[str, Kind], ...]:
    for each in given.get("managedFields") or ():
        if managed.get(each.get("name")) != each.get("type"):
            raise Invalid(f"managedFields cannot be changed: {each.get('name')!r} of type {each.get('type')}")
    pairs = [_pair(each) for each in given.get("customFields") or ()]
    if len(pairs) > fields.MAX_CUSTOM:
        raise Invalid(f"customFields: at most {fields.MAX_CUSTOM}", limit=fields.MAX_CUSTOM)
    if len({name for name, _ in pairs}) < len(pairs):
        raise Invalid("customFields: a name is there twice")
    return tuple(pairs)


def _pair(each: Params) -> tuple[str, Kind]:
    name, kind = each.get("name"), each.get("type")
    if not name or kind not in ("Number", "String", "Boolean"):
        raise Invalid("customFields: each has a name, and a type of Number, String, Boolean")
    return name, kind


def _shown(kinds: Mapping[str, Kind]) -> Sequence[dict[str, str]]:
    return [{"name": name, "type": kind} for name, kind in kinds.items()]


def _schema(settings: Settings) -> str:
    if settings.named:
        return "MULTI_INDEXING_MODE"
    parts = ["REGISTRY"]
    if settings.shadow:
        parts.append("SHADOW")
    if settings.connectivity:
        parts.append("CONNECTIVITY_STATUS")
    return "_AND_".join(parts)
