"""Keys and certificates of one hub: root, issuing CA, server certificate, device certificates, signing and master key.

Root and issuing CA are EC P-256 for 30 years; the root's key is needed only to make the issuing CA and may then be taken
away. Device certificates run to 2049-12-31, as AWS's. The server certificate lasts a year and is renewed 30 days before.
Whether a device certificate is active is not decided here but by its SHA-256 in marram.hub.identity.service.
Sources: RFC 5280; AWS IoT Core developer guide, "X.509 client certificates".
"""

import datetime
import hashlib
import ipaddress
import re
import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from cryptography import x509
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from marram.core.errors import Corrupt, Invalid
from marram.core.policy import variables
from marram.kit import disk
from marram.kit.clock import Clock, Entropy
from marram.kit.log import logger

log = logger(__name__)

DAY: Final = datetime.timedelta(days=1)
CA_LIFE: Final = 30 * 365 * DAY
SERVER_LIFE: Final = 365 * DAY
RENEW_BEFORE: Final = 30 * DAY
LASTING: Final = (
    "root-ca.pem",
    "issuing-ca.pem",
    "master.key",
    "signing.key",
)  # what devices and stored secrets rest on
DEVICE_END: Final = datetime.datetime(2049, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)
DEVICE_NAME: Final = "AWS IoT Certificate"  # the subject AWS gives when nobody asked for another
MAX_CSR_BYTES: Final = 16 << 10
CURVES: Final = ("secp256r1", "secp384r1", "secp521r1")
LOOPBACK: Final = ("localhost", "127.0.0.1")
HOST: Final = re.compile(r"[A-Za-z0-9*]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?")

