"""Certificates that others signed, at the TLS doors of a running hub: CAs registered and removed, JITR, JITP, T8."""

import json
import ssl
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from queue import Empty
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.wire.authority import DAY, CertificateAuthority
from tests.wire.plant import DEVICE_POLICY, LIMIT_S, Fleet

JITP_TEMPLATE = {
    "Parameters": {
        "AWS::IoT::Certificate::CommonName": {"Type": "String"},
        "AWS::IoT::Certificate::SerialNumber": {"Type": "String"},
        "AWS::IoT::Certificate::Country": {"Type": "String"},
        "AWS::IoT::Certificate::Id": {"Type": "String"},
    },
    "Resources": {
        "thing": {
            "Type": "AWS::IoT::Thing",
            "Properties": {
                "ThingName": {"Ref": "AWS::IoT::Certificate::CommonName"},
                "AttributePayload": {
                    "version": "v1",
                    "serialNumber": {"Ref": "AWS::IoT::Certificate::SerialNumber"},
                    "country": {"Ref": "AWS::IoT::Certificate::Country"},
                },
            },
        },
        "certificate": {
            "Type": "AWS::IoT::Certificate",
            "Properties": {"CertificateId": {"Ref": "AWS::IoT::Certificate::Id"}, "Status": "ACTIVE"},
            "OverrideSettings": {"Status": "DO_NOTHING"},
        },
        "policy": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyDocument": json.dumps(DEVICE_POLICY)}},
    },
}


class Plant(Fleet):
    def register(self, authority: CertificateAuthority, **options: Any) -> str:
        proof = authority.proof(self.iot.get_registration_code()["registrationCode"])
        options = {"setAsActive": True, **options}
        return self.iot.register_ca_certificate(
            caCertificate=authority.pem, verificationCertificate=proof, **options
        )["certificateId"]  # fmt: skip

    def device(self, authority: CertificateAuthority, name: str, **options: Any) -> tuple[Path, Path]:
        return self.save(name, *authority.issue(CN=name, **options))

    def knocks(self, files: tuple[Path, Path], client_id: str) -> str:
        """What becomes of a connection: "refused" in the handshake, "closed" after it, "in"."""
        try:
            made = self.raw(files, client_id)
        except (ssl.SSLError, ConnectionError):
            return "refused"
        except Empty:  # TLS 1.3: the alert comes after the client believes it is in
            return "refused"
        return "in" if made.connected == ("connack", 0) else "closed"

    def policy_on(self, certificate_id: str) -> None:
        arn = f"arn:aws:iot:{self.hub.info['region']}:{self.hub.info['account_id']}:cert/{certificate_id}"
        self.iot.attach_policy(policyName="anything", target=arn)


@pytest.fixture
def plant(start_hub: Callable[..., Any], tmp_path: Path) -> Iterator[Plant]:
    made = Plant(start_hub(), tmp_path)
    document = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:*", "Resource": "*"}]}
    made.iot.create_policy(policyName="anything", policyDocument=json.dumps(document))
    yield made
    made.close()


def test_trust_comes_and_goes_while_the_doors_are_open(plant: Plant, wait_for: Callable[..., Any]) -> None:
    authority = CertificateAuthority()
    files = plant.device(authority, "one")
    assert plant.knocks(files, "one") in ("refused", "closed")
    ca = plant.register(authority)
    assert plant.knocks(files, "one") == "closed"  # signed by a CA that we trust, and not registered itself
    assert plant.statuses().keys() == {plant.claim_id}
    one = plant.iot.register_certificate(certificatePem=files[0].read_text(), status="ACTIVE")["certificateId"]
    plant.policy_on(one)
    assert plant.knocks(files, "one") == "in"
    listed = plant.iot.list_certificates_by_ca(caCertificateId=ca)["certificates"]
    assert [row["certificateId"] for row in listed] == [one]
    assert plant.iot.describe_certificate(certificateId=one)["certificateDescription"]["caCertificateId"] == ca
    # A deactivated CA registers nothing new; what is registered works on (AWS: until each is revoked).
    plant.iot.update_ca_certificate(certificateId=ca, newStatus="INACTIVE")
    assert plant.knocks(files, "one") == "in"
    with pytest.raises(ClientError) as caught:
        plant.iot.register_certificate(certificatePem=plant.device(authority, "two")[0].read_text())
    assert caught.value.response["Error"]["Code"] == "CertificateStateException"
    # The CA goes: its registered device stays, a stranger of it does not even get through the handshake.
    stranger = plant.device(authority, "three")
    assert plant.knocks(stranger, "three") == "closed"
    plant.iot.delete_ca_certificate(certificateId=ca)
    wait_for(lambda: handshake(plant, stranger) == "refused", "the trust is gone")
    assert plant.knocks(files, "one") == "in"
    plant.iot.update_certificate(certificateId=one, newStatus="REVOKED")
    assert plant.knocks(files, "one") == "closed"
    plant.hub.kill()


