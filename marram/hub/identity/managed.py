"""Managed policies: documents with versions that users and roles share, ours built in (builtin.py) among them."""

import re
from base64 import b32encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from marram.core import arn
from marram.core.errors import AlreadyExists, Conflict, Invalid, LimitExceeded, NotFound
from marram.core.policy import documents
from marram.core.policy.evaluate import CompiledPolicy
from marram.hub.identity import store_iam as store
from marram.hub.identity.base import Base
from marram.hub.identity.builtin import BUILTIN
from marram.hub.identity.policies import readable
from marram.hub.identity.store_iam import Entity, ManagedVersion, Tags
from marram.kit.db import Tx

MAX_POLICIES: Final = 1500
MAX_VERSIONS: Final = 5
_VERSION: Final = re.compile(r"v[1-9][0-9]{0,8}")

Scope = Literal["All", "AWS", "Local"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagedInfo:
    """A managed policy as it is listed. attachments: how many have it."""

    arn: str
    name: str
    id: str
    path: str
    description: str
    tags: Tags = ()
    default_version: int = 1
    attachments: int
    created_ms: int = 0
    modified_ms: int = 0

    @property
    def builtin(self) -> bool:
        return self.arn in BUILTIN


class ManagedPolicies:
    def __init__(self, base: Base) -> None:
        self._base = base
        # Filled by whoever keeps compiled rights of owners: (tx, ids of owners) of a policy that is another one now.
        self.on_change: Callable[[Tx, Sequence[str]], None] = lambda tx, owners: None

    def arn_of(self, path: str, name: str) -> str:
        return self._base.iam(f"policy{path}{name}")

    async def create(self, name: str, path: str, description: str, document: str, tags: Tags) -> ManagedInfo:
        """Raises MalformedPolicy, AlreadyExists, LimitExceeded."""
        documents.parse(document, limit=documents.IAM_LIMIT)
        policy_id = "ANPA" + b32encode(self._base.entropy.bytes(10)).decode() + "A"

        def work(tx: Tx) -> ManagedInfo:
            if store.managed(tx, name) is not None:
                raise AlreadyExists(f"A policy called {name} already exists. Duplicate names are not allowed.")
            if store.count_managed(tx) >= MAX_POLICIES:
                raise LimitExceeded(f"Cannot exceed quota for PoliciesPerAccount: {MAX_POLICIES}", limit=MAX_POLICIES)
            row = store.Managed(
                name=name, id=policy_id, path=path, description=description, tags=tags, default_version=1, last_version=0,
                created_ms=tx.now_ms, modified_ms=tx.now_ms,
            )  # fmt: skip
            store.add_managed(tx, row, document)
            tx.touch("identity_managed", self.arn_of(path, name))
            return self._info(tx, row)

        return await self._base.db.write(work)

    async def get(self, policy_arn: str) -> ManagedInfo:
        return self._base.db.read_now(lambda tx: self._find(tx, policy_arn))

    async def page(
        self, scope: Scope, prefix: str, after: tuple[str, str], limit: int, *, attached: bool
    ) -> list[ManagedInfo]:
        """Ours built in first, then those of the account, each by name. after: (which of the two, name)."""

        def work(tx: Tx) -> list[ManagedInfo]:
            found: list[ManagedInfo] = []
            if scope != "Local" and after[0] != "account":
                rows = sorted(BUILTIN.values(), key=lambda policy: policy.name)
                found += [
                    self._find(tx, row.arn) for row in rows if row.name > after[1] and row.path.startswith(prefix)
                ]
            if scope != "AWS":
                last = after[1] if after[0] == "account" else ""
                found += [self._info(tx, row) for row in store.all_managed(tx, prefix, last, MAX_POLICIES)]
            return [info for info in found if info.attachments or not attached][:limit]

        return await self._base.db.read(work)

    async def delete(self, policy_arn: str) -> None:
        """Raises Conflict while it is attached or has versions beside the default one."""

        def work(tx: Tx) -> None:
            row = self._own(tx, policy_arn)
            if store.count_grants(tx, policy_arn):
                raise Conflict("Cannot delete a policy attached to entities.")
            if len(store.managed_versions(tx, row.name)) > 1:
                raise Conflict(
                    "This policy has more than one version. Before you delete a policy, you must delete the policy's"
                    " versions. The default version is deleted with the policy."
                )
            store.delete_managed(tx, row.name)
            tx.touch("identity_managed", policy_arn)
            self._base.role_changed(tx, policy_arn)

        await self._base.db.write(work)

    async def set_tags(self, policy_arn: str, change: Callable[[Tags], Tags]) -> None:
        def work(tx: Tx) -> None:
            row = self._own(tx, policy_arn)
            store.set_managed_tags(tx, row.name, change(row.tags))

        await self._base.db.write(work)

    # versions

    async def create_version(self, policy_arn: str, document: str, *, as_default: bool) -> ManagedVersion:
        documents.parse(document, limit=documents.IAM_LIMIT)

        def work(tx: Tx) -> ManagedVersion:
            row = self._own(tx, policy_arn)
            if len(store.managed_versions(tx, row.name)) >= MAX_VERSIONS:
                raise LimitExceeded(
                    f"A managed policy can have up to {MAX_VERSIONS} versions. Before you create a new version, you must"
                    " delete an existing version.",
                    limit=MAX_VERSIONS,
                )
            number = store.add_managed_version(tx, row.name, document)
            if as_default:
                self._set_default(tx, policy_arn, row.name, number)
            return ManagedVersion(version=number, document=document, created_ms=tx.now_ms)

        return await self._base.db.write(work)

    async def versions(self, policy_arn: str) -> tuple[ManagedInfo, list[ManagedVersion]]:
        """Newest first."""

        def work(tx: Tx) -> tuple[ManagedInfo, list[ManagedVersion]]:
            found = self._find(tx, policy_arn)
            if (ours := BUILTIN.get(policy_arn)) is not None:
                return found, [ManagedVersion(version=1, document=ours.document, created_ms=0)]
            return found, store.managed_versions(tx, found.name)

        return self._base.db.read_now(work)

    async def version(self, policy_arn: str, version_id: str) -> tuple[ManagedInfo, ManagedVersion]:
        info, versions = await self.versions(policy_arn)
        return info, _version(versions, policy_arn, version_id)

    async def set_default(self, policy_arn: str, version_id: str) -> None:
        def work(tx: Tx) -> None:
            row = self._own(tx, policy_arn)
            found = _version(store.managed_versions(tx, row.name), policy_arn, version_id)
            self._set_default(tx, policy_arn, row.name, found.version)

        await self._base.db.write(work)

    async def delete_version(self, policy_arn: str, version_id: str) -> None:
        """Raises Conflict for the default one."""

        def work(tx: Tx) -> None:
            row = self._own(tx, policy_arn)
            found = _version(store.managed_versions(tx, row.name), policy_arn, version_id)
            if found.version == row.default_version:
                raise Conflict("Cannot delete the default version of a policy.")
            store.delete_managed_version(tx, row.name, found.version)

        await self._base.db.write(work)

    def _set_default(self, tx: Tx, policy_arn: str, name: str, number: int) -> None:
        store.set_managed_default(tx, name, number)
        tx.touch("identity_managed", policy_arn)
        self._base.role_changed(tx, policy_arn)
        self.on_change(tx, store.owners_of(tx, policy_arn))

    # what others ask

    def check(self, tx: Tx, policy_arn: str) -> ManagedInfo:
        """Raises NotFound, Invalid."""
        return self._find(tx, policy_arn)

    def ready(self, policy_arn: str) -> CompiledPolicy | None:
        """As `compiled`, from memory."""
        return self._base.db.cached("identity_managed", policy_arn, lambda tx: self.compiled(tx, policy_arn))

    def compiled(self, tx: Tx, policy_arn: str) -> CompiledPolicy | None:
        """The default version, ready to be asked; None when there is no such policy."""
        text = self.document(tx, policy_arn)
        if text is None:
            return None
        return readable(policy_arn.rpartition("/")[2], text, limit=documents.IAM_LIMIT)

    def document(self, tx: Tx, policy_arn: str) -> str | None:
        if (ours := BUILTIN.get(policy_arn)) is not None:
            return ours.document
        row = self._row(tx, policy_arn)
        if row is None:
            return None
        return next(v.document for v in store.managed_versions(tx, row.name) if v.version == row.default_version)

    async def entities(self, policy_arn: str) -> list[Entity]:
        """The users and roles that have it. Raises NotFound."""

        def work(tx: Tx) -> list[Entity]:
            self._find(tx, policy_arn)
            return [
                found
                for owner in store.owners_of(tx, policy_arn)
                if (found := store.entity_by_id(tx, owner)) is not None
            ]

        return self._base.db.read_now(work)

    def _row(self, tx: Tx, policy_arn: str) -> store.Managed | None:
        row = store.managed(tx, policy_arn.rpartition("/")[2])
        return row if row is not None and self.arn_of(row.path, row.name) == policy_arn else None

    def _own(self, tx: Tx, policy_arn: str) -> store.Managed:
        if policy_arn in BUILTIN:
            raise Conflict(f"{policy_arn} comes with Marram and cannot be changed", kind="unmodifiable")
        row = self._row(tx, policy_arn)
        if row is None:
            raise _missing(policy_arn)
        return row

    def _find(self, tx: Tx, policy_arn: str) -> ManagedInfo:
        parsed = arn.parse(policy_arn)
        if parsed.service != "iam" or parsed.region or not parsed.resource.startswith("policy/"):
            raise Invalid(
                f"ARN {policy_arn} is not valid: it must read arn:aws:iam::<account>:policy/<name>", kind="input"
            )
        if (ours := BUILTIN.get(policy_arn)) is not None:
            return ManagedInfo(
                arn=ours.arn, name=ours.name, id=ours.id, path=ours.path, description=ours.description,
                attachments=store.count_grants(tx, policy_arn),
            )  # fmt: skip
        row = self._row(tx, policy_arn)
        if row is None:
            raise _missing(policy_arn)
        return self._info(tx, row)

    def _info(self, tx: Tx, row: store.Managed) -> ManagedInfo:
        policy_arn = self.arn_of(row.path, row.name)
        return ManagedInfo(
            arn=policy_arn, name=row.name, id=row.id, path=row.path, description=row.description, tags=row.tags,
            default_version=row.default_version, attachments=store.count_grants(tx, policy_arn), created_ms=row.created_ms,
            modified_ms=row.modified_ms,
        )  # fmt: skip


def _missing(policy_arn: str) -> NotFound:
    return NotFound(f"Policy {policy_arn} does not exist or is not attachable.")


def _version(versions: Sequence[ManagedVersion], policy_arn: str, version_id: str) -> ManagedVersion:
    if not _VERSION.fullmatch(version_id):
        raise Invalid(f"{version_id!r} is not a version of a policy: v1, v2, ...", kind="input")
    for version in versions:
        if f"v{version.version}" == version_id:
            return version
    raise NotFound(f"Policy {policy_arn} version {version_id} does not exist or is not attachable.")
