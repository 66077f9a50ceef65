"""`marram key`: access keys with rights of their own."""

import argparse
from pathlib import Path

from marram.cli.main import DONE, command, print_json, table
from marram.kit import disk


@command("key", help="access keys: create with a policy, list, delete")
def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    create = verbs.add_parser(
        "create",
        help="a new key; its secret is shown once",
        epilog="example: marram key create --policy ci.json --name ci --data var/hub",
    )
    create.add_argument("--policy", type=Path, required=True, metavar="FILE", help="an IAM policy document")
    create.add_argument("--name", required=True, help="for whom the key is")
    listing = verbs.add_parser("list", help="all keys, without their secrets")
    delete = verbs.add_parser("delete", help="end a key at once")
    delete.add_argument("key_id", metavar="ACCESS_KEY_ID")
    for verb, run in ((create, _create), (listing, _list), (delete, _delete)):
        verb.add_argument("--data", type=Path, required=True, metavar="DIR")
        verb.add_argument("--json", action="store_true")
        verb.set_defaults(run=run)


def _create(given: argparse.Namespace) -> int:
    from marram.cli import client

    policy = disk.read(given.policy, limit=1 << 16).decode()
    answer = client.Api.from_data(given.data).marram("identity/CreateKey", {"name": given.name, "policy": policy})
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
        table([[key["accessKeyId"], key["name"]] for key in keys], ["KEY", "NAME"])
    return DONE


def _delete(given: argparse.Namespace) -> int:
    from marram.cli import client

    client.Api.from_data(given.data).marram("identity/DeleteKey", {"accessKeyId": given.key_id})
    return DONE
