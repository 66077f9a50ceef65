"""What MQTT 5 adds, as AWS has it: expiry, aliases, flow, reason codes; and what crosses to 3.1.1."""

import asyncio

import pytest

from marram.core.mqtt import packets, v5, v311
from marram.core.mqtt.packets import Connack, Disconnect, Puback, Publish, Suback, Subscribe, Unsuback, Will, Wish
from marram.hub.broker.settings import Settings

ARN = "arn:aws:iot:local-1:000000000001:"


async def persistent(world, client_id: str, **properties):
    given = {"session_expiry_s": 600, **properties}
    return await world.client(client_id, version=5, clean=False, properties=given)


def publishes(client) -> list[Publish]:
    return [packet for packet in client.got if isinstance(packet, Publish)]


# CONNECT, CONNACK


async def test_connack_says_what_the_broker_does(world) -> None:
    client = await world.client("c", version=5, keep_alive_s=60)
    assert client.connack.properties == {
        "session_expiry_s": 0, "receive_maximum": 100, "maximum_qos": 1, "retain_available": 1, "maximum_packet_size": 149_504,
        "topic_alias_maximum": 8, "wildcard_available": 1, "subscription_identifiers_available": 0, "shared_available": 1,
        "server_keep_alive_s": 60,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "given"), [(None, 0), (0, 0), (1, 1), (604_800, 604_800), (604_801, 604_800), (0xFFFF_FFFF, 604_800)]
)
async def test_session_expiry_is_adjusted_and_told(world, asked: int | None, given: int) -> None:
    properties = {} if asked is None else {"session_expiry_s": asked}
    client = await world.client("c", version=5, clean=False, properties=properties)
    assert client.connack.properties["session_expiry_s"] == given
    assert world.broker.sessions["c"].expiry_s == given


@pytest.mark.parametrize(("asked", "given"), [(0, 1200), (1, 30), (30, 30), (600, 600), (1200, 1200), (65_535, 1200)])
async def test_keep_alive_is_adjusted_and_told(world, asked: int, given: int) -> None:
    client = await world.client("c", version=5, keep_alive_s=asked)
    assert client.connack.properties["server_keep_alive_s"] == given
    old = await world.client("o", keep_alive_s=asked)
    assert old.socket.protocol._link.keep_alive_ms == given * 1000


async def test_a_client_without_an_id_is_given_one(world) -> None:
    client = await world.client("", version=5)
    assigned = client.connack.properties["assigned_client_id"]
    assert assigned in world.broker.links
    other = await world.client("", version=5)
    assert other.connack.properties["assigned_client_id"] != assigned and not client.closed
    await world.client("")  # 3.1.1 cannot be told, and has one too
    assert len(world.broker.links) == 3
    refused = await world.unaccepted("", clean=False)
    assert (await refused.next(Connack)).reason == packets.V311_ID_REJECTED


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        pytest.param({"client_id": "x" * 129}, packets.CLIENT_ID_NOT_VALID, id="client id of 129 bytes"),
        pytest.param({"client_id": "ü" * 65}, packets.CLIENT_ID_NOT_VALID, id="client id of 130 bytes"),
        pytest.param({"client_id": "$c"}, packets.CLIENT_ID_NOT_VALID, id="client id with $"),
        pytest.param({"will": Will("a", b"", 2)}, packets.QOS_NOT_SUPPORTED, id="will with QoS 2"),
        pytest.param({"will": Will("a/+", b"")}, packets.TOPIC_NAME_INVALID, id="will with a wildcard"),
        pytest.param({"will": Will("a/b/c/d/e/f/g/h/i", b"")}, packets.TOPIC_NAME_INVALID, id="will with 8 slashes"),
        pytest.param(
            {"properties": {"authentication_method": "x"}}, packets.UNSPECIFIED_ERROR, id="enhanced authentication"
        ),
    ],
)
async def test_a_connect_that_is_refused_with_a_code_of_aws(world, options, reason: int) -> None:
    options = dict(options)
    client = await world.unaccepted(options.pop("client_id", "c"), version=5, **options)
    answer = await client.next(Connack)
    assert (answer.reason, bool(answer.properties["reason_string"])) == (reason, True)
    assert reason in (0x80, 0x85, 0x86, 0x87, 0x90, 0x97, 0x9B)  # those of AWS's CONNACK
    await client.end()


