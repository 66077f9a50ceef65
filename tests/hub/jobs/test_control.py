"""The operator's side: what is refused and why, groups that change, schedules and windows, templates and documents."""

from datetime import UTC, datetime
from typing import Any

import pytest

from marram.core.errors import AlreadyExists, Conflict, Invalid, LimitExceeded, NotFound, Unsupported, VersionConflict
from marram.hub.jobs import documents, schedule, settings
from marram.hub.jobs.service import JobChanged, Wanted
from tests.hub.jobs.conftest import World


def retries(*criteria: tuple[str, int]) -> dict[str, Any]:
    return {
        "jobExecutionsRetryConfig": {"criteriaList": [{"failureType": k, "numberOfRetries": n} for k, n in criteria]}
    }


def criterion(**changes: Any) -> dict[str, Any]:
    return {
        "failureType": "FAILED",
        "action": "CANCEL",
        "thresholdPercentage": 10,
        "minNumberOfExecutedThings": 1,
    } | changes


def aborts(*criteria: dict[str, Any]) -> dict[str, Any]:
    return {"abortConfig": {"criteriaList": list(criteria)}}


def rolls(**config: Any) -> dict[str, Any]:
    return {"jobExecutionsRolloutConfig": config}


GROWTH = {"baseRatePerMinute": 10, "incrementFactor": 1.5, "rateIncreaseCriteria": {"numberOfNotifiedThings": 5}}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        pytest.param({"document": "{"}, "not JSON", id="document is not JSON"),
        pytest.param({"document": "[1]"}, "object", id="document is no object"),
        pytest.param({"document": '{"a": 1, "a": 2}'}, "duplicate", id="document with one key twice"),
        pytest.param({"document": '{"a": "' + "x" * 32_768 + '"}'}, "32768", id="document too long"),
        pytest.param({"document": '{"u": "${aws:iot:s3-presigned-url:https://s3.amazonaws.com/b/k}"}'}, "roleArn", id="URL without role"),
        pytest.param({"document": '{"u": "${aws:iot:code-sign-signature:s3://b/k}"}'}, "not known", id="placeholder unknown"),
        pytest.param(rolls(maximumPerMinute=1001), "1000", id="rate"),
        pytest.param(rolls(exponentialRate=GROWTH | {"incrementFactor": 1.55}), "one digit", id="factor of two digits"),
        pytest.param(rolls(exponentialRate=GROWTH | {"rateIncreaseCriteria": {}}), "numberOf", id="growth by nothing"),
        pytest.param(rolls(exponentialRate=GROWTH, maximumPerMinute=5), "above", id="base above maximum"),
        pytest.param(aborts(criterion(thresholdPercentage=10.999)), "two digits", id="threshold of three digits"),
        pytest.param(aborts(criterion(thresholdPercentage=0)), "above 0", id="threshold of nothing"),
        pytest.param(aborts(criterion(), criterion()), "two criteria", id="two criteria of one type"),
        pytest.param({"timeoutConfig": {"inProgressTimeoutInMinutes": 0}}, "10080", id="no time"),
        pytest.param({"timeoutConfig": {"inProgressTimeoutInMinutes": 10_081}}, "10080", id="over a week"),
        pytest.param(retries(("FAILED", 6), ("TIMED_OUT", 5)), "at most 10", id="eleven retries"),
        pytest.param(retries(("ALL", 1), ("FAILED", 1)), "alone", id="all and one"),
        pytest.param(retries(("FAILED", 1), ("FAILED", 1)), "two criteria", id="a type twice"),
        pytest.param({"schedulingConfig": {"startTime": "tomorrow"}}, "not a time", id="start is no time"),
        pytest.param({"schedulingConfig": {"endBehavior": "CANCEL"}}, "endTime", id="behaviour without end"),
        pytest.param(
            {"schedulingConfig": {"maintenanceWindows": [{"startTime": "cron(x)", "durationInMinutes": 5}]}}, "cron", id="cron"
        ),
    ],
)  # fmt: skip
async def test_refused(world: World, options: dict[str, Any], says: str) -> None:
    await world.things("t")
    with pytest.raises(Invalid, match=says):
        await world.create("j", "thing/t", **options)
    with pytest.raises(NotFound):
        world.job("j")


