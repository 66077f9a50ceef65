import json
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marram.core.codec import JsonObject, JsonValue
from marram.core.sql import evaluate, parser
from marram.core.sql.functions import UNDEFINED, Message, Value

VECTORS = Path(__file__).parents[2] / "vectors" / "sql"
TOPIC, RECEIVED_MS = "plant/7/temp", 1_750_000_000_123
EXPRESSIONS = [
    pytest.param(row, id=f"{path.stem}: {row['id']}")
    for path in sorted(VECTORS.glob("*.json"))
    for row in json.loads(path.read_text())["rows"]
    if "expression" in row
]
STATEMENTS = [pytest.param(row, id=row["id"]) for row in json.loads((VECTORS / "statements.json").read_text())["rows"]]


def value_of(text: str, payload: JsonValue, **options: bool) -> Value:
    return evaluate.compile_text(text, **options)(Message(TOPIC, RECEIVED_MS, payload))


@pytest.mark.parametrize("row", EXPRESSIONS)
def test_an_expression_has_the_value_of_its_vector(row: JsonObject) -> None:
    found = value_of(str(row["expression"]), row["payload"])
    if row["value"] == {"undefined": True}:
        assert found is UNDEFINED
        return
    assert found is not UNDEFINED
    wanted, plain = row["value"]["is"], evaluate.plain(found)
    assert plain == wanted
    assert type(plain) is type(wanted) or (isinstance(plain, int | float) and not isinstance(plain, bool))


@pytest.mark.parametrize("row", STATEMENTS)
def test_a_statement_gives_the_result_of_its_vector(row: JsonObject) -> None:
    select = evaluate.compile_statement(parser.statement(str(row["sql"])))
    message = Message(TOPIC, RECEIVED_MS, row["payload"])
    if row["result"] == {"refused": True}:
        assert not select.where(message)
    else:
        assert select.where(message)
        assert select.row(message) == row["result"]["is"]


def test_every_operator_has_at_least_five_vectors() -> None:
    for path in VECTORS.glob("*.json"):
        assert len(json.loads(path.read_text())["rows"]) >= 5, path.name


def test_version_2015_computes_with_whole_decimals_as_decimals() -> None:
    assert value_of("a / 2", {"a": 7.0}) == 3
    assert value_of("a / 2", {"a": 7.0}, whole_is_int=False) == Decimal("3.5")


def test_a_statement_says_whether_it_reads_the_payload() -> None:
    def reads(sql: str) -> bool:
        return evaluate.compile_statement(parser.statement(sql)).reads_payload

    assert not reads("SELECT * FROM 'a' WHERE topic(2) = 'x'")
    assert not reads("SELECT topic() AS t, timestamp() AS m FROM 'a'")
    assert reads("SELECT *, topic() AS t FROM 'a'")
    assert reads("SELECT * FROM 'a' WHERE x = 1")
    assert reads("SELECT topic(n) AS t FROM 'a'")


def test_a_row_leaves_the_payload_alone() -> None:
    payload: JsonObject = {"a": 1}
    evaluate.compile_statement(parser.statement("SELECT *, 2 AS a FROM 't'")).row(Message("t", 0, payload))
    assert payload == {"a": 1}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=4), below, max_size=3),
    max_leaves=6,
)
operators = st.sampled_from(["=", "<>", "<", "<=", ">", ">=", "+", "-", "*", "/", "%", "AND", "OR"])


@given(operators, json_values, json_values)
def test_no_operator_fails_on_any_two_values(operator: str, a: JsonValue, b: JsonValue) -> None:
    found = value_of(f"a {operator} b", {"a": a, "b": b})
    assert found is UNDEFINED or evaluate.plain(found) is not None


@given(json_values, json_values)
def test_equal_and_not_equal_are_opposites(a: JsonValue, b: JsonValue) -> None:
    message = {"a": a, "b": b}
    assert value_of("a = b", message) is not value_of("a <> b", message)
    assert value_of("a = a", message) is True
