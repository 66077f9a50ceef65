"""kill -9 at moments drawn from a printed seed: the hub under QoS 1 load, a core in the middle of deployments by job.

Three each in `make test`, ten each with MARRAM_FULL=1; MARRAM_SEED repeats a run. Each phase of a deployment on purpose:
tests/edge/deploy/test_core.py; power cuts: tests/crash.
"""

import json
import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.wire.faults import FULL, Edge, Hub, Paho, marram, until

KILLS = 10 if FULL else 3
pytestmark = [pytest.mark.xdist_group("faults-kill"), pytest.mark.timeout(240)]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    made = Hub(tmp_path / "hub", tmp_path / "hub.log")
    made.start()
    yield made
    made.close()


def test_the_hub_killed_under_load_delivers_every_acknowledged_message(hub: Hub, chance: random.Random) -> None:
    device = hub.device("all")
    sub = Paho(hub, device, "sub", v5=True, clean=False, reconnect=True)
    sub.subscribe("load/#")
    # As programs do: publish, reconnect when it breaks, and count what paho says is acknowledged.
    pub = Paho(hub, device, "pub", reconnect=True)
    sent: dict[int, int] = {}
    stop = threading.Event()

    def publish() -> None:
        number = 0
        while not stop.is_set():
            if len(sent) - len(pub.acks) < 200:
                sent[pub.publish(f"load/{number % 5}", str(number))] = number
                number += 1
            time.sleep(0.0005)

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        for _ in range(KILLS):
            before = len(pub.acks)
            until(lambda before=before: len(pub.acks) > before + 50, "acknowledgements", 30)
            time.sleep(chance.uniform(0.0, 1.0))
            hub.kill()
            hub.start()
        before = len(pub.acks)
        until(lambda: len(pub.acks) > before + 50, "acknowledgements", 30)
    finally:
        stop.set()
        thread.join(10)
    hub.kill()
    acked = {sent[ack[0]] for ack in list(pub.acks)}
    hub.start()
    missing = set(acked)
    until(
        lambda: not missing.difference_update(int(m.payload) for m in list(sub.got)) and not missing,
        f"the delivery of all {len(acked)} acknowledged messages", 40,
    )  # fmt: skip
    print(f"{KILLS + 1} kills, {len(acked)} acknowledged, {len(sub.got)} delivered")
    repeats = len(sub.got) - len({m.payload for m in sub.got})
    assert repeats <= (KILLS + 1) * 600, repeats  # what was in flight, at most: windows of 100, and the client's 50
    assert "Traceback" not in hub.said()
    pub.close()
    sub.close()


RECIPE = {
    "RecipeFormatVersion": "2020-01-25",
    "ComponentName": "com.example.Turn",
    "Manifests": [
        {
            "Platform": {"os": "linux"},
            "Artifacts": [],
            "Lifecycle": {"run": "exec python3 -c 'import sys, time; time.sleep(600)' {artifacts:path}/main.txt"},
        }
    ],
}


def _alive(mark: str) -> list[str]:
    """Command lines of processes that name `mark`."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                line = Path("/proc", entry, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if mark in line and "time.sleep(600)" in line and "sh -c" not in line:
                found.append(line)
    return found


def test_a_core_killed_while_it_deploys_ends_with_one_whole_version(
    hub: Hub, tmp_path: Path, chance: random.Random
) -> None:
    root = tmp_path / "core-1"
    joined = marram("edge", "join", "--hub-json", hub.folder / "hub.json", "--thing", "core-1", "--root", root)
    assert joined.returncode == 0, joined.stderr
    greengrass, s3, iot = hub.client("greengrassv2"), hub.client("s3"), hub.client("iot")
    s3.create_bucket(Bucket="artifacts")
    versions = [f"1.0.{number}" for number in range(KILLS + 2)]
    for version in versions:
        key = f"{version}/main.txt"
        s3.put_object(Bucket="artifacts", Key=key, Body=version.encode() + b" " * 300_000)
        recipe = json.loads(json.dumps(RECIPE)) | {"ComponentVersion": version}
        recipe["Manifests"][0]["Artifacts"] = [{"URI": f"s3://artifacts/{key}"}]
        greengrass.create_component_version(inlineRecipe=json.dumps(recipe).encode())
    target = iot.describe_thing(thingName="core-1")["thingArn"]

    def deploy(version: str) -> str:
        wanted = {"com.example.Turn": {"componentVersion": version}}
        return str(greengrass.create_deployment(targetArn=target, components=wanted)["deploymentId"])

    def status(deployment: str) -> str:
        found = greengrass.list_effective_deployments(coreDeviceThingName="core-1")["effectiveDeployments"]
        return next((item["coreDeviceExecutionStatus"] for item in found if item["deploymentId"] == deployment), "")

    def running() -> set[tuple[str, str]]:
        listed = marram("edge", "component", "list", "--root", root, "--json")
        components = json.loads(listed.stdout) if listed.returncode == 0 else []
        return {(c["version"], c["state"]) for c in components if c["name"] == "com.example.Turn"}

    edge = Edge(root, tmp_path / "edge.log")
    edge.start()
    try:
        first = deploy(versions[0])
        until(lambda: status(first) == "SUCCEEDED", "the first deployment", 30)
        for number in range(1, KILLS + 1):
            deployment = deploy(versions[number])
            time.sleep(chance.uniform(0.0, 1.5))
            edge.kill()
            edge.start()
            state = until(
                lambda: {s for v, s in running() if v in versions} == {"RUNNING"} and running(), "RUNNING", 30
            )
            assert {v for v, _ in state} <= {versions[number - 1], versions[number]}, state  # old or new, whole
            until(lambda deployment=deployment: status(deployment) == "SUCCEEDED", "the deployment that was cut", 30)
            assert running() == {(versions[number], "RUNNING")}
        last = deploy(versions[-1])
        until(lambda: status(last) == "SUCCEEDED", "the last deployment", 30)
        assert running() == {(versions[-1], "RUNNING")}
        artifact = root / "packages" / "artifacts" / "com.example.Turn" / versions[-1] / "main.txt"
        assert artifact.read_bytes() == versions[-1].encode() + b" " * 300_000
        alive = _alive(str(root))
        assert len(alive) == 1 and versions[-1] in alive[0], alive
        assert "Traceback" not in edge.said(), edge.said()[-3000:]
    finally:
        edge.close()
    assert _alive(str(root)) == []
