"""Attacks on TLS, T8 of the threat model: certificates that may not pass, old versions, renegotiation, early data.

The contexts are the hub's own; a CA of the test is trusted beside the hub's, as a registered one is.
"""

import asyncio
import datetime
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from marram.hub.identity.pki import Pki
from marram.kit import metrics, net
from marram.kit.clock import SystemClock, SystemEntropy

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)
LIMIT_S = 10.0
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class Authority:
    def __init__(self, name: str) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = certificate(name, self.key, None, ca=True)


def certificate(
    name: str, key: Key, issuer: Authority | None, *, ca: bool = False, begins: datetime.datetime = NOW - DAY,
    ends: datetime.datetime = NOW + 30 * DAY, usage: list[x509.ObjectIdentifier] | None = None,
) -> x509.Certificate:  # fmt: skip
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder().subject_name(subject).public_key(key.public_key())
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .serial_number(x509.random_serial_number()).not_valid_before(begins).not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )  # fmt: skip
    if usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usage), critical=False)
    return builder.sign(issuer.key if issuer else key, hashes.SHA256())


class Door:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pki = Pki.open(folder / "pki", clock=SystemClock(), entropy=SystemEntropy(), names=["localhost"])
        self.pki.renew_if_due()
        self.authority = Authority("Plant CA")
        self.seen: list[net.PeerInfo] = []
        self.context = self.pki.server_context("required", alpn=["x-amzn-mqtt-ca"])
        self.context.load_verify_locations(cadata=der(self.authority.certificate))
        self.port = 0

    def connection(self, peer: net.PeerInfo) -> asyncio.Protocol:
        self.seen.append(peer)
        return Hello()

    def file(self, *made: x509.Certificate, key: Key) -> Path:
        path = self.folder / f"client-{made[0].serial_number}.pem"
        pem = b"".join(each.public_bytes(serialization.Encoding.PEM) for each in made)
        path.write_bytes(
            pem + key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )  # fmt: skip
        return path

    async def greeted(self, path: Path | None, *, ciphers: str = "", **options: Any) -> bool:
        """Whether the door let this client in: it is greeted then, and not before."""
        context = ssl.create_default_context(cadata=self.pki.root_pem)
        if ciphers:
            context.set_ciphers(ciphers)
        for name, value in options.items():
            setattr(context, name, value)
        if path is not None:
            context.load_cert_chain(path)
        try:
            async with asyncio.timeout(LIMIT_S):
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", self.port, ssl=context, server_hostname="localhost"
                )
                try:
                    return await reader.read(5) == b"hello"
                finally:
                    writer.transport.abort()
        except (ssl.SSLError, ConnectionError):
            return False


class Hello(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"hello")
        transport.close()


def der(made: x509.Certificate) -> bytes:
    return made.public_bytes(serialization.Encoding.DER)


def failed() -> float:
    return metrics.counter("marram_tls_handshakes_total", "", ("outcome",)).labels(outcome="failed").value


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    made = Door(tmp_path)
    with ThreadPoolExecutor(2) as pool:
        server = await net.serve("127.0.0.1", 0, made.connection, tls=lambda: made.context, handshakes=pool)
        made.port = server.port
        yield made
        server.close()


async def test_t08_good_certificates_are_let_in(door: Door) -> None:
    """So that the refusals below are for the reason they name."""
    key = ec.generate_private_key(ec.SECP256R1())
    assert await door.greeted(door.file(certificate("a", key, door.authority), key=key))
    usage = [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert await door.greeted(door.file(certificate("b", key, door.authority, usage=usage), key=key))
    issued = door.pki.issue_device()
    path = door.folder / "own.pem"
    path.write_text(issued.pem + str(issued.private_key_pem))
    assert await door.greeted(path)
    assert len(door.seen) == 3 and all(peer.certificate_der for peer in door.seen)


def bad(name: str, door: Door) -> Path | None:
    key: Key = ec.generate_private_key(ec.SECP256R1())
    ours = door.authority
    match name:
        case "none":
            return None
        case "expired":
            return door.file(certificate("x", key, ours, begins=NOW - 9 * DAY, ends=NOW - DAY), key=key)
        case "not yet valid":
            return door.file(certificate("x", key, ours, begins=NOW + DAY), key=key)
        case "for servers only":
            return door.file(certificate("x", key, ours, usage=[ExtendedKeyUsageOID.SERVER_AUTH]), key=key)
        case "for code only":
            return door.file(certificate("x", key, ours, usage=[ExtendedKeyUsageOID.CODE_SIGNING]), key=key)
        case "a CA of the same name":
            other = Authority("Plant CA")
            return door.file(certificate("x", key, other), other.certificate, key=key)
        case "the hub's name on a CA of its own":
            name_of_hub = x509.load_pem_x509_certificate(door.pki.root_pem.encode()).subject
            other = Authority(str(name_of_hub.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value))
            return door.file(certificate("x", key, other), other.certificate, key=key)
        case "self-signed":
            return door.file(certificate("x", key, None), key=key)
        case "signed by a device":
            issued = door.pki.issue_device()
            device = Authority("unused")
            device.certificate = x509.load_pem_x509_certificate(issued.pem.encode())
            held = serialization.load_pem_private_key(str(issued.private_key_pem).encode(), None)
            assert isinstance(held, ec.EllipticCurvePrivateKey)
            device.key = held
            return door.file(certificate("x", key, device), device.certificate, key=key)
        case "a weak key":
            weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)
            return door.file(certificate("x", weak, ours), key=weak)
    raise AssertionError(name)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
