import asyncio
import importlib.util
import json
import socket
from pathlib import Path

import pytest

from marram.core import eventstream as es
from marram.core.errors import Denied, Unavailable
from marram.edge.ipc import model, server
from marram.edge.ipc.operation import HANDLERS
from marram.sdk import ipc

spec = importlib.util.spec_from_file_location("ipc_fakes", Path(__file__).with_name("fakes.py"))
assert spec is not None and spec.loader is not None
fakes = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fakes)


class Raw:
    """A client that sends exactly what a test says."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer, self.decoder = reader, writer, es.Decoder()
        self.got: list[es.Message] = []

    @classmethod
    async def open(cls, path: Path, token: str | None = "token-of-com.a") -> "Raw":
        raw = cls(*await asyncio.open_unix_connection(str(path)))
        if token is not None:
            raw.send(
                {":message-type": 4, ":message-flags": 0, ":stream-id": 0, ":version": "0.1.0"}, {"authToken": token}
            )
            ack = await raw.next()
            assert (ack.number(":message-type"), ack.number(":message-flags")) == (5, 1)
        return raw

    def send(self, headers: dict[str, es.HeaderValue], body: object = None) -> None:
        self.writer.write(es.encode(headers, b"" if body is None else json.dumps(body).encode()))

    def call(self, stream: int, operation: str, body: object) -> None:
        self.send(
            {":message-type": 0, ":message-flags": 0, ":stream-id": stream, "operation": "aws.greengrass#" + operation},
            body,
        )

    async def next(self) -> es.Message:
        while not self.got:
            data = await asyncio.wait_for(self.reader.read(65536), 5)
            if not data:
                raise EOFError
            self.got += self.decoder.receive(data)
        return self.got.pop(0)


async def test_unary_answers_terminate_and_streams_answer_before_events(tmp_path: Path) -> None:
    async with fakes.serving(fakes.make_core(), tmp_path) as ipc_server:
        raw = await Raw.open(ipc_server.path)
        raw.call(1, "SubscribeToTopic", {"topic": "t"})
        raw.call(2, "PublishToTopic", {"topic": "t", "publishMessage": {"jsonMessage": {"message": {"a": 1}}}})
        response, *rest = [await raw.next() for _ in range(3)]
        assert response.text("service-model-type") == "aws.greengrass#SubscribeToTopicResponse"
        assert response.number(":message-flags") == 0
        by_stream = {m.number(":stream-id"): m for m in rest}
        assert by_stream[2].number(":message-flags") == 2 and by_stream[2].payload == b"{}"
        assert by_stream[1].text("service-model-type") == "aws.greengrass#SubscriptionResponseMessage"
        assert json.loads(by_stream[1].payload) == {"jsonMessage": {"message": {"a": 1}, "context": {"topic": "t"}}}
        # The client ends the stream; a second terminate that crossed on the way is ignored.
        for _ in range(2):
            raw.send({":message-type": 0, ":message-flags": 2, ":stream-id": 1})
        assert (await raw.next()).number(":message-flags") == 2
        raw.call(3, "ListComponents", {})
        assert (await raw.next()).number(":stream-id") == 3
        assert len(ipc_server.core.pubsub) == 0
        raw.writer.close()


async def test_who_has_not_shown_a_token_gets_no_memory(tmp_path: Path) -> None:
    async with fakes.serving(fakes.make_core(), tmp_path) as ipc_server:
        stranger = await Raw.open(ipc_server.path, token=None)
        stranger.send({":message-type": 4, ":message-flags": 0, ":stream-id": 0, ":version": "0.1.0"}, "x" * 100_000)
        assert (await stranger.next()).number(":message-type") == es.MessageType.PROTOCOL_ERROR
        with pytest.raises(EOFError):
            await stranger.next()
        stranger.writer.close()
        known = await Raw.open(ipc_server.path)
        known.call(
            1, "PublishToTopic", {"topic": "t", "publishMessage": {"jsonMessage": {"message": {"a": "x" * 100_000}}}}
        )
        assert (await known.next()).payload == b"{}"
        known.writer.close()


@pytest.mark.parametrize("token", ["wrong", ""])
async def test_a_refused_connect_is_answered_and_left_open(tmp_path: Path, token: str) -> None:
    async with fakes.serving(fakes.make_core(), tmp_path) as ipc_server:
        raw = await Raw.open(ipc_server.path, None)
        raw.send({":message-type": 4, ":message-flags": 0, ":stream-id": 0, ":version": "0.1.0"}, {"authToken": token})
        ack = await raw.next()
        assert (ack.number(":message-type"), ack.number(":message-flags")) == (5, 0)
        with pytest.raises(Denied):
            await ipc.connect(ipc_server.path, "wrong")
        with pytest.raises(EOFError):  # hung up on after a second at most
            await raw.next()
        raw.writer.close()


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({":message-type": 0, ":message-flags": 0, ":stream-id": 0, "operation": "x"}, id="stream 0"),
        pytest.param({":message-type": 0, ":message-flags": 0, ":stream-id": -4, "operation": "x"}, id="negative"),
        pytest.param({":message-type": 0, ":message-flags": 0, ":stream-id": 1}, id="no operation"),
        pytest.param({":message-type": 4, ":message-flags": 0, ":stream-id": 0}, id="second connect"),
        pytest.param({":message-type": 77, ":message-flags": 0, ":stream-id": 0}, id="unknown type"),
    ],
)
async def test_protocol_errors_are_named_and_close(tmp_path: Path, headers: dict[str, es.HeaderValue]) -> None:
    async with fakes.serving(fakes.make_core(), tmp_path) as ipc_server:
        raw = await Raw.open(ipc_server.path)
        raw.send(headers, {})
        message = await raw.next()
        assert message.number(":message-type") == 6
        assert json.loads(message.payload)["message"]
        with pytest.raises(EOFError):
            await raw.next()
        raw.writer.close()


async def test_stream_ids_must_rise(tmp_path: Path) -> None:
    async with fakes.serving(fakes.make_core(), tmp_path) as ipc_server:
        raw = await Raw.open(ipc_server.path)
        raw.call(5, "ListComponents", {})
        raw.call(4, "ListComponents", {})
        assert [(await raw.next()).number(":message-type") for _ in range(2)] == [0, 6]
        raw.writer.close()


async def test_noise_closes_the_connection_and_nothing_else(tmp_path: Path) -> None:
    async with fakes.serving(fakes.make_core(), tmp_path) as ipc_server:
        raw = await Raw.open(ipc_server.path, None)
        raw.writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert (await raw.next()).number(":message-type") == 6
        async with await ipc.connect(ipc_server.path, "token-of-com.a") as client:
            assert await client.call("ListComponents", {}) == {"components": []}
        raw.writer.close()


@pytest.mark.parametrize(
    ("operation", "request_body", "shape", "says"),
    [
        pytest.param("NoSuchThing", {}, "ServiceError", "unknown", id="unknown operation"),
        pytest.param(
            "CreateDebugPassword", {}, "ServiceError", "CreateDebugPassword is not supported", id="modelled only"
        ),
        pytest.param("PublishToTopic", {}, "InvalidArgumentsError", "topic is required", id="missing member"),
        pytest.param("ListComponents", {"x": 1}, "InvalidArgumentsError", "x is not a member", id="unknown member"),
        pytest.param("UpdateState", {"state": "BROKEN"}, "InvalidArgumentsError", "RUNNING, ERRORED", id="enumeration"),
        pytest.param(
            "PublishToTopic",
            {"topic": "t", "publishMessage": {"binaryMessage": {"message": "%%%"}}},
            "InvalidArgumentsError",
            "publishMessage.binaryMessage.message is not base64",
            id="base64",
        ),
        pytest.param(
            "PublishToTopic",
            {"topic": "t", "publishMessage": {}},
            "InvalidArgumentsError",
            "exactly one of",
            id="union",
        ),
        pytest.param(
            "PublishToTopic",
            {"topic": "a/+", "publishMessage": {"jsonMessage": {"message": {}}}},
            "InvalidArgumentsError",
            "must not have",
            id="publish to wildcard",
        ),
        pytest.param("SubscribeToTopic", {"topic": "a/#/b"}, "InvalidArgumentsError", "filter", id="bad filter"),
        pytest.param("GetConfiguration", {"keyPath": ["no"]}, "ResourceNotFoundError", "no key", id="not found"),
        pytest.param(
            "RestartComponent", {"componentName": "x"}, "ComponentNotFoundError", "not deployed", id="component"
        ),
    ],
)
async def test_refusals(tmp_path: Path, operation: str, request_body: object, shape: str, says: str) -> None:
    async with fakes.serving(fakes.make_core(), tmp_path) as ipc_server:
        raw = await Raw.open(ipc_server.path)
        raw.call(1, operation, request_body)
        message = await raw.next()
        assert message.number(":message-type") == 1 and message.number(":message-flags") == 2
        assert message.text("service-model-type") == "aws.greengrass#" + shape
        body = json.loads(message.payload)
        assert says in body["message"] and body["_message"] == body["message"] and body["_errorCode"] == shape
        raw.writer.close()


@pytest.mark.parametrize("name", sorted(model.OPERATIONS))
async def test_every_operation_refuses_a_request_that_is_no_object(tmp_path: Path, name: str) -> None:
    async with fakes.serving(fakes.make_core(), tmp_path) as ipc_server:
        raw = await Raw.open(ipc_server.path)
        raw.call(1, name.removeprefix("aws.greengrass#"), [1])
        message = await raw.next()
        assert message.number(":message-type") == 1
        shape = "InvalidArgumentsError" if HANDLERS.get(name) else "ServiceError"
        assert message.text("service-model-type") == "aws.greengrass#" + shape
        raw.writer.close()


async def test_a_stuck_subscriber_costs_bounded_memory_and_does_not_stop_the_others(tmp_path: Path) -> None:
    async with fakes.serving(fakes.make_core(), tmp_path) as ipc_server:
        stuck = socket.socket(socket.AF_UNIX)
        stuck.setblocking(False)
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(stuck, str(ipc_server.path))
        connect = {":message-type": 4, ":message-flags": 0, ":stream-id": 0, ":version": "0.1.0"}
        await loop.sock_sendall(stuck, es.encode(connect, b'{"authToken":"token-of-com.b"}'))
        subscribe = {
            ":message-type": 0,
            ":message-flags": 0,
            ":stream-id": 1,
            "operation": "aws.greengrass#SubscribeToTopic",
        }
        await loop.sock_sendall(stuck, es.encode(subscribe, b'{"topic":"t"}'))
        async with await ipc.connect(ipc_server.path, "token-of-com.a") as client:
            while len(ipc_server.core.pubsub) < 1:
                await client.call("ListComponents", {})
            got = 0
            _, events = await client.subscribe("SubscribeToTopic", {"topic": "t"})
            before = sum(child.value for child in server.DROPPED.children.values())
            for _ in range(60):
                async with asyncio.TaskGroup() as tasks:
                    for _ in range(50):
                        tasks.create_task(client.publish("t", b"x" * 1000))
                for _ in range(50):
                    await asyncio.wait_for(anext(events), 5)
                    got += 1
            assert got == 3000
            dropped = sum(child.value for child in server.DROPPED.children.values()) - before
            assert dropped > 1000
            victim = next(c for c in ipc_server.connections if c.component == "com.b")
            assert victim._queue_bytes <= server.QUEUE_BYTES and len(victim._queue) <= server.QUEUE_EVENTS
            assert victim._transport is not None
            assert victim._transport.get_write_buffer_size() <= 2 * server.WRITE_HIGH
        stuck.close()


async def test_a_path_longer_than_a_socket_address_works(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 90) / ("y" * 90)
    folder.mkdir(parents=True)
    async with fakes.serving(fakes.make_core(), folder) as ipc_server:
        assert len(str(ipc_server.path)) > 108
        work = folder / "work"
        assert server.client_path(ipc_server.path, work) == "../ipc.socket"
    assert not ipc_server.path.exists()


async def test_a_lost_server_fails_calls_and_ends_subscriptions(tmp_path: Path) -> None:
    async with fakes.serving(fakes.make_core(), tmp_path) as ipc_server:
        client = await ipc.connect(ipc_server.path, "token-of-com.a")
        _, events = await client.subscribe("SubscribeToTopic", {"topic": "t"})
    assert [event async for event in events] == []
    with pytest.raises(Unavailable):
        await client.call("ListComponents", {})
    with pytest.raises(Unavailable):
        await ipc.connect(tmp_path / "ipc.socket", "x")
