"""Step 7: the closing table: the three laws with figures, the eleven steps of the feedback loop with counts, where all lies."""

import os
from pathlib import Path

from demo import measure
from demo.ids import ledger
from demo.step2_first_model import frames_log
from demo.world import COMPONENT, SERIES, World

TITLE = "what was shown"
CHUNK = 1 << 20


def run(world: World) -> None:
    show = world.show
    world.aws("marram").flush()
    found = measure.compare_all(world, "frame ids, one last time")
    show.promise(found.exact, f"the whole run, every prediction exactly once, both directions: {found}")
    canary = _scan(world.hub_dir, world.facts["canary"].encode())
    # The scan must be able to find something: a run's id is in every message that did travel.
    control = _scan(world.hub_dir, next(iter(ledger(frames_log(world.cores[0])).sent))[0].encode())
    kept = sum(len(ledger(frames_log(core)).local) for core in world.cores)
    leaked = len(canary) + found.leaked
    show.promise(
        not leaked and bool(control),
        f"stay-local frames found on the hub: {leaked} of {kept}, by canary scan and by id"
        f" (the same scan finds what did travel in {len(control)} files)",
    )
    raw, sent, passed = _bytes(world)
    near, far = world.facts["latency_without"], world.facts["latency_with"]
    laws = [
        (
            "physics: decisions on the box",
            f"frame to relay p99 with the hub {far.p99:.1f} ms, without {near.p99:.1f} ms",
        ),
        (
            "economics: only what matters travels",
            f"{raw / 1e6:.0f} MB of frames read, {sent / 1e6:.2f} MB sent by the ledger ({raw / max(sent, 1):.0f} : 1);"
            f" the cable saw {passed / 1e6:.2f} MB go up",
        ),
        ("the land: what must stay, stays", f"{kept} frames stayed local, {leaked} found on the hub"),
    ]
    show.table("the three laws", ("law", "measured"), laws)
    show.promise(0 < sent < raw, f"bytes sent are counted by the cores' ledgers: {sent} of {raw} raw")
    whole = measure.latency(measure.relay_ages(world))
    show.say(
        f"frame to relay over the whole run, training, restarts and deployments on the same machine included: {whole}"
    )
    show.table("the eleven steps of the feedback loop", ("step", "count"), _eleven(world, found.frames))
    show.table(
        "where everything lies",
        ("what", "where"),
        [
            ("hub", str(world.hub_dir)),
            ("cores", ", ".join(str(core.root) for core in world.cores)),
            ("camera and answer key", str(world.clip)),
            ("openings, readings, acknowledgements of the machines", str(world.machines)),
            ("logs of all processes", f"{world.folder}/*.log, {world.cores[0].root}/logs/{COMPONENT}.log"),
            ("series", f"{SERIES}: {world.info['endpoints']['api']} marram.query, Parquet in {world.hub_dir}/ts"),
        ],
    )


def _eleven(world: World, frames: int) -> list[tuple[str, str]]:
    facts, marram = world.facts, world.aws("marram")
    deployments = world.aws("greengrassv2").list_deployments(historyFilter="ALL")["deployments"]
    openings = sum(len(measure.openings(world, core)) for core in world.cores)
    latest = {core.thing: measure.rows_since(world, core, 0) for core in world.cores}
    due = sum(_total(rows, "due") for rows in latest.values())
    read = sum(_total(rows, "read") for rows in latest.values())
    versions = marram.list_model_versions()["versions"]
    jobs = world.aws("sagemaker").list_training_jobs()["TrainingJobSummaries"]
    points = sum(len(rows) for rows in latest.values())
    feedback = marram.list_feedback(limit=1)["total"]
    old, new = facts["v1_final"]["accuracy"], facts["v2_final"]["accuracy"]
    return [
        ("1 training job, model to the core", f"{len(jobs)} jobs, {len(versions)} model versions, {len(deployments)} deployments"),
        ("2 frames from the camera", f"{due}"),
        ("3 crops cut out and scaled", f"{read * 5}"),
        ("4 answers of the engine", f"{read * 5}"),
        ("5 models loaded from disk by a component", f"{sum(len({row['run'] for row in rows}) for rows in latest.values())} starts"),
        ("6 objects with label, probability, box", f"{frames * 5} on the hub"),
        ("7 actions: the relay opened on the box", f"{openings}"),
        ("8 crops sampled (margin, 15 % random)", f"{feedback}"),
        ("9 unlabelled crops on the hub", f"{feedback}"),
        ("10 labels, then v2", f"{facts['labels']} labels; v1 {old:.3f} -> v2 {new:.3f}"),
        ("11 performance as a series", f"{points} points of live confidence"),
    ]  # fmt: skip


def _total(rows: list[dict[str, object]], key: str) -> int:
    """The sum over runs of a counter that begins at 0 in each."""
    highest: dict[str, int] = {}
    for row in rows:
        run = str(row["run"])
        highest[run] = max(highest.get(run, 0), int(str(row[key])))
    return sum(highest.values())


def _bytes(world: World) -> tuple[int, int, int]:
    """(raw bytes of the frames that were read, bytes sent by the cores' ledgers, bytes that went up through the cable)."""
    raw = sum(_total(measure.rows_since(world, core, 0), "raw_bytes") for core in world.cores)
    sent = 0
    for core in world.cores:
        for counts in (world.edge_status(core).get("ledger") or {}).values():
            sent += int(counts["sent"])
    passed = sum(counts[0] for counts in world.cable_do("count")["passed"].values())
    return raw, sent, passed


def _scan(folder: Path, needle: bytes) -> list[str]:
    """Files below `folder` that hold the needle."""
    found: list[str] = []
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            tail = b""
            try:
                with path.open("rb") as file:
                    while chunk := file.read(CHUNK):
                        if needle in tail + chunk:
                            found.append(str(path))
                            break
                        tail = chunk[-len(needle) :]
            except OSError:
                continue  # a file of the moment, gone again
    return found
