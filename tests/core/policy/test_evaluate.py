# ruff: noqa: E501 - tables read best a row a line
"""Evaluation against rows and, by hypothesis, against the reference; millions of random cases are in test_differential.py."""

import json
import os

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from marram.core.policy import evaluate
from tests.core.policy import reference

ARN = "arn:aws:iot:local-1:000000000001:"


def program(*statements: dict[str, object], version: str = "2012-10-17") -> evaluate.Program:
    document = json.dumps({"Version": version, "Statement": list(statements)})
    return evaluate.program((evaluate.compile_policy("p", document, limit=100_000),))


def allow(resource: object = "*", action: object = "iot:Publish", **more: object) -> dict[str, object]:
    return {"Effect": "Allow", "Action": action, "Resource": resource, **more}


def deny(resource: object = "*", action: object = "iot:Publish", **more: object) -> dict[str, object]:
    return allow(resource, action, **more) | {"Effect": "Deny"}


# Documents at random, small alphabets so that matches are common.

names = st.text("ab/+#", min_size=1, max_size=4)
variables = st.sampled_from(["${iot:ClientId}", "${iot:Connection.Thing.ThingName}", "${*}", "${?}", "${$}"])
pieces = st.lists(st.one_of(names, st.sampled_from(["*", "?"]), variables), min_size=1, max_size=4).map("".join)
resources = st.lists(st.one_of(st.just("*"), pieces.map(lambda p: f"arn:aws:iot:::{p}")), min_size=1, max_size=2)
actions = st.lists(
    st.sampled_from(["iot:Publish", "iot:*", "*", "iot:Pub*", "iot:?ublish", "IOT:publish", "iot:Connect"]),
    min_size=1,
    max_size=2,
)
string_operators = st.sampled_from(["StringEquals", "StringNotEquals", "StringLike", "StringNotLike"])
qualifiers = st.sampled_from(["", "ForAllValues:", "ForAnyValue:"])
keys = st.sampled_from(["iot:ClientId", "iot:Connection.Thing.ThingName", "iot:ConnectAttributes"])
conditions = st.one_of(
    st.builds(
        lambda q, op, end, key, values: {q + op + end: {key: values}},
        qualifiers, string_operators, st.sampled_from(["", "IfExists"]), keys, st.lists(pieces, min_size=1, max_size=2),
    ),
    st.builds(lambda q, limit: {q + "NumericLessThan": {"iot:ClientId": [limit]}}, qualifiers, st.sampled_from(["1", "2.5"])),
    st.builds(lambda value: {"Bool": {"iot:Connection.Thing.IsAttached": [value]}}, st.sampled_from(["true", "false"])),
    st.builds(lambda op, net: {op: {"aws:SourceIp": [net]}}, st.sampled_from(["IpAddress", "NotIpAddress"]), st.sampled_from(["10.0.0.0/8", "10.1.2.3"])),
    st.builds(lambda key, value: {"Null": {key: [value]}}, keys, st.sampled_from(["true", "false"])),
)  # fmt: skip
statements = st.builds(
    lambda effect, act, acts, res, ress, condition: {"Effect": effect, act: acts, res: ress} | ({"Condition": condition} if condition else {}),
    st.sampled_from(["Allow", "Allow", "Deny"]), st.sampled_from(["Action", "Action", "NotAction"]), actions,
    st.sampled_from(["Resource", "Resource", "NotResource"]), resources, st.one_of(st.none(), conditions),
)  # fmt: skip
texts = st.text("ab/+#*?12$", min_size=0, max_size=4)
subject_values = st.fixed_dictionaries(
    {},
    optional={
        "iot:ClientId": texts,
        "iot:Connection.Thing.ThingName": texts,
        "iot:Connection.Thing.IsAttached": st.sampled_from(["true", "false", "?"]),
    },
)
request_values = st.fixed_dictionaries(
    {},
    optional={
        "aws:SourceIp": st.sampled_from(["10.1.2.3", "192.0.2.1", "::1", "x"]),
        "iot:ConnectAttributes": st.lists(texts, min_size=1, max_size=2).map(tuple),
    },
)


