"""Retained messages: one a topic, a document in SQLite, found by the exact topic only (AWS: wildcards never get them).

Writes of one moment go into one transaction, the last one of a topic wins; whoever waits is told after the commit.
"""

import asyncio
from collections.abc import Callable

from marram.core.errors import MarramError
from marram.hub.broker import store
from marram.hub.broker.store import Retained
from marram.kit.db import Db, Tx


class RetainedMessages:
    def __init__(self, db: Db) -> None:
        self._db = db
        self._waiting: dict[str, Retained | None] = {}  # None: to be deleted
        self._tell: list[Callable[[MarramError | None], None]] = []
        self._writing: dict[str, Retained | None] = {}
        self._wake = asyncio.Event()

    def put(self, topic: str, item: Retained | None, done: Callable[[MarramError | None], None]) -> None:
        """Keep `item`, or none. `done` is called with None after the commit, or with what went wrong."""
        self._waiting[topic] = item
        self._tell.append(done)
        self._wake.set()

    def get(self, topic: str, now_ms: int) -> Retained | None:
        """What is retained now, also before its commit; not what has expired."""
        found: Retained | None
        if topic in self._waiting:
            found = self._waiting[topic]
        elif topic in self._writing:
            found = self._writing[topic]
        else:
            found = self._db.read_now(lambda tx: store.retained(tx, topic))
        return None if found is None or (found.expires_ms is not None and found.expires_ms <= now_ms) else found

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            items, tell = self._waiting, self._tell
            self._waiting, self._tell, self._writing = {}, [], items
            failed: MarramError | None = None
            try:
                await self._db.write(lambda tx, items=items: _save(tx, items))  # type: ignore[misc]  # mypy: lambda default
            except MarramError as exc:
                failed = exc
            finally:
                self._writing = {}
            for done in tell:
                done(failed)


def _save(tx: Tx, items: dict[str, Retained | None]) -> None:
    for topic, item in items.items():
        if item is None:
            store.delete_retained(tx, topic)
        else:
            store.save_retained(tx, item)
