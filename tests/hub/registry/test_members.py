"""Things in groups, and the limits of both."""

import pytest

from marram.core.errors import Invalid, LimitExceeded, NotFound
from marram.hub.registry.service import GroupDeleted, GroupMembershipChanged

ARN = "arn:aws:iot:local-1:000000000001:"


async def groups_of(hub, thing="t"):
    found = await hub.call("ListThingGroupsForThing", thingName=thing)
    return [each["groupName"] for each in found["thingGroups"]]


async def make(hub, *groups, thing="t"):
    for name in groups:
        child, _, parent = name.partition("<")
        await hub.registry.create_group(child, parent=parent)
    await hub.registry.create_thing(thing)


async def test_out_of_some_and_into_others_at_once(hub):
    await make(hub, "a", "b", "c", "root", "x<root", "y<root")
    for name in ("a", "x"):
        await hub.registry.add_to_group(name, "t")
    moved = {"thingGroupsToAdd": ["y", "b"], "thingGroupsToRemove": ["x", "c"]}  # x makes room for y in their tree
    await hub.call("UpdateThingGroupsForThing", thingName="t", **moved)
    assert await groups_of(hub) == ["a", "b", "y"]
    assert GroupMembershipChanged("x", "t", False) in hub.events


@pytest.mark.parametrize(
    ("moved", "error"),
    [
        pytest.param({"thingGroupsToAdd": ["b", "none"]}, NotFound, id="unknown group to add"),
        pytest.param(
            {"thingGroupsToAdd": ["b"], "thingGroupsToRemove": ["none"]}, NotFound, id="unknown group to leave"
        ),
        pytest.param({"thingGroupsToAdd": ["b", "child"]}, Invalid, id="two of one tree"),
        pytest.param({"thingGroupsToAdd": ["b"], "thingGroupsToRemove": ["b"]}, Invalid, id="in and out of one"),
        pytest.param({"thingGroupsToAdd": ["b"], "thingName": "none"}, NotFound, id="unknown thing"),
        pytest.param({"thingGroupsToAdd": ["b"], "thingName": None}, Invalid, id="no thing"),
    ],
)
async def test_a_refused_move_moves_nothing(hub, moved, error):
    await make(hub, "a", "b", "child<a")
    await hub.registry.add_to_group("a", "t")
    with pytest.raises(error):
        await hub.call("UpdateThingGroupsForThing", **{"thingName": "t", **moved})
    assert await groups_of(hub) == ["a"]


async def test_ten_groups_and_no_more(hub):
    await make(hub, *(f"g{number:02d}" for number in range(11)))
    for number in range(10):
        await hub.call("AddThingToThingGroup", thingGroupName=f"g{number:02d}", thingName="t")
    with pytest.raises(LimitExceeded):
        await hub.call("AddThingToThingGroup", thingGroupName="g10", thingName="t")
    with pytest.raises(LimitExceeded):  # nothing to give up: none is dynamic
        await hub.call("AddThingToThingGroup", thingGroupName="g10", thingName="t", overrideDynamicGroups=True)
    await hub.call("AddThingToThingGroup", thingGroupName="g09", thingName="t")
    assert len(await groups_of(hub)) == 10


async def test_a_hundred_children_and_no_more(hub):
    await hub.registry.create_group("root")
    for number in range(100):
        await hub.registry.create_group(f"c{number}", parent="root")
    with pytest.raises(LimitExceeded):
        await hub.call("CreateThingGroup", thingGroupName="c100", parentGroupName="root")
    await hub.call("CreateThingGroup", thingGroupName="c0", parentGroupName="root")


async def test_no_group_is_its_own_parent(hub):
    with pytest.raises(Invalid, match="own parent"):
        await hub.call("CreateThingGroup", thingGroupName="g", parentGroupName="g")
    await hub.registry.create_group("a")
    await hub.registry.create_group("b", parent="a")
    with pytest.raises(Exception, match="exists with other properties"):  # the only way to close a circle
        await hub.call("CreateThingGroup", thingGroupName="a", parentGroupName="b")
    assert hub.registry.lineage("b") == ("b", "a")


async def test_a_group_that_goes_lets_its_things_go(hub):
    await make(hub, "g")
    await hub.registry.add_to_group("g", "t")
    await hub.call("DeleteThingGroup", thingGroupName="g")
    assert hub.events[-2:] == [GroupMembershipChanged("g", "t", False), GroupDeleted("g")]
    assert await groups_of(hub) == []


async def test_pages_of_a_tree_have_each_thing_once(hub):
    await make(hub, "root", "x<root", "y<root", "z<x")
    for number in range(25):
        await hub.registry.create_thing(f"t{number:02d}")
        await hub.registry.add_to_group(("root", "x", "y", "z")[number % 4], f"t{number:02d}")
    found, token = [], None
    while True:
        more = {"nextToken": token} if token else {}
        page = await hub.call("ListThingsInThingGroup", thingGroupName="root", recursive=True, maxResults=4, **more)
        found += page["things"]
        token = page.get("nextToken")
        if token is None:
            break
    assert found == [f"t{number:02d}" for number in range(25)]
    assert (await hub.call("ListThingsInThingGroup", thingGroupName="x", recursive=True))["things"] == [
        f"t{number:02d}" for number in range(25) if number % 4 in (1, 3)
    ]
