"""Attacks T1, T3, T4 and T5 on a running hub: another's name, hostile names in variables, what a policy only seems to say, and
rights that end while the client is here. What is denied is neither delivered nor retained, seen by a rule, nor in a shadow."""

import json
import queue
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from botocore.exceptions import ClientError
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from marram.kit import http

LIMIT_S = 10.0
REVOKED_S = 2.0
ARN = "arn:aws:iot:*:*:"
THING = "${iot:Connection.Thing.ThingName}"
OWN = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Action": "iot:Connect", "Resource": f"{ARN}client/{THING}"},
        {
            "Effect": "Allow",
            "Action": ["iot:Publish", "iot:RetainPublish", "iot:Receive"],
            "Resource": [f"{ARN}topic/dt/{THING}/*", f"{ARN}topic/$aws/things/{THING}/shadow/*"],
        },
        {
            "Effect": "Allow",
            "Action": "iot:Subscribe",
            "Resource": [f"{ARN}topicfilter/dt/{THING}/*", f"{ARN}topicfilter/$aws/things/{THING}/shadow/*"],
        },
        {"Effect": "Allow", "Action": "iot:UpdateThingShadow", "Resource": f"{ARN}thing/{THING}"},
    ],
}
VERSIONS = [pytest.param(MQTTProtocolVersion.MQTTv311, id="3.1.1"), pytest.param(MQTTProtocolVersion.MQTTv5, id="5")]


class Client:
    """A paho client with queues for what it is told."""

    def __init__(self, tls: ssl.SSLContext, port: int, client_id: str, version: MQTTProtocolVersion) -> None:
        self.got: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self.acks: queue.Queue[int] = queue.Queue()
        self.subacks: queue.Queue[list[int]] = queue.Queue()
        self.up: queue.Queue[int] = queue.Queue()
        self.down: queue.Queue[int] = queue.Queue()
        self.paho = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=client_id, protocol=version, reconnect_on_failure=False
        )
        self.paho.tls_set_context(tls)
        self.paho.on_connect = lambda _c, _u, _f, reason, _p: self.up.put(reason.value)
        self.paho.on_disconnect = lambda _c, _u, _f, reason, _p: (self.down.put(reason.value), self.up.put(-1))
        self.paho.on_message = lambda _c, _u, message: self.got.put((message.topic, message.payload))
        self.paho.on_publish = lambda _c, _u, _m, reason, _p: self.acks.put(reason.value)
        self.paho.on_subscribe = lambda _c, _u, _m, reasons, _p: self.subacks.put([each.value for each in reasons])
        self.paho.connect("localhost", port)
        self.paho.loop_start()
        self.is_up = self.up.get(timeout=LIMIT_S) == 0

    def subscribe(self, text: str) -> int:
        self.paho.subscribe(text, 1)
        (code,) = self.subacks.get(timeout=LIMIT_S)
        return code

    def publish(self, topic: str, payload: bytes = b"x", *, retain: bool = False) -> str:
        """ "accepted", "refused" (5 says so) or "closed"."""
        self.paho.publish(topic, payload, qos=1, retain=retain)
        end = time.monotonic() + LIMIT_S
        while time.monotonic() < end:
            if not self.acks.empty():
                return "accepted" if self.acks.get() < 128 else "refused"
            if not self.down.empty():
                return "closed"
            time.sleep(0.005)
        raise AssertionError(f"no answer to a publish on {topic}")

    def close(self) -> None:
        self.paho.disconnect()
        self.paho.loop_stop()


