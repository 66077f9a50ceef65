"""Which things are in which groups: at most ten groups a thing, and one of a tree at most."""

from collections.abc import Sequence
from typing import Final

from marram.core.errors import Invalid, LimitExceeded
from marram.hub.registry import groups, index_store, store, things
from marram.hub.registry.changes import Changes
from marram.kit.db import Db, Tx

MAX_GROUPS: Final = 10  # of a thing; source: AWS IoT Core developer guide, "Static thing groups"


class Members:
    def __init__(self, db: Db, changes: Changes) -> None:
        self._db, self._changes = db, changes

    async def add(self, group: str, thing: str, *, override_dynamic: bool = False) -> None:
        """Again is fine. Raises NotFound; Invalid when the thing is in another group of the same tree, or the group is a
        dynamic one; LimitExceeded. override_dynamic: a thing in ten groups leaves a dynamic one for this."""
        await self._db.write(lambda tx: self.add_tx(tx, group, thing, override_dynamic=override_dynamic))

    def add_tx(self, tx: Tx, group: str, thing: str, *, override_dynamic: bool = False) -> None:
        """As `add`, within a transaction."""
        found = things.get(tx, thing)
        mine = groups.get(tx, group)
        groups.check_static(tx, group, "its query says which things are in it")
        present = store.groups_of(tx, thing)
        if group in present:
            return
        tree = groups.root(tx, mine) if present else ""
        for other in present:
            if groups.root(tx, groups.get(tx, other)) == tree:
                raise Invalid(f"thing {thing} is in group {other}, which is of the same hierarchy as {group}")
        if len(present) >= MAX_GROUPS:
            self._make_room(tx, thing, present, override_dynamic=override_dynamic)
        store.add_member(tx, group, thing)
        self._changes.membership(tx, mine, found, member=True)

    async def remove(self, group: str, thing: str) -> None:
        """One that is not in it is fine. Raises NotFound; Invalid for a dynamic group."""
        await self._db.write(lambda tx: self.remove_tx(tx, group, thing))

    def remove_tx(self, tx: Tx, group: str, thing: str) -> None:
        """As `remove`, within a transaction."""
        found = things.get(tx, thing)
        mine = groups.get(tx, group)
        groups.check_static(tx, group, "its query says which things are in it")
        if store.remove_member(tx, group, thing):
            self._changes.membership(tx, mine, found, member=False)

    async def move(
        self, thing: str, *, add: Sequence[str], remove: Sequence[str], override_dynamic: bool = False
    ) -> None:
        """Out of some groups and into others, all or nothing; the order in each list does not matter."""
        if both := sorted(set(add) & set(remove)):
            raise Invalid(f"thing group {both[0]} is to be added and removed")

        def work(tx: Tx) -> None:
            things.get(tx, thing)
            for group in remove:
                self.remove_tx(tx, group, thing)
            for group in add:
                self.add_tx(tx, group, thing, override_dynamic=override_dynamic)

        await self._db.write(work)

    async def of_group(self, group: str, after: str, limit: int, *, recursive: bool) -> list[str]:
        """Things by name; recursive: those of the groups below as well, each once. Raises NotFound."""

        def work(tx: Tx) -> list[str]:
            groups.get(tx, group)
            if not recursive:
                return store.members(tx, group, after, limit)
            # A page of each group and the first of them all: the work is bounded by groups, not by things.
            found: set[str] = set()
            for each in (group, *store.descendants(tx, group)):
                found.update(store.members(tx, each, after, limit))
            return sorted(found)[:limit]

        return await self._db.read(work)

    async def of_thing(self, thing: str, after: str, limit: int) -> list[str]:
        """Raises NotFound for an unknown thing."""

        def work(tx: Tx) -> list[str]:
            things.get(tx, thing)
            return store.groups_of(tx, thing, after, limit)

        return self._db.read_now(work)

    def cached_of_thing(self, thing: str) -> tuple[str, ...]:
        return self._db.cached("registry_groups_of", thing, lambda tx: tuple(store.groups_of(tx, thing)))

    def _make_room(self, tx: Tx, thing: str, present: Sequence[str], *, override_dynamic: bool) -> None:
        dynamic = next(iter(index_store.dynamic_groups_of(tx, thing)), None)  # the newest
        if not override_dynamic or dynamic is None:
            raise LimitExceeded(f"thing {thing} is in {len(present)} groups, of at most {MAX_GROUPS}", limit=MAX_GROUPS)
        store.remove_member(tx, dynamic, thing)
        self._changes.membership(tx, groups.get(tx, dynamic), things.get(tx, thing), member=False)
