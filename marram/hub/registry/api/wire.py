"""What the operations share: the ARNs they are checked on, and parts of parameters."""

from typing import Final

from marram.core import arn
from marram.core.errors import Invalid
from marram.hub.slice import Call, Params

PAGE: Final = 50


def thing(call: Call, params: Params) -> str:
    return arn.build("iot", call.region, call.account, f"thing/{params['thingName']}")


def thing_type(call: Call, params: Params) -> str:
    return arn.build("iot", call.region, call.account, f"thingtype/{params['thingTypeName']}")


def group(call: Call, params: Params) -> str:
    return arn.build("iot", call.region, call.account, f"thinggroup/{params['thingGroupName']}")


def group_and_parent(call: Call, params: Params) -> list[str]:
    """A child has the policies of its parent: who makes one needs the right on both, as in AWS."""
    parent = params.get("parentGroupName")
    above = [arn.build("iot", call.region, call.account, f"thinggroup/{parent}")] if parent else []
    return [group(call, params), *above]


def principal(_call: Call, params: Params) -> str:
    return str(params["principal"])


def thing_and_principal(call: Call, params: Params) -> list[str]:
    return [thing(call, params), principal(call, params)]


def member(call: Call, params: Params) -> list[str]:
    named, of_group = thing_and_group(call, params)
    return [
        arn.build("iot", call.region, call.account, f"thing/{named}"),
        arn.build("iot", call.region, call.account, f"thinggroup/{of_group}"),
    ]


def moved(call: Call, params: Params) -> list[str]:
    """A thing, and all the groups that it is to enter and leave."""
    names = [*(params.get("thingGroupsToAdd") or ()), *(params.get("thingGroupsToRemove") or ())]
    return [
        arn.build("iot", call.region, call.account, f"thing/{thing_name(params)}"),
        *(arn.build("iot", call.region, call.account, f"thinggroup/{name}") for name in names),
    ]


def thing_name(params: Params) -> str:
    """Where the model does not demand one."""
    if not params.get("thingName"):
        raise Invalid("thingName is needed")
    return str(params["thingName"])


def thing_and_group(call: Call, params: Params) -> tuple[str, str]:
    """Their names; each is given by name or ARN."""
    return _one_name(call, params, "thing", "thing"), _one_name(call, params, "thingGroup", "thinggroup")


def asked(params: Params) -> tuple[str, int]:
    """(last name of the page before, size of this one)."""
    return str(params.get("nextToken") or ""), int(params.get("maxResults") or PAGE)


def inner(params: Params, name: str) -> Params:
    """A structure within the parameters; empty where it is left out."""
    found: Params = params.get(name) or {}
    return found


def _one_name(call: Call, params: Params, what: str, kind: str) -> str:
    name, text = params.get(f"{what}Name"), params.get(f"{what}Arn")
    if text is not None:
        parsed = arn.parse(text)
        found, _, of_arn = parsed.resource.partition("/")
        if found != kind or (parsed.service, parsed.region, parsed.account) != ("iot", call.region, call.account):
            raise Invalid(f"{what}Arn {text!r} is not the ARN of a {kind} of this hub")
        if name is not None and name != of_arn:
            raise Invalid(f"{what}Name and {what}Arn name two of them")
        return of_arn
    if name is None:
        raise Invalid(f"{what}Name or {what}Arn is needed")
    return str(name)
