"""MQTT over WebSocket: the opening handshake of `/mqtt`, and the frames between the https port and the MQTT door.

Source: RFC 6455; MQTT 5.0, 6; AWS IoT Developer Guide, "MQTT over WSS". To the MQTT door it is one more connection, whose
subject was proven by the request. Not here: the frames (core/websocket.py), whose key signed it (who.py).
"""

import asyncio
import hashlib
from collections.abc import Callable
from typing import Any, Final, Protocol

from marram.core import sigv4, websocket
from marram.core.errors import Invalid, Unauthenticated
from marram.core.websocket import Closed, Data, Ping
from marram.hub.border import intent
from marram.hub.border.awsjson import Request, Response
from marram.hub.border.plans import Plan
from marram.hub.border.who import Who
from marram.hub.identity.service import Subject
from marram.kit import metrics
from marram.kit.clock import Clock
from marram.kit.log import Sparing, logger
from marram.kit.net import PeerInfo, Transport

log = logger(__name__)
strangers = Sparing(log)

PATH: Final = "/mqtt"
SUBPROTOCOL: Final = "mqtt"
CONGESTED_BYTES: Final = 64 << 10  # above it a ping has no answer: the peer does not read the answers either

_open: Final = metrics.gauge("marram_websocket_connections", "Open WebSockets").labels()
_ended: Final = metrics.counter("marram_websocket_closes_total", "WebSockets closed, by who and why", ("reason",))


