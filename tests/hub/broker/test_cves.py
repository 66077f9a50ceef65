"""Published holes of MQTT brokers, tried on ours: each test is named for its CVE and says whose it was and what shape it has.

After each attempt a client that had nothing to do with it still gets its messages. Numbers and shapes: the vendors' advisories
and NVD. Not here: holes of bridges, plugins, web consoles and configuration files that Marram does not have.
"""

import asyncio
import json
import tracemalloc
from collections.abc import AsyncIterator

import pytest

from marram.core.mqtt import packets, v5, v311
from marram.core.mqtt.connection import ServerConnection, receive_all
from marram.core.mqtt.packets import (
    Connack,
    Connect,
    Disconnect,
    ProtocolError,
    Puback,
    Publish,
    Suback,
    Subscribe,
    Will,
    Wish,
    frame,
    string,
    u16,
)
from marram.kit.net import Deadlines

ARN = "arn:aws:iot:local-1:000000000001:"
CONNECT5 = b"\x00\x04MQTT\x05\x02\x00\x3c"


@pytest.fixture(autouse=True)
async def bystander(world) -> AsyncIterator[None]:
    """Somebody who is connected all the time, and hears of nothing."""
    sub = await world.client("bystander")
    await sub.subscribe("alive")
    yield
    pub = await world.client("after")
    assert await pub.acked("alive", "yes") == 0
    assert (await sub.message()).payload == b"yes"
    assert not sub.closed


async def gone(client, reason: int | None = None) -> None:
    """Its connection ends, for this reason where it speaks MQTT 5."""
    await client.end()
    if reason is not None:
        assert (await client.next(Disconnect)).reason == reason


async def test_cve_2017_7650_a_client_id_of_wildcards_is_no_pattern(world) -> None:
    """mosquitto: client id `#` or `+` put into an ACL pattern allowed every topic."""
    der = await world.device(
        {"Action": ["iot:Connect"], "Resource": "*"},
        {"Action": ["iot:Publish", "iot:Receive"], "Resource": f"{ARN}topic/of/${{iot:ClientId}}/x"},
        {"Action": "iot:Subscribe", "Resource": f"{ARN}topicfilter/of/${{iot:ClientId}}/x"},
    )
    for client_id in ("#", "+", "*", "?", "a/../b"):
        client = await world.client(client_id, der, version=5)
        assert await client.subscribe("of/victim/x", "of/#", f"of/{client_id}/x") != [1, 1, 1]
        assert await client.subscribe("of/victim/x") == [packets.NOT_AUTHORIZED]
        assert await client.acked("of/victim/x") == packets.NOT_AUTHORIZED


async def test_cve_2017_7651_half_a_connect_holds_little_and_not_long(world) -> None:
    """mosquitto: clients without rights held memory by announcing large CONNECTs."""
    world.door._waiting = Deadlines(0.05, world.door._too_slow)
    tracemalloc.start()
    clients = [await world.silent() for _ in range(20)]
    for client in clients:
        client.raw(b"\x10" + packets.varint(149_000) + b"\x00\x04MQTT\x04\x02")
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert used / len(clients) < 64 << 10
    for client in clients:
        await gone(client)


async def test_cve_2017_7653_a_topic_that_is_not_utf_8_reaches_nobody(world) -> None:
    """mosquitto: it was passed on, and clients that check disconnected themselves."""
    sub = await world.client("sub")
    await sub.subscribe("#")
    for number, raw in enumerate((b"a\xff", b"a\xc0\xaf", b"a\xed\xa0\x80", b"a\x00b")):
        old = await world.client(f"old{number}")
        old.raw(packets.publish_frame(4, raw, b"x", 0, 0, False, False, b""))
        await gone(old)
        new = await world.client(f"new{number}", version=5)
        answer = bytearray()
        new.socket.got = answer.extend
        new.raw(packets.publish_frame(5, raw, b"x", 1, 7, False, False, b""))
        await asyncio.sleep(0.001)
        assert answer[0] == 0x40 and answer[4] == packets.TOPIC_NAME_INVALID
    assert not sub.got


