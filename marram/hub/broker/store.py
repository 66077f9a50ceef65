"""Tables of the broker: sessions as of the checkpoint, origins, retained messages, states of connections."""

from dataclasses import dataclass

from marram.core import codec
from marram.core.codec import JsonObject
from marram.kit.db import Tx


@dataclass(frozen=True, slots=True, kw_only=True)
class Retained:
    """`properties`: encoded for MQTT 5. expires_ms: wall clock, None = never."""

    topic: str
    payload: bytes
    qos: int
    properties: bytes
    created_ms: int
    expires_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionState:
    """The last connection of a client id. Times are wall clock; disconnected_ms and reason mean nothing while connected.

    thing: the one that the principal is bound to as this client; exclusive: the principal belongs to that thing alone.
    """

    client_id: str
    connected: bool
    principal: str
    session_id: str
    version: int
    address: str
    connected_ms: int
    port: int = 0
    thing: str | None = None
    exclusive: bool = False
    keep_alive_s: int = 0
    expiry_s: int = 0
    disconnected_ms: int = 0
    reason: str = ""

    @property
    def changed_ms(self) -> int:
        return self.connected_ms if self.connected else self.disconnected_ms


def checkpoint(tx: Tx) -> int | None:
    row = tx.one("SELECT value FROM broker_state WHERE name = 'checkpoint'")
    return None if row is None else int(row[0])


def set_checkpoint(tx: Tx, position: int) -> None:
    tx.execute(
        "INSERT INTO broker_state (name, value) VALUES ('checkpoint', ?)"
        " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        position,
    )


def sessions(tx: Tx) -> list[tuple[str, JsonObject]]:
    return [
        (str(client_id), codec.loads_object(str(body)))
        for client_id, body in tx.all("SELECT client_id, body FROM broker_session")
    ]


def save_session(tx: Tx, client_id: str, body: str) -> None:
    tx.execute(
        "INSERT INTO broker_session (client_id, body) VALUES (?, ?)"
        " ON CONFLICT (client_id) DO UPDATE SET body = excluded.body",
        client_id,
        body,
    )


def delete_session(tx: Tx, client_id: str) -> None:
    tx.execute("DELETE FROM broker_session WHERE client_id = ?", client_id)


def origins(tx: Tx) -> dict[str, int]:
    return {str(source): int(position) for source, position in tx.all("SELECT source, position FROM broker_origin")}


def save_origin(tx: Tx, source: str, position: int) -> None:
    tx.execute(
        "INSERT INTO broker_origin (source, position) VALUES (?, ?)"
        " ON CONFLICT (source) DO UPDATE SET position = excluded.position",
        source,
        position,
    )


def retained(tx: Tx, topic: str) -> Retained | None:
    row = tx.one(
        "SELECT topic, payload, qos, properties, created_ms, expires_ms FROM broker_retained WHERE topic = ?", topic
    )
    return None if row is None else _retained(row)


def retained_page(tx: Tx, after: str, limit: int) -> list[Retained]:
    rows = tx.all(
        "SELECT topic, payload, qos, properties, created_ms, expires_ms FROM broker_retained"
        " WHERE topic > ? ORDER BY topic LIMIT ?",
        after,
        limit,
    )
    return [_retained(row) for row in rows]


def save_retained(tx: Tx, item: Retained) -> None:
    tx.execute(
        "INSERT INTO broker_retained (topic, payload, qos, properties, created_ms, expires_ms) VALUES (?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (topic) DO UPDATE SET payload = excluded.payload, qos = excluded.qos,"
        " properties = excluded.properties, created_ms = excluded.created_ms, expires_ms = excluded.expires_ms",
        item.topic,
        item.payload,
        item.qos,
        item.properties,
        item.created_ms,
        item.expires_ms,
    )


def delete_retained(tx: Tx, topic: str) -> None:
    tx.execute("DELETE FROM broker_retained WHERE topic = ?", topic)


