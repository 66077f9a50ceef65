"""Registered CAs and the certificates of others, with wire names; first connections below the doors."""

import datetime
import json
from datetime import timedelta

import pytest

from marram.core.errors import AlreadyExists, Conflict, Invalid, LimitExceeded, NotFound, Unauthenticated, Unsupported
from tests.hub.provisioning.conftest import DOCUMENT
from tests.wire.authority import DAY, CertificateAuthority

FIELD = "AWS::IoT::Certificate::CommonName"


def jitp(**thing):
    properties = {"ThingName": {"Ref": FIELD}, **thing}
    identifier = {"CertificateId": {"Ref": "AWS::IoT::Certificate::Id"}}
    return json.dumps(
        {
            "Parameters": {FIELD: {"Type": "String"}},
            "Resources": {
                "thing": {"Type": "AWS::IoT::Thing", "Properties": properties},
                "certificate": {"Type": "AWS::IoT::Certificate", "Properties": identifier},
                "policy": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyDocument": DOCUMENT}},
            },
        }
    )


def now_of(plant):
    return datetime.datetime.fromtimestamp(plant.clock.wall_ms() / 1000, tz=datetime.UTC)


def authority(plant, name="Plant CA", **options):
    return CertificateAuthority(name, now=now_of(plant), **options)


async def register(plant, ca, *, proof=None, **options):
    code = (await plant.call("GetRegistrationCode"))["registrationCode"]
    made = await plant.call(
        "RegisterCACertificate", caCertificate=ca.pem, verificationCertificate=proof or ca.proof(code),
        **{"setAsActive": True, **options},
    )  # fmt: skip
    return made["certificateId"]


def kind_of(caught):
    return caught.value.data.get("kind")


async def test_life_of_a_ca(plant):
    ca = authority(plant)
    first = await plant.call("GetRegistrationCode")
    assert first == await plant.call("GetRegistrationCode")
    made = await register(plant, ca, setAsActive=False)
    described = (await plant.call("DescribeCACertificate", certificateId=made))["certificateDescription"]
    assert (described["status"], described["autoRegistrationStatus"], described["customerVersion"]) == (
        "INACTIVE",
        "DISABLE",
        1,
    )
    assert described["certificatePem"].split() == ca.pem.split()
    assert described["certificateArn"] == f"arn:aws:iot:local-1:000000000001:cacert/{made}"
    with pytest.raises(AlreadyExists):
        await register(plant, ca)
    await plant.call("UpdateCACertificate", certificateId=made, newStatus="ACTIVE", newAutoRegistrationStatus="ENABLE")
    described = (await plant.call("DescribeCACertificate", certificateId=made))["certificateDescription"]
    assert (described["status"], described["autoRegistrationStatus"], described["customerVersion"]) == (
        "ACTIVE",
        "ENABLE",
        2,
    )
    assert [row["certificateId"] for row in (await plant.call("ListCACertificates"))["certificates"]] == [made]
    with pytest.raises(Conflict) as caught:
        await plant.call("DeleteCACertificate", certificateId=made)
    assert kind_of(caught) == "certificate_state"
    await plant.call("UpdateCACertificate", certificateId=made, newStatus="INACTIVE")
    await plant.call("DeleteCACertificate", certificateId=made)
    for operation in ("DescribeCACertificate", "DeleteCACertificate", "UpdateCACertificate"):
        with pytest.raises(NotFound):
            await plant.call(operation, certificateId=made)
    await plant.call("DeleteRegistrationCode")
    with pytest.raises(NotFound):
        await plant.call("DeleteRegistrationCode")
    assert await plant.call("GetRegistrationCode") != first


