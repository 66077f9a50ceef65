"""Attacks on the broker from the threat model: T1, T2, T5, T6, T11, and slow consumers (G13, sampled)."""

import asyncio
import json
import tracemalloc

import pytest

from marram.core.mqtt import packets
from marram.core.mqtt.packets import Connack, Disconnect, Puback, Publish, Wish
from marram.core.segment import KIND_MESSAGE
from marram.hub.broker import commits
from marram.hub.broker.settings import Settings

ARN = "arn:aws:iot:local-1:000000000001:"
BOTH = pytest.mark.parametrize("version", [packets.V311, packets.V5], ids=["3.1.1", "5"])


def payloads(client) -> list[bytes]:
    return [packet.payload for packet in client.got if isinstance(packet, Publish)]


async def of_its_own(world):
    """The certificate of a device that may do everything below dev/<client id>, and nothing else."""
    mine = "dev/${iot:ClientId}/*"
    return await world.device(
        {"Action": "iot:Connect", "Resource": f"{ARN}client/${{iot:ClientId}}"},
        {"Action": ["iot:Publish", "iot:Receive", "iot:RetainPublish"], "Resource": f"{ARN}topic/{mine}"},
        {"Action": "iot:Subscribe", "Resource": [f"{ARN}topicfilter/{mine}", f"{ARN}topicfilter/$share/*/{mine}"]},
    )


@BOTH
async def test_t1_a_device_as_another(world, version: int) -> None:
    world.broker.add_consumer("rules", lambda topic: True)
    der = await of_its_own(world)
    sub = await world.client("sub")
    await sub.subscribe("dev/#", "$share/g/dev/#")
    before, published = world.journal.end, world.broker.core.published
    client = await world.client("a", der, version=version)
    refused = packets.NOT_AUTHORIZED if version == 5 else 0x80
    assert await client.subscribe("dev/b/x", "dev/#", "#", "+/b/x", "$share/g/dev/b/x") == [refused] * 5
    if version == 5:
        assert await client.acked("dev/b/x", "bad") == packets.NOT_AUTHORIZED
        assert await client.acked("dev/b/x", "bad", retain=True) == packets.NOT_AUTHORIZED
        client.publish("dev/b/x", "bad")
        assert (await client.next(Disconnect)).reason == packets.NOT_AUTHORIZED
    else:
        client.publish("dev/b/x", "bad", 1)
    await client.end()
    assert world.broker.retained("dev/b/x") is None
    kept = [record.topic for _, record in world.journal.read(before, 1000) if record.kind == KIND_MESSAGE]
    assert b"dev/b/x" not in kept
    again = await world.client("a", der, version=version)
    again.publish("dev/a/x", "good")
    assert (await sub.message()).payload == b"good"
    assert payloads(sub) in ([], [b"good"])  # once more by the group, perhaps
    assert world.broker.core.published >= published


@BOTH
async def test_t2_wildcards_do_not_escape(world, version: int) -> None:
    """Filters are compared as filters, names with wildcards are none, $ topics are for those who own them."""
    der = await of_its_own(world)
    client = await world.client("a", der, version=version)
    refused = packets.NOT_AUTHORIZED if version == 5 else 0x80
    broken = packets.TOPIC_FILTER_INVALID if version == 5 else 0x80
    for text in ("+/#", "#", "$aws/#", "$aws/events/#", "dev/+/x", "dev/b/../a/x", "+/a/x", "dev/a", "/dev/a/x"):
        assert await client.subscribe(text) == [refused], text
        assert world.broker.subscriptions("a") == []
    for text in ("dev/a/#/x", "dev/a/x#", "dev/a/+x", "dev/a/##", ""):
        if text:
            assert await client.subscribe(text) == [broken], text
    for text in ("dev/a/#", "dev/a/+/x", "dev/a//x", "dev/a/../b", "$share/g/dev/a/#"):
        assert await client.subscribe(text) == [1], text
    pub = await world.client("pub")
    for topic in ("dev/b", "b", "dev/ab/x"):
        await pub.acked(topic, "other")
    await pub.acked("dev/a/../b", "mine")  # dots mean nothing
    assert (await client.message()).payload == b"mine"
    assert b"other" not in payloads(client)


