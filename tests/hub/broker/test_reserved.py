"""Requests on reserved topics: one after another, or at once in their order; counted, bounded, acknowledged when done."""

import asyncio

from marram.core.mqtt.packets import Puback
from marram.hub.slice import TopicMessage
from tests.hub.broker.conftest import World

SHADOW = "$aws/things/{thing}/shadow/update"


class Service:
    """Handlers that wait for the test, and note what came and when it was done."""

    def __init__(self) -> None:
        self.begun: list[tuple[bytes, int]] = []
        self.done: list[bytes] = []
        self.changed = asyncio.Event()
        self.free = asyncio.Semaphore(0)

    async def handle(self, message: TopicMessage) -> None:
        self.begun.append((message.payload, message.in_flight))
        self.changed.set()
        await self.free.acquire()
        self.done.append(message.payload)
        self.changed.set()

    async def until(self, begun: int, done: int) -> None:
        async with asyncio.timeout(5):
            while (len(self.begun), len(self.done)) != (begun, done):
                self.changed.clear()
                await self.changed.wait()


def use(world: World, service: Service, *, at_once: bool) -> None:
    async def handler(message: TopicMessage) -> None:
        await service.handle(message)

    world.broker._reserved.use({SHADOW: handler}, at_once=[handler] if at_once else [])
    world.broker.consumers_changed()


async def test_requests_of_one_client_are_begun_at_once_in_their_order(world: World) -> None:
    service = Service()
    use(world, service, at_once=True)
    client, other = await world.client("c"), await world.client("d")
    for at in range(5):
        client.publish("$aws/things/t/shadow/update", b"%d" % at, 1)
    await service.until(5, 0)
    assert service.begun == [(b"%d" % at, at + 1) for at in range(5)]
    other.publish("$aws/things/t/shadow/update", b"o", 1)
    await service.until(6, 0)
    assert service.begun[5] == (b"o", 1), "each connection is counted for itself"
    for _ in range(3):
        service.free.release()
    await service.until(6, 3)
    client.publish("$aws/things/t/shadow/update", b"5", 1)
    await service.until(7, 3)
    assert service.begun[6] == (b"5", 3)
    for _ in range(4):
        service.free.release()
    await service.until(7, 7)
    assert service.done[:5] == [b"0", b"1", b"2", b"3", b"4"]
    assert world.broker._reserved._in_flight == {}


async def test_a_request_is_acknowledged_when_its_handler_is_done(world: World) -> None:
    service = Service()
    use(world, service, at_once=True)
    client = await world.client("c")
    client.publish("$aws/things/t/shadow/update", b"x", 1)
    await service.until(1, 0)
    assert not [packet for packet in client.got if isinstance(packet, Puback)]
    service.free.release()
    assert (await client.next(Puback)).reason == 0


async def test_others_are_handled_one_after_another(world: World) -> None:
    service = Service()
    use(world, service, at_once=False)
    client = await world.client("c")
    for at in range(3):
        client.publish("$aws/things/t/shadow/update", b"%d" % at, 1)
    await service.until(1, 0)
    service.free.release()
    await service.until(2, 1)
    assert service.begun == [(b"0", 1), (b"1", 1)]
    service.free.release()
    service.free.release()
    await service.until(3, 3)
