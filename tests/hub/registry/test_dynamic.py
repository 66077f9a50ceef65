"""Dynamic thing groups: members by query, as things change, by the registry's rules."""

import random

import pytest

from marram.core.errors import AlreadyExists, Invalid, LimitExceeded, NotFound, VersionConflict
from marram.core.query import QueryError
from marram.hub.registry import dynamic
from marram.hub.registry.service import GroupDeleted, GroupMembershipChanged

INDEXED = {"thingIndexingMode": "REGISTRY_AND_SHADOW", "thingConnectivityIndexingMode": "STATUS"}


@pytest.fixture
async def things(hub):
    """A hub that indexes."""
    await hub.call("UpdateIndexingConfiguration", thingIndexingConfiguration=INDEXED)
    while await hub.db.write(hub.registry.index.build):
        pass
    return hub


async def thing(hub, name, **attributes):
    await hub.call("CreateThing", thingName=name, attributePayload={"attributes": attributes})


async def change(hub, name, **attributes):
    await hub.call("UpdateThing", thingName=name, attributePayload={"attributes": attributes})


async def group(hub, name, text, **params):
    return await hub.call("CreateDynamicThingGroup", thingGroupName=name, queryString=text, **params)


async def settled(hub):
    while await hub.registry.dynamic.step():
        pass


async def members(hub, name):
    return (await hub.call("ListThingsInThingGroup", thingGroupName=name))["things"]


async def status(hub, name):
    return (await hub.call("DescribeThingGroup", thingGroupName=name))["status"]


async def test_a_new_group_is_filled_and_then_follows_what_changes(things):
    hub = things
    for number in range(600):
        await thing(hub, f"t{number:03}", temp=str(number % 100))
    made = await group(hub, "warm", "attributes.temp>=98", thingGroupProperties={"thingGroupDescription": "hot ones"})
    assert (made["indexName"], made["queryVersion"]) == ("AWS_Things", "2017-09-30")
    assert await status(hub, "warm") == "BUILDING"
    await settled(hub)
    found = await hub.call("DescribeThingGroup", thingGroupName="warm")
    assert (found["status"], found["queryString"], found["version"]) == ("ACTIVE", "attributes.temp>=98", 1)
    assert await members(hub, "warm") == sorted(f"t{hundred}{rest}" for hundred in range(6) for rest in (98, 99))
    hub.events.clear()
    await change(hub, "t000", temp="99")
    await change(hub, "t098", temp="1")
    await thing(hub, "new", temp="100")
    await hub.call("DeleteThing", thingName="t099")
    assert await members(hub, "warm") == [
        "new",
        "t000",
        "t198",
        "t199",
        "t298",
        "t299",
        "t398",
        "t399",
        "t498",
        "t499",
        "t598",
        "t599",
    ]
    assert [event for event in hub.events if isinstance(event, GroupMembershipChanged)] == [
        GroupMembershipChanged("warm", "t000", True),
        GroupMembershipChanged("warm", "t098", False),
        GroupMembershipChanged("warm", "new", True),
        GroupMembershipChanged("warm", "t099", False),
    ]
    assert (await hub.call("ListThingGroupsForThing", thingName="new"))["thingGroups"][0]["groupName"] == "warm"


async def test_shadow_and_connection_move_a_thing(things):
    hub = things
    await thing(hub, "t")
    await group(hub, "late", "shadow.hasDelta:true AND connectivity.connected:true")
    await settled(hub)
    index = hub.registry.index
    await hub.db.write(lambda tx: index.shadow(tx, "t", "", {"desired": {"a": 1}}))
    assert await members(hub, "late") == []
    await hub.db.write(lambda tx: index.connectivity(tx, "t", {"connected": True}))
    assert await members(hub, "late") == ["t"]
    await hub.db.write(lambda tx: index.shadow(tx, "t", "", {"desired": {"a": 1}, "reported": {"a": 1}}))
    assert await members(hub, "late") == []


