"""Workload: open a database of the version before, which migrates it. argv: variant, folder. Prints `migrated`."""

import sqlite3
import sys
from pathlib import Path

from marram.kit import db as kit_db
from marram.kit.clock import FakeClock
from marram.kit.db import Db, Migrations

ONE = [Migrations(slice="note", package="tests.crash.work.schema_one")]
TWO = [Migrations(slice="note", package="tests.crash.work.schema_two")]


def piecemeal(connection: sqlite3.Connection, *args: object, **kwargs: object) -> None:
    """Each statement in a transaction of its own."""

    class Autocommit:
        in_transaction = False

        def execute(self, sql: str, *params: object) -> object:
            return None if sql in ("BEGIN IMMEDIATE", "COMMIT") else connection.execute(sql, *params)  # type: ignore[arg-type]

        def backup(self, target: sqlite3.Connection) -> None:
            connection.backup(target)

    original(Autocommit(), *args, **kwargs)  # type: ignore[arg-type]


original = kit_db._migrate

if __name__ == "__main__":
    if sys.argv[1] == "piecemeal":
        kit_db._migrate = piecemeal  # type: ignore[assignment]
    with Db.open(Path(sys.argv[2]) / "hub.db", clock=FakeClock(), migrations=TWO):
        print("migrated", flush=True)
