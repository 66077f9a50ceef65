"""`make bench`: every tests/bench/*_bench.py in a process of its own, printed, and written to docs/benchmarks.{md,json}.

    python -m tests.bench [--no-write] [NAME...]

A bench has `main() -> dict`: figures, with the ratio against a peer or a bare baseline of the same run where there is one; goals
are in goals.json, and why one is missed in notes.md. It prints progress; a line `MISSING peer: why` is said again at the end. What
it leaves running is ended and named. With MARRAM_FULL=1 the benches of LARGE take a million things, and ten thousand devices;
their figures are kept apart, with date and commit. MARRAM_BENCH_THINGS and MARRAM_BENCH_DEVICES give other sizes, to try.
"""

import contextlib
import ctypes
import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tests.bench import report

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parent.parent
DOCS: Final = ROOT / "docs"
LARGE: Final = frozenset({"fleet", "registry", "search"})
LIMIT_S: Final = {False: 600.0, True: 7200.0}
RUN: Final = (
    "import importlib, json, sys\n"
    "made = importlib.import_module('tests.bench.' + sys.argv[1] + '_bench').main()\n"
    "print('RESULT ' + json.dumps(made, default=str), flush=True)\n"
)
SUBREAPER: Final = 36  # PR_SET_CHILD_SUBREAPER: what a bench leaves behind becomes our child


def main(arguments: list[str]) -> int:
    names = [path.stem.removesuffix("_bench") for path in sorted(HERE.glob("*_bench.py"))]
    wanted = [name for name in arguments if not name.startswith("-")] or names
    if unknown := sorted(set(wanted) - set(names)):
        print(f"no such bench: {', '.join(unknown)}; there are {', '.join(names)}", file=sys.stderr)
        return 2
    full = os.environ.get("MARRAM_FULL") == "1"
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # by way of `run`, which ends the bench
    goals: dict[str, str] = json.loads((HERE / "goals.json").read_text())
    notes = (HERE / "notes.md").read_text()
    runs: dict[str, dict[str, Any]] = {}
    failed: list[str] = []
    missing: list[str] = []
    for name in wanted:
        print(f"== {name}", flush=True)
        began = time.monotonic()
        figures = run(name, LIMIT_S[full], missing)
        spent = time.monotonic() - began
        if figures is None:
            failed.append(name)
            continue
        for key, value in report.flatten(figures):
            goal = goals.get(f"{name}.{key}", "")
            verdict = report.judge(value, goal)
            said = "" if verdict is None else f"  {goal}" if verdict == "met" else f"  {goal}  {verdict.upper()}"
            print(f"   {key:58} {report.shown(value)}{said}")
        print(f"   ({spent:.0f} s)", flush=True)
        runs[name] = {"machine": machine(), **commit(), "seconds": round(spent), "figures": figures}
    sized = sorted(name for name in os.environ if name.startswith("MARRAM_BENCH_"))
    if "--no-write" in arguments or sized:
        print(f"nothing is written: {', '.join(sized) or '--no-write'}")
    else:
        write(runs, full, goals, notes)
    summary(runs, goals, notes, failed, missing)
    return 1 if failed else 0


def run(name: str, limit_s: float, missing: list[str]) -> dict[str, Any] | None:
    """The figures of one bench, its progress printed as it comes; None when it failed, which is said."""
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, name], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
        start_new_session=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    late = threading.Timer(limit_s, _end, [process.pid])
    late.start()
    figures: dict[str, Any] | None = None
    try:
        for line in process.stdout:
            if line.startswith("RESULT "):
                figures = json.loads(line[7:])
                break
            if line.startswith("MISSING "):
                missing.append(f"{name}: {line[8:].strip()}")
            print(line if line.startswith("   ") else f"   {line}", end="", flush=True)
        code = process.wait(30)
    except BaseException as exc:  # Ctrl-C too: it is in a group of its own, which does not get that
        _end(process.pid)
        process.wait()
        if not isinstance(exc, subprocess.TimeoutExpired):
            raise
        code = -signal.SIGKILL
    finally:
        late.cancel()
        process.stdout.close()
        reap()
    if figures is None or code:
        why = f"it was ended after {limit_s:.0f} s" if code == -signal.SIGKILL else f"code {code}"
        print(f"FAILED {name}: {why}", file=sys.stderr, flush=True)
        return None
    return figures


def _end(group: int) -> None:
    """Kill the bench and what is in its process group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def reap() -> None:
    """End what the bench has left behind, which is ours by now, and say so."""
    for _ in range(3):  # those of those that we end come to us too
        left = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        for pid in map(int, left):
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if words:  # else it has ended, and waits for us
                    print(f"   LEFT RUNNING, ended: {pid} {words[:120]}", flush=True)
                    os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def machine() -> dict[str, object]:
    def first(path: str, name: str) -> str:
        lines = Path(path).read_text().splitlines()
        return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "?")

    return {
        "cpu": first("/proc/cpuinfo", "model name"),
        "cores": os.cpu_count(),
        "memory_gib": round(int(first("/proc/meminfo", "MemTotal").split()[0]) / 1048576, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def commit() -> dict[str, str]:
    asked = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    found = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    return {"commit": found or "?", "date": time.strftime("%Y-%m-%d", time.gmtime())}


def write(runs: Mapping[str, dict[str, Any]], full: bool, goals: Mapping[str, str], notes: str) -> None:
    path = DOCS / "benchmarks.json"
    old = json.loads(path.read_text()) if path.exists() else {}
    large = {name: made for name, made in runs.items() if full and name in LARGE}
    small = {name: made for name, made in runs.items() if name not in large}
    results = report.merged(old, small, large)
    path.write_text(json.dumps(results, indent=1) + "\n")
    (DOCS / "benchmarks.md").write_text(report.render(results, goals, notes))
    print(f"wrote {DOCS / 'benchmarks.md'}")


def summary(
    runs: Mapping[str, dict[str, Any]], goals: Mapping[str, str], notes: str, failed: list[str], missing: list[str]
) -> None:
    """What a reader must not overlook, last."""
    for name, made in runs.items():
        for row, value, goal, verdict in report.missed(name, made["figures"], goals):
            note = "" if report.noted(row, notes) else ", AND NOTES.MD SAYS NOTHING OF IT"
            print(f"GOAL {row}: {report.shown(value)}, goal {goal}: {verdict}{note}")
        for row in report.unmet(name, made["figures"], goals):
            print(f"GOAL {row}: no figure")
    for text in missing:
        print(f"MISSING {text}")
    for name in failed:
        print(f"FAILED {name}")
    print(f"{len(runs)} benches, {sum(made['seconds'] for made in runs.values())} s")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
