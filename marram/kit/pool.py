"""Worker processes: spawned Python programs that answer calls over their standard input and output. No pickles.

A frame is a length (u32, big endian) and that many bytes of JSON. To the worker {"method", "params"}, back {"result"} or
{"error": {"kind", "message"}}; one call at a time. Large data go in by file, named in `params`, and come out by file or as
bytes beside the result: the length then has its highest bit set, and a second length (u32) and those bytes follow the JSON.
The parent's half is `Worker`, the child's is `serve`. A worker dies with its parent (PDEATHSIG, and end of input), and is started again by
its owner's next call. Not here: how many workers there are and what they do (the slices' work.py).
"""

import asyncio
import contextlib
import ctypes
import fcntl
import os
import resource
import signal
import struct
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, cast

from marram.core import codec, errors
from marram.core.codec import JsonObject, JsonValue
from marram.core.errors import Invalid, MarramError, Unavailable
from marram.kit import metrics
from marram.kit.log import logger

log = logger(__name__)

MAX_FRAME: Final = 256 << 20
PARENT_VARIABLE: Final = "MARRAM_WORKER_PARENT"
LIMITS_VARIABLE: Final = "MARRAM_WORKER_LIMITS"
PIPE_BYTES: Final = 1 << 20  # of the worker's output: one write of a page instead of many of 64 KB
_LENGTH: Final = struct.Struct(">I")
_WITH_BYTES: Final = 1 << 31
_PR_SET_PDEATHSIG: Final = 1
_KINDS: Final[Mapping[str, type[MarramError]]] = {
    kind.__name__: kind
    for kind in (
        errors.Invalid,
        errors.NotFound,
        errors.Conflict,
        errors.LimitExceeded,
        errors.Unavailable,
        errors.Unsupported,
        errors.Corrupt,
    )
}
_deaths: Final = metrics.counter("marram_worker_deaths_total", "Worker processes that ended unasked", ("worker",))

Handler: TypeAlias = Callable[[JsonObject], object]


