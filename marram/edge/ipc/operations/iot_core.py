"""Messages to and from the hub. A QoS 1 publish is answered when it is durable in the spool, link up or down."""

from typing import cast

from marram.core import codec
from marram.core.codec import JsonObject
from marram.core.errors import Invalid, LimitExceeded
from marram.core.mqtt.packets import Properties
from marram.core.topic import has_wildcard
from marram.edge.ipc import model
from marram.edge.ipc.authorisation import MQTT_PROXY
from marram.edge.ipc.operation import Call, ipc, need
from marram.edge.ipc.operations.pubsub import check_filter, check_topic
from marram.edge.ipc.ports import Core, Outgoing
from marram.edge.pubsub.hub import Message

MAX_PAYLOAD = 128 * 1024


# A full spool passes: the arguments are good, and the component may try again (the model names ServiceError alone for it).
@ipc("aws.greengrass#PublishToIoTCore", faults={LimitExceeded: "ServiceError"})
async def publish_to_iot_core(core: Core, call: Call, request: model.Request) -> JsonObject:
    topic = str(request["topicName"])
    core.authorisation.require(call.component, MQTT_PROXY, call.operation, topic)
    if has_wildcard(topic):
        raise Invalid("a topic to publish to must not have + or #")
    check_topic(topic)
    payload = cast(bytes, request.get("payload", b""))
    if len(payload) > MAX_PAYLOAD:
        raise Invalid(f"payload of {len(payload)} bytes is over the limit of {MAX_PAYLOAD}")
    need(core.iot_core, call.operation, "a link to the hub")
    assert core.iot_core is not None
    properties = cast(list[dict[str, str]], request.get("userProperties", []))
    await core.iot_core.publish(
        Outgoing(
            topic=topic,
            payload=payload,
            qos=int(str(request["qos"])),
            retain=bool(request.get("retain", False)),
            user_properties=[(each.get("key", ""), each.get("value", "")) for each in properties],
            expiry_s=cast(int | None, request.get("messageExpiryIntervalSeconds")),
            correlation=cast(bytes | None, request.get("correlationData")),
            response_topic=cast(str | None, request.get("responseTopic")),
            payload_format=int(str(request["payloadFormat"])) if "payloadFormat" in request else None,
            content_type=cast(str | None, request.get("contentType")),
        )
    )
    return {}


@ipc("aws.greengrass#SubscribeToIoTCore")
async def subscribe_to_iot_core(core: Core, call: Call, request: model.Request) -> JsonObject:
    filter = str(request["topicName"])
    core.authorisation.require(call.component, MQTT_PROXY, call.operation, filter)
    check_filter(filter)
    need(core.iot_core, call.operation, "a link to the hub")
    assert core.iot_core is not None
    stream = call.stream()
    cancel = await core.iot_core.subscribe(
        filter, int(str(request["qos"])), lambda message: stream.send(event_of(message))
    )
    stream.on_close(cancel)
    return {}


@ipc("aws.greengrass#SubscribeToIoTCoreConnectionStatus")
def subscribe_to_connection_status(core: Core, call: Call, request: model.Request) -> JsonObject:
    need(core.iot_core, call.operation, "a link to the hub")
    assert core.iot_core is not None
    stream = call.stream()

    def changed(connected: bool) -> None:
        status = "CONNECTED" if connected else "DISCONNECTED"
        stream.send(codec.dumps({"connectionStatusEvent": {"status": status}}))

    stream.on_close(core.iot_core.watch(changed))
    return {}


def event_of(message: Message) -> bytes:
    body = message.ipc_event
    if body is None:
        content: JsonObject = {"topicName": message.topic, "payload": model.blob(message.data)}
        if message.retain:
            content["retain"] = True
        _add_properties(content, message.properties)
        body = message.ipc_event = codec.dumps({"message": content})
    return body


def _add_properties(content: JsonObject, properties: Properties) -> None:
    for name, wire in (("content_type", "contentType"), ("response_topic", "responseTopic")):
        if isinstance(value := properties.get(name), str):
            content[wire] = value
    if isinstance(correlation := properties.get("correlation_data"), bytes):
        content["correlationData"] = model.blob(correlation)
    if isinstance(form := properties.get("payload_format"), int):
        content["payloadFormat"] = str(form)
    if isinstance(expiry := properties.get("message_expiry_s"), int):
        content["messageExpiryIntervalSeconds"] = expiry
    if isinstance(pairs := properties.get("user_properties"), list):
        content["userProperties"] = [{"key": pair[0], "value": pair[1]} for pair in pairs if isinstance(pair, tuple)]
