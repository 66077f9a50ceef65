"""What follows from a change in the registry: cached documents go, policies are judged anew, other slices hear of it.

Every function is called within the transaction that makes the change. The parts (things.py, groups.py, ...) decide and
store; what others must know is here and nowhere else.
"""

from dataclasses import dataclass

from marram.hub.bus import Bus
from marram.hub.identity.service import Identity
from marram.hub.registry.index import Index
from marram.hub.registry.store import Thing, ThingGroup
from marram.kit.db import Tx


@dataclass(frozen=True, slots=True)
class ThingChanged:
    """Bus: the thing is new, or its type or attributes are others now."""

    thing: str


@dataclass(frozen=True, slots=True)
class ThingDeleted:
    """Bus."""

    thing: str


@dataclass(frozen=True, slots=True)
class GroupMembershipChanged:
    """Bus: the thing is in the group now, or is no longer."""

    group: str
    thing: str
    member: bool


@dataclass(frozen=True, slots=True)
class GroupDeleted:
    """Bus."""

    group: str


class Changes:
    def __init__(self, identity: Identity, bus: Bus, index: Index) -> None:
        self._identity, self._bus, self._index = identity, bus, index

    def thing_created(self, tx: Tx, thing: Thing) -> None:
        tx.touch("registry_thing", thing.name)
        self._index.thing(tx, thing.name)
        self._tell(tx, ThingChanged(thing.name))

    def thing_updated(self, tx: Tx, _before: Thing, thing: Thing) -> None:
        tx.touch("registry_thing", thing.name)
        self._identity.thing_changed(tx, thing.name)
        self._index.thing(tx, thing.name)
        self._tell(tx, ThingChanged(thing.name))

    def thing_deleted(self, tx: Tx, thing: Thing, groups: list[str]) -> None:
        tx.touch("registry_thing", thing.name)
        tx.touch("registry_groups_of", thing.name)
        self._index.forget(tx, thing.name)
        for group in groups:
            self._tell(tx, GroupMembershipChanged(group, thing.name, False))
        self._tell(tx, ThingDeleted(thing.name))

    def group_created(self, tx: Tx, group: ThingGroup) -> None:
        tx.touch("registry_group", group.name)

    def group_updated(self, tx: Tx, _before: ThingGroup, group: ThingGroup) -> None:
        tx.touch("registry_group", group.name)

    def group_deleted(self, tx: Tx, group: ThingGroup, members: list[str]) -> None:
        tx.touch("registry_group", group.name)
        self._identity.group_deleted(tx, group.name)
        for thing in members:
            self.membership(tx, group, thing, member=False)
        self._tell(tx, GroupDeleted(group.name))

    def membership(self, tx: Tx, group: ThingGroup, thing: str, *, member: bool) -> None:
        tx.touch("registry_groups_of", thing)
        self._identity.thing_changed(tx, thing)
        self._index.thing(tx, thing)
        self._tell(tx, GroupMembershipChanged(group.name, thing, member))

    def _tell(self, tx: Tx, event: object) -> None:
        tx.after_commit(lambda: self._bus.publish(event))
