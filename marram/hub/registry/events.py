"""Registry events on `$aws/events/...`: which are on, and what they say. All are off until UpdateEventConfigurations.

A message leaves with the commit that it tells of. Jobs and other slices ask `enabled` for the types that are theirs.
Source: AWS IoT Core developer guide, "Registry events" (topics and payloads).
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from marram.core.codec import JsonObject, JsonValue
from marram.core.errors import Invalid, Unsupported
from marram.hub.registry import store
from marram.hub.registry.names import Arns
from marram.hub.registry.store import Thing, ThingGroup, ThingType
from marram.kit.db import Db, Tx

KINDS: Final = (
    "THING", "THING_GROUP", "THING_TYPE", "THING_GROUP_MEMBERSHIP", "THING_GROUP_HIERARCHY", "THING_TYPE_ASSOCIATION",
    "JOB", "JOB_EXECUTION", "POLICY", "CERTIFICATE", "CA_CERTIFICATE",
)  # fmt: skip
SILENT: Final = frozenset({"POLICY", "CERTIFICATE", "CA_CERTIFICATE"})  # types that nothing here tells of

Happened = Literal["CREATED", "UPDATED", "DELETED"]
Linked = Literal["ADDED", "REMOVED"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Configurations:
    enabled: Mapping[str, bool]  # by type, all of them
    created_ms: int | None
    modified_ms: int | None


class Events:
    def __init__(self, db: Db, arns: Arns) -> None:
        self._db, self._arns = db, arns

    def enabled(self, tx: Tx, kind: str) -> bool:
        return store.event_enabled(tx, kind)

    async def configure(self, wanted: Mapping[str, bool]) -> None:
        """Types that are left out stay as they are. Raises Unsupported for a type of which nothing is told here."""
        for kind, on in wanted.items():
            if kind not in KINDS:
                raise Invalid(f"{kind!r} is not an event type; {', '.join(KINDS)} are")
            if on and kind in SILENT:
                raise Unsupported(f"events of type {kind} are not published here: leave it out or disabled")

        def work(tx: Tx) -> None:
            for kind, on in wanted.items():
                store.set_event(tx, kind, on)

        await self._db.write(work)

    async def configurations(self) -> Configurations:
        rows = self._db.read_now(store.events)
        return Configurations(
            enabled={kind: rows[kind].enabled if kind in rows else False for kind in KINDS},
            created_ms=min((row.created_ms for row in rows.values()), default=None),
            modified_ms=max((row.modified_ms for row in rows.values()), default=None),
        )

    # what happened

    def thing(self, tx: Tx, happened: Happened, thing: Thing) -> None:
        if self.enabled(tx, "THING"):
            body: JsonObject = {
                "thingId": thing.id,
                "thingName": thing.name,
                "versionNumber": thing.version,
                "thingTypeName": thing.type or None,
                "attributes": dict(thing.attributes),
            }
            self._tell(tx, f"thing/{thing.name}", "THING_EVENT", happened, body)

    def thing_type(self, tx: Tx, happened: Happened, kind: ThingType) -> None:
        if self.enabled(tx, "THING_TYPE"):
            body: JsonObject = {
                "thingTypeId": kind.id,
                "thingTypeName": kind.name,
                "isDeprecated": kind.deprecated_ms is not None,
                "deprecationDate": kind.deprecated_ms,
                "searchableAttributes": list(kind.searchable),
                "propagatingAttributes": [],
                "description": kind.description,
            }
            self._tell(tx, f"thingType/{kind.name}", "THING_TYPE_EVENT", happened, body)

    def association(self, tx: Tx, linked: Linked, thing: Thing, type_name: str) -> None:
        if self.enabled(tx, "THING_TYPE_ASSOCIATION"):
            body: JsonObject = {"thingId": thing.id, "thingName": thing.name, "thingTypeName": type_name}
            topic = f"thingTypeAssociation/thing/{thing.name}/thingType/{type_name}"
            self._tell(tx, topic, "THING_TYPE_ASSOCIATION_EVENT", linked, body)

    def group(self, tx: Tx, happened: Happened, group: ThingGroup, parents: Sequence[ThingGroup]) -> None:
        """parents: the root first."""
        if self.enabled(tx, "THING_GROUP"):
            line: list[JsonValue] = [{"groupArn": self._arns.group(each.name), "groupId": each.id} for each in parents]
            body: JsonObject = {
                "thingGroupId": group.id,
                "thingGroupName": group.name,
                "versionNumber": group.version,
                "parentGroupName": parents[-1].name if parents else None,
                "parentGroupId": parents[-1].id if parents else None,
                "description": group.description,
                "rootToParentThingGroups": line or None,
                "attributes": dict(group.attributes),
                "dynamicGroupMappingId": None,
            }
            self._tell(tx, f"thingGroup/{group.name}", "THING_GROUP_EVENT", happened, body)

    def hierarchy(self, tx: Tx, linked: Linked, parent: ThingGroup, child: ThingGroup) -> None:
        if self.enabled(tx, "THING_GROUP_HIERARCHY"):
            body: JsonObject = {
                "thingGroupId": parent.id,
                "thingGroupName": parent.name,
                "childGroupId": child.id,
                "childGroupName": child.name,
            }
            topic = f"thingGroupHierarchy/thingGroup/{parent.name}/childThingGroup/{child.name}"
            self._tell(tx, topic, "THING_GROUP_HIERARCHY_EVENT", linked, body)

    def membership(self, tx: Tx, linked: Linked, group: ThingGroup, thing: Thing) -> None:
        if self.enabled(tx, "THING_GROUP_MEMBERSHIP"):
            body: JsonObject = {
                "groupArn": self._arns.group(group.name),
                "groupId": group.id,
                "thingArn": self._arns.thing(thing.name),
                "thingId": thing.id,
                "membershipId": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{group.id} {thing.id}")),
            }
            topic = f"thingGroupMembership/thingGroup/{group.name}/thing/{thing.name}"
            self._tell(tx, topic, "THING_GROUP_MEMBERSHIP_EVENT", linked, body)

    def _tell(self, tx: Tx, topic: str, event_type: str, operation: str, body: JsonObject) -> None:
        head: JsonObject = {
            "eventType": event_type,
            "eventId": tx.new_uuid(),
            "timestamp": tx.now_ms,
            "operation": operation,
            "accountId": self._arns.account,
        }
        tx.emit(f"$aws/events/{topic}/{operation.lower()}", {**head, **body})
