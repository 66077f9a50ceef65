"""The hub's listeners: the API's port, MQTT's, and the https port where ALPN says which of the two it is."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from marram.hub.border.chain import Api
from marram.hub.border.https import HttpDoor
from marram.hub.border.mqtt import MqttDoor
from marram.kit import metrics, net
from marram.serve.settings import LOOPBACK
from marram.serve.slices import Base, Slices

ALPN_MQTT: Final = "x-amzn-mqtt-ca"
ALPN_HTTP: Final = ("x-amzn-http-ca", "http/1.1")  # AWS's name for HTTP with a client certificate
STOP_S: Final = 4.0


@dataclass(frozen=True, slots=True)
class Doors:
    http: HttpDoor
    mqtt: MqttDoor

    @property
    def runners(self) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
        return [("http-deadlines", self.http.run), ("mqtt-timers", self.mqtt.run)]

    async def close(self) -> None:
        """Everybody is told; who does not go in time is left to the end of the process."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                await self.mqtt.close()
                await self.http.close(1.0)


def build(base: Base, slices: Slices) -> Doors:
    """Nobody listens yet."""
    place, identity, clock = base.place, slices.identity, base.clock
    limits = base.settings.limits
    mqtt = MqttDoor(
        broker=slices.broker, identity=identity, clock=clock, entropy=base.entropy, host=place.host,
        connect_s=limits.mqtt_connect_s, connections=limits.mqtt_connections,
        connections_per_address=limits.mqtt_connections_per_address,
    )  # fmt: skip
    api = Api(
        services=slices.services, identity=identity, clock=clock, entropy=base.entropy, account=place.account,
        region=place.region, page_key=slices.pki.derived_key("pages"), host_names=("localhost", place.host),
        metrics_text=metrics.render, metrics_token=identity.metrics_token,
        auditor=slices.audit, websocket=mqtt.connection, limits=limits,
    )  # fmt: skip
    return Doors(HttpDoor(api, clock, limits.http), mqtt)


async def listen(base: Base, slices: Slices, doors: Doors, stack: contextlib.AsyncExitStack) -> None:
    """Open the ports. Raises Unavailable when one is taken."""
    handshakes = stack.enter_context(ThreadPoolExecutor(max_workers=2, thread_name_prefix="tls"))
    place, trust, door, mqtt = base.place, slices.identity.trust, doors.http, doors.mqtt
    outside, accept = place.bind or LOOPBACK, base.settings.limits.accept

    def https(peer: net.PeerInfo) -> asyncio.Protocol:
        return mqtt.connection(peer) if peer.alpn == ALPN_MQTT else door.connection(secure=True)

    # Asked at each handshake: what is trusted changes while they listen.
    for_mqtt = trust.door("required", alpn=[ALPN_MQTT])
    for_https = trust.door("optional", alpn=[ALPN_MQTT, *ALPN_HTTP])
    for_api = trust.door("none", alpn=["http/1.1"])
    servers = [
        await net.serve(LOOPBACK, place.ports["api"], lambda _peer: door.connection(), tls=None, handshakes=None),
        await net.serve(
            outside, place.ports["mqtt"], mqtt.connection, tls=for_mqtt, handshakes=handshakes, accept=accept
        ),
        await net.serve(outside, place.ports["https"], https, tls=for_https, handshakes=handshakes, accept=accept),
    ]
    if place.bind is not None:
        servers.append(
            await net.serve(
                place.bind, place.ports["api"], lambda _peer: door.connection(secure=True), tls=for_api,
                handshakes=handshakes, accept=accept,
            )
        )  # fmt: skip
    for server in servers:
        stack.callback(server.close)
