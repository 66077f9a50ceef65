"""The journal against bare framed writes with as many fsyncs, in the same run and in turns; 270 bytes a record.

Bare: length, CRC-32 and bytes of each record joined, one write(2) that makes the file longer, one fdatasync: no group commit, no
index, no tail in memory, no event loop. Records are made beforehand. "puts_1000" are 1,000 publishers with one record each on the
way, as the gateway has them: append, and the next one when `on_synced` says so. "tasks_1000" are 1,000 tasks that append and await.
The bare side gets as many records in as many syncs. `python tests/bench/seglog_bench.py` prints the JSON; about 15 s.
"""

import asyncio
import json
import os
import statistics
import struct
import tempfile
import time
import zlib
from pathlib import Path

from marram.core.segment import KIND_MESSAGE, Record
from marram.kit.clock import SystemClock
from marram.kit.seglog import Journal

TOPIC, META, PAYLOAD = b"plant/7/line/3/temperature", b'{"c":"press-0017","n":["rules"],"q":1}', b"x" * 200
FRAME = struct.Struct("<II")
ROUNDS = 11


class Counting(Journal):
    syncs = 0

    def _sync(self, handle: int) -> None:
        self.syncs += 1
        super()._sync(handle)


def record() -> Record:
    return Record(KIND_MESSAGE, 1, 1_750_000_000_000, TOPIC, META, PAYLOAD)


def opened(folder: Path) -> Counting:
    return Counting.open(folder / "log", clock=SystemClock())


def bare(folder: Path, records: int, syncs: int) -> float:
    """Records a second."""
    handle = os.open(folder / "bare", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    sizes = [records // syncs + (i < records % syncs) for i in range(syncs)]
    began = time.perf_counter()
    for size in sizes:
        parts: list[bytes] = []
        for _ in range(size):
            body = TOPIC + META + PAYLOAD
            parts += (FRAME.pack(len(body), zlib.crc32(body)), body)
        os.write(handle, b"".join(parts))
        os.fdatasync(handle)
    took = time.perf_counter() - began
    os.close(handle)
    os.unlink(folder / "bare")
    return records / took


async def batches(folder: Path, size: int, count: int) -> float:
    made = [[record() for _ in range(size)] for _ in range(count)]
    with opened(folder) as journal:
        began = time.perf_counter()
        for records in made:
            await journal.append_synced(records)
        return size * count / (time.perf_counter() - began)


async def puts(folder: Path, publishers: int, each: int) -> tuple[float, int]:
    made = [[record()] for _ in range(publishers * each)]
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    with opened(folder) as journal:
        acked = 0

        def on_synced(synced: int) -> None:
            nonlocal acked
            answered, acked = synced - acked, synced
            for one in made[acked + publishers - answered : acked + publishers]:
                journal.append(one)
            if acked == len(made):
                done.set_result(None)

        journal.on_synced(on_synced)
        began = time.perf_counter()
        for one in made[:publishers]:
            journal.append(one)
        await done
        return len(made) / (time.perf_counter() - began), journal.syncs


async def tasks(folder: Path, count: int, each: int) -> tuple[float, int]:
    with opened(folder) as journal:

        async def one() -> None:
            for _ in range(each):
                await journal.append_synced([record()])

        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                group.create_task(one(), name=f"put-{number}")
        return count * each / (time.perf_counter() - began), journal.syncs


def compare(folder: Path) -> dict[str, object]:
    figures: dict[str, object] = {}
    for size, count in ((100, 60), (500, 30)):
        ours, theirs = [], []
        for number in range(ROUNDS):
            ours.append(asyncio.run(batches(fresh(folder, f"{size}-{number}"), size, count)))
            theirs.append(bare(folder, size * count, count))
        figures[f"batch_{size}"] = summary(ours, theirs)
    for name, kind in (("puts_1000", puts), ("tasks_1000", tasks)):
        ours, theirs, counts = [], [], []
        for number in range(ROUNDS):
            rate, syncs = asyncio.run(kind(fresh(folder, f"{name}-{number}"), 1000, 10))
            ours.append(rate)
            theirs.append(bare(folder, 10_000, syncs))
            counts.append(syncs)
        figures[name] = summary(ours, theirs) | {"records_per_sync": 10_000 / statistics.median(counts)}
    return figures


def fresh(folder: Path, name: str) -> Path:
    made = folder / name
    made.mkdir()
    return made


def summary(ours: list[float], theirs: list[float]) -> dict[str, object]:
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    return {"records_s": statistics.median(ours), "bare_records_s": statistics.median(theirs), "ratio": ratio}


def idle_latency(folder: Path) -> float:
    """One record at a time: the median wait, over the median bare write and fdatasync."""

    async def ours() -> float:
        waits = []
        with opened(fresh(folder, "idle")) as journal:
            for _ in range(300):
                began = time.perf_counter()
                await journal.append_synced([record()])
                waits.append(time.perf_counter() - began)
        return statistics.median(waits)

    return asyncio.run(ours()) * bare(folder, 300, 300)


def main() -> dict[str, object]:
    with tempfile.TemporaryDirectory(prefix="marram-bench-") as name:
        folder = Path(name)
        return {**compare(folder), "idle_wait_over_bare": idle_latency(folder)}


if __name__ == "__main__":
    print(json.dumps(main(), indent=1))
