"""Persistent sessions get from the journal what waits for them, in order, only what is synced, as fast as they acknowledge."""

import base64
import binascii
from typing import Final

from marram.core import codec
from marram.core.codec import JsonValue
from marram.core.errors import Unavailable
from marram.core.segment import KIND_MESSAGE, Record
from marram.hub.broker.delivery import aged
from marram.hub.broker.matching import Matching
from marram.hub.broker.recovery import Changes
from marram.hub.broker.session import Message, Session, dropped
from marram.hub.broker.tick import Tick
from marram.kit.clock import Clock
from marram.kit.log import logger
from marram.kit.seglog import Journal

log = logger(__name__)

READ_RECORDS: Final = 64
READ_BYTES: Final = 256 << 10

_lost: Final = dropped.labels(reason="no longer in the journal")
_expired: Final = dropped.labels(reason="expired")


class Feeding:
    def __init__(self, journal: Journal, tick: Tick, clock: Clock, matching: Matching, changes: Changes) -> None:
        self._journal, self._tick, self._clock = journal, tick, clock
        self._matching, self._changes = matching, changes
        self._hungry: set[Session] = set()  # connected, with offsets that are not synced yet or wait for room

    def queued(self, session: Session) -> None:
        """Its queue holds something."""
        if session.link is not None:
            self._hungry.add(session)
            if session.queue and session.queue[0] < self._journal.synced:
                self._tick.soon(self.feed)

    def forget(self, session: Session) -> None:
        self._hungry.discard(session)

    def feed(self) -> None:
        """All that are hungry."""
        if not self._hungry:
            return
        hungry, self._hungry = self._hungry, set()
        for session in hungry:
            self.drain(session)
        if self._tick.dirty:
            self._tick.touch()

    def drain(self, session: Session) -> None:
        """Send from the journal what there is room for; what is not synced yet waits for the next `feed`."""
        queue, window, journal = session.queue, session.window, self._journal
        while queue and not window.is_full():
            link = session.link
            if link is None or link.congested:
                return
            offset = queue[0]
            if offset >= journal.synced:
                self._hungry.add(session)
                return
            try:
                rows = journal.read(offset, READ_RECORDS, READ_BYTES)
            except Unavailable as exc:
                log.error("broker.read_failed", client=session.client_id, offset=offset, reason=exc.message)
                self._hungry.add(session)
                return
            if not rows:
                queue.popleft()
                session.lost += 1
                _lost.inc()
                continue
            for at, record in rows:
                while queue and queue[0] < at:
                    self._changes.acked(session.client_id, queue.popleft())
                    session.lost += 1
                    _lost.inc()
                if not queue or window.is_full():
                    break
                if queue[0] == at:
                    queue.popleft()
                    self._send_stored(session, at, record)
            link.flush()

    def give_up(self, session: Session, before: int) -> int:
        """The offsets of its queue below `before` are lost to it. Returns how many."""
        count = 0
        while session.queue and session.queue[0] < before:
            self._changes.acked(session.client_id, session.queue.popleft())
            session.lost += 1
            count += 1
        _lost.inc(count)
        return count

    def _send_stored(self, session: Session, offset: int, record: Record) -> None:
        if record.kind != KIND_MESSAGE:
            return
        meta = codec.loads_object(record.meta, what="meta of a record")
        now_ms = self._clock.wall_ms()
        expires_ms = meta.get("e")
        is_expired = isinstance(expires_ms, int) and expires_ms <= now_ms
        if is_expired or not self._matching.may_receive(session, record.topic.decode()):
            if is_expired:
                _expired.inc()
            self._changes.acked(session.client_id, offset)
            return
        properties = _unpacked(meta.get("v"))
        if isinstance(expires_ms, int):
            properties = aged(properties, expires_ms, now_ms)
        session.send_stored(Message(record.topic, record.payload, 1, properties), offset)


def _unpacked(value: JsonValue) -> bytes:
    if not isinstance(value, str):
        return b""
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error:
        return b""
