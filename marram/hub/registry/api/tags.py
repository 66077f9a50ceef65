"""Tags of whatever the slices declare to be taggable."""

from marram.core import arn
from marram.hub import tagging
from marram.hub.registry.service import Registry
from marram.hub.slice import Call, Params, Result, operation


def _bearer(_call: Call, params: Params) -> str:
    """Raises Invalid for what is no ARN: a policy's Deny would not meet it."""
    text = str(params["resourceArn"])
    arn.parse(text)
    return text


@operation("iot", "TagResource", resource=_bearer)
async def tag_resource(service: Registry, call: Call, params: Params) -> Result:
    await service.tags.tag(params["resourceArn"], tagging.read(params))
    return {}


@operation("iot", "UntagResource", resource=_bearer)
async def untag_resource(service: Registry, call: Call, params: Params) -> Result:
    await service.tags.untag(params["resourceArn"], params["tagKeys"])
    return {}


@operation("iot", "ListTagsForResource", resource=_bearer)
async def list_tags_for_resource(service: Registry, call: Call, params: Params) -> Result:
    found = await service.tags.of(params["resourceArn"])
    return {"tags": [{"Key": key, "Value": value} for key, value in found.items()]}
