"""The device's side of jobs with the unmodified awsiotsdk: the first client (MQTT 3.1.1) and the second (both versions)."""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import pytest
from awscrt import mqtt, mqtt_request_response
from awsiot import ServiceStreamOptions, V2ServiceException, iotjobs

from tests.wire.sdk_device import LIMIT_S, SdkDevice

QOS = mqtt.QoS.AT_LEAST_ONCE
THING = "dev"
POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Action": "iot:Connect", "Resource": "*"},
        {"Effect": "Allow", "Action": ["iot:Publish", "iot:Receive"], "Resource": f"arn:aws:iot:*:*:topic/$aws/things/{THING}/jobs/*"},
        {"Effect": "Allow", "Action": "iot:Subscribe", "Resource": f"arn:aws:iot:*:*:topicfilter/$aws/things/{THING}/jobs/*"},
    ],
}  # fmt: skip


class Device(SdkDevice):
    def __init__(self, hub: Any, folder: Path) -> None:
        super().__init__(hub, folder, THING, POLICY)

    def job(self, name: str, **options: Any) -> None:
        self.iot.create_job(jobId=name, targets=[self.arn], document=json.dumps({"do": name}), **options)


@pytest.fixture
def device(start_hub: Callable[..., Any], tmp_path: Path) -> Iterator[Device]:
    made = Device(start_hub(), tmp_path)
    yield made
    made.close()


def done(future: "Future[Any]") -> Any:
    return future.result(LIMIT_S)


def test_a_device_works_off_its_queue_with_the_first_client(device: Device) -> None:
    jobs = iotjobs.IotJobsClient(device.connect("3.1.1"))
    seen: dict[str, Queue[Any]] = {}

    def subscribe(name: str, request: Any) -> None:
        seen[name] = Queue()
        done(getattr(jobs, f"subscribe_to_{name}")(request, QOS, seen[name].put)[0])

    def next_of(name: str) -> Any:
        return seen[name].get(timeout=LIMIT_S)

    subscribe("job_executions_changed_events", iotjobs.JobExecutionsChangedSubscriptionRequest(thing_name=THING))
    subscribe("next_job_execution_changed_events", iotjobs.NextJobExecutionChangedSubscriptionRequest(thing_name=THING))
    for tail in ("accepted", "rejected"):
        subscribe(
            f"get_pending_job_executions_{tail}", iotjobs.GetPendingJobExecutionsSubscriptionRequest(thing_name=THING)
        )
        start = iotjobs.StartNextPendingJobExecutionSubscriptionRequest(thing_name=THING)
        subscribe(f"start_next_pending_job_execution_{tail}", start)
        update = iotjobs.UpdateJobExecutionSubscriptionRequest(thing_name=THING, job_id="+")
        subscribe(f"update_job_execution_{tail}", update)
        describe = iotjobs.DescribeJobExecutionSubscriptionRequest(thing_name=THING, job_id="+")
        subscribe(f"describe_job_execution_{tail}", describe)

    device.job("one")
    assert list(next_of("job_executions_changed_events").jobs) == ["QUEUED"]
    head = next_of("next_job_execution_changed_events").execution
    assert (head.job_id, head.status, head.job_document) == ("one", "QUEUED", {"do": "one"})
    device.job("two")
    listed = next_of("job_executions_changed_events").jobs["QUEUED"]
    assert [item.job_id for item in listed] == ["one", "two"]

    done(jobs.publish_get_pending_job_executions(
        iotjobs.GetPendingJobExecutionsRequest(thing_name=THING, client_token="t0"), QOS
    ))  # fmt: skip
    pending = next_of("get_pending_job_executions_accepted")
    assert [item.job_id for item in pending.queued_jobs] == ["one", "two"] and pending.client_token == "t0"

    begin = iotjobs.StartNextPendingJobExecutionRequest(thing_name=THING, status_details={"a": "b"}, client_token="t1")
    done(jobs.publish_start_next_pending_job_execution(begin, QOS))
    started = next_of("start_next_pending_job_execution_accepted")
    execution = started.execution
    assert (execution.job_id, execution.status, execution.version_number) == ("one", "IN_PROGRESS", 2)
    assert (execution.status_details, started.client_token) == ({"a": "b"}, "t1")

    def report(job: str, status: str, **more: Any) -> None:
        request = iotjobs.UpdateJobExecutionRequest(thing_name=THING, job_id=job, status=status, **more)
        done(jobs.publish_update_job_execution(request, QOS))

    report("one", "IN_PROGRESS", expected_version=1)
    rejected = next_of("update_job_execution_rejected")
    assert rejected.code == "VersionMismatch"
    assert (rejected.execution_state.version_number, rejected.execution_state.status) == (2, "IN_PROGRESS")
    report("one", "SUCCEEDED", expected_version=2, include_job_execution_state=True, include_job_document=True)
    accepted = next_of("update_job_execution_accepted")
    assert (accepted.execution_state.status, accepted.job_document) == ("SUCCEEDED", {"do": "one"})
    assert [item.job_id for item in next_of("job_executions_changed_events").jobs["QUEUED"]] == ["two"]
    assert next_of("next_job_execution_changed_events").execution.job_id == "two"
    report("one", "FAILED")
    assert next_of("update_job_execution_rejected").code == "InvalidStateTransition"
    report("nope", "FAILED")
    assert next_of("update_job_execution_rejected").code == "ResourceNotFound"
    report("two", "CANCELED")
    assert next_of("update_job_execution_rejected").code == "InvalidRequest"
    done(jobs.publish_describe_job_execution(iotjobs.DescribeJobExecutionRequest(thing_name=THING, job_id="one"), QOS))
    assert next_of("describe_job_execution_rejected").code == "TerminalStateReached"
    report("two", "REJECTED")
    assert next_of("job_executions_changed_events").jobs == {}
    assert next_of("next_job_execution_changed_events").execution is None
    done(jobs.publish_start_next_pending_job_execution(begin, QOS))
    assert next_of("start_next_pending_job_execution_accepted").execution is None
    with pytest.raises(Empty):
        seen["get_pending_job_executions_rejected"].get_nowait()


