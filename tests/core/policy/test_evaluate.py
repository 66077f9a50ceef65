# ruff: noqa: E501 - tables read best a row a line
"""Evaluation against rows and against a plain reading of the rules (`reference`), which shares no code with it."""

import ipaddress
import json
import os
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from marram.core.policy import evaluate

ARN = "arn:aws:iot:local-1:000000000001:"


def program(*statements: dict[str, object], version: str = "2012-10-17") -> evaluate.Program:
    document = json.dumps({"Version": version, "Statement": list(statements)})
    return evaluate.program((evaluate.compile_policy("p", document, limit=100_000),))


def allow(resource: object = "*", action: object = "iot:Publish", **more: object) -> dict[str, object]:
    return {"Effect": "Allow", "Action": action, "Resource": resource, **more}


def deny(resource: object = "*", action: object = "iot:Publish", **more: object) -> dict[str, object]:
    return allow(resource, action, **more) | {"Effect": "Deny"}


# The reference: lists of characters, recursion, no caches. Undecided (None) never grants.


def reference(statements, action, resource, values):
    effects = {s["Effect"] for s in statements if _applies(s, action, resource, values)}
    return "Deny" not in effects and "Allow" in effects


def _applies(s, action, resource, values):
    denies = s["Effect"] == "Deny"
    acts = s.get("Action", s.get("NotAction"))
    if any(_like(list(a.lower()), action.lower(), "") for a in _list(acts)) == ("NotAction" in s):
        return False
    negated = "NotResource" in s
    found = [
        _match(r, resource, values, denies and not negated, "" if denies else "+#")
        for r in _list(s.get("Resource", s.get("NotResource")))
    ]
    answers = [_any_of(found, negated)]
    for name, keys in s.get("Condition", {}).items():
        for key, wanted in keys.items():
            answers.append(_condition(name, values.get(key), _list(wanted), values, denies))
    return all(denies if a is None else a for a in answers)


def _any_of(found, negated):
    if True in found:
        return not negated
    return (None if None in found else True) if negated else False


def _condition(name, actual, wanted, values, denies):
    prefix, _, op = name.rpartition(":")
    if op == "Null":
        return ("true" if actual is None else "false") in wanted
    if_exists, op = op.endswith("IfExists"), op.removesuffix("IfExists")
    negated = "Not" in op
    if actual is None:
        return True if if_exists or prefix == "ForAllValues" else False if prefix else negated
    held = [
        _any_of([_compare(op.replace("Not", ""), a, w, values, denies and not negated) for w in wanted], negated)
        for a in ([actual] if isinstance(actual, str) else actual)
    ]
    if prefix == "ForAnyValue" or (not prefix and not negated):
        return True if True in held else None if None in held else False
    return False if False in held else None if None in held else True


def _compare(op, actual, wanted, values, trusting):
    if op == "StringLike":
        return _match(wanted, actual, values, trusting, "")
    text = _substitute(wanted, values, trusting)
    if text is None:
        return None
    text = "".join(c if isinstance(c, str) else c[0] for c in text)
    try:
        match op:
            case "StringEquals":
                return actual == text
            case "NumericLessThan":
                return float(actual) < float(text)
            case "Bool":
                return {"true": True, "false": False}[actual] == {"true": True, "false": False}[text]
            case "IpAddress":
                return ipaddress.ip_address(actual) in ipaddress.ip_network(text, strict=False)
    except (ValueError, KeyError):
        return None


def _match(pattern, text, values, trusting, not_by_one):
    tokens = _substitute(pattern, values, trusting)
    return None if tokens is None else _like(tokens, text, not_by_one)


def _substitute(pattern, values, trusting):
    """Characters; those that came from a variable or an escape are 1-tuples and so no wildcards."""
    tokens = []
    for literal, variable in re.findall(r"(\$\{[^}]*\})|(.)", pattern, re.DOTALL):
        if variable:
            tokens.append(variable)
        elif literal[2:-1] in ("*", "?", "$"):
            tokens.append((literal[2:-1],))
        else:
            value = values.get(literal[2:-1])
            if not isinstance(value, str) or (not trusting and (not value or set(value) & set("*?#+/${}"))):
                return None
            tokens += [(c,) for c in value]
    return tokens


def _like(tokens, text, not_by_one):
    if not tokens:
        return not text
    head, rest = tokens[0], tokens[1:]
    if head == "*":
        return any(_like(rest, text[i:], not_by_one) for i in range(len(text) + 1))
    if not text or (head == "?" and text[0] in not_by_one):
        return False
    return (head == "?" or text[0] == (head if isinstance(head, str) else head[0])) and _like(
        rest, text[1:], not_by_one
    )


def _list(value):
    return value if isinstance(value, list) else [value]


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
    want = reference(rows, action, resource, {**request, **subject})
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
