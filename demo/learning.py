"""The learning loop as a client does it: upload, dataset, training job, compilation, model version, component. boto3 alone."""

import json
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from demo.show import Stopped
from demo.world import BUCKET, COMPONENT, World

MODEL = "meter"
POLL_S = 0.2


def upload_set(world: World, name: str, split: str, *, shuffled: bool = False) -> list[dict[str, Any]]:
    """The pictures of one set of the clip's folder; their manifest lines. `shuffled`: labels that are wrong on purpose."""
    s3 = world.aws("s3")
    paths = sorted((world.clip / "sets" / name).glob("*.pgm"))

    def put(path: Path) -> None:
        s3.put_object(Bucket=BUCKET, Key=f"{name}/{path.name}", Body=path.read_bytes())

    with ThreadPoolExecutor(max_workers=8) as pool:
        list(pool.map(put, paths))
    digits = [path.stem.partition("-")[2] for path in paths]
    return [
        {"source-ref": f"s3://{BUCKET}/{name}/{path.name}", "label": digit, "group": path.stem, "split": split}
        for path, digit in zip(paths, digits, strict=True)
    ]


def dataset(world: World, name: str, lines: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    body = b"\n".join(json.dumps(line).encode() for line in lines)
    world.aws("s3").put_object(Bucket=BUCKET, Key=f"manifests/{name}.jsonl", Body=body)
    made: dict[str, Any] = world.aws("marram").create_dataset(
        name=name, manifestUri=f"s3://{BUCKET}/manifests/{name}.jsonl"
    )
    return made


def start_training(world: World, job: str, channels: Mapping[str, str], **options: object) -> None:
    world.aws("sagemaker").create_training_job(
        TrainingJobName=job,
        AlgorithmSpecification={"TrainingImage": "marram/image-classification", "TrainingInputMode": "File"},
        RoleArn=world.role,
        InputDataConfig=[
            {
                "ChannelName": name,
                "DataSource": {
                    "S3DataSource": {
                        "S3DataType": "AugmentedManifestFile",
                        "S3Uri": uri,
                        "AttributeNames": ["source-ref", "label"],
                    }
                },
            }
            for name, uri in channels.items()
        ],
        OutputDataConfig={"S3OutputPath": f"s3://{BUCKET}/models"},
        ResourceConfig={"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
        StoppingCondition={"MaxRuntimeInSeconds": 180},
        HyperParameters={name: str(value) for name, value in options.items()},
    )


def trained(world: World, job: str, timeout_s: float = 150.0) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def done() -> bool:
        nonlocal found
        found = world.aws("sagemaker").describe_training_job(TrainingJobName=job)
        return found["TrainingJobStatus"] in ("Completed", "Failed", "Stopped")

    world.show.wait(f"training job {job}", done, timeout_s, every_s=POLL_S)
    if found["TrainingJobStatus"] != "Completed":
        raise Stopped(f"training job {job}: {found['TrainingJobStatus']}: {found.get('FailureReason')}")
    return found


def compiled(world: World, job: str, dataset_id: str, split: str = "gate", timeout_s: float = 90.0) -> dict[str, Any]:
    marram = world.aws("marram")
    made = marram.create_compilation(trainingJobName=job, datasetId=dataset_id, split=split)
    found: dict[str, Any] = {}

    def done() -> bool:
        nonlocal found
        found = marram.describe_compilation(compilationId=made["compilationId"])
        return found["status"] in ("Completed", "Failed")

    world.show.wait(f"compile {job}: fp32 and int8 measured", done, timeout_s, every_s=POLL_S)
    if found["status"] != "Completed":
        raise Stopped(f"compilation of {job} failed: {found.get('failure')}")
    return found


def evaluated(world: World, version: int, dataset_id: str, split: str, against: int | None = None) -> dict[str, Any]:
    request: dict[str, Any] = {"name": MODEL, "version": version, "datasetId": dataset_id, "split": split}
    if against is not None:
        request["against"] = against
    found: dict[str, Any] = world.aws("marram").evaluate_model_version(**request)["evaluation"]
    return found


def configuration(world: World) -> dict[str, Any]:
    """Of the inference component, the same on every box; the rate of its camera is the box's own affair."""
    return {
        "source": {"kind": "pyav", "uri": str(world.clip.absolute() / "clip.mp4"), "loop": True},
        "regions": json.loads((world.clip / "places.json").read_text()),
        "queue": {"depth": 3, "policy": "latest"},
        "engine": {"threads": 1},
        "results": {
            "topic": "marram/{thing}/predictions", "local_topic": "marram/local/predictions", "batch": 15, "wait_ms": 500,
            "ledger": True,
        },
        "decisions": [{"topic": "line/relay/open", "label": "7", "on": "every", "payload": {"open": True}}],
        "stay_local": {"every": 50},
        "feedback": {"window_s": 6.0, "random_share": 0.15, "every": 5, "bytes_per_day": 4_000_000, "items_per_s": 6.0},
    }  # fmt: skip


def publish(world: World, version: int, component_version: str, *, force: bool = False) -> dict[str, Any]:
    made: dict[str, Any] = world.aws("marram").publish_model_version(
        name=MODEL, version=version, componentName=COMPONENT, componentVersion=component_version,
        configuration=configuration(world), force=force,
    )  # fmt: skip
    return made


def components(world: World, version: str) -> dict[str, Any]:
    """What the group runs: the reader, and what lets machines connect to the cores. Wire form of CreateDeployment."""
    everything = ["mqtt:clientId:*"]
    auth = {
        "deviceGroups": {
            "formatVersion": "2021-03-05",
            "definitions": {
                "sensors": {"selectionRule": "thingName: sensor-*", "policyName": "sensor"},
                "relays": {"selectionRule": "thingName: relay-*", "policyName": "relay"},
            },
            "policies": {
                "sensor": {
                    "connect": {"operations": ["mqtt:connect"], "resources": everything},
                    "say": {
                        "operations": ["mqtt:publish"],
                        "resources": ["mqtt:topic:line/telemetry/${iot:Connection.Thing.ThingName}"],
                    },
                    "hear": {
                        "operations": ["mqtt:subscribe"],
                        "resources": ["mqtt:topicfilter:marram/local/predictions"],
                    },
                },
                "relay": {
                    "connect": {"operations": ["mqtt:connect"], "resources": everything},
                    "shadow": {
                        "operations": ["mqtt:publish"],
                        "resources": ["mqtt:topic:$aws/things/${iot:Connection.Thing.ThingName}/shadow/*"],
                    },
                    "hear": {
                        "operations": ["mqtt:subscribe"],
                        "resources": [
                            "mqtt:topicfilter:line/relay/open",
                            "mqtt:topicfilter:$aws/things/${iot:Connection.Thing.ThingName}/shadow/*",
                        ],
                    },
                },
            },
        }
    }
    bridge = {
        "mqttTopicMapping": {
            "open": {"topic": "line/relay/open", "source": "Pubsub", "target": "LocalMqtt"},
            "local": {"topic": "marram/local/predictions", "source": "Pubsub", "target": "LocalMqtt"},
            "telemetry": {"topic": "line/telemetry/+", "source": "LocalMqtt", "target": "IotCore"},
        }
    }
    return {
        COMPONENT: {"componentVersion": version},
        "aws.greengrass.clientdevices.Auth": _merged("2.5.6", auth),
        "aws.greengrass.clientdevices.mqtt.Moquette": {"componentVersion": "2.3.9"},
        "aws.greengrass.clientdevices.mqtt.Bridge": _merged("2.3.4", bridge),
        "aws.greengrass.ShadowManager": {"componentVersion": "2.3.14"},
    }


def _merged(version: str, value: Mapping[str, Any]) -> dict[str, Any]:
    return {"componentVersion": version, "configurationUpdate": {"merge": json.dumps(value)}}


def canary(world: World, name: str, version: str, bake_s: int) -> dict[str, Any]:
    """Start a deployment to the group that one box gets first."""
    made: dict[str, Any] = world.aws("marram").create_canary_deployment(
        targetArn=world.group_arn, deploymentName=name, components=components(world, version),
        canaryThings=[world.facts["canary_thing"]], bakeSeconds=bake_s,
    )  # fmt: skip
    return made


def rollout(world: World, deployment_id: str) -> dict[str, Any]:
    found: dict[str, Any] = world.aws("marram").get_rollout(deploymentId=deployment_id)
    return found


def now_ms() -> int:
    return time.time_ns() // 1_000_000
