"""A hub and an edge core as processes: join, a deployment by job, messages and shadows through kill -9 of both."""

import contextlib
import json
import os
import queue
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import paho.mqtt.client as paho
import pytest
from awsiot import greengrasscoreipc
from awsiot.greengrasscoreipc import model
from awsiot.greengrasscoreipc.clientv2 import GreengrassCoreIPCClientV2
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from marram.core.codec import JsonObject

GRANTS = {"p": {"operations": ["*"], "resources": ["*"]}}
RECIPE = {
    "RecipeFormatVersion": "2020-01-25",
    "ComponentName": "com.demo",
    "ComponentVersion": "1.0.0",
    "ComponentConfiguration": {
        "DefaultConfiguration": {
            "accessControl": dict.fromkeys(("aws.greengrass.ipc.mqttproxy", "aws.greengrass.ShadowManager"), GRANTS)
        }
    },
    "Manifests": [
        {
            "Platform": {"os": "linux"},
            "Lifecycle": {"run": "printf %s $SVCUID > token.new; mv token.new token; sleep 600"},
        }
    ],
}


def marram(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "marram.cli.main", *arguments], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, f"{arguments}: {done.stdout}\n{done.stderr}"
    return done.stdout


def until(ready: Callable[[], object], limit_s: float = 15.0) -> None:
    ends = time.monotonic() + limit_s
    while not ready():
        assert time.monotonic() < ends, "it did not happen in time"
        time.sleep(0.05)


class Both:
    def __init__(self, folder: Path) -> None:
        self.data, self.root, self.folder = folder / "hub", folder / "core", folder
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, noun: str) -> None:
        where = ["--data", str(self.data)] if noun == "hub" else ["--root", str(self.root)]
        log = self.folder / f"{noun}-{time.monotonic_ns()}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "marram.cli.main", noun, "up", *where, "--ports", "auto"], stdout=out, stderr=out
            )
        self.running[noun] = process
        until(lambda: f"marram {noun} ready" in log.read_text() or process.poll() is not None)
        assert process.poll() is None, log.read_text()

    def kill(self, noun: str) -> None:
        self.running[noun].send_signal(signal.SIGKILL)
        self.running.pop(noun).wait()

    def close(self) -> None:
        for noun in ("edge", "hub"):
            process = self.running.get(noun)
            if process is not None:
                process.terminate()
                process.wait(20)

    def client(self, service: str) -> object:
        hub = json.loads((self.data / "hub.json").read_text())
        return boto3.client(
            service,
            endpoint_url=hub["endpoints"]["api"],
            region_name=hub["region"],
            aws_access_key_id=hub["admin"]["access_key_id"],
            aws_secret_access_key=hub["admin"]["secret_access_key"],
        )

    def status(self) -> JsonObject:
        found = json.loads(marram("edge", "status", "--root", str(self.root), "--json"))
        assert isinstance(found, dict)
        return found

    def link(self) -> JsonObject:
        hub = self.status()["hub"]
        assert isinstance(hub, dict)
        return hub

    def ipc(self) -> GreengrassCoreIPCClientV2:
        token = (self.root / "work" / "com.demo" / "token").read_text()
        return GreengrassCoreIPCClientV2(
            client=greengrasscoreipc.connect(ipc_socket=str(self.root / "ipc.socket"), authtoken=token, timeout=10)
        )

    def listener(self, got: "queue.Queue[bytes]") -> paho.Client:
        """A device with a session that outlives everything."""
        hub = json.loads((self.data / "hub.json").read_text())
        context = ssl.create_default_context(cafile=hub["ca_file"])
        context.load_cert_chain(self.folder / "listener.pem", self.folder / "listener.key")
        client = paho.Client(CallbackAPIVersion.VERSION2, client_id="listener", protocol=paho.MQTTv5)
        client.tls_set_context(context)
        client.on_message = lambda _c, _u, message: got.put(message.payload)
        ready: queue.Queue[object] = queue.Queue()
        client.on_connect = lambda c, _u, _f, _r, _p: c.subscribe("up/#", 1)
        client.on_subscribe = lambda *_: ready.put(True)
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 3600
        host, _, port = hub["endpoints"]["mqtt"].removeprefix("mqtts://").partition(":")
        client.connect(host, int(port), clean_start=False, properties=properties)
        client.loop_start()
        ready.get(timeout=10)
        return client


@pytest.fixture
def both(tmp_path: Path) -> Iterator[Both]:
    made = Both(tmp_path)
    try:
        made.start("hub")
        yield made
    finally:
        made.close()


