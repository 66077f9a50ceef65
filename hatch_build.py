"""Build hook: compile the API plans before the wheel is put together, so that an installed hub needs no botocore.

With MARRAM_COMPILED=1 the wheel is of this platform, and has the gateway's hot modules as machine code too (tools/compiled.py).
"""

import os
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PLANS = ["botocore>=1.40"]
COMPILER = ["mypy==2.4.1", "setuptools"]


class PlansHook(BuildHookInterface):  # type: ignore[type-arg]
    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        return PLANS + COMPILER if self._compiles else PLANS

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return  # the checkout itself: `make setup` compiles the plans
        root = Path(self.root)
        sys.path.insert(0, str(root))
        from tools import plans

        plans.build(root)
        build_data.setdefault("artifacts", []).extend(
            ["marram/hub/border/plans/*.json", "marram/hub/border/models/**/*.json"]
        )
        if self._compiles:
            self._compile(root, build_data)

    @property
    def _compiles(self) -> bool:
        return self.target_name == "wheel" and os.environ.get("MARRAM_COMPILED") == "1"

    def _compile(self, root: Path, build_data: dict[str, Any]) -> None:
        from tools import compiled

        folder = root / "build" / "compiled"
        made = compiled.build(folder, root)
        build_data["force_include"].update({str(folder / path): str(path) for path in made})
        build_data.update(pure_python=False, infer_tag=True)
