"""TCP and TLS, both sides: listen, connect, and a transport that says who the peer is.

TLS runs by ssl.MemoryBIO over a plain transport: 26 KB a connection, where asyncio's own `ssl=` costs 274 KB. Handshakes
run in an executor (2.5 ms each, OpenSSL releases the GIL), have a deadline and a limit on how many are open at once;
session tickets are OpenSSL's. The certificate says only "has the key": whether it is active is decided by who chooses
the protocol, on resumed sessions too. Not here: contexts and trust (hub/identity), protocols (borders, edge).
"""

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

from marram.core.errors import Unauthenticated, Unavailable
from marram.kit import metrics
from marram.kit.log import logger

log = logger(__name__)

HANDSHAKE_S: Final = 10.0
HALF_OPEN: Final = 1024  # handshakes under way on one listener
EARLY_BYTES: Final = 64 << 10  # what a peer may send before its handshake is done
READ_BYTES: Final = 64 << 10
CLOSE_S: Final = 2.0  # to flush what was written before close()
BACKLOG: Final = 1024

_handshakes: Final = metrics.counter("marram_tls_handshakes_total", "TLS handshakes by outcome", ("outcome",))
_refused: Final = metrics.counter("marram_connections_refused_total", "Connections refused at accept", ("reason",))

P = TypeVar("P", bound=asyncio.Protocol)


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerInfo:
    """Who is at the other end, as far as TCP and TLS know. `resumed`: by a session ticket."""

    address: tuple[str, int]
    tls: bool = False
    alpn: str | None = None
    certificate_der: bytes | None = None
    resumed: bool = False


class RawTransport(Protocol):
    """What this module asks of the loop's transport."""

    def write(self, data: bytes) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...
    def is_closing(self) -> bool: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def is_reading(self) -> bool: ...
    def get_write_buffer_size(self) -> int: ...
    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...
    def get_extra_info(self, name: str, default: Any = None) -> Any: ...
    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None: ...


Choose = Callable[[PeerInfo], asyncio.Protocol]


class Transport(asyncio.Transport):
    """A plain connection as protocols see it: the loop's transport, and `get_extra_info("peer")`."""

    __slots__ = ("_raw", "peer")

    def __init__(self, raw: RawTransport, peer: PeerInfo) -> None:
        self._raw = raw
        self.peer = peer

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.peer if name == "peer" else self._raw.get_extra_info(name, default)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._raw.write(data)  # type: ignore[arg-type]  # the loop's own takes all three

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        self.write(b"".join(list_of_data))

    def close(self) -> None:
        self._raw.close()

    def abort(self) -> None:
        self._raw.abort()

    def is_closing(self) -> bool:
        return self._raw.is_closing()

    def pause_reading(self) -> None:
        if self._raw.is_reading():
            self._raw.pause_reading()

    def resume_reading(self) -> None:
        if not self._raw.is_reading():
            self._raw.resume_reading()

    def is_reading(self) -> bool:
        return self._raw.is_reading()

    def get_write_buffer_size(self) -> int:
        return self._raw.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._raw.set_write_buffer_limits(high, low)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._raw.set_protocol(protocol)

    def can_write_eof(self) -> bool:
        return False


class TlsTransport(Transport):
    """A TLS connection as protocols see it. Closing says close_notify first."""

    __slots__ = ("_closing", "_shell")

    def __init__(self, shell: "_Tls", raw: RawTransport, peer: PeerInfo) -> None:
        super().__init__(raw, peer)
        self._shell = shell
        self._closing = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "ssl_object":
            return self._shell.tls
        return super().get_extra_info(name, default)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._closing and data:
            self._shell.encrypt(data)

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._shell.say_goodbye()
            self._raw.close()

    def abort(self) -> None:
        self._closing = True
        self._raw.abort()

    def is_closing(self) -> bool:
        return self._closing or self._raw.is_closing()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self._shell.inner = protocol


