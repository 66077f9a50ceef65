"""Requests of the API doors that are refused, by a hub in a process: who signs wrongly, asks for what is not there, sends too much.

Every protocol's errors are in tests/wire/test_api_boto3.py; folders that a hub refuses (a second hub, a newer version, a corrupt
hub.json) in tests/serve/test_hub_process.py.
"""

import base64
import io
import json
import subprocess
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from marram.core import sigv4
from tests.wire.faults import Hub, marram

pytestmark = pytest.mark.xdist_group("faults-api")
HOUR_MS = 3_600_000


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("faults-api")
    made = Hub(folder / "hub", folder / "hub.log")
    made.start()
    yield made
    made.close()
    assert "Traceback" not in made.said()


def refused(call: Callable[..., Any], **parameters: Any) -> tuple[str, int, str]:
    with pytest.raises(ClientError) as caught:
        call(**parameters)
    answer = caught.value.response
    return answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"], str(answer["Error"]["Message"])


@pytest.mark.parametrize(
    ("changes", "codes"),
    [
        pytest.param(
            {"aws_secret_access_key": "wrong"}, {"SignatureDoesNotMatch", "InvalidSignatureException"}, id="signature"
        ),
        pytest.param(
            {"aws_access_key_id": "AKIANOBODY"},
            {"InvalidAccessKeyId", "InvalidClientTokenId", "UnrecognizedClientException"},
            id="key",
        ),
    ],
)
def test_a_wrong_signature_and_an_unknown_key(hub: Hub, changes: dict[str, str], codes: set[str]) -> None:
    for service, name, parameters in (
        ("sts", "get_caller_identity", {}),
        ("iot", "create_thing", {"thingName": "never"}),
        ("s3", "create_bucket", {"Bucket": "never"}),
        ("greengrassv2", "list_components", {}),
        ("sagemaker", "list_training_jobs", {}),
        ("iot-data", "publish", {"topic": "never", "payload": b"x"}),
    ):
        client = hub.client(service, **changes)
        code, status, _ = refused(getattr(client, name), **parameters)
        assert code in (codes if service != "iot-data" else {"ForbiddenException"}) and status == 403, (
            service,
            code,
            status,
        )
    assert hub.client("iot").list_things()["things"] == []
    assert hub.client("s3").list_buckets().get("Buckets", []) == []


def signed(hub: Hub, path: str, *, shift_ms: int = 0, service: str = "iot") -> tuple[int, str, str]:
    """(status, error type, body) of a signed GET."""
    admin = hub.info["admin"]
    headers = sigv4.sign(
        sigv4.Credentials(admin["access_key_id"], admin["secret_access_key"]), method="GET", path=path, query=[],
        headers={"host": f"127.0.0.1:{hub.port('api')}"}, body=b"", region=hub.info["region"], service=service,
        now_ms=int(time.time() * 1000) + shift_ms,
    )  # fmt: skip
    request = urllib.request.Request(f"http://127.0.0.1:{hub.port('api')}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, "", answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers.get("x-amzn-errortype", ""), error.read().decode()


@pytest.mark.parametrize(("shift_ms", "word"), [(HOUR_MS, "ahead of"), (-HOUR_MS, "behind")], ids=["ahead", "behind"])
def test_a_clock_an_hour_off(hub: Hub, shift_ms: int, word: str) -> None:
    assert signed(hub, "/things")[0] == 200
    status, _, body = signed(hub, "/things", shift_ms=shift_ms)
    assert status == 403 and "60 minutes" in body and word in body, body
    status, _, body = signed(hub, "/", shift_ms=shift_ms, service="s3")
    assert status == 403 and "RequestTimeTooSkewed" in body, body


def test_an_unknown_operation_and_one_that_is_not_there_yet(hub: Hub) -> None:
    status, code, body = signed(hub, "/no/such/thing")
    assert (status, code) == (404, "UnknownOperationException") and "/no/such/thing" in body
    for service, name, operation, parameters in (
        ("iot", "list_billing_groups", "ListBillingGroups", {}),
        ("sagemaker", "list_endpoints", "ListEndpoints", {}),
        ("greengrassv2", "get_service_role_for_account", "GetServiceRoleForAccount", {}),
    ):
        code, status, message = refused(getattr(hub.client(service), name), **parameters)
        assert status == 501 and "NotImplemented" in code and operation in message, (service, code, status, message)


def test_a_payload_over_the_limit_over_https(hub: Hub) -> None:
    data = hub.client("iot-data")
    data.publish(topic="a", qos=1, payload=b"x" * 131072)
    code, status, message = refused(data.publish, topic="a", qos=1, payload=b"x" * 131073)
    assert (code, status) == ("InvalidRequestException", 400)  # of what botocore's model of Publish declares
    assert "131072" in message
    device = hub.device("all")
    for size, wanted in ((131072, "200"), (131073, "400"), (6 << 20, "413")):
        done = subprocess.run(
            ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "--cacert", hub.ca, "--cert",
             str(device.certificate), "--key", str(device.key), "--data-binary", "@-",
             f"https://localhost:{hub.port('https')}/topics/a?qos=1"],
            input=b"x" * size, capture_output=True, timeout=20,
        )  # fmt: skip
        assert done.stdout.decode() == wanted, (size, done)