async def test_who_cannot_prove_that_he_has_the_key(plant):
    ca, other = authority(plant), authority(plant)
    code = (await plant.call("GetRegistrationCode"))["registrationCode"]
    for proof, kind in (
        (ca.proof("0" * 64), "registration_code"),
        (ca.issue(CN="device", usage=None)[0], "registration_code"),
        (other.proof(code), "certificate"),  # the same name, another key
        (ca.proof(code, starts=DAY, ends=2 * DAY), "certificate"),
        (ca.proof(code, starts=-2 * DAY, ends=-DAY), "certificate"),
        ("x", "certificate"),
        (ca.proof(code) + ca.pem, "certificate"),
    ):
        with pytest.raises(Invalid) as caught:
            await register(plant, ca, proof=proof)
        assert kind_of(caught) == kind, proof
    await plant.call("DeleteRegistrationCode")
    with pytest.raises(Invalid) as caught:
        await plant.call("RegisterCACertificate", caCertificate=ca.pem, verificationCertificate=ca.proof(code))
    assert kind_of(caught) == "registration_code"
    assert (await plant.call("ListCACertificates"))["certificates"] == []


@pytest.mark.parametrize(
    ("options", "why"),
    [
        pytest.param({"is_ca": False}, "CA:FALSE", id="not a CA"),
        pytest.param({"key_bits": 1024}, "RSA of 2048", id="short key"),
        pytest.param({"starts": DAY, "ends": 2 * DAY}, "not valid before", id="not yet"),
        pytest.param({"starts": -2 * DAY, "ends": -timedelta(hours=1)}, "has ended", id="no more"),
    ],
)
async def test_what_cannot_be_a_ca(plant, options, why):
    ca = authority(plant, **options)
    with pytest.raises(Invalid, match=why) as caught:
        await register(plant, ca)
    assert kind_of(caught) == "certificate"


async def test_what_is_refused_of_a_registration(plant):
    ca = authority(plant)
    code = (await plant.call("GetRegistrationCode"))["registrationCode"]
    both = {"caCertificate": ca.pem, "verificationCertificate": ca.proof(code)}
    for params, error, why in (
        ({"certificateMode": "SNI_ONLY"}, Unsupported, "SNI_ONLY"),
        ({"tags": [{"Key": "aws:a"}]}, Invalid, "reserved"),
        ({"verificationCertificate": None}, Invalid, "needs verificationCertificate"),
        ({"registrationConfig": {"templateName": "nobody"}}, NotFound, "nobody"),
        ({"registrationConfig": {"templateBody": jitp()}}, Invalid, "roleArn"),
        ({"registrationConfig": {"templateBody": "{}", "roleArn": plant.role}}, Invalid, "Resources"),
        ({"registrationConfig": {"templateName": "t", "templateBody": jitp()}}, Invalid, "either"),
        ({"registrationConfig": {"roleArn": plant.role}}, Invalid, "either"),
    ):
        with pytest.raises(error, match=why):
            await plant.call("RegisterCACertificate", **{**both, **params})
    assert (await plant.call("ListCACertificates"))["certificates"] == []
    own = plant.identity.pki.root_pem
    with pytest.raises(Invalid):
        await plant.call("RegisterCACertificate", caCertificate=own, verificationCertificate=ca.proof(code))


async def test_ten_cas_of_one_name_and_pages(plant):
    made = set()
    for _ in range(10):
        plant.clock.advance(1)
        made.add(await register(plant, authority(plant, "Twin")))
    with pytest.raises(LimitExceeded):
        await register(plant, authority(plant, "Twin"))
    await register(plant, authority(plant, "Other"))
    found, token = [], None
    while True:
        answer = await plant.call("ListCACertificates", pageSize=4, **({"marker": token} if token else {}))
        found += [row["certificateId"] for row in answer["certificates"]]
        token = answer.get("nextMarker")
        if token is None:
            break
    assert len(found) == 11 and made < set(found)


