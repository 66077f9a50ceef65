"""MQTT over WebSocket with clients that people use: awscrt's two, paho with a signed path, one that speaks as browsers do.

The rest of the session is the MQTT door's and is tested there; here: who gets in, with what rights, and what ends it.
"""

import base64
import json
import os
import queue
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import paho.mqtt.client as paho
import pytest
from awscrt import auth, mqtt, mqtt5
from awsiot import mqtt5_client_builder, mqtt_connection_builder

from marram.cli.client import Api
from marram.core import codec, sigv4, websocket

pytestmark = pytest.mark.xdist_group("mqtt-clients")
LIMIT_S = 15.0
ARN = "arn:aws:iot:local-1:000000000001:"
RIGHTS = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Action": "iot:Connect", "Resource": f"{ARN}client/web-*"},
        {"Effect": "Allow", "Action": ["iot:Publish", "iot:Receive"], "Resource": f"{ARN}topic/web/*"},
        {"Effect": "Allow", "Action": "iot:Subscribe", "Resource": f"{ARN}topicfilter/web/*"},
    ],
}
CONNECT = b"\x10\x12\x00\x04MQTT\x04\x02\x00\x3c\x00\x06web-%02d"


class Site:
    def __init__(self, hub: Any, folder: Path) -> None:
        self.hub, self.folder = hub, folder
        self.port: int = hub.port("https")
        self.host = f"localhost:{self.port}"
        self.ca: str = hub.info["ca_file"]
        made = Api.from_data(hub.data).marram("identity/CreateKey", {"name": "web", "policy": json.dumps(RIGHTS)})
        self.key = sigv4.Credentials(made["accessKeyId"], made["secretAccessKey"])

    def session(self) -> sigv4.Credentials:
        """Temporary credentials of the administrator, by a login link."""
        link = Api.from_data(self.hub.data).marram("identity/CreateLoginLink", {})
        status, body = self.https("POST", "/marram/session", json.dumps({"token": link["token"]}).encode())
        assert status == 200, body
        made = json.loads(body)
        return sigv4.Credentials(made["accessKeyId"], made["secretAccessKey"], made["sessionToken"])

    def https(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        import http.client

        client = http.client.HTTPSConnection("localhost", self.port, context=self.tls(), timeout=10)
        try:
            client.request(method, path, body)
            answer = client.getresponse()
            return answer.status, answer.read()
        finally:
            client.close()

    def tls(self, certificate: Path | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.ca)
        if certificate is not None:
            context.load_cert_chain(certificate)
        return context

    def certificate(self, name: str, document: dict[str, object] = RIGHTS) -> Path:
        iot = self.hub.client("iot")
        made = iot.create_keys_and_certificate(setAsActive=True)
        iot.create_policy(policyName=name, policyDocument=json.dumps(document))
        iot.attach_policy(policyName=name, target=made["certificateArn"])
        path = self.folder / f"{name}.pem"
        path.write_text(made["certificatePem"] + made["keyPair"]["PrivateKey"])
        return path

    def path(self, held: sigv4.Credentials | None = None, **changes: Any) -> str:
        """`/mqtt?...` as AWS's own JavaScript and SDKs sign it: without the token, which follows."""
        held = held or self.key
        options: dict[str, Any] = {
            "method": "GET", "host": self.host, "path": "/mqtt", "region": "local-1", "service": "iotdevicegateway",
            "expires_s": 300, "now_ms": int(time.time() * 1000),
        }  # fmt: skip
        bare = sigv4.Credentials(held.access_key_id, held.secret)
        query = sigv4.presign(bare, **{**options, **changes})
        if held.token is not None:
            query += f"&X-Amz-Security-Token={quote(held.token, safe='')}"
        return f"/mqtt?{query}"


class Browser:
    """A WebSocket client over a socket, as browsers speak: masked frames, a key of its own."""

    def __init__(self, site: Site, path: str, *, tls: ssl.SSLContext | None = None, **headers: str | None) -> None:
        raw = socket.create_connection(("127.0.0.1", site.port), 10)
        self.socket = (tls or site.tls()).wrap_socket(raw, server_hostname="localhost")
        self.buffer = b""
        fields: dict[str, str | None] = {
            "Host": site.host, "Connection": "Upgrade", "Upgrade": "websocket", "Origin": "https://app.example",
            "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
            "Sec-WebSocket-Protocol": "mqtt", "Sec-WebSocket-Extensions": "permessage-deflate",
        }  # fmt: skip
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        text = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value is not None)
        self.socket.sendall(f"GET {path} HTTP/1.1\r\n{text}\r\n".encode())
        while b"\r\n\r\n" not in self.buffer:
            piece = self.socket.recv(65536)
            assert piece, "closed without an answer"
            self.buffer += piece
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        self.head = head.decode()
        self.status = int(self.head.split()[1])

    def send(self, payload: bytes, opcode: int = websocket.BINARY, *, final: bool = True) -> None:
        mask = os.urandom(4)
        size = len(payload)
        assert size < 65536
        head = bytes([(128 if final else 0) | opcode])
        head += bytes([128 | size]) if size < 126 else b"\xfe" + size.to_bytes(2)
        self.socket.sendall(head + mask + bytes(byte ^ mask[at & 3] for at, byte in enumerate(payload)))

    def take(self, count: int) -> bytes:
        while len(self.buffer) < count:
            piece = self.socket.recv(65536)
            if not piece:
                raise ConnectionError("closed")
            self.buffer += piece
        made, self.buffer = self.buffer[:count], self.buffer[count:]
        return made

    def frame(self) -> tuple[int, bytes]:
        first, size = self.take(2)
        if size == 126:
            size = int.from_bytes(self.take(2))
        return first & 15, self.take(size)

    def close(self) -> None:
        self.socket.close()


