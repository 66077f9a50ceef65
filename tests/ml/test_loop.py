"""The whole loop on real stores and real worker processes: train, compile, judge, publish; refuse a worse one."""

import asyncio
import io
import json
import zipfile
from collections.abc import Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from marram.components.infer import engine
from marram.core import bundle
from marram.core.errors import AlreadyExists, Conflict, Invalid, Unsupported


@asynccontextmanager
async def running(*works: Awaitable[None]) -> Any:
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def trained(stores: Any, name: str, train: str, gate: str) -> dict[str, Any]:
    request = stores.job(name, train, channels={"validation": gate})
    arn = await stores.training.create(request)
    assert arn == f"arn:aws:sagemaker:local-1:000000000001:training-job/{name}"
    async with asyncio.timeout(40):
        document: dict[str, Any] = await stores.training.finished(name)
    assert document["status"] == "Completed", document
    return document


async def test_train_compile_judge_publish(stores: Any, tmp_path: Path) -> None:
    whole = await stores.datasets.create("bars", await stores.pictures("good", 120))
    splits = whole["splits"]
    bad_uri = await stores.pictures("bad", 80, seed=5, shuffled=True)
    async with running(stores.training.run(), stores.compilation.run()), asyncio.timeout(50):
        first = await trained(stores, "first", splits["train"]["uri"], splits["gate"]["uri"])
        names = {metric[0] for metric in first["metrics"]}
        assert {"train:accuracy", "validation:accuracy", "validation:ece", "train:seconds"} <= names
        assert [row[0] for row in first["transitions"]] == [
            "Starting", "Downloading", "Training", "Uploading", "Completed",
        ]  # fmt: skip
        again = await trained(stores, "again", splits["train"]["uri"], splits["gate"]["uri"])
        assert again["modelSha256"] == first["modelSha256"], "the same seed gives the same bundle"
        with pytest.raises(AlreadyExists):
            await stores.training.create(stores.job("first", splits["train"]["uri"]))

        queued = await stores.compilation.create("first", whole["datasetId"], "gate")
        compiled = await stores.compilation.finished(queued["compilationId"])
        assert compiled["status"] == "Completed", compiled
        rows = {row["precision"]: row for row in compiled["report"]["candidates"]}
        assert set(rows) == {"fp32", "int8"} and rows["fp32"]["passed"] and rows["fp32"]["accuracy"] > 0.9
        assert compiled["report"]["winner"] in rows

        one = await stores.models.create("bars", queued["compilationId"])
        assert one["status"] == "Approved" and one["version"] == 1 and one["incumbent"] is None, one["reasons"]
        sent = await stores.models.publish("bars", 1, "com.example.bars", "1.0.0", {"source": {"kind": "generated"}})
        packed = await stores.objects.get(*sent["bundleUri"].removeprefix("s3://").split("/", 1))
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            assert archive.read(bundle.SIGNATURE) == b"s" * 64
            archive.extractall(tmp_path / "bundle")
        loaded = engine.load(tmp_path / "bundle", threads=1)
        assert loaded.manifest.labels == ("0", "1", "2", "3") and len(loaded.manifest.canaries) == 12
        recipe = json.loads(stores.registry.recipes[0])
        assert recipe["ComponentName"] == "com.example.bars"
        assert recipe["Manifests"][0]["Artifacts"][0]["Uri"] == sent["bundleUri"]

        # One that learnt nonsense: the gate says why, publishing is refused, force leaves a mark and the device catches it.
        await trained(stores, "worse", bad_uri, splits["gate"]["uri"])
        bad = await stores.compilation.create("worse", whole["datasetId"], "gate")
        await stores.compilation.finished(bad["compilationId"])
        two = await stores.models.create("bars", bad["compilationId"])
        assert two["status"] == "Rejected" and any("incumbent" in reason for reason in two["reasons"])
        assert two["incumbent"] == 1
        with pytest.raises(Conflict, match="rejected"):
            await stores.models.publish("bars", 2, "com.example.bars", "2.0.0", {})
        forced = await stores.models.publish("bars", 2, "com.example.bars", "2.0.0", {}, force=True)
        packed = await stores.objects.get(*forced["bundleUri"].removeprefix("s3://").split("/", 1))
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            archive.extractall(tmp_path / "bad")
        with pytest.raises(engine.GarbageModel):
            engine.load(tmp_path / "bad", threads=1)
        report = await stores.models.evaluate("bars", 1, whole["datasetId"], "gate", against=2)
        assert report["lead"]["interval"][0] > 0


