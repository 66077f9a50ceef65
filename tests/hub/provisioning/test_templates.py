"""Provisioning templates and their versions, with wire names; every result is held against botocore's model."""

import json

import pytest

from marram.core.errors import AlreadyExists, Conflict, Invalid, LimitExceeded, NotFound, Unsupported
from tests.hub.provisioning.conftest import template


async def test_life_of_a_template(plant):
    body = template()
    made = await plant.call(
        "CreateProvisioningTemplate", templateName="t", templateBody=body, provisioningRoleArn=plant.role,
        description="lamps",
    )  # fmt: skip
    assert made == {
        "templateArn": "arn:aws:iot:local-1:000000000001:provisioningtemplate/t",
        "templateName": "t",
        "defaultVersionId": 1,
    }
    found = await plant.call("DescribeProvisioningTemplate", templateName="t")
    assert (found["templateBody"], found["enabled"], found["type"], found["description"]) == (
        body,
        False,
        "FLEET_PROVISIONING",
        "lamps",
    )
    with pytest.raises(AlreadyExists):
        await plant.fleet(body, "t")
    other = template({"ThingTypeName": "lamp"})
    second = await plant.call(
        "CreateProvisioningTemplateVersion", templateName="t", templateBody=other, setAsDefault=True
    )
    assert (second["versionId"], second["isDefaultVersion"]) == (2, True)
    assert (await plant.call("DescribeProvisioningTemplate", templateName="t"))["templateBody"] == other
    await plant.call("UpdateProvisioningTemplate", templateName="t", enabled=True, defaultVersionId=1, description="")
    found = await plant.call("DescribeProvisioningTemplate", templateName="t")
    assert (found["templateBody"], found["enabled"], found["description"]) == (body, True, "")
    version = await plant.call("DescribeProvisioningTemplateVersion", templateName="t", versionId=2)
    assert (version["templateBody"], version["isDefaultVersion"]) == (other, False)
    with pytest.raises(Conflict, match="default"):
        await plant.call("DeleteProvisioningTemplateVersion", templateName="t", versionId=1)
    await plant.call("DeleteProvisioningTemplateVersion", templateName="t", versionId=2)
    third = await plant.call("CreateProvisioningTemplateVersion", templateName="t", templateBody=other)
    assert (third["versionId"], third["isDefaultVersion"]) == (3, False)  # numbers are never used again
    listed = (await plant.call("ListProvisioningTemplateVersions", templateName="t"))["versions"]
    assert [(row["versionId"], row["isDefaultVersion"]) for row in listed] == [(1, True), (3, False)]
    await plant.call("DeleteProvisioningTemplate", templateName="t")
    with pytest.raises(NotFound):
        await plant.call("DescribeProvisioningTemplate", templateName="t")


async def test_five_versions(plant):
    await plant.fleet(template())
    for _ in range(4):
        await plant.call("CreateProvisioningTemplateVersion", templateName="fleet", templateBody=template())
    with pytest.raises(LimitExceeded) as caught:
        await plant.call("CreateProvisioningTemplateVersion", templateName="fleet", templateBody=template())
    assert caught.value.data["kind"] == "versions"


async def test_lists_come_in_pages(plant):
    for number in range(7):
        await plant.fleet(template(), f"t{number}")
    found, token = [], None
    while True:
        answer = await plant.call("ListProvisioningTemplates", maxResults=3, **({"nextToken": token} if token else {}))
        found += [row["templateName"] for row in answer["templates"]]
        token = answer.get("nextToken")
        if token is None:
            break
    assert found == [f"t{number}" for number in range(7)]


HOOK = {"payloadVersion": "2020-04-01", "targetArn": "arn:aws:lambda:local-1:000000000001:function:check"}


@pytest.mark.parametrize(
    ("params", "error", "why"),
    [
        pytest.param({"preProvisioningHook": HOOK}, Unsupported, "hooks are functions", id="hook"),
        pytest.param({"tags": [{"Key": "a"}, {"Key": "a"}]}, Invalid, "twice", id="tags"),
        pytest.param({"provisioningRoleArn": "arn:aws:iam::000000000001:role/nobody"}, Invalid, "nobody", id="role that is not there"),
        pytest.param({"templateBody": "{}"}, Invalid, "Resources", id="empty template"),
        pytest.param({"type": "JITP", "templateBody": template(DeviceConfiguration={"a": "b"})}, Invalid, "nobody would get it", id="JITP"),
    ],
)  # fmt: skip
async def test_refused_at_creation(plant, params, error, why):
    given = {"templateName": "t", "templateBody": template(), "provisioningRoleArn": plant.role, **params}
    with pytest.raises(error, match=why):
        await plant.call("CreateProvisioningTemplate", **given)
    with pytest.raises(NotFound):
        await plant.call("DescribeProvisioningTemplate", templateName="t")


async def test_a_hook_is_refused_at_an_update_too(plant):
    await plant.fleet(template())
    with pytest.raises(Unsupported, match="hooks are functions"):
        await plant.call("UpdateProvisioningTemplate", templateName="fleet", preProvisioningHook=HOOK)
    with pytest.raises(NotFound):
        await plant.call("UpdateProvisioningTemplate", templateName="fleet", defaultVersionId=2, enabled=False)
    assert (await plant.call("DescribeProvisioningTemplate", templateName="fleet"))["enabled"] is True
    with pytest.raises(Invalid):
        await plant.call(
            "CreateProvisioningTemplateVersion", templateName="fleet", templateBody=json.dumps({"Resources": 1})
        )


async def test_tags_go_with_the_template(plant):
    await plant.fleet(template(), tags=[{"Key": "line", "Value": "7"}])
    arn = "arn:aws:iot:local-1:000000000001:provisioningtemplate/fleet"
    assert await plant.call("ListTagsForResource", resourceArn=arn) == {"tags": [{"Key": "line", "Value": "7"}]}
    await plant.call("DeleteProvisioningTemplate", templateName="fleet")
    plant.clock.advance(1)
    await plant.fleet(template())
    assert await plant.call("ListTagsForResource", resourceArn=arn) == {"tags": []}
