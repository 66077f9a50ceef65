import pytest
from hypothesis import given
from hypothesis import strategies as st

from marram.core import topic
from marram.core.errors import Invalid


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        pytest.param("sensor/#", "sensor", False, id="AWS: no parent"),
        pytest.param("sensor/#", "sensor/", True, id="empty level below"),
        pytest.param("sensor/#", "sensor/a/b", True, id="deep"),
        pytest.param("#", "a/b", True, id="all"),
        pytest.param("#", "$aws/things/t", False, id="all but $"),
        pytest.param("+/things/t", "$aws/things/t", False, id="plus does not reach $"),
        pytest.param("$aws/#", "$aws/things/t", True, id="asked for"),
        pytest.param("$aws/+/t", "$aws/things/t", True, id="plus below $"),
        pytest.param("a/+", "a", False, id="plus wants a level"),
        pytest.param("a/+", "a/", True, id="plus takes an empty level"),
        pytest.param("+", "/a", False, id="leading slash is a level"),
        pytest.param("+/+", "/a", True, id="two levels"),
        pytest.param("/+", "/a", True, id="empty first"),
        pytest.param("a/b", "a/b/c", False, id="longer name"),
        pytest.param("a/b", "A/b", False, id="case"),
        pytest.param("a/+/c/#", "a/b/c", False, id="nested parent"),
    ],
)
def test_matching(text: str, name: str, expected: bool) -> None:
    assert topic.matches(text, name) is expected
    trie: topic.Trie[str, int] = topic.Trie()
    trie.put(text, "k", 1)
    assert trie.match(name) == ([("k", 1)] if expected else [])


def test_plain_mqtt_matches_the_parent() -> None:
    assert topic.matches("sensor/#", "sensor", parent=True)
    trie: topic.Trie[str, int] = topic.Trie(parent=True)
    trie.put("sensor/#", "k", 1)
    assert trie.match("sensor") == [("k", 1)]


@pytest.mark.parametrize("name", ["", "a\0b", "a/+", "#", "a" * 257, "a/b/c/d/e/f/g/h/i", "é" * 129, "$aws/rules/"])
def test_refused_names(name: str) -> None:
    with pytest.raises(Invalid):
        topic.check_name(name)


@pytest.mark.parametrize("name", ["a", "/", "a/b/c/d/e/f/g/h", "$aws/rules/r/a/b/c/d/e/f/g/h", "é" * 128])
def test_accepted_names(name: str) -> None:
    assert topic.check_name(name) == name


@pytest.mark.parametrize(
    "text", ["", "a#", "a/#/b", "a+", "+a/b", "##", "$share/", "$share/g", "$share//a", "$share/g+/a", "$share/g/"]
)
def test_refused_filters(text: str) -> None:
    with pytest.raises(Invalid):
        topic.check_filter(text)


@pytest.mark.parametrize("text", ["#", "+", "a/#", "+/+/#", "$share/g/a/b/c/d/e/f/g/h", "$share/g/#"])
def test_accepted_filters(text: str) -> None:
    assert topic.check_filter(text) == text


def test_share_and_ingest() -> None:
    assert topic.parse_share("$share/group/a/+") == ("group", "a/+")
    assert topic.parse_share("a/b") is None
    assert topic.ingest_rest("$aws/rules/store/plant/1") == ("store", "plant/1")
    assert topic.ingest_rest("$aws/rules/store") == ("store", "")


def test_templates() -> None:
    table = topic.Templates(
        {
            "$aws/things/{thing}/shadow/update": "classic",
            "$aws/things/{thing}/shadow/name/{name}/update": "named",
            "$aws/things/{thing}/jobs/{job}/get": "job",
            "$aws/things/{thing}/jobs/$next/get": "next",
        }
    )
    assert table.match("$aws/things/t/shadow/update") == ("classic", {"thing": "t"})
    assert table.match("$aws/things/t/shadow/name/n/update") == ("named", {"thing": "t", "name": "n"})
    assert table.match("$aws/things/t/jobs/$next/get") == ("next", {"thing": "t"})
    assert table.match("$aws/things/t/jobs/7/get") == ("job", {"thing": "t", "job": "7"})
    assert table.match("$aws/things/t/shadow/update/accepted") is None
    assert topic.fill("$aws/things/{thing}/shadow/get", {"thing": "t"}) == "$aws/things/t/shadow/get"
    with pytest.raises(Invalid):
        topic.fill("a/{x}", {"x": "b/c"})


levels = st.sampled_from(["a", "b", "", "$x", "+"])
names = st.lists(st.sampled_from(["a", "b", "", "$x"]), min_size=1, max_size=4).map("/".join)
filters = st.tuples(st.lists(levels, min_size=1, max_size=4), st.booleans()).map(
    lambda pair: "/".join([*pair[0], "#"] if pair[1] else pair[0])
)


@given(st.lists(st.tuples(filters, st.integers(0, 3)), max_size=12), names, st.data())
def test_the_trie_agrees_with_the_plain_reading(pairs: list[tuple[str, int]], name: str, data: st.DataObject) -> None:
    trie: topic.Trie[int, str] = topic.Trie()
    kept = set()
    for text, key in pairs:
        assert trie.put(text, key, text) == ((text, key) not in kept)
        kept.add((text, key))
    for text, key in data.draw(st.lists(st.sampled_from(sorted(kept)), unique=True)) if kept else []:
        assert trie.remove(text, key)
        assert not trie.remove(text, key)
        kept.discard((text, key))
    assert sorted(trie.match(name)) == sorted((key, text) for text, key in kept if topic.matches(text, name))
    assert len(trie) == len(kept)


@given(filters, filters, names)
def test_covers_is_sound(wide: str, narrow: str, name: str) -> None:
    if topic.covers(wide, narrow) and topic.matches(narrow, name):
        assert topic.matches(wide, name)
