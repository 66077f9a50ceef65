"""iot-data: one message by HTTP, signed or with a device certificate, the way of every other publish; what is retained."""

import base64
import binascii
from typing import TYPE_CHECKING, Final, cast

from marram.core import arn, codec
from marram.core import topic as topics
from marram.core.errors import Denied, Invalid, LimitExceeded, NotFound
from marram.core.mqtt import v5
from marram.core.mqtt.packets import PUBLISH, Reader
from marram.hub.slice import Call, Params, Result, anything, operation

if TYPE_CHECKING:
    from marram.hub.broker.service import Broker

MAX_PAYLOAD: Final = 128 << 10
MAX_TOPIC_BYTES: Final = topics.MAX_BYTES
MAX_SLASHES: Final = topics.MAX_SLASHES


def _topic(call: Call, params: Params) -> str:
    return arn.build("iot", call.region, call.account, f"topic/{params['topic']}")


@operation("iot-data", "Publish", resource=_topic)
async def publish(service: "Broker", call: Call, params: Params) -> Result:
    topic, payload = str(params["topic"]), params.get("payload", b"")
    check_topic(topic)
    if len(payload) > MAX_PAYLOAD:
        raise LimitExceeded(f"the payload has {len(payload)} bytes, over the limit of {MAX_PAYLOAD}", limit=MAX_PAYLOAD)
    qos = params.get("qos", 0)
    if qos not in (0, 1):
        raise Invalid(f"qos must be 0 or 1, not {qos}")
    if params.get("retain"):
        # A second permission, beside iot:Publish.
        call.extra["authorise"]("iot:RetainPublish", _topic(call, params))  # type: ignore[operator]  # filled by the border
    await service.publish(
        topic,
        payload,
        qos=qos,
        retain=bool(params.get("retain")),
        subject=call.subject,
        properties=mqtt_properties(params) or None,
    )
    return {}


@operation("iot-data", "GetRetainedMessage", resource=_topic)
async def get_retained_message(service: "Broker", call: Call, params: Params) -> Result:
    topic = str(params["topic"])
    check_topic(topic)
    found = service.retained(topic)
    if found is None:
        raise NotFound(f"no message is retained on {topic}")
    result: dict[str, object] = {
        "topic": topic, "payload": found.payload, "qos": found.qos, "lastModifiedTime": found.created_ms,
    }  # fmt: skip
    body = v5.with_length(found.properties)
    pairs = v5.read_properties(Reader(body, 0, len(body)), PUBLISH).get("user_properties")
    if pairs:
        named = [{name: text} for name, text in cast("list[tuple[str, str]]", pairs)]
        result["userProperties"] = codec.dumps(named)
    return result


@operation("iot-data", "ListRetainedMessages", resource=anything)
async def list_retained_messages(service: "Broker", call: Call, params: Params) -> Result:
    limit = int(params.get("maxResults") or 200)
    found = await service.retained_page(str(params.get("nextToken") or ""), limit + 1)
    result: dict[str, object] = {
        "retainedTopics": [
            {
                "topic": each.topic,
                "payloadSize": len(each.payload),
                "qos": each.qos,
                "lastModifiedTime": each.created_ms,
            }
            for each in found[:limit]
            if each.expires_ms is None or each.expires_ms > call.now_ms
        ]
    }
    if len(found) > limit:
        result["nextToken"] = found[limit - 1].topic
    return result


def check_topic(topic: str) -> None:
    """Raises Invalid for what no message may be published to by a client."""
    size = len(topic.encode())
    if not topic or "\0" in topic or "+" in topic or "#" in topic:
        raise Invalid("a topic has at least one character and neither +, # nor NUL")
    if size > MAX_TOPIC_BYTES:
        raise Invalid(f"the topic has {size} bytes, over the limit of {MAX_TOPIC_BYTES}")
    if topic.count("/") > MAX_SLASHES and not topic.startswith("$aws/"):
        raise Invalid(f"the topic has {topic.count('/')} slashes, over the limit of {MAX_SLASHES}")
    if topic.startswith("$") and not topic.startswith("$aws/"):
        raise Denied(f"topics that begin with $ are reserved: {topic[:60]}")


def mqtt_properties(params: Params) -> dict[str, object]:
    """MQTT 5 properties under the names of core.mqtt."""
    out: dict[str, object] = {}
    if "payloadFormatIndicator" in params:
        out["payload_format"] = 1 if params["payloadFormatIndicator"] == "UTF8_DATA" else 0
    if params.get("messageExpiry"):
        out["message_expiry_s"] = params["messageExpiry"]
    if "contentType" in params:
        out["content_type"] = params["contentType"]
    if "responseTopic" in params:
        check_topic(params["responseTopic"])
        out["response_topic"] = params["responseTopic"]
    if "correlationData" in params:
        try:
            out["correlation_data"] = base64.b64decode(params["correlationData"], validate=True)
        except (binascii.Error, ValueError) as error:
            raise Invalid("correlationData is not base64") from error
    if "userProperties" in params:
        out["user_properties"] = _user_properties(params["userProperties"])
    return out


def _user_properties(value: object) -> list[tuple[str, str]]:
    if not isinstance(value, list):
        raise Invalid("userProperties must be a list of objects")
    out: list[tuple[str, str]] = []
    for item in cast("list[object]", value):
        if not isinstance(item, dict):
            raise Invalid("userProperties must be a list of objects with texts as values")
        for name, text in cast("dict[str, object]", item).items():
            if not isinstance(text, str):
                raise Invalid("userProperties must be a list of objects with texts as values")
            out.append((name, text))
    return out
