"""The demo is a client: it imports nothing of hub, edge or ml, nor any other part of Marram."""

import ast
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "demo"
FILES = sorted(DEMO.glob("*.py"))


def imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: absolute imports only"
            found.add(node.module or "")
    return {name.partition(".")[0] for name in found}


def test_there_is_one_file_for_each_step() -> None:
    assert [path.name[:5] for path in FILES if path.name.startswith("step")] == [f"step{n}" for n in range(1, 8)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_imports_nothing_of_marram(path: Path) -> None:
    assert "marram" not in imported(path)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_part_is_loaded_by_name(path: Path) -> None:
    """`python -m marram...` as a process is a client's way; importlib would not be."""
    assert "importlib" not in imported(path)