ClientCertificates = Literal["required", "optional", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A certificate and, when it was made here, its private key (PKCS #8 PEM, in clear)."""

    pem: str
    der: bytes
    private_key_pem: str | None = None
    public_key_pem: str = ""

    @property
    def id(self) -> str:
        return certificate_id(self.der)

    def __repr__(self) -> str:  # never the key
        return f"Issued(id={self.id!r})"


@dataclass(frozen=True, slots=True)
class _Authority:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


class Pki:
    """Opened with `Pki.open`; `trusted_pem` is what a TLS door verifies device certificates against."""

    def __init__(self, folder: Path, *, clock: Clock, entropy: Entropy, names: Sequence[str]) -> None:
        self._folder, self._clock, self._entropy = folder, clock, entropy
        self._names = _server_names(names)
        disk.make_dirs(folder, mode=0o700)
        self._check_complete()
        self._root = self._open_root()
        self._issuing = self._open_issuing()
        self._master = self._secret("master.key")
        self._signing = ed25519.Ed25519PrivateKey.from_private_bytes(self._secret("signing.key"))
        self.renew_if_due()

    @classmethod
    def open(cls, folder: Path, *, clock: Clock, entropy: Entropy, names: Sequence[str] = ()) -> "Pki":
        """Make everything at the first start. names: what the server certificate covers beside localhost and 127.0.0.1.

        Raises Corrupt when a file is gone or not what it should be, Invalid when a name is neither a host name nor an address.
        """
        return cls(folder, clock=clock, entropy=entropy, names=names)

    # trust

    @property
    def root_pem(self) -> str:
        return _pem(self._root)

    @property
    def root_path(self) -> Path:
        return self._folder / "root-ca.pem"

    @property
    def root_fingerprint(self) -> str:
        """SHA-256 of the root's DER in hex: what a join token pins."""
        return certificate_id(_der(self._root))

    @property
    def trusted_pem(self) -> str:
        return _pem(self._root) + _pem(self._issuing.certificate)

    @property
    def own_ders(self) -> tuple[bytes, ...]:
        return _der(self._root), _der(self._issuing.certificate)

    @property
    def own_ids(self) -> tuple[str, ...]:
        return tuple(certificate_id(der) for der in self.own_ders)

    def server_context(self, clients: ClientCertificates, *, alpn: Sequence[str] = ()) -> ssl.SSLContext:
        """A context for one door with the present server certificate. Call again after a renewal."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.load_cert_chain(self._folder / "server.pem")
        if clients != "none":
            context.load_verify_locations(cadata=self.trusted_pem)
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            context.verify_mode = ssl.CERT_REQUIRED if clients == "required" else ssl.CERT_OPTIONAL
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context

    def renew_if_due(self) -> bool:
        """Make the server certificate anew when it ends within 30 days or covers other names. True when it was made."""
        path = self._folder / "server.pem"
        if path.exists():
            present = _read_certificate(path)
            if present.not_valid_after_utc - self._now() > RENEW_BEFORE and self._covers(present):
                return False
        issued = self._issue_server(self._names, ec.generate_private_key(ec.SECP256R1()))
        assert issued.private_key_pem is not None
        # One file: a key and a certificate that do not belong together can never be read.
        disk.write_atomic(path, (issued.pem + issued.private_key_pem).encode())
        log.info("pki.server_certificate_made", names=len(self._names))
        return True

    # certificates

    def issue_device(
        self, csr_pem: str | None = None, *, name: str | None = None, ends_ms: int | None = None
    ) -> Issued:
        """A client certificate for the key in `csr_pem`, or for a new one. `name` overrides the subject of the request.

        ends_ms: for a temporary one. Raises Invalid when the request is not one, is not signed by its key, or the key is too weak.
        """
        end = DEVICE_END if ends_ms is None else datetime.datetime.fromtimestamp(ends_ms / 1000, tz=datetime.UTC)
        if csr_pem is None:
            key = ec.generate_private_key(ec.SECP256R1())
            subject = _name(name or DEVICE_NAME)
            return self._issue(key.public_key(), subject, end, key=key, usage=ExtendedKeyUsageOID.CLIENT_AUTH)
        request = _read_request(csr_pem)
        subject = _name(name) if name else request.subject if len(request.subject) else _name(DEVICE_NAME)
        return self._issue(_client_key(request), subject, end, usage=ExtendedKeyUsageOID.CLIENT_AUTH)

    def issue_local_server(self, certificate_pem: str, names: Sequence[str]) -> Issued:
        """A server certificate on the key of `certificate_pem`, for a core's own listener. The PEM is leaf and issuing CA.

        Raises Invalid for a wildcard and for a name of the hub: all who trust our root would take its holder for the hub.
        """
        for name in names:
            if "*" in name or self.is_own_name(name):
                why = "covers other machines" if "*" in name else "is the hub's own"
                raise Invalid(
                    f"a core's listener cannot be called {name[:300]!r}: that {why}; name the core's own host or address"
                )
        key = x509.load_pem_x509_certificate(certificate_pem.encode()).public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey)
        made = self._issue(
            key,
            _name(names[0] if names else "localhost"),
            DEVICE_END,
            usage=ExtendedKeyUsageOID.SERVER_AUTH,
            names=_server_names(names),
        )
        return Issued(pem=made.pem + _pem(self._issuing.certificate), der=made.der)

    def is_own_name(self, name: str) -> bool:
        """Whether others know the hub by it. The loopback names are everybody's."""
        return name.lower().rstrip(".") in {own.lower() for own in self._names[len(LOOPBACK) :]}

    def _issue_server(self, names: Sequence[str], key: ec.EllipticCurvePrivateKey) -> Issued:
        end = min(self._now() + SERVER_LIFE, self._issuing.certificate.not_valid_after_utc)
        usage = ExtendedKeyUsageOID.SERVER_AUTH
        made = self._issue(key.public_key(), _name(names[0]), end, key=key, usage=usage, names=names)
        return Issued(
            pem=made.pem + _pem(self._issuing.certificate), der=made.der, private_key_pem=made.private_key_pem
        )

    def _issue(
        self,
        public: ec.EllipticCurvePublicKey | rsa.RSAPublicKey,
        subject: x509.Name,
        end: datetime.datetime,
        *,
        usage: x509.ObjectIdentifier,
        key: ec.EllipticCurvePrivateKey | None = None,
        names: Sequence[str] = (),
    ) -> Issued:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._issuing.certificate.subject)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._now() - DAY)  # a device's clock may be behind ours
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(_authority_id(self._issuing.certificate), critical=False)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(_general(names)), critical=False)
        certificate = builder.sign(self._issuing.key, hashes.SHA256())
        return Issued(
            pem=_pem(certificate),
            der=_der(certificate),
            private_key_pem=_key_pem(key) if key else None,
            public_key_pem=public.public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            ).decode(),
        )

    # signing and sealing

    @property
    def public_signing_key(self) -> bytes:
        """32 bytes, Ed25519: what an edge pins at joining."""
        raw = serialization.Encoding.Raw
        return self._signing.public_key().public_bytes(raw, serialization.PublicFormat.Raw)

    def sign(self, data: bytes) -> bytes:
        """64 bytes, Ed25519 (RFC 8032)."""
        return self._signing.sign(data)

    def seal(self, data: bytes, *, label: str) -> bytes:
        """Encrypt for our own disk: nonce, AES-256-GCM text. `label` must be the same at `unseal`."""
        nonce = self._entropy.bytes(12)
        return nonce + AESGCM(self.derived_key("seal")).encrypt(nonce, data, label.encode())

    def unseal(self, sealed: bytes, *, label: str) -> bytes:
        """Raises Corrupt when it was not sealed with this master key and label."""
        try:
            return AESGCM(self.derived_key("seal")).decrypt(sealed[:12], sealed[12:], label.encode())
        except (InvalidTag, ValueError) as exc:
            raise Corrupt(f"a sealed value does not open with pki/master.key ({label.partition(':')[0]})") from exc

    def derived_key(self, purpose: str) -> bytes:
        """32 bytes for one purpose (page tokens, sessions), from the master key."""
        return hashlib.blake2b(purpose.encode(), key=self._master, digest_size=32).digest()

    # files

    def _now(self) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(self._clock.wall_ms() / 1000, tz=datetime.UTC)

    def _check_complete(self) -> None:
        """server.pem is made last. Where it is, all was: making a lost file anew would cut off every device without a word."""
        if (self._folder / "server.pem").exists():
            for name in LASTING:
                if not (self._folder / name).exists():
                    raise Corrupt(f"{self._folder / name} is gone: restore it from a backup of the hub's folder")

    def _open_root(self) -> x509.Certificate:
        path = self.root_path
        if not path.exists():
            key = ec.generate_private_key(ec.SECP256R1())
            subject = x509.Name(
                [
                    x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Marram"),
                    x509.NameAttribute(NameOID.COMMON_NAME, f"Marram root {self._entropy.bytes(4).hex()}"),
                ]
            )
            root = self._authority(subject, key, subject, key, depth=1)
            disk.write_atomic(self._folder / "root-ca.key", _key_pem(key).encode())
            disk.write_atomic(path, _pem(root).encode(), mode=0o644)
        return _read_certificate(path)

    def _open_issuing(self) -> _Authority:
        path = self._folder / "issuing-ca.pem"  # certificate and key
        if not path.exists():
            root_key = _read_key(self._folder / "root-ca.key")
            key = ec.generate_private_key(ec.SECP256R1())
            subject = x509.Name(
                [
                    x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Marram"),
                    x509.NameAttribute(NameOID.COMMON_NAME, f"Marram issuing {self._entropy.bytes(4).hex()}"),
                ]
            )
            end = self._root.not_valid_after_utc
            made = self._authority(subject, key, self._root.subject, root_key, depth=0, end=end)
            disk.write_atomic(path, (_pem(made) + _key_pem(key)).encode())
        return _Authority(_read_certificate(path), _read_key(path))

    def _authority(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        issuer: x509.Name,
        issuer_key: ec.EllipticCurvePrivateKey,
        *,
        depth: int,
        end: datetime.datetime | None = None,
    ) -> x509.Certificate:
        issuer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._now() - DAY)
            .not_valid_after(end or self._now() + CA_LIFE)
            .add_extension(x509.BasicConstraints(ca=True, path_length=depth), critical=True)
            .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(issuer_id, critical=False)
            .sign(issuer_key, hashes.SHA256())
        )

    def _secret(self, name: str) -> bytes:
        path = self._folder / name
        if not path.exists():
            disk.write_atomic(path, self._entropy.bytes(32))
        data = disk.read(path, limit=64)
        if len(data) != 32:
            raise Corrupt(f"{path} must hold 32 bytes, not {len(data)}")
        return data

    def _covers(self, certificate: x509.Certificate) -> bool:
        try:
            found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            return False
        return list(found) == _general(self._names)


