"""A real core in its own process, driven through its control socket."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from marram.edge.nucleus.root import short_socket


class EdgeCore:
    """`up` returns when the core said it is ready."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.root = base / "root"
        self.recipes = base / "recipes"
        self.artifacts = base / "artifacts"
        self.recipes.mkdir()
        self.artifacts.mkdir()
        self.process: subprocess.Popen[str] | None = None

    def up(self, **environment: str) -> None:
        with (self.base / "err").open("a") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "marram.cli.main", "edge", "up", "--root", str(self.root)],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, **environment},
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line == "marram edge ready\n" or "MARRAM_FAILPOINTS" in environment, self.errors()

    def down(self) -> int:
        return self._end(signal.SIGTERM)

    def kill(self) -> int:
        return self._end(signal.SIGKILL)

    def _end(self, number: int) -> int:
        process = self.process
        if process is None:
            return 0
        self.process = None
        process.send_signal(number)
        code = process.wait(30)
        assert process.stdout is not None
        process.stdout.close()
        return code

    def errors(self) -> str:
        return (self.base / "err").read_text()

    def ask(self, op: str, **fields: object) -> Any:
        import socket

        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.connect(short_socket(self.root / "control.socket"))
            with connection.makefile("rwb") as file:
                file.write(json.dumps({"op": op, **fields}).encode() + b"\n")
                file.flush()
                for line in file:
                    answer = json.loads(line)
                    if "progress" not in answer:
                        return answer.get("ok", answer)
        raise AssertionError(self.errors())

    def recipe(self, name: str, version: str, lifecycle: Any, **members: Any) -> None:
        needs = {other: {"VersionRequirement": text} for other, text in members.pop("needs", {}).items()}
        artifacts = members.pop("artifacts", [])
        document = {
            "RecipeFormatVersion": "2020-01-25",
            "ComponentName": name,
            "ComponentVersion": version,
            "ComponentDependencies": needs,
            "Manifests": [{"Platform": {"os": "linux"}, "Artifacts": artifacts, "Lifecycle": lifecycle}],
            "x-marram": {"health": {"settle_s": 0.2}},
            **members,
        }
        (self.recipes / f"{name}-{version}.json").write_text(json.dumps(document))

    def artifact(self, name: str, version: str, file: str, data: bytes | str) -> None:
        folder = self.artifacts / name / version
        folder.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(data.encode() if isinstance(data, str) else data)

    def deploy(self, wait: bool = True, **fields: Any) -> Any:
        deployment = self.ask("deploy", **{"recipes": str(self.recipes), "artifacts": str(self.artifacts), **fields})
        if not wait or isinstance(deployment, dict):
            return deployment
        return self.ask("wait", id=deployment, timeout_s=30)

    def components(self) -> dict[str, Any]:
        return {each["name"]: each for each in self.ask("components")}

    def until(self, claim: Callable[[], object], limit_s: float = 15.0) -> None:
        end = time.monotonic() + limit_s
        while not claim():
            assert time.monotonic() < end, self.errors()[-3000:]
            time.sleep(0.01)

    def until_state(self, name: str, state: str) -> None:
        self.until(lambda: self.components().get(name, {}).get("state") == state)

    def log(self, name: str) -> str:
        path = self.root / "logs" / f"{name}.log"
        return path.read_text() if path.exists() else ""


@pytest.fixture
def core(tmp_path: Path) -> Iterator[EdgeCore]:
    made = EdgeCore(tmp_path)
    yield made
    made.kill()
    from marram.edge.nucleus.prepare import MARKER
    from marram.kit import process

    process.end_leftovers(f"{MARKER}={made.root}")
