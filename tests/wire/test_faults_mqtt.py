"""Clients of the MQTT door that may not, send too much, break the protocol or knock at the wrong door."""

import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from awscrt import mqtt5
from awsiot import mqtt5_client_builder

from tests.wire.faults import Device, Hub, Paho, until

pytestmark = pytest.mark.xdist_group("faults-mqtt")
ARN = "arn:aws:iot:*:*:"
BOTH = pytest.mark.parametrize("v5", [False, True], ids=["3.1.1", "5"])
NARROW = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Action": "iot:Connect", "Resource": "*"},
        {
            "Effect": "Allow",
            "Action": ["iot:Publish", "iot:Receive", "iot:RetainPublish"],
            "Resource": f"{ARN}topic/mine/*",
        },
        {"Effect": "Allow", "Action": "iot:Subscribe", "Resource": f"{ARN}topicfilter/mine/*"},
    ],
}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("faults")
    made = Hub(folder / "hub", folder / "hub.log")
    made.start()
    yield made
    made.close()
    assert "Traceback" not in made.said()


@pytest.fixture(scope="module")
def device(hub: Hub) -> Device:
    return hub.device("all")


@pytest.fixture(scope="module")
def narrow(hub: Hub) -> Device:
    return hub.device("narrow", NARROW)


@BOTH
def test_a_certificate_without_policy_does_not_connect(hub: Hub, v5: bool) -> None:
    bare = hub.device(f"bare-{v5}", attach=False)
    client = Paho(hub, bare, "bare", v5=v5)
    code, why = client.connacks[0]
    assert code == 0x87  # paho shows 3.1.1's return code 5 as 0x87 too
    assert not v5 or "iot:Connect" in why
    client.close()
    done = subprocess.run(
        hub.mosquitto(bare, "mosquitto_pub", "-V", "5" if v5 else "311", "-q", "1", "-t", "x", "-m", "x", "-i", "bare"),
        capture_output=True, text=True, timeout=20,
    )  # fmt: skip
    assert done.returncode in (5, 0x87) and "ot authori" in done.stderr
    until(lambda: "iot:Connect is not allowed" in hub.said(), "a line in the log", 5)


@BOTH
def test_a_revoked_certificate_is_out_within_two_seconds_and_stays_out(hub: Hub, v5: bool) -> None:
    doomed = hub.device(f"doomed-{v5}")
    client = Paho(hub, doomed, f"doomed-{v5}", v5=v5)
    assert client.accepted
    began = time.monotonic()
    hub.client("iot").update_certificate(certificateId=doomed.id, newStatus="REVOKED")
    until(lambda: client.ends, "the end of its connection", 2.0)
    assert time.monotonic() - began < 2.0
    if v5:
        assert client.ends[0][0] == 0x87
        assert "REVOKED" in client.ends[0][1]
    client.close()
    done = subprocess.run(
        hub.mosquitto(doomed, "mosquitto_pub", "-V", "5" if v5 else "311", "-q", "1", "-t", "x", "-m", "x"),
        capture_output=True, text=True, timeout=20,
    )  # fmt: skip
    assert done.returncode != 0
    until(lambda: f"certificate {doomed.id} is REVOKED" in hub.said(), "a line in the log", 5)


@BOTH
def test_a_policy_that_is_detached_counts_for_the_next_packet(hub: Hub, device: Device, v5: bool) -> None:
    iot = hub.client("iot")
    held = hub.device(f"held-{v5}", NARROW)
    iot.create_policy(
        policyName=f"connect-{v5}",
        policyDocument='{"Version": "2012-10-17", "Statement":'
        ' [{"Effect": "Allow", "Action": "iot:Connect", "Resource": "*"}]}',
    )
    iot.attach_policy(policyName=f"connect-{v5}", target=held.arn)
    client, other = Paho(hub, held, f"held-{v5}", v5=v5), Paho(hub, device, f"held-other-{v5}")
    assert client.subscribe("mine/#") == 1
    assert client.ack(client.publish("mine/a", "before"))[0] == 0
    until(lambda: [m.payload for m in client.got] == [b"before"], "its own message")
    iot.detach_policy(policyName=held.policy, target=held.arn)
    began = time.monotonic()
    # Nothing more is delivered, and what it publishes is refused: it may only be connected.
    until(lambda: "Allowed" not in _sent(other, f"mine/{v5}") and _settled(client), "no more deliveries", 2.0)
    assert time.monotonic() - began < 2.0
    mid = client.publish("mine/a", "after")
    if v5:
        assert client.ack(mid)[0] == 0x87
    else:
        until(lambda: client.ends, "the end of its connection")
    client.close()
    iot.detach_policy(policyName=f"connect-{v5}", target=held.arn)
    gone = Paho(hub, held, f"held-{v5}", v5=v5)
    assert not gone.accepted
    gone.close()
    other.close()


