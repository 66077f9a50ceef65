"""Rows of the spool: how far the hub has acknowledged each lane, and what it refused for good."""

from collections.abc import Sequence
from dataclasses import dataclass

from marram.kit.db import Tx

MAX_DEAD = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Dead:
    """A message that the hub refused for good. `reason_code` is MQTT 5's."""

    lane: str
    sequence: int
    spool_id: str
    topic: str
    payload: bytes
    reason_code: int
    reason: str
    created_ms: int


def load_lanes(tx: Tx) -> dict[str, tuple[str, int]]:
    """lane -> (spool id, position)."""
    return {
        lane: (spool_id, position)
        for lane, spool_id, position in tx.all("SELECT lane, spool_id, position FROM spool_lane")
    }


def save_lane(tx: Tx, lane: str, spool_id: str, position: int) -> None:
    tx.execute(
        "INSERT INTO spool_lane (lane, spool_id, position) VALUES (?, ?, ?)"
        " ON CONFLICT (lane) DO UPDATE SET spool_id = excluded.spool_id, position = excluded.position",
        lane,
        spool_id,
        position,
    )


def add_dead(tx: Tx, letters: Sequence[Dead]) -> None:
    for each in letters:
        tx.execute(
            "INSERT INTO spool_dead (lane, sequence, spool_id, topic, payload, reason_code, reason, created_ms)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (spool_id, lane, sequence) DO NOTHING",
            each.lane,
            each.sequence,
            each.spool_id,
            each.topic,
            each.payload,
            each.reason_code,
            each.reason,
            each.created_ms,
        )
    tx.execute(
        "DELETE FROM spool_dead WHERE (spool_id, lane, sequence) IN"
        " (SELECT spool_id, lane, sequence FROM spool_dead ORDER BY created_ms DESC, sequence DESC LIMIT -1 OFFSET ?)",
        MAX_DEAD,
    )


def load_dead(tx: Tx, limit: int) -> list[Dead]:
    rows = tx.all(
        "SELECT lane, sequence, spool_id, topic, payload, reason_code, reason, created_ms FROM spool_dead"
        " ORDER BY created_ms DESC, sequence DESC LIMIT ?",
        limit,
    )
    return [
        Dead(
            lane=lane,
            sequence=sequence,
            spool_id=spool_id,
            topic=topic,
            payload=payload,
            reason_code=code,
            reason=reason,
            created_ms=created_ms,
        )
        for lane, sequence, spool_id, topic, payload, code, reason, created_ms in rows
    ]