class _Tls(asyncio.Protocol):
    """Between a plain transport and the inner protocol; handshake first, in an executor."""

    __slots__ = (
        "_busy",
        "_done",
        "_early",
        "_early_bytes",
        "_eof",
        "_executor",
        "_incoming",
        "_loop",
        "_lost",
        "_outgoing",
        "_ready",
        "_started",
        "address",
        "inner",
        "raw",
        "tls",
        "transport",
    )

    def __init__(
        self,
        context: ssl.SSLContext,
        executor: Executor | None,
        ready: Callable[["_Tls", BaseException | None], None],
        *,
        server: bool,
        name: str | None = None,
    ) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.tls: ssl.SSLObject = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server, server_hostname=name
        )
        self._executor = executor
        self._ready = ready
        self._loop = asyncio.get_running_loop()
        self._early: list[bytes] = []  # came while the executor had the BIOs: memory BIOs are not for two threads
        self._early_bytes = 0
        self._busy = self._done = self._lost = self._eof = self._started = False
        self.raw: RawTransport | None = None
        self.inner: asyncio.Protocol | None = None
        self.transport: TlsTransport | None = None
        self.address: tuple[str, int] = ("", 0)

    # from the loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.raw = transport  # type: ignore[assignment]  # asyncio's and uvloop's both have the methods
        self.address = _address(transport)
        if not self.tls.server_side:
            self._step()

    def data_received(self, data: bytes) -> None:
        if self._done:
            self._incoming.write(data)
            self._decrypt()
            return
        if not self._started and self.tls.server_side:
            self._started = True
            if data[0] != 0x16:
                self.fail(_NotTls(_looks_like(data)))
                return
        self._early.append(data)
        self._early_bytes += len(data)
        if not self._busy:
            self._step()
        elif self._early_bytes > EARLY_BYTES and self.raw is not None and self.raw.is_reading():
            self.raw.pause_reading()  # after its last flight a client may send at once

    def eof_received(self) -> bool:
        if not self._done and not self._busy:
            self.fail(ConnectionResetError("closed during the handshake"))
        self._eof = True
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self._lost:
            return
        self._lost = True
        if self.inner is not None and self._done:
            self.inner.connection_lost(exc)
        elif not self._busy:
            self._ready(self, exc or ConnectionResetError("closed during the handshake"))

    def pause_writing(self) -> None:
        if self._done and self.inner is not None:
            self.inner.pause_writing()

    def resume_writing(self) -> None:
        if self._done and self.inner is not None:
            self.inner.resume_writing()

    # handshake

    def _step(self) -> None:
        for data in self._early:
            self._incoming.write(data)
        self._early.clear()
        self._early_bytes = 0
        if self._executor is None:
            self._after(_shake(self.tls))
            return
        self._busy = True
        try:
            future = self._executor.submit(_shake, self.tls)
        except RuntimeError:  # shut down: the process is ending
            self._busy = False
            self.fail(ConnectionAbortedError("shutting down"))
            return
        future.add_done_callback(self._shaken)

    def _shaken(self, future: "Future[BaseException | bool]") -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process is ending
            self._loop.call_soon_threadsafe(self._after, future.result())

    def _after(self, outcome: BaseException | bool) -> None:
        self._busy = False
        if self._lost:
            self._ready(self, ConnectionResetError("closed during the handshake"))
            return
        assert self.raw is not None
        if out := self._outgoing.read():
            self.raw.write(out)  # an alert too, when it failed
        if not self.raw.is_closing() and not self.raw.is_reading():
            self.raw.resume_reading()
        if isinstance(outcome, BaseException):
            self.fail(outcome)
        elif outcome:
            self._finish()
        elif self._early:
            self._step()
        elif self._eof:
            self.fail(ConnectionResetError("closed during the handshake"))

    def _finish(self) -> None:
        assert self.raw is not None
        self._done = True
        peer = PeerInfo(
            address=self.address,
            tls=True,
            alpn=self.tls.selected_alpn_protocol(),
            certificate_der=self.tls.getpeercert(binary_form=True),
            resumed=bool(self.tls.session_reused),
        )
        self.transport = TlsTransport(self, self.raw, peer)
        _handshakes.inc(outcome="resumed" if peer.resumed else "full")
        self._ready(self, None)
        if self._early:
            for data in self._early:
                self._incoming.write(data)
            self._early.clear()
        if not self._lost and self.inner is not None:
            self._decrypt()  # what came in the same read as the last flight

    def fail(self, error: BaseException) -> None:
        if self._done or self._lost:
            return
        self._lost = True
        _handshakes.inc(outcome="failed")
        if self.raw is not None:
            self.raw.close()
        self._ready(self, error)

    # records

    def _decrypt(self) -> None:
        tls, inner = self.tls, self.inner
        assert self.raw is not None
        closed = False
        parts: list[bytes] = []
        try:
            while part := tls.read(READ_BYTES):
                parts.append(part)
            closed = True  # close_notify
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            closed = True
        except ssl.SSLError as exc:
            log.info("tls.broken", address=self.address[0], reason=_reason(exc))
            self.raw.abort()
            return
        if self._outgoing.pending:
            self.raw.write(self._outgoing.read())  # key update, alert
        if parts and inner is not None:
            inner.data_received(parts[0] if len(parts) == 1 else b"".join(parts))
        if closed and self.transport is not None and not self.transport.is_closing():
            if inner is not None:
                inner.eof_received()
            self.transport.close()

    def encrypt(self, data: bytes | bytearray | memoryview) -> None:
        assert self.raw is not None
        try:
            sent = self.tls.write(data)
            while sent < len(data):
                sent += self.tls.write(memoryview(data)[sent:])
        except ssl.SSLError as exc:
            log.info("tls.broken", address=self.address[0], reason=_reason(exc))
            self.raw.abort()
            return
        self.raw.write(self._outgoing.read())

    def say_goodbye(self) -> None:
        assert self.raw is not None
        with contextlib.suppress(ssl.SSLError, OSError):
            self.tls.unwrap()
        if self._outgoing.pending and not self.raw.is_closing():
            self.raw.write(self._outgoing.read())


