"""Crash sweeps: run a program once, and at each of its disk operations look at every disk that a power cut could leave.

    from tests.crash.sweep import python, sweep

    result = sweep(python("journal", "good"), check, every=7)     # runs tests/crash/work/journal.py good FOLDER
    result.assert_clean()

The workload is a program. It gets the folder to write in as its last argument, writes nowhere else, and prints one line,
flushed, for each thing that it has *acknowledged*, after it did. `check(folder, acks)` opens the folder as after a reboot and
raises when an acknowledged line is not there, when something is half there, or when the program could not go on (so it appends,
and opens once more: a torn tail that was not cut shows only then). It runs in the test's own process, about 100 disks a second.

The program stands still while its disks are built: one run covers all its operations, whatever threads it has. Before each
operation, and in the middle of every other write, the disks of images.MODES are built and checked. `make test` looks at a seeded
sample (`every` on average, until `budget_s`), MARRAM_FULL=1 at all (see tests/full.py). The seed is printed; MARRAM_SEED repeats a run.

Faults without a crash (a full disk, an fsync that fails) are `faulty_env`. A real ext4 in a loop file is tools/powercut.py.
"""

import functools
import hashlib
import os
import random
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.crash.tools import images
from tests.full import FULL, SHARE

_TOOLS = Path(__file__).with_name("tools")
MARK = "MARRAM_SWEEP_MARK"
MEMORY = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None

Check = Callable[[Path, list[str]], None]


@dataclass
class Result:
    seed: int
    operations: int = 0
    cuts: int = 0
    disks: int = 0
    acks: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"seed {self.seed}: {self.operations} operations, {self.cuts} cuts, {self.disks} disks, {self.acks} acknowledged,"
            f" {len(self.failures)} failures, {self.seconds:.1f} s"
        )

    def assert_clean(self) -> None:
        assert not self.failures, f"{self}\n" + "\n".join(self.failures)
        assert self.disks > 0 and self.acks > 0, f"{self}: the workload did nothing"

    def assert_caught(self) -> None:
        """For code broken on purpose: a sweep that does not notice proves nothing about the good code."""
        assert self.failures, f"the broken code passed: {self}"


