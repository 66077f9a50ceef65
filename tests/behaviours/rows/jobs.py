"""Jobs, as an operator's boto3 and a device's MQTT and HTTPS see them."""

import json
from typing import Any

from tests.behaviours.row import row
from tests.behaviours.world import World

INVALID = ("InvalidRequestException", 400)
MISSING = ("ResourceNotFoundException", 404)
DOCUMENT = json.dumps({"operation": "reboot"})


def job(world: World, *things: str, **options: Any) -> str:
    name = world.name("job")
    targets = [world.arn(f"thing/{thing}") for thing in things]
    world.iot.create_job(**{"jobId": name, "targets": targets, "document": DOCUMENT, **options})
    return name


def update(world: World, name: str, thing: str, status: str, **more: Any) -> Any:
    return world.client("iot-jobs-data").update_job_execution(jobId=name, thingName=thing, status=status, **more)


def status(world: World, name: str) -> str:
    return str(world.iot.describe_job(jobId=name)["job"]["status"])


def execution(world: World, name: str, thing: str) -> dict[str, Any]:
    return dict(world.iot.describe_job_execution(jobId=name, thingName=thing)["execution"])


# operators


@row(aws="A job id that exists is ResourceAlreadyExistsException, 409.", source="model: CreateJob")
def create_again(world: World) -> None:
    thing = world.thing()
    name = job(world, thing)
    with world.refused("ResourceAlreadyExistsException", 409):
        job(world, thing, jobId=name, document="{}")


@row(aws="A target that does not exist is ResourceNotFoundException.", source="model: CreateJob")
def create_for_nobody(world: World) -> None:
    with world.refused(*MISSING):
        job(world, world.name("thing"))


@row(aws="A document that is no JSON is refused.", source="guide: Managing jobs", unconfirmed=True)
def create_without_json(world: World) -> None:
    with world.refused(*INVALID):
        job(world, world.thing(), document="{")


@row(aws="maximumPerMinute is at most 1000.", source="guide: Specify job configurations")
def rate_limit(world: World) -> None:
    with world.refused(*INVALID):
        job(world, world.thing(), jobExecutionsRolloutConfig={"maximumPerMinute": 1001})


@row(aws="An incrementFactor has one digit after the point.", source="model: ExponentialRolloutRate")
def factor_digits(world: World) -> None:
    growth = {"baseRatePerMinute": 5, "incrementFactor": 1.55, "rateIncreaseCriteria": {"numberOfNotifiedThings": 5}}
    with world.refused(*INVALID):
        job(world, world.thing(), jobExecutionsRolloutConfig={"exponentialRate": growth})


@row(aws="A thresholdPercentage has two digits after the point.", source="model: AbortCriteria")
def threshold_digits(world: World) -> None:
    criterion = {
        "failureType": "ALL",
        "action": "CANCEL",
        "thresholdPercentage": 10.999,
        "minNumberOfExecutedThings": 1,
    }
    with world.refused(*INVALID):
        job(world, world.thing(), abortConfig={"criteriaList": [criterion]})


@row(
    aws="A device has at most ten retries of both failure types together.", source="guide: How job configurations work"
)
def retries_in_all(world: World) -> None:
    criteria = [{"failureType": kind, "numberOfRetries": 6} for kind in ("FAILED", "TIMED_OUT")]
    with world.refused(*INVALID):
        job(world, world.thing(), jobExecutionsRetryConfig={"criteriaList": criteria})


@row(aws="The in-progress timer is 1 to 10,080 minutes.", source="model: TimeoutConfig")
def timeout_limit(world: World) -> None:
    with world.refused(*INVALID):
        job(world, world.thing(), timeoutConfig={"inProgressTimeoutInMinutes": 10_081})


@row(aws="A snapshot job is COMPLETED with its last execution.", source="guide: Jobs and job execution states")
def snapshot_completes(world: World) -> None:
    one, two = world.thing(), world.thing()
    name = job(world, one, two)
    update(world, name, one, "SUCCEEDED")
    assert status(world, name) == "IN_PROGRESS"
    update(world, name, two, "FAILED")
    world.until(lambda: status(world, name) == "COMPLETED", "completion")


