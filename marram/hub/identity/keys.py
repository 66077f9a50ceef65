"""Access keys of users: their secrets, and as whom they act."""

import re
from base64 import b32encode, urlsafe_b64encode
from dataclasses import dataclass, replace
from typing import Final, Literal

from marram.core.errors import AlreadyExists, Invalid, LimitExceeded, NotFound, Unauthenticated
from marram.core.policy import documents
from marram.hub.identity import store_iam as store
from marram.hub.identity.base import Base
from marram.hub.identity.model import Key, Subject
from marram.hub.identity.pki import Pki
from marram.hub.identity.store_iam import Entity, StoredKey
from marram.hub.identity.users import Users
from marram.kit.db import Tx
from marram.kit.log import logger

log = logger(__name__)

KEY_NAME: Final = re.compile(r"[\w+=,.@-]{1,64}", re.ASCII)
ADMIN: Final = "admin"
ALL_ALLOWED: Final = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}'
OWN_POLICY: Final = "marram-key"  # the inline policy of a user that was made together with its key
MAX_KEYS: Final = 2
KEYS_NOW: Final = 1024

KeyStatus = Literal["Active", "Inactive"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyInfo:
    """policy: the document that was given with the key, when it was made so."""

    id: str
    name: str
    arn: str
    policy: str | None
    status: str
    created_ms: int
    used_ms: int
    used_service: str


class Keys:
    def __init__(self, base: Base, pki: Pki, users: Users) -> None:
        self._base, self._pki, self._users = base, pki, users
        self._now: dict[str, tuple[Key, Key]] = {}  # (as loaded, as of this epoch)
        self._used: dict[str, tuple[int, str]] = {}  # since the last flush: (when, service)

    # who a key is

    def key(self, access_key_id: str) -> Key:
        """Raises Unauthenticated when there is no such key, or it is inactive."""
        found = self._base.db.cached("identity_key", access_key_id, lambda tx: self._load(tx, access_key_id))
        if found is None:
            raise Unauthenticated("the access key id is not known", reason="unknown_key")
        made, now = self._now.get(access_key_id, (None, found))
        if made is not found or now.subject.epoch != self._base.epoch:
            self._base.seen(access_key_id)
            now = replace(found, subject=replace(found.subject, epoch=self._base.epoch))
            if len(self._now) >= KEYS_NOW:
                self._now.clear()
            self._now[access_key_id] = (found, now)
        return now

    def _load(self, tx: Tx, key_id: str) -> Key | None:
        row = store.key(tx, key_id)
        user = store.entity_by_id(tx, row.owner) if row is not None else None
        if row is None or user is None or row.status != "Active":
            return None
        user_arn = self._users.arn_of(user)
        subject = Subject(
            kind="key",
            principal=key_id,
            arn=user_arn,
            policies=self._users.rights(tx, user),
            attributes={
                "aws:PrincipalArn": user_arn,
                "aws:PrincipalAccount": self._base.account,
                "aws:PrincipalType": "User",
                "aws:username": user.name,
                "aws:userid": user.id,
            },
        )
        secret = self._pki.unseal(row.sealed, label=f"key:{key_id}").decode()
        return Key(id=key_id, name=user.name, secret=secret, subject=subject)

    # keys of a user

    async def add(self, user: str) -> tuple[StoredKey, str]:
        """(the new key, its secret, shown this once). Raises LimitExceeded at two."""
        key_id, secret, sealed = self._new()

        def work(tx: Tx) -> StoredKey:
            owner = self._users.find(tx, user)
            if len(store.keys_of(tx, owner.id)) >= MAX_KEYS:
                raise LimitExceeded(f"Cannot exceed quota for AccessKeysPerUser: {MAX_KEYS}", limit=MAX_KEYS)
            return self._store(tx, key_id, owner, sealed)

        return await self._base.db.write(work), secret

    async def of(self, user: str) -> list[StoredKey]:
        """Oldest first."""
        return self._base.db.read_now(lambda tx: store.keys_of(tx, self._users.find(tx, user).id))

    async def set_status(self, user: str, key_id: str, status: KeyStatus) -> None:
        """Raises NotFound, also for the key of another user. An inactive key is refused from the next request on."""

        def work(tx: Tx) -> None:
            self._of_user(tx, user, key_id)
            store.set_key_status(tx, key_id, status)
            self._touch(tx, key_id)

        await self._base.db.write(work)

    async def remove(self, user: str, key_id: str) -> None:
        """Raises NotFound, also for the key of another user. Requests under way are finished; the next one is refused."""

        def work(tx: Tx) -> None:
            self._of_user(tx, user, key_id)
            store.delete_key(tx, key_id)
            self._touch(tx, key_id)

        await self._base.db.write(work)

    async def info(self, key_id: str) -> tuple[Entity, StoredKey]:
        """Raises NotFound."""

        def work(tx: Tx) -> tuple[Entity, StoredKey]:
            row = store.key(tx, key_id)
            owner = store.entity_by_id(tx, row.owner) if row is not None else None
            if row is None or owner is None:
                raise _missing(key_id)
            return owner, row

        owner, row = self._base.db.read_now(work)
        used_ms, service = self._used.get(key_id, (row.used_ms, row.used_service))
        return owner, replace(row, used_ms=used_ms, used_service=service)

    def used(self, access_key_id: str, service: str) -> None:
        """A request was signed with it. Kept in memory until `flush`: after a crash the last minute is not known."""
        self._used[access_key_id] = (self._base.clock.wall_ms(), service)

    async def flush(self) -> None:
        """Write when keys were used last."""
        if not self._used:
            return
        used, self._used = self._used, {}

        def work(tx: Tx) -> None:
            for key_id, (used_ms, service) in used.items():
                store.set_key_used(tx, key_id, used_ms, service)

        await self._base.db.write(work)

    # a user, its policy and its key in one

    async def create(self, name: str, policy: str) -> Key:
        """A new user with this IAM policy document and one key. Raises AlreadyExists, MalformedPolicy. The secret is shown once."""
        _check(name, policy)
        key_id, secret, sealed = self._new()
        user_id = self._users.new_id()
        await self._base.db.write(lambda tx: self._create(tx, user_id, name, policy, key_id, sealed))
        return Key(id=key_id, name=name, secret=secret, subject=self.key(key_id).subject)

    def admin(self) -> Key:
        """The administrator's key, made when there is none. For the start, before the loop serves anybody."""
        return self.own(ADMIN, ALL_ALLOWED)

    def own(self, name: str, policy: str) -> Key:
        """A key of the hub itself by its user's name; both are made when there is none that is active. For the start."""

        def present(tx: Tx) -> list[StoredKey] | None:
            user = store.entity(tx, self._users.kind, name)
            return store.keys_of(tx, user.id) if user is not None else None

        keys = self._base.db.read_now(present)
        for row in keys or ():
            if row.status == "Active":
                return self.key(row.id)
        _check(name, policy)
        key_id, _secret, sealed = self._new()
        user_id = self._users.new_id()

        def work(tx: Tx) -> None:
            if keys is None:
                self._create(tx, user_id, name, policy, key_id, sealed)
                return
            if len(keys) >= MAX_KEYS:  # all inactive, and the hub cannot start without one
                store.delete_key(tx, keys[0].id)
                self._touch(tx, keys[0].id)
            self._store(tx, key_id, self._users.find(tx, name), sealed)

        self._base.db.write_sync(work)
        log.info("identity.key_made", name=name, key=key_id)
        return self.key(key_id)

    async def page(self, after: tuple[str, str], limit: int) -> list[KeyInfo]:
        """All keys, by the names of their users; `after` is (name, key id)."""

        def work(tx: Tx) -> list[KeyInfo]:
            return [self._info(tx, row) for _, row in store.all_keys(tx, after, limit)]

        return await self._base.db.read(work)

    async def delete(self, key_id: str) -> None:
        """Raises NotFound. With its last key goes a user who was made with it and was given nothing since."""

        def work(tx: Tx) -> None:
            row = store.key(tx, key_id)
            if row is None or not store.delete_key(tx, key_id):
                raise _missing(key_id)
            self._touch(tx, key_id)
            owner = store.entity_by_id(tx, row.owner)
            if owner is None or store.keys_of(tx, owner.id) or store.granted(tx, owner.id):
                return
            if list(store.inline(tx, owner.id)) == [OWN_POLICY]:
                store.delete_inline(tx, owner.id, OWN_POLICY)
                store.delete_entity(tx, owner.id)

        await self._base.db.write(work)

    # within transactions

    def _create(self, tx: Tx, user_id: str, name: str, policy: str, key_id: str, sealed: bytes) -> None:
        if store.entity(tx, self._users.kind, name) is not None:
            raise AlreadyExists(f"a user named {name} exists", resourceId=name)
        user = self._users.create_tx(tx, user_id, name)
        store.put_inline(tx, user.id, OWN_POLICY, policy)
        self._store(tx, key_id, user, sealed)

    def _store(self, tx: Tx, key_id: str, owner: Entity, sealed: bytes) -> StoredKey:
        store.add_key(tx, key_id, owner.id, sealed)
        tx.touch("identity_key", key_id)
        made = store.key(tx, key_id)
        assert made is not None
        return made

    def _of_user(self, tx: Tx, user: str, key_id: str) -> None:
        row = store.key(tx, key_id)
        if row is None or row.owner != self._users.find(tx, user).id:
            raise _missing(key_id)

    def _touch(self, tx: Tx, key_id: str) -> None:
        tx.touch("identity_key", key_id)
        self._base.changed(tx, key_id)

    def _info(self, tx: Tx, row: StoredKey) -> KeyInfo:
        owner = store.entity_by_id(tx, row.owner)
        assert owner is not None
        used_ms, service = self._used.get(row.id, (row.used_ms, row.used_service))
        return KeyInfo(
            id=row.id, name=owner.name, arn=self._users.arn_of(owner), policy=store.inline(tx, owner.id).get(OWN_POLICY),
            status=row.status, created_ms=row.created_ms, used_ms=used_ms, used_service=service,
        )  # fmt: skip

    def _new(self) -> tuple[str, str, bytes]:
        """(id, secret, sealed secret)."""
        key_id = "MRAK" + b32encode(self._base.entropy.bytes(10)).decode()
        secret = urlsafe_b64encode(self._base.entropy.bytes(30)).decode()
        return key_id, secret, self._pki.seal(secret.encode(), label=f"key:{key_id}")


def _check(name: str, policy: str) -> None:
    if not KEY_NAME.fullmatch(name):
        raise Invalid(f"{name!r} is not a key name: 1 to 64 of letters, digits and _+=,.@-")
    documents.parse(policy, limit=documents.IAM_LIMIT)


def _missing(key_id: str) -> NotFound:
    return NotFound(f"The Access Key with id {key_id} cannot be found.")
