"""Types, groups, membership, tags, registry events and lists, as boto3 and a subscriber see them."""

import json
from typing import Any

from tests.behaviours.row import row
from tests.behaviours.world import World

INVALID = ("InvalidRequestException", 400)
MISSING = ("ResourceNotFoundException", 404)


def attributes(**values: str) -> dict[str, Any]:
    return {"attributes": values}


def group(world: World, **options: Any) -> str:
    name = world.name("group")
    world.iot.create_thing_group(thingGroupName=name, **options)
    return name


def thing_type(world: World, **options: Any) -> str:
    name = world.name("type")
    world.iot.create_thing_type(thingTypeName=name, **options)
    return name


# things


@row(aws="A thing without a type has at most three attributes.", source="guide: Thing types")
def three_attributes_without_a_type(world: World) -> None:
    world.thing(attributePayload=attributes(a="1", b="1", c="1"))
    with world.refused(*INVALID):
        world.thing(attributePayload=attributes(a="1", b="1", c="1", d="1"))


@row(aws="A thing with a type has at most fifty attributes.", source="guide: Thing types")
def fifty_attributes_with_a_type(world: World) -> None:
    kind = thing_type(world)
    world.thing(thingTypeName=kind, attributePayload=attributes(**{f"a{n}": "1" for n in range(50)}))
    with world.refused(*INVALID):
        world.thing(thingTypeName=kind, attributePayload=attributes(**{f"a{n}": "1" for n in range(51)}))


@row(aws="An empty value removes the attribute when merging.", source="model: AttributePayload")
def empty_value_removes(world: World) -> None:
    name = world.thing(attributePayload=attributes(a="1", b="2"))
    world.iot.update_thing(thingName=name, attributePayload={**attributes(a=""), "merge": True})
    assert world.iot.describe_thing(thingName=name)["attributes"] == {"b": "2"}


@row(aws="Without merge the attributes are overwritten.", source="model: AttributePayload")
def attributes_are_overwritten(world: World) -> None:
    name = world.thing(attributePayload=attributes(a="1", b="2"))
    world.iot.update_thing(thingName=name, attributePayload=attributes(c="3"))
    assert world.iot.describe_thing(thingName=name)["attributes"] == {"c": "3"}


@row(aws="A thing of a type that does not exist is ResourceNotFoundException.", source="model: CreateThing")
def unknown_type(world: World) -> None:
    with world.refused(*MISSING):
        world.thing(thingTypeName=world.name("type"))


@row(aws="removeThingType takes the type away.", source="model: UpdateThing")
def remove_the_type(world: World) -> None:
    name = world.thing(thingTypeName=thing_type(world))
    world.iot.update_thing(thingName=name, removeThingType=True)
    assert "thingTypeName" not in world.iot.describe_thing(thingName=name)


@row(aws="A wrong expectedVersion keeps DeleteThing from deleting.", source="model: DeleteThing")
def delete_expected_version(world: World) -> None:
    name = world.thing()
    with world.refused("VersionConflictException", 409):
        world.iot.delete_thing(thingName=name, expectedVersion=9)
    world.iot.delete_thing(thingName=name, expectedVersion=1)


@row(aws="The refusal to delete an attached thing says so.", source="observed: terraform, aws-nuke issue 374")
def delete_attached_says_why(world: World) -> None:
    device = world.device(thing="")
    with world.refused(*INVALID, text="still attached to one or more principals"):
        world.iot.delete_thing(thingName=device.thing)


@row(aws="A list by attribute holds the things with exactly that value.", source="model: ListThings")
def list_by_attribute(world: World) -> None:
    key = world.name("k")
    mine = world.thing(attributePayload=attributes(**{key: "red"}))
    world.thing(attributePayload=attributes(**{key: "redder"}))
    found = world.iot.list_things(attributeName=key, attributeValue="red")["things"]
    assert [each["thingName"] for each in found] == [mine]


