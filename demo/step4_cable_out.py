"""Step 4: the cable out. Half-open link, a core killed cold, the hub killed under load: ids compared one by one both ways."""

import json
import time
from typing import Any

from demo import measure
from demo.ids import ledger
from demo.step1_fleet import connected
from demo.step2_first_model import frames_log
from demo.world import World

TITLE = "the cable out: half-open link, a core killed, then the hub killed under load"
SPAN_S = 18.0
SLOWER = 1.5
P99_MS = 20.0
HUB_AWAY_S = 2.0


def run(world: World) -> None:
    show = world.show
    with_hub = measure.measured_latency(world, "before", SPAN_S, lambda found: found.p99 <= P99_MS)
    cut_s = time.monotonic()
    said = world.cable_do("cut")
    show.say(
        f"cable cut: every packet between cores and hub is swallowed, nobody is told (so far {_bytes(said)} passed)"
    )
    counts = {core.thing: len(ledger(frames_log(core)).sent) for core in world.cores}
    show.call(
        "boto3 iot-data.update_thing_shadow('relay-1', desired mode = eco); relay-1 goes on reporting to its core"
    )
    world.aws("iot-data").update_thing_shadow(
        thingName="relay-1", payload=json.dumps({"state": {"desired": {"mode": "eco"}}}).encode()
    )
    limit_ms = min(SLOWER * with_hub.p99, P99_MS)
    without = measure.measured_latency(world, "without the hub", SPAN_S, lambda found: found.p99 <= limit_ms)
    world.facts |= {"latency_with": with_hub, "latency_without": without}
    gained = {core.thing: len(ledger(frames_log(core)).sent) - counts[core.thing] for core in world.cores}
    away_s = time.monotonic() - cut_s
    show.promise(
        all(gained[core.thing] >= core.fps * away_s * 0.9 for core in world.cores),
        f"predictions go on without the hub: {', '.join(f'{thing} {count}' for thing, count in gained.items())}"
        f" frames in {away_s:.0f} s",
    )
    show.say(f"frame to relay with the hub:    {with_hub}")
    show.say(f"frame to relay without the hub: {without}")
    show.promise(
        without.p99 <= limit_ms,
        f"frame-to-relay p99 without the hub at most {SLOWER} x {with_hub.p99:.1f} ms, and {P99_MS:.0f} ms: {without}",
    )
    _cold_restart(world)
    show.say(
        f"waiting in the spools: {', '.join(f'{core.thing} {measure.spooled(world, core)}' for core in world.cores)} messages"
    )
    said = world.cable_do("join")
    show.say(f"cable back; swallowed: {said['swallowed']} bytes")
    took = show.wait(
        "cores connect again", lambda: all(connected(world, core) for core in world.cores), 60, every_s=0.5
    )
    show.figure("reconnected after the cable was back", f"{took:.1f} s")
    _same_on_both_sides(world, "after the outage")
    _shadows(world)
    _kill_the_hub(world)


def _cold_restart(world: World) -> None:
    show, core = world.show, world.cores[2]
    assert core.child is not None
    show.command("kill", "-9", core.child.pid)
    core.child.kill()
    world.family.forget(core.child)
    taken = len(ledger(frames_log(core)).sent)
    began = time.monotonic()
    world.start_core(core)
    world.core_ready(core)
    ready = time.monotonic() - began
    took = ready + show.wait("its predictions go on", lambda: len(ledger(frames_log(core)).sent) > taken, 30)
    show.figure(
        f"{core.thing} killed and cold again without a hub", f"ready in {ready:.1f} s, predicting in {took:.1f} s"
    )


def _same_on_both_sides(world: World, when: str) -> None:
    found = measure.compare_all(world, "frame ids, one by one")
    world.facts["compared"] = found
    world.show.promise(
        found.exact and found.frames > 0, f"{when}, every prediction exactly once, both directions: {found}"
    )
    sensors = measure.telemetry(world)
    world.show.promise(
        not sensors.missing and not sensors.unknown,
        f"{when}, sensor readings: {sensors.acknowledged} acknowledged, {sensors.missing} missing, {sensors.unknown} unknown",
    )


def _shadows(world: World) -> None:
    """The hub's copy and the core's are the same, and the relay has obeyed what was asked while it was away."""
    views: dict[str, Any] = {}

    def same() -> bool:
        for core in world.cores:
            assert world.devices is not None
            world.devices.tell(f"shadow {core.relay}")
        time.sleep(0.5)
        for core in world.cores:
            body = world.aws("iot-data").get_thing_shadow(thingName=core.relay)["payload"].read()
            state = json.loads(body)["state"]
            state.pop("delta", None)
            local = [note["state"] for note in world.notes(core.relay) if note["event"] == "shadow"]
            views[core.relay] = (state, local[-1] if local else None)
        far = views["relay-1"][0]
        obeyed = (far.get("reported") or {}).get("mode") == "eco"
        # The relays go on counting: the number may have moved between the two looks.
        return obeyed and all(_without_count(far) == _without_count(near) for far, near in views.values())

    try:
        took = world.show.wait("shadows converge", same, 30, every_s=0.3)
    except Exception as error:
        world.show.promise(False, f"shadows converge: {error}; {views.get('relay-1')}")
        return
    world.show.promise(True, f"relay shadows converge, desired from the hub and reported from the box, in {took:.1f} s")


def _without_count(state: Any) -> Any:
    if not isinstance(state, dict):
        return state
    return {
        key: {k: v for k, v in part.items() if k != "opened"} for key, part in state.items() if isinstance(part, dict)
    }


def _kill_the_hub(world: World) -> None:
    show = world.show
    assert world.hub is not None
    show.command("kill", "-9", world.hub.pid)
    world.kill_hub()
    show.sleep("the hub is dead, the line runs", HUB_AWAY_S)
    began = time.monotonic()
    world.start_hub()
    world.hub_ready()
    show.figure("hub killed under load, ready again", f"in {time.monotonic() - began:.1f} s")
    show.wait("cores connect again", lambda: all(connected(world, core) for core in world.cores), 60, every_s=0.5)
    _same_on_both_sides(world, "after the hub's death")


def _bytes(said: dict[str, Any]) -> str:
    up = sum(passed[0] for passed in said["passed"].values())
    down = sum(passed[1] for passed in said["passed"].values())
    return f"{up / 1e6:.2f} MB up, {down / 1e6:.2f} MB down"
