"""Local deployments: create, cancel, look. The same engine as for the hub's."""

from typing import cast

from marram.core.codec import JsonObject
from marram.core.errors import Conflict, Invalid
from marram.edge.ipc import model
from marram.edge.ipc.authorisation import CLI
from marram.edge.ipc.operation import Call, ipc, need
from marram.edge.ipc.ports import Core, Deployments, DeploymentState, LocalDeployment

LISTED = 5  # as AWS: the newest five


class _BadRecipes(Invalid):
    """The recipe folder is at fault."""


class _BadArtifacts(Invalid):
    """The artifact folder is at fault."""


@ipc(
    "aws.greengrass#CreateLocalDeployment",
    faults={_BadRecipes: "InvalidRecipeDirectoryPathError", _BadArtifacts: "InvalidArtifactsDirectoryPathError"},
)
async def create_local_deployment(core: Core, call: Call, request: model.Request) -> JsonObject:
    deployments = _service(core, call)
    wanted = LocalDeployment(
        group=cast(str, request.get("groupName", "")),
        add=cast(dict[str, str], request.get("rootComponentVersionsToAdd", {})),
        remove=cast(list[str], request.get("rootComponentsToRemove", [])),
        configuration=cast(dict[str, JsonObject], request.get("componentToConfiguration", {})),
        run_with=cast(dict[str, JsonObject], request.get("componentToRunWithInfo", {})),
        recipes=cast(str, request.get("recipeDirectoryPath", "")),
        artifacts=cast(str, request.get("artifactsDirectoryPath", "")),
        rollback=request.get("failureHandlingPolicy", "ROLLBACK") == "ROLLBACK",
    )
    try:
        return {"deploymentId": await deployments.create_local(wanted)}
    except Invalid as exc:
        match exc.data.get("folder"):
            case "recipes":
                raise _BadRecipes(exc.message) from exc
            case "artifacts":
                raise _BadArtifacts(exc.message) from exc
            case _:
                raise


@ipc("aws.greengrass#CancelLocalDeployment", faults={Conflict: "InvalidArgumentsError"})
async def cancel_local_deployment(core: Core, call: Call, request: model.Request) -> JsonObject:
    deployment = str(request["deploymentId"])
    await _service(core, call).cancel(deployment)
    return {"message": f"Deployment {deployment} is being cancelled"}


@ipc("aws.greengrass#GetLocalDeploymentStatus")
def get_local_deployment_status(core: Core, call: Call, request: model.Request) -> JsonObject:
    return {"deployment": _view(_service(core, call).status(str(request["deploymentId"])))}


@ipc("aws.greengrass#ListLocalDeployments")
def list_local_deployments(core: Core, call: Call, request: model.Request) -> JsonObject:
    newest = sorted(_service(core, call).list(), key=lambda each: each.created_ms, reverse=True)
    return {"localDeployments": [_view(each) for each in newest[:LISTED]]}


def _service(core: Core, call: Call) -> Deployments:
    core.authorisation.require(call.component, CLI, call.operation, "*")
    need(core.deployments, call.operation, "a deployment engine")
    assert core.deployments is not None
    return core.deployments


def _view(state: DeploymentState) -> JsonObject:
    body: JsonObject = {
        "deploymentId": state.deployment_id,
        "status": state.status,
        "createdOn": str(state.created_ms),
    }
    if state.details:
        body["deploymentStatusDetails"] = state.details
    return body
