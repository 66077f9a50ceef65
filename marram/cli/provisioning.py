"""`marram provisioning`: what devices are provisioned by."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Final

from marram.cli.main import DONE, command, print_json, table
from marram.kit import disk

if TYPE_CHECKING:
    from marram.cli.client import Api

MAX_BYTES: Final = 1 << 20
SERVICE_ROLE: Final = "marram-service"


@command("provisioning", help="provisioning templates: create, list, delete")
def configure(parser: argparse.ArgumentParser) -> None:
    nouns = parser.add_subparsers(dest="what", metavar="NOUN", required=True)
    template = nouns.add_parser("template", help="what is made of a device that comes in")
    verbs = template.add_subparsers(dest="verb", metavar="VERB", required=True)
    create = verbs.add_parser(
        "create",
        help="a new template, enabled",
        epilog="example: marram provisioning template create lamps --body template.json --data var/hub",
    )
    create.add_argument("name", metavar="NAME")
    create.add_argument("--body", type=Path, required=True, metavar="FILE", help="the template, JSON")
    create.add_argument(
        "--role", default=SERVICE_ROLE, metavar="ROLE", help=f"who provisions, its name or ARN; {SERVICE_ROLE} unless given"
    )  # fmt: skip
    create.add_argument("--jitp", action="store_true", help="for devices of your own CAs, at their first connection")
    create.add_argument("--description", default="", metavar="TEXT")
    create.add_argument("--disabled", action="store_true", help="not to be used yet")
    listing = verbs.add_parser("list", help="all templates")
    delete = verbs.add_parser(
        "delete",
        help="delete a template with all its versions",
        epilog="example: marram provisioning template delete lamps --data var/hub",
    )
    delete.add_argument("name", metavar="NAME")
    for verb, run in ((create, _create), (listing, _list), (delete, _delete)):
        verb.add_argument("--data", type=Path, required=True, metavar="DIR", help="the hub's folder")
        verb.add_argument("--json", action="store_true")
        verb.set_defaults(run=run)


def _create(given: argparse.Namespace) -> int:
    api = _api(given)
    role = str(given.role)
    if not role.startswith("arn:"):
        account = api.call("sts", "GetCallerIdentity")["Account"]
        role = f"arn:aws:iam::{account}:role/{role}"
    request = {
        "templateName": given.name,
        "templateBody": disk.read(given.body, limit=MAX_BYTES).decode(errors="replace"),
        "provisioningRoleArn": role,
        "enabled": not given.disabled,
        "type": "JITP" if given.jitp else "FLEET_PROVISIONING",
    }
    if given.description:
        request["description"] = given.description
    made = api.call("iot", "CreateProvisioningTemplate", request)
    if given.json:
        print_json(made)
    else:
        print(made["templateArn"])
    return DONE


def _list(given: argparse.Namespace) -> int:
    api = _api(given)
    found: list[dict[str, object]] = []
    request: dict[str, object] = {"maxResults": 250}
    while True:
        answer = api.call("iot", "ListProvisioningTemplates", request)
        found += answer["templates"]
        if not answer.get("nextToken"):
            break
        request["nextToken"] = answer["nextToken"]
    if given.json:
        print_json(found)
    else:
        rows = [[row["templateName"], row["type"], "enabled" if row["enabled"] else "disabled"] for row in found]
        table(rows, ["TEMPLATE", "TYPE", "STATE"])
    return DONE


def _delete(given: argparse.Namespace) -> int:
    _api(given).call("iot", "DeleteProvisioningTemplate", {"templateName": given.name})
    if given.json:
        print_json({"templateName": given.name})
    return DONE


def _api(given: argparse.Namespace) -> "Api":
    from marram.cli import client

    return client.Api.from_data(given.data)
