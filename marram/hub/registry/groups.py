"""Thing groups as trees of at most seven levels. Who is in them is in members.py."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from marram.core.errors import AlreadyExists, Invalid, LimitExceeded, NotFound
from marram.hub.registry import index_store, names, store
from marram.hub.registry.changes import Changes
from marram.hub.registry.leaving import Leaving
from marram.hub.registry.names import Arns
from marram.hub.registry.store import ThingGroup
from marram.hub.registry.tags import Tags
from marram.kit import clock as clocks
from marram.kit.clock import Entropy
from marram.kit.db import Db, Tx

# Source: AWS General Reference, "AWS IoT Device Management endpoints and quotas", thing group limits.
MAX_DEPTH: Final = 7
MAX_CHILDREN: Final = 100


class Groups:
    def __init__(self, db: Db, changes: Changes, tags: Tags, arns: Arns, *, entropy: Entropy) -> None:
        self._db, self._changes, self._tags, self._arns, self._entropy = db, changes, tags, arns, entropy
        self.leaving = Leaving(db, changes)
        tags.declare("thinggroup", _bearer)

    async def create(
        self,
        name: str,
        *,
        parent: str = "",
        description: str = "",
        attributes: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> ThingGroup:
        """The same again is fine. Raises AlreadyExists, NotFound for the parent, LimitExceeded."""
        names.check_name(name, "thing group")
        await self.leaving.finish(name)
        if parent == name:
            raise Invalid(f"thing group {name} cannot be its own parent")
        wanted = ThingGroup(
            name=name,
            id=clocks.uuid4(self._entropy),
            parent=parent,
            description=description,
            attributes=names.first_attributes(attributes),
        )

        def work(tx: Tx) -> ThingGroup:
            check_free(tx, name)
            present = store.group(tx, name)
            if present is not None:
                same = (present.parent, present.description, present.attributes)
                wants = (parent, description, wanted.attributes)
                if same == wants and self._tags.of_tx(tx, "thinggroup", name) == (tags or {}):
                    return present
                raise AlreadyExists(
                    f"thing group {name} exists with other properties",
                    resourceId=present.id,
                    resourceArn=self._arns.group(name),
                )
            line = self._line(tx, parent)
            check_static(tx, parent, "and can be no parent")
            if len(line) >= MAX_DEPTH:
                raise LimitExceeded(f"thing groups nest at most {MAX_DEPTH} deep", limit=MAX_DEPTH)
            if parent and store.children(tx, parent) >= MAX_CHILDREN:
                raise LimitExceeded(
                    f"thing group {parent} has {MAX_CHILDREN} child groups, the most", limit=MAX_CHILDREN
                )
            made = replace(wanted, created_ms=tx.now_ms)
            store.save_group(tx, made)
            self._tags.tag_tx(tx, "thinggroup", name, tags or {})
            self._changes.group_created(tx, made, line)
            return made

        return await self._db.write(work)

    async def get(self, name: str) -> tuple[ThingGroup, list[str]]:
        """With the names of its parents, the root first."""

        def work(tx: Tx) -> tuple[ThingGroup, list[str]]:
            found = get(tx, name)
            return found, [above.name for above in parents(tx, found)]

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
            check_static(tx, name, "UpdateDynamicThingGroup changes it")
            names.check_version("thing group", name, present.version, expected_version)
            changed = replace(
                present,
                description=present.description if description is None else description,
                attributes=names.changed_attributes(present.attributes, attributes, merge=merge),
                version=present.version + 1,
            )
            store.save_group(tx, changed)
            self._changes.group_updated(tx, changed, parents(tx, changed))
            return changed.version

        return await self._db.write(work)

    async def delete(self, name: str, *, expected_version: int | None = None) -> None:
        """One that does not exist is fine. Raises Invalid while it has children. Its policies are detached with it.

        Of a large group the members leave behind this call (leaving.py).
        """

        def work(tx: Tx) -> None:
            present = store.group(tx, name)
            if present is None:
                return
            check_static(tx, name, "DeleteDynamicThingGroup deletes it")
            names.check_version("thing group", name, present.version, expected_version)
            if store.children(tx, name):
                raise Invalid(f"thing group {name} has child groups: delete them first")
            self.leaving.begin(tx, present, parents(tx, present))

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

    def lineage(self, group: str) -> tuple[str, ...]:
        """The group and those above it, the root last; none when it does not exist. From memory."""
        line: list[str] = []
        while group and group not in line:
            found = self._db.cached("registry_group", group, lambda tx, name=group: store.group(tx, name))  # type: ignore[misc]  # bound early
            if found is None:
                break
            line.append(group)
            group = found.parent
        return tuple(line)

    def _line(self, tx: Tx, parent: str) -> list[ThingGroup]:
        """The groups above one whose parent this is to be, the root first. Raises NotFound."""
        if not parent:
            return []
        direct = get(tx, parent)
        return [*parents(tx, direct), direct]


def get(tx: Tx, name: str) -> ThingGroup:
    """Raises NotFound."""
    found = store.group(tx, name)
    if found is None:
        raise NotFound(f"thing group {name} does not exist")
    return found


def check_static(tx: Tx, name: str, why: str) -> None:
    """Raises Invalid for a dynamic group, saying why that matters."""
    if index_store.dynamic_group(tx, name) is not None:
        raise Invalid(f"thing group {name} is dynamic: {why}")


def check_free(tx: Tx, name: str) -> None:
    """Raises AlreadyExists while the things of a deleted group of that name are leaving it."""
    if (found := store.leaving(tx, name)) is not None:
        raise AlreadyExists(f"thing group {name} is being deleted", resourceId=found[0].id)


def parents(tx: Tx, group: ThingGroup) -> list[ThingGroup]:
    """The groups above, the root first."""
    line: list[ThingGroup] = []
    while group.parent:
        group = get(tx, group.parent)
        line.insert(0, group)
    return line


def root(tx: Tx, group: ThingGroup) -> str:
    """The name of the topmost group of its tree."""
    line = parents(tx, group)
    return line[0].name if line else group.name


def _bearer(tx: Tx, name: str) -> str | None:
    found = store.group(tx, name)
    return found.id if found is not None else None