class Site:
    def __init__(self, hub: Any, folder: Path) -> None:
        self.hub, self.folder, self.clients = hub, folder, list[Client]()
        self.iot, self.data = hub.client("iot"), hub.client("iot-data")

    def certificate(self, name: str, policy: dict[str, Any], *, thing: bool = True) -> str:
        """A certificate with a policy, attached to the thing of that name; its ARN."""
        made = self.iot.create_keys_and_certificate(setAsActive=True)
        self.iot.create_policy(policyName=name, policyDocument=json.dumps(policy))
        self.iot.attach_policy(policyName=name, target=made["certificateArn"])
        if thing:
            self.iot.create_thing(thingName=name)
            self.iot.attach_thing_principal(thingName=name, principal=made["certificateArn"])
        (self.folder / f"{name}.pem").write_text(made["certificatePem"] + made["keyPair"]["PrivateKey"])
        return str(made["certificateArn"])

    def tls(self, name: str) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.hub.info["ca_file"])
        context.load_cert_chain(self.folder / f"{name}.pem")
        return context

    def connect(
        self, name: str, client_id: str | None = None, version: MQTTProtocolVersion = MQTTProtocolVersion.MQTTv311
    ) -> Client:
        made = Client(self.tls(name), self.hub.port("mqtt"), client_id or name, version)
        self.clients.append(made)
        return made

    def close(self) -> None:
        """The hub is for the next test, and knows nothing of this one."""
        for client in self.clients:
            client.close()
        for rule in self.iot.list_topic_rules()["rules"]:
            self.iot.delete_topic_rule(ruleName=rule["ruleName"])
        for thing in self.iot.list_things()["things"]:
            for principal in self.iot.list_thing_principals(thingName=thing["thingName"])["principals"]:
                self.iot.detach_thing_principal(thingName=thing["thingName"], principal=principal)
            self.iot.delete_thing(thingName=thing["thingName"])
        for policy in self.iot.list_policies(pageSize=100)["policies"]:
            name = policy["policyName"]
            for target in self.iot.list_targets_for_policy(policyName=name)["targets"]:
                self.iot.detach_policy(policyName=name, target=target)
            for version in self.iot.list_policy_versions(policyName=name)["policyVersions"]:
                if not version["isDefaultVersion"]:
                    self.iot.delete_policy_version(policyName=name, policyVersionId=version["versionId"])
            self.iot.delete_policy(policyName=name)


@pytest.fixture
def site(shared_hub: Any, tmp_path: Path) -> Iterator[Site]:
    made = Site(shared_hub, tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize("version", VERSIONS)
async def test_t01_one_device_as_another(site: Site, version: MQTTProtocolVersion) -> None:
    """B's topics, filters, shadow and client id with A's certificate, on every door."""
    site.certificate("a", OWN)
    site.certificate("b", OWN)
    role = f"arn:aws:iam::{site.hub.info['account_id']}:role/marram-service"
    republish = {"republish": {"roleArn": role, "topic": "dt/b/seen"}}
    site.iot.create_topic_rule(
        ruleName="seen", topicRulePayload={"sql": "SELECT * FROM 'dt/b/#' WHERE evil = true", "actions": [republish]}
    )
    victim = site.connect("b", version=version)
    assert victim.is_up and victim.subscribe("dt/b/#") == 1
    assert victim.subscribe("$aws/things/b/shadow/update/accepted") == 1
    denied = "refused" if version == MQTTProtocolVersion.MQTTv5 else "closed"
    for topic, payload, retain in (
        ("dt/b/cmd", b'{"evil": true}', False),
        ("dt/b/kept", b'{"evil": true}', True),
        ("$aws/things/b/shadow/update", b'{"state": {"desired": {"evil": true}}}', False),
        ("$aws/things/b/shadow/delete", b"", False),
        ("dt/a/../b/cmd", b'{"evil": true}', False),  # allowed: it is below dt/a/, and nobody reads it otherwise
    ):
        attacker = site.connect("a", version=version)
        assert attacker.is_up
        for text in ("dt/b/#", "dt/+/#", "#", "$aws/things/b/shadow/#", "$aws/things/+/shadow/#", "$share/g/dt/b/#"):
            assert attacker.subscribe(text) >= 128, text
        assert attacker.publish(topic, payload, retain=retain) == ("accepted" if topic.startswith("dt/a/") else denied)
        attacker.close()
    assert not site.connect("a", "b", version).is_up
    assert victim.down.empty(), "B was not put out by who was refused its name"
    url = f"{site.hub.info['endpoints']['https']}/things/b/shadow"
    answer = await http.request("POST", url, body=b'{"state": {"desired": {"evil": true}}}', tls=site.tls("a"))
    assert answer.status == 403
    url = f"{site.hub.info['endpoints']['https']}/topics/dt/b/cmd?qos=1"
    assert (await http.request("POST", url, body=b'{"evil": true}', tls=site.tls("a"))).status == 403

    assert victim.publish("dt/b/end", b'{"evil": false}') == "accepted"
    assert victim.got.get(timeout=LIMIT_S) == ("dt/b/end", b'{"evil": false}'), "nothing came before it"
    assert victim.got.empty()
    with pytest.raises(ClientError, match="ResourceNotFoundException"):
        site.data.get_retained_message(topic="dt/b/kept")
    with pytest.raises(ClientError, match="No shadow exists"):
        site.data.get_thing_shadow(thingName="b")


HOSTILE = ["*", "?", "${iot:ClientId}", "${*}", "a/b", "../x", "#", "+", "x*", "victim/#", "{}", "$", "victim?"]
BY_CLIENT_ID = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Action": "iot:Connect", "Resource": "*"},
        {"Effect": "Allow", "Action": ["iot:Publish", "iot:Receive"], "Resource": f"{ARN}topic/dt/${{iot:ClientId}}/*"},
        {"Effect": "Allow", "Action": "iot:Subscribe", "Resource": f"{ARN}topicfilter/dt/${{iot:ClientId}}/*"},
        {"Effect": "Allow", "Action": "iot:Publish", "NotResource": f"{ARN}topic/${{iot:ClientId}}/*"},
    ],
}