def _sent(other: Paho, text: str) -> str:
    other.ack(other.publish("mine/b", text))
    return text


def _settled(client: Paho) -> bool:
    """Whether messages have stopped to come."""
    count = len(client.got)
    time.sleep(0.1)
    return len(client.got) == count


@BOTH
def test_when_the_last_policy_goes_the_connection_goes(hub: Hub, v5: bool) -> None:
    iot = hub.client("iot")
    held = hub.device(f"last-{v5}")
    client = Paho(hub, held, f"last-{v5}", v5=v5)
    iot.detach_policy(policyName=held.policy, target=held.arn)
    until(lambda: client.ends, "the end of its connection", 2.0)
    if v5:
        assert client.ends[0] == (0x87, "iot:Connect is no longer allowed")
    client.close()


@BOTH
def test_a_topic_outside_the_policy_reaches_nobody_and_is_kept_nowhere(
    hub: Hub, device: Device, narrow: Device, v5: bool
) -> None:
    topic = f"theirs/{v5}"
    live, stored = Paho(hub, device, f"live-{v5}"), Paho(hub, device, f"stored-{v5}", clean=False)
    assert live.subscribe("theirs/#") == 1 and stored.subscribe("theirs/#") == 1
    stored.close()
    before = hub.metrics()["marram_mqtt_appended_total"]
    client = Paho(hub, narrow, f"out-{v5}", v5=v5)
    if v5:
        code, why = client.ack(client.publish(topic, "secret", retain=True))
        assert code == 0x87 and f"iot:Publish on {topic}" in why
        assert not client.ends
        code = client.subscribe("theirs/x")
        assert code == 0x87
        client.publish(topic, "secret", 0)
        until(lambda: client.ends, "the end of its connection")
        assert client.ends[0][0] == 0x87
    else:
        assert client.subscribe("theirs/x") == 0x80
        client.publish(topic, "secret", retain=True)
        until(lambda: client.ends, "the end of its connection")
        assert client.acks == []
    client.close()
    # The marker comes after whatever might have been let through, and is the first thing that anybody gets.
    marker = Paho(hub, device, f"marker-{v5}")
    marker.ack(marker.publish(topic, "marker"))
    until(lambda: live.got, "the marker")
    assert [message.payload for message in live.got] == [b"marker"]
    again = Paho(hub, device, f"stored-{v5}", clean=False)
    until(lambda: again.got, "the marker")
    assert [message.payload for message in again.got] == [b"marker"]
    late = Paho(hub, device, f"late-{v5}")
    late.subscribe("theirs/#")
    marker.ack(marker.publish(topic, "marker"))
    until(lambda: late.got, "the marker")
    assert [(m.payload, m.retain) for m in late.got] == [(b"marker", False)]
    assert hub.metrics()["marram_mqtt_appended_total"] - before < 12  # session notes and the markers
    for each in (live, again, marker, late):
        each.close()