@row(aws="A continuous job is never COMPLETED.", source="guide: Jobs and job execution states")
def continuous_goes_on(world: World) -> None:
    thing = world.thing()
    name = job(world, thing, targetSelection="CONTINUOUS")
    update(world, name, thing, "SUCCEEDED")
    assert status(world, name) == "IN_PROGRESS"


@row(aws="CancelJob without force leaves executions that are IN_PROGRESS.", source="model: CancelJob")
def cancel_leaves_begun(world: World) -> None:
    one, two = world.thing(), world.thing()
    name = job(world, one, two)
    update(world, name, one, "IN_PROGRESS")
    world.iot.cancel_job(jobId=name)
    world.until(lambda: execution(world, name, two)["status"] == "CANCELED", "cancellation")
    assert execution(world, name, one)["status"] == "IN_PROGRESS"
    update(world, name, one, "SUCCEEDED")


@row(aws="CancelJob with force ends executions that are IN_PROGRESS, and says so.", source="model: CancelJob")
def cancel_by_force(world: World) -> None:
    thing = world.thing()
    name = job(world, thing)
    update(world, name, thing, "IN_PROGRESS")
    world.iot.cancel_job(jobId=name, force=True)
    world.until(lambda: execution(world, name, thing)["status"] == "CANCELED", "cancellation")
    assert execution(world, name, thing)["forceCanceled"] and world.iot.describe_job(jobId=name)["job"]["forceCanceled"]


@row(aws="DeleteJob of one that is IN_PROGRESS needs force.", source="model: DeleteJob")
def delete_needs_force(world: World) -> None:
    name = job(world, world.thing())
    with world.refused("InvalidStateTransitionException", 409):
        world.iot.delete_job(jobId=name)
    world.iot.delete_job(jobId=name, force=True)


@row(aws="CancelJobExecution of one that is IN_PROGRESS needs force.", source="model: CancelJobExecution")
def cancel_one_needs_force(world: World) -> None:
    thing = world.thing()
    name = job(world, thing)
    update(world, name, thing, "IN_PROGRESS")
    with world.refused("InvalidStateTransitionException", 409):
        world.iot.cancel_job_execution(jobId=name, thingName=thing)
    world.iot.cancel_job_execution(jobId=name, thingName=thing, force=True)
    assert execution(world, name, thing)["status"] == "CANCELED"


@row(
    aws="CancelJobExecution with another expectedVersion is VersionConflictException.",
    source="model: CancelJobExecution",
)
def cancel_one_with_version(world: World) -> None:
    thing = world.thing()
    name = job(world, thing)
    with world.refused("VersionConflictException", 409):
        world.iot.cancel_job_execution(jobId=name, thingName=thing, expectedVersion=9)


@row(aws="DeleteJobExecution of one that has not ended needs force.", source="model: DeleteJobExecution")
def delete_one_needs_force(world: World) -> None:
    thing = world.thing()
    name = job(world, thing)
    with world.refused("InvalidStateTransitionException", 409):
        world.iot.delete_job_execution(jobId=name, thingName=thing, executionNumber=1)
    world.iot.delete_job_execution(jobId=name, thingName=thing, executionNumber=1, force=True)
    with world.refused(*MISSING):
        execution(world, name, thing)


@row(aws="Only continuous jobs can be associated with more targets.", source="model: AssociateTargetsWithJob")
def associate_snapshot(world: World) -> None:
    name = job(world, world.thing())
    group = world.name("group")
    world.iot.create_thing_group(thingGroupName=group)
    with world.refused(*INVALID):
        world.iot.associate_targets_with_job(jobId=name, targets=[world.arn(f"thinggroup/{group}")])


