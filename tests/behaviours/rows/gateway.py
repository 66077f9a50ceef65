"""The MQTT gateway: connections, topics, sessions, retained messages, wills, shared subscriptions, MQTT 5, lifecycle events."""

import json
from typing import Any

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from tests.behaviours.row import row
from tests.behaviours.world import Mqtt, World

MQTT = "guide: MQTT"
DIFFERENCES = "guide: MQTT, differences from the specifications"
SHARED = "guide: MQTT, shared subscriptions"
CODES = "guide: MQTT 5 supported features, reason codes"
EVENTS = "guide: Lifecycle events"
QUOTAS = "guide: AWS IoT Core quotas"


def _pair(world: World, *, version: int = 5) -> tuple[Mqtt, Mqtt]:
    device = world.device()
    return world.connected(device, version=version), world.connected(device, version=version)


def _events(world: World, kind: str, client_id: str) -> Mqtt:
    watch = world.connected(world.device())
    assert watch.subscribe(f"$aws/events/{kind}/{client_id}") == [1]
    return watch


# topics


@row(aws="`sensor/#` does not match `sensor`, and does match `sensor/`.", source=DIFFERENCES)
def hash_without_its_parent(world: World) -> None:
    sub, pub = _pair(world)
    top = world.name()
    sub.subscribe(f"{top}/#")
    pub.publish(top, "parent")
    pub.publish(f"{top}/", "below")
    assert sub.receive().payload == b"below" and sub.silent()


@row(aws="`#` does not reach topics that begin with $.", source="sdk: guide of reserved topics")
def hash_without_reserved(world: World) -> None:
    device = world.device()
    watch = world.connected(device)
    watch.subscribe("#")
    world.connected(device)
    assert watch.silent()


@row(aws="A topic of 257 bytes is refused with 0x90.", source=QUOTAS)
def topic_too_long(world: World) -> None:
    assert world.connected(world.device()).publish("x" * 257) == 0x90


@row(aws="A topic with more than seven slashes is refused with 0x90.", source=QUOTAS)
def topic_too_deep(world: World) -> None:
    client = world.connected(world.device())
    assert client.publish("a/b/c/d/e/f/g/h") == 0
    assert client.publish("a/b/c/d/e/f/g/h/i") == 0x90


@row(aws="More than eight filters in one SUBSCRIBE end the connection.", source=QUOTAS)
def nine_filters(world: World) -> None:
    client = world.connected(world.device())
    assert client.subscribe(*(f"a/{n}" for n in range(8))) == [1] * 8
    client.raw.subscribe([(f"b/{n}", SubscribeOptions(qos=1)) for n in range(9)])
    assert client.closed() == 0x97


@row(aws="The 51st subscription of a connection is answered with 0x97.", source=QUOTAS)
def fifty_subscriptions(world: World) -> None:
    client = world.connected(world.device())
    for start in range(0, 48, 8):
        client.subscribe(*(f"t/{n}" for n in range(start, start + 8)))
    assert client.subscribe("t/48", "t/49", "t/50") == [1, 1, 0x97]


# QoS


@row(aws="QoS 2 ends a connection of MQTT 5 with 0x9B.", source=CODES)
def qos_two_of_five(world: World) -> None:
    client = world.connected(world.device())
    client.raw.publish("a", "x", 2)
    assert client.closed() == 0x9B


@row(
    aws="QoS 2 of MQTT 3.1.1 gets no acknowledgement.",
    source=DIFFERENCES,
)
def qos_two_of_three(world: World) -> None:
    client = world.connected(world.device(), version=4)
    client.raw.publish("a", "x", 2)
    assert client.closed() >= 0


@row(aws="The broker grants QoS 0 and 1 as asked.", source=MQTT)
def granted_qos(world: World) -> None:
    client = world.connected(world.device())
    assert client.subscribe("a", qos=0) == [0] and client.subscribe("b", qos=1) == [1]


# sessions


@row(aws="A persistent session keeps its subscriptions and QoS 1 messages while its client is away.", source=MQTT)
def session_keeps_messages(world: World) -> None:
    device, name = world.device(), world.name()
    sub = world.connected(device, name, clean=False, expiry_s=300)
    assert sub.session_present is False
    sub.subscribe(f"{name}/#")
    sub.disconnect()
    pub = world.connected(device)
    for number in range(3):
        pub.publish(f"{name}/x", str(number))
    pub.publish(f"{name}/x", "zero", qos=0)
    again = world.connected(device, name, clean=False, expiry_s=300)
    assert again.session_present is True
    assert [again.receive().payload for _ in range(3)] == [b"0", b"1", b"2"] and again.silent()


