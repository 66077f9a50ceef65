"""What the broker does by the clock: checkpoints and with them the end of old segments, wills and expiry; and the start after them.

A checkpoint is sessions and origins as of an offset, in SQLite; the start reads it and replays the journal from there.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from marram.core import codec
from marram.core.errors import Unavailable
from marram.core.segment import KIND_MESSAGE, KIND_SESSION
from marram.hub.broker import recovery, store
from marram.hub.broker.commits import Commits
from marram.hub.broker.connecting import Connecting
from marram.hub.broker.feeding import Feeding
from marram.hub.broker.recovery import Changes
from marram.hub.broker.sharing import Sharing, is_store
from marram.hub.broker.states import States
from marram.hub.broker.tick import Tick
from marram.kit.clock import Clock
from marram.kit.db import Db, Tx
from marram.kit.log import logger
from marram.kit.seglog import Journal

log = logger(__name__)

TEND_S: Final = 1.0
CHECKPOINT_S: Final = 10.0
CHECKPOINT_SESSIONS: Final = 200
EXPIRED_AT_ONCE: Final = 500
REPLAY_RECORDS: Final = 2000
REPLAY_BYTES: Final = 4 << 20
SESSION_SHARE: Final = 0.5  # of the journal's budget: beyond it sessions lose their oldest messages


class Housekeeping:
    def __init__(
        self,
        journal: Journal,
        db: Db,
        clock: Clock,
        tick: Tick,
        commits: Commits,
        changes: Changes,
        feeding: Feeding,
        connecting: Connecting,
        sharing: Sharing,
        states: States,
        queue: int,
    ) -> None:
        """`queue`: messages that wait for a session at most."""
        self._journal, self._db, self._clock, self._tick, self._commits = journal, db, clock, tick, commits
        self._changes, self._feeding, self._connecting = changes, feeding, connecting
        self._sharing, self._states, self._queue = sharing, states, queue
        self._checkpoint = 0
        self._keepers: dict[str, Callable[[], int]] = {}

    @property
    def position(self) -> int:
        """The journal may be trimmed below this offset, as far as the broker is concerned."""
        return min([self._checkpoint, *self._changes.floors.values()])

    def keep(self, name: str, position: Callable[[], int]) -> None:
        """Somebody reads the journal: it is trimmed below the lowest `position` only."""
        self._keepers[name] = position

    async def recover(self) -> None:
        """Sessions and origins as they were. Raises JournalDamaged, Corrupt."""
        rows, origins, checkpoint = self._db.read_now(
            lambda tx: (store.sessions(tx), store.origins(tx), store.checkpoint(tx))
        )
        position = self._journal.start if checkpoint is None else checkpoint
        self._journal.check_cursors({"broker": position})
        replay = recovery.Replay(self._clock.wall_ms(), self._queue)
        for client_id, stored in rows:
            replay.row(client_id, stored)
        replay.origins.update(origins)
        await self._replay(replay, max(position, self._journal.start))
        for client_id, session in replay.sessions.items():
            if is_store(client_id):
                self._sharing.restore(session)
        for client_id, session in replay.sessions.items():
            if not is_store(client_id):
                self._connecting.restore(session)
        self._sharing.restored()
        self._commits.restore(replay.origins)
        self._checkpoint = position
        self._changes.floors = {
            client_id: min(session.queue, default=position) for client_id, session in replay.sessions.items()
        }
        log.info("broker.recovered", sessions=len(replay.sessions), origins=len(replay.origins))

    async def run(self, tend: Callable[[], None]) -> None:
        """`tend` each second, a checkpoint each ten. Returns when cancelled."""
        elapsed_s = 0.0
        while True:
            await asyncio.sleep(TEND_S)
            elapsed_s += TEND_S
            tend()
            if elapsed_s >= CHECKPOINT_S:
                elapsed_s = 0.0
                try:
                    await self.checkpoint()
                    await self.sweep()
                except Unavailable as exc:
                    log.warning("broker.checkpoint_failed", reason=exc.message)

    async def checkpoint(self) -> None:
        """Write sessions and origins as of now, then let the journal go below what anybody needs. Raises Unavailable."""
        self._tick.flush()
        position = self._journal.end
        sessions = [session for session in self._connecting.sessions.values() if session.is_durable]
        sessions += self._sharing.stores.values()
        rows = [(session.client_id, recovery.body(session, position)) for session in sessions]
        floors = dict.fromkeys([client_id for client_id, _ in rows], position)
        gone = [client_id for client_id in self._changes.floors if client_id not in floors]
        for session in sessions:
            lowest = session.unacknowledged()[:1] + list(session.queue)[:1]
            if lowest:
                floors[session.client_id] = min(lowest)
        origins = {source: self._commits.highest[source] for source in self._commits.changed_sources}
        self._commits.changed_sources.clear()
        if position > self._journal.synced:
            await self._journal.wait_synced(position - 1)
        for at in range(0, max(len(rows), 1), CHECKPOINT_SESSIONS):
            part = rows[at : at + CHECKPOINT_SESSIONS]
            await self._db.write(lambda tx, part=part: _save_sessions(tx, part))  # type: ignore[misc]  # mypy: lambda default
        await self._db.write(lambda tx: _save_rest(tx, gone, origins, position))
        self._changes.floors = floors
        self._checkpoint = position
        self._trim()

    async def sweep(self) -> None:
        """Delete some of what nobody can ask for any more. Raises Unavailable."""
        await self._db.write(lambda tx: store.delete_expired(tx, EXPIRED_AT_ONCE))
        await self._states.forget_old()

    def _trim(self) -> None:
        """Below the lowest reader. A journal half full because a client stays away gives up that client's oldest."""
        journal = self._journal
        if self._keepers:
            journal.trim(min(self.position, *(position() for position in self._keepers.values())))
        if journal.bytes_on_disk <= journal.budget_bytes * SESSION_SHARE:
            return
        before = journal.start + (journal.end - journal.start) // 2
        everybody = [*self._connecting.sessions.values(), *self._sharing.stores.values()]
        given_up = sum(self._feeding.give_up(session, before) for session in everybody)
        if given_up:
            log.warning("broker.sessions_gave_up", messages=given_up, before=before)
            self._tick.touch()

    async def _replay(self, replay: recovery.Replay, offset: int) -> None:
        while offset < self._journal.synced:
            rows = await asyncio.to_thread(self._journal.read, offset, REPLAY_RECORDS, REPLAY_BYTES)
            if not rows:
                offset = self._journal.past_gap(offset)
                continue
            for at, record in rows:
                if record.kind == KIND_MESSAGE:
                    if b'"s":' in record.meta or b'"o":' in record.meta:
                        replay.message(at, codec.loads_object(record.meta, what="meta of a record"))
                elif record.kind == KIND_SESSION:
                    replay.change(at, codec.loads_object(record.meta, what="meta of a record"))
            offset = rows[-1][0] + 1
        replay.finish()


def _save_sessions(tx: Tx, rows: Iterable[tuple[str, str]]) -> None:
    for client_id, body in rows:
        store.save_session(tx, client_id, body)


def _save_rest(tx: Tx, gone: Iterable[str], origins: Mapping[str, int], position: int) -> None:
    for client_id in gone:
        store.delete_session(tx, client_id)
    for source, highest in origins.items():
        store.save_origin(tx, source, highest)
    store.set_checkpoint(tx, position)
