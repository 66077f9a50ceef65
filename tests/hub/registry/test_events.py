"""Registry events: off by default, with AWS's topics and bodies, committed with what they tell of."""

import json
import re

import pytest

from marram.core.errors import Invalid, NotFound, Unsupported

ARN = "arn:aws:iot:local-1:000000000001:"
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def told(hub):
    """(topic, body) of all that was emitted since the last look; eventId, timestamp and account are checked here."""
    found = []
    rows = hub.db.outbox_pending(1000)
    for _, topic, body, _ in rows:
        event = json.loads(body)
        assert UUID.fullmatch(event.pop("eventId"))
        assert (event.pop("timestamp"), event.pop("accountId")) == (hub.clock.wall_ms(), "000000000001")
        found.append((topic, event))
    if rows:
        hub.db.write_sync(lambda tx: tx.execute("DELETE FROM outbox"))
    return found


async def on(hub, *kinds):
    await hub.call("UpdateEventConfigurations", eventConfigurations={kind: {"Enabled": True} for kind in kinds})


async def test_nothing_is_told_until_it_is_asked_for(hub):
    found = await hub.call("DescribeEventConfigurations")
    assert set(found) == {"eventConfigurations"}
    assert set(found["eventConfigurations"]) >= {"THING", "THING_GROUP", "THING_TYPE", "JOB", "JOB_EXECUTION", "POLICY"}
    assert not any(each["Enabled"] for each in found["eventConfigurations"].values())
    await hub.call("CreateThing", thingName="t")
    assert told(hub) == []


async def test_configurations_are_kept_and_dated(hub):
    await on(hub, "THING", "JOB")
    hub.clock.advance(1000)
    await hub.call("UpdateEventConfigurations", eventConfigurations={"JOB": {"Enabled": False}})
    await hub.reopen()
    found = await hub.call("DescribeEventConfigurations")
    assert [kind for kind, each in found["eventConfigurations"].items() if each["Enabled"]] == ["THING"]
    assert found["lastModifiedDate"] - found["creationDate"] == 1000


async def test_a_type_that_nothing_tells_of_is_refused(hub):
    with pytest.raises(Unsupported, match="POLICY"):
        await on(hub, "THING", "POLICY")
    assert not (await hub.call("DescribeEventConfigurations"))["eventConfigurations"]["THING"]["Enabled"]
    await hub.call("UpdateEventConfigurations", eventConfigurations={"POLICY": {"Enabled": False}})
    with pytest.raises(Invalid):
        await hub.registry.events.configure({"WEATHER": True})


async def test_things(hub):
    await on(hub, "THING")
    await hub.call("CreateThingType", thingTypeName="pump")
    made = await hub.call("CreateThing", thingName="t", attributePayload={"attributes": {"a": "1"}})
    await hub.call("CreateThing", thingName="t", attributePayload={"attributes": {"a": "1"}})
    await hub.call("UpdateThing", thingName="t", thingTypeName="pump")
    await hub.call("DeleteThing", thingName="t")
    body = {"eventType": "THING_EVENT", "thingId": made["thingId"], "thingName": "t", "attributes": {"a": "1"}}
    assert told(hub) == [
        (
            "$aws/events/thing/t/created",
            {**body, "operation": "CREATED", "versionNumber": 1, "thingTypeName": None},
        ),
        ("$aws/events/thing/t/updated", {**body, "operation": "UPDATED", "versionNumber": 2, "thingTypeName": "pump"}),
        ("$aws/events/thing/t/deleted", {**body, "operation": "DELETED", "versionNumber": 2, "thingTypeName": "pump"}),
    ]


async def test_what_is_refused_tells_nothing(hub):
    await on(hub, "THING", "THING_TYPE_ASSOCIATION")
    with pytest.raises(NotFound):
        await hub.call("CreateThing", thingName="t", thingTypeName="none")
    assert told(hub) == []


