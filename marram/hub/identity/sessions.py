"""Temporary credentials that are stored nowhere, and the one-time links that open them for a person at the console.

A session's secret is HMAC(master, access key id); its token holds, sealed, whose rights it has and when it ends. The rights
are looked up at each call, so that a deleted key ends its sessions at once.
"""

import hashlib
from base64 import b32encode, urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass, field, replace
from typing import Final

from marram.core import codec
from marram.core.errors import Corrupt, Invalid, Unauthenticated
from marram.hub.identity.base import Base
from marram.hub.identity.keys import Keys
from marram.hub.identity.model import Key
from marram.hub.identity.pki import Pki
from marram.kit.db import Tx

LINK_LIFE_MS: Final = 15 * 60 * 1000
SESSION_LIFE_MS: Final = 8 * 3600 * 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Minted:
    access_key_id: str
    secret: str = field(repr=False)
    token: str = field(repr=False)
    expires_ms: int


class Sessions:
    def __init__(self, base: Base, pki: Pki, keys: Keys) -> None:
        self._base, self._pki, self._keys = base, pki, keys

    async def create_link(self, key_id: str) -> tuple[str, int]:
        """(token, when it ends). Whoever opens it once gets the rights of the key. Raises Unauthenticated for no such key."""
        self._keys.key(key_id)
        token = urlsafe_b64encode(self._base.entropy.bytes(32)).decode().rstrip("=")
        expires_ms = self._base.clock.wall_ms() + LINK_LIFE_MS

        def work(tx: Tx) -> None:
            tx.execute("DELETE FROM identity_login WHERE expires_ms < ?", tx.now_ms)
            tx.execute(
                "INSERT INTO identity_login (digest, key_id, expires_ms) VALUES (?, ?, ?)",
                _digest(token),
                key_id,
                expires_ms,
            )

        await self._base.db.write(work)
        return token, expires_ms

    async def open_link(self, token: str) -> Minted:
        """Use a link up. Raises Unauthenticated when it is unknown, used or too old; which of them is not said."""

        def work(tx: Tx) -> str | None:
            row = tx.one("SELECT key_id, expires_ms FROM identity_login WHERE digest = ?", _digest(token))
            tx.execute("DELETE FROM identity_login WHERE digest = ?", _digest(token))
            return str(row[0]) if row is not None and int(row[1]) > tx.now_ms else None

        key_id = await self._base.db.write(work)
        if key_id is None:
            raise Unauthenticated("the login link is not valid", reason="link")
        self._keys.key(key_id)
        return self.mint(key_id)

    def mint(self, key_id: str, *, life_ms: int = SESSION_LIFE_MS) -> Minted:
        access_key_id = "ASIA" + b32encode(self._base.entropy.bytes(10)).decode()
        expires_ms = self._base.clock.wall_ms() + life_ms
        claims = codec.dumps({"format": 1, "id": access_key_id, "key": key_id, "expires_ms": expires_ms})
        token = urlsafe_b64encode(self._pki.seal(claims, label="session")).decode()
        return Minted(
            access_key_id=access_key_id, secret=self._secret(access_key_id), token=token, expires_ms=expires_ms
        )

    def check(self, access_key_id: str, token: str) -> Key:
        """The key that a request with session credentials acts as. Raises Unauthenticated."""
        try:
            claims = codec.loads_object(self._pki.unseal(urlsafe_b64decode(token), label="session"))
        except (Corrupt, Invalid, ValueError) as exc:
            raise Unauthenticated("the session token is not valid", reason="token") from exc
        expires_ms = claims.get("expires_ms")
        if claims.get("id") != access_key_id or not isinstance(expires_ms, int):
            raise Unauthenticated("the session token is of another session", reason="token")
        if expires_ms <= self._base.clock.wall_ms():
            raise Unauthenticated("the security token included in the request is expired", reason="token_expired")
        key = self._keys.key(str(claims["key"]))
        return replace(key, secret=self._secret(access_key_id), expires_ms=expires_ms)

    def _secret(self, access_key_id: str) -> str:
        key = self._pki.derived_key("session-secret")
        return urlsafe_b64encode(hashlib.blake2b(access_key_id.encode(), key=key, digest_size=30).digest()).decode()


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
