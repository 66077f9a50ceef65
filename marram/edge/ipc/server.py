"""The IPC server: frames in, operations called, frames out.

Rules of the wire (observed with awsiotsdk 1.31): a refused CONNECT is answered and left open for the client to hang up; unary
answers carry TERMINATE_STREAM; a streaming response leaves before its first event; stream ids are positive and rise.

Back-pressure: all frames of one turn of the loop leave in one write. A connection that does not read what it is sent is not read
either; events for it wait in a bounded queue, whoever publishes to it is slowed for at most STALL_S, then its events are dropped
and counted.
"""

import asyncio
import contextlib
import os
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from marram.core import codec
from marram.core import eventstream as es
from marram.core.codec import JsonObject
from marram.core.errors import Invalid, MarramError, Unavailable, Unsupported
from marram.edge.ipc import model
from marram.edge.ipc.operation import HANDLERS, fault
from marram.edge.ipc.ports import Core
from marram.kit import metrics, registry
from marram.kit.log import logger

log = logger(__name__)

MAX_FRAME: Final = 8 << 20
MAX_FIRST: Final = 64 << 10  # of who has not shown a token yet
MAX_CONNECTIONS: Final = 512
MAX_STREAMS: Final = 1024  # open subscriptions and calls of one connection
MAX_CALLS: Final = 128  # calls of one connection that wait for something
QUEUE_BYTES: Final = 1 << 20
QUEUE_EVENTS: Final = 1000
WRITE_HIGH: Final = 256 * 1024
CONNECT_S: Final = 10.0
REFUSED_S: Final = 1.0
STALL_S: Final = 0.25
MAX_SOCKET_PATH: Final = 107
PEER: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid

REQUESTS: Final = metrics.counter("marram_ipc_requests_total", "IPC requests by operation", ("operation",))
DROPPED: Final = metrics.counter("marram_ipc_events_dropped_total", "IPC events dropped, by component", ("component",))
CONNECTIONS: Final = metrics.gauge("marram_ipc_connections", "open IPC connections")

_TERMINATE: Final = int(es.Flag.TERMINATE_STREAM)


class EventStream:
    """One stream of a connection: a call that is being answered, or a subscription."""

    __slots__ = ("_block", "_closers", "_connection", "_early", "component", "operation", "stream_id", "streaming")

    def __init__(self, connection: "Connection", stream_id: int, operation: str) -> None:
        self._connection: Connection | None = connection
        self.component = connection.component
        self.operation = operation
        self.stream_id = stream_id
        self.streaming = False
        self._closers: list[Callable[[], None]] | None = None
        self._early: list[bytes] | None = None
        self._block = b""

    def stream(self) -> "EventStream":
        self.streaming = True
        self._early = []
        self._block = es.application_block(0, 0, self.stream_id, model.OPERATIONS[self.operation].stream)
        return self

    def on_close(self, done: Callable[[], None]) -> None:
        if self._connection is None:
            done()
        elif self._closers is None:
            self._closers = [done]
        else:
            self._closers.append(done)

    def send(self, body: bytes) -> None:
        connection = self._connection
        if connection is None:
            return
        if self._early is not None:
            if len(self._early) < QUEUE_EVENTS:
                self._early.append(body)
            return
        connection.send_event(es.frame(self._block, body))

    def started(self) -> None:
        early, self._early = self._early, None
        for body in early or ():
            self.send(body)

    def close(self) -> None:
        self._connection = None
        closers, self._closers = self._closers, None
        for done in closers or ():
            done()


