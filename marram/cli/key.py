"""`marram key`: access keys of users."""

import argparse
from functools import partial
from pathlib import Path

from marram.cli.main import DONE, WrongUsage, command, print_json, table
from marram.kit import disk


@command("key", help="access keys: create, list, deactivate, activate, delete")
def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    create = verbs.add_parser(
        "create",
        help="a new key, with a user of its own or for one that is there; its secret is shown once",
        epilog="example: marram key create --policy ci.json --name ci --data var/hub",
    )
    create.add_argument("--name", help="a new user for the key, with this name and the policy of --policy")
    create.add_argument("--policy", type=Path, metavar="FILE", help="an IAM policy document, for a new user")
    create.add_argument("--user", metavar="NAME", help="a user that is there: it may have two keys, one to change to")
    listing = verbs.add_parser(
        "list", help="all keys, without their secrets", epilog="example: marram key list --data var/hub"
    )
    key_id = "MRAKJ5XJ2ZQ7ELPNL3CB"
    deactivate = verbs.add_parser(
        "deactivate",
        help="refuse a key from its next request on, until it is activated",
        epilog=f"example: marram key deactivate {key_id} --data var/hub",
    )
    activate = verbs.add_parser(
        "activate", help="take a key again", epilog=f"example: marram key activate {key_id} --data var/hub"
    )
    delete = verbs.add_parser(
        "delete", help="end a key at once", epilog=f"example: marram key delete {key_id} --data var/hub"
    )
    for verb in (deactivate, activate, delete):
        verb.add_argument("key_id", metavar="ACCESS_KEY_ID")
    for verb, run in (
        (create, _create),
        (listing, _list),
        (deactivate, partial(_set, status="Inactive")),
        (activate, partial(_set, status="Active")),
        (delete, _delete),
    ):
        verb.add_argument("--data", type=Path, required=True, metavar="DIR")
        verb.add_argument("--json", action="store_true")
        verb.set_defaults(run=run)


def _create(given: argparse.Namespace) -> int:
    from marram.cli import client

    user: str | None = given.user
    name: str | None = given.name
    policy: Path | None = given.policy
    if user is not None and (name is not None or policy is not None):
        raise WrongUsage("marram key create: --user takes a user that is there; --name and --policy make one")
    if user is None and (name is None or policy is None):
        raise WrongUsage("marram key create: needs --name and --policy for a new user, or --user for one that is there")
    api = client.Api.from_data(given.data)
    if user is not None:
        made = api.call("iam", "CreateAccessKey", {"UserName": user})["AccessKey"]
        answer = {
            "name": made["UserName"],
            "accessKeyId": made["AccessKeyId"],
            "secretAccessKey": made["SecretAccessKey"],
        }
    else:
        assert policy is not None
        text = disk.read(policy, limit=1 << 16).decode()
        answer = api.marram("identity/CreateKey", {"name": name, "policy": text})
    if given.json:
        print_json(answer)
    else:
        print(f"export AWS_ACCESS_KEY_ID='{answer['accessKeyId']}'")
        print(f"export AWS_SECRET_ACCESS_KEY='{answer['secretAccessKey']}'")
    return DONE


def _list(given: argparse.Namespace) -> int:
    from marram.cli import client

    api = client.Api.from_data(given.data)
    keys: list[dict[str, object]] = []
    request: dict[str, object] = {}
    while True:
        answer = api.marram("identity/ListKeys", request)
        keys += answer["keys"]
        if not answer.get("nextToken"):
            break
        request = {"nextToken": answer["nextToken"]}
    if given.json:
        print_json(keys)
    else:
        table(
            [[key["accessKeyId"], key["name"], key["status"], key.get("lastUsedService", "never")] for key in keys],
            ["KEY", "USER", "STATUS", "LAST USED"],
        )
    return DONE


def _set(given: argparse.Namespace, status: str) -> int:
    from marram.cli import client

    api = client.Api.from_data(given.data)
    owner = api.call("iam", "GetAccessKeyLastUsed", {"AccessKeyId": given.key_id})["UserName"]
    api.call("iam", "UpdateAccessKey", {"UserName": owner, "AccessKeyId": given.key_id, "Status": status})
    return DONE


def _delete(given: argparse.Namespace) -> int:
    from marram.cli import client

    client.Api.from_data(given.data).marram("identity/DeleteKey", {"accessKeyId": given.key_id})
    return DONE
