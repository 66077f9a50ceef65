"""`marram audit`: what administrators did, and whether the log of it is whole."""

import argparse
import datetime
from pathlib import Path

from marram.cli.main import DONE, PROBLEMS, command, print_json, table


@command("audit", help="the log of administrative acts: list, verify")
def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    listing = verbs.add_parser(
        "list", help="acts, newest first", epilog="example: marram audit list --limit 20 --data var/hub"
    )
    listing.add_argument("--principal", metavar="ARN", help="only of this caller")
    listing.add_argument("--operation", metavar="SERVICE:NAME", help="only this, e.g. iot:AttachPolicy")
    listing.add_argument("--limit", type=int, default=100, metavar="N", help="at most so many; 0: all (100)")
    listing.set_defaults(run=_list)
    verify = verbs.add_parser(
        "verify", help="check the chain; exit 8 when an act was changed or is gone",
        epilog="example: marram audit verify --data var/hub",
    )  # fmt: skip
    verify.set_defaults(run=_verify)
    for verb in (listing, verify):
        verb.add_argument("--data", type=Path, required=True, metavar="DIR")
        verb.add_argument("--json", action="store_true")


def _list(given: argparse.Namespace) -> int:
    from marram.cli import client

    api = client.Api.from_data(given.data)
    request: dict[str, object] = {"limit": min(given.limit, 1000) if given.limit > 0 else 1000}
    for name in ("principal", "operation"):
        if getattr(given, name) is not None:
            request[name] = getattr(given, name)
    acts: list[dict[str, object]] = []
    while True:
        answer = api.marram("audit/ListAuditActs", request)
        acts += answer["acts"]
        if not answer.get("nextToken") or 0 < given.limit <= len(acts):
            break
        request["nextToken"] = answer["nextToken"]
    if given.limit > 0:
        acts = acts[: given.limit]
    if given.json:
        print_json(acts)
        return DONE
    table(
        [
            [
                _time(int(str(act["atMs"]))),
                str(act["principal"]).rpartition(":")[2],
                str(act["sourceIp"]),
                str(act["operation"]),
                str(act["outcome"]),
                ", ".join(str(resource) for resource in act.get("resources") or ()),  # type: ignore[attr-defined]
            ]
            for act in acts
        ],
        ["TIME", "WHO", "FROM", "OPERATION", "OUTCOME", "RESOURCES"],
    )
    return DONE


def _verify(given: argparse.Namespace) -> int:
    from marram.cli import client

    api = client.Api.from_data(given.data)
    checked, request = 0, dict[str, object]()
    while True:
        answer = api.marram("audit/VerifyAuditLog", request)
        checked += int(answer["checked"])
        if not answer.get("nextToken"):
            break
        request = {"nextToken": answer["nextToken"]}
    problem = answer.get("problem")
    if given.json:
        print_json({"checked": checked, "last": answer["last"], "digest": answer["digest"], "problem": problem})
    elif problem:
        print(f"the audit log is not whole: {problem}")
    else:
        print(f"{checked} acts are whole; the newest is {answer['last']}, digest {str(answer['digest'])[:16]}")
    return PROBLEMS if problem else DONE


def _time(at_ms: int) -> str:
    return datetime.datetime.fromtimestamp(at_ms / 1000, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
