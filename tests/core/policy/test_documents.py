# ruff: noqa: E501 - tables read best a row a line
import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marram.core.policy import documents
from marram.core.policy.documents import MalformedPolicy

GOOD = {"Effect": "Allow", "Action": "iot:Publish", "Resource": "*"}


def text(*statements: object, **top: object) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements), **top})


def without(name: str) -> dict[str, str]:
    return {key: value for key, value in GOOD.items() if key != name}


@pytest.mark.parametrize(
    ("document", "where"),
    [
        pytest.param("", "not JSON", id="empty"),
        pytest.param("[]", "object", id="not an object"),
        pytest.param('{"Version":"2012-10-17","Version":"2012-10-17","Statement":[]}', "duplicate", id="duplicate key"),
        pytest.param('{"Statement":[{"Effect":"Allow","Effect":"Deny","Action":"*","Resource":"*"}]}', "duplicate", id="duplicate effect"),
        pytest.param(text(GOOD, Version="2020-01-01"), "Version", id="unknown version"),
        pytest.param(text(), "Statement", id="no statement"),
        pytest.param(text("x"), "Statement[0]", id="statement is text"),
        pytest.param(text(GOOD, Extra=1), "'Extra'", id="unknown element"),
        pytest.param(text(GOOD | {"Actions": "x"}), "Statement[0]: unknown element 'Actions'", id="misspelt element"),
        pytest.param(text(GOOD | {"Effect": "allow"}), "Statement[0].Effect", id="effect in lower case"),
        pytest.param(text(without("Effect")), "Statement[0].Effect", id="no effect"),
        pytest.param(text(without("Action")), "Statement[0]: needs Action or NotAction", id="no action"),
        pytest.param(text(without("Resource")), "Statement[0]: needs Resource", id="no resource"),
        pytest.param(text(GOOD | {"NotAction": "iot:X"}), "not both", id="both actions"),
        pytest.param(text(GOOD | {"Action": []}), "Statement[0].Action", id="empty list"),
        pytest.param(text(GOOD | {"Action": ["iot:Publish", 1]}), "Statement[0].Action", id="number as action"),
        pytest.param(text(GOOD | {"Action": "Publish"}), "service:Action", id="action without service"),
        pytest.param(text(GOOD, GOOD | {"Resource": "topic/x"}), "Statement[1].Resource", id="resource no arn"),
        pytest.param(text(GOOD | {"Principal": "*"}), "Statement[0].Principal", id="principal"),
        pytest.param(text(GOOD | {"Resource": "arn:x:${iot:Nonsense}"}), "'iot:Nonsense'", id="unknown variable"),
        pytest.param(text(GOOD | {"Resource": "arn:x:${iot:ClientId"}), "not closed", id="open variable"),
        pytest.param(text(GOOD | {"Resource": "arn:x:${iot:ClientId}"}, Version="2008-10-17"), "2012-10-17", id="variable in the old version"),
        pytest.param(text(GOOD | {"Condition": {"StringIs": {"iot:ClientId": "a"}}}), "'StringIs'", id="unknown operator"),
        pytest.param(text(GOOD | {"Condition": {"stringequals": {"iot:ClientId": "a"}}}), "unknown condition operator", id="operator in lower case"),
        pytest.param(text(GOOD | {"Condition": {"ForSome:StringEquals": {"iot:ClientId": "a"}}}), "ForSome", id="unknown quantifier"),
        pytest.param(text(GOOD | {"Condition": {"StringEquals": {"iot:Colour": "a"}}}), "'iot:Colour'", id="unknown key"),
        pytest.param(text(GOOD | {"Condition": {"StringEquals": {"aws:ResourceTag/x": "a"}}}), "aws:ResourceTag/x", id="tags"),
        pytest.param(text(GOOD | {"Condition": {"StringEquals": {}}}), "condition keys", id="no key"),
        pytest.param(text(GOOD | {"Condition": {"StringEquals": {"iot:ClientId": []}}}), "at least one value", id="no value"),
        pytest.param(text(GOOD | {"Condition": {"StringEquals": {"iot:ClientId": {}}}}), "not object", id="object as value"),
        pytest.param(text(GOOD | {"Condition": {"NumericEquals": {"aws:EpochTime": "ten"}}}), "'ten'", id="not a number"),
        pytest.param(text(GOOD | {"Condition": {"DateEquals": {"aws:CurrentTime": "soon"}}}), "'soon'", id="not a date"),
        pytest.param(text(GOOD | {"Condition": {"IpAddress": {"aws:SourceIp": "10.0.0.0/99"}}}), "10.0.0.0/99", id="not a network"),
        pytest.param(text(GOOD | {"Condition": {"Bool": {"aws:SecureTransport": "yes"}}}), "'yes'", id="not a boolean"),
        pytest.param(text(GOOD | {"Condition": {"BoolIfExists": {"aws:SecureTransport": "ja"}}}), "'ja'", id="not a boolean, if exists"),
        pytest.param(text(GOOD | {"Sid": "a"}, GOOD | {"Sid": "a"}), "used twice", id="sid twice"),
        pytest.param(text(GOOD | {"Resource": "arn:" + "x" * 2048}), "2048", id="too long"),
        pytest.param('{"Statement":' * 5000, "2048", id="too long and deep"),
        pytest.param('{"a":' * 300 + "1" + "}" * 300, "deeper", id="deep"),
    ],
)  # fmt: skip
def test_refuses_and_says_where(document, where):
    with pytest.raises(MalformedPolicy) as caught:
        documents.parse(document)
    assert where in caught.value.message
    assert caught.value.data["kind"] == "policy"


def test_white_space_is_not_counted():
    document = text(GOOD).replace(",", "," + " " * 3000)
    assert documents.parse(document).statements[0].actions == ("iot:Publish",)


def test_one_statement_needs_no_list():
    assert len(documents.parse(json.dumps({"Statement": GOOD})).statements) == 1


WORDS = ["Version", "Statement", "Effect", "Action", "Resource", "Condition", "Sid", "StringEquals", "iot:ClientId"]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(["Allow", "*", "2012-10-17"]),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(WORDS), inner),
        max_leaves=20,
    )
)
def test_anything_else_is_refused_cleanly(value):
    with contextlib.suppress(MalformedPolicy):
        documents.parse(json.dumps(value))