async def test_another_query_rebuilds(things):
    hub = things
    for number in range(400):
        await thing(hub, f"t{number:03}", temp=str(number))
    await group(hub, "g", "attributes.temp<300")
    await settled(hub)
    answer = await hub.call(
        "UpdateDynamicThingGroup", thingGroupName="g", thingGroupProperties={"thingGroupDescription": "other"},
        queryString="attributes.temp>=200", expectedVersion=1,
    )  # fmt: skip
    assert answer == {"version": 2}
    assert await status(hub, "g") == "REBUILDING"
    await settled(hub)
    assert await status(hub, "g") == "ACTIVE"
    assert len(hub.db.read_now(lambda tx: hub.registry.things_in_tx(tx, "g"))) == 200
    with pytest.raises(VersionConflict):
        await hub.call("UpdateDynamicThingGroup", thingGroupName="g", thingGroupProperties={}, expectedVersion=1)


async def test_a_build_goes_on_after_a_restart(things):
    hub = things
    hub.registry.dynamic.at_once = 20
    for number in range(100):
        await thing(hub, f"t{number:03}", temp=str(number))
    await group(hub, "g", "attributes.temp<50")
    await hub.registry.dynamic.step()
    await change(hub, "t001", temp="99")  # behind the builder
    await change(hub, "t099", temp="1")  # before it
    assert 0 < len(await members(hub, "g")) < 50
    await hub.reopen()
    await settled(hub)
    assert await members(hub, "g") == sorted([*(f"t{n:03}" for n in range(50) if n != 1), "t099"])


async def test_members_are_right_whatever_happens_in_whatever_order(things):
    """Things, shadows, queries and steps of the builder at random; in the end the members are those that a search finds."""
    hub = things
    hub.registry.dynamic.at_once = 3
    chance = random.Random(4)
    queries = [
        "attributes.a:1",
        "attributes.a>1",
        "NOT attributes.a:1",
        "shadow.reported.x:1 OR attributes.a:2",
        "thingName:t1*",
    ]
    names = [f"t{n}" for n in range(15)]
    await group(hub, "g0", queries[0])
    await group(hub, "g1", queries[1])
    for _ in range(400):
        name = chance.choice(names)
        match chance.randrange(7):
            case 0:
                if hub.registry.things.cached(name) is None:
                    await thing(hub, name, a=str(chance.randrange(3)))
            case 1:
                await hub.call("DeleteThing", thingName=name)
            case 2 | 3:
                if hub.registry.things.cached(name) is not None:
                    await change(hub, name, a=str(chance.randrange(3)))
            case 4:
                x = chance.randrange(2)
                await hub.db.write(
                    lambda tx, name=name, x=x: hub.registry.index.shadow(tx, name, "", {"reported": {"x": x}})
                )
            case 5:
                which = chance.choice(["g0", "g1"])
                if chance.random() < 0.2:
                    await hub.call("DeleteDynamicThingGroup", thingGroupName=which)
                    await group(hub, which, chance.choice(queries))
                else:
                    await hub.call(
                        "UpdateDynamicThingGroup",
                        thingGroupName=which,
                        thingGroupProperties={},
                        queryString=chance.choice(queries),
                    )
            case 6:
                await hub.registry.dynamic.step()
    await settled(hub)
    for which in ("g0", "g1"):
        text = (await hub.call("DescribeThingGroup", thingGroupName=which))["queryString"]
        found = await hub.call("SearchIndex", queryString=text)
        assert await members(hub, which) == sorted(each["thingName"] for each in found["things"]), text


async def test_deletion(things):
    hub = things
    for number in range(dynamic.STEP + 10):
        await thing(hub, f"t{number}")
    await group(hub, "g", "*")
    await settled(hub)
    with pytest.raises(VersionConflict):
        await hub.call("DeleteDynamicThingGroup", thingGroupName="g", expectedVersion=5)
    await hub.call("DeleteDynamicThingGroup", thingGroupName="g", expectedVersion=1)
    with pytest.raises(NotFound):
        await hub.call("DescribeThingGroup", thingGroupName="g")
    assert GroupDeleted("g") in hub.events
    assert hub.events.count(GroupMembershipChanged("g", "t3", False)) == 1
    assert hub.db.read_now(lambda tx: tx.one("SELECT count(*) FROM registry_member")[0]) == 0
    await hub.call("DeleteDynamicThingGroup", thingGroupName="g")  # as AWS
    await thing(hub, "later")