class MqttConnection(Protocol):
    """The MQTT door's side of one connection: a protocol, and the two ends that only a WebSocket has."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None: ...
    def data_received(self, data: bytes) -> None: ...
    def connection_lost(self, exc: Exception | None) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...
    def left(self) -> None:
        """The client said goodbye by a close frame: as by DISCONNECT, no will."""

    def not_understood(self, why: str) -> None:
        """The client broke the framing."""


Connect = Callable[[PeerInfo], MqttConnection]


def check(request: Request, query: list[tuple[str, str]]) -> dict[str, str] | Response:
    """The headers of the answer 101, or the refusal of a request that is no handshake. Raises what the door maps."""
    if not request.secure:
        # A signed URL is a bearer token: whoever hears it may use it.
        raise Unauthenticated("MQTT over WebSocket is served under TLS only: use wss://", reason="missing")
    intent.refuse_authorizer(request.headers, query)
    try:
        return websocket.accept(
            method=request.method, version_1_1=request.version_1_1, has_body=bool(request.body) or "transfer-encoding" in request.headers,
            headers=request.headers,
            subprotocol=SUBPROTOCOL,
        )  # fmt: skip
    except Invalid as error:
        if error.data.get("kind") != "upgrade":
            raise
        headers = {"upgrade": "websocket", "sec-websocket-version": "13", "content-type": "application/json"}
        return Response(426, headers, b'{"message":"%s"}' % error.message.encode())


class WebSockets(Protocol):
    """The MQTT door: one connection of a subject that is proven."""

    def __call__(self, peer: PeerInfo, subject: Subject, life_ms: int) -> MqttConnection: ...


class Upgrades:
    """Answers GET /mqtt."""

    def __init__(self, who: Who, clock: Clock, connect: WebSockets, life_s: int) -> None:
        self._who, self._clock, self._connect, self._life_s = who, clock, connect, life_s

    def answer(
        self, request: Request, path: str, query: list[tuple[str, str]], claim: sigv4.Claim | None, plan: Plan
    ) -> Response:
        """A signed URL or a client certificate says who it is; what it may do, the MQTT door asks. Raises what the door maps."""
        headers = check(request, query)
        if isinstance(headers, Response):
            return headers
        life_ms = self._life_s * 1000
        signature = ""
        if claim is not None:
            if claim.service != sigv4.MQTT:
                raise Unauthenticated(
                    f"Credential should be scoped to correct service: {sigv4.MQTT}, not {claim.service[:60]}",
                    reason="service",
                )
            held = self._who.by_signature(request, path, query, claim, plan).held
            subject = held.subject
            if held.expires_ms is not None:
                life_ms = min(life_ms, max(0, held.expires_ms - self._clock.wall_ms()))
            # The URL is a bearer token: its signature is in the log only as a hash, to find one that leaked.
            signature = hashlib.sha256(claim.signature.encode()).hexdigest()[:16]
        elif request.certificate is not None:
            subject = self._who.by_certificate(request)
        else:
            raise Unauthenticated(
                "MQTT over WebSocket wants a signed URL or a client certificate: both are missing", reason="missing"
            )
        log.info(
            "websocket.opened", principal=subject.principal, address=request.source_ip, signature_sha256=signature,
            life_s=life_ms // 1000,
        )  # fmt: skip
        return Response(101, headers, upgrade=lambda: WebSocket(lambda peer: self._connect(peer, subject, life_ms)))


class WebSocket(asyncio.Protocol):
    """One connection after its handshake: the protocol of the outer transport."""

    __slots__ = ("_connect", "_inner", "_is_lost", "_reader", "_transport")

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._reader: websocket.Reader | None = websocket.Reader()
        self._inner: MqttConnection | None = None
        self._transport: WebSocketTransport | None = None
        self._is_lost = False

    def connection_made(self, transport: Any) -> None:
        peer = transport.get_extra_info("peer") or PeerInfo(address=("", 0))
        self._transport = WebSocketTransport(transport, peer)
        _open.inc()
        self._inner = self._connect(peer)
        self._inner.connection_made(self._transport)

    def data_received(self, data: bytes) -> None:
        reader, inner, transport = self._reader, self._inner, self._transport
        if reader is None or inner is None or transport is None:
            return
        try:
            events = reader.receive(data)
        except websocket.Broken as error:
            strangers.info("websocket.broken", address=transport.peer.address[0], reason=error.message)
            self._end(transport, error.close, "broken")
            inner.not_understood(error.message)
            return
        pieces: list[bytes] = []
        ping: Ping | None = None
        for event in events:
            if isinstance(event, Data):
                pieces.append(event.payload)
            elif isinstance(event, Ping):
                ping = event  # of several only the latest wants an answer (5.5.3)
            else:
                self._closed(event, pieces, inner, transport)
                return
        if ping is not None and transport.get_write_buffer_size() < CONGESTED_BYTES:
            transport.write_raw(websocket.pong(ping.payload))
        if pieces:
            inner.data_received(pieces[0] if len(pieces) == 1 else b"".join(pieces))

    def _closed(
        self, event: Closed, pieces: list[bytes], inner: MqttConnection, transport: "WebSocketTransport"
    ) -> None:
        if pieces:
            inner.data_received(b"".join(pieces))
        self._end(transport, event.code, "client")
        inner.left()
        transport.close()

    def _end(self, transport: "WebSocketTransport", code: int, reason: str) -> None:
        self._reader = None
        transport.code = code
        _ended.inc(reason=reason)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self._is_lost:
            return
        self._is_lost = True
        _open.inc(-1)
        if self._reader is not None:
            _ended.inc(reason="lost")
            self._reader = None
        if self._inner is not None:
            self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._inner is not None:
            self._inner.resume_writing()


class WebSocketTransport(Transport):
    """What the MQTT door writes to: each write is one binary frame; closing says so in a close frame first."""

    __slots__ = ("_said_close", "code")

    def __init__(self, raw: Transport, peer: PeerInfo) -> None:
        super().__init__(raw, peer)
        self.code = websocket.NORMAL
        self._said_close = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._said_close:
            self._raw.write(websocket.frame(bytes(data)))

    def write_raw(self, data: bytes) -> None:
        """A control frame."""
        if not self._said_close:
            self._raw.write(data)

    def is_closing(self) -> bool:
        return self._said_close or self._raw.is_closing()

    def close(self) -> None:
        if not self._said_close:
            self._said_close = True
            self._raw.write(websocket.close(self.code))
            self._raw.close()
