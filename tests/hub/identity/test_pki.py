import contextlib
import ssl
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from marram.core.errors import Corrupt, Invalid
from marram.hub.identity import pki
from marram.hub.identity.pki import Pki
from marram.kit.clock import FakeClock, SystemEntropy

DAY_MS = 24 * 3600 * 1000


@pytest.fixture
def clock():
    return FakeClock(time.time_ns() // 1_000_000)  # ssl judges by the machine's clock


@pytest.fixture
def made(tmp_path, clock):
    return Pki.open(tmp_path / "pki", clock=clock, entropy=SystemEntropy(), names=["hub.example", "192.0.2.1"])


def csr(key, name="device-7", **subject):
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else []
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(attributes))
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.PEM).decode()


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str = "localhost"):
    """Both ends in memory; returns the server's side. Raises ssl.SSLError when either refuses."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server_side = server.wrap_bio(to_server, to_client, server_side=True)
    client_side = client.wrap_bio(to_client, to_server, server_hostname=name)
    for _ in range(6):
        for side in (client_side, server_side):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    client_side.write(b"x")
    assert server_side.read(1) == b"x"
    return server_side


def client_context(made: Pki, issued=None, key_pem: str = ""):
    context = ssl.create_default_context(cadata=made.root_pem)
    if issued is not None:
        with tempfile.NamedTemporaryFile("w") as file:
            file.write(issued.pem + (key_pem or issued.private_key_pem))
            file.flush()
            context.load_cert_chain(file.name)
    return context


def test_a_device_is_let_in_and_its_certificate_is_seen(made):
    issued = made.issue_device()
    side = handshake(made.server_context("required"), client_context(made, issued))
    assert side.getpeercert(binary_form=True) == issued.der
    assert pki.certificate_id(issued.der) == issued.id


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "hub.example", "192.0.2.1"])
def test_the_server_is_verified_by_every_name(made, name):
    side = handshake(made.server_context("none"), client_context(made), name)
    assert (side.version(), side.getpeercert(binary_form=True)) == ("TLSv1.3", None)


def test_another_name_is_refused(made):
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(made.server_context("none"), client_context(made), "evil.example")


def test_without_a_certificate(made):
    with pytest.raises(ssl.SSLError):
        handshake(made.server_context("required"), client_context(made))
    assert handshake(made.server_context("optional"), client_context(made)).getpeercert(binary_form=True) is None


def test_a_certificate_of_another_hub_is_refused(made, tmp_path, clock):
    other = Pki.open(tmp_path / "other", clock=clock, entropy=SystemEntropy())
    with pytest.raises(ssl.SSLError):
        handshake(made.server_context("required"), client_context(made, other.issue_device()))


def test_old_versions_of_tls_are_refused(made):
    assert made.server_context("none").minimum_version == ssl.TLSVersion.TLSv1_2


def test_openssl_verifies_the_chain(made, tmp_path):
    issued = made.issue_device()
    (tmp_path / "trust.pem").write_text(made.trusted_pem)
    (tmp_path / "device.pem").write_text(issued.pem)
    run = [
        "openssl",
        "verify",
        "-x509_strict",
        "-purpose",
        "sslclient",
        "-CAfile",
        tmp_path / "trust.pem",
        tmp_path / "device.pem",
    ]
    assert subprocess.run(run, check=False, capture_output=True).returncode == 0


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(ec.generate_private_key(ec.SECP256R1()), id="P-256"),
        pytest.param(ec.generate_private_key(ec.SECP384R1()), id="P-384"),
        pytest.param(rsa.generate_private_key(65537, 2048), id="RSA 2048"),
    ],
)
def test_requests_are_signed_for_their_own_key(made, key):
    issued = made.issue_device(csr(key))
    certificate = x509.load_pem_x509_certificate(issued.pem.encode())
    assert certificate.public_key() == key.public_key()
    assert certificate.subject.rfc4514_string() == "CN=device-7"
    assert issued.private_key_pem is None
    assert certificate.not_valid_after_utc.year == 2049
    basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert basic.value.ca is False


def test_a_request_for_a_ca_gets_no_ca(made):
    key = ec.generate_private_key(ec.SECP256R1())
    wish = x509.BasicConstraints(ca=True, path_length=None)
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(wish, critical=True)
    pem = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
    certificate = x509.load_pem_x509_certificate(made.issue_device(pem).pem.encode())
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    assert certificate.subject.rfc4514_string() == "CN=AWS IoT Certificate"


def _spoilt() -> str:
    lines = csr(ec.generate_private_key(ec.SECP256R1())).splitlines()
    body = "".join(lines[1:-1])
    at = len(body) - 12  # inside the signature
    body = body[:at] + ("A" if body[at] != "A" else "B") + body[at + 1 :]
    return "\n".join([lines[0], body, lines[-1]])


@pytest.mark.parametrize(
    "request_pem",
    [
        pytest.param("", id="empty"),
        pytest.param("nonsense", id="text"),
        pytest.param("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", id="not DER"),
        pytest.param("x" * 20_000, id="too large"),
        pytest.param(_spoilt(), id="wrong signature"),
        pytest.param(csr(rsa.generate_private_key(65537, 1024)), id="RSA 1024"),
        pytest.param(csr(ec.generate_private_key(ec.SECP256K1())), id="other curve"),
        pytest.param(csr(ed25519.Ed25519PrivateKey.generate()), id="Ed25519"),
        pytest.param(csr(dsa.generate_private_key(2048)), id="DSA"),
    ],
)
def test_requests_that_are_refused(made, request_pem):
    with pytest.raises(Invalid):
        made.issue_device(request_pem)


def test_a_core_gets_a_listener_certificate_on_its_own_key(made):
    issued = made.issue_device(name="core-1")
    listener = made.issue_local_server(issued.pem, ["core-1", "192.0.2.9"])
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(listener.pem + issued.private_key_pem)
        file.flush()
        server.load_cert_chain(file.name)
    for name in ("localhost", "127.0.0.1", "core-1", "192.0.2.9"):
        handshake(server, client_context(made), name)
    with pytest.raises(Invalid):
        made.issue_local_server(issued.pem, ["no good"])


def test_a_listener_certificate_is_no_client_certificate(made):
    issued = made.issue_device(name="core-1")
    listener = made.issue_local_server(issued.pem, [])
    with pytest.raises(ssl.SSLError):
        handshake(made.server_context("required"), client_context(made, listener, issued.private_key_pem))


def test_reopening_keeps_everything_and_renews_in_time(made, tmp_path, clock):
    folder = tmp_path / "pki"
    before = (folder / "server.pem").read_bytes()
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    Pki.open(folder, clock=clock, entropy=SystemEntropy(), names=["hub.example", "192.0.2.1"])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == kept
    clock.jump(334 * DAY_MS)
    assert not made.renew_if_due()
    clock.jump(2 * DAY_MS)
    assert made.renew_if_due()
    assert (folder / "server.pem").read_bytes() != before


def test_other_names_make_another_server_certificate(made, tmp_path, clock):
    again = Pki.open(tmp_path / "pki", clock=clock, entropy=SystemEntropy(), names=["new.example"])
    handshake(again.server_context("none"), client_context(again), "new.example")
    assert again.root_pem == made.root_pem


def test_keys_are_for_the_owner_alone(made, tmp_path):
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "pki").iterdir()}
    assert {name: mode for name, mode in modes.items() if name != "root-ca.pem"} == dict.fromkeys(
        modes.keys() - {"root-ca.pem"}, 0o600
    )
    assert (tmp_path / "pki").stat().st_mode & 0o777 == 0o700


def test_the_root_key_may_be_away(made, tmp_path, clock):
    (tmp_path / "pki" / "root-ca.key").unlink()
    again = Pki.open(tmp_path / "pki", clock=clock, entropy=SystemEntropy(), names=["hub.example"])
    issued = again.issue_device()
    side = handshake(again.server_context("required"), client_context(again, issued))
    assert side.getpeercert(binary_form=True) == issued.der


@pytest.mark.parametrize("name", ["master.key", "signing.key", "server.pem", "issuing-ca.pem", "root-ca.pem"])
def test_a_damaged_file_is_named(made, tmp_path, clock, name):
    (tmp_path / "pki" / name).write_bytes(b"damaged")
    with pytest.raises(Corrupt, match=name):
        Pki.open(tmp_path / "pki", clock=clock, entropy=SystemEntropy())


@pytest.mark.parametrize("name", ["master.key", "signing.key", "issuing-ca.pem", "root-ca.pem"])
def test_a_lost_file_is_named_and_not_made_anew(made, tmp_path, clock, name):
    (tmp_path / "pki" / name).unlink()
    with pytest.raises(Corrupt, match=f"{name} is gone"):
        Pki.open(tmp_path / "pki", clock=clock, entropy=SystemEntropy())
    assert not (tmp_path / "pki" / name).exists()


def test_a_first_start_that_was_cut_goes_on(made, tmp_path, clock):
    for name in ("server.pem", "signing.key", "master.key"):
        (tmp_path / "pki" / name).unlink()
    again = Pki.open(tmp_path / "pki", clock=clock, entropy=SystemEntropy())
    assert again.root_pem == made.root_pem


def test_sealing(made):
    sealed = made.seal(b"secret", label="key:A")
    assert b"secret" not in sealed
    assert made.unseal(sealed, label="key:A") == b"secret"
    with pytest.raises(Corrupt):
        made.unseal(sealed, label="key:B")
    with pytest.raises(Corrupt):
        made.unseal(sealed[:-1], label="key:A")


def test_signatures_verify_with_the_public_key(made):
    key = ed25519.Ed25519PublicKey.from_public_bytes(made.public_signing_key)
    signature = made.sign(b"bundle")
    assert key.verify(signature, b"bundle") is None  # raises when it does not fit
    with pytest.raises(InvalidSignature):
        key.verify(signature, b"Bundle")


def test_variables_of_a_certificate(made):
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "CH"),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "one"),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "two"),
            x509.NameAttribute(NameOID.COMMON_NAME, "pump-7"),
        ]
    )
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    issued = made.issue_device(request.public_bytes(serialization.Encoding.PEM).decode())
    found = pki.policy_variables(issued.der)
    assert found["iot:Certificate.Subject.CommonName"] == "pump-7"
    assert found["iot:Certificate.Subject.OrganizationalUnit"] == "one"
    assert found["iot:Certificate.Subject.OrganizationalUnit.1"] == "two"
    assert found["iot:Certificate.Subject.OrganizationalUnit.List"] == ("one", "two")
    assert found["iot:Certificate.Issuer.Organization"] == "Marram"
    assert found["iot:CertificateId"] == issued.id
    available = found["iot:Certificate.AvailableKeys"]
    assert "iot:Certificate.Subject.OrganizationalUnit.1" in available
    assert "iot:CertificateId" not in available and "iot:Certificate.Subject.Title" not in available


def test_policy_variables_are_five_of_a_field_and_not_over_1024_characters(made):
    units = ["one", "x" * 1025, *"cdefg"]
    subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit, _validate=False) for unit in units])
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    issued = made.issue_device(request.public_bytes(serialization.Encoding.PEM).decode())
    found = pki.policy_variables(issued.der)
    assert found["iot:Certificate.Subject.OrganizationalUnit.List"] == ("one", "c", "d", "e")
    assert found["iot:Certificate.Subject.OrganizationalUnit.4"] == "e"
    assert "iot:Certificate.Subject.OrganizationalUnit.1" not in found
    assert "iot:Certificate.Subject.OrganizationalUnit.5" not in found


def test_a_key_never_shows(made):
    issued = made.issue_device()
    assert "PRIVATE" not in repr(issued)


def test_names_of_the_server_are_checked(tmp_path: Path, clock):
    with pytest.raises(Invalid, match="no good"):
        Pki.open(tmp_path / "pki", clock=clock, entropy=SystemEntropy(), names=["no good"])
