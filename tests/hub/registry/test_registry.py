import pytest

from marram.core.errors import AlreadyExists, Invalid, LimitExceeded, NotFound, Unsupported, VersionConflict
from marram.hub.border import plans
from marram.hub.border.shapes import Shapes
from marram.hub.identity import pki
from marram.hub.registry.service import GroupMembershipChanged, NewThing, ThingDeleted

ARN = "arn:aws:iot:local-1:000000000001:"


def attributes(**values):
    return {"attributes": values}


# things


async def test_creating_the_same_again_is_fine_and_another_is_not(hub):
    await hub.call("CreateThingType", thingTypeName="pump")
    first = await hub.call("CreateThing", thingName="t", thingTypeName="pump", attributePayload=attributes(a="1"))
    again = await hub.call("CreateThing", thingName="t", thingTypeName="pump", attributePayload=attributes(a="1"))
    assert first == again
    assert first["thingArn"] == f"{ARN}thing/t"
    for other in (
        {"attributePayload": attributes(a="2"), "thingTypeName": "pump"},
        {"attributePayload": attributes(a="1")},
    ):
        with pytest.raises(AlreadyExists) as caught:
            await hub.call("CreateThing", thingName="t", **other)
        assert caught.value.data["resourceId"] == first["thingId"]


async def test_describe(hub):
    await hub.call("CreateThing", thingName="t", attributePayload=attributes(a="1", b=""))
    found = await hub.call("DescribeThing", thingName="t")
    assert (found["version"], found["attributes"], found["defaultClientId"]) == (1, {"a": "1"}, "t")
    with pytest.raises(NotFound):
        await hub.call("DescribeThing", thingName="u")


async def test_attributes_merge_replace_and_go(hub):
    await hub.call("CreateThing", thingName="t", attributePayload=attributes(a="1", b="2"))
    await hub.call("UpdateThing", thingName="t", attributePayload={"attributes": {"b": "", "c": "3"}, "merge": True})
    assert hub.registry.thing("t").attributes == {"a": "1", "c": "3"}
    await hub.call("UpdateThing", thingName="t", attributePayload=attributes(d="4"))
    assert hub.registry.thing("t").attributes == {"d": "4"}
    await hub.call("UpdateThing", thingName="t", expectedVersion=3)
    assert hub.registry.thing("t").version == 4
    with pytest.raises(VersionConflict):
        await hub.call("UpdateThing", thingName="t", expectedVersion=3)
    with pytest.raises(NotFound):
        await hub.call("UpdateThing", thingName="u")


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"name": "a b"}, id="space in the name"),
        pytest.param({"name": ""}, id="empty name"),
        pytest.param({"name": "x" * 129}, id="long name"),
        pytest.param({"name": "*"}, id="star"),
        pytest.param({"name": "${iot:ClientId}"}, id="variable"),
        pytest.param({"name": "a/b"}, id="two levels"),
        pytest.param({"name": "t", "attributes": {"a b": "1"}}, id="space in an attribute name"),
        pytest.param({"name": "t", "attributes": {"a": "caf\u00e9"}}, id="value outside the alphabet"),
        pytest.param({"name": "t", "attributes": {"a": "x" * 801}}, id="long value"),
    ],
)
async def test_things_that_are_refused(hub, wrong):
    with pytest.raises(Invalid):
        await hub.registry.create_thing(wrong.pop("name"), **wrong)


async def test_deletion_waits_for_the_certificate(hub):
    der = await hub.certificate(thing="t")
    with pytest.raises(Invalid, match="principal"):
        await hub.call("DeleteThing", thingName="t")
    await hub.call("DetachThingPrincipal", thingName="t", principal=f"{ARN}cert/{pki.certificate_id(der)}")
    with pytest.raises(VersionConflict):
        await hub.call("DeleteThing", thingName="t", expectedVersion=9)
    await hub.call("DeleteThing", thingName="t")
    assert ThingDeleted("t") in hub.events
    await hub.call("DeleteThing", thingName="t")  # as AWS
    assert hub.events.count(ThingDeleted("t")) == 1


