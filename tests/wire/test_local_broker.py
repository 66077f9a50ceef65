"""The local broker with unmodified clients: paho-mqtt (3.1.1 and 5) and the mosquitto command line, over mutual TLS."""

import asyncio
import contextlib
import hashlib
import queue
import shutil
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from marram.core import codec
from marram.core.errors import LimitExceeded
from marram.edge.broker import devices as known
from marram.edge.broker.bridge import Bridge, parse
from marram.edge.broker.policy import Policy
from marram.edge.broker.service import LocalBroker, Settings, server_context
from marram.edge.pubsub.hub import Hub, Message
from marram.edge.shadow import service as shadow
from marram.edge.spool.service import Outgoing
from marram.hub.identity.pki import Issued, Pki
from marram.kit.clock import SystemClock, SystemEntropy
from marram.kit.db import Db

POLICY = {
    "definitions": {"all": {"selectionRule": "thingName: dev*", "policyName": "p"}},
    "policies": {
        "p": {
            "own": {
                "operations": ["mqtt:connect", "mqtt:publish", "mqtt:subscribe"],
                "resources": [
                    "mqtt:clientId:${iot:Connection.Thing.ThingName}*",
                    "mqtt:topic:plant/*",
                    "mqtt:topic:last/*",
                    "mqtt:topic:$aws/things/${iot:Connection.Thing.ThingName}/shadow/*",
                    "mqtt:topicfilter:plant/*",
                    "mqtt:topicfilter:last/*",
                    "mqtt:topicfilter:$aws/things/${iot:Connection.Thing.ThingName}/shadow/*",
                ],
            }
        }
    },
}


@dataclass
class FakeIotCore:
    got: list[Outgoing] = field(default_factory=list)
    hub: Hub = field(default_factory=Hub)
    full: bool = False

    async def publish(self, message: Outgoing) -> None:
        await asyncio.sleep(0)
        if self.full:
            raise LimitExceeded("full")
        self.got.append(message)

    async def subscribe(self, filter: str, qos: int, deliver: Callable[[Message], None]) -> Callable[[], None]:
        return self.hub.subscribe(filter, deliver).cancel


@dataclass
class World:
    broker: LocalBroker
    pki: Pki
    folder: Path
    core: FakeIotCore
    pubsub: Hub
    clients: list[paho.Client] = field(default_factory=list)
    fingerprints: dict[str, str] = field(default_factory=dict)

    def certificate(self, thing: str, *, known_here: bool = True) -> tuple[Path, Path]:
        issued: Issued = self.pki.issue_device(name=thing)
        assert issued.private_key_pem is not None
        certificate, key = self.folder / f"{thing}.pem", self.folder / f"{thing}.key"
        certificate.write_text(issued.pem)
        key.write_text(issued.private_key_pem)
        if known_here:
            self.fingerprints[hashlib.sha256(issued.der).hexdigest()] = thing
            self.broker.devices.configure(dict(self.fingerprints))
        return certificate, key

    def context(self, thing: str, **more: bool) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.folder / "root.pem"))
        context.load_cert_chain(*self.certificate(thing, **more))
        return context


class Device:
    """A paho client on its own thread."""

    def __init__(
        self,
        world: World,
        thing: str,
        *,
        client_id: str = "",
        version: int = 4,
        clean: bool = True,
        context: ssl.SSLContext | None = None,
        will: tuple[str, bytes] | None = None,
    ) -> None:
        self.got: queue.Queue[paho.MQTTMessage] = queue.Queue()
        self.connected: queue.Queue[object] = queue.Queue()
        self.disconnected: queue.Queue[object] = queue.Queue()
        self.subscribed: queue.Queue[list[object]] = queue.Queue()
        self.published: queue.Queue[object] = queue.Queue()
        self.client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id or thing,
            protocol=paho.MQTTProtocolVersion(version),
            clean_session=clean if version == 4 else None,
            reconnect_on_failure=False,
        )
        self.clean = clean
        self.version = version
        self.client.tls_set_context(context or world.context(thing))
        self.client.on_message = lambda _c, _u, message: self.got.put(message)
        self.client.on_connect = lambda _c, _u, flags, code, _p: self.connected.put((code, flags.session_present))
        self.client.on_disconnect = lambda _c, _u, _f, code, _p: self.disconnected.put(code)
        self.client.on_subscribe = lambda _c, _u, _m, codes, _p: self.subscribed.put(codes)
        self.client.on_publish = lambda _c, _u, _m, code, _p: self.published.put(code)
        if will is not None:
            self.client.will_set(will[0], will[1], qos=1)
        self.port = world.broker.port
        world.clients.append(self.client)

    def connect(self, expiry_s: int = 0, keepalive: int = 60) -> tuple[object, bool]:
        if self.version == 5:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = expiry_s
            self.client.connect("localhost", self.port, keepalive, clean_start=self.clean, properties=properties)
        else:
            self.client.connect("localhost", self.port, keepalive)
        self.client.loop_start()
        return self.connected.get(timeout=5)  # type: ignore[return-value]

    def subscribe(self, filter: str, qos: int = 1) -> list[object]:
        self.client.subscribe(filter, qos)
        return self.subscribed.get(timeout=5)

    def publish(self, topic: str, payload: bytes, qos: int = 1, **more: object) -> None:
        self.client.publish(topic, payload, qos, **more).wait_for_publish(5)  # type: ignore[arg-type]


