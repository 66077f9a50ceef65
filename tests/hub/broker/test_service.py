"""The broker through its door: what clients of both versions see."""

import asyncio
import json

import pytest

from marram.core.errors import Denied, Invalid, LimitExceeded
from marram.core.mqtt import packets
from marram.core.mqtt.packets import Connack, Disconnect, Puback, Publish, Will
from marram.core.segment import KIND_MESSAGE, Origin
from marram.hub.slice import TopicMessage

ARN = "arn:aws:iot:local-1:000000000001:"
BOTH = pytest.mark.parametrize("version", [packets.V311, packets.V5], ids=["3.1.1", "5"])


def records(world) -> list[tuple[bytes, dict[str, object], bytes]]:
    found = world.journal.read(0, 100_000)
    return [(r.topic, json.loads(r.meta), r.payload) for _, r in found if r.kind == KIND_MESSAGE]


@BOTH
@pytest.mark.parametrize("other", [packets.V311, packets.V5], ids=["to 3.1.1", "to 5"])
@pytest.mark.parametrize("qos", [0, 1])
async def test_a_message_arrives(world, version: int, other: int, qos: int) -> None:
    sub = await world.client("sub", version=other)
    assert await sub.subscribe("plant/+/temp") == [1]
    pub = await world.client("pub", version=version)
    for number in range(3):
        pub.publish("plant/7/temp", str(number), qos)
    for number in range(3):
        got = await sub.message()
        assert (got.topic, got.payload, got.qos, got.retain) == ("plant/7/temp", b"%d" % number, qos, False)
    if qos:
        assert (await pub.next(Puback)).reason == 0


async def test_the_granted_qos_limits_it(world) -> None:
    sub = await world.client("sub")
    await sub.subscribe("a", qos=0)
    pub = await world.client("pub")
    assert await pub.acked("a", "1") == 0
    assert (await sub.message()).qos == 0


async def test_one_write_for_all_of_a_tick(world) -> None:
    sub = await world.client("sub")
    await sub.subscribe("a")
    pub = await world.client("pub")
    before = sub.socket.writes
    frame = packets.publish_frame(4, b"a", b"x", 0, 0, False, False, b"")
    pub.raw(frame * 50)
    await sub.until(lambda: sum(isinstance(p, Publish) for p in sub.got) == 50)
    assert sub.socket.writes == before + 1


async def test_sensor_hash_does_not_match_sensor(world) -> None:
    sub = await world.client("sub")
    await sub.subscribe("sensor/#")
    pub = await world.client("pub")
    await pub.acked("sensor", "no")
    await pub.acked("sensor/", "yes")
    assert (await sub.message()).payload == b"yes"


async def test_overlapping_filters_deliver_once_with_the_highest_qos(world) -> None:
    sub = await world.client("sub")
    await sub.subscribe("a/+", qos=0)
    await sub.subscribe("a/#", qos=1)
    pub = await world.client("pub")
    await pub.acked("a/b", "1")
    await pub.acked("a/b", "2")
    got = [await sub.message(), await sub.message()]
    assert [(p.payload, p.qos) for p in got] == [(b"1", 1), (b"2", 1)]
    assert not sub.got


async def test_properties_go_through_and_aliases_do_not(world) -> None:
    sub = await world.client("sub", version=5)
    await sub.subscribe("a")
    old = await world.client("old")
    await old.subscribe("a")
    pub = await world.client("pub", version=5)
    given = {"content_type": "text/plain", "user_properties": [("k", "v"), ("k", "w")], "correlation_data": b"\0\1"}
    pub.publish("a", "1", topic_alias=3, **given)
    pub.publish("", "2", topic_alias=3)
    first, second = await sub.message(), await sub.message()
    assert first.properties == given and (second.topic, second.properties) == ("a", {})
    assert [(await old.message()).payload for _ in range(2)] == [b"1", b"2"]


