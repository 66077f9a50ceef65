"""Build hook: compile the API plans before the wheel is put together, so that an installed hub needs no botocore."""

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class PlansHook(BuildHookInterface):  # type: ignore[type-arg]
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        sys.path.insert(0, str(root))
        from tools import plans

        plans.build(root)
        build_data.setdefault("artifacts", []).extend(
            ["marram/hub/border/plans/*.json", "marram/hub/border/models/**/*.json"]
        )
