"""The hub as a process: start to ready, fresh and with 10,000 things; memory when idle; a deployment by job, end to end."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

THINGS = 10_000


def main() -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="marram-bench-") as name:
        folder = Path(name)
        hub, fresh_s = start(folder / "hub")
        try:
            time.sleep(3.0)
            idle_mb = rss_mb(hub.pid)
            fill(folder / "hub")
        finally:
            stop(hub)
        hub, full_s = start(folder / "hub")
        try:
            return {
                "start_fresh_s": fresh_s,
                "start_10000_things_s": full_s,
                "idle_rss_mb": idle_mb,
                **deployment(folder, folder / "hub"),
            }
        finally:
            stop(hub)


def start(data: Path) -> tuple["subprocess.Popen[str]", float]:
    began = time.monotonic()
    hub = subprocess.Popen(
        [sys.executable, "-m", "marram.cli.main", "hub", "up", "--data", str(data), "--ports", "auto", "--no-console"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert hub.stdout is not None
    for line in hub.stdout:
        if line.strip() == "marram hub ready":
            return hub, time.monotonic() - began
    raise RuntimeError("the hub did not start")


def stop(process: "subprocess.Popen[str]") -> None:
    process.send_signal(signal.SIGTERM)
    process.wait(30)
    if process.stdout is not None:
        process.stdout.close()


def rss_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def fill(data: Path) -> None:
    """Things by four clients at once: the commits are shared."""
    from concurrent.futures import ThreadPoolExecutor

    from marram.cli import client

    def some(first: int) -> None:
        api = client.Api.from_data(data)
        for at in range(first, THINGS, 4):
            api.call(
                "iot",
                "CreateThing",
                {"thingName": f"thing-{at}", "attributePayload": {"attributes": {"line": str(at % 40)}}},
            )

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(some, range(4)))


def deployment(folder: Path, data: Path) -> dict[str, float]:
    import boto3

    info = json.loads((data / "hub.json").read_text())
    session = boto3.session.Session(
        aws_access_key_id=info["admin"]["access_key_id"], aws_secret_access_key=info["admin"]["secret_access_key"],
        region_name=info["region"],
    )  # fmt: skip
    greengrass = session.client("greengrassv2", endpoint_url=info["endpoints"]["api"])
    iot = session.client("iot", endpoint_url=info["endpoints"]["api"])
    run = [sys.executable, "-m", "marram.cli.main", "edge"]
    root = folder / "core"
    subprocess.run(
        [*run, "join", "--hub-json", str(data / "hub.json"), "--thing", "core", "--root", str(root)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    edge = subprocess.Popen(
        [*run, "up", "--root", str(root), "--ports", "auto"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert edge.stdout is not None
        next(line for line in edge.stdout if line.strip() == "marram edge ready")
        time.sleep(1.0)
        running, succeeded = [], []
        target = iot.describe_thing(thingName="core")["thingArn"]
        for version in ("1.0.0", "2.0.0", "3.0.0"):
            flag = folder / f"running-{version}"
            recipe = {
                "RecipeFormatVersion": "2020-01-25", "ComponentName": "bench", "ComponentVersion": version,
                "Manifests": [{"Platform": {"os": "linux"}, "Lifecycle": {"run": f"touch {flag}; exec sleep 1000"}}],
            }  # fmt: skip
            greengrass.create_component_version(inlineRecipe=json.dumps(recipe).encode())
            began = time.monotonic()
            made = greengrass.create_deployment(targetArn=target, components={"bench": {"componentVersion": version}})
            until(flag.exists)
            running.append(time.monotonic() - began)
            until(
                lambda made=made: (
                    greengrass.get_deployment(deploymentId=made["deploymentId"])["deploymentStatus"] == "COMPLETED"
                )
            )
            succeeded.append(time.monotonic() - began)
        return {
            "job_to_running_s": min(running),
            "job_to_succeeded_s": min(succeeded),
            "core_connected_5_components_pss_mb": idle_core(edge.pid, root, run),
        }
    finally:
        edge.send_signal(signal.SIGTERM)
        edge.wait(30)
        if edge.stdout is not None:
            edge.stdout.close()


def idle_core(pid: int, root: Path, run: list[str]) -> float:
    """Four components more by a local deployment; the core's own memory, shared pages by share, after three quiet seconds."""
    recipes, merges = root.parent / "recipes", []
    recipes.mkdir()
    for name in ("a", "b", "c", "d"):
        recipe = {
            "RecipeFormatVersion": "2020-01-25", "ComponentName": name, "ComponentVersion": "1.0.0",
            "Manifests": [{"Platform": {"os": "linux"}, "Lifecycle": {"run": "exec sleep 1000"}}],
        }  # fmt: skip
        (recipes / f"{name}-1.0.0.json").write_text(json.dumps(recipe))
        merges += ["--merge", f"{name}=1.0.0"]
    subprocess.run(
        [*run, "deploy", "--recipes", str(recipes), *merges, "--root", str(root)], check=True, stdout=subprocess.DEVNULL
    )
    time.sleep(3.0)
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Pss:")).split()[1]) / 1024


def until(look: Any) -> None:
    end = time.monotonic() + 30
    while not look():
        if time.monotonic() > end:
            raise RuntimeError("it did not happen within 30 s")
        time.sleep(0.005)


if __name__ == "__main__":
    print(json.dumps(main(), indent=1), os.getpid())
