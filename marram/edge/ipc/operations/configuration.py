"""Configuration of components: all may read, each writes its own, none its accessControl."""

from collections.abc import Sequence
from typing import cast

from marram.core import codec
from marram.core.codec import JsonObject, JsonValue
from marram.core.errors import Denied, Invalid, VersionConflict
from marram.edge.ipc import model
from marram.edge.ipc.operation import Call, ipc
from marram.edge.ipc.ports import Core

ACCESS_CONTROL = "accesscontrol"


@ipc("aws.greengrass#GetConfiguration")
def get_configuration(core: Core, call: Call, request: model.Request) -> JsonObject:
    component = str(request.get("componentName") or call.component)
    path = _path(request)
    value = core.configuration.get(component, path)
    # The model says `value` is a map: a leaf comes back under its own name.
    body: JsonValue = value if isinstance(value, dict) else {path[-1] if path else component: value}
    return {"componentName": component, "value": body}


@ipc("aws.greengrass#UpdateConfiguration", faults={VersionConflict: "FailedUpdateConditionCheckError"})
async def update_configuration(core: Core, call: Call, request: model.Request) -> JsonObject:
    path = _path(request)
    value = cast(JsonObject, request["valueToMerge"])
    first = path[:1] or list(value)
    if any(name.lower() == ACCESS_CONTROL for name in first):
        raise Invalid("accessControl cannot be changed by IPC; deploy a configuration update")
    if call.component.startswith("greengrass-cli#"):
        raise Denied("UpdateConfiguration changes the caller's own configuration; the CLI has none")
    await core.configuration.update(call.component, path, value, cast(int, request["timestamp"]))
    return {}


@ipc("aws.greengrass#SubscribeToConfigurationUpdate")
def subscribe_to_configuration_update(core: Core, call: Call, request: model.Request) -> JsonObject:
    component = str(request.get("componentName") or call.component)
    stream = call.stream()

    def changed(name: str, path: Sequence[str]) -> None:
        stream.send(codec.dumps({"configurationUpdateEvent": {"componentName": name, "keyPath": list(path)}}))

    stream.on_close(core.configuration.subscribe(component, _path(request), changed))
    return {}


def _path(request: model.Request) -> list[str]:
    return list(cast(list[str], request.get("keyPath") or []))
