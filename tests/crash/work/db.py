"""Workload: transactions one by one and in company, the outbox, checkpoints, a reopening. Prints what has committed.

argv: variant, folder. Each write inserts `key` and, in the same transaction, `key-twin`, and emits `key`.
"""

import asyncio
import sqlite3
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from marram.core.errors import Invalid
from marram.kit.clock import FakeClock
from marram.kit.db import Db, Tx


class Normal(Db):
    """SQLite's other setting: safe for the file, not for the last commits."""

    def _connect(self) -> sqlite3.Connection:
        connection = super()._connect()
        connection.execute("PRAGMA synchronous=NORMAL")
        return connection


class AckFirst(Db):
    """Answers before the commit."""

    def _commit(self, connection: sqlite3.Connection) -> BaseException | None:
        for key in self.waiting:
            print(key, flush=True)
        self.waiting.clear()
        return super()._commit(connection)

    waiting: list[str] = []  # noqa: RUF012 - a workload of one database


class NoTransaction(Db):
    """Each statement on its own."""

    def _batch(self, first):  # type: ignore[no-untyped-def]
        self._writer = _Autocommit(self._writer)  # type: ignore[assignment]
        return super()._batch(first)


class _Autocommit:
    in_transaction = True

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def execute(self, sql: str, *params: object) -> object:
        if sql.split()[0] in ("BEGIN", "COMMIT", "SAVEPOINT", "RELEASE", "ROLLBACK"):
            return None
        return self._connection.execute(sql, *params)  # type: ignore[arg-type]

    def close(self) -> None:
        self._connection.close()


VARIANTS = {"good": Db, "normal": Normal, "ack-first": AckFirst, "no-transaction": NoTransaction}
SCHEMA = "CREATE TABLE IF NOT EXISTS pair (key TEXT PRIMARY KEY, body TEXT NOT NULL)"


def body(key: str) -> str:
    return key * 100


def insert(key: str) -> Callable[[Tx], None]:
    def work(tx: Tx) -> None:
        tx.execute("INSERT INTO pair (key, body) VALUES (?, ?)", key, body(key))
        tx.execute("INSERT INTO pair (key, body) VALUES (?, ?)", f"{key}-twin", body(key))
        tx.emit(key, b"")

    return work


def refused(tx: Tx) -> None:
    tx.execute("INSERT INTO pair (key, body) VALUES ('refused', '')")
    raise Invalid("always")


async def run(kind: type[Db], folder: Path) -> None:
    for part in range(2):
        db = kind.open(folder / "hub.db", clock=FakeClock())
        db.write_sync(lambda tx: tx.execute(SCHEMA))

        async def one(key: str, db: Db = db) -> None:
            if kind is AckFirst:
                AckFirst.waiting.append(key)
            await db.write(insert(key))
            if kind is not AckFirst:
                print(key, flush=True)

        for number in range(4):
            await one(f"{part}.{number}")
            await asyncio.gather(
                db.write(refused), *(one(f"{part}.{number}.{i}") for i in range(3)), return_exceptions=True
            )
            if number == 1:
                db._checkpoint_wanted.set()  # beside the writes that follow
        if kind is not NoTransaction:
            db.close()
    assert threading.active_count() < 8


if __name__ == "__main__":
    asyncio.run(run(VARIANTS[sys.argv[1]], Path(sys.argv[2])))
