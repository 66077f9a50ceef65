"""Each rate, turned on, by a clock that stands still until told. All are off by default."""

import asyncio

import pytest

from marram.core.mqtt import packets
from marram.core.mqtt.packets import Connack, Publish
from marram.hub.broker.rates import Bucket, hits
from marram.hub.broker.settings import AWS_RATES, Settings
from marram.kit.clock import FakeClock


def publishes(client) -> list[bytes]:
    return [packet.payload for packet in client.got if isinstance(packet, Publish)]


async def settings(world, **changes: int) -> None:
    world.settings = Settings(**changes)
    await world.reopen()


def hit(limit: str) -> float:
    return hits.labels(limit=limit).value


def test_a_bucket_holds_one_second() -> None:
    clock = FakeClock()
    bucket = Bucket(clock, 10, "test")
    assert [bucket.take() for _ in range(11)] == [True] * 10 + [False]
    clock.advance(100)
    assert (bucket.take(), bucket.take()) == (True, False)
    clock.advance(60_000)
    assert sum(bucket.take() for _ in range(20)) == 10
    assert bucket.owe(25) == 2.5
    clock.advance(2_500)
    assert not bucket.take()
    clock.advance(100)
    assert bucket.take()


def test_all_rates_are_off_and_aws_has_a_figure_for_each() -> None:
    off = Settings()
    assert {name: getattr(off, name) for name in AWS_RATES} == dict.fromkeys(AWS_RATES, 0)
    assert {name for name in Settings.__dataclass_fields__ if name.endswith("_per_s")} == set(AWS_RATES)


@pytest.mark.parametrize("version", [4, 5])
async def test_publishes_over_the_rate_are_discarded(world, version: int) -> None:
    await settings(world, publish_per_s=5)
    before = hit("publish_per_s")
    sub = await world.client("sub")
    await sub.subscribe("a")
    pub, other = await world.client("pub", version=version), await world.client("other")
    for number in range(7):
        pub.publish("a", str(number))
    await other.acked("a", "end")  # another connection has a rate of its own
    await sub.until(lambda: publishes(sub)[-1:] == [b"end"])
    assert publishes(sub) == [b"0", b"1", b"2", b"3", b"4", b"end"]
    assert hit("publish_per_s") == before + 2
    pub.publish("a", "over", 1)
    if version == 5:
        assert (await pub.next(packets.Puback)).reason == packets.QUOTA_EXCEEDED
    world.clock.advance(1_000)
    await pub.acked("a", "again")
    await sub.until(lambda: publishes(sub)[-1:] == [b"again"])
    assert b"over" not in publishes(sub)
    assert not any(isinstance(p, packets.Puback) for p in pub.got)


async def test_deliveries_over_the_rate_are_discarded_but_for_what_is_durable(world) -> None:
    await settings(world, delivery_per_s=5)
    zero, one, durable = (
        await world.client("zero"),
        await world.client("one"),
        await world.client("durable", clean=False),
    )
    await zero.subscribe("a", qos=0)
    await one.subscribe("a")
    await durable.subscribe("a")
    pub = await world.client("pub")
    for number in range(8):
        await pub.acked("a", str(number))
    await durable.until(lambda: len(publishes(durable)) == 5)
    assert publishes(zero) == publishes(one) == [b"%d" % n for n in range(5)]
    world.clock.advance(1_000)
    world.broker._feeding.again()
    await durable.until(lambda: len(publishes(durable)) == 8)
    assert publishes(durable) == [b"%d" % n for n in range(8)]
    assert len(publishes(zero)) == len(publishes(one)) == 5


async def test_bytes_over_the_rate_are_read_later(world) -> None:
    await settings(world, bytes_per_s=100_000)
    sub = await world.client("sub")
    await sub.subscribe("a")
    pub = await world.client("pub")
    pub.publish("a", b"x" * 90_000)
    assert pub.socket.reading
    pub.publish("a", b"x" * 10_500)
    assert not pub.socket.reading and not pub.closed
    await sub.until(lambda: len(publishes(sub)) == 2)  # nothing is lost
    async with asyncio.timeout(5):
        while not pub.socket.reading:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("version", [4, 5])
