"""Which registry events are published."""

from marram.hub.registry.api import wire
from marram.hub.registry.service import Registry
from marram.hub.slice import Call, Params, Result, anything, operation


@operation("iot", "UpdateEventConfigurations", resource=anything)
async def update_event_configurations(service: Registry, call: Call, params: Params) -> Result:
    wanted = wire.inner(params, "eventConfigurations")
    await service.events.configure({kind: bool(given.get("Enabled")) for kind, given in wanted.items()})
    return {}


@operation("iot", "DescribeEventConfigurations", resource=anything)
async def describe_event_configurations(service: Registry, call: Call, params: Params) -> Result:
    found = await service.events.configurations()
    return {
        "eventConfigurations": {kind: {"Enabled": on} for kind, on in found.enabled.items()},
        "creationDate": found.created_ms,
        "lastModifiedDate": found.modified_ms,
    }
