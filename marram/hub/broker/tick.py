"""One turn of the loop: the links and the records that it leaves behind, and its end, where both go out together.

One append and one write a connection for all that a turn did. Not here: what a record says, who waits for it (commits.py).
"""

import asyncio
from collections.abc import Callable

from marram.core.segment import Record
from marram.hub.broker.message import Ack, Entry
from marram.hub.broker.session import Link
from marram.kit.clock import Clock


class Tick:
    __slots__ = ("_clock", "_ends", "_loop", "_scheduled", "_wall_ms", "dirty", "records", "waiting")

    def __init__(self, clock: Clock) -> None:
        self.dirty: list[Link] = []  # with pending bytes; always this list
        self.records: list[Record] = []  # for the journal, in order
        self.waiting: list[Entry | Ack] = []  # one a record: what learns its offset, or only waits for it
        self._clock = clock
        self._ends: list[Callable[[], None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._scheduled = False
        self._wall_ms = 0  # of this turn, once somebody asked

    def start(self) -> None:
        """From here on, `touch` works. Call on the loop."""
        self._loop = asyncio.get_running_loop()

    def at_end(self, call: Callable[[], None]) -> None:
        """Call it at each end, in the order in which they were given, before the links are written."""
        self._ends.append(call)

    def add(self, record: Record, entry: Entry | Ack) -> None:
        """Have `record` appended at the end of this turn, for `entry`."""
        self.records.append(record)
        self.waiting.append(entry)
        if not self._scheduled:
            self.touch()

    def touch(self) -> None:
        """Have pending bytes and records go out at the end of this turn."""
        if not self._scheduled and self._loop is not None:
            self._scheduled = True
            self._loop.call_soon(self.flush)

    def soon(self, call: Callable[[], None]) -> None:
        """In the next turn; never, before `start`."""
        if self._loop is not None:
            self._loop.call_soon(call)

    def later(self, delay_s: float, call: Callable[[], None]) -> None:
        """After a while; never, before `start`."""
        if self._loop is not None:
            self._loop.call_later(delay_s, call)

    def wall_ms(self) -> int:
        """The time of this turn: the same for all of its records."""
        if not self._wall_ms:
            self._wall_ms = self._clock.wall_ms()
        return self._wall_ms

    def flush(self) -> None:
        """The end of the turn, now."""
        self._scheduled = False
        self._wall_ms = 0
        for call in self._ends:
            call()
        if self.dirty:
            dirty = self.dirty[:]
            self.dirty.clear()
            for link in dirty:
                link.flush()
