"""Deleting a group with more members than a transaction may take out: gone at once, cleared in pieces, through restarts."""

import itertools
import json

import pytest

from marram.core.errors import AlreadyExists, Invalid, NotFound
from marram.hub.registry import store
from marram.hub.registry.service import GroupDeleted, GroupMembershipChanged

ARN = "arn:aws:iot:local-1:000000000001:"
MEMBERS = 1050


@pytest.fixture
async def large(hub):
    """`line` below `site`, with a thousand things; the site's policy lets them connect."""
    await hub.registry.create_group("site")
    await hub.registry.create_group("line", parent="site")
    names = [f"t{number:04}" for number in range(MEMBERS)]

    def fill(tx):
        for name in names:
            hub.registry.create_thing_tx(tx, name)
            store.add_member(tx, "line", name)

    await hub.db.write(fill)
    hub.events.clear()
    return hub


async def left(hub):
    return len(await hub.db.read(lambda tx: store.members(tx, "line")))


def told(hub, tail):
    return [json.loads(body) for _, topic, body, _ in hub.db.outbox_pending(100_000) if topic.endswith(tail)]


async def test_it_is_gone_with_the_first_piece(large):
    hub = large
    await hub.call("DeleteThingGroup", thingGroupName="line")
    assert await left(hub) == MEMBERS - hub.registry.leaving.at_once, "no more than one transaction may take"
    for operation, params in (
        ("DescribeThingGroup", {}),
        ("ListThingsInThingGroup", {}),
        ("UpdateThingGroup", {"thingGroupProperties": {}}),
        ("AddThingToThingGroup", {"thingName": "t0000"}),
        ("RemoveThingFromThingGroup", {"thingName": "t0000"}),
    ):
        with pytest.raises(NotFound):
            await hub.call(operation, thingGroupName="line", **params)
    with pytest.raises(NotFound):
        await hub.call("AttachPolicy", policyName="p", target=f"{ARN}thinggroup/line")
    last = f"t{MEMBERS - 1}"
    assert (await hub.call("ListThingGroupsForThing", thingName=last))["thingGroups"] == []
    assert await hub.registry.groups_of(last) == []
    assert hub.registry.facts(last).groups == ()
    assert [row["groupName"] for row in (await hub.call("ListThingGroups"))["thingGroups"]] == ["site"]
    assert await hub.registry.things_in("site") == []
    await hub.call("DeleteThingGroup", thingGroupName="line")  # again is fine
    await hub.call("DeleteThingGroup", thingGroupName="site")  # it has no child any more


async def test_pieces_and_their_events(large):
    hub = large
    kinds = ("THING_GROUP", "THING_GROUP_MEMBERSHIP", "THING_GROUP_HIERARCHY")
    await hub.call("UpdateEventConfigurations", eventConfigurations={kind: {"Enabled": True} for kind in kinds})
    group = await hub.call("DescribeThingGroup", thingGroupName="line")
    await hub.call("DeleteThingGroup", thingGroupName="line")
    await hub.call("DeleteThingGroup", thingGroupName="site")
    piece, counts = hub.registry.leaving.at_once, [await left(hub)]
    while await hub.registry.leaving.step():
        counts.append(await left(hub))
    assert all(before - after <= piece for before, after in itertools.pairwise(counts)) and counts[-1] == 0
    removed = [event.thing for event in hub.events if isinstance(event, GroupMembershipChanged)]
    assert removed == [f"t{number:04}" for number in range(MEMBERS)]
    assert [event for event in hub.events if isinstance(event, GroupDeleted)] == [
        GroupDeleted("site"), GroupDeleted("line"),
    ]  # fmt: skip
    assert len(told(hub, "/removed")) == MEMBERS + 1
    (gone,) = told(hub, "thingGroup/line/deleted")
    assert gone["thingGroupId"] == group["thingGroupId"] and gone["parentGroupName"] == "site"
    (hierarchy,) = told(hub, "childThingGroup/line/removed")
    assert (hierarchy["thingGroupName"], hierarchy["childGroupId"]) == ("site", group["thingGroupId"])


async def test_rights_by_a_group_above_end_at_once(large):
    hub = large
    await hub.policy("connect", {"Action": "iot:Connect", "Resource": "*"})
    await hub.identity.attach_policy("connect", f"{ARN}thinggroup/site")
    der = await hub.certificate()
    certificate = hub.identity.certificate_subject(der).principal
    last = f"t{MEMBERS - 1}"
    await hub.registry.attach_principal(last, f"{ARN}cert/{certificate}")
    device = hub.device(der, last)
    assert hub.identity.may(device, "iot:Connect", f"{ARN}client/{last}")
    await hub.call("DeleteThingGroup", thingGroupName="line")
    assert await left(hub) > 0
    device = hub.identity.refresh(device)
    assert device is not None
    assert not hub.identity.may(device, "iot:Connect", f"{ARN}client/{last}"), "though the thing is to leave later"


async def test_a_restart_goes_on(large):
    hub = large
    await hub.call("DeleteThingGroup", thingGroupName="line")
    await hub.registry.leaving.step()
    before = await left(hub)
    await hub.reopen()
    with pytest.raises(NotFound):
        await hub.call("DescribeThingGroup", thingGroupName="line")
    steps = 0
    while await hub.registry.leaving.step():
        steps += 1
    assert steps > 1 and before > 0 and await left(hub) == 0
    assert hub.events.count(GroupDeleted("line")) == 1


async def test_the_name_is_free_for_whoever_asks_and_empty(large):
    hub = large
    old = await hub.call("DescribeThingGroup", thingGroupName="line")
    await hub.call("TagResource", resourceArn=f"{ARN}thinggroup/line", tags=[{"Key": "a", "Value": "1"}])
    await hub.call("DeleteThingGroup", thingGroupName="line")
    made = await hub.call("CreateThingGroup", thingGroupName="line")
    assert made["thingGroupId"] != old["thingGroupId"]
    assert (await hub.call("ListThingsInThingGroup", thingGroupName="line"))["things"] == []
    assert (await hub.call("ListTagsForResource", resourceArn=f"{ARN}thinggroup/line"))["tags"] == []
    assert not await hub.registry.leaving.step()


async def test_nobody_gets_the_name_in_between(large):
    hub = large
    await hub.registry.delete_group("line")
    finish = hub.registry.leaving.finish

    async def nothing(name):
        assert name == "line"

    hub.registry.leaving.finish = nothing
    with pytest.raises(AlreadyExists, match="being deleted"):
        await hub.registry.create_group("line")
    hub.registry.leaving.finish = finish


async def test_members_that_leave_count_for_nothing(large):
    """A thing may enter other groups of the tree, or be deleted, though its old group is not cleared."""
    hub = large
    await hub.registry.create_group("other", parent="site")
    await hub.registry.delete_group("line")
    last, before = f"t{MEMBERS - 1}", f"t{MEMBERS - 2}"
    await hub.registry.add_to_group("other", last)
    await hub.call("DeleteThing", thingName=before)
    while await hub.registry.leaving.step():
        pass
    assert await hub.registry.things_in("site") == [last]
    assert GroupMembershipChanged("line", before, False) not in hub.events
    with pytest.raises(Invalid):
        await hub.call("DeleteThingGroup", thingGroupName="site")
