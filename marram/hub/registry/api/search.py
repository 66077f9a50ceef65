"""Searches in the indices, and aggregations of what they find."""

from collections.abc import Mapping
from typing import Final

from marram.core import codec
from marram.core.codec import JsonObject
from marram.core.errors import Invalid, Unsupported
from marram.hub.registry import aggregations, fields, search
from marram.hub.registry.api import wire
from marram.hub.registry.api.indexing import index_arn
from marram.hub.registry.group_search import FoundGroup
from marram.hub.registry.search import Found
from marram.hub.registry.service import Registry
from marram.hub.slice import Call, Params, Result, operation

PAGE: Final = 100


@operation("iot", "SearchIndex", resource=index_arn)
async def search_index(service: Registry, call: Call, params: Params) -> Result:
    index, text, limit = _index(params), params["queryString"], int(params.get("maxResults") or PAGE)
    token = params.get("nextToken")
    if token is not None and isinstance(token, str) != (index == fields.GROUPS):
        raise Invalid("nextToken is of a search in another index")
    if index == fields.GROUPS:
        groups, last_group = await service.group_searches.page(text, token or "", limit)
        return {"thingGroups": [_shown_group(found) for found in groups], "nextToken": last_group}
    service.index.require(index)
    things, last = await service.searches.things(text, token or 0, limit)
    has_connectivity = service.index.settings.connectivity
    return {"things": [_shown(found, has_connectivity) for found in things], "nextToken": last}


@operation("iot", "GetThingConnectivityData", resource=wire.thing)
async def get_thing_connectivity_data(service: Registry, call: Call, params: Params) -> Result:
    if params.get("includeSocketInformation"):
        raise Unsupported("GetThingConnectivityData: includeSocketInformation is not supported")
    name = params["thingName"]
    return {"thingName": name, **_connectivity(service.searches.connectivity(name))}


@operation("iot", "GetStatistics", resource=index_arn)
async def get_statistics(service: Registry, call: Call, params: Params) -> Result:
    found = await service.aggregations.statistics(_index(params), params["queryString"], _field(params))
    return {
        "statistics": {
            "count": found.count,
            "average": found.average,
            "sum": found.sum,
            "minimum": found.minimum,
            "maximum": found.maximum,
            "sumOfSquares": found.sum_of_squares,
            "variance": found.variance,
            "stdDeviation": found.deviation,
        }
    }


@operation("iot", "GetCardinality", resource=index_arn)
async def get_cardinality(service: Registry, call: Call, params: Params) -> Result:
    return {
        "cardinality": await service.aggregations.cardinality(_index(params), params["queryString"], _field(params))
    }


@operation("iot", "GetPercentiles", resource=index_arn)
async def get_percentiles(service: Registry, call: Call, params: Params) -> Result:
    found = await service.aggregations.percentiles(
        _index(params), params["queryString"], _field(params), params.get("percents") or aggregations.PERCENTS
    )
    return {"percentiles": [{"percent": percent, "value": value} for percent, value in found]}


@operation("iot", "GetBucketsAggregation", resource=index_arn)
async def get_buckets_aggregation(service: Registry, call: Call, params: Params) -> Result:
    terms = wire.inner(params["bucketsAggregationType"], "termsAggregation")
    limit = int(terms.get("maxBuckets") or aggregations.BUCKETS)
    total, buckets = await service.aggregations.buckets(
        _index(params), params["queryString"], params["aggregationField"], limit
    )
    return {"totalCount": total, "buckets": [{"keyValue": key, "count": count} for key, count in buckets]}


def _index(params: Params) -> str:
    search.check_version(params.get("queryVersion"))
    return params.get("indexName") or fields.THINGS


def _field(params: Params) -> str:
    return params.get("aggregationField") or ""


def _shown(found: Found, has_connectivity: bool) -> dict[str, object]:
    thing = found.thing
    shadow = _shadow(found.parts)
    return {
        "thingName": thing.name,
        "thingId": thing.id,
        "thingTypeName": thing.type or None,
        "thingGroupNames": found.groups,
        "attributes": dict(thing.attributes),
        "shadow": codec.dumps(shadow).decode() if shadow else None,
        "connectivity": _connectivity(found.parts.get(fields.CONNECTIVITY)) if has_connectivity else None,
    }


def _shadow(parts: Mapping[str, JsonObject]) -> JsonObject:
    """The classic shadow, and below "name" the named ones."""
    shown: JsonObject = {}
    named: JsonObject = {}
    for part, body in parts.items():
        if part == "shadow":
            shown |= fields.shown_shadow(body)
        elif part.startswith("shadow.name."):
            named[part.removeprefix("shadow.name.")] = fields.shown_shadow(body)
    return {**shown, "name": named} if named else shown


def _connectivity(state: JsonObject | None) -> dict[str, object]:
    known = {name: value for name, value in (state or {}).items() if name != "version" and value is not None}
    return {"connected": False, **known}


def _shown_group(found: FoundGroup) -> dict[str, object]:
    group = found.group
    return {
        "thingGroupName": group.name,
        "thingGroupId": group.id,
        "thingGroupDescription": group.description or None,
        "attributes": dict(group.attributes),
        "parentGroupNames": found.parents,
    }
