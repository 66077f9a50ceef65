"""Make this machine a core device of a hub: key, certificate, configuration. Short-lived; nothing here runs in the core.

The token `mrm1.<secret>.<sha256 of the root certificate>` says which hub is meant: the hub's root is fetched without trust,
compared with the fingerprint, and only then is the secret sent, over TLS that this root vouches for.

The key is made here by `cryptography` where it is installed, else by the `openssl` command; where neither is, the hub makes it and
the result says so. Source of config.yaml: the schema of aws-greengrass-lite 2.6.
"""

import asyncio
import base64
import binascii
import hashlib
import re
import shutil
import ssl
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

import yaml

from marram.core import codec
from marram.core.codec import JsonObject
from marram.core.errors import AlreadyExists, Denied, Invalid, NotFound, Unavailable
from marram.kit import disk, http, net

NUCLEUS: Final = "aws.greengrass.NucleusLite"
THING: Final = re.compile(r"[a-zA-Z0-9:_-]{1,128}")
LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
CERTIFICATE: Final = re.compile(r"-----BEGIN CERTIFICATE-----\s+(.*?)-----END CERTIFICATE-----", re.DOTALL)

KeyMaker = Literal["cryptography", "openssl", "hub"]


class JoinRefused(Denied):
    """The hub did not take the token, or is not the hub that the token names."""

    code = "MRM-2001"


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """What came of it. `key_made_by` = "hub" means that the private key has travelled."""

    thing: str
    root: Path
    certificate_id: str
    endpoint: str
    key_made_by: KeyMaker


async def join(
    *, endpoint: str, token: str, thing: str, root: Path, names: Sequence[str] = (), replace: bool = False
) -> Joined:
    """Join the hub at `endpoint` (https URL of its https door). `names`: what local devices call this machine.

    Raises JoinRefused, AlreadyExists when ROOT is a core already, Unavailable when the hub cannot be reached.
    """
    if not THING.fullmatch(thing):
        raise Invalid(f"{thing!r} is not a thing name: 1 to 128 of a-z A-Z 0-9 : _ -")
    root = await asyncio.to_thread(root.absolute)
    config = root / "config"
    if await asyncio.to_thread((config / "config.yaml").exists) and not replace:
        raise AlreadyExists(f"{root} is a core device already; --replace makes it another", root=str(root))
    fingerprint = parse_token(token)
    url = endpoint if "://" in endpoint else f"https://{endpoint}"
    root_pem = await _fetch_root(url, fingerprint)
    key_pem, csr_pem, made_by = make_key(thing)
    bundle = await _send(url, root_pem, token, thing, csr_pem, names)
    if key_pem is None:
        key_pem = _text(bundle, "privateKeyPem")
    given = urlsplit(url).hostname or ""
    disk.make_dirs(config)
    # config.yaml is last: with it ROOT is a core, without it a second `join` starts over.
    disk.write_atomic(config / "device.key", key_pem.encode(), mode=0o600)
    disk.write_atomic(config / "device.pem", _text(bundle, "certificatePem").encode(), mode=0o644)
    disk.write_atomic(config / "root-ca.pem", root_pem.encode(), mode=0o644)
    disk.write_atomic(config / "local-server.pem", _text(bundle, "localServerCertificatePem").encode(), mode=0o644)
    document = config_document(bundle, root, given)
    disk.write_atomic(config / "config.yaml", yaml.safe_dump(document, sort_keys=False).encode(), mode=0o600)
    return Joined(
        thing=thing,
        root=root,
        certificate_id=_text(bundle, "certificateId"),
        endpoint=url,
        key_made_by=made_by,
    )


def parse_token(token: str) -> str:
    """The root's fingerprint in a token. Raises Invalid."""
    match token.strip().split("."):
        case ["mrm1", secret, fingerprint] if secret and re.fullmatch(r"[0-9a-f]{64}", fingerprint):
            return fingerprint
        case _:
            raise Invalid(
                "not a join token: it looks like mrm1.<secret>.<64 hex digits>; `marram hub join-token` makes one"
            )


def make_key(thing: str) -> tuple[str | None, str | None, KeyMaker]:
    """(private key PEM, request PEM, by what); (None, None, "hub") where this machine has no means."""
    try:
        return *_with_cryptography(thing), "cryptography"
    except ImportError:
        pass
    if shutil.which("openssl"):
        return *_with_openssl(thing), "openssl"
    return None, None, "hub"


