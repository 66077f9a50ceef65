"""The database after a power cut: committed is there, the rest is absent, two rows of one transaction never part."""

from pathlib import Path

import pytest

from marram.kit.clock import FakeClock
from marram.kit.db import Db, Tx
from tests.crash.sweep import python, sweep
from tests.crash.work import db as workload


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
    sweep(python("db", broken), check, every=2, stop_after=1).assert_caught()