def handshake(plant: Plant, files: tuple[Path, Path]) -> str:
    """TLS alone: "refused" or "through". TLS 1.2, where the client hears of it at once."""
    import socket

    context = ssl.create_default_context(cafile=plant.hub.info["ca_file"])
    context.load_cert_chain(*files)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    try:
        with socket.create_connection(("localhost", plant.hub.port("mqtt")), LIMIT_S) as plain:
            context.wrap_socket(plain, server_hostname="localhost").close()
    except (ssl.SSLError, ConnectionError):
        return "refused"
    return "through"


def test_without_a_ca_and_with_two_of_one_name(
    plant: Plant, start_hub: Callable[..., Any], wait_for: Callable[..., Any]
) -> None:
    nobody = CertificateAuthority("Somebody's own")
    alone = plant.device(nobody, "alone")
    made = plant.iot.register_certificate_without_ca(certificatePem=alone[0].read_text(), status="ACTIVE")
    plant.policy_on(made["certificateId"])
    assert plant.knocks(alone, "alone") == "in"
    assert handshake(plant, plant.device(nobody, "brother")) == "refused"  # the one certificate, not who signed it
    first, second = CertificateAuthority("Twin"), CertificateAuthority("Twin")
    plant.register(first)
    plant.register(second)
    for number, (authority, says) in enumerate([(first, True), (second, True), (first, False), (second, False)]):
        files = plant.device(authority, f"twin{number}", names_its_key=says)
        pem = files[0].read_text()
        with pytest.raises(ClientError) as caught:
            plant.iot.register_certificate(certificatePem=pem, status="ACTIVE")
        assert caught.value.response["Error"]["Code"] == "CertificateConflictException"
        with pytest.raises(ClientError) as caught:
            other = second if authority is first else first
            plant.iot.register_certificate(certificatePem=pem, caCertificatePem=other.pem, status="ACTIVE")
        assert caught.value.response["Error"]["Code"] == "CertificateValidationException"
        made = plant.iot.register_certificate(certificatePem=pem, caCertificatePem=authority.pem, status="ACTIVE")
        plant.policy_on(made["certificateId"])
        wait_for(lambda files=files, name=f"twin{number}": plant.knocks(files, name) == "in", f"twin {number} gets in")
    # All of it is there after a start.
    plant.hub.kill()
    plant.hub = start_hub(plant.hub.data)
    assert plant.knocks(alone, "alone") == "in"
    assert plant.knocks((plant.folder / "twin3.pem", plant.folder / "twin3.key"), "twin3") == "in"


def test_certificates_out_of_their_time_or_for_servers_are_refused_in_the_handshake(plant: Plant) -> None:
    from cryptography.x509.oid import ExtendedKeyUsageOID

    authority = CertificateAuthority()
    plant.register(authority)
    for name, options, through in (
        ("early", {"starts": DAY, "ends": 2 * DAY}, False),
        ("late", {"starts": -2 * DAY, "ends": -timedelta(hours=1)}, False),
        ("server", {"usage": ExtendedKeyUsageOID.SERVER_AUTH}, False),
        ("good", {}, True),
    ):
        files = plant.device(authority, name, **options)
        made = plant.iot.register_certificate(certificatePem=files[0].read_text(), status="ACTIVE")["certificateId"]
        plant.policy_on(made)
        assert (handshake(plant, files) == "through") is through, name
        assert (plant.knocks(files, name) == "in") is through, name