@pytest.mark.parametrize(
    "topic",
    [
        b"dev/a/#",
        b"dev/a/+",
        b"#",
        b"dev/a/x\x00",
        b"dev/a/\xed\xa0\x80",
        b"dev/a/\xc0\xaf",
        b"dev/a/\xff",
        b"dev/a/" + b"x" * 300,
    ],
)
@BOTH
async def test_t2_names_that_nobody_may_publish_to(world, version: int, topic: bytes) -> None:
    sub = await world.client("sub")
    await sub.subscribe("#")
    client = await world.client("a", version=version)
    client.raw(packets.publish_frame(version, topic, b"bad", 0, 0, False, False, b""))
    await client.end()
    if version == 5:
        assert (await client.next(Disconnect)).reason == packets.TOPIC_NAME_INVALID
    assert not sub.got


async def test_t2_no_normalisation(world) -> None:
    """Bytes are compared: composed and decomposed characters, and U+FFFE, are other topics and other rights."""
    der = await world.device(
        {"Action": ["iot:Connect", "iot:Subscribe", "iot:Receive"], "Resource": "*"},
        {"Action": "iot:Publish", "Resource": f"{ARN}topic/caf\u00e9"},
    )
    client = await world.client("c", der, version=5)
    await client.subscribe("caf\u00e9")
    assert await client.acked("caf\u00e9", "1") == 0
    assert await client.acked("cafe\u0301", "2") == packets.NOT_AUTHORIZED
    assert await client.acked("CAF\u00c9", "3") == packets.NOT_AUTHORIZED
    assert (await client.message()).payload == b"1"
    pub = await world.client("pub")
    await pub.subscribe("a\ufffe")
    await pub.acked("a\ufffe", "4")
    assert (await pub.message()).topic == "a\ufffe"


@BOTH
async def test_t5_what_is_queued_is_judged_when_it_is_sent(world, version: int) -> None:
    options = {"version": version, "clean": False, "properties": {"session_expiry_s": 600} if version == 5 else {}}
    der = await world.device({"Action": ["iot:Connect", "iot:Subscribe"], "Resource": "*"})
    principal = world.identity.certificate_subject(der).principal
    document = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:Receive", "Resource": "*"}]}
    await world.identity.create_policy("receive", json.dumps(document))
    await world.identity.attach_policy("receive", f"{ARN}cert/{principal}")
    client = await world.client("c", der, **options)
    await client.subscribe("a", "open", "$share/g/s")
    await client.disconnect()
    pub = await world.client("pub")
    for topic in ("a", "a", "s"):
        await pub.acked(topic, "queued")
    narrow = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": "iot:Receive", "Resource": f"{ARN}topic/open"}],
    }
    await world.identity.create_policy("narrow", json.dumps(narrow))
    await world.identity.attach_policy("narrow", f"{ARN}cert/{principal}")
    await world.identity.detach_policy("receive", f"{ARN}cert/{principal}")
    await asyncio.sleep(0)
    await pub.acked("a", "not even queued")
    assert len(world.broker.sessions["c"].queue) == 2
    client = await world.client("c", der, **options)
    await pub.acked("open", "end")
    assert (await client.message()).payload == b"end"
    assert not client.got


async def test_t5_messages_in_memory_are_judged_again(world) -> None:
    der = await world.device({"Action": ["iot:Connect", "iot:Subscribe"], "Resource": "*"})
    principal = world.identity.certificate_subject(der).principal
    for name, resource in (("all", "*"), ("open", f"{ARN}topic/open")):
        document = {
            "Version": "2012-10-17",
            "Statement": [{"Effect": "Allow", "Action": "iot:Receive", "Resource": resource}],
        }
        await world.identity.create_policy(name, json.dumps(document))
        await world.identity.attach_policy(name, f"{ARN}cert/{principal}")
    client = await world.client("c", der, auto_ack=False)
    await client.subscribe("a", "open")
    pub = await world.client("pub")
    for number in range(110):
        await pub.acked("a", str(number))
    await client.until(lambda: len(payloads(client)) == 100)
    await world.identity.detach_policy("all", f"{ARN}cert/{principal}")
    await asyncio.sleep(0)
    await pub.acked("open", "end")
    for packet in [p for p in client.got if isinstance(p, Publish)]:
        client.raw(client.machine.ack(packet.packet_id, 0))
    await client.until(lambda: payloads(client)[-1:] == [b"end"])
    assert len(payloads(client)) == 101


