"""What deployments need from the link: where recipes and artifacts come from, and who is told. Filled by edge.main."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from marram.core.codec import JsonObject
from marram.core.errors import NotFound
from marram.edge.deploy.record import Deployment


class Source(Protocol):
    async def candidate(
        self, name: str, requirements: Mapping[str, str], platform: Mapping[str, str], present: str | None
    ) -> JsonObject | None:
        """The recipe document of the best version that meets all requirements (by whom -> range); None when there is none.

        present: the version that this core has now, if any. Raises Unavailable while the hub cannot be asked.
        """
        ...

    async def artifact(self, component: str, version: str, uri: str, path: Path, limit: int) -> None:
        """Write the artifact to `path` (resuming what is there is fine). Raises NotFound, Unavailable, LimitExceeded."""
        ...

    async def groups(self) -> Sequence[str] | None:
        """Targets that this core belongs to now, as `thinggroup/NAME`; None = not known, keep what is saved."""
        ...


class Reporter(Protocol):
    async def report(self, deployment: Deployment) -> None:
        """Tell who asked. Raises Unavailable when that is not possible now: it is tried again, after a restart too."""
        ...


class Nowhere:
    """Source and reporter of a core without a hub."""

    async def candidate(
        self, name: str, requirements: Mapping[str, str], platform: Mapping[str, str], present: str | None
    ) -> JsonObject | None:
        return None

    async def artifact(self, component: str, version: str, uri: str, path: Path, limit: int) -> None:
        raise NotFound(f"{component} {version}: artifact {uri} is not in the artifacts folder, and there is no hub")

    async def groups(self) -> Sequence[str] | None:
        return None

    async def report(self, deployment: Deployment) -> None:
        return None
