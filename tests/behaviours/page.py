"""The part of docs/known-differences.md that the rows write: how many there are, where Marram differs, what is unconfirmed."""

import importlib
import pkgutil
from collections.abc import Iterable
from pathlib import Path

from tests.behaviours import rows
from tests.behaviours.row import ROWS, Row

PAGE = Path(__file__).resolve().parents[2] / "docs" / "known-differences.md"
BEGIN, END = "<!-- begin: written by python -m tests.behaviours --write -->", "<!-- end -->"


def load() -> list[Row]:
    """Every row, in the order of areas and ids."""
    for found in pkgutil.iter_modules(rows.__path__):
        importlib.import_module(f"{rows.__name__}.{found.name}")
    return sorted(ROWS.values(), key=lambda row: (row.area, row.id))


def text(found: Iterable[Row]) -> str:
    """The part between the marks."""
    listed = list(found)
    lines = [
        f"{len(listed)} rows of `tests/behaviours` were written from the sources that they name, and run against every build;",
        "`python -m tests.behaviours --help` runs them against any endpoint.",
        "",
        "| area | rows | as AWS | different | unconfirmed |",
        "|---|---|---|---|---|",
    ]
    for area in sorted({row.area for row in listed}):
        of = [row for row in listed if row.area == area]
        differ, open_ = sum(bool(row.differs) for row in of), sum(row.unconfirmed for row in of)
        lines.append(f"| {area.replace('_', ' ')} | {len(of)} | {len(of) - differ} | {differ} | {open_} |")
    lines += ["", "Where Marram differs:", "", "| row | AWS | Marram | source |", "|---|---|---|---|"]
    lines += [f"| {row.id} | {row.aws} | {row.differs} | {row.source} |" for row in listed if row.differs]
    lines += [
        "",
        "What we believe of AWS and nobody has confirmed:",
        "",
        "| row | believed | rests on |",
        "|---|---|---|",
    ]
    lines += [f"| {row.id} | {row.aws} | {row.source} |" for row in listed if row.unconfirmed]
    return "\n".join(lines)


def written(found: Iterable[Row], page: str) -> str:
    """The whole page with its part brought up to date. Raises ValueError when the marks are gone."""
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE.name} has lost the marks of its written part")
    return f"{head}{BEGIN}\n\n{text(found)}\n\n{END}{tail}"
