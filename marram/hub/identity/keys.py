"""Access keys: their secrets, and as whom they act."""

import re
from base64 import b32encode, urlsafe_b64encode
from dataclasses import dataclass, replace
from typing import Final

from marram.core.errors import AlreadyExists, Invalid, NotFound, Unauthenticated
from marram.core.policy import documents, evaluate
from marram.hub.identity import store
from marram.hub.identity.base import Base
from marram.hub.identity.model import Key, Subject
from marram.hub.identity.pki import Pki
from marram.kit.db import Tx
from marram.kit.log import logger

log = logger(__name__)

KEY_NAME: Final = re.compile(r"[\w+=,.@-]{1,64}", re.ASCII)
ADMIN: Final = "admin"
ALL_ALLOWED: Final = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}'


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyInfo:
    id: str
    name: str
    arn: str
    policy: str
    created_ms: int


class Keys:
    def __init__(self, base: Base, pki: Pki) -> None:
        self._base, self._pki = base, pki

    def key(self, access_key_id: str) -> Key:
        """Raises Unauthenticated when there is no such key."""
        found = self._base.db.cached("identity_key", access_key_id, lambda tx: self._load(tx, access_key_id))
        if found is None:
            raise Unauthenticated("the access key id is not known", reason="unknown_key")
        self._base.seen(access_key_id)
        epoch = self._base.epoch
        return found if found.subject.epoch == epoch else replace(found, subject=replace(found.subject, epoch=epoch))

    async def create(self, name: str, policy: str) -> Key:
        """A new access key with this IAM policy document. Raises AlreadyExists, MalformedPolicy. The secret is shown once."""
        key_id, secret, sealed = self._new(name, policy)
        await self._base.db.write(lambda tx: self._store(tx, key_id, name, sealed, policy))
        return Key(id=key_id, name=name, secret=secret, subject=self.key(key_id).subject)

    def admin(self) -> Key:
        """The administrator's key, made when there is none. For the start, before the loop serves anybody."""
        return self.own(ADMIN, ALL_ALLOWED)

    def own(self, name: str, policy: str) -> Key:
        """A key of the hub itself by its name, made when there is none. For the start."""
        present = self._base.db.read_now(lambda tx: store.key_named(tx, name))
        if present is not None:
            return self.key(present.id)
        key_id, _secret, sealed = self._new(name, policy)
        self._base.db.write_sync(lambda tx: self._store(tx, key_id, name, sealed, policy))
        log.info("identity.key_made", name=name, key=key_id)
        return self.key(key_id)

    async def page(self, after: str, limit: int) -> list[KeyInfo]:
        rows = await self._base.db.read(lambda tx: store.keys(tx, after, limit))
        return [
            KeyInfo(
                id=row.id,
                name=row.name,
                arn=self._base.iam(f"user/{row.name}"),
                policy=row.policy,
                created_ms=row.created_ms,
            )
            for row in rows
        ]

    async def delete(self, key_id: str) -> None:
        """Raises NotFound. Requests under way are finished; the next one is refused."""

        def work(tx: Tx) -> None:
            if not store.delete_key(tx, key_id):
                raise NotFound(f"access key {key_id} does not exist")
            tx.touch("identity_key", key_id)
            self._base.changed(tx, key_id)

        await self._base.db.write(work)

    def _load(self, tx: Tx, key_id: str) -> Key | None:
        row = store.key(tx, key_id)
        if row is None:
            return None
        subject_arn = self._base.iam(f"user/{row.name}")
        policy = evaluate.compile_policy(f"key {row.name}", row.policy, limit=documents.IAM_LIMIT)
        subject = Subject(
            kind="key",
            principal=key_id,
            arn=subject_arn,
            policies=(policy,),
            attributes={
                "aws:PrincipalArn": subject_arn,
                "aws:PrincipalAccount": self._base.account,
                "aws:PrincipalType": "User",
                "aws:username": row.name,
                "aws:userid": key_id,
            },
        )
        secret = self._pki.unseal(row.sealed, label=f"key:{key_id}").decode()
        return Key(id=key_id, name=row.name, secret=secret, subject=subject)

    def _new(self, name: str, policy: str) -> tuple[str, str, bytes]:
        if not KEY_NAME.fullmatch(name):
            raise Invalid(f"{name!r} is not a key name: 1 to 64 of letters, digits and _+=,.@-")
        documents.parse(policy, limit=documents.IAM_LIMIT)
        key_id = "MRAK" + b32encode(self._base.entropy.bytes(10)).decode()
        secret = urlsafe_b64encode(self._base.entropy.bytes(30)).decode()
        return key_id, secret, self._pki.seal(secret.encode(), label=f"key:{key_id}")

    def _store(self, tx: Tx, key_id: str, name: str, sealed: bytes, policy: str) -> None:
        if store.key_named(tx, name) is not None:
            raise AlreadyExists(f"an access key named {name} exists", resourceId=name)
        store.add_key(tx, key_id, name, sealed, policy)
        tx.touch("identity_key", key_id)
