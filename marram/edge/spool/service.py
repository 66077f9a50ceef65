"""The spool: lanes of messages for the hub, each strictly first in first out, on a journal each.

A message is numbered by its offset in its lane's journal plus one; (core, spool id, lane, sequence) names it for good and travels
as the MQTT 5 user property `mrm-seq`, by which the hub drops repeats. Only what is on the disk is sent, so a sequence that a
crash took back was never seen by anyone. The cursor (all below it acknowledged or dead) is a row, written in batches; after a
crash the messages since the last write travel again and the hub drops them.

A spool id is new when a lane is created, when it is found damaged, and when the hub refused a message for the moment while later
ones were on the way: the hub keeps the highest sequence it accepted, and under the old id it would take the refused one, sent
again, for a repeat.

When the byte budget is reached: `reject` refuses the new message (the component is told), `drop_oldest` gives up the oldest of
the lowest lane; both are counted. Not here: the connection (marram.edge.link).
"""

import asyncio
import base64
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from marram.core import codec, topic
from marram.core.codec import JsonObject
from marram.core.errors import Invalid, LimitExceeded
from marram.core.segment import KIND_MESSAGE, Record
from marram.edge.spool import store
from marram.kit import disk, metrics
from marram.kit.clock import Clock, Entropy
from marram.kit.db import Db, Migrations, Tx
from marram.kit.log import logger
from marram.kit.seglog import Journal

log = logger(__name__)

MIGRATIONS: Final = Migrations(slice="spool", package="marram.edge.spool")
LANES: Final = ("high", "normal", "low")
LANE_PROPERTY: Final = "mrm-lane"
SEQUENCE_PROPERTY: Final = "mrm-seq"
LEAST_SEGMENT_BYTES: Final = 16 << 10
SAVE_EVERY: Final = 200  # acknowledgements between two writes of the cursor
READ_AHEAD: Final = 200

