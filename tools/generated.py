"""A part of a document that a tool writes, between two marks."""

import sys
from collections.abc import Callable
from pathlib import Path


def replaced(document: Path, text: str, begin: str, end: str, part: str) -> str:
    """`text` with `part` between the marks. SystemExit when one of them is gone."""
    head, first, rest = text.partition(begin)
    _, last, tail = rest.partition(end)
    if not first or not last:
        raise SystemExit(f"{document.name} has lost a mark: {begin} ... {end}")
    return f"{head}{begin}{part}{end}{tail}"


def main(document: Path, tool: str, wanted: Callable[[str], str], argv: list[str]) -> int:
    """Write the document anew; with --check only say whether it is as it should be (exit 1 when not)."""
    text = document.read_text()
    made = wanted(text)
    if made == text:
        return 0
    if "--check" in argv:
        print(f"docs/{document.name} is out of date: run python {tool}", file=sys.stderr)
        return 1
    document.write_text(made)
    print(f"docs/{document.name}: written")
    return 0
