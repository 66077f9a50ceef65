"""`marram role`: rights that others take on for a time."""

import argparse
import json
from pathlib import Path

from marram.cli import entities
from marram.cli.main import DONE, command, print_json
from marram.core.errors import Invalid
from marram.kit import disk


@command("role", help="roles: create, list, attach and detach policies, assume, delete")
def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example: marram role create camera --service credentials.iot.amazonaws.com --data var/hub"
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    create = entities.add(
        verbs, "role", "create", "a new role, for a service of the hub or for whom a trust policy names", _create,
        "camera --service credentials.iot.amazonaws.com --policy camera.json",
    )  # fmt: skip
    create.add_argument("name", metavar="NAME")
    create.add_argument("--path", default="/", help="/ or /team/")
    who = create.add_mutually_exclusive_group(required=True)
    who.add_argument("--trust", type=Path, metavar="FILE", help="a trust policy")
    who.add_argument("--service", metavar="NAME", help="iot.amazonaws.com, credentials.iot.amazonaws.com, ...")
    who.add_argument("--user", metavar="NAME", help="a user, at its path if it has one (team/anna)")
    create.add_argument("--attach", action="append", default=[], metavar="POLICY", help="a managed policy")
    create.add_argument("--policy", type=Path, metavar="FILE", help="an IAM policy document of its own")
    assume = entities.add(
        verbs, "role", "assume", "temporary credentials of a role, as exports", _assume, "camera --session me"
    )
    assume.add_argument("name", metavar="NAME", help="its name, or its ARN")
    assume.add_argument(
        "--session", default="marram", metavar="NAME", help="what the session is called in the audit log"
    )
    assume.add_argument("--duration", type=int, metavar="SECONDS", help="900 and more; an hour when it is not given")
    entities.add_common(verbs, "role")


def _create(given: argparse.Namespace) -> int:
    api = entities.api(given)
    for policy in given.attach:
        entities.policy_arn(policy)  # before anything is made
    trust = disk.read(given.trust, limit=1 << 16).decode() if given.trust else _trusting(given)
    request = {"RoleName": given.name, "Path": given.path, "AssumeRolePolicyDocument": trust}
    made = api.call("iam", "CreateRole", request)["Role"]
    entities.give(api, "Role", given.name, given.attach, given.policy)
    if given.json:
        print_json(made)
    else:
        print(made["Arn"])
    return DONE


def _trusting(given: argparse.Namespace) -> str:
    if given.service:
        principal = {"Service": given.service}
    else:
        account = entities.api(given).call("sts", "GetCallerIdentity")["Account"]
        principal = {"AWS": f"arn:aws:iam::{account}:user/{given.user}"}
    row = {"Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole"}
    return json.dumps({"Version": "2012-10-17", "Statement": [row]})


def _assume(given: argparse.Namespace) -> int:
    api = entities.api(given)
    arn = given.name
    if not arn.startswith("arn:"):
        arn = api.call("iam", "GetRole", {"RoleName": given.name})["Role"]["Arn"]
    request: dict[str, object] = {"RoleArn": arn, "RoleSessionName": given.session}
    if given.duration is not None:
        if given.duration < 900:
            raise Invalid("--duration: a session lasts 900 seconds at least")
        request["DurationSeconds"] = given.duration
    answer = api.call("sts", "AssumeRole", request)
    got = answer["Credentials"]
    if given.json:
        print_json(answer)
    else:
        print(f"export AWS_ACCESS_KEY_ID='{got['AccessKeyId']}'")
        print(f"export AWS_SECRET_ACCESS_KEY='{got['SecretAccessKey']}'")
        print(f"export AWS_SESSION_TOKEN='{got['SessionToken']}'")
    return DONE