async def test_cve_2017_7654_a_connect_with_no_rights_leaves_nothing(world) -> None:
    """mosquitto: memory of refused CONNECTs was never freed."""
    der = await world.device({"Action": "iot:Connect", "Resource": f"{ARN}client/other"})
    for number in range(20):
        client = await world.unaccepted(f"c{number}", der, version=5, will=Will("w", b"x" * 60_000))
        assert (await client.next(Connack)).reason == packets.NOT_AUTHORIZED
        await gone(client)
    broker = world.broker
    assert set(broker.links) == set(broker.sessions) == {"bystander"} and broker._connecting._wills.weight == 0
    assert len(world.door.connections) == 1


async def test_cve_2018_12543_a_topic_that_begins_with_a_dollar(world) -> None:
    """mosquitto: a publish to a topic with $ that is not $SYS was an assertion that failed."""
    for topic in ("$", "$SYS", "$other/x", "$share/g/x", "$aws", "$AWS/x"):
        client = await world.client(f"c{topic.count('/')}{len(topic)}", version=5)
        assert await client.acked(topic) in (packets.NOT_AUTHORIZED, packets.TOPIC_NAME_INVALID)


async def test_cve_2018_12546_a_right_that_was_taken_away_counts_for_what_is_retained(world) -> None:
    """mosquitto: a retained message was sent on though its topic was no longer allowed."""
    pub = await world.client("pub")
    await pub.acked("secret", "x", retain=True)
    der = await world.device(
        {"Action": ["iot:Connect", "iot:Subscribe"], "Resource": "*"},
        {"Action": "iot:Receive", "Resource": f"{ARN}topic/open"},
    )
    client = await world.client("c", der, version=5)
    assert await client.subscribe("secret", "open") == [1, 1]
    await pub.acked("open", "end")
    assert (await client.message()).payload == b"end"


async def test_cve_2019_11778_the_session_ends_before_the_will_is_due(world) -> None:
    """mosquitto: will delay longer than the session's expiry was a use after free."""
    sub = await world.client("sub")
    await sub.subscribe("w")
    client = await world.client(
        "c", version=5, clean=False, will=Will("w", b"bye", 1, False, {"will_delay_s": 1000}),
        properties={"session_expiry_s": 10},
    )  # fmt: skip
    client.socket.close()
    await client.end()
    world.clock.advance(11_000)
    world.broker.tend()
    assert (await sub.message()).payload == b"bye"
    assert "c" not in world.broker.sessions
    world.clock.advance(1_000_000)
    world.broker.tend()
    assert not sub.got


async def test_cve_2019_11779_a_filter_of_65400_slashes(world) -> None:
    """mosquitto: the stack overflowed."""
    for version in (4, 5):
        client = await world.client("c", version=version)
        refused = packets.TOPIC_FILTER_INVALID if version == 5 else 0x80
        assert await client.subscribe("/" * 65_400) == [refused]
        assert await client.subscribe("$share/g/" + "/" * 65_000) == [refused]
        client.publish("/" * 65_400)
        await gone(client, packets.TOPIC_NAME_INVALID if version == 5 else None)


async def test_cve_2019_19307_a_length_that_wraps(world) -> None:
    """Mongoose: an overflow of the remaining length was an endless loop."""
    for data in (
        b"\x10\xff\xff\xff\xff\xff\xff",
        b"\x10\xff\xff\xff\xff\x0f",
        b"\x30\x80\x80\x80\x80\x01",
        b"\x10\x80\x00",
    ):
        client = await world.silent()
        client.raw(data)
        await gone(client)


async def test_cve_2019_0222_a_frame_that_ends_early(world) -> None:
    """ActiveMQ: a corrupt frame ended in no memory."""
    client = await world.silent()
    client.raw(b"\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\xff\xffabcd")
    await gone(client)


async def test_cve_2020_13410_an_answer_that_cannot_be_written(world) -> None:
    """aedes: a packet that could not be encoded ended the process. Ours is never longer than MQTT allows."""
    der = await world.device({"Action": "iot:Connect", "Resource": "*"})
    client = await world.client("c", der, version=5)
    topic = "ü" * 100 + "/" + "x" * 50
    assert await client.acked(topic) == packets.NOT_AUTHORIZED
    assert await client.subscribe(topic) == [packets.NOT_AUTHORIZED]