def test_t03_hostile_client_ids_in_variables(site: Site) -> None:
    """A value goes in as text, and one that could be a pattern or more than one level opens nothing at all."""
    site.certificate("device", BY_CLIENT_ID, thing=False)
    fair = site.connect("device", "victim")
    assert fair.subscribe("dt/victim/#") == 1 and fair.publish("dt/victim/own") == "accepted"
    assert fair.got.get(timeout=LIMIT_S) == ("dt/victim/own", b"x")
    for client_id in HOSTILE:
        client = site.connect("device", client_id, MQTTProtocolVersion.MQTTv5)
        if not client.is_up:
            assert client_id.startswith("$"), "client ids that begin with $ are reserved, others are allowed here"
            continue
        for text in ("dt/victim/#", "dt/+/#", f"dt/{client_id}/#".replace("#/", "x/"), "#"):
            assert client.subscribe(text) >= 128, (client_id, text)
        literal = client_id.replace("#", "x").replace("+", "x")
        for topic in ("dt/victim/cmd", f"dt/{literal}/cmd", "dt/a/cmd", "other/topic"):
            assert client.publish(topic) == "refused", (client_id, topic)
        client.close()
    assert fair.publish("dt/victim/end") == "accepted"
    assert fair.got.get(timeout=LIMIT_S) == ("dt/victim/end", b"x")


def test_t03_hostile_thing_names_are_refused_at_registration(site: Site) -> None:
    from botocore.config import Config

    loose = site.hub.client("iot", config=Config(parameter_validation=False, retries={"max_attempts": 1}))
    for name in ("a*", "?", "${iot:ClientId}", "a/b", "../x", "#", "+", "a b", "", "x" * 129):
        with pytest.raises(ClientError) as caught:
            loose.create_thing(thingName=name)
        answer: Any = caught.value.response
        assert answer["ResponseMetadata"]["HTTPStatusCode"] in (400, 404), (name, answer)
    assert site.iot.list_things()["things"] == []