@row(aws="usePrefixAttributeValue lists by the beginning of the value.", source="model: ListThings")
def list_by_prefix(world: World) -> None:
    key = world.name("k")
    mine = {world.thing(attributePayload=attributes(**{key: value})) for value in ("red", "redder")}
    world.thing(attributePayload=attributes(**{key: "green"}))
    found = world.iot.list_things(attributeName=key, attributeValue="red", usePrefixAttributeValue=True)["things"]
    assert {each["thingName"] for each in found} == mine


@row(aws="Pages of a list hold every thing once.", source="model: ListThings")
def pages_hold_each_once(world: World) -> None:
    kind = thing_type(world)
    mine = sorted(world.thing(thingTypeName=kind) for _ in range(5))
    found = world.pages(world.iot.list_things, "things", thingTypeName=kind, maxResults=2)
    assert sorted(each["thingName"] for each in found) == mine


@row(aws="maxResults is at most 250.", source="model: RegistryMaxResults")
def pages_of_250(world: World) -> None:
    with world.refused(*INVALID):
        world.iot.list_things(maxResults=251)


@row(aws="A token that was not given is refused.", source="model: ListThings")
def token_made_up(world: World) -> None:
    with world.refused(*INVALID):
        world.iot.list_things(nextToken="AAAA")


# principals


@row(
    aws="An exclusive certificate belongs to no other thing.",
    source="guide: Associating a thing to an MQTT client connection",
)
def exclusive_certificate(world: World) -> None:
    device, other = world.device(), world.thing()
    first = world.thing()
    world.iot.attach_thing_principal(thingName=first, principal=device.arn, thingPrincipalType="EXCLUSIVE_THING")
    with world.refused(*INVALID):
        world.iot.attach_thing_principal(thingName=other, principal=device.arn)
    found = world.iot.list_principal_things_v2(principal=device.arn)["principalThingObjects"]
    assert found == [{"thingName": first, "thingPrincipalType": "EXCLUSIVE_THING"}]


@row(aws="A thing may have several exclusive certificates.", source="model: AttachThingPrincipal", unconfirmed=True)
def several_exclusive_certificates(world: World) -> None:
    name = world.thing()
    for _ in range(2):
        arn = world.device().arn
        world.iot.attach_thing_principal(thingName=name, principal=arn, thingPrincipalType="EXCLUSIVE_THING")
    assert len(world.iot.list_thing_principals(thingName=name)["principals"]) == 2


# types


@row(aws="Creating a type again with the same properties answers with it.", source="model: CreateThingType")
def create_type_again(world: World) -> None:
    properties = {"thingTypeDescription": "d", "searchableAttributes": ["a"]}
    name = thing_type(world, thingTypeProperties=properties)
    world.iot.create_thing_type(thingTypeName=name, thingTypeProperties=properties)
    with world.refused("ResourceAlreadyExistsException", 409):
        world.iot.create_thing_type(thingTypeName=name)


@row(aws="A type that is not deprecated cannot be deleted.", source="guide: Thing types")
def delete_type_not_deprecated(world: World) -> None:
    with world.refused(*INVALID):
        world.iot.delete_thing_type(thingTypeName=thing_type(world))


@row(aws="A type can be deleted five minutes after its deprecation.", source="guide: Thing types")
def delete_type_too_early(world: World) -> None:
    name = thing_type(world)
    world.iot.deprecate_thing_type(thingTypeName=name)
    with world.refused(*INVALID):
        world.iot.delete_thing_type(thingTypeName=name)


@row(aws="No thing is given a deprecated type, until it is undeprecated.", source="model: DeprecateThingType")
def deprecated_type(world: World) -> None:
    name = thing_type(world)
    world.iot.deprecate_thing_type(thingTypeName=name)
    with world.refused(*INVALID):
        world.thing(thingTypeName=name)
    world.iot.deprecate_thing_type(thingTypeName=name, undoDeprecate=True)
    world.thing(thingTypeName=name)


@row(aws="ListThingTypes with a name lists that type.", source="model: ListThingTypes")
def list_types_by_name(world: World) -> None:
    name = thing_type(world)
    assert [each["thingTypeName"] for each in world.iot.list_thing_types(thingTypeName=name)["thingTypes"]] == [name]


