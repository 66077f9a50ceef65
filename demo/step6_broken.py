"""Step 6: two builds that must not spread: one crashes at its start, one starts and answers garbage."""

import json
import time
from typing import Any

from demo import learning, measure, processes
from demo.figures import longest_gap_s
from demo.show import Stopped
from demo.world import COMPONENT, Core, World

TITLE = "two broken builds: stopped at one box, rolled back by themselves, never seen by the others"
GAP_S = 2.0
BAKE_S = 10
CRASHES = """
RecipeFormatVersion: "2020-01-25"
ComponentName: {name}
ComponentVersion: "3.0.0"
ComponentDescription: A build that crashes at its start
ComponentPublisher: demo
Manifests:
  - Platform: {{os: linux}}
    Lifecycle:
      run: "echo 'Segmentation fault' >&2; exit 139"
"""


def run(world: World) -> None:
    world.show.call("boto3 greengrassv2.create_component_version(inlineRecipe=... run: exit 139), version 3.0.0")
    world.aws("greengrassv2").create_component_version(inlineRecipe=CRASHES.format(name=COMPONENT).encode())
    _try(world, "3.0.0", "a build that crashes at its start")
    learning.trained(world, "meter-garbage")
    compiled = learning.compiled(world, "meter-garbage", world.facts["gate_dataset"])
    version = world.aws("marram").create_model_version(name=learning.MODEL, compilationId=compiled["compilationId"])
    accuracy = version["evaluation"]["models"][0]["accuracy"]
    world.show.promise(
        version["status"] == "Rejected",
        f"a model that learnt wrong labels ({accuracy:.3f}) is refused by the gate: {version['reasons'][:1]}",
    )
    try:
        learning.publish(world, version["version"], "4.0.0")
        world.show.promise(False, "publishing a refused model needs force")
    except world.aws("marram").exceptions.ClientError as error:
        world.show.say(f"publish: {error.response['Error']['Message'][:150]}")
    world.show.call("boto3 marram.publish_model_version(force=True): somebody insists")
    learning.publish(world, version["version"], "4.0.0", force=True)
    _try(world, "4.0.0", "a build that starts and answers garbage")


def _try(world: World, version: str, what: str) -> None:
    show, box = world.show, world.cores[[core.thing for core in world.cores].index(world.facts["canary_thing"])]
    begun = learning.now_ms()
    made = learning.canary(world, what, version, BAKE_S)
    found: dict[str, Any] = {}

    def stopped() -> bool:
        nonlocal found
        found = learning.rollout(world, made["deploymentId"])
        return found["canary"]["state"] in ("STOPPED", "PROMOTED")

    took = show.wait(f"{what} goes to {box.thing}", stopped, 60, every_s=0.2)
    show.promise(
        found["canary"]["state"] == "STOPPED",
        f"{what}: stopped at {box.thing} after {took:.1f} s: {found['reason'][:160]}",
    )
    show.wait("the old version runs again", lambda: _running(box) == "2.0.0", 30, every_s=0.3)
    time.sleep(2.5)  # two batches of the old version, so that the gap has an end
    rows = measure.rows_since(world, box, begun - 3000)
    gap = longest_gap_s(rows, box.fps)
    bad = sum(1 for row in rows if row["version"] not in ("1", "2"))
    world.facts.setdefault("gaps", {})[version] = gap
    show.promise(
        gap <= GAP_S and rows[-1]["version"] == "2",
        f"{box.thing} is back on 2.0.0 by itself; the longest gap in its predictions is {gap:.2f} s (limit {GAP_S:.0f} s)",
    )
    show.promise(not bad, f"{bad} batches of readings came from the broken build")
    others = [core for core in world.cores if core is not box]
    saw = [core.thing for core in others if made["deploymentId"] in json.dumps(_deployments(core))]
    show.promise(
        set(found["executions"]) == {box.thing} and not saw and all(_running(core) == "2.0.0" for core in others),
        f"{' and '.join(core.thing for core in others)} never saw it (executions: {found['executions']})",
    )


def _running(core: Core) -> str:
    """The version of the reader that runs on a box, by the local tool; empty when it does not run."""
    rows = processes.ask("edge", "component", "list", "--root", core.root)
    return next((row["version"] for row in rows if row["name"] == COMPONENT and row["state"] == "RUNNING"), "")


def _deployments(core: Core) -> Any:
    try:
        return processes.ask("edge", "deployments", "--root", core.root)
    except Stopped:
        return []