def test_join_deploy_and_lose_nothing(both: Both) -> None:
    marram("edge", "join", "--hub-json", str(both.data / "hub.json"), "--thing", "core1", "--root", str(both.root))
    assert os.stat(both.root / "config" / "device.key").st_mode & 0o777 == 0o600
    both.start("edge")
    until(lambda: both.link()["connected"])
    assert str(both.status()["endpoints"]).startswith("{'mqtt': 'mqtts://localhost:")

    greengrass, iot, data = both.client("greengrassv2"), both.client("iot"), both.client("iot-data")
    until(lambda: greengrass.list_core_devices()["coreDevices"])  # type: ignore[attr-defined]
    greengrass.create_component_version(inlineRecipe=json.dumps(RECIPE).encode())  # type: ignore[attr-defined]
    group = iot.create_thing_group(thingGroupName="line")  # type: ignore[attr-defined]
    iot.add_thing_to_thing_group(thingGroupName="line", thingName="core1")  # type: ignore[attr-defined]
    greengrass.create_deployment(  # type: ignore[attr-defined]
        targetArn=group["thingGroupArn"], components={"com.demo": {"componentVersion": "1.0.0"}}
    )
    until((both.root / "work" / "com.demo" / "token").exists)

    def outcome() -> str:
        found = greengrass.list_effective_deployments(coreDeviceThingName="core1")  # type: ignore[attr-defined]
        return str(found["effectiveDeployments"][0]["coreDeviceExecutionStatus"])

    until(lambda: outcome() not in ("IN_PROGRESS", "QUEUED"))
    assert outcome() == "SUCCEEDED"
    until(
        lambda: (
            [
                (each["componentName"], each["lifecycleState"])
                for each in greengrass.list_installed_components(  # type: ignore[attr-defined]
                    coreDeviceThingName="core1"
                )["installedComponents"]
            ]
            == [("com.demo", "RUNNING")]
        )
    )

    made = iot.create_keys_and_certificate(setAsActive=True)  # type: ignore[attr-defined]
    (both.folder / "listener.pem").write_text(made["certificatePem"])
    (both.folder / "listener.key").write_text(made["keyPair"]["PrivateKey"])
    document = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:*", "Resource": "*"}]}
    iot.create_policy(policyName="all", policyDocument=json.dumps(document))  # type: ignore[attr-defined]
    iot.attach_policy(policyName="all", target=made["certificateArn"])  # type: ignore[attr-defined]
    got: queue.Queue[bytes] = queue.Queue()
    listener = both.listener(got)

    data.update_thing_shadow(  # type: ignore[attr-defined]
        thingName="core1", payload=json.dumps({"state": {"desired": {"mode": "eco"}}})
    )
    component = both.ipc()

    def has_arrived() -> bool:
        with contextlib.suppress(model.ResourceNotFoundError):
            return b"eco" in component.get_thing_shadow(thing_name="core1", shadow_name="").payload
        return False

    until(has_arrived)
    sent = 0

    def publish(count: int) -> None:
        nonlocal sent
        for _ in range(count):
            component.publish_to_iot_core(topic_name="up/x", qos="1", payload=b"%d" % sent)
            sent += 1

    publish(50)
    both.kill("hub")
    publish(150)
    component.update_thing_shadow(
        thing_name="core1", shadow_name="", payload=json.dumps({"state": {"reported": {"mode": "eco"}}}).encode()
    )
    component.close()
    both.kill("edge")
    both.start("edge")
    assert both.link()["waiting"] != 0
    both.start("hub")
    listener.loop_stop()
    again = both.listener(got)
    until(lambda: both.link() | {"spool_bytes": 0} == both.link() | {"waiting": 0, "connected": True, "spool_bytes": 0})
    arrived: list[bytes] = []
    while not arrived or arrived[-1] != b"%d" % (sent - 1):
        arrived.append(got.get(timeout=10))
    again.disconnect()
    again.loop_stop()
    # In order, nothing missing; what the listener had not acknowledged when the hub died may come twice to it.
    assert list(dict.fromkeys(arrived)) == [b"%d" % n for n in range(sent)]
    assert arrived[-150:] == [b"%d" % n for n in range(sent - 150, sent)]

    data = both.client("iot-data")

    def shadow() -> JsonObject:
        found = json.loads(data.get_thing_shadow(thingName="core1")["payload"].read())["state"]  # type: ignore[attr-defined]
        assert isinstance(found, dict)
        return found

    until(lambda: shadow() == {"desired": {"mode": "eco"}, "reported": {"mode": "eco"}})
