"""What the phases of one deployment share: the tools of the core, and what earlier phases found."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from marram.core.codec import JsonObject, JsonValue
from marram.core.config_tree import Tree
from marram.core.errors import MarramError
from marram.core.plan import Plan
from marram.edge.deploy.document import Document
from marram.edge.deploy.ports import Source
from marram.edge.deploy.record import Deployment
from marram.edge.nucleus.config import Config
from marram.edge.nucleus.prepare import Prepared
from marram.edge.nucleus.root import Root
from marram.edge.nucleus.supervisor import Supervisor
from marram.kit.db import Db


class DeploymentFailed(MarramError):
    """The deployment ended without its new set; the message says at which step and why."""

    code = "MRM-4005"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Deadlines of the phases in seconds, and what an artifact may be."""

    resolve_s: float = 120.0
    fetch_s: float = 3600.0
    watch_s: float = 600.0
    artifact_bytes: int = 4 << 30
    unpacked_bytes: int = 8 << 30
    unpacked_files: int = 50_000


@dataclass(slots=True, kw_only=True)
class Tools:
    """`verify_signature(message, signature)` by the pinned key of the hub; None while no hub is pinned."""

    db: Db
    config: Config
    supervisor: Supervisor
    root: Root
    source: Source
    limits: Limits = Limits()
    verify_signature: Callable[[bytes, bytes], bool] | None = None


@dataclass(slots=True, kw_only=True)
class Work:
    row: Deployment
    document: Document
    tools: Tools
    roots: dict[str, dict[str, str]] = field(
        default_factory=dict[str, dict[str, str]]
    )  # target -> component -> version
    plan: Plan | None = None
    artifacts: dict[str, dict[str, str]] = field(
        default_factory=dict[str, dict[str, str]]
    )  # component -> file -> sha256
    trees: Mapping[str, Tree] = field(default_factory=dict[str, Tree])
    prepared: list[Prepared] = field(default_factory=list[Prepared])
    detail: JsonObject = field(default_factory=dict[str, JsonValue])

    @property
    def folder(self) -> Path:
        """Where things lie until they are verified; removed when the deployment ends."""
        return self.tools.root.incoming / self.row.id

    def changed(self) -> set[str]:
        """Names in `detail.changes`: they came, or have another version, recipe or file."""
        changes = self.detail.get("changes")
        found = changes if isinstance(changes, list) else []
        return {str(each["component"]) for each in found if isinstance(each, dict) and each.get("to") is not None}

    def made(self) -> Plan:
        assert self.plan is not None, "resolve comes first"
        return self.plan


SUCCESSFUL: Final = "SUCCESSFUL"
NO_STATE_CHANGE: Final = "FAILED_NO_STATE_CHANGE"
ROLLBACK_NOT_REQUESTED: Final = "FAILED_ROLLBACK_NOT_REQUESTED"
ROLLBACK_COMPLETE: Final = "FAILED_ROLLBACK_COMPLETE"
UNABLE_TO_ROLLBACK: Final = "FAILED_UNABLE_TO_ROLLBACK"