async def test_message_expiry_counts_down_and_ends(world) -> None:
    sub = await world.client("sub", version=5, clean=False, properties={"session_expiry_s": 600})
    await sub.subscribe("a")
    await sub.disconnect()
    pub = await world.client("pub", version=5)
    assert await pub.acked("a", "long", message_expiry_s=100) == 0
    assert await pub.acked("a", "short", message_expiry_s=5) == 0
    world.clock.advance(10_000)
    sub = await world.client("sub", version=5, clean=False, properties={"session_expiry_s": 600})
    got = await sub.message()
    assert (got.payload, got.properties["message_expiry_s"]) == (b"long", 90)
    assert not any(isinstance(p, Publish) for p in sub.got)


async def test_no_local_and_retain_as_published(world) -> None:
    one = await world.client("one", version=5)
    await one.subscribe("a", no_local=True)
    two = await world.client("two", version=5)
    await two.subscribe("a", retain_as_published=True)
    await one.acked("a", "1", retain=True)
    assert (await two.message()).retain is True
    await two.acked("a", "2")
    assert (await one.message()).payload == b"2"


# sessions


@BOTH
async def test_a_persistent_session_gets_what_came_meanwhile(world, version: int) -> None:
    options = {"version": version, "clean": False, "properties": {"session_expiry_s": 600} if version == 5 else {}}
    sub = await world.client("sub", **options)
    assert not sub.connack.session_present
    await sub.subscribe("a/#")
    await sub.disconnect()
    pub = await world.client("pub")
    for number in range(150):  # more than the window
        await pub.acked("a/b", str(number))
    pub.publish("a/b", "lost", 0)
    sub = await world.client("sub", **options)
    assert sub.connack.session_present
    got = [(await sub.message()).payload for _ in range(150)]
    assert got == [b"%d" % n for n in range(150)]
    await pub.acked("a/b", "live")
    assert (await sub.message()).payload == b"live"


async def test_what_was_not_acknowledged_comes_again(world) -> None:
    sub = await world.client("sub", clean=False, auto_ack=False)
    await sub.subscribe("a")
    pub = await world.client("pub")
    for number in range(3):
        await pub.acked("a", str(number))
    first = await sub.message()
    sub.raw(sub.machine.ack(first.packet_id, 0))
    await sub.until(lambda: len(sub.got) == 2)
    sub.socket.close()
    await sub.end()
    sub = await world.client("sub", clean=False)
    assert [(await sub.message()).payload for _ in range(2)] == [b"1", b"2"]


@pytest.mark.parametrize("checkpoint", [True, False], ids=["after a stop", "after a crash"])
async def test_sessions_survive_a_restart(world, checkpoint: bool) -> None:
    sub = await world.client("sub", clean=False)
    assert await sub.subscribe("a/#", "b", "gone") == [1, 1, 1]
    await sub.unsubscribe("gone")
    await sub.disconnect()
    dropped = await world.client("dropped", clean=False)
    await dropped.subscribe("a/#")
    await dropped.disconnect()
    await (await world.client("dropped", clean=True)).disconnect()
    pub = await world.client("pub")
    await pub.acked("a/1", "one")
    await pub.acked("b", "two")
    await world.broker.checkpoint()
    await pub.acked("gone", "no")
    await pub.acked("a/3", "three")
    await world.reopen(checkpoint=checkpoint)
    sub = await world.client("sub", clean=False, auto_ack=False)
    assert sub.connack.session_present
    got = [await sub.message() for _ in range(3)]
    assert [p.payload for p in got] == [b"one", b"two", b"three"]
    sub.raw(sub.machine.ack(got[0].packet_id, 0))
    sub.raw(sub.machine.ack(got[2].packet_id, 0))
    sub.socket.close()
    await sub.end()
    assert "dropped" not in world.broker.sessions
    await world.reopen(checkpoint=checkpoint)
    sub = await world.client("sub", clean=False)
    assert (await sub.message()).payload == b"two"
    pub = await world.client("pub")
    await pub.acked("a/4", "four")
    assert (await sub.message()).payload == b"four"


async def test_a_session_of_the_other_version_is_not_resumed(world) -> None:
    sub = await world.client("sub", clean=False)
    await sub.subscribe("a")
    await sub.disconnect()
    new = await world.client("sub", version=5, clean=False, properties={"session_expiry_s": 60})
    assert not new.connack.session_present