# groups


@row(aws="Groups nest seven deep.", source="guide: Static thing groups, quotas")
def seven_levels(world: World) -> None:
    parent = group(world)
    for _ in range(6):
        parent = group(world, parentGroupName=parent)
    with world.refused(*INVALID):
        group(world, parentGroupName=parent)


@row(aws="A group with child groups is not deleted.", source="guide: Static thing groups")
def delete_group_with_children(world: World) -> None:
    parent = group(world)
    child = group(world, parentGroupName=parent)
    with world.refused(*INVALID):
        world.iot.delete_thing_group(thingGroupName=parent)
    world.iot.delete_thing_group(thingGroupName=child)
    world.iot.delete_thing_group(thingGroupName=parent)


@row(
    aws="Deleting a group that does not exist succeeds.",
    source="model: DeleteThingGroup (declares no ResourceNotFound)",
)
def delete_unknown_group(world: World) -> None:
    world.iot.delete_thing_group(thingGroupName=world.name("group"))


@row(
    aws="UpdateThingGroup answers with the next version, and checks the expected one.", source="model: UpdateThingGroup"
)
def group_versions(world: World) -> None:
    name = group(world)
    changed = {"thingGroupProperties": {"thingGroupDescription": "d"}, "thingGroupName": name}
    assert world.iot.update_thing_group(**changed, expectedVersion=1)["version"] == 2
    with world.refused("VersionConflictException", 409):
        world.iot.update_thing_group(**changed, expectedVersion=1)


@row(aws="A thing is not in two groups of one hierarchy.", source="guide: Static thing groups")
def two_of_one_tree(world: World) -> None:
    parent, name = group(world), world.thing()
    child = group(world, parentGroupName=parent)
    world.iot.add_thing_to_thing_group(thingGroupName=parent, thingName=name)
    with world.refused(*INVALID):
        world.iot.add_thing_to_thing_group(thingGroupName=child, thingName=name)


@row(aws="A thing is in at most ten groups.", source="guide: Static thing groups")
def ten_groups(world: World) -> None:
    name = world.thing()
    for _ in range(10):
        world.iot.add_thing_to_thing_group(thingGroupName=group(world), thingName=name)
    with world.refused(*INVALID):
        world.iot.add_thing_to_thing_group(thingGroupName=group(world), thingName=name)


@row(aws="Adding a thing to its group again succeeds.", source="guide: Static thing groups", unconfirmed=True)
def add_again(world: World) -> None:
    place, name = group(world), world.thing()
    for _ in range(2):
        world.iot.add_thing_to_thing_group(thingGroupName=place, thingName=name)
    assert world.iot.list_things_in_thing_group(thingGroupName=place)["things"] == [name]


@row(aws="recursive lists the things of the groups below too.", source="model: ListThingsInThingGroup")
def things_of_the_groups_below(world: World) -> None:
    parent, name = group(world), world.thing()
    child = group(world, parentGroupName=parent)
    world.iot.add_thing_to_thing_group(thingGroupName=child, thingName=name)
    assert world.iot.list_things_in_thing_group(thingGroupName=parent)["things"] == []
    assert world.iot.list_things_in_thing_group(thingGroupName=parent, recursive=True)["things"] == [name]


@row(aws="Groups are listed by parent, and with recursive all below it.", source="model: ListThingGroups")
def groups_by_parent(world: World) -> None:
    parent = group(world)
    child = group(world, parentGroupName=parent)
    grandchild = group(world, parentGroupName=child)

    def below(**options: Any) -> set[str]:
        found = world.iot.list_thing_groups(parentGroup=parent, **options)["thingGroups"]
        return {each["groupName"] for each in found}

    assert below(recursive=False) == {child}
    assert below(recursive=True) == {child, grandchild}