async def test_unsupported_parts_are_named(hub):
    with pytest.raises(Unsupported, match="billing"):
        await hub.call("CreateThing", thingName="t", billingGroupName="b")
    with pytest.raises(Unsupported, match="mqtt5"):
        await hub.call(
            "CreateThingType",
            thingTypeName="x",
            thingTypeProperties={
                "mqtt5Configuration": {"propagatingAttributes": [{"userPropertyKey": "k", "thingAttribute": "a"}]}
            },
        )


async def test_listing_and_searching(hub):
    await hub.call("CreateThingType", thingTypeName="pump")
    for number in range(7):
        kind = {"thingTypeName": "pump"} if number % 2 else {}
        await hub.call(
            "CreateThing", thingName=f"t{number}", attributePayload=attributes(site=f"s{number // 3}"), **kind
        )

    async def names(**params):
        found, token = [], None
        while True:
            answer = await hub.call("ListThings", maxResults=2, **params, **({"nextToken": token} if token else {}))
            found += [row["thingName"] for row in answer["things"]]
            token = answer.get("nextToken")
            if token is None:
                return found

    assert await names() == [f"t{n}" for n in range(7)]
    assert await names(thingTypeName="pump") == ["t1", "t3", "t5"]
    assert await names(attributeName="site", attributeValue="s1") == ["t3", "t4", "t5"]
    assert await names(attributeName="site", attributeValue="s", usePrefixAttributeValue=True) == [
        f"t{n}" for n in range(7)
    ]
    assert await names(attributeName="site", attributeValue="s1", thingTypeName="pump") == ["t3", "t5"]
    assert sorted(await names(attributeName="site")) == [f"t{n}" for n in range(7)]  # aws-cli's example of list-things
    assert await names(attributeName="colour") == []
    for params in ({"attributeValue": "s1"}, {"attributeName": "site", "usePrefixAttributeValue": True}):
        with pytest.raises(Invalid):
            await names(**params)


# principals


async def test_principals_both_ways(hub):
    der = await hub.certificate(thing="t1")
    principal = f"{ARN}cert/{pki.certificate_id(der)}"
    await hub.call("CreateThing", thingName="t2")
    await hub.call("AttachThingPrincipal", thingName="t2", principal=principal)
    await hub.call("AttachThingPrincipal", thingName="t2", principal=principal)
    assert (await hub.call("ListPrincipalThings", principal=principal))["things"] == ["t1", "t2"]
    assert (await hub.call("ListThingPrincipals", thingName="t2"))["principals"] == [principal]
    page = await hub.call("ListPrincipalThings", principal=principal, maxResults=1)
    assert (await hub.call("ListPrincipalThings", principal=principal, nextToken=page["nextToken"]))["things"] == ["t2"]
    kinds = (await hub.call("ListThingPrincipalsV2", thingName="t2"))["thingPrincipalObjects"]
    assert kinds == [{"principal": principal, "thingPrincipalType": "NON_EXCLUSIVE_THING"}]
    assert await hub.registry.certificates_of("t2") == [pki.certificate_id(der)]
    await hub.call("DetachThingPrincipal", thingName="t2", principal=principal)
    with pytest.raises(NotFound):
        await hub.call("DetachThingPrincipal", thingName="t2", principal=principal)


