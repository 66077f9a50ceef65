"""Jobs that another slice drives, in its transactions: what a deployment does with them."""

import sqlite3
from pathlib import Path

import pytest

import marram.hub.jobs
from marram.core.errors import NotFound
from marram.core.jobs import Status
from marram.hub.jobs.service import ExecutionChanged
from tests.hub.jobs.conftest import World

SPACE = "namespace-aws-gg-deployment"


async def test_a_job_from_creation_to_success(world: World) -> None:
    await world.db.write(
        lambda tx: world.jobs.create(tx, "j1", namespace=SPACE, document={"do": 1}, things=["t1", "t2"])
    )
    device = world.jobs.device
    first = device.next("t1", SPACE)
    assert first is not None
    assert (first.job, first.status, first.version, device.document("j1")) == ("j1", Status.QUEUED, 1, b'{"do":1}')
    assert world.sent(f"t1/jobs/notify-next-{SPACE}")[0]["execution"]["jobDocument"] == {"do": 1}  # type: ignore[index,call-overload]
    await world.report("j1", "t1", "IN_PROGRESS", expectedVersion="1")
    done = await world.report("j1", "t1", "SUCCEEDED", statusDetails={"a": "b"})
    assert (done.status, done.version, done.details) == (Status.SUCCEEDED, 3, {"a": "b"})
    assert device.next("t1", SPACE) is None
    heard = [(event.thing, event.status) for event in world.heard if isinstance(event, ExecutionChanged)]
    assert heard == [("t1", "IN_PROGRESS"), ("t1", "SUCCEEDED")]
    assert world.sent(f"t1/jobs/notify-next-{SPACE}")[-1].keys() == {"timestamp"}
    assert world.job("j1").status == "IN_PROGRESS"


async def test_cancel_leaves_what_has_begun(world: World) -> None:
    await world.db.write(lambda tx: world.jobs.create(tx, "j", namespace="", document={}, things=["t1", "t2"]))
    await world.start("t1")
    await world.db.write(lambda tx: world.jobs.cancel(tx, "j", "newer"))
    assert world.status("j", "t1") == "IN_PROGRESS"
    assert world.status("j", "t2") == "CANCELED"
    assert world.job("j").comment == "newer"
    await world.db.write(lambda tx: world.jobs.extend(tx, "j", ["t3"]))
    with pytest.raises(NotFound):
        world.status("j", "t3")


async def test_a_thing_that_left_and_is_wanted_again_has_another_execution(world: World) -> None:
    await world.db.write(lambda tx: world.jobs.create(tx, "j", namespace="", document={}, things=["t1"]))
    await world.db.write(lambda tx: world.jobs.remove(tx, "j", "t1"))
    assert world.status("j", "t1") == "REMOVED"
    assert world.jobs.device.next("t1", "") is None
    await world.db.write(lambda tx: world.jobs.extend(tx, "j", ["t1"]))
    again = world.jobs.device.next("t1", "")
    assert again is not None
    assert (again.number, again.version, again.status) == (2, 1, Status.QUEUED)


def test_jobs_of_before_are_counted_when_their_tables_change() -> None:
    """A data folder of 0.1.0: its jobs are driven by deployments, and have executions in every state."""
    folder = Path(marram.hub.jobs.__file__).parent / "migrations"
    database = sqlite3.connect(":memory:")
    database.executescript((folder / "0001_jobs.sql").read_text())
    for name, at in (("new", 2), ("old", 1)):
        database.execute("INSERT INTO job VALUES (?, 'n', '{}', 'IN_PROGRESS', ?)", (name, at))
    for number, status in enumerate([*Status, Status.QUEUED]):
        row = ("old", f"t{number}", str(status), "{}", 1, 3, 5, None, 6)
        database.execute("INSERT INTO job_execution VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    database.executescript((folder / "0002_rollout.sql").read_text())
    counters = ", ".join(status.lower() for status in Status)
    assert database.execute(f"SELECT {counters} FROM job ORDER BY seq").fetchall() == [
        (2, 1, 1, 1, 1, 1, 1, 1), (0, 0, 0, 0, 0, 0, 0, 0)
    ]  # fmt: skip
    assert database.execute("SELECT id, driven, selection, spread FROM job ORDER BY seq").fetchall() == [
        ("old", 1, "CONTINUOUS", 1), ("new", 1, "CONTINUOUS", 1)
    ]  # fmt: skip
    database.close()
