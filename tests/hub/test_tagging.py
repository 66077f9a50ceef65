import pytest

from marram.core.errors import Invalid
from marram.hub import tagging


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        pytest.param(None, {}, id="none"),
        pytest.param("", {}, id="empty"),
        pytest.param("line=7&site=north%20hall", {"line": "7", "site": "north hall"}, id="two"),
        pytest.param("a=", {"a": ""}, id="no value"),
        pytest.param("a%3Db=%26", {"a=b": "&"}, id="encoded"),
    ],
)
def test_tags_in_a_header(text, tags):
    assert tagging.read_header(text) == tags


@pytest.mark.parametrize(
    ("text", "why"),
    [
        pytest.param("a=1&a=2", "twice", id="twice"),
        pytest.param("line", "key=value", id="no equals sign"),
        pytest.param("a=1&&b=2", "key=value", id="nothing between"),
        pytest.param("a=%ff", "key=value", id="not UTF-8"),
    ],
)
def test_tags_in_a_header_that_are_refused(text, why):
    with pytest.raises(Invalid, match=why):
        tagging.read_header(text)


def test_tags_in_a_body():
    assert tagging.read({"tags": [{"Key": "a", "Value": "1"}, {"Key": "b"}]}) == {"a": "1", "b": ""}
    with pytest.raises(Invalid, match="twice"):
        tagging.read({"tags": [{"Key": "a"}, {"Key": "a"}]})
