"""Gate G11: every operation and every route, by everybody. Denied unless declared; what is new is in the matrix by being declared.

Who asks: nobody, a key that may look, a device, a component with temporary credentials. The expectation is worked out here, by
patterns on names; the answer comes from a real identity and the door.
"""

from dataclasses import replace
from fnmatch import fnmatchcase

import pytest

from marram.core import sigv4
from marram.hub.border import plans
from marram.hub.border.awsjson import Request
from marram.hub.border.chain import DEVICE_SERVICES
from marram.hub.identity.pki import certificate_id
from marram.hub.slice import OPERATIONS, ROUTES
from tests.hub.border import test_contract as contract
from tests.hub.border.conftest import COMPONENT, LOOKS, Door

ACCOUNT, REGION = contract.ACCOUNT, contract.REGION
# Routes that anybody may call, and those that any active certificate may: the function decides what it sees of itself.
OPEN = {("GET", "/marram/ca"), ("POST", "/marram/join"), ("POST", "/marram/session")}
OWN = {("POST", "/greengrass/v2/resolveComponentCandidates"), ("GET", "/role-aliases/{alias}/credentials")}
# Operations that need a valid signature and no right: they say who asks, or another document says who may (a role's trust).
PUBLIC = {("sts", "GetCallerIdentity"), ("sts", "AssumeRole"), ("sts", "GetSessionToken")}

ALL = sorted(OPERATIONS)


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


async def test_nobody_reaches_any_operation(real_door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ALL:
        reached, answer = await real_door.ask(bare(signed(key, real_door.viewer, monkeypatch)))
        assert not reached and 400 <= answer.status < 500, (key, answer)


@pytest.mark.parametrize(("who", "actions"), [("viewer", LOOKS), ("component", COMPONENT)])
async def test_a_key_reaches_what_its_policy_says(
    real_door: Door, monkeypatch: pytest.MonkeyPatch, who: str, actions: tuple[str, ...]
) -> None:
    seen = 0
    for key in ALL:
        operation = OPERATIONS[key]
        reached, answer = await real_door.ask(signed(key, getattr(real_door, who), monkeypatch))
        expected = operation.public or any(fnmatchcase(operation.action, pattern) for pattern in actions)
        if expected:
            seen += reached
        else:
            assert not reached and answer.status in (400, 401, 403), (key, answer)
        assert operation.public == (key in PUBLIC), f"{key} is public and not in this test's list"
    assert seen > 0


async def test_a_device_reaches_its_data_plane_and_no_more(real_door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    reached_ones = set()
    for key in ALL:
        reached, answer = await real_door.ask(bare(signed(key, real_door.viewer, monkeypatch), real_door.certificate))
        if reached:
            # Which operation a path is, differs by who asks: `GET /things/T/jobs` of a device is of its data plane.
            reached_ones |= {OPERATIONS[service, name].action for service, name in ALL if name == real_door.reached[0]}
            assert any((service, real_door.reached[0]) in OPERATIONS for service in DEVICE_SERVICES), key
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


async def test_routes_are_denied_unless_declared(real_door: Door) -> None:
    open_ones = {key for key, route in ROUTES.items() if route.auth == "none"}
    assert open_ones == OPEN, "a route that anybody may call is in this test's list"
    assert {key for key, route in ROUTES.items() if route.auth != "none" and route.action is None} == OWN
    for key in ROUTES:
        reached, answer = await real_door.ask(raw(key, None))
        assert reached == (key in OPEN), (key, answer)
        reached, answer = await real_door.ask(raw(key, real_door.certificate))
        assert reached == (key in OPEN | OWN), (key, answer)


async def test_a_revoked_certificate_and_a_deleted_key_reach_nothing(
    real_door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = ("iot-data", "Publish")
    request = bare(signed(key, real_door.viewer, monkeypatch), real_door.certificate)
    assert (await real_door.ask(request))[0]
    await real_door.identity.set_status(certificate_id(real_door.certificate), "REVOKED")
    assert not (await real_door.ask(request))[0]
    look = signed(("iot", "ListThings"), real_door.viewer, monkeypatch)
    assert (await real_door.ask(look))[0]
    await real_door.identity.delete_key(real_door.viewer.access_key_id)
    assert not (await real_door.ask(look))[0]


def test_every_operation_is_of_a_service_that_the_matrix_knows() -> None:
    assert {service for service, _ in ALL} <= set(plans.SERVICES)


async def test_the_matrix_finds_a_door_that_asks_nobody(real_door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a green matrix means something."""
    monkeypatch.setattr(real_door.identity, "may", lambda *_: True)
    reached = [key for key in ALL if (await real_door.ask(signed(key, real_door.viewer, monkeypatch)))[0]]
    assert ("iot", "CreateThing") in reached and len(reached) > len(ALL) // 2
