"""What follows from a change in the registry: cached documents go, policies are judged anew, other slices hear of it.

Every function is called within the transaction that makes the change. The parts (things.py, groups.py, ...) decide and
store; what others must know is here and nowhere else.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from marram.hub.bus import Bus
from marram.hub.identity.service import Identity
from marram.hub.registry import store
from marram.hub.registry.events import Events
from marram.hub.registry.index import Index
from marram.hub.registry.store import Thing, ThingGroup, ThingType
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
    def __init__(self, identity: Identity, bus: Bus, index: Index, events: Events) -> None:
        self._identity, self._bus, self._index, self._events = identity, bus, index, events

    # things

    def thing_created(self, tx: Tx, thing: Thing) -> None:
        tx.touch("registry_thing", thing.name)
        self._index.thing(tx, thing)
        self._events.thing(tx, "CREATED", thing)
        if thing.type:
            self._events.association(tx, "ADDED", thing, thing.type)
        self._tell(tx, ThingChanged(thing.name))

    def thing_updated(self, tx: Tx, before: Thing, thing: Thing) -> None:
        tx.touch("registry_thing", thing.name)
        self._identity.thing_changed(tx, thing.name)
        self._index.thing(tx, thing)
        self._events.thing(tx, "UPDATED", thing)
        if before.type != thing.type:
            if before.type:
                self._events.association(tx, "REMOVED", thing, before.type)
            if thing.type:
                self._events.association(tx, "ADDED", thing, thing.type)
        self._tell(tx, ThingChanged(thing.name))

    def thing_deleted(self, tx: Tx, thing: Thing, groups: list[ThingGroup]) -> None:
        tx.touch("registry_thing", thing.name)
        tx.touch("registry_groups_of", thing.name)
        self._index.forget(tx, thing.name)
        for group in groups:
            self._events.membership(tx, "REMOVED", group, thing)
            self._tell(tx, GroupMembershipChanged(group.name, thing.name, False))
        if thing.type:
            self._events.association(tx, "REMOVED", thing, thing.type)
        self._events.thing(tx, "DELETED", thing)
        self._tell(tx, ThingDeleted(thing.name))

    # types

    def type_created(self, tx: Tx, kind: ThingType) -> None:
        self._events.thing_type(tx, "CREATED", kind)

    def type_updated(self, tx: Tx, kind: ThingType) -> None:
        self._events.thing_type(tx, "UPDATED", kind)

    def type_deleted(self, tx: Tx, kind: ThingType) -> None:
        self._events.thing_type(tx, "DELETED", kind)

    # groups; `parents` are the groups above, the root first

    def group_created(self, tx: Tx, group: ThingGroup, parents: list[ThingGroup]) -> None:
        tx.touch("registry_group", group.name)
        self._events.group(tx, "CREATED", group, parents)
        if parents:
            self._events.hierarchy(tx, "ADDED", parents[-1], group)

    def group_updated(self, tx: Tx, group: ThingGroup, parents: list[ThingGroup]) -> None:
        tx.touch("registry_group", group.name)
        self._events.group(tx, "UPDATED", group, parents)

    def group_leaves(self, tx: Tx, group: ThingGroup) -> None:
        """Nobody sees it from now on, and what its things may do by it or those above it is over."""
        tx.touch("registry_group", group.name)
        self._identity.group_deleted(tx, group.name)
        self._identity.group_changed(tx)

    def group_deleted(self, tx: Tx, group: ThingGroup, parents: list[ThingGroup], members: list[Thing]) -> None:
        tx.touch("registry_group", group.name)
        self._identity.group_deleted(tx, group.name)
        for thing in members:
            self.membership(tx, group, thing, member=False)
        if parents:
            self._events.hierarchy(tx, "REMOVED", parents[-1], group)
        self._events.group(tx, "DELETED", group, parents)
        self._tell(tx, GroupDeleted(group.name))

    def membership(self, tx: Tx, group: ThingGroup, thing: Thing, *, member: bool) -> None:
        tx.touch("registry_groups_of", thing.name)
        self._identity.thing_changed(tx, thing.name)
        self._index.groups(tx, thing)
        self._events.membership(tx, "ADDED" if member else "REMOVED", group, thing)
        self._tell(tx, GroupMembershipChanged(group.name, thing.name, member))

    def dynamic_members(self, tx: Tx, group: ThingGroup, things: Sequence[str], *, member: bool) -> None:
        """Of a dynamic group: no policy can hang on it, and the index does not know of it."""
        is_told = self._events.enabled(tx, "THING_GROUP_MEMBERSHIP")
        for thing in things:
            tx.touch("registry_groups_of", thing)
            if is_told and (found := store.thing(tx, thing)) is not None:
                self._events.membership(tx, "ADDED" if member else "REMOVED", group, found)
            self._tell(tx, GroupMembershipChanged(group.name, thing, member))

    def _tell(self, tx: Tx, event: object) -> None:
        tx.after_commit(lambda: self._bus.publish(event))