@row(
    aws="A job is aborted when a criterion is met, and nothing queued is left.",
    source="guide: How job configurations work",
)
def aborts(world: World) -> None:
    things = [world.thing() for _ in range(4)]
    criterion = {
        "failureType": "FAILED",
        "action": "CANCEL",
        "thresholdPercentage": 50.0,
        "minNumberOfExecutedThings": 2,
    }
    name = job(world, *things, abortConfig={"criteriaList": [criterion]})
    update(world, name, things[0], "FAILED")
    assert status(world, name) == "IN_PROGRESS"
    update(world, name, things[1], "SUCCEEDED")
    world.until(lambda: status(world, name) == "CANCELED", "the abort")
    world.until(lambda: execution(world, name, things[3])["status"] == "CANCELED", "what was queued")
    assert world.iot.describe_job(jobId=name)["job"]["reasonCode"]


@row(
    aws="A failed execution is tried again, under the next number.",
    source="guide: How job configurations work",
    unconfirmed=True,
)
def retries(world: World) -> None:
    thing = world.thing()
    criteria = [{"failureType": "FAILED", "numberOfRetries": 1}]
    name = job(world, thing, jobExecutionsRetryConfig={"criteriaList": criteria})
    update(world, name, thing, "FAILED")
    world.until(lambda: execution(world, name, thing)["status"] == "QUEUED", "the retry")
    assert execution(world, name, thing)["executionNumber"] == 2
    update(world, name, thing, "FAILED")
    assert execution(world, name, thing)["status"] == "FAILED"


@row(
    aws="A thing that joins the group of a continuous job gets it; one that leaves has it REMOVED.",
    source="guide: Jobs and job execution states",
)
def follows_groups(world: World) -> None:
    group, thing = world.name("group"), world.thing()
    world.iot.create_thing_group(thingGroupName=group)
    name = job(world, targets=[world.arn(f"thinggroup/{group}")], targetSelection="CONTINUOUS")
    world.iot.add_thing_to_thing_group(thingGroupName=group, thingName=thing)
    found = world.client("iot-jobs-data").get_pending_job_executions
    world.until(lambda: found(thingName=thing)["queuedJobs"], "the job of who joined")
    world.iot.remove_thing_from_thing_group(thingGroupName=group, thingName=thing)
    world.until(lambda: execution(world, name, thing)["status"] == "REMOVED", "the job of who left")


# devices


@row(aws="Jobs are handed out in the order of their creation, those begun first.", source="guide: Jobs device MQTT API")
def order(world: World) -> None:
    thing = world.thing()
    one, two = job(world, thing), job(world, thing)
    data = world.client("iot-jobs-data")
    assert data.start_next_pending_job_execution(thingName=thing)["execution"]["jobId"] == one
    assert data.start_next_pending_job_execution(thingName=thing)["execution"]["jobId"] == one
    update(world, two, thing, "IN_PROGRESS")
    pending = data.get_pending_job_executions(thingName=thing)
    assert [item["jobId"] for item in pending["inProgressJobs"]] == [one, two] and pending["queuedJobs"] == []


@row(aws="An update out of a final state is InvalidStateTransitionException.", source="model: UpdateJobExecution")
def final_is_final(world: World) -> None:
    thing = world.thing()
    name = job(world, thing)
    update(world, name, thing, "SUCCEEDED")
    with world.refused("InvalidStateTransitionException", 409):
        update(world, name, thing, "SUCCEEDED")


@row(
    aws="Describing an execution that has ended is TerminalStateException for a device.", source="guide: ErrorResponse"
)
def describe_ended(world: World) -> None:
    thing = world.thing()
    name = job(world, thing)
    update(world, name, thing, "SUCCEEDED")
    with world.refused("TerminalStateException", 410):
        world.client("iot-jobs-data").describe_job_execution(jobId=name, thingName=thing)


@row(aws="A thing without pending jobs gets no execution from $next.", source="guide: Jobs device MQTT API")
def nothing_next(world: World) -> None:
    answer = world.client("iot-jobs-data").describe_job_execution(jobId="$next", thingName=world.thing())
    assert "execution" not in answer