async def test_targets_and_names(world: World) -> None:
    await world.things("t")
    for target, error in (
        ("thing/nope", NotFound), ("thinggroup/nope", NotFound), ("thingtype/t", Invalid), ("thing/", Invalid)
    ):  # fmt: skip
        with pytest.raises(error):
            await world.create("j", target)
    with pytest.raises(NotFound, match="not of this hub"):
        await world.jobs.control.create(Wanted(id="j", targets=["arn:aws:iot:eu-west-1:1:thing/t"], document="{}"))
    with pytest.raises(Invalid, match="ARN"):
        await world.jobs.control.create(Wanted(id="j", targets=["t"], document="{}"))
    with pytest.raises(Invalid, match="needed"):
        await world.jobs.control.create(Wanted(id="j", targets=[world.arn("thing/t")]))
    await world.create("j", "thing/t")
    with pytest.raises(AlreadyExists):
        await world.create("j", "thing/t")
    with pytest.raises(Unsupported, match="destinationPackageVersions"):
        settings.wanted({"destinationPackageVersions": ["arn:x"]})


async def test_a_hundred_targets_and_no_more(world: World) -> None:
    names = [f"t{number}" for number in range(101)]
    await world.things(*names)
    with pytest.raises(LimitExceeded):
        await world.create("j", *(f"thing/{name}" for name in names))
    await world.create("j", *(f"thing/{name}" for name in names[:100]))
    await world.work()
    assert world.job("j").queued == 100


async def test_what_has_ended_is_not_changed(world: World) -> None:
    await world.things("t")
    await world.create("j", "thing/t")
    with pytest.raises(Conflict, match="force"):
        await world.jobs.control.delete("j", forced=False)
    await world.start("t")
    with pytest.raises(Conflict, match="force"):
        await world.jobs.control.cancel_execution("j", "t", forced=False, expected_version=None, details=None)
    with pytest.raises(VersionConflict):
        await world.jobs.control.cancel_execution("j", "t", forced=True, expected_version=1, details=None)
    with pytest.raises(Conflict, match="force"):
        await world.jobs.control.delete_execution("j", "t", 1, forced=False)
    with pytest.raises(NotFound):
        await world.jobs.control.delete_execution("j", "t", 2, forced=True)
    await world.report("j", "t", "SUCCEEDED")
    for refused in (
        world.jobs.control.update("j", "x", {}),
        world.jobs.control.cancel("j", reason_code="", comment="", forced=True),
    ):
        with pytest.raises(Conflict, match="COMPLETED"):
            await refused
    with pytest.raises(NotFound):
        await world.jobs.control.cancel("nope", reason_code="", comment="", forced=False)


async def test_ten_jobs_at_most_are_being_deleted(world: World) -> None:
    await world.registry.create_group("g")
    await world.things(*(f"t{number:02}" for number in range(40)), group="g")
    for number in range(11):
        await world.create(f"j{number}", "thinggroup/g")
        await world.work()
    for number in range(10):
        await world.jobs.control.delete(f"j{number}", forced=True)
        assert world.job(f"j{number}").status == "DELETION_IN_PROGRESS"
    with pytest.raises(LimitExceeded):
        await world.jobs.control.delete("j10", forced=True)
    with pytest.raises(Conflict, match="being deleted"):
        await world.jobs.control.delete("j1", forced=True)
    with pytest.raises(AlreadyExists):
        await world.create("j1", "thinggroup/g")
    await world.work()
    await world.jobs.control.delete("j10", forced=True)


# groups that change


async def test_a_snapshot_job_keeps_its_things_and_a_continuous_one_follows(world: World) -> None:
    await world.registry.create_group("g")
    await world.things("a", "b", group="g")
    await world.create("snap", "thinggroup/g")
    await world.create("cont", "thinggroup/g", selection="CONTINUOUS")
    await world.things("c", group="g")
    await world.registry.remove_from_group("g", "a")
    await world.work()
    assert [world.status("snap", name) for name in "ab"] == ["QUEUED", "QUEUED"]
    with pytest.raises(NotFound):
        world.status("snap", "c")
    assert [world.status("cont", name) for name in "abc"] == ["REMOVED", "QUEUED", "QUEUED"]
    await world.registry.add_to_group("g", "a")
    await world.work()
    again = world.jobs.control.execution("cont", "a", None)
    assert (again.status, again.number) == ("QUEUED", 2)
    assert world.job("cont").removed == 0


@pytest.mark.parametrize("died", [False, True], ids=["announced", "announced to a process that died"])
async def test_a_deleted_thing_is_removed_from_its_jobs(world: World, *, died: bool) -> None:
    await world.things("a", "b")
    await world.create("j", "thing/a", "thing/b")
    await world.registry.delete_thing("a")
    if died:
        await world.reopen()
        await world.jobs._forget_deleted()
    await world.report("j", "b", "SUCCEEDED")
    await world.work()
    assert world.status("j", "a") == "REMOVED"
    assert world.job("j").status == "COMPLETED"


