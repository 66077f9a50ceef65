"""Fleet provisioning with the unmodified awsiotsdk, both of its clients, MQTT 3.1.1 and 5; and what a claim cannot do."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
from awscrt import mqtt_request_response
from awsiot import V2ServiceException, iotidentity

from marram.core import cbor
from tests.wire.plant import LIMIT_S, QOS, Fleet, done, signing_request

CREATE = "$aws/certificates/create/json"
FROM_CSR = "$aws/certificates/create-from-csr/json"
PROVISION = "$aws/provisioning-templates/fleet/provision/json"


@pytest.fixture
def fleet(start_hub: Callable[..., Any], tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(start_hub(), tmp_path)
    yield made
    made.close()


class First:
    """The first client of the SDK: subscribe, publish, wait."""

    def __init__(self, connection: Any) -> None:
        self.client = iotidentity.IotIdentityClient(connection)
        self.seen: dict[str, Queue[Any]] = {}
        keys, csr = (
            iotidentity.CreateKeysAndCertificateSubscriptionRequest,
            iotidentity.CreateCertificateFromCsrSubscriptionRequest,
        )
        register = iotidentity.RegisterThingSubscriptionRequest
        for operation, request in (
            ("create_keys_and_certificate", keys()),
            ("create_certificate_from_csr", csr()),
            ("register_thing", register(template_name="fleet")),
        ):
            for kind in ("accepted", "rejected"):
                name = f"{operation}_{kind}"
                self.seen[name] = Queue()
                done(getattr(self.client, f"subscribe_to_{name}")(request, QOS, self.seen[name].put)[0])

    def ask(self, operation: str, request: Any, kind: str = "accepted") -> Any:
        done(getattr(self.client, f"publish_{operation}")(request, QOS))
        return self.seen[f"{operation}_{kind}"].get(timeout=LIMIT_S)


def second(connection: Any) -> Any:
    options = mqtt_request_response.ClientOptions(
        max_request_response_subscriptions=6, max_streaming_subscriptions=1, operation_timeout_in_seconds=10
    )
    return iotidentity.IotIdentityClientV2(connection, options)


def is_a_device(fleet: Fleet, files: tuple[Path, Path], thing: str) -> None:
    """The new certificate is the thing's own, and good for what its policy says."""
    device = fleet.raw(files, thing)
    assert device.connected == ("connack", 0)
    assert device.subscribe("plant/7") == [1]
    device.publish("plant/7", {"celsius": 81})
    assert device.messages.get(timeout=LIMIT_S) == ("plant/7", b'{"celsius": 81}')


@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_by_claim_with_the_first_client(fleet: Fleet, version: str) -> None:
    before = fleet.statuses()
    first = First(fleet.connect(fleet.claim, "claiming", version))
    made = first.ask("create_keys_and_certificate", iotidentity.CreateKeysAndCertificateRequest())
    assert fleet.statuses()[made.certificate_id] == "PENDING_ACTIVATION"
    files = fleet.save("device", made.certificate_pem, made.private_key)
    assert fleet.raw(files, "lamp-7").connected[0] == "closed"  # not before it is provisioned
    request = iotidentity.RegisterThingRequest(
        template_name="fleet",
        certificate_ownership_token=made.certificate_ownership_token,
        parameters={"SerialNumber": "7", "DeviceLocation": "Seattle"},
    )
    registered = first.ask("register_thing", request)
    assert registered.thing_name == "lamp-7"
    assert registered.device_configuration == {
        "FallbackUrl": "https://www.example.com/test-site",
        "LocationUrl": "https://example.aws",
    }
    assert fleet.iot.describe_thing(thingName="lamp-7")["attributes"] == {"version": "v1", "serialNumber": "7"}
    principals = fleet.iot.list_thing_principals(thingName="lamp-7")["principals"]
    assert [arn.rpartition("/")[2] for arn in principals] == [made.certificate_id]
    assert set(fleet.statuses().items()) - set(before.items()) == {(made.certificate_id, "ACTIVE")}
    is_a_device(fleet, files, "lamp-7")
    # The same token again, and a parameter that is missing.
    used = first.ask("register_thing", request, "rejected")
    assert (used.status_code, used.error_code) == (400, "InvalidCertificateOwnershipToken")


