"""What the broker puts into the journal, and who waits for it to be on the disk.

Records of one tick are appended together; an `Entry` learns its offset then, and its acknowledgements leave once `synced`
is above it. Sources that number their messages (edge lanes by `mrm-seq`, the outbox) are remembered with the highest
position accepted, which falls back when the record of it did not make it.
"""

from collections import Counter, deque
from collections.abc import Callable
from typing import Final

from marram.core.errors import LimitExceeded, MarramError, Unavailable
from marram.core.segment import RECORD_BYTES, Record
from marram.hub.broker.acks import Acks
from marram.hub.broker.message import Ack, Entry
from marram.hub.broker.session import Session
from marram.hub.broker.tick import Tick
from marram.kit import metrics
from marram.kit.log import logger
from marram.kit.seglog import Journal

log = logger(__name__)

APPEND_BYTES: Final = 8 << 20  # the journal takes 16 MB at once
MAX_SOURCES: Final = 100_000
MAX_OF_OWNER: Final = 64  # a core has a spool, rarely a second one, with a few lanes

_appended: Final = metrics.counter("marram_mqtt_appended_total", "Messages and session changes appended").labels()
_refused: Final = metrics.counter("marram_mqtt_append_refused_total", "Records the journal did not take").labels()


class Commits:
    """`queued(session)` is called when its queue grew."""

    def __init__(self, journal: Journal, tick: Tick, acks: Acks, queued: Callable[[Session], None]) -> None:
        self.highest: dict[str, int] = {}  # by source
        self.changed_sources: set[str] = set()  # since the last checkpoint
        self._owned: Counter[str] = Counter()  # sources, by owner
        self._journal, self._tick, self._acks, self._queued = journal, tick, acks, queued
        self._waiters: deque[tuple[int, list[Ack]]] = deque()  # by append: its end, and who waits for a record of it
        self._late: list[tuple[int, Ack]] = []  # joined an offset that others wait for already
        self._positions: deque[tuple[int, str, int]] = deque()  # (offset, source, highest before), unsynced
        self._latest: dict[str, Entry] = {}  # the entry of a source's highest position, until it is synced
        self._refused = 0  # records, since the journal took the last one
        tick.at_end(self._flush)
        journal.on_synced(self._synced)
        journal.on_void(self._void)

    # sources that number

    def restore(self, origins: dict[str, int]) -> None:
        """As they were in the last life."""
        self.highest = origins
        self.changed_sources.update(origins)
        self._owned = Counter(map(_owner, origins))

    def has_room(self, source: str) -> bool:
        """Whether it is known, or may be: who makes up ever new ones takes no place from others."""
        if source in self.highest:
            return True
        return len(self.highest) < MAX_SOURCES and self._owned[_owner(source)] < MAX_OF_OWNER

    def accept(self, source: str, position: int, entry: Entry) -> bool:
        """Whether it is new. Then it is the highest of its source, and `entry` carries it if it is appended."""
        highest = self.highest.get(source, -1)
        if position <= highest:
            return False
        if source not in self.highest:
            self._owned[_owner(source)] += 1
        entry.source, entry.previous = source, highest
        self.highest[source] = position
        self.changed_sources.add(source)
        return True

    def carried(self, entry: Entry) -> None:
        """The entry of an accepted position is appended: a repeat waits for it."""
        self._latest[entry.source] = entry

    def join(self, source: str, ack: Ack) -> bool:
        """Have a repeat acknowledged together with what it repeats. False: that is on the disk already."""
        entry = self._latest.get(source)
        if entry is None:
            return False
        if entry.offset < 0:
            if entry.acks is None:
                entry.acks = []
            entry.acks.append(ack)
        else:
            self._late.append((entry.offset, ack))
        return True

    # a turn

    def _flush(self) -> None:
        """Append what is pending."""
        records, waiting = self._tick.records, self._tick.waiting
        if not records:
            return
        self._tick.records, self._tick.waiting = [], []
        sizes = [RECORD_BYTES + len(record.topic) + len(record.meta) + len(record.payload) for record in records]
        if sum(sizes) <= APPEND_BYTES:
            self._append(records, waiting)
            return
        first = total = 0
        for at, size in enumerate(sizes):
            total += size
            if total > APPEND_BYTES and at > first:
                self._append(records[first:at], waiting[first:at])
                first, total = at, size
        self._append(records[first:], waiting[first:])

    def _append(self, records: list[Record], waiting: list[Entry | Ack]) -> None:
        try:
            offset = self._journal.append(records)
        except (Unavailable, LimitExceeded) as exc:
            _refused.inc(len(records))
            if not self._refused:  # once: a thousand lines a second would fill the disk that is full
                log.warning("broker.append_refused", records=len(records), reason=exc.message)
            self._refused += len(records)
            for entry in waiting:
                self._failed(entry, exc)
            return
        if self._refused:
            log.warning("broker.append_again", refused=self._refused)
            self._refused = 0
        _appended.inc(len(records))
        acks: list[Ack] = []
        for entry in waiting:
            if isinstance(entry, Ack):
                acks.append(entry)
            else:
                self._placed(entry, offset, acks)
            offset += 1
        if acks:
            self._waiters.append((offset, acks))

    def _placed(self, entry: Entry, offset: int, acks: list[Ack]) -> None:
        """Its record has this offset; those who wait for it join `acks`."""
        entry.offset = offset
        if entry.sessions is not None:
            for session in entry.sessions:
                session.joining -= 1
                session.enqueue(offset)
                self._queued(session)
            entry.sessions = None
        if entry.ack is not None:
            acks.append(entry.ack)
            entry.ack = None
        if entry.acks is not None:
            acks += entry.acks
            entry.acks = None
        if entry.source:
            self._positions.append((offset, entry.source, entry.previous))

    def _failed(self, entry: Entry | Ack, why: MarramError) -> None:
        if isinstance(entry, Ack):
            self._acks.settled(entry, why)
            return
        for session in entry.sessions or ():
            session.joining -= 1
        entry.sessions = None
        if entry.source:
            self._fall_back(entry.source, entry.previous)
        acks, entry.acks = entry.acks or [], None
        if entry.ack is not None:
            acks.insert(0, entry.ack)
            entry.ack = None
        for ack in acks:
            self._acks.settled(ack, why)

    def _fall_back(self, source: str, previous: int) -> None:
        if self.highest.get(source, -1) > previous:
            self.highest[source] = previous
        self._latest.pop(source, None)

    # the journal tells

    def _synced(self, synced: int) -> None:
        positions = self._positions
        while positions and positions[0][0] < synced:
            _, source, _ = positions.popleft()
            latest = self._latest.get(source)
            if latest is not None and 0 <= latest.offset < synced:
                del self._latest[source]
        waiters = self._waiters
        while waiters and waiters[0][0] <= synced:
            self._acks.all_synced(waiters.popleft()[1])
        if self._late:
            late, self._late = self._late, []
            for offset, ack in late:
                if offset < synced:
                    self._acks.settled(ack, None)
                else:
                    self._late.append((offset, ack))

    def _void(self, first: int, end: int) -> None:
        """Those offsets never made it: whoever waits for them is told so."""
        while self._positions and self._positions[-1][0] >= first:
            _, source, previous = self._positions.pop()
            self._fall_back(source, previous)
        # An append is void as a whole.
        lost = [ack for last, acks in self._waiters if first < last <= end for ack in acks]
        lost += [ack for offset, ack in self._late if first <= offset < end]
        self._waiters = deque(item for item in self._waiters if not first < item[0] <= end)
        self._late = [item for item in self._late if not first <= item[0] < end]
        why = self._journal.void_error
        for ack in lost:
            self._acks.settled(ack, why)


def _owner(source: str) -> str:
    """Of `mrm-seq:<principal>:<spool>:<lane>` the principal, as far as its first colon."""
    return source.split(":", 2)[1] if ":" in source else ""
