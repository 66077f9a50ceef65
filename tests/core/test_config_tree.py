"""Configuration: merge, defaults, reset as a deployment applies them, and laws that hold for any document."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marram.core import config_tree
from marram.core.codec import JsonObject, JsonValue
from marram.core.errors import Invalid, NotFound, VersionConflict

scalars = st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["", "x", "y"])
keys = st.sampled_from(["a", "b", "c"])
values = st.recursive(
    scalars | st.lists(scalars, max_size=2), lambda inner: st.dictionaries(keys, inner, max_size=3), max_leaves=8
)
objects = st.dictionaries(keys, values, max_size=3)


def tree(value: JsonObject, time_ms: int = 10) -> config_tree.Tree:
    return config_tree.merge({}, (), value, time_ms)


@pytest.mark.parametrize(
    ("before", "patch", "after"),
    [
        pytest.param({"a": 1}, {"b": 2}, {"a": 1, "b": 2}, id="maps merge"),
        pytest.param({"a": [1, 2]}, {"a": [3]}, {"a": [3]}, id="arrays are replaced"),
        pytest.param({"a": {"b": 1}}, {"a": 5}, {"a": 5}, id="a leaf replaces a map"),
        pytest.param({"a": 5}, {"a": {"b": 1}}, {"a": {"b": 1}}, id="a map replaces a leaf"),
        pytest.param({"a": {"b": 1}}, {"a": {}}, {"a": {"b": 1}}, id="an empty map changes nothing"),
        pytest.param({}, {"a": {}}, {"a": {}}, id="an empty map is kept"),
        pytest.param({"a": 1}, {"a": None}, {"a": None}, id="null is a value"),
    ],
)
def test_merge(before: JsonObject, patch: JsonObject, after: JsonObject) -> None:
    assert config_tree.get(config_tree.merge(tree(before), (), patch, 20)) == after


def test_older_does_not_overwrite_and_strict_says_so() -> None:
    now = tree({"a": 1}, 20)
    assert config_tree.get(config_tree.merge(now, (), {"a": 2, "b": 3}, 10)) == {"a": 1, "b": 3}
    with pytest.raises(VersionConflict):
        config_tree.merge(now, ("a",), 2, 10, strict=True)


def test_defaults_never_overwrite_what_a_person_set() -> None:
    now = tree({"a": 1, "m": {"x": 1}, "leaf": 3})
    filled = config_tree.fill(now, {"a": 9, "m": {"x": 9, "y": 9}, "leaf": {"deep": 1}, "new": [1]})
    assert config_tree.get(filled) == {"a": 1, "m": {"x": 1, "y": 9}, "leaf": 3, "new": [1]}


def test_a_reset_value_goes_back_to_the_default() -> None:
    now = config_tree.reset(tree({"a": 1, "b": {"c": 2}, "d": 4}), ["/a", "/b/c", "/nothing"])
    assert config_tree.get(config_tree.fill(now, {"a": 7, "b": {"c": 8}})) == {"a": 7, "b": {"c": 8}, "d": 4}
    assert config_tree.reset(now, [""]) == {}


def test_array_elements_cannot_be_reset() -> None:
    with pytest.raises(Invalid, match="array"):
        config_tree.reset(tree({"a": [1]}), ["/a/0"])


def test_pointers_reach_into_arrays_and_escapes() -> None:
    now = tree({"a/b": {"~": [10, {"x": 1}]}})
    assert config_tree.at_pointer(now, "/a~1b/~0/1/x") == 1
    for missing in ("/a", "/a~1b/~0/5", "/a~1b/~0/0/x"):
        with pytest.raises(NotFound):
            config_tree.at_pointer(now, missing)


@given(objects, objects)
def test_what_is_merged_is_there(before: JsonObject, patch: JsonObject) -> None:
    after = config_tree.get(config_tree.merge(tree(before), (), patch, 20))
    assert contains(after, patch)


@given(objects, objects)
def test_changes_are_what_differs(before: JsonObject, patch: JsonObject) -> None:
    old, new = tree(before), config_tree.merge(tree(before), (), patch, 20)
    for path in config_tree.changes(old, new):
        assert old.get(path) != new.get(path)
    assert config_tree.changes(new, new) == []


@given(objects, objects)
def test_filling_twice_is_filling_once(before: JsonObject, defaults: JsonObject) -> None:
    once = config_tree.fill(tree(before), defaults)
    assert config_tree.fill(once, defaults) == once


def contains(value: JsonValue, part: JsonValue) -> bool:
    if isinstance(part, dict):
        return isinstance(value, dict) and all(
            key in value and contains(value[key], each) for key, each in part.items()
        )
    return value == part and type(value) is type(part)