@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_with_the_second_client_and_a_key_of_the_device(fleet: Fleet, version: str) -> None:
    client = second(fleet.connect(fleet.claim, "claiming", version))
    request, key = signing_request()
    made = done(
        client.create_certificate_from_csr(
            iotidentity.CreateCertificateFromCsrRequest(certificate_signing_request=request)
        )
    )
    ask = iotidentity.RegisterThingRequest(
        template_name="fleet", certificate_ownership_token=made.certificate_ownership_token, parameters={}
    )
    with pytest.raises(V2ServiceException) as caught:
        done(client.register_thing(ask))
    refused = caught.value.modeled_error
    assert (refused.status_code, refused.error_code) == (400, "InvalidParameters")
    assert "SerialNumber" in refused.error_message
    ask.parameters = {"SerialNumber": "8"}
    assert done(client.register_thing(ask)).thing_name == "lamp-8"
    is_a_device(fleet, fleet.save("device", made.certificate_pem, key), "lamp-8")
    keys = done(client.create_keys_and_certificate(iotidentity.CreateKeysAndCertificateRequest()))
    assert "PRIVATE KEY" in keys.private_key
    with pytest.raises(V2ServiceException) as caught:
        done(
            client.create_certificate_from_csr(
                iotidentity.CreateCertificateFromCsrRequest(certificate_signing_request="x")
            )
        )
    assert (caught.value.modeled_error.status_code, caught.value.modeled_error.error_code) == (400, "InvalidCSR")


def test_by_trusted_user(fleet: Fleet) -> None:
    before = fleet.statuses()
    temporary = fleet.iot.create_provisioning_claim(templateName="fleet")
    assert fleet.statuses() == before  # in no list
    files = fleet.save("temporary", temporary["certificatePem"], temporary["keyPair"]["PrivateKey"])
    client = second(fleet.connect(files, "phone"))
    made = done(client.create_keys_and_certificate(iotidentity.CreateKeysAndCertificateRequest()))
    registered = done(
        client.register_thing(
            iotidentity.RegisterThingRequest(
                template_name="fleet",
                certificate_ownership_token=made.certificate_ownership_token,
                parameters={"SerialNumber": "9"},
            )
        )
    )
    assert registered.thing_name == "lamp-9"
    is_a_device(fleet, fleet.save("device", made.certificate_pem, made.private_key), "lamp-9")
    stranger = fleet.raw(files, "other")
    assert stranger.subscribe("plant/7", "$aws/provisioning-templates/other/provision/json/accepted") == [135, 135]
    assert stranger.publish("plant/7", {})[1] in (135, 0x87)


def test_in_cbor(fleet: Fleet) -> None:
    device = fleet.raw(fleet.claim, "small")
    topics = [f"$aws/certificates/create/cbor/{kind}" for kind in ("accepted", "rejected")]
    topics += [f"$aws/provisioning-templates/fleet/provision/cbor/{kind}" for kind in ("accepted", "rejected")]
    device.subscribe(*topics)
    device.publish("$aws/certificates/create/cbor", b"")
    topic, body = device.messages.get(timeout=LIMIT_S)
    made = cbor.loads_object(body)
    assert (topic, "PRIVATE KEY" in made["privateKey"]) == (topics[0], True)
    ask = cbor.dumps(
        {"certificateOwnershipToken": made["certificateOwnershipToken"], "parameters": {"SerialNumber": "c"}}
    )
    device.publish("$aws/provisioning-templates/fleet/provision/cbor", ask)
    topic, body = device.messages.get(timeout=LIMIT_S)
    assert (topic, cbor.loads_object(body)["thingName"]) == (topics[2], "lamp-c")
    device.publish("$aws/provisioning-templates/fleet/provision/cbor", b"{}")
    topic, body = device.messages.get(timeout=LIMIT_S)
    assert (topic, cbor.loads_object(body)["errorCode"]) == (topics[3], "InvalidPayload")


ANSWERS = [f"{topic}/{kind}" for topic in (CREATE, FROM_CSR, PROVISION) for kind in ("accepted", "rejected")]


