"""How much of the machine others take while the demo measures: the CPU of all, less that of the demo and its descendants.

A promise about milliseconds that fails while others compute is measured again, and the output says so; on a quiet machine it
is measured once. From /proc; a machine without it counts as quiet.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
BUSY_CORES = 0.25  # of others, from which a failed measurement is repeated
REPEATS = 2


@dataclass(frozen=True)
class Sample:
    at_s: float
    all_s: float  # CPU seconds of everything since the boot
    own_s: float  # of the demo's processes, what they have reaped included


def sample() -> Sample:
    try:
        fields = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
        # user, nice, system, idle, iowait, irq, softirq, steal
        busy = sum(fields[:3]) + sum(fields[5:8])
        return Sample(time.monotonic(), busy / TICKS, own_ticks(os.getpid(), _processes()) / TICKS)
    except (OSError, ValueError, IndexError):
        return Sample(time.monotonic(), 0.0, 0.0)


def others(before: Sample, after: Sample) -> float:
    """Cores' worth of work by others between two samples."""
    passed = after.at_s - before.at_s
    foreign = (after.all_s - before.all_s) - (after.own_s - before.own_s)
    return max(0.0, foreign / passed) if passed > 0 else 0.0


def own_ticks(root: int, processes: dict[int, tuple[int, int]]) -> int:
    """`processes`: pid -> (parent, ticks). The sum over `root` and everything below it."""
    children: dict[int, list[int]] = {}
    for pid, (parent, _) in processes.items():
        children.setdefault(parent, []).append(pid)
    total, waiting = 0, [root]
    while waiting:
        pid = waiting.pop()
        total += processes.get(pid, (0, 0))[1]
        waiting += children.get(pid, [])
    return total


def _processes() -> dict[int, tuple[int, int]]:
    found: dict[int, tuple[int, int]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            words = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        found[int(entry.name)] = (int(words[1]), sum(int(word) for word in words[11:15]))
    return found
