"""Thing groups that are deleted, and have more members than one transaction may take out.

Such a group is gone with the commit of its deletion: no operation shows it, its policies hold no more, and it is in no
answer about its things. Its members leave in pieces behind that, each piece with its events, and with the last of them the
deletion is told and the name is free. What is left to do is in the tables, so a restart goes on with it.
What a search says of `thingGroupNames` follows piece by piece.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

from marram.hub.registry import store
from marram.hub.registry.changes import Changes
from marram.hub.registry.store import ThingGroup
from marram.kit.db import Db, Tx

PIECE: Final = 100  # members of one transaction function, which has 10 ms


class Leaving:
    def __init__(self, db: Db, changes: Changes) -> None:
        self._db, self._changes = db, changes
        self.at_once = PIECE
        self._wake = asyncio.Event()
        self._wake.set()  # what the last life of the process has left

    def begin(self, tx: Tx, group: ThingGroup, above: Sequence[ThingGroup]) -> None:
        """From this commit on the group is not there. `above`: the root first."""
        store.take_out_group(tx, group, above)
        if self._piece(tx, group.name):
            self._changes.group_leaves(tx, group)
            tx.after_commit(self._wake.set)

    async def finish(self, name: str) -> None:
        """Work the deletion of this group off, if there is one: its name is free then."""
        if self._db.read_now(lambda tx: store.leaving(tx, name)) is not None:
            while await self._db.write(lambda tx: self._piece(tx, name)):
                pass

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while await self.step():
                pass

    async def step(self) -> bool:
        """A piece of the first of them. Whether there was one."""
        name = self._db.read_now(store.first_leaving)
        if name is None:
            return False
        await self._db.write(lambda tx: self._piece(tx, name))
        return True

    def _piece(self, tx: Tx, name: str) -> bool:
        """Whether there is more to do."""
        found = store.leaving(tx, name)
        if found is None:
            return False
        group, above = found
        names = store.members(tx, name, "", self.at_once)
        store.remove_members(tx, name, names)
        members = [thing for each in names if (thing := store.thing(tx, each)) is not None]
        if len(names) == self.at_once:
            for thing in members:
                self._changes.membership(tx, group, thing, member=False)
            return True
        store.forget_leaving(tx, name)
        self._changes.group_deleted(tx, group, above, members)
        return False