def test_t04_what_a_policy_only_seems_to_say(site: Site) -> None:
    """Deny wins wherever it stands; NotAction, case and white space are what they are; what cannot be judged is not stored."""

    def allowed(*statements: dict[str, Any], topic: str = "t", action: str = "PUBLISH") -> str:
        site.iot.create_policy(
            policyName="p", policyDocument=json.dumps({"Version": "2012-10-17", "Statement": list(statements)})
        )
        try:
            kind = "topicfilter" if action == "SUBSCRIBE" else "topic"
            info = {"actionType": action, "resources": [f"arn:aws:iot:local-1:000000000001:{kind}/{topic}"]}
            (result,) = site.iot.test_authorization(authInfos=[info], clientId="c", policyNamesToAdd=["p"])[
                "authResults"
            ]
            return str(result["authDecision"])
        finally:
            site.iot.delete_policy(policyName="p")

    yes = {"Effect": "Allow", "Action": "iot:*", "Resource": "*"}
    no = {"Effect": "Deny", "Action": "iot:Publish", "Resource": f"{ARN}topic/t"}
    assert allowed(yes, no) == allowed(no, yes) == allowed(yes, no, yes) == "EXPLICIT_DENY"
    assert allowed(yes, no, topic="T") == "ALLOWED", "topics have case"
    assert allowed(yes, {**no, "Action": "IOT:PUBLISH"}) == "EXPLICIT_DENY", "actions have none"
    assert allowed({"Effect": "Allow", "NotAction": "iot:Connect", "Resource": "*"}) == "ALLOWED"
    assert allowed(yes, {"Effect": "Deny", "NotAction": "iot:Connect", "Resource": "*"}) == "EXPLICIT_DENY"
    assert allowed(yes, {"Effect": "Deny", "Action": "*", "NotResource": f"{ARN}topic/u"}) == "EXPLICIT_DENY"
    assert allowed({"Effect": "Allow", "Action": "iot:Publish", "Resource": f"{ARN}topic/t "}) == "IMPLICIT_DENY"
    assert allowed({"Effect": "Allow", "Action": "iot:Publish", "Resource": f"{ARN}topic/+"}) == "IMPLICIT_DENY"
    one = {"Effect": "Allow", "Action": "iot:Subscribe", "Resource": f"{ARN}topicfilter/t/?"}
    assert allowed(one, topic="t/x", action="SUBSCRIBE") == "ALLOWED"
    assert allowed(one, topic="t/+", action="SUBSCRIBE") == "IMPLICIT_DENY", "? is no wildcard of MQTT"
    strange = {**yes, "Condition": {"StringNotEquals": {"iot:ClientId": "${iot:Connection.Thing.ThingName}"}}}
    assert allowed(strange) == "IMPLICIT_DENY", "what is not known never grants"
    assert allowed(yes, {**strange, "Effect": "Deny"}) == "EXPLICIT_DENY"


UNJUDGED: list[tuple[dict[str, Any], str]] = [
    ({"Condition": {"StringEquals": {"iot:Clientid2": "x"}}}, "Statement[1].Condition.StringEquals"),
    ({"Condition": {"StringLikes": {"iot:ClientId": "x"}}}, "Statement[1].Condition.StringLikes"),
    ({"Condition": {"StringEquals": {"iot:ClientId": []}}}, "Statement[1].Condition.StringEquals.iot:ClientId"),
    ({"Condition": {"IpAddress": {"aws:SourceIp": "10.0.0/8"}}}, "Statement[1].Condition.IpAddress"),
    ({"Resource": f"{ARN}topic/${{iot:Nobody}}"}, "Statement[1].Resource"),
    ({"Resource": f"{ARN}topic/${{iot:ClientId"}, "Statement[1].Resource"),
    ({"Resource": "topic/x"}, "Statement[1].Resource"),
    ({"Action": "Publish"}, "Statement[1].Action"),
    ({"Principal": "*"}, "Statement[1].Principal"),
    ({"NotAction": "iot:Connect"}, "Statement[1]"),
    ({"effect": "Deny"}, "Statement[1]"),
    ({"Effect": "deny"}, "Statement[1].Effect"),
]


