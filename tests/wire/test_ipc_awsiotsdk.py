"""The unmodified Greengrass IPC clients of awsiotsdk, V1 and V2, against our server."""

import asyncio
import datetime
import importlib.util
import json
import queue
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

import pytest
from awsiot import eventstreamrpc, greengrasscoreipc
from awsiot.greengrasscoreipc import client as v1
from awsiot.greengrasscoreipc import clientv2 as v2
from awsiot.greengrasscoreipc import model

from marram.edge.ipc.server import Server

spec = importlib.util.spec_from_file_location("ipc_fakes", Path(__file__).parents[1] / "edge" / "ipc" / "fakes.py")
assert spec is not None and spec.loader is not None
fakes = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fakes)

T = TypeVar("T")


async def off_loop(work: Callable[..., T], *args: object) -> T:
    return await asyncio.wait_for(asyncio.to_thread(work, *args), 20)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    nucleus = fakes.FakeNucleus(
        configurations={
            "com.a": {"accessControl": fakes.ALL, "rate": 5, "nested": {"x": {"y": 1}}},
            "com.b": {"accessControl": {}},
        },
        rows=[fakes.Row("com.a"), fakes.Row("com.b", state="BROKEN")],
    )
    async with fakes.serving(fakes.make_core(nucleus), tmp_path) as running:
        yield running


def client_v2(server: Server, component: str = "com.a") -> v2.GreengrassCoreIPCClientV2:
    connection = greengrasscoreipc.connect(ipc_socket=str(server.path), authtoken=f"token-of-{component}", timeout=10)
    return v2.GreengrassCoreIPCClientV2(client=connection)


async def test_pubsub_v2(server: Server) -> None:
    def work() -> None:
        got: queue.Queue[model.SubscriptionResponseMessage] = queue.Queue()
        ended: queue.Queue[bool] = queue.Queue()
        one, two = client_v2(server), client_v2(server)
        _, operation = one.subscribe_to_topic(
            topic="plant/7", on_stream_event=got.put, on_stream_closed=lambda: ended.put(True)
        )
        two.publish_to_topic(
            topic="plant/7",
            publish_message=model.PublishMessage(binary_message=model.BinaryMessage(message=b"\x00\xff")),
        )
        first = got.get(timeout=5)
        assert first.binary_message.message == b"\x00\xff" and first.binary_message.context.topic == "plant/7"
        two.publish_to_topic(
            topic="plant/7", publish_message=model.PublishMessage(json_message=model.JsonMessage(message={"a": [1]}))
        )
        assert got.get(timeout=5).json_message.message == {"a": [1]}
        operation.close().result(5)
        assert ended.get(timeout=5)
        one.close()
        two.close()

    await off_loop(work)


async def test_pubsub_v1_and_receive_modes(server: Server) -> None:
    class Handler(v1.SubscribeToTopicStreamHandler):
        def __init__(self) -> None:
            self.got: queue.Queue[bytes] = queue.Queue()

        def on_stream_event(self, event: model.SubscriptionResponseMessage) -> None:
            self.got.put(event.binary_message.message)

        def on_stream_error(self, error: Exception) -> bool:
            return True

        def on_stream_closed(self) -> None:
            pass

    def work() -> None:
        connection = greengrasscoreipc.connect(ipc_socket=str(server.path), authtoken="token-of-com.a", timeout=10)
        handlers = {}
        for filter, mode in [
            ("a/b", None),
            ("a/+", None),
            ("a/#", model.ReceiveMode.RECEIVE_ALL_MESSAGES),
            ("a/b", model.ReceiveMode.RECEIVE_MESSAGES_FROM_OTHERS),
        ]:
            handler = handlers[filter, mode] = Handler()
            operation = connection.new_subscribe_to_topic(handler)
            operation.activate(model.SubscribeToTopicRequest(topic=filter, receive_mode=mode))
            assert operation.get_response().result(5).topic_name == filter
        publish = connection.new_publish_to_topic()
        message = model.PublishMessage(binary_message=model.BinaryMessage(message=b"own"))
        publish.activate(model.PublishToTopicRequest(topic="a/b", publish_message=message))
        publish.get_response().result(5)
        # An exact topic gets all, a wildcard only what others publish, unless told otherwise.
        assert handlers["a/b", None].got.get(timeout=5) == b"own"
        assert handlers["a/#", model.ReceiveMode.RECEIVE_ALL_MESSAGES].got.get(timeout=5) == b"own"
        assert handlers["a/+", None].got.empty()
        assert handlers["a/b", model.ReceiveMode.RECEIVE_MESSAGES_FROM_OTHERS].got.empty()
        connection.close().result(5)

    await off_loop(work)


async def test_wrong_token_is_access_denied(server: Server) -> None:
    def work() -> None:
        with pytest.raises(eventstreamrpc.AccessDeniedError):
            greengrasscoreipc.connect(ipc_socket=str(server.path), authtoken="wrong", timeout=10)

    await off_loop(work)