def recipe(**changes: Any) -> dict[str, Any]:
    return {
        "RecipeFormatVersion": "2020-01-25",
        "ComponentName": "com.example.Bad",
        "ComponentVersion": "1.0.0",
        "Manifests": [{"Platform": {"os": "linux"}, "Lifecycle": {"run": "true"}}],
        **changes,
    }


def test_recipes_that_are_refused_leave_nothing(hub: Hub) -> None:
    greengrass, s3 = hub.client("greengrassv2"), hub.client("s3")
    s3.create_bucket(Bucket="recipes")
    s3.put_object(Bucket="recipes", Key="main.py", Body=b"print('hello')")
    digest = base64.b64encode(b"0" * 32).decode()
    manifest = {"Platform": {"os": "linux"}, "Lifecycle": {"run": "true"}}
    artifact = {"URI": "s3://recipes/main.py"}
    for made, words in (
        (recipe(Manifestos=[]), ("Manifestos",)),
        (recipe(Manifests=[manifest | {"Artefacts": [artifact]}]), ("Artefacts",)),
        (recipe(Manifests=[manifest | {"Lifecycle": {"runn": "true"}}]), ("runn",)),
        (recipe(Manifests=[manifest | {"Artifacts": [artifact | {"Digest": digest}]}]), ("igest", digest)),
        (
            recipe(Manifests=[manifest | {"Artifacts": [artifact | {"Digest": "?", "Algorithm": "SHA-256"}]}]),
            ("igest",),
        ),
        (recipe(Manifests=[manifest | {"Artifacts": [{"URI": "s3://recipes/nothing"}]}]), ("nothing",)),
    ):
        code, status, message = refused(greengrass.create_component_version, inlineRecipe=json.dumps(made).encode())
        assert (code, status) == ("ValidationException", 400), (made, code, message)
        assert all(word in message for word in words), (made, message)
    assert greengrass.list_components()["components"] == []


def test_a_recipe_with_an_unknown_key_at_a_core(hub: Hub, tmp_path: Path) -> None:
    """A local folder is read by the core: `marram edge deploy` names file and key, and exits 1. See also tests/edge/deploy."""
    from tests.wire.faults import Edge

    root = tmp_path / "core"
    done = marram("edge", "join", "--hub-json", hub.folder / "hub.json", "--thing", "core", "--root", root)
    assert done.returncode == 0, done.stderr
    edge = Edge(root, tmp_path / "edge.log")
    edge.start()
    try:
        (tmp_path / "recipes").mkdir()
        (tmp_path / "artifacts").mkdir()
        (tmp_path / "recipes" / "com.example.Bad-1.0.0.json").write_text(json.dumps(recipe(Manifestos=[])))
        done = marram(
            "edge", "deploy", "--recipes", tmp_path / "recipes", "--artifacts", tmp_path / "artifacts",
            "--merge", "com.example.Bad=1.0.0", "--root", root,
        )  # fmt: skip
        assert done.returncode != 0 and "Manifestos" in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
        listed = json.loads(marram("edge", "component", "list", "--root", root, "--json").stdout)
        assert "com.example.Bad" not in [each["name"] for each in listed]
    finally:
        edge.close()


