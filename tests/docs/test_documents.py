"""What the documents tell a reader to type works."""

from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "devices").glob("*.md"))]
BEGINNING = ROOT / "docs" / "devices" / "start.md"  # every device guide begins with it
DOCUMENTS = [path for path in PAGES if "<!-- run" in path.read_text() and path != BEGINNING]
NODE = {"javascript", "mqttjs"}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_the_commands_of_a_document_run(runner: ModuleType, tmp_path: Path, document: Path) -> None:
    if document.stem in NODE and not (runner.CLIENTS / "node" / "stamp").exists():
        pytest.skip("the JavaScript SDKs are not installed (tools/test_setup.sh): their guide was not run")
    assert runner.run(document, tmp_path) > 0
