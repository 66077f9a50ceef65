"""Shared subscriptions: one member gets it, at random; with QoS 1 and a persistent member nothing is lost, whoever leaves."""

import asyncio

import pytest

from marram.core.mqtt import packets
from marram.core.mqtt.packets import Publish
from marram.hub.broker.settings import Settings

ARN = "arn:aws:iot:local-1:000000000001:"
BOTH = pytest.mark.parametrize("version", [packets.V311, packets.V5], ids=["3.1.1", "5"])
PERSISTENT = {
    packets.V311: {"version": 4, "clean": False},
    packets.V5: {"version": 5, "clean": False, "properties": {"session_expiry_s": 600}},
}


def payloads(*clients) -> list[bytes]:
    return [p.payload for client in clients for p in client.got if isinstance(p, Publish)]


async def got(count: int, *clients) -> list[bytes]:
    """Once so many messages came to these clients together: all of them, sorted."""
    async with asyncio.timeout(5):
        while len(payloads(*clients)) < count:
            await asyncio.sleep(0)
    return sorted(payloads(*clients))


def numbers(count: int, start: int = 0) -> list[bytes]:
    return sorted(b"%d" % n for n in range(start, start + count))


@BOTH
@pytest.mark.parametrize("qos", [0, 1])
async def test_one_member_gets_it_and_others_beside(world, version: int, qos: int) -> None:
    members = [await world.client(f"m{n}", version=version) for n in range(3)]
    for member in members:
        assert await member.subscribe("$share/g/jobs/#") == [1]
    everybody = await world.client("all")
    await everybody.subscribe("jobs/#")
    pub = await world.client("pub")
    for number in range(120):
        if qos:
            await pub.acked("jobs/x", str(number))
        else:
            pub.publish("jobs/x", str(number))
    assert await got(120, *members) == numbers(120)
    assert await got(120, everybody) == numbers(120)
    # At random, not in turn: each has some, and they are hardly ever the same number.
    assert all(len(payloads(member)) > 15 for member in members)


async def test_groups_differ_by_name_and_filter(world) -> None:
    one, two, three = [await world.client(name) for name in ("one", "two", "three")]
    await one.subscribe("$share/a/x/+")
    await two.subscribe("$share/b/x/+")
    await three.subscribe("$share/a/x/1")
    pub = await world.client("pub")
    await pub.acked("x/1", "1")
    for member in (one, two, three):
        assert (await member.message()).payload == b"1"


async def test_one_client_twice_in_a_group_is_one_member(world) -> None:
    one = await world.client("one")
    await one.subscribe("$share/a/x")
    await one.subscribe("$share/a/x", qos=0)
    pub = await world.client("pub")
    await pub.acked("x", "1")
    assert (await one.message()).qos == 0
    assert not one.got


@BOTH
async def test_the_group_keeps_what_comes_while_nobody_is_here(world, version: int) -> None:
    keeper = await world.client("keeper", **PERSISTENT[version])
    await keeper.subscribe("$share/g/q")
    guest = await world.client("guest", version=version)
    await guest.subscribe("$share/g/q")
    await keeper.disconnect()
    await guest.disconnect()
    pub = await world.client("pub")
    for number in range(5):
        await pub.acked("q", str(number))
    pub.publish("q", "lost")  # QoS 0
    # Any member gets what waited, also one that is new.
    guest = await world.client("guest", version=version)
    await guest.subscribe("$share/g/q")
    assert await got(5, guest) == numbers(5)
    await guest.disconnect()
    keeper = await world.client("keeper", **PERSISTENT[version])
    assert keeper.connack.session_present
    await pub.acked("q", "5")
    assert await got(1, keeper) == [b"5"]


async def test_a_group_without_a_persistent_member_keeps_nothing(world) -> None:
    guest = await world.client("guest")
    await guest.subscribe("$share/g/q")
    await guest.disconnect()
    pub = await world.client("pub")
    await pub.acked("q", "lost")
    guest = await world.client("guest")
    await guest.subscribe("$share/g/q")
    await pub.acked("q", "1")
    assert await got(1, guest) == [b"1"]
    assert not world.journal.end or not world.broker._connecting._sharing.stores