@BOTH
async def test_t5_a_revoked_certificate_and_its_session(world, version: int) -> None:
    """It is put out, nothing more waits for it, and nobody else gets what did; back in force, it goes on."""
    options = {"version": version, "clean": False, "properties": {"session_expiry_s": 600} if version == 5 else {}}
    der = await world.device()
    principal = world.identity.certificate_subject(der).principal
    client = await world.client("c", der, **options)
    await client.subscribe("a")
    await client.disconnect()
    pub = await world.client("pub")
    await pub.acked("a", "before")
    client = await world.client("c", der, auto_ack=False, **options)
    await world.identity.set_status(principal, "INACTIVE")
    await client.end()
    await asyncio.sleep(0)
    await pub.acked("a", "while it is out")
    assert len(world.broker.sessions["c"].queue) == 1
    refused = await world.unaccepted("c", der, **options)
    await refused.end()
    assert not refused.got
    await world.identity.set_status(principal, "ACTIVE")
    await asyncio.sleep(0)
    await pub.acked("a", "after")
    client = await world.client("c", der, **options)
    assert [(await client.message()).payload for _ in range(2)] == [b"before", b"after"]


async def test_t6_a_takeover_needs_the_right_to_the_client_id(world) -> None:
    theirs, mine = (
        await of_its_own(world),
        await world.device({"Action": "iot:Connect", "Resource": f"{ARN}client/mine"}),
    )
    victim = await world.client("victim", theirs, clean=False)
    await victim.subscribe("dev/victim/x")
    thief = await world.unaccepted("victim", mine)
    assert (await thief.next(Connack)).reason == packets.V311_NOT_AUTHORIZED
    assert not victim.closed
    # One that may have the client id gets the session, but only what its own policy lets it receive.
    narrow = await world.device({"Action": ["iot:Connect", "iot:Subscribe"], "Resource": "*"})
    await victim.disconnect()
    pub = await world.client("pub")
    await pub.acked("dev/victim/x", "secret")
    heir = await world.client("victim", narrow, clean=False)
    assert heir.connack.session_present
    await pub.acked("dev/victim/x", "secret too")
    heir.raw(b"\xc0\x00")
    await heir.next(packets.Pingresp)
    assert not heir.got


async def test_t6_two_who_fight_for_one_client_id(world) -> None:
    """Three takeovers at once, then one a second; whoever is connected stays connected."""
    der = await world.device()
    world.clock.advance(10_000)
    taken = refused = 0
    for _ in range(50):
        client = await world.unaccepted("c", der, version=5)
        if (await client.next(Connack)).reason:
            refused += 1
            await client.end()
        else:
            taken += 1
    assert (taken, refused) == (4, 46)
    for _ in range(5):
        world.clock.advance(1_000)
        client = await world.unaccepted("c", der, version=5)
        assert (await client.next(Connack)).reason == 0
        client = await world.unaccepted("c", der, version=5)
        assert (await client.next(Connack)).reason == packets.QUOTA_EXCEEDED


async def test_t11_a_property_bomb(world) -> None:
    """10^5 user properties do not fit a packet; what fits is taken in linear time, and none of it is kept."""
    client = await world.client("c", version=5)
    bomb = b"\x26\x00\x00\x00\x00" * 100_000
    client.raw(packets.frame(0x30, b"\x00\x01a" + packets.varint(len(bomb)) + bomb))
    assert (await client.next(Disconnect)).reason == packets.QUOTA_EXCEEDED
    sub, pub = await world.client("sub", version=5), await world.client("pub", version=5)
    await sub.subscribe("a")
    loop = asyncio.get_running_loop()
    began = loop.time()
    pub.publish("a", "x", user_properties=[("", "")] * 25_000)
    assert len((await sub.message()).properties["user_properties"]) == 25_000
    assert loop.time() - began < 1


