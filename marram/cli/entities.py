"""What `marram user` and `marram role` have in common: listing, managed policies, deleting with all that hangs on it."""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from marram.cli.main import DONE, print_json, table
from marram.core.errors import Invalid
from marram.kit import disk

if TYPE_CHECKING:
    from marram.cli.client import Api

INLINE: Final = "own"  # the inline policy that the command line writes
Verb = Callable[[argparse.Namespace], int]


class Verbs(Protocol):
    """What argparse's add_subparsers gives."""

    def add_parser(self, name: str, *, help: str, epilog: str) -> argparse.ArgumentParser: ...


def api(given: argparse.Namespace) -> "Api":
    from marram.cli import client

    return client.Api.from_data(given.data)


def add(
    verbs: Verbs,
    kind: str,
    name: str,
    help: str,
    run: Verb,
    example: str,
) -> argparse.ArgumentParser:
    """One verb of `kind` (user or role), with --data and --json."""
    parser = verbs.add_parser(
        name, help=help, epilog=f"example: marram {kind} {name} {example} --data var/hub".replace("  ", " ")
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the hub's folder")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=run)
    return parser


def add_common(verbs: Verbs, kind: str) -> None:
    """list, attach, detach, delete."""
    title = kind.title()
    add(verbs, kind, "list", f"all {kind}s with their policies", partial(_list, title=title), "")
    for name, help in (("attach", "give it a managed policy"), ("detach", "take a managed policy away")):
        run = partial(_attach, title=title, verb=name.title())
        parser = add(verbs, kind, name, help, run, "anna ReadOnlyAccess")
        parser.add_argument("name", metavar="NAME")
        parser.add_argument("policy", metavar="POLICY", help="its ARN, or the name of one that comes with Marram")
    parser = add(verbs, kind, "delete", f"delete a {kind}", partial(_delete, title=title), "anna --force")
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("--force", action="store_true", help="also its keys, its policies, and what is attached")


def give(calls: "Api", title: str, name: str, policies: list[str], document: Path | None) -> None:
    """Managed policies and a document of its own, for a new one."""
    for policy in policies:
        calls.call("iam", f"Attach{title}Policy", {f"{title}Name": name, "PolicyArn": policy_arn(policy)})
    if document is not None:
        text = disk.read(document, limit=1 << 16).decode()
        request = {f"{title}Name": name, "PolicyName": INLINE, "PolicyDocument": text}
        calls.call("iam", f"Put{title}Policy", request)


def policy_arn(text: str) -> str:
    """Raises Invalid for a name that is none of ours."""
    from marram.hub.identity.builtin import BUILTIN  # a device has no hub

    if text.startswith("arn:"):
        return text
    for policy in BUILTIN.values():
        if policy.name == text:
            return policy.arn
    known = ", ".join(sorted(policy.name for policy in BUILTIN.values()))
    raise Invalid(f"{text!r} is neither an ARN nor a policy that comes with Marram: {known}")


def rows(answer: dict[str, Any], member: str) -> list[Any]:
    found: object = answer.get(member)
    return list(cast("Sequence[Any]", found)) if isinstance(found, list) else []


def every(calls: "Api", operation: str, member: str, request: dict[str, object] | None = None) -> list[dict[str, Any]]:
    """All pages of a list of iam."""
    found: list[dict[str, Any]] = []
    request = dict(request or {})
    while True:
        answer = calls.call("iam", operation, request)
        found += rows(answer, member)
        if answer.get("IsTruncated") != "true":
            return found
        request["Marker"] = answer["Marker"]


def _list(given: argparse.Namespace, title: str) -> int:
    calls = api(given)
    found = every(calls, f"List{title}s", f"{title}s")
    for row in found:
        who = {f"{title}Name": row[f"{title}Name"]}
        attached = rows(calls.call("iam", f"ListAttached{title}Policies", who), "AttachedPolicies")
        row["policies"] = [policy["PolicyName"] for policy in attached]
        row["inlinePolicies"] = rows(calls.call("iam", f"List{title}Policies", who), "PolicyNames")
    if given.json:
        print_json(found)
    else:
        shown = [[row["Arn"], ", ".join([*row["policies"], *row["inlinePolicies"]])] for row in found]
        table(shown, [title.upper(), "POLICIES"])
    return DONE


def _attach(given: argparse.Namespace, title: str, verb: str) -> int:
    request = {f"{title}Name": given.name, "PolicyArn": policy_arn(given.policy)}
    api(given).call("iam", f"{verb}{title}Policy", request)
    return DONE


def _delete(given: argparse.Namespace, title: str) -> int:
    calls, who = api(given), {f"{title}Name": given.name}
    if given.force:
        if title == "User":
            for key in rows(calls.call("iam", "ListAccessKeys", who), "AccessKeyMetadata"):
                calls.call("iam", "DeleteAccessKey", {**who, "AccessKeyId": key["AccessKeyId"]})
        for policy in rows(calls.call("iam", f"ListAttached{title}Policies", who), "AttachedPolicies"):
            calls.call("iam", f"Detach{title}Policy", {**who, "PolicyArn": policy["PolicyArn"]})
        for name in rows(calls.call("iam", f"List{title}Policies", who), "PolicyNames"):
            calls.call("iam", f"Delete{title}Policy", {**who, "PolicyName": name})
    calls.call("iam", f"Delete{title}", who)
    return DONE
