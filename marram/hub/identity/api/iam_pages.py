"""What operations of iam have in common: lists by Marker and MaxItems, tags, and what is refused by name."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from marram.core.codec import JsonValue
from marram.core.errors import Invalid, Unsupported
from marram.hub.identity.service import Identity
from marram.hub.identity.store_iam import Tags
from marram.hub.slice import Call, Params

T = TypeVar("T")

PAGE = 100


def size(params: Params) -> int:
    return int(params.get("MaxItems") or PAGE)


def after(params: Params) -> str:
    last = params.get("Marker")
    return last if isinstance(last, str) else ""


def page(
    member: str,
    items: Sequence[T],
    params: Params,
    show: Callable[[T], object],
    key: Callable[[T], JsonValue],
) -> dict[str, object]:
    """The answer of a list operation; `items` has one more than is shown, when there is more."""
    shown = items[: size(params)]
    more = len(items) > len(shown)
    answer: dict[str, object] = {member: [show(item) for item in shown], "IsTruncated": more}
    return answer | ({"Marker": key(shown[-1])} if more else {})


def page_of_names(
    member: str, names: Sequence[str], params: Params, show: Callable[[str], object]
) -> dict[str, object]:
    """A page of a list that is short enough to be read whole; names in order."""
    rest = [name for name in names if name > after(params)]
    return page(member, rest[: size(params) + 1], params, show, lambda name: name)


def tags(params: Params) -> Tags:
    """Raises Invalid for a key that is given twice."""
    pairs = tuple((str(tag["Key"]), str(tag["Value"])) for tag in params.get("Tags") or ())
    if len({key.lower() for key, _ in pairs}) < len(pairs):
        raise Invalid("Duplicate tag keys found. Please note that Tag keys are case insensitive.", kind="input")
    return pairs


def shown_tags(tags: Tags) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in tags]


def refuse(params: Params, names: Mapping[str, str]) -> None:
    """Raises Unsupported for a member that means something we do not have."""
    for name, why in names.items():
        if params.get(name):
            raise Unsupported(f"{name}: {why}")


NO_BOUNDARY = {"PermissionsBoundary": "permissions boundaries are not supported"}


def identity(call: Call) -> Identity:
    """For resource functions."""
    service = call.extra["service"]
    assert isinstance(service, Identity)
    return service


def user_named(call: Call, params: Params) -> str:
    """The user that is meant: the named one, or the caller. Raises Invalid for a caller who is no user."""
    name = params.get("UserName")
    if name is not None:
        return str(name)
    if call.subject.kind != "key":
        raise Invalid("Must specify userName when calling with non-User credentials")
    return str(call.subject.attributes["aws:username"])


def user_arn(call: Call, params: Params) -> str:
    return identity(call).users.arn_named(user_named(call, params), str(params.get("Path") or "/"))


def role_arn(call: Call, params: Params) -> str:
    return identity(call).roles.arn_named(str(params["RoleName"]), str(params.get("Path") or "/"))


def policy_arn(_call: Call, params: Params) -> str:
    return str(params["PolicyArn"])
