"""`marram model`: versions judged by the promotion gate, published as signed bundles."""

import argparse
from pathlib import Path
from typing import Any

from marram.cli.main import DONE, PROBLEMS, command, print_json, table
from marram.core import codec
from marram.kit import disk


@command("model", help="model versions: create (judged by the gate), evaluate, publish, list, show")
def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    create = verbs.add_parser(
        "create",
        help="judge a compilation against the newest approved version; exit 8 when the gate refuses",
        epilog="example: marram model create meter --compilation ID --data var/hub",
    )
    create.add_argument("name")
    create.add_argument("--compilation", required=True, metavar="ID")
    create.add_argument("--least-accuracy", type=float, default=0.0)
    evaluate = verbs.add_parser("evaluate", help="figures on any split; decides nothing")
    evaluate.add_argument("name")
    evaluate.add_argument("version", type=int)
    evaluate.add_argument("--dataset", required=True, metavar="ID")
    evaluate.add_argument("--split", required=True)
    evaluate.add_argument("--against", type=int, metavar="VERSION", help="also the lead over it, with its interval")
    publish = verbs.add_parser("publish", help="sign the bundle and register the component that runs it")
    publish.add_argument("name")
    publish.add_argument("version", type=int)
    publish.add_argument("--component", required=True, metavar="NAME=VERSION")
    publish.add_argument("--configuration", type=Path, metavar="FILE", help="JSON: the component's configuration")
    publish.add_argument("--force", action="store_true", help="also a version that the gate refused")
    listing = verbs.add_parser("list", help="newest first")
    listing.add_argument("--name")
    show = verbs.add_parser("show", help="one version with its report and lineage")
    show.add_argument("name")
    show.add_argument("version", type=int)
    runs = ((create, _create), (evaluate, _evaluate), (publish, _publish), (listing, _list), (show, _show))
    for verb, run in runs:
        verb.add_argument("--data", type=Path, required=True, metavar="DIR")
        verb.add_argument("--json", action="store_true")
        verb.set_defaults(run=run)


def _create(given: argparse.Namespace) -> int:
    from marram.cli import client

    request = {"name": given.name, "compilationId": given.compilation, "leastAccuracy": given.least_accuracy}
    found = client.Api.from_data(given.data).marram("models/CreateModelVersion", request)
    _print(found, given.json)
    return DONE if found["status"] == "Approved" else PROBLEMS


def _evaluate(given: argparse.Namespace) -> int:
    from marram.cli import client

    request: dict[str, Any] = {
        "name": given.name, "version": given.version, "datasetId": given.dataset, "split": given.split,
    }  # fmt: skip
    if given.against is not None:
        request["against"] = given.against
    found = client.Api.from_data(given.data).marram("models/EvaluateModelVersion", request)["evaluation"]
    if given.json:
        print_json(found)
    else:
        _figures(found, [given.version, given.against])
    return DONE


def _publish(given: argparse.Namespace) -> int:
    from marram.cli import client

    name, _, version = given.component.partition("=")
    request: dict[str, Any] = {
        "name": given.name, "version": given.version, "componentName": name, "componentVersion": version,
        "force": given.force,
    }  # fmt: skip
    if given.configuration is not None:
        request["configuration"] = codec.loads_object(disk.read(given.configuration, limit=1 << 20))
    found = client.Api.from_data(given.data).marram("models/PublishModelVersion", request)
    if given.json:
        print_json(found)
    else:
        print(f"{found['componentName']} {found['componentVersion']}: {found['bundleUri']} ({found['bytes']} bytes)")
    return DONE


def _list(given: argparse.Namespace) -> int:
    from marram.cli import client

    request = {"name": given.name} if given.name else {}
    found = client.Api.from_data(given.data).marram("models/ListModelVersions", request)["versions"]
    if given.json:
        print_json(found)
    elif found:
        rows = [
            [one["name"], one["version"], one["status"], one["evaluation"]["models"][0]["accuracy"]] for one in found
        ]
        table(rows, ["NAME", "VERSION", "STATUS", "ACCURACY"])
    return DONE


def _show(given: argparse.Namespace) -> int:
    from marram.cli import client

    request = {"name": given.name, "version": given.version}
    _print(client.Api.from_data(given.data).marram("models/DescribeModelVersion", request), given.json)
    return DONE


def _print(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    print(f"{found['name']} version {found['version']}: {found['status']}")
    for reason in found["reasons"]:
        print(f"  refused: {reason}")
    _figures(found["evaluation"], [found["version"], found.get("incumbent")])


def _figures(evaluation: dict[str, Any], versions: list[int | None]) -> None:
    for version, row in zip(versions, evaluation["models"], strict=False):
        low, high = row["interval"]
        print(
            f"  version {version}: accuracy {row['accuracy']:.4f} [{low:.4f}, {high:.4f}], ECE {row['ece']:.4f}"
            f" on {evaluation['samples']} samples"
        )
    if "lead" in evaluation:
        low, high = evaluation["lead"]["interval"]
        print(
            f"  lead {evaluation['lead']['accuracy']:+.4f} [{low:+.4f}, {high:+.4f}], speed {evaluation['speed']:.2f}"
        )
