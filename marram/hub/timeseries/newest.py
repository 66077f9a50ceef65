"""The newest point of each series and set of dimensions, in memory and bounded. What only files know is told when it is asked.

Bounds: `SETS` sets and `BYTES` of points over all series, of one series the newest `SETS_OF_SERIES`. What is pushed out is
the oldest; its series counts as cold again. Not here: reading files (service.py).
"""

import heapq
from typing import Final

from marram.hub.timeseries import points
from marram.hub.timeseries.tail import Entry

SETS: Final = 20_000
BYTES: Final = 16 << 20
SETS_OF_SERIES: Final = 1_000
ENTRY_BYTES: Final = 400  # of an entry beside its payload: the tail drops its own tuple, ours and the key's bytes stay


class Newest:
    def __init__(self, *, sets: int = SETS, size_bytes: int = BYTES, sets_of_series: int = SETS_OF_SERIES) -> None:
        self._limits = (sets, size_bytes, sets_of_series)
        self._by_series: dict[str, dict[bytes, Entry]] = {}
        self._cold: dict[str, int] = {}
        self.sets = 0
        self.bytes = 0

    def note(self, series: str, entry: Entry) -> None:
        """A point of `series`. An older one than that of its set changes nothing."""
        sets = self._by_series.get(series)
        if sets is None:
            sets = self._by_series[series] = {}
        key = points.dimensions_of(entry[2])
        known = sets.get(key)
        if known is None:
            sets[key] = entry
            self.sets += 1
            self.bytes += len(entry[2]) + ENTRY_BYTES
            if len(sets) > self._limits[2] * 5 // 4:
                self._drop(series, sorted(sets, key=sets.__getitem__)[: len(sets) - self._limits[2]])
        elif entry > known:
            sets[key] = entry
            self.bytes += len(entry[2]) - len(known[2])
        if self.sets > self._limits[0] or self.bytes > self._limits[1]:
            self._make_room()

    def chill(self, series: str, newest_ms: int) -> None:
        """There may be sets of `series`, up to that time, that are not known here."""
        self._cold[series] = max(newest_ms, self._cold.get(series, 0))

    def warm(self, series: str) -> None:
        """All there is of `series` has been noted."""
        self._cold.pop(series, None)

    def cold(self, series: str | None, limit: int) -> list[str]:
        """The series that could change the answer to `top`, those with the newest points first."""
        if series is not None:
            return [series] if series in self._cold else []
        if not self._cold:
            return []
        found = self.top(None, limit)
        floor_ms = found[-1][1][0] if len(found) == limit else -1
        return sorted(
            (name for name, at in self._cold.items() if at >= floor_ms), key=self._cold.__getitem__, reverse=True
        )

    def top(self, series: str | None, limit: int) -> list[tuple[str, Entry]]:
        """The newest `limit` of what is known, newest first."""
        names = self._by_series if series is None else [series]
        found = ((entry, name) for name in names for entry in self._by_series.get(name, {}).values())
        return [(name, entry) for entry, name in heapq.nlargest(limit, found)]

    def _make_room(self) -> None:
        oldest = sorted((entry, name, key) for name, sets in self._by_series.items() for key, entry in sets.items())
        sets, size = self._limits[0] * 3 // 4, self._limits[1] * 3 // 4
        for entry, name, key in oldest:
            if self.sets <= sets and self.bytes <= size:
                return
            self.chill(name, entry[0])
            self._drop(name, [key])

    def _drop(self, series: str, keys: list[bytes]) -> None:
        sets = self._by_series[series]
        for key in keys:
            self.bytes -= len(sets.pop(key)[2]) + ENTRY_BYTES
        self.sets -= len(keys)
        if not sets:
            del self._by_series[series]
