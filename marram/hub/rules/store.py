"""Tables of the rules. A span is one version of a rule over a range of journal offsets: a message is judged by the spans that
hold its offset, so that a change takes effect at one clear place, also after a crash with messages still to be judged."""

from dataclasses import dataclass

from marram.core import codec
from marram.core.codec import JsonObject
from marram.kit.db import Tx


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRule:
    """`body` is the topicRulePayload as given, without ruleDisabled."""

    name: str
    body: JsonObject
    disabled: bool
    created_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Active for offsets from_offset <= offset < until_offset; None = still."""

    name: str
    from_offset: int
    until_offset: int | None
    body: JsonObject


def load(tx: Tx, name: str) -> StoredRule | None:
    row = tx.one("SELECT name, body, disabled, created_ms FROM rule WHERE name = ?", name)
    return None if row is None else _rule(row)


def rules(tx: Tx, after: str, limit: int) -> list[StoredRule]:
    rows = tx.all(
        "SELECT name, body, disabled, created_ms FROM rule WHERE name > ? ORDER BY name LIMIT ?", after, limit
    )
    return [_rule(row) for row in rows]


def count(tx: Tx) -> int:
    row = tx.one("SELECT COUNT(*) FROM rule")
    assert row is not None
    return int(row[0])


def save(tx: Tx, rule: StoredRule) -> None:
    tx.execute(
        "INSERT INTO rule (name, body, disabled, created_ms) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (name) DO UPDATE SET body = excluded.body, disabled = excluded.disabled",
        rule.name,
        codec.dumps(rule.body).decode(),
        int(rule.disabled),
        rule.created_ms,
    )


def delete(tx: Tx, name: str) -> None:
    tx.execute("DELETE FROM rule WHERE name = ?", name)


def spans(tx: Tx) -> list[Span]:
    rows = tx.all("SELECT name, from_offset, until_offset, body FROM rule_span ORDER BY name, from_offset")
    return [
        Span(name=name, from_offset=start, until_offset=until, body=codec.loads_object(body))
        for name, start, until, body in rows
    ]


def open_span(tx: Tx, name: str, offset: int, body: JsonObject) -> None:
    # Two changes between two messages have one offset: the later is the one that counts.
    tx.execute(
        "INSERT INTO rule_span (name, from_offset, until_offset, body) VALUES (?, ?, NULL, ?) "
        "ON CONFLICT (name, from_offset) DO UPDATE SET until_offset = NULL, body = excluded.body",
        name,
        offset,
        codec.dumps(body).decode(),
    )


def close_span(tx: Tx, name: str, offset: int) -> None:
    tx.execute("UPDATE rule_span SET until_offset = ? WHERE name = ? AND until_offset IS NULL", offset, name)


def position(tx: Tx) -> int | None:
    row = tx.one("SELECT position FROM rule_progress WHERE id = 1")
    return None if row is None else int(row[0])


def set_position(tx: Tx, offset: int) -> None:
    """Also forgets the spans that no message to come can fall into."""
    tx.execute(
        "INSERT INTO rule_progress (id, position) VALUES (1, ?) ON CONFLICT (id) DO UPDATE SET position = excluded.position",
        offset,
    )
    tx.execute("DELETE FROM rule_span WHERE until_offset IS NOT NULL AND until_offset <= ?", offset)


def _rule(row: tuple[object, ...]) -> StoredRule:
    name, body, disabled, created_ms = row
    assert isinstance(body, str) and isinstance(created_ms, int)
    return StoredRule(name=str(name), body=codec.loads_object(body), disabled=bool(disabled), created_ms=created_ms)
