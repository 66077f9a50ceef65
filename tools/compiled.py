"""The compiled build: the gateway's hot modules, unchanged, as machine code by mypyc. `python tools/compiled.py FOLDER` leaves a
copy of the package in FOLDER, compiled; the wheel's build hook takes the extension modules from there (MARRAM_COMPILED=1).

Which modules: pyproject.toml, [tool.marram] compiled. The pure wheel is always there; Python takes the compiled module where both are.
"""

import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
SUFFIX: Final = ".so"
SHOWN: Final = 4000


class CompileError(Exception):
    """mypyc does not take the modules; what it said."""


def main(argv: Sequence[str]) -> int:
    if len(argv) != 1:
        print("usage: python tools/compiled.py FOLDER", file=sys.stderr)
        return 2
    try:
        made = build(Path(argv[0]))
    except CompileError as exc:
        print(exc, file=sys.stderr)
        return 1
    print(f"{len(made)} extension modules in {argv[0]}")
    return 0


def modules(root: Path = ROOT) -> list[str]:
    """Paths of the files to be compiled, from the root of the repository. Raises CompileError for one that is not there."""
    patterns = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["marram"]["compiled"]
    found: list[str] = []
    for pattern in patterns:
        paths = sorted(str(path.relative_to(root)) for path in root.glob(pattern))
        if not paths:
            raise CompileError(f"pyproject.toml, [tool.marram] compiled: there is no {pattern}")
        found += paths
    return found


def build(folder: Path, root: Path = ROOT) -> list[Path]:
    """The package, copied to `folder` and compiled there. Returns the extension modules, relative to it. Raises CompileError."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / "marram", ignore_errors=True)
    for old in folder.glob(f"*{SUFFIX}"):
        old.unlink()
    shutil.copytree(root / "marram", folder / "marram", ignore=shutil.ignore_patterns("__pycache__", f"*{SUFFIX}"))
    command = [sys.executable, "-m", "mypyc", "--strict", "--ignore-missing-imports", *modules(root)]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    finally:
        for left in ("build", ".mypy_cache"):
            shutil.rmtree(folder / left, ignore_errors=True)
    if done.returncode:
        raise CompileError(f"mypyc: code {done.returncode}\n{(done.stdout + done.stderr)[-SHOWN:]}")
    return sorted(path.relative_to(folder) for path in folder.rglob(f"*{SUFFIX}"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
