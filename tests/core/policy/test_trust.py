"""Trust policies: who may take a role on."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marram.core.policy import trust
from marram.core.policy.documents import MalformedPolicy

ACCOUNT = "000000000001"
ROOT = f"arn:aws:iam::{ACCOUNT}:root"
ANNA = f"arn:aws:iam::{ACCOUNT}:user/team/anna"
ROBOT = f"arn:aws:iam::{ACCOUNT}:role/robot"
NIGHT = f"arn:aws:sts::{ACCOUNT}:assumed-role/robot/night"
IDS = {ANNA: "AIDAANNA", ROBOT: "AROAROBOT", NIGHT: "AROAROBOT:night"}


def statement(principal: Any, effect: str = "Allow", **more: Any) -> dict[str, Any]:
    return {"Effect": effect, "Principal": principal, "Action": "sts:AssumeRole", **more}


def parsed(*statements: dict[str, Any]) -> trust.Trust:
    text = json.dumps({"Version": "2012-10-17", "Statement": list(statements)})
    return trust.resolved(trust.parse(text, ACCOUNT), IDS)


def judged(rules: trust.Trust, *named: str, **context: str) -> str | None:
    """Of a user or role, or of a service when it is one."""
    delegates = frozenset() if named[0].endswith(".com") else frozenset([trust.ANYBODY, ROOT])
    request = {key.replace("__", ":"): value for key, value in context.items()}
    return rules.judge(frozenset(named), delegates, {}, request)


@pytest.mark.parametrize(
    ("statements", "who", "found"),
    [
        pytest.param([statement({"AWS": ANNA})], ["AIDAANNA"], "named", id="named"),
        pytest.param([statement({"AWS": ANNA})], ["AIDABOB"], None, id="somebody else"),
        pytest.param([statement({"AWS": ROOT})], ["AIDABOB"], "delegated", id="the account"),
        pytest.param([statement({"AWS": ACCOUNT})], ["AIDABOB"], "delegated", id="the account by its number"),
        pytest.param([statement("*")], ["AIDABOB"], "delegated", id="anybody still needs the right"),
        pytest.param([statement({"AWS": [ROOT, ANNA]})], ["AIDAANNA"], "named", id="both"),
        pytest.param([statement({"AWS": ROBOT})], ["AROAROBOT", "AROAROBOT:day"], "named", id="any session of a role"),
        pytest.param([statement({"AWS": NIGHT})], ["AROAROBOT", "AROAROBOT:night"], "named", id="one session"),
        pytest.param([statement({"AWS": NIGHT})], ["AROAROBOT", "AROAROBOT:day"], None, id="another session"),
        pytest.param([statement({"Service": "iot.amazonaws.com"})], ["iot.amazonaws.com"], "named", id="service"),
        pytest.param([statement({"Service": "iot.amazonaws.com"})], ["AIDAANNA"], None, id="a user is no service"),
        pytest.param([statement({"AWS": ROOT})], ["iot.amazonaws.com"], None, id="a service is not of the account"),
        pytest.param([statement("*")], ["iot.amazonaws.com"], None, id="nor is it anybody"),
        pytest.param([statement({"AWS": ROOT}), statement({"AWS": ANNA}, "Deny")], ["AIDAANNA"], None, id="deny wins"),
        pytest.param([statement({"AWS": ANNA}), statement("*", "Deny")], ["AIDAANNA"], None, id="deny to all"),
        pytest.param([statement({"AWS": ANNA}), statement({"AWS": ROBOT}, "Deny")], ["AIDAANNA"], "named", id="of another"),
        pytest.param([statement({"AWS": ANNA}, Action="sts:TagSession")], ["AIDAANNA"], None, id="another action"),
        pytest.param([statement({"AWS": ANNA}, Action="STS:assumerole")], ["AIDAANNA"], "named", id="case of an action"),
    ],
)  # fmt: skip
def test_who_is_let_in(statements: list[dict[str, Any]], who: list[str], found: str | None) -> None:
    assert judged(parsed(*statements), *who) == found


def test_conditions_are_asked() -> None:
    rules = parsed(statement({"AWS": ANNA}, Condition={"StringEquals": {"sts:ExternalId": "a"}}))
    assert judged(rules, "AIDAANNA") is None
    assert judged(rules, "AIDAANNA", sts__ExternalId="b") is None
    assert judged(rules, "AIDAANNA", sts__ExternalId="a") == "named"
    # Named only under a condition that does not hold: what remains is the account's word.
    mixed = parsed(
        statement({"AWS": ROOT}), statement({"AWS": ANNA}, Condition={"Bool": {"aws:SecureTransport": "true"}})
    )
    assert judged(mixed, "AIDAANNA", aws__SecureTransport="false") == "delegated"
    assert judged(mixed, "AIDAANNA", aws__SecureTransport="true") == "named"


BAD = {
    "no JSON": "{",
    "a list": "[]",
    "no statement": "{}",
    "empty": '{"Statement": []}',
    "version": '{"Version": "2020-01-01", "Statement": [' + json.dumps(statement("*")) + "]}",
    **{
        name: json.dumps({"Version": "2012-10-17", "Statement": [{**statement("*"), **row}]})
        for name, row in {
            "resource": {"Resource": "*"},
            "not principal": {"NotPrincipal": "*"},
            "not action": {"NotAction": "*"},
            "unknown element": {"Colour": "red"},
            "another action": {"Action": ["sts:AssumeRole", "iam:*"]},
            "every action": {"Action": "*"},
            "web identity": {"Action": "sts:AssumeRoleWithWebIdentity"},
            "action is a number": {"Action": 1},
            "principal is a list": {"Principal": ["*"]},
            "principal is empty": {"Principal": {}},
            "principal is text": {"Principal": ANNA},
            "federated": {"Principal": {"Federated": "accounts.example.org"}},
            "another account": {"Principal": {"AWS": "arn:aws:iam::123456789012:user/anna"}},
            "wildcard in a name": {"Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:user/*"}},
            "user of sts": {"Principal": {"AWS": f"arn:aws:sts::{ACCOUNT}:user/anna"}},
            "group": {"Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:group/g"}},
            "no names": {"Principal": {"AWS": []}},
            "names that are none": {"Principal": {"AWS": [1]}},
            "service": {"Principal": {"Service": "ec2.amazonaws.com"}},
            "condition": {"Condition": {"StringIs": {"sts:ExternalId": "a"}}},
            "condition key": {"Condition": {"StringEquals": {"sts:Moon": "a"}}},
            "too long": {"Sid": "a" * 2100},
        }.items()
    },
    "Sid twice": json.dumps({"Statement": [{**statement("*"), "Sid": "a"}, {**statement("*"), "Sid": "a"}]}),
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_what_cannot_be_evaluated_is_refused(text: str) -> None:
    with pytest.raises(MalformedPolicy):
        trust.parse(text, ACCOUNT)


def test_a_refusal_names_the_statement() -> None:
    text = json.dumps({"Statement": [statement("*"), {**statement("*"), "Condition": {"Bool": {"aws:Moon": "true"}}}]})
    with pytest.raises(MalformedPolicy, match=r"Statement\[1\]"):
        trust.parse(text, ACCOUNT)


_words = st.sampled_from(
    ["Version", "2012-10-17", "Statement", "Effect", "Allow", "Deny", "Principal", "AWS", "Service", "*", ROOT, ANNA, "Action",
     "sts:AssumeRole", "Condition", "StringLike", "sts:ExternalId", "iot.amazonaws.com", "Sid", "${aws:username}", ""]
)  # fmt: skip
_json = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 1) | _words | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_words, inner, max_size=4),
    max_leaves=12,
)
_statements = st.fixed_dictionaries(
    {"Effect": _words, "Principal": _json, "Action": _json}, optional={"Condition": _json, "Sid": _json}
)


@given(
    st.fixed_dictionaries(
        {"Statement": st.lists(_statements, max_size=3) | _json}, optional={"Version": _words, "Id": _json}
    )
)
def test_any_document_is_read_or_refused(document: dict[str, Any]) -> None:
    try:
        rules = trust.parse(json.dumps(document), ACCOUNT)
    except MalformedPolicy:
        return
    # What was read lets nobody in who is not in it.
    if judged(trust.resolved(rules, IDS), "AIDASTRANGER") is not None:
        assert any(row.principals & {"*", ROOT} for row in rules.rows)
