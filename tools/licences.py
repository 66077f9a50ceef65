"""Write the table of docs/licences.md: every direct dependency with the licence that its own package states.

python tools/licences.py          writes it anew
python tools/licences.py --check  exit 1 when the file says something else (tests/docs does the same)
"""

import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import generated

ROOT: Final = Path(__file__).resolve().parent.parent
DOCUMENT: Final = ROOT / "docs" / "licences.md"
BEGIN: Final = "<!-- begin of the table that tools/licences.py writes -->"
END: Final = "<!-- end of the table that tools/licences.py writes -->"
# Packages that are not installed by `make setup`; what their own metadata says.
NOT_INSTALLED: Final = {"torch": "BSD-3-Clause"}


def main(argv: list[str]) -> int:
    return generated.main(DOCUMENT, "tools/licences.py", replaced, argv)


def replaced(text: str) -> str:
    """`text` with what is so at present between the marks."""
    return generated.replaced(DOCUMENT, text, BEGIN, END, f"\n\n{table()}\n\n")


def table() -> str:
    lines = ["| package | needed by | licence |", "|---|---|---|"]
    lines += [f"| {name} | {', '.join(parts)} | {licence(name)} |" for name, parts in sorted(direct().items())]
    return "\n".join(lines)


def direct() -> dict[str, list[str]]:
    """{package: the parts of the project that need it}; the base install is "marram"."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found: dict[str, list[str]] = {}
    for part, requirements in {"marram": project["dependencies"], **project["optional-dependencies"]}.items():
        for requirement in requirements:
            name = re.split(r"[\s\[<>=!~;]", requirement, maxsplit=1)[0].lower()
            found.setdefault(name, []).append(f"`{part}`")
    return found


def licence(name: str) -> str:
    """The SPDX expression, else the classifiers, else the first line of the free text."""
    try:
        stated: Any = metadata.metadata(name)  # an email.Message
    except metadata.PackageNotFoundError:
        return NOT_INSTALLED[name]
    if expression := stated.get("License-Expression"):
        return str(expression)
    classified = [
        each.rpartition(" :: ")[2]
        for each in stated.get_all("Classifier") or []
        if each.startswith("License :: ") and each != "License :: OSI Approved"
    ]
    return ", ".join(classified) or str(stated.get("License") or "not stated").strip().splitlines()[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