@BOTH
async def test_t11_65535_open_qos_1(world, version: int) -> None:
    """Nothing is acknowledged: 5 is told 0x93 at the 101st, 3.1.1 is not read; neither grows."""
    world.broker.add_consumer("rules", lambda topic: topic == "kept")
    world.journal.is_broken = True
    client = await world.client("c", version=version)
    frames = [
        packets.publish_frame(version, b"kept", b"x", 1, number, False, False, b"") for number in range(1, 65_536)
    ]
    sent = 0
    while sent < len(frames) and client.socket.reading and not client.socket.closing:
        client.raw(b"".join(frames[sent : sent + 50]))
        sent += 50
    assert sent <= 200
    if version == 5:
        assert (await client.next(Disconnect)).reason == packets.RECEIVE_MAXIMUM_EXCEEDED
    world.journal.is_broken = False


@BOTH
async def test_t11_acknowledgements_for_nothing(world, version: int) -> None:
    sub = await world.client("c", version=version, auto_ack=False)
    await sub.subscribe("a")
    for packet_id in (1, 2, 100, 65_535):
        sub.raw(b"\x40\x02" + packets.u16(packet_id))
    pub = await world.client("pub")
    await pub.acked("a", "x")
    got = await sub.message()
    for _ in range(3):
        sub.raw(b"\x40\x02" + packets.u16(got.packet_id))
    await pub.acked("a", "y")
    assert (await sub.message()).payload == b"y"


async def test_t11_the_same_packet_id_twice_is_two_messages(world) -> None:
    client, sub = await world.client("c"), await world.client("sub")
    await sub.subscribe("a")
    for text in (b"1", b"2"):
        client.raw(packets.publish_frame(4, b"a", text, 1, 7, False, False, b""))
    assert [(await sub.message()).payload for _ in range(2)] == [b"1", b"2"]


async def test_t11_memory_before_anybody_is_known(world) -> None:
    """A connection that has not said who it is holds little, whatever it sends in pieces."""
    tracemalloc.start()
    clients = [await world.silent() for _ in range(50)]
    before = tracemalloc.get_traced_memory()[0]
    for client in clients:
        client.raw(b"\x10\xff\xff\x08")  # a CONNECT of 147,455 bytes, of which a part comes
        client.raw(b"x" * 32_768)
    used = (tracemalloc.get_traced_memory()[0] - before) / len(clients)
    tracemalloc.stop()
    assert used <= 64 << 10
    for client in clients:
        client.socket.close()


async def test_g13_slow_consumers_cost_a_bounded_amount(world) -> None:
    """Some that do not read, some that are away, one that reads: it gets all, memory stays, what is lost is counted."""
    world.settings = Settings(queue=100)
    await world.reopen()
    stuck = [await world.client(f"stuck{n}", clean=n % 2 == 0) for n in range(10)]
    for client in stuck:
        await client.subscribe("a")
        client.socket.full = True
        client.socket.high = 100_000
    away = [await world.client(f"away{n}", clean=False) for n in range(5)]
    for client in away:
        await client.subscribe("a")
        await client.disconnect()
    good, pub = await world.client("good"), await world.client("pub")
    await good.subscribe("a")
    body = b"x" * 2_000
    tracemalloc.start()
    for number in range(600):
        await pub.acked("a", b"%06d" % number + body)
        pub.publish("a", b"zero")
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    await good.until(lambda: len(payloads(good)) == 1200)
    assert [p[:6] for p in payloads(good) if p != b"zero"] == [b"%06d" % n for n in range(600)]
    assert used < 20 << 20, used
    lost = {session.client_id: session.lost for session in world.broker.sessions.values()}
    assert all(lost[f"away{n}"] == 500 for n in range(5)) and lost["good"] == 0
    back = await world.client("away0", clean=False)
    await back.until(lambda: len(payloads(back)) == 100)
    assert [p[:6] for p in payloads(back)] == [b"%06d" % n for n in range(100)]  # in order, the oldest