async def test_what_waited_is_sent_at_its_rate_and_what_is_new_beside_it(world, version: int) -> None:
    await settings(world, stored_drain_per_s=10)
    options = {"version": version, "clean": False, "properties": {"session_expiry_s": 600} if version == 5 else {}}
    sub = await world.client("sub", **options)
    await sub.subscribe("a")
    await sub.disconnect()
    pub = await world.client("pub")
    for number in range(25):
        await pub.acked("a", str(number))
    sub = await world.client("sub", **options)
    await sub.until(lambda: len(publishes(sub)) == 10)
    await pub.acked("a", "new")
    await sub.until(lambda: publishes(sub)[-1:] == [b"new"])
    assert len(publishes(sub)) == 11
    for expected in (21, 26):
        world.clock.advance(1_000)
        world.broker._feeding.again()
        await sub.until(lambda expected=expected: len(publishes(sub)) == expected)
    assert sorted(publishes(sub)) == sorted([b"new", *(b"%d" % n for n in range(25))])


async def test_the_slow_ones_are_looked_at_again_by_themselves(world) -> None:
    await settings(world, stored_drain_per_s=10)
    sub = await world.client("sub", clean=False)
    await sub.subscribe("a")
    await sub.disconnect()
    pub = await world.client("pub")
    for number in range(12):
        await pub.acked("a", str(number))
    sub = await world.client("sub", clean=False)
    await sub.until(lambda: len(publishes(sub)) == 10)
    world.clock.advance(1_000)
    await sub.until(lambda: len(publishes(sub)) == 12)


@pytest.mark.parametrize("version", [4, 5])
async def test_subscriptions_over_the_rate_are_refused(world, version: int) -> None:
    await settings(world, subscriptions_per_s=3)
    client = await world.client("c", version=version)
    refused = packets.QUOTA_EXCEEDED if version == 5 else 0x80
    assert await client.subscribe("a", "b", "c", "d") == [1, 1, 1, refused]
    world.clock.advance(1_000)
    assert await client.subscribe("d") == [1]


@pytest.mark.parametrize("version", [4, 5])
async def test_one_connect_a_second_of_a_client_id(world, version: int) -> None:
    await settings(world, connect_per_client_id_per_s=1)
    first = await world.client("c", version=version)
    refused = await world.unaccepted("c", version=version)
    answer = await refused.next(Connack)
    assert answer.reason == (packets.QUOTA_EXCEEDED if version == 5 else packets.V311_UNAVAILABLE)
    assert not first.closed
    await world.client("other", version=version)
    world.clock.advance(1_000)
    await world.client("c", version=version)
    await first.end()


async def test_connects_of_all(world) -> None:
    await settings(world, connects_per_s=2)
    await world.client("a")
    await world.client("b")
    refused = await world.unaccepted("c", version=5)
    assert (await refused.next(Connack)).reason == packets.QUOTA_EXCEEDED
    world.clock.advance(500)
    await world.client("c")


async def test_counts_are_settings_too(world) -> None:
    await settings(world, in_flight=2, subscriptions=3, queue=2)
    client = await world.client("c", version=5, clean=False, properties={"session_expiry_s": 60}, auto_ack=False)
    assert client.connack.properties["receive_maximum"] == 2
    assert await client.subscribe("a", "b", "c", "d") == [1, 1, 1, packets.QUOTA_EXCEEDED]
    pub = await world.client("pub")
    for number in range(6):
        await pub.acked("a", str(number))
    assert publishes(client) == [b"0", b"1"]
    assert (len(world.broker.sessions["c"].queue), world.broker.sessions["c"].lost) == (2, 2)
