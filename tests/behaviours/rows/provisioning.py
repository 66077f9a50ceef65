"""Provisioning: templates, claims, tokens, certificates of other CAs."""

import datetime
import json
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.behaviours.row import row
from tests.behaviours.world import Device, Mqtt, World

API = "guide: fleet-provision-api"
TEMPLATES = "guide: provision-template"
CREATE = "$aws/certificates/create/json"
DOCUMENT = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:*", "Resource": "*"}]}


def _role(world: World) -> str:
    return f"arn:aws:iam::{world.account}:role/marram-service"


def _body(thing: dict[str, Any] | None = None, **more: Any) -> str:
    properties = {"ThingName": {"Ref": "Serial"}, **(thing or {})}
    resources = {
        "thing": {"Type": "AWS::IoT::Thing", "Properties": properties},
        "certificate": {
            "Type": "AWS::IoT::Certificate",
            "Properties": {"CertificateId": {"Ref": "AWS::IoT::Certificate::Id"}, "Status": "Active"},
        },
        "policy": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyDocument": DOCUMENT}},
    }
    return json.dumps({"Parameters": {"Serial": {"Type": "String"}}, "Resources": resources, **more})


def _template(world: World, body: str | None = None, **options: Any) -> str:
    name = world.name("fleet")[:36]
    world.iot.create_provisioning_template(
        templateName=name,
        templateBody=body or _body(),
        provisioningRoleArn=_role(world),
        **{"enabled": True, **options},
    )
    return name


def _claim(world: World, template: str) -> Mqtt:
    """A connected claim that listens to every answer."""
    claim = world.mqtt(world.device())
    assert claim.connect() == 0
    topics = [f"{CREATE}/accepted", f"{CREATE}/rejected"]
    topics += [f"$aws/provisioning-templates/{template}/provision/json/{kind}" for kind in ("accepted", "rejected")]
    assert claim.subscribe(*topics) == [1, 1, 1, 1]
    return claim


def _ask(claim: Mqtt, topic: str, body: Any) -> tuple[str, Any]:
    claim.publish(topic, body)
    answer = claim.receive()
    return answer.topic.rpartition("/")[2], json.loads(answer.payload)


def _register(claim: Mqtt, template: str, token: str, **parameters: str) -> tuple[str, Any]:
    body = {"certificateOwnershipToken": token, "parameters": parameters}
    return _ask(claim, f"$aws/provisioning-templates/{template}/provision/json", body)


@row(aws="CreateKeysAndCertificate over MQTT answers with id, PEM, key and ownership token.", source=API)
def create_over_mqtt(world: World) -> None:
    kind, made = _ask(_claim(world, "none"), CREATE, b"")
    assert (kind, sorted(made)) == (
        "accepted",
        ["certificateId", "certificateOwnershipToken", "certificatePem", "privateKey"],
    )


@row(aws="A certificate made over MQTT is PENDING_ACTIVATION until RegisterThing.", source=API)
def pending_until_registered(world: World) -> None:
    template = _template(world)
    claim = _claim(world, template)
    _, made = _ask(claim, CREATE, b"")
    described = world.iot.describe_certificate(certificateId=made["certificateId"])["certificateDescription"]
    assert described["status"] == "PENDING_ACTIVATION"
    name = world.name("thing")
    kind, answer = _register(claim, template, made["certificateOwnershipToken"], Serial=name)
    assert (kind, answer["thingName"]) == ("accepted", name)
    described = world.iot.describe_certificate(certificateId=made["certificateId"])["certificateDescription"]
    assert described["status"] == "ACTIVE"
    principals = world.iot.list_thing_principals(thingName=name)["principals"]
    assert [arn.rpartition("/")[2] for arn in principals] == [made["certificateId"]]


@row(
    aws="An empty ownership token is 400 InvalidCertificateOwnershipToken.", source="observed: aws-iot-device-sdk-js-v2"
)
def empty_token(world: World) -> None:
    template = _template(world)
    kind, refused = _register(_claim(world, template), template, "", Serial="x")
    assert (kind, refused["statusCode"], refused["errorCode"]) == ("rejected", 400, "InvalidCertificateOwnershipToken")
    assert refused["errorMessage"] == "Certificate ownership token cannot be empty."


@row(
    aws="A message that is not JSON is 400 InvalidPayload.",
    source="observed: Fleet-Provisioning-for-AWS-IoT-embedded-sdk",
)
def broken_payload(world: World) -> None:
    kind, refused = _ask(_claim(world, "none"), CREATE, b"{")
    assert (kind, refused["statusCode"], refused["errorCode"]) == ("rejected", 400, "InvalidPayload")


@row(aws="An ownership token is good once.", source="guide is silent", unconfirmed=True)
def token_once(world: World) -> None:
    template = _template(world)
    claim = _claim(world, template)
    _, made = _ask(claim, CREATE, b"")
    assert _register(claim, template, made["certificateOwnershipToken"], Serial=world.name("thing"))[0] == "accepted"
    kind, refused = _register(claim, template, made["certificateOwnershipToken"], Serial=world.name("thing"))
    assert (kind, refused["errorCode"]) == ("rejected", "InvalidCertificateOwnershipToken")