async def test_a_full_queue_is_reported(world, caplog) -> None:
    world.settings = Settings(queue=2)
    await world.reopen()
    away = await world.client("away", clean=False)
    await away.subscribe("a")
    await away.disconnect()
    pub = await world.client("pub")
    for _ in range(5):
        await pub.acked("a")
    world.broker.tend()
    world.broker.tend()
    lines = [record for record in caplog.records if "messages_lost" in record.getMessage()]
    assert len(lines) == 1
    await pub.acked("a")
    world.broker.tend()
    assert len([record for record in caplog.records if "messages_lost" in record.getMessage()]) == 2


async def test_a_message_that_is_refused_may_have_arrived(world) -> None:
    """At least once: live subscribers get it before the journal has it; a publisher that is told 0x97 sends it again."""
    world.broker.add_consumer("rules", lambda topic: topic == "a")
    sub, pub = await world.client("sub"), await world.client("pub", version=5)
    await sub.subscribe("a")
    world.journal.is_broken = True
    assert await pub.acked("a", "1") == packets.QUOTA_EXCEEDED
    world.journal.is_broken = False
    world.clock.advance(1_000)
    assert await pub.acked("a", "1") == 0
    assert [(await sub.message()).payload for _ in range(2)] == [b"1", b"1"]
    kept = [r.payload for _, r in world.journal.read(0, 1000) if r.kind == KIND_MESSAGE]
    assert kept == [b"1"]


async def test_two_devices_fight_over_one_client_id_and_nothing_is_lost(world) -> None:
    """Each of two devices takes the client id from the other; whoever has it gets what was not acknowledged."""
    der = await world.device()
    pub = await world.client("pub")
    pub.machine.unacked.limit = 10_000
    seen: set[bytes] = set()
    for turn in range(10):
        world.clock.advance(1_000)
        device = await world.client("c", der, clean=False, auto_ack=turn % 2 == 1)
        if not turn:
            await device.subscribe("work")
        for number in range(20):
            pub.publish("work", f"{turn}-{number}", 1)
        await asyncio.sleep(0.001)
        if turn % 2:
            seen.update(payloads(device))
    world.clock.advance(1_000)
    last = await world.client("c", der, clean=False)
    _, data = last.machine.subscribe([Wish("end", 1)], 0)
    last.raw(data)
    await pub.until(lambda: sum(isinstance(p, Puback) for p in pub.got) == 200)
    await pub.acked("end")
    expected = {f"{turn}-{number}".encode() for turn in range(10) for number in range(20)}
    await last.until(lambda: seen | set(payloads(last)) >= expected)


async def test_t11_made_up_spools_take_no_place_from_cores(world) -> None:
    """Sources of numbered messages are remembered for good; one device may not have all of them."""
    client = await world.client("flood", version=packets.V5)
    for number in range(commits.MAX_OF_OWNER * 2):
        assert await client.acked("t", "x", user_properties=[("mrm-seq", f"spool{number}:lane:1")]) == 0
    known = [source for source in world.broker._commits.highest if source.startswith("mrm-seq:")]
    assert len(known) == commits.MAX_OF_OWNER
    await world.reopen()
    client = await world.client("flood", version=packets.V5)
    assert await client.acked("t", "x", user_properties=[("mrm-seq", "another:lane:1")]) == 0
    assert len(world.broker._commits.highest) == commits.MAX_OF_OWNER
    # Another principal numbers as it likes, and a repeat of it goes nowhere.
    sub = await world.client("sub")
    await sub.subscribe("t")
    core = await world.client("core", await world.device({"Action": "iot:*", "Resource": "*"}), version=packets.V5)
    for payload in ("first", "repeat"):
        assert await core.acked("t", payload, user_properties=[("mrm-seq", "spool:lane:1")]) == 0
    core.publish("t", "last", 1)
    assert [(await sub.message()).payload for _ in range(2)] == [b"first", b"last"]