async def test_a_message_lent_to_one_who_leaves_goes_to_another(world) -> None:
    keeper = await world.client("keeper", **PERSISTENT[5])
    await keeper.subscribe("$share/g/q")
    await keeper.disconnect()
    deaf = await world.client("deaf", auto_ack=False)
    await deaf.subscribe("$share/g/q")
    pub = await world.client("pub")
    for number in range(4):
        await pub.acked("q", str(number))
    assert await got(4, deaf) == numbers(4)
    first = deaf.got[0]
    deaf.raw(deaf.machine.ack(first.packet_id, 0))
    deaf.socket.close()
    await deaf.end()
    keeper = await world.client("keeper", **PERSISTENT[5])
    assert await got(3, keeper) == sorted(set(numbers(4)) - {first.payload})


@pytest.mark.parametrize("checkpoint", [True, False], ids=["after a stop", "after a crash"])
async def test_the_queue_survives_a_restart(world, checkpoint: bool) -> None:
    keeper = await world.client("keeper", **PERSISTENT[4])
    await keeper.subscribe("$share/g/q/#")
    await keeper.disconnect()
    deaf = await world.client("deaf", auto_ack=False)
    await deaf.subscribe("$share/g/q/#")
    pub = await world.client("pub")
    await pub.acked("q/1", "lent")
    await got(1, deaf)
    if checkpoint:
        await world.broker.checkpoint()
    deaf.socket.close()
    await deaf.end()
    await pub.acked("q/2", "queued")
    await world.reopen(checkpoint=checkpoint)
    keeper = await world.client("keeper", **PERSISTENT[4])
    assert await got(2, keeper) == [b"lent", b"queued"]
    await keeper.disconnect()
    await world.reopen(checkpoint=False)  # and what was acknowledged is not there again
    keeper = await world.client("keeper", **PERSISTENT[4])
    await (await world.client("pub")).acked("q/3", "new")
    assert await got(1, keeper) == [b"new"]


async def test_the_queue_goes_with_the_last_persistent_member(world) -> None:
    keeper = await world.client("keeper", **PERSISTENT[4])
    await keeper.subscribe("$share/g/q")
    await keeper.disconnect()
    pub = await world.client("pub")
    await pub.acked("q", "1")
    assert len(world.broker._connecting._sharing.stores) == 1
    await (await world.client("keeper")).disconnect()  # clean: its session is gone
    assert not world.broker._connecting._sharing.stores
    await world.reopen(checkpoint=False)
    assert not world.broker._connecting._sharing.stores
    keeper = await world.client("keeper", **PERSISTENT[4])
    await keeper.subscribe("$share/g/q")
    await (await world.client("pub")).acked("q", "2")
    assert await got(1, keeper) == [b"2"]


async def test_on_overflow_the_old_ones_stay(world) -> None:
    world.settings = Settings(queue=3)
    await world.reopen()
    keeper = await world.client("keeper", **PERSISTENT[4])
    await keeper.subscribe("$share/g/q")
    await keeper.disconnect()
    pub = await world.client("pub")
    for number in range(5):
        assert await pub.acked("q", str(number)) == 0
    keeper = await world.client("keeper", **PERSISTENT[4])
    assert await got(3, keeper) == numbers(3)
    await pub.acked("q", "9")
    assert await got(4, keeper) == [b"0", b"1", b"2", b"9"]


async def test_no_retained_message_comes_by_a_shared_subscription(world) -> None:
    pub = await world.client("pub")
    await pub.acked("state", "old", retain=True)
    member = await world.client("member", version=5)
    await member.subscribe("$share/g/state")
    await pub.acked("state", "new", retain=True)
    assert [(p.payload, p.retain) for p in [await member.message()]] == [(b"new", False)]
    assert not member.got


async def test_a_member_that_does_not_read_is_passed_over(world) -> None:
    stuck, quick = await world.client("stuck"), await world.client("quick")
    for member in (stuck, quick):
        await member.subscribe("$share/g/q")
    stuck.socket.full = True
    stuck.socket.held += bytes(2 << 20)
    stuck.socket.protocol.pause_writing()
    pub = await world.client("pub")
    for number in range(20):
        await pub.acked("q", str(number))
        pub.publish("q", str(100 + number))
    assert await got(40, quick) == sorted(numbers(20) + numbers(20, 100))


