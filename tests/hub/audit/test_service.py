"""The chain of acts: what holds, and every way of changing it that verify must notice."""

import json
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from marram.core.errors import Invalid
from marram.hub.audit import service as audit_service
from marram.hub.audit.service import KEEP_MS, Audit
from marram.kit.clock import FakeClock
from marram.kit.db import Db, Migrations

MIGRATIONS = [Migrations(slice="audit", package="marram.hub.audit")]
CREATE = SimpleNamespace(service="iot", name="CreateThing", action="iot:CreateThing")
DELETE = SimpleNamespace(service="iot", name="DeleteThing", action="iot:DeleteThing")


@dataclass
class Log:
    db: Db
    audit: Audit
    clock: FakeClock
    folder: Path

    async def act(
        self, operation: Any = CREATE, *, who: str = "arn:x:user/a", count: int = 1, outcome: str = "OK"
    ) -> None:
        subject = SimpleNamespace(arn=who, principal="AKIA1")
        for number in range(count):
            call: Any = SimpleNamespace(subject=subject, source_ip="127.0.0.1", request_id=f"r{number}")
            await self.audit.record(call, operation, [f"arn:thing/{number}"], outcome)

    async def problem(self) -> str | None:
        checked = await self.audit.verify()
        while checked.problem is None and not checked.done:
            checked = await self.audit.verify(after=checked.last, digest=checked.digest)
        return checked.problem

    def edit(self, sql: str, *params: object) -> None:
        """By hand, past the program."""
        connection = sqlite3.connect(self.folder / "hub.db")
        with connection:
            assert connection.execute(sql, params).rowcount
        connection.close()


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[Log]:
    clock = FakeClock()
    db = Db.open(tmp_path / "hub.db", clock=clock, migrations=MIGRATIONS)
    try:
        yield Log(db, Audit(db, key=b"k" * 32, folder=tmp_path / "audit"), clock, tmp_path)
    finally:
        db.close()


async def test_an_act_says_who_from_where_what_and_how_it_ended(log: Log) -> None:
    await log.act(outcome="AccessDeniedException")
    [stored] = await log.audit.page()
    entry = json.loads(stored.entry)
    assert entry.pop("atMs") == log.clock.wall_ms()
    assert entry == {
        "seq": 1, "principal": "arn:x:user/a", "key": "AKIA1", "sourceIp": "127.0.0.1", "operation": "iot:CreateThing",
        "action": "iot:CreateThing", "resources": ["arn:thing/0"], "outcome": "AccessDeniedException", "requestId": "r0",
    }  # fmt: skip


async def test_a_chain_that_nobody_touched_is_whole_in_parts_too(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_service, "VERIFY_AT_ONCE", 4)
    assert await log.problem() is None
    await log.act(count=9)
    first = await log.audit.verify()
    assert (first.checked, first.last, first.done, first.problem) == (4, 4, False, None)
    assert await log.problem() is None
    await log.audit.publish_head()
    assert await log.problem() is None


@pytest.mark.parametrize(
    ("sql", "params", "says"),
    [
        pytest.param(
            "UPDATE audit SET entry = replace(entry, 'user/a', 'user/b') WHERE seq = 3", (), "act 3 was changed", id="text"
        ),
        pytest.param("UPDATE audit SET digest = zeroblob(32) WHERE seq = 3", (), "act 3 was changed", id="digest"),
        pytest.param("DELETE FROM audit WHERE seq = 3", (), "acts 3 to 3 are missing", id="one taken out"),
        pytest.param(
            "UPDATE audit SET entry = CAST(replace(CAST(entry AS TEXT), 'user/a', 'user/b') AS BLOB) WHERE seq = 3", (),
            "act 3 was changed", id="bytes",
        ),
        pytest.param("DELETE FROM audit WHERE seq < 3", (), "acts 1 to 2 are missing", id="the oldest cut off"),
        pytest.param("DELETE FROM audit WHERE seq > 3", (), "the newest are cut off", id="the newest cut off"),
        pytest.param("UPDATE audit SET seq = 9 WHERE seq = 5", (), "acts 5 to 8 are missing", id="another number"),
        pytest.param(
            "INSERT INTO audit (seq, at_ms, principal, operation, entry, digest) VALUES (6, 0, 'x', 'x', '{\"seq\":6}', ?)",
            (b"d" * 32,), "act 6 was changed", id="one put in",
        ),
        pytest.param(
            "INSERT INTO audit_base (id, seq, digest) VALUES (1, 2, ?)", (b"d" * 32,), "acts 1 to 2 were not", id="another base"
        ),
        pytest.param(
            "INSERT INTO audit_base (id, seq, digest) SELECT 1, seq, digest FROM audit WHERE seq = 2", (),
            "acts 1 to 2 were not taken away by the hub", id="the oldest cut off as if it was their time",
        ),
    ],
)  # fmt: skip
async def test_t31_verify_notices(log: Log, sql: str, params: tuple[object, ...], says: str) -> None:
    await log.act(count=5)
    await log.audit.publish_head()
    log.edit(sql, *params)
    assert says in str(await log.problem())