async def off_loop(work: Callable[[], None]) -> None:
    await asyncio.wait_for(asyncio.to_thread(work), 30)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    clock, entropy = SystemClock(), SystemEntropy()
    pki = Pki.open(tmp_path / "pki", clock=clock, entropy=entropy)
    core = pki.issue_device(name="core1")
    listener = pki.issue_local_server(core.pem, ["localhost", "127.0.0.1"])
    (tmp_path / "local.pem").write_text(listener.pem)
    (tmp_path / "core.key").write_text(core.private_key_pem or "")
    (tmp_path / "root.pem").write_text(pki.root_pem)
    with Db.open(tmp_path / "state.db", clock=clock, migrations=[known.MIGRATIONS, shadow.MIGRATIONS]) as db:
        local, pubsub, iot_core = Hub(parent=True), Hub(), FakeIotCore()
        bridge = Bridge(local, pubsub, iot_core)
        broker = LocalBroker(
            Settings(port=0),
            db,
            local,
            known.Devices(db),
            bridge=bridge,
            shadows=shadow.Shadows(db, [local, pubsub], wall_ms=clock.wall_ms),
            tls=lambda: server_context(str(tmp_path / "local.pem"), str(tmp_path / "core.key"), pki.trusted_pem),
            entropy=entropy,
        )
        broker.configure(Policy(POLICY))  # type: ignore[arg-type]
        await bridge.configure(
            parse(
                {
                    "up": {
                        "topic": "plant/up/#",
                        "source": "LocalMqtt",
                        "target": "IotCore",
                        "targetTopicPrefix": "core1/",
                    },
                    "side": {"topic": "plant/side/#", "source": "LocalMqtt", "target": "Pubsub"},
                    "in": {"topic": "plant/in/#", "source": "Pubsub", "target": "LocalMqtt"},
                    "down": {"topic": "plant/down/#", "source": "IotCore", "target": "LocalMqtt"},
                    "circle": {"topic": "plant/side/#", "source": "Pubsub", "target": "LocalMqtt"},
                }
            )
        )
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(broker.run()), tasks.create_task(bridge.run())]
            await broker.ready.wait()
            made = World(broker, pki, tmp_path, iot_core, pubsub)
            try:
                yield made
            finally:
                for client in made.clients:
                    await asyncio.to_thread(client.disconnect)  # else the thread sleeps out its select
                    await asyncio.to_thread(client.loop_stop)
                for task in running:
                    task.cancel()


@pytest.mark.parametrize("version", [4, 5])
async def test_publish_and_subscribe(world: World, version: int) -> None:
    def work() -> None:
        one, two = Device(world, "dev1", version=version), Device(world, "dev2", version=version)
        assert not one.connect()[0].is_failure and not two.connect()[0].is_failure  # type: ignore[attr-defined]
        assert [code.value for code in one.subscribe("plant/+/temp", 2)] == [1]  # type: ignore[attr-defined]
        two.publish("plant/7/temp", b"21.5")
        two.publish("plant/7/temp", b"22", qos=0)
        first, second = one.got.get(timeout=5), one.got.get(timeout=5)
        assert (first.topic, first.payload, first.qos, first.retain) == ("plant/7/temp", b"21.5", 1, False)
        assert (second.payload, second.qos) == (b"22", 0)
        one.client.unsubscribe("plant/+/temp")
        one.client.disconnect()

    await off_loop(work)


