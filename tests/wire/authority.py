"""A certificate authority of a customer: it signs verification certificates and devices, well or badly as asked."""

import datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.wire.plant import key_pem

DAY = datetime.timedelta(days=1)
OIDS = {
    "CN": NameOID.COMMON_NAME,
    "C": NameOID.COUNTRY_NAME,
    "serialNumber": NameOID.SERIAL_NUMBER,
    "O": NameOID.ORGANIZATION_NAME,
}


def name_of(**fields: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(OIDS[key], value) for key, value in fields.items()])


class CertificateAuthority:
    """`now`: what it takes for the present when it dates certificates."""

    def __init__(
        self,
        common_name: str = "Plant CA",
        *,
        now: datetime.datetime | None = None,
        is_ca: bool = True,
        parent: "CertificateAuthority | None" = None,
        key_bits: int = 0,
        starts: datetime.timedelta = -DAY,
        ends: datetime.timedelta = 365 * DAY,
    ) -> None:
        self.now = now or datetime.datetime.now(datetime.UTC)
        self.key: Any = (
            rsa.generate_private_key(65537, key_bits) if key_bits else ec.generate_private_key(ec.SECP256R1())
        )
        self.name = name_of(CN=common_name)
        signer, issuer = (parent.key, parent.name) if parent else (self.key, self.name)
        builder = (
            x509.CertificateBuilder().subject_name(self.name).issuer_name(issuer).public_key(self.key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(self.now + starts).not_valid_after(self.now + ends)
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False)
        )  # fmt: skip
        self.certificate = builder.sign(signer, hashes.SHA256())

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def issue(
        self,
        *,
        names_its_key: bool = True,
        starts: datetime.timedelta = -DAY,
        ends: datetime.timedelta = 30 * DAY,
        usage: x509.ObjectIdentifier | None = ExtendedKeyUsageOID.CLIENT_AUTH,
        key: Any = None,
        **subject: str,
    ) -> tuple[str, str]:
        """(certificate, key), both PEM."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        builder = (
            x509.CertificateBuilder().subject_name(name_of(**subject)).issuer_name(self.name).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(self.now + starts).not_valid_after(self.now + ends)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        )  # fmt: skip
        if usage is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if names_its_key:
            identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
            builder = builder.add_extension(identifier, critical=False)
        certificate = builder.sign(self.key, hashes.SHA256())
        return certificate.public_bytes(serialization.Encoding.PEM).decode(), key_pem(key)

    def proof(self, code: str, **options: Any) -> str:
        """The verification certificate for a registration code."""
        return self.issue(CN=code, usage=None, **options)[0]
