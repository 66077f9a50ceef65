"""Write the tables of docs/api.md from what the slices declare: operations, reserved topics, routes of the https door.

    python tools/api_docs.py          writes them anew
    python tools/api_docs.py --check  exit 1 when the file says something else (tests/docs does the same)

Only what stands between the two marks is written; the words and examples around it are a person's.
"""

import importlib
import pkgutil
import sys
from collections import defaultdict
from pathlib import Path
from typing import Final

import generated

import marram
from marram.hub import slice as declared
from marram.kit import registry

DOCUMENT: Final = Path(__file__).resolve().parent.parent / "docs" / "api.md"
BEGIN: Final = "<!-- begin of the tables that tools/api_docs.py writes -->"
END: Final = "<!-- end of the tables that tools/api_docs.py writes -->"
CLIENTS: Final = {
    "sts": "who a key is, temporary credentials",
    "iam": "users, keys, roles, their policies",
    "iot": "things, certificates, policies, groups, rules",
    "iot-data": "publish, shadows",
    "s3": "objects",
    "iot-jobs-data": "the jobs of one device",
    "greengrassv2": "components, deployments, core devices",
    "sagemaker": "training and labelling jobs",
    "marram": "what has no AWS name",
}


def main(argv: list[str]) -> int:
    return generated.main(DOCUMENT, "tools/api_docs.py", replaced, argv)


def replaced(text: str) -> str:
    """`text` with what is so at present between the marks."""
    return generated.replaced(DOCUMENT, text, BEGIN, END, f"\n{tables()}")


def tables() -> str:
    load()
    by_service: dict[str, list[declared.Operation]] = defaultdict(list)
    for operation in declared.OPERATIONS.values():
        by_service[operation.service].append(operation)
    lines: list[str] = []
    for service in sorted(by_service, key=lambda name: (name == "marram", name)):
        lines += ["", f"### `{service}`: {CLIENTS[service]}", "", "| operation | permission | code |", "|---|---|---|"]
        for operation in sorted(by_service[service], key=lambda each: each.name):
            permission = "none, only a valid signature" if operation.public else f"`{operation.action}`"
            lines.append(f"| {operation.name} | {permission} | {_file(operation.function.__module__)} |")
    lines += ["", "### Reserved MQTT topics", "", "| topic | code |", "|---|---|"]
    lines += [
        f"| `{each.template}` | {_file(each.function.__module__)} |" for _, each in sorted(declared.TOPICS.items())
    ]
    lines += ["", "### Routes of the https door", "", "| route | who | permission | code |", "|---|---|---|---|"]
    for _, route in sorted(declared.ROUTES.items(), key=lambda item: (item[0][1], item[0][0])):
        who = "a device certificate" if route.auth == "certificate" else "anybody, rate limited"
        action = f"`{route.action}`" if route.action else "-"
        lines.append(f"| `{route.method} {route.template}` | {who} | {action} | {_file(route.function.__module__)} |")
    return "\n".join(lines) + "\n\n"


def load() -> None:
    """Import every `api` and `topics` of the slices, as the hub does at its start."""
    for part in ("hub", "ml"):
        for folder in sorted(Path(next(iter(marram.__path__)), part).iterdir()):
            for found in pkgutil.iter_modules([str(folder)]):
                if found.name.startswith(("api", "topics")):
                    module = importlib.import_module(f"marram.{part}.{folder.name}.{found.name}")
                    if found.ispkg:
                        registry.discover(module.__name__)


def _file(module: str) -> str:
    return f"`{module.removeprefix('marram.').replace('.', '/')}.py`"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