async def test_more_than_all_windows_hold_waits_for_an_acknowledgement(world) -> None:
    keeper = await world.client("keeper", auto_ack=False, **PERSISTENT[5])
    await keeper.subscribe("$share/g/q")
    pub = await world.client("pub")
    for number in range(105):
        await pub.acked("q", str(number))
    assert await got(100, keeper) == numbers(100)
    for packet in [p for p in keeper.got if isinstance(p, Publish)][:10]:
        keeper.raw(keeper.machine.ack(packet.packet_id, 0))
    assert await got(105, keeper) == numbers(105)


@pytest.mark.parametrize(
    ("statements", "gets"),
    [
        pytest.param([("Allow", "topic/q")], True, id="the topic"),
        pytest.param([("Allow", "topic/$share/g/q")], True, id="the shared form"),
        pytest.param([("Allow", "topic/*")], True, id="both"),
        pytest.param([("Allow", "topic/*"), ("Deny", "topic/q")], False, id="the topic denied"),
        pytest.param([("Allow", "topic/*"), ("Deny", "topic/$share/*")], False, id="the shared form denied"),
        pytest.param([("Allow", "topic/other")], False, id="neither"),
    ],
)
async def test_who_may_receive(world, statements, gets: bool) -> None:
    der = await world.device(
        {"Action": ["iot:Connect", "iot:Subscribe"], "Resource": "*"},
        *({"Effect": effect, "Action": "iot:Receive", "Resource": ARN + resource} for effect, resource in statements),
    )
    member, other = await world.client("member", der), await world.client("other")
    await member.subscribe("$share/g/q", "end")
    pub = await world.client("pub")
    await pub.acked("q", "1")
    await other.subscribe("$share/g/q")
    await pub.acked("q", "2")  # one of the two, or the one that may
    await got(1, member, other)
    assert (b"1" in payloads(member)) is gets
    if not gets:
        assert payloads(other) == [b"2"]


async def test_the_policy_sees_the_filter_as_it_was_sent(world) -> None:
    der = await world.device(
        {"Action": "iot:Connect", "Resource": "*"},
        {"Action": "iot:Subscribe", "Resource": f"{ARN}topicfilter/$share/mine/*"},
    )
    member = await world.client("member", der, version=5)
    asked = await member.subscribe("$share/mine/q", "$share/theirs/q", "q")
    assert asked == [1, packets.NOT_AUTHORIZED, packets.NOT_AUTHORIZED]


@BOTH
@pytest.mark.parametrize(
    "text",
    ["$share/", "$share/g", "$share/g/", "$share//q", "$share/g+/q", "$share/#/q", f"$share/{'n' * 129}/q"],
)
async def test_what_is_not_a_shared_subscription_is_refused(world, version: int, text: str) -> None:
    member = await world.client("member", version=version)
    assert await member.subscribe(text) == [packets.TOPIC_FILTER_INVALID if version == 5 else 0x80]


async def test_a_share_name_of_128_characters_and_eight_slashes_with_the_prefix(world) -> None:
    member = await world.client("member", version=5)
    assert await member.subscribe(f"$share/{'n' * 128}/a/b/c/d/e/f/g/h") == [1]
    assert await member.subscribe(f"$share/{'n' * 128}/a/b/c/d/e/f/g/h/i") == [packets.TOPIC_FILTER_INVALID]


async def test_the_drain_rate_is_a_member_s_own(world) -> None:
    world.settings = Settings(shared_drain_per_s=20)
    await world.reopen()
    keeper = await world.client("keeper", **PERSISTENT[4])
    await keeper.subscribe("$share/g/q")
    await keeper.disconnect()
    pub = await world.client("pub")
    for number in range(70):
        await pub.acked("q", str(number))
    keeper = await world.client("keeper", **PERSISTENT[4])
    assert len(await got(20, keeper)) == 20
    feeding = world.broker._feeding
    feeding.again()
    await asyncio.sleep(0)
    assert len(payloads(keeper)) == 20
    await pub.acked("q", "live")  # what is new goes beside what waited
    assert b"live" in await got(21, keeper)
    world.clock.advance(500)
    feeding.again()
    assert len(await got(31, keeper)) == 31
    helper = await world.client("helper")
    await helper.subscribe("$share/g/q")
    feeding.again()
    assert len(await got(20, helper)) == 20
    world.clock.advance(2_000)
    feeding.again()
    assert await got(71, keeper, helper) == sorted([*numbers(70), b"live"])
