"""Persistent sessions get from the journal what waits for them, in order, only what is synced, as fast as they acknowledge.

The queue of a shared subscription is a session without a client: each of its messages goes to a member that `share_by` names.
A rate for what waited (Settings) makes a session slow: it is looked at again until its queue is empty.
"""

import base64
import binascii
from collections.abc import Callable
from typing import Final

from marram.core import codec
from marram.core.codec import JsonValue
from marram.core.errors import Unavailable
from marram.core.segment import KIND_MESSAGE, Record
from marram.hub.broker.delivery import aged
from marram.hub.broker.matching import Matching
from marram.hub.broker.message import Entry, Lent, Message
from marram.hub.broker.recovery import Changes
from marram.hub.broker.session import Session, dropped
from marram.hub.broker.tick import Tick
from marram.kit.clock import Clock
from marram.kit.log import logger
from marram.kit.seglog import Journal

log = logger(__name__)

READ_RECORDS: Final = 64
READ_BYTES: Final = 256 << 10
SLOW_S: Final = 0.1  # between two looks at sessions whose rate was used up

_lost: Final = dropped.labels(reason="no longer in the journal")
_expired: Final = dropped.labels(reason="expired")
_denied: Final = dropped.labels(reason="not allowed: iot:Receive")

Take = Callable[[Session, str], tuple[Session | None, bool]]


class Feeding:
    def __init__(self, journal: Journal, tick: Tick, clock: Clock, matching: Matching, changes: Changes) -> None:
        self._journal, self._tick, self._clock = journal, tick, clock
        self._matching, self._changes = matching, changes
        self._hungry: set[Session] = set()  # with offsets that are not synced yet or wait for room
        self._slow: set[Session] = set()  # whose rate is used up
        self._take: Take = _nobody
        self.may_share = matching.may_share

    def share_by(self, take: Take) -> None:
        """`take(queue, topic)`: the member that gets a message of a shared subscription; none now, or (True) none ever."""
        self._take = take

    def queued(self, session: Session) -> None:
        """Its queue holds something."""
        if session.link is not None or session.group is not None:
            self._hungry.add(session)
            if session.queue and session.queue[0] < self._journal.synced:
                self._tick.soon(self.feed)

    def forget(self, session: Session) -> None:
        self._hungry.discard(session)
        self._slow.discard(session)

    def feed(self) -> None:
        """All that are hungry."""
        if not self._hungry:
            return
        hungry, self._hungry = self._hungry, set()
        for session in hungry:
            self.drain(session)
        if self._tick.dirty:
            self._tick.touch()

    def again(self) -> None:
        """Those whose rate was used up: now and then, as long as there are any."""
        slow, self._slow = self._slow, set()
        for session in slow:
            self.drain(session)
        if self._tick.dirty:
            self._tick.touch()

    def drain(self, session: Session) -> None:
        """Send from the journal what there is room for; what is not synced yet waits for the next `feed`."""
        queue, journal = session.queue, self._journal
        while queue and self._has_room(session):
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
                if not queue or not self._has_room(session):
                    break
                if queue[0] == at and not self._send_stored(session, at, record):
                    return
            if session.link is not None:
                session.link.flush()

    def give_up(self, session: Session, before: int) -> int:
        """The offsets of its queue below `before` are lost to it. Returns how many."""
        count = 0
        while session.queue and session.queue[0] < before:
            self._changes.acked(session.client_id, session.queue.popleft())
            session.lost += 1
            count += 1
        _lost.inc(count)
        return count

    def _has_room(self, session: Session) -> bool:
        if session.group is not None:
            return True  # its members are asked one by one
        link = session.link
        return link is not None and not link.congested and not session.window.is_full()

    def _send_stored(self, session: Session, offset: int, record: Record) -> bool:
        """The first of its queue. False: nobody takes it now."""
        queue = session.queue
        if record.kind != KIND_MESSAGE:
            queue.popleft()
            return True
        meta = codec.loads_object(record.meta, what="meta of a record")
        now_ms = self._clock.wall_ms()
        expires_ms = meta.get("e")
        if isinstance(expires_ms, int) and expires_ms <= now_ms:
            return self._skip(session, offset, expired=True)
        topic = record.topic.decode()
        member: Session | None = None
        if session.group is not None:
            member, never = self._take(session, topic)
            if never:
                return self._skip(session, offset, expired=False)
            if member is None:
                self._wait(session)
                return False
        elif not self._matching.may_receive(session, topic):
            return self._skip(session, offset, expired=False)
        elif not self._within_rate(session):
            return False
        queue.popleft()
        properties = _unpacked(meta.get("v"))
        if isinstance(expires_ms, int):
            properties = aged(properties, expires_ms, now_ms)
        message = Message(record.topic, record.payload, 1, properties)
        if member is None:
            session.send_stored(message, offset)
        else:
            entry = Entry()
            entry.offset = offset
            member.lend(message, Lent(entry, session))
        return True

    def _skip(self, session: Session, offset: int, *, expired: bool) -> bool:
        (_expired if expired else _denied).inc()
        session.queue.popleft()
        self._changes.acked(session.client_id, offset)
        return True

    def _within_rate(self, session: Session) -> bool:
        assert session.link is not None
        rates = session.link.rates
        if rates is None:
            return True
        if (rates.stored is None or rates.stored.take()) and rates.may_deliver():
            return True
        self._wait(session)
        return False

    def _wait(self, session: Session) -> None:
        """For a rate; the queue of a group also hears when a member has room."""
        if session.group is not None:
            online = [member.link for member in session.group.members if member.link is not None]
            if not any(link.rates is not None and link.rates.shared is not None for link in online):
                return
        if not self._slow:
            self._tick.later(SLOW_S, self.again)
        self._slow.add(session)


def _nobody(_store: Session, _topic: str) -> tuple[Session | None, bool]:
    return None, False


def _unpacked(value: JsonValue) -> bytes:
    if not isinstance(value, str):
        return b""
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error:
        return b""
