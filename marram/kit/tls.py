"""The transports that protocols see: plain, and TLS by ssl.MemoryBIO over a plain one. Handshakes may run in an executor.

26 KB a connection, where asyncio's own `ssl=` costs 274 KB. Of a server, nothing of TLS is made until a first record has come:
whoever only connects costs 1 KB. Session tickets are OpenSSL's. The certificate says only "has the key": whether it is active is
decided by who chooses the protocol, on resumed sessions too. Not here: listening, connecting, deadlines (net.py).
"""

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any, Final, Protocol

from marram.kit import metrics
from marram.kit.log import Sparing, logger

log = logger(__name__)
strangers = Sparing(log)

EARLY_BYTES: Final = 64 << 10  # what a peer may send before its handshake is done
READ_BYTES: Final = 64 << 10
RECORD: Final = 0x16  # the first byte of a handshake

_handshakes: Final = metrics.counter("marram_tls_handshakes_total", "TLS handshakes by outcome", ("outcome",))


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

    def __init__(self, shell: "Shell", raw: RawTransport, peer: PeerInfo) -> None:
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


class Shell(asyncio.Protocol):
    """Between a plain transport and the inner protocol; handshake first, in an executor."""

    __slots__ = (
        "_admit",
        "_busy",
        "_context",
        "_done",
        "_early",
        "_early_bytes",
        "_eof",
        "_executor",
        "_incoming",
        "_loop",
        "_lost",
        "_name",
        "_outgoing",
        "_ready",
        "_server",
        "_started",
        "address",
        "inner",
        "raw",
        "tls",
        "transport",
    )

    def __init__(
        self,
        context: Callable[[], ssl.SSLContext],
        executor: Executor | None,
        ready: Callable[["Shell", BaseException | None], None],
        *,
        server: bool,
        name: str | None = None,
        admit: Callable[["Shell"], bool] | None = None,
    ) -> None:
        """`ready` is called once: when the handshake is done, or with why it never will be. `admit`: asked when the address
        is known; a connection that is not admitted is cut, and `ready` is not called."""
        self._context, self._server, self._name, self._admit = context, server, name, admit
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
        self.address = address_of(transport)
        if self._admit is not None and not self._admit(self):
            self._lost = True
            transport.abort()  # type: ignore[attr-defined]  # as above
        elif not self._server:
            self._begin()
            self._step()

    def _begin(self) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls: ssl.SSLObject = self._context().wrap_bio(
            self._incoming, self._outgoing, server_side=self._server, server_hostname=self._name
        )

    def data_received(self, data: bytes) -> None:
        if self._done:
            self._incoming.write(data)
            self._decrypt()
            return
        if not self._started and self._server:
            self._started = True
            if data[0] != RECORD:
                self.fail(_NotTls(_looks_like(data)))
                return
            self._begin()
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
            strangers.info("tls.broken", address=self.address[0], reason=reason_of(exc))
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
            strangers.info("tls.broken", address=self.address[0], reason=reason_of(exc))
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


def _shake(tls: ssl.SSLObject) -> BaseException | bool:
    """One step, in any thread. True = done, False = needs more bytes, or what went wrong."""
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        return False
    except (ssl.SSLError, OSError, ValueError) as exc:
        return exc
    return True


def address_of(transport: asyncio.BaseTransport) -> tuple[str, int]:
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


def reason_of(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError):
        return getattr(error, "reason", None) or str(error)  # one that we made has no reason
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    return str(error)
