import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marram.core.codec import JsonObject
from marram.core.sql import functions, parser
from marram.core.sql.lexer import Place, SqlError

REFUSED = json.loads((Path(__file__).parents[2] / "vectors" / "sql" / "refused.json").read_text())["rows"]


@pytest.mark.parametrize("row", [pytest.param(row, id=row["sql"] or "empty") for row in REFUSED])
def test_what_is_not_there_is_refused_by_name_and_place(row: JsonObject) -> None:
    with pytest.raises(SqlError) as caught:
        parser.statement(str(row["sql"]))
    assert str(row["says"]) in caught.value.message
    assert (caught.value.data["line"], caught.value.data["column"]) == (row["line"], row["column"])


@pytest.mark.parametrize(
    "nested",
    [
        pytest.param(lambda n: "(" * n + "a" + ")" * n, id="parentheses"),
        pytest.param(lambda n: "NOT " * n + "a", id="NOT"),
        pytest.param(lambda n: "topic(" * n + "1" + ")" * n, id="calls"),
        pytest.param(lambda n: "- " * n + "a", id="minus"),
        pytest.param(lambda n: "a" + " + a" * n, id="sum"),
        pytest.param(lambda n: "(a + " * n + "a" + ")" * n, id="sum to the right"),
    ],
)
def test_depth_is_limited_to_64(nested: Callable[[int], str]) -> None:
    parser.expression(nested(30))
    with pytest.raises(SqlError, match="deeper than 64"):
        parser.expression(nested(65))
    with pytest.raises(SqlError, match="deeper than 64"):
        parser.expression(nested(9_000))


def test_a_long_list_of_conditions_is_not_deep() -> None:
    node = parser.expression(" AND ".join(f"a = {n}" for n in range(500)))
    assert isinstance(node, parser.Chain)
    assert len(node.operands) == 500


def test_a_statement_over_the_limit_is_refused() -> None:
    with pytest.raises(SqlError, match="over the limit of 65535"):
        parser.statement("SELECT a FROM 't' WHERE " + "a" * 70_000)


def test_the_tree_knows_its_places() -> None:
    found = parser.statement("SELECT a\nFROM 'x/+'\nWHERE b > 1")
    assert found.topic_filter == "x/+"
    assert found.filter_place == Place(2, 6)
    assert isinstance(found.where, parser.Binary)
    assert found.where.place == Place(3, 9)


@given(st.text(alphabet="SELECTFROMWHERE abc.,'()*+-<>=!1 \n[]{}\"ANDORNOT", max_size=80))
def test_any_text_is_parsed_or_refused_with_a_place(text: str) -> None:
    for source in (text, f"SELECT {text} FROM 't'", f"SELECT * FROM 't' WHERE {text}"):
        try:
            parser.statement(source)
        except SqlError as refused:
            assert refused.data["column"] >= 1  # noqa: PT017 - either outcome is right


def test_every_function_that_is_there_is_not_called_absent() -> None:
    assert not set(functions.FUNCTIONS) & functions.AWS_NAMES
