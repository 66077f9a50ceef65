"""SageMaker with unmodified boto3 against a real hub process: training and labelling jobs, their refusals, kill -9."""

import io
import json
import socket
import tarfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from botocore.exceptions import ClientError

from marram.cli.client import Api
from marram.components.infer import prepare

ROLE = "arn:aws:iam::000000000001:role/marram-service"
OPTIONS = {"epochs": "3", "width": "2", "hidden": "4", "size": "8", "seed": "1"}


class Site:
    def __init__(self, hub: Any) -> None:
        self.open(hub)
        self.s3.create_bucket(Bucket="work")
        self.train = self.pictures("train")

    def open(self, hub: Any) -> None:
        self.hub, self.sagemaker, self.s3 = hub, hub.client("sagemaker"), hub.client("s3")

    def pictures(self, prefix: str) -> str:
        """Twenty labelled bars; the manifest's URI."""
        rng = np.random.default_rng(1)
        lines = []
        for at in range(20):
            image = rng.integers(0, 60, (8, 8, 1), dtype=np.uint8)
            image[:, 4 * (at % 2)] = 255
            self.s3.put_object(Bucket="work", Key=f"{prefix}/{at}.png", Body=prepare.encode_png(image))
            lines.append({"source-ref": f"s3://work/{prefix}/{at}.png", "label": at % 2})
        body = "\n".join(map(json.dumps, lines)).encode()
        self.s3.put_object(Bucket="work", Key=f"{prefix}/manifest.jsonl", Body=body)
        return f"s3://work/{prefix}/manifest.jsonl"

    def job(self, name: str, **changes: Any) -> dict[str, Any]:
        source = {"S3DataType": "AugmentedManifestFile", "S3Uri": self.train, "AttributeNames": ["source-ref", "label"]}
        return {
            "TrainingJobName": name,
            "AlgorithmSpecification": {"TrainingImage": "marram/image-classification", "TrainingInputMode": "File"},
            "RoleArn": ROLE,
            "InputDataConfig": [{"ChannelName": "train", "DataSource": {"S3DataSource": source}}],
            "OutputDataConfig": {"S3OutputPath": "s3://work/models/"},
            "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
            "StoppingCondition": {"MaxRuntimeInSeconds": 60},
            "HyperParameters": OPTIONS,
            **changes,
        }

    def script(self, name: str, program: str) -> dict[str, Any]:
        """A job of the caller's own program."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            entry = tarfile.TarInfo("train.py")
            entry.size = len(program)
            archive.addfile(entry, io.BytesIO(program.encode()))
        self.s3.put_object(Bucket="work", Key=f"code/{name}.tar.gz", Body=buffer.getvalue())
        parameters = {
            "sagemaker_program": "train.py",
            "sagemaker_submit_directory": f"s3://work/code/{name}.tar.gz",
        }
        algorithm = {"TrainingImage": "marram/python", "TrainingInputMode": "File"}
        return self.job(name, AlgorithmSpecification=algorithm, HyperParameters=parameters)

    def described(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.sagemaker.describe_training_job(TrainingJobName=name)
        return found

    def status(self, name: str) -> str:
        return str(self.described(name)["TrainingJobStatus"])


@pytest.fixture
def site(start_hub: Callable[..., Any]) -> Site:
    return Site(start_hub())


def refused(call: Callable[..., Any], **request: Any) -> tuple[str, str]:
    with pytest.raises(ClientError) as caught:
        call(**request)
    error = caught.value.response["Error"]
    return str(error["Code"]), str(error["Message"])


def test_a_job_trains_is_listed_and_leaves_its_model(site: Site, wait_for: Callable[..., Any]) -> None:
    answer = site.sagemaker.create_training_job(**site.job("first"))
    assert answer["TrainingJobArn"] == "arn:aws:sagemaker:local-1:000000000001:training-job/first"
    wait_for(lambda: site.status("first") != "InProgress", "the end of the job")
    found = site.described("first")
    assert (found["TrainingJobStatus"], found["SecondaryStatus"]) == ("Completed", "Completed"), found
    assert found["ModelArtifacts"]["S3ModelArtifacts"] == "s3://work/models/first/output/model.tar.gz"
    assert found["HyperParameters"] == OPTIONS and found["RoleArn"] == ROLE
    assert found["TrainingStartTime"] <= found["TrainingEndTime"]
    assert "train:accuracy" in {metric["MetricName"] for metric in found["FinalMetricDataList"]}
    packed = site.s3.get_object(Bucket="work", Key="models/first/output/model.tar.gz")["Body"].read()
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        assert sorted(archive.getnames()) == ["model.json", "model.onnx"]

    # One whose data is bad says why.
    site.s3.put_object(Bucket="work", Key="bad/0.png", Body=b"GIF89a")
    line = json.dumps({"source-ref": "s3://work/bad/0.png", "label": 1}).encode()
    site.s3.put_object(Bucket="work", Key="bad/manifest.jsonl", Body=line)
    bad = site.job("bad")
    bad["InputDataConfig"][0]["DataSource"]["S3DataSource"]["S3Uri"] = "s3://work/bad/manifest.jsonl"
    site.sagemaker.create_training_job(**bad)
    wait_for(lambda: site.status("bad") == "Failed", "the failure")
    assert "neither PNG nor" in site.described("bad")["FailureReason"]

    listed = site.sagemaker.list_training_jobs()["TrainingJobSummaries"]
    assert {each["TrainingJobName"]: each["TrainingJobStatus"] for each in listed} == {
        "first": "Completed", "bad": "Failed",
    }  # fmt: skip


def test_refusals(site: Site, wait_for: Callable[..., Any]) -> None:
    create, describe = site.sagemaker.create_training_job, site.sagemaker.describe_training_job
    code, text = refused(create, **site.job("x", RoleArn="arn:aws:iam::000000000001:role/other-role"))
    assert code == "ValidationException" and "RoleArn" in text and ROLE in text
    code, text = refused(create, **site.job("x", HyperParameters={**OPTIONS, "epoch": "3"}))
    assert code == "ValidationException" and "'epoch'" in text and "epochs" in text
    code, text = refused(create, **site.job("x", HyperParameters={**OPTIONS, "dropout": "2"}))
    assert code == "ValidationException" and "dropout" in text
    code, text = refused(create, **site.job("x", EnableManagedSpotTraining=True))
    assert code == "NotImplementedException" and "EnableManagedSpotTraining" in text
    missing = site.job("x")
    missing["InputDataConfig"][0]["DataSource"]["S3DataSource"]["S3Uri"] = "s3://work/no/manifest"
    assert refused(create, **missing)[0] == "ValidationException"
    for call in (describe, site.sagemaker.stop_training_job):
        assert refused(call, TrainingJobName="nobody")[0] == "ValidationException"
    assert refused(site.sagemaker.describe_labeling_job, LabelingJobName="nobody")[0] == "ValidationException"
    assert site.sagemaker.list_training_jobs()["TrainingJobSummaries"] == []

    create(**site.script("long", "import time\nprint('on')\ntime.sleep(600)"))
    assert refused(create, **site.job("long"))[0] == "ResourceInUse"
    wait_for(lambda: site.described("long")["SecondaryStatus"] == "Training", "the start")
    site.sagemaker.stop_training_job(TrainingJobName="long")
    wait_for(lambda: site.status("long") == "Stopped", "the stop")
    assert refused(site.sagemaker.stop_training_job, TrainingJobName="long")[0] != ""


def test_a_job_goes_on_after_the_hub_was_killed(
    site: Site, start_hub: Callable[..., Any], wait_for: Callable[..., Any]
) -> None:
    """The first run finds us listening, and waits to be killed; the second does not."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        door.settimeout(30)
        program = f"""
import os, pathlib, socket
try:
    socket.create_connection(("127.0.0.1", {door.getsockname()[1]})).recv(1)
except ConnectionRefusedError:
    pathlib.Path(os.environ["SM_MODEL_DIR"], "weights").write_text("ours")
"""
        site.sagemaker.create_training_job(**site.script("killed", program))
        site.sagemaker.create_training_job(**site.job("waiting"))
        first, _ = door.accept()
    with first:
        site.hub.kill()
        first.settimeout(30)
        assert first.recv(1) == b"", "the program ends with its hub"
    site.open(start_hub())
    for name in ("killed", "waiting"):
        wait_for(lambda name=name: site.status(name) == "Completed", f"job {name}")
        site.s3.head_object(Bucket="work", Key=f"models/{name}/output/model.tar.gz")
    steps = [each["Status"] for each in site.described("killed")["SecondaryStatusTransitions"]]
    assert steps.count("Training") == 2 and steps[-1] == "Completed"