async def test_an_exclusive_thing(hub):
    der = await hub.certificate(thing="t1")
    principal = f"{ARN}cert/{pki.certificate_id(der)}"
    await hub.call("CreateThing", thingName="t2")
    with pytest.raises(Invalid, match="exclusive"):
        await hub.call(
            "AttachThingPrincipal", thingName="t2", principal=principal, thingPrincipalType="EXCLUSIVE_THING"
        )
    await hub.call("AttachThingPrincipal", thingName="t1", principal=principal, thingPrincipalType="EXCLUSIVE_THING")
    with pytest.raises(Invalid, match="exclusive"):
        await hub.call("AttachThingPrincipal", thingName="t2", principal=principal)
    found = (await hub.call("ListPrincipalThingsV2", principal=principal))["principalThingObjects"]
    assert found == [{"thingName": "t1", "thingPrincipalType": "EXCLUSIVE_THING"}]


@pytest.mark.parametrize(
    ("thing", "principal", "error"),
    [
        pytest.param("none", "own", NotFound, id="unknown thing"),
        pytest.param("t", f"{ARN}cert/{'0' * 64}", NotFound, id="unknown certificate"),
        pytest.param("t", "us-east-1:1234", Invalid, id="a Cognito identity"),
        pytest.param("t", f"{ARN}thinggroup/g", Invalid, id="a group"),
    ],
)
async def test_principals_that_are_refused(hub, thing, principal, error):
    own = await hub.certificate(thing="t")
    with pytest.raises(error):
        await hub.call(
            "AttachThingPrincipal",
            thingName=thing,
            principal=f"{ARN}cert/{pki.certificate_id(own)}" if principal == "own" else principal,
        )


# types


async def test_life_of_a_type(hub):
    properties = {"thingTypeDescription": "d", "searchableAttributes": ["site"]}
    made = await hub.call("CreateThingType", thingTypeName="pump", thingTypeProperties=properties)
    assert made == await hub.call("CreateThingType", thingTypeName="pump", thingTypeProperties=properties)
    with pytest.raises(AlreadyExists):
        await hub.call("CreateThingType", thingTypeName="pump")
    await hub.call("CreateThing", thingName="t", thingTypeName="pump")
    with pytest.raises(NotFound):
        await hub.call("CreateThing", thingName="u", thingTypeName="none")
    with pytest.raises(Invalid, match="deprecated"):
        await hub.call("DeleteThingType", thingTypeName="pump")
    await hub.call("DeprecateThingType", thingTypeName="pump")
    assert (await hub.call("DescribeThingType", thingTypeName="pump"))["thingTypeMetadata"]["deprecated"] is True
    with pytest.raises(Invalid, match="deprecated"):
        await hub.call("CreateThing", thingName="u", thingTypeName="pump")
    hub.clock.advance(5 * 60 * 1000)
    with pytest.raises(Invalid, match="in use"):
        await hub.call("DeleteThingType", thingTypeName="pump")
    await hub.call("UpdateThing", thingName="t", removeThingType=True)
    await hub.call("DeleteThingType", thingTypeName="pump")
    assert (await hub.call("ListThingTypes"))["thingTypes"] == []


# groups


async def test_life_of_a_group(hub):
    made = await hub.call("CreateThingGroup", thingGroupName="root")
    assert made == await hub.call("CreateThingGroup", thingGroupName="root")
    child = {"thingGroupName": "child", "parentGroupName": "root"}
    await hub.call(
        "CreateThingGroup",
        **child,
        thingGroupProperties={"thingGroupDescription": "d", "attributePayload": attributes(a="1")},
    )
    with pytest.raises(AlreadyExists):
        await hub.call("CreateThingGroup", **child)
    with pytest.raises(NotFound):
        await hub.call("CreateThingGroup", thingGroupName="x", parentGroupName="none")
    found = await hub.call("DescribeThingGroup", thingGroupName="child")
    assert found["thingGroupMetadata"]["rootToParentThingGroups"] == [
        {"groupName": "root", "groupArn": f"{ARN}thinggroup/root"}
    ]
    updated = {"attributePayload": {"attributes": {"b": "2"}, "merge": True}}
    assert await hub.call(
        "UpdateThingGroup", thingGroupName="child", thingGroupProperties=updated, expectedVersion=1
    ) == {"version": 2}
    assert (await hub.registry.groups.get("child"))[0].attributes == {"a": "1", "b": "2"}
    assert (await hub.registry.groups.get("child"))[0].description == "d"
    with pytest.raises(Invalid, match="child groups"):
        await hub.call("DeleteThingGroup", thingGroupName="root")
    with pytest.raises(VersionConflict):
        await hub.call("DeleteThingGroup", thingGroupName="child", expectedVersion=1)
    await hub.call("DeleteThingGroup", thingGroupName="child")
    await hub.call("DeleteThingGroup", thingGroupName="root")
    await hub.call("DeleteThingGroup", thingGroupName="root")


