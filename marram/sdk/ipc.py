"""An IPC client on asyncio and the standard library: what a component needs to talk to its nucleus.

    async with await connect() as ipc:
        await ipc.publish("plant/temp", {"c": 21.5})
        async for topic, payload in ipc.messages("plant/#"): ...

Works on any Greengrass nucleus. Errors of the nucleus are `IpcError` with the shape's name in `code`.
"""

import asyncio
import base64
import os
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final

from marram.core import codec
from marram.core import eventstream as es
from marram.core.codec import JsonObject, JsonValue
from marram.core.errors import Denied, Invalid, MarramError, Unavailable

PREFIX: Final = "aws.greengrass#"
QUEUE_EVENTS: Final = 1000


class IpcError(MarramError):
    """An operation was refused. `code` in `data` is the shape: UnauthorizedError, ResourceNotFoundError, ..."""

    @property
    def shape(self) -> str:
        return str(self.data.get("shape", ""))


class Events:
    """The events of one subscription, an async iterator of JSON bodies; `close` ends it.

    Holds up to QUEUE_EVENTS; then the client stops reading its socket until some are taken, and the nucleus decides.
    """

    def __init__(self, client: "Client", stream_id: int) -> None:
        self._client = client
        self.stream_id = stream_id
        self.queue: asyncio.Queue[JsonObject | MarramError | None] = asyncio.Queue()

    def __aiter__(self) -> "Events":
        return self

    async def __anext__(self) -> JsonObject:
        item = await self.queue.get()
        self._client.taken(self)
        if item is None:
            raise StopAsyncIteration
        if isinstance(item, MarramError):
            raise item
        return item

    def close(self) -> None:
        self._client.end(self.stream_id)


