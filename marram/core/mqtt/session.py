"""Packet identifiers and what of them is unacknowledged, for whoever sends (MQTT 5.0, 2.2.1 and 4.9). mypyc compiles this module."""

from typing import Final, Generic, TypeVar

from marram.core.errors import LimitExceeded

V = TypeVar("V")

MAX_ID: Final = 65535


class Window(Generic[V]):
    """At most `limit` identifiers in use, each with a value; handed out in a ring, so that one just freed rests longest."""

    __slots__ = ("_last", "_used", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._used: dict[int, V] = {}
        self._last = 0

    def __len__(self) -> int:
        return len(self._used)

    def __contains__(self, packet_id: int) -> bool:
        return packet_id in self._used

    def is_full(self) -> bool:
        return len(self._used) >= self.limit

    def take(self, value: V) -> int:
        """A free identifier, now in use. Raises LimitExceeded when the window is full."""
        used = self._used
        if len(used) >= self.limit:
            raise LimitExceeded(f"{self.limit} packets are unacknowledged", limit=self.limit)
        packet_id = self._last
        while True:
            packet_id = packet_id + 1 if packet_id < MAX_ID else 1
            if packet_id not in used:
                break
        self._last = packet_id
        used[packet_id] = value
        return packet_id

    def done(self, packet_id: int) -> V | None:
        """Free it and return its value; None when it was not in use."""
        return self._used.pop(packet_id, None)

    def values(self) -> list[V]:
        """Oldest first."""
        return list(self._used.values())

    def clear(self) -> None:
        self._used.clear()
