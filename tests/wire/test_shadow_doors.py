"""Shadows through every door of a running hub: device HTTPS and API with the same refusals, a burst on one connection, and
the event of a wish that is not reached, through a rule, over a restart."""

import json
import queue
import sqlite3
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from botocore.exceptions import ClientError
from paho.mqtt.enums import CallbackAPIVersion

from marram.cli.client import Api
from marram.kit import http

LIMIT_S = 15.0
ARN = "arn:aws:iot:*:*:"
POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Action": ["iot:Connect", "iot:Publish", "iot:Receive", "iot:Subscribe"], "Resource": "*"},
        {
            "Effect": "Allow",
            "Action": ["iot:GetThingShadow", "iot:UpdateThingShadow", "iot:DeleteThingShadow"],
            "Resource": [f"{ARN}thing/lamp", f"{ARN}thing/lamp/light"],
        },
        {"Effect": "Allow", "Action": "iot:ListNamedShadowsForThing", "Resource": f"{ARN}thing/lamp"},
    ],
}


class Device:
    """A certificate, as files, with paho clients and plain HTTPS."""

    def __init__(self, hub: Any, folder: Path) -> None:
        iot = hub.client("iot")
        made = iot.create_keys_and_certificate(setAsActive=True)
        name = made["certificateId"][:12]
        iot.create_policy(policyName=name, policyDocument=json.dumps(POLICY))
        iot.attach_policy(policyName=name, target=made["certificateArn"])
        self.hub, self.pem = hub, folder / "device.pem"
        self.pem.write_text(made["certificatePem"] + made["keyPair"]["PrivateKey"])
        self.tls = ssl.create_default_context(cafile=hub.info["ca_file"])
        self.tls.load_cert_chain(self.pem)
        self.clients: list[paho.Client] = []

    async def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, Any]:
        url = f"{self.hub.info['endpoints']['https']}{path}"
        answer = await http.request(method, url, body=body, tls=self.tls)
        return answer.status, json.loads(answer.body)

    def connect(
        self, client_id: str, got: "queue.Queue[Any]", *, filters: list[str], clean: bool = True
    ) -> paho.Client:
        ready: queue.Queue[object] = queue.Queue()
        client = paho.Client(CallbackAPIVersion.VERSION2, client_id=client_id, clean_session=clean)
        client.tls_set_context(self.tls)
        client.max_inflight_messages_set(100)
        client.on_message = lambda _c, _u, message: got.put((message.topic, json.loads(message.payload)))
        client.on_subscribe = lambda *_: ready.put(None)
        client.on_connect = lambda *_: client.subscribe([(text, 1) for text in filters]) if filters else ready.put(None)
        client.connect("localhost", self.hub.port("mqtt"))
        client.loop_start()
        self.clients.append(client)
        ready.get(timeout=LIMIT_S)
        return client

    def close(self) -> None:
        for client in self.clients:
            client.disconnect()
            client.loop_stop()


@pytest.fixture
def hub(shared_hub: Any) -> Any:
    """One for all but the last test: each has things of its own."""
    return shared_hub


@pytest.fixture
def device(hub: Any, tmp_path: Path) -> Iterator[Device]:
    made = Device(hub, tmp_path)
    yield made
    made.close()


