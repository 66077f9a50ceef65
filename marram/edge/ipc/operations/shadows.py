"""Shadows of this core and its devices, kept here and synchronised with the hub."""

from typing import cast

from marram.core.codec import JsonObject
from marram.core.errors import Invalid
from marram.edge.ipc import model
from marram.edge.ipc.authorisation import SHADOWS
from marram.edge.ipc.operation import Call, ipc, need
from marram.edge.ipc.ports import Core, Shadows

MAX_PAGE = 100


@ipc("aws.greengrass#GetThingShadow")
async def get_thing_shadow(core: Core, call: Call, request: model.Request) -> JsonObject:
    shadows, thing, name = _target(core, call, request)
    return {"payload": model.blob(await shadows.get(thing, name))}


@ipc("aws.greengrass#UpdateThingShadow")
async def update_thing_shadow(core: Core, call: Call, request: model.Request) -> JsonObject:
    shadows, thing, name = _target(core, call, request)
    return {"payload": model.blob(await shadows.update(thing, name, cast(bytes, request["payload"])))}


@ipc("aws.greengrass#DeleteThingShadow")
async def delete_thing_shadow(core: Core, call: Call, request: model.Request) -> JsonObject:
    shadows, thing, name = _target(core, call, request)
    return {"payload": model.blob(await shadows.delete(thing, name))}


@ipc("aws.greengrass#ListNamedShadowsForThing")
def list_named_shadows(core: Core, call: Call, request: model.Request) -> JsonObject:
    thing = str(request["thingName"])
    size = cast(int, request.get("pageSize", 25))
    if not 1 <= size <= MAX_PAGE:
        raise Invalid(f"pageSize must be 1 to {MAX_PAGE}")
    core.authorisation.require(call.component, SHADOWS, call.operation, thing)
    shadows = _service(core, call)
    names = list(shadows.names(thing, str(request.get("nextToken", "")), size + 1))
    body: JsonObject = {"results": list(names[:size]), "timestamp": core.wall_ms() / 1000}
    if len(names) > size:
        body["nextToken"] = names[size - 1]
    return body


def resource(thing: str, name: str) -> str:
    return f"$aws/things/{thing}/shadow" + (f"/name/{name}" if name else "")


def _target(core: Core, call: Call, request: model.Request) -> tuple[Shadows, str, str]:
    thing, name = str(request["thingName"]), str(request.get("shadowName", ""))
    core.authorisation.require(call.component, SHADOWS, call.operation, resource(thing, name))
    return _service(core, call), thing, name


def _service(core: Core, call: Call) -> Shadows:
    need(core.shadows, call.operation, "local shadows")
    assert core.shadows is not None
    return core.shadows
