"""`make bench`: run every tests/bench/*_bench.py in a process of its own, print and write docs/benchmarks.{md,json}.

A bench has `main() -> dict[str, object]`: figures, with the ratio against a peer or a bare baseline of the same run where
there is one. Rows of docs/benchmarks.md carry the floor of each path beside the figure.
"""

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
DOCS = ROOT / "docs"
LOADER = """
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("bench", {path!r})
module = importlib.util.module_from_spec(spec)
sys.modules["bench"] = module
spec.loader.exec_module(module)
print("RESULT " + json.dumps(module.main(), default=str))
"""


def main(wanted: list[str]) -> int:
    figures: dict[str, object] = {}
    failed = []
    for path in sorted(HERE.glob("*_bench.py")):
        name = path.stem.removesuffix("_bench")
        if wanted and name not in wanted:
            continue
        print(f"== {name}", flush=True)
        code = LOADER.format(path=str(path))
        began = time.monotonic()
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=900)
        found = [line for line in run.stdout.splitlines() if line.startswith("RESULT ")]
        if run.returncode or not found:
            failed.append(name)
            print(run.stdout[-2000:], run.stderr[-2000:], sep="\n", file=sys.stderr)
            continue
        figures[name] = json.loads(found[-1][7:])
        for key, value in flatten(figures[name]):
            print(f"   {key:58} {shown(value)}")
        print(f"   ({time.monotonic() - began:.0f} s)")
    if not wanted:
        write(figures)
    return 1 if failed else 0


def flatten(value: object, prefix: str = "") -> list[tuple[str, object]]:
    if isinstance(value, dict):
        return [
            row
            for key, item in value.items()
            for row in flatten(item, f"{prefix}{key}." if isinstance(item, dict) else f"{prefix}{key}")
        ]
    return [(prefix, value)]


def shown(value: object) -> str:
    return (
        f"{value:.3g}"
        if isinstance(value, float) and abs(value) < 1000
        else f"{value:,.0f}"
        if isinstance(value, float)
        else str(value)
    )


def machine() -> dict[str, object]:
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        "?",
    )
    memory = next(
        int(line.split()[1]) for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal")
    )
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    return {
        "cpu": cpu, "cores": os.cpu_count(), "memory_gib": round(memory / 1048576, 1),
        "kernel": platform.release(), "python": platform.python_version(), "commit": commit,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }  # fmt: skip


def write(figures: dict[str, object]) -> None:
    where = machine()
    (DOCS / "benchmarks.json").write_text(
        json.dumps({"format": 1, "machine": where, "figures": figures}, indent=1) + "\n"
    )
    goals = json.loads((HERE / "goals.json").read_text())
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`. Ratios are against a peer or a bare baseline of the same run; a shared machine moves absolute",
        "figures by a factor of two between minutes.",
        "",
        "Machine: " + ", ".join(f"{key} {value}" for key, value in where.items()),
        "",
        "| path | figure | measured | floor |",
        "|---|---|---|---|",
    ]
    for name, group in figures.items():
        for key, value in flatten(group):
            lines.append(f"| {name} | {key} | {shown(value)} | {goals.get(f'{name}.{key}', '')} |")
    notes = HERE / "notes.md"
    if notes.exists():
        lines += ["", notes.read_text().rstrip()]
    (DOCS / "benchmarks.md").write_text("\n".join(lines) + "\n")
    print(f"wrote {DOCS / 'benchmarks.md'}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
