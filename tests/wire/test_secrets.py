"""T30 and gate G21: secrets are planted, everything is done that could say them, and every byte that was written is searched.

Searched: the hub's log at its most talkative, its metrics, its command line, its files but for those whose purpose it is to
hold one (hub.json and pki/ in clear, sealed columns of the database). Payloads of messages are in the journal, not in logs.
"""

import contextlib
import http.client
import json
import re
import socket
import ssl
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from botocore.exceptions import ClientError

from marram.cli.client import Api
from marram.core import sigv4

ALLOW = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:*", "Resource": "*"}]}
PAYLOAD = "canary-payload-4c1f"
PASSWORD = "canary-password-9d2e"
ATTRIBUTE = "canary-harmless-77aa"  # is found, so that the search is known to search


class Canaries:
    """What must be nowhere, by what it is."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}

    def plant(self, name: str, secret: str) -> str:
        assert len(secret) >= 12
        self.held[name] = secret.encode()
        return secret

    def found(self, data: bytes) -> set[str]:
        spelled = {name: (secret, quote(secret.decode(), safe="").encode()) for name, secret in self.held.items()}
        return {name for name, forms in spelled.items() if any(form in data for form in forms)}


def https(
    hub: Any, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None, **tls: Any
) -> tuple[int, bytes]:
    context = ssl.create_default_context(cafile=hub.info["ca_file"])
    if "certificate" in tls:
        context.load_cert_chain(tls["certificate"])
    client = http.client.HTTPSConnection("localhost", hub.port("https"), context=context, timeout=10)
    try:
        client.request(method, path, body, headers or {})
        answer = client.getresponse()
        return answer.status, answer.read()
    finally:
        client.close()


def websocket_url(hub: Any, held: sigv4.Credentials, secret: str | None = None) -> str:
    bare = sigv4.Credentials(held.access_key_id, secret or held.secret)
    query = sigv4.presign(
        bare, method="GET", host=f"localhost:{hub.port('https')}", path="/mqtt", region="local-1",
        service="iotdevicegateway", expires_s=300, now_ms=int(time.time() * 1000),
    )  # fmt: skip
    return f"/mqtt?{query}&X-Amz-Security-Token={quote(held.token or '', safe='')}"


def mqtt(hub: Any, certificate: Path, packets: bytes) -> None:
    context = ssl.create_default_context(cafile=hub.info["ca_file"])
    context.load_cert_chain(certificate)
    raw = socket.create_connection(("127.0.0.1", hub.port("mqtt")), 10)
    with context.wrap_socket(raw, server_hostname="localhost") as tls:
        tls.sendall(packets)
        with contextlib.suppress(OSError):
            tls.recv(100)


def connect_with_password(client_id: str, username: str) -> bytes:
    fields = b"".join(
        len(text).to_bytes(2) + text for text in (client_id.encode(), username.encode(), PASSWORD.encode())
    )
    body = b"\x00\x04MQTT\x04\xc2\x00\x3c" + fields
    return b"\x10" + bytes([len(body)]) + body


@pytest.fixture
def done(start_hub: Callable[..., Any], tmp_path: Path) -> tuple[Any, Canaries, Path]:
    """A hub with a life full of secrets, good and bad."""
    data = tmp_path / "hub"
    hub = start_hub(data, env={"MARRAM_HUB_LOG_LEVEL": "debug"})
    canaries = Canaries()
    admin = Api.from_data(data)
    canaries.plant("the administrator's secret", hub.info["admin"]["secret_access_key"])
    # Keys, sessions, links, tokens.
    key = admin.marram("identity/CreateKey", {"name": "canary", "policy": json.dumps(ALLOW)})
    canaries.plant("an access key's secret", key["secretAccessKey"])
    link = admin.marram("identity/CreateLoginLink", {})
    canaries.plant("a login link", link["token"])
    _, body = https(hub, "POST", "/marram/session", json.dumps({"token": link["token"]}).encode())
    session = json.loads(body)
    canaries.plant("a session's secret", session["secretAccessKey"])
    canaries.plant("a session token", session["sessionToken"])
    assert https(hub, "POST", "/marram/session", json.dumps({"token": link["token"]}).encode())[0] == 403
    join = admin.marram("identity/CreateJoinToken", {})
    canaries.plant("a join token", join["token"].split(".")[1])
    https(hub, "POST", "/marram/join", json.dumps({"token": join["token"], "thing": "*bad*"}).encode())
    # Certificates and their keys.
    iot = hub.client("iot")
    made = iot.create_keys_and_certificate(setAsActive=True)
    pem = made["keyPair"]["PrivateKey"]
    canaries.plant("a private key", "".join(pem.splitlines()[1:3]))
    canaries.plant("a line of a private key", pem.splitlines()[1])
    iot.create_policy(policyName="canary", policyDocument=json.dumps(ALLOW))
    iot.attach_policy(policyName="canary", target=made["certificateArn"])
    certificate = tmp_path / "canary.pem"
    certificate.write_text(made["certificatePem"] + pem)
    iot.create_thing(thingName=ATTRIBUTE)
    with pytest.raises(ClientError):
        iot.create_thing(thingName=ATTRIBUTE, attributePayload={"attributes": {"a": "b"}})
    # Signatures: of the API, good, bad and in a query; of a WebSocket, opened and refused.
    held = sigv4.Credentials(session["accessKeyId"], session["secretAccessKey"], session["sessionToken"])
    upgrade = {
        "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Protocol": "mqtt",
    }  # fmt: skip
    for url in (websocket_url(hub, held), websocket_url(hub, held, "wrong")):
        canaries.plant(f"signature {len(canaries.held)}", re.findall("X-Amz-Signature=([0-9a-f]{64})", url)[0])
        https(hub, "GET", url, headers=upgrade)
    for secret in (key["secretAccessKey"], "not the secret"):
        signed = sigv4.sign(
            sigv4.Credentials(key["accessKeyId"], secret), method="GET", path="/things", query=(),
            headers={"host": f"127.0.0.1:{hub.port('api')}"}, body=b"", region="local-1", service="iot",
            now_ms=int(time.time() * 1000),
        )  # fmt: skip
        canaries.plant(f"signature {len(canaries.held)}", signed["authorization"].rpartition("=")[2])
        plain = http.client.HTTPConnection("127.0.0.1", hub.port("api"), timeout=10)
        plain.request("GET", "/things", headers=signed)
        plain.getresponse().read()
        plain.close()
    # Messages: taken, refused, too large, in a shadow, in a broken document; a user name and a password.
    canaries.plant("a payload", PAYLOAD)
    canaries.plant("a password", PASSWORD)
    publish = https(hub, "POST", "/topics/a?qos=1", PAYLOAD.encode(), certificate=certificate)
    assert publish[0] == 200
    https(hub, "POST", "/topics/$bad/a?qos=1", PAYLOAD.encode(), certificate=certificate)
    https(hub, "POST", "/topics/a?qos=1", PAYLOAD.encode() * 10_000, certificate=certificate)
    https(hub, "POST", f"/things/{ATTRIBUTE}/shadow", b'{"state": "%b"' % PAYLOAD.encode(), certificate=certificate)
    mqtt(hub, certificate, connect_with_password("c1", "user"))
    mqtt(hub, certificate, connect_with_password("c1", "user") + b"\x30\x12\x00\x01#" + PAYLOAD.encode()[:15])
    mqtt(hub, certificate, connect_with_password("", "") + b"\xff" + PAYLOAD.encode())
    return hub, canaries, tmp_path / "hub.log"


def test_t30_no_secret_is_in_any_log_metric_or_command_line(done: tuple[Any, Canaries, Path]) -> None:
    hub, canaries, log = done
    metrics = urllib.request.urlopen(f"{hub.info['endpoints']['api']}/metrics").read()
    command = Path(f"/proc/{hub.process.pid}/cmdline").read_bytes()
    assert len(canaries.held) >= 14
    for name, data in (("log", log.read_bytes()), ("metrics", metrics), ("command line", command)):
        assert canaries.found(data) == set(), name
    assert b'"websocket.opened"' in log.read_bytes() and b'"api.call"' in log.read_bytes()


def test_t30_the_database_holds_no_secret_in_clear(done: tuple[Any, Canaries, Path]) -> None:
    hub, canaries, _ = done
    assert hub.stop() == 0
    kept = b"".join(path.read_bytes() for path in sorted(hub.data.glob("hub.db*")))
    assert ATTRIBUTE.encode() in kept, "the search finds what is there"
    assert canaries.found(kept) == set()
    for path in sorted(hub.data.rglob("*")):
        if path.is_file() and path.name != "hub.json" and "pki" not in path.parts:
            assert canaries.found(path.read_bytes()) <= {"a payload"}, path


def test_t30_the_search_finds_a_canary(tmp_path: Path) -> None:
    canaries = Canaries()
    canaries.plant("x", "a+secret/with=signs")
    assert canaries.found(b'{"reason": "a+secret/with=signs"}') == {"x"}
    assert canaries.found(b"GET /?token=a%2Bsecret%2Fwith%3Dsigns") == {"x"}
    assert canaries.found(b"nothing") == set()