class Connection(asyncio.Protocol):
    """One client."""

    def __init__(self, server: "Server") -> None:
        self._server = server
        self._decoder = es.Decoder(MAX_FIRST)
        self._transport: asyncio.Transport | None = None
        self._streams: dict[int, EventStream] = {}
        self._last_stream = 0
        self._calls = 0
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._queue: deque[bytes] = deque()
        self._queue_bytes = 0
        self._full = False  # the transport's buffer is over its high mark
        self._stuck = False
        self._stalled: set[Connection] = set()  # publishers that wait for us
        self._stall_timer: asyncio.TimerHandle | None = None
        self._holds = 0  # reasons not to read
        self._deadline: asyncio.TimerHandle | None = None
        self._closing = False
        self.component = ""

    def __repr__(self) -> str:
        return (
            f"Connection({self.component or 'unauthenticated'}, streams={len(self._streams)}, queue={len(self._queue)})"
        )

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=WRITE_HIGH)
        server = self._server
        if len(server.connections) >= MAX_CONNECTIONS:
            log.warning("ipc.too_many_connections", limit=MAX_CONNECTIONS)
            transport.abort()
            return
        server.connections.add(self)
        CONNECTIONS.set(len(server.connections))
        self._deadline = asyncio.get_running_loop().call_later(CONNECT_S, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        self._transport = None
        self._server.connections.discard(self)
        CONNECTIONS.set(len(self._server.connections))
        if self._deadline is not None:
            self._deadline.cancel()
        self._release_stalled()
        streams = list(self._streams.values())
        self._streams.clear()
        self._queue.clear()
        self._out.clear()
        for stream in streams:
            stream.close()

    def pause_writing(self) -> None:
        self._full = True
        self._hold()

    def resume_writing(self) -> None:
        self._full = False
        self._drain()  # may fill the transport again, which holds once more before this hold ends
        self._unhold()
        if not self._full:
            self._stuck = False
            self._release_stalled()

    def data_received(self, data: bytes) -> None:
        server = self._server
        try:
            messages = self._decoder.receive(data)
        except Invalid as exc:
            self._protocol_error(exc.message)
            return
        server.reading = self
        try:
            for message in messages:
                if self._closing:
                    return
                self._receive(message)
        finally:
            server.reading = None

    # messages

    def _receive(self, message: es.Message) -> None:
        kind = message.number(":message-type")
        stream_id = message.number(":stream-id")
        if not self.component:
            if kind == es.MessageType.CONNECT and stream_id == 0:
                self._connect(message)
            else:
                self._protocol_error("the first message must be CONNECT")
        elif kind == es.MessageType.APPLICATION_MESSAGE:
            self._application(message, stream_id)
        elif kind == es.MessageType.PING:
            self._write(es.protocol_message(es.MessageType.PING_RESPONSE, 0, message.payload))
        elif kind == es.MessageType.PING_RESPONSE:
            pass
        elif kind == es.MessageType.APPLICATION_ERROR:
            self._end(stream_id)
        elif kind in (es.MessageType.PROTOCOL_ERROR, es.MessageType.INTERNAL_ERROR):
            self.close()
        else:
            self._protocol_error("unexpected message type")

    def _connect(self, message: es.Message) -> None:
        owner = None
        if message.text(":version") == es.VERSION:
            try:
                body = codec.loads_object(message.payload or b"{}", max_bytes=64 * 1024)
            except Invalid:
                body = {}
            token = body.get("authToken")
            if isinstance(token, str) and token:
                owner = self._server.core.tokens.token_owner(token, _peer_uid(self._transport))
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if not owner:
            uid = _peer_uid(self._transport)
            log.warning("ipc.connect_refused", version=message.text(":version"), uid=uid)
            self._write(es.protocol_message(es.MessageType.CONNECT_ACK, 0))
            # Closing at once turns the SDK's AccessDeniedError into a socket error: let the client hang up.
            self._closing = True
            if self._transport is not None:
                self._deadline = asyncio.get_running_loop().call_later(REFUSED_S, self._transport.abort)
            return
        self.component = owner
        self._decoder.limit = MAX_FRAME
        self._write(es.protocol_message(es.MessageType.CONNECT_ACK, int(es.Flag.CONNECTION_ACCEPTED)))

    def _application(self, message: es.Message, stream_id: int) -> None:
        if stream_id <= 0:
            self._protocol_error("application messages need a positive stream id")
            return
        flags = message.number(":message-flags")
        if stream_id in self._streams:
            if flags & _TERMINATE:
                stream = self._streams[stream_id]
                # The client waits for our terminate before it calls the stream closed.
                if stream.streaming:
                    self._write(es.frame(es.application_block(0, _TERMINATE, stream_id), b""))
                self._end(stream_id)
            else:
                self._fail(stream_id, "", Invalid("this operation takes no further messages"))
            return
        name = message.text("operation")
        if stream_id <= self._last_stream:
            # A terminate that crossed ours on the way is harmless; it names no operation.
            if name:
                self._protocol_error("stream ids must rise")
            return
        self._last_stream = stream_id
        if not name:
            self._protocol_error("the first message of a stream must name its operation")
            return
        self._call(stream_id, name, message.payload)

    def _call(self, stream_id: int, name: str, payload: bytes) -> None:
        operation = model.OPERATIONS.get(name)
        if operation is None:
            self._fail(stream_id, "", Unsupported(f"operation {name[:200]!r} is unknown"))
            return
        REQUESTS.labels(operation=name).value += 1
        handler = HANDLERS.get(name)
        if handler is None:
            short = name.removeprefix(model.PREFIX)
            self._fail(stream_id, name, Unsupported(f"{short} is not supported by this nucleus"))
            return
        if len(self._streams) >= MAX_STREAMS:
            self._fail(stream_id, name, Unavailable(f"over {MAX_STREAMS} open streams on one connection"))
            return
        stream = EventStream(self, stream_id, name)
        self._streams[stream_id] = stream
        try:
            request = model.read_request(name, codec.loads(payload or b"{}"))
            answer = handler(self._server.core, stream, request)
            if isinstance(answer, dict):
                self._answer(stream, answer)
                return
        except MarramError as exc:
            self._fail(stream_id, name, exc)
            return
        except Exception as exc:  # a border: the client gets a modelled error, the log the traceback
            log.error("ipc.operation_failed", exc_info=exc, operation=name, component=self.component)
            self._fail(stream_id, name, exc)
            return
        self._calls += 1
        if self._calls == MAX_CALLS:
            self._hold()
        self._server.start(self._await(stream, answer), f"ipc-{name.removeprefix(model.PREFIX)}")

    async def _await(self, stream: EventStream, answer: Awaitable[JsonObject]) -> None:
        try:
            self._answer(stream, await answer)
        except MarramError as exc:
            self._fail(stream.stream_id, stream.operation, exc)
        except Exception as exc:  # a border
            log.error("ipc.operation_failed", exc_info=exc, operation=stream.operation, component=self.component)
            self._fail(stream.stream_id, stream.operation, exc)
        finally:
            if self._calls == MAX_CALLS:
                self._unhold()
            self._calls -= 1

    def _answer(self, stream: EventStream, body: JsonObject) -> None:
        if self._streams.get(stream.stream_id) is not stream:
            return
        flags = 0 if stream.streaming else _TERMINATE
        shape = model.OPERATIONS[stream.operation].response
        payload = codec.dumps(body) if body else b"{}"
        self._write(es.frame(es.application_block(0, flags, stream.stream_id, shape), payload))
        if stream.streaming:
            stream.started()
        else:
            self._end(stream.stream_id)

    def _fail(self, stream_id: int, operation: str, error: Exception) -> None:
        shape, body = fault(operation, error)
        block = es.application_block(int(es.MessageType.APPLICATION_ERROR), _TERMINATE, stream_id, shape)
        self._write(es.frame(block, codec.dumps(body)))
        self._end(stream_id)

    def _end(self, stream_id: int) -> None:
        stream = self._streams.pop(stream_id, None)
        if stream is not None:
            stream.close()

    def _protocol_error(self, why: str) -> None:
        log.warning("ipc.protocol_error", component=self.component, why=why)
        self._write(es.protocol_message(es.MessageType.PROTOCOL_ERROR, 0, codec.dumps({"message": why})))
        self.close()

    def close(self) -> None:
        self._closing = True
        self.flush()
        if self._transport is not None:
            self._transport.close()

    # writing

    def _write(self, frame: bytes) -> None:
        if self._transport is None:
            return
        if not self._out:
            self._server.dirty(self)
        self._out.append(frame)
        self._out_bytes += len(frame)
        if self._out_bytes >= WRITE_HIGH:
            self.flush()  # within a turn, so that a burst meets the transport's high mark and not our memory

    def flush(self) -> None:
        out, self._out = self._out, []
        self._out_bytes = 0
        if out and self._transport is not None:
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    def send_event(self, frame: bytes) -> None:
        if not self._full:
            self._write(frame)
            return
        if len(self._queue) >= QUEUE_EVENTS or self._queue_bytes + len(frame) > QUEUE_BYTES:
            DROPPED.inc(component=self.component)
            if not self._stuck:
                self._stuck = True
                log.warning("ipc.subscriber_stuck", component=self.component, queued=len(self._queue))
                self._release_stalled()
            return
        self._queue.append(frame)
        self._queue_bytes += len(frame)
        publisher = self._server.reading
        if publisher is not None and publisher is not self and not self._stuck and publisher not in self._stalled:
            self._stalled.add(publisher)
            publisher._hold()
            if self._stall_timer is None:
                self._stall_timer = asyncio.get_running_loop().call_later(STALL_S, self._give_up)

    def _drain(self) -> None:
        while self._queue and not self._full:
            frame = self._queue.popleft()
            self._queue_bytes -= len(frame)
            self._write(frame)
        self.flush()

    def _give_up(self) -> None:
        self._stall_timer = None
        self._stuck = True
        self._release_stalled()

    def _release_stalled(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None
        stalled, self._stalled = self._stalled, set()
        for publisher in stalled:
            publisher._unhold()

    def _hold(self) -> None:
        self._holds += 1
        if self._holds == 1 and self._transport is not None:
            self._transport.pause_reading()

    def _unhold(self) -> None:
        self._holds -= 1
        if self._holds == 0 and self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()


class Server:
    """Listens on `path`. `run` serves until cancelled; `ready` is set when clients may connect."""

    def __init__(self, path: Path, core: Core) -> None:
        self.path = path
        self.core = core
        self.connections: set[Connection] = set()
        self.reading: Connection | None = None  # whose bytes are being handled in this turn
        self.ready = asyncio.Event()
        self._dirty: list[Connection] = []
        self._tasks: asyncio.TaskGroup | None = None
        registry.discover("marram.edge.ipc.operations")

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        listener = await loop.create_unix_server(lambda: Connection(self), sock=listen(self.path))
        try:
            async with asyncio.TaskGroup() as self._tasks:
                self.ready.set()
                log.info("ipc.ready", path=str(self.path))
                await loop.create_future()
        finally:
            self.ready.clear()
            listener.close()
            for connection in list(self.connections):
                connection.close()
            with contextlib.suppress(OSError):
                self.path.unlink()

    def start(self, work: Awaitable[None], name: str) -> None:
        assert self._tasks is not None
        self._tasks.create_task(work, name=name)  # type: ignore[arg-type]  # our coroutines only

    def dirty(self, connection: Connection) -> None:
        if not self._dirty:
            asyncio.get_running_loop().call_soon(self._flush)
        self._dirty.append(connection)

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        for connection in dirty:
            connection.flush()


def _peer_uid(transport: asyncio.Transport | None) -> int:
    """Whose process is at the other end, from the kernel; -1 when it cannot be told."""
    sock = transport.get_extra_info("socket") if transport is not None else None
    if sock is None:
        return -1
    try:
        _pid, uid, _gid = PEER.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER.size))
    except OSError:
        return -1
    return int(uid)


def listen(path: Path) -> socket.socket:
    """A listening Unix socket at `path`, however long the path is. A socket that is left from before is replaced."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        with contextlib.suppress(FileNotFoundError):
            if path.is_socket():
                path.unlink()
        folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # sockaddr_un holds 108 bytes; through the descriptor any folder is near enough.
            long = len(os.fsencode(path)) > MAX_SOCKET_PATH
            sock.bind(f"/proc/self/fd/{folder}/{path.name}" if long else str(path))
        finally:
            os.close(folder)
        path.chmod(0o666)  # components run as other users; the token is what lets them in
        sock.listen(128)
    except OSError as exc:
        sock.close()
        raise Unavailable(f"cannot listen on {path}: {exc.strerror}", path=str(path)) from exc
    return sock


def client_path(path: Path, cwd: Path) -> str:
    """What a process in `cwd` should connect to: the absolute path, or a relative one where that is too long."""
    absolute = str(path)
    if len(os.fsencode(absolute)) <= MAX_SOCKET_PATH:
        return absolute
    return os.path.relpath(path, cwd)