async def test_sessions_expire(world) -> None:
    sub = await world.client("sub", version=5, properties={"session_expiry_s": 60})
    await sub.subscribe("a")
    await sub.disconnect()
    world.clock.advance(59_000)
    world.broker.tend()
    assert "sub" in world.broker.sessions
    world.clock.advance(2_000)
    world.broker.tend()
    assert "sub" not in world.broker.sessions


async def test_takeover(world) -> None:
    watch = await world.client("watch")
    await watch.subscribe("$aws/events/presence/#", "will")
    old = await world.client("twin", version=5, will=Will("will", b"bye"))
    await watch.message()
    await world.client("twin", version=5)
    assert (await old.next(Disconnect)).reason == packets.SESSION_TAKEN_OVER
    await old.end()
    got = [await watch.message() for _ in range(3)]
    by_topic = {p.topic: p.payload for p in got}
    assert by_topic["will"] == b"bye"
    event = json.loads(by_topic["$aws/events/presence/disconnected/twin"])
    assert event["disconnectReason"] == "DUPLICATE_CLIENTID" and event["clientInitiatedDisconnect"] is False
    assert json.loads(by_topic["$aws/events/presence/connected/twin"])["versionNumber"] == 1


# durability


async def test_a_durable_consumer_finds_it_before_the_puback(world) -> None:
    world.broker.add_consumer("rules", lambda topic: topic.startswith("plant/"))
    pub = await world.client("pub", version=5)
    assert await pub.acked("plant/1", "kept", user_properties=[("a", "b")]) == 0
    assert world.journal.synced == world.journal.end == 1
    assert await pub.acked("other", "not kept") == 0
    pub.publish("plant/2", "qos 0")
    assert await pub.acked("plant/3", "last") == 0
    kept = records(world)
    assert [(t, p) for t, _, p in kept] == [(b"plant/1", b"kept"), (b"plant/2", b"qos 0"), (b"plant/3", b"last")]
    meta = kept[0][1]
    assert (meta["c"], meta["q"], meta["n"], meta["u"]) == ("pub", 1, ["rules"], [["a", "b"]])
    assert len(meta["p"]) == 64


async def test_consumers_may_change_their_mind(world) -> None:
    wanted: set[str] = set()
    world.broker.add_consumer("rules", lambda topic: topic in wanted)
    pub = await world.client("pub")
    await pub.acked("a", "1")
    wanted.add("a")
    world.broker.consumers_changed()
    await pub.acked("a", "2")
    assert [p for _, _, p in records(world)] == [b"2"]


@pytest.mark.parametrize("restart", [False, True], ids=["at once", "after a crash"])
async def test_a_numbered_message_is_taken_once(world, restart: bool) -> None:
    world.broker.add_consumer("rules", lambda topic: topic == "t")
    der = await world.device()
    core = await world.client("core", der, version=5)
    for number in (1, 2, 2, 1, 3):
        assert await core.acked("t", str(number), user_properties=[("mrm-seq", f"spool:lane:{number}")]) == 0
    if restart:
        await world.reopen(checkpoint=False)
        world.broker.add_consumer("rules", lambda topic: topic == "t")
        core = await world.client("core", der, version=5)
    for number in (3, 4):
        assert await core.acked("t", str(number), user_properties=[("mrm-seq", f"spool:lane:{number}")]) == 0
    assert await core.acked("t", "5", user_properties=[("mrm-seq", "spool:other:1")]) == 0
    other = await world.client("other", version=5)
    assert await other.acked("t", "6", user_properties=[("mrm-seq", "spool:lane:1")]) == 0  # another principal
    assert [p for _, _, p in records(world)] == [b"1", b"2", b"3", b"4", b"5", b"6"]


