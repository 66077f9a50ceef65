"""What users and roles have in common: names, tags, inline and managed policies, and the rights that these come to."""

from base64 import b32encode
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from marram.core.errors import AlreadyExists, Conflict, LimitExceeded, NotFound
from marram.core.policy import documents
from marram.core.policy.evaluate import CompiledPolicy
from marram.hub.identity import store_iam as store
from marram.hub.identity.base import Base
from marram.hub.identity.managed import ManagedPolicies
from marram.hub.identity.policies import readable
from marram.hub.identity.store_iam import Entity, Tags
from marram.kit.db import Tx

MAX_ATTACHED: Final = 10


class Entities:
    """Base of Users and Roles."""

    kind: str = ""
    title: str = ""
    id_prefix: str = ""
    quota: str = ""
    max_entities: int = 0
    max_inline: int = 0  # characters of all inline policies of one, white space not counted

    def __init__(self, base: Base, managed: ManagedPolicies) -> None:
        self._base, self._managed = base, managed

    def changed(self, tx: Tx, entity: Entity) -> None:
        """What it may do, or that it is there at all, is another thing now."""
        raise NotImplementedError

    def check_mutable(self, entity: Entity) -> None:
        """Raises Conflict for one that comes with Marram."""

    # names

    def arn_of(self, entity: Entity) -> str:
        return self._base.iam(f"{entity.kind}{entity.path}{entity.name}")

    def arn_new(self, name: str, path: str) -> str:
        return self._base.iam(f"{self.kind}{path}{name}")

    def arn_named(self, name: str, path: str = "/") -> str:
        """The ARN that rights are checked on: with the path of the one that exists, else with this one."""
        found = self._base.db.read_now(lambda tx: store.entity(tx, self.kind, name))
        return self.arn_of(found) if found is not None else self.arn_new(name, path)

    def find(self, tx: Tx, name: str) -> Entity:
        found = store.entity(tx, self.kind, name)
        if found is None:
            raise NotFound(f"The {self.kind} with name {name} cannot be found.")
        return found

    async def get(self, name: str) -> Entity:
        return self._base.db.read_now(lambda tx: self.find(tx, name))

    async def page(self, prefix: str, after: str, limit: int) -> list[Entity]:
        return await self._base.db.read(lambda tx: store.entities(tx, self.kind, prefix, after, limit))

    def new_id(self) -> str:
        return self.id_prefix + b32encode(self._base.entropy.bytes(11)).decode()[:17]

    def add(self, tx: Tx, entity: Entity) -> None:
        """Raises AlreadyExists, LimitExceeded."""
        if store.entity(tx, self.kind, entity.name) is not None:
            raise AlreadyExists(f"{self.title} with name {entity.name} already exists.")
        if store.count_entities(tx, self.kind) >= self.max_entities:
            raise LimitExceeded(f"Cannot exceed quota for {self.quota}: {self.max_entities}", limit=self.max_entities)
        store.add_entity(tx, entity)

    async def change(self, name: str, change: Callable[[Tx, Entity], Entity]) -> Entity:
        """Replace it by what `change` makes of it."""

        def work(tx: Tx) -> Entity:
            before = self.find(tx, name)
            self.check_mutable(before)
            after = change(tx, before)
            store.save_entity(tx, after)
            self.changed(tx, after)
            return after

        return await self._base.db.write(work)

    async def set_tags(self, name: str, change: Callable[[Tags], Tags]) -> None:
        await self.change(name, lambda _tx, entity: replace(entity, tags=change(entity.tags)))

    def remove(self, tx: Tx, entity: Entity) -> None:
        """Raises Conflict while it has policies."""
        self.check_mutable(entity)
        if store.inline(tx, entity.id):
            raise Conflict("Cannot delete entity, must delete policies first.")
        if store.granted(tx, entity.id):
            raise Conflict("Cannot delete entity, must detach all policies first.")
        store.delete_entity(tx, entity.id)
        self.changed(tx, entity)

    # inline policies

    async def put_policy(self, name: str, policy: str, document: str) -> None:
        """Raises MalformedPolicy, LimitExceeded."""
        documents.parse(document, limit=documents.IAM_LIMIT)

        def work(tx: Tx) -> None:
            entity = self.find(tx, name)
            self.check_mutable(entity)
            self.put_policy_tx(tx, entity, policy, document)

        await self._base.db.write(work)

    def put_policy_tx(self, tx: Tx, entity: Entity, policy: str, document: str) -> None:
        store.put_inline(tx, entity.id, policy, document)
        used = sum(len(documents.SPACE.sub("", text)) for text in store.inline(tx, entity.id).values())
        if used > self.max_inline:
            raise LimitExceeded(
                f"Maximum policy size of {self.max_inline} bytes exceeded for {self.kind} {entity.name}",
                limit=self.max_inline,
            )
        self.changed(tx, entity)

    async def policy(self, name: str, policy: str) -> tuple[Entity, str]:
        """The document of an inline policy."""

        def work(tx: Tx) -> tuple[Entity, str]:
            entity = self.find(tx, name)
            document = store.inline(tx, entity.id).get(policy)
            if document is None:
                raise self._no_policy(policy)
            return entity, document

        return self._base.db.read_now(work)

    async def policies(self, name: str) -> list[str]:
        """Names of the inline policies, in order."""
        return self._base.db.read_now(lambda tx: list(store.inline(tx, self.find(tx, name).id)))

    async def delete_policy(self, name: str, policy: str) -> None:
        def work(tx: Tx) -> None:
            entity = self.find(tx, name)
            self.check_mutable(entity)
            if not store.delete_inline(tx, entity.id, policy):
                raise self._no_policy(policy)
            self.changed(tx, entity)

        await self._base.db.write(work)

    def _no_policy(self, policy: str) -> NotFound:
        return NotFound(f"The {self.kind} policy with name {policy} cannot be found.")

    # managed policies

    async def attach(self, name: str, policy_arn: str) -> None:
        """Raises NotFound, LimitExceeded at ten. Again is fine."""

        def work(tx: Tx) -> None:
            entity = self.find(tx, name)
            self.check_mutable(entity)
            self._managed.check(tx, policy_arn)
            if store.grant(tx, entity.id, policy_arn):
                if len(store.granted(tx, entity.id)) > MAX_ATTACHED:
                    raise LimitExceeded(
                        f"Cannot exceed quota for PoliciesPer{self.title}: {MAX_ATTACHED}", limit=MAX_ATTACHED
                    )
                self.changed(tx, entity)

        await self._base.db.write(work)

    async def detach(self, name: str, policy_arn: str) -> None:
        def work(tx: Tx) -> None:
            entity = self.find(tx, name)
            self.check_mutable(entity)
            if not store.withdraw(tx, entity.id, policy_arn):
                raise NotFound(f"Policy {policy_arn} was not found.")
            self.changed(tx, entity)

        await self._base.db.write(work)

    async def attached(self, name: str) -> list[str]:
        """ARNs, in order."""
        return self._base.db.read_now(lambda tx: store.granted(tx, self.find(tx, name).id))

    # rights

    def rights(self, tx: Tx, entity: Entity) -> tuple[CompiledPolicy, ...]:
        """All policies of it, compiled. One that cannot be read denies everything."""
        own = [readable(name, text, limit=documents.IAM_LIMIT) for name, text in store.inline(tx, entity.id).items()]
        shared = [self._managed.compiled(tx, policy_arn) for policy_arn in store.granted(tx, entity.id)]
        return (*own, *(policy for policy in shared if policy is not None))


def merged(present: Tags, given: Sequence[tuple[str, str]]) -> Tags:
    """Tags with those given put in the place of their namesakes. Raises LimitExceeded above fifty."""
    found = dict(present) | dict(given)
    if len(found) > 50:
        raise LimitExceeded("The number of tags has reached the maximum limit of 50.", limit=50)
    return tuple(found.items())


def without(present: Tags, names: Sequence[str]) -> Tags:
    return tuple(pair for pair in present if pair[0] not in names)