@settings(max_examples=1500 if os.environ.get("MARRAM_FULL") == "1" else 300, deadline=None)
@given(
    st.lists(statements, min_size=1, max_size=4),
    st.sampled_from(["iot:Publish", "iot:Connect"]),
    texts,
    subject_values,
    request_values,
)
@example(
    [{"Effect": "Allow", "Action": "iot:Publish", "NotResource": ["arn:aws:iot:::${iot:ClientId}"]}],
    "iot:Publish",
    "a",
    {},
    {},
)
def test_agrees_with_the_reference(rows, action, tail, subject, request):
    resource = f"arn:aws:iot:::{tail}"
    compiled = program(*rows)
    want = reference.decide([{"Statement": rows}], action, resource, {**request, **subject}) == "allowed"
    assert compiled.may(action, resource, subject, request) == want
    assert compiled.may(action, resource, subject, request) == want  # from the cache, where there is one
    assert compiled.explain(action, resource, subject, request).allowed == want


@given(st.lists(statements, min_size=1, max_size=3), texts, subject_values)
def test_another_deny_never_opens(rows, tail, subject):
    resource = f"arn:aws:iot:::{tail}"
    if not program(*rows).may("iot:Publish", resource, subject):
        assert not program(*rows, deny(f"{ARN}topic/x")).may("iot:Publish", resource, subject)


@pytest.mark.parametrize(
    ("pattern", "topic", "matches"),
    [
        pytest.param("a/*", "a/b/c", True, id="star crosses levels"),
        pytest.param("a/*", "a/", True, id="star may be empty"),
        pytest.param("a/*", "a", False, id="but the slash is needed"),
        pytest.param("a/?", "a/b", True, id="one character"),
        pytest.param("a/?", "a/bc", False, id="exactly one"),
        pytest.param("a/?", "a/+", False, id="not a wildcard of MQTT"),
        pytest.param("a/+", "a/b", False, id="plus is literal"),
        pytest.param("a/+", "a/+", True, id="plus matches itself"),
        pytest.param("a/#", "a/b", False, id="hash is literal"),
        pytest.param("*x*y*z", "1x2y3z", True, id="stars in the middle"),
        pytest.param("*x*y*z", "1y2x3z", False, id="in order"),
        pytest.param("a*a", "a", False, id="ends do not overlap"),
        pytest.param("a/b", "A/b", False, id="case counts"),
        pytest.param("caf\u00e9", "cafe\u0301", False, id="no normalisation"),
        pytest.param("a.c", "abc", False, id="a dot is a dot"),
        pytest.param("*", "a\nb", True, id="a newline is a character"),
    ],
)
def test_resource_patterns(pattern, topic, matches):
    assert program(allow(f"{ARN}topic/{pattern}")).may("iot:Publish", f"{ARN}topic/{topic}") is matches


@pytest.mark.parametrize("client_id", ["*", "?", "${iot:ClientId}", "a/b", "../x", "#", "+", "", "a${*}", "}"])
def test_a_value_that_could_be_a_pattern_opens_nothing(client_id):
    values = {"iot:ClientId": client_id}
    open_ = program(allow(f"{ARN}topic/${{iot:ClientId}}/*"))
    for topic in (f"{client_id}/x", "other/x", "b/x", "/x"):
        assert not open_.may("iot:Publish", f"{ARN}topic/{topic}", values)
    inverse = program({"Effect": "Allow", "Action": "*", "NotResource": f"{ARN}topic/${{iot:ClientId}}"})
    assert not inverse.may("iot:Publish", f"{ARN}topic/anything", values)