async def test_who_is_not_known_or_not_allowed_does_not_connect(world: World) -> None:
    def work() -> None:
        stranger = Device(world, "dev9", version=5, context=world.context("dev9", known_here=False))
        assert stranger.connect()[0].value == 0x87  # type: ignore[attr-defined]
        other = Device(world, "dev1", client_id="dev2")
        assert other.connect()[0].is_failure  # type: ignore[attr-defined]
        outside = ssl.create_default_context(cafile=str(world.folder / "root.pem"))
        with pytest.raises((ssl.SSLError, OSError, queue.Empty)):  # TLS 1.3 tells at the first read
            nobody = Device(world, "dev3", context=outside)
            nobody.client.connect("localhost", world.broker.port)
            nobody.client.loop_start()
            nobody.connected.get(timeout=1)

    await off_loop(work)


async def test_a_publish_without_permission(world: World) -> None:
    def work() -> None:
        new = Device(world, "dev1", version=5)
        new.connect()
        new.client.publish("secret", b"", 1)
        assert new.published.get(timeout=5).value == 0x87  # type: ignore[attr-defined]
        assert [code.value for code in new.subscribe("secret/#")] == [0x87]  # type: ignore[attr-defined]
        assert [code.value for code in new.subscribe("$share/g/plant/#")] == [0x9E]  # type: ignore[attr-defined]
        old = Device(world, "dev2")
        old.connect()
        assert [code.value for code in old.subscribe("secret/#")] == [0x80]  # type: ignore[attr-defined]
        old.client.publish("secret", b"", 1)
        assert old.disconnected.get(timeout=5)
        new.publish("plant/x", b"still here")

    await off_loop(work)


async def test_retained_messages_and_wills(world: World) -> None:
    def work() -> None:
        one = Device(world, "dev1", will=("last/dev1", b"gone"))
        one.connect()
        one.publish("plant/keep", b"kept", retain=True)
        two = Device(world, "dev2", version=5)
        two.connect()
        two.subscribe("plant/#")
        message = two.got.get(timeout=5)
        assert (message.payload, message.retain) == (b"kept", True)
        two.subscribe("last/+")
        one.client._sock_close()  # type: ignore[attr-defined]  # as a lost connection
        assert two.got.get(timeout=5).payload == b"gone"
        two.publish("plant/keep", b"", retain=True)
        assert two.got.get(timeout=5).payload == b""
        three = Device(world, "dev3")
        three.connect()
        three.subscribe("plant/#")
        two.publish("plant/now", b"x")
        assert three.got.get(timeout=5).payload == b"x"

    await off_loop(work)


@pytest.mark.parametrize("version", [4, 5])
async def test_a_session_keeps_messages_while_its_device_is_away(world: World, version: int) -> None:
    def work() -> None:
        context = world.context("dev1")
        one = Device(world, "dev1", version=version, clean=False, context=context)
        assert one.connect(expiry_s=100)[1] is False
        one.subscribe("plant/+")
        one.client.disconnect()
        one.disconnected.get(timeout=5)
        two = Device(world, "dev2", version=version)
        two.connect()
        for n in range(150):
            two.publish("plant/a", str(n).encode())
        two.publish("plant/a", b"lost", qos=0)
        again = Device(world, "dev1", version=version, clean=False, context=context)
        assert again.connect(expiry_s=100)[1] is True
        assert [again.got.get(timeout=5).payload for _ in range(150)] == [str(n).encode() for n in range(150)]

    await off_loop(work)


async def test_the_same_client_id_puts_the_old_connection_out(world: World) -> None:
    def work() -> None:
        context = world.context("dev1")
        one = Device(world, "dev1", version=5, context=context)
        one.connect()
        two = Device(world, "dev1", version=5, context=context)
        two.connect()
        assert one.disconnected.get(timeout=5).value == 0x8E  # type: ignore[attr-defined]

    await off_loop(work)