@row(
    aws="UpdateThingGroupsForThing moves a thing within one hierarchy.",
    source="model: UpdateThingGroupsForThing",
    unconfirmed=True,
)
def move_within_a_tree(world: World) -> None:
    parent, name = group(world), world.thing()
    one, two = group(world, parentGroupName=parent), group(world, parentGroupName=parent)
    world.iot.add_thing_to_thing_group(thingGroupName=one, thingName=name)
    world.iot.update_thing_groups_for_thing(thingName=name, thingGroupsToAdd=[two], thingGroupsToRemove=[one])
    found = world.iot.list_thing_groups_for_thing(thingName=name)["thingGroups"]
    assert [each["groupName"] for each in found] == [two]


@row(aws="rootToParentThingGroups begins with the root.", source="guide: Static thing groups")
def root_to_parent(world: World) -> None:
    root = group(world)
    middle = group(world, parentGroupName=root)
    leaf = group(world, parentGroupName=middle)
    found = world.iot.describe_thing_group(thingGroupName=leaf)["thingGroupMetadata"]
    assert [each["groupName"] for each in found["rootToParentThingGroups"]] == [root, middle]


# tags


@row(aws="Tags of a group are listed, changed and removed.", source="guide: Tagging your AWS IoT resources")
def tags_of_a_group(world: World) -> None:
    resource = world.arn(f"thinggroup/{group(world, tags=[{'Key': 'a', 'Value': '1'}])}")
    world.iot.tag_resource(resourceArn=resource, tags=[{"Key": "a", "Value": "2"}, {"Key": "b", "Value": ""}])
    world.iot.untag_resource(resourceArn=resource, tagKeys=["b", "unknown"])
    assert world.iot.list_tags_for_resource(resourceArn=resource)["tags"] == [{"Key": "a", "Value": "2"}]


@row(
    aws="A resource has at most fifty tags: LimitExceededException, 410.", source="guide: Tagging, restrictions; model"
)
def fifty_tags(world: World) -> None:
    resource = world.arn(f"thingtype/{thing_type(world)}")
    world.iot.tag_resource(resourceArn=resource, tags=[{"Key": f"k{n}", "Value": "v"} for n in range(50)])
    with world.refused("LimitExceededException", 410):
        world.iot.tag_resource(resourceArn=resource, tags=[{"Key": "more", "Value": "v"}])


@row(aws="Keys that begin with aws: are reserved.", source="guide: Tagging, restrictions")
def reserved_tags(world: World) -> None:
    resource = world.arn(f"thinggroup/{group(world)}")
    with world.refused(*INVALID):
        world.iot.tag_resource(resourceArn=resource, tags=[{"Key": "aws:mine", "Value": "v"}])


@row(aws="Tags of what does not exist are ResourceNotFoundException.", source="model: ListTagsForResource")
def tags_of_nothing(world: World) -> None:
    with world.refused(*MISSING):
        world.iot.list_tags_for_resource(resourceArn=world.arn(f"thinggroup/{world.name('group')}"))


# events


@row(aws="Every event type is listed, with whether it is enabled.", source="model: DescribeEventConfigurations")
def event_types(world: World) -> None:
    found = world.iot.describe_event_configurations()["eventConfigurations"]
    assert set(found) >= {"THING", "THING_GROUP", "THING_TYPE", "THING_GROUP_MEMBERSHIP", "JOB", "JOB_EXECUTION"}
    assert all(isinstance(each["Enabled"], bool) for each in found.values())


@row(aws="Events of policies and certificates can be switched on.", source="model: EventType",
     differs="501 NotImplementedException: nothing is published for POLICY, CERTIFICATE, CA_CERTIFICATE")  # fmt: skip
def event_types_without_messages(world: World) -> None:
    world.iot.update_event_configurations(eventConfigurations={"POLICY": {"Enabled": True}})