async def test_cve_2020_13849_a_keep_alive_of_18_hours(world) -> None:
    """MQTT 3.1.1 itself (SlowITe): a client sets 65,535 s and holds a connection for a day."""
    client = await world.client("c", keep_alive_s=65_535)
    world.clock.advance(1_200_000 * 3 // 2 + 1_000)
    world.door.now_ms = world.clock.mono_ns() // 1_000_000
    for connection in list(world.door.connections):
        if connection is not client.socket.protocol:
            connection.data_received(b"\xc0\x00")
    world.door.turn()
    await gone(client)


async def test_cve_2021_22116_and_33175_and_33176_memory_by_one_message(world) -> None:
    """RabbitMQ, EMQ X, VerneMQ: a crafted message of few bytes made the broker's memory grow until it was killed."""
    machine = ServerConnection()
    crafted = [
        b"\x10\xff\xff\xff\x7f",
        frame(0x10, CONNECT5 + packets.varint(268_435_455) + b"\x26"),
        frame(0x10, b"\x00\x04MQTT\x04\xee\x00\x3c\xff\xff\xff\xff"),
        frame(0x82, b"\x00\x01" + b"\xff\xff" * 10),
        frame(0xA2, b"\x00\x01" + b"\xff\xff" * 10),
        frame(0x40, b"\x00\x01\x00" + packets.varint(268_435_455)),
    ]
    tracemalloc.start()
    for data in crafted:
        for prefix in (b"", v311.encode(Connect("c", 4)), v5.encode(Connect("c", 5))):
            machine = ServerConnection()
            try:
                receive_all(machine, prefix)
                receive_all(machine, data)
            except ProtocolError:
                pass
            assert len(machine._rest) < 200
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    client = await world.silent()
    client.raw(crafted[0])
    await gone(client)


async def test_cve_2021_28166_a_connack_from_a_client(world) -> None:
    """mosquitto: a null pointer."""
    for data in (
        b"\x20\x02\x00\x00",
        b"\x20\x03\x00\x00\x00",
        b"\x90\x03\x00\x01\x00",
        b"\xb0\x02\x00\x01",
        b"\xd0\x00",
    ):
        client = await world.client("c", version=5)
        client.raw(data)
        await client.end()
        assert (await client.next(Disconnect)).reason in (packets.PROTOCOL_ERROR, packets.MALFORMED_PACKET)
    silent = await world.silent()
    silent.raw(b"\x20\x03\x00\x00\x00")
    await gone(silent)


async def test_cve_2021_34431_a_connect_of_mqtt_5_that_is_refused_in_its_middle(world) -> None:
    """mosquitto: its properties stayed in memory."""
    for number in range(50):
        client = await world.silent()
        properties = b"\x26" + string("k" * 900) + string("v" * 900) + b"\x11\x00\x00\x00\x01" * 2
        client.raw(frame(0x10, CONNECT5 + packets.varint(len(properties)) + properties + string(f"c{number}")))
        await gone(client)
    assert len(world.door.connections) == 1


async def test_cve_2021_34432_a_publish_without_a_topic(world) -> None:
    """mosquitto: it crashed."""
    for version in (4, 5):
        for qos in (0, 1):
            client = await world.client("c", version=version)
            client.raw(packets.publish_frame(version, b"", b"x", qos, qos, False, False, b""))
            if version == 5:
                await gone(client, packets.PROTOCOL_ERROR)
            else:
                await gone(client)


async def test_cve_2021_34434_a_subscription_that_is_no_longer_allowed_ends(world) -> None:
    """mosquitto, dynamic security: a client kept what it had subscribed to when the right was taken away."""
    der = await world.device({"Action": ["iot:Connect", "iot:Receive"], "Resource": "*"})
    principal = world.identity.certificate_subject(der).principal
    document = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:Subscribe", "Resource": "*"}]}
    await world.identity.create_policy("subscribe", json.dumps(document))
    await world.identity.attach_policy("subscribe", f"{ARN}cert/{principal}")
    client = await world.client("c", der, clean=False)
    assert await client.subscribe("a", "$share/g/a") == [1, 1]
    await world.identity.detach_policy("subscribe", f"{ARN}cert/{principal}")
    await asyncio.sleep(0)
    pub = await world.client("pub")
    await pub.acked("a", "x")
    assert world.broker.subscriptions("c") == [] and not client.got


async def test_cve_2021_41039_a_connect_full_of_user_properties(world) -> None:
    """mosquitto: quadratic time. Ours is bounded by the size of a packet, and linear."""
    one = b"\x26\x00\x00\x00\x00"
    properties = one * (149_000 // len(one))
    data = frame(0x10, CONNECT5 + packets.varint(len(properties)) + properties + string("c"))
    loop = asyncio.get_running_loop()
    began = loop.time()
    client = await world.silent()
    client.machine.version, client.machine._state = 5, "connecting"
    client.raw(data)
    assert (await client.next(Connack)).reason == 0
    assert loop.time() - began < 0.5  # some 20 ms; a quadratic one takes minutes
    client.raw(frame(0x30, string("a") + packets.varint(len(properties)) + properties))
    client.raw(b"\xc0\x00")
    await client.next(packets.Pingresp)
    too_large = await world.silent()
    too_large.raw(frame(0x10, CONNECT5 + packets.varint(600_000) + one * 120_000 + string("c")))
    await gone(too_large)


async def test_cve_2023_0809_the_first_packet_is_not_connect(world) -> None:
    """mosquitto: memory was taken for whatever length it announced."""
    for first in (0x20, 0x30, 0x32, 0x40, 0x62, 0x82, 0xA2, 0xC0, 0xE0, 0xF0, 0x00, 0x11):
        client = await world.silent()
        client.raw(bytes((first,)) + b"\xff\xff\xff\x7f")
        await gone(client)
        assert client.got == []


async def test_cve_2023_3592_a_will_with_properties_that_do_not_belong_there(world) -> None:
    """mosquitto: memory was lost at each such CONNECT."""
    for number in (0x23, 0x0B, 0x11, 0x21, 0x7F):
        client = await world.silent()
        will = packets.varint(3) + bytes((number, 0, 1)) + string("w") + string("x")
        client.raw(frame(0x10, b"\x00\x04MQTT\x05\x06\x00\x3c\x00" + string("c") + will))
        await gone(client)


async def test_cve_2023_5632_a_connection_that_sends_nothing_costs_nothing(world) -> None:
    """mosquitto: it turned in a loop for it."""
    world.door._waiting = Deadlines(0.05, world.door._too_slow)
    client = await world.silent()
    turns = 0
    while not client.closed:
        turns += 1
        await asyncio.sleep(0.01)
    assert turns < 100 and client.got == []


async def test_cve_2023_28366_qos_2_that_is_never_finished(world) -> None:
    """mosquitto: message ids of QoS 2 without PUBREL stayed. Here QoS 2 ends the connection, and nothing is kept."""
    for version in (4, 5):
        client = await world.client("c", version=version)
        for number in range(1, 100):
            client.raw(packets.publish_frame(version, b"a", b"x" * 1000, 2, number, False, False, b""))
        await gone(client, packets.QOS_NOT_SUPPORTED if version == 5 else None)
    assert "c" not in world.broker.sessions


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(
            lambda v: frame(0x82, b"\x00\x01" + (b"\x00" if v == 5 else b"") + string("a" * 1018)), id="nanomq 2268"
        ),
        pytest.param(lambda v: frame(0x32, string("a" * 1022)), id="nanomq 2270"),
        pytest.param(
            lambda v: frame(0x82, b"\x00\x01" + (b"\x00" if v == 5 else b"") + b"\xff\xffa\x00"), id="nanomq 1154"
        ),
        pytest.param(lambda v: frame(0x30, b"\xff\xffa"), id="nanomq 1153"),
        pytest.param(
            lambda v: frame(0xA2, b"\x00\x01" + (b"\x00" if v == 5 else b"") + b"\x00\x09a"), id="unsubscribe"
        ),
        pytest.param(lambda v: frame(0x30, string("a") + b"\xff\x7f") if v == 5 else b"\x30\x01\x00", id="nanomq 1169"),
        pytest.param(lambda v: frame(0x40, b"\x00"), id="puback of one byte"),
        pytest.param(lambda v: frame(0xE0, b"\x00\x05\x11\x00") if v == 5 else frame(0xE0, b"\x00"), id="disconnect"),
    ],
)
@pytest.mark.parametrize("version", [4, 5])
async def test_cve_2023_29994_and_34488_fields_longer_than_their_packet(world, version: int, data) -> None:
    """NanoMQ: reads behind the end of a packet in read_byte, conn_handler and their kin, each of them a crash."""
    client = await world.client("c", version=version)
    client.raw(data(version))
    await gone(client, packets.MALFORMED_PACKET if version == 5 else None)


