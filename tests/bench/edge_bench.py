"""The edge core: idle memory with 5 components, start to ready, local deployment to RUNNING, restart after kill -9.

A real core in its own process on a folder of the disk (everything fsynced). Times are medians; a component is `exec sleep`, so
that what is measured is the core.
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from marram.edge.nucleus.root import short_socket

TEN = 10


class Core:
    def __init__(self, base: Path) -> None:
        self.root, self.recipes = base / "root", base / "recipes"
        self.recipes.mkdir()
        self.process: subprocess.Popen[str] | None = None

    def up(self) -> float:
        began = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "marram.cli.main", "edge", "up", "--root", str(self.root), "--log-level", "error"],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line == "marram edge ready\n", line
        return (time.monotonic() - began) * 1000

    def down(self) -> None:
        assert self.process is not None and self.process.stdout is not None
        self.process.terminate()
        self.process.wait(30)
        self.process.stdout.close()

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
                        return answer["ok"]

    def recipe(self, name: str, version: str = "1.0.0") -> None:
        document = {
            "RecipeFormatVersion": "2020-01-25",
            "ComponentName": name,
            "ComponentVersion": version,
            "Manifests": [{"Platform": {"os": "linux"}, "Lifecycle": {"run": "exec sleep 600"}}],
        }
        (self.recipes / f"{name}-{version}.json").write_text(json.dumps(document))

    def until_running(self, names: list[str], version: str = "1.0.0") -> None:
        while True:
            states = {each["name"]: (each["version"], each["state"]) for each in self.ask("components")}
            if all(states.get(name) == (version, "RUNNING") for name in names):
                return
            time.sleep(0.001)

    def pss_mb(self) -> float:
        assert self.process is not None
        text = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")) / 1024


def main() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        core = Core(Path(folder))
        starts = []
        for _ in range(3):
            starts.append(core.up())
            core.down()
        core.up()
        five = [f"com.bench.C{number}" for number in range(5)]
        deploys = []
        for name in five:
            core.recipe(name)
            began = time.monotonic()
            deployment = core.ask("deploy", recipes=str(core.recipes), merge={name: "1.0.0"})
            core.until_running([name])
            deploys.append((time.monotonic() - began) * 1000)
            core.ask("wait", id=deployment, timeout_s=30)
        restarts = []
        for name in five:  # the first restart in a row; later ones wait by design
            pid = next(each["pid"] for each in core.ask("components") if each["name"] == name)
            began = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            while next(each for each in core.ask("components") if each["name"] == name)["pid"] in (None, pid):
                pass
            restarts.append((time.monotonic() - began) * 1000)
        core.down()
        core.up()
        core.until_running(five)
        time.sleep(1.0)
        pss = core.pss_mb()
        ten = [f"com.bench.C{number}" for number in range(TEN)]
        for name in ten[5:]:
            core.recipe(name)
        core.ask(
            "wait", id=core.ask("deploy", recipes=str(core.recipes), merge=dict.fromkeys(ten, "1.0.0")), timeout_s=30
        )
        core.down()
        began = time.monotonic()
        core.up()
        core.until_running(ten)
        restored = (time.monotonic() - began) * 1000
        core.down()
    return {
        "edge_idle_pss_mb": round(pss, 1),
        "edge_start_to_ready_ms": round(statistics.median(starts), 1),
        "edge_restore_10_ms": round(restored, 1),
        "edge_deploy_to_running_ms": round(statistics.median(deploys), 1),
        "edge_restart_after_kill_ms": round(statistics.median(restarts), 1),
    }


if __name__ == "__main__":
    print(json.dumps(main(), indent=2))