class Client(asyncio.Protocol):
    """One connection. Made by `connect`."""

    def __init__(self, token: str) -> None:
        loop = asyncio.get_running_loop()
        self._token = token
        self._decoder = es.Decoder()
        self._transport: asyncio.Transport | None = None
        self._next = 1
        self._waiting: dict[int, asyncio.Future[JsonObject]] = {}
        self._events: dict[int, Events] = {}
        self._out: list[bytes] = []
        self._paused = False
        self.ready: asyncio.Future[None] = loop.create_future()
        self.closed = asyncio.Event()

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
        await self.closed.wait()

    # the calls that most components make

    async def publish(self, topic: str, payload: JsonObject | bytes | str) -> None:
        """To other components. A dict travels as a JSON message, bytes and text as a binary one."""
        await self.call("PublishToTopic", {"topic": topic, "publishMessage": _message(payload)})

    async def publish_to_hub(self, topic: str, payload: JsonObject | bytes | str, *, qos: int = 1) -> None:
        """To the hub. With `qos` 1 it is on this device's disk when this returns, link up or down."""
        raw = codec.dumps(payload) if isinstance(payload, dict) else _bytes(payload)
        await self.call(
            "PublishToIoTCore", {"topicName": topic, "qos": str(qos), "payload": base64.b64encode(raw).decode()}
        )

    async def messages(self, topic: str) -> AsyncIterator[tuple[str, bytes]]:
        """(topic, payload) of what other components publish on `topic`, a topic or filter."""
        _, events = await self.subscribe("SubscribeToTopic", {"topic": topic})
        try:
            async for event in events:
                kind, content = next(iter(event.items()))
                assert isinstance(content, dict)
                body, context = content.get("message"), content.get("context")
                name = str(context.get("topic", topic)) if isinstance(context, dict) else topic
                raw = base64.b64decode(str(body)) if kind == "binaryMessage" else codec.dumps(body)
                yield name, raw
        finally:
            events.close()

    async def hub_messages(self, topic: str, *, qos: int = 1) -> AsyncIterator[tuple[str, bytes]]:
        """(topic, payload) of what the hub sends on `topic`, a topic or filter."""
        _, events = await self.subscribe("SubscribeToIoTCore", {"topicName": topic, "qos": str(qos)})
        try:
            async for event in events:
                content = event.get("message")
                assert isinstance(content, dict)
                yield str(content.get("topicName", "")), base64.b64decode(str(content.get("payload", "")))
        finally:
            events.close()

    async def configuration(self, *path: str, component: str | None = None) -> JsonValue:
        """The value at `path`; a leaf is unwrapped."""
        request: JsonObject = {"keyPath": list(path)}
        if component:
            request["componentName"] = component
        value = (await self.call("GetConfiguration", request)).get("value")
        if path and isinstance(value, dict) and list(value) == [path[-1]] and not isinstance(value[path[-1]], dict):
            return value[path[-1]]
        return value

    async def report_running(self) -> None:
        await self.call("UpdateState", {"state": "RUNNING"})

    # any operation

    async def call(self, operation: str, request: Mapping[str, JsonValue]) -> JsonObject:
        """One request, one answer. Raises IpcError, or Unavailable when the connection is lost."""
        return await self._send(operation, request)[1]

    async def subscribe(self, operation: str, request: Mapping[str, JsonValue]) -> tuple[JsonObject, Events]:
        stream_id, answer = self._send(operation, request)
        events = self._events[stream_id] = Events(self, stream_id)
        try:
            return await answer, events
        except BaseException:
            self._events.pop(stream_id, None)
            raise

    def end(self, stream_id: int) -> None:
        if self._events.pop(stream_id, None) is not None and self._transport is not None:
            self._write(es.frame(es.application_block(0, int(es.Flag.TERMINATE_STREAM), stream_id), b""))

    def taken(self, events: Events) -> None:
        if self._paused and events.queue.qsize() < QUEUE_EVENTS // 2 and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()

    def _send(self, operation: str, request: Mapping[str, JsonValue]) -> tuple[int, asyncio.Future[JsonObject]]:
        if self._transport is None:
            raise Unavailable("the IPC connection is closed")
        stream_id = self._next
        self._next += 1
        name = operation if "#" in operation else PREFIX + operation
        block = es.header_block({"operation": name}) + es.application_block(0, 0, stream_id, f"{name}Request")
        answer: asyncio.Future[JsonObject] = asyncio.get_running_loop().create_future()
        self._waiting[stream_id] = answer
        self._write(es.frame(block, codec.dumps(request)))
        return stream_id, answer

    def _write(self, frame: bytes) -> None:
        if not self._out:
            asyncio.get_running_loop().call_soon(self._flush)
        self._out.append(frame)

    def _flush(self) -> None:
        out, self._out = self._out, []
        if self._transport is not None and out:
            self._transport.write(b"".join(out))

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        connect: dict[str, es.HeaderValue] = {
            ":version": es.VERSION,
            ":message-type": 4,
            ":message-flags": 0,
            ":stream-id": 0,
        }
        transport.write(es.encode(connect, codec.dumps({"authToken": self._token})))

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        error = Unavailable("the IPC connection was lost")
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(error)
        self._waiting.clear()
        for events in self._events.values():
            events.queue.put_nowait(None)
        self._events.clear()
        if not self.ready.done():
            self.ready.set_exception(error)
        self.closed.set()

    def data_received(self, data: bytes) -> None:
        try:
            messages = self._decoder.receive(data)
        except Invalid:
            if self._transport is not None:
                self._transport.abort()
            return
        for message in messages:
            self._receive(message)

    def _receive(self, message: es.Message) -> None:
        kind, flags = message.number(":message-type"), message.number(":message-flags")
        stream_id = message.number(":stream-id")
        if kind == es.MessageType.CONNECT_ACK:
            if flags & es.Flag.CONNECTION_ACCEPTED:
                self.ready.set_result(None)
            else:
                self.ready.set_exception(Denied("the nucleus refused this component's token"))
                assert self._transport is not None
                self._transport.close()
        elif kind == es.MessageType.PING:
            self._write(es.protocol_message(es.MessageType.PING_RESPONSE, 0, message.payload))
        elif kind in (es.MessageType.APPLICATION_MESSAGE, es.MessageType.APPLICATION_ERROR):
            self._application(kind, flags, stream_id, message)

    def _application(self, kind: int, flags: int, stream_id: int, message: es.Message) -> None:
        body = codec.loads_object(message.payload or b"{}")
        error: MarramError | None = None
        if kind == es.MessageType.APPLICATION_ERROR:
            shape = message.text("service-model-type").removeprefix(PREFIX)
            error = IpcError(f"{shape}: {body.get('message') or body.get('_message')}", shape=shape)
        answer = self._waiting.pop(stream_id, None)
        events = self._events.get(stream_id)
        if answer is not None:
            if answer.done():
                pass
            elif error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(body)
        elif events is not None and (body or error):
            events.queue.put_nowait(error or body)
            if events.queue.qsize() >= QUEUE_EVENTS and not self._paused and self._transport is not None:
                self._paused = True
                self._transport.pause_reading()
        if flags & es.Flag.TERMINATE_STREAM and events is not None:
            self._events.pop(stream_id, None)
            events.queue.put_nowait(None)


async def connect(
    path: str | Path | None = None,
    token: str | None = None,
    *,
    timeout_s: float = 10.0,
    environ: Callable[[str], str | None] = os.environ.get,
) -> Client:
    """Connect to the nucleus that started this process (or to `path` with `token`).

    Raises Denied when the token is refused, Unavailable when nothing listens.
    """
    where = path or environ("AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT")
    secret = token or environ("SVCUID")
    if not where or not secret:
        raise Invalid(
            "not started by a nucleus: SVCUID and AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT are not set"
        )
    try:
        async with asyncio.timeout(timeout_s):
            _, client = await asyncio.get_running_loop().create_unix_connection(lambda: Client(secret), str(where))
            await client.ready
    except (OSError, TimeoutError) as exc:
        raise Unavailable(f"no nucleus at {where}: {exc}") from exc
    return client


def _message(payload: JsonObject | bytes | str) -> JsonObject:
    if isinstance(payload, dict):
        return {"jsonMessage": {"message": payload}}
    return {"binaryMessage": {"message": base64.b64encode(_bytes(payload)).decode()}}


def _bytes(payload: bytes | str) -> bytes:
    return payload.encode() if isinstance(payload, str) else payload