async def test_wills_of_many_clients_are_bounded_together(world) -> None:
    world.settings = Settings(will_bytes=130_002)
    await world.reopen()
    will = Will("w", b"x" * 65_000)
    first = await world.client("1", version=5, will=will)
    await world.client("2", version=5, will=will)
    refused = await world.unaccepted("3", version=5, will=will)
    assert (await refused.next(Connack)).reason == packets.QUOTA_EXCEEDED
    await world.client("4", version=5)
    await first.disconnect()
    third = await world.client("3", version=5, will=will)
    third.socket.close()
    await third.end()
    await world.client("3", version=5, will=will)
    assert world.broker._connecting._wills.weight == 2 * 65_001


# what goes through


async def test_every_property_of_a_message_arrives(world) -> None:
    sub = await world.client("sub", version=5)
    await sub.subscribe("a")
    pub = await world.client("pub", version=5)
    given = {
        "payload_format": 1, "message_expiry_s": 60, "content_type": "text/plain", "response_topic": "answers/1",
        "correlation_data": b"\0\xff", "user_properties": [("k", "v"), ("k", "v")],
    }  # fmt: skip
    assert await pub.acked("a", "text", **given) == 0
    assert (await sub.message()).properties == given


async def test_the_payload_format_is_the_receiver_s_to_check(world) -> None:
    sub = await world.client("sub", version=5)
    await sub.subscribe("a")
    pub = await world.client("pub", version=5)
    assert await pub.acked("a", b"\xff\xfe", payload_format=1) == 0
    assert (await sub.message()).payload == b"\xff\xfe"


@pytest.mark.parametrize(
    ("asked", "given"), [(0, 1), (1, 1), (604_800, 604_800), (604_801, 604_800), (2**32 - 1, 604_800)]
)
async def test_message_expiry_is_clamped_to_seven_days(world, asked: int, given: int) -> None:
    sub = await world.client("sub", version=5)
    await sub.subscribe("a")
    pub = await world.client("pub", version=5)
    await pub.acked("a", message_expiry_s=asked)
    assert (await sub.message()).properties["message_expiry_s"] == given


async def test_message_expiry_counts_for_a_3_1_1_session_too(world) -> None:
    sub = await world.client("sub", clean=False)
    await sub.subscribe("a")
    await sub.disconnect()
    pub = await world.client("pub", version=5)
    await pub.acked("a", "short", message_expiry_s=5)
    await pub.acked("a", "long", message_expiry_s=60)
    world.clock.advance(6_000)
    sub = await world.client("sub", clean=False)
    assert (await sub.message()).payload == b"long"
    assert not sub.got


@pytest.mark.parametrize("version", [4, 5])
async def test_a_message_that_waits_in_memory_expires_too(world, version: int) -> None:
    sub = await world.client("sub", version=version, auto_ack=False)
    await sub.subscribe("a")
    pub = await world.client("pub", version=5)
    for number in range(100):
        await pub.acked("a", str(number))
    await pub.acked("a", "short", message_expiry_s=5)
    await pub.acked("a", "long", message_expiry_s=60)
    await sub.until(lambda: len(publishes(sub)) == 100)
    world.clock.advance(6_000)
    for packet in publishes(sub)[:2]:
        sub.raw(sub.machine.ack(packet.packet_id, 0))
    await sub.until(lambda: len(publishes(sub)) == 101)
    last = publishes(sub)[-1]
    assert last.payload == b"long"
    if version == 5:
        assert last.properties == {"message_expiry_s": 54}


