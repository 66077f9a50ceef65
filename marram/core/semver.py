"""Semantic versions and NPM ranges, as component recipes use them. Pure.

Sources: semver.org 2.0.0; the range grammar of node-semver (`||`, hyphen, x-ranges, `~`, `^`, comparators), which the
Java nucleus uses too. Not here: the `loose` and `includePrerelease` modes of node-semver.
"""

import re
from dataclasses import dataclass
from functools import total_ordering
from typing import Final

from marram.core.errors import Invalid

_VERSION: Final = re.compile(
    r"(0|[1-9]\d{0,5})\.(0|[1-9]\d{0,5})\.(0|[1-9]\d{0,5})"
    r"(?:-([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:\+([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?"
)
_X: Final = r"(?:0|[1-9]\d{0,5}|[xX*])"
_PARTIAL: Final = re.compile(
    rf"v?({_X})(?:\.({_X})(?:\.({_X})(?:-([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:\+[0-9A-Za-z.-]+)?)?)?"
)
_OPERATOR: Final = re.compile(r"(\^|~>?|>=|<=|>|<|=)?\s*(.*)", re.DOTALL)
MAX_LENGTH: Final = 64


@total_ordering
@dataclass(frozen=True, slots=True, eq=False)
class Version:
    """Ordered by precedence; build metadata is kept for printing and does not count."""

    major: int
    minor: int
    patch: int
    prerelease: tuple[str, ...] = ()
    build: str = ""

    def __str__(self) -> str:
        text = f"{self.major}.{self.minor}.{self.patch}"
        if self.prerelease:
            text += "-" + ".".join(self.prerelease)
        return text + "+" + self.build if self.build else text

    @property
    def numbers(self) -> tuple[int, int, int]:
        return self.major, self.minor, self.patch

    def _key(self) -> tuple[tuple[int, int, int], bool, tuple[tuple[bool, int, str], ...]]:
        # A version without prerelease is above all its prereleases; numeric identifiers are below text (semver 11.4).
        parts = tuple((not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in self.prerelease)
        return self.numbers, not self.prerelease, tuple((a, b, c if a else "") for a, b, c in parts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Version) and self._key() == other._key()

    def __lt__(self, other: "Version") -> bool:
        return self._key() < other._key()

    def __hash__(self) -> int:
        return hash(self._key())


@dataclass(frozen=True, slots=True)
class Comparator:
    operator: str  # one of = < <= > >=
    version: Version

    def admits(self, version: Version) -> bool:
        match self.operator:
            case "<":
                return version < self.version
            case "<=":
                return version <= self.version
            case ">":
                return version > self.version
            case ">=":
                return version >= self.version
            case _:
                return version == self.version


@dataclass(frozen=True, slots=True)
class Range:
    """Any of the alternatives; all comparators of one."""

    text: str
    alternatives: tuple[tuple[Comparator, ...], ...]

    def covers(self, version: Version) -> bool:
        return any(_covers(comparators, version) for comparators in self.alternatives)


def parse(text: str) -> Version:
    """Raises Invalid: not MAJOR.MINOR.PATCH[-pre][+build], over 64 characters, a number over 6 digits."""
    found = _VERSION.fullmatch(text) if len(text) <= MAX_LENGTH else None
    if found is None:
        raise Invalid(f"not a semantic version: {text[:MAX_LENGTH]!r}; write MAJOR.MINOR.PATCH, for example 1.0.0")
    major, minor, patch, prerelease, build = found.groups()
    return Version(int(major), int(minor), int(patch), _identifiers(prerelease), build or "")


def parse_range(text: str) -> Range:
    """Raises Invalid with the part that is not understood."""
    if len(text) > 256:
        raise Invalid("a version requirement has at most 256 characters")
    return Range(text, tuple(_alternative(part.strip()) for part in text.split("||")))


def _identifiers(text: str | None) -> tuple[str, ...]:
    parts = tuple(text.split(".")) if text else ()
    for part in parts:
        if part.isdigit() and (len(part) > 1 and part[0] == "0"):
            raise Invalid(f"a numeric prerelease identifier has no leading zero: {part!r}")
    return parts


def _covers(comparators: tuple[Comparator, ...], version: Version) -> bool:
    if not all(comparator.admits(version) for comparator in comparators):
        return False
    if not version.prerelease:
        return True
    # node-semver: a prerelease is taken only when the range names a prerelease of the same numbers.
    return any(c.version.prerelease and c.version.numbers == version.numbers for c in comparators)


def _alternative(text: str) -> tuple[Comparator, ...]:
    ends = re.split(r"\s+-\s+", text)
    if len(ends) == 2:
        low, high = _partial(ends[0]), _partial(ends[1])
        return (*_at_least(low), *_at_most(high))
    text = re.sub(r"(\^|~>?|>=|<=|>|<|=)\s+", r"\1", text)
    found: list[Comparator] = []
    for part in text.split():
        found += _simple(part)
    return tuple(found) or _at_least((None, None, None, ()))


_Partial = tuple[int | None, int | None, int | None, tuple[str, ...]]


def _partial(text: str) -> _Partial:
    found = _PARTIAL.fullmatch(text)
    if found is None:
        raise Invalid(f"not a version requirement: {text!r}; write for example ^1.2.0, >=1.0.0 <2.0.0 or 1.x")
    major, minor, patch = (None if part in (None, "x", "X", "*") else int(part) for part in found.groups()[:3])
    if major is None:
        return None, None, None, ()
    if minor is None:
        return major, None, None, ()
    return major, minor, patch, _identifiers(found.group(4)) if patch is not None else ()


def _at_least(partial: _Partial) -> tuple[Comparator, ...]:
    major, minor, patch, prerelease = partial
    return (Comparator(">=", Version(major or 0, minor or 0, patch or 0, prerelease)),)


def _at_most(partial: _Partial) -> tuple[Comparator, ...]:
    major, minor, patch, prerelease = partial
    if major is None:
        return ()
    if minor is None:
        return (_below(major + 1, 0, 0),)
    if patch is None:
        return (_below(major, minor + 1, 0),)
    return (Comparator("<=", Version(major, minor, patch, prerelease)),)


def _below(major: int, minor: int, patch: int) -> Comparator:
    # "-0" is the lowest prerelease: 2.0.0-rc is not below ^1.
    return Comparator("<", Version(major, minor, patch, ("0",)))


def _simple(text: str) -> tuple[Comparator, ...]:
    found = _OPERATOR.fullmatch(text)
    assert found is not None
    operator, rest = found.group(1) or "", found.group(2)
    partial = _partial(rest)
    major, minor, patch, prerelease = partial
    if major is None:
        if operator in ("<", ">"):  # below or above everything: nothing
            return (_below(0, 0, 0),)
        return _at_least(partial)
    match operator:
        case "^":
            if major or minor is None:
                upper = _below(major + 1, 0, 0)
            elif minor or patch is None:
                upper = _below(0, minor + 1, 0)
            else:
                upper = _below(0, 0, patch + 1)
            return (*_at_least(partial), upper)
        case "~" | "~>":
            return (*_at_least(partial), _below(major + 1, 0, 0) if minor is None else _below(major, minor + 1, 0))
        case ">=":
            return _at_least(partial)
        case "<":
            low = Version(major, minor or 0, patch or 0, prerelease)
            return (Comparator("<", low) if patch is not None else _below(*low.numbers),)
        case "<=":
            return _at_most(partial)
        case ">":
            if minor is None:
                return (Comparator(">=", Version(major + 1, 0, 0)),)
            if patch is None:
                return (Comparator(">=", Version(major, minor + 1, 0)),)
            return (Comparator(">", Version(major, minor, patch, prerelease)),)
        case _:
            if patch is None:
                return (*_at_least(partial), *_at_most(partial))
            assert minor is not None
            return (Comparator("=", Version(major, minor, patch, prerelease)),)
