"""Things: what they are, and the rules of their life."""

from collections.abc import Mapping
from dataclasses import replace

from marram.core.codec import JsonValue
from marram.core.errors import AlreadyExists, Invalid, NotFound
from marram.hub.identity.service import Identity
from marram.hub.registry import names, store, thing_types
from marram.hub.registry.changes import Changes
from marram.hub.registry.names import Arns
from marram.hub.registry.store import Search, Thing
from marram.kit import clock as clocks
from marram.kit.clock import Entropy
from marram.kit.db import Db, Tx


class Things:
    def __init__(self, db: Db, identity: Identity, changes: Changes, arns: Arns, *, entropy: Entropy) -> None:
        self._db, self._identity, self._changes, self._arns, self._entropy = db, identity, changes, arns, entropy

    async def create(self, name: str, *, type_name: str = "", attributes: Mapping[str, str] | None = None) -> Thing:
        """The same again is fine. Raises AlreadyExists when the name is taken by another configuration; NotFound for the type."""
        new_id = clocks.uuid4(self._entropy)
        return await self._db.write(
            lambda tx: self.create_tx(tx, name, type_name=type_name, attributes=attributes, new_id=new_id)
        )

    def create_tx(
        self,
        tx: Tx,
        name: str,
        *,
        type_name: str = "",
        attributes: Mapping[str, str] | None = None,
        new_id: str = "",
    ) -> Thing:
        """As `create`, within a transaction. new_id: the id of a new thing; without one, one is made."""
        names.check_name(name, "thing")
        wanted = names.first_attributes(attributes)
        present = store.thing(tx, name)
        if present is not None:
            if (present.type, present.attributes) == (type_name, wanted):
                return present
            raise AlreadyExists(
                f"thing {name} exists with another type or other attributes",
                resourceId=present.id,
                resourceArn=self._arns.thing(name),
            )
        if type_name:
            thing_types.usable(tx, type_name)
        names.check_number(wanted, type_name)
        made = Thing(name=name, id=new_id or tx.new_uuid(), type=type_name, attributes=wanted, created_ms=tx.now_ms)
        store.add_thing(tx, made)
        self._changes.thing_created(tx, made)
        return made

    async def update(
        self,
        name: str,
        *,
        type_name: str = "",
        remove_type: bool = False,
        attributes: Mapping[str, str] | None = None,
        merge: bool = False,
        expected_version: int | None = None,
    ) -> Thing:
        """attributes: replace the present ones, or with `merge` are added to them; an empty value removes. Raises VersionConflict."""
        return await self._db.write(
            lambda tx: self.update_tx(
                tx, name, type_name=type_name, remove_type=remove_type, attributes=attributes, merge=merge,
                expected_version=expected_version,
            )
        )  # fmt: skip

    def update_tx(
        self,
        tx: Tx,
        name: str,
        *,
        type_name: str = "",
        remove_type: bool = False,
        attributes: Mapping[str, str] | None = None,
        merge: bool = False,
        expected_version: int | None = None,
    ) -> Thing:
        """As `update`, within a transaction."""
        if remove_type and type_name:
            raise Invalid("thingTypeName and removeThingType exclude each other")
        present = get(tx, name)
        names.check_version("thing", name, present.version, expected_version)
        if type_name and type_name != present.type:
            thing_types.usable(tx, type_name)
        changed = replace(
            present,
            type="" if remove_type else type_name or present.type,
            attributes=names.changed_attributes(present.attributes, attributes, merge=merge),
            version=present.version + 1,
        )
        if (changed.type, changed.attributes) != (present.type, present.attributes):
            names.check_number(changed.attributes, changed.type)
        store.save_thing(tx, changed)
        self._changes.thing_updated(tx, present, changed)
        return changed

    async def delete(self, name: str, *, expected_version: int | None = None) -> None:
        """One that does not exist is fine, as AWS. Raises Invalid while a certificate is attached."""

        def work(tx: Tx) -> None:
            present = store.thing(tx, name)
            if present is None:
                return
            names.check_version("thing", name, present.version, expected_version)
            if self._identity.principals_of(tx, name, limit=1):
                raise Invalid(f"thing {name} is still attached to one or more principals: detach them first")
            groups = [group for each in store.groups_of(tx, name) if (group := store.group(tx, each)) is not None]
            store.delete_thing(tx, name)
            self._changes.thing_deleted(tx, present, groups)

        await self._db.write(work)

    def get(self, name: str) -> Thing:
        """From memory. Raises NotFound."""
        found = self.cached(name)
        if found is None:
            raise _unknown(name)
        return found

    def cached(self, name: str) -> Thing | None:
        return self._db.cached("registry_thing", name, lambda tx: store.thing(tx, name))

    async def page(self, search: Search, after: JsonValue, limit: int) -> tuple[list[Thing], JsonValue]:
        """(up to `limit` things that match, where to go on or None at the end); `after` is what the page before gave.

        A page may hold fewer and still not be the last: one read looks at a bounded number of things.
        """
        return await self._db.read(lambda tx: store.things(tx, search, after, limit))


def get(tx: Tx, name: str) -> Thing:
    """Raises NotFound."""
    found = store.thing(tx, name)
    if found is None:
        raise _unknown(name)
    return found


def _unknown(name: str) -> NotFound:
    return NotFound(f"thing {name} does not exist")
