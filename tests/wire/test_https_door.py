"""The https door with a device certificate: iot-data, raw routes, certificates that may not, plain text on the TLS port."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from marram.core import codec
from marram.core.errors import Denied, NotFound
from marram.hub.border.chain import Api
from marram.hub.border.https import HttpDoor
from marram.hub.bus import Bus
from marram.hub.identity.pki import Pki
from marram.hub.identity.service import Identity
from marram.hub.slice import Call, Operation, Params, RawRequest, RawResponse, Result, Route
from marram.kit import http, net
from marram.kit.clock import SystemClock, SystemEntropy
from marram.kit.db import Db, Migrations

ACCOUNT, REGION = "000000000001", "local-1"
POLICY = codec.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Action": "iot:Publish",
                "Resource": f"arn:aws:iot:{REGION}:{ACCOUNT}:topic/ok/*",
            },
            {"Effect": "Allow", "Action": "greengrass:ListThingGroups", "Resource": "*"},
        ],
    }
).decode()


class Fixture:
    pki: Pki
    identity: Identity
    folder: Path
    port: int
    url: str

    def __init__(self) -> None:
        self.published: list[tuple[str, bytes]] = []


async def publish(service: Fixture, call: Call, params: Params) -> Result:
    service.published.append((params["topic"], params.get("payload", b"")))
    return {}


async def groups(service: Fixture, request: RawRequest) -> RawResponse:
    assert request.subject is not None
    return RawResponse(body=codec.dumps({"thing": request.params["thing"], "kind": request.subject.kind}))


async def join(service: Fixture, request: RawRequest) -> RawResponse:
    if request.body == b"missing":
        raise NotFound("no such token")
    if request.body == b"wrong":
        raise Denied("the token has been used")
    return RawResponse(body=b"joined " + request.body)


def topic(call: Call, params: Params) -> str:
    return f"arn:aws:iot:{REGION}:{ACCOUNT}:topic/{params['topic']}"


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Fixture]:
    made = Fixture()
    clock, entropy = SystemClock(), SystemEntropy()
    db = Db.open(
        tmp_path / "hub.db", clock=clock, migrations=[Migrations(slice="identity", package="marram.hub.identity")]
    )
    made.pki = pki = Pki.open(tmp_path / "pki", clock=clock, entropy=entropy, names=["localhost"])
    pki.renew_if_due()
    identity = Identity(db, pki, Bus(), clock=clock, entropy=entropy, account=ACCOUNT, region=REGION)
    made.identity = identity
    made.folder = tmp_path
    operation = Operation(
        service="iot-data", name="Publish", slice="test", action="iot:Publish", resource=topic, function=publish
    )
    routes = [
        Route(method="GET", template="/greengrass/v2/coreDevices/{thing}/thingGroups", slice="test", auth="certificate",
              action="greengrass:ListThingGroups", function=groups),
        Route(method="POST", template="/marram/join", slice="test", auth="none", action=None, function=join),
    ]  # fmt: skip
    api = Api(
        services={"test": made}, identity=identity, clock=clock, entropy=entropy, account=ACCOUNT, region=REGION,
        page_key=b"k" * 32, operations={("iot-data", "Publish"): operation},
        routes={(route.method, route.template): route for route in routes},
    )  # fmt: skip
    http_door = HttpDoor(api, clock)
    context = pki.server_context("optional", alpn=["http/1.1"])
    with ThreadPoolExecutor(1) as pool:
        server = await net.serve(
            "127.0.0.1", 0, lambda _: http_door.connection(secure=True), tls=lambda: context, handshakes=pool
        )
        made.port = server.port
        made.url = f"https://localhost:{server.port}"
        yield made
        server.close()
        await http_door.close(0.2)
    db.close()


async def client(door: Fixture, *, policy: bool = True, active: bool = True) -> ssl.SSLContext:
    context = trusting(door)
    issued = await door.identity.create_certificate(active=active)
    if policy:
        await door.identity.create_policy("p", POLICY)
        await door.identity.attach_policy("p", door.identity.arn_of(issued.id))
    path = door.folder / "client.pem"
    path.write_text(issued.pem + str(issued.private_key_pem))
    context.load_cert_chain(path)
    return context


def trusting(door: Fixture) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=door.pki.root_pem)


async def test_a_device_publishes_with_slashes_as_they_are(door: Fixture) -> None:
    tls = await client(door)
    answer = await http.request("POST", f"{door.url}/topics/ok/a/b?qos=1", body=b"\x00\xff", tls=tls)
    assert answer.status == 200, answer
    assert door.published == [("ok/a/b", b"\x00\xff")]


async def test_a_topic_outside_the_policy_is_forbidden(door: Fixture) -> None:
    answer = await http.request("POST", f"{door.url}/topics/other/a?qos=1", body=b"x", tls=await client(door))
    assert (answer.status, answer.headers["x-amzn-errortype"]) == (403, "ForbiddenException")
    assert b"iot:Publish" in answer.body and b"topic/other/a" in answer.body
    assert door.published == []


async def test_without_policy_or_activation_or_certificate_nothing_goes(door: Fixture) -> None:
    url = f"{door.url}/topics/ok/a?qos=1"
    assert (await http.request("POST", url, body=b"x", tls=trusting(door))).status == 403
    assert (await http.request("POST", url, body=b"x", tls=await client(door, policy=False))).status == 403
    assert (await http.request("POST", url, body=b"x", tls=await client(door, active=False))).status == 403
    assert door.published == []


async def test_a_raw_route_gets_its_names_and_its_subject(door: Fixture) -> None:
    url = f"{door.url}/greengrass/v2/coreDevices/core%3A1/thingGroups"
    answer = await http.request("GET", url, tls=await client(door))
    assert (answer.status, codec.loads(answer.body)) == (200, {"thing": "core:1", "kind": "certificate"})
    refused = await http.request("GET", url, tls=trusting(door))
    assert refused.status == 403 and b"certificate" in refused.body


async def test_an_open_route_is_limited_and_maps_errors(door: Fixture) -> None:
    tls = trusting(door)
    answer = await http.request("POST", f"{door.url}/marram/join", body=b"x", tls=tls)
    assert (answer.status, answer.body) == (200, b"joined x")
    assert (await http.request("POST", f"{door.url}/marram/join", body=b"missing", tls=tls)).status == 404
    assert (await http.request("POST", f"{door.url}/marram/join", body=b"wrong", tls=tls)).status == 403
    statuses = [(await http.request("POST", f"{door.url}/marram/join", body=b"x", tls=tls)).status for _ in range(60)]
    assert set(statuses) == {200, 429}
    assert (await http.request("POST", f"{door.url}/marram/join", body=b"x" * 300_000, tls=tls)).status == 413


async def test_a_stranger_certificate_does_not_pass_the_handshake(door: Fixture, tmp_path: Path) -> None:
    other = Pki.open(tmp_path / "other", clock=SystemClock(), entropy=SystemEntropy(), names=["localhost"])
    issued = other.issue_device()
    (tmp_path / "stranger.pem").write_text(issued.pem + str(issued.private_key_pem))
    tls = trusting(door)
    tls.load_cert_chain(tmp_path / "stranger.pem")
    with pytest.raises(Exception, match=r"broke|reached|alert"):
        await http.request("POST", f"{door.url}/topics/ok/a?qos=1", body=b"x", tls=tls)
    assert door.published == []


async def test_our_client_does_not_trust_another_hub(door: Fixture) -> None:
    with pytest.raises(Denied, match="not trusted"):
        await http.request("GET", f"{door.url}/", tls=ssl.create_default_context())


async def test_plain_text_on_the_tls_port_is_closed(door: Fixture) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert b"200" not in await asyncio.wait_for(reader.read(), 5)
    writer.close()