@pytest.fixture(scope="module")
def site(shared_hub: Any, tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(shared_hub, tmp_path_factory.mktemp("site"))


@pytest.fixture
def browse(site: Site) -> Iterator[Callable[..., Browser]]:
    opened: list[Browser] = []

    def browse(path: str | None = None, **options: Any) -> Browser:
        made = Browser(site, site.path() if path is None else path, **options)
        opened.append(made)
        return made

    yield browse
    for each in opened:
        each.close()


def static(site: Site, held: sigv4.Credentials) -> auth.AwsCredentialsProvider:
    return auth.AwsCredentialsProvider.new_static(held.access_key_id, held.secret, held.token)


@pytest.mark.parametrize("temporary", [False, True], ids=["key", "session"])
def test_the_first_awsiotsdk_client(site: Site, temporary: bool) -> None:
    held = site.session() if temporary else site.key
    connection = mqtt_connection_builder.websockets_with_default_aws_signing(
        region="local-1", credentials_provider=static(site, held), endpoint="localhost", port=site.port,
        client_id="web-crt", ca_filepath=site.ca, clean_session=True, keep_alive_secs=30,
    )  # fmt: skip
    connection.connect().result(LIMIT_S)
    got: queue.Queue[tuple[str, bytes]] = queue.Queue()
    subscribed, _ = connection.subscribe(
        "web/+", mqtt.QoS.AT_LEAST_ONCE, lambda topic, payload, **_: got.put((topic, payload))
    )
    subscribed.result(LIMIT_S)
    published, _ = connection.publish("web/a", b"x" * 100_000, mqtt.QoS.AT_LEAST_ONCE)
    published.result(LIMIT_S)
    assert got.get(timeout=LIMIT_S) == ("web/a", b"x" * 100_000)
    connection.disconnect().result(LIMIT_S)


def test_the_mqtt5_awsiotsdk_client(site: Site) -> None:
    connected: queue.Queue[Any] = queue.Queue()
    got: queue.Queue[Any] = queue.Queue()
    stopped: queue.Queue[Any] = queue.Queue()
    client = mqtt5_client_builder.websockets_with_default_aws_signing(
        region="local-1", credentials_provider=static(site, site.key), endpoint="localhost", port=site.port,
        ca_filepath=site.ca, client_options=None,
        connect_options=mqtt5.ConnectPacket(client_id="web-five", keep_alive_interval_sec=30),
        on_lifecycle_connection_success=connected.put, on_lifecycle_stopped=stopped.put,
        on_lifecycle_connection_failure=connected.put, on_publish_received=got.put,
    )  # fmt: skip
    client.start()
    assert connected.get(timeout=LIMIT_S).connack_packet.reason_code == 0
    subscription = mqtt5.Subscription(topic_filter="web/five", qos=mqtt5.QoS.AT_LEAST_ONCE)
    client.subscribe(mqtt5.SubscribePacket(subscriptions=[subscription])).result(LIMIT_S)
    packet = mqtt5.PublishPacket(topic="web/five", payload=b"hello", qos=mqtt5.QoS.AT_LEAST_ONCE)
    client.publish(packet).result(LIMIT_S)
    assert got.get(timeout=LIMIT_S).publish_packet.payload == b"hello"
    client.stop()
    stopped.get(timeout=LIMIT_S)


@pytest.mark.parametrize("by", ["signed path", "certificate"])
def test_paho(site: Site, by: str) -> None:
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=f"web-{by[:4]}", transport="websockets")
    if by == "certificate":
        client.tls_set_context(site.tls(site.certificate("paho")))
        client.ws_set_options(path="/mqtt")
    else:
        client.tls_set_context(site.tls())
        client.ws_set_options(path=site.path(), headers={"Host": site.host})
    got: queue.Queue[Any] = queue.Queue()
    client.on_message = lambda _c, _u, message: got.put((message.topic, message.payload))
    client.on_connect = lambda c, *_: c.subscribe("web/#", 1)
    client.on_subscribe = lambda c, *_: c.publish("web/b", b"from paho", 1)
    client.connect("localhost", site.port, 30)
    client.loop_start()
    try:
        assert got.get(timeout=LIMIT_S) == ("web/b", b"from paho")
    finally:
        client.disconnect()
        client.loop_stop()