async def test_publishing_in_the_process(world) -> None:
    sub = await world.client("sub")
    await sub.subscribe("a/#", "$aws/things/t/x")
    world.broker.add_consumer("rules", lambda topic: topic == "a/kept")
    await world.broker.publish("a/kept", b"1", qos=1, origin=Origin("rules", 7, 0), hops=2)
    assert [m for _, m, _ in records(world)] == [
        {"c": "", "p": "marram", "q": 1, "n": ["rules"], "o": ["rules", 7, 0], "h": 2}
    ]
    assert (await sub.message()).payload == b"1"
    await world.broker.publish_outbox([(1, "$aws/things/t/x", b"2")])
    assert (await sub.message()).payload == b"2"
    await world.broker.publish_outbox([(1, "$aws/things/t/x", b"2")])
    with pytest.raises(LimitExceeded):
        await world.broker.publish("a", b"", hops=11)
    with pytest.raises(LimitExceeded):
        await world.broker.publish("a", b"x" * (128 * 1024 + 1))
    with pytest.raises(Invalid):
        await world.broker.publish("a/#", b"")
    with pytest.raises(Denied):
        await world.broker.publish("$aws/things/t/x", b"", subject=world.identity.internal)


async def test_reserved_topics_are_handled_before_the_puback(world) -> None:
    seen: list[TopicMessage] = []
    go = asyncio.Event()

    async def handler(message: TopicMessage) -> None:
        await go.wait()
        seen.append(message)

    world.broker._reserved.use({"$aws/things/{thing}/shadow/update": handler})
    world.broker.consumers_changed()
    dev = await world.client("dev")
    dev.publish("$aws/things/lamp/shadow/update", "{}", 1)
    await dev.acked("other")  # acknowledged meanwhile
    assert not seen
    go.set()
    await dev.next(Puback)
    assert (seen[0].params, seen[0].payload, seen[0].client_id) == ({"thing": "lamp"}, b"{}", "dev")
    dev.publish("$aws/things/lamp/shadow/update/accepted", "{}")
    await dev.end()  # reserved, and nobody's to publish


# retained, wills


async def test_retained_messages(world) -> None:
    pub = await world.client("pub")
    assert await pub.acked("state/1", "on", retain=True) == 0
    sub = await world.client("sub")
    await sub.subscribe("state/1", "state/+")
    got = await sub.message()
    assert (got.topic, got.payload, got.retain) == ("state/1", b"on", True)
    await pub.acked("state/1", "off", retain=True)
    assert (await sub.message()).retain is False
    await world.reopen()
    sub = await world.client("sub")
    await sub.subscribe("state/1")
    assert (await sub.message()).payload == b"off"
    await (await world.client("pub")).acked("state/1", "", retain=True)
    assert (await sub.message()).payload == b""
    late = await world.client("late")
    await late.subscribe("state/1")
    await (await world.client("pub")).acked("state/1", "now")
    assert (await late.message()).payload == b"now"


async def test_the_will_is_sent_unless_the_client_says_goodbye(world) -> None:
    sub = await world.client("sub")
    await sub.subscribe("will/+")
    await (await world.client("polite", will=Will("will/polite", b"bye", 1))).disconnect()
    rude = await world.client("rude", will=Will("will/rude", b"bye", 1))
    rude.socket.close()
    assert (await sub.message()).topic == "will/rude"
    slow = await world.client(
        "slow",
        version=5,
        will=Will("will/slow", b"bye", 0, False, {"will_delay_s": 5}),
        properties={"session_expiry_s": 9},
    )
    slow.socket.close()
    await slow.end()
    world.broker.tend()
    assert not sub.got
    world.clock.advance(6_000)
    world.broker.tend()
    assert (await sub.message()).topic == "will/slow"


# permissions


