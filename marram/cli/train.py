"""`marram train`: training jobs by SageMaker's operations."""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from marram.cli.main import DONE, FAILED, STOPPED, TimedOut, command, print_json, table
from marram.core.errors import Invalid

POLL_S: Final = 0.25
FINAL: Final = ("Completed", "Failed", "Stopped")


@command("train", help="training jobs: start, show, list, stop")
def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    start = verbs.add_parser(
        "start",
        help="train on a split of a dataset version",
        epilog="example: marram train start meter-1 --channel train=s3://... --output s3://models --wait --data var/hub",
    )
    start.add_argument("name")
    start.add_argument("--image", default="marram/image-classification", help="default: marram/image-classification")
    start.add_argument("--channel", action="append", required=True, metavar="NAME=URI", help="s3:// of a manifest")
    start.add_argument("--label", default="label", metavar="ATTRIBUTE", help="the manifests' label attribute")
    start.add_argument("--output", required=True, metavar="URI", help="s3:// below which the model goes")
    start.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a hyper-parameter")
    start.add_argument("--limit", type=int, default=3600, metavar="SECONDS")
    start.add_argument("--wait", action="store_true", help="until it has ended")
    start.add_argument("--timeout", type=float, default=600.0, metavar="SECONDS", help="of --wait; the job goes on")
    show = verbs.add_parser("show", help="one job")
    stop = verbs.add_parser("stop", help="SIGTERM, after 120 s SIGKILL")
    for verb in (show, stop):
        verb.add_argument("name")
    listing = verbs.add_parser("list", help="newest first")
    for verb, run in ((start, _start), (show, _show), (stop, _stop), (listing, _list)):
        verb.add_argument("--data", type=Path, required=True, metavar="DIR")
        verb.add_argument("--json", action="store_true")
        verb.set_defaults(run=run)


def wait(look: Callable[[], tuple[str, dict[str, Any]]], final: tuple[str, ...], timeout_s: float) -> dict[str, Any]:
    """Poll until the status is final; says each new one on a terminal. Raises TimedOut; the work goes on."""
    end = time.monotonic() + timeout_s
    said = ""
    while True:
        status, document = look()
        if sys.stderr.isatty() and status != said:
            sys.stderr.write(f"{status}\n")
            said = status
        if status.partition(" ")[0] in final:
            return document
        if time.monotonic() > end:
            raise TimedOut(f"still {status} after {timeout_s:g} s; the work goes on")
        time.sleep(POLL_S)


def pairs(texts: list[str], what: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise Invalid(f"{what} {text!r} is not NAME=VALUE")
        found[name] = value
    return found


def _start(given: argparse.Namespace) -> int:
    from marram.cli import client

    api = client.Api.from_data(given.data)
    account = _account(given.data)
    api.call(
        "sagemaker",
        "CreateTrainingJob",
        {
            "TrainingJobName": given.name,
            "AlgorithmSpecification": {"TrainingImage": given.image, "TrainingInputMode": "File"},
            "RoleArn": f"arn:aws:iam::{account}:role/marram-service",
            "InputDataConfig": [
                {
                    "ChannelName": name,
                    "DataSource": {
                        "S3DataSource": {
                            "S3DataType": "AugmentedManifestFile",
                            "S3Uri": uri,
                            "AttributeNames": ["source-ref", given.label],
                        }
                    },
                }
                for name, uri in pairs(given.channel, "--channel").items()
            ],
            "OutputDataConfig": {"S3OutputPath": given.output},
            "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
            "StoppingCondition": {"MaxRuntimeInSeconds": given.limit},
            "HyperParameters": pairs(given.set, "--set"),
        },
    )
    if not given.wait:
        return DONE

    def look() -> tuple[str, dict[str, Any]]:
        found = api.call("sagemaker", "DescribeTrainingJob", {"TrainingJobName": given.name})
        status = str(found["TrainingJobStatus"])
        return (status if status in FINAL else f"{status} {found['SecondaryStatus']}"), found

    return _print(wait(look, FINAL, given.timeout), given.json)


def _show(given: argparse.Namespace) -> int:
    from marram.cli import client

    found = client.Api.from_data(given.data).call("sagemaker", "DescribeTrainingJob", {"TrainingJobName": given.name})
    _print(found, given.json)
    return DONE


def _stop(given: argparse.Namespace) -> int:
    from marram.cli import client

    client.Api.from_data(given.data).call("sagemaker", "StopTrainingJob", {"TrainingJobName": given.name})
    return DONE


def _list(given: argparse.Namespace) -> int:
    from marram.cli import client

    found = client.Api.from_data(given.data).call("sagemaker", "ListTrainingJobs")["TrainingJobSummaries"]
    if given.json:
        print_json(found)
    elif found:
        table([[one["TrainingJobName"], one["TrainingJobStatus"]] for one in found], ["NAME", "STATUS"])
    return DONE


def _print(found: dict[str, Any], as_json: bool) -> int:
    status = found["TrainingJobStatus"]
    if as_json:
        print_json(found)
    else:
        print(
            f"{found['TrainingJobName']}: {status}{': ' + found['FailureReason'] if 'FailureReason' in found else ''}"
        )
        for metric in found.get("FinalMetricDataList", []):
            print(f"  {metric['MetricName']} {metric['Value']:.4f}")
    return DONE if status in ("Completed", "InProgress") else STOPPED if status == "Stopped" else FAILED


def _account(data: Path) -> str:
    from marram.serve.folder import HUB_JSON, read_hub_json

    return read_hub_json(data / HUB_JSON).account_id
