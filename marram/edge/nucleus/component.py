"""One component of the active set, and its JSON form (snapshots of deployments)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from marram.core import recipe
from marram.core.codec import JsonObject
from marram.core.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One component of the active set. `artifacts`: file name -> SHA-256 hex; `installed`: signature of what was installed."""

    recipe: Recipe
    run_with: JsonObject
    artifacts: Mapping[str, str]
    installed: str = ""

    @property
    def name(self) -> str:
        return self.recipe.name

    @property
    def version(self) -> str:
        return str(self.recipe.version)

    def as_json(self) -> JsonObject:
        return {
            "recipe": self.recipe.document,
            "runWith": self.run_with,
            "artifacts": dict(self.artifacts),
            "installed": self.installed,
        }


def component_from_json(value: JsonObject) -> Component:
    run_with, artifacts = value.get("runWith"), value.get("artifacts")
    assert isinstance(run_with, dict) and isinstance(artifacts, dict)
    return Component(
        recipe=recipe.parse(value.get("recipe")),
        run_with=run_with,
        artifacts={name: str(digest) for name, digest in artifacts.items()},
        installed=str(value.get("installed", "")),
    )


def with_installed(component: Component, signature: str) -> Component:
    return replace(component, installed=signature)
