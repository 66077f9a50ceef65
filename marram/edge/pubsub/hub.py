"""The local message hub: topic filters to sinks, matched once for each topic and remembered.

Sinks are plain functions called in the publisher's turn of the loop; what is slow or far away queues on its own side (the IPC
connection, the MQTT connection, the spool). Not here: who may (the doors ask first), retained messages, sessions.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, cast

from marram.core import codec, topic
from marram.core.codec import JsonObject
from marram.core.mqtt.packets import Properties

MAX_ROUTES: Final = 4096
# A call of `dict[str, PropertyValue]` costs five times as much.
_NO_PROPERTIES: Final = cast("Callable[[], Properties]", dict)


@dataclass(slots=True, eq=False)
class Message:
    """One local message. `json` is set when it was published as a document; `payload` are then its bytes, made on demand.

    `publisher` is a component's name, `mqtt:<client id>`, or the bridge's; it decides "messages of others" and stops loops.
    `properties`: those of MQTT 5 that travel on.
    `ipc_event` is the event body for IPC subscribers, encoded once for all of them.
    """

    topic: str
    data: bytes = b""
    json: JsonObject | None = None
    publisher: str = ""
    qos: int = 0
    retain: bool = False
    hops: int = 0
    properties: Properties = field(default_factory=_NO_PROPERTIES)
    ipc_event: bytes | None = None

    @property
    def payload(self) -> bytes:
        if self.json is not None and not self.data:
            self.data = codec.dumps(self.json)
        return self.data


class Subscription:
    """Ends with `cancel`, which may be called twice."""

    __slots__ = ("_hub", "deliver", "filter", "others_only", "owner")

    def __init__(
        self, hub: "Hub", filter: str, deliver: Callable[[Message], None], owner: str, others_only: bool
    ) -> None:
        self._hub: Hub | None = hub
        self.filter = filter
        self.deliver = deliver
        self.owner = owner
        self.others_only = others_only

    def cancel(self) -> None:
        hub, self._hub = self._hub, None
        if hub is not None:
            hub.remove(self)

    def __repr__(self) -> str:
        return f"Subscription({self.filter!r}, owner={self.owner!r}, others_only={self.others_only})"


class Hub:
    """One space of topics. `parent`: `a/#` also covers `a`, as plain MQTT has it and AWS has not."""

    def __init__(self, *, parent: bool = False) -> None:
        self._trie: topic.Trie[Subscription, None] = topic.Trie(parent=parent)
        self._routes: dict[str, tuple[Subscription, ...]] = {}

    def subscribe(
        self, filter: str, deliver: Callable[[Message], None], *, owner: str = "", others_only: bool = False
    ) -> Subscription:
        """`filter` is a topic or an MQTT filter. With `others_only` the owner's own messages are left out."""
        subscription = Subscription(self, filter, deliver, owner, others_only)
        self._trie.put(filter, subscription, None)
        self._routes.clear()
        return subscription

    def publish(self, message: Message) -> int:
        """Deliver to all that match; returns to how many. The same message object goes to all: nobody may change it."""
        route = self._routes.get(message.topic)
        if route is None:
            route = self._route(message.topic)
        count = 0
        for subscription in route:
            if subscription.others_only and subscription.owner == message.publisher:
                continue
            subscription.deliver(message)
            count += 1
        return count

    def __len__(self) -> int:
        return len(self._trie)

    def _route(self, name: str) -> tuple[Subscription, ...]:
        if len(self._routes) >= MAX_ROUTES:
            self._routes.clear()
        route = self._routes[name] = tuple(subscription for subscription, _ in self._trie.match(name))
        return route

    def remove(self, subscription: Subscription) -> None:
        """For `Subscription.cancel`."""
        self._trie.remove(subscription.filter, subscription)
        self._routes.clear()
