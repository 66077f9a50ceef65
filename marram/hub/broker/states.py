"""The state of each client's connection: when it came, when and why it left, which number it has. Kept when it is gone.

A state is in memory from a change until it is written, once a second for all that changed; the table has one row a client id.
What was connected when the hub died is found at the next start, and has left then, for SERVER_ERROR. A client id that was
not heard of for 30 days is forgotten. Not here: sessions (connecting.py), what is published about it (presence.py).
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Protocol

from marram.core.codec import JsonValue
from marram.core.errors import Unavailable
from marram.hub.broker import store
from marram.hub.broker.store import ConnectionState
from marram.hub.bus import Bus
from marram.kit.clock import Clock
from marram.kit.db import Db, Tx
from marram.kit.log import logger

__all__ = ["ConnectionChanged", "ConnectionState", "Index", "States"]

log = logger(__name__)

COALESCE_S: Final = 1.0
WRITTEN_AT_ONCE: Final = 400
FORGET_VERSION_MS: Final = 3_600_000  # the version number begins again, unless a session lives longer
FORGET_MS: Final = 30 * 24 * 3_600_000
FORGOTTEN_AT_ONCE: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionChanged:
    """Bus: a client connected or left. `reason`: disconnectReason of the lifecycle event, "" while it is connected."""

    client_id: str
    thing: str | None
    principal: str
    connected: bool
    at_ms: int
    reason: str
    session_id: str
    version: int


class Index(Protocol):
    """The registry's search index."""

    def connectivity(self, tx: Tx, thing: str, state: Mapping[str, JsonValue]) -> None: ...


class States:
    def __init__(self, db: Db, clock: Clock, bus: Bus) -> None:
        self._db, self._clock, self._bus = db, clock, bus
        self._changed: dict[str, ConnectionState] = {}
        self._writing: dict[str, ConnectionState] = {}
        self._wake = asyncio.Event()
        self._index: Index | None = None
        self._purged = ""  # how far the last look for those to be forgotten came

    def use_index(self, index: Index) -> None:
        self._index = index

    def get(self, client_id: str) -> ConnectionState | None:
        """As of now; None for a client that nobody has heard of."""
        found = self._changed.get(client_id) or self._writing.get(client_id)
        return found or self._db.read_now(lambda tx: store.connection(tx, client_id))

    def searchable(self, tx: Tx, thing: str) -> dict[str, JsonValue] | None:
        """What `Index.connectivity` was told last of a thing: for an index that is built."""
        state = store.connection_of_thing(tx, thing)
        return None if state is None else _searchable(state)

    def next_version(self, client_id: str, now_ms: int) -> int:
        """Of a connection that begins: one more than the last, from 0 again when that one is long gone."""
        last = self.get(client_id)
        if last is None:
            return 0
        stays_ms = max(FORGET_VERSION_MS, last.expiry_s * 1000)
        return 0 if not last.connected and now_ms - last.disconnected_ms > stays_ms else last.version + 1

    def put(self, state: ConnectionState) -> None:
        """It connected or left: told on the bus, and written in a moment."""
        self._changed[state.client_id] = state
        self._wake.set()
        self._bus.publish(
            ConnectionChanged(
                client_id=state.client_id,
                thing=state.thing,
                principal=state.principal,
                connected=state.connected,
                at_ms=state.connected_ms if state.connected else state.disconnected_ms,
                reason=state.reason,
                session_id=state.session_id,
                version=state.version,
            )
        )

    def orphans(self, reason: str) -> list[ConnectionState]:
        """At start, before the first client: those that the last life left connected, as they are now."""
        now_ms = self._clock.wall_ms()
        found = self._db.read_now(store.live_connections)
        return [replace(state, connected=False, disconnected_ms=now_ms, reason=reason) for state in found]

    async def run(self) -> None:
        """Writes what changed. Returns when cancelled."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(COALESCE_S)
            self._wake.clear()
            await self.write()

    async def write(self) -> None:
        """All that changed until now; what cannot be written is tried again with the next change."""
        self._writing, self._changed = self._changed, {}
        items = list(self._writing.values())
        written = 0
        try:
            for at in range(0, len(items), WRITTEN_AT_ONCE):
                part = items[at : at + WRITTEN_AT_ONCE]
                await self._db.write(lambda tx, part=part: self._save(tx, part))  # type: ignore[misc]  # mypy: lambda default
                written += len(part)
        except Unavailable as exc:
            log.warning("broker.states_not_written", count=len(items) - written, reason=exc.message)
        finally:  # also when the hub stops meanwhile: its last write takes them
            self._writing = {}
            for state in items[written:]:
                self._changed.setdefault(state.client_id, state)

    async def forget_old(self) -> None:
        """A few hundred rows further: those that are long gone are deleted. Raises Unavailable."""
        before_ms = self._clock.wall_ms() - FORGET_MS
        self._purged = await self._db.write(
            lambda tx: store.forget_connections(tx, self._purged, before_ms, FORGOTTEN_AT_ONCE)
        )

    def _save(self, tx: Tx, states: list[ConnectionState]) -> None:
        for state in states:
            store.save_connection(tx, state)
            if self._index is not None and state.thing is not None:
                self._index.connectivity(tx, state.thing, _searchable(state))


def _searchable(state: ConnectionState) -> dict[str, JsonValue]:
    found: dict[str, JsonValue] = {
        "connected": state.connected,
        "timestamp": state.connected_ms if state.connected else state.disconnected_ms,
        "clientId": state.client_id,
        "version": state.version,
        "cleanSession": state.expiry_s == 0,
        "sessionExpiry": state.expiry_s,
        "keepAliveDuration": state.keep_alive_s,
    }
    if not state.connected:
        found["disconnectReason"] = state.reason
    return found
