"""Fleet provisioning below the broker: what the device is answered, and that what is refused leaves nothing."""

import json

import pytest

from marram.core.errors import NotFound, Unauthenticated
from marram.hub.identity.service import certificate_id
from marram.hub.provisioning import claims
from tests.hub.provisioning.conftest import DOCUMENT, template
from tests.wire.plant import signing_request

CREATE = "$aws/certificates/create/json"
FROM_CSR = "$aws/certificates/create-from-csr/json"
PROVISION = "$aws/provisioning-templates/fleet/provision/json"


async def created(plant, der, client_id="device"):
    kind, made = await plant.ask(CREATE, b"", der, client_id)
    assert kind == "accepted"
    return made


async def register(plant, der, token, serial="s1", client_id="device", **more):
    return await plant.ask(
        PROVISION, {"certificateOwnershipToken": token, "parameters": {"Serial": serial}, **more}, der, client_id
    )


async def test_the_way_of_a_device(plant):
    der = await plant.claim()
    await plant.fleet(template(DeviceConfiguration={"place": {"Fn::Sub": "${Serial}@hub"}}))
    made = await created(plant, der)
    assert len(made["certificateOwnershipToken"]) < 512  # what the embedded SDK has room for
    assert (await plant.call("DescribeCertificate", certificateId=made["certificateId"]))["certificateDescription"][
        "status"
    ] == "PENDING_ACTIVATION"
    own = plant.der(made["certificatePem"])
    with pytest.raises(Unauthenticated):
        plant.identity.certificate_subject(own)
    kind, answer = await register(plant, der, made["certificateOwnershipToken"])
    assert (kind, answer) == ("accepted", {"deviceConfiguration": {"place": "s1@hub"}, "thingName": "s1"})
    subject = plant.device(own, "s1")
    assert (subject.thing, plant.identity.may(subject, "iot:Publish", "arn:aws:iot:local-1:000000000001:topic/a")) == (
        "s1",
        True,
    )
    assert [policy.document.text for policy in subject.policies] == [json.dumps(DOCUMENT, separators=(",", ":"))]
    # A second device shares the policy of the same document.
    other = await created(plant, der, "second")
    await register(plant, der, other["certificateOwnershipToken"], "s2", "second")
    assert len(plant.left()["identity_policy"]) == 2  # this one and the claim's


async def test_a_policy_that_is_there_and_a_certificate_that_starts_inactive(plant):
    der = await plant.claim()
    body = json.loads(template())
    body["Resources"]["policy"]["Properties"] = {"PolicyName": "claim"}
    body["Resources"]["certificate"] = {
        "Type": "AWS::IoT::Certificate",
        "Properties": {"CertificateId": {"Ref": "AWS::IoT::Certificate::Id"}, "Status": "INACTIVE"},
    }
    await plant.fleet(json.dumps(body))
    made = await created(plant, der)
    await register(plant, der, made["certificateOwnershipToken"])
    left = plant.left()
    assert f"{made['certificateId']}INACTIVE" in left["identity_certificate"]
    assert f"cert/{made['certificateId']}claim" in left["identity_attachment"]


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        pytest.param({"certificateOwnershipToken": ""}, 400, "InvalidCertificateOwnershipToken", id="empty token"),
        pytest.param({"certificateOwnershipToken": None}, 400, "InvalidCertificateOwnershipToken", id="no token"),
        pytest.param({"certificateOwnershipToken": "AAAA"}, 400, "InvalidCertificateOwnershipToken", id="not a token"),
        pytest.param({"certificateOwnershipToken": "\u00e9"}, 400, "InvalidCertificateOwnershipToken", id="not ASCII"),
        pytest.param({"certificateOwnershipToken": 7}, 400, "InvalidCertificateOwnershipToken", id="a number"),
        pytest.param({"parameters": {}}, 400, "InvalidParameters", id="parameter missing"),
        pytest.param({"parameters": None}, 400, "InvalidParameters", id="no parameters"),
        pytest.param({"parameters": {"Serial": "s1", "Color": "red"}}, 400, "InvalidParameters", id="parameter not declared"),
        pytest.param({"parameters": {"Serial": 7}}, 400, "InvalidParameters", id="parameter is a number"),
        pytest.param({"parameters": ["Serial"]}, 400, "InvalidParameters", id="parameters are a list"),
        pytest.param({"parameters": {"Serial": "s1", "AWS::IoT::Certificate::Id": "c" * 64}}, 400, "InvalidParameters", id="other id"),
        pytest.param({"parameters": {"Serial": "no name"}}, 400, "InvalidRequest", id="not a thing name"),
        pytest.param({"parameters": {"Serial": "#"}}, 400, "InvalidRequest", id="wildcard for a name"),
        pytest.param({"extra": 1}, 400, "InvalidPayload", id="unknown member"),
    ],
)  # fmt: skip
async def test_bad_requests_leave_nothing(plant, change, status, code):
    der = await plant.claim()
    await plant.fleet(template())
    made = await created(plant, der)
    before = plant.left()
    body = {"certificateOwnershipToken": made["certificateOwnershipToken"], "parameters": {"Serial": "s1"}, **change}
    kind, refused = await plant.ask(PROVISION, body, der)
    assert (kind, refused["statusCode"], refused["errorCode"]) == ("rejected", status, code)
    assert plant.left() == before
    assert (await register(plant, der, made["certificateOwnershipToken"]))[0] == "accepted"  # the token is still good


