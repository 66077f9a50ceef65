"""Step 2: v1 learns from clean scans, is compiled, signed, published and deployed; the clock stops at the first prediction."""

import time

from demo import learning
from demo.ids import ledger
from demo.world import BUCKET, CANARY_CORE, COMPONENT, SERIES, TELEMETRY, Core, World

TITLE = "v1 learns from clean scans, is compiled, signed, deployed"
V1 = {"epochs": 60, "seed": 1}
FIRST_WITHIN_S = 60.0
CLEAN_FLOOR = 0.97
COLUMNS = (
    "model, version, run, ids, first, last, count, confidence, confidence_min, readings, age_ms, decode_ms, crop_ms, infer_ms,"
    " publish_ms, due, read, dropped, skipped, failed, published, stayed_local, lost, decisions, raw_bytes, time_ms"
)


def run(world: World) -> None:
    show = world.show
    world.facts["canary_thing"] = world.cores[CANARY_CORE].thing
    _rules(world)
    world.aws("s3").create_bucket(Bucket=BUCKET)
    clip = world.facts["clip"]
    show.wait("the camera's clip is written", lambda: not clip.running, 60)
    show.say(clip.wait_line("595 frames", 1))
    world.family.forget(clip)
    began = time.monotonic()
    show.call("boto3 s3.put_object(): 600 scans to learn from, 300 to judge by")
    lines = learning.upload_set(world, "train", "train") + learning.upload_set(world, "gate-clean", "gate")
    data = learning.dataset(world, "meter-clean", lines)
    world.facts |= {"train_lines": lines[:600], "clean": data}
    uploaded = time.monotonic()
    show.call(f"boto3 sagemaker.create_training_job('meter-v1', HyperParameters={V1})")
    splits = data["splits"]
    learning.start_training(
        world, "meter-v1", {"train": splits["train"]["uri"], "validation": splits["gate"]["uri"]}, **V1
    )
    learning.trained(world, "meter-v1")
    trained = time.monotonic()
    show.call("boto3 marram.create_compilation(), create_model_version(), publish_model_version()")
    compiled = learning.compiled(world, "meter-v1", data["datasetId"])
    version = world.aws("marram").create_model_version(
        name=learning.MODEL, compilationId=compiled["compilationId"], leastAccuracy=CLEAN_FLOOR
    )
    accuracy = version["evaluation"]["models"][0]["accuracy"]
    show.promise(
        version["status"] == "Approved",
        f"v1 passes the gate: {accuracy:.3f} on 300 clean scans it never saw (floor {CLEAN_FLOOR})"
        + "".join(f"; {reason}" for reason in version["reasons"]),
    )
    published = learning.publish(world, version["version"], "1.0.0", force=version["status"] != "Approved")
    show.say(f"bundle {published['bundleUri']}, {published['bytes']} bytes, {compiled['report']['winner']}, signed")
    show.call(f"boto3 greengrassv2.create_deployment(targetArn='{world.group_arn}')")
    commanded = time.monotonic()
    world.aws("greengrassv2").create_deployment(
        targetArn=world.group_arn, deploymentName="v1", components=learning.components(world, "1.0.0")
    )
    show.wait("first prediction", lambda: any(predicting(core) for core in world.cores), 60, every_s=0.05)
    first, since_start = time.monotonic() - commanded, show.elapsed_s
    world.facts["steps130"] = {"uploads": len(lines)}
    show.figure(
        "upload / train / compile, gate, publish",
        f"{uploaded - began:.1f} / {trained - uploaded:.1f} / {commanded - trained:.1f} s",
    )
    show.figure("deployment to first prediction", f"{first:.1f} s")
    show.promise(
        since_start <= FIRST_WITHIN_S,
        f"first prediction {since_start:.1f} s after `make demo` began (limit {FIRST_WITHIN_S:.0f} s)",
    )
    show.wait("all three cores predict", lambda: all(predicting(core) for core in world.cores), 60)


def frames_log(core: Core) -> list[str]:
    path = core.root / "work" / COMPONENT / "frames.log"
    return path.read_text().splitlines(keepends=True) if path.exists() else []


def predicting(core: Core) -> bool:
    return bool(ledger(frames_log(core)).sent)


def _rules(world: World) -> None:
    database, _, table = SERIES.partition(".")
    iot = world.aws("iot")
    world.show.call(
        f"boto3 iot.create_topic_rule('readings'): predictions -> series {SERIES}; 'telemetry' -> {TELEMETRY}"
    )
    for name, sql, target, thing, stamp in (
        ("readings", f"SELECT {COLUMNS} FROM 'marram/+/predictions'", table, "${topic(2)}", "${time_ms}"),
        ("telemetry", "SELECT * FROM 'line/telemetry/+'", TELEMETRY.partition(".")[2], "${topic(3)}", "${time_ms}"),
    ):
        action = {
            "roleArn": world.role,
            "databaseName": database,
            "tableName": target,
            "dimensions": [{"name": "thing", "value": thing}],
            "timestamp": {"value": stamp, "unit": "MILLISECONDS"},
        }
        payload = {"sql": sql, "awsIotSqlVersion": "2016-03-23", "actions": [{"timestream": action}]}
        iot.create_topic_rule(ruleName=name, topicRulePayload=payload)