def test_a_browser(browse: Callable[..., Browser]) -> None:
    page = browse()
    assert page.status == 101 and "sec-websocket-protocol: mqtt" in page.head
    assert "sec-websocket-extensions" not in page.head
    connect = CONNECT % 1
    page.send(connect[:5], final=False)
    page.send(b"are you there", websocket.PING)
    page.send(connect[5:], websocket.CONTINUATION)
    assert page.frame() == (websocket.PONG, b"are you there")
    assert page.frame() == (websocket.BINARY, b"\x20\x02\x00\x00")
    page.send(b"\xc0\x00\xc0\x00")
    assert page.frame() == (websocket.BINARY, b"\xd0\x00\xd0\x00")
    page.send((1000).to_bytes(2), websocket.CLOSE)
    assert page.frame() == (websocket.CLOSE, (1000).to_bytes(2))
    with pytest.raises(ConnectionError):
        page.frame()


def watcher(browse: Callable[..., Browser], number: int, *filters: bytes) -> Browser:
    page = browse()
    page.send(CONNECT % number)
    assert page.frame()[1] == b"\x20\x02\x00\x00"
    body = b"\x00\x01" + b"".join(len(each).to_bytes(2) + each + b"\x00" for each in filters)
    page.send(b"\x82" + bytes([len(body)]) + body)
    assert page.frame()[1] == b"\x90" + bytes([2 + len(filters)]) + b"\x00\x01" + bytes(len(filters))
    return page


