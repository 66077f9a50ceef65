"""Who may connect: certificates by fingerprint, from the configuration and from the hub, kept for when the hub is away."""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from marram.core.codec import JsonValue
from marram.core.errors import Invalid, Unauthenticated
from marram.edge.broker import store
from marram.kit.db import Db, Migrations

MIGRATIONS: Final = Migrations(slice="broker", package="marram.edge.broker")
FINGERPRINT: Final = re.compile(r"[0-9a-f]{64}")


class Devices:
    """`configured`: {SHA-256 of the DER in hex: thing}, from the configuration; it wins over what the hub said."""

    def __init__(self, db: Db) -> None:
        self._db = db
        self._configured: Mapping[str, str] = {}
        self.on_unknown: Callable[[], None] = lambda: None  # somebody came whom the hub may know by now
        self._from_hub = db.read_now(store.devices)

    def configure(self, document: JsonValue) -> None:
        """Raises Invalid naming the entry."""
        if document is None:
            document = {}
        if not isinstance(document, dict):
            raise Invalid("client devices: must be an object of certificate fingerprints and thing names")
        for fingerprint, thing in document.items():
            if not FINGERPRINT.fullmatch(fingerprint) or not isinstance(thing, str) or not thing:
                raise Invalid(f"client devices: {fingerprint!r}: the SHA-256 of a certificate in hex, and a thing name")
        self._configured = {fingerprint: str(thing) for fingerprint, thing in document.items()}

    async def replace(self, pairs: Iterable[tuple[str, str]]) -> bool:
        """What the hub says now: (fingerprint, thing). Kept in state.db. True when that is news."""
        known = {fingerprint: thing for fingerprint, thing in pairs if FINGERPRINT.fullmatch(fingerprint)}
        if known == self._from_hub:
            return False
        await self._db.write(lambda tx: store.replace_devices(tx, known.items()))
        self._from_hub = known
        return True

    def identify(self, certificate_der: bytes | None) -> str:
        """The thing that this certificate belongs to. Raises Unauthenticated."""
        fingerprint = hashlib.sha256(certificate_der or b"").hexdigest()
        thing = self._configured.get(fingerprint) or self._from_hub.get(fingerprint)
        if not certificate_der or thing is None:
            self.on_unknown()
            raise Unauthenticated("the certificate belongs to no client device of this core", certificate=fingerprint)
        return thing

    @property
    def things(self) -> list[str]:
        return sorted({*self._configured.values(), *self._from_hub.values()})