async def test_device_https_and_the_api_say_the_same(device: Device) -> None:
    data = device.hub.client("iot-data")
    at = "/things/lamp/shadow"
    assert await device.ask("GET", at) == (404, {"message": "No shadow exists with name: 'lamp'"})
    status, accepted = await device.ask("POST", at, b'{"state": {"desired": {"on": true, "gone": null}}, "mine": 1}')
    stamp = {"timestamp": accepted["timestamp"]}
    assert (status, accepted["state"], accepted["version"]) == (200, {"desired": {"on": True, "gone": None}}, 1)
    assert accepted["metadata"] == {"desired": {"on": stamp, "gone": stamp}}
    _, document = await device.ask("GET", at)
    assert document["state"] == {"desired": {"on": True}, "delta": {"on": True}}
    assert json.loads(data.get_thing_shadow(thingName="lamp")["payload"].read())["state"] == document["state"]

    for body, code, text in (
        (b'{"state": {"desired": {}}, "version": 9}', 409, "Version conflict"),
        (b'{"state": {"desired": {"a": "%s"}}}' % (b"x" * 9000), 413, "The payload exceeds the maximum size allowed"),
        (b'\xff{"state": {}}', 415, "Unsupported documented encoding; supported encoding is UTF-8"),
        (b'{"state": {"delta": {}}}', 400, "State contains an invalid node: 'delta'"),
        (b"{}", 400, "Missing required node: state"),
    ):
        assert await device.ask("POST", at, body) == (code, {"message": text})
        with pytest.raises(ClientError) as caught:
            data.update_thing_shadow(thingName="lamp", payload=body)
        answer: Any = caught.value.response
        assert (answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Message"]) == (code, text)

    assert (await device.ask("POST", f"{at}?name=light", b'{"state": {}}'))[1]["version"] == 1
    assert (await device.ask("POST", f"{at}?name=dark", b'{"state": {}}'))[0] == 403
    assert (await device.ask("GET", "/things/door/shadow"))[0] == 403
    _, listed = await device.ask("GET", "/api/things/shadow/ListNamedShadowsForThing/lamp")
    assert listed["results"] == ["light"]
    assert (await device.ask("DELETE", f"{at}?name=light"))[1]["version"] == 1
    assert await device.ask("DELETE", f"{at}?name=light") == (
        404,
        {"message": "No shadow exists with name: 'lamp~light'"},
    )
    _, listed = await device.ask("GET", "/api/things/shadow/ListNamedShadowsForThing/lamp")
    assert listed["results"] == []


def test_named_shadows_in_pages(hub: Any) -> None:
    data = hub.client("iot-data")
    for at in range(7):
        data.update_thing_shadow(thingName="paged", shadowName=f"s{at}", payload=b'{"state": {}}')
    seen, token = [], {}
    while True:
        page = data.list_named_shadows_for_thing(thingName="paged", pageSize=3, **token)
        assert len(page["results"]) <= 3
        seen += page["results"]
        if "nextToken" not in page:
            break
        token = {"nextToken": page["nextToken"]}
    assert seen == [f"s{at}" for at in range(7)]
    assert data.list_named_shadows_for_thing(thingName="nobody")["results"] == []


def test_a_shadow_outlives_its_thing_and_needs_none(hub: Any) -> None:
    iot, data = hub.client("iot"), hub.client("iot-data")
    iot.create_thing(thingName="gone")
    for thing in ("gone", "never-made"):
        data.update_thing_shadow(thingName=thing, payload=b'{"state": {"desired": {"on": true}}}')
    iot.delete_thing(thingName="gone")
    for thing in ("gone", "never-made"):
        assert json.loads(data.get_thing_shadow(thingName=thing)["payload"].read())["state"]["desired"] == {"on": True}


def test_more_than_ten_in_flight_on_one_connection_are_rejected(device: Device) -> None:
    """A burst: what is accepted is a version, the others are told 429, and nothing is lost or without an answer."""
    got: queue.Queue[Any] = queue.Queue()
    at = "$aws/things/hasty/shadow/update"
    client = device.connect("burst", got, filters=[f"{at}/accepted", f"{at}/rejected"])
    accepted: set[str] = set()
    rejected: dict[str, int] = {}
    sent = 0
    end = time.monotonic() + LIMIT_S
    while not (rejected and accepted):
        assert time.monotonic() < end, "no burst came to more than ten at once"
        for _ in range(60):
            client.publish(at, json.dumps({"state": {"reported": {"n": sent}}, "clientToken": f"t{sent}"}), qos=1)
            sent += 1
        while len(accepted) + len(rejected) < sent:
            topic, body = got.get(timeout=LIMIT_S)
            if topic.endswith("accepted"):
                accepted.add(body["clientToken"])
            else:
                rejected[body["clientToken"]] = body["code"]
    assert set(rejected.values()) == {429} and not accepted & rejected.keys()
    document = json.loads(device.hub.client("iot-data").get_thing_shadow(thingName="hasty")["payload"].read())
    assert document["version"] == len(accepted)
    last = max(int(token[1:]) for token in accepted)
    assert document["state"]["reported"] == {"n": last}, "the order of one connection is kept"


def test_a_will_on_a_shadow_topic_changes_no_shadow(device: Device) -> None:
    """As AWS: subscribers and rules see it, the shadow does not."""
    got: queue.Queue[Any] = queue.Queue()
    at = "$aws/things/wily/shadow/update"
    device.connect("watcher", got, filters=[at])
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id="dying")
    client.tls_set_context(device.tls)
    client.will_set(at, b'{"state": {"reported": {"connected": false}}}', qos=1)
    ready: queue.Queue[object] = queue.Queue()
    client.on_connect = lambda *_: ready.put(None)
    client.connect("localhost", device.hub.port("mqtt"))
    client.loop_start()
    ready.get(timeout=LIMIT_S)
    client._sock_close()  # without DISCONNECT
    client.loop_stop()
    assert got.get(timeout=LIMIT_S) == (at, {"state": {"reported": {"connected": False}}})
    with pytest.raises(ClientError, match="No shadow exists"):
        device.hub.client("iot-data").get_thing_shadow(thingName="wily")