@BOTH
async def test_what_is_not_allowed(world, version: int) -> None:
    der = await world.device(
        {"Action": "iot:Connect", "Resource": f"{ARN}client/dev-*"},
        {"Action": "iot:Publish", "Resource": f"{ARN}topic/ok/*"},
        {"Action": "iot:Subscribe", "Resource": f"{ARN}topicfilter/ok/*"},
        {"Action": "iot:Receive", "Resource": f"{ARN}topic/ok/yes"},
    )
    refused = await world.unaccepted("other", der, version=version)
    assert (await refused.next(Connack)).reason == (5 if version == 4 else packets.NOT_AUTHORIZED)
    await refused.end()
    dev = await world.client("dev-1", der, version=version)
    assert await dev.subscribe("ok/#", "secret/#") == [1, 0x80 if version == 4 else packets.NOT_AUTHORIZED]
    pub = await world.client("pub")
    await pub.acked("ok/no")
    await pub.acked("ok/yes", "seen")
    assert (await dev.message()).payload == b"seen"
    if version == 5:
        assert await dev.acked("secret/x") == packets.NOT_AUTHORIZED
        assert await dev.acked("ok/x", retain=True) == packets.NOT_AUTHORIZED
        dev.publish("secret/x")
        assert (await dev.next(Disconnect)).reason == packets.NOT_AUTHORIZED
    else:
        dev.publish("secret/x", qos=1)
    await dev.end()
    will = await world.unaccepted("dev-2", der, version=version, will=Will("secret/x", b""))
    assert (await will.next(Connack)).reason == (5 if version == 4 else packets.NOT_AUTHORIZED)


async def test_unknown_and_missing_certificates(world) -> None:
    issued = world.pki.issue_device()
    for der in (issued.der, b""):
        client = await world.unaccepted("x", der)
        await client.end()
        assert not client.got


async def test_revocation_reaches_live_connections(world) -> None:
    der = await world.device()
    dev = await world.client("dev", der, version=5)
    subject = world.identity.certificate_subject(der)
    await world.identity.set_status(subject.principal, "REVOKED")
    assert (await dev.next(Disconnect)).reason == packets.NOT_AUTHORIZED
    await dev.end()


async def test_a_detached_policy_reaches_live_connections(world) -> None:
    der = await world.device({"Action": "iot:Connect", "Resource": "*"})
    principal = world.identity.certificate_subject(der).principal
    document = json.dumps(
        {
            "Version": "2012-10-17",
            "Statement": [
                {"Effect": "Allow", "Action": ["iot:Subscribe", "iot:Publish", "iot:Receive"], "Resource": "*"}
            ],
        }
    )
    await world.identity.create_policy("more", document)
    await world.identity.attach_policy("more", f"{ARN}cert/{principal}")
    dev = await world.client("dev", der, version=5)
    await dev.subscribe("a")
    assert await dev.acked("a", "1") == 0
    assert (await dev.message()).payload == b"1"
    await world.identity.detach_policy("more", f"{ARN}cert/{principal}")
    await asyncio.sleep(0)
    assert await dev.acked("a", "2") == packets.NOT_AUTHORIZED
    pub = await world.client("pub")
    await pub.acked("a", "3")
    assert not any(isinstance(p, Publish) for p in dev.got)


# limits and bad input


@BOTH
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"\x36\x06\x00\x01a\x00\x01x", packets.MALFORMED_PACKET, id="QoS 3"),
        pytest.param(b"\x34\x06\x00\x01a\x00\x01x", packets.QOS_NOT_SUPPORTED, id="QoS 2"),
        pytest.param(b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00", packets.PROTOCOL_ERROR, id="second CONNECT"),
        pytest.param(b"\x30\xff\xff\xff\xff\x7f", packets.MALFORMED_PACKET, id="length"),
        pytest.param(b"\x30\xff\xff\x7f", packets.QUOTA_EXCEEDED, id="huge"),
        pytest.param(b"\x32\x05\x00\x01a\x00\x00", packets.PROTOCOL_ERROR, id="packet id 0"),
    ],
)
async def test_malformed_packets_end_the_connection(world, version: int, data: bytes, reason: int) -> None:
    client = await world.client("c", version=version)
    client.raw(data)
    await client.end()
    if version == 5:
        assert (await client.next(Disconnect)).reason == reason


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"\xc0\x00", b"\x10\x06\x00\x04MQTT", b"\x16\x03\x01\x00"])
async def test_what_is_not_a_connect_is_closed(world, data: bytes) -> None:
    client = await world.silent()
    client.raw(data)
    await client.end()
    assert not client.got