async def test_what_happened_to_groups_before_a_crash_is_seen_after_it(world: World) -> None:
    """The announcement went to a process that is gone: the start compares all."""
    await world.registry.create_group("g")
    await world.things("a", group="g")
    await world.create("j", "thinggroup/g", selection="CONTINUOUS")
    await world.work()
    await world.things("b", group="g")
    await world.registry.remove_from_group("g", "a")
    await world.reopen()
    await world.work()
    assert (world.status("j", "a"), world.status("j", "b")) == ("REMOVED", "QUEUED")


async def test_a_group_that_is_deleted_leaves_its_continuous_job_without_things(world: World) -> None:
    await world.registry.create_group("g")
    await world.things("a", group="g")
    await world.create("j", "thinggroup/g", selection="CONTINUOUS")
    await world.registry.delete_group("g")
    await world.work()
    assert (world.status("j", "a"), world.job("j").status) == ("REMOVED", "IN_PROGRESS")


async def test_a_thing_that_goes_before_the_rollout_reaches_it_is_left_out(world: World) -> None:
    await world.registry.create_group("g")
    await world.things("a", "b", "c", group="g")
    await world.create("j", "thinggroup/g", jobExecutionsRolloutConfig={"maximumPerMinute": 1})
    await world.registry.delete_thing("b")
    await world.work(1)
    await world.work(1)
    await world.report("j", "a", "SUCCEEDED")
    await world.report("j", "c", "SUCCEEDED")
    await world.work()
    assert (world.job("j").status, world.job("j").notified) == ("COMPLETED", 2)


async def test_an_empty_group_is_done_at_once(world: World) -> None:
    await world.registry.create_group("g")
    await world.create("j", "thinggroup/g")
    assert world.job("j").status == "COMPLETED"


# schedules


def at(world: World, minutes: float) -> str:
    return datetime.fromtimestamp(world.clock.wall_ms() / 1000 + minutes * 60, UTC).strftime("%Y-%m-%d %H:%M")


async def test_a_scheduled_job_starts_and_ends_when_it_should(world: World) -> None:
    await world.things("a", "b")
    config = {"startTime": at(world, 60), "endTime": at(world, 120), "endBehavior": "FORCE_CANCEL"}
    await world.create("j", "thing/a", "thing/b", schedulingConfig=config)
    assert world.job("j").status == "SCHEDULED"
    await world.work(58)
    assert (world.job("j").status, world.jobs.device.next("a", "")) == ("SCHEDULED", None)
    await world.work(3)
    assert world.job("j").status == "IN_PROGRESS"
    await world.start("a")
    await world.work(61)
    job = world.job("j")
    assert (job.status, job.canceled, job.forced) == ("CANCELED", 2, True)
    heard = [event.status for event in world.heard if isinstance(event, JobChanged)]
    assert heard == ["SCHEDULED", "IN_PROGRESS", "CANCELED"]


async def test_an_end_that_stops_the_rollout_lets_the_rest_finish(world: World) -> None:
    await world.registry.create_group("g")
    await world.things("a", "b", "c", group="g")
    await world.create(
        "j", "thinggroup/g", selection="CONTINUOUS", schedulingConfig={"endTime": at(world, 31)},
        jobExecutionsRolloutConfig={"maximumPerMinute": 1},
    )  # fmt: skip
    await world.work(0.5)
    await world.work(31)
    assert world.job("j").stopped
    await world.things("late", group="g")
    await world.work(1)
    assert (world.job("j").queued, world.job("j").waiting, world.job("j").status) == (1, 0, "IN_PROGRESS")
    await world.report("j", "a", "SUCCEEDED")
    assert world.job("j").status == "COMPLETED"


@pytest.mark.parametrize(
    ("config", "says"),
    [
        pytest.param({"startTime": 10}, "startTime", id="start too soon"),
        pytest.param({"startTime": 60 * 24 * 400}, "startTime", id="start too late"),
        pytest.param({"endTime": 10}, "endTime", id="end too soon"),
        pytest.param({"startTime": 60, "endTime": 61}, "30 minutes", id="both at once"),
        pytest.param({"endTime": 60 * 24 * 800}, "endTime", id="end too late"),
    ],
)
async def test_times_that_are_refused(world: World, config: dict[str, int], says: str) -> None:
    await world.things("t")
    with pytest.raises(Invalid, match=says):
        await world.create("j", "thing/t", schedulingConfig={name: at(world, value) for name, value in config.items()})


