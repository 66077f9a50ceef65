"""Sessions across a restart: their rows in the checkpoint, their changes in the journal, and the replay of both.

A change is a small record in the batch of its tick. Every row says up to which offset it is complete, so that sessions may
be written in several transactions; the replay begins at the checkpoint and skips what a row has already.
"""

from collections.abc import Sequence
from typing import Final

from marram.core import codec
from marram.core.codec import JsonObject, JsonValue
from marram.core.errors import Corrupt
from marram.core.segment import KIND_SESSION, Record
from marram.hub.broker.message import Ack, Entry
from marram.hub.broker.route import Subscription
from marram.hub.broker.session import Session
from marram.hub.broker.tick import Tick
from marram.hub.identity.service import Kind, Subject
from marram.kit.clock import Clock

BEGIN: Final = "+"
END: Final = "-"
SUBSCRIBED: Final = "s"
UNSUBSCRIBED: Final = "u"
ACKED: Final = "a"
LEFT: Final = "l"
KINDS: Final[tuple[Kind, ...]] = ("key", "role", "service")


def record(changes: Sequence[list[JsonValue]], now_ms: int) -> Record:
    return Record(KIND_SESSION, 0, now_ms, b"", codec.dumps({"o": list(changes)}), b"")


def begin(session: Session) -> list[JsonValue]:
    return [BEGIN, session.client_id, session.version, session.expiry_s, session.principal, session.subject.kind]


def subscribed(session: Session, made: Subscription) -> list[JsonValue]:
    return [SUBSCRIBED, session.client_id, made.filter, made.qos, made.no_local, made.retain_as_published]


def unsubscribed(session: Session, text: str) -> list[JsonValue]:
    return [UNSUBSCRIBED, session.client_id, text]


def body(session: Session, position: int) -> str:
    """The row of a session, complete up to `position`."""
    filters: list[JsonValue] = [
        [made.filter, made.qos, made.no_local, made.retain_as_published] for made in session.subscriptions.values()
    ]
    return codec.dumps(
        {
            "at": position,
            "version": session.version,
            "expiry_s": session.expiry_s,
            "principal": session.principal,
            "kind": session.subject.kind,
            "expires_ms": session.expires_ms,
            "filters": filters,
            "queue": [*session.unacknowledged(), *session.queue],
        }
    ).decode()


class Changes:
    """Writes the changes: into the batch of the turn, what was acknowledged as one record at its end."""

    def __init__(self, tick: Tick, clock: Clock) -> None:
        self.floors: dict[str, int] = {}  # sessions with a row in the checkpoint: the lowest offset in it
        self._tick, self._clock = tick, clock
        self._acked: dict[str, list[int]] = {}  # offsets by client id
        tick.at_end(self._end)

    def note(self, changes: Sequence[list[JsonValue]], ack: Ack | None = None) -> None:
        entry = Entry()
        entry.ack = ack
        self._tick.add(record(changes, self._clock.wall_ms()), entry)

    def acked(self, client_id: str, offset: int) -> None:
        """The session has no more to do with this offset. The caller touches the turn."""
        self._acked.setdefault(client_id, []).append(offset)

    def ended(self, client_id: str) -> None:
        self.note([[END, client_id]])

    def forget(self, client_id: str) -> None:
        """What it acknowledged in this turn is of no interest: it ends."""
        self._acked.pop(client_id, None)

    def _end(self) -> None:
        if self._acked:
            acked, self._acked = self._acked, {}
            self.note([[ACKED, client_id, list[JsonValue](offsets)] for client_id, offsets in acked.items()])