@row(aws="A session of MQTT 3.1.1 is not resumed by MQTT 5, nor the reverse.", source=MQTT)
def session_of_another_version(world: World) -> None:
    device, name = world.device(), world.name()
    old = world.connected(device, name, version=4, clean=False)
    old.subscribe("a")
    old.disconnect()
    new = world.connected(device, name, clean=False, expiry_s=300)
    assert new.session_present is False


@row(aws="A Session Expiry over seven days is lowered to it, and CONNACK says so.", source=QUOTAS)
def session_expiry_is_lowered(world: World) -> None:
    client = world.connected(world.device(), expiry_s=2**32 - 1)
    assert client.connack.SessionExpiryInterval == 604_800


@row(aws="Without a Session Expiry the session of MQTT 5 ends with its connection.", source=MQTT)
def session_without_expiry(world: World) -> None:
    device, name = world.device(), world.name()
    client = world.connected(device, name, clean=False)
    client.subscribe("a")
    client.disconnect()
    assert world.connected(device, name, clean=False).session_present is False


@row(aws="What was not acknowledged is sent again when the client comes back.", source=MQTT)
def unacknowledged_comes_again(world: World) -> None:
    device, name = world.device(), world.name()
    sub = world.connected(device, name, clean=False, expiry_s=300)
    sub.raw.manual_ack_set(True)
    sub.subscribe(name)
    world.connected(device).publish(name, "once")
    assert sub.receive().payload == b"once"
    sub.drop()
    assert world.connected(device, name, clean=False, expiry_s=300).receive().payload == b"once"


@row(aws="A second client with a client id puts the first out, with 0x8E.", source=DIFFERENCES)
def takeover(world: World) -> None:
    device, name = world.device(), world.name()
    first = world.connected(device, name)
    world.connected(device, name)
    assert first.closed() == 0x8E


# retained messages


@row(aws="A retained message goes to a later subscriber of exactly its topic, with RETAIN set.", source=MQTT)
def retained_exact(world: World) -> None:
    sub, pub = _pair(world)
    topic = world.name()
    pub.publish(topic, "kept", retain=True)
    sub.subscribe(topic)
    got = sub.receive()
    assert (got.payload, got.retain) == (b"kept", True)
    pub.publish(topic, "", retain=True)


@row(aws="A filter with a wildcard gets no retained message.", source=DIFFERENCES)
def retained_wildcard(world: World) -> None:
    sub, pub = _pair(world)
    top = world.name()
    pub.publish(f"{top}/a", "kept", retain=True)
    sub.subscribe(f"{top}/+")
    assert sub.silent()
    pub.publish(f"{top}/a", "", retain=True)
    assert sub.receive().payload == b""


@row(aws="A message that is retained reaches those already subscribed with RETAIN 0.", source=MQTT)
def retained_live(world: World) -> None:
    sub, pub = _pair(world)
    topic = world.name()
    sub.subscribe(topic)
    pub.publish(topic, "live", retain=True)
    assert sub.receive().retain is False
    pub.publish(topic, "", retain=True)


@row(aws="An empty retained message deletes, and is delivered.", source=MQTT)
def retained_deleted(world: World) -> None:
    sub, pub = _pair(world)
    topic = world.name()
    pub.publish(topic, "kept", retain=True)
    sub.subscribe(topic)
    sub.receive()
    pub.publish(topic, "", retain=True)
    assert sub.receive().payload == b""
    with world.refused("ResourceNotFoundException", 404):
        world.data.get_retained_message(topic=topic)


@row(aws="RETAIN needs iot:RetainPublish beside iot:Publish.", source="guide: retained message policy examples")
def retained_right(world: World) -> None:
    document = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": ["iot:Connect", "iot:Publish"], "Resource": "*"}],
    }
    client = world.connected(world.device(document))
    assert client.publish("a", "x") == 0
    assert client.publish("a", "x", retain=True) == 0x87


@row(aws="RETAIN on a reserved topic is refused.", source=MQTT)
def retained_reserved(world: World) -> None:
    client = world.connected(world.device())
    assert client.publish("$aws/things/x/shadow/get", "", retain=True) == 0x87


# wills


@row(aws="A will is sent when a connection is cut, not after DISCONNECT.", source=EVENTS)
def will_when_cut(world: World) -> None:
    device, topic = world.device(), world.name()
    sub = world.connected(device)
    sub.subscribe(topic)
    world.connected(device, will=(topic, b"polite", 1, False)).disconnect()
    world.connected(device, will=(topic, b"cut", 1, False)).drop()
    assert sub.receive().payload == b"cut"