class _NotTls(Exception):
    """Plain bytes on a TLS port."""


class _Plain(asyncio.Protocol):
    """Only the first callback of a plain connection: hands it to the protocol that is to have it."""

    __slots__ = ("_choose",)

    def __init__(self, choose: Callable[[Transport], asyncio.Protocol | None]) -> None:
        self._choose = choose

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        raw: Any = transport
        made = Transport(raw, PeerInfo(address=_address(transport)))
        protocol = self._choose(made)
        if protocol is not None:
            raw.set_protocol(protocol)
            protocol.connection_made(made)


class Server:
    """One listener. `port` is the real one, also when 0 was asked for."""

    def __init__(
        self,
        choose: Choose,
        tls: Callable[[], ssl.SSLContext] | None,
        handshakes: Executor | None,
        half_open: int,
        handshake_s: float,
    ) -> None:
        self._choose = choose
        self._tls = tls
        self._executor = handshakes
        self._half_open_limit = half_open
        self._handshake_s = handshake_s
        self._shaking: dict[_Tls, float] = {}  # in order of their deadlines, as all have the same time
        self._timer: asyncio.TimerHandle | None = None
        self._server: asyncio.Server | None = None
        self._loop = asyncio.get_running_loop()
        self.port = 0

    async def listen(self, host: str, port: int) -> None:
        try:
            self._server = await self._loop.create_server(self._accept, host, port, backlog=BACKLOG)
        except OSError as exc:
            raise Unavailable(f"cannot listen on {host} port {port}: {exc.strerror or exc}", port=port) from exc
        self.port = self._server.sockets[0].getsockname()[1]

    def _accept(self) -> asyncio.Protocol:
        if self._tls is None:
            return _Plain(self._choose_for)
        if len(self._shaking) >= self._half_open_limit:
            _refused.inc(reason="half open")
            return _Refuse()
        shell = _Tls(self._tls(), self._executor, self._shaken, server=True)
        self._shaking[shell] = self._loop.time() + self._handshake_s
        if self._timer is None:
            self._timer = self._loop.call_later(self._handshake_s, self._expire)
        return shell

    def _expire(self) -> None:
        self._timer = None
        now = self._loop.time()
        for shell, deadline in list(self._shaking.items()):
            if deadline > now:
                self._timer = self._loop.call_at(deadline, self._expire)
                return
            shell.fail(TimeoutError("the handshake took too long"))
            self._shaking.pop(shell, None)

    def _shaken(self, shell: _Tls, error: BaseException | None) -> None:
        self._shaking.pop(shell, None)
        if error is not None:
            log.info("tls.refused", address=shell.address[0], reason=_reason(error))
            return
        assert shell.transport is not None
        protocol = self._choose_for(shell.transport)
        if protocol is not None:
            shell.inner = protocol
            protocol.connection_made(shell.transport)

    def _choose_for(self, transport: Transport) -> asyncio.Protocol | None:
        try:
            return self._choose(transport.peer)
        except Exception as exc:  # a border: whatever `choose` does, the other connections live
            log.error("net.choose_failed", exc_info=exc, address=transport.peer.address[0])
            transport.abort()
            return None

    def close(self) -> None:
        """Stop listening and end the handshakes under way. Connections that were handed over are their protocol's."""
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for shell in list(self._shaking):
            shell.fail(ConnectionAbortedError("shutting down"))


