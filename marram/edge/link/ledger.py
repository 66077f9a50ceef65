"""The ledger: every byte that the link sends and receives, by destination and day. For people who pay by the megabyte.

Counted are the bytes of TLS records handed to and taken from TCP where the link owns the socket (MQTT), and of heads and bodies for
HTTPS. Kept in memory, written to state.db every minute and at the end: a kill loses a minute of counting, no message.
"""

import asyncio
import datetime
from collections.abc import Callable, Mapping
from typing import Final

from marram.edge.link import store
from marram.edge.link.store import Spent
from marram.kit import metrics
from marram.kit.db import Db, Migrations

MIGRATIONS: Final = Migrations(slice="link", package="marram.edge.link")
SAVE_S: Final = 60.0

BYTES: Final = metrics.counter("marram_link_bytes_total", "bytes of the link", ("destination", "direction"))


class Ledger:
    def __init__(self, db: Db, *, wall_ms: Callable[[], int]) -> None:
        self._db = db
        self._wall_ms = wall_ms
        self._unsaved: dict[str, tuple[int, int]] = {}

    def add(self, destination: str, sent: int, received: int) -> None:
        was = self._unsaved.get(destination, (0, 0))
        self._unsaved[destination] = (was[0] + sent, was[1] + received)
        if sent:
            BYTES.inc(sent, destination=destination, direction="out")
        if received:
            BYTES.inc(received, destination=destination, direction="in")

    def meter(self, destination: str) -> Callable[[int, int], None]:
        """A function of (sent, received) for one destination."""
        return lambda sent, received: self.add(destination, sent, received)

    async def spent(self, days: int = 31) -> list[Spent]:
        """The last `days` days, what is not written yet included."""
        await self.save()
        since = _day(self._wall_ms() - (days - 1) * 86_400_000)
        return await self._db.read(lambda tx: store.spent(tx, since))

    def totals(self) -> Mapping[str, tuple[int, int]]:
        """(sent, received) by destination, over all days that are kept and what is not written yet."""
        made = dict(self._unsaved)
        for each in self._db.read_now(lambda tx: store.spent(tx, "")):
            was = made.get(each.destination, (0, 0))
            made[each.destination] = (was[0] + each.sent, was[1] + each.received)
        return made

    async def save(self) -> None:
        counts, self._unsaved = self._unsaved, {}
        if not counts:
            return
        day = _day(self._wall_ms())
        try:
            await self._db.write(lambda tx: store.add_bytes(tx, day, counts))
        except BaseException:
            for destination, (sent, received) in counts.items():
                was = self._unsaved.get(destination, (0, 0))
                self._unsaved[destination] = (was[0] + sent, was[1] + received)
            raise

    async def run(self) -> None:
        try:
            while True:
                await asyncio.sleep(SAVE_S)
                await self.save()
        finally:
            await asyncio.shield(self.save())


def _day(wall_ms: int) -> str:
    return datetime.datetime.fromtimestamp(wall_ms / 1000, datetime.UTC).strftime("%Y-%m-%d")
