"""What only a WebSocket's connection has: a subject that the request has proven, and an end of its time."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from marram.core.mqtt import packets
from marram.core.mqtt.packets import Connack, Connect, Disconnect, Publish
from tests.hub.broker.conftest import Client

MINUTE_MS = 60_000


async def opened(world: Any, client_id: str, life_ms: int, **options: Any) -> Client:
    document = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:*", "Resource": "*"}]}
    made = await world.identity.create_key(client_id, json.dumps(document))
    subject = world.identity.key(made.id).subject
    door = SimpleNamespace(connection=lambda peer: world.door.connection(peer, subject, life_ms))
    client = Client(SimpleNamespace(door=door), Connect(client_id, **options), None)
    assert (await client.next(Connack)).reason == 0
    return client


@pytest.mark.parametrize("version", [4, 5])
async def test_it_ends_when_its_credentials_do(world: Any, version: int) -> None:
    watch = await world.client("watch", keep_alive_s=1200)
    await watch.subscribe("$aws/events/presence/disconnected/#")
    client = await opened(world, "page", 3 * MINUTE_MS, version=version, keep_alive_s=1200)
    for _ in range(5):
        world.clock.advance(30_000)
        world.door.turn()
    assert not client.closed
    world.clock.advance(31_000)
    world.door.turn()
    world.door.turn()
    await client.end()
    event = json.loads((await watch.next(Publish)).payload)
    assert (event["disconnectReason"], event["clientInitiatedDisconnect"]) == ("WEBSOCKET_TTL_EXPIRATION", False)
    if version == 5:
        assert (await client.next(Disconnect)).reason == packets.ADMINISTRATIVE_ACTION


async def test_a_close_frame_is_the_clients_own_wish(world: Any) -> None:
    watch = await world.client("watch")
    await watch.subscribe("$aws/events/presence/disconnected/#")
    client = await opened(world, "page", MINUTE_MS)
    client.socket.protocol.left()
    await client.end()
    event = json.loads((await watch.next(Publish)).payload)
    assert (event["disconnectReason"], event["clientInitiatedDisconnect"]) == ("CLIENT_INITIATED_DISCONNECT", True)