class _Refuse(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


async def serve(
    host: str,
    port: int,
    choose: Choose,
    *,
    tls: Callable[[], ssl.SSLContext] | None,
    handshakes: Executor | None,
    half_open: int = HALF_OPEN,
    handshake_s: float = HANDSHAKE_S,
) -> Server:
    """Listen; `choose` names the protocol of each connection, after its handshake. `tls` is asked for each new connection,
    so that a changed context serves the next one. Raises Unavailable when the port is taken.
    """
    server = Server(choose, tls, handshakes, half_open, handshake_s)
    await server.listen(host, port)
    return server


async def connect(
    host: str,
    port: int,
    protocol_factory: Callable[[], P],
    *,
    tls: ssl.SSLContext | None,
    server_hostname: str | None = None,
    timeout_s: float = HANDSHAKE_S,
    handshakes: Executor | None = None,
) -> tuple[Transport, P]:
    """One connection as a client. Raises Unavailable when nobody answers in time, Unauthenticated when the server's
    certificate is not one that `tls` trusts.
    """
    loop = asyncio.get_running_loop()
    made: asyncio.Future[tuple[Transport, P]] = loop.create_future()
    raw: Any = None
    try:
        async with asyncio.timeout(timeout_s):
            if tls is None:
                handed: list[tuple[Transport, P]] = []

                def hand_over(transport: Transport) -> asyncio.Protocol:
                    handed.append((transport, protocol_factory()))
                    return handed[0][1]

                await loop.create_connection(lambda: _Plain(hand_over), host, port)
                return handed[0]

            def shaken(shell: _Tls, error: BaseException | None) -> None:
                if made.done():
                    return
                if error is not None:
                    made.set_exception(error)
                    return
                assert shell.transport is not None
                inner = protocol_factory()
                shell.inner = inner
                inner.connection_made(shell.transport)
                made.set_result((shell.transport, inner))

            def shell() -> _Tls:
                return _Tls(tls, handshakes, shaken, server=False, name=server_hostname or host)

            raw, _ = await loop.create_connection(shell, host, port)
            return await made
    except TimeoutError as exc:
        raise Unavailable(f"{host}:{port} did not answer within {timeout_s:g} s") from exc
    except ssl.SSLCertVerificationError as exc:
        raise Unauthenticated(f"{host}:{port} shows a certificate that is not trusted: {exc.verify_message}") from exc
    except (OSError, ssl.SSLError) as exc:
        raise Unavailable(f"cannot connect to {host}:{port}: {_reason(exc)}") from exc
    finally:
        if made.done() and not made.cancelled():
            made.exception()  # retrieved, whoever it was raised to
        if (
            raw is not None
            and tls is not None
            and not (made.done() and not made.cancelled() and made.exception() is None)
        ):
            raw.abort()


class Deadlines:
    """Many deadlines of the same length with one timer: `add` a key, `drop` it, else `expired(key)` is called."""

    def __init__(self, after_s: float, expired: Callable[[Any], None]) -> None:
        self._after_s = after_s
        self._expired = expired
        self._keys: dict[object, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, key: object) -> None:
        self._keys[key] = self._loop.time() + self._after_s
        if self._timer is None:
            self._timer = self._loop.call_later(self._after_s, self._run)

    def drop(self, key: object) -> None:
        self._keys.pop(key, None)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._keys.clear()

    def _run(self) -> None:
        self._timer = None
        now = self._loop.time()
        due: deque[object] = deque()
        for key, deadline in self._keys.items():
            if deadline > now:
                self._timer = self._loop.call_at(deadline, self._run)
                break
            due.append(key)
        for key in due:
            if self._keys.pop(key, None) is not None:
                self._expired(key)


def harden(context: ssl.SSLContext) -> ssl.SSLContext:
    """What all our contexts share: TLS 1.2 or later, no renegotiation, no compression."""
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_SINGLE_ECDH_USE
    return context


def _shake(tls: ssl.SSLObject) -> BaseException | bool:
    """One step, in any thread. True = done, False = needs more bytes, or what went wrong."""
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        return False
    except (ssl.SSLError, OSError, ValueError) as exc:
        return exc
    return True


def _address(transport: asyncio.BaseTransport) -> tuple[str, int]:
    name: Any = transport.get_extra_info("peername")
    return (str(name[0]), int(name[1])) if name and len(name) >= 2 else ("", 0)


def _looks_like(data: bytes) -> str:
    if data[:1] == b"\x10":
        return "plain MQTT on a TLS port"
    if data.split(b" ", 1)[0] in (
        b"GET",
        b"POST",
        b"PUT",
        b"HEAD",
        b"DELETE",
        b"OPTIONS",
        b"PATCH",
        b"CONNECT",
        b"PRI",
    ):
        return "plain HTTP on a TLS port"
    return "not TLS"


def _reason(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError):
        return getattr(error, "reason", None) or str(error)  # one that we made has no reason
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    return str(error)
