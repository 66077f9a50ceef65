"""`marram ca`: certificate authorities whose devices the hub lets in."""

import argparse
import datetime
from pathlib import Path

from marram.cli.main import DONE, command, print_json, table
from marram.core.errors import Invalid
from marram.kit import disk

MAX_BYTES = 1 << 16


@command("ca", help="certificate authorities of your own: register, list")
def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    register = verbs.add_parser(
        "register",
        help="let in devices whose certificates this CA has signed",
        epilog="example: marram ca register plant-ca.pem --key plant-ca.key --template jit --data var/hub",
    )
    register.add_argument("file", type=Path, metavar="FILE", help="the CA certificate, PEM")
    proof = register.add_mutually_exclusive_group(required=True)
    proof.add_argument(
        "--key", type=Path, metavar="FILE", help="its private key, PEM; it stays here, and signs the proof"
    )
    proof.add_argument(
        "--proof", type=Path, metavar="FILE", help="a certificate that it has signed for the registration code"
    )
    how = register.add_mutually_exclusive_group()
    how.add_argument("--auto", action="store_true", help="register its devices when they first connect (JITR)")
    how.add_argument("--template", metavar="NAME", help="provision them by this template instead (JITP)")
    listing = verbs.add_parser("list", help="registered CAs")
    for verb, run in ((register, _register), (listing, _list)):
        verb.add_argument("--data", type=Path, required=True, metavar="DIR")
        verb.add_argument("--json", action="store_true")
        verb.set_defaults(run=run)


def _register(given: argparse.Namespace) -> int:
    from marram.cli import client

    api = client.Api.from_data(given.data)
    pem = disk.read(given.file, limit=MAX_BYTES).decode(errors="replace")
    if given.proof is not None:
        proof = disk.read(given.proof, limit=MAX_BYTES).decode(errors="replace")
    else:
        code = str(api.call("iot", "GetRegistrationCode")["registrationCode"])
        proof = _proof(pem, disk.read(given.key, limit=MAX_BYTES), code)
    request: dict[str, object] = {
        "caCertificate": pem,
        "verificationCertificate": proof,
        "setAsActive": True,
        "allowAutoRegistration": bool(given.auto or given.template),
    }
    if given.template:
        request["registrationConfig"] = {"templateName": given.template}
    answer = api.call("iot", "RegisterCACertificate", request)
    if given.json:
        print_json(answer)
    else:
        print(f"CA certificate {answer['certificateId']} is registered and active")
    return DONE


def _list(given: argparse.Namespace) -> int:
    from marram.cli import client

    api = client.Api.from_data(given.data)
    found: list[dict[str, object]] = []
    request: dict[str, object] = {}
    while True:
        answer = api.call("iot", "ListCACertificates", request)
        found += answer["certificates"]
        if not answer.get("nextMarker"):
            break
        request = {"marker": answer["nextMarker"]}
    if given.json:
        print_json(found)
    else:
        table([[row["certificateId"], row["status"]] for row in found], ["CA CERTIFICATE", "STATUS"])
    return DONE


def _proof(ca_pem: str, key_pem: bytes, code: str) -> str:
    """A certificate for the registration code, signed by the CA's key, for a key that is thrown away."""
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import NameOID
    except ImportError as exc:
        raise Invalid(
            "--key needs the package cryptography (pip install 'marram[hub]'); or sign one and give --proof"
        ) from exc
    try:
        authority = x509.load_pem_x509_certificate(ca_pem.encode())
        key = serialization.load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError) as exc:
        raise Invalid("FILE must be a certificate and --key its private key without a passphrase, both PEM") from exc
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, code)]))
        .issuer_name(authority.subject)
        .public_key(ec.generate_private_key(ec.SECP256R1()).public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
    )
    try:
        signed = builder.sign(key, hashes.SHA256())  # type: ignore[arg-type]  # of a kind that signs certificates, or refused below
    except (TypeError, ValueError) as exc:
        raise Invalid("--key: not a key that signs certificates") from exc
    return signed.public_bytes(serialization.Encoding.PEM).decode()