def test_a_deny_takes_an_unsafe_value_literally():
    closed = program(allow(), deny(f"{ARN}topic/${{iot:ClientId}}"))
    assert not closed.may("iot:Publish", f"{ARN}topic/a/b", {"iot:ClientId": "a/b"})
    assert closed.may("iot:Publish", f"{ARN}topic/axb", {"iot:ClientId": "a?b"})


def test_a_missing_variable_opens_nothing():
    assert not program(allow(f"{ARN}topic/${{iot:ClientId}}*")).may("iot:Publish", f"{ARN}topic/x")
    assert not program(deny(), allow()).may("iot:Publish", "x")
    condition = {"StringNotEquals": {"iot:ClientId": "${iot:Connection.Thing.ThingName}"}}
    assert not program(allow(Condition=condition)).may("iot:Publish", "x", {"iot:ClientId": "c"})


@pytest.mark.parametrize(
    ("condition", "values", "holds"),
    [
        pytest.param({"StringEquals": {"IOT:clientid": "c"}}, {"iot:ClientId": "c"}, True, id="keys ignore case"),
        pytest.param({"StringEqualsIgnoreCase": {"iot:ClientId": "C"}}, {"iot:ClientId": "c"}, True, id="ignore case"),
        pytest.param({"StringEquals": {"iot:ClientId": ["a", "c"]}}, {"iot:ClientId": "c"}, True, id="any of the values"),
        pytest.param({"StringNotEquals": {"iot:ClientId": ["a", "c"]}}, {"iot:ClientId": "c"}, False, id="none of the values"),
        pytest.param({"Bool": {"iot:Connection.Thing.IsAttached": [True]}}, {"iot:Connection.Thing.IsAttached": "true"}, True, id="a real boolean"),
        pytest.param({"StringLike": {"iot:ClientId": "a${*}"}}, {"iot:ClientId": "a*"}, True, id="escaped star"),
        pytest.param({"StringLike": {"iot:ClientId": "a${*}"}}, {"iot:ClientId": "ab"}, False, id="escaped star is no wildcard"),
        pytest.param({"StringEquals": {"iot:Connection.Thing.Attributes[Site]": "x/y"}}, {"iot:Connection.Thing.Attributes[Site]": "x/y"}, True, id="attribute"),
        pytest.param({"StringEquals": {"iot:Connection.Thing.Attributes[site]": "x"}}, {"iot:Connection.Thing.Attributes[Site]": "x"}, False, id="attribute names have case"),
        pytest.param({"DateGreaterThan": {"aws:CurrentTime": "2025-01-01T00:00:00Z"}}, {"aws:CurrentTime": "2025-06-01T00:00:00Z"}, True, id="after a date"),
        pytest.param({"DateLessThan": {"aws:CurrentTime": "2025-01-01"}}, {"aws:CurrentTime": "2025-06-01T00:00:00Z"}, False, id="not before it"),
        pytest.param({"NumericGreaterThanEquals": {"aws:EpochTime": 5}}, {"aws:EpochTime": "5"}, True, id="number"),
        pytest.param({"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}, {"aws:SourceIp": "::ffff:10.1.1.1"}, True, id="mapped address"),
        pytest.param({"IpAddress": {"aws:SourceIp": "2001:db8::/32"}}, {"aws:SourceIp": "10.1.1.1"}, False, id="other family"),
        pytest.param({"NotIpAddress": {"aws:SourceIp": "10.0.0.0/8"}}, {"aws:SourceIp": "nonsense"}, False, id="not an address never grants"),
        pytest.param({"ForAllValues:StringEquals": {"iot:ConnectAttributes": ["PersistentConnect"]}}, {"iot:ConnectAttributes": ("PersistentConnect", "LastWill")}, False, id="one too many"),
        pytest.param({"ForAllValues:StringEquals": {"iot:ConnectAttributes": ["PersistentConnect"]}}, {}, True, id="all of none"),
        pytest.param({"ForAnyValue:StringEquals": {"iot:ConnectAttributes": ["LastWill"]}}, {"iot:ConnectAttributes": ("PersistentConnect", "LastWill")}, True, id="one of them"),
        pytest.param({"ForAnyValue:StringEquals": {"iot:ConnectAttributes": ["LastWill"]}}, {}, False, id="one of none"),
        pytest.param({"ArnLike": {"aws:PrincipalArn": "arn:aws:iam::*:user/ops-*"}}, {"aws:PrincipalArn": "arn:aws:iam::1:user/ops-1"}, True, id="arn"),
        pytest.param({"Null": {"iot:ClientId": True}}, {}, True, id="null"),
        pytest.param({"ForAllValues:StringEquals": {"iot:ConnectAttributes": []}}, {}, True, id="only default features"),
        pytest.param({"ForAllValues:StringEquals": {"iot:ConnectAttributes": []}}, {"iot:ConnectAttributes": ("LastWill",)}, False, id="an extra feature"),
        pytest.param({"ForAnyValue:StringEquals": {"iot:ConnectAttributes": []}}, {"iot:ConnectAttributes": ("LastWill",)}, False, id="any of nothing"),
        pytest.param({"ArnEquals": {"iot:LastWillTopic": "arn:aws:iot:*:*:topic/my/will"}}, {"iot:LastWillTopic": "arn:aws:iot:local-1:1:topic/my/will"}, True, id="will topic"),
        pytest.param({"ArnEquals": {"iot:LastWillTopic": "arn:aws:iot:*:*:topic/my/will"}}, {}, False, id="no will"),
        pytest.param({"StringEquals": {"iot:Thing.ThingName": "t"}}, {"iot:Connection.Thing.ThingName": "t"}, True, id="the other spelling of AWS's examples"),
        pytest.param({"NumericEquals": {"iot:ClientId": 10}}, {"iot:ClientId": "1_0"}, False, id="not a number of JSON"),
        pytest.param({"DateEquals": {"iot:ClientId": "20250101"}}, {"iot:ClientId": "2025-01-01"}, False, id="digits are seconds"),
        pytest.param({"StringEqualsIfExists": {"iot:ClientId": "a"}}, {}, True, id="if exists"),
        pytest.param({"StringEquals": {"iot:ClientId": "a"}, "Bool": {"aws:SecureTransport": "true"}}, {"iot:ClientId": "a"}, False, id="all operators must hold"),
    ],
)  # fmt: skip
def test_conditions(condition, values, holds):
    assert program(allow(Condition=condition)).may("iot:Publish", "x", values) is holds


def test_stars_cost_no_power_of_the_text():
    pattern = "*a" * 40 + "b"
    assert not program(allow(f"{ARN}topic/{pattern}")).may("iot:Publish", f"{ARN}topic/" + "a" * 5000)


def test_explain_names_what_decided():
    compiled = program(allow(f"{ARN}topic/a/*"), deny(f"{ARN}topic/a/secret", Sid="NoSecret"))
    verdict = compiled.explain("iot:Publish", f"{ARN}topic/a/secret")
    assert (verdict.decision, [(m.policy, m.statement, m.sid) for m in verdict.matches]) == (
        "explicit deny",
        [("p", 1, "NoSecret")],
    )
    assert compiled.explain("iot:Publish", f"{ARN}topic/a/x").decision == "allowed"
    assert compiled.explain("iot:Publish", f"{ARN}topic/b").decision == "implicit deny"
    missing = program(allow(f"{ARN}topic/${{iot:ClientId}}")).explain("iot:Publish", f"{ARN}topic/x")
    assert missing.missing == ("iot:ClientId",)


def test_one_program_for_the_same_policies():
    policy = evaluate.compile_policy("p", json.dumps({"Statement": allow()}))
    assert evaluate.program((policy,)) is evaluate.program((policy,))
