"""Things found by declaration: importing a folder runs the decorators in it."""

import importlib
import pkgutil
from typing import Generic, TypeVar

T = TypeVar("T")


def discover(package: str) -> list[str]:
    """Import every module below `package`; returns their names, sorted. Import errors are not hidden."""
    root = importlib.import_module(package)
    names = sorted(found.name for found in pkgutil.walk_packages(root.__path__, f"{package}."))
    for name in names:
        importlib.import_module(name)
    return names


class Declared(Generic[T]):
    """A name -> value table filled by decorators; a second value for one name is refused."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._values: dict[str, T] = {}

    def add(self, name: str, value: T) -> None:
        if name in self._values:
            raise RuntimeError(f"{self._what} {name!r} is declared twice")
        self._values[name] = value

    def get(self, name: str) -> T | None:
        return self._values.get(name)

    def names(self) -> list[str]:
        return sorted(self._values)

    def items(self) -> list[tuple[str, T]]:
        return sorted(self._values.items(), key=lambda pair: pair[0])
