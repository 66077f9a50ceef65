"""Versions and NPM ranges: rows from node-semver's own tables, and order as a law."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marram.core import semver
from marram.core.errors import Invalid

numbers = st.integers(0, 30)
versions = st.builds(
    semver.Version,
    numbers,
    numbers,
    numbers,
    st.lists(st.sampled_from(["alpha", "beta", "0", "1", "10", "x-y"]), max_size=3).map(tuple),
)


@pytest.mark.parametrize(
    ("requirement", "version", "covered"),
    [
        pytest.param(*row, id=f"{row[0]} {row[1]}")
        for row in [
            ("1.0.0 - 2.0.0", "1.2.3", True),
            ("1.0.0 - 2.0", "2.0.9", True),
            ("1.0.0 - 2", "2.9.9", True),
            ("1.0.0 - 2", "3.0.0", False),
            ("^1.2.3+build", "1.2.3", True),
            ("^1.2.3", "1.8.1", True),
            ("^1.2.3", "2.0.0", False),
            ("^1.2.3", "1.2.2", False),
            ("^1.2.3", "2.0.0-alpha", False),
            ("^0.1.2", "0.1.2", True),
            ("^0.1.2", "0.2.0", False),
            ("^0.0.1", "0.0.2", False),
            ("^0.0.1", "0.0.1", True),
            ("^0", "0.9.0", True),
            ("^1.2 ^1", "1.4.2", True),
            ("~1.2.1", "1.2.9", True),
            ("~1.2.1", "1.3.0", False),
            ("~1", "1.9.9", True),
            ("~> 1", "1.2.3", True),
            ("*", "1.2.3", True),
            ("", "1.0.0", True),
            ("x", "1.2.3", True),
            ("2.x.x", "2.1.3", True),
            ("1.2.x", "1.3.0", False),
            ("1.2.x || 2.x", "2.1.3", True),
            ("1.2.x || 2.x", "1.1.3", False),
            (">=1.0.0", "1.0.0", True),
            (">= 1.0.0", "1.1.0", True),
            (">1.0.0", "1.0.0", False),
            (">1", "1.9.9", False),
            (">1", "2.0.0", True),
            ("<=2.0.0", "2.0.0", True),
            ("<=1", "1.9.0", True),
            ("<2", "2.0.0", False),
            ("<2", "1.9.9", True),
            ("<*", "0.0.0", False),
            (">=2.0.0 <3.0.0", "2.18.0", True),
            (">=2.0.0 <3.0.0", "3.0.0", False),
            ("1.0.0", "1.0.0", True),
            ("=1.0.0", "1.0.1", False),
            ("=1.2", "1.2.7", True),
            ("*", "1.0.0-rc.1", False),
            (">=1.0.0-rc.0", "1.0.0-rc.1", True),
            (">=1.0.0-rc.0", "1.1.0-rc.1", False),
            ("v1.2.3", "1.2.3", True),
        ]
    ],
)
def test_range(requirement: str, version: str, covered: bool) -> None:
    assert semver.parse_range(requirement).covers(semver.parse(version)) is covered


@pytest.mark.parametrize(
    "text", ["", "1", "1.2", "1.2.3.4", "01.2.3", "1.2.3-", "1.2.3-01", "a.b.c", "1.2.1000000", "1.0.0-" + "a" * 70]
)
def test_not_a_version(text: str) -> None:
    with pytest.raises(Invalid):
        semver.parse(text)


@pytest.mark.parametrize("text", ["latest", ">=", "1.2.3 -", "^a", ">>1.0.0", "1.2.3 && 2", "!1.0.0", "x" * 300])
def test_not_a_range(text: str) -> None:
    with pytest.raises(Invalid):
        semver.parse_range(text)


def test_precedence_is_that_of_the_specification() -> None:
    texts = [
        "1.0.0-alpha",
        "1.0.0-alpha.1",
        "1.0.0-alpha.beta",
        "1.0.0-beta",
        "1.0.0-beta.2",
        "1.0.0-beta.11",
        "1.0.0-rc.1",
        "1.0.0",
    ]
    ordered = [semver.parse(text) for text in texts]
    backwards = list(reversed(ordered))
    assert sorted(backwards) == ordered


@given(versions)
def test_what_is_printed_is_read_back(version: semver.Version) -> None:
    assert semver.parse(str(version)) == version


@given(versions, versions)
def test_bounds_agree_with_order(one: semver.Version, other: semver.Version) -> None:
    assert semver.Comparator("<", other).admits(one) == (one < other)
    assert semver.parse_range(f"={one}").covers(one)
