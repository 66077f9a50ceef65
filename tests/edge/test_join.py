import asyncio
import json
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml
from cryptography import x509

from marram.core.errors import AlreadyExists, Invalid, Unavailable
from marram.edge import join as joining
from marram.hub.identity.pki import Pki
from marram.kit.clock import SystemClock, SystemEntropy
from tests.listening import listening


class Hub:
    """The two routes of joining over real TLS."""

    def __init__(self, folder: Path) -> None:
        self.pki = Pki.open(folder / "pki", clock=SystemClock(), entropy=SystemEntropy())
        self.asked: list[dict[str, object]] = []
        self.url = ""
        self.token = f"mrm1.secret.{self.pki.root_fingerprint}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        status, body = 200, b""
        if head.startswith("GET /marram/ca "):
            body = self.pki.root_pem.encode()
        else:
            size = next(int(line[15:]) for line in head.lower().splitlines() if line.startswith("content-length:"))
            request = json.loads(await reader.readexactly(size))
            self.asked.append(request)
            if request["token"] != self.token:
                status, body = 403, b'{"message":"this token is used"}'
            else:
                body = json.dumps(self.bundle(request)).encode()
        writer.write(f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()

    def bundle(self, request: dict[str, object]) -> dict[str, object]:
        csr = request.get("csrPem")
        issued = self.pki.issue_device(str(csr) if csr else None, name=str(request["thingName"]))
        bundle: dict[str, object] = {
            "thingName": request["thingName"],
            "accountId": "000000000001",
            "region": "local-1",
            "certificateId": issued.id,
            "certificatePem": issued.pem,
            "localServerCertificatePem": self.pki.issue_local_server(issued.pem, ["localhost"]).pem,
            "rootCaPem": self.pki.root_pem,
            "signingKey": self.pki.public_signing_key.hex(),
            "endpoints": {"mqtt": "mqtts://localhost:18883", "https": "https://localhost:18443"},
        }
        if csr is None:
            bundle["privateKeyPem"] = issued.private_key_pem
        return bundle


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[Hub]:
    hub = Hub(tmp_path)
    async with listening(hub.serve, ssl=hub.pki.server_context("none")) as port:
        hub.url = f"https://localhost:{port}"
        yield hub


async def test_joining_writes_a_core(hub: Hub, tmp_path: Path) -> None:
    root = tmp_path / "core"
    done = await joining.join(endpoint=hub.url, token=hub.token, thing="core1", root=root, names=["10.0.0.5"])
    assert done.key_made_by == "cryptography"
    config = yaml.safe_load((root / "config" / "config.yaml").read_text())
    assert config["system"]["thingName"] == "core1"
    nucleus = config["services"]["aws.greengrass.NucleusLite"]["configuration"]
    assert (nucleus["iotDataEndpoint"], nucleus["mqtt"]["port"]) == ("localhost", 18883)
    assert nucleus["greengrassDataPlanePort"] == 18443
    assert bytes.fromhex(nucleus["marram"]["signingKey"]) == hub.pki.public_signing_key
    key = Path(config["system"]["privateKeyPath"])
    assert key.stat().st_mode & 0o777 == 0o600
    context = ssl.create_default_context(cafile=config["system"]["rootCaPath"])
    context.load_cert_chain(config["system"]["certificateFilePath"], key)  # they belong together
    context.load_cert_chain(nucleus["marram"]["localServerCertificatePath"], key)
    assert hub.asked[0]["names"] == ["10.0.0.5"]
    with pytest.raises(AlreadyExists, match="--replace"):
        await joining.join(endpoint=hub.url, token=hub.token, thing="core2", root=root)
    await joining.join(endpoint=hub.url, token=hub.token, thing="core2", root=root, replace=True)


async def test_another_hub_never_sees_the_secret(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(joining.JoinRefused, match="not the hub"):
        await joining.join(endpoint=hub.url, token=f"mrm1.secret.{'0' * 64}", thing="core1", root=tmp_path / "core")
    assert hub.asked == [] and not (tmp_path / "core").exists()


async def test_a_refused_token_says_why_and_leaves_nothing(hub: Hub, tmp_path: Path) -> None:
    token = hub.token.replace("secret", "used")
    with pytest.raises(joining.JoinRefused, match="this token is used"):
        await joining.join(endpoint=hub.url, token=token, thing="core1", root=tmp_path / "core")
    assert not (tmp_path / "core").exists()


@pytest.mark.parametrize("token", ["", "mrm1.x", "mrm2.x." + "0" * 64, "mrm1.." + "0" * 64, "mrm1.x." + "g" * 64])
def test_a_text_that_is_no_token(token: str) -> None:
    with pytest.raises(Invalid, match="join token"):
        joining.parse_token(token)


async def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        await joining.join(
            endpoint="https://localhost:1", token=f"mrm1.s.{'0' * 64}", thing="core1", root=tmp_path / "core"
        )


async def test_without_means_the_hub_makes_the_key_and_it_is_said(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setitem(__import__("sys").modules, "cryptography", None)
    done = await joining.join(endpoint=hub.url, token=hub.token, thing="core1", root=tmp_path / "core")
    assert done.key_made_by == "hub" and "PRIVATE KEY" in (tmp_path / "core/config/device.key").read_text()


def test_openssl_makes_a_request_too() -> None:
    if subprocess.run(["openssl", "version"], capture_output=True, check=False).returncode:
        pytest.skip("no openssl command")
    key, request = joining._with_openssl("core:1")
    assert "PRIVATE KEY" in key
    assert x509.load_pem_x509_csr(request.encode()).is_signature_valid


@pytest.mark.parametrize(
    ("hub_url", "given", "host"),
    [
        ("mqtts://localhost:8883", "localhost", "localhost"),
        ("mqtts://localhost:8883", "hub.example", "hub.example"),
        ("mqtts://mq.example:8883", "hub.example", "mq.example"),
    ],
)
def test_which_host_the_core_will_use(hub_url: str, given: str, host: str) -> None:
    bundle = {"thingName": "t", "region": "r", "accountId": "a", "signingKey": "k", "endpoints": {"mqtt": hub_url}}
    document = joining.config_document(bundle, Path("/r"), given)  # type: ignore[arg-type]
    assert document["services"]["aws.greengrass.NucleusLite"]["configuration"]["iotDataEndpoint"] == host  # type: ignore[index]