def certificate_id(der: bytes) -> str:
    """SHA-256 of the DER in hex, as AWS."""
    return hashlib.sha256(der).hexdigest()


MAX_VALUES: Final = 5  # of a field of a certificate, as policy variables
MAX_VALUE: Final = 1024


def policy_variables(der: bytes) -> dict[str, str | tuple[str, ...]]:
    """The `iot:Certificate.*` variables of a certificate: each field's first value, `.0`, `.1` ... and `.List`.

    As AWS: the first five values of a field, none that is over 1,024 characters. `AvailableKeys` names what has a value.
    Source: AWS IoT Core developer guide, "X.509 certificate AWS IoT Core policy variables".
    """
    certificate = x509.load_der_x509_certificate(der)
    lists: dict[str, list[str]] = {}
    for side, name in (("Subject", certificate.subject), ("Issuer", certificate.issuer)):
        for attribute in name:
            field = _FIELDS.get(attribute.oid)
            if field is not None and isinstance(attribute.value, str):
                lists.setdefault(f"iot:Certificate.{side}.{field}", []).append(attribute.value)
    for side, kind in (("Subject", x509.SubjectAlternativeName), ("Issuer", x509.IssuerAlternativeName)):
        for alternative in _alternatives(certificate, kind):
            field = _ALTERNATIVES.get(type(alternative))
            if field is not None:
                value = alternative.value
                text = value.rfc4514_string() if isinstance(value, x509.Name) else str(value)
                lists.setdefault(f"iot:Certificate.{side}.AlternativeName.{field}", []).append(text)
    found: dict[str, str | tuple[str, ...]] = {
        "iot:CertificateId": certificate_id(der),
        "iot:Certificate.SerialNumber": str(certificate.serial_number),
    }
    for key, listed in lists.items():
        assert key in variables.CERTIFICATE_LISTS, key
        values = [(at, value) for at, value in enumerate(listed[:MAX_VALUES]) if len(value) <= MAX_VALUE]
        found.update({f"{key}.{at}": value for at, value in values})
        if values:
            found[f"{key}.List"] = tuple(value for _, value in values)
            if values[0][0] == 0:
                found[key] = values[0][1]
    found["iot:Certificate.AvailableKeys"] = tuple(sorted(key for key in found if key.startswith("iot:Certificate.")))
    return found


