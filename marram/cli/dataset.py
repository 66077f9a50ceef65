"""`marram dataset`: dataset versions."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marram.cli.main import DONE, command, print_json, table
from marram.core import codec
from marram.core.errors import Invalid
from marram.kit import disk

if TYPE_CHECKING:
    from marram.cli.client import Api


@command("dataset", help="dataset versions: freeze a manifest, list, show")
def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    create = verbs.add_parser(
        "create",
        help="freeze a manifest of samples, or a folder of images in one subfolder a label",
        epilog="example: marram dataset create meter --folder scans --bucket pictures --data var/hub",
    )
    create.add_argument("name")
    source = create.add_mutually_exclusive_group(required=True)
    source.add_argument("--manifest", metavar="URI", help="s3://BUCKET/KEY, SageMaker's augmented form")
    source.add_argument("--folder", type=Path, metavar="DIR", help="DIR/LABEL/file; uploaded first")
    create.add_argument("--bucket", help="where --folder is uploaded to")
    create.add_argument("--label", default="label", metavar="ATTRIBUTE", help="the manifest's label attribute")
    create.add_argument(
        "--split", action="append", default=[], metavar="NAME=SHARE", help="default: train=0.8 and gate=0.2"
    )
    listing = verbs.add_parser("list", help="newest first")
    listing.add_argument("--name")
    show = verbs.add_parser("show", help="one version")
    show.add_argument("id")
    for verb, run in ((create, _create), (listing, _list), (show, _show)):
        verb.add_argument("--data", type=Path, required=True, metavar="DIR")
        verb.add_argument("--json", action="store_true")
        verb.set_defaults(run=run)


def _create(given: argparse.Namespace) -> int:
    from marram.cli import client

    api = client.Api.from_data(given.data)
    uri = given.manifest or _upload(api, given.folder, given.bucket, given.name)
    request: dict[str, Any] = {"name": given.name, "manifestUri": uri, "labelAttribute": given.label}
    if given.split:
        request["shares"] = dict(_share(text) for text in given.split)
    return _print(api.marram("datasets/CreateDataset", request), given.json)


def _list(given: argparse.Namespace) -> int:
    from marram.cli import client

    request = {"name": given.name} if given.name else {}
    found = client.Api.from_data(given.data).marram("datasets/ListDatasets", request)["datasets"]
    if given.json:
        print_json(found)
    elif found:
        rows = [[one["name"], one["datasetId"], one["samples"], ", ".join(one["splits"])] for one in found]
        table(rows, ["NAME", "ID", "SAMPLES", "SPLITS"])
    return DONE


def _show(given: argparse.Namespace) -> int:
    from marram.cli import client

    return _print(
        client.Api.from_data(given.data).marram("datasets/DescribeDataset", {"datasetId": given.id}), given.json
    )


def _print(document: dict[str, Any], as_json: bool) -> int:
    if as_json:
        print_json(document)
        return DONE
    print(document["datasetId"])
    rows = [[name, split["samples"], split["uri"]] for name, split in sorted(document["splits"].items())]
    table(rows, ["SPLIT", "SAMPLES", "MANIFEST"])
    return DONE


def _upload(api: "Api", folder: Path, bucket: str | None, name: str) -> str:
    if not bucket:
        raise Invalid("--folder needs --bucket")
    lines: list[bytes] = []
    for path in _images(folder):
        key = f"{name}/{path.parent.name}/{path.name}"
        api.put_object(bucket, key, disk.read(path, limit=8 << 20))
        lines.append(codec.dumps({"source-ref": f"s3://{bucket}/{key}", "label": path.parent.name}))
    if not lines:
        raise Invalid(f"{folder} has no files in subfolders named by label")
    api.put_object(bucket, f"{name}/manifest.jsonl", b"\n".join(lines) + b"\n")
    return f"s3://{bucket}/{name}/manifest.jsonl"


def _images(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.glob("*/*")):
        if path.is_file() and not path.name.startswith("."):
            yield path


def _share(text: str) -> tuple[str, float]:
    name, _, share = text.partition("=")
    try:
        return name, float(share)
    except ValueError as exc:
        raise Invalid(f"--split {text!r} is not NAME=SHARE") from exc
