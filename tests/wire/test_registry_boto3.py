"""Identity and registry with unmodified boto3: the codes and statuses that AWS's clients rely on."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.client import Config
from botocore.exceptions import ClientError

from marram.hub.border.chain import Api
from marram.hub.border.https import HttpDoor
from marram.hub.bus import Bus
from marram.hub.identity import api as identity_api  # noqa: F401 - declares its operations
from marram.hub.identity.pki import Pki
from marram.hub.identity.service import Identity
from marram.hub.registry.service import Registry
from marram.hub.slice import OPERATIONS
from marram.kit import registry as declarations
from marram.kit.clock import SystemClock, SystemEntropy
from marram.kit.db import Db, Migrations

REGION, ACCOUNT = "local-1", "000000000001"
ARN = f"arn:aws:iot:{REGION}:{ACCOUNT}:"
SLICES = ("identity", "registry")
declarations.discover("marram.hub.registry.api")


def document(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


ANYTHING = document({"Effect": "Allow", "Action": "iot:*", "Resource": "*"})


class Hub:
    """On a loop of its own, so that boto3 may block in the test's thread."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._ready = folder, threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)
        self._clients: list[Any] = []
        self._thread.start()
        assert self._ready.wait(10)

    def stop(self) -> None:
        for client in self._clients:
            client.close()
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)

    async def _main(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        clock, entropy, bus = SystemClock(), SystemEntropy(), Bus()
        sources = [Migrations(slice=name, package=f"marram.hub.{name}") for name in SLICES]
        db = Db.open(self._folder / "hub.db", clock=clock, migrations=sources)
        pki = Pki.open(self._folder / "pki", clock=clock, entropy=entropy)
        identity = Identity(db, pki, bus, clock=clock, entropy=entropy, account=ACCOUNT, region=REGION)
        registry = Registry(db, identity, bus, entropy=entropy, endpoint=lambda: ("localhost", 8443))
        self.identity, self.admin = identity, identity.admin_key()
        api = Api(
            services={"identity": identity, "registry": registry}, identity=identity, clock=clock, entropy=entropy,
            account=ACCOUNT, region=REGION, page_key=pki.derived_key("pages"), metrics_text=str, routes={},
            operations={key: item for key, item in OPERATIONS.items() if item.slice in SLICES},
        )  # fmt: skip
        door = HttpDoor(api, clock)
        server = await self._loop.create_server(door.connection, "127.0.0.1", 0)
        self._url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with asyncio.TaskGroup() as tasks:
            ticks = tasks.create_task(door.run())
            self._ready.set()
            await self._stop.wait()
            server.close()
            await door.close()
            ticks.cancel()
        db.close()

    def client(self, service: str, key: str = "", secret: str = "") -> Any:
        made = boto3.client(
            service, endpoint_url=self._url, region_name=REGION, aws_access_key_id=key or self.admin.id,
            aws_secret_access_key=secret or self.admin.secret, config=Config(retries={"max_attempts": 0}),
        )  # fmt: skip
        self._clients.append(made)
        return made


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    made = Hub(tmp_path)
    yield made
    made.stop()


@pytest.fixture
def iot(hub: Hub) -> Any:
    return hub.client("iot")


def refusal(call: Callable[..., Any], **params: Any) -> tuple[str, int]:
    with pytest.raises(ClientError) as caught:
        call(**params)
    response = caught.value.response
    assert response["Error"]["Message"]
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


def test_onboarding_and_its_end_as_every_tutorial_does_it(iot: Any) -> None:
    iot.create_policy(policyName="p", policyDocument=ANYTHING)
    made = iot.create_keys_and_certificate(setAsActive=True)
    certificate = {"certificateId": made["certificateId"]}
    thing = iot.create_thing(thingName="t", attributePayload={"attributes": {"site": "north"}})
    assert thing["thingArn"] == f"{ARN}thing/t"
    iot.attach_policy(policyName="p", target=made["certificateArn"])
    iot.attach_thing_principal(thingName="t", principal=made["certificateArn"])
    assert iot.list_thing_principals(thingName="t")["principals"] == [made["certificateArn"]]
    assert iot.list_principal_things(principal=made["certificateArn"])["things"] == ["t"]
    assert [row["policyName"] for row in iot.list_attached_policies(target=made["certificateArn"])["policies"]] == ["p"]
    described = iot.describe_certificate(**certificate)["certificateDescription"]
    assert described["validity"]["notAfter"].year == 2049
    tested = iot.test_authorization(
        principal=made["certificateArn"],
        clientId="t",
        authInfos=[{"actionType": "PUBLISH", "resources": [f"{ARN}topic/a"]}],
    )
    assert tested["authResults"][0]["authDecision"] == "ALLOWED"

    assert refusal(iot.delete_certificate, **certificate) == ("CertificateStateException", 406)
    assert refusal(iot.delete_thing, thingName="t") == ("InvalidRequestException", 400)
    assert refusal(iot.delete_policy, policyName="p") == ("DeleteConflictException", 409)
    iot.update_certificate(**certificate, newStatus="INACTIVE")
    assert refusal(iot.delete_certificate, **certificate) == ("DeleteConflictException", 409)
    iot.detach_thing_principal(thingName="t", principal=made["certificateArn"])
    assert refusal(iot.delete_certificate, **certificate) == ("DeleteConflictException", 409)
    iot.detach_policy(policyName="p", target=made["certificateArn"])
    iot.delete_certificate(**certificate)
    iot.delete_thing(thingName="t")
    iot.delete_policy(policyName="p")
    assert refusal(iot.describe_thing, thingName="t") == ("ResourceNotFoundException", 404)


def test_refusals_have_the_codes_of_aws(iot: Any) -> None:
    iot.create_policy(policyName="p", policyDocument=ANYTHING)
    iot.create_thing(thingName="t", attributePayload={"attributes": {"a": "1"}})
    missing = "0" * 64
    assert refusal(iot.create_policy, policyName="p", policyDocument=ANYTHING) == (
        "ResourceAlreadyExistsException",
        409,
    )
    assert refusal(iot.create_policy, policyName="q", policyDocument="{}") == ("MalformedPolicyException", 400)
    assert refusal(iot.create_policy, policyName="q", policyDocument=ANYTHING.replace("Allow", "allow")) == (
        "MalformedPolicyException",
        400,
    )
    assert refusal(iot.get_policy, policyName="q") == ("ResourceNotFoundException", 404)
    assert refusal(iot.describe_certificate, certificateId=missing) == ("ResourceNotFoundException", 404)
    assert refusal(iot.attach_policy, policyName="p", target=f"{ARN}cert/{missing}") == (
        "ResourceNotFoundException",
        404,
    )
    assert refusal(iot.create_certificate_from_csr, certificateSigningRequest="x") == ("InvalidRequestException", 400)
    assert refusal(iot.create_thing, thingName="t") == ("ResourceAlreadyExistsException", 409)
    assert refusal(iot.create_thing, thingName="no good") == ("InvalidRequestException", 400)
    assert refusal(iot.create_thing, thingName="u", thingTypeName="none") == ("ResourceNotFoundException", 404)
    assert refusal(iot.update_thing, thingName="t", expectedVersion=9) == ("VersionConflictException", 409)
    assert refusal(iot.describe_endpoint, endpointType="iot:Data") == ("InvalidRequestException", 400)
    assert refusal(iot.create_thing, thingName="u", billingGroupName="b") == ("NotImplementedException", 501)
    for _ in range(4):
        iot.create_policy_version(policyName="p", policyDocument=ANYTHING)
    assert refusal(iot.create_policy_version, policyName="p", policyDocument=ANYTHING) == (
        "VersionsLimitExceededException",
        409,
    )
    assert refusal(iot.list_policies, marker="AAAAAAAAAAAA") == ("InvalidRequestException", 400)


NAMES = {
    "a star": "a*", "only a star": "*", "a hash": "a#b", "a slash": "a/b", "two dots": "../../etc", "a policy variable": "${iot:ClientId}",
    "a space": "a b", "129 characters": "x" * 129, "an accent": "caf\u00e9", "another script": "\u6e29\u5ea6", "a null": "a\0b",
    "a line end": "a\n", "a percent sign": "a%2Fb", "right to left": "a\u202eb", "a surrogate pair": "\U0001f600",
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_names_that_no_thing_type_or_group_has(iot: Any, name: str) -> None:
    for call, member in (
        (iot.create_thing, "thingName"),
        (iot.create_thing_type, "thingTypeName"),
        (iot.create_thing_group, "thingGroupName"),
        (iot.describe_thing, "thingName"),
        (iot.delete_thing, "thingName"),
    ):
        assert refusal(call, **{member: name}) == ("InvalidRequestException", 400)
    iot.create_thing(thingName="t")
    assert refusal(iot.update_thing, thingName="t", thingTypeName=name) == ("InvalidRequestException", 400)
    assert refusal(iot.create_thing_group, thingGroupName="g", parentGroupName=name) == ("InvalidRequestException", 400)
    assert refusal(iot.update_thing_groups_for_thing, thingName="t", thingGroupsToAdd=[name]) == (
        "InvalidRequestException",
        400,
    )
    assert [row["thingName"] for row in iot.list_things()["things"]] == ["t"]


@pytest.mark.parametrize(
    "attributes",
    [
        pytest.param({"a b": "1"}, id="space in a name"),
        pytest.param({"": "1"}, id="no name"),
        pytest.param({"x" * 129: "1"}, id="long name"),
        pytest.param({"a": "x" * 801}, id="long value"),
        pytest.param({"a": "${aws:x}"}, id="policy variable"),
        pytest.param({"a": "caf\u00e9"}, id="accent"),
        pytest.param({"a": "1\n"}, id="line end"),
        pytest.param({"a": "1", "b": "1", "c": "1", "d": "1"}, id="four without a type"),
    ],
)
def test_attributes_that_are_refused(iot: Any, attributes: dict[str, str]) -> None:
    payload = {"attributes": attributes}
    assert refusal(iot.create_thing, thingName="t", attributePayload=payload) == ("InvalidRequestException", 400)
    if len(attributes) < 4:  # a group may have fifty
        of_group = {"thingGroupName": "g", "thingGroupProperties": {"attributePayload": payload}}
        assert refusal(iot.create_thing_group, **of_group) == ("InvalidRequestException", 400)
    assert iot.list_things()["things"] == []


@pytest.mark.parametrize(
    ("operation", "items", "key"),
    [
        ("list_policies", "policies", "policyName"),
        ("list_things", "things", "thingName"),
        ("list_certificates", "certificates", "certificateId"),
    ],
)
def test_paginators_see_each_item_once(iot: Any, operation: str, items: str, key: str) -> None:
    for number in range(10):
        iot.create_policy(policyName=f"p{number}", policyDocument=ANYTHING)
        iot.create_thing(thingName=f"t{number}")
        iot.create_keys_and_certificate()
    pages = list(iot.get_paginator(operation).paginate(PaginationConfig={"PageSize": 3}))
    found = [row[key] for page in pages for row in page[items]]
    assert (len(pages), len(found), len(set(found))) == (4, 10, 10)


def test_groups_and_types(iot: Any) -> None:
    iot.create_thing(thingName="t")
    iot.create_thing_group(thingGroupName="root")
    iot.create_thing_group(thingGroupName="child", parentGroupName="root")
    iot.add_thing_to_thing_group(thingGroupName="child", thingName="t")
    found = iot.describe_thing_group(thingGroupName="child")["thingGroupMetadata"]
    assert (found["parentGroupName"], [row["groupName"] for row in found["rootToParentThingGroups"]]) == (
        "root",
        ["root"],
    )
    assert iot.list_things_in_thing_group(thingGroupName="root", recursive=True)["things"] == ["t"]
    assert [row["groupName"] for row in iot.list_thing_groups_for_thing(thingName="t")["thingGroups"]] == ["child"]
    assert refusal(iot.delete_thing_group, thingGroupName="root") == ("InvalidRequestException", 400)
    iot.create_thing_type(thingTypeName="pump")
    assert iot.describe_thing_type(thingTypeName="pump")["thingTypeMetadata"]["deprecated"] is False
    assert [row["thingTypeName"] for row in iot.list_thing_types()["thingTypes"]] == ["pump"]
    iot.update_thing(thingName="t", thingTypeName="pump")
    assert [row["thingName"] for row in iot.list_things(thingTypeName="pump")["things"]] == ["t"]
    assert iot.describe_endpoint(endpointType="iot:Data-ATS")["endpointAddress"] == "localhost:8443"


def test_a_narrow_key_is_held_to_its_policy(hub: Hub, iot: Any) -> None:
    only = document({"Effect": "Allow", "Action": "iot:DescribeThing", "Resource": f"{ARN}thing/mine-*"})
    made = asyncio.run_coroutine_threadsafe(_create_key(hub, only), hub._loop).result(10)
    narrow = hub.client("iot", made.id, made.secret)
    iot.create_thing(thingName="mine-1")
    assert narrow.describe_thing(thingName="mine-1")["thingName"] == "mine-1"
    assert refusal(narrow.describe_thing, thingName="yours") == ("AccessDeniedException", 403)
    assert refusal(narrow.create_thing, thingName="mine-2") == ("AccessDeniedException", 403)
    assert hub.client("sts", made.id, made.secret).get_caller_identity()["Arn"] == f"arn:aws:iam::{ACCOUNT}:user/narrow"


async def _create_key(hub: Hub, policy: str) -> Any:
    return await hub.identity.create_key("narrow", policy)
