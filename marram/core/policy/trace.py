"""Why a set of policies allows or denies: every statement with what it made of the request, in words. Pure, and slow.

The decision itself is evaluate.py's, asked part by part; nothing is decided here a second time.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from marram.core.policy import evaluate, variables
from marram.core.policy.documents import Condition, Effect, Statement
from marram.core.policy.evaluate import NOTHING, CompiledPolicy, Truth
from marram.core.policy.variables import Values


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One statement. values: what it asks for, as text; "" for a variable or key that nobody has a value for."""

    policy: str
    statement: int
    sid: str
    effect: str
    applies: bool
    why: str
    values: dict[str, str]


def steps(
    policies: Iterable[CompiledPolicy], action: str, resource: str, subject: Values = NOTHING, request: Values = NOTHING
) -> list[Step]:
    """Every statement of the policies, in order."""
    values = {**request, **subject}
    found: list[Step] = []
    for policy in policies:
        for statement in policy.document.statements:
            applies, why = _outcome(statement, action, resource, subject, request, values)
            found.append(
                Step(
                    policy=policy.name,
                    statement=statement.index,
                    sid=statement.sid,
                    effect=statement.effect.value,
                    applies=applies,
                    why=why,
                    values={key: _text(values.get(key)) for key in sorted(evaluate.keys_of(statement))},
                )
            )
    return found


def summary(found: Sequence[Step], decision: str) -> str:
    """One line: the statements that decide, or why those that might have allowed it do not."""
    effect = "Deny" if decision == "explicit deny" else "Allow"
    deciding = [step for step in found if step.applies and step.effect == effect]
    if deciding:
        return "; ".join(f"{_name(step)} {'denies' if effect == 'Deny' else 'allows'} it" for step in deciding)
    near = [step for step in found if step.effect == "Allow" and "Action does not cover" not in step.why]
    if not near:
        return "no statement allows the action"
    return "no statement allows it: " + "; ".join(f"{_name(step)}: {step.why}" for step in near)


def _name(step: Step) -> str:
    return f"policy {step.policy} statement {step.statement}" + (f" ({step.sid})" if step.sid else "")


def _outcome(
    statement: Statement, action: str, resource: str, subject: Values, request: Values, values: Values
) -> tuple[bool, str]:
    denies = statement.effect is Effect.DENY
    if not evaluate.covers_action(statement, action):
        return False, f"its {'NotAction' if statement.not_action else 'Action'} does not cover {action}"
    doubts: list[str] = []
    tests: list[tuple[Truth, str, str]] = [_resource(statement, resource, subject, request, values)]
    tests += [_condition(condition, denies, subject, request, values) for condition in statement.conditions]
    for held, no, doubt in tests:
        if held is False:
            return False, no
        if held is None:
            doubts.append(doubt)
    if not doubts:
        return True, "it applies"
    said = "; ".join(doubts)
    return (True, f"it applies, since a Deny that cannot be decided counts: {said}") if denies else (False, said)


def _resource(
    statement: Statement, resource: str, subject: Values, request: Values, values: Values
) -> tuple[Truth, str, str]:
    name = "NotResource" if statement.not_resource else "Resource"
    held = evaluate.resource_test(statement, denies=statement.effect is Effect.DENY)(resource, subject, request)
    keys = {key for pattern in statement.resources for key in pattern.keys}
    return held, _with_doubt(f"its {name} does not cover {resource}", keys, values), _doubt(name, keys, values)


def _condition(
    condition: Condition, denies: bool, subject: Values, request: Values, values: Values
) -> tuple[Truth, str, str]:
    name = f"Condition {condition.name} on {condition.key}"
    held = evaluate.condition_test(condition, denies=denies)(subject, request)
    keys = {condition.key} | {key for pattern in condition.values for key in pattern.keys}
    actual = _text(values.get(condition.key)) or "no value"
    return held, _with_doubt(f"{name} does not hold: it is {actual}", keys, values), _doubt(name, keys, values)


def _with_doubt(said: str, keys: set[str], values: Values) -> str:
    doubts = _doubts(keys, values)
    return f"{said} ({'; '.join(doubts)})" if doubts else said


def _doubt(name: str, keys: set[str], values: Values) -> str:
    return f"{name} cannot be decided: {'; '.join(_doubts(keys, values)) or 'the value is not of the kind it compares'}"


def _doubts(keys: set[str], values: Values) -> list[str]:
    found: list[str] = []
    for key in sorted(keys):
        value = values.get(key)
        if value is None:
            found.append(f"{key} has no value")
        elif not isinstance(value, str):
            found.append(f"{key} has several values")
        elif not variables.is_safe(value):
            found.append(f"{key} is {value!r}, which could be read as a pattern or a level")
    return found


def _text(value: "str | tuple[str, ...] | None") -> str:
    return "" if value is None else value if isinstance(value, str) else ", ".join(value)
