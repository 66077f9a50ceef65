"""`marram policy`: why a request is allowed or denied, and what a changed policy would do before it is one."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from marram.cli.main import DONE, PROBLEMS, WrongUsage, command, plain, print_json, table
from marram.core import codec
from marram.core.errors import Invalid
from marram.kit import disk

MAX_DOCUMENT: Final = 1 << 20
MAX_REQUESTS: Final = 4 << 20
A_CALL: Final = 1000  # requests
MEMBERS: Final = ("principal", "clientId", "action", "resource", "context")


@command("policy", help="policies of devices: explain a decision, try a change before it is made")
def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    explain = verbs.add_parser(
        "explain",
        help="which statements decide about a request, with which values, and why the others do not",
        epilog="example: marram policy explain --principal arn:aws:iot:local-1:000000000001:cert/CERTIFICATE-ID"
        " --client-id lamp --action iot:Publish --resource arn:aws:iot:local-1:000000000001:topic/plant/7"
        " --data var/hub",
    )
    explain.add_argument(
        "--principal", required=True, help="the ARN of a certificate, a user or a role, or an access key id"
    )
    explain.add_argument("--action", required=True, help="such as iot:Publish")
    explain.add_argument("--resource", required=True, metavar="ARN")
    explain.add_argument("--client-id", metavar="ID")
    explain.add_argument(
        "--context", action="append", default=[], metavar="KEY=VALUE", help="a condition key; again for more values"
    )
    explain.set_defaults(run=_explain)
    trial = verbs.add_parser(
        "try",
        help="what would change if the policy read otherwise; exit code 8 when something would be newly denied",
        epilog="example: marram policy try --name sensors --document new.json --live --data var/hub",
    )
    trial.add_argument("--name", required=True, help="the policy that is there")
    trial.add_argument("--document", type=Path, required=True, metavar="FILE", help="how it would read")
    trial.add_argument(
        "--requests", type=Path, metavar="FILE", help=f"a JSON list of objects with {', '.join(MEMBERS)} to try it on"
    )
    trial.add_argument(
        "--live", action="store_true", help="try it on the connections, subscriptions and topics of this moment"
    )
    trial.set_defaults(run=_try)
    for verb in (explain, trial):
        verb.add_argument("--data", type=Path, required=True, metavar="DIR")
        verb.add_argument("--json", action="store_true")


def _explain(given: argparse.Namespace) -> int:
    from marram.cli import client

    context: dict[str, list[str]] = {}
    for pair in given.context:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise WrongUsage(f"--context {pair!r} is not KEY=VALUE")
        context.setdefault(key, []).append(value)
    request = {"principal": given.principal, "action": given.action, "resource": given.resource, "context": context}
    if given.client_id is not None:
        request["clientId"] = given.client_id
    answer = client.Api.from_data(given.data).marram("identity/ExplainPolicy", request)
    if given.json:
        print_json(answer)
        return DONE
    print(plain(f"{answer['decision']}: {answer['why']}"))
    if answer["missing"]:
        print(f"without a value: {', '.join(answer['missing'])}")
    rows = [
        [
            f"{step['policyName']}[{step['statement']}]",
            step["sid"],
            step["effect"],
            "applies" if step["applies"] else "no",
            step["why"],
            " ".join(f"{key}={value!r}" for key, value in step["values"].items()),
        ]
        for step in answer["statements"]
    ]
    if rows:
        table(rows, ["STATEMENT", "SID", "EFFECT", "", "WHY", "VALUES"])
    return DONE


def _try(given: argparse.Namespace) -> int:
    from marram.cli import client

    if given.requests is None and not given.live:
        raise WrongUsage("there is nothing to try the policy on: give --requests FILE, --live, or both")
    document = disk.read(given.document, limit=MAX_DOCUMENT).decode()
    requests = _requests(given.requests) if given.requests is not None else []
    api = client.Api.from_data(given.data)
    call: dict[str, Any] = {"policyName": given.name, "policyDocument": document}
    answer: dict[str, Any] = {"newlyDenied": 0, "newlyAllowed": 0, "requests": []}
    pieces = [requests[at : at + A_CALL] for at in range(0, len(requests), A_CALL)] or [[]]
    for piece in pieces:
        asks_live = given.live and piece is pieces[-1]
        part = api.marram("broker/DryRunPolicy", {**call, "requests": piece, "live": asks_live})
        answer["requests"] += part["requests"]
        answer["newlyDenied"] += part["newlyDenied"]
        answer["newlyAllowed"] += part["newlyAllowed"]
        if "live" in part:
            answer["live"] = part["live"]
    if given.json:
        print_json(answer)
    else:
        _show(answer)
    return PROBLEMS if answer["newlyDenied"] else DONE


def _requests(path: Path) -> list[dict[str, Any]]:
    """The file's requests, as the operation takes them. Raises Invalid with the number of the one that is wrong."""
    listed = codec.loads(disk.read(path, limit=MAX_REQUESTS))
    if not isinstance(listed, list) or not listed:
        raise Invalid(f"{path}: must be a JSON list of at least one request")
    found: list[dict[str, Any]] = []
    for at, each in enumerate(listed):
        if not isinstance(each, dict):
            raise Invalid(f"{path}[{at}]: must be an object, not {codec.kind(each)}")
        if unknown := each.keys() - set(MEMBERS):
            raise Invalid(f"{path}[{at}]: unknown member {min(unknown)!r}; known are {', '.join(MEMBERS)}")
        if missing := {"principal", "action", "resource"} - each.keys():
            raise Invalid(f"{path}[{at}]: {min(missing)} is missing")
        context = each.get("context", {})
        if not isinstance(context, dict):
            raise Invalid(f"{path}[{at}].context: must be an object of condition keys")
        texts = {key: value if isinstance(value, list) else [value] for key, value in context.items()}
        found.append({**each, "context": texts})
    return found


def _show(answer: Mapping[str, Any]) -> None:
    live = answer.get("live")
    changes: Sequence[Mapping[str, Any]] = [
        *(each for each in answer["requests"] if each["before"] != each["after"]),
        *(live["changes"] if live else ()),
    ]
    looked = [f"{len(answer['requests'])} requests"] if answer["requests"] else []
    if live:
        looked.append(
            f"{live['clients']} clients with the policy ({live['connections']} connected, {live['subscriptions']}"
            f" subscriptions, {live['topics']} topics)"
        )
    print(
        f"tried on {' and '.join(looked)}: {answer['newlyDenied']} newly denied, {answer['newlyAllowed']} newly allowed"
    )
    if changes:
        table(
            [
                [each.get("clientId", "-"), each["action"], each["resource"], f"{each['before']} -> {each['after']}"]
                for each in changes
            ],
            ["CLIENT", "ACTION", "RESOURCE", "CHANGE"],
        )
        for each in changes:
            print(plain(f"{each.get('clientId', '-')} {each['action']}: {each['why']}"))
    if live and live["truncated"]:
        print(f"the first {len(live['changes'])} changes among the live clients are shown")
