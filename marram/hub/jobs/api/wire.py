"""What the operations of jobs have in common on the wire."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from marram.core import arn
from marram.core.codec import JsonValue
from marram.hub.jobs import shapes
from marram.hub.jobs.service import Execution, Jobs, Target
from marram.hub.slice import Call, Params

PAGE: Final = 50


def job(call: Call, params: Params) -> str:
    return arn.build("iot", call.region, call.account, f"job/{params['jobId']}")


def template(call: Call, params: Params) -> str:
    return arn.build("iot", call.region, call.account, f"jobtemplate/{params['jobTemplateId']}")


def thing(call: Call, params: Params) -> str:
    return arn.build("iot", call.region, call.account, f"thing/{params['thingName']}")


def job_and_thing(call: Call, params: Params) -> list[str]:
    return [job(call, params), thing(call, params)]


def namespace(params: Params) -> str | None:
    """As it is kept: with its prefix; None when it is not asked about."""
    given = params.get("namespaceId")
    return None if given is None else f"{shapes.PREFIX}{given}"


def limit(params: Params) -> int:
    return int(params.get("maxResults") or PAGE)


def last(params: Params, parts: int) -> list[Any] | None:
    """The last key of the page before, which the border has opened."""
    token: JsonValue = params.get("nextToken")
    return token if isinstance(token, list) and len(token) == parts else None


def paged(
    name: str, items: list[Any], count: int, shown: Callable[[Any], object], key: Callable[[Any], list[Any]]
) -> dict[str, object]:
    """`items` is one longer than the page when there is more."""
    made: dict[str, object] = {name: [shown(item) for item in items[:count]]}
    if len(items) > count:
        made["nextToken"] = key(items[count - 1])
    return made


def target_arn(service: Jobs, target: Target) -> str:
    return service.arn(f"{target.kind}/{target.name}")


def summary(found: Execution) -> dict[str, object]:
    """JobExecutionSummary of the iot service; times as the border takes them, in milliseconds."""
    return {
        "status": str(found.status),
        "queuedAt": found.queued_ms,
        "startedAt": found.started_ms,
        "lastUpdatedAt": found.updated_ms,
        "executionNumber": found.number,
        "retryAttempt": found.retries,
    }


def given(params: Params, *names: str) -> Mapping[str, Any]:
    return {name: params[name] for name in names if params.get(name) is not None}