def test_a_wish_that_is_not_reached_is_told_through_a_rule_over_a_restart(
    start_hub: Callable[..., Any], tmp_path: Path
) -> None:
    hub = start_hub()
    device = Device(hub, tmp_path)
    got: queue.Queue[Any] = queue.Queue()
    role = f"arn:aws:iam::{hub.info['account_id']}:role/marram-service"
    hub.client("iot").create_topic_rule(
        ruleName="alarms",
        topicRulePayload={
            "sql": "SELECT * FROM '$marram/events/shadow/+/+'",
            "actions": [{"republish": {"roleArn": role, "topic": "alarms", "qos": 1}}],
        },
    )
    device.connect("operator", got, filters=["alarms", "$marram/events/shadow/+/lamp"], clean=False)
    device.clients[0].disconnect()
    device.clients.pop().loop_stop()
    hub.client("iot-data").update_thing_shadow(thingName="lamp", payload=b'{"state": {"desired": {"on": true}}}')
    (found,) = Api.from_data(hub.data).marram("shadow/ListUnreached", {"minutes": 0})["shadows"]
    assert (found["thingName"], found["version"], [key["key"] for key in found["keys"]]) == ("lamp", 1, ["/on"])
    assert Api.from_data(hub.data).marram("shadow/ListUnreached", {"minutes": 1}) == {"shadows": []}
    hub.stop()
    with sqlite3.connect(hub.data / "hub.db") as db:  # the clock: twenty minutes later
        db.execute("UPDATE shadow SET since_ms = since_ms - 1200000")
        db.execute("UPDATE shadow SET since = CAST(json_object('/on', since_ms) AS BLOB)")
    db.close()
    device.hub = hub = start_hub(hub.data)
    client = device.connect("operator", got, filters=[], clean=False)
    first, second = got.get(timeout=LIMIT_S), got.get(timeout=LIMIT_S)
    by_topic = dict([first, second])
    assert by_topic.keys() == {"alarms", "$marram/events/shadow/unreached/lamp"}
    event = by_topic["alarms"]
    assert event == by_topic["$marram/events/shadow/unreached/lamp"]
    assert (event["eventType"], event["thingName"], event["version"], event["minutes"]) == ("unreached", "lamp", 1, 15)
    assert event["keys"] == [{"key": "/on", "since": event["since"]}]
    hub.client("iot-data").update_thing_shadow(thingName="lamp", payload=b'{"state": {"reported": {"on": true}}}')
    over = dict([got.get(timeout=LIMIT_S), got.get(timeout=LIMIT_S)])
    assert over["alarms"]["eventType"] == "reached"
    # Nobody else may say so.
    ended: queue.Queue[object] = queue.Queue()
    client.on_disconnect = lambda *_: ended.put(None)
    client.publish("$marram/events/shadow/reached/lamp", b"{}", qos=1)
    ended.get(timeout=LIMIT_S)
    device.close()