LONG = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:Publish", "Resource": "a" * 2049}]}


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        pytest.param(template({"ThingTypeName": "unknown"}), 404, "ResourceNotFound", id="thing type that is not there"),
        pytest.param(template({"ThingGroups": ["nobody"]}), 404, "ResourceNotFound", id="group that is not there"),
        pytest.param(template({"AttributePayload": {"a b": "c"}}), 400, "InvalidRequest", id="attribute name"),
        pytest.param(template({"AttributePayload": {"a": 7}}), 400, "InvalidParameters", id="attribute is a number"),
        pytest.param(template(document=LONG), 400, "InvalidRequest", id="policy over 2,048 characters"),
        pytest.param(template(document="{}"), 400, "InvalidRequest", id="not a policy"),
        pytest.param(template(document={"Version": "2012-10-17", "Statement": [], "X": 1}), 400, "InvalidRequest", id="unknown key"),
    ],
)  # fmt: skip
async def test_templates_that_fail_on_the_way_leave_nothing(plant, body, status, code):
    der = await plant.claim()
    await plant.fleet(body)
    made = await created(plant, der)
    before = plant.left()
    kind, refused = await register(plant, der, made["certificateOwnershipToken"])
    assert (kind, refused["statusCode"], refused["errorCode"]) == ("rejected", status, code)
    assert plant.left() == before


async def test_a_policy_by_a_name_that_is_not_there_leaves_nothing(plant):
    der = await plant.claim()
    body = json.loads(template())
    body["Resources"]["policy"]["Properties"] = {"PolicyName": "nobody"}
    await plant.fleet(json.dumps(body))
    made = await created(plant, der)
    before = plant.left()
    assert (await register(plant, der, made["certificateOwnershipToken"]))[1]["errorCode"] == "ResourceNotFound"
    assert plant.left() == before


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b'{"a":1,"a":2}', b"[" * 100, b'"x"'])
async def test_broken_payloads(plant, body):
    der = await plant.claim()
    for topic in (CREATE, FROM_CSR, PROVISION):
        kind, refused = await plant.ask(topic, body, der)
        assert (kind, refused["statusCode"], refused["errorCode"]) == ("rejected", 400, "InvalidPayload")


