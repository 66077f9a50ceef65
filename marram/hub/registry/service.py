"""Use cases of things, thing types and thing groups. It fills identity's `Things` port, so policies know of things.

Attachments of certificates are kept by identity, which must judge them on every connection; the rules about them that
need a thing are here. Not here: dynamic groups, billing groups, tags, indexing beyond attributes (refused by name).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from marram.core import arn
from marram.core.errors import AlreadyExists, Invalid, LimitExceeded, NotFound, VersionConflict
from marram.hub.bus import Bus
from marram.hub.identity.service import Identity, ThingFacts
from marram.hub.listing import Paging
from marram.hub.registry import store
from marram.hub.registry.store import Search as Search
from marram.hub.registry.store import Thing as Thing
from marram.hub.registry.store import ThingGroup as ThingGroup
from marram.hub.registry.store import ThingType as ThingType
from marram.kit import clock as clocks
from marram.kit.clock import Entropy
from marram.kit.db import Db, Tx

NAME: Final = re.compile(r"[a-zA-Z0-9:_-]{1,128}")
ATTRIBUTE_NAME: Final = re.compile(r"[a-zA-Z0-9_.,@/:#-]{1,128}")
ATTRIBUTE_VALUE: Final = re.compile(r"[a-zA-Z0-9_.,@/:#=\[\]-]{0,800}")
MAX_ATTRIBUTES: Final = 50
MAX_DEPTH: Final = 7  # of groups
DELETE_TYPE_AFTER_MS: Final = 5 * 60 * 1000
STANDARD_PORT: Final = 443
ENDPOINT_TYPES: Final = ("iot:Data-ATS", "iot:CredentialProvider", "iot:Jobs")


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


class Registry:
    """`endpoint` says where the https door is: ("localhost", 8443)."""

    def __init__(
        self,
        db: Db,
        identity: Identity,
        bus: Bus,
        *,
        entropy: Entropy,
        pages: Paging,
        endpoint: Callable[[], tuple[str, int]] = lambda: ("localhost", STANDARD_PORT),
    ) -> None:
        self.pages = pages
        self.account, self.region = identity.account, identity.region
        self._db, self._identity, self._bus, self._entropy, self._endpoint = db, identity, bus, entropy, endpoint
        identity.use_things(self)

    # things

    async def create_thing(
        self, name: str, *, type_name: str = "", attributes: Mapping[str, str] | None = None
    ) -> Thing:
        """The same again is fine. Raises AlreadyExists when the name is taken by another configuration; NotFound for the type."""
        _check_name(name, "thing")
        wanted = Thing(
            name=name,
            id=clocks.uuid4(self._entropy),
            type=type_name,
            attributes=_check_attributes({key: value for key, value in (attributes or {}).items() if value}),
        )

        def work(tx: Tx) -> Thing:
            present = store.thing(tx, name)
            if present is not None:
                if (present.type, present.attributes) == (wanted.type, wanted.attributes):
                    return present
                raise AlreadyExists(
                    f"thing {name} exists with another type or other attributes",
                    resourceId=present.id,
                    resourceArn=self.thing_arn(name),
                )
            if type_name:
                self._usable_type(tx, type_name)
            return self._save(tx, replace(wanted, created_ms=tx.now_ms))

        return await self._db.write(work)

    def thing(self, name: str) -> Thing:
        """From memory. Raises NotFound."""
        found = self._cached_thing(name)
        if found is None:
            raise _no_thing(name)
        return found

    async def update_thing(
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
        if remove_type and type_name:
            raise Invalid("thingTypeName and removeThingType exclude each other")

        def work(tx: Tx) -> Thing:
            present = self._thing(tx, name)
            _check_version("thing", name, present.version, expected_version)
            if type_name and type_name != present.type:
                self._usable_type(tx, type_name)
            changed = replace(
                present,
                type="" if remove_type else type_name or present.type,
                attributes=_changed(present.attributes, attributes, merge=merge),
                version=present.version + 1,
            )
            self._identity.thing_changed(tx, name)
            return self._save(tx, changed)

        return await self._db.write(work)

    async def delete_thing(self, name: str, *, expected_version: int | None = None) -> None:
        """One that does not exist is fine, as AWS. Raises Invalid while a certificate is attached."""

        def work(tx: Tx) -> None:
            present = store.thing(tx, name)
            if present is None:
                return
            _check_version("thing", name, present.version, expected_version)
            if self._identity.principals_of(tx, name, limit=1):
                raise Invalid(f"thing {name} has a principal attached: detach it first")
            groups = store.groups_of(tx, name)
            store.delete_thing(tx, name)
            self._touch_thing(tx, name)
            for group in groups:
                self._tell(tx, GroupMembershipChanged(group, name, False))
            self._tell(tx, ThingDeleted(name))

        await self._db.write(work)

    async def things(self, search: Search, after: str, limit: int) -> list[Thing]:
        return await self._db.read(lambda tx: store.things(tx, search, after, limit))

    def exists(self, tx: Tx, name: str) -> bool:
        return store.thing_exists(tx, name)

    def enrol(self, tx: Tx, thing: str, thing_id: str) -> None:
        """Identity's port: make the thing when it does not exist."""
        if not store.thing_exists(tx, thing):
            self._save(tx, Thing(name=thing, id=thing_id, created_ms=tx.now_ms))

    # things and certificates

    async def attach_principal(self, thing: str, principal_arn: str, *, exclusive: bool = False) -> None:
        """Raises NotFound for an unknown thing or certificate. Again is fine."""
        certificate_id = self._identity.certificate_of(principal_arn)

        def work(tx: Tx) -> None:
            self._thing(tx, thing)
            if exclusive and any(other != certificate_id for other, _ in self._identity.principals_of(tx, thing)):
                raise Invalid(f"thing {thing} has another principal and cannot be exclusive to this one")
            self._identity.attach_thing(tx, thing, certificate_id, exclusive=exclusive)

        await self._db.write(work)

    async def detach_principal(self, thing: str, principal_arn: str) -> None:
        """Raises NotFound when the two are not attached."""
        certificate_id = self._identity.certificate_of(principal_arn)

        def work(tx: Tx) -> None:
            self._thing(tx, thing)
            if not self._identity.detach_thing(tx, thing, certificate_id):
                raise NotFound(f"{principal_arn} is not attached to thing {thing}")

        await self._db.write(work)

    async def principals(self, thing: str, after: str, limit: int) -> list[tuple[str, bool]]:
        """(ARN, exclusive)."""

        def work(tx: Tx) -> list[tuple[str, bool]]:
            self._thing(tx, thing)
            return self._identity.principals_of(tx, thing, after, limit)

        return [(self._identity.arn_of(found), exclusive) for found, exclusive in self._db.read_now(work)]

    async def principal_things(self, principal_arn: str, after: str, limit: int) -> list[tuple[str, bool]]:
        """(thing, exclusive). Raises NotFound for an unknown certificate."""
        certificate_id = self._identity.certificate_of(principal_arn)
        await self._identity.certificate(certificate_id)
        return await self._db.read(lambda tx: self._identity.things_of(tx, certificate_id, after, limit))

    async def certificates_of(self, thing: str) -> list[str]:
        """Certificate ids attached to a thing; none when it does not exist."""
        return self._db.read_now(lambda tx: [found for found, _ in self._identity.principals_of(tx, thing)])

    # types

    async def create_type(self, name: str, *, description: str = "", searchable: tuple[str, ...] = ()) -> ThingType:
        """The same again is fine. Raises AlreadyExists when the name is taken by another."""
        _check_name(name, "thing type")
        if len(searchable) > 3:
            raise LimitExceeded("a thing type has at most 3 searchable attributes", limit=3)
        wanted = ThingType(name=name, id=clocks.uuid4(self._entropy), description=description, searchable=searchable)

        def work(tx: Tx) -> ThingType:
            present = store.thing_type(tx, name)
            if present is not None:
                if (present.description, present.searchable) == (description, searchable):
                    return present
                raise AlreadyExists(
                    f"thing type {name} exists with other properties",
                    resourceId=present.id,
                    resourceArn=self.type_arn(name),
                )
            made = replace(wanted, created_ms=tx.now_ms)
            store.save_type(tx, made)
            return made

        return await self._db.write(work)

    async def type(self, name: str) -> ThingType:
        return self._db.read_now(lambda tx: self._type(tx, name))

    async def types(self, only: str, after: str, limit: int) -> list[ThingType]:
        return await self._db.read(lambda tx: store.types(tx, only, after, limit))

    async def deprecate_type(self, name: str, *, undo: bool = False) -> None:
        def work(tx: Tx) -> None:
            store.save_type(tx, replace(self._type(tx, name), deprecated_ms=None if undo else tx.now_ms))

        await self._db.write(work)

    async def delete_type(self, name: str) -> None:
        """Raises Invalid until five minutes after its deprecation, and while things are of it."""

        def work(tx: Tx) -> None:
            present = self._type(tx, name)
            if present.deprecated_ms is None or tx.now_ms - present.deprecated_ms < DELETE_TYPE_AFTER_MS:
                raise Invalid(f"thing type {name} can be deleted five minutes after it was deprecated")
            if store.type_used(tx, name):
                raise Invalid(f"thing type {name} is in use")
            store.delete_type(tx, name)

        await self._db.write(work)

    # groups

    async def create_group(
        self, name: str, *, parent: str = "", description: str = "", attributes: Mapping[str, str] | None = None
    ) -> ThingGroup:
        """The same again is fine. Raises AlreadyExists, NotFound for the parent, Invalid below seven levels."""
        _check_name(name, "thing group")
        wanted = ThingGroup(
            name=name,
            id=clocks.uuid4(self._entropy),
            parent=parent,
            description=description,
            attributes=_check_attributes({key: value for key, value in (attributes or {}).items() if value}),
        )

        def work(tx: Tx) -> ThingGroup:
            present = store.group(tx, name)
            if present is not None:
                same = (present.parent, present.description, present.attributes)
                if same == (parent, description, wanted.attributes):
                    return present
                raise AlreadyExists(
                    f"thing group {name} exists with other properties",
                    resourceId=present.id,
                    resourceArn=self.group_arn(name),
                )
            if parent and len(self._parents(tx, self._group(tx, parent))) + 1 >= MAX_DEPTH:
                raise Invalid(f"thing groups nest at most {MAX_DEPTH} deep")
            made = replace(wanted, created_ms=tx.now_ms)
            store.save_group(tx, made)
            tx.touch("registry_group", name)
            return made

        return await self._db.write(work)

    async def group(self, name: str) -> tuple[ThingGroup, list[str]]:
        """With the names of its parents, the root first."""

        def work(tx: Tx) -> tuple[ThingGroup, list[str]]:
            found = self._group(tx, name)
            return found, self._parents(tx, found)

        return self._db.read_now(work)

    async def update_group(
        self,
        name: str,
        *,
        description: str | None = None,
        attributes: Mapping[str, str] | None = None,
        merge: bool = False,
        expected_version: int | None = None,
    ) -> int:
        """The new version. Raises VersionConflict."""

        def work(tx: Tx) -> int:
            present = self._group(tx, name)
            _check_version("thing group", name, present.version, expected_version)
            changed = replace(
                present,
                description=present.description if description is None else description,
                attributes=_changed(present.attributes, attributes, merge=merge),
                version=present.version + 1,
            )
            store.save_group(tx, changed)
            tx.touch("registry_group", name)
            return changed.version

        return await self._db.write(work)

    async def delete_group(self, name: str, *, expected_version: int | None = None) -> None:
        """One that does not exist is fine. Raises Invalid while it has children. Its policies are detached with it."""

        def work(tx: Tx) -> None:
            present = store.group(tx, name)
            if present is None:
                return
            _check_version("thing group", name, present.version, expected_version)
            if store.has_children(tx, name):
                raise Invalid(f"thing group {name} has child groups: delete them first")
            members = store.members(tx, name)
            store.delete_group(tx, name)
            tx.touch("registry_group", name)
            self._identity.group_deleted(tx, name)
            for thing in members:
                self._touch_membership(tx, name, thing, member=False)

        await self._db.write(work)

    async def groups(self, *, prefix: str, parent: str, recursive: bool | None, after: str, limit: int) -> list[str]:
        """Names. Of `parent`: its children, or all below it; of none: all, or with recursive False the roots."""

        def work(tx: Tx) -> list[str]:
            if not parent:
                return store.groups(tx, prefix, "" if recursive is False else None, after, limit)
            self._group(tx, parent)
            if not recursive:
                return store.groups(tx, prefix, parent, after, limit)
            below = store.descendants(tx, parent)
            return [name for name in below if name > after and name.startswith(prefix)][:limit]

        return await self._db.read(work)

    async def add_to_group(self, group: str, thing: str) -> None:
        """Again is fine. Raises NotFound; Invalid when the thing is in another group of the same hierarchy."""

        def work(tx: Tx) -> None:
            self._thing(tx, thing)
            mine = self._group(tx, group)
            root = (self._parents(tx, mine) or [group])[0]
            for other in store.groups_of(tx, thing):
                if other != group and (self._parents(tx, self._group(tx, other)) or [other])[0] == root:
                    raise Invalid(f"thing {thing} is in group {other}, which is of the same hierarchy as {group}")
            if store.add_member(tx, group, thing):
                self._touch_membership(tx, group, thing, member=True)

        await self._db.write(work)

    async def remove_from_group(self, group: str, thing: str) -> None:
        """One that is not in it is fine. Raises NotFound."""

        def work(tx: Tx) -> None:
            self._thing(tx, thing)
            self._group(tx, group)
            if store.remove_member(tx, group, thing):
                self._touch_membership(tx, group, thing, member=False)

        await self._db.write(work)

    async def members(self, group: str, after: str, limit: int, *, recursive: bool) -> list[str]:
        def work(tx: Tx) -> list[str]:
            self._group(tx, group)
            return store.members(tx, group, after, limit, recursive=recursive)

        return await self._db.read(work)

    async def thing_groups(self, thing: str, after: str, limit: int) -> list[str]:
        """Raises NotFound for an unknown thing."""

        def work(tx: Tx) -> list[str]:
            self._thing(tx, thing)
            return store.groups_of(tx, thing, after, limit)

        return self._db.read_now(work)

    # for other slices

    async def groups_of(self, thing: str) -> list[str]:
        """The groups a thing was put into, in order; none for an unknown thing."""
        return list(self._cached_groups(thing))

    async def things_in(self, group: str) -> list[str]:
        """All things of a group and of the groups below it. Raises NotFound."""
        return await self._db.read(lambda tx: self.things_in_tx(tx, group))

    def things_in_tx(self, tx: Tx, group: str) -> list[str]:
        self._group(tx, group)
        return store.members(tx, group, recursive=True)

    def group_exists(self, tx: Tx, name: str) -> bool:
        return store.group(tx, name) is not None

    def thing_arn(self, name: str) -> str:
        return arn.build("iot", self.region, self.account, f"thing/{name}")

    def type_arn(self, name: str) -> str:
        return arn.build("iot", self.region, self.account, f"thingtype/{name}")

    def group_arn(self, name: str) -> str:
        return arn.build("iot", self.region, self.account, f"thinggroup/{name}")

    def endpoint(self, kind: str) -> str:
        """The address of a data endpoint: a bare host on the standard port, else host:port of the https door."""
        if kind not in ENDPOINT_TYPES:
            raise Invalid(f"endpointType {kind!r} is not served here; {', '.join(ENDPOINT_TYPES)} are")
        host, port = self._endpoint()
        return host if port == STANDARD_PORT else f"{host}:{port}"

    # identity's port

    def facts(self, thing: str) -> ThingFacts | None:
        found = self._cached_thing(thing)
        if found is None:
            return None
        groups = dict.fromkeys(name for group in self._cached_groups(thing) for name in self.lineage(group))
        return ThingFacts(type_name=found.type or None, attributes=found.attributes, groups=tuple(groups))

    def lineage(self, group: str) -> tuple[str, ...]:
        names: list[str] = []
        while group and group not in names:
            names.append(group)
            found = self._db.cached("registry_group", group, lambda tx, name=group: store.group(tx, name))  # type: ignore[misc]  # bound early
            group = found.parent if found is not None else ""
        return tuple(names)

    def check_group(self, tx: Tx, group: str) -> None:
        self._group(tx, group)

    # within transactions

    def _thing(self, tx: Tx, name: str) -> Thing:
        found = store.thing(tx, name)
        if found is None:
            raise _no_thing(name)
        return found

    def _type(self, tx: Tx, name: str) -> ThingType:
        found = store.thing_type(tx, name)
        if found is None:
            raise NotFound(f"thing type {name} does not exist")
        return found

    def _usable_type(self, tx: Tx, name: str) -> None:
        if self._type(tx, name).deprecated_ms is not None:
            raise Invalid(f"thing type {name} is deprecated")

    def _group(self, tx: Tx, name: str) -> ThingGroup:
        found = store.group(tx, name)
        if found is None:
            raise NotFound(f"thing group {name} does not exist")
        return found

    def _parents(self, tx: Tx, group: ThingGroup) -> list[str]:
        """Names of the groups above, the root first."""
        names: list[str] = []
        while group.parent:
            names.insert(0, group.parent)
            group = self._group(tx, group.parent)
        return names

    def _save(self, tx: Tx, thing: Thing) -> Thing:
        store.save_thing(tx, thing)
        tx.touch("registry_thing", thing.name)
        return thing

    def _touch_thing(self, tx: Tx, name: str) -> None:
        tx.touch("registry_thing", name)
        tx.touch("registry_groups_of", name)

    def _touch_membership(self, tx: Tx, group: str, thing: str, *, member: bool) -> None:
        tx.touch("registry_groups_of", thing)
        self._identity.thing_changed(tx, thing)
        self._tell(tx, GroupMembershipChanged(group, thing, member))

    def _tell(self, tx: Tx, event: object) -> None:
        tx.after_commit(lambda: self._bus.publish(event))

    def _cached_thing(self, name: str) -> Thing | None:
        return self._db.cached("registry_thing", name, lambda tx: store.thing(tx, name))

    def _cached_groups(self, name: str) -> tuple[str, ...]:
        return self._db.cached("registry_groups_of", name, lambda tx: tuple(store.groups_of(tx, name)))


