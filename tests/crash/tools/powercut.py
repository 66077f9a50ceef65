"""The same question as a crash sweep, asked of a real ext4: cut the power of a loop file with EXT4_IOC_SHUTDOWN.

Each cut: a fresh file system in a file, the workload runs, after a random time the ioctl (no log flush) freezes the disk as a power
cut would, the workload's process group is killed, the file system is mounted again (its journal replays) and the check runs.
Works for what an LD_PRELOAD shim cannot see: static binaries, mmap, DuckDB. Needs root, loop devices and mkfs.ext4.
"""

import fcntl
import os
import random
import shutil
import signal
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

_EXT4_IOC_SHUTDOWN, _NO_LOG_FLUSH = 0x8004587D, 2


def missing() -> str | None:
    """Why it cannot run here, or None."""
    if os.geteuid() != 0:
        return "needs root"
    if not os.path.exists("/dev/loop-control"):
        return "needs loop devices"
    return None if shutil.which("mkfs.ext4") else "needs mkfs.ext4"


def cut(
    workload: Sequence[str],
    check: Callable[[Path, list[str]], None],
    *,
    cuts: int,
    seed: int,
    first_ms: int = 50,
    last_ms: int = 600,
    size_mib: int = 64,
) -> tuple[list[str], int]:
    """(failures, how many things were acknowledged in all). `workload` gets the folder as its last argument, as in a sweep."""
    rnd, failures, acknowledged = random.Random(seed), [], 0
    base = Path(tempfile.mkdtemp(prefix="marram-powercut-"))
    image, mount = base / "image", base / "mount"
    mount.mkdir()
    try:
        for number in range(cuts):
            with image.open("wb") as file:
                file.truncate(size_mib << 20)
            _run("mkfs.ext4", "-q", "-F", str(image))
            _run("mount", "-o", "loop", str(image), str(mount))
            root, acks_path = mount / "root", base / "acks"
            root.mkdir()
            os.sync()
            after_ms = rnd.randint(first_ms, last_ms)
            with acks_path.open("wb") as acks:
                process = subprocess.Popen(
                    [*workload, str(root)], stdout=acks, stderr=subprocess.DEVNULL, start_new_session=True
                )
                time.sleep(after_ms / 1000)  # the length of the run is the thing that is drawn here
                handle = os.open(mount, os.O_RDONLY)
                fcntl.ioctl(handle, _EXT4_IOC_SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
                os.close(handle)
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            _unmount(mount)
            _run("mount", "-o", "loop", str(image), str(mount))
            lines = acks_path.read_text().split("\n")[:-1]
            acknowledged += len(lines)
            try:
                check(root, lines)
            except Exception as exc:  # whatever the opened store raises is what the operator would get
                failures.append(
                    f"cut {number} after {after_ms} ms, {len(lines)} acknowledged: {type(exc).__name__}: {exc}"
                )
            _unmount(mount)
    finally:
        if os.path.ismount(mount):
            _unmount(mount)
        shutil.rmtree(base, ignore_errors=True)
    return failures, acknowledged


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def _unmount(mount: Path) -> None:
    for _ in range(50):
        if subprocess.run(["umount", str(mount)], stderr=subprocess.DEVNULL).returncode == 0:
            return
        time.sleep(0.05)  # a killed process is still being taken apart by the kernel
    raise RuntimeError(f"cannot unmount {mount}")
