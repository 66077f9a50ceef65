"""Points that are not in files yet, in memory: encoded as in the journal, by series, in order of (time, offset)."""

import bisect
from collections.abc import Iterable, Iterator
from typing import Final, TypeAlias

Key: TypeAlias = tuple[int, int]  # time_ms, journal offset: the order of a query, and what a page token holds
Entry: TypeAlias = tuple[int, int, bytes]  # time_ms, journal offset, payload

ENTRY_BYTES: Final = 200  # what CPython spends on one entry beside the payload, measured with tracemalloc: 180 to 210


class Tail:
    def __init__(self) -> None:
        self._by_series: dict[str, list[Entry]] = {}
        self._unsorted: set[str] = set()
        self.points = 0
        self.bytes = 0

    def add(self, series: str, entry: Entry) -> None:
        entries = self._by_series.get(series)
        if entries is None:
            entries = self._by_series[series] = []
        elif entry < entries[-1]:
            self._unsorted.add(series)
        entries.append(entry)
        self.points += 1
        self.bytes += len(entry[2]) + ENTRY_BYTES

    def extend(self, other: "Tail") -> None:
        """Take back what a flush could not write."""
        for series, entries in other._by_series.items():
            for entry in entries:
                self.add(series, entry)

    def series(self) -> Iterable[str]:
        return self._by_series.keys()

    def of(self, series: str) -> list[Entry]:
        """In order of (time, offset). Not to be changed."""
        entries = self._by_series.get(series, [])
        if series in self._unsorted:
            entries.sort()  # nearly sorted as a rule: a linear pass
            self._unsorted.discard(series)
        return entries

    def after(self, series: str, key: Key, to_ms: int) -> Iterator[Entry]:
        """Entries with (time, offset) > `key` and time < `to_ms`, in order."""
        entries = self.of(series)
        for index in range(bisect.bisect_left(entries, (key[0], key[1] + 1)), len(entries)):
            entry = entries[index]
            if entry[0] >= to_ms:
                return
            yield entry