async def test_requests_of_devices_that_cannot_be_signed(plant):
    der = await plant.claim()
    good, _ = signing_request()
    lines = good.splitlines()
    lines[2] = lines[2][:20] + ("A" if lines[2][20] != "A" else "B") + lines[2][21:]
    before = plant.left()
    for request in ("", "x", None, 7, "\n".join(lines), good * 9):
        kind, refused = await plant.ask(FROM_CSR, {"certificateSigningRequest": request}, der)
        assert (kind, refused["statusCode"], refused["errorCode"]) == ("rejected", 400, "InvalidCSR"), request
    assert plant.left() == before
    kind, made = await plant.ask(FROM_CSR, {"certificateSigningRequest": good}, der)
    assert (kind, sorted(made)) == ("accepted", ["certificateId", "certificateOwnershipToken", "certificatePem"])


async def test_a_template_that_is_not_there_not_enabled_or_of_another_kind(plant):
    der = await plant.claim()
    made = await created(plant, der)
    token = made["certificateOwnershipToken"]
    assert (await register(plant, der, token))[1]["errorCode"] == "ResourceNotFound"
    await plant.fleet(template(), enabled=False)
    assert (await register(plant, der, token))[1]["statusCode"] == 404
    await plant.fleet(template(), "other", type="JITP")
    other = PROVISION.replace("fleet", "other")
    asked = {"certificateOwnershipToken": token, "parameters": {"Serial": "s1"}}
    assert (await plant.ask(other, asked, der))[1]["statusCode"] == 404
    await plant.call("UpdateProvisioningTemplate", templateName="fleet", enabled=True)
    assert (await register(plant, der, token))[0] == "accepted"


async def test_a_token_is_for_one_client_one_claim_one_time_and_one_hour(plant):
    der = await plant.claim()
    await plant.fleet(template())
    made = await created(plant, der)
    token = made["certificateOwnershipToken"]
    other_claim = await plant.certificate("claim")
    before = plant.left()
    for asker, client_id in ((der, "thief"), (other_claim, "device")):
        kind, refused = await register(plant, asker, token, "evil", client_id)
        assert (kind, refused["errorCode"]) == ("rejected", "InvalidCertificateOwnershipToken")
    plant.clock.advance(claims.TOKEN_LIFE_MS)
    kind, refused = await register(plant, der, token)
    assert (refused["errorCode"], "expired" in refused["errorMessage"]) == ("InvalidCertificateOwnershipToken", True)
    assert plant.left() == before
    fresh = (await created(plant, der))["certificateOwnershipToken"]
    assert (await register(plant, der, fresh))[0] == "accepted"
    before = plant.left()
    for serial in ("s1", "s2"):
        kind, refused = await register(plant, der, fresh, serial)
        assert (kind, refused["errorCode"]) == ("rejected", "InvalidCertificateOwnershipToken")
    assert plant.left() == before


async def test_what_was_never_provisioned_goes_with_its_token(plant):
    der = await plant.claim()
    await plant.fleet(template())
    forgotten, attached, used = [await created(plant, der, f"c{n}") for n in range(3)]
    arn = plant.identity.arn_of(attached["certificateId"])
    await plant.identity.attach_policy("claim", arn)
    await register(plant, der, used["certificateOwnershipToken"], "s1", "c2")
    await plant.provisioning.tend()
    assert len(plant.left()["identity_certificate"]) == 4
    plant.clock.advance(claims.TOKEN_LIFE_MS)
    await plant.provisioning.tend()
    with pytest.raises(NotFound):
        await plant.call("DescribeCertificate", certificateId=forgotten["certificateId"])
    left = plant.left()["identity_certificate"]
    assert f"{attached['certificateId']}PENDING_ACTIVATION" in left and f"{used['certificateId']}ACTIVE" in left


async def test_a_stolen_claim_cannot_fill_the_table(plant, monkeypatch):
    monkeypatch.setattr(claims, "MAX_PENDING", 3)
    der = await plant.claim()
    for _ in range(3):
        await created(plant, der)
    before = plant.left()
    kind, refused = await plant.ask(CREATE, b"", der)
    assert (kind, refused["statusCode"]) == ("rejected", 429)
    assert plant.left() == before
    assert (await plant.ask(CREATE, b"", await plant.certificate("claim")))[0] == "accepted"