def delete_expired(tx: Tx, limit: int) -> int:
    """Retained messages whose time is over. Returns how many went."""
    rows = tx.all(
        "SELECT topic FROM broker_retained WHERE expires_ms IS NOT NULL AND expires_ms <= ? LIMIT ?", tx.now_ms, limit
    )
    for (topic,) in rows:
        tx.execute("DELETE FROM broker_retained WHERE topic = ?", topic)
    return len(rows)


def connection(tx: Tx, client_id: str) -> ConnectionState | None:
    row = tx.one("SELECT client_id, thing, connected, body FROM broker_connection WHERE client_id = ?", client_id)
    return None if row is None else _connection(row)


def connection_of_thing(tx: Tx, thing: str) -> ConnectionState | None:
    """The latest, where it has several clients."""
    row = tx.one(
        "SELECT client_id, thing, connected, body FROM broker_connection WHERE thing = ? ORDER BY changed_ms DESC LIMIT 1",
        thing,
    )
    return None if row is None else _connection(row)


def live_connections(tx: Tx) -> list[ConnectionState]:
    return [
        _connection(row)
        for row in tx.all("SELECT client_id, thing, connected, body FROM broker_connection WHERE connected = 1")
    ]


def save_connection(tx: Tx, state: ConnectionState) -> None:
    body: JsonObject = {
        "principal": state.principal,
        "session": state.session_id,
        "version": state.version,
        "address": state.address,
        "port": state.port,
        "connected_ms": state.connected_ms,
        "exclusive": state.exclusive,
        "keep_alive_s": state.keep_alive_s,
        "expiry_s": state.expiry_s,
        "disconnected_ms": state.disconnected_ms,
        "reason": state.reason,
    }
    tx.execute(
        "INSERT INTO broker_connection (client_id, thing, connected, changed_ms, body) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (client_id) DO UPDATE SET thing = excluded.thing, connected = excluded.connected,"
        " changed_ms = excluded.changed_ms, body = excluded.body",
        state.client_id,
        state.thing,
        1 if state.connected else 0,
        state.changed_ms,
        codec.dumps(body).decode(),
    )


def forget_connections(tx: Tx, after: str, before_ms: int, limit: int) -> str:
    """Look at `limit` rows behind `after`, delete those that left before. Returns where to go on."""
    rows = tx.all(
        "SELECT client_id, connected, changed_ms FROM broker_connection WHERE client_id > ? ORDER BY client_id LIMIT ?",
        after,
        limit,
    )
    for client_id, connected, changed_ms in rows:
        if not connected and int(changed_ms) < before_ms:
            tx.execute("DELETE FROM broker_connection WHERE client_id = ?", client_id)
    return str(rows[-1][0]) if len(rows) == limit else ""


def _connection(row: tuple[object, ...]) -> ConnectionState:
    client_id, thing, connected, text = row
    body = codec.loads_object(str(text))
    return ConnectionState(
        client_id=str(client_id),
        connected=connected == 1,
        principal=_text(body, "principal"),
        session_id=_text(body, "session"),
        version=_number(body, "version"),
        address=_text(body, "address"),
        port=_number(body, "port"),
        connected_ms=_number(body, "connected_ms"),
        thing=thing if isinstance(thing, str) else None,
        exclusive=body.get("exclusive") is True,
        keep_alive_s=_number(body, "keep_alive_s"),
        expiry_s=_number(body, "expiry_s"),
        disconnected_ms=_number(body, "disconnected_ms"),
        reason=_text(body, "reason"),
    )


def _text(body: JsonObject, name: str) -> str:
    value = body.get(name)
    return value if isinstance(value, str) else ""


def _number(body: JsonObject, name: str) -> int:
    value = body.get(name)
    return value if isinstance(value, int) else 0


def _retained(row: tuple[object, ...]) -> Retained:
    topic, payload, qos, properties, created_ms, expires_ms = row
    assert isinstance(payload, bytes) and isinstance(properties, bytes) and isinstance(qos, int)
    assert isinstance(created_ms, int) and (expires_ms is None or isinstance(expires_ms, int))
    return Retained(
        topic=str(topic),
        payload=payload,
        qos=qos,
        properties=properties,
        created_ms=created_ms,
        expires_ms=expires_ms,
    )