@row(aws="Answers go through the connection that asked, and to no other.", source=API)
def answers_are_private(world: World) -> None:
    other = _claim(world, "none")
    assert _ask(_claim(world, "none"), CREATE, b"")[0] == "accepted"
    assert other.silent()


@row(aws="A second certificate may be attached to a thing that exists by the same template.", source=TEMPLATES,
     differs="a thing that has a certificate is given away only when the template has OverrideSettings for it",
     unconfirmed=True)  # fmt: skip
def thing_of_another(world: World) -> None:
    template, name = _template(world), world.name("thing")
    claim = _claim(world, template)
    for _ in range(2):
        _, made = _ask(claim, CREATE, b"")
        assert _register(claim, template, made["certificateOwnershipToken"], Serial=name)[0] == "accepted"


@row(aws="A parameter without a value and without a default refuses the request.", source=TEMPLATES)
def parameter_missing(world: World) -> None:
    template = _template(world)
    claim = _claim(world, template)
    _, made = _ask(claim, CREATE, b"")
    kind, refused = _register(claim, template, made["certificateOwnershipToken"])
    assert (kind, refused["statusCode"]) == ("rejected", 400)


@row(aws="DeviceConfiguration comes with the answer, its functions evaluated.", source=TEMPLATES)
def device_configuration(world: World) -> None:
    body = _body(
        Mappings={"M": {"a": {"url": "https://a"}}},
        DeviceConfiguration={"u": {"Fn::FindInMap": ["M", "a", "url"]}, "s": {"Fn::Sub": "x-${Serial}"}},
    )
    template, name = _template(world, body), world.name("thing")
    claim = _claim(world, template)
    _, made = _ask(claim, CREATE, b"")
    _, answer = _register(claim, template, made["certificateOwnershipToken"], Serial=name)
    assert answer["deviceConfiguration"] == {"u": "https://a", "s": f"x-{name}"}


@row(aws="A claim of CreateProvisioningClaim lives five minutes and is not in the list of certificates.",
     source="guide: provision-wo-cert")  # fmt: skip
def trusted_user(world: World) -> None:
    template = _template(world)
    before = datetime.datetime.now(datetime.UTC)
    made = world.iot.create_provisioning_claim(templateName=template)
    assert 280 < (made["expiration"] - before).total_seconds() < 320
    listed = world.iot.list_certificates(pageSize=250)["certificates"]
    assert made["certificateId"] not in [found["certificateId"] for found in listed]
    files = world.folder / f"{template}.pem", world.folder / f"{template}.key"
    files[0].write_text(made["certificatePem"])
    files[1].write_text(made["keyPair"]["PrivateKey"])
    device = Device(id=made["certificateId"], arn="", certificate=files[0], key=files[1], policy="", thing="", pem="")
    claim = world.mqtt(device)
    assert claim.connect() == 0
    assert claim.subscribe(f"{CREATE}/accepted") == [1]
    assert _ask(claim, CREATE, b"")[0] == "accepted"


@row(
    aws="A template is made disabled unless enabled is given; versions count from 1.",
    source="model: CreateProvisioningTemplate",
)
def template_defaults(world: World) -> None:
    name = _template(world, enabled=False)
    found = world.iot.describe_provisioning_template(templateName=name)
    assert (found["enabled"], found["type"], found["defaultVersionId"]) == (False, "FLEET_PROVISIONING", 1)
    made = world.iot.create_provisioning_template_version(templateName=name, templateBody=_body())
    assert (made["versionId"], made["isDefaultVersion"]) == (2, False)


@row(
    aws="The default version of a template cannot be deleted: DeleteConflictException.",
    source="model: DeleteProvisioningTemplateVersion",
)
def default_version_stays(world: World) -> None:
    name = _template(world)
    with world.refused("DeleteConflictException", 409):
        world.iot.delete_provisioning_template_version(templateName=name, versionId=1)


@row(
    aws="A template of the same name is ResourceAlreadyExistsException, 409.",
    source="model: CreateProvisioningTemplate",
)
def template_twice(world: World) -> None:
    name = _template(world)
    with world.refused("ResourceAlreadyExistsException", 409):
        world.iot.create_provisioning_template(
            templateName=name, templateBody=_body(), provisioningRoleArn=_role(world)
        )


# certificates of other CAs


class _Authority:
    def __init__(self, name: str) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.pem = _pem(self._sign(self.name, self.key.public_key(), is_ca=True))

    def issue(self, name: str) -> str:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        return _pem(self._sign(subject, ec.generate_private_key(ec.SECP256R1()).public_key(), is_ca=False))

    def _sign(self, subject: x509.Name, key: Any, *, is_ca: bool) -> x509.Certificate:
        now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self.name).public_key(key)
        builder = (
            builder.serial_number(x509.random_serial_number()).not_valid_before(now - day).not_valid_after(now + day)
        )
        builder = builder.add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        return builder.add_extension(identifier, critical=False).sign(self.key, hashes.SHA256())

    def register(self, world: World, **options: Any) -> str:
        proof = self.issue(world.iot.get_registration_code()["registrationCode"])
        made = world.iot.register_ca_certificate(caCertificate=self.pem, verificationCertificate=proof, **options)
        return str(made["certificateId"])


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


