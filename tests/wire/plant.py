"""A fleet to provision: a template, a claim certificate with the policy of AWS's guide, and clients that connect with files."""

import json
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import paho.mqtt.client as paho
from awscrt import io, mqtt
from awsiot import mqtt5_client_builder, mqtt_connection_builder
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

LIMIT_S = 15.0
QOS = mqtt.QoS.AT_LEAST_ONCE
ARN = "arn:aws:iot:*:*:"
DEVICE_POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Action": "iot:Connect", "Resource": f"{ARN}client/${{iot:Connection.Thing.ThingName}}"},
        {"Effect": "Allow", "Action": ["iot:Publish", "iot:Receive"], "Resource": f"{ARN}topic/plant/*"},
        {"Effect": "Allow", "Action": "iot:Subscribe", "Resource": f"{ARN}topicfilter/plant/*"},
    ],
}  # fmt: skip
TEMPLATE: dict[str, Any] = {
    "Parameters": {"SerialNumber": {"Type": "String"}, "DeviceLocation": {"Type": "String", "Default": "Seattle"}},
    "Mappings": {"LocationTable": {"Seattle": {"LocationUrl": "https://example.aws"}}},
    "Resources": {
        "thing": {
            "Type": "AWS::IoT::Thing",
            "Properties": {
                "ThingName": {"Fn::Join": ["", ["lamp-", {"Ref": "SerialNumber"}]]},
                "AttributePayload": {"version": "v1", "serialNumber": {"Ref": "SerialNumber"}},
            },
        },
        "certificate": {
            "Type": "AWS::IoT::Certificate",
            "Properties": {"CertificateId": {"Ref": "AWS::IoT::Certificate::Id"}, "Status": "Active"},
        },
        "policy": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyDocument": DEVICE_POLICY}},
    },
    "DeviceConfiguration": {
        "FallbackUrl": "https://www.example.com/test-site",
        "LocationUrl": {"Fn::FindInMap": ["LocationTable", {"Ref": "DeviceLocation"}, "LocationUrl"]},
    },
}


def claim_policy(template: str) -> dict[str, Any]:
    """As AWS's guide has it, and the topics of requests with a CSR."""
    topics = ["$aws/certificates/create/*", "$aws/certificates/create-from-csr/*",
              f"$aws/provisioning-templates/{template}/provision/*"]  # fmt: skip
    return {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": ["iot:Connect"], "Resource": "*"},
            {"Effect": "Allow", "Action": ["iot:Publish", "iot:Receive"], "Resource": [f"{ARN}topic/{t}" for t in topics]},
            {"Effect": "Allow", "Action": "iot:Subscribe", "Resource": [f"{ARN}topicfilter/{t}" for t in topics]},
        ],
    }  # fmt: skip