async def test_retained_messages_expire(world) -> None:
    pub = await world.client("pub", version=5)
    await pub.acked("a", "1", retain=True, message_expiry_s=60)
    world.clock.advance(10_000)
    sub = await world.client("sub", version=5)
    await sub.subscribe("a")
    assert (await sub.message()).properties == {"message_expiry_s": 50}
    world.clock.advance(51_000)
    late = await world.client("late", version=5)
    await late.subscribe("a")
    await pub.acked("a", "2")
    assert (await late.message()).payload == b"2"
    assert len(await world.broker.retained_page("", 10)) == 1
    await world.broker._housekeeping.sweep()
    assert await world.broker.retained_page("", 10) == []


@pytest.mark.parametrize(("handling", "expected"), [(0, [b"1", b"1"]), (1, [b"1"]), (2, [])])
async def test_retain_handling(world, handling: int, expected: list[bytes]) -> None:
    pub = await world.client("pub", version=5)
    await pub.acked("a", "1", retain=True)
    sub = await world.client("sub", version=5)
    await sub.subscribe("a", retain_handling=handling)
    await sub.subscribe("a", retain_handling=handling)
    await pub.acked("a", "end")
    got = []
    while not got or got[-1] != b"end":
        got.append((await sub.message()).payload)
    assert got[:-1] == expected


# topic aliases


async def test_aliases_of_a_client(world) -> None:
    sub = await world.client("sub")
    await sub.subscribe("a/#")
    pub = await world.client("pub", version=5)
    for alias in range(1, 9):
        pub.publish(f"a/{alias}", str(alias), topic_alias=alias)
    pub.publish("a/new", "new", topic_alias=8)  # another topic now
    pub.publish("", "again", topic_alias=8)
    pub.publish("", "first", topic_alias=1)
    await sub.until(lambda: len(publishes(sub)) == 11)
    assert [p.topic for p in publishes(sub)[8:]] == ["a/new", "a/new", "a/1"]
    pub.publish("a/9", topic_alias=9)
    assert (await pub.next(Disconnect)).reason == packets.TOPIC_ALIAS_INVALID


async def test_an_alias_is_policed_as_its_topic(world) -> None:
    der = await world.device(
        {"Action": "iot:Connect", "Resource": "*"}, {"Action": "iot:Publish", "Resource": f"{ARN}topic/mine"}
    )
    dev = await world.client("dev", der, version=5)
    dev.publish("theirs", "x", 1, topic_alias=1)
    assert (await dev.next(Puback)).reason == packets.NOT_AUTHORIZED
    dev.publish("", "x", 1, topic_alias=1)
    assert (await dev.next(Puback)).reason == packets.NOT_AUTHORIZED


def raw_publishes(data: bytes) -> list[tuple[bytes, int]]:
    """(topic, alias) of the PUBLISH frames of MQTT 5 with QoS 0 or 1."""
    found, at = [], 0
    while at < len(data):
        body, size, shift = at + 1, 0, 0
        while True:
            size |= (data[body] & 127) << shift
            shift += 7
            body += 1
            if data[body - 1] < 128:
                break
        if data[at] >> 4 == 3:
            length = data[body] << 8 | data[body + 1]
            topic = data[body + 2 : body + 2 + length]
            props = body + 2 + length + (2 if data[at] & 6 else 0)
            alias = data[props + 2] << 8 | data[props + 3] if data[props] and data[props + 1] == 0x23 else 0
            found.append((topic, alias))
        at = body + size
    return found


