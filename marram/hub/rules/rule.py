"""A rule made ready: checked settings of AWS's topicRulePayload -> statement and actions, and its judgement of one message."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from marram.core import topic as topics
from marram.core.codec import JsonObject
from marram.core.errors import Invalid, Unsupported
from marram.core.sql import evaluate, parser
from marram.core.sql.evaluate import Select
from marram.core.sql.lexer import SqlError
from marram.hub.rules.action import ACTIONS, Action, Settings

KNOWN: Final = frozenset({"sql", "description", "actions", "ruleDisabled", "awsIotSqlVersion", "errorAction"})
MAX_ACTIONS: Final = 10


@dataclass(frozen=True, slots=True)
class BoundAction:
    """`role`: the ARN of the role that it acts in."""

    action: Action
    settings: Settings
    role: str


@dataclass(frozen=True, slots=True)
class Rule:
    """`reads_payload`: a payload that is not JSON cannot be served by any of its actions."""

    name: str
    select: Select
    actions: tuple[BoundAction, ...]
    error_action: BoundAction | None


def compile_rule(name: str, body: Mapping[str, Any], check_role: Callable[[str], None]) -> Rule:
    """Raises SqlError, Invalid or Unsupported, naming what is wrong or not there: nothing is accepted and then ignored."""
    unknown = sorted(set(body) - KNOWN)
    if unknown:
        raise Unsupported(f"the rule setting {unknown[0]} is not supported here")
    version = body.get("awsIotSqlVersion") or evaluate.V2015  # AWS's default
    if version not in evaluate.VERSIONS:
        raise Unsupported(f"SQL version {version!r} is not supported here; there are {', '.join(evaluate.VERSIONS)}")
    statement = parser.statement(str(body["sql"]))
    try:
        topics.check_filter(statement.topic_filter)
    except Invalid as exc:
        raise SqlError(exc.message, statement.filter_place) from exc
    if topics.parse_share(statement.topic_filter) is not None:
        raise SqlError("a shared subscription cannot stand in FROM", statement.filter_place)
    given: list[Mapping[str, Any]] = body.get("actions") or []
    if len(given) > MAX_ACTIONS:
        raise Invalid(f"a rule has at most {MAX_ACTIONS} actions, not {len(given)}")
    error = body.get("errorAction")
    return Rule(
        name=name,
        select=evaluate.compile_statement(statement, version),
        actions=tuple(_bind(item, check_role) for item in given),
        error_action=_bind(error, check_role) if error else None,
    )


def _bind(given: Mapping[str, Any], check_role: Callable[[str], None]) -> BoundAction:
    kinds = [kind for kind, settings in given.items() if settings is not None]
    if len(kinds) != 1:
        raise Invalid(f"an action names exactly one kind, not {len(kinds)}")
    kind = kinds[0]
    found = ACTIONS.get(kind)
    if found is None:
        raise Unsupported(f"the rule action {kind} is not supported here; there are {', '.join(ACTIONS.names())}")
    settings = given[kind]
    role = str(settings.get("roleArn"))
    check_role(role)
    return BoundAction(found, found.parse(settings), role)


def topic_filter_of(body: JsonObject) -> str:
    return parser.statement(str(body["sql"])).topic_filter
