"""Our own: what a changed policy would do to requests and to the clients that are here."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

from marram.core import arn
from marram.core.errors import Invalid
from marram.core.policy import variables
from marram.hub.broker.dryrun import Outcome, Request
from marram.hub.slice import Call, Params, Result, operation

if TYPE_CHECKING:
    from marram.hub.broker.service import Broker


def _looked_at(call: Call, params: Params) -> list[str]:
    """The policy, everybody whose rights the answer tells of, and with `live` the clients that are here."""
    found = [arn.build("iot", call.region, call.account, f"policy/{params['policyName']}")]
    found += sorted({str(each["principal"]) for each in params.get("requests") or ()})
    return [*found, arn.build("iot", call.region, call.account, "client/*")] if params.get("live") else found


@operation("marram", "broker/DryRunPolicy", resource=_looked_at)
async def dry_run_policy(service: "Broker", call: Call, params: Params) -> Result:
    asked: Sequence[Mapping[str, object]] = params.get("requests") or []
    wants_live = bool(params.get("live"))
    if not asked and not wants_live:
        raise Invalid("DryRunPolicy has nothing to try the policy on: give requests, or live")
    policy = await service.dry_run.compiled(str(params["policyName"]), str(params["policyDocument"]))
    outcomes = service.dry_run.requests(policy, [_request(each) for each in asked])
    denied, allowed = sum(each.is_denied for each in outcomes), sum(each.is_allowed for each in outcomes)
    result: dict[str, object] = {"requests": [_shown(each) for each in outcomes]}
    if wants_live:
        live = await service.dry_run.live(policy)
        denied, allowed = denied + live.denied, allowed + live.allowed
        result["live"] = {
            "clients": live.clients,
            "connections": live.connections,
            "subscriptions": live.subscriptions,
            "topics": live.topics,
            "changes": [_shown(each) for each in live.changes],
            "truncated": len(live.changes) < live.denied + live.allowed,
        }
    return result | {"newlyDenied": denied, "newlyAllowed": allowed}


def _request(given: Mapping[str, object]) -> Request:
    context = cast("Mapping[str, Sequence[str]]", given.get("context") or {})
    client_id = given.get("clientId")
    return Request(
        principal=str(given["principal"]),
        client_id=str(client_id) if client_id is not None else None,
        action=str(given["action"]),
        resource=str(given["resource"]),
        context=variables.context(context),
    )


def _shown(outcome: Outcome) -> dict[str, object]:
    return {
        "principal": outcome.principal,
        **({"clientId": outcome.client_id} if outcome.client_id is not None else {}),
        **({"thingName": outcome.thing} if outcome.thing is not None else {}),
        "action": outcome.action,
        "resource": outcome.resource,
        "before": outcome.before,
        "after": outcome.after,
        "why": outcome.why,
    }
