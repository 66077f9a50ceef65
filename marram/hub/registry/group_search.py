"""Searching AWS_ThingGroups. Groups are few: each is held against the query when it is asked, so there is nothing to build."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from marram.core import query
from marram.core.query import Entry, Node
from marram.hub.registry import fields, groups, store
from marram.hub.registry.fields import Fields
from marram.hub.registry.index import Index
from marram.hub.registry.search import MAX_PAGE
from marram.hub.registry.store import ThingGroup
from marram.kit.db import Db, Tx

A_STEP: Final = 200


@dataclass(frozen=True, slots=True)
class FoundGroup:
    """parents: names, the root first."""

    group: ThingGroup
    parents: list[str]
    document: Fields


class GroupSearches:
    def __init__(self, db: Db, index: Index) -> None:
        self._db, self._index = db, index

    def read(self, text: str) -> Node:
        """Raises QueryError."""
        return query.parse(text, fields.resolve_group)

    async def page(self, text: str, after: str, limit: int) -> tuple[list[FoundGroup], str | None]:
        """(a page by name, the last group looked at when there may be more). Raises QueryError, NotFound."""
        self._index.require(fields.GROUPS)
        found: list[FoundGroup] = []
        async for each in self._fitting(self.read(text), after):
            found.append(each)
            if len(found) == min(limit, MAX_PAGE):
                return found, each.group.name
        return found, None

    async def entries(self, node: Node, field: str) -> tuple[int, list[Entry]]:
        """(how many fit, the whole values of `field` of those)."""
        count, values = 0, list[Entry]()
        async for each in self._fitting(node, ""):
            count += 1
            values += (entry for entry in each.document.get(field, ()) if entry.value is not None)
        return count, values

    async def _fitting(self, node: Node, after: str) -> AsyncIterator[FoundGroup]:
        while True:

            def step(tx: Tx, at: str = after) -> tuple[list[FoundGroup], str]:
                found = [_found(tx, name) for name in store.groups(tx, "", None, at, A_STEP)]
                last = found[-1].group.name if len(found) == A_STEP else ""
                return [each for each in found if _fits(node, each.document)], last

            page, after = await self._db.read(step)
            for each in page:
                yield each
            if not after:
                return


def _found(tx: Tx, name: str) -> FoundGroup:
    group = groups.get(tx, name)
    parents = [parent.name for parent in groups.parents(tx, group)]
    return FoundGroup(group, parents, fields.of_group(group, parents))


def _fits(node: Node, document: Fields) -> bool:
    bare = [entry for name, found in document.items() if name != "version" for entry in found]
    return query.matches(node, document, bare)
