"""TCP and TLS, both sides: listen and connect, with limits on who is not through its handshake yet, and deadlines.

Handshakes run in an executor (2.5 ms each, OpenSSL releases the GIL), have a deadline and a limit on how many are open at once,
in all and of one address. Not here: transports (tls.py), contexts and trust (hub/identity), protocols (borders, edge).
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from marram.core.errors import Unauthenticated, Unavailable
from marram.kit import metrics
from marram.kit.log import Sparing, logger
from marram.kit.tls import PeerInfo, Shell, TlsTransport, Transport, address_of, reason_of

__all__ = ["Accept", "Deadlines", "PeerInfo", "Server", "TlsTransport", "Transport", "connect", "harden", "serve"]

log = logger(__name__)
strangers = Sparing(log)

HANDSHAKE_S: Final = 10.0
BACKLOG: Final = 1024
MAX_ADDRESSES: Final = 10_000  # whose rate is remembered

_refused: Final = metrics.counter("marram_connections_refused_total", "Connections refused at accept", ("reason",))
_hits: Final = metrics.counter("marram_limit_hits_total", "What was over a limit, by limit", ("limit",))

P = TypeVar("P", bound=asyncio.Protocol)
Choose = Callable[[PeerInfo], asyncio.Protocol]


@dataclass(frozen=True, slots=True, kw_only=True)
class Accept:
    """Who may be at a TLS port without being through its handshake; a port of its own has its own count."""

    half_open: int = 1024
    half_open_per_address: int = 200
    per_address_per_s: int = 0  # handshakes that one address may begin; 0: any number
    handshake_s: float = HANDSHAKE_S


class _Plain(asyncio.Protocol):
    """Only the first callback of a plain connection: hands it to the protocol that is to have it."""

    __slots__ = ("_choose",)

    def __init__(self, choose: Callable[[Transport], asyncio.Protocol | None]) -> None:
        self._choose = choose

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        raw: Any = transport
        made = Transport(raw, PeerInfo(address=address_of(transport)))
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
        accept: Accept,
    ) -> None:
        self._choose = choose
        self._tls = tls
        self._executor = handshakes
        self._limits = accept
        self._shaking: dict[Shell, float] = {}  # in order of their deadlines, as all have the same time
        self._half_open: dict[str, int] = {}  # by address
        self._rates: dict[str, tuple[float, float]] = {}  # by address: handshakes it may begin now, and when that was
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
        if len(self._shaking) >= self._limits.half_open:
            _refused.inc(reason="half open")
            _hits.inc(limit="tls_half_open")
            return _Refuse()
        return Shell(self._tls, self._executor, self._shaken, server=True, admit=self._admit)

    def _admit(self, shell: Shell) -> bool:
        """Its address is known now. False: it is closed without a word."""
        address, limits = shell.address[0], self._limits
        open_now = self._half_open.get(address, 0)
        if limits.half_open_per_address and open_now >= limits.half_open_per_address:
            limit = "tls_half_open_per_address"
        elif limits.per_address_per_s and not self._may_begin(address, limits.per_address_per_s):
            limit = "tls_per_address_per_s"
        else:
            self._half_open[address] = open_now + 1
            self._shaking[shell] = self._loop.time() + limits.handshake_s
            if self._timer is None:
                self._timer = self._loop.call_later(limits.handshake_s, self._expire)
            return True
        _refused.inc(reason="address")
        _hits.inc(limit=limit)
        return False

    def _may_begin(self, address: str, rate: int) -> bool:
        now = self._loop.time()
        left, before = self._rates.pop(address, (float(rate), now))
        left = min(float(rate), left + (now - before) * rate)
        if len(self._rates) >= MAX_ADDRESSES:
            del self._rates[next(iter(self._rates))]  # the one that was silent longest
        self._rates[address] = (max(left - 1, 0.0), now)
        return left >= 1

    def _over(self, shell: Shell) -> None:
        """Its handshake is done, or will never be."""
        if self._shaking.pop(shell, None) is None:
            return
        left = self._half_open.get(shell.address[0], 1) - 1
        if left > 0:
            self._half_open[shell.address[0]] = left
        else:
            self._half_open.pop(shell.address[0], None)

    def _expire(self) -> None:
        self._timer = None
        now = self._loop.time()
        for shell, deadline in list(self._shaking.items()):
            if deadline > now:
                self._timer = self._loop.call_at(deadline, self._expire)
                return
            _hits.inc(limit="tls_handshake_s")
            shell.fail(TimeoutError("the handshake took too long"))
            self._over(shell)

    def _shaken(self, shell: Shell, error: BaseException | None) -> None:
        self._over(shell)
        if error is not None:
            strangers.info("tls.refused", address=shell.address[0], reason=reason_of(error))
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
    accept: Accept = Accept(),
) -> Server:
    """Listen; `choose` names the protocol of each connection, after its handshake. `tls` is asked for each new connection,
    so that a changed context serves the next one. Raises Unavailable when the port is taken.
    """
    server = Server(choose, tls, handshakes, accept)
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

            def shaken(shell: Shell, error: BaseException | None) -> None:
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

            def shell() -> Shell:
                return Shell(lambda: tls, handshakes, shaken, server=False, name=server_hostname or host)

            raw, _ = await loop.create_connection(shell, host, port)
            return await made
    except TimeoutError as exc:
        raise Unavailable(f"{host}:{port} did not answer within {timeout_s:g} s") from exc
    except ssl.SSLCertVerificationError as exc:
        raise Unauthenticated(f"{host}:{port} shows a certificate that is not trusted: {exc.verify_message}") from exc
    except (OSError, ssl.SSLError) as exc:
        raise Unavailable(f"cannot connect to {host}:{port}: {reason_of(exc)}") from exc
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