@dataclass(frozen=True, slots=True)
class Raw:
    """What a handler returns for `Worker.call_raw`: a small result, and bytes that nobody parses on the way, in parts."""

    result: object
    parts: Sequence[bytes | memoryview]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Kernel limits of the child; None leaves one as it is. `address_bytes` counts reserved address space, not use."""

    address_bytes: int | None = None
    cpu_s: int | None = None
    open_files: int | None = 1024
    nice: int = 0


class Worker:
    """One child process. Started by the first call; after a death the next call starts a new one."""

    def __init__(
        self, name: str, argv: Sequence[str], *, env: Mapping[str, str] | None = None, limits: Limits | None = None
    ) -> None:
        """`argv` is the whole command, e.g. `python_module("marram.hub.timeseries.work")`; `env` is added to a bare one."""
        self.name = name
        self._argv = tuple(argv)
        self._env = dict(env or {})
        self._limits = limits or Limits()
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()
        self._closed = False

    @property
    def pid(self) -> int | None:
        process = self._process
        return None if process is None or process.returncode is not None else process.pid

    async def call(self, method: str, params: Mapping[str, object], timeout_s: float) -> JsonValue:
        """The handler's result. Waits for its turn first; `timeout_s` counts from then.

        Raises what the handler raised (as the same class of ours); Unavailable when the worker dies or the time is up. In
        both cases, and when the caller is cancelled, the process is gone: half an answer would shift all later ones.
        """
        return (await self.call_raw(method, params, timeout_s))[0]

    async def call_raw(self, method: str, params: Mapping[str, object], timeout_s: float) -> tuple[JsonValue, bytes]:
        """As `call`, for a handler that returns Raw: its result and its bytes (none when it returned another thing)."""
        frame = codec.dumps({"method": method, "params": params})
        if len(frame) > MAX_FRAME:
            raise Invalid(f"a call of {len(frame)} bytes to the worker {self.name} is over {MAX_FRAME}")
        async with self._turn:
            if self._closed:
                raise Unavailable(f"the worker {self.name} is closed")
            process = await self._running()
            clean = False
            try:
                async with asyncio.timeout(timeout_s):
                    answer, data = await self._exchange(process, frame)
                clean = True
            except TimeoutError:
                raise Unavailable(f"the worker {self.name} did not answer {method} in {timeout_s:g} s") from None
            except (OSError, asyncio.IncompleteReadError) as exc:
                status = await _gone(process)
                _deaths.inc(worker=self.name)
                log.warning("worker.died", worker=self.name, method=method, status=status)
                raise Unavailable(f"the worker {self.name} ended ({status}) during {method}") from exc
            finally:
                if not clean:
                    _kill(process)
                    self._process = None
        return _result(answer, self.name), data

    async def close(self) -> None:
        """End the process: end of input, then SIGKILL after 5 s. A call in progress ends first, if it does within that time."""
        self._closed = True
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        if not self._turn.locked():
            process.stdin.close()
        try:
            async with asyncio.timeout(5):
                await process.wait()
        except TimeoutError:
            _kill(process)
            await process.wait()
        _close_transport(process)

    async def _running(self) -> asyncio.subprocess.Process:
        if self._process is not None:
            if self._process.returncode is None:
                return self._process
            log.warning("worker.found_dead", worker=self.name, status=self._process.returncode)
            _deaths.inc(worker=self.name)
            _close_transport(self._process)
        limits = self._limits
        given = [limits.address_bytes, limits.cpu_s, limits.open_files, limits.nice]
        bare = {key: os.environ[key] for key in ("PATH", "LANG", "LC_ALL", "TMPDIR", "PYTHONPATH") if key in os.environ}
        env = bare | self._env | {PARENT_VARIABLE: str(os.getpid()), LIMITS_VARIABLE: codec.dumps(given).decode()}
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env=env,
                start_new_session=True,  # a Ctrl-C at the terminal is for the hub, which then ends its workers in order
                limit=1 << 20,
            )
        except OSError as exc:
            raise Unavailable(f"the worker {self.name} cannot be started: {exc.strerror}") from exc
        return self._process

    async def _exchange(self, process: asyncio.subprocess.Process, frame: bytes) -> tuple[bytes, bytes]:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(_LENGTH.pack(len(frame)))
        process.stdin.write(frame)
        await process.stdin.drain()
        (length,) = _LENGTH.unpack(await process.stdout.readexactly(_LENGTH.size))
        answer = await _read_part(process.stdout, length & ~_WITH_BYTES)
        if not length & _WITH_BYTES:
            return answer, b""
        (length,) = _LENGTH.unpack(await process.stdout.readexactly(_LENGTH.size))
        return answer, await _read_part(process.stdout, length)


async def _read_part(source: asyncio.StreamReader, length: int) -> bytes:
    if length > MAX_FRAME:
        raise ConnectionError(f"a frame of {length} bytes")
    return await source.readexactly(length)


def python_module(module: str) -> tuple[str, ...]:
    """The command that runs `module` as a worker with this interpreter."""
    return (sys.executable, "-X", "faulthandler", "-m", module)


def serve(handlers: Mapping[str, Handler]) -> None:
    """The child's half: answer calls until the parent goes. Called once, from the worker module's `__main__`."""
    _tie_to_parent()
    _apply_limits()
    source = os.fdopen(0, "rb", buffering=1 << 16)
    # A library that prints must not write into the frames: standard output becomes standard error.
    target = os.fdopen(os.dup(1), "wb", buffering=1 << 16)
    os.dup2(2, 1)
    with contextlib.suppress(OSError):  # the system's limit for pipes is lower
        fcntl.fcntl(target.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    while (frame := _read_frame(source.read)) is not None:
        answer, parts = _answer(handlers, frame)
        target.write(_LENGTH.pack(len(answer) | (0 if parts is None else _WITH_BYTES)))
        target.write(answer)
        if parts is not None:
            target.write(_LENGTH.pack(_size(parts)))
            for part in parts:
                target.write(part)
        target.flush()


def _read_frame(read: Callable[[int], bytes]) -> bytes | None:
    head = read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    body = read(length)
    return body if len(body) == length else None


def _size(parts: Sequence[bytes | memoryview]) -> int:
    return sum(part.nbytes if isinstance(part, memoryview) else len(part) for part in parts)


def _answer(handlers: Mapping[str, Handler], frame: bytes) -> tuple[bytes, Sequence[bytes | memoryview] | None]:
    """The JSON of the answer, and the bytes beside it, if it has any."""
    try:
        call = codec.loads_object(frame, what="call", max_bytes=MAX_FRAME)
        handler = handlers.get(str(call["method"]))
        if handler is None:
            raise Invalid(f"the worker has no method {call['method']}")
        params = call["params"]
        assert isinstance(params, dict)
        result = handler(params)
        parts = result.parts if isinstance(result, Raw) else None
        value = result.result if isinstance(result, Raw) else result
        # Rendered text may be returned as it is: a large result is not encoded twice.
        body = value if isinstance(value, bytes) else codec.dumps(value)
        answer = b'{"result":' + body + b"}"
        size = max(len(answer), _size(parts or ()))
        if size > MAX_FRAME:
            raise errors.LimitExceeded(f"an answer of {size} bytes is over {MAX_FRAME}", limit=MAX_FRAME)
        return answer, parts
    except MarramError as exc:
        named = next((kind.__name__ for kind in type(exc).__mro__ if kind.__name__ in _KINDS), "Unavailable")
        return codec.dumps({"error": {"kind": named, "message": exc.message}}), None
    except MemoryError:
        return codec.dumps({"error": {"kind": "LimitExceeded", "message": "the worker ran out of its memory"}}), None
    except Exception as exc:  # a border: the other side of it is another process
        traceback.print_exc()
        return codec.dumps({"error": {"kind": "RuntimeError", "message": f"{type(exc).__name__}: {exc}"}}), None


def _result(answer: bytes, name: str) -> JsonValue:
    reply = codec.loads_object(answer, what="answer", max_bytes=MAX_FRAME)
    error = reply.get("error")
    if error is None:
        return reply.get("result")
    assert isinstance(error, dict)
    kind = _KINDS.get(str(error["kind"]))
    if kind is None:
        raise RuntimeError(f"worker {name}: {error['message']}")
    raise kind(str(error["message"]))


def _tie_to_parent() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    parent = os.environ.get(PARENT_VARIABLE)
    if parent is not None and os.getppid() != int(parent):  # it died before prctl
        raise SystemExit(1)


def _apply_limits() -> None:
    raw = os.environ.get(LIMITS_VARIABLE)
    if raw is None:
        return
    # Four numbers or nulls, written by Worker.
    address, cpu, files, nice = cast("list[int | None]", codec.loads(raw))
    for which, value in ((resource.RLIMIT_AS, address), (resource.RLIMIT_CPU, cpu), (resource.RLIMIT_NOFILE, files)):
        if isinstance(value, int):
            hard = resource.getrlimit(which)[1]
            bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(which, (bound, bound))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if isinstance(nice, int) and nice:
        os.nice(nice)


async def _gone(process: asyncio.subprocess.Process) -> str:
    try:
        async with asyncio.timeout(1):
            code = await process.wait()
    except TimeoutError:
        return "closed its output"
    if code >= 0:
        return f"exit status {code}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"


def _kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    _close_transport(process)


def _close_transport(process: asyncio.subprocess.Process) -> None:
    # Without this the pipes stay open until the garbage collector finds them, with a ResourceWarning.
    process._transport.close()  # type: ignore[attr-defined]  # asyncio has no public way
