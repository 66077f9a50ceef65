"""The database after a power cut: committed is there, the rest is absent, two rows of one transaction never part."""

import sqlite3
from pathlib import Path

import pytest

from marram.kit.clock import FakeClock
from marram.kit.db import Db, Tx
from tests.crash.sweep import python, sweep
from tests.crash.work import db as workload
from tests.crash.work import migrate


def check(root: Path, acks: list[str]) -> None:
    def look(tx: Tx) -> tuple[set[str], list[str]]:
        if tx.one("SELECT 1 FROM sqlite_schema WHERE name = 'pair'") is None:
            return set(), []
        rows = tx.all("SELECT key, body FROM pair")
        for key, body in rows:
            assert body == workload.body(key.removesuffix("-twin")), f"{key} holds something else"
        assert tx.one("PRAGMA integrity_check") == ("ok",)
        return {row[0] for row in rows}, [row[0] for row in tx.all("SELECT topic FROM outbox ORDER BY id")]

    for number in range(2):  # it must be possible to go on, and to open once more
        with Db.open(root / "hub.db", clock=FakeClock()) as db:
            keys, outbox = db.read_now(look)
            whole = {key for key in keys if not key.endswith("-twin")}
            assert {f"{key}-twin" for key in whole} == keys - whole, "half of a transaction"
            assert set(outbox) == whole and len(outbox) == len(whole), "the outbox is not what was committed"
            lost = set(acks) - whole
            assert not lost, f"acknowledged and lost: {sorted(lost)[:5]}"
            assert number == 0 or "after.0" in whole, "lost after going on"
            assert "refused" not in whole
            db.write_sync(lambda tx: tx.execute(workload.SCHEMA))
            db.write_sync(workload.insert(f"after.{number}"))


def test_the_database_survives_a_power_cut_at_any_operation() -> None:
    sweep(python("db", "good"), check, every=3).assert_clean()


@pytest.mark.parametrize("broken", ["normal", "ack-first", "no-transaction"])
def test_the_sweep_notices(broken: str) -> None:
    sweep(python("db", broken), check, every=1, stop_after=1, budget_s=30).assert_caught()


def version_one(root: Path) -> None:
    with Db.open(root / "hub.db", clock=FakeClock(), migrations=migrate.ONE) as db:
        db.write_sync(
            lambda tx: tx.many("INSERT INTO note (id, text) VALUES (?, ?)", [(i, "x" * i) for i in range(300)])
        )


def check_migrated(root: Path, acks: list[str]) -> None:
    for backup in root.glob("hub.db.before-*"):
        copy = sqlite3.connect(backup)
        try:
            assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert copy.execute("SELECT count(*), sum(length(text)) FROM note").fetchone() == (300, 299 * 150)
        finally:
            copy.close()
    raw = sqlite3.connect(root / "hub.db")
    try:
        columns = len(raw.execute("PRAGMA table_info(note)").fetchall())
        steps = raw.execute("SELECT count(*) FROM migration WHERE slice = 'note'").fetchone()[0]
        index = raw.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'note_size'").fetchone()[0]
        assert (columns, steps, index) in [(2, 1, 0), (3, 3, 1)], "half migrated"
        assert columns == 3 or not acks
    finally:
        raw.close()
    with Db.open(root / "hub.db", clock=FakeClock(), migrations=migrate.TWO) as db:
        assert db.read_now(lambda tx: tx.one("SELECT count(*), sum(size) FROM note")) == (300, 299 * 150)


def test_a_migration_survives_a_power_cut_at_any_operation() -> None:
    sweep(python("migrate", "good"), check_migrated, every=2, prepare=version_one).assert_clean()


def test_the_sweep_notices_a_migration_in_pieces() -> None:
    sweep(python("migrate", "piecemeal"), check_migrated, every=1, prepare=version_one, stop_after=1).assert_caught()
