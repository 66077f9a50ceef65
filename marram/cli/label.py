"""`marram label`: feedback from devices, labelling jobs and their tasks."""

import argparse
from pathlib import Path
from typing import Any

from marram.cli.main import DONE, command, print_json, table
from marram.cli.train import pairs
from marram.core import codec
from marram.core.errors import Invalid


@command("label", help="feedback items, labelling jobs, and answering their tasks")
def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    feedback = verbs.add_parser("feedback", help="what devices sent")
    feedback.add_argument("--thing")
    feedback.add_argument("--limit", type=int, default=100)
    export = verbs.add_parser("export", help="write feedback as the input manifest of a labelling job")
    export.add_argument("uri", help="s3://BUCKET/KEY")
    export.add_argument("--limit", type=int, default=1000)
    start = verbs.add_parser(
        "start",
        help="start a labelling job",
        epilog="example: marram label start night-1 --manifest s3://work/in.jsonl --label 0 --label 1 "
        "--output s3://work/labels --data var/hub",
    )
    start.add_argument("name")
    start.add_argument("--manifest", required=True, metavar="URI")
    start.add_argument("--output", required=True, metavar="URI")
    start.add_argument("--label", action="append", required=True, metavar="TEXT", help="one to choose from")
    start.add_argument("--attribute", default="label", help="where the label goes; default: label")
    tasks = verbs.add_parser("tasks", help="open tasks of a job")
    tasks.add_argument("name")
    tasks.add_argument("--all", action="store_true", help="answered ones too")
    tasks.add_argument("--limit", type=int, default=100)
    submit = verbs.add_parser(
        "submit", help="answer tasks", epilog="example: marram label submit night-1 0=7 1=3 --data var/hub"
    )
    submit.add_argument("name")
    submit.add_argument("answers", nargs="+", metavar="NUMBER=LABEL")
    submit.add_argument("--as", dest="labeller", metavar="NAME", help="who answers; default: the key")
    show = verbs.add_parser("show", help="one job")
    show.add_argument("name")
    runs = (
        (feedback, _feedback),
        (export, _export),
        (start, _start),
        (tasks, _tasks),
        (submit, _submit),
        (show, _show),
    )
    for verb, run in runs:
        verb.add_argument("--data", type=Path, required=True, metavar="DIR")
        verb.add_argument("--json", action="store_true")
        verb.set_defaults(run=run)


def _feedback(given: argparse.Namespace) -> int:
    from marram.cli import client

    request: dict[str, Any] = {"limit": given.limit} | ({"thing": given.thing} if given.thing else {})
    found = client.Api.from_data(given.data).marram("feedback/ListFeedback", request)
    if given.json:
        print_json(found)
    elif found["items"]:
        rows = [
            [one["sha256"][:12], one["thing"], one["reason"], one.get("propensity") or "-", one.get("label", "-")]
            for one in found["items"]
        ]
        table(rows, ["ITEM", "THING", "REASON", "PROPENSITY", "READ AS"])
    return DONE


def _export(given: argparse.Namespace) -> int:
    from marram.cli import client

    request = {"manifestUri": given.uri, "limit": given.limit}
    return _result(client.Api.from_data(given.data).marram("feedback/ExportFeedback", request), given.json)


def _start(given: argparse.Namespace) -> int:
    from marram.cli import client
    from marram.serve.folder import HUB_JSON, read_hub_json

    api = client.Api.from_data(given.data)
    bucket, _, prefix = given.output.removeprefix("s3://").rstrip("/").partition("/")
    if not given.output.startswith("s3://") or not bucket:
        raise Invalid(f"--output {given.output!r} is not s3://BUCKET/PREFIX")
    key = f"{prefix}/{given.name}/categories.json".lstrip("/")
    api.put_object(bucket, key, codec.dumps({"labels": [{"label": label} for label in given.label]}))
    account = read_hub_json(given.data / HUB_JSON).account_id
    lambdas = "arn:aws:lambda:us-east-1:432418664414:function"
    answer = api.call(
        "sagemaker",
        "CreateLabelingJob",
        {
            "LabelingJobName": given.name,
            "LabelAttributeName": given.attribute,
            "InputConfig": {"DataSource": {"S3DataSource": {"ManifestS3Uri": given.manifest}}},
            "OutputConfig": {"S3OutputPath": given.output},
            "RoleArn": f"arn:aws:iam::{account}:role/marram-service",
            "LabelCategoryConfigS3Uri": f"s3://{bucket}/{key}",
            # The model of the operation demands these; who labels is whoever may call SubmitLabel.
            "HumanTaskConfig": {
                "WorkteamArn": f"arn:aws:sagemaker:{api.region}:{account}:workteam/private-crowd/marram",
                "UiConfig": {"UiTemplateS3Uri": f"s3://{bucket}/{key}"},
                "PreHumanTaskLambdaArn": f"{lambdas}:PRE-ImageMultiClass",
                "TaskTitle": given.name,
                "TaskDescription": "Choose the label",
                "NumberOfHumanWorkersPerDataObject": 1,
                "TaskTimeLimitInSeconds": 3600,
                "AnnotationConsolidationConfig": {"AnnotationConsolidationLambdaArn": f"{lambdas}:ACS-ImageMultiClass"},
            },
        },
    )
    return _result(answer, given.json)


def _tasks(given: argparse.Namespace) -> int:
    from marram.cli import client

    request = {"labelingJobName": given.name, "all": given.all, "limit": given.limit}
    found = client.Api.from_data(given.data).marram("labelling/ListLabelTasks", request)
    if given.json:
        print_json(found)
    elif found["tasks"]:
        rows = [[task["number"], task["sourceRef"], task.get("label", "-")] for task in found["tasks"]]
        table(rows, ["NUMBER", "SAMPLE", "LABEL"])
    return DONE


def _submit(given: argparse.Namespace) -> int:
    from marram.cli import client

    answers = pairs(given.answers, "answer")
    if not all(number.isdecimal() for number in answers):
        raise Invalid("an answer is NUMBER=LABEL")
    request: dict[str, Any] = {
        "labelingJobName": given.name,
        "labels": [{"number": int(number), "label": label} for number, label in answers.items()],
    }
    if given.labeller:
        request["labeller"] = given.labeller
    return _result(client.Api.from_data(given.data).marram("labelling/SubmitLabel", request), given.json)


def _show(given: argparse.Namespace) -> int:
    from marram.cli import client

    found = client.Api.from_data(given.data).call("sagemaker", "DescribeLabelingJob", {"LabelingJobName": given.name})
    if given.json:
        print_json(found)
    else:
        counters = found["LabelCounters"]
        print(f"{given.name}: {found['LabelingJobStatus']}, {counters['TotalLabeled']} labelled,"
              f" {counters['Unlabeled']} open")  # fmt: skip
        if "LabelingJobOutput" in found:
            print(found["LabelingJobOutput"]["OutputDatasetS3Uri"])
    return DONE


def _result(answer: dict[str, Any], as_json: bool) -> int:
    if as_json:
        print_json(answer)
    else:
        print(", ".join(f"{key} {value}" for key, value in answer.items()))
    return DONE
