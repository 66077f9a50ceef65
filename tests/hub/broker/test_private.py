"""Reserved topics with secrets: requests that nobody else gets, answers for the one connection that asked."""

import pytest

from marram.core.mqtt.packets import Publish
from marram.hub.slice import TopicMessage

ASK = "$aws/certificates/create/json"
ANSWER = f"{ASK}/accepted"


@pytest.fixture
def asked(world):
    """The requests that the handler got; `private` says whether the build keeps them to itself."""
    seen: list[TopicMessage] = []

    async def handler(message: TopicMessage) -> None:
        seen.append(message)

    def declare(*, private: bool = True) -> list[TopicMessage]:
        world.broker._reserved.use({ASK: handler}, private=(handler,) if private else ())
        world.broker.consumers_changed()
        return seen

    return declare


def topics_of(client) -> list[str]:
    return [packet.topic for packet in client.got if isinstance(packet, Publish)]


async def marker(world, *clients) -> None:
    """Everything that was on its way is there."""
    for client in clients:
        assert await client.subscribe("marker") == [1]
    await world.broker.publish("marker", b"", qos=1)
    for client in clients:
        await client.until(lambda client=client: "marker" in topics_of(client))


@pytest.mark.parametrize("private", [True, False], ids=["private", "a build that forgets it"])
async def test_nobody_else_gets_the_request(world, asked, private):
    seen = asked(private=private)
    wanted: list[str] = []
    world.broker.add_consumer("rules", lambda topic: wanted.append(topic) or True)
    device, thief = await world.client("device"), await world.client("thief", version=5)
    assert await thief.subscribe(ASK, "$aws/certificates/create/+", "$share/x/$aws/certificates/#") == [1, 1, 1]
    await device.acked(ASK, b"secret")
    assert [message.payload for message in seen] == [b"secret"]
    await marker(world, device, thief)
    assert (ASK in topics_of(thief)) is not private
    assert (ASK in wanted) is not private


async def test_an_answer_is_for_the_connection_that_asked(world, asked):
    asked()
    device, brother, durable = (
        await world.client("device"),
        await world.client("brother"),
        await world.client("durable", clean=False),
    )
    for client in (device, brother, durable):
        assert await client.subscribe(ANSWER) == [1]
    principal = world.broker.links["device"].subject.principal
    records = world.journal.end
    assert world.broker.answer("device", principal, ANSWER, b"key")
    assert (await device.message()).payload == b"key"
    await marker(world, brother)
    assert ANSWER not in topics_of(brother) and ANSWER not in topics_of(durable)
    assert world.broker.answer("durable", principal, ANSWER, b"key")
    assert (await durable.message()).payload == b"key"
    assert world.journal.end == records  # a private key is not written down


async def test_no_answer_for_somebody_else_of_that_name(world, asked):
    asked()
    device = await world.client("device")
    await device.subscribe(ANSWER)
    principal = world.broker.links["device"].subject.principal
    assert not world.broker.answer("device", "another certificate", ANSWER, b"key")
    assert not world.broker.answer("nobody", principal, ANSWER, b"key")
    assert not world.broker.answer("device", principal, f"{ASK}/rejected", b"key")  # not subscribed
    await device.unsubscribe(ANSWER)
    assert not world.broker.answer("device", principal, ANSWER, b"key")
    deaf = await world.client("deaf", await world.device({"Action": ["iot:Connect", "iot:Subscribe"], "Resource": "*"}))
    assert await deaf.subscribe(ANSWER) == [1]
    assert not world.broker.answer("deaf", world.broker.links["deaf"].subject.principal, ANSWER, b"key")
    await device.disconnect()
    assert not world.broker.answer("device", principal, ANSWER, b"key")
