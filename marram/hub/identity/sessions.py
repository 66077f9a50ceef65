"""Temporary credentials that are stored nowhere, and the one-time links that open them for a person at the console.

A session's secret is HMAC(master, access key id); its token holds, sealed, whose rights it has and when it ends. The rights
are looked up at each call, so that a deleted key or role ends its sessions at once, and a changed policy reaches them.
"""

import hashlib
from base64 import b32encode, urlsafe_b64decode, urlsafe_b64encode
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from typing import Final

from marram.core import codec
from marram.core.codec import JsonObject
from marram.core.errors import Corrupt, Denied, Invalid, Unauthenticated
from marram.core.policy import documents
from marram.core.policy.evaluate import CompiledPolicy
from marram.hub.identity.base import Base, moment
from marram.hub.identity.keys import Keys
from marram.hub.identity.managed import ManagedPolicies
from marram.hub.identity.model import Key, Session, Subject
from marram.hub.identity.pki import Pki
from marram.hub.identity.policies import readable
from marram.hub.identity.roles import Roles
from marram.hub.identity.subjects import Subjects
from marram.kit.db import Tx

FORMAT: Final = 2
LINK_LIFE_MS: Final = 15 * 60 * 1000
SESSION_LIFE_S: Final = 8 * 3600  # of a person at the console
MAX_TOKEN: Final = 8192  # characters
KNOWN_TOKENS: Final = 1024  # remembered ones; then it starts anew


@dataclass(frozen=True, slots=True, kw_only=True)
class Minted:
    access_key_id: str
    secret: str = field(repr=False)
    token: str = field(repr=False)
    expires_ms: int