@row(aws="A will with QoS 2 is refused with 0x9B.", source=CODES)
def will_with_qos_two(world: World) -> None:
    assert world.mqtt(world.device()).connect(will=("a", b"x", 2, False)) == 0x9B


@row(
    aws="A CONNECT whose will the policy does not allow fails.",
    source="guide: Lifecycle events, connect_failed",
)
def will_without_right(world: World) -> None:
    document = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": "iot:Connect", "Resource": "*"}],
    }
    assert world.mqtt(world.device(document)).connect(will=("a", b"x", 1, False)) == 0x87


@row(
    aws="A will on a shadow's topic reaches its subscribers, and does not change the shadow.",
    source="guide: Using shadows in apps and services",
)
def will_on_reserved_topic(world: World) -> None:
    device = world.device(thing="")
    topic = f"$aws/things/{device.thing}/shadow/update"
    watch = world.connected(device)
    watch.subscribe(topic)
    world.connected(device, will=(topic, b'{"state":{"reported":{"on":0}}}', 1, False)).drop()
    watch.receive()
    assert watch.silent()
    with world.refused("ResourceNotFoundException", 404):
        world.data.get_thing_shadow(thingName=device.thing)


# shared subscriptions


@row(aws="Each message goes to one member of a group, also in MQTT 3.1.1.", source=SHARED)
def shared_to_one(world: World) -> None:
    device, topic = world.device(), world.name()
    members = [world.connected(device, version=version) for version in (4, 5)]
    for member in members:
        assert member.subscribe(f"$share/g/{topic}") == [1]
    pub = world.connected(device)
    for number in range(20):
        pub.publish(topic, str(number))
    world.until(lambda: sum(m.messages.qsize() for m in members) >= 20, "all messages")
    got = [int(m.receive().payload) for m in members for _ in range(m.messages.qsize())]
    assert sorted(got) == list(range(20))


@row(aws="Groups are told apart by their name and their filter: each of them gets a message.", source=SHARED)
def shared_groups(world: World) -> None:
    device, topic = world.device(), world.name()
    one, two = world.connected(device), world.connected(device)
    one.subscribe(f"$share/a/{topic}")
    two.subscribe(f"$share/b/{topic}")
    world.connected(device).publish(topic, "x")
    assert one.receive().payload == two.receive().payload == b"x"


@row(aws="QoS 1 waits for a group with a persistent member when no member is there.", source=SHARED)
def shared_queue(world: World) -> None:
    device, name = world.device(), world.name()
    keeper = world.connected(device, name, clean=False, expiry_s=300)
    keeper.subscribe(f"$share/g/{name}")
    keeper.disconnect()
    world.connected(device).publish(name, "waited")
    other = world.connected(device)
    other.subscribe(f"$share/g/{name}")
    assert other.receive().payload == b"waited"


@row(aws="A shared subscription gets no retained message.", source=SHARED)
def shared_retained(world: World) -> None:
    sub, pub = _pair(world)
    topic = world.name()
    pub.publish(topic, "kept", retain=True)
    sub.subscribe(f"$share/g/{topic}")
    assert sub.silent()
    pub.publish(topic, "", retain=True)


@row(aws="The policy is asked for `topicfilter/$share/<name>/<filter>`.", source="sdk: shared subscription sample")
def shared_policy(world: World) -> None:
    document = {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": "iot:Connect", "Resource": "*"},
            {"Effect": "Allow", "Action": "iot:Subscribe", "Resource": world.arn("topicfilter/$share/*/jobs")},
        ],
    }
    client = world.connected(world.device(document))
    assert client.subscribe("$share/a/jobs", "jobs", "$share/a/other") == [1, 0x87, 0x87]


@row(
    aws="iot:Receive of a shared subscription is asked for the topic or for `$share/<name>/<topic>`.",
    source="sdk: shared subscription sample, which allows both",
    unconfirmed=True,
)
def shared_receive(world: World) -> None:
    topic = world.name()
    statements = [{"Effect": "Allow", "Action": ["iot:Connect", "iot:Subscribe", "iot:Publish"], "Resource": "*"}]
    receive = {"Effect": "Allow", "Action": "iot:Receive", "Resource": world.arn(f"topic/$share/*/{topic}")}
    client = world.connected(world.device({"Version": "2012-10-17", "Statement": [*statements, receive]}))
    client.subscribe(f"$share/g/{topic}")
    client.publish(topic, "x")
    assert client.receive().payload == b"x"


