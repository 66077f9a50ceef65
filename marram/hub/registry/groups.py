"""Static thing groups: trees of at most seven levels, and the things in them. A thing is in one group of a tree at most."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from marram.core.errors import AlreadyExists, Invalid, NotFound
from marram.hub.registry import names, store, things
from marram.hub.registry.changes import Changes
from marram.hub.registry.names import Arns
from marram.hub.registry.store import ThingGroup
from marram.kit import clock as clocks
from marram.kit.clock import Entropy
from marram.kit.db import Db, Tx

MAX_DEPTH: Final = 7


class Groups:
    def __init__(self, db: Db, changes: Changes, arns: Arns, *, entropy: Entropy) -> None:
        self._db, self._changes, self._arns, self._entropy = db, changes, arns, entropy

    async def create(
        self, name: str, *, parent: str = "", description: str = "", attributes: Mapping[str, str] | None = None
    ) -> ThingGroup:
        """The same again is fine. Raises AlreadyExists, NotFound for the parent, Invalid below seven levels."""
        names.check_name(name, "thing group")
        wanted = ThingGroup(
            name=name,
            id=clocks.uuid4(self._entropy),
            parent=parent,
            description=description,
            attributes=names.first_attributes(attributes),
        )

        def work(tx: Tx) -> ThingGroup:
            present = store.group(tx, name)
            if present is not None:
                same = (present.parent, present.description, present.attributes)
                if same == (parent, description, wanted.attributes):
                    return present
                raise AlreadyExists(
                    f"thing group {name} exists with other properties",
                    resourceId=present.id,
                    resourceArn=self._arns.group(name),
                )
            if parent and len(parents(tx, get(tx, parent))) + 1 >= MAX_DEPTH:
                raise Invalid(f"thing groups nest at most {MAX_DEPTH} deep")
            made = replace(wanted, created_ms=tx.now_ms)
            store.save_group(tx, made)
            self._changes.group_created(tx, made)
            return made

        return await self._db.write(work)

    async def get(self, name: str) -> tuple[ThingGroup, list[str]]:
        """With the names of its parents, the root first."""

        def work(tx: Tx) -> tuple[ThingGroup, list[str]]:
            found = get(tx, name)
            return found, parents(tx, found)

        return self._db.read_now(work)

    async def update(
        self,
        name: str,
        *,
        description: str | None = None,
        attributes: Mapping[str, str] | None = None,
        merge: bool = False,
        expected_version: int | None = None,
    ) -> int:
        """The new version. Raises VersionConflict."""

        def work(tx: Tx) -> int:
            present = get(tx, name)
            names.check_version("thing group", name, present.version, expected_version)
            changed = replace(
                present,
                description=present.description if description is None else description,
                attributes=names.changed_attributes(present.attributes, attributes, merge=merge),
                version=present.version + 1,
            )
            store.save_group(tx, changed)
            self._changes.group_updated(tx, present, changed)
            return changed.version

        return await self._db.write(work)

    async def delete(self, name: str, *, expected_version: int | None = None) -> None:
        """One that does not exist is fine. Raises Invalid while it has children. Its policies are detached with it."""

        def work(tx: Tx) -> None:
            present = store.group(tx, name)
            if present is None:
                return
            names.check_version("thing group", name, present.version, expected_version)
            if store.has_children(tx, name):
                raise Invalid(f"thing group {name} has child groups: delete them first")
            members = store.members(tx, name)
            store.delete_group(tx, name)
            self._changes.group_deleted(tx, present, members)

        await self._db.write(work)

    async def page(self, *, prefix: str, parent: str, recursive: bool | None, after: str, limit: int) -> list[str]:
        """Names. Of `parent`: its children, or all below it; of none: all, or with recursive False the roots."""

        def work(tx: Tx) -> list[str]:
            if not parent:
                return store.groups(tx, prefix, "" if recursive is False else None, after, limit)
            get(tx, parent)
            if not recursive:
                return store.groups(tx, prefix, parent, after, limit)
            below = store.descendants(tx, parent)
            return [name for name in below if name > after and name.startswith(prefix)][:limit]

        return await self._db.read(work)

    # members

    async def add(self, group: str, thing: str) -> None:
        """Again is fine. Raises NotFound; Invalid when the thing is in another group of the same hierarchy."""
        await self._db.write(lambda tx: self.add_tx(tx, group, thing))

    def add_tx(self, tx: Tx, group: str, thing: str) -> None:
        """As `add`, within a transaction."""
        things.get(tx, thing)
        mine = get(tx, group)
        root = (parents(tx, mine) or [group])[0]
        for other in store.groups_of(tx, thing):
            if other != group and (parents(tx, get(tx, other)) or [other])[0] == root:
                raise Invalid(f"thing {thing} is in group {other}, which is of the same hierarchy as {group}")
        if store.add_member(tx, group, thing):
            self._changes.membership(tx, mine, thing, member=True)

    async def remove(self, group: str, thing: str) -> None:
        """One that is not in it is fine. Raises NotFound."""
        await self._db.write(lambda tx: self.remove_tx(tx, group, thing))

    def remove_tx(self, tx: Tx, group: str, thing: str) -> None:
        """As `remove`, within a transaction."""
        things.get(tx, thing)
        mine = get(tx, group)
        if store.remove_member(tx, group, thing):
            self._changes.membership(tx, mine, thing, member=False)

    async def members(self, group: str, after: str, limit: int, *, recursive: bool) -> list[str]:
        def work(tx: Tx) -> list[str]:
            get(tx, group)
            return store.members(tx, group, after, limit, recursive=recursive)

        return await self._db.read(work)

    async def of_thing(self, thing: str, after: str, limit: int) -> list[str]:
        """Raises NotFound for an unknown thing."""

        def work(tx: Tx) -> list[str]:
            things.get(tx, thing)
            return store.groups_of(tx, thing, after, limit)

        return self._db.read_now(work)

    # from memory

    def cached_of_thing(self, thing: str) -> tuple[str, ...]:
        return self._db.cached("registry_groups_of", thing, lambda tx: tuple(store.groups_of(tx, thing)))

    def lineage(self, group: str) -> tuple[str, ...]:
        """The group and those above it, the root last."""
        line: list[str] = []
        while group and group not in line:
            line.append(group)
            found = self._db.cached("registry_group", group, lambda tx, name=group: store.group(tx, name))  # type: ignore[misc]  # bound early
            group = found.parent if found is not None else ""
        return tuple(line)


def get(tx: Tx, name: str) -> ThingGroup:
    """Raises NotFound."""
    found = store.group(tx, name)
    if found is None:
        raise NotFound(f"thing group {name} does not exist")
    return found


def parents(tx: Tx, group: ThingGroup) -> list[str]:
    """Names of the groups above, the root first."""
    line: list[str] = []
    while group.parent:
        line.insert(0, group.parent)
        group = get(tx, group.parent)
    return line