WAITING: Final = metrics.gauge("marram_spool_waiting", "messages that the hub has not acknowledged", ("lane",))
REFUSED: Final = metrics.counter("marram_spool_refused_total", "messages refused because the spool is full", ("lane",))
LOST: Final = metrics.counter(
    "marram_spool_dropped_total", "oldest messages given up because the spool is full", ("lane",)
)
EXPIRED: Final = metrics.counter(
    "marram_spool_expired_total", "messages whose expiry passed while they waited", ("lane",)
)
DEAD: Final = metrics.counter("marram_spool_dead_total", "messages that the hub refused for good", ("lane",))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """`lanes`: (topic filter, lane), the first match wins, else `normal`. drain_per_s 0 = as fast as the hub acknowledges."""

    budget_bytes: int = 64 << 20
    when_full: Literal["reject", "drop_oldest"] = "reject"
    lanes: Sequence[tuple[str, str]] = ()
    window: int = 100
    drain_per_s: int = 0
    segment_bytes: int = 1 << 20
    ahead_bytes: int = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """A message for the hub. `expiry_s` and what follows are MQTT 5's; None or empty = not sent."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False
    user_properties: Sequence[tuple[str, str]] = ()
    expiry_s: int | None = None
    correlation: bytes | None = None
    response_topic: str | None = None
    payload_format: int | None = None
    content_type: str | None = None


@dataclass(slots=True, eq=False)
class Item:
    """One spooled message on its way. `message.expiry_s` is what is left of it."""

    lane: "Lane"
    offset: int
    message: Outgoing

    @property
    def sequence(self) -> int:
        return self.offset + 1

    @property
    def dedup(self) -> str:
        return f"{self.lane.spool_id}:{self.lane.name}:{self.sequence}"


@dataclass(slots=True, eq=False)
class Lane:
    """`position`: all below is done. `taken`: the next to hand out. `done`: finished out of order, above `position`."""

    name: str
    journal: Journal
    spool_id: str
    position: int
    taken: int
    saved: int
    done: set[int] = field(default_factory=set[int])
    ahead: list[tuple[int, Record]] = field(default_factory=list[tuple[int, Record]])

    @property
    def waiting(self) -> int:
        return self.journal.end - self.position - len(self.done)

    def __repr__(self) -> str:
        return (
            f"Lane({self.name}, position={self.position}, taken={self.taken},"
            f" synced={self.journal.synced}, end={self.journal.end})"
        )


class Spool:
    """Open with `Spool.open`. All calls on one loop."""

    def __init__(self, folder: Path, db: Db, clock: Clock, entropy: Entropy, settings: Settings) -> None:
        for _, name in settings.lanes:
            if name not in LANES:
                raise Invalid(f"spool lane {name!r} is unknown; there are {', '.join(LANES)}")
        self._folder = folder
        self._db = db
        self._clock = clock
        self._entropy = entropy
        self.settings = settings
        self.lanes: dict[str, Lane] = {}
        self._ready: list[Callable[[], None]] = []
        self._acked_unsaved = 0
        self._saving = asyncio.Lock()
        self._dead: list[store.Dead] = []

    @classmethod
    def open(cls, folder: Path, db: Db, *, clock: Clock, entropy: Entropy, settings: Settings | None = None) -> "Spool":
        """Open the lanes that exist. `db` must have run MIGRATIONS."""
        spool = cls(folder, db, clock, entropy, settings or Settings())
        disk.make_dirs(folder)
        known = db.read_now(store.load_lanes)
        for name in LANES:
            if name in known or (folder / name).is_dir():
                spool._open_lane(name, known.get(name))
        return spool

    @property
    def waiting(self) -> int:
        """Messages that the hub has not acknowledged."""
        return sum(lane.waiting for lane in self.lanes.values())

    @property
    def bytes_on_disk(self) -> int:
        return sum(lane.journal.bytes_on_disk for lane in self.lanes.values())

    def on_ready(self, call: Callable[[], None]) -> None:
        """Call it whenever more can be taken."""
        self._ready.append(call)

    async def append(self, message: Outgoing, lane: str | None = None) -> None:
        """Returns when the message is on the disk. Raises LimitExceeded when the spool is full and set to reject."""
        target = self._lane(self._choose(message, lane))
        self._make_room(target)
        record = Record(
            KIND_MESSAGE,
            1 if message.retain else 0,
            self._clock.wall_ms(),
            message.topic.encode(),
            _pack(message, self._clock.wall_ms()),
            message.payload,
        )
        try:
            await target.journal.append_synced([record])
        except LimitExceeded:
            REFUSED.inc(lane=target.name)
            raise
        WAITING.set(target.waiting, lane=target.name)

    async def take(self, limit: int) -> list[Item]:
        """Up to `limit` messages that are on the disk and not yet handed out, the highest lane first, in order."""
        items: list[Item] = []
        for name in LANES:
            lane = self.lanes.get(name)
            while lane is not None and len(items) < limit:
                if not lane.ahead and not await self._read_ahead(lane):
                    break
                while lane.ahead and len(items) < limit:
                    offset, record = lane.ahead.pop(0)
                    lane.taken = offset + 1
                    item = self._item(lane, offset, record)
                    if item is None:
                        EXPIRED.inc(lane=lane.name)
                        self._finish(lane, offset)
                    else:
                        items.append(item)
        return items

    def acknowledge(self, item: Item) -> None:
        """The hub has it."""
        self._finish(item.lane, item.offset)

    def refuse(self, item: Item, reason_code: int, reason: str) -> None:
        """The hub will never take it: to the dead letters, and the lane goes on."""
        DEAD.inc(lane=item.lane.name)
        log.warning("spool.dead_letter", lane=item.lane.name, topic=item.message.topic, code=reason_code, reason=reason)
        self._dead.append(
            store.Dead(
                lane=item.lane.name,
                sequence=item.sequence,
                spool_id=item.lane.spool_id,
                topic=item.message.topic,
                payload=item.message.payload,
                reason_code=reason_code,
                reason=reason,
                created_ms=self._clock.wall_ms(),
            )
        )
        self._finish(item.lane, item.offset)

    async def rewind(self, refused: Item | None = None) -> None:
        """The connection is gone: what was not acknowledged is handed out again. `refused`: refused for the moment."""
        for lane in self.lanes.values():
            overtaken = refused is not None and refused.lane is lane and lane.taken > refused.offset + 1
            lane.taken = lane.position
            lane.ahead.clear()
            if overtaken:
                lane.spool_id = self._new_id()
        await self.save()

    async def save(self) -> None:
        """Write the cursors and dead letters now, and give up the segments below."""
        async with self._saving:
            rows = [(lane.name, lane.spool_id, lane.position) for lane in self.lanes.values()]
            dead, self._dead = self._dead, []
            self._acked_unsaved = 0

            def work(tx: Tx) -> None:
                for row in rows:
                    store.save_lane(tx, *row)
                if dead:
                    store.add_dead(tx, dead)

            try:
                await self._db.write(work)
            except BaseException:
                self._dead = dead + self._dead
                raise
            for name, _, position in rows:
                self.lanes[name].saved = position
                self.lanes[name].journal.trim(position)

    @property
    def save_due(self) -> bool:
        return self._acked_unsaved >= SAVE_EVERY

    @property
    def unsaved(self) -> bool:
        return self._acked_unsaved > 0

    async def dead(self, limit: int = 100) -> list[store.Dead]:
        return await self._db.read(lambda tx: store.load_dead(tx, limit))

    async def close(self) -> None:
        with contextlib.suppress(Exception):  # what is not saved travels again and is dropped there
            await self.save()
        for lane in self.lanes.values():
            lane.journal.close()

    # inside

    def _choose(self, message: Outgoing, lane: str | None) -> str:
        if lane is None:
            lane = next((value for key, value in message.user_properties if key == LANE_PROPERTY), None)
        if lane is None:
            lane = next(
                (name for filter, name in self.settings.lanes if topic.matches(filter, message.topic)), "normal"
            )
        if lane not in LANES:
            raise Invalid(f"{LANE_PROPERTY} {lane!r} is unknown; there are {', '.join(LANES)}")
        return lane

    def _lane(self, name: str) -> Lane:
        return self.lanes.get(name) or self._open_lane(name, None)

    def _open_lane(self, name: str, known: tuple[str, int] | None) -> Lane:
        settings = self.settings
        # A segment goes when all of it is acknowledged and the next has begun: one as large as the budget would never go.
        segment_bytes = min(settings.segment_bytes, max(LEAST_SEGMENT_BYTES, settings.budget_bytes // 8))
        journal = Journal.open(
            self._folder / name,
            clock=self._clock,
            entropy=self._entropy,
            segment_bytes=segment_bytes,
            budget_bytes=settings.budget_bytes + settings.budget_bytes // 4 + 2 * settings.segment_bytes,
            ahead_bytes=settings.ahead_bytes,
            tail_bytes=256 << 10,
        )
        spool_id, position = known or (self._new_id(), journal.start)
        if position > journal.end or journal.damage:
            # Sequences of lost messages could be given out again: only a new id keeps "higher means newer" true.
            log.error("spool.damaged", lane=name, cursor=position, end=journal.end, gaps=len(journal.damage))
            spool_id, position = self._new_id(), min(position, journal.end)
        position = max(position, journal.start)
        lane = Lane(name=name, journal=journal, spool_id=spool_id, position=position, taken=position, saved=position)
        # Written before the first message leaves: a restart must not invent another id for the same sequences.
        self._db.write_sync(lambda tx: store.save_lane(tx, name, spool_id, position))
        journal.on_synced(lambda _: self._tell())
        self.lanes[name] = lane
        WAITING.set(lane.waiting, lane=name)
        return lane

    def _tell(self) -> None:
        for call in self._ready:
            call()

    def _make_room(self, target: Lane) -> None:
        budget = self.settings.budget_bytes
        if self.bytes_on_disk + target.journal.unsynced_bytes < budget:
            return
        if self.settings.when_full == "reject":
            REFUSED.inc(lane=target.name)
            raise LimitExceeded(f"the spool is at its budget of {budget} bytes", limit=budget)
        victim = next(
            (
                lane
                for name in reversed(LANES)
                if (lane := self.lanes.get(name)) and lane.journal.end - lane.position > 1
            ),
            target,
        )
        count = max(1, (victim.journal.end - victim.position) // 8)
        LOST.inc(count, lane=victim.name)
        log.warning("spool.oldest_dropped", lane=victim.name, count=count)
        position = victim.position + count
        victim.done = {offset for offset in victim.done if offset >= position}
        victim.position = position
        victim.ahead = [pair for pair in victim.ahead if pair[0] >= position]
        victim.taken = max(victim.taken, position)
        victim.journal.trim(position)
        self._acked_unsaved += SAVE_EVERY

    async def _read_ahead(self, lane: Lane) -> bool:
        start = max(lane.taken, lane.position)
        if start >= lane.journal.synced:
            return False
        if lane.journal.synced - start > READ_AHEAD:
            rows = await asyncio.to_thread(lane.journal.read, start, READ_AHEAD)
        else:
            rows = lane.journal.read(start, READ_AHEAD)
        if not rows:
            gap_end = lane.journal.past_gap(start)
            for offset in range(start, gap_end):
                self._finish(lane, offset)
            lane.taken = gap_end
            return gap_end > start and gap_end < lane.journal.synced
        expected = start
        for offset, _ in rows:
            for lost in range(expected, offset):
                self._finish(lane, lost)
            expected = offset + 1
        lane.ahead = [(offset, record) for offset, record in rows if offset >= lane.taken]
        return bool(lane.ahead)

    def _item(self, lane: Lane, offset: int, record: Record) -> Item | None:
        message = _unpack(record, self._clock.wall_ms())
        return None if message is None else Item(lane, offset, message)

    def _finish(self, lane: Lane, offset: int) -> None:
        if offset < lane.position:
            return
        if offset == lane.position:
            lane.position += 1
            while lane.position in lane.done:
                lane.done.discard(lane.position)
                lane.position += 1
        else:
            lane.done.add(offset)
        self._acked_unsaved += 1
        WAITING.set(lane.waiting, lane=lane.name)

    def _new_id(self) -> str:
        return self._entropy.bytes(6).hex()


def _pack(message: Outgoing, now_ms: int) -> bytes:
    meta: JsonObject = {}
    if message.user_properties:
        meta["u"] = [[key, value] for key, value in message.user_properties if key != LANE_PROPERTY]
    if message.expiry_s is not None:
        meta["e"] = now_ms + message.expiry_s * 1000
    if message.correlation is not None:
        meta["d"] = base64.b64encode(message.correlation).decode()
    if message.response_topic is not None:
        meta["r"] = message.response_topic
    if message.payload_format is not None:
        meta["f"] = message.payload_format
    if message.content_type is not None:
        meta["t"] = message.content_type
    return codec.dumps(meta) if meta else b""


def _unpack(record: Record, now_ms: int) -> Outgoing | None:
    """None when it has expired."""
    meta = codec.loads_object(record.meta) if record.meta else {}
    expires, expiry_s = meta.get("e"), None
    if isinstance(expires, int):
        expiry_s = (expires - now_ms + 999) // 1000
        if expiry_s <= 0:
            return None
    user = meta.get("u")
    correlation, response, form, kind = meta.get("d"), meta.get("r"), meta.get("f"), meta.get("t")
    return Outgoing(
        topic=record.topic.decode(),
        payload=record.payload,
        qos=1,
        retain=bool(record.flags & 1),
        user_properties=[(str(pair[0]), str(pair[1])) for pair in user if isinstance(pair, list)]
        if isinstance(user, list)
        else [],
        expiry_s=expiry_s,
        correlation=base64.b64decode(correlation) if isinstance(correlation, str) else None,
        response_topic=response if isinstance(response, str) else None,
        payload_format=form if isinstance(form, int) else None,
        content_type=kind if isinstance(kind, str) else None,
    )
