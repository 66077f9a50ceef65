import asyncio
import sqlite3
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from marram.core.errors import AlreadyExists, Conflict, Corrupt, Invalid, NotFound, Unavailable
from marram.kit import db as kit_db
from marram.kit.clock import FakeClock, SeededEntropy
from marram.kit.db import ChangedMigration, Db, Migrations, NewerDatabase, Tx

SCHEMA = "CREATE TABLE note (id TEXT PRIMARY KEY, text TEXT NOT NULL); CREATE TABLE page (note TEXT NOT NULL REFERENCES note (id));"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An importable package `scratch` whose migrations a test may write."""
    folder = tmp_path / "import" / "scratch" / "migrations"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    (folder / "0001_start.sql").write_text(SCHEMA)
    monkeypatch.syspath_prepend(str(tmp_path / "import"))
    yield folder
    sys.modules.pop("scratch", None)


SCRATCH = [Migrations(slice="scratch", package="scratch")]


def open_db(tmp_path: Path) -> Db:
    return Db.open(tmp_path / "hub.db", clock=FakeClock(), entropy=SeededEntropy(1), migrations=SCRATCH)


@pytest.fixture
def db(tmp_path: Path, package: Path) -> Iterator[Db]:
    with open_db(tmp_path) as opened:
        yield opened


def put(key: str, text: str = "x"):
    return lambda tx: tx.execute("INSERT INTO note (id, text) VALUES (?, ?)", key, text)


def keys(tx: Tx) -> list[str]:
    return [row[0] for row in tx.all("SELECT id FROM note ORDER BY id")]


async def test_a_write_is_read_back_on_every_path_and_after_reopening(tmp_path: Path, db: Db) -> None:
    assert await db.write(put("a")) == 1
    assert db.read_now(keys) == await db.read(keys) == ["a"]
    db.close()
    with open_db(tmp_path) as again:
        assert again.read_now(keys) == ["a"]


async def test_concurrent_writes_share_a_commit(db: Db) -> None:
    before = kit_db._commits.labels().value
    async with asyncio.TaskGroup() as group:
        for i in range(500):
            group.create_task(db.write(put(f"{i:03}")), name="write")
    assert len(db.read_now(keys)) == 500
    assert kit_db._commits.labels().value - before < 50


async def test_a_failing_function_loses_only_its_own_changes(db: Db) -> None:
    def bad(tx: Tx) -> None:
        put("bad")(tx)
        raise NotFound("no such thing")

    good, failed, other = await asyncio.gather(
        db.write(put("a")), db.write(bad), db.write(put("b")), return_exceptions=True
    )
    assert (good, other) == (1, 1)
    assert isinstance(failed, NotFound)
    assert db.read_now(keys) == ["a", "b"]


@pytest.mark.parametrize(
    ("sql", "error"),
    [
        pytest.param("INSERT INTO note (id, text) VALUES ('a', 'again')", AlreadyExists, id="unique"),
        pytest.param("INSERT INTO page (note) VALUES ('nobody')", Conflict, id="foreign key"),
        pytest.param("INSERT INTO note (id) VALUES ('b')", RuntimeError, id="not null is our mistake"),
        pytest.param("SELEC 1", RuntimeError, id="syntax is our mistake"),
    ],
)
async def test_sqlite_errors_become_ours(db: Db, sql: str, error: type[Exception]) -> None:
    await db.write(put("a"))
    with pytest.raises(error):
        await db.write(lambda tx: tx.execute(sql))
    await db.write(put("still works"))


async def test_a_function_may_catch_a_taken_key_and_go_on(db: Db) -> None:
    def work(tx: Tx) -> str:
        put("a")(tx)
        try:
            put("a")(tx)
        except AlreadyExists:
            put("b")(tx)
        return "done"

    assert await db.write(work) == "done"
    assert db.read_now(keys) == ["a", "b"]


async def test_a_full_disk_fails_the_whole_batch_and_nothing_is_written_outside_it(db: Db) -> None:
    entered, go = threading.Event(), threading.Event()

    def hold(tx: Tx) -> None:
        entered.set()
        go.wait(10)
        put("held")(tx)

    def full(tx: Tx) -> None:
        pages = tx.one("PRAGMA page_count")
        assert pages is not None
        tx.one(f"PRAGMA max_page_count={pages[0]}")
        try:
            tx.execute("INSERT INTO note (id, text) VALUES ('big', ?)", "x" * 1_000_000)
        except Unavailable:
            put("outside")(tx)  # a function that swallows the error must not run on in autocommit

    held = asyncio.ensure_future(db.write(hold))
    await asyncio.to_thread(entered.wait, 10)
    rest = [asyncio.ensure_future(db.write(work)) for work in (full, put("after"))]
    await asyncio.sleep(0)
    go.set()
    outcomes = await asyncio.gather(held, *rest, return_exceptions=True)
    assert all(isinstance(outcome, Unavailable) for outcome in outcomes), outcomes
    await db.write(lambda tx: tx.one("PRAGMA max_page_count=1000000"))
    assert db.read_now(keys) == []
    await db.write(put("recovered"))
    assert db.read_now(keys) == ["recovered"]


async def test_after_commit_runs_in_commit_order_before_the_await_returns(db: Db) -> None:
    seen: list[int] = []
    loop_thread = threading.get_ident()

    def work(i: int):
        def inner(tx: Tx) -> None:
            tx.after_commit(lambda: seen.append(i if threading.get_ident() == loop_thread else -1))
            if i % 7 == 3:
                raise Invalid("never committed")

        return inner

    async def one(i: int) -> None:
        try:
            await db.write(work(i))
            assert i in seen
        except Invalid:
            assert i not in seen

    async with asyncio.TaskGroup() as group:
        for i in range(300):
            group.create_task(one(i), name="one")
    assert seen == [i for i in range(300) if i % 7 != 3]


async def test_write_sync_on_the_loop_runs_earlier_calls_first(db: Db) -> None:
    seen: list[str] = []
    first = asyncio.ensure_future(db.write(lambda tx: tx.after_commit(lambda: seen.append("first"))))
    await asyncio.sleep(0)
    db.write_sync(lambda tx: tx.after_commit(lambda: seen.append("second")))
    assert seen == ["first", "second"]
    await first


async def test_write_sync_from_another_thread_calls_back_on_the_loop(db: Db) -> None:
    seen: list[int] = []
    await db.write(put("a"))
    await asyncio.to_thread(db.write_sync, lambda tx: tx.after_commit(lambda: seen.append(threading.get_ident())))
    assert seen == [threading.get_ident()]


async def test_a_failing_after_commit_call_does_not_stop_the_others(db: Db) -> None:
    seen: list[int] = []

    def work(tx: Tx) -> None:
        tx.after_commit(lambda: 1 // 0)  # type: ignore[arg-type,return-value]
        tx.after_commit(lambda: seen.append(1))

    await db.write(work)
    assert seen == [1]


async def test_the_outbox_commits_with_the_function_and_its_ids_never_come_back(db: Db) -> None:
    woken: list[int] = []
    db.on_outbox(lambda: woken.append(1))

    def fails(tx: Tx) -> None:
        tx.emit("lost", {})
        raise Invalid("no")

    await db.write(lambda tx: tx.emit("a/b", {"x": 1}))
    with pytest.raises(Invalid):
        await db.write(fails)
    await db.write(lambda tx: tx.emit("raw", b"\0"))
    first, second = db.outbox_pending(10)
    assert first[1:] == ("a/b", b'{"x":1}', 1_750_000_000_000)
    assert second[1:3] == ("raw", b"\0")
    assert len(woken) == 2
    await db.outbox_done(second[0])
    assert db.outbox_pending(10) == []
    await db.write(lambda tx: tx.emit("c", {}))
    assert db.outbox_pending(10)[0][0] > second[0]


async def test_a_cached_document_follows_its_commits(db: Db) -> None:
    loads = 0

    def load(tx: Tx) -> str | None:
        nonlocal loads
        loads += 1
        row = tx.one("SELECT text FROM note WHERE id = ?", "a")
        return None if row is None else str(row[0])

    def write(tx: Tx) -> None:
        put("a", "one")(tx)
        tx.touch("note", "a")

    assert db.cached("note", "a", load) is None
    await db.write(write)
    assert [db.cached("note", "a", load) for _ in range(3)] == ["one"] * 3
    assert loads == 2
    await db.write(lambda tx: tx.touch("note", "a", "given"))
    assert db.cached("note", "a", load) == "given"


async def test_the_cache_is_bounded(tmp_path: Path, package: Path) -> None:
    with Db.open(tmp_path / "b.db", clock=FakeClock(), migrations=SCRATCH, cache_entries=10) as db:
        for i in range(100):
            db.cached("t", i, lambda tx: object())
        assert len(db._cache) == 10


async def test_a_read_cannot_write(db: Db) -> None:
    with pytest.raises(RuntimeError, match="a write in a read"):
        db.read_now(put("a"))


async def test_a_cancelled_wait_leaves_the_writer_working(db: Db) -> None:
    """What waits and is given up is not written; what is under way is, and the next one is served."""
    begun, gate = threading.Event(), threading.Event()

    def slow(tx: Tx) -> None:
        put("slow")(tx)
        begun.set()
        assert gate.wait(10)

    under_way = asyncio.ensure_future(db.write(slow))
    while not begun.is_set():
        await asyncio.sleep(0)
    waiting = asyncio.ensure_future(db.write(put("given up")))
    await asyncio.sleep(0)
    under_way.cancel()
    waiting.cancel()
    ended = await asyncio.gather(under_way, waiting, return_exceptions=True)
    assert [type(each) for each in ended] == [asyncio.CancelledError] * 2
    gate.set()
    await db.write(put("next"))
    assert sorted(db.read_now(keys)) == ["next", "slow"]


async def test_a_closed_database_refuses(db: Db) -> None:
    db.close()
    with pytest.raises(Unavailable):
        await db.write(put("a"))
    with pytest.raises(Unavailable):
        db.read_now(keys)


async def test_the_wal_stays_bounded_under_steady_writing(db: Db) -> None:
    # random bytes of a page each: 100 MB through the WAL
    largest = 0
    for _ in range(100):
        await db.write(
            lambda tx: tx.execute("INSERT OR REPLACE INTO note (id, text) VALUES ('big', ?)", "y" * 1_000_000)
        )
        largest = max(largest, db._wal_path.stat().st_size)
    assert largest < 64 << 20


async def test_a_backup_is_one_whole_file(tmp_path: Path, db: Db) -> None:
    await db.write(put("a"))
    await db.backup(tmp_path / "copy.db")
    copy = sqlite3.connect(tmp_path / "copy.db")
    assert copy.execute("SELECT id FROM note").fetchall() == [("a",)]
    copy.close()


def test_pending_migrations_run_once_in_one_transaction_after_a_backup(tmp_path: Path, package: Path) -> None:
    with open_db(tmp_path) as db:
        db.write_sync(put("a"))
    (package / "0002_more.sql").write_text(
        "ALTER TABLE note ADD COLUMN extra TEXT; -- why; not\nINSERT INTO note (id, text) VALUES ('m', ';');"
    )
    for _ in range(2):
        with open_db(tmp_path) as db:
            assert db.read_now(keys) == ["a", "m"]
    (backup,) = tmp_path.glob("hub.db.before-*")
    copy = sqlite3.connect(backup)
    assert copy.execute("SELECT * FROM note").fetchall() == [("a", "x")]
    copy.close()


def test_a_migration_that_fails_changes_nothing(tmp_path: Path, package: Path) -> None:
    open_db(tmp_path).close()
    (package / "0002_good.sql").write_text("CREATE TABLE good (x);")
    (package / "0003_bad.sql").write_text("CREATE TABLE bad (x); CREATE TABLE note (x);")
    with pytest.raises(RuntimeError, match="0003_bad"):
        open_db(tmp_path)
    (package / "0003_bad.sql").unlink()
    (package / "0002_good.sql").unlink()
    with open_db(tmp_path) as db:
        assert db.read_now(lambda tx: tx.all("SELECT name FROM sqlite_schema WHERE name IN ('good', 'bad')")) == []


def test_a_newer_database_is_refused_by_version(tmp_path: Path, package: Path) -> None:
    (package / "0002_later.sql").write_text("CREATE TABLE later (x);")
    open_db(tmp_path).close()
    (package / "0002_later.sql").unlink()
    with pytest.raises(NewerDatabase, match=r"Marram 0\.1\.0 .*0002_later"):
        open_db(tmp_path)


def test_a_slice_that_a_later_program_brought_is_refused(tmp_path: Path, package: Path) -> None:
    open_db(tmp_path).close()
    raw = sqlite3.connect(tmp_path / "hub.db")
    raw.execute("UPDATE migration SET slice = 'elsewhere' WHERE slice = 'scratch'")
    raw.execute("DROP TABLE page")
    raw.execute("DROP TABLE note")
    raw.commit()
    open_db(tmp_path).close()  # this program's own version: another process runs that slice
    raw.execute("UPDATE migration SET program = '99.0.0' WHERE slice = 'elsewhere'")
    raw.commit()
    raw.close()
    with pytest.raises(NewerDatabase, match=r"99\.0\.0"):
        open_db(tmp_path)


def test_a_changed_migration_is_refused(tmp_path: Path, package: Path) -> None:
    open_db(tmp_path).close()
    (package / "0001_start.sql").write_text(SCHEMA + " ")
    with pytest.raises(ChangedMigration, match="0001_start"):
        open_db(tmp_path)


def test_a_damaged_database_is_named_corrupt(tmp_path: Path, package: Path) -> None:
    (tmp_path / "hub.db").write_bytes(b"not a database" * 1000)
    with pytest.raises(Corrupt):
        open_db(tmp_path)


async def test_messages_of_one_statement_keep_their_order(tmp_path: Path) -> None:
    with Db.open(tmp_path / "hub.db", clock=FakeClock()) as db:

        def work(tx: Tx) -> None:
            tx.emit("a", {"n": 1})
            tx.emit_many([("b", {"n": 2}), ("c", b"raw"), ("d", [])])
            tx.emit_many([])
            tx.emit("e", {})

        await db.write(work)
        with pytest.raises(Invalid):
            await db.write(lambda tx: tx.emit_many([("f", {}), ("g", float("nan"))]))
        rows = db.outbox_pending()
    assert [(topic, body) for _, topic, body, _ in rows] == [
        ("a", b'{"n":1}'), ("b", b'{"n":2}'), ("c", b"raw"), ("d", b"[]"), ("e", b"{}"),
    ]  # fmt: skip
    assert [row[0] for row in rows] == sorted({row[0] for row in rows})