async def test_cve_2024_8376_comings_and_goings(world) -> None:
    """mosquitto: a sequence of CONNECT, SUBSCRIBE, UNSUBSCRIBE, PUBLISH, DISCONNECT leaked, then crashed."""
    for number in range(30):
        client = await world.client("c", version=4 + number % 2, clean=number % 3 > 0)
        await client.subscribe("a", "a/#", "+/b", "$share/g/a")
        client.publish("a", "x", number % 2)
        await client.unsubscribe("a", "$share/g/a", "never")
        client.publish("a/b", "x", 1, retain=number % 5 == 0)
        if number % 4:
            await client.disconnect()
        else:
            client.socket.close()
            await client.end()
    last = await world.client("c")
    await last.disconnect()
    assert set(world.broker.sessions) == {"bystander"}
    assert len(world.broker._matching.router) == 1 and not world.broker._connecting._sharing.stores


async def test_cve_2024_10525_a_suback_without_a_code_is_the_peer_s_fault(world) -> None:
    """libmosquitto: a client read behind the end. Our own client, which an edge core is, refuses it."""
    from marram.core.mqtt.connection import ClientConnection

    for version in (4, 5):
        client = ClientConnection(Connect("edge", version))
        client.start(0)
        client.receive((v5 if version == 5 else v311).encode(Connack()), 0)
        client.subscribe([Wish("a", 1)], 0)
        with pytest.raises(ProtocolError):
            client.receive(frame(0x90, b"\x00\x01" + (b"\x00" if version == 5 else b"")), 0)


