"""What the TLS doors trust: our own CA, registered CAs, and certificates registered without one. Changed while they listen.

A handshake proves "has the key" and that somebody whom we know has signed; who it is and whether it is active is decided
after it, by the SHA-256 of the certificate (subjects.py), on resumed sessions too.
What is new is added to the contexts in use. What goes needs new contexts, made in a thread: handshakes after that, and
session tickets with them, know nothing of it. Connections that stand are not touched here.
"""

import asyncio
import ssl
from collections.abc import Callable, Sequence

from marram.hub.identity import store_authorities
from marram.hub.identity.pki import ClientCertificates, Pki
from marram.kit.db import Db
from marram.kit.log import logger

log = logger(__name__)


class Trust:
    """`door` gives a function for `kit.net.serve`, which asks it at each handshake."""

    def __init__(self, pki: Pki, db: Db) -> None:
        self._pki, self._db = pki, db
        self._contexts: dict[tuple[ClientCertificates, tuple[str, ...]], ssl.SSLContext] = {}
        self._wanted = asyncio.Event()
        self._added: list[bytes] | None = None  # while new contexts are made

    def door(self, clients: ClientCertificates, *, alpn: Sequence[str] = ()) -> Callable[[], ssl.SSLContext]:
        key = (clients, tuple(alpn))
        if key not in self._contexts:
            self._contexts[key] = self._make(key, self._db.read_now(store_authorities.anchors))
        return lambda: self._contexts[key]

    def add(self, der: bytes) -> None:
        """Trust it from the next handshake on."""
        if self._added is not None:
            self._added.append(der)
        for (clients, _), context in self._contexts.items():
            if clients != "none":
                context.load_verify_locations(cadata=der)

    def renew(self) -> None:
        """Something that was trusted is trusted no more, or the server certificate is another."""
        self._wanted.set()

    async def run(self) -> None:
        """Makes contexts anew when asked. Returns when cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            self._added = added = list[bytes]()
            try:
                made = await asyncio.to_thread(self._make_all, list(self._contexts))
            finally:
                self._added = None
            for der in added:  # committed after the thread had read
                for key, context in made.items():
                    if key[0] != "none":
                        context.load_verify_locations(cadata=der)
            self._contexts = made
            log.info("tls.trust_renewed", doors=len(made))

    def _make_all(
        self, keys: Sequence[tuple[ClientCertificates, tuple[str, ...]]]
    ) -> dict[tuple[ClientCertificates, tuple[str, ...]], ssl.SSLContext]:
        anchors = self._db.read_now(store_authorities.anchors)
        return {key: self._make(key, anchors) for key in keys}

    def _make(self, key: tuple[ClientCertificates, tuple[str, ...]], anchors: Sequence[bytes]) -> ssl.SSLContext:
        clients, alpn = key
        context = self._pki.server_context(clients, alpn=alpn)
        if clients != "none" and anchors:
            context.load_verify_locations(cadata=b"".join(anchors))
        return context