def sweep(
    workload: Sequence[str],
    check: Check,
    *,
    every: float = 7,
    seed: int | None = None,
    modes: Sequence[str] = images.MODES,
    torn: int = 2,
    prepare: Callable[[Path], None] | None = None,
    env: Mapping[str, str] | None = None,
    model: str = "strict",
    budget_s: float = 12.0,
    stop_after: int = 5,
    marked: bool = False,
) -> Result:
    """Run `workload` and check the disks of one operation in `every`; see the top of this file.

    torn: seeded torn disks for each cut. prepare: fills the folder before the program starts; what it leaves is durable.
    model: "strict" (a name is durable after fsync of its folder) or "ext4" (fsync of a file keeps its name too), for code that
    is not ours. stop_after: give up after so many failures (1 is enough for code broken on purpose). marked: nothing is looked
    at before the program makes the file $MARRAM_SWEEP_MARK: for code whose broken place is known and must not be missed.
    """
    if seed is None:
        seed = int(os.environ.get("MARRAM_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 31)
    result = Result(seed)
    rnd = random.Random(seed)
    if FULL:
        # Code broken on purpose is looked at as its test says: a share of it might miss the one place.
        every, budget_s, torn = (every if stop_after == 1 else max(1, round(1 / SHARE))), 600.0, 5 * torn
    library = crashfs()
    began = time.monotonic()
    base = Path(tempfile.mkdtemp(prefix="marram-crash-", dir=MEMORY))
    try:
        root, shadow, pause = (base / name for name in ("root", "shadow", "pause"))
        for folder in (root, shadow, pause):
            folder.mkdir()
        if prepare is not None:
            prepare(root)
        for name in ("ask", "go"):
            os.mkfifo(pause / name)
        # Held open at both ends, so that nobody sees an end of file when the program closes its side.
        ask, go = (os.open(pause / name, os.O_RDWR | os.O_CLOEXEC) for name in ("ask", "go"))
        settings = {
            "LD_PRELOAD": str(library),
            "CRASHFS_ROOT": str(root),
            "CRASHFS_SHADOW": str(shadow),
            "CRASHFS_PAUSE": str(pause),
            "CRASHFS_MODEL": model,
            MARK: str(base / "mark"),
        }
        acks_path, errors_path = base / "acks", base / "errors"
        with acks_path.open("wb") as acks, errors_path.open("wb") as errors:
            process = subprocess.Popen(
                [*workload, str(root)], env={**os.environ, **(env or {}), **settings}, stdout=acks, stderr=errors
            )

        def cut(where: str) -> None:
            result.cuts += 1
            acked = acks_path.read_text().split("\n")[:-1]
            for mode in modes:
                for number in range(torn if mode == "torn" else 1):
                    disk = base / f"disk-{result.disks}"
                    result.disks += 1
                    images.build(root, shadow, disk, mode, seed=seed * 1_000_003 + result.disks)
                    try:
                        check(disk, acked)
                    except Exception as exc:  # whatever the opened store raises is what the operator would get
                        why = str(exc).strip().replace("\n", " ")[:300]
                        result.failures.append(f"{mode}/{number} before {where}: {type(exc).__name__}: {why}")
                    shutil.rmtree(disk)

        try:
            deadline = began + budget_s
            pending = b""
            while True:
                readable, _, _ = select.select([ask], [], [], 0.02)
                if not readable:
                    if process.poll() is not None:
                        break
                    assert time.monotonic() < began + budget_s + 30, "the workload hangs"
                    continue
                pending += os.read(ask, 65_536)
                *lines, pending = pending.split(b"\n")
                for line in lines:
                    number, kind, path = line.decode(errors="replace").split(" ", 2)
                    where = f"op {number} {kind} {path.removeprefix(str(root))}"
                    halfway = kind.endswith("/2")
                    wanted = time.monotonic() < deadline and len(result.failures) < stop_after
                    wanted = wanted and (not marked or FULL or (base / "mark").exists())
                    chosen = wanted and (halfway or rnd.random() * every < 1)
                    if chosen:
                        cut(where)
                    result.operations = int(number)
                    os.write(go, b"h" if chosen and not halfway and int(number) % 2 else b"g")
                if len(result.failures) >= stop_after:
                    break
            if len(result.failures) < stop_after:
                error = errors_path.read_text()[-2000:]
                assert process.returncode == 0, f"the workload failed ({process.returncode}): {error}"
                cut("the end")
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            os.close(ask)
            os.close(go)
        result.acks = acks_path.read_text().count("\n")
    finally:
        shutil.rmtree(base, ignore_errors=True)
    result.seconds = time.monotonic() - began
    print(f"\ncrash sweep of {Path(workload[1] if len(workload) > 1 else workload[0]).name}: {result}")
    return result


def python(name: str, *arguments: str) -> list[str]:
    """The command of the workload tests/crash/work/<name>.py."""
    return [sys.executable, str(Path(__file__).with_name("work") / f"{name}.py"), *arguments]


def faulty_env(root: Path, shadow: Path, fault: str, *, path: str = "") -> dict[str, str]:
    """The environment of a program whose disk below `root` has a fault: `kind:errno:n[:sticky]`, see tools/crashfs.c.

    `data:ENOSPC:5:sticky` is a disk that is full from the fifth write on, `sync:EIO:2` an fsync that fails once. path: only
    on files whose path contains it. shadow: an empty folder; `images.build(root, shadow, ..., "drop")` then gives what is
    really on the disk.
    """
    shadow.mkdir(exist_ok=True)
    return {
        **os.environ,
        "LD_PRELOAD": str(crashfs()),
        "CRASHFS_ROOT": str(root),
        "CRASHFS_SHADOW": str(shadow),
        "CRASHFS_ERR": fault,
        "CRASHFS_ERR_PATH": path,
    }


@functools.cache
def crashfs() -> Path:
    """The compiled shim, built once for each version of its source. Skips the test, by name, where there is no gcc."""
    source = _TOOLS / "crashfs.c"
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    library = Path(tempfile.gettempdir()) / f"marram-crashfs-{os.getuid()}-{digest}.so"
    if library.exists():
        return library
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("crash sweeps need gcc")
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / "crashfs.so"
        command = [compiler, "-O2", "-w", "-shared", "-fPIC", "-o", str(built), str(source), "-ldl", "-lpthread"]
        subprocess.run(command, check=True, capture_output=True)
        temporary = library.with_suffix(f".{os.getpid()}")
        shutil.copy(built, temporary)
        temporary.rename(library)
    return library
