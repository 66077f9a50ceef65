"""Gate G11: every operation and every route, by everybody. Denied unless declared; what is new is in the matrix by being declared.

Who asks: nobody, a key that may look, a device, a component with temporary credentials. The expectation is worked out here, by
patterns on names; the answer comes from a real identity and the door.
"""

import json
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from marram.core import sigv4
from marram.hub.border import plans
from marram.hub.border.awsjson import Request, Response
from marram.hub.border.chain import DEVICE_SERVICES, Api
from marram.hub.bus import Bus
from marram.hub.identity.model import Session
from marram.hub.identity.pki import Pki, certificate_id
from marram.hub.identity.service import Identity
from marram.hub.slice import OPERATIONS, ROUTES, Call, Params, RawRequest, RawResponse, Result
from marram.kit.clock import FakeClock, SeededEntropy
from marram.kit.db import Db, Migrations
from tests.hub.border import test_contract as contract

ACCOUNT, REGION = contract.ACCOUNT, contract.REGION
LOOKS = ("iot:Describe*", "iot:List*", "iot:Get*", "greengrass:Get*", "greengrass:List*")
DEVICE = ("iot:Connect", "iot:Publish", "iotjobsdata:GetPendingJobExecutions")
COMPONENT = ("s3:GetObject",)
# Routes that anybody may call, and those that any active certificate may: the function decides what it sees of itself.
OPEN = {("GET", "/marram/ca"), ("POST", "/marram/join"), ("POST", "/marram/session")}
OWN = {("POST", "/greengrass/v2/resolveComponentCandidates")}
# Operations that need a valid signature and no right: they say who asks, or another document says who may (a role's trust).
PUBLIC = {("sts", "GetCallerIdentity"), ("sts", "AssumeRole"), ("sts", "GetSessionToken")}

ALL = sorted(OPERATIONS)


@dataclass
class Door:
    api: Api
    identity: Identity
    clock: FakeClock
    certificate: bytes = b""
    viewer: sigv4.Credentials = field(default_factory=lambda: sigv4.Credentials("", ""))
    component: sigv4.Credentials = field(default_factory=lambda: sigv4.Credentials("", ""))
    reached: list[str] = field(default_factory=list)

    async def ask(self, request: Request) -> tuple[bool, Response]:
        """Whether the function was reached, and the answer."""
        self.reached.clear()
        answer = await self.api.handle(request)
        return bool(self.reached), answer


def allowing(actions: tuple[str, ...]) -> str:
    rows = [{"Effect": "Allow", "Action": list(actions), "Resource": "*"}]
    return json.dumps({"Version": "2012-10-17", "Statement": rows})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("matrix")


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
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
    viewer = await identity.create_key("viewer", allowing(LOOKS))
    door.viewer = sigv4.Credentials(viewer.id, viewer.secret)
    component = await identity.create_key("component", allowing(COMPONENT))
    minted = identity.sessions.mint(Session(kind="key", owner=component.id), 3600)
    door.component = sigv4.Credentials(minted.access_key_id, minted.secret, minted.token)
    yield door
    db.close()


def signed(key: tuple[str, str], held: sigv4.Credentials, monkeypatch: pytest.MonkeyPatch) -> Request:
    monkeypatch.setattr(contract, "WHO", held)
    return contract.request_for(key, contract.params_of(key))


def bare(request: Request, certificate: bytes | None = None) -> Request:
    headers = {
        name: value
        for name, value in request.headers.items()
        if name not in ("authorization", "x-amz-date", "x-amz-content-sha256", "x-amz-security-token")
    }
    return replace(request, headers=headers, certificate=certificate, secure=True)


async def test_nobody_reaches_any_operation(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ALL:
        reached, answer = await door.ask(bare(signed(key, door.viewer, monkeypatch)))
        assert not reached and 400 <= answer.status < 500, (key, answer)


@pytest.mark.parametrize(("who", "actions"), [("viewer", LOOKS), ("component", COMPONENT)])
async def test_a_key_reaches_what_its_policy_says(
    door: Door, monkeypatch: pytest.MonkeyPatch, who: str, actions: tuple[str, ...]
) -> None:
    seen = 0
    for key in ALL:
        operation = OPERATIONS[key]
        reached, answer = await door.ask(signed(key, getattr(door, who), monkeypatch))
        expected = operation.public or any(fnmatchcase(operation.action, pattern) for pattern in actions)
        if expected:
            seen += reached
        else:
            assert not reached and answer.status in (400, 401, 403), (key, answer)
        assert operation.public == (key in PUBLIC), f"{key} is public and not in this test's list"
    assert seen > 0


async def test_a_device_reaches_its_data_plane_and_no_more(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    reached_ones = set()
    for key in ALL:
        reached, answer = await door.ask(bare(signed(key, door.viewer, monkeypatch), door.certificate))
        if reached:
            # Which operation a path is, differs by who asks: `GET /things/T/jobs` of a device is of its data plane.
            reached_ones |= {OPERATIONS[service, name].action for service, name in ALL if name == door.reached[0]}
            assert any((service, door.reached[0]) in OPERATIONS for service in DEVICE_SERVICES), key
        else:
            assert 400 <= answer.status < 500, (key, answer)
    assert reached_ones == {"iot:Publish", "iotjobsdata:GetPendingJobExecutions"} & {
        operation.action for operation in OPERATIONS.values()
    }


def raw(key: tuple[str, str], certificate: bytes | None) -> Request:
    path = "/".join("x" if part.startswith("{") else part for part in key[1].split("/"))
    return Request(
        method=key[0], target=path, headers={"host": "localhost"}, body=b"{}", source_ip="10.0.0.1", secure=True,
        certificate=certificate,
    )  # fmt: skip


async def test_routes_are_denied_unless_declared(door: Door) -> None:
    open_ones = {key for key, route in ROUTES.items() if route.auth == "none"}
    assert open_ones == OPEN, "a route that anybody may call is in this test's list"
    assert {key for key, route in ROUTES.items() if route.auth != "none" and route.action is None} == OWN
    for key in ROUTES:
        reached, answer = await door.ask(raw(key, None))
        assert reached == (key in OPEN), (key, answer)
        reached, answer = await door.ask(raw(key, door.certificate))
        assert reached == (key in OPEN | OWN), (key, answer)


async def test_a_revoked_certificate_and_a_deleted_key_reach_nothing(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = ("iot-data", "Publish")
    request = bare(signed(key, door.viewer, monkeypatch), door.certificate)
    assert (await door.ask(request))[0]
    await door.identity.set_status(certificate_id(door.certificate), "REVOKED")
    assert not (await door.ask(request))[0]
    look = signed(("iot", "ListThings"), door.viewer, monkeypatch)
    assert (await door.ask(look))[0]
    await door.identity.delete_key(door.viewer.access_key_id)
    assert not (await door.ask(look))[0]


def test_every_operation_is_of_a_service_that_the_matrix_knows() -> None:
    assert {service for service, _ in ALL} <= set(plans.SERVICES)