async def test_a_deletion_that_a_crash_broke_off_is_finished(things):
    hub = things
    await thing(hub, "t")
    await group(hub, "g", "*")
    await settled(hub)
    write, hub.db.write = hub.db.write, None
    calls = []

    async def once(work):
        calls.append(work)
        if len(calls) > 1:
            raise RuntimeError("the process ends here")
        return await write(work)

    hub.db.write = once
    with pytest.raises(RuntimeError):
        await hub.registry.dynamic.delete("g")
    del hub.db.write
    assert await status(hub, "g") == "REBUILDING"
    await hub.reopen()
    await settled(hub)
    assert not hub.db.read_now(lambda tx: hub.registry.group_exists(tx, "g"))


async def test_the_same_again_is_fine_and_another_is_not(things):
    hub = things
    first = await group(hub, "g", "thingName:a*", tags=[{"Key": "k", "Value": "v"}])
    assert await group(hub, "g", "thingName:a*", tags=[{"Key": "k", "Value": "v"}]) == first
    for text, params in (
        ("thingName:b*", {}),
        ("thingName:a*", {}),
        ("thingName:a*", {"tags": [{"Key": "k", "Value": "w"}]}),
    ):
        with pytest.raises(AlreadyExists):
            await group(hub, "g", text, **params)
    await hub.call("CreateThingGroup", thingGroupName="static")
    with pytest.raises(AlreadyExists):
        await group(hub, "static", "*")


async def test_static_and_dynamic_groups_have_their_own_operations(things):
    hub = things
    await thing(hub, "t")
    await group(hub, "d", "*")
    await settled(hub)
    await hub.call("CreateThingGroup", thingGroupName="s")
    await hub.identity.create_policy("p", hub.document({"Action": "iot:Connect", "Resource": "*"}))
    for operation, params in (
        ("AddThingToThingGroup", {"thingGroupName": "d", "thingName": "t"}),
        ("RemoveThingFromThingGroup", {"thingGroupName": "d", "thingName": "t"}),
        ("UpdateThingGroupsForThing", {"thingName": "t", "thingGroupsToAdd": ["d"]}),
        ("UpdateThingGroup", {"thingGroupName": "d", "thingGroupProperties": {}}),
        ("DeleteThingGroup", {"thingGroupName": "d"}),
        ("CreateThingGroup", {"thingGroupName": "child", "parentGroupName": "d"}),
        ("AttachPolicy", {"policyName": "p", "target": hub.registry.arns.group("d")}),
    ):
        with pytest.raises(Invalid, match="d is dynamic"):
            await hub.call(operation, **params)
    for operation in ("UpdateDynamicThingGroup", "DeleteDynamicThingGroup"):
        with pytest.raises(Invalid, match="s is static"):
            await hub.call(operation, thingGroupName="s", thingGroupProperties={})
    assert "status" not in await hub.call("DescribeThingGroup", thingGroupName="s")


@pytest.mark.parametrize(
    ("params", "error", "why"),
    [
        pytest.param({"queryString": "(a"}, QueryError, "not closed", id="query"),
        pytest.param({"queryString": "color:red"}, QueryError, "not a field", id="field"),
        pytest.param(
            {"queryString": "shadow.name.x.reported.y:1"}, QueryError, "has no 'x'", id="shadow that is not indexed"
        ),
        pytest.param({"queryString": "*", "indexName": "AWS_ThingGroups"}, Invalid, "AWS_Things", id="index of groups"),
        pytest.param({"queryString": "*", "queryVersion": "2"}, Invalid, "2017-09-30", id="version"),
        pytest.param({"queryString": "*", "thingGroupName": "a b"}, Invalid, "thing group name", id="name"),
    ],
)
async def test_groups_that_are_refused(things, params, error, why):
    with pytest.raises(error, match=why):
        await things.call("CreateDynamicThingGroup", **{"thingGroupName": "g", **params})
    with pytest.raises(NotFound):
        await things.call("DescribeThingGroup", thingGroupName="g")


