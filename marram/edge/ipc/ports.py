"""What the IPC needs from the rest of the edge core. The composition root fills it; nothing here is implemented."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from marram.core.codec import JsonObject, JsonValue
from marram.edge.ipc.authorisation import Authorisation
from marram.edge.pubsub.hub import Hub, Message, Subscription
from marram.edge.spool.service import Outgoing

Cancel = Callable[[], None]


class Tokens(Protocol):
    def token_owner(self, auth_token: str, uid: int) -> str | None:
        """The component (or `greengrass-cli#...`) that was given this token at its start.

        None also when `uid`, whose process presents it, is none that the component was started as: a token that leaked
        to another user is worth nothing.
        """
        ...


class Configuration(Protocol):
    def get(self, component: str, path: Sequence[str]) -> JsonValue:
        """Raises NotFound when the component or the path is not there."""
        ...

    async def update(self, component: str, path: Sequence[str], value: JsonValue, timestamp_ms: int) -> None:
        """Merge. Raises VersionConflict when a leaf is newer than `timestamp_ms`, Invalid for a value that does not fit."""
        ...

    def subscribe(
        self, component: str, path: Sequence[str], changed: Callable[[str, Sequence[str]], None]
    ) -> Cancel: ...


class Component(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def state(self) -> str: ...


class Components(Protocol):
    def components(self) -> Sequence[Component]: ...
    def report_state(self, component: str, state: str) -> None:
        """What the component says of itself. Raises Conflict or Invalid where the lifecycle does not allow it."""
        ...

    async def restart(self, name: str) -> None: ...
    async def stop(self, name: str) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalDeployment:
    """A CreateLocalDeployment request in values. `run_with` as it came (posixUser, systemResourceLimits)."""

    group: str = ""
    add: Mapping[str, str] = field(default_factory=dict[str, str])
    remove: Sequence[str] = ()
    configuration: Mapping[str, JsonObject] = field(default_factory=dict[str, JsonObject])
    run_with: Mapping[str, JsonObject] = field(default_factory=dict[str, JsonObject])
    recipes: str = ""
    artifacts: str = ""
    rollback: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentState:
    """`status`: QUEUED, IN_PROGRESS, SUCCEEDED, FAILED or CANCELED. `details` as DeploymentStatusDetails has them."""

    deployment_id: str
    status: str
    created_ms: int
    details: JsonObject | None = None


class Deployments(Protocol):
    async def create_local(self, request: LocalDeployment) -> str:
        """The id of the queued deployment. Raises Invalid (data `folder` = recipes or artifacts where it is at fault)."""
        ...

    async def cancel(self, deployment_id: str) -> None: ...
    def status(self, deployment_id: str) -> DeploymentState: ...
    def list(self) -> Sequence[DeploymentState]: ...


class IotCore(Protocol):
    async def publish(self, message: Outgoing) -> None:
        """Returns when the message is durable here (QoS 1) or taken (QoS 0). Raises LimitExceeded when the spool is full."""
        ...

    async def subscribe(self, filter: str, qos: int, deliver: Callable[[Message], None]) -> Cancel: ...

    def watch(self, changed: Callable[[bool], None]) -> Cancel:
        """Connection state; `changed` is called with the present one at once."""
        ...


class Shadows(Protocol):
    async def get(self, thing: str, name: str) -> bytes: ...
    async def update(self, thing: str, name: str, payload: bytes) -> bytes:
        """The body of update/accepted. Raises VersionConflict, Invalid, LimitExceeded."""
        ...

    async def delete(self, thing: str, name: str) -> bytes: ...
    def names(self, thing: str, after: str, limit: int) -> Sequence[str]: ...


@dataclass(slots=True, kw_only=True)
class Core:
    """All that an operation may use. A port that is None makes its operations refuse by name."""

    pubsub: Hub
    authorisation: Authorisation
    tokens: Tokens
    configuration: Configuration
    components: Components
    deployments: Deployments | None = None
    iot_core: IotCore | None = None
    shadows: Shadows | None = None
    wall_ms: Callable[[], int] = lambda: 0


__all__ = [
    "Cancel",
    "Component",
    "Components",
    "Configuration",
    "Core",
    "DeploymentState",
    "Deployments",
    "IotCore",
    "LocalDeployment",
    "Outgoing",
    "Shadows",
    "Subscription",
    "Tokens",
]
