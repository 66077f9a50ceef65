"""Where everything lies below ROOT, by Greengrass's names."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from marram.kit import disk

SOCKET_LIMIT: Final = 107  # sun_path of AF_UNIX, without its NUL


@dataclass(frozen=True, slots=True)
class Root:
    path: Path

    @property
    def state_db(self) -> Path:
        return self.path / "state.db"

    @property
    def config(self) -> Path:
        return self.path / "config"

    @property
    def recipes(self) -> Path:
        return self.path / "packages" / "recipes"

    @property
    def incoming(self) -> Path:
        return self.path / "incoming"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def ipc_socket(self) -> Path:
        return self.path / "ipc.socket"

    @property
    def control_socket(self) -> Path:
        return self.path / "control.socket"

    def artifacts(self, name: str, version: str) -> Path:
        return self.path / "packages" / "artifacts" / name / version

    def unarchived(self, name: str, version: str) -> Path:
        return self.path / "packages" / "artifacts-unarchived" / name / version

    def work(self, name: str) -> Path:
        return self.path / "work" / name

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def recipe(self, name: str, version: str) -> Path:
        return self.recipes / f"{name}-{version}.json"

    def prepare(self) -> None:
        """Create what is missing. `work` and the packages may be entered by the users that components run as."""
        for folder in (self.config, self.incoming, self.path / "spool", self.path / "streams"):
            disk.make_dirs(folder)
        for folder in (self.path / "work", self.recipes, self.path / "packages" / "artifacts", self.logs):
            disk.make_dirs(folder, mode=0o755)
        disk.make_dirs(self.path / "packages" / "artifacts-unarchived", mode=0o755)


def short_socket(path: Path) -> str:
    """A name for the socket `path` that bind(2) and connect(2) take however deep ROOT lies (Linux)."""
    text = str(path)
    if len(os.fsencode(text)) <= SOCKET_LIMIT:
        return text
    # The descriptor stays open for the life of the process: the name must stay good.
    handle = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    return f"/proc/self/fd/{handle}/{path.name}"
