"""A device that asks about jobs without subscribing to the answers, as AWS's Jobs library for embedded C does (its guide tells it so)."""

import json
import queue
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest

LIMIT_S = 15.0
ARN = "arn:aws:iot:*:*:"
JOBS = "$aws/things/{}/jobs"


def policy(*receive: str) -> str:
    statements = [
        {"Effect": "Allow", "Action": ["iot:Connect", "iot:Publish", "iot:Subscribe"], "Resource": "*"},
        {"Effect": "Allow", "Action": "iot:Receive", "Resource": [f"{ARN}topic/{topic}" for topic in receive]},
    ]
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


class Device:
    """A thing with a job, connected under its name; `heard` is what came."""

    def __init__(self, hub: Any, folder: Path, thing: str, *receive: str) -> None:
        iot = hub.client("iot")
        arn = iot.create_thing(thingName=thing)["thingArn"]
        made = iot.create_keys_and_certificate(setAsActive=True)
        iot.create_policy(policyName=thing, policyDocument=policy(*receive))
        iot.attach_policy(policyName=thing, target=made["certificateArn"])
        iot.create_job(jobId=f"for-{thing}", targets=[arn], document='{"do": 1}')
        (folder / f"{thing}.pem").write_text(made["certificatePem"] + made["keyPair"]["PrivateKey"])
        self.heard: queue.Queue[Any] = queue.Queue()
        self.client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=thing, protocol=paho.MQTTv5)
        context = ssl.create_default_context(cafile=hub.info["ca_file"])
        context.load_cert_chain(folder / f"{thing}.pem")
        self.client.tls_set_context(context)
        connected: queue.Queue[int] = queue.Queue()
        self.client.on_connect = lambda *_: connected.put(1)
        self.client.on_subscribe = lambda *_: connected.put(2)
        self.client.on_message = lambda _c, _u, message: self.heard.put(message)
        self.client.connect("localhost", hub.port("mqtt"), 30)
        self.client.loop_start()
        connected.get(timeout=LIMIT_S)
        self._connected = connected

    def subscribe(self, text: str) -> None:
        self.client.subscribe(text, 1)
        self._connected.get(timeout=LIMIT_S)

    def ask(self, topic: str, body: dict[str, Any]) -> None:
        self.client.publish(topic, json.dumps(body), 1).wait_for_publish(LIMIT_S)

    def next(self) -> tuple[str, Any]:
        message = self.heard.get(timeout=LIMIT_S)
        return message.topic, json.loads(message.payload)


@pytest.fixture
def connect(shared_hub: Any, tmp_path: Path) -> Iterator[Callable[..., Device]]:
    made: list[Device] = []

    def start(thing: str, *receive: str) -> Device:
        made.append(Device(shared_hub, tmp_path, thing, *receive))
        return made[-1]

    yield start
    for device in made:
        device.client.disconnect()
        device.client.loop_stop()


def test_who_asks_is_answered_subscribed_or_not(connect: Callable[..., Device]) -> None:
    jobs = JOBS.format("quiet")
    device = connect("quiet", f"{jobs}/*")
    device.ask(f"{jobs}/start-next", {"clientToken": "a"})
    topic, body = device.next()
    assert (topic, body["execution"]["jobId"], body["clientToken"]) == (f"{jobs}/start-next/accepted", "for-quiet", "a")
    device.ask(f"{jobs}/for-quiet/update", {"status": "SUCCEEDED", "expectedVersion": "1"})
    topic, body = device.next()
    assert (topic, body["code"]) == (f"{jobs}/for-quiet/update/rejected", "VersionMismatch")
    device.ask(
        f"{jobs}/for-quiet/update", {"status": "SUCCEEDED", "expectedVersion": "2"}
    )  # a text, as that library writes it
    assert device.next()[0] == f"{jobs}/for-quiet/update/accepted"


def test_who_subscribes_gets_it_once(connect: Callable[..., Device]) -> None:
    jobs = JOBS.format("loud")
    device = connect("loud", f"{jobs}/*", "end")
    device.subscribe(f"{jobs}/+/accepted")
    device.ask(f"{jobs}/get", {})
    assert device.next()[0] == f"{jobs}/get/accepted"
    device.subscribe("end")
    device.ask("end", {})
    assert device.next()[0] == "end"  # and nothing in between


def test_a_policy_without_receive_holds(connect: Callable[..., Device]) -> None:
    device = connect("deaf", "end")
    device.ask(f"{JOBS.format('deaf')}/get", {})
    device.subscribe("end")
    device.ask("end", {})
    assert device.next()[0] == "end"