def config_document(bundle: JsonObject, root: Path, given_host: str) -> dict[str, object]:
    """config.yaml in nucleus lite's schema; what only Marram knows is under the nucleus's `marram`."""
    endpoints = bundle.get("endpoints")
    urls = endpoints if isinstance(endpoints, dict) else {}
    mqtt, https = urlsplit(str(urls.get("mqtt", ""))), urlsplit(str(urls.get("https", "")))
    host = mqtt.hostname or given_host
    if host in LOOPBACK and given_host not in LOOPBACK:
        host = given_host  # the hub knows itself by a name that is no use on this machine
    config = root / "config"
    return {
        "system": {
            "privateKeyPath": str(config / "device.key"),
            "certificateFilePath": str(config / "device.pem"),
            "rootCaPath": str(config / "root-ca.pem"),
            "rootpath": str(root),
            "thingName": _text(bundle, "thingName"),
        },
        "services": {
            NUCLEUS: {
                "componentType": "NUCLEUS",
                "configuration": {
                    "awsRegion": _text(bundle, "region"),
                    "iotDataEndpoint": host,
                    "iotCredEndpoint": f"{host}:{https.port or 8443}",
                    "greengrassDataPlanePort": https.port or 8443,
                    "mqtt": {"port": mqtt.port or 8883},
                    "marram": {
                        "accountId": _text(bundle, "accountId"),
                        "signingKey": _text(bundle, "signingKey"),
                        "localServerCertificatePath": str(config / "local-server.pem"),
                    },
                },
            }
        },
    }


async def _fetch_root(url: str, fingerprint: str) -> str:
    untrusted = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    untrusted.check_hostname = False
    untrusted.verify_mode = ssl.CERT_NONE  # what comes is public, and worth nothing until its fingerprint fits
    answer = await http.request("GET", f"{url}/marram/ca", tls=untrusted, max_bytes=64 << 10)
    text = answer.body.decode("utf-8", "replace")
    found = CERTIFICATE.search(text) if answer.status == 200 else None
    try:
        der = base64.b64decode(found[1]) if found else b""
    except binascii.Error:
        der = b""
    if hashlib.sha256(der).hexdigest() != fingerprint:
        raise JoinRefused(f"{url} is not the hub that made this token: its root certificate is another")
    assert found is not None
    return found[0] + "\n"


async def _send(
    url: str, root_pem: str, token: str, thing: str, csr_pem: str | None, names: Sequence[str]
) -> JsonObject:
    request: JsonObject = {"token": token.strip(), "thingName": thing, "names": list(names)}
    if csr_pem is not None:
        request["csrPem"] = csr_pem
    trusted = net.harden(ssl.create_default_context(cadata=root_pem))
    answer = await http.request(
        "POST",
        f"{url}/marram/join",
        headers={"content-type": "application/json"},
        body=codec.dumps(request),
        tls=trusted,
        max_bytes=256 << 10,
    )
    try:
        body = codec.loads_object(answer.body, what="the hub's answer")
    except Invalid as exc:
        raise Unavailable(f"{url} answered with status {answer.status} and no JSON") from exc
    if answer.status == 200:
        return body
    why = str(body.get("message") or body.get("Message") or f"status {answer.status}")
    match answer.status:
        case 401 | 403:
            raise JoinRefused(f"the hub refused the token: {why}")
        case 404:
            raise NotFound(why)
        case 400:
            raise Invalid(why)
        case _:
            raise Unavailable(f"{url}: {why}")


def _with_cryptography(thing: str) -> tuple[str, str]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, thing[:64])]))
        .sign(key, hashes.SHA256())
    )
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return key_pem.decode(), request.public_bytes(serialization.Encoding.PEM).decode()


def _with_openssl(thing: str) -> tuple[str, str]:
    with tempfile.TemporaryDirectory() as folder:  # mode 0700
        key, request = Path(folder) / "key.pem", Path(folder) / "request.pem"
        done = subprocess.run(
            [
                *("openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
                *("-keyout", str(key), "-out", str(request), "-subj", f"/CN={thing[:64]}"),
            ],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode != 0:
            raise Unavailable(f"openssl could not make a key: {done.stderr.strip()[-300:]}")
        return key.read_text(), request.read_text()


def _text(bundle: JsonObject, name: str) -> str:
    value = bundle.get(name)
    if not isinstance(value, str) or not value:
        raise Invalid(f"the hub's answer has no {name}")
    return value


def join_blocking(
    *, endpoint: str, token: str, thing: str, root: Path, names: Sequence[str] = (), replace: bool = False
) -> Joined:
    """`join` for a command line."""
    return asyncio.run(join(endpoint=endpoint, token=token, thing=thing, root=root, names=names, replace=replace))