@row(aws="A share name of 128 characters is taken, a broken $share filter gets 0x8F.", source=SHARED)
def shared_names(world: World) -> None:
    client = world.connected(world.device())
    assert client.subscribe(f"$share/{'n' * 128}/a", "$share/x") == [1, 0x8F]


# MQTT 5


@row(aws="CONNACK states what the broker does.", source="guide: MQTT 5 supported features")
def connack(world: World) -> None:
    found = world.connected(world.device()).connack
    assert (found.ReceiveMaximum, found.MaximumQoS, found.TopicAliasMaximum) == (100, 1, 8)
    assert (found.RetainAvailable, found.WildcardSubscriptionAvailable, found.SubscriptionIdentifierAvailable) == (
        1,
        1,
        0,
    )


@row(aws="A client of MQTT 5 without a client id is given one.", source="guide: MQTT 5 supported features")
def assigned_client_id(world: World) -> None:
    assert world.connected(world.device(), "").connack.AssignedClientIdentifier


@row(aws="Keep-alives below 30 s and over 1,200 s are adjusted, and CONNACK says so.", source=QUOTAS)
def keep_alive(world: World) -> None:
    device = world.device()
    for asked, given in ((5, 30), (60, 60), (20_000, 1200)):
        assert world.connected(device, keep_alive=asked).connack.ServerKeepAlive == given


@row(aws="A message expiry over seven days is lowered to it.", source="guide: MQTT 5 supported features")
def message_expiry(world: World) -> None:
    sub, pub = _pair(world)
    topic = world.name()
    sub.subscribe(topic)
    pub.publish(topic, "x", properties={"MessageExpiryInterval": 2**31})
    assert sub.receive().properties.MessageExpiryInterval == 604_800


@row(aws="Properties of a message arrive as they were sent.", source="guide: MQTT 5 supported features")
def properties(world: World) -> None:
    sub, pub = _pair(world)
    topic = world.name()
    sub.subscribe(topic)
    given = {
        "ContentType": "text/plain", "ResponseTopic": "back", "CorrelationData": b"\0\xff", "UserProperty": [("k", "1"), ("k", "2")],
    }  # fmt: skip
    pub.publish(topic, "x", properties=given)
    got = sub.receive().properties
    assert {name: getattr(got, name) for name in given} == given


@row(aws="A subscription identifier ends the connection with 0xA1.", source=CODES)
def subscription_identifier(world: World) -> None:
    client = world.connected(world.device())
    given = Properties(PacketTypes.SUBSCRIBE)
    given.SubscriptionIdentifier = 7
    client.raw.subscribe("a", 1, properties=given)
    assert client.closed() == 0xA1


@row(aws="UNSUBACK has no code for a filter that was not subscribed to.", source=CODES)
def unsubscribe_unknown(world: World) -> None:
    assert world.connected(world.device()).unsubscribe("never") == [0]


@row(
    aws="A QoS 1 PUBLISH without right is answered with 0x87, and the connection stays.",
    source=CODES,
)
def publish_without_right(world: World) -> None:
    document = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:Connect", "Resource": "*"}]}
    client = world.connected(world.device(document))
    assert client.publish("a") == 0x87 and client.publish("a") == 0x87


# lifecycle events, clients by their id


def _event(client: Mqtt) -> dict[str, Any]:
    return dict(json.loads(client.receive().payload))


@row(
    aws="A connection is told on $aws/events/presence/connected, with its certificate, address and number.",
    source=EVENTS,
)
def event_connected(world: World) -> None:
    name, device = world.name(), world.device()
    watch = _events(world, "presence/connected", name)
    world.connected(device, name)
    told = _event(watch)
    assert {
        "clientId",
        "timestamp",
        "eventType",
        "sessionIdentifier",
        "principalIdentifier",
        "ipAddress",
        "versionNumber",
    } == set(told)
    assert (told["principalIdentifier"], told["versionNumber"], told["eventType"]) == (device.id, 0, "connected")


@row(aws="A disconnection is told with its reason and the number of its connection.", source=EVENTS)
def event_disconnected(world: World) -> None:
    name, device = world.name(), world.device()
    watch = _events(world, "presence/disconnected", name)
    world.connected(device, name).disconnect()
    told = _event(watch)
    assert (told["clientInitiatedDisconnect"], told["disconnectReason"], told["versionNumber"]) == (
        True, "CLIENT_INITIATED_DISCONNECT", 0,
    )  # fmt: skip
    world.connected(device, name).drop()
    told = _event(watch)
    assert (told["disconnectReason"], told["versionNumber"]) == ("CONNECTION_LOST", 1)