@pytest.mark.parametrize("qos", [0, 1])
async def test_aliases_to_a_client_that_takes_them(world, qos: int) -> None:
    sub = await world.client("sub", version=5, properties={"topic_alias_maximum": 65_535})
    await sub.subscribe("plant/#")
    frames = bytearray()
    sub.socket.got = frames.extend  # the client machine offers no aliases itself
    pub = await world.client("pub")
    for _ in range(2):
        for number in range(9):
            await pub.acked(f"plant/{number}", "x") if qos else pub.publish(f"plant/{number}", "x")
    async with asyncio.timeout(5):
        while len(raw_publishes(bytes(frames))) < 18:
            await asyncio.sleep(0)
    found = raw_publishes(bytes(frames))
    assert found[:9] == [(b"plant/%d" % n, n + 1) for n in range(8)] + [(b"plant/8", 0)]
    assert found[9:] == [(b"", n + 1) for n in range(8)] + [(b"plant/8", 0)]


async def test_a_topic_that_did_not_arrive_has_no_alias(world) -> None:
    sub = await world.client("sub", version=5, properties={"topic_alias_maximum": 8, "maximum_packet_size": 40})
    await sub.subscribe("plant/#", qos=0)
    frames = bytearray()
    sub.socket.got = frames.extend
    pub = await world.client("pub")
    pub.publish("plant/one", "x" * 100)
    pub.publish("plant/one", "y")
    pub.publish("plant/one", "z")
    async with asyncio.timeout(5):
        while len(raw_publishes(bytes(frames))) < 2:
            await asyncio.sleep(0)
    assert raw_publishes(bytes(frames)) == [(b"plant/one", 1), (b"", 1)]


# flow


async def test_receive_maximum_of_the_broker_is_100(world) -> None:
    world.broker.add_consumer("rules", lambda topic: True)
    world.journal.is_broken = True  # nothing is acknowledged
    client = await world.client("c", version=5)
    for number in range(1, 102):
        client.raw(packets.publish_frame(5, b"a", b"", 1, number, False, False, b""))
    assert (await client.next(Disconnect)).reason == packets.RECEIVE_MAXIMUM_EXCEEDED
    world.journal.is_broken = False


async def test_a_window_of_one(world) -> None:
    sub = await persistent(world, "sub", receive_maximum=1)
    await sub.subscribe("a")
    pub = await world.client("pub")
    for number in range(30):
        await pub.acked("a", str(number))
    assert [(await sub.message()).payload for _ in range(30)] == [b"%d" % n for n in range(30)]


async def test_a_message_over_the_client_s_packet_size_is_as_if_it_had_been_sent(world) -> None:
    sub = await persistent(world, "sub", maximum_packet_size=64)
    await sub.subscribe("a")
    pub = await world.client("pub")
    await pub.acked("a", "x" * 100)
    pub.publish("a", "y" * 100)
    await pub.acked("a", "fits")
    assert (await sub.message()).payload == b"fits"
    await sub.disconnect()
    sub = await persistent(world, "sub")
    await pub.acked("a", "end")
    assert (await sub.message()).payload == b"end"


async def test_reason_strings_only_where_they_are_wanted_and_fit(world) -> None:
    der = await world.device({"Action": "iot:Connect", "Resource": "*"})
    client = await world.client("c", der, version=5, properties={"request_problem_information": 0})
    client.publish("a", qos=1)
    assert (await client.next(Puback)).properties == {}
    _, data = client.machine.subscribe([Wish("a", 1)], 0)
    client.raw(data)
    assert (await client.next(Suback)).properties == {}
    small = await world.client("s", der, version=5, properties={"maximum_packet_size": 20})
    small.publish("a", qos=1)
    assert (await small.next(Puback)).properties == {}
    _, data = small.machine.subscribe([Wish("a", 1)], 0)
    small.raw(data)
    assert (await small.next(Suback)).properties == {}
    small.publish("a")
    ended = await small.next(Disconnect)
    assert (ended.reason, ended.properties) == (packets.NOT_AUTHORIZED, {})


# SUBSCRIBE, UNSUBSCRIBE, DISCONNECT


