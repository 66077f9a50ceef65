"""In-process events between slices (upwards: registry says ThingDeleted, shadow listens), and the runner of the outbox.

Events are dataclasses; handlers are synchronous and quick: they change memory or set an asyncio.Event. What must survive
a crash goes by `tx.emit` into the outbox instead, and leaves here, once, in order, after its transaction.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol, TypeVar

from marram.kit.log import logger

log = logger(__name__)
E = TypeVar("E")


class Bus:
    def __init__(self) -> None:
        self._handlers: dict[type[object], list[Callable[[object], None]]] = {}

    def subscribe(self, kind: type[E], handler: Callable[[E], None]) -> None:
        self._handlers.setdefault(kind, []).append(handler)  # type: ignore[arg-type]  # keyed by the very type

    def publish(self, event: object) -> None:
        """Call every handler of the event's class; one that fails is logged and does not stop the others."""
        for handler in self._handlers.get(type(event), ()):
            try:
                handler(event)
            except Exception as exc:  # a supervisor: events have many unrelated listeners
                log.error("bus.handler_failed", exc_info=exc, of=type(event).__name__)


class OutboxStore(Protocol):
    """The outbox side of kit.db."""

    def outbox_pending(self, limit: int) -> list[tuple[int, str, bytes, int]]: ...
    def on_outbox(self, call: Callable[[], None]) -> None: ...
    async def outbox_done(self, up_to_id: int) -> None: ...


class Outbox:
    """Hands emitted rows (id, topic, body), in order and many at once, to `publish`, and deletes them when it returned.

    When it raises, they are given again: whoever publishes them knows by their ids which it has had.
    """

    def __init__(
        self, store: OutboxStore, publish: Callable[[Iterable[tuple[int, str, bytes]]], Awaitable[None]]
    ) -> None:
        self._store, self._publish = store, publish
        self._wake = asyncio.Event()
        self._wake.set()  # rows of before the start
        store.on_outbox(self._wake.set)

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while rows := self._store.outbox_pending(256):
                await self._publish([row[:3] for row in rows])
                await self._store.outbox_done(rows[-1][0])
