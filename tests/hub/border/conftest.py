"""A door over a real identity, with every declared operation and route: their functions only note that they were reached."""

import json
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from marram.core import sigv4
from marram.hub.border.awsjson import Request, Response
from marram.hub.border.chain import Api
from marram.hub.bus import Bus
from marram.hub.identity.model import Session
from marram.hub.identity.pki import Pki
from marram.hub.identity.service import Identity
from marram.hub.slice import OPERATIONS, ROUTES, Call, Params, RawRequest, RawResponse, Result
from marram.kit.clock import FakeClock, SeededEntropy
from marram.kit.db import Db, Migrations

ACCOUNT, REGION = "000000000001", "local-1"
LOOKS = ("iot:Describe*", "iot:List*", "iot:Get*", "greengrass:Get*", "greengrass:List*")
DEVICE = ("iot:Connect", "iot:Publish", "iotjobsdata:GetPendingJobExecutions")
COMPONENT = ("s3:GetObject",)


@dataclass
class Door:
    api: Api
    identity: Identity
    clock: FakeClock
    certificate: bytes = b""
    admin: sigv4.Credentials = field(default_factory=lambda: sigv4.Credentials("", ""))
    viewer: sigv4.Credentials = field(default_factory=lambda: sigv4.Credentials("", ""))
    component: sigv4.Credentials = field(default_factory=lambda: sigv4.Credentials("", ""))
    reached: list[str] = field(default_factory=list)
    params: dict[str, Any] = field(default_factory=dict)

    async def ask(self, request: Request) -> tuple[bool, Response]:
        """Whether the function was reached, and the answer."""
        self.reached.clear()
        answer = await self.api.handle(request)
        return bool(self.reached), answer


def allowing(actions: tuple[str, ...]) -> str:
    rows = [{"Effect": "Allow", "Action": list(actions), "Resource": "*"}]
    return json.dumps({"Version": "2012-10-17", "Statement": rows})


@pytest.fixture
async def real_door(tmp_path: Path) -> AsyncIterator[Door]:
    clock, entropy = FakeClock(), SeededEntropy(1)
    db = Db.open(
        tmp_path / "hub.db", clock=clock, migrations=[Migrations(slice="identity", package="marram.hub.identity")]
    )
    pki = Pki.open(tmp_path / "pki", clock=clock, entropy=entropy, names=["localhost"])
    identity = Identity(db, pki, Bus(), clock=clock, entropy=entropy, account=ACCOUNT, region=REGION)
    door = Door(None, identity, clock)  # type: ignore[arg-type]  # filled below
    service = MagicMock()
    service.__class__ = Identity

    def operation(key: tuple[str, str]) -> Any:
        declared = OPERATIONS[key]

        async def reached(_: object, call: Call, params: Params) -> Result:
            door.reached.append(declared.name)
            door.params = dict(params)
            return {}

        def resource(call: Call, params: Params) -> Any:
            made = declared.resource(call, params)
            return made if isinstance(made, str | list) else str(made)

        return replace(declared, function=reached, resource=resource)

    def route(key: tuple[str, str]) -> Any:
        async def reached(_: object, request: RawRequest) -> RawResponse:
            door.reached.append(key[1])
            return RawResponse()

        return replace(ROUTES[key], function=reached)

    slices = {each.slice for each in (*OPERATIONS.values(), *ROUTES.values())}
    door.api = Api(
        services=dict.fromkeys(slices, service), identity=identity, clock=clock, entropy=entropy, account=ACCOUNT,
        region=REGION, page_key=b"k" * 32, operations={key: operation(key) for key in OPERATIONS},
        routes={key: route(key) for key in ROUTES},
    )  # fmt: skip
    issued = await identity.create_certificate(active=True)
    await identity.create_policy("device", allowing(DEVICE))
    await identity.attach_policy("device", identity.arn_of(issued.id))
    door.certificate = ssl.PEM_cert_to_DER_cert(issued.pem)
    admin = identity.admin_key()
    door.admin = sigv4.Credentials(admin.id, admin.secret)
    viewer = await identity.create_key("viewer", allowing(LOOKS))
    door.viewer = sigv4.Credentials(viewer.id, viewer.secret)
    component = await identity.create_key("component", allowing(COMPONENT))
    minted = identity.sessions.mint(Session(kind="key", owner=component.id), 3600)
    door.component = sigv4.Credentials(minted.access_key_id, minted.secret, minted.token)
    yield door
    db.close()
