"""What a row may use: boto3 clients, devices with certificates and MQTT clients, all for one endpoint given by URL.

Nothing of Marram is imported here: the same rows run against any endpoint that speaks these APIs.
"""

import contextlib
import json
import queue
import secrets
import socket
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import paho.mqtt.client as paho
from botocore.config import Config
from botocore.exceptions import ClientError
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

LIMIT_S = 10.0
QUIET_S = 0.4  # how long a row waits before it says that nothing came
EVERYTHING = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:*", "Resource": "*"}]}


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where the service under test is; `ca_file` None means the system's roots."""

    api: str | None
    region: str
    access_key_id: str
    secret_access_key: str
    mqtt: tuple[str, int]
    https: tuple[str, int]
    ca_file: str | None = None
    session_token: str | None = None

    @classmethod
    def of_hub(cls, hub_json: dict[str, Any]) -> "Endpoint":
        def place(url: str) -> tuple[str, int]:
            host, _, port = url.rpartition("//")[2].rpartition(":")
            return host, int(port)

        return cls(
            api=hub_json["endpoints"]["api"],
            region=hub_json["region"],
            access_key_id=hub_json["admin"]["access_key_id"],
            secret_access_key=hub_json["admin"]["secret_access_key"],
            mqtt=place(hub_json["endpoints"]["mqtt"]),
            https=place(hub_json["endpoints"]["https"]),
            ca_file=hub_json["ca_file"],
        )


@dataclass(frozen=True, kw_only=True)
class Device:
    """A certificate with its key on disk, and the policy and thing that it was made with."""

    id: str
    arn: str
    certificate: Path
    key: Path
    policy: str
    thing: str
    pem: str


@dataclass(kw_only=True)
class Message:
    topic: str
    payload: bytes
    qos: int
    retain: bool
    properties: Any = None


