"""The slice on real identity, registry and objects; replies are kept instead of sent."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from marram.core import sigv4
from marram.hub.objects.service import Objects
from marram.hub.provisioning.service import Provisioning
from marram.hub.slice import TopicMessage
from marram.kit import registry as declarations
from marram.kit.blobs import Blobs
from marram.kit.clock import FakeClock, SeededEntropy
from tests.hub.conftest import Hub

declarations.discover("marram.hub.provisioning.api")
DOCUMENT = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:Publish", "Resource": "*"}]}
CERTIFICATE = {"Type": "AWS::IoT::Certificate", "Properties": {"CertificateId": {"Ref": "AWS::IoT::Certificate::Id"}}}


def template(
    thing: dict | None = None, *, override: dict | None = None, document: object = DOCUMENT, **more: object
) -> str:
    """A template whose thing is named by the parameter Serial."""
    properties = {"ThingName": {"Ref": "Serial"}, **(thing or {})}
    resources = {
        "thing": {"Type": "AWS::IoT::Thing", "Properties": properties, "OverrideSettings": override or {}},
        "certificate": CERTIFICATE,
        "policy": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyDocument": document}},
    }
    return json.dumps({"Parameters": {"Serial": {"Type": "String"}}, "Resources": resources, **more})


class Plant(Hub):
    def open(self) -> None:
        super().open()
        signer = SimpleNamespace(credentials=lambda: sigv4.Credentials("id", "secret"))
        self.objects = Objects(
            self.db, Blobs(self.folder / "blobs", self.db, entropy=self.entropy), self.clock, region="local-1",
            endpoint=lambda: "http://127.0.0.1:4566", signer=signer,
        )  # fmt: skip
        self.answers: list[tuple[str, str, str, bytes]] = []
        self.provisioning = Provisioning(self.db, self.identity, self.registry, self.objects, self, clock=self.clock)
        self.role = self.identity.role_arn()

    def services(self) -> dict[str, object]:
        return {**super().services(), "provisioning": self.provisioning}

    def answer(self, client_id: str, principal: str, topic: str, payload: bytes) -> bool:
        """The port of replies."""
        self.answers.append((client_id, principal, topic, payload))
        return True

    async def claim(self) -> bytes:
        """The DER of a claim certificate."""
        await self.policy("claim", {"Action": "iot:*", "Resource": "*"})
        return await self.certificate("claim")

    async def ask(self, topic: str, body: object, der: bytes, client_id: str = "device") -> tuple[str, dict]:
        """(accepted or rejected, the answer's body) of a request by MQTT."""
        from marram.hub.provisioning import topics
        from marram.hub.slice import TOPICS

        assert topics
        parts = topic.split("/")
        declared = TOPICS.get(topic) or TOPICS["$aws/provisioning-templates/{template}/provision/" + parts[-1]]
        message = TopicMessage(
            topic=topic,
            params={"template": parts[2]},
            payload=body if isinstance(body, bytes) else json.dumps(body).encode(),
            subject=self.device(der, client_id),
            client_id=client_id,
            time_ms=self.clock.wall_ms(),
        )
        before = len(self.answers)
        await declared.function(self.provisioning, message)
        (who, _, at, payload), *more = self.answers[before:]
        assert (who, more) == (client_id, [])
        return at.rpartition("/")[2], json.loads(payload)

    async def fleet(self, body: str, name: str = "fleet", **options: object) -> None:
        await self.call(
            "CreateProvisioningTemplate", templateName=name, templateBody=body,
            **{"enabled": True, "provisioningRoleArn": self.role, **options},
        )  # fmt: skip

    def left(self) -> dict[str, list]:
        """All rows that provisioning could leave behind."""
        tables = {
            "registry_thing": "name", "identity_certificate": "id || status", "identity_policy": "name",
            "identity_attachment": "target || policy", "identity_thing": "thing || certificate",
        }  # fmt: skip
        return {
            table: self.db.read_now(lambda tx, t=table, k=key: sorted(row[0] for row in tx.all(f"SELECT {k} FROM {t}")))  # type: ignore[misc]
            for table, key in tables.items()
        }


@pytest.fixture
async def plant(tmp_path: Path) -> AsyncIterator[Plant]:
    made = Plant(tmp_path, FakeClock(), SeededEntropy(1), slices=("identity", "registry", "objects", "provisioning"))
    made.open()
    yield made
    made.db.close()