async def test_cve_2024_50948_crafted_requests_do_not_stop_the_server(world) -> None:
    """mochi: one crafted packet ended it. Every packet type with every first bytes, before and after CONNECT."""
    bodies = (
        b"",
        b"\x00",
        b"\x00\x00",
        b"\x00\x01",
        b"\x00\x01\x00",
        b"\x00\x01\x00\x00\x00",
        b"\xff" * 6,
        b"\x00\x01\x01\x26",
    )
    for first in range(256):
        for body in bodies:
            for prefix in (b"", v311.encode(Connect("c", 4)), v5.encode(Connect("c", 5))):
                machine = ServerConnection()
                try:
                    receive_all(machine, prefix)
                    receive_all(machine, frame(first, body))
                except ProtocolError:
                    pass
    for first in range(0, 256, 5):
        client = await world.client("c", version=5)
        client.raw(frame(first, b"\x00\x01\x01\x26"))
        client.socket.close()
        await client.end()


async def test_cve_2025_59946_and_2026_22040_one_client_id_in_a_storm(world) -> None:
    """NanoMQ: publishes, reconnects with one client id and subscriptions that come and go corrupted its heap."""
    world.broker._connecting._takeovers = _Never()
    pub = await world.client("pub")
    pub.machine.unacked.limit = 1000
    der = await world.device()
    for number in range(60):
        client = await world.unaccepted("c", der, clean=False, auto_ack=bool(number % 3))
        await client.next(Connack)
        _, data = client.machine.subscribe([Wish("storm", 1), Wish(f"s/{number % 7}", 1), Wish("$share/g/storm", 1)], 0)
        client.raw(data)
        for _ in range(5):
            pub.publish("storm", str(number), 1)
        await asyncio.sleep(0)
        _, data = client.machine.unsubscribe(["storm"] if number % 2 else ["$share/g/storm"], 0)
        client.raw(data)
    assert set(world.broker.links) == {"bystander", "pub", "c"}
    left = await world.client("c", der)  # a clean one: all of it goes
    await left.disconnect()
    assert not world.broker._connecting._sharing.stores


class _Never(dict):
    """Takeovers are not limited in this test."""

    def get(self, _key: str, _default: int = 0) -> int:
        return -(10**12)