@BOTH
def test_a_payload_over_the_limit_ends_the_connection_and_goes_nowhere(hub: Hub, device: Device, v5: bool) -> None:
    live = Paho(hub, device, f"big-live-{v5}")
    live.subscribe("big/#")
    client = Paho(hub, device, f"big-{v5}", v5=v5)
    assert client.ack(client.publish("big/fits", b"x" * 131072))[0] == 0
    until(lambda: [len(m.payload) for m in live.got] == [131072], "the message that fits")
    client.publish("big/over", b"x" * 131073)
    until(lambda: client.ends, "the end of its connection")
    if v5:
        code, why = client.ends[0]
        assert code in (0x95, 0x97) and "131072" in why
    assert len(client.acks) == 1
    client.close()
    done = subprocess.run(
        hub.mosquitto(device, "mosquitto_pub", "-V", "5" if v5 else "311", "-q", "1", "-t", "big/over", "-s"),
        input=b"x" * 300_000, capture_output=True, timeout=20,
    )  # fmt: skip
    assert (
        v5 or done.returncode != 0
    )  # MQTT 5 names its limit in CONNACK, and mosquitto_pub then sends nothing and says nothing
    assert len(live.got) == 1
    live.close()


def test_awsiotsdk_is_told_why(hub: Hub, narrow: Device) -> None:
    got: list[mqtt5.LifecycleConnectSuccessData] = []
    ended: list[mqtt5.LifecycleDisconnectData] = []
    client = mqtt5_client_builder.mtls_from_path(
        endpoint="localhost", port=hub.port("mqtt"), cert_filepath=str(narrow.certificate), ca_filepath=hub.ca,
        pri_key_filepath=str(narrow.key), client_id="aws-narrow", on_lifecycle_connection_success=got.append,
        on_lifecycle_disconnection=ended.append,
    )  # fmt: skip
    client.start()
    until(lambda: got, "a connection")
    publish = mqtt5.PublishPacket(topic="theirs/x", payload=b"x", qos=mqtt5.QoS.AT_LEAST_ONCE)
    done = client.publish(publish).result(10)
    assert done.puback.reason_code == mqtt5.PubackReasonCode.NOT_AUTHORIZED
    assert "iot:Publish on theirs/x" in done.puback.reason_string
    wish = mqtt5.Subscription(topic_filter="theirs/#", qos=mqtt5.QoS.AT_LEAST_ONCE)
    suback = client.subscribe(mqtt5.SubscribePacket(subscriptions=[wish])).result(10)
    assert suback.reason_codes == [mqtt5.SubackReasonCode.NOT_AUTHORIZED]
    assert suback.reason_string == "theirs/# is not allowed: iot:Subscribe"
    assert not ended
    client.stop()


def _tls(hub: Hub, device: Device | None, door: str = "mqtt", alpn: str | None = None) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=hub.ca)
    if device is not None:
        context.load_cert_chain(device.certificate, device.key)
    if alpn:
        context.set_alpn_protocols([alpn])
    plain = socket.create_connection(("127.0.0.1", hub.port(door)), 10)
    return context.wrap_socket(plain, server_hostname="localhost")


CONNECT = {
    4: b"\x10\x0f\x00\x04MQTT\x04\x02\x00\x3c\x00\x03raw",
    5: b"\x10\x10\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x03raw",
}


def _all(sock: socket.socket) -> bytes:
    data = b""
    try:
        while part := sock.recv(4096):
            data += part
    except (ConnectionError, ssl.SSLError):
        pass
    return data


@pytest.mark.parametrize("version", [4, 5], ids=["3.1.1", "5"])
@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(b"\x30\xff\xff\xff\xff\x7f", 0x81, id="a length of five bytes"),
        pytest.param(b"\x30\x80\x80\x80\x7f", 0x97, id="266 MB are announced"),
        pytest.param(b"\x32\x05\x00\x01a\x00\x00", 0x82, id="packet id 0"),
        pytest.param(b"\x30\x04\x00\x05ab", 0x81, id="a topic longer than its packet"),
        pytest.param(b"\x36\x06\x00\x01a\x00\x01x", 0x81, id="QoS 3"),
        pytest.param(b"\x00\x00", 0x81, id="packet type 0"),
        pytest.param(b"\x20\x02\x00\x00", 0x82, id="a CONNACK from a client"),
        pytest.param(b"\x80\x02\x00\x01", 0x81, id="SUBSCRIBE with wrong flags"),
    ],
)
def test_a_malformed_packet_ends_one_connection(hub: Hub, device: Device, version: int, data: bytes, code: int) -> None:
    other = Paho(hub, device, "bystander")
    with _tls(hub, device) as sock:
        sock.sendall(CONNECT[version])
        head = sock.recv(4)
        assert head[0] == 0x20
        if version == 5:
            rest = head[1] - 2
            while rest > 0:
                rest -= len(sock.recv(rest))
        sock.sendall(data)
        answer = _all(sock)
    if version == 5:
        assert answer[:1] == b"\xe0" and answer[2] in (0x81, 0x82, code), answer
        assert len(answer) > 5  # a reason string
    else:
        assert answer == b""
    assert other.ack(other.publish("still/there", "x"))[0] == 0
    other.close()


