"""What the documents tell a reader to type works."""

from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if "<!-- run" in path.read_text()
]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_the_commands_of_a_document_run(runner: ModuleType, tmp_path: Path, document: Path) -> None:
    assert runner.run(document, tmp_path) > 0