@row(aws="The message of a created thing has the documented members.", source="guide: Registry events")
def thing_created_event(world: World) -> None:
    world.iot.update_event_configurations(eventConfigurations={"THING": {"Enabled": True}})
    listener = world.connected(world.device())
    name = world.name("thing")
    assert listener.subscribe(f"$aws/events/thing/{name}/created") == [1]
    made = world.iot.create_thing(thingName=name, attributePayload=attributes(a="1"))
    message = listener.receive()
    body = json.loads(message.payload)
    assert (message.topic, body["eventType"], body["operation"]) == (
        f"$aws/events/thing/{name}/created", "THING_EVENT", "CREATED",
    )  # fmt: skip
    assert (body["thingName"], body["thingId"], body["versionNumber"]) == (name, made["thingId"], 1)
    assert (body["attributes"], body["thingTypeName"]) == ({"a": "1"}, None)
    assert body["accountId"] == world.account and body["eventId"] and body["timestamp"] > 1_500_000_000_000


@row(
    aws="Entering and leaving a group are told, with one membershipId.",
    source="guide: Registry events",
    unconfirmed=True,
)
def membership_events(world: World) -> None:
    world.iot.update_event_configurations(eventConfigurations={"THING_GROUP_MEMBERSHIP": {"Enabled": True}})
    place, name = group(world), world.thing()
    listener = world.connected(world.device())
    topic = f"$aws/events/thingGroupMembership/thingGroup/{place}/thing/{name}"
    assert listener.subscribe(f"{topic}/+") == [1]
    world.iot.add_thing_to_thing_group(thingGroupName=place, thingName=name)
    world.iot.remove_thing_from_thing_group(thingGroupName=place, thingName=name)
    added, removed = listener.receive(), listener.receive()
    assert [added.topic, removed.topic] == [f"{topic}/added", f"{topic}/removed"]
    assert json.loads(added.payload)["membershipId"] == json.loads(removed.payload)["membershipId"]


# refused by name


@row(aws="Things are put into billing groups.", source="model: CreateBillingGroup",
     differs="501 NotImplementedException: billing groups are not supported")  # fmt: skip
def billing_groups(world: World) -> None:
    world.iot.create_billing_group(billingGroupName=world.name("billing"))


@row(aws="A type may name attributes that are added to MQTT 5 messages.", source="guide: Thing types, propagating attributes",
     differs="501 NotImplementedException: mqtt5Configuration is not supported")  # fmt: skip
def propagating_attributes(world: World) -> None:
    thing_type(
        world,
        thingTypeProperties={
            "mqtt5Configuration": {"propagatingAttributes": [{"userPropertyKey": "k", "thingAttribute": "a"}]}
        },
    )


@row(
    aws="A group that is deleted is gone for its things too, and its name is free.", source="guide: Static thing groups"
)
def deleted_group(world: World) -> None:
    name, thing = group(world), world.thing()
    world.iot.add_thing_to_thing_group(thingGroupName=name, thingName=thing)
    world.iot.delete_thing_group(thingGroupName=name)
    with world.refused(*MISSING):
        world.iot.describe_thing_group(thingGroupName=name)
    with world.refused(*MISSING):
        world.iot.list_things_in_thing_group(thingGroupName=name)
    world.until(lambda: not world.iot.list_thing_groups_for_thing(thingName=thing)["thingGroups"], "it left")
    world.iot.create_thing_group(thingGroupName=name)
    assert world.iot.list_things_in_thing_group(thingGroupName=name)["things"] == []


@row(aws="A rule is made with tags, in a header.", source="model: CreateTopicRule")
def tags_of_a_rule(world: World) -> None:
    name = world.name("rule").replace("-", "_")
    role = f"arn:aws:iam::{world.account}:role/marram-service"
    rule = {"sql": "SELECT * FROM 'a'", "actions": [{"republish": {"roleArn": role, "topic": "b"}}]}
    world.iot.create_topic_rule(ruleName=name, topicRulePayload=rule, tags="line=7&site=north%20hall")
    tags = world.iot.list_tags_for_resource(resourceArn=world.arn(f"rule/{name}"))["tags"]
    assert tags == [{"Key": "line", "Value": "7"}, {"Key": "site", "Value": "north hall"}]
    world.iot.delete_topic_rule(ruleName=name)