async def test_the_first_packet_has_a_deadline(world) -> None:
    world.door._waiting._after_s = 0.01
    silent, slow, quick = await world.silent(), await world.silent(), await world.client("quick")
    slow.raw(b"\x10\x0c\x00\x04MQTT")  # half a CONNECT is none
    await silent.end()
    await slow.end()
    assert silent.got == slow.got == [] and not quick.closed
    assert world.door.connections == {quick.socket.protocol}


async def test_payload_limit(world) -> None:
    client = await world.client("c", version=5)
    assert await client.acked("a", b"x" * (128 * 1024)) == 0
    client.publish("a", b"x" * (128 * 1024 + 1), 1)
    assert (await client.next(Disconnect)).reason == packets.QUOTA_EXCEEDED


@pytest.mark.parametrize("topic", ["a/+", "#", "a" * 257, "a/b/c/d/e/f/g/h/i"])
async def test_bad_topic_names(world, topic: str) -> None:
    client = await world.client("c", version=5)
    assert await client.acked(topic) == packets.TOPIC_NAME_INVALID
    old = await world.client("o")
    old.publish(topic, qos=1)
    await old.end()


async def test_filters_are_limited(world) -> None:
    client = await world.client("c", version=5)
    assert await client.subscribe("a/#/b", "a/b/c/d/e/f/g/h/i", "$share/x") == [packets.TOPIC_FILTER_INVALID] * 3
    for start in range(0, 48, 8):
        assert await client.subscribe(*(f"t/{n}" for n in range(start, start + 8))) == [1] * 8
    assert await client.subscribe("x/1", "x/2", "x/3") == [1, 1, packets.QUOTA_EXCEEDED]
    _, data = client.machine.subscribe([packets.Wish(f"f{n}", 1) for n in range(9)], 0)
    client.raw(data)
    assert (await client.next(Disconnect)).reason == packets.QUOTA_EXCEEDED


async def test_keep_alive(world) -> None:
    watch = await world.client("watch", keep_alive_s=1200)
    await watch.subscribe("$aws/events/presence/disconnected/+")
    client = await world.client("c", version=5, keep_alive_s=60)
    assert client.connack.properties["server_keep_alive_s"] == 60
    world.clock.advance(80_000)
    world.door.turn()
    client.raw(b"\xc0\x00")
    world.clock.advance(80_000)
    world.door.turn()
    assert not client.closed
    world.clock.advance(12_000)
    world.door.turn()
    assert (await client.next(Disconnect)).reason == packets.KEEP_ALIVE_TIMEOUT
    event = json.loads((await watch.message()).payload)
    assert event["disconnectReason"] == "MQTT_KEEP_ALIVE_TIMEOUT"


async def test_a_subscriber_that_does_not_read_loses_qos_0_only(world) -> None:
    sub = await world.client("sub", clean=False)
    await sub.subscribe("a")
    sub.socket.full = True
    pub = await world.client("pub")
    body = b"x" * 100_000
    for _ in range(15):
        await pub.acked("a", body)
    before = len(sub.socket.held)
    pub.publish("a", b"zero")
    for number in range(5):
        await pub.acked("a", f"late {number}")
    assert before > 1_000_000
    sub.socket.drain()
    await sub.until(lambda: sum(isinstance(p, Publish) for p in sub.got) == 20)
    assert [p.payload for p in sub.got if isinstance(p, Publish)][15:] == [b"late %d" % n for n in range(5)]
    assert not any(p.payload == b"zero" for p in sub.got if isinstance(p, Publish))


async def test_receive_maximum_of_the_client_is_kept(world) -> None:
    sub = await world.client("sub", version=5, auto_ack=False, properties={"receive_maximum": 2})
    await sub.subscribe("a")
    pub = await world.client("pub")
    for number in range(5):
        await pub.acked("a", str(number))
    assert sum(isinstance(p, Publish) for p in sub.got) == 2
    for number in range(5):
        got = await sub.message()
        assert got.payload == b"%d" % number
        sub.raw(sub.machine.ack(got.packet_id, 0))


