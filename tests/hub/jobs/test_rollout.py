"""A job on its way to its things: pace, abort at the threshold, restarts in between; thousands of simulated things."""

import os
import random
from collections import Counter
from typing import Any

import pytest

from marram.core.errors import Conflict
from marram.core.jobs import Status
from tests.hub.jobs.conftest import World

FULL = os.environ.get("MARRAM_FULL") == "1"
FLEET = 10_000 if FULL else 1_000


async def fleet(world: World, size: int, group: str = "all") -> list[str]:
    """Things of a group, many at a time."""
    names = [f"d{number:05d}" for number in range(size)]
    await world.registry.create_group(group)
    for at in range(0, size, 250):

        def work(tx: Any, some: list[str] = names[at : at + 250]) -> None:
            for name in some:
                world.registry.create_thing_tx(tx, name)
                world.registry.add_to_group_tx(tx, group, name)

        await world.db.write(work)
    await world.forget_sent()
    return names


def abort(threshold: float, minimum: int, failure: str = "FAILED") -> dict[str, Any]:
    return {
        "criteriaList": [
            {"failureType": failure, "action": "CANCEL", "thresholdPercentage": threshold, "minNumberOfExecutedThings": minimum}
        ]
    }  # fmt: skip


async def test_a_small_job_is_there_when_the_call_returns(world: World) -> None:
    await world.things("a", "b")
    await world.create("j", "thing/a", "thing/b")
    assert [world.status("j", name) for name in "ab"] == ["QUEUED", "QUEUED"]
    assert world.sent("a/jobs/notify-next")[0]["execution"]["jobId"] == "j"  # type: ignore[index,call-overload]


async def test_a_constant_rate_holds_in_every_minute(world: World) -> None:
    await fleet(world, 100)
    await world.create("j", "thinggroup/all", jobExecutionsRolloutConfig={"maximumPerMinute": 30})
    seen: list[int] = []
    for _ in range(5):
        await world.work()
        seen.append(world.job("j").queued)
        await world.work(0.5)
        assert world.job("j").queued == seen[-1], "nothing within the minute"
        await world.work(0.5)
    assert seen == [30, 60, 90, 100, 100]
    assert not world.job("j").rolling


async def test_an_exponential_rate_grows_with_what_was_notified(world: World) -> None:
    await fleet(world, 200)
    config = {
        "maximumPerMinute": 60,
        "exponentialRate": {
            "baseRatePerMinute": 10, "incrementFactor": 1.5, "rateIncreaseCriteria": {"numberOfNotifiedThings": 20}
        },
    }  # fmt: skip
    await world.create("j", "thinggroup/all", jobExecutionsRolloutConfig=config)
    steps, before = [], 0
    for _ in range(7):
        await world.work()
        steps.append(world.job("j").notified - before)
        before += steps[-1]
        await world.work(1)
    # 10 and 10 are 20: x1.5; 35: still; 50: two steps; 72: three; 105: five, above the maximum.
    assert steps == [10, 10, 15, 15, 22, 33, 60]


async def test_a_rate_grows_with_what_succeeded_only_when_that_was_asked(world: World) -> None:
    names = await fleet(world, 40)
    criteria = {"numberOfSucceededThings": 5}
    config = {"exponentialRate": {"baseRatePerMinute": 5, "incrementFactor": 2, "rateIncreaseCriteria": criteria}}
    await world.create("j", "thinggroup/all", jobExecutionsRolloutConfig=config)
    await world.work(1)
    assert world.job("j").notified == 10
    for name in names[:5]:
        await world.report("j", name, "SUCCEEDED")
    await world.work(1)
    assert world.job("j").notified == 20