@pytest.mark.parametrize(
    "name",
    [
        "none", "expired", "not yet valid", "for servers only", "for code only", "a CA of the same name",
        "the hub's name on a CA of its own", "self-signed", "signed by a device", "a weak key",
    ],
)  # fmt: skip
async def test_t08_certificates_that_do_not_pass(door: Door, name: str, version: ssl.TLSVersion) -> None:
    before = failed()
    path = bad(name, door)
    options = {"minimum_version": version, "maximum_version": version}
    if name == "a weak key":
        context = ssl.create_default_context()
        with pytest.raises(ssl.SSLError):  # OpenSSL refuses to hold it already; below the level, the door does
            context.load_cert_chain(path)  # type: ignore[arg-type]
        assert not await door.greeted(path, ciphers="DEFAULT:@SECLEVEL=0", **options)
    else:
        assert not await door.greeted(path, **options)
    async with asyncio.timeout(LIMIT_S):
        while failed() == before:  # the door learns of it in a thread
            await asyncio.sleep(0.001)
    assert door.seen == []


def hello(version: bytes) -> bytes:
    """A ClientHello of an old version, by hand: our own OpenSSL would not send it."""
    body = version + bytes(32) + b"\x00" + b"\x00\x08\xc0\x13\xc0\x14\x00\x2f\x00\x35" + b"\x01\x00"
    shake = b"\x01" + len(body).to_bytes(3) + body
    return b"\x16" + version + len(shake).to_bytes(2) + shake


@pytest.mark.parametrize("version", [b"\x03\x00", b"\x03\x01", b"\x03\x02"], ids=["SSL 3", "TLS 1.0", "TLS 1.1"])
async def test_t08_old_versions(door: Door, version: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    writer.write(hello(version))
    answer = await asyncio.wait_for(reader.read(), LIMIT_S)
    writer.close()
    # alert, fatal: protocol_version (70), or handshake_failure (40) where not even the record is of a version it knows
    assert answer[:1] == b"\x15" and answer[5:6] == b"\x02" and answer[6] in (40, 70), answer
    assert door.seen == []


def s_client(hub: Any, folder: Path, *words: str, text: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{hub.port('mqtt')}", "-CAfile", hub.info["ca_file"],
         "-cert", str(folder / "d.pem"), *words],
        input=text, capture_output=True, timeout=30,
    )  # fmt: skip


@pytest.fixture(scope="module")
def device(shared_hub: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("device")
    made = shared_hub.client("iot").create_keys_and_certificate(setAsActive=True)
    (folder / "d.pem").write_text(made["certificatePem"] + made["keyPair"]["PrivateKey"])
    return folder


def test_t08_a_client_may_not_renegotiate(shared_hub: Any, device: Path) -> None:
    done = s_client(shared_hub, device, "-tls1_2", text=b"R\n" * 3)
    said = (done.stdout + done.stderr).lower()
    assert b"verify return code: 0" in said, "the handshake itself is good"
    assert b"renegotiating" in said and (
        b"no renegotiation" in said or b"alert" in said or b"handshake failure" in said
    ), said[-500:]


def test_t08_there_is_no_early_data_and_no_compression(shared_hub: Any, device: Path) -> None:
    done = s_client(shared_hub, device, "-tls1_3", "-sess_out", str(device / "session"), text=b"")
    assert b"TLSv1.3" in done.stdout and b"Compression: NONE" in done.stdout
    if (device / "session").exists():
        shown = subprocess.run(
            ["openssl", "sess_id", "-in", str(device / "session"), "-noout", "-text"], capture_output=True, check=True
        )
        assert b"Max Early Data: 0" in shown.stdout, shown.stdout


def test_t08_ciphers_without_forward_secrecy(shared_hub: Any, device: Path) -> None:
    for cipher in ("AES128-SHA", "AES256-GCM-SHA384", "ECDHE-ECDSA-AES128-SHA"):
        done = s_client(shared_hub, device, "-tls1_2", "-cipher", cipher)
        assert b"Cipher is (NONE)" in done.stdout or b"Cipher    : 0000" in done.stdout, (cipher, done.stdout[-400:])


def test_t08_a_session_is_not_resumed_past_a_revocation(shared_hub: Any, tmp_path: Path) -> None:
    """TLS resumes, as it proves the key only; the certificate's status is asked anew."""
    iot = shared_hub.client("iot")
    made = iot.create_keys_and_certificate(setAsActive=True)
    (tmp_path / "c.pem").write_text(made["certificatePem"] + made["keyPair"]["PrivateKey"])
    policy = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"iot:*","Resource":"*"}]}'
    iot.create_policy(policyName="resume", policyDocument=policy)
    iot.attach_policy(policyName="resume", target=made["certificateArn"])
    context = ssl.create_default_context(cafile=shared_hub.info["ca_file"])
    context.load_cert_chain(tmp_path / "c.pem")
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    def connect(session: ssl.SSLSession | None) -> tuple[bytes, ssl.SSLSession | None, bool]:
        raw = socket.create_connection(("127.0.0.1", shared_hub.port("mqtt")), 10)
        with context.wrap_socket(raw, server_hostname="localhost", session=session) as tls:
            tls.sendall(b"\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04test")
            try:
                return tls.recv(4), tls.session, bool(tls.session_reused)
            except ConnectionError:
                return b"", tls.session, bool(tls.session_reused)

    answer, session, _ = connect(None)
    assert answer == b"\x20\x02\x00\x00" and session is not None
    answer, _, resumed = connect(session)
    assert answer == b"\x20\x02\x00\x00" and resumed
    iot.update_certificate(certificateId=made["certificateId"], newStatus="REVOKED")
    answer, _, _ = connect(session)
    assert answer != b"\x20\x02\x00\x00"
