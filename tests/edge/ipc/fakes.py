"""The ports of the IPC, as small as a test needs them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from marram.core.codec import JsonObject, JsonValue
from marram.core.errors import Conflict, NotFound, VersionConflict
from marram.edge.ipc.authorisation import Authorisation
from marram.edge.ipc.ports import Core, DeploymentState, LocalDeployment, Outgoing
from marram.edge.ipc.server import Server
from marram.edge.pubsub.hub import Hub, Message

ALL: JsonObject = {
    service: {"all": {"operations": ["*"], "resources": ["*"]}}
    for service in (
        "aws.greengrass.ipc.pubsub",
        "aws.greengrass.ipc.mqttproxy",
        "aws.greengrass.Cli",
        "aws.greengrass.ShadowManager",
    )
}


@dataclass
class Row:
    name: str
    version: str = "1.0.0"
    state: str = "RUNNING"


@dataclass
class FakeNucleus:
    """Tokens, components and configuration in one."""

    configurations: dict[str, JsonObject] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    stamps: dict[str, int] = field(default_factory=dict)
    watchers: list[tuple[str, tuple[str, ...], Callable[[str, Sequence[str]], None]]] = field(default_factory=list)

    def token_owner(self, auth_token: str, uid: int) -> str | None:
        return auth_token.removeprefix("token-of-") if auth_token.startswith("token-of-") else None

    def get(self, component: str, path: Sequence[str]) -> JsonValue:
        value: JsonValue = self.configurations.get(component)
        if value is None:
            raise NotFound(f"no component {component}", resource_type="Component", resource_name=component)
        for part in path:
            if not isinstance(value, dict) or part not in value:
                raise NotFound(f"no key {part}", resource_type="Key", resource_name=part)
            value = value[part]
        return value

    async def update(self, component: str, path: Sequence[str], value: JsonValue, timestamp_ms: int) -> None:
        if timestamp_ms < self.stamps.get(component, 0):
            raise VersionConflict("the stored value is newer")
        self.stamps[component] = timestamp_ms
        target = self.configurations.setdefault(component, {})
        for part in path:
            target = target.setdefault(part, {})  # type: ignore[assignment]
        assert isinstance(value, dict)
        target.update(value)
        for name, watched, changed in list(self.watchers):
            if name == component and tuple(path[: len(watched)]) == watched:
                changed(component, [*path, *value])

    def subscribe(
        self, component: str, path: Sequence[str], changed: Callable[[str, Sequence[str]], None]
    ) -> Callable[[], None]:
        row = (component, tuple(path), changed)
        self.watchers.append(row)
        return lambda: self.watchers.remove(row)

    def components(self) -> list[Row]:
        return self.rows

    def report_state(self, component: str, state: str) -> None:
        for row in self.rows:
            if row.name == component:
                if row.state == "BROKEN":
                    raise Conflict(f"{component} is BROKEN")
                row.state = state

    async def restart(self, name: str) -> None:
        await asyncio.sleep(0)

    async def stop(self, name: str) -> None:
        for row in self.rows:
            if row.name == name:
                if row.state == "FINISHED":
                    raise Conflict(f"{name} is not running")
                row.state = "FINISHED"


@dataclass
class FakeDeployments:
    asked: list[LocalDeployment] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)

    async def create_local(self, request: LocalDeployment) -> str:
        self.asked.append(request)
        return f"deployment-{len(self.asked)}"

    async def cancel(self, deployment_id: str) -> None:
        self.status(deployment_id)
        self.cancelled.append(deployment_id)

    def status(self, deployment_id: str) -> DeploymentState:
        for each in self.list():
            if each.deployment_id == deployment_id:
                return each
        raise NotFound(f"no deployment {deployment_id}", resource_type="Deployment", resource_name=deployment_id)

    def list(self) -> list[DeploymentState]:
        return [
            DeploymentState(deployment_id=f"deployment-{n + 1}", status="IN_PROGRESS", created_ms=n)
            for n in range(len(self.asked))
        ]


@dataclass
class FakeIotCore:
    published: list[Outgoing] = field(default_factory=list)
    hub: Hub = field(default_factory=Hub)

    async def publish(self, message: Outgoing) -> None:
        await asyncio.sleep(0)
        self.published.append(message)
        self.hub.publish(Message(message.topic, message.payload))

    async def subscribe(self, filter: str, qos: int, deliver: Callable[[Message], None]) -> Callable[[], None]:
        return self.hub.subscribe(filter, deliver).cancel

    def watch(self, changed: Callable[[bool], None]) -> Callable[[], None]:
        changed(True)
        return lambda: None


def make_core(nucleus: FakeNucleus | None = None) -> Core:
    nucleus = nucleus or FakeNucleus(configurations={"com.a": {"accessControl": ALL}, "com.b": {"accessControl": ALL}})
    return Core(
        pubsub=Hub(),
        authorisation=Authorisation(
            lambda component: nucleus.configurations.get(component, {}).get("accessControl"), thing_name="core1"
        ),
        tokens=nucleus,
        configuration=nucleus,
        components=nucleus,
        deployments=FakeDeployments(),
        iot_core=FakeIotCore(),
    )


@contextlib.asynccontextmanager
async def serving(core: Core, folder: Path) -> AsyncIterator[Server]:
    server = Server(folder / "ipc.socket", core)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(server.run(), name="ipc")
        await server.ready.wait()
        try:
            yield server
        finally:
            task.cancel()
