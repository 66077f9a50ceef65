import pytest
from hypothesis import given
from hypothesis import strategies as st

from marram.core import shadow as algebra
from marram.core.codec import JsonObject
from marram.core.shadow import Document, Patch
from marram.edge.shadow.merge import difference, merge, same

leaves = st.one_of(
    st.integers(0, 3), st.booleans(), st.sampled_from(["x", "y"]), st.lists(st.integers(0, 2), max_size=2)
)
objects = st.recursive(
    st.dictionaries(st.sampled_from("abc"), leaves, min_size=1, max_size=3),
    lambda below: st.dictionaries(st.sampled_from("abc"), st.one_of(leaves, below), min_size=1, max_size=3),
    max_leaves=6,
)


def changed(
    before: Document, at_s: int, desired: JsonObject | None = None, reported: JsonObject | None = None
) -> Document:
    return algebra.apply(before, Patch(desired=desired, reported=reported), at_s * 1000)


BASE = changed(algebra.EMPTY, 100, {"a": 1, "b": {"c": 1, "d": 1}}, {"a": 1})


@pytest.mark.parametrize(
    ("here", "there", "desired", "reported"),
    [
        pytest.param(BASE, BASE, BASE.desired, BASE.reported, id="nothing"),
        pytest.param(
            changed(BASE, 200, {"a": 2}),
            changed(BASE, 150, {"b": {"c": 9}}),
            {"a": 2, "b": {"c": 9, "d": 1}},
            {"a": 1},
            id="different leaves: both stay",
        ),
        pytest.param(
            changed(BASE, 200, {"a": 2}),
            changed(BASE, 201, {"a": 3}),
            {"a": 3, "b": {"c": 1, "d": 1}},
            {"a": 1},
            id="later",
        ),
        pytest.param(
            changed(BASE, 202, {"a": 2}),
            changed(BASE, 201, {"a": 3}),
            {"a": 2, "b": {"c": 1, "d": 1}},
            {"a": 1},
            id="ours later",
        ),
        pytest.param(
            changed(BASE, 200, {"a": 2}, {"a": 2}),
            changed(BASE, 200, {"a": 3}, {"a": 3}),
            {"a": 3, "b": {"c": 1, "d": 1}},
            {"a": 2},
            id="tie: desired is the hub's, reported the device's",
        ),
        pytest.param(changed(BASE, 200, {"a": None}), BASE, {"b": {"c": 1, "d": 1}}, {"a": 1}, id="removed here"),
        pytest.param(
            changed(BASE, 900, {"a": None}),
            changed(BASE, 200, {"a": 5}),
            {"a": 5, "b": {"c": 1, "d": 1}},
            {"a": 1},
            id="change wins",
        ),
        pytest.param(
            changed(BASE, 200, {"b": 7}),
            changed(BASE, 300, {"b": {"c": 2}}),
            {"a": 1, "b": {"c": 2}},
            {"a": 1},
            id="shapes differ",
        ),
    ],
)
def test_rows(here: Document, there: Document, desired: JsonObject, reported: JsonObject) -> None:
    assert merge(BASE, here, there) == (desired, reported)


@given(objects, objects, objects, st.integers(1, 3), st.integers(1, 3))
def test_both_sides_meet_and_stay(
    base: JsonObject, mine: JsonObject, theirs: JsonObject, mine_s: int, theirs_s: int
) -> None:
    start = changed(algebra.EMPTY, 0, base, base)
    here, there = changed(start, mine_s, mine, mine), changed(start, theirs_s, theirs, theirs)
    desired, reported = merge(start, here, there)
    for side in (here, there):
        after = changed(side, 9, difference(side.desired, desired), difference(side.reported, reported))
        assert same(after.desired, desired) and same(after.reported, reported)
        assert merge(after, after, after) == (desired, reported)


@given(objects, objects)
def test_difference_is_the_patch(before: JsonObject, after: JsonObject) -> None:
    document = changed(algebra.EMPTY, 0, before)
    assert same(changed(document, 1, difference(before, after)).desired, after)


@given(objects, objects)
def test_a_direction_decides(mine: JsonObject, theirs: JsonObject) -> None:
    here, there = changed(BASE, 5, mine, mine), changed(BASE, 6, theirs, theirs)
    assert merge(BASE, here, there, "deviceToCloud") == (here.desired, here.reported)
    assert merge(BASE, here, there, "cloudToDevice") == (there.desired, there.reported)
