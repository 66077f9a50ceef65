import asyncio
import base64
import json
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from marram.core.errors import Denied, LimitExceeded, NotFound, Unavailable
from marram.edge.link.dataplane import DataPlane, Hub
from marram.edge.link.ledger import MIGRATIONS, Ledger
from marram.hub.identity.pki import Pki
from marram.kit.clock import SystemClock, SystemEntropy
from marram.kit.db import Db
from tests.listening import listening

Answer = tuple[int, bytes, dict[str, str]]


@dataclass
class Server:
    answers: dict[str, Callable[[str, bytes], Answer]] = field(default_factory=dict)
    asked: list[tuple[str, str, bytes]] = field(default_factory=list)
    with_certificate: list[bool] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, path, _ = head.split(" ", 2)
        size = next((int(line[15:]) for line in head.lower().splitlines() if line.startswith("content-length:")), 0)
        body = await reader.readexactly(size)
        self.asked.append((method, path, body))
        self.with_certificate.append(bool(writer.get_extra_info("peercert")))
        found = next((answer for prefix, answer in self.answers.items() if path.startswith(prefix)), None)
        status, out, headers = found(head, body) if found else (404, b'{"message":"nothing here"}', {})
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        writer.write(
            f"HTTP/1.1 {status} X\r\ncontent-length: {len(out)}\r\n{lines}connection: close\r\n\r\n".encode() + out
        )
        await writer.drain()
        writer.close()


def says(body: object, status: int = 200) -> Callable[[str, bytes], Answer]:
    return lambda head, request: (status, json.dumps(body).encode(), {})


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[tuple[DataPlane, Server, Ledger, str]]:
    pki = Pki.open(tmp_path / "pki", clock=SystemClock(), entropy=SystemEntropy())
    core = pki.issue_device(name="core1")
    (tmp_path / "core.pem").write_text(core.pem)
    (tmp_path / "core.key").write_text(core.private_key_pem or "")
    server = Server()

    def pinned() -> ssl.SSLContext:
        return ssl.create_default_context(cadata=pki.root_pem)

    def own() -> ssl.SSLContext:
        context = pinned()
        context.load_cert_chain(tmp_path / "core.pem", tmp_path / "core.key")
        return context

    with Db.open(tmp_path / "state.db", clock=SystemClock(), migrations=[MIGRATIONS]) as db:
        ledger = Ledger(db, wall_ms=SystemClock().wall_ms)
        async with listening(server.serve, ssl=pki.server_context("optional")) as port:
            hub = Hub(host="localhost", port=port, thing="core1", region="local-1", account="000000000001")
            yield DataPlane(hub, ledger, own=own, pinned=pinned), server, ledger, f"https://localhost:{port}"


ARN = "arn:aws:greengrass:local-1:000000000001:components:com.a:versions:1.2.0"
RESOLVE = "/greengrass/v2/resolveComponentCandidates"
ARTIFACT = "/greengrass/v2/components/"


async def test_candidates(world: tuple[DataPlane, Server, Ledger, str]) -> None:
    plane, server, ledger, _ = world
    recipe = {"ComponentName": "com.a", "ComponentVersion": "1.2.0"}
    found = {
        "arn": ARN,
        "componentName": "com.a",
        "componentVersion": "1.2.0",
        "recipe": base64.b64encode(json.dumps(recipe).encode()).decode(),
    }
    server.answers[RESOLVE] = says({"resolvedComponentVersions": [found]})
    assert await plane.candidate("com.a", {"LOCAL": "^1.0.0"}, {"os": "linux"}, "1.0.0") == recipe
    asked = json.loads(server.asked[0][2])
    assert asked == {
        "componentCandidates": [
            {"componentName": "com.a", "componentVersion": "1.0.0", "versionRequirements": {"LOCAL": "^1.0.0"}}
        ],
        "platform": {"name": "linux", "attributes": {"os": "linux"}},
    }
    assert server.with_certificate == [True]
    server.answers[RESOLVE] = says({"message": "no usable version"}, 404)
    assert await plane.candidate("com.a", {}, {}, None) is None
    server.answers[RESOLVE] = says({"message": "not you"}, 403)
    with pytest.raises(Denied, match="not you"):
        await plane.candidate("com.a", {}, {}, None)
    server.answers[RESOLVE] = says({}, 503)
    with pytest.raises(Unavailable):
        await plane.candidate("com.a", {}, {}, None)
    assert {row.destination for row in await ledger.spent()} == {"dataplane"}


async def test_an_artifact_comes_without_the_cores_certificate_and_goes_on_where_it_broke_off(
    world: tuple[DataPlane, Server, Ledger, str], tmp_path: Path
) -> None:
    plane, server, ledger, url = world
    content = bytes(range(256)) * 40

    def part(head: str, _: bytes) -> Answer:
        start = next((int(line[13:-1]) for line in head.lower().splitlines() if line.startswith("range: bytes=")), None)
        if start is None:
            return 200, content, {}
        return 206, content[start:], {"content-range": f"bytes {start}-{len(content) - 1}/{len(content)}"}

    server.answers[ARTIFACT] = says({"preSignedUrl": f"{url}/objects/a.zip?signature=x"})
    server.answers["/objects/"] = part
    target = tmp_path / "a.zip"
    target.with_name("a.zip.part").write_bytes(content[:1000])
    await plane.artifact("com.a", "1.2.0", "greengrass:a.zip", target, 1 << 20)
    assert target.read_bytes() == content
    assert server.asked[0][1] == f"{ARTIFACT}{ARN.replace(':', '%3A')}/artifacts/a.zip"
    assert server.with_certificate == [True, False]
    spent = {row.destination: row.received for row in await ledger.spent()}
    assert len(content) - 1000 < spent["artifacts"] < len(content)
    with pytest.raises(LimitExceeded):
        await plane.artifact("com.a", "1.2.0", "greengrass:a.zip", tmp_path / "b.zip", 100)
    with pytest.raises(NotFound, match="docker"):
        await plane.artifact("com.a", "1.2.0", "docker:image", tmp_path / "c", 100)
    del server.answers[ARTIFACT]
    with pytest.raises(NotFound, match="nothing here"):
        await plane.artifact("com.a", "1.2.0", "greengrass:a.zip", tmp_path / "d", 100)


async def test_groups_and_client_devices(world: tuple[DataPlane, Server, Ledger, str]) -> None:
    plane, server, _, _ = world
    server.answers["/greengrass/v2/coreDevices/core1/thingGroups"] = says({"thingGroups": [{"thingGroupName": "g"}]})
    assert await plane.groups() == ["thinggroup/g"]
    server.answers["/greengrass/v2/coreDevices/core1/thingGroups"] = says({}, 500)
    assert await plane.groups() is None
    devices = {"clientDevices": [{"thingName": "d", "certificateIds": ["a" * 64, f"arn:aws:iot:r:1:cert/{'b' * 64}"]}]}
    server.answers["/greengrass/v2/coreDevices/core1/clientDevices"] = says(devices)
    (device,) = await plane.client_devices()
    assert (device.thing, device.certificates) == ("d", ["a" * 64, "b" * 64])
