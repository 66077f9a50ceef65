"""What documents name is there: files, functions, operations, error numbers, settings of the gate."""

import ast
import importlib.util
import re
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
FILE = re.compile(r"`([\w./-]+\.(?:py|md|sql|ini|json|yaml|sh))(?::(\w+))?`")
FOLDER = re.compile(r"`((?:core|kit|sdk|components|edge|hub|ml|console|serve|cli|tests|tools|docs)/(?:[\w.-]+/)*)`")
LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)(?:#([\w-]+))?\)")
NOT_OURS = {"hub.json", "infer.py", "marram-bundle.json"}
CODE = re.compile(r'^\s+code(?:: ClassVar\[str\])? = "(MRM-\d{4})"', re.MULTILINE)


@cache
def names(path: Path) -> frozenset[str]:
    """Everything that a module defines, methods included."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return frozenset(node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds))


def found(text: str) -> Path | None:
    return next((base / text for base in (ROOT / "marram", ROOT) if (base / text).exists()), None)


def ids(path: Path) -> str:
    return path.name


def test_every_file_and_function_of_the_architecture_exists() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    wrong = []
    for match in FILE.finditer(text):
        name, function = match[1], match[2]
        if "/" not in name:
            continue  # `api.py`: a file that every slice has
        path = found(name)
        if path is None or (function is not None and function not in names(path)):
            wrong.append(match[0])
    wrong += [match[0] for match in FOLDER.finditer(text) if found(match[1]) is None]
    assert not wrong
    assert len(FILE.findall(text)) > 60


def test_the_architecture_names_every_slice_and_every_process() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    slices = [path.parent.name for path in ROOT.glob("marram/hub/*/service.py")]
    documented = {name for name in slices if f"hub/{name}/" in text}
    assert set(slices) == documented and len(slices) > 9


@pytest.mark.parametrize("document", DOCUMENTS, ids=ids)
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    broken = []
    for target, anchor in LINK.findall(document.read_text()):
        path = (document.parent / target).resolve()
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(target + (f"#{anchor}" if anchor else ""))
    assert not broken


def anchors(path: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def tool(name: str) -> ModuleType:
    if str(ROOT / "tools") not in sys.path:  # what tools share lies beside them
        sys.path.append(str(ROOT / "tools"))
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_of_the_api_are_what_the_code_declares() -> None:
    api_docs: Any = tool("api_docs")
    text = (ROOT / "docs/api.md").read_text()
    assert api_docs.replaced(text) == text, "docs/api.md is out of date: run python tools/api_docs.py"


def test_every_operation_of_ours_has_an_example_that_is_run() -> None:
    from botocore import xform_name

    tool("api_docs").load()
    declared = sys.modules["marram.hub.slice"].OPERATIONS
    text = (ROOT / "docs/api.md").read_text()
    written = re.findall(r"<!-- file: (\w+\.py) -->\n```python\n(.*?)```", text, re.DOTALL)
    code = "\n".join(body for name, body in written if re.search(rf"^\$ python {name}", text, re.MULTILINE))
    own = [name for service, name in declared if service == "marram"]
    missing = [name for name in own if f".{xform_name(name.rpartition('/')[2])}(" not in code]
    assert own and not missing


def codes() -> dict[str, list[str]]:
    """{number: files}, from the code."""
    made: dict[str, list[str]] = {}
    for path in sorted((ROOT / "marram").rglob("*.py")):
        for code in CODE.findall(path.read_text()):
            made.setdefault(code, []).append(str(path.relative_to(ROOT)))
    return made


def test_every_error_number_is_unique_and_explained() -> None:
    known = codes()
    assert {code: files for code, files in known.items() if len(files) > 1} == {}
    rows = re.findall(r"^\| (MRM-\d{4}) \| ([^|]+) \| ([^|]+) \|$", (ROOT / "docs/errors.md").read_text(), re.MULTILINE)
    assert [row[0] for row in rows] == sorted(known)
    assert all(meaning.strip() and remedy.strip() for _, meaning, remedy in rows)


def test_no_number_is_said_without_being_declared() -> None:
    text = "".join(path.read_text() for path in DOCUMENTS) + "".join(
        path.read_text() for path in (ROOT / "marram").rglob("*.py")
    )
    assert set(re.findall(r"MRM-\d{4}", text)) <= set(codes())


FIXED_PORT = re.compile(
    r"(?:localhost|127\.0\.0\.1|0\.0\.0\.0):(?P<joined>[1-9]\d{1,4})\b"
    r"|\(\s*\"(?:127\.0\.0\.1|localhost|0\.0\.0\.0|::1)\",\s*(?P<pair>[1-9]\d{1,4})\s*\)"
)
LISTENS = re.compile(r"\b(?:bind|connect|serve|start_server|create_server|create_connection|listen)\(")


def test_no_test_listens_on_or_connects_to_a_fixed_port() -> None:
    """Two runs on one machine must not meet. A port in a document or a vector is text, and allowed."""
    wrong = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if LISTENS.search(line) and FIXED_PORT.search(line):
                wrong.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert not wrong


def test_no_document_starts_a_hub_on_fixed_ports() -> None:
    for document in DOCUMENTS:
        for block in re.findall(r"<!-- run(?:: compare)? -->\n```console\n(.*?)```", document.read_text(), re.DOTALL):
            for line in re.findall(r"^\$ .*\b(?:hub|edge) up .*&$", block, re.MULTILINE):
                assert "--ports auto" in line, f"{document.name}: {line}"


def test_every_direct_dependency_is_in_the_table_of_licences() -> None:
    licences: Any = tool("licences")
    text = (ROOT / "docs/licences.md").read_text()
    assert licences.replaced(text) == text, "docs/licences.md is out of date: run python tools/licences.py"
