import pytest

from marram.core.errors import Invalid
from marram.edge.broker.bridge import parse
from marram.edge.broker.policy import CONNECT, PUBLISH, SUBSCRIBE, Policy, Rule

DOCUMENT = {
    "formatVersion": "2021-03-05",
    "definitions": {
        "sensors": {"selectionRule": "thingName: sensor-* OR thingName: gauge", "policyName": "own"},
        "all": {"selectionRule": "thingName: *", "policyName": "never"},
    },
    "policies": {
        "own": {
            "connect": {"operations": [CONNECT], "resources": ["mqtt:clientId:${iot:Connection.Thing.ThingName}*"]},
            "talk": {
                "statementDescription": "own topics",
                "operations": [PUBLISH, SUBSCRIBE],
                "resources": ["mqtt:topic:plant/${iot:Connection.Thing.ThingName}/*", "mqtt:topicfilter:cmd/#"],
            },
        },
        "never": {"secret": {"effect": "DENY", "operations": ["mqtt:*"], "resources": ["mqtt:topic:*/secret"]}},
    },
}


@pytest.mark.parametrize(
    ("thing", "operation", "target", "allowed"),
    [
        ("sensor-1", CONNECT, "sensor-1", True),
        ("sensor-1", CONNECT, "sensor-1-b", True),
        ("sensor-1", CONNECT, "gauge", False),
        ("sensor-1", PUBLISH, "plant/sensor-1/temp", True),
        ("sensor-1", PUBLISH, "plant/sensor-2/temp", False),
        ("sensor-1", PUBLISH, "plant/sensor-1/secret", False),
        ("sensor-1", SUBSCRIBE, "cmd/#", True),
        ("sensor-1", SUBSCRIBE, "cmd/1", False),
        ("sensor-1", SUBSCRIBE, "plant/sensor-1/temp", False),
        ("gauge", CONNECT, "gauge", True),
        ("stranger", CONNECT, "stranger", False),
    ],
)
def test_device_groups(thing: str, operation: str, target: str, allowed: bool) -> None:
    assert Policy(DOCUMENT).may(thing, operation, target) is allowed


def test_without_groups_nobody_may_anything() -> None:
    assert not Policy().may("t", CONNECT, "t")


@pytest.mark.parametrize(
    ("rule", "covered", "not_covered"),
    [
        ("thingName: a", "a", "ab"),
        ("thingName:a* AND NOT thingName: ab", "ac", "ab"),
        ("(thingName: a OR thingName: b) AND thingName: b*", "b", "a"),
        ("thingName: a OR thingName: b AND thingName: c", "a", "b"),
    ],
)
def test_selection_rules(rule: str, covered: str, not_covered: str) -> None:
    assert Rule(rule).covers(covered) and not Rule(rule).covers(not_covered)


@pytest.mark.parametrize(
    "rule", ["", "thingName", "thingName: a b", "AND", "(thingName: a", "thingName: a*b", "NOT", ")"]
)
def test_selection_rules_that_do_not_parse(rule: str) -> None:
    with pytest.raises(Invalid, match="selectionRule"):
        Rule(rule)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"formatVersion": "1"}, "formatVersion"),
        ({"definitions": {"g": {"selectionRule": "thingName: a", "policyName": "no"}}}, "no policy 'no'"),
        ({"policies": {"p": {"s": {"operations": ["mqtt:fly"], "resources": ["*"]}}}}, "mqtt:fly"),
        ({"policies": {"p": {"s": {"operations": ["*"], "resources": ["topic:x"]}}}}, "topic:x"),
        ({"policies": {"p": {"s": {"operations": ["*"], "resources": ["mqtt:topic:${aws:x}"]}}}}, "aws:x"),
        ({"policies": {"p": {"s": {"effect": "MAYBE", "operations": ["*"], "resources": ["*"]}}}}, "MAYBE"),
    ],
)
def test_documents_that_are_refused(change: dict[str, object], says: str) -> None:
    with pytest.raises(Invalid, match=says.replace("$", r"\$")):
        Policy({**DOCUMENT, "definitions": {}, **change})  # type: ignore[dict-item]


def test_mappings() -> None:
    (mapped,) = parse({"m": {"topic": "a/#", "source": "LocalMqtt", "target": "iotcore", "targetTopicPrefix": "p/"}})
    assert (mapped.source, mapped.target, mapped.prefix) == ("LocalMqtt", "IotCore", "p/")
    for bad, says in [
        ({"topic": "a/#/b", "source": "LocalMqtt", "target": "IotCore"}, "filter"),
        ({"topic": "a", "source": "Mars", "target": "IotCore"}, "Mars"),
        ({"topic": "a", "source": "IotCore", "target": "IotCore"}, "the same"),
        ({"topic": "a", "source": "LocalMqtt", "target": "IotCore", "x": 1}, "unknown key"),
    ]:
        with pytest.raises(Invalid, match=says):
            parse({"m": bad})  # type: ignore[dict-item]
