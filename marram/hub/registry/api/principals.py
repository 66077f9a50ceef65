"""The certificates of things."""

from collections.abc import Sequence
from typing import Final

from marram.core.codec import JsonValue
from marram.hub.listing import cut
from marram.hub.registry.api import wire
from marram.hub.registry.service import Registry
from marram.hub.slice import Call, Params, Result, operation

EXCLUSIVE: Final = "EXCLUSIVE_THING"
SHARED: Final = "NON_EXCLUSIVE_THING"


@operation("iot", "AttachThingPrincipal", resource=wire.thing_and_principal)
async def attach_thing_principal(service: Registry, call: Call, params: Params) -> Result:
    exclusive = params.get("thingPrincipalType") == EXCLUSIVE
    await service.principals.attach(params["thingName"], params["principal"], exclusive=exclusive)
    return {}


@operation("iot", "DetachThingPrincipal", resource=wire.thing_and_principal)
async def detach_thing_principal(service: Registry, call: Call, params: Params) -> Result:
    await service.principals.detach(params["thingName"], params["principal"])
    return {}


@operation("iot", "ListThingPrincipals", resource=wire.thing)
async def list_thing_principals(service: Registry, call: Call, params: Params) -> Result:
    rows, token = await _principals(service, params)
    return {"principals": [principal for principal, _ in rows], "nextToken": token}


@operation("iot", "ListThingPrincipalsV2", resource=wire.thing)
async def list_thing_principals_v2(service: Registry, call: Call, params: Params) -> Result:
    rows, token = await _principals(service, params)
    objects = [{"principal": principal, "thingPrincipalType": _kind(bound)} for principal, bound in rows]
    return {"thingPrincipalObjects": _of_kind(objects, params), "nextToken": token}


@operation("iot", "ListPrincipalThings", resource=wire.principal)
async def list_principal_things(service: Registry, call: Call, params: Params) -> Result:
    rows, token = await _things_of(service, params)
    return {"things": [thing for thing, _ in rows], "nextToken": token}


@operation("iot", "ListPrincipalThingsV2", resource=wire.principal)
async def list_principal_things_v2(service: Registry, call: Call, params: Params) -> Result:
    rows, token = await _things_of(service, params)
    objects = [{"thingName": thing, "thingPrincipalType": _kind(bound)} for thing, bound in rows]
    return {"principalThingObjects": _of_kind(objects, params), "nextToken": token}


async def _principals(service: Registry, params: Params) -> tuple[Sequence[tuple[str, bool]], JsonValue]:
    after, limit = wire.asked(params)
    rows = await service.principals.of_thing(params["thingName"], after, limit + 1)
    return cut(rows, limit, lambda row: row[0].rpartition("/")[2])


async def _things_of(service: Registry, params: Params) -> tuple[Sequence[tuple[str, bool]], JsonValue]:
    after, limit = wire.asked(params)
    rows = await service.principals.things_of(params["principal"], after, limit + 1)
    return cut(rows, limit, lambda row: row[0])


def _kind(exclusive: bool) -> str:
    return EXCLUSIVE if exclusive else SHARED


def _of_kind(objects: list[dict[str, str]], params: Params) -> list[dict[str, str]]:
    wanted = params.get("thingPrincipalType")
    return [found for found in objects if wanted is None or found["thingPrincipalType"] == wanted]
