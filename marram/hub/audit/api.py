"""Own operations of the audit log: List and Verify. Nothing here writes or deletes: the door writes, time prunes."""

from marram.core import codec
from marram.core.errors import Invalid
from marram.hub.audit.service import LATEST_MS, Audit
from marram.hub.slice import Call, Params, Result, anything, operation


@operation("marram", "audit/ListAuditActs", resource=anything)
async def list_acts(service: Audit, call: Call, params: Params) -> Result:
    before = params.get("nextToken", LATEST_MS)
    if not isinstance(before, int):
        raise Invalid("the page token is of another list")
    limit = int(params.get("limit") or 100)
    found = await service.page(
        before=before, limit=limit, from_ms=int(params.get("fromMs") or 0), to_ms=params.get("toMs"),
        principal=params.get("principal"), operation=params.get("operation"),
    )  # fmt: skip
    acts = [{**codec.loads_object(stored.entry, what="act"), "digest": stored.digest.hex()} for stored in found]
    result: dict[str, object] = {"acts": acts}
    if len(found) == limit:
        result["nextToken"] = found[-1].seq
    return result


@operation("marram", "audit/VerifyAuditLog", resource=anything)
async def verify(service: Audit, call: Call, params: Params) -> Result:
    given = params.get("nextToken")
    match given:
        case None:
            checked = await service.verify()
        case [int() as last, str() as digest]:
            checked = await service.verify(after=last, digest=bytes.fromhex(digest))
        case _:
            raise Invalid("the page token is of another list")
    result: dict[str, object] = {"checked": checked.checked, "last": checked.last, "digest": checked.digest.hex()}
    if checked.problem is not None:
        result["problem"] = checked.problem
    elif not checked.done:
        result["nextToken"] = [checked.last, checked.digest.hex()]
    return result
