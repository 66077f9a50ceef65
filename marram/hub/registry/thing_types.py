"""Thing types, and their slow end: deprecated first, deleted five minutes later, and never while a thing is of them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from marram.core.errors import AlreadyExists, Invalid, LimitExceeded, NotFound
from marram.hub.registry import names, store
from marram.hub.registry.changes import Changes
from marram.hub.registry.names import Arns
from marram.hub.registry.store import ThingType
from marram.hub.registry.tags import Tags
from marram.kit import clock as clocks
from marram.kit.clock import Entropy
from marram.kit.db import Db, Tx

DELETE_AFTER_MS: Final = 5 * 60 * 1000
MAX_SEARCHABLE: Final = 3


class ThingTypes:
    def __init__(self, db: Db, changes: Changes, tags: Tags, arns: Arns, *, entropy: Entropy) -> None:
        self._db, self._changes, self._tags, self._arns, self._entropy = db, changes, tags, arns, entropy
        tags.declare("thingtype", _bearer)

    async def create(
        self,
        name: str,
        *,
        description: str = "",
        searchable: tuple[str, ...] = (),
        tags: Mapping[str, str] | None = None,
    ) -> ThingType:
        """The same again is fine. Raises AlreadyExists when the name is taken by another."""
        names.check_name(name, "thing type")
        _check_searchable(searchable)
        wanted = ThingType(name=name, id=clocks.uuid4(self._entropy), description=description, searchable=searchable)

        def work(tx: Tx) -> ThingType:
            present = store.thing_type(tx, name)
            if present is not None:
                same = (present.description, present.searchable) == (description, searchable)
                if same and self._tags.of_tx(tx, "thingtype", name) == (tags or {}):
                    return present
                raise AlreadyExists(
                    f"thing type {name} exists with other properties",
                    resourceId=present.id,
                    resourceArn=self._arns.type(name),
                )
            made = replace(wanted, created_ms=tx.now_ms)
            store.save_type(tx, made)
            self._tags.tag_tx(tx, "thingtype", name, tags or {})
            self._changes.type_created(tx, made)
            return made

        return await self._db.write(work)

    async def get(self, name: str) -> ThingType:
        return self._db.read_now(lambda tx: get(tx, name))

    async def page(self, only: str, after: str, limit: int) -> list[ThingType]:
        return await self._db.read(lambda tx: store.types(tx, only, after, limit))

    async def update(
        self, name: str, *, description: str | None = None, searchable: tuple[str, ...] | None = None
    ) -> None:
        """What is None stays as it is. Raises NotFound, LimitExceeded."""
        _check_searchable(searchable or ())

        def work(tx: Tx) -> None:
            present = get(tx, name)
            changed = replace(
                present,
                description=present.description if description is None else description,
                searchable=present.searchable if searchable is None else searchable,
            )
            store.save_type(tx, changed)
            self._changes.type_updated(tx, changed)

        await self._db.write(work)

    async def deprecate(self, name: str, *, undo: bool = False) -> None:
        """Once more is fine, and does not begin the waiting time anew. Raises NotFound."""

        def work(tx: Tx) -> None:
            present = get(tx, name)
            if (present.deprecated_ms is None) == undo:
                return
            changed = replace(present, deprecated_ms=None if undo else tx.now_ms)
            store.save_type(tx, changed)
            self._changes.type_updated(tx, changed)

        await self._db.write(work)

    async def delete(self, name: str) -> None:
        """Raises Invalid until five minutes after its deprecation, and while things are of it."""

        def work(tx: Tx) -> None:
            present = get(tx, name)
            if present.deprecated_ms is None or tx.now_ms - present.deprecated_ms < DELETE_AFTER_MS:
                raise Invalid(f"thing type {name} can be deleted five minutes after it was deprecated")
            if store.type_used(tx, name):
                raise Invalid(f"thing type {name} is in use: change the type of its things first")
            store.delete_type(tx, name)
            self._changes.type_deleted(tx, present)

        await self._db.write(work)


def get(tx: Tx, name: str) -> ThingType:
    """Raises NotFound."""
    found = store.thing_type(tx, name)
    if found is None:
        raise NotFound(f"thing type {name} does not exist")
    return found


def usable(tx: Tx, name: str) -> ThingType:
    """A type that a thing may take. Raises NotFound, Invalid when it is deprecated."""
    found = get(tx, name)
    if found.deprecated_ms is not None:
        raise Invalid(f"thing type {name} is deprecated")
    return found


def _check_searchable(searchable: tuple[str, ...]) -> None:
    if len(set(searchable)) < len(searchable):
        raise Invalid("a searchable attribute is there twice")
    if len(searchable) > MAX_SEARCHABLE:
        raise LimitExceeded(f"a thing type has at most {MAX_SEARCHABLE} searchable attributes", limit=MAX_SEARCHABLE)


def _bearer(tx: Tx, name: str) -> str | None:
    found = store.thing_type(tx, name)
    return found.id if found is not None else None
