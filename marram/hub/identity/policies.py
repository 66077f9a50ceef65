"""AWS IoT policies: documents with versions, attached to certificates and thing groups.

Not here: the policies of users and roles (managed.py), what a document means (marram.core.policy).
"""

import re
from collections.abc import Mapping
from typing import Final

from marram.core.errors import AlreadyExists, Conflict, Invalid, LimitExceeded, NotFound
from marram.core.policy import documents, evaluate
from marram.core.policy.documents import MalformedPolicy
from marram.core.policy.evaluate import CompiledPolicy
from marram.hub.identity import store
from marram.hub.identity.base import Base
from marram.hub.identity.certificates import Certificates, target_of
from marram.hub.identity.model import EVERYBODY, Page
from marram.hub.identity.store import Policy, PolicyVersion
from marram.kit.db import Tx
from marram.kit.log import logger

log = logger(__name__)

POLICY_NAME: Final = re.compile(r"[\w+=,.@-]{1,128}", re.ASCII)
MAX_VERSIONS: Final = 5
MAX_POLICIES: Final = 10  # of one target
ALL_DENIED: Final = '{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Action":"*","Resource":"*"}]}'


class Policies:
    def __init__(self, base: Base, certificates: Certificates) -> None:
        self._base, self._certificates = base, certificates

    def arn_of(self, name: str) -> str:
        return self._base.iot(f"policy/{name}")

    async def create(self, name: str, document: str, tags: Mapping[str, str] | None = None) -> None:
        """Raises MalformedPolicy, AlreadyExists."""

        def work(tx: Tx) -> None:
            self.create_tx(tx, name, document)
            self._base.things.tag(tx, "policy", name, tags or {})

        await self._base.db.write(work)

    def create_tx(self, tx: Tx, name: str, document: str) -> None:
        """As `create`, inside somebody's transaction."""
        if not POLICY_NAME.fullmatch(name):
            raise Invalid(f"{name!r} is not a policy name: 1 to 128 of letters, digits and _+=,.@-")
        documents.parse(document)
        if store.policy(tx, name) is not None:
            raise AlreadyExists(f"policy {name} exists", resourceArn=self.arn_of(name), resourceId=name)
        store.add_policy(tx, name, document)
        tx.touch("identity_policy", name)

    def get(self, tx: Tx, name: str) -> Policy:
        """Raises NotFound."""
        found = store.policy(tx, name)
        if found is None:
            raise NotFound(f"policy {name} does not exist")
        return found

    def exists(self, tx: Tx, name: str) -> bool:
        return store.policy(tx, name) is not None

    def bearer(self, tx: Tx, name: str) -> str | None:
        """What tells this policy from one made anew under its name; None when there is none."""
        found = store.policy(tx, name)
        return str(found.created_ms) if found is not None else None

    async def policy(self, name: str) -> tuple[Policy, PolicyVersion]:
        """With its default version."""

        def work(tx: Tx) -> tuple[Policy, PolicyVersion]:
            found = self.get(tx, name)
            return found, self._version(tx, name, found.default_version)

        return self._base.db.read_now(work)

    async def page(self, page: Page) -> list[Policy]:
        return await self._base.db.read(lambda tx: store.policies(tx, page.after, page.limit, ascending=page.ascending))

    async def delete(self, name: str) -> None:
        """Raises Conflict while it has other versions than the default, or targets."""

        def work(tx: Tx) -> None:
            self.get(tx, name)
            if len(store.versions(tx, name)) > 1:
                raise Conflict(f"policy {name} has versions beside the default one: delete them first")
            if store.is_used(tx, name):
                raise Conflict(f"policy {name} is attached: detach it first")
            store.delete_policy(tx, name)
            tx.touch("identity_policy", name)

        await self._base.db.write(work)

    # versions

    async def create_version(self, name: str, document: str, *, as_default: bool) -> int:
        """Raises LimitExceeded at five versions."""
        documents.parse(document)

        def work(tx: Tx) -> int:
            self.get(tx, name)
            if len(store.versions(tx, name)) >= MAX_VERSIONS:
                raise LimitExceeded(
                    f"policy {name} has {MAX_VERSIONS} versions: delete one first", kind="versions", limit=MAX_VERSIONS
                )
            number = store.add_version(tx, name, document)
            if as_default:
                self._set_default(tx, name, number)
            return number

        return await self._base.db.write(work)

    async def versions(self, name: str) -> tuple[Policy, list[PolicyVersion]]:
        return self._base.db.read_now(lambda tx: (self.get(tx, name), store.versions(tx, name)))

    async def version(self, name: str, number: str) -> tuple[Policy, PolicyVersion]:
        return self._base.db.read_now(lambda tx: (self.get(tx, name), self._version(tx, name, _number(number))))

    async def set_default_version(self, name: str, number: str) -> None:
        def work(tx: Tx) -> None:
            self.get(tx, name)
            self._set_default(tx, name, self._version(tx, name, _number(number)).version)

        await self._base.db.write(work)

    async def delete_version(self, name: str, number: str) -> None:
        """Raises Conflict for the default one."""

        def work(tx: Tx) -> None:
            found = self.get(tx, name)
            version = self._version(tx, name, _number(number)).version
            if version == found.default_version:
                raise Conflict(f"version {version} of policy {name} is the default: make another the default first")
            store.delete_version(tx, name, version)

        await self._base.db.write(work)

    def _version(self, tx: Tx, name: str, number: int) -> PolicyVersion:
        found = store.version(tx, name, number)
        if found is None:
            raise NotFound(f"policy {name} has no version {number}")
        return found

    def _set_default(self, tx: Tx, name: str, number: int) -> None:
        store.set_default(tx, name, number)
        tx.touch("identity_policy", name)
        if store.is_used(tx, name):
            self._base.changed(tx, EVERYBODY)

    # attachments

    async def attach(self, name: str, target_arn: str) -> None:
        """Raises NotFound for an unknown policy or target, LimitExceeded at ten policies. Again is fine."""
        target = target_of(self._base, target_arn)
        await self._base.db.write(lambda tx: self.attach_tx(tx, name, target))

    def attach_tx(self, tx: Tx, name: str, target: str) -> None:
        """As `attach`, inside somebody's transaction. target: `cert/<id>` or `thinggroup/<name>`."""
        self.get(tx, name)
        self._check_target(tx, target)
        if store.attach(tx, target, name):
            if len(store.attached(tx, target, limit=MAX_POLICIES + 1)) > MAX_POLICIES:
                raise LimitExceeded(f"{target} has {MAX_POLICIES} policies already", limit=MAX_POLICIES)
            self._base.touch_target(tx, target)

    async def detach(self, name: str, target_arn: str) -> bool:
        """False when it was not attached."""
        target = target_of(self._base, target_arn)

        def work(tx: Tx) -> bool:
            detached = store.detach(tx, target, name)
            if detached:
                self._base.touch_target(tx, target)
            return detached

        return await self._base.db.write(work)

    async def attached(self, target_arn: str, after: str, limit: int, *, recursive: bool = False) -> list[str]:
        """Names in order. recursive: for a group, those of its parents as well."""
        target = target_of(self._base, target_arn)

        def work(tx: Tx) -> list[str]:
            self._check_target(tx, target)
            return store.attached(tx, target, after, limit)

        if not (recursive and target.startswith("thinggroup/")):
            return self._base.db.read_now(work)
        lineage = self._base.things.lineage(target.removeprefix("thinggroup/"))
        self._base.db.read_now(lambda tx: self._check_target(tx, target))
        names = sorted({name for group in lineage for name in self.of_group(group)})
        return [name for name in names if name > after][:limit]

    async def targets(self, name: str, after: str, limit: int) -> list[str]:
        """ARNs of certificates and thing groups. Their order is that of the part after the account."""

        def work(tx: Tx) -> list[str]:
            self.get(tx, name)
            return store.targets(tx, name, after, limit)

        return [self._base.iot(target) for target in await self._base.db.read(work)]

    def group_deleted(self, tx: Tx, group: str) -> None:
        """The registry says: its policies go with it."""
        if store.detach_all(tx, f"thinggroup/{group}"):
            self._base.touch_target(tx, f"thinggroup/{group}")

    def group_changed(self, tx: Tx) -> None:
        """The registry says: the tree of groups is another now."""
        self._base.changed(tx, EVERYBODY)

    def _check_target(self, tx: Tx, target: str) -> None:
        kind, _, name = target.partition("/")
        if kind == "cert":
            self._certificates.get(tx, name)
        else:
            self._base.things.check_group(tx, name)

    # from memory

    def of_group(self, group: str) -> tuple[str, ...]:
        return self._base.db.cached(
            "identity_group", group, lambda tx: tuple(store.attached(tx, f"thinggroup/{group}"))
        )

    def compiled(self, name: str) -> CompiledPolicy | None:
        """The default version, ready to be asked; None when there is no such policy."""

        def load(tx: Tx) -> CompiledPolicy | None:
            text = store.default_document(tx, name)
            return readable(name, text, limit=documents.IOT_LIMIT) if text is not None else None

        return self._base.db.cached("identity_policy", name, load)


def readable(name: str, text: str, *, limit: int) -> CompiledPolicy:
    """A stored document, compiled; one that this version cannot read denies everything."""
    try:
        return evaluate.compile_policy(name, text, limit=limit)
    except MalformedPolicy as exc:
        # Written by another version of Marram. Skipping it could skip a Deny.
        log.error("identity.policy_unreadable", policy=name, reason=exc.message)
        return evaluate.compile_policy(name, ALL_DENIED)


def _number(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,8}", text):
        raise Invalid(f"{text!r} is not a policy version: a number from 1")
    return int(text)
