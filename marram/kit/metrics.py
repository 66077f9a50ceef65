"""Counters of the process, rendered as Prometheus text (exposition format 0.0.4). One registry a process.

`counter(...)` with a name that exists returns the one that exists. A child for fixed labels is got once with
`.labels(...)` and kept: the hot path then costs one addition.
"""

import bisect
from collections.abc import Mapping, Sequence
from typing import Final

BUCKETS_S: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Value:
    """One number with its labels. `value` may be read by tests."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0

    def inc(self, amount: float = 1) -> None:
        self.value += amount

    def set(self, value: float) -> None:
        self.value = value


class Family:
    def __init__(self, name: str, help_text: str, kind: str, label_names: Sequence[str]) -> None:
        self.name, self.help, self.kind = name, help_text, kind
        self.label_names = tuple(label_names)
        self.children: dict[tuple[str, ...], Value] = {}

    def labels(self, **labels: str) -> Value:
        key = tuple(labels[name] for name in self.label_names)
        child = self.children.get(key)
        if child is None:
            child = self.children[key] = Value()
        return child

    def inc(self, amount: float = 1, **labels: str) -> None:
        self.labels(**labels).value += amount

    def set(self, value: float, **labels: str) -> None:
        self.labels(**labels).value = value

    def lines(self) -> list[str]:
        return [
            f"{self.name}{_labels(self.label_names, key)} {child.value:g}"
            for key, child in sorted(self.children.items())
        ]


class Histogram:
    def __init__(self, name: str, help_text: str, buckets: Sequence[float]) -> None:
        self.name, self.help, self.kind = name, help_text, "histogram"
        self.buckets = tuple(buckets)
        self.counts = [0] * (len(self.buckets) + 1)
        self.total: float = 0

    def observe(self, value: float) -> None:
        self.counts[bisect.bisect_left(self.buckets, value)] += 1
        self.total += value

    def lines(self) -> list[str]:
        out: list[str] = []
        seen = 0
        for bound, count in zip((*self.buckets, float("inf")), self.counts, strict=True):
            seen += count
            out.append(f'{self.name}_bucket{{le="{"+Inf" if bound == float("inf") else f"{bound:g}"}"}} {seen}')
        return [*out, f"{self.name}_sum {self.total:g}", f"{self.name}_count {seen}"]


_families: Final[dict[str, Family | Histogram]] = {}


def counter(name: str, help_text: str, labels: Sequence[str] = ()) -> Family:
    return _family(name, help_text, "counter", labels)


def gauge(name: str, help_text: str, labels: Sequence[str] = ()) -> Family:
    return _family(name, help_text, "gauge", labels)


def histogram(name: str, help_text: str, buckets: Sequence[float] = BUCKETS_S) -> Histogram:
    """Seconds unless the name says otherwise."""
    found = _families.get(name)
    if found is None:
        found = _families[name] = Histogram(name, help_text, buckets)
    assert isinstance(found, Histogram), f"{name} is declared twice with different kinds"
    return found


def families() -> Mapping[str, Family | Histogram]:
    """Everything declared so far, by name."""
    return _families


def render() -> str:
    """All families, in the order of their names."""
    out: list[str] = []
    for name in sorted(_families):
        family = _families[name]
        out += [f"# HELP {name} {family.help}", f"# TYPE {name} {family.kind}", *family.lines()]
    return "\n".join(out) + "\n"


def _family(name: str, help_text: str, kind: str, labels: Sequence[str]) -> Family:
    found = _families.get(name)
    if found is None:
        found = _families[name] = Family(name, help_text, kind, labels)
        if not labels:
            found.labels()
    assert isinstance(found, Family) and found.kind == kind, f"{name} is declared twice with different kinds"
    return found


def _labels(names: Sequence[str], values: Sequence[str]) -> str:
    if not names:
        return ""
    quoted = (f'{name}="{_escape(value)}"' for name, value in zip(names, values, strict=True))
    return "{" + ",".join(quoted) + "}"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
