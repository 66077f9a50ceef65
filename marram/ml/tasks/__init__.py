"""What can be learnt: one file each, declared by `@task`. Only these and */work.py load heavy packages, in worker processes.

A task module has `prepare(samples) -> data`, `fit(data, *, seed, options) -> model`, `evaluate(model, data) -> report` and
`export(model) -> Exported` (an ONNX graph with its pre- and post-processing inside, and what the bundle must say about it).
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from marram.core.errors import Unsupported


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One labelled image file. `weight` counts in training only; `group` keeps near-duplicates in one split."""

    data: bytes
    label: str
    name: str = ""
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """`graph` is ONNX; `labels` its classes in the order of its output; `input` is {name, height, width, channels}."""

    graph: bytes
    labels: tuple[str, ...]
    input: Mapping[str, str | int]
    calibration: Mapping[str, float]
    baseline: Mapping[str, object] = field(default_factory=dict[str, object])


class Task(Protocol):
    """What a task's class offers. `data` and `model` are its own types; nobody else looks into them."""

    name: str

    def prepare(
        self, samples: Iterable[Sample], *, options: Mapping[str, str], labels: tuple[str, ...] = ()
    ) -> Any: ...
    def fit(self, data: Any, *, seed: int, options: Mapping[str, str], log: Callable[[str], None] = ...) -> Any: ...
    def calibrate(self, model: Any, data: Any) -> Any: ...
    def evaluate(self, model: Any, data: Any) -> Mapping[str, float]: ...
    def export(self, model: Any) -> Exported: ...


TASKS: Final[dict[str, type[Task]]] = {}


def task(name: str) -> Callable[[type], type]:
    """Declare the task `name`; training image `marram/<name>`."""

    def declare(made: type) -> type:
        if name in TASKS:
            raise RuntimeError(f"task {name!r} is declared twice")
        TASKS[name] = made
        made.name = name  # type: ignore[attr-defined]  # every task has it
        return made

    return declare


def names() -> list[str]:
    """Known without importing one: the file's name with dashes."""
    return sorted(found.name.replace("_", "-") for found in pkgutil.iter_modules(__path__) if found.name[0] != "_")


def load(name: str) -> Task:
    """Import and make the task. Heavy: call it in a worker process."""
    if name not in names():
        raise Unsupported(f"there is no task {name!r}; there are: {', '.join(names())}")
    importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    return TASKS[name]()