def will(number: int) -> bytes:
    body = b"\x00\x04MQTT\x04\x06\x00\x3c" + b"\x00\x06web-%02d" % number + b"\x00\x08web/will" + b"\x00\x04gone"
    return b"\x10" + bytes([len(body)]) + body


def test_a_close_frame_is_a_goodbye_and_a_cut_is_not(browse: Callable[..., Browser]) -> None:
    watching = watcher(browse, 10, b"web/will", b"web/mark")
    polite = browse()
    polite.send(will(11))
    assert polite.frame()[1] == b"\x20\x02\x00\x00"
    polite.send((1001).to_bytes(2), websocket.CLOSE)
    assert polite.frame()[0] == websocket.CLOSE
    watching.send(b"\x30\x0a\x00\x08web/mark")
    assert b"web/mark" in watching.frame()[1]
    rude = browse()
    rude.send(will(12))
    rude.frame()
    rude.close()
    assert watching.frame()[1].endswith(b"web/willgone")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(b"\x81\x80\x00\x00\x00\x00", 1003, id="text"),
        pytest.param(b"\x82\x02\xc0\x00", 1002, id="not masked"),
        pytest.param(b"\x82\xff" + (1 << 40).to_bytes(8) + b"\x00" * 4, 1009, id="a terabyte"),
    ],
)
def test_broken_frames_end_it_with_a_code(browse: Callable[..., Browser], data: bytes, code: int) -> None:
    page = browse()
    page.send(CONNECT % 20)
    page.frame()
    page.socket.sendall(data)
    assert page.frame() == (websocket.CLOSE, code.to_bytes(2))


def test_the_policy_of_the_key_judges(browse: Callable[..., Browser]) -> None:
    other = browse()
    other.send((CONNECT % 1).replace(b"web-", b"not-"))
    assert other.frame()[1] == b"\x20\x02\x00\x05"
    page = watcher(browse, 30, b"web/x")
    page.send(b"\x82\x0c\x00\x02\x00\x07other/a\x00")
    assert page.frame()[1] == b"\x90\x03\x00\x02\x80"
    page.send(b"\x30\x09\x00\x07other/a")
    assert page.frame()[0] == websocket.CLOSE


def test_a_key_that_is_deleted_ends_its_websocket(site: Site, browse: Callable[..., Browser]) -> None:
    admin = Api.from_data(site.hub.data)
    made = admin.marram("identity/CreateKey", {"name": "short", "policy": json.dumps(RIGHTS)})
    page = browse(site.path(sigv4.Credentials(made["accessKeyId"], made["secretAccessKey"])))
    page.send(CONNECT % 40)
    assert page.frame()[1] == b"\x20\x02\x00\x00"
    began = time.monotonic()
    admin.marram("identity/DeleteKey", {"accessKeyId": made["accessKeyId"]})
    assert page.frame()[0] == websocket.CLOSE
    assert time.monotonic() - began < 2


def old(site: Site) -> str:
    return site.path(now_ms=int(time.time() * 1000) - 400_000)