class Replay:
    """Rebuilds sessions and origins. Feed rows, then records in order; `sessions` is the outcome, all of them offline."""

    def __init__(self, now_ms: int, limit: int) -> None:
        """`limit`: messages that a queue holds."""
        self._limit = limit
        self.sessions: dict[str, Session] = {}
        self.origins: dict[str, int] = {}
        self._complete: dict[str, int] = {}
        self._acked: dict[str, set[int]] = {}
        self._now_ms = now_ms

    def row(self, client_id: str, stored: JsonObject) -> None:
        try:
            session = _session(client_id, stored["version"], stored["expiry_s"], stored["principal"], stored["kind"])
            filters, queue, at, expires_ms = stored["filters"], stored["queue"], stored["at"], stored["expires_ms"]
            assert isinstance(filters, list) and isinstance(queue, list) and isinstance(at, int)
            assert isinstance(expires_ms, int)
            for item in filters:
                assert isinstance(item, list)
                _subscribe(session, item)
            session.fill([offset for offset in queue if isinstance(offset, int)])
        except (KeyError, ValueError, AssertionError) as exc:
            raise Corrupt(f"the stored session of client {client_id} cannot be read") from exc
        session.expires_ms = expires_ms or self._now_ms + session.expiry_s * 1000
        self.sessions[client_id] = session
        self._complete[client_id] = at

    def message(self, offset: int, meta: JsonObject) -> None:
        origin = meta.get("o")
        if isinstance(origin, list) and len(origin) == 3 and isinstance(origin[0], str) and isinstance(origin[1], int):
            self.origins[origin[0]] = max(self.origins.get(origin[0], -1), origin[1])
        for client_id in _list(meta.get("s")):
            session = self.sessions.get(str(client_id))
            if session is not None and offset >= self._complete.get(session.client_id, 0):
                session.enqueue(offset)

    def change(self, offset: int, meta: JsonObject) -> None:
        for change in _list(meta.get("o")):
            if not isinstance(change, list) or len(change) < 2 or not isinstance(change[1], str):
                raise Corrupt(f"a session change at offset {offset} cannot be read")
            if offset >= self._complete.get(change[1], 0):
                self._apply(str(change[0]), change[1], change[2:])

    def finish(self) -> None:
        """Take out what was acknowledged, and only then what is over the limit: else it were the newest that is lost."""
        for client_id, session in self.sessions.items():
            acked = self._acked.get(client_id, set())
            if acked or len(session.queue) > self._limit:
                left = [offset for offset in session.queue if offset not in acked]
                session.fill(left[: self._limit])

    def _apply(self, kind: str, client_id: str, rest: list[JsonValue]) -> None:
        session = self.sessions.get(client_id)
        if kind == BEGIN:
            version, expiry_s, principal, subject_kind = rest
            if session is None or session.version != version:
                session = _session(client_id, version, expiry_s, principal, subject_kind)
                self.sessions[client_id] = session
                self._acked.pop(client_id, None)
            assert isinstance(expiry_s, int) and isinstance(principal, str)
            session.expiry_s, session.principal = expiry_s, principal
            session.expires_ms = self._now_ms + expiry_s * 1000
        elif kind == END:
            self.sessions.pop(client_id, None)
            self._acked.pop(client_id, None)
        elif session is None:
            return
        elif kind == SUBSCRIBED:
            _subscribe(session, rest)
        elif kind == UNSUBSCRIBED:
            session.subscriptions.pop(str(rest[0]), None)
        elif kind == ACKED:
            self._acked.setdefault(client_id, set()).update(
                offset for offset in _list(rest[0]) if isinstance(offset, int)
            )
        elif kind == LEFT and isinstance(rest[0], int):
            session.expires_ms = rest[0]


def _session(client_id: str, version: JsonValue, expiry_s: JsonValue, principal: JsonValue, kind: JsonValue) -> Session:
    assert isinstance(version, int) and isinstance(expiry_s, int) and isinstance(principal, str)
    subject_kind: Kind = "certificate"
    for known in KINDS:
        if kind == known:
            subject_kind = known
    # Epoch -1: whoever uses it has it refreshed first; until then it may nothing.
    subject = Subject(kind=subject_kind, principal=principal, arn="", client_id=client_id, epoch=-1)
    return Session(client_id, version, expiry_s, subject)


def _subscribe(session: Session, item: list[JsonValue]) -> None:
    text, qos, no_local, as_published = item
    assert isinstance(text, str) and isinstance(qos, int)
    session.subscriptions[text] = Subscription(text, qos, no_local is True, as_published is True)


def _list(value: JsonValue) -> list[JsonValue]:
    return value if isinstance(value, list) else []