async def test_members(hub):
    for name, parent in (("root", ""), ("child", "root"), ("other", "")):
        await hub.registry.create_group(name, parent=parent)
    for name in ("a", "b", "c"):
        await hub.call("CreateThing", thingName=name)
    await hub.call("AddThingToThingGroup", thingGroupName="root", thingName="a")
    await hub.call("AddThingToThingGroup", thingGroupArn=f"{ARN}thinggroup/child", thingArn=f"{ARN}thing/b")
    await hub.call("AddThingToThingGroup", thingGroupName="other", thingName="a")
    assert GroupMembershipChanged("child", "b", True) in hub.events
    assert (await hub.call("ListThingsInThingGroup", thingGroupName="root"))["things"] == ["a"]
    assert (await hub.call("ListThingsInThingGroup", thingGroupName="root", recursive=True))["things"] == ["a", "b"]
    assert await hub.registry.things_in("root") == ["a", "b"]
    groups = (await hub.call("ListThingGroupsForThing", thingName="a"))["thingGroups"]
    assert [row["groupName"] for row in groups] == ["other", "root"]
    assert await hub.registry.groups_of("a") == ["other", "root"]
    with pytest.raises(Invalid, match="hierarchy"):
        await hub.call("AddThingToThingGroup", thingGroupName="child", thingName="a")
    await hub.call("RemoveThingFromThingGroup", thingGroupName="root", thingName="a")
    await hub.call("RemoveThingFromThingGroup", thingGroupName="root", thingName="a")
    assert hub.events.count(GroupMembershipChanged("root", "a", False)) == 1
    await hub.call("DeleteThing", thingName="b")
    assert await hub.registry.things_in("root") == []
    assert await hub.registry.groups_of("b") == []


@pytest.mark.parametrize(
    ("params", "error"),
    [
        pytest.param({}, Invalid, id="nothing"),
        pytest.param({"thingName": "a", "thingGroupName": "none"}, NotFound, id="unknown group"),
        pytest.param({"thingName": "none", "thingGroupName": "g"}, NotFound, id="unknown thing"),
        pytest.param({"thingArn": f"{ARN}thing/b", "thingName": "a", "thingGroupName": "g"}, Invalid, id="two things"),
        pytest.param({"thingArn": f"{ARN}thinggroup/g", "thingGroupName": "g"}, Invalid, id="wrong kind"),
        pytest.param({"thingArn": "arn:aws:iot:x:1:thing/a", "thingGroupName": "g"}, Invalid, id="other hub"),
    ],
)
async def test_members_that_are_refused(hub, params, error):
    await hub.registry.create_thing("a")
    await hub.registry.create_group("g")
    with pytest.raises(error):
        await hub.call("AddThingToThingGroup", **params)


async def test_listing_groups(hub):
    for name, parent in (("a", ""), ("a1", "a"), ("a2", "a"), ("a11", "a1"), ("b", "")):
        await hub.registry.create_group(name, parent=parent)

    async def names(**params):
        return [row["groupName"] for row in (await hub.call("ListThingGroups", **params))["thingGroups"]]

    assert await names() == ["a", "a1", "a11", "a2", "b"]
    assert await names(recursive=False) == ["a", "b"]
    assert await names(parentGroup="a") == ["a1", "a2"]
    assert await names(parentGroup="a", recursive=True) == ["a1", "a11", "a2"]
    assert await names(namePrefixFilter="a1") == ["a1", "a11"]
    with pytest.raises(NotFound):
        await names(parentGroup="none")


