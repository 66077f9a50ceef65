"""Jobs after a power cut: what was answered holds, counts are right, each end was told once, and every thing gets its job."""

import asyncio
import json
from collections import Counter
from pathlib import Path

import pytest

from marram.core import rollout
from marram.core.errors import NotFound
from marram.core.jobs import ACTIVE, TERMINAL
from marram.hub.jobs import settings, store
from marram.kit.db import Tx
from tests.crash.sweep import python, sweep
from tests.crash.work import jobs as workload
from tests.hub.jobs.conftest import World

STATUSES = ("QUEUED", "IN_PROGRESS", "SUCCEEDED", "FAILED", "TIMED_OUT", "REJECTED", "REMOVED", "CANCELED")
RETRIED = ("FAILED", "TIMED_OUT")


def check(root: Path, acks: list[str]) -> None:
    asyncio.run(_look(root, acks))


async def _look(root: Path, acks: list[str]) -> None:
    world = workload.opened(root, 3)
    try:
        world.db.read_now(_counts_are_right)
        world.db.read_now(_told_once)
        for line in acks:
            _holds(world, *line.split())
        for _ in range(5):  # it goes on, until everything has reached its end
            await world.work(1)
        world.db.read_now(_counts_are_right)
        await _reaches_everything(world)
    finally:
        world.db.close()


def _counts_are_right(tx: Tx) -> None:
    for name, *_ in tx.all("SELECT id FROM job"):
        job = store.job(tx, name)
        assert job is not None
        present = Counter(str(row[0]) for row in tx.all("SELECT status FROM job_execution WHERE job = ?", name))
        found = {status: getattr(job, status.lower()) for status in STATUSES}
        assert found == {status: present[status] for status in STATUSES}, f"{name} counts {found}, has {present}"
        # Those of a thing that was removed and came back are past as well, and count nowhere.
        past = Counter(str(row[0]) for row in tx.all("SELECT status FROM job_execution_past WHERE job = ?", name))
        for status in RETRIED:
            assert getattr(job, f"retried_{status.lower()}") == past[status], f"{name}: retries"
        over = rollout.broken(settings.read(job.config).abort, job.counts)
        assert over is None or job.status not in ACTIVE, f"{name} is {job.status} over its threshold: {job.counts}"
        (waiting,) = tx.all("SELECT count(*) FROM job_waiting WHERE job = ?", name)
        assert job.waiting == waiting[0], f"{name}: {job.waiting} wait, {waiting[0]} are there"
        both = "SELECT count(*) FROM job_waiting w JOIN job_execution e ON e.job = w.job AND e.thing = w.thing"
        assert tx.all(f"{both} WHERE w.job = ?", name) == [(0,)], f"{name}: waits and has it"


def _told_once(tx: Tx) -> None:
    """An event for each execution that has ended; those of a job that is being deleted go."""
    told: Counter[tuple[str, str, str]] = Counter()
    rows = tx.all("SELECT topic, body FROM outbox WHERE topic LIKE '$aws/events/jobExecution/%'")
    for _topic, body in rows:
        event = json.loads(body)
        if event["operation"] != "deleted":
            told[event["jobId"], event["thingArn"].rpartition("/")[2], event["status"]] += 1
    wanted: Counter[tuple[str, str, str]] = Counter()
    for table in ("job_execution", "job_execution_past"):
        for job, thing, status in tx.all(f"SELECT job, thing, status FROM {table}"):
            if status in TERMINAL:
                wanted[job, thing, status] += 1
    gone = {key for key in told if store.job(tx, key[0]) is None or key[0] == "gone"}
    assert {key: count for key, count in told.items() if key not in gone} == wanted, "events and executions differ"


def _holds(world: World, what: str, *rest: str) -> None:
    match what, rest:
        case "made", (job,):
            if job != "gone":
                assert world.job(job).id == job
        case "done", (job, thing, status):
            assert world.status(job, thing) == status
        case "retry", (job, thing):
            assert world.jobs.control.execution(job, thing, 1).status == "FAILED"
            assert world.jobs.control.execution(job, thing, None).number == 2
        case "aborted", (job,):
            found = world.job(job)
            assert (found.status, found.reason_code) == ("CANCELED", "ABORT_CRITERIA_MET"), "at its threshold, exactly"
            assert found.succeeded + found.failed == 5
        case "canceled", (job,):
            assert world.job(job).status == "CANCELED"
        case "deleted", (job,):
            with pytest.raises(NotFound):
                world.job(job)
        case "follows", (thing,):
            assert world.status("follow", thing) in ("QUEUED", "REMOVED")
        case "left", (thing,):
            assert world.status("follow", thing) == "REMOVED"
        case _:
            raise AssertionError(f"what is {what} {rest}?")


async def _reaches_everything(world: World) -> None:
    def things(job: str) -> set[str]:
        sql = "SELECT thing FROM job_execution WHERE job = ?"
        return {str(row[0]) for row in world.db.read_now(lambda tx: tx.all(sql, job))}

    members = set(await world.registry.things_in("fleet"))
    for job in world.db.read_now(lambda tx: [str(row[0]) for row in tx.all("SELECT id FROM job")]):
        found = world.job(job)
        assert not found.rolling, f"{job} is stuck"
        if found.status in ("CANCELED", "DELETION_IN_PROGRESS"):
            assert not found.queued, f"{job} is canceled and waits for things"
        elif job == "stop":
            assert things(job) == set(workload.FLEET[:8])
        elif job == "follow":
            assert members <= things(job)
        else:
            assert things(job) >= set(workload.FLEET), f"{job} has not reached {set(workload.FLEET) - things(job)}"
            for thing in sorted(things(job)):
                if world.status(job, thing) in ("QUEUED", "IN_PROGRESS"):
                    await world.report(job, thing, "SUCCEEDED")
            assert world.job(job).status == "COMPLETED", f"{job} does not end"


def test_jobs_survive_a_power_cut_at_any_operation() -> None:
    sweep(python("jobs", "good"), check, prepare=workload.prepare, every=12, budget_s=10, marked=True).assert_clean()


@pytest.mark.parametrize(
    ("broken", "mode"),
    [("no-sync", "drop"), ("no-transaction", "keep"), ("taken-first", "keep"), ("abort-later", "keep")],
)
def test_the_sweep_notices(broken: str, mode: str) -> None:
    # Only the kind of disk on which this one shows.
    sweep(
        python("jobs", broken), check, prepare=workload.prepare, every=3, modes=(mode,), stop_after=1, budget_s=40,
        marked=True,
    ).assert_caught()  # fmt: skip
