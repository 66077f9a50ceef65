"""Jobs on a real database: the queue of a thing, what it may report, what is notified."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from marram.core.errors import Conflict, Invalid, NotFound, VersionConflict
from marram.core.jobs import Status
from marram.hub.bus import Bus
from marram.hub.jobs.service import ExecutionChanged, Jobs
from marram.kit.clock import FakeClock
from marram.kit.db import Db, Migrations

SPACE = "namespace-aws-gg-deployment"


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Db]:
    with Db.open(
        tmp_path / "hub.db", clock=FakeClock(), migrations=[Migrations(slice="jobs", package="marram.hub.jobs")]
    ) as opened:
        yield opened


def notified(db: Db, tail: str) -> list[dict[str, object]]:
    return [json.loads(body) for _, topic, body, _ in db.outbox_pending(1000) if topic.endswith(tail)]


async def test_a_job_from_creation_to_success(db: Db) -> None:
    bus, seen = Bus(), list[ExecutionChanged]()
    bus.subscribe(ExecutionChanged, seen.append)
    jobs = Jobs(db, bus)
    await db.write(lambda tx: jobs.create(tx, "j1", namespace=SPACE, document={"do": 1}, things=["t1", "t2"]))
    first = await jobs.next("t1", SPACE)
    assert first is not None
    assert (first.job, first.status, first.version, first.document) == ("j1", Status.QUEUED, 1, b'{"do":1}')
    assert notified(db, f"t1/jobs/notify-next-{SPACE}")[0]["execution"]["jobDocument"] == {"do": 1}  # type: ignore[index]
    await jobs.update("j1", "t1", {"status": "IN_PROGRESS", "expectedVersion": "1"})
    done = await jobs.update("j1", "t1", {"status": "SUCCEEDED", "statusDetails": {"a": "b"}})
    assert (done.status, done.version, done.details) == (Status.SUCCEEDED, 3, {"a": "b"})
    assert await jobs.next("t1", SPACE) is None
    assert [(event.thing, event.status) for event in seen] == [("t1", "IN_PROGRESS"), ("t1", "SUCCEEDED")]
    assert notified(db, f"t1/jobs/notify-next-{SPACE}")[-1].keys() == {"timestamp"}


async def test_the_same_final_report_twice_is_fine_another_is_not(db: Db) -> None:
    jobs = Jobs(db, Bus())
    await db.write(lambda tx: jobs.create(tx, "j", namespace="", document={}, things=["t"]))
    await jobs.update("j", "t", {"status": "FAILED"})
    assert (await jobs.update("j", "t", {"status": "FAILED"})).version == 2
    with pytest.raises(Conflict, match="final"):
        await jobs.update("j", "t", {"status": "SUCCEEDED"})


async def test_bad_reports(db: Db) -> None:
    jobs = Jobs(db, Bus())
    await db.write(lambda tx: jobs.create(tx, "j", namespace="", document={}, things=["t"]))
    for request, error in (
        ({}, Invalid),
        ({"status": "DONE"}, Invalid),
        ({"status": "CANCELED"}, Invalid),
        ({"status": "FAILED", "statusDetails": {"a": 1}}, Invalid),
        ({"status": "FAILED", "expectedVersion": 9}, VersionConflict),
        ({"status": "FAILED", "expectedVersion": 1.5}, Invalid),
    ):
        with pytest.raises(error):
            await jobs.update("j", "t", request)  # type: ignore[arg-type]
    with pytest.raises(NotFound):
        await jobs.update("nope", "t", {"status": "FAILED"})
    assert (await jobs.get("j", "t")).version == 1


async def test_cancel_leaves_what_has_begun(db: Db) -> None:
    jobs = Jobs(db, Bus())
    await db.write(lambda tx: jobs.create(tx, "j", namespace="", document={}, things=["t1", "t2"]))
    await jobs.start_next("t1", "", {})
    await db.write(lambda tx: jobs.cancel(tx, "j", "newer"))
    assert (await jobs.get("j", "t1")).status is Status.IN_PROGRESS
    assert (await jobs.get("j", "t2")).status is Status.CANCELED
    await db.write(lambda tx: jobs.extend(tx, "j", "", ["t3"]))
    with pytest.raises(NotFound):
        await jobs.get("j", "t3")


async def test_things_run_jobs_in_order_one_at_a_time(db: Db) -> None:
    jobs = Jobs(db, Bus())
    for job in ("a", "b"):
        await db.write(lambda tx, job=job: jobs.create(tx, job, namespace="", document={}, things=["t"]))  # type: ignore[misc]
    first = await jobs.start_next("t", "", {})
    again = await jobs.start_next("t", "", {})
    assert first is not None
    assert again is not None
    assert first.job == again.job == "a"
    await jobs.update("a", "t", {"status": "SUCCEEDED"})
    following = await jobs.next("t", "")
    assert following is not None
    assert following.job == "b"
