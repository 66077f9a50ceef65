"""iot operations on topic rules, and our own on their dead letters."""

from marram.core import arn
from marram.core.codec import JsonObject
from marram.hub import tagging
from marram.hub.rules import rule as compiled
from marram.hub.rules.service import Rules
from marram.hub.rules.store import StoredRule
from marram.hub.slice import Call, Params, Result, anything, operation


def _arn(call: Call, name: str) -> str:
    return arn.build("iot", call.region, call.account, f"rule/{name}")


def _resource(call: Call, params: Params) -> str:
    return _arn(call, params["ruleName"])


@operation("iot", "CreateTopicRule", resource=_resource)
async def create_topic_rule(service: Rules, call: Call, params: Params) -> Result:
    await service.create(params["ruleName"], _body(params), tagging.read_header(params.get("tags")))
    return {}


@operation("iot", "ReplaceTopicRule", resource=_resource)
async def replace_topic_rule(service: Rules, call: Call, params: Params) -> Result:
    await service.replace(params["ruleName"], _body(params))
    return {}


@operation("iot", "GetTopicRule", resource=_resource)
async def get_topic_rule(service: Rules, call: Call, params: Params) -> Result:
    found = await service.get(params["ruleName"])
    return {"ruleArn": _arn(call, found.name), "rule": _document(found)}


@operation("iot", "ListTopicRules", resource=anything)
async def list_topic_rules(service: Rules, call: Call, params: Params) -> Result:
    limit = int(params.get("maxResults") or 100)
    found = await service.page(
        after=str(params.get("nextToken") or ""),
        limit=limit + 1,
        topic=params.get("topic"),
        disabled=params.get("ruleDisabled"),
    )
    result: dict[str, object] = {
        "rules": [
            {
                "ruleArn": _arn(call, rule.name),
                "ruleName": rule.name,
                "topicPattern": compiled.topic_filter_of(rule.body),
                "createdAt": rule.created_ms,
                "ruleDisabled": rule.disabled,
            }
            for rule in found[:limit]
        ]
    }
    if len(found) > limit:
        result["nextToken"] = found[limit - 1].name
    return result


@operation("iot", "DeleteTopicRule", resource=_resource)
async def delete_topic_rule(service: Rules, call: Call, params: Params) -> Result:
    await service.delete(params["ruleName"])
    return {}


@operation("iot", "EnableTopicRule", resource=_resource)
async def enable_topic_rule(service: Rules, call: Call, params: Params) -> Result:
    await service.enable(params["ruleName"])
    return {}


@operation("iot", "DisableTopicRule", resource=_resource)
async def disable_topic_rule(service: Rules, call: Call, params: Params) -> Result:
    await service.disable(params["ruleName"])
    return {}


@operation("marram", "rules/ListDeadLetters", resource=anything)
async def list_dead_letters(service: Rules, call: Call, params: Params) -> Result:
    last = params.get("nextToken")
    letters, more = await service.dead_letters(
        params.get("ruleName"), after=last if isinstance(last, int) else -1, limit=int(params.get("limit") or 100)
    )
    result: dict[str, object] = {"letters": letters}
    if more is not None:
        result["nextToken"] = more
    return result


def _body(params: Params) -> JsonObject:
    return dict(params["topicRulePayload"])


def _document(rule: StoredRule) -> Result:
    return {"ruleName": rule.name, "createdAt": rule.created_ms, "ruleDisabled": rule.disabled, **rule.body}