async def test_a_model_that_is_not_onnx_is_refused(stores: Any) -> None:
    whole = await stores.datasets.create("bars", await stores.pictures("good", 40))
    script = b"""
import os, json
open(os.environ["SM_MODEL_DIR"] + "/model.onnx", "wb").write(b"not onnx")
json.dump({"labels": ["0", "1", "2", "3"], "input": {"name": "image", "height": 8, "width": 8, "channels": 1}},
          open(os.environ["SM_MODEL_DIR"] + "/model.json", "w"))
"""
    await stores.objects.put("work", "code.tar.gz", tarred(script))
    request = stores.job("script", whole["splits"]["train"]["uri"])
    request["AlgorithmSpecification"]["TrainingImage"] = "marram/python"
    request["HyperParameters"] = {
        "sagemaker_program": "train.py",
        "sagemaker_submit_directory": "s3://work/code.tar.gz",
    }
    await stores.training.create(request)
    async with running(stores.training.run(), stores.compilation.run()), asyncio.timeout(30):
        assert (await stores.training.finished("script"))["status"] == "Completed"
        made = await stores.compilation.create("script", whole["datasetId"], "gate")
        ended = await stores.compilation.finished(made["compilationId"])
    assert ended["status"] == "Failed" and "not an ONNX model" in ended["failure"]


async def test_script_mode_gets_sagemakers_contract(stores: Any) -> None:
    """An unmodified script: arguments, SM_ variables, channels, its model; and the failure file of one that fails."""
    script = b"""
import argparse, json, os, pathlib, sys
parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int)
parser.add_argument("--model-dir", default=os.environ["SM_MODEL_DIR"])
parser.add_argument("--train", default=os.environ["SM_CHANNEL_TRAIN"])
parser.add_argument("-b", type=int)
a = parser.parse_args()
assert json.loads(os.environ["SM_HPS"]) == {"epochs": "3", "b": "4"} and os.environ["SM_HP_EPOCHS"] == "3"
assert json.loads(os.environ["SM_CHANNELS"]) == ["train"] and os.environ["TRAINING_JOB_NAME"]
config = json.load(open(os.environ["SM_INPUT_CONFIG_DIR"] + "/hyperparameters.json"))
assert config["epochs"] == "3"
names = sorted(p.name for p in pathlib.Path(a.train).rglob("*") if p.is_file())
if a.b == 4 and len(names) == 2:
    open(os.path.join(a.model_dir, "names.json"), "w").write(json.dumps(names))
else:
    open(os.environ["SM_OUTPUT_DIR"] + "/failure", "w").write("wrong input: %s" % names)
    sys.exit(3)
"""
    await stores.objects.put("work", "code.tar.gz", tarred(script))
    await stores.objects.put("work", "data/a.csv", b"1")
    await stores.objects.put("work", "data/sub/b.csv", b"2")

    def request(name: str, prefix: str) -> dict[str, Any]:
        made: dict[str, Any] = stores.job(name, "s3://work/" + prefix)
        made["AlgorithmSpecification"]["TrainingImage"] = "marram/python"
        source = {"S3DataType": "S3Prefix", "S3Uri": f"s3://work/{prefix}"}
        made["InputDataConfig"][0]["DataSource"]["S3DataSource"] = source
        made["HyperParameters"] = {
            "sagemaker_program": "train.py", "sagemaker_submit_directory": "s3://work/code.tar.gz", "epochs": "3", "b": "4",
        }  # fmt: skip
        return made

    await stores.training.create(request("ok", "data/"))
    await stores.training.create(request("fails", "data/sub/"))
    async with running(stores.training.run()), asyncio.timeout(20):
        assert (await stores.training.finished("ok"))["status"] == "Completed"
        assert await stores.training.model("ok") == {"names.json": b'["a.csv", "b.csv"]'}
        failed = await stores.training.finished("fails")
        assert failed["status"] == "Failed" and "wrong input: ['b.csv']" in failed["failure"]
        with pytest.raises(Conflict):
            await stores.training.model("fails")


async def test_a_job_that_was_running_begins_again_and_gives_up_after_three(stores: Any) -> None:
    uri = await stores.pictures("good", 40)
    await stores.training.create(stores.job("again", uri))

    def killed(attempts: int) -> Any:
        def work(tx: Any) -> None:
            row = tx.one("SELECT document FROM training_job WHERE name = 'again'")
            document = json.loads(row[0]) | {"attempts": attempts, "status": "InProgress", "secondary": "Training"}
            tx.execute(
                "UPDATE training_job SET status = 'InProgress', document = ? WHERE name = 'again'",
                json.dumps(document).encode(),
            )

        return work

    # As kill -9 of the hub in mid-training leaves it: in progress, one attempt counted, half a folder.
    await stores.db.write(killed(1))
    (stores.folder / "jobs/again/opt/ml/model").mkdir(parents=True)
    (stores.folder / "jobs/again/opt/ml/model/half").write_bytes(b"torn")
    async with running(stores.training.run()), asyncio.timeout(30):
        ended = await stores.training.finished("again")
        assert ended["status"] == "Completed" and ended["attempts"] == 2
        assert "half" not in await stores.training.model("again")
    await stores.db.write(killed(3))
    async with running(stores.training.run()), asyncio.timeout(30):
        ended = await stores.training.finished("again")
    assert ended["status"] == "Failed" and "3 times" in ended["failure"]