def test_t04_what_cannot_be_judged_is_refused_with_its_place(site: Site) -> None:
    good = {"Effect": "Allow", "Action": "iot:Connect", "Resource": "*"}
    site.iot.create_policy(policyName="there", policyDocument=json.dumps({"Statement": [good]}))
    for changed, place in UNJUDGED:
        text = json.dumps({"Version": "2012-10-17", "Statement": [good, {**good, **changed}]})
        for call, name in ((site.iot.create_policy, "new"), (site.iot.create_policy_version, "there")):
            with pytest.raises(ClientError, match="MalformedPolicyException") as caught:
                call(policyName=name, policyDocument=text)
            assert place in str(caught.value), changed
    assert [each["policyName"] for each in site.iot.list_policies()["policies"]] == ["there"]
    assert len(site.iot.list_policy_versions(policyName="there")["policyVersions"]) == 1


def test_t04_the_limits_of_a_policy(site: Site) -> None:
    """2,048 characters without white space and ten policies a target; one more is refused."""
    frame = (
        '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"iot:Publish","Resource":"arn:aws:iot:%s"}]}'
    )
    fits = frame % ("x" * (2048 - len(frame) + 2))
    assert len(fits) == 2048
    site.iot.create_policy(policyName="fits", policyDocument=fits.replace(",", ",\n        "))
    with pytest.raises(ClientError, match="MalformedPolicyException"):
        site.iot.create_policy(policyName="over", policyDocument=frame % ("x" * (2049 - len(frame) + 2)))
    with pytest.raises(ClientError, match="MalformedPolicyException"):
        site.iot.create_policy_version(policyName="fits", policyDocument=frame % ("x" * (2049 - len(frame) + 2)))
    target = site.iot.create_keys_and_certificate(setAsActive=True)["certificateArn"]
    for at in range(11):
        site.iot.create_policy(policyName=f"p{at}", policyDocument=json.dumps(OWN))
        if at < 10:
            site.iot.attach_policy(policyName=f"p{at}", target=target)
    with pytest.raises(ClientError, match="LimitExceededException"):
        site.iot.attach_policy(policyName="p10", target=target)


def test_t05_rights_that_end_reach_who_is_here_in_two_seconds(site: Site) -> None:
    """A policy version, a thing detached, a certificate revoked: the next packet is judged by it, or there is no connection."""
    arn = site.certificate("a", OWN)
    watcher_policy = json.loads(json.dumps(OWN).replace(THING, "*"))
    site.certificate("watcher", watcher_policy, thing=False)
    watcher = site.connect("watcher")
    assert watcher.subscribe("dt/a/#") == 1
    client = site.connect("a", version=MQTTProtocolVersion.MQTTv5)
    assert client.subscribe("dt/a/in") == 1 and client.publish("dt/a/x") == "accepted"
    narrow = json.loads(json.dumps(OWN).replace(f"topic/dt/{THING}/*", f"topic/dt/{THING}/y"))
    site.iot.create_policy_version(policyName="a", policyDocument=json.dumps(narrow), setAsDefault=True)
    end = time.monotonic() + REVOKED_S
    while client.publish("dt/a/x") == "accepted":
        assert time.monotonic() < end, "the old policy still holds"
    assert client.publish("dt/a/y") == "accepted" and client.down.empty()
    # Of the things it was for: its variables have no value any more, so it may not even be connected.
    site.iot.detach_thing_principal(thingName="a", principal=arn)
    client.down.get(timeout=REVOKED_S)
    site.iot.attach_thing_principal(thingName="a", principal=arn)
    back = site.connect("a", version=MQTTProtocolVersion.MQTTv5)
    assert back.is_up
    site.iot.update_certificate(certificateId=arn.rpartition("/")[2], newStatus="REVOKED")
    back.down.get(timeout=REVOKED_S)
    assert not site.connect("a").is_up
    seen = [watcher.got.get(timeout=LIMIT_S)[0]]
    while seen[-1] != "dt/a/y":
        seen.append(watcher.got.get(timeout=LIMIT_S)[0])
    assert set(seen[:-1]) == {"dt/a/x"} and watcher.got.empty()
