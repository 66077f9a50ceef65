"""The IPC of a real core: the nucleus, its configuration and its deployments behind the ports."""

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from marram.core import codec
from marram.core.codec import JsonObject, JsonValue
from marram.core.errors import Invalid, NotFound, Unsupported
from marram.edge.deploy import record
from marram.edge.deploy.document import LOCAL
from marram.edge.deploy.service import Deployments
from marram.edge.ipc.authorisation import CLI_TOKEN, Authorisation
from marram.edge.ipc.ports import Cancel, Core, DeploymentState, IotCore, LocalDeployment, Shadows
from marram.edge.ipc.server import Server
from marram.edge.nucleus.config import NUCLEI, Config
from marram.edge.nucleus.root import Root
from marram.edge.nucleus.supervisor import ComponentStatus, Supervisor
from marram.edge.pubsub.hub import Hub
from marram.kit import disk
from marram.kit.clock import Clock, Entropy

STATUS: Final = {record.REJECTED: record.FAILED}  # the IPC's words are fewer


def build_ipc(
    *,
    root: Root,
    config: Config,
    supervisor: Supervisor,
    deployments: Deployments,
    pubsub: Hub,
    clock: Clock,
    entropy: Entropy,
    iot_core: IotCore | None = None,
    shadows: Shadows | None = None,
) -> Server:
    """A server that is not running yet: start its `run`."""
    nucleus = Nucleus(root, config, supervisor, entropy)
    core = Core(
        pubsub=pubsub,
        authorisation=nucleus.authorisation,
        tokens=nucleus,
        configuration=nucleus,
        components=nucleus,
        deployments=_Deployments(deployments),
        iot_core=iot_core,
        shadows=shadows,
        wall_ms=clock.wall_ms,
    )
    return Server(root.ipc_socket, core)


class Nucleus:
    """Tokens, components and configuration as the IPC wants them."""

    def __init__(self, root: Root, config: Config, supervisor: Supervisor, entropy: Entropy) -> None:
        self._config = config
        self._supervisor = supervisor
        self.authorisation = Authorisation(
            lambda component: config.value(component, "accessControl"), thing_name=config.thing_name
        )
        config.on_change(self.authorisation.forget)
        self._cli_token = entropy.bytes(16).hex().upper()
        self._cli_owner = f"{CLI_TOKEN}{os.getuid()}"
        _write_cli_info(root, self._cli_token)

    def token_owner(self, auth_token: str, uid: int) -> str | None:
        if auth_token == self._cli_token:
            return self._cli_owner if uid in (0, os.getuid()) else None
        return self._supervisor.token_owner(auth_token, uid)

    def get(self, component: str, path: Sequence[str]) -> JsonValue:
        names = NUCLEI if component in NUCLEI else (component,)
        for name in names:
            value = self._config.value(name, *path)
            if value is not None:
                return value
        known = component in self._supervisor.active() or any(name in self._config.components() for name in names)
        if not path and known:
            return {}
        kind, what = ("Key", "/".join(path)) if known else ("Component", component)
        raise NotFound(
            f"{component} has no configuration at {'/'.join(path) or '/'}", resource_type=kind, resource_name=what
        )

    async def update(self, component: str, path: Sequence[str], value: JsonValue, timestamp_ms: int) -> None:
        await self._config.update(component, path, value, timestamp_ms)

    def subscribe(self, component: str, path: Sequence[str], changed: Callable[[str, Sequence[str]], None]) -> Cancel:
        return self._config.subscribe(component, path, changed)

    def components(self) -> Sequence[ComponentStatus]:
        return self._supervisor.components()

    def report_state(self, component: str, state: str) -> None:
        self._supervisor.report_state(component, state)

    async def restart(self, name: str) -> None:
        await self._supervisor.restart(name)

    async def stop(self, name: str) -> None:
        await self._supervisor.stop(name)


class _Deployments:
    def __init__(self, deployments: Deployments) -> None:
        self._deployments = deployments

    async def create_local(self, request: LocalDeployment) -> str:
        if request.group not in ("", LOCAL):
            raise Unsupported("CreateLocalDeployment: groupName is not supported; leave it out")
        for folder, path in (("recipes", request.recipes), ("artifacts", request.artifacts)):
            if path and not await asyncio.to_thread(Path(path).is_dir):
                raise Invalid(f"the {folder} folder {path} does not exist", folder=folder)
        return await self._deployments.submit_local(
            add=request.add,
            remove=request.remove,
            configuration=request.configuration,
            run_with=request.run_with,
            recipes=request.recipes,
            artifacts=request.artifacts,
            rollback=request.rollback,
        )

    async def cancel(self, deployment_id: str) -> None:
        await self._deployments.cancel(deployment_id)

    def status(self, deployment_id: str) -> DeploymentState:
        return _state(self._deployments.status(deployment_id))

    def list(self) -> Sequence[DeploymentState]:
        return [_state(each) for each in self._deployments.list(30) if each.target == LOCAL]


def _state(row: record.Deployment) -> DeploymentState:
    details: JsonObject = {}
    for key, name in (
        ("detailed-deployment-status", "detailedDeploymentStatus"),
        ("deployment-failure-cause", "deploymentFailureCause"),
    ):
        if isinstance(value := row.detail.get(key), str):
            details[name] = value
    return DeploymentState(
        deployment_id=row.id,
        status=STATUS.get(row.status, row.status),
        created_ms=row.created_ms,
        details=details or None,
    )


def _write_cli_info(root: Root, token: str) -> None:
    """Where AWS's CLI component leaves its token: `cli_ipc_info/user-<uid>`, readable by that user alone."""
    folder = root.path / "cli_ipc_info"
    disk.make_dirs(folder)
    body: JsonObject = {"cli_auth_token": token, "domain_socket_path": str(root.ipc_socket)}
    disk.write_atomic(folder / f"user-{os.getuid()}", codec.dumps(body))