@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_the_second_client(device: Device, version: str) -> None:
    options = mqtt_request_response.ClientOptions(
        max_request_response_subscriptions=4, max_streaming_subscriptions=2, operation_timeout_in_seconds=10
    )
    jobs = iotjobs.IotJobsClientV2(device.connect(version), options)
    heads: Queue[Any] = Queue()
    ready = threading.Event()
    stream = jobs.create_next_job_execution_changed_stream(
        iotjobs.NextJobExecutionChangedSubscriptionRequest(thing_name=THING),
        ServiceStreamOptions(incoming_event_listener=heads.put, subscription_status_listener=lambda _: ready.set()),
    )
    stream.open()
    assert ready.wait(LIMIT_S)
    device.job("one", timeoutConfig={"inProgressTimeoutInMinutes": 10})
    assert heads.get(timeout=LIMIT_S).execution.job_id == "one"
    head = done(
        jobs.describe_job_execution(iotjobs.DescribeJobExecutionRequest(thing_name=THING, job_id="$next"))
    ).execution
    assert (head.job_id, head.job_document) == ("one", {"do": "one"})
    begin = iotjobs.StartNextPendingJobExecutionRequest(thing_name=THING, step_timeout_in_minutes=5)
    assert done(jobs.start_next_pending_job_execution(begin)).execution.status == "IN_PROGRESS"
    pending = done(jobs.get_pending_job_executions(iotjobs.GetPendingJobExecutionsRequest(thing_name=THING)))
    assert [item.job_id for item in pending.in_progress_jobs] == ["one"] and pending.queued_jobs == []
    with pytest.raises(V2ServiceException) as refused:
        done(jobs.update_job_execution(
            iotjobs.UpdateJobExecutionRequest(thing_name=THING, job_id="one", status="SUCCEEDED", expected_version=7)
        ))  # fmt: skip
    assert refused.value.modeled_error.code == "VersionMismatch"
    assert refused.value.modeled_error.execution_state.version_number == 2
    request = iotjobs.UpdateJobExecutionRequest(thing_name=THING, job_id="one", status="SUCCEEDED", expected_version=2)
    assert done(jobs.update_job_execution(request)).timestamp is not None
    assert heads.get(timeout=LIMIT_S).execution is None
    assert device.iot.describe_job(jobId="one")["job"]["status"] == "COMPLETED"
    del stream


def test_what_is_no_request_is_answered_by_name(device: Device) -> None:
    """Raw payloads, by MQTT 5: not JSON, not an object, a topic that names nothing."""
    connection = device.connect("3.1.1")
    seen: Queue[tuple[str, Any]] = Queue()
    prefix = f"$aws/things/{THING}/jobs/"
    for tail in ("get/rejected", "x/update/rejected", "what/rejected", "start-next/rejected", "get/accepted"):
        done(
            connection.subscribe(
                prefix + tail, QOS, lambda topic, payload, **_: seen.put((topic, json.loads(payload)))
            )[0]
        )
    for tail, payload, wanted in (
        ("get", b"{", "InvalidJson"),
        ("get", b"\xff\xfe", "InvalidJson"),
        ("get", b'{"a":' * 40 + b"1" + b"}" * 40, "InvalidJson"),
        ("get", b"[]", "InvalidRequest"),
        ("get", b'{"clientToken": 5}', "InvalidRequest"),
        ("x/update", b"{}", "InvalidRequest"),
        ("x/update", b'{"status": "FAILED", "statusDetails": {"a b": "c"}}', "InvalidRequest"),
        ("x/update", b'{"status": "FAILED", "statusDetails": {"a": ""}}', "InvalidRequest"),
        ("x/update", b'{"status": "FAILED", "stepTimeoutInMinutes": 0}', "InvalidRequest"),
        ("x/update", b'{"status": "FAILED", "expectedVersion": true}', "InvalidRequest"),
        ("x/update", b'{"status": "FAILED", "includeJobDocument": "yes"}', "InvalidRequest"),
        ("start-next", b'{"stepTimeoutInMinutes": -1}', "InvalidRequest"),
        ("what", b"{}", "InvalidTopic"),
    ):
        done(connection.publish(prefix + tail, payload, QOS)[0])
        topic, body = seen.get(timeout=LIMIT_S)
        assert (topic, body["code"]) == (f"{prefix}{tail}/rejected", wanted), payload
        assert body["message"] and isinstance(body["timestamp"], int)
    done(connection.publish(prefix + "get", b"", QOS)[0])
    assert seen.get(timeout=LIMIT_S)[0] == prefix + "get/accepted"
