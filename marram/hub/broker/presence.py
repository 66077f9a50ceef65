"""Lifecycle events: what is published on $aws/events when clients come, go, subscribe.

Source: AWS IoT Developer Guide, "Lifecycle events". The version number counts the connections of a client id and starts
again after an hour away.
"""

from collections import OrderedDict
from typing import Final

from marram.core import codec
from marram.core.codec import JsonValue

FORGET_MS: Final = 3_600_000
MAX_KNOWN: Final = 100_000

CLIENT: Final = "CLIENT_INITIATED_DISCONNECT"
CLIENT_ERROR: Final = "CLIENT_ERROR"
LOST: Final = "CONNECTION_LOST"
DUPLICATE: Final = "DUPLICATE_CLIENTID"
FORBIDDEN: Final = "FORBIDDEN_ACCESS"
AUTH_ERROR: Final = "AUTH_ERROR"
KEEP_ALIVE: Final = "MQTT_KEEP_ALIVE_TIMEOUT"
SERVER: Final = "SERVER_INITIATED_DISCONNECT"
SERVER_ERROR: Final = "SERVER_ERROR"
THROTTLED: Final = "THROTTLED"
WEBSOCKET_TTL: Final = "WEBSOCKET_TTL_EXPIRATION"


def has_events(client_id: str) -> bool:
    """Client ids with wildcards have no topic to publish on."""
    return "#" not in client_id and "+" not in client_id and "/" not in client_id


class Versions:
    """The version number of each client id's latest connection; the oldest are forgotten beyond a bound."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[int, int]] = OrderedDict()  # (number, when it was last seen)

    def next(self, client_id: str, now_ms: int) -> int:
        number, seen_ms = self._known.pop(client_id, (-1, now_ms))
        number = 0 if now_ms - seen_ms > FORGET_MS else number + 1
        self._known[client_id] = (number, now_ms)
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
        return number

    def left(self, client_id: str, now_ms: int) -> int:
        number = self._known.pop(client_id, (0, 0))[0]
        self._known[client_id] = (number, now_ms)
        return number


def connected(
    client_id: str, principal: str, now_ms: int, version: int, session: str, address: str
) -> tuple[str, bytes]:
    body = _body(client_id, principal, now_ms, "connected", session)
    body["ipAddress"] = address
    body["versionNumber"] = version
    return f"$aws/events/presence/connected/{client_id}", codec.dumps(body)


def disconnected(
    client_id: str, principal: str, now_ms: int, version: int, session: str, reason: str
) -> tuple[str, bytes]:
    body = _body(client_id, principal, now_ms, "disconnected", session)
    body["clientInitiatedDisconnect"] = reason == CLIENT
    body["disconnectReason"] = reason
    body["versionNumber"] = version
    return f"$aws/events/presence/disconnected/{client_id}", codec.dumps(body)


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


def _body(client_id: str, principal: str, now_ms: int, event: str, session: str) -> dict[str, JsonValue]:
    return {
        "clientId": client_id,
        "timestamp": now_ms,
        "eventType": event,
        "sessionIdentifier": session,
        "principalIdentifier": principal,
    }
