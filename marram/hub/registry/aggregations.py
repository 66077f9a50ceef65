"""Statistics, cardinality, percentiles and buckets over what a search finds.

All are made of the same: each different value of one field with how often it is there, window by window. Exact up to
`EXACT` different values; beyond, percentiles and cardinality are close, as AWS's are.
Sources: AWS IoT developer guide, "Querying for aggregate data"; percentiles between two values are as in its example.
HyperLogLog: Flajolet et al. 2007, with linear counting for small numbers.
"""

import hashlib
import math
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from marram.core.errors import Invalid
from marram.core.query import Entry
from marram.hub.registry import fields, index_query
from marram.hub.registry.fields import Kind
from marram.hub.registry.group_search import GroupSearches
from marram.hub.registry.index import Index
from marram.hub.registry.index_query import Span, Way
from marram.hub.registry.search import Searches
from marram.kit.db import Db, Tx

EXACT: Final = 20_000
KEPT: Final = 4_000  # points that stand for all values, of percentiles
MAX_VALUES: Final = 200_000  # different ones, of buckets
PERCENTS: Final = (1.0, 5.0, 25.0, 50.0, 75.0, 95.0, 99.0)
MAX_PERCENTS: Final = 100
BUCKETS: Final = 10


class Value(NamedTuple):
    """One value of the field, as it was given, and in how many things it is."""

    key: str
    number: float | None
    times: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """None: not of this kind of field, of no value, or beyond what a double holds."""

    count: int
    average: float | None = None
    sum: float | None = None
    minimum: float | None = None
    maximum: float | None = None
    sum_of_squares: float | None = None
    variance: float | None = None
    deviation: float | None = None


class Aggregations:
    """`field` may be empty: the version. All raise QueryError, NotFound, Conflict; Invalid for a field that is not aggregated."""

    def __init__(self, db: Db, index: Index, searches: Searches, groups: GroupSearches) -> None:
        self._db, self._index, self._searches, self._groups = db, index, searches, groups

    async def statistics(self, index: str, text: str, field: str) -> Statistics:
        kind = self._kind(index, field)
        sums = _Sums()
        async for page in self._values(index, text, field, kind):
            for value in page:
                sums.add(_truth(value.key) if kind == "Boolean" else value.number or 0.0, value.times)
        return sums.statistics(kind)

    async def cardinality(self, index: str, text: str, field: str) -> int:
        kind = self._kind(index, field)
        distinct = Distinct()
        async for page in self._values(index, text, field, kind):
            for value in page:
                distinct.add(value.key if value.number is None else repr(value.number))
        return distinct.count()

    async def percentiles(
        self, index: str, text: str, field: str, percents: Sequence[float] = PERCENTS
    ) -> list[tuple[float, float]]:
        """(percent, value), none when nothing is found."""
        kind = self._kind(index, field)
        if kind != "Number":
            raise _refused(f"{field} is a {kind}, and percentiles need a Number")
        if len(percents) > MAX_PERCENTS:
            raise Invalid(f"at most {MAX_PERCENTS} percents", limit=MAX_PERCENTS)
        spread = Spread()
        async for page in self._values(index, text, field, kind):
            spread.add([(value.number, value.times) for value in page if value.number is not None])
        return spread.at(percents)

    async def buckets(self, index: str, text: str, field: str, limit: int) -> tuple[int, list[tuple[str, int]]]:
        """(how many are found, with the value or without, (value, how many) by how many)."""
        kind = self._kind(index, field)
        counts: dict[str, int] = {}
        async for page in self._values(index, text, field, kind):
            for value in page:
                counts[value.key] = counts.get(value.key, 0) + value.times
            if len(counts) > MAX_VALUES:
                raise _refused(f"{field} has more than {MAX_VALUES} different values in what is found")
        total = await self._found(index, text)
        ranked = sorted(counts.items(), key=lambda bucket: (-bucket[1], bucket[0]))
        return total, ranked[:limit]

    # what is aggregated

    def _kind(self, index: str, field: str) -> Kind:
        self._index.require(index)
        settings = self._index.settings
        known: dict[str, Kind] = {**settings.managed(), **dict(settings.custom)}
        if index == fields.GROUPS:
            known = {**fields.GROUP_KINDS, **dict(settings.group_custom)}
        kind = known.get(field or _version(index))
        if kind is None:
            raise _refused(f"{field!r} is neither a managed nor a custom field: {', '.join(sorted(known))} are")
        return kind

    async def _values(self, index: str, text: str, field: str, kind: Kind) -> AsyncIterator[list[Value]]:
        """Those that are of the field's kind; others are not counted, as AWS."""
        name = fields.stored_name(field or _version(index))
        if index == fields.GROUPS:
            _, entries = await self._groups.entries(self._groups.read(text), name)
            yield [found for entry in entries if _fits(found := _value(entry, 1), kind)]
            return
        async for way, span in self._searches.spans(self._searches.read(text)):

            def step(tx: Tx, way: Way = way, span: Span = span) -> list[Value]:
                rows = index_query.values(tx, way, span, name)
                return [found for entry, count in rows if _fits(found := _value(entry, count), kind)]

            yield await self._db.read(step)

    async def _found(self, index: str, text: str) -> int:
        if index == fields.GROUPS:
            count, _ = await self._groups.entries(self._groups.read(text), "version")
            return count
        total = 0
        async for way, span in self._searches.spans(self._searches.read(text)):

            def step(tx: Tx, way: Way = way, span: Span = span) -> int:
                return index_query.how_many(tx, way, span)

            total += await self._db.read(step)
        return total