# the wrong protocol on a door

HTTP = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize("door", ["mqtt", "https"])
@pytest.mark.parametrize("data", [HTTP, CONNECT[4]], ids=["HTTP", "MQTT"])
def test_plaintext_on_a_tls_door_is_closed_and_logged(hub: Hub, door: str, data: bytes) -> None:
    began = hub.log.stat().st_size
    with socket.create_connection(("127.0.0.1", hub.port(door)), 10) as sock:
        sock.sendall(data)
        assert b"HTTP/1.1 200" not in _all(sock)
    until(lambda: "on a TLS port" in hub.said(began), "a line in the log", 5)


def test_tls_on_the_api_door_is_refused(hub: Hub) -> None:
    began = hub.log.stat().st_size
    with pytest.raises((ssl.SSLError, ConnectionError)):
        _tls(hub, None, "api").close()
    done = subprocess.run(
        ["curl", "-sS", f"https://localhost:{hub.port('api')}/"], capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 35, done
    until(lambda: "TLS on the plain HTTP port" in hub.said(began), "a line in the log", 5)


def test_mqtt_on_the_api_door_is_refused_at_once(hub: Hub) -> None:
    with socket.create_connection(("127.0.0.1", hub.port("api")), 5) as sock:
        sock.sendall(CONNECT[4])
        answer = _all(sock)
    assert answer.startswith(b"HTTP/1.1 400") and b"MQTT on an HTTP port" in answer


def test_mqtt_on_the_https_door_wants_its_alpn(hub: Hub, device: Device) -> None:
    with _tls(hub, device, "https") as sock:
        sock.sendall(CONNECT[4])
        answer = _all(sock)
    assert answer.startswith(b"HTTP/1.1 400") and b"x-amzn-mqtt-ca" in answer
    with _tls(hub, device, "https", "x-amzn-mqtt-ca") as sock:
        sock.sendall(CONNECT[4])
        assert sock.recv(4) == b"\x20\x02\x00\x00"


def test_http_on_the_mqtt_door_is_closed_and_logged(hub: Hub, device: Device, tmp_path: Path) -> None:
    began = hub.log.stat().st_size
    done = subprocess.run(
        ["curl", "-sS", "--cacert", hub.ca, "--cert", str(device.certificate), "--key", str(device.key),
         f"https://localhost:{hub.port('mqtt')}/topics/a"],
        capture_output=True, text=True, timeout=20,
    )  # fmt: skip
    assert done.returncode in (52, 56), done  # an empty answer
    until(lambda: "mqtt.not_accepted" in hub.said(began), "a line in the log", 5)
    assert "HTTP" in hub.said(began)


def test_a_stranger_certificate_and_none_at_all(hub: Hub, tmp_path: Path) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
         "-subj", "/CN=stranger", "-keyout", tmp_path / "k", "-out", tmp_path / "c"],
        check=True, capture_output=True, timeout=20,
    )  # fmt: skip
    stranger = Device(tmp_path / "c", tmp_path / "k", "", "", "")
    for who in (stranger, None):
        done = subprocess.run(
            hub.mosquitto(who, "mosquitto_pub", "-q", "1", "-t", "x", "-m", "x"), capture_output=True, timeout=20
        )
        assert done.returncode != 0
