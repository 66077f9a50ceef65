"""The shadow algebra: rows from AWS's documentation, and properties."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marram.core import codec, shadow
from marram.core.errors import Invalid, LimitExceeded, VersionConflict
from marram.core.shadow import EMPTY, Document, Patch
from tests.core import shadow_reference as slow

NOW = 1_750_000_000_000
leaves = st.one_of(st.booleans(), st.integers(-5, 5), st.text(max_size=3), st.lists(st.integers(0, 3), max_size=2))
sections = st.recursive(
    leaves, lambda inner: st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=3), max_leaves=6
)
objects = st.dictionaries(st.sampled_from("abcd"), sections, max_size=4)


def test_keys_merge_null_removes_arrays_replace() -> None:
    one = shadow.apply(EMPTY, Patch(desired={"a": 1, "b": {"c": [1, 2], "d": 2}}), NOW)
    two = shadow.apply(one, Patch(desired={"a": None, "b": {"c": [3]}}), NOW)
    assert two.desired == {"b": {"c": [3], "d": 2}}
    assert two.version == 2
    assert two.desired_meta == {"b": {"c": [{"timestamp": NOW // 1000}], "d": {"timestamp": NOW // 1000}}}


def test_null_section_removes_it_whole() -> None:
    one = shadow.apply(EMPTY, Patch(desired={"a": 1}, reported={"a": 2}), NOW)
    two = shadow.apply(one, shadow.parse_patch(b'{"state": {"desired": null}}'), NOW)
    assert (two.desired, two.reported, shadow.delta(two)) == ({}, {"a": 2}, {})


def test_one_is_not_true() -> None:
    document = shadow.apply(EMPTY, Patch(desired={"on": True}, reported={"on": 1}), NOW)
    assert shadow.delta(document) == {"on": True}


def test_expected_version() -> None:
    one = shadow.apply(EMPTY, Patch(desired={"a": 1}), NOW)
    with pytest.raises(VersionConflict, match="Version conflict"):
        shadow.apply(one, Patch(desired={"a": 2}, version=5), NOW)
    assert shadow.apply(one, Patch(desired={"a": 2}, version=1), NOW).version == 2


@pytest.mark.parametrize(
    ("payload", "error", "text"),
    [
        pytest.param(b"{", Invalid, "Invalid JSON", id="torn"),
        pytest.param(b"[]", Invalid, "Invalid JSON", id="array"),
        pytest.param(b"{}", Invalid, "Missing required node: state", id="no state"),
        pytest.param(b'{"state": 3}', Invalid, "State node must be an object", id="state"),
        pytest.param(b'{"state": {"desired": 3}}', Invalid, "Desired node must be an object", id="desired"),
        pytest.param(b'{"state": {"reported": []}}', Invalid, "Reported node must be an object", id="reported"),
        pytest.param(b'{"state": {"delta": {}}}', Invalid, "invalid node: 'delta'", id="delta"),
        pytest.param(b'{"state": {}, "version": -1}', Invalid, "Invalid version", id="version"),
        pytest.param(b'{"state": {}, "version": true}', Invalid, "Invalid version", id="bool version"),
        pytest.param(b'{"state": {}, "clientToken": "%s"}' % (b"x" * 65), Invalid, "Invalid clientToken", id="token"),
        pytest.param(b'{"state": {}, "version": 1.0}', Invalid, "Invalid version", id="float version"),
        pytest.param(b'{"state": {}, "clientToken": 7}', Invalid, "Invalid clientToken", id="number for a token"),
        pytest.param(
            b'{"state": {"desired": {"a": [1, null]}}}', Invalid, "array desired.a has a null", id="null item"
        ),
        pytest.param(b'{"state": {"reported": {"a": [[null]]}}}', Invalid, "arrays cannot have null", id="null deeper"),
        pytest.param(b'{"state": {"desired": {"a": 1, "a": 2}}}', Invalid, "Invalid JSON", id="a key twice"),
        pytest.param(b"\xef\xbb\xbf{}", Invalid, "Invalid JSON", id="byte order mark"),
        pytest.param(b'{"state": {"desired": {"a": NaN}}}', Invalid, "Invalid JSON", id="nan"),
        pytest.param(
            b'{"state": {"desired": %s}}' % (b'{"a":' * 9 + b"1" + b"}" * 9), Invalid, "too many levels", id="deep"
        ),
        pytest.param(
            b'{"state": {"desired": %s}}' % (b'{"a":' * 200 + b"1" + b"}" * 200),
            Invalid,
            "too many levels",
            id="very deep",
        ),
        pytest.param(
            b'{"state": {"desired": {"a": "%s"}}}' % (b"x" * 9000), LimitExceeded, "exceeds the maximum size", id="size"
        ),
        pytest.param(b'\xff{"state": {}}', Invalid, "supported encoding is UTF-8", id="not utf-8"),
    ],
)
def test_refused(payload: bytes, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        shadow.parse_patch(payload)


def test_growing_over_the_limit_is_refused_and_changes_nothing() -> None:
    big = shadow.apply(EMPTY, Patch(desired={"a": "x" * 7000}), NOW)
    with pytest.raises(LimitExceeded):
        shadow.apply(big, Patch(reported={"b": "y" * 2000}), NOW)
    assert big.reported == {}


@given(objects, objects)
def test_converges_from_any_report(desired: dict[str, object], reported: dict[str, object]) -> None:
    asked = shadow.apply(EMPTY, Patch(desired=desired, reported=reported), NOW)  # type: ignore[arg-type]
    obeyed = shadow.apply(asked, Patch(reported=shadow.delta(asked)), NOW)
    assert shadow.delta(obeyed) == {}


@given(objects, objects)
def test_the_stored_form_reads_back(desired: dict[str, object], reported: dict[str, object]) -> None:
    document = shadow.apply(EMPTY, Patch(desired=desired, reported=reported), NOW)  # type: ignore[arg-type]
    assert shadow.decode(shadow.encode(document)) == document


@given(objects, objects)
def test_metadata_have_the_shape_of_the_state(one: dict[str, object], two: dict[str, object]) -> None:
    document = shadow.apply(shadow.apply(EMPTY, Patch(desired=one), NOW), Patch(desired=two), NOW)  # type: ignore[arg-type]
    assert _shape(document.desired) == _shape(document.desired_meta)


def _shape(value: object) -> object:
    if isinstance(value, dict) and set(value) != {"timestamp"}:
        return {key: _shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_shape(item) for item in value]
    return "leaf"


def test_accepted_and_documents_and_delta() -> None:
    patch = shadow.parse_patch(b'{"state": {"desired": {"a": 1, "b": null}}, "clientToken": "t"}')
    after = shadow.apply(EMPTY, patch, NOW)
    stamp = {"timestamp": NOW // 1000}
    assert shadow.accepted(patch, after.version, NOW) == {
        "state": {"desired": {"a": 1, "b": None}},
        "metadata": {"desired": {"a": stamp, "b": stamp}},
        "version": 1,
        "timestamp": NOW // 1000,
        "clientToken": "t",
    }
    assert shadow.delta_message(after, NOW, None) == {
        "version": 1, "timestamp": NOW // 1000, "state": {"a": 1}, "metadata": {"a": stamp},
    }  # fmt: skip
    assert "previous" not in shadow.documents(EMPTY, after, NOW, None)
    assert shadow.documents(after, shadow.apply(after, patch, NOW), NOW, None)["previous"] == {
        "state": {"desired": {"a": 1}}, "metadata": {"desired": {"a": stamp}}, "version": 1,
    }  # fmt: skip


def test_depth_of_eight_is_allowed() -> None:
    value: object = 1
    for _ in range(8):
        value = {"a": value}
    patch = shadow.parse_patch(codec.dumps({"state": {"desired": value}}))
    assert isinstance(shadow.apply(EMPTY, patch, NOW), Document)


def test_a_null_state_removes_both_sections() -> None:
    one = shadow.apply(EMPTY, Patch(desired={"a": 1}, reported={"a": 2}), NOW)
    patch = shadow.parse_patch(b'{"state": null, "clientToken": "t"}')
    two = shadow.apply(one, patch, NOW)
    assert (two.desired, two.reported, two.desired_meta, two.version) == ({}, {}, {}, 2)
    assert shadow.accepted(patch, two.version, NOW) == {
        "state": None, "metadata": {"timestamp": NOW // 1000}, "version": 2, "timestamp": NOW // 1000, "clientToken": "t",
    }  # fmt: skip


def test_what_stands_beside_the_state_is_ignored() -> None:
    patch = shadow.parse_patch(b'{"state": {"reported": {"a": 1}}, "timestamp": 5, "metadata": {}, "mine": null}')
    assert patch == Patch(reported={"a": 1})


def test_the_size_is_of_the_state_without_metadata() -> None:
    section = {f"k{at}": at for at in range(700)}
    document = shadow.apply(EMPTY, Patch(desired=section), NOW)
    assert len(codec.dumps(document.desired)) < shadow.MAX_BYTES < len(codec.dumps(document.desired_meta))
    with pytest.raises(LimitExceeded):
        shadow.apply(EMPTY, Patch(desired=section), NOW, max_bytes=4096)


PIECES = [
    b'{"state":',
    b"{",
    b"}",
    b"[",
    b"]",
    b'"desired"',
    b":",
    b",",
    b"null",
    b'"a"',
    b"1e999",
    b"-0",
    b'"\\ud800"',
    b"\xff",
    b'"version"',
]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60) | st.lists(st.sampled_from(PIECES), max_size=14).map(b"".join))
def test_any_bytes_are_a_patch_or_refused(payload: bytes) -> None:
    try:
        patch = shadow.parse_patch(payload)
        document = shadow.apply(EMPTY, Patch(desired=patch.desired, reported=patch.reported), NOW)
    except (Invalid, LimitExceeded):
        return
    assert shadow.decode(shadow.encode(document)) == document


# Against a slow reading of the rules.

values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(0, 2),
    st.sampled_from([1.0, "", "x"]),
    st.lists(st.integers(0, 2), max_size=2),
)
patches = st.dictionaries(
    st.sampled_from("abc"),
    st.recursive(values, lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3), max_leaves=6),
    max_size=3,
)
updates = st.lists(st.tuples(st.none() | patches, st.none() | patches), max_size=6)
Apply = Callable[[Document, Patch, int], Document]


def disagreement(apply: Apply, asked: Sequence[tuple[Any, Any]]) -> str | None:
    """What the two make of these updates, when it is not the same."""
    document = EMPTY
    sides: list[tuple[dict[str, Any], dict[Any, int]]] = [({}, {}), ({}, {})]
    for at, pair in enumerate(asked):
        now_s = NOW // 1000 + at
        document = apply(document, Patch(desired=pair[0], reported=pair[1]), now_s * 1000 + 7)
        sides = [
            slow.merge(section, times, patch, now_s) if patch is not None else (section, times)
            for (section, times), patch in zip(sides, pair, strict=True)
        ]
    wanted = [slow.text(part) for section, times in sides for part in (section, slow.metadata(section, times))]
    wanted += [slow.text(slow.delta(sides[0][0], sides[1][0])), str(len(asked))]
    got = [document.desired, document.desired_meta, document.reported, document.reported_meta, shadow.delta(document)]
    texts = [*map(slow.text, got), str(document.version)]
    return None if texts == wanted else f"{texts} is not {wanted}"


@settings(max_examples=400, deadline=None)
@given(updates)
def test_agrees_with_the_slow_reference(asked: list[tuple[Any, Any]]) -> None:
    assert disagreement(shadow.apply, asked) is None


def _keeps_what_null_removes(before: Document, patch: Patch, now_ms: int) -> Document:
    drop = lambda part: part and {key: value for key, value in part.items() if value is not None}  # noqa: E731
    return shadow.apply(before, Patch(desired=drop(patch.desired), reported=drop(patch.reported)), now_ms)


def _replaces_objects(before: Document, patch: Patch, now_ms: int) -> Document:
    emptied = dict.fromkeys(patch.desired or {})
    cleared = shadow.apply(before, Patch(desired=emptied), now_ms)
    return shadow.apply(Document(**{**_members(cleared), "version": before.version}), patch, now_ms)


def _members(document: Document) -> dict[str, Any]:
    return {name: getattr(document, name) for name in Document.__dataclass_fields__}


@pytest.mark.parametrize("broken", [_keeps_what_null_removes, _replaces_objects])
def test_the_reference_finds_what_is_broken(broken: Apply) -> None:
    asked = [({"a": {"b": 1, "c": 2}}, None), ({"a": {"b": 3}}, {"b": 1}), ({"a": None}, {"b": None})]
    assert disagreement(shadow.apply, asked) is None
    assert any(disagreement(broken, asked[:count]) for count in range(4))
