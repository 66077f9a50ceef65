"""What a template does to a thing, a certificate, groups and policies that are there already: OverrideSettings, one by one."""

import json

import pytest

from marram.core.errors import Conflict, Invalid, NotFound
from tests.hub.provisioning.conftest import DOCUMENT, template
from tests.wire.plant import signing_request


def plain(thing=None, *, override=None, **more):
    """For an operator: a thing alone."""
    resources = {
        "thing": {
            "Type": "AWS::IoT::Thing",
            "Properties": {"ThingName": {"Ref": "Name"}, **(thing or {})},
            "OverrideSettings": override or {},
        }
    }
    return json.dumps({"Parameters": {"Name": {"Type": "String"}}, "Resources": {**resources, **more}})


async def register(plant, body, name="lamp", **parameters):
    return await plant.call("RegisterThing", templateBody=body, parameters={"Name": name, **parameters})


async def state(plant, name="lamp"):
    found = plant.registry.thing(name)
    return found.type, dict(found.attributes), await plant.registry.groups_of(name)


@pytest.fixture
async def lamp(plant):
    """A thing with type, attributes and a group; other groups and types that it could have."""
    await plant.registry.create_type("bulb")
    await plant.registry.create_type("tube")
    for group in ("north", "south", "east"):
        await plant.registry.create_group(group)
    await plant.registry.create_thing("lamp", type_name="bulb", attributes={"a": "1", "b": "2"})
    await plant.registry.add_to_group("north", "lamp")
    return plant


WANTED = {"AttributePayload": {"b": "3", "c": "4"}, "ThingTypeName": "tube", "ThingGroups": ["south", "east"]}


@pytest.mark.parametrize(
    ("override", "after"),
    [
        pytest.param(
            {"AttributePayload": "REPLACE", "ThingTypeName": "REPLACE", "ThingGroups": "REPLACE"},
            ("tube", {"b": "3", "c": "4"}, ["east", "south"]),
            id="replace all",
        ),
        pytest.param(
            {"AttributePayload": "MERGE", "ThingTypeName": "DO_NOTHING", "ThingGroups": "MERGE"},
            ("bulb", {"a": "1", "b": "3", "c": "4"}, ["east", "north", "south"]),
            id="merge",
        ),
        pytest.param(
            {"AttributePayload": "DO_NOTHING", "ThingTypeName": "DO_NOTHING", "ThingGroups": "DO_NOTHING"},
            ("bulb", {"a": "1", "b": "2"}, ["north"]),
            id="do nothing",
        ),
        pytest.param(
            {"AttributePayload": "REPLACE", "ThingTypeName": "DO_NOTHING", "ThingGroups": "DO_NOTHING"},
            ("bulb", {"b": "3", "c": "4"}, ["north"]),
            id="attributes only",
        ),
    ],
)
async def test_overrides(lamp, override, after):
    await register(lamp, plain(WANTED, override=override))
    assert await state(lamp) == after


@pytest.mark.parametrize("failing", ["AttributePayload", "ThingTypeName", "ThingGroups"])
@pytest.mark.parametrize("said", [True, False], ids=["FAIL", "nothing said"])
async def test_fail_is_for_what_differs_and_changes_nothing(lamp, failing, said):
    others = {"AttributePayload": "REPLACE", "ThingTypeName": "REPLACE", "ThingGroups": "REPLACE"}
    override = {**others, failing: "FAIL"}
    if not said:
        del override[failing]
    before = await state(lamp)
    with pytest.raises(Conflict):
        await register(lamp, plain(WANTED, override=override))
    assert await state(lamp) == before
    same = {"AttributePayload": {"a": "1", "b": "2"}, "ThingTypeName": "bulb", "ThingGroups": ["north"]}
    await register(lamp, plain(same))  # nothing differs
    assert await state(lamp) == before


