"""Lifecycle events: what is published on $aws/events when clients come, go, subscribe.

Source: AWS IoT Developer Guide, "Lifecycle events". Which connection is which, and what became of it, is in states.py.
"""

from typing import Final

from marram.core import codec
from marram.core.codec import JsonValue
from marram.hub.broker.states import ConnectionState

CLIENT: Final = "CLIENT_INITIATED_DISCONNECT"
CLIENT_ERROR: Final = "CLIENT_ERROR"
LOST: Final = "CONNECTION_LOST"
DUPLICATE: Final = "DUPLICATE_CLIENTID"
FORBIDDEN: Final = "FORBIDDEN_ACCESS"
AUTH_ERROR: Final = "AUTH_ERROR"
KEEP_ALIVE: Final = "MQTT_KEEP_ALIVE_TIMEOUT"
SERVER: Final = "SERVER_INITIATED_DISCONNECT"
SERVER_ERROR: Final = "SERVER_ERROR"
API: Final = "API_INITIATED_DISCONNECT"
THROTTLED: Final = "THROTTLED"
WEBSOCKET_TTL: Final = "WEBSOCKET_TTL_EXPIRATION"
CUSTOMAUTH_TTL: Final = "CUSTOMAUTH_TTL_EXPIRATION"


def has_events(client_id: str) -> bool:
    """Client ids with wildcards have no topic to publish on."""
    return "#" not in client_id and "+" not in client_id


def connected(state: ConnectionState) -> tuple[str, bytes]:
    body = _of(state, "connected", state.connected_ms)
    body["ipAddress"] = state.address
    body["versionNumber"] = state.version
    return f"$aws/events/presence/connected/{state.client_id}", codec.dumps(body)


def disconnected(state: ConnectionState) -> tuple[str, bytes]:
    body = _of(state, "disconnected", state.disconnected_ms)
    body["clientInitiatedDisconnect"] = state.reason == CLIENT
    body["disconnectReason"] = state.reason
    body["versionNumber"] = state.version
    return f"$aws/events/presence/disconnected/{state.client_id}", codec.dumps(body)


def connect_failed(client_id: str, principal: str, now_ms: int, session: str, address: str) -> tuple[str, bytes]:
    body = _body(client_id, principal, now_ms, "connect_failed", session)
    body["ipAddress"] = address
    body["connectFailureReason"] = "AUTHORIZATION_FAILED"
    return f"$aws/events/presence/connect_failed/{client_id}", codec.dumps(body)


def subscriptions(
    kind: str, client_id: str, principal: str, now_ms: int, session: str, filters: list[str]
) -> tuple[str, bytes]:
    """`kind`: subscribed or unsubscribed."""
    body = _body(client_id, principal, now_ms, kind, session)
    body["topics"] = list[JsonValue](filters)
    return f"$aws/events/subscriptions/{kind}/{client_id}", codec.dumps(body)


def _of(state: ConnectionState, event: str, at_ms: int) -> dict[str, JsonValue]:
    body = _body(state.client_id, state.principal, at_ms, event, state.session_id)
    if state.exclusive:
        body["thingName"] = state.thing
    return body


def _body(client_id: str, principal: str, now_ms: int, event: str, session: str) -> dict[str, JsonValue]:
    return {
        "clientId": client_id,
        "timestamp": now_ms,
        "eventType": event,
        "sessionIdentifier": session,
        "principalIdentifier": principal,
    }