async def test_there_must_be_an_index_and_it_stays_while_there_are_groups(hub):
    with pytest.raises(Invalid, match="need an index"):
        await group(hub, "g", "*")
    await hub.call("UpdateIndexingConfiguration", thingIndexingConfiguration=INDEXED)
    with pytest.raises(Invalid, match="need an index"):  # it is being built
        await group(hub, "g", "*")
    while await hub.db.write(hub.registry.index.build):
        pass
    await group(hub, "g", "connectivity.connected:true")
    for mode, why in (
        ("OFF", "can be turned off once it is deleted"),
        ("REGISTRY", "thingConnectivityIndexingMode is OFF"),
    ):
        with pytest.raises(Invalid, match=f"g.*{why}"):
            await hub.call("UpdateIndexingConfiguration", thingIndexingConfiguration={"thingIndexingMode": mode})
    await hub.call("DeleteDynamicThingGroup", thingGroupName="g")
    await hub.call("UpdateIndexingConfiguration", thingIndexingConfiguration={"thingIndexingMode": "OFF"})


async def test_at_most_a_hundred(things):
    for number in range(dynamic.MAX_DYNAMIC):
        await group(things, f"g{number}", f"attributes.a:{number}")
    with pytest.raises(LimitExceeded, match="100"):
        await group(things, "g100", "*")


# ten groups a thing


async def crowded(hub, static):
    """A thing in `static` groups, that fits the query of every dynamic group below."""
    await thing(hub, "t", a="1")
    for number in range(static):
        await hub.call("CreateThingGroup", thingGroupName=f"s{number}")
        await hub.call("AddThingToThingGroup", thingGroupName=f"s{number}", thingName="t")


async def of_thing(hub):
    return sorted(
        each["groupName"] for each in (await hub.call("ListThingGroupsForThing", thingName="t"))["thingGroups"]
    )


async def test_a_thing_in_ten_groups_enters_no_dynamic_one(things):
    await crowded(things, 10)
    await group(things, "d", "attributes.a:1")
    await settled(things)
    assert await members(things, "d") == []
    await things.call("RemoveThingFromThingGroup", thingGroupName="s0", thingName="t")  # there is room now
    assert await members(things, "d") == ["t"]


async def test_an_older_dynamic_group_comes_before_a_newer_one(things):
    hub = things
    await crowded(hub, 9)
    await group(hub, "older", "attributes.a:2")
    hub.clock.advance(1)
    await group(hub, "newer", "attributes.a>0")
    await settled(hub)
    assert await members(hub, "newer") == ["t"]
    await change(hub, "t", a="2")
    assert (await members(hub, "older"), await members(hub, "newer")) == (["t"], [])
    hub.clock.advance(1)
    await group(hub, "newest", "attributes.a:2")
    await settled(hub)
    assert await members(hub, "newest") == []


async def test_a_static_group_comes_before_dynamic_ones_when_that_is_asked(things):
    hub = things
    await crowded(hub, 8)
    for name in ("d1", "d2"):
        hub.clock.advance(1)
        await group(hub, name, "attributes.a:1")
    await settled(hub)
    await hub.call("CreateThingGroup", thingGroupName="more")
    with pytest.raises(LimitExceeded):
        await hub.call("AddThingToThingGroup", thingGroupName="more", thingName="t")
    await hub.call("AddThingToThingGroup", thingGroupName="more", thingName="t", overrideDynamicGroups=True)
    assert await of_thing(hub) == ["d1", "more", *(f"s{n}" for n in range(8))]


async def test_membership_events_leave_with_the_commit(things):
    hub = things
    await hub.call("UpdateEventConfigurations", eventConfigurations={"THING_GROUP_MEMBERSHIP": {"Enabled": True}})
    await group(hub, "g", "attributes.a:1")
    await settled(hub)
    await thing(hub, "t", a="1")
    await change(hub, "t", a="2")
    topics = [topic for _, topic, _, _ in hub.db.outbox_pending()]
    assert topics == [f"$aws/events/thingGroupMembership/thingGroup/g/thing/t/{what}" for what in ("added", "removed")]