async def test_errors_arrive_as_modelled(server: Server) -> None:
    def work() -> None:
        client = client_v2(server, "com.b")
        with pytest.raises(model.UnauthorizedError) as caught:
            client.publish_to_topic(
                topic="t", publish_message=model.PublishMessage(json_message=model.JsonMessage(message={}))
            )
        assert "com.b is not authorized" in caught.value.message
        with pytest.raises(model.UnauthorizedError):
            client.list_components()
        with pytest.raises(model.ResourceNotFoundError) as missing:
            client.get_configuration(key_path=["nope"])
        assert missing.value.resource_name == "nope"
        with pytest.raises(model.ServiceError) as unsupported:
            client.get_secret_value(secret_id="arn")
        assert "GetSecretValue is not supported" in unsupported.value.message
        with pytest.raises(model.InvalidArgumentsError):
            client.update_state(state="RUNNING")  # BROKEN cannot report
        client.close()

    await off_loop(work)


async def test_configuration(server: Server) -> None:
    def work() -> None:
        client = client_v2(server)
        assert client.get_configuration(key_path=["rate"]).value == {"rate": 5}
        assert client.get_configuration(key_path=["nested"]).value == {"x": {"y": 1}}
        assert client.get_configuration(component_name="com.b").component_name == "com.b"
        changed: queue.Queue[model.ConfigurationUpdateEvents] = queue.Queue()
        client.subscribe_to_configuration_update(key_path=["nested"], on_stream_event=changed.put)
        now = datetime.datetime.now()
        client.update_configuration(key_path=["nested"], timestamp=now, value_to_merge={"z": 2})
        event = changed.get(timeout=5).configuration_update_event
        assert (event.component_name, event.key_path) == ("com.a", ["nested", "z"])
        assert client.get_configuration(key_path=["nested", "z"]).value == {"z": 2}
        with pytest.raises(model.FailedUpdateConditionCheckError):
            earlier = now - datetime.timedelta(seconds=9)
            client.update_configuration(key_path=["nested"], timestamp=earlier, value_to_merge={"z": 3})
        for path, value in [(["accessControl"], {"x": {}}), ([], {"accessControl": {}})]:
            with pytest.raises(model.InvalidArgumentsError):
                client.update_configuration(key_path=path, timestamp=now, value_to_merge=value)
        client.close()

    await off_loop(work)


async def test_lifecycle_and_deployments(server: Server) -> None:
    def work() -> None:
        client = client_v2(server)
        assert [c.component_name for c in client.list_components().components] == ["com.a", "com.b"]
        details = client.get_component_details(component_name="com.a").component_details
        assert (details.version, details.state, details.configuration["rate"]) == ("1.0.0", "RUNNING", 5)
        client.update_state(state="RUNNING")
        assert client.restart_component(component_name="com.a").restart_status == "SUCCEEDED"
        assert client.stop_component(component_name="com.a").stop_status == "SUCCEEDED"
        failed = client.stop_component(component_name="com.a")
        assert failed.stop_status == "FAILED" and "not running" in failed.message
        with pytest.raises(model.ComponentNotFoundError):
            client.stop_component(component_name="nope")
        made = client.create_local_deployment(
            root_component_versions_to_add={"com.c": "1.0.0"},
            component_to_configuration={"com.c": {"MERGE": {"a": 1}}},
            component_to_run_with_info={"com.c": model.RunWithInfo(posix_user="nobody")},
        )
        assert client.get_local_deployment_status(deployment_id=made.deployment_id).deployment.status == "IN_PROGRESS"
        assert len(client.list_local_deployments().local_deployments) == 1
        assert client.cancel_local_deployment(deployment_id=made.deployment_id).message
        with pytest.raises(model.ResourceNotFoundError):
            client.cancel_local_deployment(deployment_id="nope")
        client.close()

    await off_loop(work)
    (asked,) = server.core.deployments.asked  # type: ignore[union-attr]
    assert asked.add == {"com.c": "1.0.0"} and asked.run_with["com.c"] == {"posixUser": "nobody"}


async def test_iot_core(server: Server) -> None:
    def work() -> None:
        client = client_v2(server)
        got: queue.Queue[model.IoTCoreMessage] = queue.Queue()
        status: queue.Queue[model.IoTCoreConnectionStatusEvent] = queue.Queue()
        client.subscribe_to_iot_core(topic_name="cmd/#", qos="1", on_stream_event=got.put)
        client.subscribe_to_iot_core_connection_status(on_stream_event=status.put)
        assert status.get(timeout=5).connection_status_event.status == "CONNECTED"
        client.publish_to_iot_core(
            topic_name="cmd/1",
            qos="1",
            payload=json.dumps({"a": 1}),
            user_properties=[model.UserProperty(key="k", value="v")],
            content_type="application/json",
        )
        message = got.get(timeout=5).message
        assert (message.topic_name, message.payload) == ("cmd/1", b'{"a": 1}')
        client.close()

    await off_loop(work)
    (published,) = server.core.iot_core.published  # type: ignore[union-attr]
    assert published.user_properties == [("k", "v")] and published.content_type == "application/json"


async def test_many_calls_leave_no_streams(server: Server) -> None:
    def work() -> None:
        client = client_v2(server)
        message = model.PublishMessage(binary_message=model.BinaryMessage(message=b"x"))
        pending = [client.publish_to_topic_async(topic="t", publish_message=message) for _ in range(2000)]
        for each in pending:
            each.result(10)
        client.close()

    await off_loop(work)
    assert all(not connection._streams for connection in server.connections)