async def test_seven_levels_of_groups(hub):
    parent = ""
    for level in range(7):
        await hub.registry.create_group(f"g{level}", parent=parent)
        parent = f"g{level}"
    with pytest.raises(LimitExceeded, match="deep"):
        await hub.registry.create_group("g7", parent=parent)


# endpoints


@pytest.mark.parametrize("kind", ["iot:Data-ATS", "iot:CredentialProvider", "iot:Jobs"])
async def test_endpoints(hub, kind):
    assert await hub.call("DescribeEndpoint", endpointType=kind) == {"endpointAddress": "localhost:8443"}
    assert await hub.call("DescribeEndpoint") == {"endpointAddress": "localhost:8443"}


async def test_an_endpoint_on_the_standard_port_is_a_bare_host(hub):
    hub.registry._endpoint = lambda: ("hub.example", 443)
    assert hub.registry.endpoint("iot:Data-ATS") == "hub.example"


@pytest.mark.parametrize("kind", ["iot:Data", "iot:Nonsense", "data"])
async def test_other_endpoints_are_refused_by_name(hub, kind):
    with pytest.raises(Invalid, match=kind):
        await hub.call("DescribeEndpoint", endpointType=kind)


async def test_all_survives_a_restart(hub):
    await hub.registry.create_group("g")
    await hub.registry.create_thing("t", attributes={"a": "1"})
    await hub.registry.add_to_group("g", "t")
    before = hub.registry.thing("t")
    await hub.reopen()
    assert hub.registry.thing("t") == before
    assert hub.registry.facts("t").groups == ("g",)


async def test_a_rare_type_behind_a_common_attribute_is_found_page_by_page(hub):
    """A page looks at a bounded number of things; it may be empty and still say where to go on."""
    await hub.call("CreateThingType", thingTypeName="rare")
    names = [f"t{number:04d}" for number in range(2_100)]
    for start in range(0, len(names), 250):
        await hub.registry.importing.run(
            [NewThing(name=name, attributes={"site": "s"}) for name in names[start : start + 250]]
        )
    await hub.call("CreateThing", thingName="z", thingTypeName="rare", attributePayload=attributes(site="s"))
    asked = {"attributeName": "site", "attributeValue": "s", "thingTypeName": "rare", "maxResults": 10}
    first = await hub.call("ListThings", **asked)
    assert first["things"] == [] and first["nextToken"]
    second = await hub.call("ListThings", **asked, nextToken=first["nextToken"])
    assert [row["thingName"] for row in second["things"]] == ["z"] and "nextToken" not in second


async def test_a_page_token_of_another_search_is_refused(hub):
    for number in range(3):
        await hub.call("CreateThing", thingName=f"t{number}", attributePayload=attributes(site="s"))
    by_site = {"attributeName": "site", "attributeValue": "s"}
    token = (await hub.call("ListThings", maxResults=1))["nextToken"]
    with pytest.raises(Invalid, match="token"):
        await hub.call("ListThings", **by_site, nextToken=token)
    token = (await hub.call("ListThings", maxResults=1, **by_site))["nextToken"]
    with pytest.raises(Invalid, match="token"):
        await hub.call("ListThings", nextToken=token)


