"""Rules in a real hub, driven by paho and boto3: republish exactly once across kill -9, rules that come and go, retained."""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from botocore.exceptions import ClientError

from marram.cli.client import Api

LIMIT_S = 20.0
ROLE = "arn:aws:iam::000000000001:role/marram-service"
ALLOW = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:*", "Resource": "*"}]}


class Site:
    """A hub that can be killed, with a certificate that may all."""

    def __init__(self, start_hub: Callable[..., Any], folder: Path) -> None:
        self._start, self.folder, self.open = start_hub, folder, list[Client]()
        self.start()
        made = self.iot.create_keys_and_certificate(setAsActive=True)
        self.iot.create_policy(policyName="all", policyDocument=json.dumps(ALLOW))
        self.iot.attach_policy(policyName="all", target=made["certificateArn"])
        (folder / "c.pem").write_text(made["certificatePem"])
        (folder / "k.pem").write_text(made["keyPair"]["PrivateKey"])

    def start(self) -> None:
        self.hub = self._start()
        self.iot, self.data = self.hub.client("iot"), self.hub.client("iot-data")

    def rule(self, name: str, sql: str, **action: Any) -> None:
        payload = {"sql": sql, "awsIotSqlVersion": "2016-03-23", "actions": [action]}
        self.iot.create_topic_rule(ruleName=name, topicRulePayload=payload)

    def republish(self, name: str, sql: str, to: str) -> None:
        self.rule(name, sql, republish={"roleArn": ROLE, "topic": to, "qos": 1})

    def client(self, client_id: str, *, clean: bool = True) -> "Client":
        made = Client(self, client_id, clean=clean)
        self.open.append(made)
        return made

    def points(self, series: str) -> list[int]:
        """`n` of every point."""
        api = Api.from_data(self.hub.data)
        found: list[int] = []
        request: dict[str, Any] = {"series": series, "limit": 1000}
        while True:
            answer = api.marram("timeseries/Query", request)
            found += [int(row["fields"]["n"]) for row in answer["rows"]]
            if "nextToken" not in answer:
                return found
            request["nextToken"] = answer["nextToken"]


class Client:
    """paho, MQTT 3.1.1, which never comes back by itself: what it had not acknowledged stays unsent."""

    def __init__(self, site: Site, client_id: str, *, clean: bool) -> None:
        self.client = paho.Client(
            paho.CallbackAPIVersion.VERSION2, client_id, clean_session=clean, reconnect_on_failure=False
        )
        self.client.tls_set(site.hub.info["ca_file"], str(site.folder / "c.pem"), str(site.folder / "k.pem"))
        self.got: list[paho.MQTTMessage] = []
        self.acked: set[int] = set()
        connected, self._subscribed, self.ended = threading.Event(), threading.Event(), threading.Event()
        self.client.on_disconnect = lambda *_: self.ended.set()
        self.client.on_connect = lambda *_: connected.set()
        self.client.on_message = lambda _c, _u, message: self.got.append(message)
        self.client.on_publish = lambda _c, _u, mid, *_: self.acked.add(mid)
        self.client.on_subscribe = lambda *_: self._subscribed.set()
        self.client.connect("localhost", site.hub.port("mqtt"), 60)
        self.client.loop_start()
        assert connected.wait(LIMIT_S)

    def subscribe(self, topic_filter: str) -> None:
        self._subscribed.clear()
        self.client.subscribe(topic_filter, 1)
        assert self._subscribed.wait(LIMIT_S)

    def publish(self, topic: str, value: object) -> int:
        return self.client.publish(topic, json.dumps(value), 1).mid

    def payloads(self) -> list[Any]:
        return [json.loads(message.payload) for message in list(self.got)]

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def site(start_hub: Callable[..., Any], tmp_path: Path) -> Iterator[Site]:
    made = Site(start_hub, tmp_path)
    yield made
    for client in made.open:
        client.close()


def test_republish_comes_exactly_once_whenever_the_hub_is_killed(site: Site, wait_for: Callable[..., Any]) -> None:
    """Counted twice: by a durable session, and in the time series by a second rule on what the first one published.

    The session may see a message again whose acknowledgement the hub did not live to keep (QoS 1); a point is there once.
    """
    site.republish("copy", "SELECT n FROM 'in/+' WHERE n >= 0", "out/${topic(2)}")
    site.rule(
        "count", "SELECT n FROM 'out/#'",
        timestream={
            "roleArn": ROLE, "databaseName": "wire", "tableName": "out",
            "dimensions": [{"name": "of", "value": "${topic(2)}"}],
        },
    )  # fmt: skip
    keeper = site.client("keeper", clean=False)
    keeper.subscribe("out/#")
    acked: set[int] = set()
    seen: set[int] = set()
    sent = 0
    for life in range(3):
        publisher = site.client(f"load-{life}")
        of_mid: dict[int, int] = {}
        for number in range(sent, sent + 1500):
            of_mid[publisher.publish(f"in/{number % 5}", {"n": number})] = number
        sent += 1500
        wait_for(lambda publisher=publisher, life=life: len(publisher.acked) >= 200 + 250 * life, "some to be accepted")
        site.hub.kill()
        wait_for(
            lambda gone=(publisher, keeper): all(each.ended.is_set() for each in gone), "the end of the connections"
        )
        acked |= {of_mid[mid] for mid in publisher.acked}
        seen |= {message["n"] for message in keeper.payloads()}
        site.start()
        keeper = site.client("keeper", clean=False)
    assert len(acked) >= 900
    wait_for(lambda: acked <= seen | {message["n"] for message in keeper.payloads()}, "every accepted message")
    # Rules go through the journal in order: behind this one's point nothing of the lives before can come.
    site.data.publish(topic=f"in/{sent % 5}", qos=1, payload=json.dumps({"n": sent}).encode())
    wait_for(lambda: sent in site.points("wire.out"), "the last one's point")
    counted = Counter(site.points("wire.out"))
    assert acked <= set(counted)
    assert {number: times for number, times in counted.items() if times > 1} == {}, "republished twice"
    assert set(counted) <= set(range(sent + 1))
    assert all(message.topic == f"out/{json.loads(message.payload)['n'] % 5}" for message in keeper.got)


