"""iam:PassRole: whoever hands a role to a service of the hub must be allowed to pass it, or could act with more than his rights.

Every member of a request whose name ends in "roleArn" is a role that is handed over, in whatever operation, so that no
slice can forget to ask. Not here: sts and iam, which name roles and do not pass them; whether the role exists and trusts
the service (identity.check_role).
"""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final, cast

from marram.hub.border import plans
from marram.hub.border.plans import Plan, PlannedOperation

ACTION: Final = "iam:PassRole"
SERVICE_KEY: Final = "iam:PassedToService"
_SERVICES: Final[Mapping[str, str]] = {
    "iot": "iot.amazonaws.com", "greengrassv2": "greengrass.amazonaws.com", "sagemaker": "sagemaker.amazonaws.com",
    "marram": "iot.amazonaws.com",
}  # fmt: skip
_OF_DEVICES: Final = frozenset({"CreateRoleAlias", "UpdateRoleAlias"})


def roles(plan: Plan, operation: PlannedOperation, params: Mapping[str, Any]) -> list[str]:
    """The roles that a call hands over."""
    if plan.service not in _SERVICES or operation.input is None or not _may_pass(plan.service, operation.input):
        return []
    return sorted(set(_found(params)))


def service(plan: Plan, operation: PlannedOperation) -> str:
    """The service principal that gets them."""
    return "credentials.iot.amazonaws.com" if operation.name in _OF_DEVICES else _SERVICES[plan.service]


def _found(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for name, item in cast("dict[str, object]", value).items():
            if isinstance(item, str):
                if _names_role(name) and item:
                    yield item
            else:
                yield from _found(item)
    elif isinstance(value, list):
        for item in cast("list[object]", value):
            yield from _found(item)


@cache
def _may_pass(service: str, shape_name: str) -> bool:
    """Whether a role can stand anywhere in an input: nearly all operations have none and need not be searched."""
    shapes = plans.load(service).shapes
    waiting, seen = [shape_name], {shape_name}
    while waiting:
        shape = shapes[waiting.pop()]
        members: Mapping[str, Any] = shape.get("members", {})
        if any(_names_role(name) for name in members):
            return True
        refs = [*members.values(), *(shape[part] for part in ("member", "value") if part in shape)]
        for ref in refs:
            if ref["shape"] not in seen:
                seen.add(ref["shape"])
                waiting.append(ref["shape"])
    return False


def _names_role(member: str) -> bool:
    return member.lower().endswith("rolearn")
