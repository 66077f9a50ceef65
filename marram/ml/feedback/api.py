"""Own operations on feedback."""

from marram.core.errors import Invalid
from marram.hub.slice import Call, Params, Result, anything, operation
from marram.ml import access
from marram.ml.feedback.service import Feedback


@operation("marram", "feedback/ListFeedback", resource=anything)
async def listing(service: Feedback, call: Call, params: Params) -> Result:
    limit = int(params.get("limit") or 100)
    after = (0, "")
    match params.get("nextToken"):
        case None:
            pass
        case [int() as received, str() as sha256]:
            after = (received, sha256)
        case _:
            raise Invalid("the page token is of another list")
    found = await service.listing(params.get("thing"), after=after, limit=limit)
    result: dict[str, object] = {"items": found, "total": await service.count()}
    if len(found) == limit:
        result["nextToken"] = [found[-1]["receivedMs"], found[-1]["sha256"]]
    return result


@operation("marram", "feedback/ExportFeedback", resource=anything)
async def export(service: Feedback, call: Call, params: Params) -> Result:
    count = await service.export(
        params["manifestUri"],
        items=params.get("items") or (),
        limit=int(params.get("limit") or 1000),
        caller=access.of(call),
    )
    return {"items": count}
