"""The life of an execution: order, timers, retries, versions, what is told; and any order of all of it, against a model."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from marram.core.errors import Conflict, Invalid, LimitExceeded, NotFound, VersionConflict
from marram.core.jobs import TERMINAL, Status
from marram.hub.jobs import settings as job_settings
from marram.hub.jobs import store_executions
from marram.kit.clock import FakeClock, SeededEntropy
from tests.hub.jobs.conftest import World

RETRY = "jobExecutionsRetryConfig"
TIMEOUT = "timeoutConfig"


def retries(**count: int) -> dict[str, Any]:
    return {"criteriaList": [{"failureType": kind, "numberOfRetries": number} for kind, number in count.items()]}


# the queue of a thing


async def test_jobs_are_run_in_the_order_of_their_creation(world: World) -> None:
    await world.things("t")
    for name in ("b", "a", "c"):
        await world.create(name, "thing/t")
    assert [item.job for item in world.jobs.device.pending("t", "")] == ["b", "a", "c"]
    first = await world.start("t")
    again = await world.start("t")
    assert (first.job, again.job, again.version) == ("b", "b", 2)
    await world.report("b", "t", "SUCCEEDED")
    await world.report("c", "t", "IN_PROGRESS")
    assert [item.job for item in world.jobs.device.pending("t", "")] == ["c", "a"]


async def test_what_a_device_is_told_is_the_series_of_the_guide(world: World) -> None:
    """AWS IoT Developer Guide, "Jobs notifications": job1, job2, job3 and what becomes of them."""
    await world.things("t")

    async def told(action: Any) -> tuple[list[Any], list[Any]]:
        await world.forget_sent()
        await action
        lists = [body["jobs"] for body in world.sent("t/jobs/notify")]
        heads = [body.get("execution", {}).get("jobId") for body in world.sent("t/jobs/notify-next")]  # type: ignore[union-attr]
        return [{key: [item["jobId"] for item in value] for key, value in found.items()} for found in lists], heads  # type: ignore[union-attr,index,call-overload]

    assert await told(world.create("job1", "thing/t")) == ([{"QUEUED": ["job1"]}], ["job1"])
    assert await told(world.create("job2", "thing/t")) == ([{"QUEUED": ["job1", "job2"]}], [])
    assert await told(world.start("t")) == ([], [])
    assert await told(world.create("job3", "thing/t")) == ([{"IN_PROGRESS": ["job1"], "QUEUED": ["job2", "job3"]}], [])
    assert await told(world.report("job1", "t", "SUCCEEDED")) == ([{"QUEUED": ["job2", "job3"]}], ["job2"])
    assert await told(world.report("job3", "t", "IN_PROGRESS")) == ([], ["job3"])
    assert await told(world.report("job2", "t", "REJECTED")) == ([{"IN_PROGRESS": ["job3"]}], [])
    deleted = world.jobs.control.delete_execution("job3", "t", 1, forced=True)
    assert await told(deleted) == ([{}], [None])


async def test_a_list_has_ten_executions_at_most(world: World) -> None:
    await world.things("t")
    for number in range(12):
        await world.create(f"j{number:02}", "thing/t")
    assert len(world.jobs.device.pending("t", "")) == 10
    assert len(world.sent("t/jobs/notify")[-1]["jobs"]["QUEUED"]) == 10  # type: ignore[index,call-overload,arg-type]


async def test_the_head_of_the_line_follows_a_cancellation_of_the_job(world: World) -> None:
    await world.things("t")
    await world.create("one", "thing/t")
    await world.create("two", "thing/t")
    await world.forget_sent()
    await world.jobs.control.cancel("two", reason_code="", comment="", forced=False)
    assert world.sent("t/jobs/notify-next") == []
    await world.create("three", "thing/t")
    await world.jobs.control.delete("one", forced=True)
    heads = [body["execution"]["jobId"] for body in world.sent("t/jobs/notify-next")]  # type: ignore[index,call-overload]
    assert heads == ["three"]


async def test_status_details_are_replaced_when_given_and_kept_when_not(world: World) -> None:
    await world.things("t")
    await world.create("j", "thing/t")
    await world.report("j", "t", "IN_PROGRESS", statusDetails={"a": "1", "b": "2"})
    assert (await world.report("j", "t", "IN_PROGRESS")).details == {"a": "1", "b": "2"}
    assert (await world.report("j", "t", "IN_PROGRESS", statusDetails={"c": "3"})).details == {"c": "3"}
    scalars = await world.report("j", "t", "IN_PROGRESS", statusDetails={"uptime": 2.5, "tries": 3, "ready": True})
    assert scalars.details == {"uptime": "2.5", "tries": "3", "ready": "true"}


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        ({}, Invalid),
        ({"status": "DONE"}, Invalid),
        ({"status": "CANCELED"}, Invalid),
        ({"status": "FAILED", "statusDetails": {"a": None}}, Invalid),
        ({"status": "FAILED", "statusDetails": []}, Invalid),
        ({"status": "FAILED", "statusDetails": {f"k{n}": "v" for n in range(11)}}, Invalid),
        ({"status": "FAILED", "statusDetails": {"k": "v" * 1025}}, Invalid),
        ({"status": "FAILED", "statusDetails": {"k": "a\nb"}}, Invalid),
        ({"status": "FAILED", "statusDetails": {"k" * 129: "v"}}, Invalid),
        ({"status": "FAILED", "expectedVersion": 9}, VersionConflict),
        ({"status": "FAILED", "expectedVersion": 1.5}, Invalid),
        ({"status": "FAILED", "expectedVersion": "-1"}, Invalid),
        ({"status": "FAILED", "executionNumber": 2}, NotFound),
        ({"status": "FAILED", "stepTimeoutInMinutes": 10_081}, Invalid),
        ({"status": "FAILED", "stepTimeoutInMinutes": -2}, Invalid),
        ({"status": "FAILED", "stepTimeoutInMinutes": "5"}, Invalid),
    ],
)
async def test_bad_reports_change_nothing(world: World, request_: dict[str, Any], error: type[Exception]) -> None:
    await world.things("t")
    await world.create("j", "thing/t")
    with pytest.raises(error):
        await world.jobs.device.update("j", "t", request_)
    with pytest.raises(NotFound):
        await world.jobs.device.update("nope", "t", {"status": "FAILED"})
    assert world.jobs.device.get("j", "t").version == 1


@pytest.mark.parametrize("ended", sorted(TERMINAL))
async def test_a_final_state_is_final(world: World, ended: Status) -> None:
    await world.things("t")
    await world.create("j", "thing/t", selection="CONTINUOUS")
    await world.db.write(
        lambda tx: world.jobs._executions.change(  # type: ignore[arg-type]
            tx,
            world.jobs.job(tx, "j"),
            world.jobs.execution(tx, "j", "t"),
            ended,  # type: ignore[arg-type]
        )
    )
    for status in ("IN_PROGRESS", "SUCCEEDED", "FAILED", "REJECTED"):
        with pytest.raises(Conflict, match="final") as refused:
            await world.report("j", "t", status)
        assert refused.value.data["state"]["status"] == ended  # type: ignore[index]
    with pytest.raises(Conflict):
        world.jobs.device.get("j", "t")
    with pytest.raises(Conflict):
        await world.jobs.control.cancel_execution("j", "t", forced=True, expected_version=None, details=None)


# timers


async def test_step_and_in_progress_timers_are_those_of_the_guide(world: World) -> None:
    """12:00 begun with 20 minutes; 12:05 step of 7; 12:10 of 5; 12:13 of 9, which ends with the whole at 12:20."""
    await world.things("t")
    await world.create("j", "thing/t", **{TIMEOUT: {"inProgressTimeoutInMinutes": 20}})
    await world.work(600)
    assert world.status("j", "t") == "QUEUED", "a queued execution has no timer"
    await world.start("t")
    begun = world.clock.wall_ms()

    async def step(minute: int, timeout: int) -> int:
        await world.work((begun - world.clock.wall_ms()) / 60_000 + minute)
        found = await world.report("j", "t", "IN_PROGRESS", stepTimeoutInMinutes=timeout)
        return int((found.deadline_ms - begun) / 60_000)

    assert [await step(5, 7), await step(10, 5), await step(13, 9)] == [12, 15, 20]
    assert await step(14, 1) == 15
    assert (await world.report("j", "t", "IN_PROGRESS", stepTimeoutInMinutes=-1)).deadline_ms == begun + 20 * 60_000
    await world.work(5.9)
    assert world.status("j", "t") == "IN_PROGRESS"
    await world.work(0.2)
    assert world.status("j", "t") == "TIMED_OUT"
    assert world.job("j").status == "COMPLETED"


async def test_a_step_timer_alone(world: World) -> None:
    await world.things("t")
    await world.create("j", "thing/t")
    await world.jobs.device.start_next("t", "", None, 3)
    assert world.jobs.control.execution("j", "t", None).deadline_ms == world.clock.wall_ms() + 180_000
    await world.reopen()
    await world.work(4)
    assert world.status("j", "t") == "TIMED_OUT"


async def test_a_changed_timeout_is_for_what_has_not_begun(world: World) -> None:
    await world.things("a", "b")
    await world.create("j", "thing/a", "thing/b", **{TIMEOUT: {"inProgressTimeoutInMinutes": 5}})
    await world.start("a")
    await world.jobs.control.update("j", None, {TIMEOUT: {"inProgressTimeoutInMinutes": 60}})
    await world.start("b")
    await world.work(6)
    assert (world.status("j", "a"), world.status("j", "b")) == ("TIMED_OUT", "IN_PROGRESS")


# retries


async def test_failures_are_tried_again_as_often_as_was_said(world: World) -> None:
    await world.things("t")
    await world.create("j", "thing/t", **{RETRY: retries(FAILED=2)})
    for number in (1, 2, 3):
        found = await world.start("t")
        assert (found.number, found.retries, found.version) == (number, number - 1, 2)
        await world.report("j", "t", "FAILED", statusDetails={"try": str(number)})
    assert world.jobs.device.next("t", "") is None
    job = world.job("j")
    assert (job.status, job.failed, job.queued) == ("COMPLETED", 1, 0)
    found = await world.jobs.control.executions_of_job("j", status="", after=("", 0), limit=10)
    assert [(item.number, item.status, item.details) for item in found] == [
        (number, "FAILED", {"try": str(number)}) for number in (1, 2, 3)
    ]
    assert world.jobs.control.execution("j", "t", 1).details == {"try": "1"}


async def test_timeouts_and_failures_have_their_own_retries(world: World) -> None:
    await world.things("t")
    await world.create("j", "thing/t", **{RETRY: retries(TIMED_OUT=1), TIMEOUT: {"inProgressTimeoutInMinutes": 1}})
    await world.start("t")
    await world.work(2)
    assert world.status("j", "t") == "QUEUED"
    await world.start("t")
    await world.report("j", "t", "FAILED")
    assert world.status("j", "t") == "FAILED"


async def test_an_abort_counts_every_attempt_and_ends_the_retries(world: World) -> None:
    await world.things("t")
    criteria = [
        {"failureType": "FAILED", "action": "CANCEL", "thresholdPercentage": 100, "minNumberOfExecutedThings": 2}
    ]
    await world.create("j", "thing/t", **{RETRY: retries(ALL=5), "abortConfig": {"criteriaList": criteria}})
    await world.report("j", "t", "FAILED")
    assert world.status("j", "t") == "QUEUED"
    await world.report("j", "t", "FAILED")
    assert (world.job("j").status, world.status("j", "t")) == ("CANCELED", "FAILED")


async def test_a_rejection_is_not_tried_again(world: World) -> None:
    await world.things("t")
    await world.create("j", "thing/t", **{RETRY: retries(ALL=5)})
    await world.report("j", "t", "REJECTED")
    assert world.status("j", "t") == "REJECTED"


# events


async def test_events_are_told_when_they_are_enabled(world: World) -> None:
    await world.things("a", "b")
    await world.registry.events.configure({"JOB": True, "JOB_EXECUTION": True})
    await world.create("j", "thing/a", "thing/b", description="both")
    await world.report("j", "a", "SUCCEEDED", statusDetails={"x": "y"})
    await world.report("j", "b", "FAILED")
    (succeeded,) = world.sent("$aws/events/jobExecution/j/succeeded")
    assert (succeeded["status"], succeeded["statusDetails"], succeeded["thingArn"]) == (
        "SUCCEEDED", {"x": "y"}, world.arn("thing/a")
    )  # fmt: skip
    (completed,) = world.sent("$aws/events/job/j/completed")
    assert completed["jobProcessDetails"]["numberOfSucceededThings"] == 1  # type: ignore[index,call-overload]
    assert completed["targets"] == [world.arn("thing/a"), world.arn("thing/b")]
    await world.jobs.control.delete("j", forced=False)
    operations = [
        topic.rpartition("/")[2] for _, topic, _, _ in world.db.outbox_pending(100) if "events/job/j" in topic
    ]
    assert operations == ["completed", "deletion_in_progress", "deleted"]
    await world.create("k", "thing/a")
    await world.jobs.control.cancel("k", reason_code="", comment="why", forced=False)
    operations = [
        topic.rpartition("/")[2] for _, topic, _, _ in world.db.outbox_pending(100) if "events/job/k" in topic
    ]
    assert operations == ["cancellation_in_progress", "canceled"]
    assert len(world.sent("$aws/events/jobExecution/k/canceled")) == 1


async def test_nothing_is_told_by_default(world: World) -> None:
    await world.things("a")
    await world.create("j", "thing/a")
    await world.report("j", "a", "SUCCEEDED")
    assert [topic for _, topic, _, _ in world.db.outbox_pending(100) if "events" in topic] == []


# any order


class AnyOrder(RuleBasedStateMachine):
    """Operators, devices, time and restarts in any order: the counters are the executions, and nothing final changes."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="jobs-"))
        self.world = World(self.folder, FakeClock(), SeededEntropy(1))
        self.world.open()
        self.runs = __import__("asyncio").Runner()
        self.do(self.world.things("a", "b", "c"))
        self.jobs: set[str] = set()
        self.final: dict[tuple[str, str, int], str] = {}

    def do(self, work: Any) -> Any:
        return self.runs.run(work)

    def try_to(self, work: Any) -> None:
        try:
            self.do(work)
        except (Conflict, NotFound, VersionConflict, LimitExceeded):
            return

    @precondition(lambda self: len(self.jobs) < 4)
    @rule(
        name=st.sampled_from(["j1", "j2", "j3", "j4"]),
        things=st.sets(st.sampled_from(["a", "b", "c"]), min_size=1),
        again=st.integers(0, 2),
        rate=st.sampled_from([1, 2, 1000]),
        aborts=st.booleans(),
    )
    def create(self, name: str, things: set[str], again: int, rate: int, *, aborts: bool) -> None:
        if name in self.jobs:
            return
        config: dict[str, Any] = {
            RETRY: retries(ALL=again), TIMEOUT: {"inProgressTimeoutInMinutes": 2},
            "jobExecutionsRolloutConfig": {"maximumPerMinute": rate},
        }  # fmt: skip
        if aborts:
            criterion = {
                "failureType": "ALL",
                "action": "CANCEL",
                "thresholdPercentage": 50.0,
                "minNumberOfExecutedThings": 2,
            }
            config["abortConfig"] = {"criteriaList": [criterion]}
        self.do(self.world.create(name, *(f"thing/{thing}" for thing in sorted(things)), **config))
        self.jobs.add(name)

    @rule(thing=st.sampled_from(["a", "b", "c"]))
    def start(self, thing: str) -> None:
        found = self.do(self.world.start(thing))
        head = self.world.jobs.device.next(thing, "")
        assert (found and found.key) == (head and head.key)

    @precondition(lambda self: self.jobs)
    @rule(
        data=st.data(),
        thing=st.sampled_from(["a", "b", "c"]),
        status=st.sampled_from(["IN_PROGRESS", "SUCCEEDED", "FAILED", "REJECTED"]),
    )
    def report(self, data: st.DataObject, thing: str, status: str) -> None:
        self.try_to(self.world.report(data.draw(st.sampled_from(sorted(self.jobs))), thing, status))

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), forced=st.booleans())
    def cancel(self, data: st.DataObject, *, forced: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.jobs)))
        self.try_to(self.world.jobs.control.cancel(name, reason_code="", comment="", forced=forced))

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), thing=st.sampled_from(["a", "b", "c"]), forced=st.booleans())
    def cancel_one(self, data: st.DataObject, thing: str, *, forced: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.jobs)))
        cancel = self.world.jobs.control.cancel_execution
        self.try_to(cancel(name, thing, forced=forced, expected_version=None, details=None))

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), forced=st.booleans())
    def delete(self, data: st.DataObject, *, forced: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.jobs)))
        self.try_to(self.world.jobs.control.delete(name, forced=forced))
        self.do(self.world.work())
        if not any(job.id == name for job in self.listed()):
            self.jobs.discard(name)
            self.final = {key: value for key, value in self.final.items() if key[0] != name}

    @rule(minutes=st.sampled_from([0.0, 0.5, 1.0, 3.0]))
    def time_passes(self, minutes: float) -> None:
        self.do(self.world.work(minutes))

    @rule()
    def restart(self) -> None:
        self.do(self.world.reopen())

    def listed(self) -> list[Any]:
        everything = {"status": "", "selection": "", "namespace": None, "group": "", "group_id": ""}
        return list(self.do(self.world.jobs.control.page(**everything, before=1 << 62, limit=100)))

    @invariant()
    def counters_are_the_executions(self) -> None:
        for job in self.listed():
            present = self.world.db.read_now(lambda tx, job=job: store_executions.of_job(tx, job.id))
            for status in Status:
                assert getattr(job, status.lower()) == sum(item.status is status for item in present), (job.id, status)
            if job.status == "COMPLETED":
                assert job.queued == job.in_progress == job.waiting == 0
            found = self.do(self.world.jobs.control.executions_of_job(job.id, status="", after=("", 0), limit=1000))
            numbers: dict[str, list[int]] = {}
            for item in found:
                numbers.setdefault(item.thing, []).append(item.number)
                key = (job.id, item.thing, item.number)
                assert self.final.get(key, item.status) == item.status, "what is final stays so"
                if item.final:
                    self.final[key] = str(item.status)
            assert all(held == list(range(1, len(held) + 1)) for held in numbers.values())

    @invariant()
    def a_device_sees_what_it_may(self) -> None:
        jobs = {job.id: job for job in self.listed()}
        for thing in ("a", "b", "c"):
            for item in self.world.jobs.device.pending(thing, ""):
                job = jobs[item.job]
                assert item.status is Status.IN_PROGRESS or job.status == "IN_PROGRESS"
                assert not job.forced

    def teardown(self) -> None:
        self.runs.close()
        self.world.db.close()
        shutil.rmtree(self.folder)


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(
    max_examples=15, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)


def test_settings_of_a_job_are_read_once() -> None:
    assert job_settings.read("{}") is job_settings.read("{}")
