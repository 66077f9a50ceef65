import pytest

from marram.core.errors import AlreadyExists, Invalid, LimitExceeded, NotFound, Unsupported

ARN = "arn:aws:iot:local-1:000000000001:"
GROUP = f"{ARN}thinggroup/g"


def tags(**pairs):
    return [{"Key": key, "Value": value} for key, value in pairs.items()]


async def shown(hub, resource=GROUP):
    return {
        each["Key"]: each["Value"] for each in (await hub.call("ListTagsForResource", resourceArn=resource))["tags"]
    }


async def test_tags_from_the_start_and_later(hub):
    await hub.call("CreateThingGroup", thingGroupName="g", tags=tags(owner="a", site="n"))
    await hub.call("TagResource", resourceArn=GROUP, tags=[*tags(owner="b"), {"Key": "empty"}])
    assert await shown(hub) == {"empty": "", "owner": "b", "site": "n"}
    await hub.call("UntagResource", resourceArn=GROUP, tagKeys=["owner", "unknown"])
    assert await shown(hub) == {"empty": "", "site": "n"}


async def test_other_tags_are_another_configuration(hub):
    first = await hub.call("CreateThingType", thingTypeName="pump", tags=tags(a="1"))
    assert await hub.call("CreateThingType", thingTypeName="pump", tags=tags(a="1")) == first
    with pytest.raises(AlreadyExists):
        await hub.call("CreateThingType", thingTypeName="pump")
    with pytest.raises(AlreadyExists):
        await hub.call("CreateThingType", thingTypeName="pump", tags=tags(a="2"))


async def test_a_resource_made_anew_has_none_of_the_old_tags(hub):
    await hub.call("CreateThingGroup", thingGroupName="g", tags=tags(a="1", b="2"))
    await hub.call("DeleteThingGroup", thingGroupName="g")
    with pytest.raises(NotFound):
        await shown(hub)
    await hub.call("CreateThingGroup", thingGroupName="g")
    assert await shown(hub) == {}
    await hub.call("TagResource", resourceArn=GROUP, tags=tags(a="3"))
    assert await shown(hub) == {"a": "3"}


async def test_policies_bear_tags(hub):
    policy = f"{ARN}policy/p"
    with pytest.raises(NotFound):
        await hub.call("TagResource", resourceArn=policy, tags=tags(a="1"))
    await hub.policy("p", {"Action": "iot:*", "Resource": "*"})
    await hub.call("TagResource", resourceArn=policy, tags=tags(a="1"))
    assert await shown(hub, policy) == {"a": "1"}


async def test_a_policy_is_made_with_its_tags_or_not_at_all(hub):
    document = hub.document({"Action": "iot:*", "Resource": "*"})
    await hub.call("CreatePolicy", policyName="p", policyDocument=document, tags=tags(a="1"))
    assert await shown(hub, f"{ARN}policy/p") == {"a": "1"}
    with pytest.raises(Invalid, match="reserved"):
        await hub.call("CreatePolicy", policyName="q", policyDocument=document, tags=tags(**{"aws:x": "1"}))
    with pytest.raises(NotFound):
        await hub.call("GetPolicy", policyName="q")
    await hub.call("DeletePolicy", policyName="p")
    hub.clock.advance(1)
    await hub.call("CreatePolicy", policyName="p", policyDocument=document)
    assert await shown(hub, f"{ARN}policy/p") == {}


async def test_fifty_tags_and_no_more(hub):
    many = {f"k{number:02d}": "v" for number in range(49)}
    await hub.call("CreateThingGroup", thingGroupName="g", tags=tags(**many))
    await hub.call("TagResource", resourceArn=GROUP, tags=tags(k00="w", last="v"))
    with pytest.raises(LimitExceeded):
        await hub.call("TagResource", resourceArn=GROUP, tags=tags(more="v"))
    assert len(await shown(hub)) == 50


@pytest.mark.parametrize(
    ("resource", "given", "error"),
    [
        pytest.param(GROUP, tags(**{"aws:x": "1"}), Invalid, id="reserved key"),
        pytest.param(GROUP, tags(**{"AWS:x": "1"}), Invalid, id="reserved key in capitals"),
        pytest.param(GROUP, [*tags(a="1"), *tags(a="2")], Invalid, id="one key twice"),
        pytest.param(GROUP, tags(a="x" * 257), Invalid, id="long value"),
        pytest.param(f"{ARN}thinggroup/none", tags(a="1"), NotFound, id="unknown group"),
        pytest.param(f"{ARN}thing/t", tags(a="1"), Invalid, id="a thing"),
        pytest.param(f"{ARN}thinggroup/", tags(a="1"), Invalid, id="no name"),
        pytest.param(f"{ARN}billinggroup/b", tags(a="1"), Unsupported, id="a billing group"),
        pytest.param("arn:aws:iot:other:000000000001:thinggroup/g", tags(a="1"), Invalid, id="another region"),
        pytest.param("thinggroup/g", tags(a="1"), Invalid, id="no ARN"),
    ],
)
async def test_tags_that_are_refused(hub, resource, given, error):
    await hub.call("CreateThingGroup", thingGroupName="g")
    with pytest.raises(error):
        await hub.call("TagResource", resourceArn=resource, tags=given)
    assert await shown(hub) == {}
