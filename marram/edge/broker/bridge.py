"""The bridge between the three spaces of a core: local MQTT, local pub/sub and the hub, by `mqttTopicMapping`.

    mqttTopicMapping: {readings: {topic: "plant/+/temp", source: LocalMqtt, target: IotCore, targetTopicPrefix: "core1/"}}

A message that a bridge made is not bridged again by the mapping's mirror: it carries its hop count, and one that has crossed twice
stops (LocalMqtt -> Pubsub -> IotCore is meant, a circle is not). Source: AWS IoT Greengrass V2 Developer Guide, "MQTT bridge".
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, Protocol, cast

from marram.core import topic as topics
from marram.core.codec import JsonValue
from marram.core.errors import Invalid, MarramError
from marram.edge.pubsub.hub import Hub, Message, Subscription
from marram.edge.spool.service import Outgoing
from marram.kit import metrics
from marram.kit.log import logger

log = logger(__name__)

Space = Literal["LocalMqtt", "Pubsub", "IotCore"]
SPACES: Final = ("LocalMqtt", "Pubsub", "IotCore")
MAX_HOPS: Final = 2
PUBLISHER: Final = "aws.greengrass.clientdevices.mqtt.Bridge"

FORWARDED: Final = metrics.counter("marram_bridge_forwarded_total", "messages bridged", ("source", "target"))
FAILED: Final = metrics.counter("marram_bridge_failed_total", "messages that could not be bridged", ("target",))


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapped:
    name: str
    topic: str
    source: Space
    target: Space
    prefix: str = ""


class IotCore(Protocol):
    async def publish(self, message: Outgoing) -> None: ...
    async def subscribe(self, filter: str, qos: int, deliver: Callable[[Message], None]) -> Callable[[], None]: ...


def parse(document: JsonValue) -> list[Mapped]:
    """The mappings, sorted by name. Raises Invalid naming the place."""
    if document is None:
        return []
    if not isinstance(document, Mapping):
        raise Invalid("mqttTopicMapping: must be an object")
    made: list[Mapped] = []
    for name, entry in sorted(document.items()):
        place = f"mqttTopicMapping.{name}"
        if not isinstance(entry, Mapping):
            raise Invalid(f"{place}: must be an object")
        for key in entry:
            if key not in ("topic", "source", "target", "targetTopicPrefix"):
                raise Invalid(f"{place}.{key}: unknown key; topic, source, target and targetTopicPrefix are known")
        topic, prefix = entry.get("topic"), entry.get("targetTopicPrefix", "")
        if not isinstance(topic, str) or not isinstance(prefix, str):
            raise Invalid(f"{place}: topic and targetTopicPrefix must be text")
        topics.check_filter(topic)
        if prefix:
            topics.check_name(prefix)
        spaces: dict[str, Space] = {}
        for side in ("source", "target"):
            found = next((each for each in SPACES if each.lower() == str(entry.get(side, "")).lower()), None)
            if found is None:
                raise Invalid(f"{place}.{side}: {entry.get(side)!r}; {', '.join(SPACES)} are known")
            spaces[side] = cast(Space, found)
        if spaces["source"] == spaces["target"]:
            raise Invalid(f"{place}: source and target are the same")
        made.append(Mapped(name=name, topic=topic, source=spaces["source"], target=spaces["target"], prefix=prefix))
    return made


class Bridge:
    """`configure` with mappings; `to_iot_core` is what a local publish waits for before it is acknowledged."""

    def __init__(self, local_mqtt: Hub, pubsub: Hub, iot_core: IotCore | None) -> None:
        self._hubs: dict[Space, Hub] = {"LocalMqtt": local_mqtt, "Pubsub": pubsub}
        self._iot_core = iot_core
        self._local: list[Subscription] = []
        self._remote: list[Callable[[], None]] = []
        self._to_core: topics.Trie[str, Mapped] = topics.Trie()
        self._queue: asyncio.Queue[Outgoing] = asyncio.Queue(1000)

    async def configure(self, mappings: list[Mapped]) -> None:
        """Replace all mappings."""
        self.close()
        for mapped in mappings:
            if mapped.source == "IotCore":
                if self._iot_core is None:
                    raise Invalid(f"mqttTopicMapping.{mapped.name}: this core has no hub")
                self._remote.append(await self._iot_core.subscribe(mapped.topic, 1, self._forwarder(mapped)))
            elif mapped.target == "IotCore" and mapped.source == "LocalMqtt":
                self._to_core.put(mapped.topic, mapped.name, mapped)
            else:
                self._local.append(self._hubs[mapped.source].subscribe(mapped.topic, self._forwarder(mapped)))

    def close(self) -> None:
        for subscription in self._local:
            subscription.cancel()
        for cancel in self._remote:
            cancel()
        self._local, self._remote = [], []
        self._to_core = topics.Trie()

    def to_iot_core(self, message: Message) -> list[Awaitable[None]]:
        """What has to be done before a publish of local MQTT is acknowledged: [] for most."""
        if message.hops >= MAX_HOPS or self._iot_core is None or not len(self._to_core):
            return []
        found = dict(self._to_core.match(message.topic))
        for mapped in found.values():
            FORWARDED.inc(source=mapped.source, target=mapped.target)
        return [self._iot_core.publish(_outgoing(message, mapped)) for mapped in found.values()]

    async def run(self) -> None:
        """Carries what local pub/sub sends to the hub: its publishers do not wait."""
        while True:
            outgoing = await self._queue.get()
            assert self._iot_core is not None
            try:
                await self._iot_core.publish(outgoing)
            except MarramError as exc:
                FAILED.inc(target="IotCore")
                log.warning("bridge.not_forwarded", topic=outgoing.topic, why=exc.message)

    def _forwarder(self, mapped: Mapped) -> Callable[[Message], None]:
        def forward(message: Message) -> None:
            if message.hops >= MAX_HOPS:
                return
            FORWARDED.inc(source=mapped.source, target=mapped.target)
            if mapped.target == "IotCore":
                try:
                    self._queue.put_nowait(_outgoing(message, mapped))
                except asyncio.QueueFull:
                    FAILED.inc(target="IotCore")
                return
            copy = Message(
                mapped.prefix + message.topic,
                message.payload,
                publisher=PUBLISHER,
                qos=message.qos,
                retain=False,
                hops=message.hops + 1,
                properties=message.properties,
            )
            self._hubs[mapped.target].publish(copy)

        return forward


def _outgoing(message: Message, mapped: Mapped) -> Outgoing:
    properties = message.properties
    user, correlation = properties.get("user_properties"), properties.get("correlation_data")
    return Outgoing(
        topic=mapped.prefix + message.topic,
        payload=message.payload,
        qos=1,
        user_properties=[(str(pair[0]), str(pair[1])) for pair in user if isinstance(pair, tuple)]
        if isinstance(user, list)
        else [],
        expiry_s=_number(properties.get("message_expiry_s")),
        correlation=correlation if isinstance(correlation, bytes) else None,
        response_topic=_text(properties.get("response_topic")),
        payload_format=_number(properties.get("payload_format")),
        content_type=_text(properties.get("content_type")),
    )


def _number(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
