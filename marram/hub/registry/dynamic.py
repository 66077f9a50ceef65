"""Dynamic thing groups: a query says which things are in them.

Each thing that changes is held against all of them in its own transaction. A group that is new, or whose query is another
now, is filled by a builder: in steps, by the index. The two cannot contradict each other, since both go by what the index
says within their transaction, and every thing that changes after a group is known is looked at by the first.

A thing is in ten groups at most, of which the older dynamic ones come first; who finds no place is counted and logged.
Not here, as AWS: dynamic groups in a tree, or with policies.
Source: AWS IoT developer guide, "Dynamic thing groups".
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, cast

from marram.core import codec, query
from marram.core.errors import AlreadyExists, Invalid, LimitExceeded
from marram.core.query import Node
from marram.hub.registry import fields, groups, index_query, index_store, names, store
from marram.hub.registry.changes import Changes
from marram.hub.registry.fields import Settings
from marram.hub.registry.index import Index, Indexed
from marram.hub.registry.index_store import DynamicGroup
from marram.hub.registry.members import MAX_GROUPS
from marram.hub.registry.names import Arns
from marram.hub.registry.search import Searches
from marram.hub.registry.store import ThingGroup
from marram.hub.registry.tags import Tags
from marram.kit import clock as clocks
from marram.kit import metrics
from marram.kit.clock import Entropy
from marram.kit.db import Db, Tx
from marram.kit.log import logger

log = logger(__name__)

MAX_DYNAMIC: Final = 100
FROM_START: Final = '["in",0]'  # position of a builder
DELETING: Final = "DELETING"  # a state that is not shown: it has no members soon
STEP: Final = 500  # things of one transaction function of the builder, which has 10 ms

_refused: Final = metrics.counter(
    "marram_dynamic_group_refused_total", "Things that found no place in a dynamic group, or lost it to an older one"
)


@dataclass(frozen=True, slots=True)
class _Known:
    """A group in memory: what each changed thing is held against."""

    name: str
    text: str
    created_ms: int

    @property
    def node(self) -> Node:
        return _node(self.text)


class Dynamic:
    def __init__(
        self, db: Db, index: Index, searches: Searches, changes: Changes, tags: Tags, arns: Arns, *, entropy: Entropy
    ) -> None:
        self._db, self._index, self._searches, self._changes = db, index, searches, changes
        self._tags, self._arns, self._entropy = tags, arns, entropy
        self.at_once = STEP
        self._wake = asyncio.Event()
        self._known: tuple[_Known, ...] = ()
        self._take(db.read_now(index_store.dynamic_groups))

    # the groups

    async def create(
        self,
        name: str,
        text: str,
        *,
        description: str = "",
        attributes: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> ThingGroup:
        """The same again is fine. Raises QueryError, AlreadyExists, LimitExceeded; Invalid while there is no index."""
        names.check_name(name, "thing group")
        self._check(text)
        wanted = ThingGroup(
            name=name,
            id=clocks.uuid4(self._entropy),
            description=description,
            attributes=names.first_attributes(attributes),
        )

        def work(tx: Tx) -> ThingGroup:
            groups.check_free(tx, name)
            present, dynamic = store.group(tx, name), index_store.dynamic_group(tx, name)
            if present is not None:
                same = (present.description, present.attributes) == (description, wanted.attributes)
                if same and dynamic is not None and dynamic.query == text and self._same_tags(tx, name, tags):
                    return present
                raise AlreadyExists(
                    f"thing group {name} exists with other properties",
                    resourceId=present.id,
                    resourceArn=self._arns.group(name),
                )
            if len(index_store.dynamic_groups(tx)) >= MAX_DYNAMIC:
                raise LimitExceeded(f"at most {MAX_DYNAMIC} dynamic thing groups", limit=MAX_DYNAMIC)
            made = replace(wanted, created_ms=tx.now_ms)
            store.save_group(tx, made)
            self._tags.tag_tx(tx, "thinggroup", name, tags or {})
            self._save(tx, DynamicGroup(name, text, "BUILDING", FROM_START, tx.now_ms))
            self._changes.group_created(tx, made, [])
            return made

        return await self._db.write(work)

    async def update(
        self,
        name: str,
        *,
        text: str | None = None,
        description: str | None = None,
        attributes: Mapping[str, str] | None = None,
        merge: bool = False,
        expected_version: int | None = None,
    ) -> int:
        """The new version. Raises NotFound, VersionConflict, QueryError; Invalid for a static group."""
        if text is not None:
            self._check(text)

        def work(tx: Tx) -> int:
            present, dynamic = groups.get(tx, name), index_store.dynamic_group(tx, name)
            if dynamic is None:
                raise Invalid(f"thing group {name} is static: UpdateThingGroup changes it")
            names.check_version("thing group", name, present.version, expected_version)
            changed = replace(
                present,
                description=present.description if description is None else description,
                attributes=names.changed_attributes(present.attributes, attributes, merge=merge),
                version=present.version + 1,
            )
            store.save_group(tx, changed)
            if text is not None and text != dynamic.query:
                state = "BUILDING" if dynamic.state == "BUILDING" else "REBUILDING"
                self._save(tx, replace(dynamic, query=text, state=state, position=FROM_START))
            self._changes.group_updated(tx, changed, [])
            return changed.version

        return await self._db.write(work)

    async def delete(self, name: str, *, expected_version: int | None = None) -> None:
        """One that does not exist is fine. Raises VersionConflict; Invalid for a static group."""

        def work(tx: Tx) -> bool:
            present, dynamic = store.group(tx, name), index_store.dynamic_group(tx, name)
            if present is None:
                return False
            if dynamic is None:
                raise Invalid(f"thing group {name} is static: DeleteThingGroup deletes it")
            names.check_version("thing group", name, present.version, expected_version)
            self._save(tx, replace(dynamic, state=DELETING, position=""))
            return True

        if await self._db.write(work):
            while await self._db.write(lambda tx: self._empty(tx, name)):
                pass

    def _empty(self, tx: Tx, name: str) -> bool:
        """A step of a deletion. Whether there is more to do."""
        found, dynamic = store.group(tx, name), index_store.dynamic_group(tx, name)
        if found is None or dynamic is None or dynamic.state != DELETING:
            return False
        members = store.members(tx, name, "", self.at_once)
        self._leave(tx, found, members)
        if len(members) == self.at_once:
            return True
        index_store.delete_dynamic_group(tx, name)
        store.delete_group(tx, name)
        self._changes.group_deleted(tx, found, [], [])
        self._reload(tx)
        return False

    def described(self, name: str) -> DynamicGroup | None:
        """None for a static group."""
        return self._db.read_now(lambda tx: index_store.dynamic_group(tx, name))

    def check_settings(self, tx: Tx, wanted: Settings) -> None:
        """Raises Invalid for settings under which a group's query could not be answered."""
        for group in index_store.dynamic_groups(tx):
            if not wanted.things:
                raise Invalid(f"thing group {group.name} is dynamic: indexing can be turned off once it is deleted")
            try:
                query.parse(group.query, wanted.resolve)
            except Invalid as exc:
                raise Invalid(f"the query of dynamic thing group {group.name}: {exc.message}") from exc

    def _check(self, text: str) -> None:
        settings = self._index.settings
        if not settings.things or self._index.status == "BUILDING":
            raise Invalid("dynamic thing groups need an index of things: UpdateIndexingConfiguration makes one")
        query.parse(text, settings.resolve)

    def _same_tags(self, tx: Tx, name: str, tags: Mapping[str, str] | None) -> bool:
        return self._tags.of_tx(tx, "thinggroup", name) == (tags or {})

    # a thing that changed

    def changed(self, tx: Tx, thing: Indexed) -> None:
        known = self._known
        if not known:
            return
        present = set(index_store.dynamic_groups_of(tx, thing.thing))
        for group in known:  # the oldest first
            fits = query.matches(group.node, thing.document, thing.bare)
            if fits == (group.name in present):
                continue
            found = self._as_known(tx, group)
            if found is None:
                continue
            if fits:
                self._enter(tx, found, group, thing.thing)
            else:
                self._leave(tx, found, [thing.thing])

    def _as_known(self, tx: Tx, group: _Known) -> ThingGroup | None:
        """None when memory is behind: the group is gone, or has another query, and its builder is yet to come."""
        now = index_store.dynamic_group(tx, group.name)
        return store.group(tx, group.name) if now is not None and now.query == group.text else None

    def _enter(self, tx: Tx, group: ThingGroup, known: _Known, thing: str) -> None:
        present = store.groups_of(tx, thing)
        if group.name in present or (len(present) >= MAX_GROUPS and not self._make_room(tx, known, thing)):
            return
        index_store.add_members(tx, group.name, [thing])
        self._changes.dynamic_members(tx, group, [thing], member=True)

    def _leave(self, tx: Tx, group: ThingGroup, things: Sequence[str]) -> None:
        """Members, all of them."""
        index_store.remove_members(tx, group.name, things)
        self._changes.dynamic_members(tx, group, things, member=False)

    def _make_room(self, tx: Tx, group: _Known, thing: str) -> bool:
        """Out of the newest dynamic group, when that is newer than this one."""
        newest = next(iter(index_store.dynamic_groups_of(tx, thing)), None)
        other = index_store.dynamic_group(tx, newest) if newest is not None else None
        if other is None or (other.created_ms, other.name) <= (group.created_ms, group.name):
            _refuse(tx, thing, group.name)
            return False
        self._leave(tx, groups.get(tx, other.name), [thing])
        _refuse(tx, thing, other.name)
        return True

    # the builder

    async def run(self) -> None:
        """Fill groups that are new or have another query; goes on where the last life of the process stopped."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while await self.step():
                pass

    async def step(self) -> bool:
        """One step of the builder. Whether there was something to do."""
        found = self._db.read_now(index_store.dynamic_groups)
        group = next((each for each in found if each.state != "ACTIVE"), None)
        if group is None:
            return False
        if group.state == DELETING:
            await self._db.write(lambda tx: self._empty(tx, group.name))
        else:
            await self._build(group)
        return True

    async def _build(self, group: DynamicGroup) -> None:
        """First all that fit go in, by document; then all go out that do not, by name."""
        known = _Known(group.name, group.query, group.created_ms)
        phase, after = cast("tuple[str, int | str]", codec.loads(group.position))
        if isinstance(after, int):
            assert phase == "in"
            docs, last = await self._searches.page(known.node, after, self.at_once)
            await self._db.write(lambda tx: self._fill(tx, group, known, docs, last))
        else:
            await self._db.write(lambda tx: self._thin_out(tx, group, known, after))

    def _fill(self, tx: Tx, group: DynamicGroup, known: _Known, docs: Sequence[int], last: int | None) -> None:
        found = self._in_work(tx, group, known)
        if found is None:
            return
        present = index_store.groups_by_thing(tx, docs)
        things = [thing for _, thing in index_query.fitting(tx, known.node, docs)]
        outside = [thing for thing in things if group.name not in present.get(thing, ())]
        easily = [thing for thing in outside if len(present.get(thing, ())) < MAX_GROUPS]
        index_store.add_members(tx, group.name, easily)
        self._changes.dynamic_members(tx, found, easily, member=True)
        for thing in outside:
            if len(present.get(thing, ())) >= MAX_GROUPS:
                self._enter(tx, found, known, thing)
        if last is not None:
            self._progress(tx, group, ["in", last])
        else:  # a new group has nobody who does not fit: who changes is held against it
            self._progress(tx, group, None if group.state == "BUILDING" else ["out", ""])

    def _thin_out(self, tx: Tx, group: DynamicGroup, known: _Known, after: str) -> None:
        found = self._in_work(tx, group, known)
        if found is None:
            return
        members = store.members(tx, group.name, after, self.at_once)
        docs = [doc for thing in members if (doc := index_store.doc(tx, thing)) is not None]
        stay = {thing for _, thing in index_query.fitting(tx, known.node, docs)}
        self._leave(tx, found, [thing for thing in members if thing not in stay])
        self._progress(tx, group, ["out", members[-1]] if len(members) == self.at_once else None)

    def _in_work(self, tx: Tx, group: DynamicGroup, known: _Known) -> ThingGroup | None:
        """None when it is another now, or memory is behind: things that change would not be held against it."""
        if index_store.dynamic_group(tx, group.name) != group or known not in self._known:
            return None
        return groups.get(tx, group.name)

    def _progress(self, tx: Tx, group: DynamicGroup, after: list[str | int] | None) -> None:
        """None: it is done."""
        if after is None:
            index_store.save_dynamic_group(tx, replace(group, state="ACTIVE", position=""))
            tx.after_commit(lambda: log.info("dynamic_group.active", group=group.name))
        else:
            index_store.save_dynamic_group(tx, replace(group, position=codec.dumps(after).decode()))

    # memory

    def _save(self, tx: Tx, group: DynamicGroup) -> None:
        index_store.save_dynamic_group(tx, group)
        self._reload(tx)

    def _reload(self, tx: Tx) -> None:
        found = index_store.dynamic_groups(tx)
        tx.after_commit(lambda: self._take(found))

    def _take(self, found: Sequence[DynamicGroup]) -> None:
        known = tuple(_Known(group.name, group.query, group.created_ms) for group in found if group.state != DELETING)
        # While there are none, a change is not put together for them. The order matters: the writer's thread may look at
        # any moment, and what is known must be told of.
        if known:
            self._index.watch(self.changed)
        self._known = known
        if not known:
            self._index.watch(None)
        self._wake.set()


@lru_cache(maxsize=2 * MAX_DYNAMIC)
def _node(text: str) -> Node:
    """Of a query that was accepted: what is indexed now was held against it."""
    return query.parse(text, fields.resolve)


def _refuse(tx: Tx, thing: str, group: str) -> None:
    def tell() -> None:
        _refused.inc()
        log.warning("dynamic_group.no_place", thing=thing, group=group, limit=MAX_GROUPS)

    tx.after_commit(tell)