def test_a_rule_holds_from_its_answer_to_its_end(site: Site, wait_for: Callable[..., Any]) -> None:
    """A publisher that is connected all the time, on a topic that it has used before: no route is remembered for too long."""
    reader, writer = site.client("reader"), site.client("writer")
    reader.subscribe("copy/#")

    def publish(value: int) -> None:
        mid = writer.publish("in/x", {"n": value})
        wait_for(lambda: mid in writer.acked, "the acknowledgement")

    publish(1)
    site.republish("copy", "SELECT n FROM 'in/x'", "copy/a")
    publish(2)
    site.iot.disable_topic_rule(ruleName="copy")
    publish(3)
    site.iot.enable_topic_rule(ruleName="copy")
    publish(4)
    body = {"sql": "SELECT n, 'b' AS by FROM 'in/x' WHERE n > 5", "awsIotSqlVersion": "2016-03-23",
            "actions": [{"republish": {"roleArn": ROLE, "topic": "copy/b"}}]}  # fmt: skip
    site.iot.replace_topic_rule(ruleName="copy", topicRulePayload=body)
    publish(5)
    publish(6)
    site.iot.delete_topic_rule(ruleName="copy")
    publish(7)
    site.data.publish(topic="copy/end", qos=1, payload=b'"end"')
    wait_for(lambda: any(message.topic == "copy/end" for message in reader.got), "the end")
    wait_for(lambda: len(reader.got) == 4, "the copies")
    found = {(message.topic, message.payload) for message in reader.got}
    assert found == {
        ("copy/a", b'{"n":2}'), ("copy/a", b'{"n":4}'), ("copy/b", b'{"n":6,"by":"b"}'), ("copy/end", b'"end"'),
    }  # fmt: skip
    sns = {"targetArn": "arn:aws:sns:local-1:000000000001:t", "roleArn": ROLE}
    with pytest.raises(ClientError, match="sns"):
        site.rule("no", "SELECT * FROM 'a'", sns=sns)


def test_publish_by_http_reaches_rules_sessions_and_later_subscribers(site: Site, wait_for: Callable[..., Any]) -> None:
    reader = site.client("reader")
    reader.subscribe("out/+")
    site.republish("copy", "SELECT *, topic() AS was FROM 'in/+'", "out/x")
    site.data.publish(topic="in/a", qos=1, payload=b'{"n": 1}')
    wait_for(lambda: reader.payloads() == [{"n": 1, "was": "in/a"}], "the copy")

    site.data.publish(topic="state/lamp", qos=1, retain=True, payload=b'"on"', userProperties=[{"by": "hand"}])
    site.hub.kill()
    site.start()
    late = site.client("late")
    late.subscribe("state/lamp")
    wait_for(lambda: late.got, "the retained message, also after kill -9")
    assert (late.got[0].topic, late.got[0].payload, late.got[0].retain) == ("state/lamp", b'"on"', True)
    found = site.data.get_retained_message(topic="state/lamp")
    assert (found["topic"], found["payload"], found["qos"]) == ("state/lamp", b'"on"', 1) and found["lastModifiedTime"]
    assert json.loads(found["userProperties"]) == [{"by": "hand"}]
    for topic in ("state/a", "state/b"):
        site.data.publish(topic=topic, qos=1, retain=True, payload=b"12")
    first = site.data.list_retained_messages(maxResults=2)
    rest = site.data.list_retained_messages(nextToken=first["nextToken"])
    assert "nextToken" not in rest
    listed = [
        (each["topic"], each["payloadSize"], each["qos"]) for each in first["retainedTopics"] + rest["retainedTopics"]
    ]
    assert listed == [("state/a", 2, 1), ("state/b", 2, 1), ("state/lamp", 4, 1)]

    site.data.publish(topic="state/lamp", qos=1, retain=True, payload=b"")
    wait_for(lambda: len(late.got) == 2, "the news that it is gone")
    with pytest.raises(ClientError, match="ResourceNotFoundException"):
        site.data.get_retained_message(topic="state/lamp")
    later = site.client("later")
    later.subscribe("state/lamp")
    site.data.publish(topic="state/lamp", qos=1, payload=b'"now"')
    wait_for(lambda: later.got, "the next message")
    assert later.payloads() == ["now"]