async def test_cve_2025_62723_messages_go_with_the_session_that_held_them(world) -> None:
    """FlashMQ: QoS messages of expired sessions were never released."""
    pub = await world.client("pub")
    for number in range(10):
        client = await world.client(f"c{number}", version=5, clean=False, properties={"session_expiry_s": 10})
        await client.subscribe("hold")
        client.socket.close()
        await client.end()
    for _ in range(20):
        await pub.acked("hold", b"x" * 1000)
    assert sum(len(session.queue) for session in world.broker.sessions.values()) == 200
    world.clock.advance(11_000)
    world.broker.tend()
    assert set(world.broker.sessions) == {"bystander", "pub"}
    await world.broker.checkpoint()
    assert world.broker.position == world.journal.end  # nothing holds the journal


async def test_cve_2025_68699_a_shared_subscription_without_a_filter(world) -> None:
    """NanoMQ: `$share/ab` was stored, and the next PUBLISH crashed on it."""
    for version in (4, 5):
        client = await world.client("c", version=version)
        for text in ("$share/ab", "$share/", "$share//x", "$share/a+b/x", "$share/ab/"):
            assert await client.subscribe(text) != [1]
        assert world.broker.subscriptions("c") == []


async def test_cve_2026_21888_a_variable_byte_integer_of_five_bytes(world) -> None:
    """NanoMQ: it read behind the end."""
    for length in (b"\xff\xff\xff\xff\x01", b"\x80\x80\x80\x80\x00", b"\xff\xff\xff\xff"):
        client = await world.silent()
        client.raw(frame(0x10, CONNECT5 + length + string("c")))
        await gone(client)
        client = await world.client("c", version=5)
        client.raw(frame(0x30, string("a") + length))
        await gone(client, packets.MALFORMED_PACKET)
        client = await world.client("c", version=5)
        client.raw(frame(0x82, b"\x00\x01\x05\x0b" + length[:4] + string("a") + b"\x01"))
        await client.end()


async def test_cve_2026_25627_a_remaining_length_over_what_came(world) -> None:
    """NanoMQ over WebSocket: 4,096 bytes announced, 3 sent. Here the rest is waited for, as long as the keep-alive."""
    client = await world.client("c", version=5, keep_alive_s=30)
    client.raw(b"\x30\x80\x20abc")
    assert not client.closed
    world.clock.advance(46_000)
    world.door.turn()
    await gone(client, packets.KEEP_ALIVE_TIMEOUT)


async def test_cve_2026_32134_a_session_is_resumed_while_its_owner_comes_again(world) -> None:
    """NanoMQ: reconnects that collide, with clean start 0, met a list that was gone."""
    world.broker._connecting._takeovers = _Never()
    options = {"version": 5, "clean": False, "properties": {"session_expiry_s": 60}}
    der = await world.device()
    first = await world.client("c", der, **options)
    await first.subscribe("a")
    crowd = [await world.unaccepted("c", der, **options) for _ in range(20)]
    for client in crowd:
        assert (await client.next(Connack)).session_present
    for client in crowd[:-1]:
        assert (await client.next(Disconnect)).reason == packets.SESSION_TAKEN_OVER
    await (await world.client("pub")).acked("a", "x")
    assert (await crowd[-1].message()).payload == b"x"


async def test_cve_2026_42209_retained_messages_in_a_race(world) -> None:
    """FlashMQ: retained messages that came while others were being set divided by zero."""
    pub, sub = await world.client("pub"), await world.client("sub", version=5)
    for number in range(50):
        pub.publish("r", str(number), 1, retain=True)
        _, data = sub.machine.subscribe([Wish("r", number % 2)], 0)
        sub.raw(data)
        pub.publish("r", "", 1, retain=True)
    await pub.until(lambda: sum(isinstance(p, Puback) for p in pub.got) == 100)
    assert world.broker.retained("r") is None
    assert sum(isinstance(p, Suback) for p in sub.got) == 50
    assert {p.payload for p in sub.got if isinstance(p, Publish) and p.retain} <= {b"%d" % n for n in range(50)}


async def test_a_subscribe_in_many_packets_costs_one(world) -> None:
    """The bystander's fixture alone, with a packet cut into single bytes: what all of these stand on."""
    client = await world.client("c", version=5)
    for byte in v5.encode(Subscribe(1, [Wish("a", 1)])):
        client.raw(bytes((byte,)))
    client.machine.unacked.take(Subscribe(1, [Wish("a", 1)]))
    assert u16(1) == b"\x00\x01"
    assert (await client.next(Suback)).reasons == [1]