@row(aws="A registered CA is INACTIVE and closed unless asked otherwise.", source="guide: register-CA-cert")
def ca_defaults(world: World) -> None:
    made = _Authority(world.name("ca")).register(world)
    found = world.iot.describe_ca_certificate(certificateId=made)["certificateDescription"]
    assert (found["status"], found["autoRegistrationStatus"]) == ("INACTIVE", "DISABLE")


@row(aws="GetRegistrationCode gives the same code until it is deleted.", source="model: GetRegistrationCode")
def registration_code(world: World) -> None:
    first = world.iot.get_registration_code()["registrationCode"]
    assert (len(first), world.iot.get_registration_code()["registrationCode"]) == (64, first)


@row(
    aws="A verification certificate of another common name is RegistrationCodeValidationException.",
    source="model: RegisterCACertificate",
)
def wrong_code(world: World) -> None:
    authority = _Authority(world.name("ca"))
    with world.refused("RegistrationCodeValidationException", 400):
        world.iot.register_ca_certificate(caCertificate=authority.pem, verificationCertificate=authority.issue("x"))


@row(aws="The same CA twice is ResourceAlreadyExistsException.", source="model: RegisterCACertificate")
def ca_twice(world: World) -> None:
    authority = _Authority(world.name("ca"))
    authority.register(world)
    with world.refused("ResourceAlreadyExistsException", 409):
        authority.register(world)


@row(aws="An active CA is not deleted: CertificateStateException, 406.", source="model: DeleteCACertificate")
def delete_active_ca(world: World) -> None:
    made = _Authority(world.name("ca")).register(world, setAsActive=True)
    with world.refused("CertificateStateException", 406):
        world.iot.delete_ca_certificate(certificateId=made)


@row(
    aws="A registered certificate is INACTIVE unless asked otherwise, and names its CA.",
    source="model: RegisterCertificate",
)
def register_certificate(world: World) -> None:
    authority = _Authority(world.name("ca"))
    ca = authority.register(world, setAsActive=True)
    made = world.iot.register_certificate(certificatePem=authority.issue("d"), caCertificatePem=authority.pem)
    found = world.iot.describe_certificate(certificateId=made["certificateId"])["certificateDescription"]
    assert (found["status"], found["caCertificateId"]) == ("INACTIVE", ca)
    listed = world.iot.list_certificates_by_ca(caCertificateId=ca)["certificates"]
    assert [one["certificateId"] for one in listed] == [made["certificateId"]]


@row(
    aws="A certificate whose CA is not registered is CertificateValidationException.",
    source="model: RegisterCertificate",
    unconfirmed=True,
)
def register_without_its_ca(world: World) -> None:
    with world.refused("CertificateValidationException", 400):
        world.iot.register_certificate(certificatePem=_Authority(world.name("ca")).issue("d"))


@row(aws="RegisterCertificateWithoutCA takes a certificate of any CA.", source="model: RegisterCertificateWithoutCA")
def register_alone(world: World) -> None:
    pem = _Authority(world.name("ca")).issue("d")
    made = world.iot.register_certificate_without_ca(certificatePem=pem, status="ACTIVE")
    found = world.iot.describe_certificate(certificateId=made["certificateId"])["certificateDescription"]
    assert (found["status"], "caCertificateId" in found) == ("ACTIVE", False)
    with world.refused("ResourceAlreadyExistsException", 409):
        world.iot.register_certificate_without_ca(certificatePem=pem)


@row(aws="Nobody can set a certificate to PENDING_ACTIVATION.", source="model: UpdateCertificate")
def pending_is_not_settable(world: World) -> None:
    device = world.device()
    with world.refused("InvalidRequestException", 400):
        world.iot.update_certificate(certificateId=device.id, newStatus="PENDING_ACTIVATION")


@row(aws="RegisterThing answers with the ARNs of what it made, by logical name.", source="model: RegisterThing")
def register_thing(world: World) -> None:
    name = world.name("thing")
    body = {"Resources": {"thing": {"Type": "AWS::IoT::Thing", "Properties": {"ThingName": name}}}}
    made = world.iot.register_thing(templateBody=json.dumps(body))
    assert made["resourceArns"] == {"thing": world.arn(f"thing/{name}")}


@row(aws="A certificate is not registered as PENDING_ACTIVATION: CertificateStateException, 406.",
     source="observed: ministack, pull request 1755")  # fmt: skip
def pending_is_not_registered(world: World) -> None:
    pem = _Authority(world.name("ca")).issue("d")
    with world.refused("CertificateStateException", 406):
        world.iot.register_certificate_without_ca(certificatePem=pem, status="PENDING_ACTIVATION")
