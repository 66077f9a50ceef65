"""Certificates that somebody else signed: read and checked before they are registered.

Sources: AWS IoT Core developer guide, "X.509 client certificates" and "Register your CA certificate"; RFC 5280, 4.2.1.9.
Not here: our own (pki.py), whether one is registered and active (authorities.py, certificates.py).
"""

import datetime
import hashlib
import warnings
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from marram.core.errors import Invalid
from marram.hub.identity import pki

MAX_PEM: Final = 65_536  # botocore model, CertificatePem
_BEGIN: Final = "-----BEGIN CERTIFICATE-----"
# The names that just-in-time provisioning gives to fields of a certificate's subject.
_FIELDS: Final = (
    (NameOID.COUNTRY_NAME, "AWS::IoT::Certificate::Country"),
    (NameOID.ORGANIZATION_NAME, "AWS::IoT::Certificate::Organization"),
    (NameOID.ORGANIZATIONAL_UNIT_NAME, "AWS::IoT::Certificate::OrganizationalUnit"),
    (NameOID.DN_QUALIFIER, "AWS::IoT::Certificate::DistinguishedNameQualifier"),
    (NameOID.STATE_OR_PROVINCE_NAME, "AWS::IoT::Certificate::StateName"),
    (NameOID.COMMON_NAME, "AWS::IoT::Certificate::CommonName"),
    (NameOID.SERIAL_NUMBER, "AWS::IoT::Certificate::SerialNumber"),
)


class BadCertificate(Invalid):
    """Not a certificate that can be registered; the message says why."""

    def __init__(self, message: str) -> None:
        super().__init__(message, kind="certificate")


def read(pem: str, what: str) -> x509.Certificate:
    """The one certificate in a PEM text, its key of a kind that we take. Raises BadCertificate."""
    if len(pem) > MAX_PEM:
        raise BadCertificate(f"{what}: over {MAX_PEM} characters")
    if pem.count(_BEGIN) != 1:
        raise BadCertificate(f"{what}: one certificate in PEM, not {pem.count(_BEGIN)}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # what the parser only warns of today is no certificate either
            return _checked(x509.load_pem_x509_certificate(pem.encode()), what)
    except BadCertificate:
        raise
    except Exception as exc:  # the parser of untrusted bytes raises more kinds than it lists
        raise BadCertificate(f"{what}: not an X.509 certificate in PEM") from exc


def load(der: bytes) -> x509.Certificate | None:
    """A certificate that a TLS peer has shown; None when it is not one that could be registered."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return _checked(x509.load_der_x509_certificate(der), "certificate")
    except Exception:  # as above
        return None


def der_of(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def check_authority(certificate: x509.Certificate, now: datetime.datetime) -> None:
    """Raises BadCertificate unless it may sign others, now."""
    try:
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        raise BadCertificate("the CA certificate has no basic constraints: it may not sign others") from None
    if not basic.ca:
        raise BadCertificate("the CA certificate's basic constraints say CA:FALSE: it may not sign others")
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        usage = None
    if usage is not None and not usage.key_cert_sign:
        raise BadCertificate("the CA certificate's key usage does not allow it to sign certificates")
    check_time(certificate, now, "the CA certificate")


def check_time(certificate: x509.Certificate, now: datetime.datetime, what: str) -> None:
    if now < certificate.not_valid_before_utc:
        raise BadCertificate(f"{what} is not valid before {certificate.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}")
    if now > certificate.not_valid_after_utc:
        raise BadCertificate(f"{what} has ended on {certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}")


def is_signed_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Names fit and the signature does, for the key of this authority and no other of its name."""
    try:
        certificate.verify_directly_issued_by(authority)
    except Exception:  # bad signature, name, algorithm: as above
        return False
    return True


def subject_of(certificate: x509.Certificate) -> str:
    """A short name of the subject, equal for equal subjects."""
    return hashlib.sha256(certificate.subject.public_bytes()).hexdigest()


def issuer_of(certificate: x509.Certificate) -> str:
    return hashlib.sha256(certificate.issuer.public_bytes()).hexdigest()


def common_names(certificate: x509.Certificate) -> list[str]:
    return [str(attribute.value) for attribute in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]


def says_its_key(certificate: x509.Certificate) -> bool:
    """Whether it names the key that signed it, by which OpenSSL tells two CAs of one name apart."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    except (x509.ExtensionNotFound, ValueError):
        return False
    return found.key_identifier is not None


def parameters(certificate: x509.Certificate) -> dict[str, str]:
    """What a template for just-in-time provisioning may ask of the subject: the first value of each field."""
    found: dict[str, str] = {}
    for oid, name in _FIELDS:
        for attribute in certificate.subject.get_attributes_for_oid(oid)[:1]:
            if isinstance(attribute.value, str):
                found[name] = attribute.value
    return found


def _checked(certificate: x509.Certificate, what: str) -> x509.Certificate:
    key = certificate.public_key()
    fits = isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in pki.CURVES
    fits = fits or (isinstance(key, rsa.RSAPublicKey) and 2048 <= key.key_size <= 8192)
    if not fits:
        raise BadCertificate(f"{what}: the key must be RSA of 2048 bits or more, or EC P-256, P-384 or P-521")
    # All that is asked of it later, asked now: what cannot be read is refused here and nowhere else.
    _ = certificate.subject, certificate.issuer, certificate.extensions, certificate.serial_number
    return certificate
