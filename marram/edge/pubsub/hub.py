"""The local message hub: topic filters to sinks, matched once for each topic and remembered.

Sinks are plain functions called in the publisher's turn of the loop; what is slow or far away queues on its own side (the IPC
connection, the MQTT connection, the spool). Not here: who may (the doors ask first), retained messages, sessions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from marram.core import codec
from marram.core.codec import JsonObject

MAX_ROUTES: Final = 4096


@dataclass(slots=True, eq=False)
class Message:
    """One local message. `json` is set when it was published as a document; `payload` are then its bytes, made on demand.

    `publisher` is a component's name, `mqtt:<client id>`, or the bridge's; it decides "messages of others" and stops loops.
    `ipc_event` is the event body for IPC subscribers, encoded once for all of them.
    """

    topic: str
    data: bytes = b""
    json: JsonObject | None = None
    publisher: str = ""
    qos: int = 0
    retain: bool = False
    hops: int = 0
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
            hub._remove(self)

    def __repr__(self) -> str:
        return f"Subscription({self.filter!r}, owner={self.owner!r}, others_only={self.others_only})"


class Hub:
    """One space of topics."""

    def __init__(self) -> None:
        self._exact: dict[str, list[Subscription]] = {}
        self._wild: list[Subscription] = []
        self._routes: dict[str, tuple[Subscription, ...]] = {}

    def subscribe(
        self, filter: str, deliver: Callable[[Message], None], *, owner: str = "", others_only: bool = False
    ) -> Subscription:
        """`filter` is a topic or an MQTT filter. With `others_only` the owner's own messages are left out."""
        subscription = Subscription(self, filter, deliver, owner, others_only)
        if is_wild(filter):
            self._wild.append(subscription)
        else:
            self._exact.setdefault(filter, []).append(subscription)
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
        return sum(map(len, self._exact.values())) + len(self._wild)

    def _route(self, name: str) -> tuple[Subscription, ...]:
        if len(self._routes) >= MAX_ROUTES:
            self._routes.clear()
        route = (*self._exact.get(name, ()), *(each for each in self._wild if covers(each.filter, name)))
        self._routes[name] = route
        return route

    def _remove(self, subscription: Subscription) -> None:
        if is_wild(subscription.filter):
            self._wild.remove(subscription)
        else:
            same = self._exact.get(subscription.filter, [])
            same.remove(subscription)
            if not same:
                self._exact.pop(subscription.filter, None)
        self._routes.clear()


def is_wild(filter: str) -> bool:
    return "+" in filter or "#" in filter


def covers(filter: str, name: str) -> bool:
    """MQTT 5.0, 4.7: does `name` match `filter`? A leading `$` is never matched by a wildcard."""
    if name.startswith("$") and filter[:1] in ("+", "#"):
        return False
    wanted, levels = filter.split("/"), name.split("/")
    for index, level in enumerate(wanted):
        if level == "#":
            return True
        if index >= len(levels) or level not in ("+", levels[index]):
            return False
    return len(wanted) == len(levels)