async def test_unsubscribe_has_the_codes_of_aws(world) -> None:
    client = await world.client("c", version=5)
    await client.subscribe("a", "$share/g/b")
    asked = ["a", "never", "a/#/b", "$share/g/b", "$share/x"]
    assert await client.unsubscribe(*asked) == [0, 0, packets.TOPIC_FILTER_INVALID, 0, packets.TOPIC_FILTER_INVALID]
    assert world.broker.sessions["c"].subscriptions == {}


async def test_subscription_identifiers_are_refused(world) -> None:
    client = await world.client("c", version=5)
    _, data = client.machine.subscribe([Wish("a", 1)], 0, {"subscription_identifiers": [7]})
    client.raw(data)
    assert (await client.next(Disconnect)).reason == packets.SUBSCRIPTION_IDS_NOT_SUPPORTED


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(lambda v: packets.publish_frame(v, b"a", b"", 2, 7, False, False, b""), id="PUBLISH"),
        pytest.param(
            lambda v: b"\x82" + (b"\x06\x00\x01" if v == 4 else b"\x07\x00\x01\x00") + b"\x00\x01a\x02", id="SUBSCRIBE"
        ),
        pytest.param(lambda v: b"\x50\x02\x00\x07", id="PUBREC"),
        pytest.param(lambda v: b"\x62\x02\x00\x07", id="PUBREL"),
        pytest.param(lambda v: b"\x70\x02\x00\x07", id="PUBCOMP"),
    ],
)
async def test_qos_2_is_refused(world, version: int, data) -> None:
    client = await world.client("c", version=version)
    client.raw(data(version))
    await client.end()
    if version == 5:
        assert (await client.next(Disconnect)).reason in (packets.QOS_NOT_SUPPORTED, packets.MALFORMED_PACKET)
    assert not any(isinstance(packet, (Puback, Suback)) for packet in client.got)


async def test_auth_is_refused_with_a_code_of_aws(world) -> None:
    client = await world.client("c", version=5)
    client.raw(b"\xf0\x00")
    assert (await client.next(Disconnect)).reason == packets.PROTOCOL_ERROR


async def test_disconnect_changes_the_session_expiry(world) -> None:
    client = await persistent(world, "c")
    await client.subscribe("a")
    client.raw(packets.frame(0xE0, b"\x00\x05\x11\x00\x00\x00\x0a"))
    await client.end()
    assert world.broker.sessions["c"].expiry_s == 10
    world.clock.advance(11_000)
    world.broker.tend()
    assert "c" not in world.broker.sessions
    client = await persistent(world, "c")
    assert not client.connack.session_present
    client.raw(packets.frame(0xE0, b"\x00\x05\x11\x00\x00\x00\x00"))
    await client.end()
    assert "c" not in world.broker.sessions
    await world.reopen(checkpoint=False)
    assert "c" not in world.broker.sessions  # nor in the replay
    short = await world.client("s", version=5)
    short.raw(packets.frame(0xE0, b"\x00\x05\x11\x00\x00\x00\x0a"))
    assert (await short.next(Disconnect)).reason == packets.PROTOCOL_ERROR


async def test_a_session_that_becomes_short_is_in_no_replay(world) -> None:
    await persistent(world, "c")
    again = await world.client("c", version=5, clean=False, properties={"session_expiry_s": 0})
    assert again.connack.session_present
    await world.reopen(checkpoint=False)
    assert "c" not in world.broker.sessions


@pytest.mark.parametrize("reason", [0x00, 0x04])
async def test_disconnect_with_will(world, reason: int) -> None:
    sub = await world.client("sub")
    await sub.subscribe("w", "end")
    client = await world.client("c", version=5, will=Will("w", b"bye", 1))
    client.raw(packets.frame(0xE0, bytes((reason,))))
    await client.end()
    await (await world.client("pub")).acked("end")
    assert [(await sub.message()).topic for _ in range(2 if reason else 1)] == (["w", "end"] if reason else ["end"])