async def test_one_registration_with_a_request(plant):
    request, _ = signing_request()
    certificate = {"Type": "AWS::IoT::Certificate", "Properties": {"CertificateSigningRequest": {"Ref": "CSR"}}}
    policy = {"Type": "AWS::IoT::Policy", "Properties": {"PolicyDocument": json.dumps(DOCUMENT)}}
    body = json.loads(plain(certificate=certificate, policy=policy))
    body["Parameters"]["CSR"] = {"Type": "String"}
    made = await register(plant, json.dumps(body), CSR=request)
    arns = made["resourceArns"]
    assert arns["thing"] == "arn:aws:iot:local-1:000000000001:thing/lamp"
    assert sorted(arns) == ["certificate", "policy", "thing"]
    subject = plant.device(plant.der(made["certificatePem"]), "lamp")
    assert (subject.thing, subject.arn) == ("lamp", arns["certificate"])
    # The certificate by its id, from now on.
    certificate["Properties"] = {"CertificateId": {"Ref": "Id"}, "Status": "INACTIVE"}
    body["Resources"]["certificate"] = certificate
    body["Parameters"] = {"Name": {"Type": "String"}, "Id": {"Type": "String"}}
    again = await register(plant, json.dumps(body), Id=subject.principal)
    assert again["certificatePem"] == made["certificatePem"]
    assert f"{subject.principal}INACTIVE" in plant.left()["identity_certificate"]


@pytest.mark.parametrize(
    ("action", "status", "error"),
    [("REPLACE", "INACTIVE", None), ("DO_NOTHING", "ACTIVE", None), ("FAIL", "ACTIVE", Conflict)],
)
async def test_status_of_a_certificate_that_is_there(plant, action, status, error):
    issued = await plant.identity.create_certificate(active=True)
    certificate = {
        "Type": "AWS::IoT::Certificate",
        "Properties": {"CertificateId": issued.id, "Status": "INACTIVE"},
        "OverrideSettings": {"Status": action},
    }
    if error is None:
        await register(plant, plain(certificate=certificate))
    else:
        with pytest.raises(error):
            await register(plant, plain(certificate=certificate))
        assert plant.left()["registry_thing"] == []
    assert f"{issued.id}{status}" in plant.left()["identity_certificate"]


async def test_what_is_not_there_leaves_nothing(plant):
    before = plant.left()
    with pytest.raises(NotFound):
        await register(
            plant, plain(certificate={"Type": "AWS::IoT::Certificate", "Properties": {"CertificateId": "f" * 64}})
        )
    with pytest.raises(Invalid):
        await register(
            plant, plain(certificate={"Type": "AWS::IoT::Certificate", "Properties": {"CertificatePem": "x"}})
        )
    with pytest.raises(NotFound):
        await register(plant, plain({"ThingGroups": ["nobody"]}))
    assert plant.left() == before


async def test_a_device_takes_the_place_of_a_thing_only_where_the_template_says_so(plant):
    """T1: the thing of another device, by a claim that both have."""
    der = await plant.claim()
    await plant.certificate(thing="lamp")
    await plant.registry.create_thing("bare")
    provision = "$aws/provisioning-templates/fleet/provision/json"

    async def provisioned(serial):
        _, made = await plant.ask("$aws/certificates/create/json", b"", der)
        body = {"certificateOwnershipToken": made["certificateOwnershipToken"], "parameters": {"Serial": serial}}
        return await plant.ask(provision, body, der)

    await plant.fleet(template())
    kind, refused = await provisioned("lamp")
    assert (kind, refused["statusCode"], refused["errorCode"]) == ("rejected", 409, "ResourceConflict")
    assert len(await plant.registry.certificates_of("lamp")) == 1
    assert (await provisioned("bare"))[0] == "accepted"  # prepared by an operator, and nobody's yet
    await plant.call(
        "CreateProvisioningTemplateVersion", templateName="fleet", setAsDefault=True,
        templateBody=template(override={"AttributePayload": "DO_NOTHING"}),
    )  # fmt: skip
    assert (await provisioned("lamp"))[0] == "accepted"
    assert len(await plant.registry.certificates_of("lamp")) == 2