@pytest.mark.parametrize(
    ("typed", "count", "refused"),
    [(False, 3, False), (False, 4, True), (True, 50, False), (True, 51, True)],
    ids=["three", "four", "fifty with a type", "fifty-one with a type"],
)
async def test_how_many_attributes(hub, typed, count, refused):
    await hub.call("CreateThingType", thingTypeName="pump")
    kind = {"thingTypeName": "pump"} if typed else {}
    payload = attributes(**{f"a{number}": "1" for number in range(count)})
    await hub.call("CreateThing", thingName="t", **kind)
    for operation in ("CreateThing", "UpdateThing"):
        name = "u" if operation == "CreateThing" else "t"
        if refused:
            with pytest.raises(LimitExceeded):
                await hub.call(operation, thingName=name, attributePayload=payload, **kind)
        else:
            await hub.call(operation, thingName=name, attributePayload=payload, **kind)
    if typed and not refused:
        with pytest.raises(LimitExceeded, match="without a thing type"):
            await hub.call("UpdateThing", thingName="t", removeThingType=True)


async def test_a_thing_with_too_many_attributes_of_before_can_still_change_otherwise(hub):
    await hub.call("CreateThing", thingName="t")
    hub.db.write_sync(
        lambda tx: tx.execute("UPDATE registry_thing SET attributes = ?", '{"a":"1","b":"1","c":"1","d":"1"}')
    )
    await hub.call("UpdateThing", thingName="t", attributePayload={"attributes": {"a": "1"}, "merge": True})
    with pytest.raises(LimitExceeded):
        await hub.call("UpdateThing", thingName="t", attributePayload={"attributes": {"a": "2"}, "merge": True})


async def test_a_type_is_changed_member_by_member(hub):
    await hub.call("CreateThingType", thingTypeName="pump", thingTypeProperties={"thingTypeDescription": "d"})
    await hub.call("UpdateThingType", thingTypeName="pump", thingTypeProperties={"searchableAttributes": ["a"]})
    found = (await hub.call("DescribeThingType", thingTypeName="pump"))["thingTypeProperties"]
    assert found == {"thingTypeDescription": "d", "searchableAttributes": ["a"]}
    with pytest.raises(LimitExceeded):
        await hub.call(
            "UpdateThingType", thingTypeName="pump", thingTypeProperties={"searchableAttributes": list("abcd")}
        )
    with pytest.raises(NotFound):
        await hub.call("UpdateThingType", thingTypeName="valve")


async def test_the_waiting_time_begins_once_and_ends_with_undo(hub):
    await hub.call("CreateThingType", thingTypeName="pump")
    await hub.call("DeprecateThingType", thingTypeName="pump")
    hub.clock.advance(4 * 60 * 1000)
    await hub.call("DeprecateThingType", thingTypeName="pump")
    hub.clock.advance(59_000)
    with pytest.raises(Invalid, match="five minutes"):
        await hub.call("DeleteThingType", thingTypeName="pump")
    await hub.call("DeprecateThingType", thingTypeName="pump", undoDeprecate=True)
    hub.clock.advance(60_000)
    with pytest.raises(Invalid, match="five minutes"):
        await hub.call("DeleteThingType", thingTypeName="pump")
    await hub.call("CreateThing", thingName="t", thingTypeName="pump")


async def test_an_exclusive_certificate_leaves_the_thing_its_others(hub):
    first = f"{ARN}cert/{pki.certificate_id(await hub.certificate(thing='t'))}"
    second = f"{ARN}cert/{pki.certificate_id(await hub.certificate())}"
    exclusive = {"thingPrincipalType": "EXCLUSIVE_THING"}
    await hub.call("AttachThingPrincipal", thingName="t", principal=second, **exclusive)
    found = (await hub.call("ListThingPrincipalsV2", thingName="t", **exclusive))["thingPrincipalObjects"]
    assert [each["principal"] for each in found] == [second]
    assert set((await hub.call("ListThingPrincipals", thingName="t"))["principals"]) == {first, second}


def test_a_batch_is_bounded():
    """What one transaction function may take."""
    plan = plans.load("marram")
    read = Shapes(plan).read_json(plan.operations["registry/ImportThings"].input)
    things = [{"thingName": f"t{number}"} for number in range(101)]
    read({"things": things[:100]}, "")
    with pytest.raises(Invalid, match="100"):
        read({"things": things}, "")
