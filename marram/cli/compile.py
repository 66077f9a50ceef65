"""`marram compile`: candidates of a trained model measured, the fastest that passes the gate kept."""

import argparse
import sys
from pathlib import Path
from typing import Any

from marram.cli.main import DONE, FAILED, command, print_json, table
from marram.cli.train import wait


@command("compile", help="compile a training job's model: measure fp32 and int8, keep the fastest that is right")
def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    start = verbs.add_parser(
        "start",
        help="compile and wait",
        epilog="example: marram compile start meter-1 --dataset ID --split gate --data var/hub",
    )
    start.add_argument("job", help="a completed training job")
    start.add_argument("--dataset", required=True, metavar="ID", help="the dataset version to judge on")
    start.add_argument("--split", default="gate", help="default: gate")
    start.add_argument("--timeout", type=float, default=600.0, metavar="SECONDS")
    start.add_argument("--no-wait", action="store_true")
    show = verbs.add_parser("show", help="one compilation, losers included")
    show.add_argument("id")
    for verb, run in ((start, _start), (show, _show)):
        verb.add_argument("--data", type=Path, required=True, metavar="DIR")
        verb.add_argument("--json", action="store_true")
        verb.set_defaults(run=run)


def _start(given: argparse.Namespace) -> int:
    from marram.cli import client

    api = client.Api.from_data(given.data)
    request = {"trainingJobName": given.job, "datasetId": given.dataset, "split": given.split}
    made = api.marram("compilation/CreateCompilation", request)
    if given.no_wait:
        return _print(made, given.json)

    def look() -> tuple[str, dict[str, Any]]:
        found = api.marram("compilation/DescribeCompilation", {"compilationId": made["compilationId"]})
        return str(found["status"]), found

    return _print(wait(look, ("Completed", "Failed"), given.timeout), given.json)


def _show(given: argparse.Namespace) -> int:
    from marram.cli import client

    request = {"compilationId": given.id}
    return _print(client.Api.from_data(given.data).marram("compilation/DescribeCompilation", request), given.json)


def _print(found: dict[str, Any], as_json: bool) -> int:
    if as_json:
        print_json(found)
    else:
        reason = f": {' '.join(str(found['failure']).split())}" if found.get("failure") else ""
        out = sys.stderr if found["status"] == "Failed" else sys.stdout
        print(f"{found['compilationId']}: {found['status']}{reason}", file=out)
        if found.get("report"):
            rows = [
                [
                    ("* " if row["precision"] == found["report"]["winner"] else "  ") + row["precision"],
                    *(row.get(key, "-") for key in ("bytes", "accuracy", "agreement", "ece", "p50_us", "speed")),
                    "; ".join(row["reasons"]),
                ]
                for row in found["report"]["candidates"]
            ]
            table(rows, ["CANDIDATE", "BYTES", "ACCURACY", "AGREES", "ECE", "P50 US", "SPEED", "REFUSED BECAUSE"])
    return FAILED if found["status"] == "Failed" else DONE