async def test_a_fault_of_ours_ends_one_connection(world, caplog) -> None:
    def broken(topic: str) -> bool:
        raise RuntimeError("a mistake")

    world.broker.add_consumer("broken", broken)
    client = await world.silent()
    other = await world.silent()
    client.raw(packets.publish_frame(4, b"a", b"", 0, 0, False, False, b""))
    await client.end()
    assert not other.closed


async def test_sessions_give_up_their_oldest_before_the_journal_is_full(world) -> None:
    sub = await world.client("sub", clean=False)
    await sub.subscribe("a")
    await sub.disconnect()
    pub = await world.client("pub")
    for number in range(20):
        await pub.acked("a", str(number))
    await world.broker.checkpoint()
    assert len(world.broker.sessions["sub"].queue) == 20
    world.journal._budget_bytes = world.journal.bytes_on_disk
    await world.broker.checkpoint()
    left = len(world.broker.sessions["sub"].queue)
    assert 0 < left < 20 and world.broker.sessions["sub"].lost == 20 - left
    await world.reopen(checkpoint=False)
    assert len(world.broker.sessions["sub"].queue) == left


async def test_what_a_failed_sync_took_is_never_acknowledged(world) -> None:
    world.broker.add_consumer("rules", lambda topic: topic.startswith("a/"))
    old, new = await world.client("old"), await world.client("new", version=5)
    sleeper = await world.client("sleeper", clean=False)
    await sleeper.subscribe("a/+")
    await sleeper.disconnect()
    world.journal.is_broken = True
    old.publish("a/b", "1", 1)
    answers = [new.acked("a/b", str(number)) for number in range(3)]
    assert await asyncio.gather(*answers) == [packets.QUOTA_EXCEEDED] * 3
    await old.end()
    assert not any(isinstance(packet, packets.Puback) for packet in old.got)
    world.journal.is_broken = False
    world.clock.advance(1000)
    assert await new.acked("a/b", "again") == 0
    sleeper = await world.client("sleeper", clean=False)
    assert (await sleeper.message()).payload == b"again"


async def test_a_full_journal_refuses(world) -> None:
    world.budget = 1
    await world.reopen()
    world.broker.add_consumer("rules", lambda topic: topic == "kept")
    new = await world.client("new", version=5)
    old = await world.client("old")
    assert await new.acked("kept") == packets.QUOTA_EXCEEDED
    assert await new.acked("other") == 0
    old.publish("kept", qos=1)
    await old.end()
    assert not any(isinstance(p, Puback) for p in old.got)


async def test_over_100_unacknowledged(world) -> None:
    go = asyncio.Event()

    async def handler(message: TopicMessage) -> None:
        await go.wait()

    world.broker._reserved.use({"$aws/things/{thing}/x": handler})
    old = await world.client("old")
    old.machine.unacked.limit = 1000
    for _ in range(101):
        old.publish("$aws/things/t/x", "", 1)
    assert not old.socket.reading  # back-pressure, no disconnect
    go.set()
    for _ in range(101):
        await old.next(Puback)
    assert old.socket.reading
    new = await world.client("new", version=5)
    go.clear()
    for number in range(1, 102):
        new.raw(packets.publish_frame(5, b"$aws/things/t/x", b"", 1, number, False, False, b""))
    assert (await new.next(Disconnect)).reason == packets.RECEIVE_MAXIMUM_EXCEEDED
    go.set()


async def test_who_hears_a_topic(world) -> None:
    broker = world.broker
    assert not broker.is_heard("a/b")
    plain = await world.client("plain")
    await plain.subscribe("a/+", qos=0)
    assert broker.is_heard("a/b") and not broker.is_heard("a/b/c")
    await plain.unsubscribe("a/+")
    assert not broker.is_heard("a/b")
    keeper = await world.client("keeper", version=packets.V5, clean=False, properties={"session_expiry_s": 3600})
    await keeper.subscribe("a/b")
    await keeper.disconnect()
    assert broker.is_heard("a/b"), "it waits for a session that is away"
    member = await world.client("member")
    await member.subscribe("$share/g/c")
    assert broker.is_heard("c")
    broker.add_consumer("rules", lambda topic: topic == "d")
    assert broker.is_heard("d") and not broker.is_heard("e")