class Mqtt:
    """A paho client with its answers as values. `code` of connect: the CONNACK's reason as a number."""

    def __init__(self, world: "World", device: Device, client_id: str, *, version: int = 5) -> None:
        protocol = paho.MQTTv5 if version == 5 else paho.MQTTv311
        self._version = version
        self._world, self._device = world, device
        self._events: queue.Queue[tuple[str, Any]] = queue.Queue()
        self.messages: queue.Queue[Message] = queue.Queue()
        self.session_present: bool | None = None
        self.connack: Any = None
        self._options: dict[str, Any] = {}
        self.raw = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=client_id, protocol=protocol)
        self._wire()

    def _wire(self) -> None:
        client = self.raw
        client.on_connect = lambda _c, _u, flags, code, props: self._events.put(("connect", (flags, code, props)))
        client.on_connect_fail = lambda _c, _u: self._events.put(("connect_fail", None))
        client.on_disconnect = lambda _c, _u, _f, code, props: self._events.put(("disconnect", code))
        client.on_subscribe = lambda _c, _u, mid, codes, props: self._events.put(("suback", [c.value for c in codes]))
        client.on_unsubscribe = lambda _c, _u, mid, codes, props: self._events.put(
            ("unsuback", [c.value for c in codes] if isinstance(codes, list) else [])
        )
        client.on_publish = lambda _c, _u, mid, code, props: self._events.put(("published", (mid, code.value)))
        client.on_message = lambda _c, _u, m: self.messages.put(
            Message(
                topic=m.topic, payload=m.payload, qos=m.qos, retain=m.retain, properties=getattr(m, "properties", None)
            )
        )

    def connect(
        self,
        *,
        clean: bool = True,
        keep_alive: int = 60,
        expiry_s: int | None = None,
        will: tuple[str, bytes, int, bool] | None = None,
        properties: dict[str, Any] | None = None,
    ) -> int:
        """The reason code of the CONNACK; -1 when the connection was closed without one."""
        client = self.raw
        context = ssl.create_default_context(cafile=self._world.endpoint.ca_file)
        context.load_cert_chain(self._device.certificate, self._device.key)
        client.tls_set_context(context)
        if will is not None:
            client.will_set(will[0], will[1], will[2], will[3])
        client.reconnect_delay_set(3600, 3600)
        host, port = self._world.endpoint.mqtt
        if self._version == 5:
            given = Properties(PacketTypes.CONNECT)
            if expiry_s is not None:
                given.SessionExpiryInterval = expiry_s
            for name, value in (properties or {}).items():
                setattr(given, name, value)
            client.connect(host, port, keep_alive, clean_start=clean, properties=given)
        else:
            client._clean_session = clean  # paho asks for it in the constructor; a row says it where it matters
            client.connect(host, port, keep_alive)
        client.loop_start()
        kind, value = self._next(("connect", "connect_fail", "disconnect"))
        if kind != "connect":
            return -1
        flags, code, self.connack = value
        self.session_present = flags.session_present
        return int(code.value)

    def subscribe(self, *filters: str, qos: int = 1, limit_s: float = LIMIT_S) -> list[int]:
        self.raw.subscribe([(name, qos) for name in filters] if self._version != 5 else _options(filters, qos))
        return list(self._next(("suback",), limit_s)[1])

    def unsubscribe(self, *filters: str) -> list[int]:
        self.raw.unsubscribe(list(filters))
        return list(self._next(("unsuback",))[1])

    def publish(
        self,
        topic: str,
        payload: Any = b"x",
        *,
        qos: int = 1,
        retain: bool = False,
        properties: dict[str, Any] | None = None,
    ) -> int:
        """QoS 1: the reason code of the PUBACK; QoS 0: 0 at once. -1 when the connection was closed instead."""
        body = payload if isinstance(payload, bytes | str) else json.dumps(payload)
        given = None
        if properties and self._version == 5:
            given = Properties(PacketTypes.PUBLISH)
            for name, value in properties.items():
                setattr(given, name, value)
        sent = self.raw.publish(topic, body, qos, retain, properties=given)
        if qos == 0:
            return 0
        end = time.monotonic() + LIMIT_S
        while True:
            kind, value = self._next(("published", "disconnect"), end - time.monotonic())
            if kind == "disconnect":
                return -1
            if value[0] == sent.mid:
                return int(value[1])

    def receive(self, limit_s: float = LIMIT_S) -> Message:
        try:
            return self.messages.get(timeout=limit_s)
        except queue.Empty:
            raise AssertionError(f"no message within {limit_s:g} s") from None

    def receive_json(self, limit_s: float = LIMIT_S) -> Any:
        return json.loads(self.receive(limit_s).payload)

    def silent(self, for_s: float = QUIET_S) -> bool:
        """Whether nothing comes."""
        try:
            got = self.messages.get(timeout=for_s)
        except queue.Empty:
            return True
        self.messages.put(got)
        return False

    def closed(self, limit_s: float = LIMIT_S) -> int:
        """The reason of the disconnection, which must come: 5: of the server's DISCONNECT if there was one."""
        return int(self._next(("disconnect",), limit_s)[1].value)

    def disconnect(self) -> None:
        self.raw.disconnect()
        self.raw.loop_stop()

    def drop(self) -> None:
        """Cut the connection without a DISCONNECT."""
        made = self.raw.socket()
        self.raw.loop_stop()
        if made is not None:
            with contextlib.suppress(OSError):
                made.close()

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self.raw.disconnect()
        with contextlib.suppress(Exception):
            self.raw.loop_stop()
        made = self.raw.socket()
        if made is not None:
            with contextlib.suppress(OSError):
                made.close()

    def _next(self, kinds: tuple[str, ...], limit_s: float = LIMIT_S) -> tuple[str, Any]:
        end = time.monotonic() + max(limit_s, 0)
        while True:
            try:
                found = self._events.get(timeout=max(end - time.monotonic(), 0.001))
            except queue.Empty:
                raise AssertionError(f"none of {', '.join(kinds)} within {limit_s:g} s") from None
            if found[0] in kinds:
                return found


def _options(filters: tuple[str, ...], qos: int) -> Any:
    from paho.mqtt.subscribeoptions import SubscribeOptions

    return [(name, SubscribeOptions(qos=qos)) for name in filters]