@row(aws="A CONNECT that is denied is told on connect_failed with AUTHORIZATION_FAILED.", source=EVENTS)
def event_connect_failed(world: World) -> None:
    name = world.name()
    watch = _events(world, "presence/connect_failed", name)
    document = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:Publish", "Resource": "*"}]}
    assert world.mqtt(world.device(document), name).connect() == 0x87
    assert _event(watch)["connectFailureReason"] == "AUTHORIZATION_FAILED"


@row(aws="Subscriptions are told with their filters.", source=EVENTS)
def event_subscribed(world: World) -> None:
    name = world.name()
    watch = _events(world, "subscriptions/subscribed", name)
    world.connected(world.device(), name).subscribe("a", "b/#")
    assert _event(watch)["topics"] == ["a", "b/#"]


@row(aws="thingName is in the events of exclusive things only.", source="guide: Associating a thing to a connection")
def event_thing(world: World) -> None:
    name, device = world.name(), world.device()
    thing = world.thing()
    world.iot.attach_thing_principal(thingName=thing, principal=device.arn, thingPrincipalType="EXCLUSIVE_THING")
    watch = _events(world, "presence/connected", name)
    world.connected(device, name)
    assert _event(watch)["thingName"] == thing


@row(aws="DeleteConnection puts a client out and can keep its will.", source="model: DeleteConnection")
def delete_connection(world: World) -> None:
    name, device = world.name(), world.device()
    sub = world.connected(device)
    sub.subscribe(name)
    client = world.connected(device, name, will=(name, b"will", 1, False))
    world.data.delete_connection(clientId=name, preventWillMessage=True)
    assert client.closed() == 0x98 and sub.silent()
    with world.refused("ResourceNotFoundException", 404):
        world.data.delete_connection(clientId=name)


@row(aws="GetConnection tells whether a client is connected, and why it is not.", source="model: GetConnection")
def get_connection(world: World) -> None:
    name, device = world.name(), world.device()
    client = world.connected(device, name, keep_alive=90, clean=False, expiry_s=120)
    found = world.data.get_connection(clientId=name)
    assert (found["connected"], found["sessionExpiry"], found["keepAliveDuration"]) == (True, 120, 90)
    client.disconnect()
    found = world.until(lambda: _away(world, name))
    assert found["disconnectReason"] == "CLIENT_INITIATED_DISCONNECT"


def _away(world: World, name: str) -> dict[str, Any] | None:
    found = world.data.get_connection(clientId=name)
    return None if found["connected"] else found


@row(aws="ListSubscriptions lists those of a session whose client is away too.", source="model: ListSubscriptions")
def list_subscriptions(world: World) -> None:
    name = world.name()
    client = world.connected(world.device(), name, clean=False, expiry_s=120)
    client.subscribe("a", "b/#", qos=1)
    client.disconnect()
    found = world.pages(world.data.list_subscriptions, "subscriptions", clientId=name, maxResults=1)
    assert found == [{"topicFilter": "a", "qos": 1}, {"topicFilter": "b/#", "qos": 1}]


@row(
    aws="SendDirectMessage reaches a client that subscribes to nothing, if it may receive.",
    source="model: SendDirectMessage",
)
def direct_message(world: World) -> None:
    name = world.name()
    client = world.connected(world.device(), name)
    world.data.send_direct_message(clientId=name, topic="direct", payload=b"x", confirmation=True)
    assert client.receive().topic == "direct"


@row(
    aws="SendDirectMessage to a client that may not receive the topic is refused.",
    source="model: SendDirectMessage; which error is not said",
    unconfirmed=True,
)
def direct_message_denied(world: World) -> None:
    name = world.name()
    document = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:Connect", "Resource": "*"}]}
    world.connected(world.device(document), name)
    with world.refused("ForbiddenException", 403):
        world.data.send_direct_message(clientId=name, topic="direct", payload=b"x")


@row(
    aws="A message to a connected client that does not acknowledge is sent again for up to an hour.",
    source="guide: MQTT",
    differs="it is sent again when the client connects again: MQTT forbids it on a live connection (5.0, 4.4)",
    slow=True,
)
def redelivery_to_a_connected_client(world: World) -> None:
    sub, pub = _pair(world)
    topic = world.name()
    sub.raw.manual_ack_set(True)
    sub.subscribe(topic)
    pub.publish(topic, "x")
    assert sub.receive().payload == sub.receive(20).payload == b"x"
