"""The face of the slice: things, their principals, thing types, thing groups, and what other slices ask about them.

It fills identity's `Things` port, so policies know of things. Not here: billing groups (refused by name).
"""

from collections.abc import Callable, Mapping
from typing import Final

from marram.core.errors import Invalid
from marram.hub.bus import Bus
from marram.hub.identity.service import Identity, ThingFacts
from marram.hub.registry import groups, store
from marram.hub.registry.aggregations import Aggregations
from marram.hub.registry.changes import Changes, GroupDeleted, GroupMembershipChanged, ThingChanged, ThingDeleted
from marram.hub.registry.dynamic import Dynamic
from marram.hub.registry.events import Events
from marram.hub.registry.group_search import GroupSearches
from marram.hub.registry.groups import Groups
from marram.hub.registry.importing import Imported, Importing, NewThing, Problem
from marram.hub.registry.index import Index
from marram.hub.registry.members import Members
from marram.hub.registry.names import Arns
from marram.hub.registry.principals import Principals
from marram.hub.registry.search import Searches
from marram.hub.registry.store import Search, Thing, ThingGroup, ThingType
from marram.hub.registry.tags import Tags
from marram.hub.registry.thing_types import ThingTypes
from marram.hub.registry.things import Things
from marram.kit.clock import Entropy
from marram.kit.db import Db, Tx

__all__ = [
    "GroupDeleted", "GroupMembershipChanged", "Imported", "NewThing", "Problem", "Registry", "Search", "Thing", "ThingChanged",
    "ThingDeleted", "ThingGroup", "ThingType",
]  # fmt: skip

STANDARD_PORT: Final = 443
ENDPOINT_TYPES: Final = ("iot:Data-ATS", "iot:CredentialProvider", "iot:Jobs")


class Registry:
    """`endpoint` says where the https door is: ("localhost", 8443)."""

    def __init__(
        self,
        db: Db,
        identity: Identity,
        bus: Bus,
        *,
        entropy: Entropy,
        endpoint: Callable[[], tuple[str, int]] = lambda: ("localhost", STANDARD_PORT),
    ) -> None:
        self.account, self.region = identity.account, identity.region
        self.arns = Arns(self.region, self.account)
        self._db, self._endpoint = db, endpoint
        self.index = Index(db)
        self.events = Events(db, self.arns)
        self.tags = Tags(db, self.arns)
        changes = Changes(identity, bus, self.index, self.events)
        self.things = Things(db, identity, changes, self.arns, entropy=entropy)
        self.principals = Principals(db, identity)
        self.types = ThingTypes(db, changes, self.tags, self.arns, entropy=entropy)
        self.groups = Groups(db, changes, self.tags, self.arns, entropy=entropy)
        self.leaving = self.groups.leaving
        self.members = Members(db, changes)
        self.searches = Searches(db, self.index)
        self.group_searches = GroupSearches(db, self.index)
        self.aggregations = Aggregations(db, self.index, self.searches, self.group_searches)
        self.dynamic = Dynamic(db, self.index, self.searches, changes, self.tags, self.arns, entropy=entropy)
        self.importing = Importing(db, identity, self.things, self.members)
        # What identity keeps is tagged here: it stands below.
        for kind, bearer in (
            ("policy", identity.policies.bearer),
            ("rolealias", identity.assuming.bearer),
            ("cacert", identity.authorities.bearer),
        ):
            self.tags.declare(kind, bearer)
        # What other slices call by the thing's and the group's names.
        self.create_thing, self.create_thing_tx = self.things.create, self.things.create_tx
        self.update_thing, self.update_thing_tx, self.delete_thing = (
            self.things.update,
            self.things.update_tx,
            self.things.delete,
        )
        self.thing = self.things.get
        self.create_type = self.types.create
        self.create_group, self.delete_group = self.groups.create, self.groups.delete
        self.add_to_group, self.add_to_group_tx = self.members.add, self.members.add_tx
        self.remove_from_group, self.remove_from_group_tx = self.members.remove, self.members.remove_tx
        self.attach_principal, self.detach_principal = self.principals.attach, self.principals.detach
        self.certificates_of = self.principals.certificates_of
        identity.use_things(self)

    # for other slices

    def exists(self, tx: Tx, name: str) -> bool:
        return store.thing_exists(tx, name)

    def thing_tx(self, tx: Tx, name: str) -> Thing | None:
        return store.thing(tx, name)

    def groups_of_tx(self, tx: Tx, thing: str) -> list[str]:
        return store.groups_of(tx, thing)

    def group_exists(self, tx: Tx, name: str) -> bool:
        return store.group(tx, name) is not None

    async def groups_of(self, thing: str) -> list[str]:
        """The groups a thing is in, in order; none for an unknown thing."""
        return [group for group in self.members.cached_of_thing(thing) if self.groups.lineage(group)]

    async def things_in(self, group: str) -> list[str]:
        """All things of a group and of the groups below it. Raises NotFound."""
        return await self._db.read(lambda tx: self.things_in_tx(tx, group))

    def things_in_tx(self, tx: Tx, group: str) -> list[str]:
        groups.get(tx, group)
        return store.members(tx, group, recursive=True)

    def members_page(self, tx: Tx, group: str, after: str, limit: int) -> list[str]:
        """Things of a group and of those below it, by name, greater than `after`; none of a group that does not exist."""
        return store.members(tx, group, after, limit, recursive=True)

    def groups_above(self, tx: Tx, thing: str) -> set[str]:
        """The groups of a thing, and all above them."""
        found: set[str] = set()
        for name in store.groups_of(tx, thing):
            group = store.group(tx, name)
            while group is not None and group.name not in found:
                found.add(group.name)
                group = store.group(tx, group.parent) if group.parent else None
        return found

    def group_id(self, tx: Tx, name: str) -> str | None:
        found = store.group(tx, name)
        return found.id if found is not None else None

    def endpoint(self, kind: str) -> str:
        """The address of a data endpoint: a bare host on the standard port, else host:port of the https door."""
        if kind not in ENDPOINT_TYPES:
            raise Invalid(f"endpointType {kind!r} is not served here; {', '.join(ENDPOINT_TYPES)} are")
        host, port = self._endpoint()
        return host if port == STANDARD_PORT else f"{host}:{port}"

    # identity's port

    def facts(self, thing: str) -> ThingFacts | None:
        found = self.things.cached(thing)
        if found is None:
            return None
        line = dict.fromkeys(
            name for group in self.members.cached_of_thing(thing) for name in self.groups.lineage(group)
        )
        return ThingFacts(type_name=found.type or None, attributes=found.attributes, groups=tuple(line))

    def lineage(self, group: str) -> tuple[str, ...]:
        return self.groups.lineage(group)

    def check_group(self, tx: Tx, group: str) -> None:
        groups.get(tx, group)
        groups.check_static(tx, group, "and no policy can be attached to it")

    def enrol(self, tx: Tx, thing: str, thing_id: str) -> None:
        """Make the thing when it does not exist."""
        if not store.thing_exists(tx, thing):
            self.things.create_tx(tx, thing, new_id=thing_id)

    def tag(self, tx: Tx, kind: str, name: str, tags: Mapping[str, str]) -> None:
        self.tags.tag_tx(tx, kind, name, tags)
