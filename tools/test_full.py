"""`make test-full`: everything, unsampled; the result goes into docs/test-full.md with machine and commit."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    began = time.monotonic()
    run = subprocess.Popen(
        [
            *(sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "loadgroup", "-rs", "-o", "timeout=3600"),
            *("-p", "failures_now"),
        ],
        cwd=ROOT,
        env={**os.environ, "MARRAM_FULL": "1", "PYTHONPATH": str(ROOT / "tools")},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert run.stdout is not None
    lines: list[str] = []
    for line in run.stdout:
        print(line, end="", flush=True)
        lines.append(line.rstrip())
    code = run.wait()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    cpu = next(
        (
            text.partition(":")[2].strip()
            for text in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in text
        ),
        "?",
    )
    summary = next((line for line in reversed(lines) if re.search(r"\d+ (passed|failed)", line)), "no result")
    skipped = [line for line in lines if line.startswith("SKIPPED")]
    seeds = [line.strip() for line in lines if "seed" in line][:40]
    body = [
        "# The last full run",
        "",
        "Written by `make test-full`: full crash sweeps, long fuzzing, everything that `make test` samples.",
        "",
        f"- result: {summary.strip('= ')}",
        f"- commit: {commit}, {time.strftime('%Y-%m-%d', time.gmtime())}",
        f"- machine: {os.cpu_count()} cores, {cpu}",
        *([f"- MARRAM_SHARE: {share} of the long part"] if (share := os.environ.get("MARRAM_SHARE")) else []),
        f"- time: {(time.monotonic() - began) / 60:.1f} minutes",
        f"- skipped: {len(skipped)}",
        *[f"  - {line}" for line in skipped],
    ]
    if seeds:
        body += ["", "Seeds:", "", *[f"- `{seed}`" for seed in seeds]]
    (ROOT / "docs" / "test-full.md").write_text("\n".join(body) + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
