"""Searching the index of things. A page may come short after `PATIENCE_S`, with a token to go on from, as AWS allows."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from marram.core import query
from marram.core.codec import JsonObject
from marram.core.errors import Invalid, NotFound
from marram.core.query import Node
from marram.hub.registry import fields, index_query, index_store, store
from marram.hub.registry.index import Index
from marram.hub.registry.index_query import Span, Way
from marram.hub.registry.store import Thing
from marram.kit.db import Db, Tx

VERSION: Final = "2017-09-30"
PATIENCE_S: Final = 1.0
MAX_PAGE: Final = 100
FIRST_WINDOW: Final = 1_000  # documents; what is not rare is found in it, and the next are larger


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A thing as a search answers it. parts: what slices above the registry said, by part."""

    thing: Thing
    groups: list[str]
    parts: dict[str, JsonObject]


class Searches:
    def __init__(self, db: Db, index: Index) -> None:
        self._db, self._index = db, index
        self.first_window = FIRST_WINDOW

    def read(self, text: str) -> Node:
        """Raises QueryError."""
        return query.parse(text, self._index.settings.resolve)

    async def things(self, text: str, after: int, limit: int) -> tuple[list[Found], int | None]:
        """(a page by document, the last document looked at when there may be more). Raises QueryError, NotFound, Conflict."""
        self._index.require(fields.THINGS)
        node = self.read(text)
        ids, more = await self.page(node, after, min(limit, MAX_PAGE))
        return await self._db.read(lambda tx: [found for doc in ids if (found := _found(tx, doc))]), more

    def connectivity(self, thing: str) -> JsonObject | None:
        """What the index knows of the thing's connection; None when it never was connected. Raises NotFound, Conflict."""
        self._index.require(fields.THINGS)
        if not self._index.settings.connectivity:
            raise NotFound("connectivity is not indexed: thingConnectivityIndexingMode is OFF")

        def work(tx: Tx) -> JsonObject | None:
            doc = index_store.doc(tx, thing)
            if doc is None:
                raise NotFound(f"thing {thing} does not exist")
            return index_store.part(tx, doc, fields.CONNECTIVITY)

        return self._db.read_now(work)

    async def page(
        self, node: Node, after: int, limit: int, patience_s: float = PATIENCE_S
    ) -> tuple[list[int], int | None]:
        """Documents that fit, in order, and the last one looked at when there may be more."""
        clock = asyncio.get_running_loop().time
        until = clock() + patience_s
        wanted = limit + 1  # one more says whether there is a next page

        size = self.first_window

        def first(tx: Tx) -> tuple[Way, list[int], Span]:
            chosen = index_query.way(tx, node)
            span = index_query.window(tx, chosen, after, size)
            return chosen, index_query.documents(tx, chosen, span, wanted), span

        chosen, found, span = await self._db.read(first)
        while len(found) < wanted and span.last is not None:
            if clock() >= until:
                return found, span.last
            size *= 4

            def step(
                tx: Tx, at: int = span.last, more: int = wanted - len(found), size: int = size
            ) -> tuple[list[int], Span]:
                span = index_query.window(tx, chosen, at, size)
                return index_query.documents(tx, chosen, span, more), span

            more, span = await self._db.read(step)
            found += more
        return found[:limit], found[limit - 1] if len(found) > limit else None

    async def spans(self, node: Node) -> AsyncIterator[tuple[Way, Span]]:
        """The way, window by window, for what looks at all documents."""
        chosen = await self._db.read(lambda tx: index_query.way(tx, node))
        at: int | None = 0
        while at is not None:

            def step(tx: Tx, after: int = at) -> Span:
                return index_query.window(tx, chosen, after)

            span = await self._db.read(step)
            yield chosen, span
            at = span.last


def check_version(version: str | None) -> None:
    if version is not None and version != VERSION:
        raise Invalid(f"queryVersion {version!r} is not supported: {VERSION} is")


def _found(tx: Tx, doc: int) -> Found | None:
    name = index_store.thing_of(tx, doc)
    thing = store.thing(tx, name) if name is not None else None
    if thing is None:  # deleted since
        return None
    return Found(thing=thing, groups=store.groups_of(tx, thing.name), parts=index_store.parts(tx, doc))