def _no_thing(name: str) -> NotFound:
    return NotFound(f"thing {name} does not exist")


def _check_name(name: str, what: str) -> None:
    if not NAME.fullmatch(name):
        raise Invalid(f"{name!r} is not a {what} name: 1 to 128 of a-z A-Z 0-9 : _ -")


def _check_attributes(attributes: Mapping[str, str]) -> dict[str, str]:
    for name, value in attributes.items():
        if not ATTRIBUTE_NAME.fullmatch(name):
            raise Invalid(f"attribute name {name!r}: 1 to 128 of a-z A-Z 0-9 _ . , @ / : # -")
        if not ATTRIBUTE_VALUE.fullmatch(value):
            raise Invalid(f"attribute {name!r}: the value may have up to 800 of a-z A-Z 0-9 _ . , @ / : # = [ ] -")
    if len(attributes) > MAX_ATTRIBUTES:
        raise Invalid(f"at most {MAX_ATTRIBUTES} attributes", limit=MAX_ATTRIBUTES)
    return dict(attributes)


def _changed(present: Mapping[str, str], asked: Mapping[str, str] | None, *, merge: bool) -> dict[str, str]:
    if asked is None:
        return dict(present)
    ground = {**present, **asked} if merge else asked
    return _check_attributes({name: value for name, value in ground.items() if value})


def _check_version(what: str, name: str, present: int, expected: int | None) -> None:
    if expected is not None and expected != present:
        raise VersionConflict(f"{what} {name} has version {present}, not {expected}", version=present)
