"""States of components and their commands. Commands are for the local CLI and for components whose recipe says so."""

from marram.core.codec import JsonObject
from marram.core.errors import Conflict, MarramError, NotFound
from marram.edge.ipc import model
from marram.edge.ipc.authorisation import CLI
from marram.edge.ipc.operation import Call, ipc
from marram.edge.ipc.ports import Component, Core


@ipc("aws.greengrass#UpdateState", faults={Conflict: "InvalidArgumentsError"})
def update_state(core: Core, call: Call, request: model.Request) -> JsonObject:
    core.components.report_state(call.component, str(request["state"]))
    return {}


@ipc("aws.greengrass#GetComponentDetails")
def get_component_details(core: Core, call: Call, request: model.Request) -> JsonObject:
    name = str(request["componentName"])
    core.authorisation.require(call.component, CLI, call.operation, name)
    return {"componentDetails": _details(core, _find(core, name))}


@ipc("aws.greengrass#ListComponents")
def list_components(core: Core, call: Call, request: model.Request) -> JsonObject:
    core.authorisation.require(call.component, CLI, call.operation, "*")
    return {"components": [_details(core, each) for each in core.components.components()]}


@ipc("aws.greengrass#RestartComponent", faults={NotFound: "ComponentNotFoundError"})
async def restart_component(core: Core, call: Call, request: model.Request) -> JsonObject:
    name = str(request["componentName"])
    core.authorisation.require(call.component, CLI, call.operation, name)
    _find(core, name)
    try:
        await core.components.restart(name)
    except Conflict as exc:
        return {"restartStatus": "FAILED", "message": exc.message}
    return {"restartStatus": "SUCCEEDED"}


@ipc("aws.greengrass#StopComponent", faults={NotFound: "ComponentNotFoundError"})
async def stop_component(core: Core, call: Call, request: model.Request) -> JsonObject:
    name = str(request["componentName"])
    core.authorisation.require(call.component, CLI, call.operation, name)
    _find(core, name)
    try:
        await core.components.stop(name)
    except Conflict as exc:
        return {"stopStatus": "FAILED", "message": exc.message}
    return {"stopStatus": "SUCCEEDED"}


def _find(core: Core, name: str) -> Component:
    for each in core.components.components():
        if each.name == name:
            return each
    raise NotFound(f"component {name} is not deployed here", resource_type="Component", resource_name=name)


def _details(core: Core, component: Component) -> JsonObject:
    try:
        configuration = core.configuration.get(component.name, ())
    except MarramError:  # a component without configuration is listed all the same
        configuration = {}
    return {
        "componentName": component.name,
        "version": component.version,
        "state": component.state,
        "configuration": configuration if isinstance(configuration, dict) else {},
    }