def _alternatives(
    certificate: x509.Certificate, kind: type[x509.SubjectAlternativeName] | type[x509.IssuerAlternativeName]
) -> list[x509.GeneralName]:
    try:
        return list(certificate.extensions.get_extension_for_class(kind).value)
    except (x509.ExtensionNotFound, ValueError):
        return []


def validity_ms(der: bytes) -> tuple[int, int]:
    certificate = x509.load_der_x509_certificate(der)
    ends = (certificate.not_valid_before_utc, certificate.not_valid_after_utc)
    return int(ends[0].timestamp() * 1000), int(ends[1].timestamp() * 1000)


def pem_of(der: bytes) -> str:
    return ssl.DER_cert_to_PEM_cert(der)


_FIELDS: Final = {
    NameOID.DN_QUALIFIER: "DistinguishedNameQualifier",
    NameOID.COUNTRY_NAME: "Country",
    NameOID.ORGANIZATION_NAME: "Organization",
    NameOID.ORGANIZATIONAL_UNIT_NAME: "OrganizationalUnit",
    NameOID.STATE_OR_PROVINCE_NAME: "State",
    NameOID.COMMON_NAME: "CommonName",
    NameOID.SERIAL_NUMBER: "SerialNumber",
    NameOID.TITLE: "Title",
    NameOID.SURNAME: "Surname",
    NameOID.GIVEN_NAME: "GivenName",
    NameOID.INITIALS: "Initials",
    NameOID.PSEUDONYM: "Pseudonym",
    NameOID.GENERATION_QUALIFIER: "GenerationQualifier",
}
_ALTERNATIVES: Final[dict[type[x509.GeneralName], str]] = {
    x509.RFC822Name: "RFC822Name",
    x509.DNSName: "DNSName",
    x509.DirectoryName: "DirectoryName",
    x509.UniformResourceIdentifier: "UniformResourceIdentifier",
    x509.IPAddress: "IPAddress",
}