@dataclass
class World:
    """One endpoint. Names are fresh in each run, so rows do not meet."""

    endpoint: Endpoint
    folder: Path
    _clients: dict[tuple[str, str], Any] = field(default_factory=dict)
    _open: list[Mqtt] = field(default_factory=list)
    _account: str = ""

    @property
    def account(self) -> str:
        if not self._account:
            self._account = self.client("sts").get_caller_identity()["Account"]
        return self._account

    @property
    def region(self) -> str:
        return self.endpoint.region

    def client(self, service: str, **changes: Any) -> Any:
        """An unmodified boto3 client; with changes (other keys, say) a new one each time."""
        key = (service, "")
        if not changes and key in self._clients:
            return self._clients[key]
        made = boto3.session.Session().client(
            service,
            **{
                "endpoint_url": self.endpoint.api,
                "region_name": self.endpoint.region,
                "aws_access_key_id": self.endpoint.access_key_id,
                "aws_secret_access_key": self.endpoint.secret_access_key,
                "aws_session_token": self.endpoint.session_token,
                "config": Config(retries={"max_attempts": 0}, s3={"addressing_style": "path"}),
                **changes,
            },
        )
        self._clients[(service, secrets.token_hex(4) if changes else "")] = made
        return made

    @property
    def iot(self) -> Any:
        return self.client("iot")

    @property
    def data(self) -> Any:
        return self.client("iot-data")

    def name(self, kind: str = "row") -> str:
        return f"{kind}-{secrets.token_hex(5)}"

    def arn(self, rest: str, service: str = "iot") -> str:
        return f"arn:aws:{service}:{self.region}:{self.account}:{rest}"

    def thing(self, **options: Any) -> str:
        name = self.name("thing")
        self.iot.create_thing(thingName=name, **options)
        return name

    def policy(self, document: Any = EVERYTHING) -> str:
        name = self.name("policy")
        self.iot.create_policy(policyName=name, policyDocument=json.dumps(document))
        return name

    def device(self, document: Any = EVERYTHING, *, thing: str | None = None) -> Device:
        """An active certificate with a policy; `thing` is attached when given ("" makes a new one)."""
        made = self.iot.create_keys_and_certificate(setAsActive=True)
        policy = self.policy(document)
        self.iot.attach_policy(policyName=policy, target=made["certificateArn"])
        bound = self.thing() if thing == "" else thing or ""
        if bound:
            self.iot.attach_thing_principal(thingName=bound, principal=made["certificateArn"])
        certificate = self.folder / f"{policy}.pem"
        key = self.folder / f"{policy}.key"
        certificate.write_text(made["certificatePem"])
        key.write_text(made["keyPair"]["PrivateKey"])
        return Device(
            id=made["certificateId"], arn=made["certificateArn"], certificate=certificate, key=key, policy=policy,
            thing=bound, pem=made["certificatePem"],
        )  # fmt: skip

    def mqtt(self, device: Device, client_id: str | None = None, *, version: int = 5) -> Mqtt:
        """Not connected yet; closed at the end of the row."""
        made = Mqtt(self, device, self.name("client") if client_id is None else client_id, version=version)
        self._open.append(made)
        return made

    def connected(self, device: Device, client_id: str | None = None, *, version: int = 5, **options: Any) -> Mqtt:
        made = self.mqtt(device, client_id, version=version)
        code = made.connect(**options)
        assert code == 0, f"CONNECT was answered with {code}"
        return made

    def socket(self, device: Device, *, alpn: str | None = None) -> ssl.SSLSocket:
        """A TLS connection to the MQTT door, for bytes that no client sends."""
        context = ssl.create_default_context(cafile=self.endpoint.ca_file)
        context.load_cert_chain(device.certificate, device.key)
        if alpn is not None:
            context.set_alpn_protocols([alpn])
        place = self.endpoint.https if alpn is not None else self.endpoint.mqtt
        return context.wrap_socket(socket.create_connection(place, LIMIT_S), server_hostname=place[0])

    @contextlib.contextmanager
    def refused(self, code: str, status: int | None = None, text: str = "") -> Iterator[None]:
        """The call inside must be refused with this error code, HTTP status and part of the message."""
        try:
            yield
        except ClientError as exc:
            got, meta = exc.response["Error"], exc.response["ResponseMetadata"]
            assert got["Code"] == code, f"code is {got['Code']} ({got.get('Message')}), not {code}"
            assert status is None or meta["HTTPStatusCode"] == status, (
                f"status is {meta['HTTPStatusCode']}, not {status}"
            )
            assert text in str(got.get("Message", "")), f"the message is {got.get('Message')!r}"
            return
        raise AssertionError(f"the call was answered, not refused with {code}")

    def until(self, look: Callable[[], Any], what: str = "it", limit_s: float = LIMIT_S) -> Any:
        end = time.monotonic() + limit_s
        while True:
            found = look()
            if found:
                return found
            assert time.monotonic() < end, f"{what} did not happen within {limit_s:g} s"
            time.sleep(0.05)

    def pages(self, call: Callable[..., Any], member: str, **options: Any) -> list[Any]:
        """All items of a paginated list, two or three a page."""
        found: list[Any] = []
        token: dict[str, str] = {}
        while True:
            page = call(**options, **token)
            found += page[member]
            following = page.get("nextToken")
            if not following:
                return found
            token = {"nextToken": following}

    def end_row(self) -> None:
        while self._open:
            self._open.pop().close()

    def close(self) -> None:
        self.end_row()
        for client in self._clients.values():
            client.close()
        self._clients.clear()


@contextlib.contextmanager
def opened(endpoint: Endpoint) -> Iterator[World]:
    with tempfile.TemporaryDirectory() as folder:
        world = World(endpoint, Path(folder))
        try:
            yield world
        finally:
            world.close()
