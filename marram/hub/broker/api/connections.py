"""iot-data: clients by their id. Who is connected, since when, why not; what it subscribes to; put it out; a message to it alone."""

from typing import TYPE_CHECKING, Final

from marram.core import arn
from marram.core import topic as topics
from marram.core.errors import Denied, Invalid, LimitExceeded, NotFound
from marram.hub.broker.api.messages import MAX_PAYLOAD, check_topic, mqtt_properties
from marram.hub.slice import Call, Params, Result, operation

if TYPE_CHECKING:
    from marram.hub.broker.service import Broker

SUBSCRIPTIONS_PAGE: Final = 20
CONFIRM_S: Final = 5
MAX_CONFIRM_S: Final = 15


def _client(call: Call, params: Params) -> str:
    return arn.build("iot", call.region, call.account, f"client/{params['clientId']}")


@operation("iot-data", "DeleteConnection", resource=_client)
async def delete_connection(service: "Broker", call: Call, params: Params) -> Result:
    service.disconnect(
        params["clientId"],
        clean=bool(params.get("cleanSession")),
        will=not params.get("preventWillMessage"),
    )
    return {}


@operation("iot-data", "GetConnection", resource=_client)
async def get_connection(service: "Broker", call: Call, params: Params) -> Result:
    found = service.connection(params["clientId"])
    if found is None:
        raise NotFound(f"client {params['clientId']} was never connected", client_id=params["clientId"])
    result: dict[str, object] = {
        "clientId": found.client_id,
        "connected": found.connected,
        "cleanSession": found.expiry_s == 0,
        "sessionExpiry": found.expiry_s,
        "keepAliveDuration": found.keep_alive_s,
    }
    if found.thing is not None:
        result["thingName"] = found.thing
    if found.connected:
        result["connectedSince"] = found.connected_ms
    else:
        result["disconnectedSince"] = found.disconnected_ms
        result["disconnectReason"] = found.reason
    if params.get("includeSocketInformation"):
        result["sourceIp"] = found.address
        if found.port:
            result["sourcePort"] = found.port
    return result


@operation("iot-data", "ListSubscriptions", resource=_client)
async def list_subscriptions(service: "Broker", call: Call, params: Params) -> Result:
    after, limit = str(params.get("nextToken") or ""), int(params.get("maxResults") or SUBSCRIPTIONS_PAGE)
    left = [(text, qos) for text, qos in service.subscriptions(params["clientId"]) if text > after]
    result: dict[str, object] = {"subscriptions": [{"topicFilter": text, "qos": qos} for text, qos in left[:limit]]}
    if len(left) > limit:
        result["nextToken"] = left[limit - 1][0]
    return result


@operation("iot-data", "SendDirectMessage", resource=_client)
async def send_direct_message(service: "Broker", call: Call, params: Params) -> Result:
    topic, payload = str(params["topic"]), params.get("payload", b"")
    check_topic(topic)
    if topics.is_reserved(topic):
        # Whoever may send a message could else tell a device to run a job, or what its shadow wants.
        raise Denied(f"topic {topic} is reserved", topic=topic)
    if len(payload) > MAX_PAYLOAD:
        raise LimitExceeded(f"the payload has {len(payload)} bytes, over the limit of {MAX_PAYLOAD}", limit=MAX_PAYLOAD)
    timeout_s = params.get("timeout", CONFIRM_S)
    if not 1 <= timeout_s <= MAX_CONFIRM_S:
        raise Invalid(f"timeout must be 1 to {MAX_CONFIRM_S} seconds, not {timeout_s}")
    is_confirmed = bool(params.get("confirmation"))
    await service.send_direct(
        params["clientId"],
        topic,
        payload,
        properties=mqtt_properties(params) or None,
        confirm_s=float(timeout_s) if is_confirmed else None,
    )
    message = "the client acknowledged the message" if is_confirmed else "the message was sent"
    return {"message": message, "traceId": call.request_id}
