"""Local publish and subscribe. Policy resources are literal but for `*`; filters understand `+` and `#`."""

from collections.abc import Mapping
from typing import cast

from marram.core import codec
from marram.core.codec import JsonObject
from marram.core.errors import Invalid
from marram.core.topic import has_wildcard
from marram.edge.ipc import model
from marram.edge.ipc.authorisation import PUBSUB
from marram.edge.ipc.operation import Call, ipc
from marram.edge.ipc.ports import Core
from marram.edge.pubsub.hub import Message

MAX_TOPIC_BYTES = 256


@ipc("aws.greengrass#PublishToTopic")
def publish_to_topic(core: Core, call: Call, request: model.Request) -> JsonObject:
    topic = str(request["topic"])
    core.authorisation.require(call.component, PUBSUB, call.operation, topic)
    if has_wildcard(topic) or "*" in topic:
        raise Invalid("a topic to publish to must not have +, # or *")
    check_topic(topic)
    ((kind, content),) = _mapping(request["publishMessage"]).items()
    inner = _mapping(content)["message"]
    if kind == "binaryMessage":
        assert isinstance(inner, bytes)
        message = Message(topic, inner, publisher=call.component)
    else:
        assert isinstance(inner, dict)
        message = Message(topic, json=cast(JsonObject, inner), publisher=call.component)
    core.pubsub.publish(message)
    return {}


@ipc("aws.greengrass#SubscribeToTopic")
def subscribe_to_topic(core: Core, call: Call, request: model.Request) -> JsonObject:
    topic = str(request["topic"])
    core.authorisation.require(call.component, PUBSUB, call.operation, topic)
    check_filter(topic)
    mode = request.get("receiveMode")
    others_only = mode == "RECEIVE_MESSAGES_FROM_OTHERS" if mode else has_wildcard(topic)
    stream = call.stream()
    subscription = core.pubsub.subscribe(
        topic, lambda message: stream.send(event_of(message)), owner=call.component, others_only=others_only
    )
    stream.on_close(subscription.cancel)
    return {"topicName": topic}


def event_of(message: Message) -> bytes:
    """The event body, made once for all subscribers of a message."""
    body = message.ipc_event
    if body is None:
        context: JsonObject = {"topic": message.topic}
        if message.json is not None:
            body = codec.dumps({"jsonMessage": {"message": message.json, "context": context}})
        else:
            body = codec.dumps({"binaryMessage": {"message": model.blob(message.data), "context": context}})
        message.ipc_event = body
    return body


def check_topic(topic: str) -> None:
    if not topic or len(topic.encode()) > MAX_TOPIC_BYTES or "\0" in topic:
        raise Invalid(f"a topic has 1 to {MAX_TOPIC_BYTES} bytes and no NUL")


def check_filter(filter: str) -> None:
    check_topic(filter)
    levels = filter.split("/")
    for index, level in enumerate(levels):
        if ("#" in level and (level != "#" or index != len(levels) - 1)) or ("+" in level and level != "+"):
            raise Invalid(f"{filter!r} is not a topic filter: + and # stand for whole levels, # only for the last")


def _mapping(value: object) -> Mapping[str, object]:
    assert isinstance(value, dict)
    return cast(dict[str, object], value)
