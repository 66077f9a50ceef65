"""`marram user`: who has keys, and what they may."""

import argparse
from pathlib import Path

from marram.cli import entities
from marram.cli.main import DONE, command, print_json


@command("user", help="users: create, list, attach and detach policies, delete")
def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example: marram user create anna --attach ReadOnlyAccess --data var/hub"
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    create = entities.add(
        verbs, "user", "create", "a new user; `marram key create --user NAME` gives it a key", _create,
        "anna --attach ReadOnlyAccess",
    )  # fmt: skip
    create.add_argument("name", metavar="NAME")
    create.add_argument("--path", default="/", help="/ or /team/")
    create.add_argument(
        "--attach",
        action="append",
        default=[],
        metavar="POLICY",
        help="a managed policy: its ARN or the name of one of ours",
    )
    create.add_argument("--policy", type=Path, metavar="FILE", help="an IAM policy document of its own")
    entities.add_common(verbs, "user")


def _create(given: argparse.Namespace) -> int:
    api = entities.api(given)
    for policy in given.attach:
        entities.policy_arn(policy)  # before anything is made
    made = api.call("iam", "CreateUser", {"UserName": given.name, "Path": given.path})["User"]
    entities.give(api, "User", given.name, given.attach, given.policy)
    if given.json:
        print_json(made)
    else:
        print(made["Arn"])
    return DONE