def test_just_in_time_registration(plant: Plant) -> None:
    authority = CertificateAuthority()
    ca = plant.register(authority, allowAutoRegistration=True)
    watcher = plant.raw(plant.claim, "watcher")
    assert watcher.subscribe("$aws/events/certificates/registered/+") == [135]
    plant.policy_on(plant.claim_id)
    watcher = plant.raw(plant.claim, "watcher")
    assert watcher.subscribe("$aws/events/certificates/registered/+") == [1]
    files = plant.device(authority, "new")
    assert plant.knocks(files, "new") == "closed"
    topic, body = watcher.messages.get(timeout=LIMIT_S)
    event = json.loads(body)
    assert topic == f"$aws/events/certificates/registered/{ca}"
    assert (event["caCertificateId"], event["certificateStatus"]) == (ca, "PENDING_ACTIVATION")
    assert event["awsAccountId"] == plant.hub.info["account_id"]
    new = event["certificateId"]
    assert plant.statuses()[new] == "PENDING_ACTIVATION"
    assert plant.knocks(files, "new") == "closed"  # until somebody activates it
    plant.iot.update_certificate(certificateId=new, newStatus="ACTIVE")
    plant.policy_on(new)
    assert plant.knocks(files, "new") == "in"
    # Not when the CA is closed, inactive, or another one of the same name.
    plant.iot.update_ca_certificate(certificateId=ca, newAutoRegistrationStatus="DISABLE")
    before = plant.statuses()
    assert plant.knocks(plant.device(authority, "closed"), "closed") == "closed"
    plant.iot.update_ca_certificate(certificateId=ca, newAutoRegistrationStatus="ENABLE", newStatus="INACTIVE")
    assert plant.knocks(plant.device(authority, "inactive"), "inactive") == "closed"
    plant.iot.update_ca_certificate(certificateId=ca, newStatus="ACTIVE")
    impostor = CertificateAuthority()  # the same name, another key
    assert plant.knocks(plant.device(impostor, "impostor", names_its_key=False), "impostor") in ("refused", "closed")
    assert watcher.is_silent()
    assert plant.statuses() == before


def test_just_in_time_provisioning(plant: Plant, wait_for: Callable[..., Any]) -> None:
    plant.iot.create_provisioning_template(
        templateName="jit", type="JITP", templateBody=json.dumps(JITP_TEMPLATE), provisioningRoleArn=plant.role
    )
    authority = CertificateAuthority()
    ca = plant.register(authority, allowAutoRegistration=True, registrationConfig={"templateName": "jit"})
    described = plant.iot.describe_ca_certificate(certificateId=ca)
    assert described["registrationConfig"] == {"templateName": "jit"}
    with pytest.raises(ClientError) as caught:
        plant.iot.delete_provisioning_template(templateName="jit")
    assert caught.value.response["Error"]["Code"] == "DeleteConflictException"
    files = plant.device(authority, "pump", C="SE", serialNumber="17")
    before = plant.left()
    assert plant.knocks(files, "pump") == "closed"
    wait_for(lambda: "provisioning.arrival_refused" in log_of(plant), "the template is not enabled")
    assert plant.left() == before
    plant.iot.update_provisioning_template(templateName="jit", enabled=True)

    def is_in() -> bool:
        return plant.knocks(files, "pump") == "in"

    wait_for(is_in, "a later try gets in")
    assert plant.iot.describe_thing(thingName="pump")["attributes"] == {
        "version": "v1",
        "serialNumber": "17",
        "country": "SE",
    }
    # A field that the template wants and the certificate has not: nothing is left of it.
    before = plant.left()
    assert plant.knocks(plant.device(authority, "nameless", serialNumber="18"), "nameless") == "closed"
    # A second certificate with the name of a thing that has one does not take its place.
    assert plant.knocks(plant.device(authority, "pump", C="SE", serialNumber="17"), "pump") == "closed"
    wait_for(lambda: log_of(plant).count("provisioning.arrival_refused") >= 3, "both are refused")
    assert plant.left() == before


def log_of(plant: Plant) -> str:
    return (plant.folder / "hub.log").read_text()


def test_the_chain_that_a_client_sends_does_not_make_it_ours(plant: Plant) -> None:
    """T8: an own intermediate below a registered root is not the registered CA; self-signed copies are not either."""
    root = CertificateAuthority("Root")
    plant.register(root, allowAutoRegistration=True)
    middle = CertificateAuthority("Middle", parent=root)
    leaf, key = middle.issue(CN="below")
    files = plant.save("below", leaf + middle.pem, key)
    before = plant.left()
    assert plant.knocks(files, "below") in ("closed", "refused")
    copy = CertificateAuthority("Root")
    leaf, key = copy.issue(CN="copy", names_its_key=False)
    assert plant.knocks(plant.save("copy", leaf + copy.pem, key), "copy") in ("closed", "refused")
    assert plant.left() == before
