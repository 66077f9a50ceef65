"""The data plane of the https door: what a core asks with its certificate.

Source: observed, aws-greengrass-lite 2.6.0 and nucleus 2.18; `clientDevices` is ours.
"""

import base64
from collections.abc import Mapping
from urllib.parse import unquote

from marram.core import arn, codec
from marram.core.codec import JsonObject, JsonValue
from marram.core.errors import Invalid
from marram.hub.greengrass.service import Greengrass
from marram.hub.slice import RawRequest, RawResponse, route

MAX_BODY = 1 << 20


# The resource of a policy is built from what the function then works on: one spelling, decoded as often.
def _core(region: str, account: str, params: Mapping[str, str]) -> str:
    return arn.build("greengrass", region, account, f"coreDevices:{unquote(params['thing'])}")


def _component(region: str, account: str, params: Mapping[str, str]) -> str:
    return arn.build("greengrass", region, account, arn.parse(unquote(params["arn"])).resource)


@route(
    "GET",
    "/greengrass/v2/coreDevices/{thing}/thingGroups",
    auth="certificate",
    action="greengrass:ListThingGroupsForCoreDevice",
    resource=_core,
)
async def thing_groups(service: Greengrass, request: RawRequest) -> RawResponse:
    thing = unquote(request.params["thing"])
    service.check_core(request.subject, thing)
    return _json({"thingGroups": await service.groups(thing)})


@route(
    "GET",
    "/greengrass/v2/coreDevices/{thing}/clientDevices",
    auth="certificate",
    action="greengrass:ListThingGroupsForCoreDevice",
    resource=_core,
)
async def client_devices(service: Greengrass, request: RawRequest) -> RawResponse:
    thing = unquote(request.params["thing"])
    service.check_core(request.subject, thing)
    return _json({"clientDevices": await service.client_devices(thing)})


@route(
    "POST",
    "/greengrass/v2/resolveComponentCandidates",
    auth="certificate",
)
async def resolve_component_candidates(service: Greengrass, request: RawRequest) -> RawResponse:
    body = codec.loads_object(request.body, what="request", max_bytes=MAX_BODY)
    platform = body.get("platform")
    attributes: JsonValue = platform.get("attributes") if isinstance(platform, dict) else {}
    resolved: list[JsonValue] = []
    for candidate in _list(body, "componentCandidates"):
        if not isinstance(candidate, dict) or not isinstance(candidate.get("componentName"), str):
            raise Invalid("componentCandidates: each is an object with componentName")
        # componentVersion says what the core has now; requirements alone decide what it gets
        found = await service.components.resolve(
            str(candidate["componentName"]),
            _texts(candidate.get("versionRequirements"), "versionRequirements"),
            _texts(attributes, "platform.attributes"),
        )
        found_arn = service.components.arn(found.name, found.version)
        request.authorise("greengrass:ResolveComponentCandidates", found_arn)
        resolved.append(
            {
                "arn": found_arn,
                "componentName": found.name,
                "componentVersion": found.version,
                "recipe": base64.b64encode(found.recipe).decode(),
                "vendorGuidance": "ACTIVE",
            }
        )
    return _json({"resolvedComponentVersions": resolved})


@route(
    "GET",
    "/greengrass/v2/components/{arn}/artifacts/{name}",
    auth="certificate",
    action="greengrass:GetComponentVersionArtifact",
    resource=_component,
)
async def component_artifact(service: Greengrass, request: RawRequest) -> RawResponse:
    parts = arn.parse(unquote(request.params["arn"])).resource.split(":")
    if len(parts) != 4 or parts[0] != "components" or parts[2] != "versions":
        raise Invalid("the path needs the ARN of a component version")
    url = await service.components.artifact_url(parts[1], parts[3], unquote(request.params["name"]))
    return _json({"preSignedUrl": url})


def _json(body: JsonObject) -> RawResponse:
    return RawResponse(body=codec.dumps(body))


def _list(body: JsonObject, key: str) -> list[JsonValue]:
    value = body.get(key)
    if not isinstance(value, list):
        raise Invalid(f"{key} must be a list")
    return value


def _texts(value: JsonValue, what: str) -> Mapping[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise Invalid(f"{what} must be an object of strings")
    return {key: str(item) for key, item in value.items()}
