"""A message on its way to subscribers, and what waits for it: a place in the journal, an acknowledgement of either side.

Frames are made once for each version and QoS. mypyc compiles this module. Not here: who gets it (matching.py), sessions.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeAlias

from marram.core.errors import MarramError
from marram.core.mqtt import packets
from marram.core.mqtt.packets import V5

if TYPE_CHECKING:
    from marram.hub.broker.session import Link, Session


class Message:
    """One message on its way to subscribers. `properties`: encoded for MQTT 5, without their length."""

    __slots__ = (
        "_one4",
        "_one5",
        "_zero4",
        "_zero5",
        "expires_ms",
        "payload",
        "properties",
        "qos",
        "retain",
        "topic",
        "was_retained",
    )

    def __init__(
        self, topic: bytes, payload: bytes, qos: int, properties: bytes, retain: bool = False, expires_ms: int = 0
    ) -> None:
        self.topic = topic
        self.payload = payload
        self.qos = qos
        self.properties = properties
        self.retain = retain
        self.expires_ms = expires_ms
        self.was_retained = False  # the publisher asked for it; subscribers see so only with Retain As Published
        self._zero4 = b""
        self._zero5 = b""
        self._one4 = b""
        self._one5 = b""

    def zero(self, version: int) -> bytes:
        """The frame with QoS 0."""
        if version == V5:
            if not self._zero5:
                self._zero5 = packets.publish_frame(
                    V5, self.topic, self.payload, 0, 0, self.retain, False, self.properties
                )
            return self._zero5
        if not self._zero4:
            self._zero4 = packets.publish_frame(4, self.topic, self.payload, 0, 0, self.retain, False, b"")
        return self._zero4

    def one(self, version: int, packet_id: int) -> bytes:
        """The frame with QoS 1 and this packet id."""
        if version == V5:
            if not self._one5:
                self._one5 = packets.publish_frame(
                    V5, self.topic, self.payload, 1, packet_id, self.retain, False, self.properties
                )
                return self._one5
            frame = self._one5
        else:
            if not self._one4:
                self._one4 = packets.publish_frame(4, self.topic, self.payload, 1, packet_id, self.retain, False, b"")
                return self._one4
            frame = self._one4
        at = 2 if frame[1] < 128 else 3 if frame[2] < 128 else 4 if frame[3] < 128 else 5
        at += 2 + len(self.topic)
        return frame[:at] + packets.u16(packet_id) + frame[at + 2 :]

    def as_published(self) -> "Message":
        """With the RETAIN that its publisher asked for: what a subscription with Retain As Published gets."""
        return Message(self.topic, self.payload, self.qos, self.properties, True, self.expires_ms)


class Entry:
    """A record on its way into the journal; `offset` is -1 until the tick ends, and stays so when it was refused."""

    __slots__ = ("ack", "acks", "offset", "previous", "sessions", "source")

    def __init__(self) -> None:
        self.offset = -1
        self.sessions: list[Session] | None = None  # whose queue it joins
        self.ack: Ack | None = None  # who waits for it
        self.acks: list[Ack] | None = None  # who else does: senders of repeats
        self.source = ""  # a source that numbers its messages, and its highest position before this one
        self.previous = 0


class Lent:
    """A message from the queue of a shared subscription, on its way to one member."""

    __slots__ = ("entry", "store")

    def __init__(self, entry: Entry, store: "Session") -> None:
        self.entry = entry
        self.store = store


class Asked:
    """A message that somebody waits for to be acknowledged (SendDirectMessage). False: the connection ended before."""

    __slots__ = ("done",)

    def __init__(self, done: "Callable[[bool], None]") -> None:
        self.done = done


Waiting: TypeAlias = Entry | Lent | Asked | None


class Ack:
    """A PUBACK that waits for `left` things. The link is None for those who publish in the process."""

    __slots__ = ("done", "failed", "left", "link", "packet_id")

    def __init__(self, link: "Link | None", packet_id: int, left: int) -> None:
        self.link = link
        self.packet_id = packet_id
        self.left = left
        self.failed: MarramError | None = None
        self.done: Waiter | None = None


class Waiter(Protocol):
    def settle(self, failed: MarramError | None) -> None: ...
