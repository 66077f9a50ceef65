"""What MQTT clients that people use see of the device side: paho-mqtt of both versions, mosquitto's programs, awscrt's MQTT 5 client,
boto3 beside them; a hub that is killed in between."""

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
from awscrt import mqtt5
from awsiot import mqtt5_client_builder
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.wire.faults import Device, Hub, Paho, until

pytestmark = pytest.mark.xdist_group("mqtt-devices")
BOTH = pytest.mark.parametrize("v5", [False, True], ids=["3.1.1", "5"])
LIMIT_S = 20.0


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("devices")
    made = Hub(folder / "hub", folder / "hub.log")
    made.start()
    yield made
    made.close()
    assert "Traceback" not in made.said()


@pytest.fixture(scope="module")
def device(hub: Hub) -> Device:
    return hub.device("everything")


class Crt:
    """awscrt's MQTT 5 client, with all it heard."""

    def __init__(self, hub: Hub, device: Device, client_id: str, **options: object) -> None:
        self.got: list[mqtt5.PublishPacket] = []
        self.up: Future[mqtt5.LifecycleConnectSuccessData] = Future()
        self.failed: list[mqtt5.LifecycleConnectFailureData] = []
        self.ends: list[mqtt5.LifecycleDisconnectData] = []
        self.stopped = threading.Event()
        self.client = mqtt5_client_builder.mtls_from_path(
            endpoint="localhost", port=hub.port("mqtt"), cert_filepath=str(device.certificate), ca_filepath=hub.ca,
            pri_key_filepath=str(device.key), client_id=client_id,
            on_publish_received=lambda data: self.got.append(data.publish_packet),
            on_lifecycle_connection_success=lambda data: self.up.done() or self.up.set_result(data),
            on_lifecycle_connection_failure=self.failed.append, on_lifecycle_disconnection=self.ends.append,
            on_lifecycle_stopped=lambda _data: self.stopped.set(), **options,
        )  # fmt: skip
        self.client.start()
        self.settings = self.up.result(LIMIT_S).negotiated_settings

    def subscribe(self, *filters: str) -> list[int]:
        wishes = [mqtt5.Subscription(topic_filter=text, qos=mqtt5.QoS.AT_LEAST_ONCE) for text in filters]
        done = self.client.subscribe(mqtt5.SubscribePacket(subscriptions=wishes)).result(LIMIT_S)
        return [int(code) for code in done.reason_codes]

    def publish(self, topic: str, payload: str, **fields: object) -> int:
        packet = mqtt5.PublishPacket(topic=topic, payload=payload, qos=mqtt5.QoS.AT_LEAST_ONCE, **fields)
        return int(self.client.publish(packet).result(LIMIT_S).puback.reason_code)

    def close(self) -> None:
        self.client.stop()
        assert self.stopped.wait(LIMIT_S)


def of(*clients: Paho) -> list[str]:
    return sorted(message.payload.decode() for client in clients for message in list(client.got))


def send(client: Paho, topic: str, texts: list[str]) -> None:
    mids = [client.publish(topic, text) for text in texts]
    for mid in mids:
        assert client.ack(mid)[0] == 0


@BOTH
def test_a_group_shares_the_work_and_keeps_it_over_a_kill(hub: Hub, device: Device, v5: bool) -> None:
    name = f"$share/work-{v5}/jobs/{v5}/#"
    one, two = Paho(hub, device, f"one-{v5}", v5=v5, clean=False), Paho(hub, device, f"two-{v5}", v5=v5)
    assert one.subscribe(name) == two.subscribe(name) == 1
    pub = Paho(hub, device, f"jobs-pub-{v5}")
    first = [f"a{n:03}" for n in range(60)]
    send(pub, f"jobs/{v5}/x", first)
    until(lambda: len(of(one, two)) >= len(first), "all of them")
    assert of(one, two) == first and one.got and two.got
    one.close()
    two.close()
    second = [f"b{n:03}" for n in range(60)]
    send(pub, f"jobs/{v5}/x", second)
    hub.kill()
    hub.start()
    pub.close()
    three, again = Paho(hub, device, f"three-{v5}", v5=v5), Paho(hub, device, f"one-{v5}", v5=v5, clean=False)
    assert three.subscribe(name) == 1 and again.present
    until(lambda: set(of(three, again)) >= set(second), "what waited for the group")
    assert set(of(three, again)) == set(second)
    again.close()
    three.close()
    gone = Paho(hub, device, f"one-{v5}", v5=v5)  # clean: the session, and the group's queue with it
    gone.close()


