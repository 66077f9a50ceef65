import pytest

from marram.core.errors import Invalid
from marram.core.sql import template
from marram.core.sql.functions import Message
from marram.core.sql.lexer import SqlError

MESSAGE = Message("plant/7/temp", 5, {"a": {"b": 1.5}, "n": None, "s": "x"})


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        pytest.param("plain/text", "plain/text", id="no expression"),
        pytest.param("${topic()}/again", "plant/7/temp/again", id="topic"),
        pytest.param("x/${topic(2)}/${a.b}", "x/7/1.5", id="two"),
        pytest.param("${'}' + s}", "}x", id="a brace in a string"),
        pytest.param("${timestamp() + 1}", "6", id="arithmetic"),
        pytest.param("$ {a} }", "$ {a} }", id="signs that are text"),
        pytest.param("", "", id="empty"),
    ],
)
def test_expressions_are_replaced_by_their_text(source: str, wanted: str) -> None:
    assert template.parse(source).render(MESSAGE) == wanted


@pytest.mark.parametrize("source", ["${missing}", "a/${n}"])
def test_a_template_without_a_value_is_refused(source: str) -> None:
    with pytest.raises(Invalid, match="no value"):
        template.parse(source).render(MESSAGE)


def test_bad_templates_are_refused_when_parsed() -> None:
    with pytest.raises(Invalid, match="not closed"):
        template.parse("a/${topic()")
    with pytest.raises(SqlError, match=r"newuuid\(\) is not supported"):
        template.parse("a/${newuuid()}")
    with pytest.raises(SqlError):
        template.parse("${}")


def test_constants_are_known() -> None:
    assert template.parse("a/b").constant == "a/b"
    assert template.parse("a/${s}").constant is None