async def test_properties_travel_between_mqtt_5_clients(world: World) -> None:
    def work() -> None:
        one, two = Device(world, "dev1", version=5), Device(world, "dev2", version=5)
        one.connect()
        two.connect()
        one.subscribe("plant/p")
        properties = Properties(PacketTypes.PUBLISH)
        properties.UserProperty = [("a", "1")]
        properties.ContentType = "text/plain"
        properties.ResponseTopic = "plant/r"
        properties.CorrelationData = b"\x01"
        properties.TopicAlias = 1
        two.publish("plant/p", b"x", properties=properties)
        got = one.got.get(timeout=5).properties
        assert got is not None
        assert (got.UserProperty, got.ContentType, got.ResponseTopic) == ([("a", "1")], "text/plain", "plant/r")

    await off_loop(work)


async def test_the_bridge(world: World) -> None:
    heard: list[Message] = []
    world.pubsub.subscribe("plant/side/#", heard.append)
    device = Device(world, "dev1", version=5)

    def before() -> None:
        device.connect()
        device.publish("plant/up/x", b"for the hub")  # acknowledged when the spool has it
        assert [(m.topic, m.payload) for m in world.core.got] == [("core1/plant/up/x", b"for the hub")]
        world.core.full = True
        device.published.queue.clear()
        device.client.publish("plant/up/x", b"too much", 1)
        assert device.published.get(timeout=5).value == 0x97  # type: ignore[attr-defined]
        device.subscribe("plant/#")
        device.publish("plant/side/x", b"for components")

    await off_loop(before)
    assert [message.payload for message in heard] == [b"for components"]
    world.pubsub.publish(Message("plant/in/x", json={"a": 1}))
    world.core.hub.publish(Message("plant/down/x", b"from the hub", hops=1))

    def after() -> None:
        payloads = [device.got.get(timeout=5).payload for _ in range(4)]
        assert sorted(payloads) == [b"for components", b"for components", b"from the hub", b'{"a":1}']
        with contextlib.suppress(queue.Empty):
            raise AssertionError(device.got.get(timeout=0.2).payload)  # the circle ends

    await off_loop(after)


async def test_shadows_of_devices_offline(world: World) -> None:
    def work() -> None:
        device = Device(world, "dev1")
        device.connect()
        device.subscribe("$aws/things/dev1/shadow/update/+")
        device.publish("$aws/things/dev1/shadow/update", b'{"state":{"desired":{"on":true}},"clientToken":"t"}')
        topics = {}
        for _ in range(3):
            message = device.got.get(timeout=5)
            topics[message.topic.rsplit("/", 1)[1]] = codec.loads_object(message.payload)
        assert topics["accepted"]["clientToken"] == "t" and topics["delta"]["state"] == {"on": True}
        device.subscribe("$aws/things/dev1/shadow/get/+")
        device.publish("$aws/things/dev1/shadow/get", b"")
        assert codec.loads_object(device.got.get(timeout=5).payload)["version"] == 1

    await off_loop(work)


async def test_new_policies_reach_live_connections(world: World) -> None:
    device = Device(world, "dev1", version=5)
    await off_loop(lambda: device.connect() and None)
    world.broker.configure(Policy())

    def work() -> None:
        reason: Any = device.disconnected.get(timeout=5)
        assert reason.value == 0x87, f"not authorized, not {reason}"
        again = Device(world, "dev1", version=5)
        code, _ = again.connect()
        assert code != 0, "it may not come back either"

    await off_loop(work)
    assert not world.broker.sessions


async def test_mosquitto_command_line(world: World) -> None:
    if shutil.which("mosquitto_pub") is None:
        pytest.skip("no mosquitto clients")
    certificate, key = world.certificate("dev1")
    tls = ["--cafile", str(world.folder / "root.pem"), "--cert", str(certificate), "--key", str(key)]
    where = ["-h", "localhost", "-p", str(world.broker.port), "-t", "plant/m", "-q", "1"]
    listener = await asyncio.create_subprocess_exec(
        "mosquitto_sub", *where, *tls, "-i", "dev1-sub", "-V", "mqttv5", "-C", "2", stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(10):
        while not any(session.subscriptions for session in world.broker.sessions.values()):
            await asyncio.sleep(0.01)
        for version in ("mqttv311", "mqttv5"):
            sender = await asyncio.create_subprocess_exec(
                "mosquitto_pub", *where, *tls, "-i", "dev1-pub", "-V", version, "-m", version
            )
            assert await sender.wait() == 0
        out, _ = await listener.communicate()
    assert out.split() == [b"mqttv311", b"mqttv5"]