@row(aws="statusDetails has at most ten pairs.", source="model: UpdateJobExecution")
def ten_details(world: World) -> None:
    thing = world.thing()
    name = job(world, thing)
    with world.refused(*INVALID):
        update(world, name, thing, "IN_PROGRESS", statusDetails={f"k{number}": "v" for number in range(11)})


@row(aws="stepTimeoutInMinutes is 1 to 10,080, or -1 in an update.", source="model: UpdateJobExecution")
def step_limits(world: World) -> None:
    thing = world.thing()
    name = job(world, thing)
    for wrong in (0, -2, 10_081):
        with world.refused(*INVALID):
            update(world, name, thing, "IN_PROGRESS", stepTimeoutInMinutes=wrong)
    update(world, name, thing, "IN_PROGRESS", stepTimeoutInMinutes=-1)


@row(
    aws="notify lists the queue when it changes; notify-next tells of another head, and of none with an empty message.",
    source="guide: Jobs notifications",
)
def notifications(world: World) -> None:
    device = world.device(thing="")
    client = world.connected(device, device.thing)
    prefix = f"$aws/things/{device.thing}/jobs/"
    client.subscribe(prefix + "notify", prefix + "notify-next")
    name = job(world, device.thing)
    told = {message.topic: json.loads(message.payload) for message in (client.receive(), client.receive())}
    assert [item["jobId"] for item in told[prefix + "notify"]["jobs"]["QUEUED"]] == [name]
    assert told[prefix + "notify-next"]["execution"]["jobDocument"] == {"operation": "reboot"}
    update(world, name, device.thing, "IN_PROGRESS")
    assert client.silent()
    update(world, name, device.thing, "SUCCEEDED")
    told = {message.topic: json.loads(message.payload) for message in (client.receive(), client.receive())}
    assert told[prefix + "notify"]["jobs"] == {} and "execution" not in told[prefix + "notify-next"]


@row(aws="Over MQTT a wrong expectedVersion is VersionMismatch, with the state.", source="guide: ErrorResponse")
def version_mismatch(world: World) -> None:
    device = world.device(thing="")
    name = job(world, device.thing)
    client = world.connected(device, device.thing)
    topic = f"$aws/things/{device.thing}/jobs/{name}/update"
    client.subscribe(topic + "/rejected")
    client.publish(topic, json.dumps({"status": "SUCCEEDED", "expectedVersion": 7, "clientToken": "t"}).encode())
    answer = client.receive_json()
    assert (answer["code"], answer["clientToken"]) == ("VersionMismatch", "t")
    assert answer["executionState"] == {"status": "QUEUED", "versionNumber": 1}


@row(
    aws="Over MQTT what is no JSON is InvalidJson, and a topic that names nothing InvalidTopic.",
    source="guide: ErrorResponse",
)
def invalid_requests(world: World) -> None:
    device = world.device(thing="")
    client = world.connected(device, device.thing)
    prefix = f"$aws/things/{device.thing}/jobs/"
    client.subscribe(prefix + "get/rejected", prefix + "what/rejected")
    client.publish(prefix + "get", b"{")
    assert client.receive_json()["code"] == "InvalidJson"
    client.publish(prefix + "what", b"{}")
    assert client.receive_json()["code"] == "InvalidTopic"


@row(aws="Job events are told on $aws/events/job when they are enabled.", source="guide: Jobs events")
def events(world: World) -> None:
    world.iot.update_event_configurations(
        eventConfigurations={"JOB": {"Enabled": True}, "JOB_EXECUTION": {"Enabled": True}}
    )
    device = world.device(thing="")
    client = world.connected(device, device.thing)
    name = job(world, device.thing)
    client.subscribe(f"$aws/events/job/{name}/#", f"$aws/events/jobExecution/{name}/#")
    update(world, name, device.thing, "SUCCEEDED")
    told = {message.topic: json.loads(message.payload) for message in (client.receive(), client.receive())}
    assert told[f"$aws/events/jobExecution/{name}/succeeded"]["status"] == "SUCCEEDED"
    assert told[f"$aws/events/job/{name}/completed"]["jobProcessDetails"]["numberOfSucceededThings"] == 1
