"""Shadows as texts, held against the algebra: the same documents, the same messages byte for byte, the same refusals."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marram.core import codec, shadow
from marram.core.errors import Invalid, LimitExceeded, VersionConflict
from marram.core.shadow import Document, Patch
from marram.hub.shadow import kept

NOW = 1_750_000_000_000
values = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 2), st.sampled_from([1.0, 0.5, "", "x", "é", '"'])
) | st.lists(st.integers(0, 2), max_size=2)
sections = st.recursive(
    values, lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3), max_leaves=6
).filter(lambda value: isinstance(value, dict))
patches = st.builds(
    Patch,
    desired=st.none() | sections,
    reported=st.none() | sections,
    clear_desired=st.integers(0, 4).map(lambda n: n == 0),
    clear_reported=st.integers(0, 4).map(lambda n: n == 0),
    token=st.none() | st.sampled_from(["t", "é\n"]),
    version=st.none() | st.integers(0, 3),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(patches, st.booleans()), min_size=1, max_size=6), st.sampled_from([60, 8192]))
def test_any_updates(steps: list[tuple[Patch, bool]], max_bytes: int) -> None:
    slow, fast = shadow.EMPTY, kept.EMPTY
    for at, (patch, stored) in enumerate(steps):
        now = NOW + at * 1000
        try:
            after = shadow.apply(slow, patch, now, max_bytes=max_bytes)
        except (VersionConflict, LimitExceeded) as error:
            with pytest.raises(type(error)):
                kept.apply(fast, patch, now, max_bytes=max_bytes)
            continue
        then = kept.apply(fast, patch, now, max_bytes=max_bytes)
        told = codec.dumps(shadow.documents(slow, after, now, patch.token))
        assert kept.documents(fast, then, now, patch.token) == told
        assert then.delta == shadow.delta(after)
        slow, fast = after, kept.decode(kept.encode(then)) if stored else then
        assert fast.document == slow
        assert (fast.exists, fast.version) == (slow.exists, slow.version)


def test_what_earlier_versions_stored_is_read() -> None:
    document = Document(
        desired={"a": 1}, desired_meta={"a": {"timestamp": 7}}, reported={"b": []}, reported_meta={"b": []}, version=3
    )
    assert kept.decode(shadow.encode(document)).document == document
    assert kept.decode(kept.encode(kept.decode(shadow.encode(document)))).document == document


def test_an_update_reads_what_it_changes_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """What makes it quick: a report without a wish beside it reads two sections and writes two."""
    report = shadow.parse_patch(b'{"state": {"reported": {"level": 3}}}')
    before = kept.apply(kept.EMPTY, report, NOW, max_bytes=8192)
    text = kept.encode(before)
    read: list[bytes] = []
    written: list[object] = []
    monkeypatch.setattr(codec, "loads_own", lambda text: read.append(text) or json.loads(text))
    dumps = codec.dumps
    monkeypatch.setattr(codec, "dumps", lambda value: written.append(value) or dumps(value))
    old = kept.decode(text)
    new = kept.apply(old, shadow.parse_patch(b'{"state": {"reported": {"level": 4}}}'), NOW, max_bytes=8192)
    assert new.delta == {}
    kept.documents(old, new, NOW, None)
    kept.encode(new)
    assert (len(read), len(written)) == (2, 2)


@pytest.mark.parametrize(
    "stored",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"2 2 2 2 1\n{}{}{}", id="a text is missing"),
        pytest.param(b"2 2 2 2 1\n{}{}{}{}{}", id="one too many"),
        pytest.param(b"2 2 2 1\n{}{}{}{}", id="four numbers"),
        pytest.param(b"a 2 2 2 1\n{}{}{}{}", id="no number"),
        pytest.param(b"{}", id="another object"),
    ],
)
def test_damage_is_named(stored: bytes) -> None:
    with pytest.raises(Invalid, match="not a stored shadow"):
        _ = kept.decode(stored).document