async def test_registering_certificates(plant):
    ca, other = authority(plant), authority(plant, "Other")
    made = await register(plant, ca)
    pem, _ = ca.issue(CN="one")
    with pytest.raises(Invalid) as caught:
        await plant.call("RegisterCertificate", certificatePem=other.issue(CN="x")[0])
    assert kind_of(caught) == "certificate"
    with pytest.raises(Invalid):
        await plant.call("RegisterCertificate", certificatePem=authority(plant).issue(CN="x")[0])  # an impostor's
    for operation in ("RegisterCertificate", "RegisterCertificateWithoutCA"):
        for status in ("PENDING_TRANSFER", "REGISTER_INACTIVE"):
            with pytest.raises(Invalid):
                await plant.call(operation, certificatePem=pem, status=status)
        with pytest.raises(Conflict) as refused:
            await plant.call(operation, certificatePem=pem, status="PENDING_ACTIVATION")
        assert kind_of(refused) == "certificate_state"
    with pytest.raises(Invalid):
        await plant.call("RegisterCertificate", certificatePem=pem, status="INACTIVE", setAsActive=True)
    assert plant.left()["identity_certificate"] == []
    one = await plant.call("RegisterCertificate", certificatePem=pem)
    described = (await plant.call("DescribeCertificate", certificateId=one["certificateId"]))["certificateDescription"]
    assert (described["status"], described["caCertificateId"]) == ("INACTIVE", made)
    for operation in ("RegisterCertificate", "RegisterCertificateWithoutCA"):
        with pytest.raises(AlreadyExists) as exists:
            await plant.call(operation, certificatePem=pem)
        assert exists.value.data["resourceArn"] == one["certificateArn"]
    alone = await plant.call("RegisterCertificateWithoutCA", certificatePem=other.issue(CN="x")[0], status="ACTIVE")
    described = (await plant.call("DescribeCertificate", certificateId=alone["certificateId"]))[
        "certificateDescription"
    ]
    assert (described["status"], described.get("caCertificateId")) == ("ACTIVE", None)
    listed = (await plant.call("ListCertificatesByCA", caCertificateId=made))["certificates"]
    assert [row["certificateId"] for row in listed] == [one["certificateId"]]
    with pytest.raises(NotFound):
        await plant.call("ListCertificatesByCA", caCertificateId="f" * 64)
    for bad in ("x", pem + pem, pem.replace("A", "B"), plant.identity.pki.root_pem.replace("CERTIFICATE", "X")):
        with pytest.raises(Invalid) as caught:
            await plant.call("RegisterCertificateWithoutCA", certificatePem=bad)
        assert kind_of(caught) == "certificate"


@pytest.mark.parametrize("status", ["PENDING_ACTIVATION", "PENDING_TRANSFER", "REGISTER_INACTIVE"])
async def test_statuses_that_nobody_sets(plant, status):
    issued = await plant.identity.create_certificate()
    with pytest.raises(Invalid):
        await plant.call("UpdateCertificate", certificateId=issued.id, newStatus=status)


async def arrives(plant, pem):
    """A first connection: refused at once, looked at afterwards. Returns the DER."""
    der = plant.der(pem)
    with pytest.raises(Unauthenticated):
        plant.identity.certificate_subject(der)
    plant.clock.advance(3000)
    await plant.provisioning.arrivals.arrived(der)
    return der


def events(plant):
    return [(row[1], json.loads(row[2])) for row in plant.db.outbox_pending()]


async def test_registered_when_it_first_connects(plant):
    ca = authority(plant)
    made = await register(plant, ca, allowAutoRegistration=True)
    pem, _ = ca.issue(CN="pump")
    der = await arrives(plant, pem)
    ((topic, event),) = events(plant)
    assert topic == f"$aws/events/certificates/registered/{made}"
    assert event == {
        "certificateId": event["certificateId"], "caCertificateId": made, "timestamp": plant.clock.wall_ms(),
        "certificateStatus": "PENDING_ACTIVATION", "awsAccountId": "000000000001",
        "certificateRegistrationTimestamp": None,
    }  # fmt: skip
    await arrives(plant, pem)  # says so again until it is activated
    assert len(events(plant)) == 2
    await plant.call("UpdateCertificate", certificateId=event["certificateId"], newStatus="ACTIVE")
    assert plant.identity.certificate_subject(der).principal == event["certificateId"]
    await plant.provisioning.arrivals.arrived(der)
    assert len(events(plant)) == 2