async def test_ten_thousand_things_with_three_percent_failures_abort_at_the_threshold_exactly(world: World) -> None:
    """Every thing reports through the service; the order is random, and the report that reaches 3 % is the last one that
    counts. A tenth of the fleet in the ordinary run."""
    names = await fleet(world, FLEET)
    minimum = FLEET // 10
    await world.create("ota", "thinggroup/all", abortConfig=abort(3, minimum))
    chance = random.Random(2)
    failing = set(chance.sample(names, FLEET * 3 // 100))
    failed = executed = 0
    notified: set[str] = set()
    waiting: list[str] = []
    while executed < FLEET:
        await world.work()
        for execution in await world.jobs.control.executions_of_job("ota", status="QUEUED", after=("", 0), limit=FLEET):
            if execution.thing not in notified:
                notified.add(execution.thing)
                waiting.append(execution.thing)
        chance.shuffle(waiting)
        while waiting and world.job("ota").status == "IN_PROGRESS":
            name = waiting.pop()
            fails = name in failing
            await world.report("ota", name, "FAILED" if fails else "SUCCEEDED")
            failed, executed = failed + fails, executed + 1
            reached = executed >= minimum and failed * 100 >= 3 * executed
            assert (world.job("ota").status == "CANCELED") == reached, (failed, executed)
        if world.job("ota").status == "CANCELED":
            break
        await world.work(1)
    job = world.job("ota")
    assert job.status == "CANCELED", "with the last thing at the latest"
    assert job.reason_code == "ABORT_CRITERIA_MET"
    await world.work(5)
    job = world.job("ota")
    assert (job.queued, job.in_progress, job.waiting) == (0, 0, 0)
    assert (job.failed, job.succeeded, job.canceled) == (failed, executed - failed, len(notified) - executed)
    with pytest.raises(Conflict):
        await world.report("ota", sorted(notified)[0], "SUCCEEDED")


@pytest.mark.parametrize("stop", [0, 1, 3, 7, 20, 33])
async def test_a_hub_that_dies_goes_on_with_no_execution_lost_or_doubled(world: World, stop: int) -> None:
    """The process is gone after `stop` pieces, whatever it was at: spreading, rolling, cancelling, deleting."""
    names = await fleet(world, 700)
    await world.create("j", "thinggroup/all")
    for _ in range(stop):
        await world.db.write(world.jobs._piece)
    await world.reopen()
    await world.work()
    present = Counter(item.thing for item in await every(world, "j"))
    assert present == Counter(names)
    assert world.job("j").queued == 700
    told = Counter(
        topic.split("/")[2] for _, topic, _, _ in world.db.outbox_pending(100_000) if topic.endswith("notify-next")
    )
    assert told == Counter(names), "each thing was told once"

    await world.jobs.control.cancel("j", reason_code="", comment="", forced=False)
    for _ in range(stop):
        await world.db.write(world.jobs._piece)
    await world.reopen()
    await world.work()
    assert {item.status for item in await every(world, "j")} == {Status.CANCELED}
    assert (world.job("j").canceled, world.job("j").queued) == (700, 0)

    await world.jobs.control.delete("j", forced=False)
    for _ in range(stop):
        await world.db.write(world.jobs._piece)
    await world.reopen()
    await world.work()
    assert await world.db.read(lambda tx: tx.all("SELECT count(*) FROM job_execution")) == [(0,)]
    assert await world.db.read(lambda tx: tx.all("SELECT count(*) FROM job")) == [(0,)]


async def every(world: World, job: str) -> list[Any]:
    return await world.jobs.control.executions_of_job(job, status="", after=("", 0), limit=1 << 20)


async def test_from_its_commit_on_a_cancellation_holds_for_every_device(world: World) -> None:
    names = await fleet(world, 200)
    await world.create("j", "thinggroup/all")
    await world.work()
    await world.start(names[150])
    await world.jobs.control.cancel("j", reason_code="", comment="", forced=False)
    last = names[-1]
    assert world.status("j", last) == "QUEUED", "this one is not written yet"
    assert world.jobs.device.next(last, "") is None
    assert await world.start(last) is None
    with pytest.raises(Conflict, match="CANCELED"):
        await world.report("j", last, "IN_PROGRESS")
    assert (await world.report("j", names[150], "SUCCEEDED")).status == "SUCCEEDED"
    await world.work()
    assert (world.job("j").canceled, world.job("j").succeeded) == (199, 1)


async def test_a_forced_cancellation_ends_what_was_begun(world: World) -> None:
    await world.things("a", "b")
    await world.create("j", "thing/a", "thing/b")
    await world.start("a")
    await world.jobs.control.cancel("j", reason_code="", comment="", forced=False)
    assert (world.status("j", "a"), world.status("j", "b")) == ("IN_PROGRESS", "CANCELED")
    await world.jobs.control.cancel("j", reason_code="", comment="", forced=True)
    assert world.status("j", "a") == "CANCELED"
    assert world.jobs.control.execution("j", "a", None).forced
    assert not world.jobs.control.execution("j", "b", None).forced
    with pytest.raises(Conflict):
        await world.jobs.control.cancel("j", reason_code="", comment="", forced=True)