def _version(index: str) -> str:
    return "version" if index == fields.GROUPS else "registry.version"


def _value(entry: Entry, count: int) -> Value:
    return Value(entry.value if entry.value is not None else entry.text, entry.number, count)


def _fits(value: Value, kind: Kind) -> bool:
    if kind == "Number":
        return value.number is not None
    return kind == "String" or value.key.lower() in ("true", "false")


def _truth(key: str) -> float:
    return 1.0 if key.lower() == "true" else 0.0


def _refused(message: str) -> Invalid:
    return Invalid(f"aggregationField: {message}", kind="aggregation")


class _Sums:
    def __init__(self) -> None:
        self.count = 0
        self.shift = self.shifted = self.shifted_squares = self.total = self.squares = 0.0
        self.low, self.high = math.inf, -math.inf

    def add(self, number: float, count: int) -> None:
        if not self.count:
            self.shift = number  # squares of what is far from zero would leave nothing of the difference
        self.count += count
        off = number - self.shift
        self.shifted += off * count
        self.shifted_squares += off * off * count
        self.total += number * count
        self.squares += number * number * count
        self.low, self.high = min(self.low, number), max(self.high, number)

    def statistics(self, kind: Kind) -> Statistics:
        if kind == "String" or not self.count:
            return Statistics(count=self.count)
        average = self.total / self.count
        variance = max(0.0, (self.shifted_squares - self.shifted * self.shifted / self.count) / self.count)
        many = kind == "Number"
        return Statistics(
            count=self.count,
            average=_finite(average),
            sum=_finite(self.total),
            minimum=self.low,
            maximum=self.high,
            sum_of_squares=_finite(self.squares) if many else None,
            variance=_finite(variance) if many else None,
            deviation=_finite(math.sqrt(variance)) if many and math.isfinite(variance) else None,
        )


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


class Distinct:
    """How many different texts there are: exact up to EXACT, then within some percent."""

    BITS: Final = 14

    def __init__(self) -> None:
        self._seen: set[str] | None = set()
        self._ranks = bytearray(0)

    def add(self, text: str) -> None:
        if self._seen is not None:
            self._seen.add(text)
            if len(self._seen) <= EXACT:
                return
            seen, self._seen = self._seen, None
            self._ranks = bytearray(1 << self.BITS)
            for each in seen:
                self._rank(each)
            return
        self._rank(text)

    def count(self) -> int:
        if self._seen is not None:
            return len(self._seen)
        size = len(self._ranks)
        estimate = 0.7213 / (1 + 1.079 / size) * size * size / sum(2.0**-rank for rank in self._ranks)
        empty = self._ranks.count(0)
        if estimate <= 2.5 * size and empty:
            estimate = size * math.log(size / empty)
        return round(estimate)

    def _rank(self, text: str) -> None:
        number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
        at, rest = number >> (64 - self.BITS), number & ((1 << (64 - self.BITS)) - 1)
        rank = (64 - self.BITS) - rest.bit_length() + 1
        self._ranks[at] = max(self._ranks[at], rank)


class Spread:
    """Percentiles of numbers with their counts: exact up to EXACT different ones, then of means of neighbours."""

    def __init__(self) -> None:
        self._points: list[tuple[float, int]] = []

    def add(self, numbers: Iterable[tuple[float, int]]) -> None:
        self._points += numbers
        if len(self._points) > 2 * EXACT:
            self._merge()
            if len(self._points) > EXACT:
                self._thin()

    def at(self, percents: Sequence[float]) -> list[tuple[float, float]]:
        self._merge()
        if not self._points:
            return []
        total = sum(count for _, count in self._points)
        return [(percent, self._of_rank(percent / 100 * (total - 1))) for percent in percents]

    def _of_rank(self, rank: float) -> float:
        """Between two neighbours in proportion."""
        before = 0
        for at, (number, count) in enumerate(self._points):
            last = before + count - 1  # the highest rank that this point has
            if rank <= last:
                return number
            if rank < last + 1:
                return number + (rank - last) * (self._points[at + 1][0] - number)
            before += count
        return self._points[-1][0]

    def _merge(self) -> None:
        counts: dict[float, int] = {}
        for number, count in self._points:
            counts[number] = counts.get(number, 0) + count
        self._points = sorted(counts.items())

    def _thin(self) -> None:
        """KEPT points of about equal weight; the lowest and the highest stay as they are."""
        share = sum(count for _, count in self._points) / KEPT
        thin = [self._points[0]]
        weight, moment = 0, 0.0
        for number, count in self._points[1:-1]:
            weight += count
            moment += number * count
            if weight >= share:
                thin.append((moment / weight, weight))
                weight, moment = 0, 0.0
        if weight:
            thin.append((moment / weight, weight))
        self._points = [*thin, self._points[-1]]
