"""Things by the hundred."""

from typing import Any

from marram.core import arn
from marram.hub.registry.service import NewThing, Registry
from marram.hub.slice import Call, Params, Result, operation


def _all(call: Call, params: Params) -> list[str]:
    """Every thing and every group that is named."""
    resources = [f"thing/{each['thingName']}" for each in params["things"]]
    resources += sorted(
        {f"thinggroup/{name}" for each in params["things"] for name in each.get("thingGroupNames") or ()}
    )
    return [arn.build("iot", call.region, call.account, resource) for resource in resources]


@operation("marram", "registry/ImportThings", resource=_all)
async def import_things(service: Registry, call: Call, params: Params) -> Result:
    batch = [_wanted(each) for each in params["things"]]
    authorise = call.extra.get("authorise")
    if callable(authorise):  # filled by the border
        for certificate in service.importing.certificate_arns(batch):
            authorise("iot:AttachThingPrincipal", certificate)
    if params.get("dryRun"):
        problems = await service.importing.check(batch)
        shown = [{"index": each.index, "thingName": each.thing, "message": each.message} for each in problems]
        return {"things": [], "problems": shown}
    done = await service.importing.run(batch)
    return {
        "things": [
            {
                "thingName": each.name,
                "thingArn": service.arns.thing(each.name),
                "thingId": each.id,
                "created": each.created,
                "certificateArn": each.certificate_arn or None,
                "certificatePem": each.certificate_pem or None,
            }
            for each in done
        ],
        "problems": [],
    }


def _wanted(given: dict[str, Any]) -> NewThing:
    return NewThing(
        name=given["thingName"],
        type=given.get("thingTypeName") or "",
        attributes=given.get("attributes") or {},
        groups=given.get("thingGroupNames") or (),
        csr=given.get("certificateSigningRequest") or "",
        certificate=given.get("certificatePem") or "",
    )