async def test_t31_a_chain_rewritten_without_the_key_does_not_hold(log: Log) -> None:
    await log.act(count=3)
    forger = Audit(log.db, key=b"x" * 32, folder=log.folder / "audit")
    log.edit("DELETE FROM audit")
    forged = Log(log.db, forger, log.clock, log.folder)
    await forged.act(count=3)
    assert await forged.problem() is None
    assert "act 1 was changed" in str(await log.problem())


async def test_t31_a_chain_cut_and_grown_again_differs_from_the_second_file(log: Log) -> None:
    await log.act(count=5)
    await log.audit.publish_head()
    log.edit("DELETE FROM audit WHERE seq > 3")
    await log.act(DELETE, count=4)
    assert "act 5 is not the one" in str(await log.problem())


async def test_acts_of_before_400_days_go_and_the_chain_holds(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_service, "PRUNE_AT_ONCE", 2)
    await log.act(count=5)
    log.clock.advance(KEEP_MS - 1)
    await log.act(count=2)
    await log.audit.tend()
    assert len(await log.audit.page()) == 7
    log.clock.advance(2)
    for left in ([7, 6, 5, 4, 3], [7, 6, 5], [7, 6], [7, 6]):
        await log.audit.tend()
        assert [stored.seq for stored in await log.audit.page()] == left
        assert await log.problem() is None
    assert await log.problem() is None
    await log.act()
    assert [stored.seq for stored in await log.audit.page()] == [8, 7, 6]
    assert await log.problem() is None


async def test_pages_go_back_and_filters_choose(log: Log) -> None:
    await log.act(count=3)
    log.clock.advance(1000)
    await log.act(DELETE, who="arn:x:user/b", count=3)
    first = await log.audit.page(limit=2)
    assert [stored.seq for stored in first] == [6, 5]
    assert [stored.seq for stored in await log.audit.page(before=5, limit=2)] == [4, 3]
    assert [stored.seq for stored in await log.audit.page(principal="arn:x:user/a")] == [3, 2, 1]
    assert [stored.seq for stored in await log.audit.page(operation="iot:DeleteThing", limit=1)] == [6]
    assert [stored.seq for stored in await log.audit.page(to_ms=log.clock.wall_ms())] == [3, 2, 1]
    with pytest.raises(Invalid, match="before fromMs"):
        await log.audit.page(from_ms=5, to_ms=4)


async def test_a_line_of_the_second_file_that_is_not_ours_is_a_problem(log: Log) -> None:
    await log.act()
    await log.audit.publish_head()
    with (log.folder / "audit" / "heads.jsonl").open("a") as file:
        file.write("nonsense\n")
    assert "the newest are cut off" in str(await log.problem())


async def test_the_second_file_gets_a_line_only_for_what_is_new(log: Log) -> None:
    await log.audit.stop()
    assert not (log.folder / "audit").exists()
    await log.act()
    for _ in range(3):
        await log.audit.stop()
    assert len((log.folder / "audit" / "heads.jsonl").read_text().splitlines()) == 1


async def test_t31_a_clock_that_is_years_ahead_takes_little_away(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_service, "PRUNE_AT_ONCE", 2)
    monkeypatch.setattr(audit_service, "PRUNE_SHARE", 5)
    await log.act(count=20)
    log.clock.advance(10 * KEEP_MS)
    await log.audit.tend()
    assert len(await log.audit.page()) == 16  # a fifth of twenty, not all
    assert await log.problem() is None


async def test_t31_refusals_do_not_fill_the_log(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_service, "REFUSED_BURST", 3)
    now = [0.0]
    monkeypatch.setattr(audit_service.time, "monotonic", lambda: now[0])
    await log.act(outcome="AccessDeniedException", count=10)
    assert len(await log.audit.page()) == 3
    await log.act(who="arn:x:user/b", outcome="AccessDeniedException")  # has a measure of his own
    await log.act()  # what is done is always told
    assert len(await log.audit.page()) == 5
    now[0] = 1.0
    await log.act(outcome="AccessDeniedException")
    [newest] = await log.audit.page(limit=1)
    assert json.loads(newest.entry)["refusedBefore"] == 7
    assert await log.problem() is None