@pytest.mark.parametrize("version", ["311", "5"])
def test_mosquitto_s_programs_share(hub: Hub, device: Device, version: str) -> None:
    command = hub.mosquitto(
        device, "mosquitto_sub", "-V", version, "-q", "1", "-t", f"$share/m/mosq/{version}", "-C", "5", "-W", "20", "-d"
    )
    subs = [subprocess.Popen(["stdbuf", "-oL", *command], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for sub in subs:
        for line in sub.stdout:
            if "SUBACK" in line:
                break
    words = [f"m{n}" for n in range(40)]
    done = subprocess.run(
        hub.mosquitto(device, "mosquitto_pub", "-V", version, "-q", "1", "-t", f"mosq/{version}", "-l"),
        input="\n".join(words) + "\n", text=True, timeout=20, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    said = [sub.communicate(timeout=25)[0] for sub in subs]
    got = [{line for line in text.splitlines() if line in words} for text in said]
    assert got[0] and got[1] and not got[0] & got[1]


def test_awscrt_s_mqtt_5_client_sees_all_of_it(hub: Hub, device: Device) -> None:
    aliasing = mqtt5.TopicAliasingOptions(
        outbound_behavior=mqtt5.OutboundTopicAliasBehaviorType.LRU, outbound_cache_max_size=8,
        inbound_behavior=mqtt5.InboundTopicAliasBehaviorType.ENABLED, inbound_cache_max_size=8,
    )  # fmt: skip
    connect = mqtt5.ConnectPacket(
        client_id="crt-a", keep_alive_interval_sec=60, session_expiry_interval_sec=2**31, receive_maximum=10
    )
    one = Crt(hub, device, "crt-a", connect_options=connect, topic_aliasing_options=aliasing)
    settings = one.settings
    assert (settings.session_expiry_interval_sec, settings.receive_maximum_from_server) == (604_800, 100)
    assert (settings.topic_alias_maximum_to_server, settings.topic_alias_maximum_to_client) == (8, 8)
    assert (settings.maximum_qos, settings.server_keep_alive_sec) == (mqtt5.QoS.AT_LEAST_ONCE, 60)
    assert not settings.subscription_identifiers_available and settings.shared_subscriptions_available
    assert one.subscribe("crt/#", "a/b/c/d/e/f/g/h/i", "$share/g/crt-shared") == [1, 0x8F, 1]
    two = Crt(hub, device, "crt-b", topic_aliasing_options=aliasing)
    properties = [mqtt5.UserProperty("k", "1"), mqtt5.UserProperty("k", "2")]
    for number in range(20):  # more topics than aliases, each twice
        code = two.publish(
            f"crt/{number % 10}", f"text {number}", content_type="text/plain", response_topic="answers/1",
            correlation_data=b"\0\xff", message_expiry_interval_sec=700_000, user_properties=properties,
            payload_format_indicator=mqtt5.PayloadFormatIndicator.AWS_MQTT5_PFI_UTF8,
        )  # fmt: skip
        assert code == 0
    until(lambda: len(one.got) == 20, "all messages")
    assert [(p.topic, p.payload.decode()) for p in one.got] == [(f"crt/{n % 10}", f"text {n}") for n in range(20)]
    got = one.got[0]
    assert (got.content_type, got.response_topic, got.correlation_data_bytes) == ("text/plain", "answers/1", b"\0\xff")
    assert got.message_expiry_interval_sec == 604_800
    assert [(p.name, p.value) for p in got.user_properties] == [("k", "1"), ("k", "2")]
    two.publish("crt-shared", "shared")
    until(lambda: len(one.got) == 21, "the shared one")
    done = one.client.unsubscribe(mqtt5.UnsubscribePacket(topic_filters=["crt/#", "never"])).result(LIMIT_S)
    assert [int(code) for code in done.reason_codes] == [0, 0]
    assert not one.ends and not two.ends
    two.close()
    one.close()


def test_request_and_response_over_versions(hub: Hub, device: Device) -> None:
    """MQTT 5 asks, 3.1.1 answers what it can see, 5 answers with what it was given."""
    server, asker = Crt(hub, device, "rr-server"), Crt(hub, device, "rr-asker")
    server.subscribe("rr/ask")
    asker.subscribe("rr/answers/asker")
    old = Paho(hub, device, "rr-old")
    old.subscribe("rr/ask")
    asker.publish("rr/ask", "6*7", response_topic="rr/answers/asker", correlation_data=b"1")
    until(lambda: server.got and old.got, "the question")
    question = server.got[0]
    server.publish(question.response_topic, "42", correlation_data=question.correlation_data_bytes)
    until(lambda: asker.got, "the answer")
    assert (asker.got[0].payload, asker.got[0].correlation_data_bytes) == (b"42", b"1")
    assert old.got[0].payload == b"6*7"
    for client in (server, asker, old):
        client.close()


def test_clients_by_their_id_with_boto3(hub: Hub, device: Device) -> None:
    data = hub.client("iot-data")
    watch = Paho(hub, device, "watch")
    watch.subscribe("$aws/events/presence/disconnected/by/id")
    watch.subscribe("by-id/will")
    client = Crt(
        hub, device, "by/id",
        connect_options=mqtt5.ConnectPacket(
            client_id="by/id", keep_alive_interval_sec=90, session_expiry_interval_sec=300,
            will=mqtt5.PublishPacket(topic="by-id/will", payload="bye", qos=mqtt5.QoS.AT_LEAST_ONCE),
        ),
        session_behavior=mqtt5.ClientSessionBehaviorType.REJOIN_ALWAYS,
    )  # fmt: skip
    client.subscribe("b", "a/#")
    found = data.get_connection(clientId="by/id", includeSocketInformation=True)
    assert (found["connected"], found["cleanSession"], found["sessionExpiry"], found["keepAliveDuration"]) == (
        True, False, 300, 90,
    )  # fmt: skip
    assert found["sourceIp"] == "127.0.0.1" and found["sourcePort"] > 0
    assert abs(found["connectedSince"] / 1000 - time.time()) < 60
    assert "sourceIp" not in data.get_connection(clientId="by/id")
    page = data.list_subscriptions(clientId="by/id", maxResults=1)
    assert page["subscriptions"] == [{"topicFilter": "a/#", "qos": 1}]
    rest = data.list_subscriptions(clientId="by/id", maxResults=1, nextToken=page["nextToken"])
    assert rest["subscriptions"] == [{"topicFilter": "b", "qos": 1}] and "nextToken" not in rest
    sent = data.send_direct_message(
        clientId="by/id", topic="not/subscribed", payload=b"hello", confirmation=True, timeout=10,
        contentType="text/plain", userProperties=[{"a": "1"}, {"a": "2"}], correlationData="AP8=",
        responseTopic="back", payloadFormatIndicator="UTF8_DATA",
    )  # fmt: skip
    assert sent["message"] and sent["traceId"]
    until(lambda: client.got, "the direct message")
    got = client.got[0]
    assert (got.topic, got.payload, got.content_type, got.correlation_data_bytes) == (
        "not/subscribed", b"hello", "text/plain", b"\0\xff",
    )  # fmt: skip
    assert [(p.name, p.value) for p in got.user_properties] == [("a", "1"), ("a", "2")]
    data.delete_connection(clientId="by/id", preventWillMessage=True)
    until(lambda: client.ends, "the end of its connection")
    assert client.ends[0].disconnect_packet.reason_code == mqtt5.DisconnectReasonCode.ADMINISTRATIVE_ACTION
    until(lambda: watch.got, "the event")
    event = json.loads(watch.got[0].payload)
    assert (event["disconnectReason"], event["clientInitiatedDisconnect"]) == ("API_INITIATED_DISCONNECT", False)
    client.close()
    left = until(lambda: _away(data, "by/id"), "its end")
    assert left["disconnectReason"] in ("API_INITIATED_DISCONNECT", "CLIENT_INITIATED_DISCONNECT")
    data.delete_connection(clientId="by/id", cleanSession=True)
    assert [message.topic for message in watch.got].count("by-id/will") == 0
    for call, code in (
        (lambda: data.delete_connection(clientId="by/id"), "ResourceNotFoundException"),
        (lambda: data.list_subscriptions(clientId="by/id"), "ResourceNotFoundException"),
        (lambda: data.get_connection(clientId="never"), "ResourceNotFoundException"),
        (lambda: data.send_direct_message(clientId="never", topic="x"), "ResourceNotFoundException"),
        (lambda: data.send_direct_message(clientId="watch", topic="x/#"), "InvalidRequestException"),
        (lambda: data.send_direct_message(clientId="watch", topic="x", timeout=16), "InvalidRequestException"),
        (lambda: data.get_connection(clientId="$x"), "InvalidRequestException"),
    ):
        with pytest.raises(ClientError) as caught:
            call()
        assert caught.value.response["Error"]["Code"] == code
    watch.close()


def _away(data, client_id: str) -> dict[str, object] | None:
    found = data.get_connection(clientId=client_id)
    return None if found["connected"] else found


def test_a_client_that_does_not_acknowledge_is_a_gateway_timeout(hub: Hub, device: Device) -> None:
    deaf = Paho(hub, device, "deaf")
    deaf.client.manual_ack_set(True)
    with pytest.raises(ClientError) as caught:
        hub.client("iot-data", config=Config(retries={"total_max_attempts": 1})).send_direct_message(
            clientId="deaf", topic="x", payload=b"x", confirmation=True, timeout=1
        )
    assert caught.value.response["Error"]["Code"] == "GatewayTimeoutException"
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 504
    deaf.close()


def test_two_devices_fight_over_one_client_id_and_one_thing_and_nothing_is_lost(hub: Hub, device: Device) -> None:
    """Both come back each time they are put out. Every message reaches one of them, every shadow update counts once."""
    iot, data = hub.client("iot"), hub.client("iot-data")
    iot.create_thing(thingName="duel")
    iot.attach_thing_principal(thingName="duel", principal=device.arn)
    fighters = [Paho(hub, device, "duel", clean=False, reconnect=True, wait=False) for _ in range(2)]
    for fighter in fighters:
        fighter.client.on_connect = lambda client, *_rest: client.subscribe([("duel/work", 1)])
    until(lambda: any(fighter.subacks for fighter in fighters), "a subscription")
    pub, accepted = Paho(hub, device, "duel-pub"), Paho(hub, device, "duel-watch")
    accepted.subscribe("$aws/things/duel/shadow/update/accepted")
    work = [f"{n:04}" for n in range(300)]
    for turn, start in enumerate(range(0, len(work), 50)):
        send(pub, "duel/work", work[start : start + 50])
        for number, fighter in enumerate(fighters):
            fighter.client.publish(
                "$aws/things/duel/shadow/update", json.dumps({"state": {"reported": {f"d{number}": start}}}), 1
            )
        data.update_thing_shadow(thingName="duel", payload=b'{"state":{"desired":{"x":%d}}}' % start)
        until(lambda turn=turn: sum(len(fighter.ends) for fighter in fighters) > turn, "one put the other out")
    until(lambda: set(of(*fighters)) >= set(work), "every message at one of them", 40)
    for fighter in fighters:
        fighter.close()
    told = until(lambda: _settled(accepted), "no more answers")
    numbers = sorted(json.loads(message.payload)["version"] for message in accepted.got)
    assert numbers == list(range(1, told + 1)), "a version twice, or missing"
    shadow = json.loads(data.get_thing_shadow(thingName="duel")["payload"].read())
    assert shadow["version"] == told and shadow["state"]["desired"]["x"] == 250
    pub.close()
    accepted.close()


def _settled(client: Paho) -> int:
    count = len(client.got)
    time.sleep(0.3)
    return count if count == len(client.got) else 0


def test_a_crash_is_told_as_the_end_of_every_connection(hub: Hub, device: Device) -> None:
    client = Paho(hub, device, "survivor")
    time.sleep(1.5)  # states are written once a second
    hub.kill()
    hub.start()
    client.close()
    found = hub.client("iot-data").get_connection(clientId="survivor")
    assert (found["connected"], found["disconnectReason"]) == (False, "SERVER_ERROR")


def test_aws_s_rates_by_one_word(tmp_path: Path) -> None:
    hub = Hub(tmp_path / "hub", tmp_path / "hub.log")
    hub.folder.mkdir()
    (hub.folder / "marram.toml").write_text('[hub]\nlimits = "aws"\n')
    hub.start()
    try:
        device = hub.device("rated")
        sub, pub = Paho(hub, device, "sub"), Paho(hub, device, "pub", v5=True)
        sub.subscribe("a")
        again = Paho(hub, device, "pub", v5=True)
        assert again.connacks[0][0] == 0x97 and not pub.ends
        for number in range(300):
            pub.publish("a", str(number), 0)
        code, why = pub.ack(pub.publish("a", "over"))
        assert code == 0x97 and "a second" in why
        until(lambda: len(sub.got) >= 100, "a hundred")
        assert len(sub.got) < 300 and not pub.ends
        assert hub.metrics()['marram_limit_hits_total{limit="publish_per_s"}'] > 100
        for client in (sub, pub, again):
            client.close()
    finally:
        hub.close()