class Fleet:
    """A hub with one enabled template and one claim; files of certificates lie in `folder`."""

    def __init__(self, hub: Any, folder: Path, *, template: dict[str, Any] = TEMPLATE, name: str = "fleet") -> None:
        self.hub, self.folder, self.name = hub, folder, name
        self.iot = hub.client("iot")
        self.role = f"arn:aws:iam::{hub.info['account_id']}:role/marram-service"
        self.closers: list[Callable[[], object]] = []
        self.iot.create_provisioning_template(
            templateName=name, templateBody=json.dumps(template), provisioningRoleArn=self.role, enabled=True
        )
        claim = self.iot.create_keys_and_certificate(setAsActive=True)
        self.iot.create_policy(policyName="claim", policyDocument=json.dumps(claim_policy(name)))
        self.iot.attach_policy(policyName="claim", target=claim["certificateArn"])
        self.claim_id = claim["certificateId"]
        self.claim = self.save("claim", claim["certificatePem"], claim["keyPair"]["PrivateKey"])

    def save(self, name: str, certificate_pem: str, key_pem: str) -> tuple[Path, Path]:
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        certificate.write_text(certificate_pem)
        key.write_text(key_pem)
        return certificate, key

    def connect(self, files: tuple[Path, Path], client_id: str, version: str = "5") -> Any:
        """A connected client of awscrt, as the service clients of awsiotsdk take it."""
        options: dict[str, Any] = {
            "endpoint": "localhost", "port": self.hub.port("mqtt"), "ca_filepath": self.hub.info["ca_file"],
            "client_id": client_id, "cert_filepath": str(files[0]), "pri_key_filepath": str(files[1]),
        }  # fmt: skip
        if version == "3.1.1":
            bootstrap = io.ClientBootstrap.get_or_create_static_default()
            connection = mqtt_connection_builder.mtls_from_path(
                **options, client_bootstrap=bootstrap, clean_session=True, keep_alive_secs=30
            )
            connection.connect().result(LIMIT_S)
            self.closers.append(lambda: connection.disconnect().result(LIMIT_S))
            return connection
        up, down, failed = threading.Event(), threading.Event(), threading.Event()

        def stop() -> None:
            client.stop()
            down.wait(LIMIT_S)

        client = mqtt5_client_builder.mtls_from_path(
            **options, on_publish_received=lambda _: None, on_lifecycle_connection_success=lambda _: up.set(),
            on_lifecycle_stopped=lambda _: down.set(), on_lifecycle_connection_failure=lambda _: failed.set(),
        )  # fmt: skip
        client.start()
        self.closers.append(stop)
        assert up.wait(LIMIT_S)
        return client

    def raw(self, files: tuple[Path, Path], client_id: str) -> "Raw":
        made = Raw(self, files, client_id)
        self.closers.append(made.close)
        return made

    def statuses(self) -> dict[str, str]:
        pages = self.iot.get_paginator("list_certificates").paginate()
        return {row["certificateId"]: row["status"] for page in pages for row in page["certificates"]}

    def things(self) -> list[str]:
        return [row["thingName"] for row in self.iot.list_things()["things"]]

    def policies(self) -> list[str]:
        return [row["policyName"] for row in self.iot.list_policies()["policies"]]

    def left(self) -> tuple[list[str], list[str], dict[str, str]]:
        """All that provisioning could leave behind."""
        return self.things(), self.policies(), self.statuses()

    def close(self) -> None:
        for close in reversed(self.closers):
            close()


class Raw:
    """A paho client (MQTT 5): what is sent and what comes back, and how the connection ended."""

    def __init__(self, fleet: Fleet, files: tuple[Path, Path], client_id: str) -> None:
        self.messages: Queue[tuple[str, bytes]] = Queue()
        self.acks: Queue[tuple[str, Any]] = Queue()
        context = ssl.create_default_context(cafile=fleet.hub.info["ca_file"])
        context.load_cert_chain(*files)
        self.client = paho.Client(
            paho.CallbackAPIVersion.VERSION2, client_id, protocol=paho.MQTTv5, reconnect_on_failure=False
        )
        self.client.tls_set_context(context)
        self.client.on_connect = lambda _c, _u, _f, code, _p: self.acks.put(("connack", code.value))
        self.client.on_disconnect = lambda _c, _u, _f, code, _p: self.acks.put(("closed", code.value))
        self.client.on_subscribe = lambda _c, _u, _m, codes, _p: self.acks.put(("suback", [c.value for c in codes]))
        self.client.on_publish = lambda _c, _u, _m, code, _p: self.acks.put(("puback", code.value))
        self.client.on_message = lambda _c, _u, message: self.messages.put((message.topic, message.payload))
        self.client.connect("localhost", fleet.hub.port("mqtt"), 60)
        self.client.loop_start()
        self.connected = self.next()

    def next(self) -> tuple[str, Any]:
        return self.acks.get(timeout=LIMIT_S)

    def subscribe(self, *filters: str) -> list[int]:
        self.client.subscribe([(text, paho.SubscribeOptions(qos=1)) for text in filters])
        kind, codes = self.next()
        assert kind == "suback", (kind, codes)
        return list(codes)

    def publish(self, topic: str, payload: Any) -> tuple[str, Any]:
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        self.client.publish(topic, body, qos=1)
        return self.next()

    def ask(self, topic: str, payload: Any) -> tuple[str, Any]:
        """(last level of the answer's topic, its JSON)."""
        kind, code = self.publish(topic, payload)
        assert (kind, code) in (("puback", 0), ("puback", 16)), (kind, code)
        answer, body = self.messages.get(timeout=LIMIT_S)
        return answer.rpartition("/")[2], json.loads(body)

    def is_silent(self, for_s: float = 0.3) -> bool:
        try:
            self.messages.get(timeout=for_s)
        except Empty:
            return True
        return False

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def signing_request(name: str = "device", *, key: ec.EllipticCurvePrivateKey | None = None) -> tuple[str, str]:
    """(request, key), both PEM."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode(), key_pem(key)


def key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def done(future: "Future[Any]") -> Any:
    return future.result(LIMIT_S)
