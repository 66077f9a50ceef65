"""Tables of the broker: sessions as of the checkpoint, origins, retained messages."""

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
