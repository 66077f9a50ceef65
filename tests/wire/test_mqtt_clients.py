"""Clients that people use against a real hub process: mosquitto's, paho-mqtt, awsiotsdk; and the hub killed under load."""

import asyncio
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3
import paho.mqtt.client as paho
import pytest
from awscrt import io, mqtt, mqtt5
from awsiot import mqtt5_client_builder, mqtt_connection_builder
from botocore.config import Config
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

pytestmark = pytest.mark.xdist_group("mqtt-clients")
LIMIT_S = 15.0
ALLOW = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:*", "Resource": "*"}]}


def until(test: Callable[[], object], limit_s: float = LIMIT_S) -> None:
    end = time.monotonic() + limit_s
    while not test():
        assert time.monotonic() < end, "nothing happened in time"
        time.sleep(0.01)


@dataclass
class Device:
    certificate: Path
    key: Path
    id: str
    arn: str


class Hub:
    """`marram hub up` in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environ = {**os.environ, "MARRAM_HUB_LOG_LEVEL": "info"}
        with open(self.folder / "hub.log", "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "marram.cli.main", "hub", "up", "--data", str(self.folder / "hub"), "--ports", "auto"],
                stdout=log, stderr=log, env=environ, start_new_session=True,
            )  # fmt: skip
        path = self.folder / "hub" / "hub.json"
        until(lambda: path.exists() or self.process.poll() is not None, 30)
        assert path.exists(), (self.folder / "hub.log").read_text()[-3000:]
        self.described = json.loads(path.read_text())
        self.port = int(self.described["endpoints"]["mqtt"].rpartition(":")[2])
        self.https = int(self.described["endpoints"]["https"].rpartition(":")[2])
        self.ca = self.described["ca_file"]

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)
        (self.folder / "hub" / "hub.json").unlink()

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)

    def iot(self):
        admin = self.described["admin"]
        return boto3.client(
            "iot", endpoint_url=self.described["endpoints"]["api"], region_name=self.described["region"],
            aws_access_key_id=admin["access_key_id"], aws_secret_access_key=admin["secret_access_key"],
            config=Config(retries={"max_attempts": 0}),
        )  # fmt: skip

    def device(self, name: str, document: dict[str, object] = ALLOW) -> Device:
        iot = self.iot()
        made = iot.create_keys_and_certificate(setAsActive=True)
        iot.create_policy(policyName=name, policyDocument=json.dumps(document))
        iot.attach_policy(policyName=name, target=made["certificateArn"])
        device = Device(
            self.folder / f"{name}.pem", self.folder / f"{name}.key", made["certificateId"], made["certificateArn"]
        )
        device.certificate.write_text(made["certificatePem"])
        device.key.write_text(made["keyPair"]["PrivateKey"])
        return device


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    made = Hub(tmp_path_factory.mktemp("wire"))
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def device(hub: Hub) -> Device:
    return hub.device("everything")


class Paho:
    def __init__(
        self, hub: Hub, device: Device, client_id: str, *, v5: bool = False, clean: bool = True, alpn: bool = False
    ) -> None:
        protocol = paho.MQTTv5 if v5 else paho.MQTTv311
        options = {} if v5 else {"clean_session": clean}
        self.client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id, protocol=protocol, **options)
        context = ssl.create_default_context(cafile=hub.ca)
        context.load_cert_chain(device.certificate, device.key)
        if alpn:
            context.set_alpn_protocols(["x-amzn-mqtt-ca"])
        self.client.tls_set_context(context)
        self.client.max_inflight_messages_set(50)
        self.got: list[paho.MQTTMessage] = []
        self.acked: list[int] = []
        self.connected = threading.Event()
        self.subscribed = threading.Event()
        self.ended = threading.Event()
        self.session_present = False
        self.reasons: list[int] = []
        self.client.on_message = lambda _c, _u, message: self.got.append(message)
        self.client.on_publish = lambda _c, _u, mid, _reason, _p: self.acked.append(mid)
        self.client.on_connect = self._connect
        self.client.on_subscribe = self._subscribe
        self.client.on_disconnect = lambda *_: self.ended.set()
        start = {}
        if v5:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = 0 if clean else 600
            start = {"clean_start": clean, "properties": properties}
        self.client.connect("localhost", hub.https if alpn else hub.port, 60, **start)
        self.client.loop_start()
        assert self.connected.wait(LIMIT_S)

    def _connect(self, _client, _user, flags, reason, _properties) -> None:
        self.session_present = flags.session_present
        self.reason = reason
        self.connected.set()

    def _subscribe(self, _client, _user, _mid, reasons, _properties) -> None:
        self.reasons = [reason.value for reason in reasons]
        self.subscribed.set()

    def subscribe(self, text: str, qos: int = 1) -> list[int]:
        self.subscribed.clear()
        self.client.subscribe(text, qos)
        assert self.subscribed.wait(LIMIT_S)
        return self.reasons

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def mosquitto(hub: Hub, device: Device, program: str, *arguments: str) -> list[str]:
    return [
        program, "-h", "localhost", "-p", str(hub.port), "--cafile", hub.ca, "--cert", str(device.certificate),
        "--key", str(device.key), *arguments,
    ]  # fmt: skip


@pytest.mark.parametrize("version", ["311", "5"])
async def test_mosquitto_clients(hub: Hub, device: Device, version: str) -> None:
    sub = await asyncio.create_subprocess_exec(
        "stdbuf", "-oL",
        *mosquitto(hub, device, "mosquitto_sub", "-V", version, "-q", "1", "-t", f"mosq/{version}/+", "-v", "-C", "2", "-d"),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    seen: list[str] = []
    async with asyncio.timeout(LIMIT_S):
        while not any("SUBACK" in line for line in seen):
            seen.append((await sub.stdout.readline()).decode())
        for qos in ("0", "1"):
            pub = await asyncio.create_subprocess_exec(
                *mosquitto(
                    hub,
                    device,
                    "mosquitto_pub",
                    "-V",
                    version,
                    "-q",
                    qos,
                    "-t",
                    f"mosq/{version}/{qos}",
                    "-m",
                    f"hello {qos}",
                )
            )
            assert await pub.wait() == 0
        rest = (await sub.communicate())[0].decode()
    assert f"mosq/{version}/0 hello 0" in rest and f"mosq/{version}/1 hello 1" in rest


@pytest.mark.parametrize("v5", [False, True], ids=["3.1.1", "5"])
def test_paho(hub: Hub, device: Device, v5: bool) -> None:
    sub = Paho(hub, device, f"paho-sub-{v5}", v5=v5, alpn=True)
    assert sub.subscribe("paho/#") == [1]
    pub = Paho(hub, device, f"paho-pub-{v5}", v5=v5)
    mids = [pub.client.publish(f"paho/{n}", str(n), 1).mid for n in range(200)]
    until(lambda: len(pub.acked) == len(mids))
    until(lambda: len(sub.got) == len(mids))
    assert sorted(int(m.payload) for m in sub.got) == list(range(200))
    pub.close()
    sub.close()


def test_paho_persistent_session(hub: Hub, device: Device) -> None:
    for v5 in (False, True):
        sub = Paho(hub, device, f"keeper-{v5}", v5=v5, clean=False)
        assert not sub.session_present
        sub.subscribe("keep/me")
        sub.close()
        pub = Paho(hub, device, f"keeper-pub-{v5}")
        for number in range(120):
            pub.client.publish("keep/me", str(number), 1)
        until(lambda pub=pub: len(pub.acked) == 120)
        pub.close()
        sub = Paho(hub, device, f"keeper-{v5}", v5=v5, clean=False)
        assert sub.session_present
        until(lambda sub=sub: len(sub.got) == 120)
        assert [int(m.payload) for m in sub.got] == list(range(120))
        sub.client.unsubscribe("keep/me")
        sub.close()


def test_awsiotsdk_mqtt311(hub: Hub, device: Device) -> None:
    bootstrap = io.ClientBootstrap.get_or_create_static_default()
    connection = mqtt_connection_builder.mtls_from_path(
        endpoint="localhost", port=hub.port, cert_filepath=str(device.certificate), pri_key_filepath=str(device.key),
        ca_filepath=hub.ca, client_bootstrap=bootstrap, client_id="aws-311", clean_session=True, keep_alive_secs=30,
    )  # fmt: skip
    assert connection.connect().result(LIMIT_S) == {"session_present": False}
    got: list[tuple[str, bytes]] = []
    done, _ = connection.subscribe(
        "aws/+", mqtt.QoS.AT_LEAST_ONCE, lambda topic, payload, **_: got.append((topic, payload))
    )
    assert done.result(LIMIT_S)["qos"] == mqtt.QoS.AT_LEAST_ONCE
    for qos in (mqtt.QoS.AT_MOST_ONCE, mqtt.QoS.AT_LEAST_ONCE):
        connection.publish("aws/1", b"x", qos)[0].result(LIMIT_S)
    until(lambda: len(got) == 2)
    connection.disconnect().result(LIMIT_S)


def test_awsiotsdk_mqtt5(hub: Hub, device: Device) -> None:
    connected: list[mqtt5.LifecycleConnectSuccessData] = []
    stopped = threading.Event()
    got: list[mqtt5.PublishPacket] = []
    client = mqtt5_client_builder.mtls_from_path(
        endpoint="localhost", port=hub.port, cert_filepath=str(device.certificate), pri_key_filepath=str(device.key),
        ca_filepath=hub.ca, client_id="aws-5", on_publish_received=lambda data: got.append(data.publish_packet),
        on_lifecycle_connection_success=connected.append, on_lifecycle_stopped=lambda _: stopped.set(),
    )  # fmt: skip
    client.start()
    until(lambda: connected)
    settings = connected[0].negotiated_settings
    assert settings.maximum_qos == mqtt5.QoS.AT_LEAST_ONCE
    suback = client.subscribe(
        mqtt5.SubscribePacket(subscriptions=[mqtt5.Subscription(topic_filter="aws5/#", qos=mqtt5.QoS.AT_LEAST_ONCE)])
    ).result(LIMIT_S)
    assert suback.reason_codes == [mqtt5.SubackReasonCode.GRANTED_QOS_1]
    done = client.publish(
        mqtt5.PublishPacket(
            topic="aws5/1", payload=b"x", qos=mqtt5.QoS.AT_LEAST_ONCE,
            user_properties=[mqtt5.UserProperty(name="a", value="b")],
        )
    ).result(LIMIT_S)  # fmt: skip
    assert done.puback.reason_code == mqtt5.PubackReasonCode.SUCCESS
    until(lambda: got)
    assert [(p.name, p.value) for p in got[0].user_properties] == [("a", "b")]
    client.stop()
    assert stopped.wait(LIMIT_S)


def test_a_policy_decides(hub: Hub) -> None:
    arn = "arn:aws:iot:*:*:"
    narrow = hub.device(
        "narrow",
        {
            "Version": "2012-10-17",
            "Statement": [
                {"Effect": "Allow", "Action": "iot:Connect", "Resource": f"{arn}client/narrow"},
                {"Effect": "Allow", "Action": "iot:Publish", "Resource": f"{arn}topic/mine/${{iot:ClientId}}"},
                {"Effect": "Allow", "Action": ["iot:Subscribe"], "Resource": f"{arn}topicfilter/mine/*"},
            ],
        },
    )
    other = Paho(hub, narrow, "other")
    assert other.reason.is_failure
    mine = Paho(hub, narrow, "narrow", v5=True)
    assert mine.subscribe("mine/x") == [1]
    assert mine.subscribe("theirs/x") == [135]
    mine.client.publish("mine/narrow", "x", 1)
    until(lambda: len(mine.acked) == 1)
    mine.client.publish("theirs", "x", 0)
    assert mine.ended.wait(LIMIT_S)
    mine.close()
    other.close()


def test_revocation_within_two_seconds(hub: Hub) -> None:
    doomed = hub.device("doomed")
    client = Paho(hub, doomed, "doomed")
    began = time.monotonic()
    hub.iot().update_certificate(certificateId=doomed.id, newStatus="REVOKED")
    assert client.ended.wait(2.0)
    assert time.monotonic() - began < 2.0
    client.client.loop_stop()


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00"]
)
def test_plain_bytes_on_the_tls_port(hub: Hub, data: bytes) -> None:
    with socket.create_connection(("127.0.0.1", hub.port), LIMIT_S) as plain:
        plain.sendall(data)
        assert plain.recv(100) == b""
    log = (hub.folder / "hub.log").read_text()
    assert "on a TLS port" in log


def test_http_over_tls_on_the_mqtt_port(hub: Hub, device: Device) -> None:
    context = ssl.create_default_context(cafile=hub.ca)
    context.load_cert_chain(device.certificate, device.key)
    with socket.create_connection(("localhost", hub.port), LIMIT_S) as plain:
        with context.wrap_socket(plain, server_hostname="localhost") as tls:
            tls.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert tls.recv(100) == b""


def test_acknowledged_messages_survive_kill_9(tmp_path: Path) -> None:
    hub = Hub(tmp_path)
    hub.start()
    try:
        device = hub.device("everything")
        sub = Paho(hub, device, "sub", clean=False)
        sub.subscribe("load/#")
        sub.close()
        pub = Paho(hub, device, "pub")
        payloads: dict[int, int] = {}
        for number in range(3000):
            payloads[pub.client.publish(f"load/{number % 7}", str(number), 1).mid] = number
        until(lambda: len(pub.acked) >= 300)
        hub.kill()
        pub.client.loop_stop()
        acked = {payloads[mid] for mid in list(pub.acked)}
        hub.start()
        sub = Paho(hub, device, "sub", clean=False)
        assert sub.session_present
        until(lambda: acked <= {int(message.payload) for message in list(sub.got)})
        numbers = [int(message.payload) for message in sub.got]
        assert len(acked) >= 300 and len(numbers) == len(set(numbers))
        sub.close()
        assert not (tmp_path / "hub.log").read_text().count("Traceback")
    finally:
        hub.stop()