REFUSED = [
    pytest.param(lambda site: site.path(), {"Host": "elsewhere:1"}, 403, "signature", id="another host"),
    pytest.param(old, {}, 403, "expired", id="expired"),
    pytest.param(lambda site: site.path(service="iotdata"), {}, 403, "iotdevicegateway", id="another service"),
    pytest.param(lambda site: site.path(region="eu-west-1"), {}, 403, "local-1", id="another region"),
    pytest.param(lambda site: site.path(path="/other"), {}, 403, "signature", id="another path"),
    pytest.param(lambda site: site.path() + "&X-Amz-Expires=9", {}, 403, "twice", id="two expiries"),
    pytest.param(lambda site: site.path() + "&more=1", {}, 403, "signature", id="added parameter"),
    pytest.param(lambda site: site.path(sigv4.Credentials("AKIANONE", "x")), {}, 403, "AKIANONE", id="unknown key"),
    pytest.param(lambda site: site.path(sigv4.Credentials(site.key.access_key_id, "x")), {}, 403, "signature", id="wrong secret"),
    pytest.param(
        lambda site: site.path(sigv4.Credentials(site.session().access_key_id, site.session().secret, "bm9uZQ==")),
        {}, 403, "token", id="wrong token",
    ),
    pytest.param(lambda site: "/mqtt", {}, 403, "missing", id="no credentials"),
    pytest.param(lambda site: "/mqtt", {"x-amz-customauthorizer-name": "mine"}, 501, "authorizer", id="authorizer"),
    pytest.param(lambda site: "/mqtt?x-amz-customauthorizer-name=mine", {}, 501, "authorizer", id="authorizer in query"),
    pytest.param(lambda site: site.path(), {"Sec-WebSocket-Protocol": "chat"}, 400, "mqtt", id="subprotocol"),
    pytest.param(lambda site: site.path(), {"Sec-WebSocket-Version": "12"}, 426, "13", id="version"),
    pytest.param(lambda site: site.path(), {"Upgrade": None}, 426, "Upgrade", id="no upgrade"),
    pytest.param(lambda site: site.path(), {"Content-Length": "3"}, 400, "body", id="an upgrade with a body"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "headers", "status", "says"), REFUSED)
def test_who_does_not_get_in(
    site: Site, browse: Callable[..., Browser], path: Callable[[Site], str], headers: dict[str, str | None], status: int,
    says: str,
) -> None:  # fmt: skip
    made = path(site)
    if "Content-Length" in headers:
        page = object.__new__(Browser)
        raw = site.tls().wrap_socket(
            socket.create_connection(("127.0.0.1", site.port), 10), server_hostname="localhost"
        )
        lines = (
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n"
        )
        raw.sendall(f"GET {made} HTTP/1.1\r\nHost: {site.host}\r\n{lines}Content-Length: 3\r\n\r\nabc".encode())
        page.head = raw.recv(65536).decode()
        page.status, page.buffer = int(page.head.split()[1]), page.head.encode()
        raw.close()
    else:
        page = browse(made, **headers)
    assert page.status == status, page.head
    if b"{" not in page.buffer:
        page.buffer += page.socket.recv(65536)
    text = page.buffer[page.buffer.index(b"{") :]
    assert says in str(codec.loads_object(text)["message"])


def test_a_url_without_an_expiry_lives_five_minutes(site: Site, browse: Callable[..., Browser]) -> None:
    """AWS's own example for browsers signs none."""

    def signed(now_ms: int) -> str:
        date = sigv4.amz_date(now_ms)
        scope = f"{date[:8]}/local-1/iotdevicegateway/aws4_request"
        pairs = [
            ("X-Amz-Algorithm", sigv4.ALGORITHM), ("X-Amz-Credential", f"{site.key.access_key_id}/{scope}"),
            ("X-Amz-Date", date), ("X-Amz-SignedHeaders", "host"),
        ]  # fmt: skip
        key = sigv4.signing_key(site.key.secret, date[:8], "local-1", "iotdevicegateway")
        canonical = sigv4.canonical_request(
            "GET", "/mqtt", pairs, {"host": site.host}, ("host",), sigv4.EMPTY_SHA256, False
        )
        return f"/mqtt?{sigv4.canonical_query(pairs)}&X-Amz-Signature={sigv4.signature(key, date, scope, canonical)}"

    now_ms = int(time.time() * 1000)
    assert browse(signed(now_ms)).status == 101
    assert browse(signed(now_ms - 301_000)).status == 403


def test_without_tls_there_is_no_websocket(site: Site) -> None:
    with socket.create_connection(("127.0.0.1", site.hub.port("api")), 10) as raw:
        raw.sendall(
            f"GET {site.path()} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n".encode()
        )
        answer = raw.recv(65536).decode()
    assert answer.startswith("HTTP/1.1 403") and "wss://" in answer