class Sessions:
    def __init__(
        self, base: Base, pki: Pki, keys: Keys, roles: Roles, managed: ManagedPolicies, subjects: Subjects
    ) -> None:
        self._base, self._pki, self._keys, self._roles = base, pki, keys, roles
        self._managed, self._subjects = managed, subjects
        self._known: dict[str, Key] = {}  # by token

    # links

    async def create_link(self, caller: Subject) -> tuple[str, int]:
        """(token, when it ends). Whoever opens it once gets the rights of the caller's key, for eight hours.

        Raises Denied for temporary credentials: else a session could renew itself for ever.
        """
        if caller.kind != "key" or caller.session is not None:
            raise Denied("a login link is made with the access key of a user, not with temporary credentials")
        self._keys.key(caller.principal)
        token = urlsafe_b64encode(self._base.entropy.bytes(32)).decode().rstrip("=")
        expires_ms = self._base.clock.wall_ms() + LINK_LIFE_MS

        def work(tx: Tx) -> None:
            tx.execute("DELETE FROM identity_login WHERE expires_ms < ?", tx.now_ms)
            tx.execute(
                "INSERT INTO identity_login (digest, key_id, expires_ms) VALUES (?, ?, ?)",
                _digest(token),
                caller.principal,
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
        return self.mint(Session(kind="key", owner=key_id), SESSION_LIFE_S)

    # making

    def mint(self, session: Session, life_s: int) -> Minted:
        """Credentials as `session` describes them, with an id and times. Whether the caller may have them has been decided."""
        now_ms = self._base.clock.wall_ms()
        key_id = "ASIA" + b32encode(self._base.entropy.bytes(10)).decode()
        session = replace(session, id=key_id, issued_ms=now_ms, expires_ms=now_ms + life_s * 1000)
        token = urlsafe_b64encode(
            self._pki.seal(codec.dumps({"format": FORMAT, **asdict(session)}), label="session")
        ).decode()
        return Minted(access_key_id=key_id, secret=self._secret(key_id), token=token, expires_ms=session.expires_ms)

    # using

    def check(self, access_key_id: str, token: str) -> Key:
        """The credentials that a request with session credentials is signed with. Raises Unauthenticated."""
        known = self._known.get(token)
        session = known.subject.session if known is not None else self._open(token)
        assert session is not None
        if session.id != access_key_id:
            raise Unauthenticated("the session token is of another session", reason="token")
        # The same answer while nothing has changed for anybody.
        same = known is not None and known.subject.epoch == self._base.epoch
        if known is not None and same and session.expires_ms > self._base.clock.wall_ms():
            return known
        subject = self.subject(session)
        key = Key(
            id=access_key_id, name=subject.arn, secret=self._secret(access_key_id), subject=subject,
            expires_ms=session.expires_ms,
        )  # fmt: skip
        if len(self._known) >= KNOWN_TOKENS:
            self._known.clear()
        self._known[token] = key
        return key

    def subject(self, session: Session) -> Subject:
        """Whoever has these credentials, as of now. Raises Unauthenticated when they have ended, or their owner has."""
        if session.expires_ms <= self._base.clock.wall_ms():
            raise Unauthenticated("The security token included in the request is expired", reason="token_expired")
        values = {"aws:TokenIssueTime": moment(session.issued_ms), "aws:MultiFactorAuthPresent": "false"}
        if session.kind == "key":
            held = self._keys.key(session.owner).subject
            return replace(
                held, session=session, bounds=self._bounds(session), attributes={**held.attributes, **values}
            )
        role = self._roles.by_id(session.owner)
        if role is None or (session.certificate and not self._subjects.is_active(session.certificate)):
            raise Unauthenticated(
                "The security token included in the request is invalid: its role or its certificate is gone",
                reason="token",
            )
        self._base.seen(role.id)
        if session.certificate:
            self._base.seen(session.certificate)
        base = self._roles.subject(role)
        named = {
            "aws:userid": f"{role.id}:{session.name}",
            "credentials-iot:ThingName": session.thing,
            "credentials-iot:ThingTypeName": session.thing_type,
            "credentials-iot:AwsCertificateId": session.certificate,
        }
        return replace(
            base,
            principal=f"{role.id}:{session.name}",
            arn=session_arn(self._base, role.name, session.name),
            attributes={**base.attributes, **values, **{key: value for key, value in named.items() if value}},
            session=session,
            bounds=self._bounds(session),
        )

    def refresh(self, subject: Subject) -> Subject:
        """As Subjects.refresh, for temporary credentials too."""
        if subject.session is None:
            return self._subjects.refresh(subject)
        fresh = self.subject(subject.session)
        return fresh if subject.client_id is None else self._subjects.with_client(fresh, subject.client_id)

    def _bounds(self, session: Session) -> tuple[CompiledPolicy, ...] | None:
        if not session.policies and not session.policy_arns:
            return None
        for policy_arn in session.policy_arns:
            self._base.seen(policy_arn)
        shared = [self._managed.ready(policy_arn) for policy_arn in session.policy_arns]
        return (*map(_narrowing, session.policies), *(policy for policy in shared if policy is not None))

    def _open(self, token: str) -> Session:
        if len(token) > MAX_TOKEN:
            raise Unauthenticated("the session token is not valid", reason="token")
        try:
            claims = codec.loads_object(self._pki.unseal(urlsafe_b64decode(token), label="session"))
        except (Corrupt, Invalid, ValueError) as exc:
            raise Unauthenticated("the session token is not valid", reason="token") from exc
        session = _read(claims)
        if session is None:
            raise Unauthenticated("the session token is of another version of Marram: log in again", reason="token")
        return session

    def _secret(self, access_key_id: str) -> str:
        key = self._pki.derived_key("session-secret")
        return urlsafe_b64encode(hashlib.blake2b(access_key_id.encode(), key=key, digest_size=30).digest()).decode()


def session_arn(base: Base, role_name: str, session_name: str) -> str:
    return f"arn:aws:sts::{base.account}:assumed-role/{role_name}/{session_name}"


@lru_cache(maxsize=1024)
def _narrowing(text: str) -> CompiledPolicy:
    return readable("session", text, limit=documents.IAM_LIMIT)


def _read(claims: JsonObject) -> Session | None:
    """What is sealed was written by a hub with this master key: only its version can be another."""
    match claims:
        case {
            "format": 2, "kind": "key" | "role" as kind, "id": str(id_), "owner": str(owner), "issued_ms": int(issued_ms),
            "expires_ms": int(expires_ms), "name": str(name), "policies": list(policies), "policy_arns": list(policy_arns),
            "certificate": str(certificate), "thing": str(thing), "thing_type": str(thing_type),
        }:  # fmt: skip
            return Session(
                kind=kind, id=id_, owner=owner, issued_ms=issued_ms, expires_ms=expires_ms, name=name,
                policies=tuple(map(str, policies)), policy_arns=tuple(map(str, policy_arns)), certificate=certificate,
                thing=thing, thing_type=thing_type,
            )  # fmt: skip
        case _:
            return None


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