def _read_request(csr_pem: str) -> x509.CertificateSigningRequest:
    if len(csr_pem) > MAX_CSR_BYTES:
        raise Invalid(f"certificate signing request is over {MAX_CSR_BYTES} bytes", limit=MAX_CSR_BYTES)
    if csr_pem.count("-----BEGIN") > 1:
        raise Invalid("certificate signing request: more than one PEM block")
    try:
        request = x509.load_pem_x509_csr(csr_pem.encode())
        valid = request.is_signature_valid
        len(request.subject)
    except Exception as exc:  # the parser of untrusted bytes raises more kinds than it lists
        raise Invalid("certificate signing request: not PKCS #10 in PEM, or not signed by its own key") from exc
    if not valid:
        raise Invalid("certificate signing request: its signature does not fit its key")
    return request


def _client_key(request: x509.CertificateSigningRequest) -> ec.EllipticCurvePublicKey | rsa.RSAPublicKey:
    try:
        key = request.public_key()
    except Exception as exc:  # as above
        raise Invalid("certificate signing request: its key cannot be read") from exc
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in CURVES:
        return key
    if isinstance(key, rsa.RSAPublicKey) and 2048 <= key.key_size <= 8192:
        return key
    raise Invalid("certificate signing request: the key must be RSA of 2048 bits or more, or EC P-256, P-384 or P-521")


def _server_names(names: Iterable[str]) -> list[str]:
    found = [*LOOPBACK]
    for name in names:
        if name in found or not name:
            continue
        if not _is_address(name) and not HOST.fullmatch(name):
            raise Invalid(f"{name!r} is neither a host name nor an address")
        found.append(name)
    return found


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _general(names: Iterable[str]) -> list[x509.GeneralName]:
    return [x509.IPAddress(ipaddress.ip_address(name)) if _is_address(name) else x509.DNSName(name) for name in names]


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[:64])])


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _authority_id(certificate: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    own = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    pkcs8, clear = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, pkcs8, clear).decode()


def _read_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(disk.read(path, limit=1 << 20))
    except ValueError as exc:
        raise Corrupt(f"{path} does not begin with a certificate in PEM") from exc


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    data = disk.read(path, limit=1 << 20)
    at = data.find(b"-----BEGIN PRIVATE KEY-----")
    try:
        key = serialization.load_pem_private_key(data[max(0, at) :], password=None)
    except (ValueError, TypeError) as exc:
        raise Corrupt(f"{path} holds no private key that can be read") from exc
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise Corrupt(f"{path}: the key is not an EC key")
    return key
