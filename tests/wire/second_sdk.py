"""The calls of AWS's samples mqtt5_x509, shadow and jobs (aws-iot-device-sdk-python-v2, which are in no package), with their settings:
the usual ports, no root certificate but the system's, and a client id for the first alone.

python second_sdk.py ENDPOINT CERTIFICATE KEY THING: prints a line for each step; boto3 by the environment.
"""

import queue
import sys
from concurrent.futures import Future
from typing import Any

import boto3
from awscrt import auth, io, mqtt5, mqtt_request_response
from awsiot import ServiceStreamOptions, iotjobs, iotshadow, mqtt5_client_builder

LIMIT_S = 30
ENDPOINT, CERTIFICATE, KEY, THING = sys.argv[1:]


def started(**settings: Any) -> tuple[Any, "Future[bool]"]:
    connected, stopped = Future(), Future()  # type: ignore[var-annotated]
    client = mqtt5_client_builder.mtls_from_path(
        endpoint=ENDPOINT, cert_filepath=CERTIFICATE, pri_key_filepath=KEY,
        on_lifecycle_connection_success=lambda event: connected.set_result(event.negotiated_settings),
        on_lifecycle_connection_failure=lambda event: connected.set_exception(event.exception),
        on_lifecycle_stopped=lambda _: stopped.set_result(True), **settings,
    )  # fmt: skip
    client.start()
    print("connected as", connected.result(LIMIT_S).client_id or settings["client_id"])
    return client, stopped


def x509() -> None:
    heard: queue.Queue[str] = queue.Queue()
    client, stopped = started(
        client_id="mqtt5-sample", ca_filepath=None,
        on_publish_received=lambda data: heard.put(data.publish_packet.payload.decode()),
    )  # fmt: skip
    topic, once = "test/topic", mqtt5.QoS.AT_LEAST_ONCE
    client.subscribe(mqtt5.SubscribePacket([mqtt5.Subscription(topic, once)])).result(LIMIT_S)
    for number in range(1, 6):
        client.publish(mqtt5.PublishPacket(topic=topic, payload=f"Hello [{number}]", qos=once)).result(LIMIT_S)
    print("heard", [heard.get(timeout=LIMIT_S) for _ in range(5)][-1])
    client.unsubscribe(mqtt5.UnsubscribePacket([topic])).result(LIMIT_S)
    client.stop()
    stopped.result(LIMIT_S)


def credentials() -> None:
    """The credentials provider, by AWS's own client of it."""
    context = io.ClientTlsContext(io.TlsContextOptions.create_client_with_mtls_from_path(CERTIFICATE, KEY))
    provider = auth.AwsCredentialsProvider.new_x509(
        endpoint=ENDPOINT, role_alias="samples", tls_ctx=context, thing_name=THING
    )
    found = provider.get_credentials().result(LIMIT_S)
    sts = boto3.client(
        "sts", aws_access_key_id=found.access_key_id, aws_secret_access_key=found.secret_access_key,
        aws_session_token=found.session_token,
    )  # fmt: skip
    print("acts as", sts.get_caller_identity()["Arn"].partition(":assumed-role/")[2].partition("/")[0])


def services() -> None:
    client, stopped = started(port=8883, clean_session=True, keep_alive_secs=1200)
    options = mqtt_request_response.ClientOptions(
        max_request_response_subscriptions=2, max_streaming_subscriptions=2, operation_timeout_in_seconds=30
    )
    shadow(iotshadow.IotShadowClientV2(client, options))
    jobs(iotjobs.IotJobsClientV2(client, options))
    client.stop()
    stopped.result(LIMIT_S)


def opened(create: Any, request: Any) -> "queue.Queue[Any]":
    """What a stream brings, once the hub has its subscription."""
    came: queue.Queue[Any] = queue.Queue()
    ready: queue.Queue[Any] = queue.Queue()
    stream = create(
        request, ServiceStreamOptions(incoming_event_listener=came.put, subscription_status_listener=ready.put)
    )
    stream.open()
    ready.get(timeout=LIMIT_S)
    came.stream = stream  # type: ignore[attr-defined]  # as long as the queue
    return came


def shadow(client: Any) -> None:
    updated = opened(client.create_shadow_updated_stream, iotshadow.ShadowUpdatedSubscriptionRequest(thing_name=THING))
    delta = opened(
        client.create_shadow_delta_updated_stream, iotshadow.ShadowDeltaUpdatedSubscriptionRequest(thing_name=THING)
    )
    for state in (
        iotshadow.ShadowState(desired={"color": "green"}),
        iotshadow.ShadowState(reported={"color": "green"}),
    ):
        client.update_shadow(iotshadow.UpdateShadowRequest(thing_name=THING, state=state)).result(LIMIT_S)
    print("delta", delta.get(timeout=LIMIT_S).state, "updated", updated.get(timeout=LIMIT_S).current.version)
    print("shadow", client.get_shadow(iotshadow.GetShadowRequest(thing_name=THING)).result(LIMIT_S).version)
    client.delete_shadow(iotshadow.DeleteShadowRequest(thing_name=THING)).result(LIMIT_S)


def jobs(client: Any) -> None:
    iot = boto3.client("iot")
    arn = iot.describe_thing(thingName=THING)["thingArn"]
    next_ = opened(
        client.create_next_job_execution_changed_stream,
        iotjobs.NextJobExecutionChangedSubscriptionRequest(thing_name=THING),
    )
    changed = opened(
        client.create_job_executions_changed_stream, iotjobs.JobExecutionsChangedSubscriptionRequest(thing_name=THING)
    )
    iot.create_job(jobId="job-1", document='{"todo": "nothing"}', targets=[arn], targetSelection="SNAPSHOT")
    print(
        "next",
        next_.get(timeout=LIMIT_S).execution.job_id,
        "changed",
        [str(status) for status in changed.get(timeout=LIMIT_S).jobs],
    )
    pending = client.get_pending_job_executions(iotjobs.GetPendingJobExecutionsRequest(thing_name=THING)).result(
        LIMIT_S
    )
    print("pending", len(pending.queued_jobs))
    client.start_next_pending_job_execution(iotjobs.StartNextPendingJobExecutionRequest(thing_name=THING)).result(
        LIMIT_S
    )
    which = {"thing_name": THING, "job_id": "job-1"}
    found = client.describe_job_execution(iotjobs.DescribeJobExecutionRequest(**which)).result(LIMIT_S)
    print("job", found.execution.status)
    client.update_job_execution(iotjobs.UpdateJobExecutionRequest(**which, status="SUCCEEDED")).result(LIMIT_S)
    print("next", next_.get(timeout=LIMIT_S).execution)
    iot.delete_job(jobId="job-1", force=True)


x509()
services()
credentials()
