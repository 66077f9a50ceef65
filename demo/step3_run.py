"""Step 3: the line runs: camera to decision to relay on the box, and the readings as a series on the hub."""

import time

from demo import learning, measure
from demo.figures import mean, share_dropped
from demo.ids import ledger
from demo.step2_first_model import frames_log
from demo.world import SERIES, World

TITLE = "the line runs: frames decoded, read, acted on, published"
RUN_S = 14.0
P99_MS = 20.0
DROPPED = 0.01
RATE = 0.98  # of the camera's frames, so that a second of rounding is no failure


def run(world: World) -> None:
    show = world.show
    _prepare_sets(world)
    show.wait("relays open", lambda: all(measure.openings(world, core) for core in world.cores), 30, every_s=0.3)
    show.say("digit 7 read by meter-N opens relay-N, another machine, through the core's own broker")
    begin_ms = learning.now_ms()
    latency = measure.measured_latency(world, "measuring", RUN_S, lambda found: found.p99 <= P99_MS)
    time.sleep(1.0)  # the last batch is on its way
    show.call(f"boto3 marram.query(series='{SERIES}', where={{'thing': 'meter-1'}})")
    for core in world.cores:
        rows = measure.rows_since(world, core, begin_ms)
        if len(rows) < 2:
            show.promise(False, f"{core.thing} sends readings: {len(rows)} batches in {RUN_S:.0f} s")
            continue
        first, last = rows[0], rows[-1]
        seconds = (last["time_ms"] - first["time_ms"]) / 1000
        rate, lost = (last["read"] - first["read"]) / seconds, share_dropped(first, last)
        times = ", ".join(
            f"{name} {mean([row[f'{name}_ms'] for row in rows]):.2f}" for name in ("decode", "crop", "infer", "publish")
        )
        show.figure(f"{core.thing}", f"{rate:.1f} frames/s, dropped {lost:.2%}; ms a frame: {times}")
        show.promise(
            rate >= core.fps * RATE and lost <= DROPPED,
            f"{core.thing} carries its camera of {core.fps} frames/s ({rate:.1f}) with at most {DROPPED:.0%} dropped ({lost:.2%})",
        )
        confidence = [row["confidence"] for row in rows]
        world.facts.setdefault("confidence_v1", {})[core.thing] = mean(confidence)
        show.say(
            f"{core.thing} live confidence {mean(confidence):.3f} (lowest batch {min(confidence):.3f}), {len(rows)} points"
        )
    show.promise(latency.p99 <= P99_MS, f"frame to relay: {latency} (limit {P99_MS:.0f} ms)")
    kept = sum(len(ledger(frames_log(core)).local) for core in world.cores)
    seen = sum(
        1 for core in world.cores for note in world.notes(core.sensor) if note.get("canary") == world.facts["canary"]
    )
    show.promise(
        kept > 0 and seen > 0, f"{kept} frames stay local: read on the box, seen by its machines ({seen} batches)"
    )


def _prepare_sets(world: World) -> None:
    """Upload the sets that v2 is judged by and that nobody learns from, and look at v1 on them."""
    lines = [
        *learning.upload_set(world, "final-clean", "final-clean"),
        *learning.upload_set(world, "gate", "gate"),
        *learning.upload_set(world, "final", "final"),
    ]
    world.facts["gate_lines"] = [line for line in lines if line["split"] == "gate"]
    data = learning.dataset(world, "meter-judge", lines)
    world.facts["judge"] = data
    clean = learning.evaluated(world, 1, data["datasetId"], "final-clean")["models"][0]
    camera = learning.evaluated(world, 1, data["datasetId"], "final")["models"][0]
    world.facts |= {"v1_clean": clean, "v1_camera": camera}
    world.show.promise(clean["accuracy"] >= 0.97, f"v1 on 300 other clean scans: {clean['accuracy']:.3f} (floor 0.97)")
    world.show.figure(
        "v1 on camera frames", f"{camera['accuracy']:.3f}, ECE {camera['ece']:.3f} (0.55 to 0.80 expected, no floor)"
    )
