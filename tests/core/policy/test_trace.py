# ruff: noqa: E501 - tables read best a row a line
"""What is said of each statement, in words; and that it says the same as the evaluator, always."""

import json
import random
from typing import Any

import pytest

from marram.core.policy import documents, evaluate, trace
from tests.core.policy.test_differential import case

ARN = "arn:aws:iot:local-1:000000000001:"


def steps(values: dict[str, Any], *statements: dict[str, Any], action: str = "iot:Publish") -> list[trace.Step]:
    text = json.dumps({"Version": "2012-10-17", "Statement": list(statements)})
    return trace.steps([evaluate.compile_policy("p", text)], action, f"{ARN}topic/a/b", values)


@pytest.mark.parametrize(
    ("statement", "values", "applies", "why"),
    [
        pytest.param({"Action": "iot:Connect", "Resource": "*"}, {}, False, "its Action does not cover iot:Publish", id="action"),
        pytest.param({"NotAction": "iot:*", "Resource": "*"}, {}, False, "its NotAction does not cover", id="not action"),
        pytest.param({"Resource": f"{ARN}topic/c"}, {}, False, f"its Resource does not cover {ARN}topic/a/b", id="resource"),
        pytest.param({"NotResource": "*"}, {}, False, "its NotResource does not cover", id="not resource"),
        pytest.param({"Resource": f"{ARN}topic/${{iot:ClientId}}/b"}, {}, False, "iot:ClientId has no value", id="missing"),
        pytest.param({"Resource": f"{ARN}topic/${{iot:ClientId}}/b"}, {"iot:ClientId": "a/b"}, False, "could be read as a pattern or a level", id="unsafe"),
        pytest.param({"Resource": f"{ARN}topic/${{iot:ClientId}}/b"}, {"iot:ClientId": "a"}, True, "it applies", id="variable"),
        pytest.param({"Resource": "*", "Condition": {"StringEquals": {"iot:ClientId": "x"}}}, {"iot:ClientId": "a"}, False, "Condition StringEquals on iot:ClientId does not hold: it is a", id="condition"),
        pytest.param({"Resource": "*", "Condition": {"NotIpAddress": {"iot:ClientId": "10.0.0.0/8"}}}, {"iot:ClientId": "a"}, False, "cannot be decided", id="undecidable"),
        pytest.param({"Effect": "Deny", "Resource": "*", "Condition": {"NotIpAddress": {"iot:ClientId": "10.0.0.0/8"}}}, {"iot:ClientId": "a"}, True, "a Deny that cannot be decided counts", id="undecidable deny"),
    ],
)  # fmt: skip
def test_why(statement: dict[str, Any], values: dict[str, Any], applies: bool, why: str) -> None:
    action = {} if "Action" in statement or "NotAction" in statement else {"Action": "iot:Publish"}
    (step,) = steps(values, {"Effect": "Allow", "Sid": "s", **action, **statement})
    assert (step.applies, step.policy, step.statement, step.sid) == (applies, "p", 0, "s")
    assert why in step.why


def test_values_of_variables_and_keys() -> None:
    (step,) = steps(
        {"iot:ClientId": "a", "iot:Certificate.Subject.Organization.List": ("x", "y")},
        {
            "Effect": "Allow",
            "Action": "*",
            "Resource": f"{ARN}topic/${{iot:ClientId}}/${{iot:Connection.Thing.ThingName}}",
            "Condition": {"ForAnyValue:StringEquals": {"iot:Certificate.Subject.Organization.List": "x"}},
        },
    )
    assert step.values == {
        "iot:Certificate.Subject.Organization.List": "x, y", "iot:ClientId": "a", "iot:Connection.Thing.ThingName": "",
    }  # fmt: skip


def test_the_steps_that_apply_make_the_verdict() -> None:
    rng = random.Random(7)
    seen = {"allowed": 0, "explicit deny": 0, "implicit deny": 0}
    while sum(seen.values()) < 2000:
        policies, action, resource, subject, request = case(rng)
        try:
            compiled = [evaluate.compile_policy(f"p{at}", json.dumps(each)) for at, each in enumerate(policies)]
        except documents.MalformedPolicy:
            continue
        verdict = evaluate.Program(compiled).explain(action, resource, subject, request)
        effects = {step.effect for step in trace.steps(compiled, action, resource, subject, request) if step.applies}
        said = "explicit deny" if "Deny" in effects else "allowed" if "Allow" in effects else "implicit deny"
        assert said == verdict.decision
        seen[said] += 1
    assert min(seen.values()) > 50