def test_a_claim_is_good_for_nothing_else(fleet: Fleet) -> None:
    """T1, T2: other topics, other templates, reading what another device is given, using it."""
    device, thief = fleet.raw(fleet.claim, "device"), fleet.raw(fleet.claim, "thief")
    device.subscribe(*ANSWERS)
    # The policy of AWS's guide lets a claim subscribe to what others ask and are answered.
    assert thief.subscribe(CREATE, PROVISION, "$aws/certificates/create/json/+", f"{PROVISION}/+") == [1, 1, 1, 1]
    assert thief.subscribe("$aws/events/#", "plant/#", "$aws/things/+/shadow/update") == [135, 135, 135]
    assert thief.publish("plant/7", {})[1] == 135
    kind, made = device.ask(CREATE, {})
    assert (kind, "privateKey" in made) == ("accepted", True)
    before = fleet.left()
    # A token that was stolen is of no use: not on another connection, not with another claim.
    stolen = {"certificateOwnershipToken": made["certificateOwnershipToken"], "parameters": {"SerialNumber": "evil"}}
    kind, refused = thief.ask(PROVISION, stolen)
    assert (kind, refused["errorCode"]) == ("rejected", "InvalidCertificateOwnershipToken")
    assert fleet.left() == before
    mine = {"certificateOwnershipToken": made["certificateOwnershipToken"], "parameters": {"SerialNumber": "1"}}
    assert device.ask(PROVISION, mine) == ("accepted", {"deviceConfiguration": {
        "FallbackUrl": "https://www.example.com/test-site", "LocationUrl": "https://example.aws"}, "thingName": "lamp-1"})  # fmt: skip
    assert thief.is_silent()  # neither the key of the device nor its request
    # As the thing of another device: the template says nothing of things that exist.
    _, own = thief.ask(CREATE, {})
    before = fleet.left()
    kind, refused = thief.ask(
        PROVISION, {"certificateOwnershipToken": own["certificateOwnershipToken"], "parameters": {"SerialNumber": "1"}}
    )
    assert (kind, refused["statusCode"], refused["errorCode"]) == ("rejected", 409, "ResourceConflict")
    assert fleet.left() == before
    # A claim that is deactivated ends there, with its connections.
    fleet.iot.update_certificate(certificateId=fleet.claim_id, newStatus="INACTIVE")
    assert thief.next()[0] == "closed"
    assert fleet.raw(fleet.claim, "thief").connected[0] == "closed"


def test_a_kill_leaves_whole_devices_or_certificates_that_are_good_for_nothing(
    fleet: Fleet, start_hub: Callable[..., Any], wait_for: Callable[..., Any]
) -> None:
    device = fleet.raw(fleet.claim, "device")
    device.subscribe(*ANSWERS)
    tokens = [device.ask(CREATE, {})[1] for _ in range(30)]
    for number, made in enumerate(tokens):
        body = {
            "certificateOwnershipToken": made["certificateOwnershipToken"],
            "parameters": {"SerialNumber": f"k{number}"},
        }
        device.client.publish(PROVISION, json.dumps(body), qos=1)
    wait_for(lambda: device.messages.qsize() >= 5, "some are provisioned")
    fleet.hub.kill()
    acknowledged = set()
    while not device.messages.empty():
        topic, body = device.messages.get()
        assert topic.endswith("/accepted"), body
        acknowledged.add(json.loads(body)["thingName"])
    device.close()
    fleet.closers.clear()
    fleet.hub = start_hub(fleet.hub.data)
    fleet.iot = fleet.hub.client("iot")
    things = set(fleet.things())
    assert acknowledged <= things
    statuses = fleet.statuses()
    for number, made in enumerate(tokens):
        thing = f"lamp-k{number}"
        if thing in things:
            principals = fleet.iot.list_thing_principals(thingName=thing)["principals"]
            assert [arn.rpartition("/")[2] for arn in principals] == [made["certificateId"]]
            assert statuses[made["certificateId"]] == "ACTIVE"
            assert len(fleet.iot.list_attached_policies(target=principals[0])["policies"]) == 1
        else:
            assert statuses[made["certificateId"]] == "PENDING_ACTIVATION"
    # What was made and not provisioned is provisioned by its token after the start.
    waiting = [made for number, made in enumerate(tokens) if f"lamp-k{number}" not in things]
    again = fleet.raw(fleet.claim, "device")
    again.subscribe(*ANSWERS)
    for number, made in enumerate(waiting[:3]):
        body = {
            "certificateOwnershipToken": made["certificateOwnershipToken"],
            "parameters": {"SerialNumber": f"again{number}"},
        }
        assert again.ask(PROVISION, body)[0] == "accepted"