async def test_a_device_that_knocks_without_pause_is_looked_at_once(plant):
    ca = authority(plant)
    await register(plant, ca, allowAutoRegistration=True)
    der = plant.der(ca.issue(CN="pump")[0])
    for _ in range(50):
        with pytest.raises(Unauthenticated):
            plant.identity.certificate_subject(der)
        await plant.provisioning.arrivals.arrived(der)
    assert len(events(plant)) == 1


@pytest.mark.parametrize("how", ["no such CA", "impostor", "closed", "inactive", "deleted"])
async def test_no_trace_of_strangers(plant, how):
    ca = authority(plant)
    made = await register(
        plant, ca, allowAutoRegistration=how != "closed", setAsActive=how not in ("inactive", "deleted")
    )
    if how == "deleted":
        await plant.call("DeleteCACertificate", certificateId=made)
    signer = authority(plant, "Nobody") if how == "no such CA" else authority(plant) if how == "impostor" else ca
    before = plant.left()
    await arrives(plant, signer.issue(CN="pump", names_its_key=False)[0])
    assert (plant.left(), events(plant)) == (before, [])


async def test_provisioned_when_it_first_connects(plant):
    ca = authority(plant)
    made = await register(
        plant, ca, allowAutoRegistration=True, registrationConfig={"templateBody": jitp(), "roleArn": plant.role}
    )
    described = await plant.call("DescribeCACertificate", certificateId=made)
    assert described["registrationConfig"] == {"templateBody": jitp(), "roleArn": plant.role}
    der = await arrives(plant, ca.issue(CN="pump")[0])
    subject = plant.device(der, "pump")
    assert (subject.thing, len(subject.policies)) == ("pump", 1)
    assert events(plant) == []
    # No field that the template wants, a name that a thing cannot have, a thing that is another's: nothing is left.
    before = plant.left()
    for names in ({"O": "nameless"}, {"CN": "no name"}, {"CN": "pump"}):
        with pytest.raises((Invalid, Conflict)):
            await arrives(plant, ca.issue(**names)[0])
    assert plant.left() == before
    # removeAutoRegistration takes the template away, and closes.
    await plant.call("UpdateCACertificate", certificateId=made, removeAutoRegistration=True)
    described = await plant.call("DescribeCACertificate", certificateId=made)
    assert "registrationConfig" not in described
    assert described["certificateDescription"]["autoRegistrationStatus"] == "DISABLE"
    await arrives(plant, ca.issue(CN="late")[0])
    assert plant.left() == before


async def test_a_template_by_name_is_used_as_it_is_now_and_while_it_is_enabled(plant):
    ca = authority(plant)
    await plant.fleet(jitp(), "jit", type="JITP")
    await register(plant, ca, allowAutoRegistration=True, registrationConfig={"templateName": "jit"})
    assert len((await plant.call("ListCACertificates", templateName="jit"))["certificates"]) == 1
    assert (await plant.call("ListCACertificates", templateName="other"))["certificates"] == []
    with pytest.raises(Conflict):
        await plant.call("DeleteProvisioningTemplate", templateName="jit")
    await plant.call("UpdateProvisioningTemplate", templateName="jit", enabled=False)
    before = plant.left()
    with pytest.raises(NotFound):
        await arrives(plant, ca.issue(CN="pump")[0])
    assert plant.left() == before
    await plant.call(
        "CreateProvisioningTemplateVersion", templateName="jit", setAsDefault=True,
        templateBody=jitp(AttributePayload={"v": "2"}),
    )  # fmt: skip
    await plant.call("UpdateProvisioningTemplate", templateName="jit", enabled=True)
    await arrives(plant, ca.issue(CN="pump")[0])
    assert plant.registry.thing("pump").attributes == {"v": "2"}


async def test_a_crowd_of_first_connections_is_bounded(plant):
    ca = authority(plant)
    await register(plant, ca, allowAutoRegistration=True)
    arrivals = plant.provisioning.arrivals
    for number in range(1200):
        arrivals.presented(number.to_bytes(4))
        arrivals.presented(number.to_bytes(4))
    assert arrivals.waiting == 1000
