"""greengrassv2 operations on components."""

import re
from collections.abc import Callable
from typing import cast

from marram.core import arn, codec, recipe
from marram.core.errors import Invalid, Unsupported
from marram.hub.greengrass.components import Component
from marram.hub.greengrass.service import Greengrass
from marram.hub.slice import Call, Params, Result, operation

_RESOURCE = re.compile(r"components:([a-zA-Z0-9\-_.]{1,128})(?::versions:([^:]+))?")


def _all(call: Call, _params: Params) -> str:
    return arn.build("greengrass", call.region, call.account, "components:*")


def _named(call: Call, params: Params) -> str:
    """The ARN in its one spelling: under another, a policy's Deny would not meet it."""
    text = str(params["arn"])
    name, version = _split(text)
    made = arn.build(
        "greengrass", call.region, call.account, f"components:{name}{f':versions:{version}' if version else ''}"
    )
    if text != made:
        raise Invalid(f"{text!r} is not the ARN of a component of this hub: it would read {made}")
    return made


@operation("greengrassv2", "CreateComponentVersion", resource=_all)
async def create_component_version(service: Greengrass, call: Call, params: Params) -> Result:
    if params.get("lambdaFunction"):
        raise Unsupported("lambdaFunction is not supported: give inlineRecipe")
    if params.get("tags"):
        raise Unsupported("tags are not supported here: leave them out")
    if not params.get("inlineRecipe"):
        raise Invalid("inlineRecipe is required")
    # The hub copies the artifacts with its own rights: the caller must be one who could read them.
    authorise = cast("Callable[[str, str], None]", call.extra["authorise"])
    made = await service.components.create(
        bytes(params["inlineRecipe"]),
        lambda bucket, key: authorise("s3:GetObject", f"arn:aws:s3:::{bucket}/{key}"),
    )
    return {
        "arn": service.components.arn(made.name, made.version),
        "componentName": made.name,
        "componentVersion": made.version,
        "creationTimestamp": made.created_ms,
        "status": _STATUS,
    }


@operation("greengrassv2", "GetComponent", resource=_named)
async def get_component(service: Greengrass, call: Call, params: Params) -> Result:
    if params.get("recipeOutputFormat", "JSON") != "JSON":
        raise Unsupported("recipeOutputFormat YAML is not supported: ask for JSON")
    found = await _component(service, params)
    return {"recipeOutputFormat": "JSON", "recipe": found.recipe, "tags": {}}


@operation("greengrassv2", "DescribeComponent", resource=_named)
async def describe_component(service: Greengrass, call: Call, params: Params) -> Result:
    found = await _component(service, params)
    parsed = recipe.parse(codec.loads(found.recipe))
    return {
        "arn": service.components.arn(found.name, found.version),
        "componentName": found.name,
        "componentVersion": found.version,
        "creationTimestamp": found.created_ms,
        "publisher": found.publisher,
        "description": found.description,
        "status": _STATUS,
        "platforms": [{"name": item.name, "attributes": dict(item.platform)} for item in parsed.manifests],
        "tags": {},
    }


@operation("greengrassv2", "DeleteComponent", resource=_named)
async def delete_component(service: Greengrass, call: Call, params: Params) -> Result:
    name, version = _split(params["arn"])
    await service.components.delete(name, _required(version, params))
    return {}


@operation("greengrassv2", "ListComponents", resource=_all)
async def list_components(service: Greengrass, call: Call, params: Params) -> Result:
    if params.get("scope") == "PUBLIC":
        return {"components": []}
    limit = int(params.get("maxResults") or 100)
    after = params.get("nextToken") or ""
    found = await service.components.names(str(after), limit + 1)
    result: dict[str, object] = {
        "components": [
            {
                "arn": service.components.arn(name),
                "componentName": name,
                "latestVersion": {
                    "arn": service.components.arn(name, newest.version),
                    "componentVersion": newest.version,
                    "creationTimestamp": newest.created_ms,
                    "description": newest.description,
                    "publisher": newest.publisher,
                },
            }
            for name, newest in found[:limit]
        ]
    }
    if len(found) > limit:
        result["nextToken"] = found[limit - 1][0]
    return result


@operation("greengrassv2", "ListComponentVersions", resource=_named)
async def list_component_versions(service: Greengrass, call: Call, params: Params) -> Result:
    name, _ = _split(params["arn"])
    limit = int(params.get("maxResults") or 100)
    start = params.get("nextToken") or 0
    assert isinstance(start, int)
    versions = await service.components.versions(name)
    result: dict[str, object] = {
        "componentVersions": [
            {"componentName": name, "componentVersion": version, "arn": service.components.arn(name, version)}
            for version in versions[start : start + limit]
        ]
    }
    if len(versions) > start + limit:
        result["nextToken"] = start + limit
    return result


_STATUS: dict[str, object] = {
    "componentState": "DEPLOYABLE",
    "message": "NONE",
    "errors": {},
    "vendorGuidance": "ACTIVE",
}


async def _component(service: Greengrass, params: Params) -> Component:
    name, version = _split(params["arn"])
    return await service.components.get(name, _required(version, params))


def _split(text: str) -> tuple[str, str | None]:
    match = _RESOURCE.fullmatch(arn.parse(text).resource)
    if match is None:
        raise Invalid(f"{text!r} is not the ARN of a component")
    return match[1], match[2]


def _required(version: str | None, params: Params) -> str:
    if version is None:
        raise Invalid(f"{params['arn']!r} names no version")
    return version