async def test_a_job_reads_what_it_was_accepted_with(stores: Any) -> None:
    """The rights were decided on that: neither a manifest nor a prefix may grow another sample until the job runs."""
    uri = await stores.pictures("good", 40)
    await stores.training.create(stores.job("manifest", uri))
    await stores.objects.put("work", "secret/x.csv", b"secret")
    line = {"source-ref": "s3://work/secret/x.csv", "label": 1}
    await stores.objects.put("work", "good/manifest.jsonl", json.dumps(line).encode())
    script = b"import os; print(open(os.environ['SM_MODEL_DIR'] + '/l', 'w').write(str(os.listdir(os.environ['SM_CHANNEL_TRAIN']))))"
    await stores.objects.put("work", "code.tar.gz", tarred(script))
    await stores.objects.put("work", "data/a.csv", b"1")
    request = stores.job("prefix", "s3://work/data/")
    request["AlgorithmSpecification"]["TrainingImage"] = "marram/python"
    request["InputDataConfig"][0]["DataSource"]["S3DataSource"] = {"S3DataType": "S3Prefix", "S3Uri": "s3://work/data/"}
    request["HyperParameters"] = {
        "sagemaker_program": "train.py", "sagemaker_submit_directory": "s3://work/code.tar.gz",
    }  # fmt: skip
    await stores.training.create(request)
    await stores.objects.put("work", "data/b.csv", b"2")
    async with running(stores.training.run()), asyncio.timeout(20):
        assert (await stores.training.finished("manifest"))["status"] == "Completed"
        assert (await stores.training.finished("prefix"))["status"] == "Completed"
    assert await stores.training.model("prefix") == {"l": b"['a.csv']"}


async def test_stop_and_time_limit(stores: Any) -> None:
    uri = await stores.pictures("good", 40)
    await stores.training.create(stores.job("stopped", uri))
    await stores.training.stop("stopped")
    long = stores.job("long", uri)
    long["HyperParameters"] = {"epochs": "1000", "width": "64", "size": "64"}
    long["StoppingCondition"] = {"MaxRuntimeInSeconds": 1}
    await stores.training.create(long)
    async with running(stores.training.run()), asyncio.timeout(30):
        assert (await stores.training.finished("stopped"))["status"] == "Stopped"
        ended = await stores.training.finished("long")
        assert ended["status"] == "Failed" and "MaxRuntimeExceeded" in ended["failure"]
        with pytest.raises(Conflict):
            await stores.training.stop("stopped")


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        pytest.param({"RoleArn": "arn:aws:iam::1:role/x"}, Invalid, "marram-service", id="role"),
        pytest.param({"VpcConfig": {"Subnets": ["a"]}}, Unsupported, "VpcConfig", id="vpc"),
        pytest.param({"ResourceConfig": {"InstanceCount": 2}}, Unsupported, "InstanceCount", id="two machines"),
        pytest.param({"InputDataConfig": []}, Invalid, "named train", id="no train"),
        pytest.param(
            {"AlgorithmSpecification": {"TrainingImage": "123.dkr.ecr/x", "TrainingInputMode": "File"}},
            Invalid,
            "TrainingImage",
            id="image",
        ),
        pytest.param(
            {"AlgorithmSpecification": {"TrainingImage": "marram/image-classification", "TrainingInputMode": "Pipe"}},
            Unsupported,
            "File",
            id="pipe",
        ),
        pytest.param({"OutputDataConfig": {"S3OutputPath": "/tmp"}}, Invalid, "s3://", id="output"),
        pytest.param({"HyperParameters": {"epoch": "3"}}, Invalid, "'epoch'.*epochs", id="unknown hyper-parameter"),
        pytest.param({"HyperParameters": {"epochs": "many"}}, Invalid, "not a number", id="no number"),
        pytest.param({"HyperParameters": {"dropout": "nan"}}, Invalid, "dropout", id="not within"),
        pytest.param({"HyperParameters": {"seed": "-1"}}, Invalid, "seed", id="seed"),
    ],
)
async def test_what_is_not_supported_is_refused_by_name(
    stores: Any, change: dict[str, Any], error: type[Exception], words: str
) -> None:
    uri = await stores.pictures("good", 4)
    with pytest.raises(error, match=words):
        await stores.training.create({**stores.job("x", uri), **change})


async def test_failure_of_the_data_reaches_the_user(stores: Any) -> None:
    await stores.objects.put("work", "one.png", b"GIF89a")
    line = {"source-ref": "s3://work/one.png", "label": 1}
    await stores.objects.put("work", "bad.jsonl", json.dumps(line).encode())
    await stores.training.create(stores.job("bad", "s3://work/bad.jsonl"))
    async with running(stores.training.run()), asyncio.timeout(20):
        ended = await stores.training.finished("bad")
    assert ended["status"] == "Failed" and "neither PNG nor" in ended["failure"]


def tarred(script: bytes) -> bytes:
    import tarfile

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        entry = tarfile.TarInfo("train.py")
        entry.size = len(script)
        archive.addfile(entry, io.BytesIO(script))
    return buffer.getvalue()