def test_a_corrupt_hub_json_is_named_and_a_start_writes_it_anew(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "hub.json").write_text('{"pid": ')
    for words in (
        ("edge", "join", "--hub-json", tmp_path / "hub.json", "--thing", "x", "--root", tmp_path / "x"),
        ("hub", "join-token", "--data", tmp_path),
        ("hub", "env", "--data", tmp_path),
    ):
        done = marram(*words)
        assert done.returncode != 0 and "hub.json" in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    assert not (tmp_path / "x").exists()
    again = Hub(tmp_path, tmp_path / "hub.log")
    again.start()
    try:
        assert again.info["pid"] == again.process.pid
    finally:
        again.close()


SCRIPT = b"""
import os, json
open(os.environ["SM_MODEL_DIR"] + "/model.onnx", "wb").write(b"not onnx at all")
json.dump({"labels": ["0", "1"], "input": {"name": "image", "height": 8, "width": 8, "channels": 1}},
          open(os.environ["SM_MODEL_DIR"] + "/model.json", "w"))
"""


def test_a_model_that_is_not_onnx_does_not_pass_the_compiler(hub: Hub) -> None:
    np = pytest.importorskip("numpy")
    from marram.cli.client import Api
    from marram.components.infer import prepare

    s3, sagemaker, api = hub.client("s3"), hub.client("sagemaker"), Api.from_data(hub.folder)
    s3.create_bucket(Bucket="learn")
    lines = []
    for at in range(24):
        image = np.random.default_rng(at).integers(0, 255, (8, 8, 1), dtype=np.uint8)
        s3.put_object(Bucket="learn", Key=f"{at}.png", Body=prepare.encode_png(image))
        lines.append(json.dumps({"source-ref": f"s3://learn/{at}.png", "label": at % 2}))
    s3.put_object(Bucket="learn", Key="manifest.jsonl", Body="\n".join(lines).encode())
    dataset = api.marram("datasets/CreateDataset", {"name": "pairs", "manifestUri": "s3://learn/manifest.jsonl"})
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        member = tarfile.TarInfo("train.py")
        member.size = len(SCRIPT)
        tar.addfile(member, io.BytesIO(SCRIPT))
    s3.put_object(Bucket="learn", Key="code.tar.gz", Body=packed.getvalue())
    split = dataset["splits"]["train"]
    sagemaker.create_training_job(
        TrainingJobName="fake",
        AlgorithmSpecification={"TrainingImage": "marram/python", "TrainingInputMode": "File"},
        RoleArn=f"arn:aws:iam::{hub.info['account_id']}:role/marram-service",
        HyperParameters={
            "sagemaker_program": "train.py",
            "sagemaker_submit_directory": "s3://learn/code.tar.gz",
        },
        InputDataConfig=[
            {
                "ChannelName": "train",
                "DataSource": {
                    "S3DataSource": {
                        "S3DataType": "AugmentedManifestFile",
                        "S3Uri": split["uri"],
                        "AttributeNames": ["source-ref", "label"],
                    }
                },
            }
        ],
        OutputDataConfig={"S3OutputPath": "s3://learn/out"},
        ResourceConfig={"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
        StoppingCondition={"MaxRuntimeInSeconds": 60},
    )
    sagemaker.get_waiter("training_job_completed_or_stopped").wait(
        TrainingJobName="fake", WaiterConfig={"Delay": 1, "MaxAttempts": 40}
    )
    done = marram(
        "compile", "start", "fake", "--dataset", dataset["datasetId"], "--split", "train", "--data", hub.folder
    )
    assert done.returncode == 1 and "not an ONNX model" in done.stderr, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
