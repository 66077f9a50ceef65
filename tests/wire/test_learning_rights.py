"""A narrow key cannot read or write through the learning loop, or through a component, what it could not by S3 itself."""

import base64
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from botocore.exceptions import ClientError

from marram.cli.client import Api
from marram.components.infer import prepare
from marram.core import sigv4
from marram.core.errors import Denied, MarramError, NotFound

ROLE = "arn:aws:iam::000000000001:role/marram-service"
PASSING = {"Effect": "Allow", "Action": "iam:PassRole", "Resource": ROLE}
ALL_OPERATIONS = {
    "Effect": "Allow",
    "Action": ["sagemaker:*", "greengrass:CreateComponentVersion", "marram:Create*", "marram:PublishModelVersion",
               "marram:EvaluateModelVersion"],
    "Resource": "*",
}  # fmt: skip
OPEN = [
    {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::open/*"},
    {"Effect": "Deny", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::open/mixed/secret*"},
    {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": "arn:aws:s3:::open"},
    {"Effect": "Allow", "Action": "s3:PutObject", "Resource": "arn:aws:s3:::open/out/*"},
]


@dataclass
class Site:
    hub: Any
    admin: Api
    narrow: Api
    dataset: dict[str, Any]

    def key(self, name: str, *statements: dict[str, Any]) -> Api:
        return key(self.hub, self.admin, name, *statements)


def key(hub: Any, admin: Api, name: str, *statements: dict[str, Any]) -> Api:
    policy = json.dumps({"Version": "2012-10-17", "Statement": statements})
    made = admin.marram("identity/CreateKey", {"name": name, "policy": policy})
    held = sigv4.Credentials(made["accessKeyId"], made["secretAccessKey"])
    return Api(hub.info["endpoints"]["api"], hub.info["region"], held)


@pytest.fixture
def site(start_hub: Callable[..., Any]) -> Site:
    hub = start_hub()
    s3 = hub.client("s3")
    admin = Api.from_data(hub.data)
    for shade, bucket in enumerate(("open", "closed")):  # other pictures: equal samples are one dataset version
        image = prepare.encode_png(np.full((8, 8, 1), 100 + shade, dtype=np.uint8))
        s3.create_bucket(Bucket=bucket)
        for at in range(4):
            s3.put_object(Bucket=bucket, Key=f"{at}.png", Body=image)
        lines = [json.dumps({"source-ref": f"s3://{bucket}/{at}.png", "label": at % 2}) for at in range(4)]
        s3.put_object(Bucket=bucket, Key="manifest.jsonl", Body="\n".join(lines).encode())
        labels = {"labels": [{"label": "0"}, {"label": "1"}]}
        s3.put_object(Bucket=bucket, Key="labels.json", Body=json.dumps(labels).encode())
    # One line of a manifest that may be read names a sample that may not.
    lines[1] = json.dumps({"source-ref": "s3://open/1.png", "label": 1})
    s3.put_object(Bucket="open", Key="reaching.jsonl", Body="\n".join(lines).encode())
    for name in ("a", "b", "secret"):
        s3.put_object(Bucket="open", Key=f"mixed/{name}", Body=image)
    dataset = admin.marram("datasets/CreateDataset", {"name": "bars", "manifestUri": "s3://closed/manifest.jsonl"})
    return Site(hub, admin, key(hub, admin, "narrow", ALL_OPERATIONS, PASSING, *OPEN), dataset)


def training(uri: str, *, kind: str = "AugmentedManifestFile", output: str = "s3://open/out", **more: Any) -> Any:
    source: dict[str, Any] = {"S3DataType": kind, "S3Uri": uri}
    if kind == "AugmentedManifestFile":
        source["AttributeNames"] = ["source-ref", "label"]
    return {
        "TrainingJobName": "job",
        "AlgorithmSpecification": {"TrainingImage": "marram/image-classification", "TrainingInputMode": "File"},
        "RoleArn": ROLE,
        "InputDataConfig": [{"ChannelName": "train", "DataSource": {"S3DataSource": source}}],
        "OutputDataConfig": {"S3OutputPath": output},
        "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
        "StoppingCondition": {"MaxRuntimeInSeconds": 60},
        **more,
    }


def program(uri: str) -> dict[str, Any]:
    return {
        "AlgorithmSpecification": {"TrainingImage": "marram/python", "TrainingInputMode": "File"},
        "HyperParameters": {"sagemaker_program": "train.py", "sagemaker_submit_directory": uri},
    }


def labelling(manifest: str, *, labels: str = "s3://open/labels.json", output: str = "s3://open/out") -> Any:
    function = "arn:aws:lambda:local-1:000000000001:function:F"
    return {
        "LabelingJobName": "night",
        "LabelAttributeName": "side",
        "InputConfig": {"DataSource": {"S3DataSource": {"ManifestS3Uri": manifest}}},
        "OutputConfig": {"S3OutputPath": output},
        "RoleArn": ROLE,
        "LabelCategoryConfigS3Uri": labels,
        "HumanTaskConfig": {
            "WorkteamArn": "arn:aws:sagemaker:local-1:000000000001:workteam/private-crowd/anybody",
            "UiConfig": {"UiTemplateS3Uri": "s3://open/labels.json"}, "PreHumanTaskLambdaArn": function,
            "TaskTitle": "t", "TaskDescription": "d", "NumberOfHumanWorkersPerDataObject": 1, "TaskTimeLimitInSeconds": 60,
            "AnnotationConsolidationConfig": {"AnnotationConsolidationLambdaArn": function},
        },
    }  # fmt: skip


def component(uri: str) -> dict[str, Any]:
    manifest = {"Platform": {"os": "linux"}, "Artifacts": [{"Uri": uri}], "Lifecycle": {"run": "true"}}
    recipe = {
        "RecipeFormatVersion": "2020-01-25", "ComponentName": "c", "ComponentVersion": "1.0.0", "Manifests": [manifest],
    }  # fmt: skip
    return {"inlineRecipe": base64.b64encode(json.dumps(recipe).encode()).decode()}


READ, WRITE, LIST = "s3:GetObject", "s3:PutObject", "s3:ListBucket"
CASES = [
    pytest.param("CreateTrainingJob", training("s3://closed/manifest.jsonl"), READ, "closed/manifest.jsonl", id="manifest"),
    pytest.param("CreateTrainingJob", training("s3://open/reaching.jsonl"), READ, "closed/0.png", id="sample"),
    pytest.param("CreateTrainingJob", training("s3://closed/d", kind="S3Prefix"), LIST, "closed", id="prefix"),
    pytest.param("CreateTrainingJob", training("s3://open/mixed/", kind="S3Prefix"), READ, "open/mixed/secret", id="below"),
    pytest.param("CreateTrainingJob", training("s3://open/manifest.jsonl", output="s3://closed/m"), WRITE,
                 "closed/m/job/output/model.tar.gz", id="model"),
    pytest.param("CreateTrainingJob", training("s3://open/manifest.jsonl", **program("s3://closed/code.tar.gz")), READ,
                 "closed/code.tar.gz", id="program"),
    pytest.param("CreateLabelingJob", labelling("s3://closed/manifest.jsonl"), READ, "closed/manifest.jsonl", id="to label"),
    pytest.param("CreateLabelingJob", labelling("s3://open/manifest.jsonl", labels="s3://closed/labels.json"), READ,
                 "closed/labels.json", id="label list"),
    pytest.param("CreateLabelingJob", labelling("s3://open/manifest.jsonl", output="s3://closed"), WRITE,
                 "closed/night/manifests/output/output.manifest", id="labels"),
    pytest.param("datasets/CreateDataset", {"name": "d", "manifestUri": "s3://closed/manifest.jsonl"}, READ,
                 "closed/manifest.jsonl", id="dataset"),
    pytest.param("datasets/CreateDataset", {"name": "d", "manifestUri": "s3://open/reaching.jsonl"}, READ, "closed/0.png",
                 id="dataset sample"),
    pytest.param("compilation/CreateCompilation", {"trainingJobName": "job", "datasetId": "0" * 64},
                 "marram:DescribeDataset", f"dataset-version/{'0' * 64}", id="compilation"),
    pytest.param("models/CreateModelVersion", {"name": "m", "compilationId": "compilation-X"},
                 "marram:DescribeCompilation", "compilation/compilation-X", id="model version"),
    pytest.param("models/EvaluateModelVersion", {"name": "m", "version": 1, "datasetId": "0" * 64, "split": "gate"},
                 "marram:DescribeDataset", f"dataset-version/{'0' * 64}", id="evaluation"),
    pytest.param("CreateComponentVersion", component("s3://closed/0.png"), READ, "closed/0.png", id="component"),
    pytest.param("CreateComponentVersion", component("s3://marram-models/bundles/c/1/bundle.zip"), READ,
                 "marram-models/bundles/c/1/bundle.zip", id="own bucket"),
]  # fmt: skip


def ask(api: Api, operation: str, request: dict[str, Any]) -> Any:
    if "/" in operation:
        return api.marram(operation, request)
    return api.call("greengrassv2" if operation == "CreateComponentVersion" else "sagemaker", operation, request)


def test_what_the_key_may_not_is_named(site: Site) -> None:
    for case in CASES:
        operation, request, action, resource = case.values
        with pytest.raises(Denied) as caught:
            ask(site.narrow, operation, request)
        said = caught.value.message
        assert f"{action} on resource" in said and re.split(" because| with an", said)[0].endswith(resource), (
            case.id,
            said,
        )
    with pytest.raises(MarramError):
        site.admin.call("sagemaker", "DescribeTrainingJob", {"TrainingJobName": "job"})  # nothing was kept of them
    no_role = site.key("without-role", ALL_OPERATIONS, *OPEN)
    for request in (training("s3://open/manifest.jsonl"), labelling("s3://open/manifest.jsonl")):
        operation = "CreateLabelingJob" if "LabelingJobName" in request else "CreateTrainingJob"
        with pytest.raises(Denied, match=rf"iam:PassRole on resource: {ROLE}"):
            ask(no_role, operation, request)
    no_components = site.key("publisher", {"Effect": "Allow", "Action": "marram:*", "Resource": "*"})
    published = {"name": "m", "version": 1, "componentName": "c", "componentVersion": "1.0.0"}
    with pytest.raises(Denied, match="greengrass:CreateComponentVersion"):
        no_components.marram("models/PublishModelVersion", published)
    with pytest.raises(Denied, match=r"s3:PutObject on resource: arn:aws:s3:::closed/f\.jsonl"):
        no_components.marram("feedback/ExportFeedback", {"manifestUri": "s3://closed/f.jsonl"})


def test_what_the_key_may_goes_through(site: Site) -> None:
    made = ask(site.narrow, "datasets/CreateDataset", {"name": "mine", "manifestUri": "s3://open/manifest.jsonl"})
    ask(site.narrow, "CreateTrainingJob", training("s3://open/manifest.jsonl"))
    ask(site.narrow, "CreateLabelingJob", labelling("s3://open/manifest.jsonl"))
    ask(site.narrow, "CreateComponentVersion", component("s3://open/0.png"))
    # A dataset version's own bucket: by s3:GetObject, or for whoever may describe that version, and no other.
    split = made["splits"]["train"]["uri"]
    with pytest.raises(Denied, match="marram-datasets/versions"):
        ask(site.narrow, "CreateTrainingJob", {**training(split), "TrainingJobName": "j2"})
    describes = {
        "Effect": "Allow", "Action": "marram:DescribeDataset",
        "Resource": f"arn:aws:marram:local-1:000000000001:dataset-version/{made['datasetId']}",
    }  # fmt: skip
    reader = site.key("reader", PASSING, ALL_OPERATIONS, *OPEN, describes)
    ask(reader, "CreateTrainingJob", {**training(split), "TrainingJobName": "j3"})
    other = site.dataset["splits"]["train"]["uri"]
    with pytest.raises(Denied, match="marram-datasets/versions"):
        ask(reader, "CreateTrainingJob", {**training(other), "TrainingJobName": "j4"})


def test_feedback_that_was_exported_may_be_learnt_from(site: Site) -> None:
    """Its samples lie in the hub's own bucket: exporting them is the right to use them."""
    line = json.dumps({"source-ref": f"s3://marram-feedback/items/{'0' * 64}.png", "label": 1}).encode()
    site.admin.put_object("open", "fed-back.jsonl", line)
    request = {"name": "fed", "manifestUri": "s3://open/fed-back.jsonl"}
    with pytest.raises(Denied, match="marram-feedback/items"):
        ask(site.narrow, "datasets/CreateDataset", request)
    exports = {"Effect": "Allow", "Action": "marram:ExportFeedback", "Resource": "*"}
    with pytest.raises(NotFound):  # allowed; it is not there
        ask(site.key("exporter", ALL_OPERATIONS, *OPEN, exports), "datasets/CreateDataset", request)


def test_the_buckets_of_the_hub_are_read_only_by_s3(site: Site) -> None:
    """The hub signs the models that it finds there, and shows datasets as they were made."""
    everything = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
    made = site.admin.marram("identity/CreateKey", {"name": "s3", "policy": json.dumps(
        {"Version": "2012-10-17", "Statement": [everything]})})  # fmt: skip
    s3 = site.hub.client("s3", aws_access_key_id=made["accessKeyId"], aws_secret_access_key=made["secretAccessKey"])
    bucket = "marram-datasets"
    before = s3.list_objects_v2(Bucket=bucket)["Contents"]
    one = before[0]["Key"]
    assert s3.get_object(Bucket=bucket, Key=one)["Body"].read()
    upload = {"Bucket": bucket, "Key": one, "UploadId": "u"}
    for change in (
        lambda: s3.put_object(Bucket=bucket, Key=one, Body=b"other"),
        lambda: s3.copy_object(Bucket=bucket, Key=one, CopySource="open/0.png"),
        lambda: s3.delete_object(Bucket=bucket, Key=one),
        lambda: s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": one}]}),
        lambda: s3.delete_bucket(Bucket=bucket),
        lambda: s3.create_multipart_upload(Bucket=bucket, Key=one),
        lambda: s3.upload_part(**upload, PartNumber=1, Body=b"x"),
        lambda: s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": "e"}]}),
        lambda: s3.abort_multipart_upload(**upload),
    ):
        with pytest.raises(ClientError, match="AccessDenied"):
            change()
    assert s3.list_objects_v2(Bucket=bucket)["Contents"] == before
    with pytest.raises(Denied, match="belong to the hub"):
        ask(site.admin, "CreateTrainingJob", training("s3://open/reaching.jsonl", output=f"s3://{bucket}/out"))


def test_a_rule_acts_with_its_role_so_that_its_writer_must_be_allowed_to_pass_it(start_hub: Callable[..., Any]) -> None:
    hub = start_hub()
    admin = Api.from_data(hub.data)
    rules = {"Effect": "Allow", "Action": "iot:*TopicRule", "Resource": "*"}
    republish = {"republish": {"roleArn": ROLE, "topic": "$$aws/things/core/jobs/notify-next"}}
    narrow = key(hub, admin, "narrow", rules)
    for payload in (
        {"sql": "SELECT * FROM 'a'", "actions": [republish]},
        {"sql": "SELECT * FROM 'a'", "actions": [], "errorAction": republish},
    ):
        for operation in ("CreateTopicRule", "ReplaceTopicRule"):
            with pytest.raises(Denied, match="iam:PassRole"):
                narrow.call("iot", operation, {"ruleName": "r", "topicRulePayload": payload})
    passing = key(hub, admin, "passing", rules, {"Effect": "Allow", "Action": "iam:PassRole", "Resource": ROLE})
    passing.call("iot", "CreateTopicRule", {"ruleName": "r", "topicRulePayload": payload})