async def test_types_and_their_things(hub):
    await on(hub, "THING_TYPE", "THING_TYPE_ASSOCIATION")
    properties = {"thingTypeDescription": "d", "searchableAttributes": ["site"]}
    made = await hub.call("CreateThingType", thingTypeName="pump", thingTypeProperties=properties)
    await hub.call("CreateThingType", thingTypeName="valve")
    told(hub)
    thing = await hub.call("CreateThing", thingName="t", thingTypeName="pump")
    await hub.call("UpdateThing", thingName="t", thingTypeName="valve")
    await hub.call("UpdateThing", thingName="t", removeThingType=True)
    link = {"eventType": "THING_TYPE_ASSOCIATION_EVENT", "thingId": thing["thingId"], "thingName": "t"}
    topic = "$aws/events/thingTypeAssociation/thing/t/thingType"
    assert told(hub) == [
        (f"{topic}/pump/added", {**link, "operation": "ADDED", "thingTypeName": "pump"}),
        (f"{topic}/pump/removed", {**link, "operation": "REMOVED", "thingTypeName": "pump"}),
        (f"{topic}/valve/added", {**link, "operation": "ADDED", "thingTypeName": "valve"}),
        (f"{topic}/valve/removed", {**link, "operation": "REMOVED", "thingTypeName": "valve"}),
    ]
    await hub.call("UpdateThingType", thingTypeName="pump", thingTypeProperties={"thingTypeDescription": "e"})
    await hub.call("DeprecateThingType", thingTypeName="pump")
    await hub.call("DeprecateThingType", thingTypeName="pump")
    since = hub.clock.wall_ms()
    body = {
        "eventType": "THING_TYPE_EVENT", "thingTypeId": made["thingTypeId"], "thingTypeName": "pump", "description": "e",
        "searchableAttributes": ["site"], "propagatingAttributes": [], "operation": "UPDATED",
    }  # fmt: skip
    assert told(hub) == [
        ("$aws/events/thingType/pump/updated", {**body, "isDeprecated": False, "deprecationDate": None}),
        ("$aws/events/thingType/pump/updated", {**body, "isDeprecated": True, "deprecationDate": since}),
    ]
    hub.clock.advance(5 * 60 * 1000)
    await hub.call("DeleteThingType", thingTypeName="pump")
    assert told(hub) == [
        (
            "$aws/events/thingType/pump/deleted",
            {**body, "operation": "DELETED", "isDeprecated": True, "deprecationDate": since},
        )
    ]


async def test_groups(hub):
    await on(hub, "THING_GROUP", "THING_GROUP_HIERARCHY", "THING_GROUP_MEMBERSHIP")
    root = await hub.call("CreateThingGroup", thingGroupName="root")
    child = await hub.call(
        "CreateThingGroup", thingGroupName="child", parentGroupName="root",
        thingGroupProperties={"thingGroupDescription": "d", "attributePayload": {"attributes": {"a": "1"}}},
    )  # fmt: skip
    of_root = {
        "eventType": "THING_GROUP_EVENT", "thingGroupId": root["thingGroupId"], "thingGroupName": "root", "versionNumber": 1,
        "parentGroupName": None, "parentGroupId": None, "description": "", "rootToParentThingGroups": None,
        "attributes": {}, "dynamicGroupMappingId": None,
    }  # fmt: skip
    of_child = {
        **of_root, "thingGroupId": child["thingGroupId"], "thingGroupName": "child", "description": "d",
        "attributes": {"a": "1"}, "parentGroupName": "root", "parentGroupId": root["thingGroupId"],
        "rootToParentThingGroups": [{"groupArn": f"{ARN}thinggroup/root", "groupId": root["thingGroupId"]}],
    }  # fmt: skip
    below = {
        "eventType": "THING_GROUP_HIERARCHY_EVENT", "thingGroupId": root["thingGroupId"], "thingGroupName": "root",
        "childGroupId": child["thingGroupId"], "childGroupName": "child",
    }  # fmt: skip
    hierarchy = "$aws/events/thingGroupHierarchy/thingGroup/root/childThingGroup/child"
    assert told(hub) == [
        ("$aws/events/thingGroup/root/created", {**of_root, "operation": "CREATED"}),
        ("$aws/events/thingGroup/child/created", {**of_child, "operation": "CREATED"}),
        (f"{hierarchy}/added", {**below, "operation": "ADDED"}),
    ]
    thing = await hub.call("CreateThing", thingName="t")
    await hub.call("AddThingToThingGroup", thingGroupName="child", thingName="t")
    await hub.call("AddThingToThingGroup", thingGroupName="child", thingName="t")
    await hub.call("DeleteThingGroup", thingGroupName="child")
    (added, first), (removed, last), (gone, _), (deleted, _) = told(hub)
    membership = "$aws/events/thingGroupMembership/thingGroup/child/thing/t"
    assert [added, removed, gone, deleted] == [
        f"{membership}/added",
        f"{membership}/removed",
        f"{hierarchy}/removed",
        "$aws/events/thingGroup/child/deleted",
    ]
    assert UUID.fullmatch(first["membershipId"])
    assert first == {
        "eventType": "THING_GROUP_MEMBERSHIP_EVENT", "operation": "ADDED", "groupArn": f"{ARN}thinggroup/child",
        "groupId": child["thingGroupId"], "thingArn": f"{ARN}thing/t", "thingId": thing["thingId"],
        "membershipId": last["membershipId"],
    }  # fmt: skip
    assert last == {**first, "operation": "REMOVED"}


async def test_a_thing_that_goes_leaves_its_groups(hub):
    await hub.registry.create_group("g")
    await hub.registry.create_thing("t")
    await hub.registry.add_to_group("g", "t")
    await on(hub, "THING_GROUP_MEMBERSHIP")
    await hub.call("DeleteThing", thingName="t")
    assert [topic for topic, _ in told(hub)] == ["$aws/events/thingGroupMembership/thingGroup/g/thing/t/removed"]
