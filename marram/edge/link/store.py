"""Rows of the link: bytes by day and destination, and single facts (sequence numbers)."""

from collections.abc import Mapping
from dataclasses import dataclass

from marram.kit.db import Tx

KEPT_DAYS = 400


@dataclass(frozen=True, slots=True)
class Spent:
    """`day` is UTC, as 2026-01-31."""

    day: str
    destination: str
    sent: int
    received: int


def add_bytes(tx: Tx, day: str, counts: Mapping[str, tuple[int, int]]) -> None:
    for destination, (sent, received) in counts.items():
        tx.execute(
            "INSERT INTO link_bytes (day, destination, sent, received) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (day, destination) DO UPDATE SET sent = link_bytes.sent + excluded.sent,"
            " received = link_bytes.received + excluded.received",
            day,
            destination,
            sent,
            received,
        )
    tx.execute(
        "DELETE FROM link_bytes WHERE day NOT IN (SELECT DISTINCT day FROM link_bytes ORDER BY day DESC LIMIT ?)",
        KEPT_DAYS,
    )


def spent(tx: Tx, since_day: str) -> list[Spent]:
    rows = tx.all(
        "SELECT day, destination, sent, received FROM link_bytes WHERE day >= ? ORDER BY day, destination", since_day
    )
    return [Spent(*row) for row in rows]


def next_number(tx: Tx, name: str) -> int:
    """1, 2, 3, ... for each name, over restarts too."""
    row = tx.one("SELECT value FROM link_fact WHERE name = ?", name)
    number = int(row[0]) + 1 if row else 1
    tx.execute(
        "INSERT INTO link_fact (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        name,
        str(number),
    )
    return number
