"""A hub's identity and registry on a real database; the API functions called as the border calls them."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from marram.hub.border import plans
from marram.hub.border.paging import TOKENS_IN, TOKENS_OUT, Pages
from marram.hub.border.shapes import Shapes
from marram.hub.bus import Bus
from marram.hub.identity import api as identity_api
from marram.hub.identity.pki import Pki
from marram.hub.identity.service import Identity, PrincipalChanged, Subject
from marram.hub.registry.service import GroupDeleted, GroupMembershipChanged, Registry, ThingChanged, ThingDeleted
from marram.hub.slice import OPERATIONS, Call
from marram.kit import registry as declarations
from marram.kit.clock import FakeClock, SeededEntropy
from marram.kit.db import Db, Migrations

PAGES = Pages(b"k" * 32)
ACCOUNT, REGION = "000000000001", "local-1"
ARN = f"arn:aws:iot:{REGION}:{ACCOUNT}:"
assert identity_api  # importing it declares its operations
declarations.discover("marram.hub.registry.api")


@dataclass
class Hub:
    folder: Path
    clock: FakeClock
    entropy: SeededEntropy
    events: list[object] = field(default_factory=list)
    slices: tuple[str, ...] = ("identity", "registry")

    def open(self) -> None:
        self.bus = Bus()
        for kind in (PrincipalChanged, ThingChanged, ThingDeleted, GroupMembershipChanged, GroupDeleted):
            self.bus.subscribe(kind, self.events.append)
        sources = [Migrations(slice=name, package=f"marram.hub.{name}") for name in self.slices]
        self.db = Db.open(self.folder / "hub.db", clock=self.clock, entropy=self.entropy, migrations=sources)
        pki = Pki.open(self.folder / "pki", clock=self.clock, entropy=self.entropy, names=["hub.example"])
        self.identity = Identity(
            self.db, pki, self.bus, clock=self.clock, entropy=self.entropy, account=ACCOUNT, region=REGION,
            endpoints=lambda: {"mqtt": "mqtts://localhost:8883", "https": "https://localhost:8443"},
        )  # fmt: skip
        self.registry = Registry(
            self.db, self.identity, self.bus, entropy=self.entropy, endpoint=lambda: ("localhost", 8443)
        )

    def services(self) -> dict[str, object]:
        return {"identity": self.identity, "registry": self.registry}

    async def reopen(self) -> None:
        self.db.close()
        self.open()

    async def call(self, operation: str, service: str = "iot", **params: object) -> dict[str, object]:
        """Run an operation and hold its result against the model; null members are left out, as on the wire."""
        declared = OPERATIONS[(service, operation)]
        call = Call(
            subject=self.identity.internal, account=ACCOUNT, region=REGION, request_id="r", source_ip="127.0.0.1",
            now_ms=self.clock.wall_ms(), extra={"service": self.services()[declared.slice]},
        )  # fmt: skip
        given = {
            name: PAGES.last(operation, str(value)) if name in TOKENS_IN else value for name, value in params.items()
        }
        assert declared.resource(call, given)
        result = dict(await declared.function(self.services()[declared.slice], call, given))
        for name in TOKENS_OUT:
            if result.get(name) is not None:
                result[name] = PAGES.token(operation, result[name])
        plan = plans.load(service)
        planned = plan.operations[operation]
        if planned.output is None:
            assert not result
        else:
            Shapes(plan).write_json(planned.output)(result, operation)
        return {key: value for key, value in result.items() if value is not None}

    async def certificate(self, *policies: str, thing: str = "", active: bool = True) -> bytes:
        """The DER of a new certificate with policies attached; `thing` is made and attached when it is given."""
        issued = await self.identity.create_certificate(active=active)
        for policy in policies:
            await self.identity.attach_policy(policy, f"{ARN}cert/{issued.id}")
        if thing:
            await self.registry.create_thing(thing)
            await self.registry.attach_principal(thing, f"{ARN}cert/{issued.id}")
        return issued.der

    @staticmethod
    def document(*statements: dict[str, object]) -> str:
        """Statements allow unless they say otherwise."""
        return json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", **row} for row in statements]})

    @staticmethod
    def der(pem: str) -> bytes:
        return x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER)

    async def policy(self, name: str, *statements: dict[str, object]) -> str:
        await self.identity.create_policy(name, self.document(*statements))
        return name

    def device(self, der: bytes, client_id: str) -> Subject:
        return self.identity.with_client(self.identity.certificate_subject(der), client_id)


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[Hub]:
    made = Hub(tmp_path, FakeClock(), SeededEntropy(1))
    made.open()
    yield made
    made.db.close()