async def test_a_temporary_claim_ends(plant):
    await plant.fleet(template())
    made = await plant.call("CreateProvisioningClaim", templateName="fleet")
    assert made["expiration"] == plant.clock.wall_ms() + claims.CLAIM_LIFE_MS
    der = plant.der(made["certificatePem"])
    assert certificate_id(der) == made["certificateId"]
    assert (await plant.call("ListCertificates"))["certificates"] == []
    with pytest.raises(NotFound):
        await plant.call("DescribeCertificate", certificateId=made["certificateId"])
    arn = "arn:aws:iot:local-1:000000000001:"
    subject = plant.device(der, "phone")
    for topic, allowed in (
        ("$aws/certificates/create/json", True),
        ("$aws/provisioning-templates/fleet/provision/json", True),
        ("$aws/provisioning-templates/other/provision/json", False),
        ("plant/7", False),
    ):
        assert plant.identity.may(subject, "iot:Publish", f"{arn}topic/{topic}") is allowed
    made = await created(plant, der, "phone")
    assert (await register(plant, der, made["certificateOwnershipToken"], client_id="phone"))[0] == "accepted"
    plant.clock.advance(claims.CLAIM_LIFE_MS)
    with pytest.raises(Unauthenticated):
        plant.identity.certificate_subject(der)
    await plant.provisioning.tend()  # whoever is connected by it is told
    with pytest.raises(Unauthenticated):
        plant.identity.refresh(subject)
    with pytest.raises(NotFound):
        await plant.call("CreateProvisioningClaim", templateName="nobody")


async def test_certificates_are_for_devices_with_certificates(plant):
    from marram.core.errors import Denied
    from marram.hub.provisioning.claims import Asker

    with pytest.raises(Denied):
        await plant.provisioning.claims.create_certificate(Asker(subject=plant.identity.internal, client_id=""))


TRUST = {"Version": "2012-10-17", "Statement": [
    {"Effect": "Allow", "Principal": {"Service": "iot.amazonaws.com"}, "Action": "sts:AssumeRole"}]}  # fmt: skip


async def test_the_role_of_the_template_bounds_what_it_makes(plant):
    """What its policies do not allow is refused, and so is everything once it is gone."""
    role = (await plant.call("CreateRole", "iam", RoleName="r", AssumeRolePolicyDocument=json.dumps(TRUST)))["Role"][
        "Arn"
    ]
    der = await plant.claim()
    await plant.fleet(template(), provisioningRoleArn=role)
    made = await created(plant, der)
    token = made["certificateOwnershipToken"]
    before = plant.left()
    actions = [
        "iot:CreateThing",
        "iot:AttachThingPrincipal",
        "iot:UpdateCertificate",
        "iot:CreatePolicy",
        "iot:AttachPolicy",
    ]
    for count, missing in enumerate(actions):
        rights = {"Effect": "Allow", "Action": [one for one in actions if one != missing], "Resource": "*"}
        document = json.dumps({"Version": "2012-10-17", "Statement": [rights]})
        await plant.call("PutRolePolicy", "iam", RoleName="r", PolicyName="p", PolicyDocument=document)
        kind, refused = await register(plant, der, token)
        assert (kind, refused["statusCode"], refused["errorCode"]) == ("rejected", 403, "AccessDenied"), count
        assert missing in refused["errorMessage"]
        assert plant.left() == before
    await plant.call("DeleteRolePolicy", "iam", RoleName="r", PolicyName="p")
    policy = "arn:aws:iam::aws:policy/service-role/AWSIoTThingsRegistration"
    await plant.call("AttachRolePolicy", "iam", RoleName="r", PolicyArn=policy)
    assert (await register(plant, der, token))[0] == "accepted"
    other = await created(plant, der)
    await plant.call("DetachRolePolicy", "iam", RoleName="r", PolicyArn=policy)
    await plant.call("DeleteRole", "iam", RoleName="r")
    kind, refused = await register(plant, der, other["certificateOwnershipToken"], "s2")
    assert (kind, refused["errorCode"]) == ("rejected", "AccessDenied")