async def test_a_maintenance_window_opens_and_closes(world: World) -> None:
    """Daily, 30 minutes from the next full hour on."""
    now = datetime.fromtimestamp(world.clock.wall_ms() / 1000, UTC)
    hour = (now.hour + 1) % 24
    to_open = 60 - now.minute - now.second / 60
    await world.registry.create_group("g")
    await world.things("a", "b", "c", group="g")
    await world.create(
        "j", "thinggroup/g", selection="CONTINUOUS", jobExecutionsRolloutConfig={"maximumPerMinute": 1},
        schedulingConfig={"maintenanceWindows": [{"startTime": f"cron(0 {hour} * * ? *)", "durationInMinutes": 30}]},
    )  # fmt: skip
    assert world.job("j").status == "SCHEDULED"
    plan = settings.read(world.job("j").config).schedule
    assert len(plan.upcoming(world.clock.wall_ms())) == 7
    await world.work(to_open)
    assert (world.job("j").status, world.job("j").queued) == ("IN_PROGRESS", 1)
    assert world.jobs.device.next("a", "") is not None
    await world.work(31)
    assert (world.job("j").status, world.jobs.device.next("a", "")) == ("SCHEDULED", None)
    with pytest.raises(Conflict, match="maintenance window"):
        await world.report("j", "a", "IN_PROGRESS")
    await world.forget_sent()
    await world.work(24 * 60 - 31)
    assert world.job("j").status == "IN_PROGRESS"
    assert world.sent("a/jobs/notify-next")[0]["execution"]["jobId"] == "j"  # type: ignore[index,call-overload]
    assert (await world.start("a")).status == "IN_PROGRESS"


def test_moments() -> None:
    assert schedule.moment("2026-11-21 10:00", "x") == schedule.moment("2026-11-21T12:00:00+02:00", "x")
    assert schedule.moment("2026-11-21T10:00:00Z", "x") == 1_795_255_200_000
    assert schedule.moment("1795255200", "x") == 1_795_255_200_000
    assert schedule.shown(1_795_255_200_000) == "2026-11-21 10:00"


# templates, documents, tags


async def test_a_template_and_what_a_job_says_over_it(world: World) -> None:
    await world.things("t")
    templates = world.jobs.templates
    timeout = {"timeoutConfig": {"inProgressTimeoutInMinutes": 9}}
    await templates.create(
        "tpl",
        description="d",
        job_arn=None,
        document='{"a": 1}',
        source=None,
        config=timeout | rolls(maximumPerMinute=5),
    )
    arn = templates.arn("tpl")
    await world.jobs.control.create(
        Wanted(id="j", targets=[world.arn("thing/t")], template=arn, config=rolls(maximumPerMinute=7))
    )
    found = settings.read(world.job("j").config)
    assert (found.timeout_ms, found.pace.maximum) == (9 * 60_000, 7)
    with pytest.raises(Invalid, match="template's"):
        await world.jobs.control.create(Wanted(id="k", targets=[world.arn("thing/t")], template=arn, document="{}"))
    with pytest.raises(AlreadyExists):
        await templates.create("tpl", description="d", job_arn=None, document="{}", source=None, config={})
    for wrong in ({"job_arn": None, "document": None}, {"job_arn": world.arn("job/j"), "document": "{}"}):
        with pytest.raises(Invalid, match="one of"):
            await templates.create("x", description="d", source=None, config={}, **wrong)  # type: ignore[arg-type]
    with pytest.raises(NotFound):
        await templates.create(
            "x", description="d", job_arn=world.arn("job/nope"), document=None, source=None, config={}
        )
    await templates.create("of-job", description="d", job_arn=world.arn("job/j"), document=None, source=None, config={})
    assert templates.get("of-job").document == b'{"a": 1}'
    await templates.delete("tpl")
    with pytest.raises(NotFound):
        await templates.delete("tpl")
    with pytest.raises(NotFound):
        await world.jobs.control.create(Wanted(id="k", targets=[world.arn("thing/t")], template=arn))


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("https://s3.eu-west-1.amazonaws.com/bucket/a/b.bin", ("bucket", "a/b.bin")),
        ("https://s3.amazonaws.com/bucket/k", ("bucket", "k")),
        ("https://bucket.s3.eu-west-1.amazonaws.com/k", ("bucket", "k")),
        ("https://my.bucket.s3.amazonaws.com/k", ("my.bucket", "k")),
        ("s3://bucket/a%20b", ("bucket", "a b")),
        ("http://127.0.0.1:4566/bucket/k", ("bucket", "k")),
    ],
)
def test_urls_of_objects(url: str, place: tuple[str, str]) -> None:
    assert documents.place(url) == place


@pytest.mark.parametrize(
    "url",
    [
        "", "bucket/k", "https://example.com/bucket/k", "file:///etc/passwd", "https://s3.amazonaws.com/bucket",
        "https://s3.amazonaws.com.evil.com/b/k", "https://evil-s3.amazonaws.com@example.com/b/k", "s3://bucket/",
        "https://s3.amazonaws.com/b/k?versionId=1", "https://[::1/b/k",
    ],
)  # fmt: skip
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(Invalid):
        documents.place(url)
