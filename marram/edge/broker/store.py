"""Rows of the local broker: devices as the hub last named them, and retained messages."""

from collections.abc import Iterable

from marram.kit.db import Tx


def devices(tx: Tx) -> dict[str, str]:
    """certificate (SHA-256 of the DER, hex) -> thing."""
    return {
        str(certificate): str(thing) for certificate, thing in tx.all("SELECT certificate, thing FROM client_device")
    }


def replace_devices(tx: Tx, pairs: Iterable[tuple[str, str]]) -> None:
    tx.execute("DELETE FROM client_device")
    for certificate, thing in pairs:
        tx.execute(
            "INSERT INTO client_device (certificate, thing) VALUES (?, ?)"
            " ON CONFLICT (certificate) DO UPDATE SET thing = excluded.thing",
            certificate,
            thing,
        )


def retained(tx: Tx) -> dict[str, tuple[bytes, int]]:
    """topic -> (payload, qos)."""
    return {
        str(topic): (bytes(payload), int(qos))
        for topic, payload, qos in tx.all("SELECT topic, payload, qos FROM retained")
    }


def save_retained(tx: Tx, topic: str, payload: bytes, qos: int) -> None:
    """An empty payload removes it."""
    if not payload:
        tx.execute("DELETE FROM retained WHERE topic = ?", topic)
        return
    tx.execute(
        "INSERT INTO retained (topic, payload, qos) VALUES (?, ?, ?)"
        " ON CONFLICT (topic) DO UPDATE SET payload = excluded.payload, qos = excluded.qos",
        topic,
        payload,
        qos,
    )


def port(tx: Tx) -> int:
    """The port that was chosen before; 0 when none was."""
    row = tx.one("SELECT port FROM listener WHERE name = 'mqtt'")
    return int(row[0]) if row else 0


def save_port(tx: Tx, number: int) -> None:
    tx.execute(
        "INSERT INTO listener (name, port) VALUES ('mqtt', ?) ON CONFLICT (name) DO UPDATE SET port = excluded.port",
        number,
    )