def test_a_labelling_job_from_manifest_to_manifest(site: Site) -> None:
    lines = [json.dumps({"source-ref": f"s3://work/train/{at}.png", "note": at}) for at in range(3)]
    site.s3.put_object(Bucket="work", Key="open.jsonl", Body="\n".join(lines).encode())
    labels = {"document-version": "2018-11-28", "labels": [{"label": "left"}, {"label": "right"}]}
    site.s3.put_object(Bucket="work", Key="labels.json", Body=json.dumps(labels).encode())
    request: dict[str, Any] = {
        "LabelingJobName": "night-1",
        "LabelAttributeName": "side",
        "InputConfig": {"DataSource": {"S3DataSource": {"ManifestS3Uri": "s3://work/open.jsonl"}}},
        "OutputConfig": {"S3OutputPath": "s3://work/labels/"},
        "RoleArn": ROLE,
        "LabelCategoryConfigS3Uri": "s3://work/labels.json",
        "HumanTaskConfig": {
            "WorkteamArn": "arn:aws:sagemaker:local-1:000000000001:workteam/private-crowd/anybody",
            "UiConfig": {"UiTemplateS3Uri": "s3://work/labels.json"},
            "PreHumanTaskLambdaArn": "arn:aws:lambda:local-1:000000000001:function:PRE",
            "TaskTitle": "side", "TaskDescription": "which side is bright",
            "NumberOfHumanWorkersPerDataObject": 1, "TaskTimeLimitInSeconds": 600,
            "AnnotationConsolidationConfig": {
                "AnnotationConsolidationLambdaArn": "arn:aws:lambda:local-1:000000000001:function:ACS"
            },
        },
    }  # fmt: skip
    create = site.sagemaker.create_labeling_job
    assert create(**request)["LabelingJobArn"].endswith(":labeling-job/night-1")
    assert refused(create, **request)[0] == "ResourceInUse"
    code, text = refused(create, **{**request, "LabelingJobName": "n2", "RoleArn": ROLE.replace("marram", "other")})
    assert code == "ValidationException" and "RoleArn" in text
    found = site.sagemaker.describe_labeling_job(LabelingJobName="night-1")
    assert found["LabelingJobStatus"] == "InProgress" and found["LabelCounters"]["Unlabeled"] == 3

    api = Api.from_data(site.hub.data)
    tasks = api.marram("labelling/ListLabelTasks", {"labelingJobName": "night-1"})["tasks"]
    answers = [{"number": each["number"], "label": "right"} for each in tasks]
    assert api.marram("labelling/SubmitLabel", {"labelingJobName": "night-1", "labels": answers})["open"] == 0
    found = site.sagemaker.describe_labeling_job(LabelingJobName="night-1")
    assert found["LabelingJobStatus"] == "Completed" and found["LabelCounters"]["HumanLabeled"] == 3
    output = found["LabelingJobOutput"]["OutputDatasetS3Uri"]
    assert output == "s3://work/labels/night-1/manifests/output/output.manifest"
    body = site.s3.get_object(Bucket="work", Key=output.removeprefix("s3://work/"))["Body"].read()
    written = [json.loads(line) for line in body.splitlines()]
    assert [(line["note"], line["side"], line["side-metadata"]["class-name"]) for line in written] == [
        (at, 1, "right") for at in range(3)
    ]
