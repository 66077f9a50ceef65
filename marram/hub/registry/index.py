"""The search index of things: what is said of a thing, by the registry and by the slices above it, as rows to search.

Every slice pushes what changed in its own transaction; with indexing off (the default, as AWS) all of it costs nothing.
"""

from collections.abc import Mapping

from marram.core.codec import JsonObject, JsonValue
from marram.kit.db import Tx


class Index:
    def thing(self, tx: Tx, thing: str) -> None:
        """The thing is new, or its type, attributes or static groups are others now."""

    def forget(self, tx: Tx, thing: str) -> None:
        """The thing is gone."""

    def shadow(self, tx: Tx, thing: str, shadow_name: str, document: JsonObject | None) -> None:
        """The shadow is {"desired", "reported", "metadata", "version"} now (all optional), or is deleted. Classic: ""."""

    def connectivity(self, tx: Tx, thing: str, state: Mapping[str, JsonValue]) -> None:
        """{"connected", "timestamp" (ms), "disconnectReason", "clientId", "cleanSession", "sessionExpiry", "keepAliveDuration", "version"}."""

    def jobs(self, tx: Tx, thing: str, statuses: Mapping[str, str | None]) -> None:
        """Status by job id, of the executions that changed; None for one that is deleted."""