@pytest.mark.parametrize("back", ["in time", "too late", "with a clean start", "never: its session ends"])
async def test_will_delay(world, back: str) -> None:
    sub = await world.client("sub")
    await sub.subscribe("w", "end")
    options = {"version": 5, "will": Will("w", b"bye", 1, False, {"will_delay_s": 60})}
    expiry_s = 30 if back.startswith("never") else 600
    client = await world.client("c", clean=False, properties={"session_expiry_s": expiry_s}, **options)
    client.socket.close()
    await client.end()
    world.clock.advance(31_000)
    if back == "in time":
        await world.client("c", version=5, clean=False)
    elif back == "with a clean start":
        await world.client("c", version=5)
    elif back == "too late":
        world.clock.advance(30_000)
    world.broker.tend()
    await (await world.client("pub")).acked("end")
    expected = ["end"] if back == "in time" else ["w", "end"]
    assert [(await sub.message()).topic for _ in expected] == expected


async def test_a_will_on_a_reserved_topic_is_for_subscribers_alone(world) -> None:
    """AWS's guide, "Using shadows in apps and services": the shadow service ignores it, subscribers and rules do not."""
    handled: list[object] = []

    async def handler(message) -> None:
        handled.append(message)

    world.broker._reserved.use({"$aws/things/{thing}/shadow/update": handler})
    world.broker.consumers_changed()
    sub = await world.client("sub")
    await sub.subscribe("$aws/things/t/shadow/update")
    client = await world.client("c", will=Will("$aws/things/t/shadow/update", b"{}"))
    client.socket.close()
    assert (await sub.message()).payload == b"{}"
    assert await sub.acked("$aws/things/t/shadow/update", b"{1}") == 0
    assert [message.payload for message in handled] == [b"{1}"]


async def test_a_retained_will_is_retained(world) -> None:
    client = await world.client("c", will=Will("w", b"gone", 1, True))
    client.socket.close()
    await client.end()
    late = await world.client("late")
    await late.subscribe("w")
    got = await late.message()
    assert (got.payload, got.retain) == (b"gone", True)


async def test_nothing_is_read_behind_a_goodbye_or_an_error(world) -> None:
    sub = await world.client("sub")
    await sub.subscribe("a")
    frame = packets.publish_frame(5, b"a", b"late", 0, 0, False, False, b"")
    one, two = await world.client("one", version=5), await world.client("two", version=5)
    one.raw(b"\xe0\x00" + frame)
    two.raw(b"\xf0\x00" + frame)
    await one.end()
    await two.end()
    await (await world.client("pub")).acked("a", "last")
    assert (await sub.message()).payload == b"last"


@pytest.mark.parametrize("version", [4, 5])
async def test_packets_sent_before_connack_wait_for_it(world, version: int) -> None:
    """AWS wants clients to wait; one that does not is answered in order, CONNACK first."""
    client = await world.silent()
    connect = packets.frame(
        0x10, b"\x00\x04MQTT" + bytes((version, 2, 0, 60)) + (b"\x00" if version == 5 else b"") + b"\x00\x01c"
    )
    codec = v5 if version == 5 else v311
    frames = bytearray()
    client.socket.got = frames.extend
    client.raw(connect + codec.encode(Subscribe(1, [Wish("a", 1)])) + b"\xc0\x00")
    async with asyncio.timeout(5):
        while not frames.endswith(b"\xd0\x00"):
            await asyncio.sleep(0)
    suback = codec.encode(Suback(1, [1]))
    assert frames[0] == 0x20 and frames.endswith(suback + b"\xd0\x00")


async def test_unsuback_of_3_1_1_has_no_codes(world) -> None:
    client = await world.client("c")
    _, data = client.machine.unsubscribe(["never"], 0)
    client.raw(data)
    assert (await client.next(Unsuback)).reasons == []
