"""`marram policy explain` and `try` as typed, on a running hub with a live client."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.wire.test_attacks_policy import OWN, THING, Site

TOPIC = "arn:aws:iot:local-1:000000000001:topic/"
Marram = Callable[..., Any]


@pytest.fixture
def site(shared_hub: Any, tmp_path: Path) -> Iterator[Site]:
    made = Site(shared_hub, tmp_path)
    yield made
    made.close()


def test_explain_names_the_statement_the_values_and_why(site: Site, marram: Marram) -> None:
    principal = site.certificate("a", OWN)
    words = ("policy", "explain", "--principal", principal, "--action", "iot:Publish", "--data", site.hub.data)
    ran = marram(*words, "--client-id", "a", "--resource", f"{TOPIC}dt/a/x")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("allowed: policy a statement 1 allows it\n")
    assert "iot:Connection.Thing.ThingName='a'" in ran.stdout
    ran = marram(*words, "--client-id", "b", "--resource", f"{TOPIC}dt/a/x", "--json")
    answer = json.loads(ran.stdout)
    assert (answer["allowed"], answer["decision"]) == (False, "implicit deny")
    assert answer["missing"] == ["iot:Connection.Thing.ThingName"]
    step = answer["statements"][1]
    assert (step["policyName"], step["applies"], step["values"]) == ("a", False, {"iot:Connection.Thing.ThingName": ""})
    assert step["why"].endswith("(iot:Connection.Thing.ThingName has no value)")
    narrow = json.loads(json.dumps(OWN))
    narrow["Statement"].append(
        {"Sid": "office", "Effect": "Deny", "Action": "*", "Resource": "*",
         "Condition": {"NotIpAddress": {"aws:SourceIp": "10.0.0.0/8"}}}
    )  # fmt: skip
    site.iot.create_policy_version(policyName="a", policyDocument=json.dumps(narrow), setAsDefault=True)
    asked = (*words, "--client-id", "a", "--resource", f"{TOPIC}dt/a/x")
    inside = marram(*asked, "--context", "aws:SourceIp=10.1.2.3")
    assert inside.stdout.startswith("allowed: "), inside.stdout
    outside = marram(*asked, "--context", "aws:SourceIp=192.0.2.1")
    assert outside.stdout.startswith("explicit deny: policy a statement 4 (office) denies it"), outside.stdout
    assert marram(*asked, "--context", "nothing").returncode == 2
    wrong = marram(*asked, "--context", "aws:Nobody=1")
    assert wrong.returncode == 1 and "aws:Nobody" in wrong.stderr


def test_try_says_what_would_change_and_changes_nothing(site: Site, marram: Marram, tmp_path: Path) -> None:
    principal = site.certificate("a", OWN)
    client = site.connect("a")
    assert client.subscribe("dt/a/in") == 1
    assert client.publish("dt/a/x") == client.publish("dt/a/y") == "accepted"
    document, requests = tmp_path / "new.json", tmp_path / "requests.json"
    document.write_text(json.dumps(OWN))
    words = ("policy", "try", "--name", "a", "--document", document, "--data", site.hub.data)
    same = marram(*words, "--live")
    assert same.returncode == 0, same.stderr
    assert same.stdout == (
        "tried on 1 clients with the policy (1 connected, 1 subscriptions, 2 topics): 0 newly denied, 0 newly allowed\n"
    )

    document.write_text(json.dumps(OWN).replace(f"topic/dt/{THING}/*", f"topic/dt/{THING}/y"))
    requests.write_text(
        json.dumps(
            [
                {"principal": principal, "clientId": "a", "action": "iot:Publish", "resource": f"{TOPIC}dt/a/y"},
                {"principal": principal, "clientId": "a", "action": "iot:Publish", "resource": f"{TOPIC}dt/a/z",
                 "context": {"aws:SourceIp": "10.0.0.1", "iot:ConnectAttributes": ["LastWill"]}},
            ]
        )
    )  # fmt: skip
    ran = marram(*words, "--live", "--requests", requests, "--json")
    assert ran.returncode == 8, ran.stderr
    answer = json.loads(ran.stdout)
    assert (answer["newlyDenied"], answer["newlyAllowed"]) == (3, 0)
    assert [(each["before"], each["after"]) for each in answer["requests"]] == [
        ("allowed", "allowed"), ("allowed", "implicit deny"),
    ]  # fmt: skip
    changes = {
        (each["clientId"], each["thingName"], each["action"], each["resource"]) for each in answer["live"]["changes"]
    }
    assert changes == {("a", "a", "iot:Publish", f"{TOPIC}dt/a/x"), ("a", "a", "iot:Receive", f"{TOPIC}dt/a/in")}
    shown = marram(*words, "--live")
    assert shown.returncode == 8 and "allowed -> implicit deny" in shown.stdout and "dt/a/x" in shown.stdout
    assert client.publish("dt/a/x") == "accepted" and client.down.empty()
    assert len(site.iot.list_policy_versions(policyName="a")["policyVersions"]) == 1


def test_try_refuses_what_it_cannot_try(site: Site, marram: Marram, tmp_path: Path) -> None:
    site.certificate("a", OWN)
    good, file = tmp_path / "good.json", tmp_path / "file.json"
    good.write_text(json.dumps(OWN))
    base = ("policy", "try", "--data", site.hub.data)
    assert marram(*base, "--name", "a", "--document", good).returncode == 2, "nothing to try it on"
    assert marram(*base, "--name", "b", "--document", good, "--live").returncode == 3
    assert marram(*base, "--name", "a", "--document", tmp_path / "missing.json", "--live").returncode == 3
    for text, said in (("{", "policy document"), ('{"Statement": [{"Effect": "allow"}]}', "Statement[0].Effect")):
        file.write_text(text)
        ran = marram(*base, "--name", "a", "--document", file, "--live")
        assert ran.returncode == 1 and said in ran.stderr, ran.stderr
    for body, said in (
        ("[]", "at least one"), ("[3]", "[0]: must be an object"), ('[{"action": "x"}]', "principal is missing"),
        ('[{"principal": "x", "action": "x", "resource": "x", "who": 1}]', "unknown member 'who'"),
        ('[{"principal": "x", "action": "x", "resource": "x", "context": 1}]', "must be an object of condition keys"),
        ('[{"principal": "arn:aws:iot:local-1:000000000001:thing/x", "action": "x", "resource": "x"}]', "thing/x"),
    ):  # fmt: skip
        file.write_text(body)
        ran = marram(*base, "--name", "a", "--document", good, "--requests", file)
        assert ran.returncode in (1, 3) and said in ran.stderr, ran.stderr
