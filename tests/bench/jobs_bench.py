"""Job executions a second, each on the disk before it is answered: `main() -> dict`.

2,000 things in a group. `rolled_out_per_s`: executions created and told (notify, notify-next in the outbox) by a job without
a rate to speak of. `updated_per_s`: reports of 256 devices at once, two a thing (IN_PROGRESS, SUCCEEDED), with an abort
criterion and an in-progress timer; the ratio is against the bare statements of a report (execution read and changed, the
job's counters, the rest of the line, one message) in the same database with as many writers. `canceled_per_s`: the
executions of a job that is canceled. `_us_cpu`: CPU time of this process, which hears little of what else the machine does.
"""

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from marram.hub.bus import Bus
from marram.hub.identity.pki import Pki
from marram.hub.identity.service import Identity
from marram.hub.jobs.service import Jobs, Wanted
from marram.hub.registry.service import Registry
from marram.kit.clock import SystemClock, SystemEntropy
from marram.kit.db import Db, Migrations, Tx

THINGS, DEVICES, BARE = 2_000, 256, 4_000
ACCOUNT, REGION = "000000000001", "local-1"
SLICES = [Migrations(slice=name, package=f"marram.hub.{name}") for name in ("identity", "registry", "jobs")]
CONFIG = {
    "jobExecutionsRolloutConfig": {"maximumPerMinute": 1000},
    "timeoutConfig": {"inProgressTimeoutInMinutes": 60},
    "abortConfig": {
        "criteriaList": [
            {"failureType": "ALL", "action": "CANCEL", "thresholdPercentage": 50, "minNumberOfExecutedThings": 100}
        ]
    },
}


class FastClock(SystemClock):
    """A minute is over when it is said to be: the pace of a job is not what is measured."""

    ahead_ms = 0

    def wall_ms(self) -> int:
        return super().wall_ms() + self.ahead_ms


def main() -> dict[str, float]:
    return asyncio.run(_main())


async def _main() -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="marram-bench-") as name:
        clock, entropy, bus = FastClock(), SystemEntropy(), Bus()
        with Db.open(Path(name) / "hub.db", clock=clock, entropy=entropy, migrations=SLICES) as db:
            pki = Pki.open(Path(name) / "pki", clock=clock, entropy=entropy)
            identity = Identity(db, pki, bus, clock=clock, entropy=entropy, account=ACCOUNT, region=REGION)
            registry = Registry(db, identity, bus, entropy=entropy)
            jobs = Jobs(db, bus, registry, events=registry.events)
            names = [f"t{at:05}" for at in range(THINGS)]
            await registry.create_group("fleet")
            for at in range(0, THINGS, 200):
                await db.write(lambda tx, some=names[at : at + 200]: _make(registry, tx, some))  # type: ignore[misc]
            target = f"arn:aws:iot:{REGION}:{ACCOUNT}:thinggroup/fleet"
            rolled, _ = await _timed(THINGS, lambda: _roll_out(jobs, clock, "one", target))
            updated, updated_us = await _timed(2 * THINGS, lambda: _report(jobs, names))
            await _roll_out(jobs, clock, "two", target)
            bare, bare_us = await _timed(BARE, lambda: _bare(db))
            canceled, _ = await _timed(THINGS, lambda: _cancel(jobs, "two"))
            assert jobs.control.get("one").job.succeeded == jobs.control.get("two").job.canceled == THINGS
    return {
        "rolled_out_per_s": rolled,
        "updated_per_s": updated,
        "bare_rows_per_s": bare,
        "update_ratio": updated / bare,
        "update_us_cpu": updated_us,
        "bare_us_cpu": bare_us,
        "update_cpu_ratio": bare_us / updated_us,
        "canceled_per_s": canceled,
    }


def _make(registry: Registry, tx: Tx, names: list[str]) -> None:
    for name in names:
        registry.create_thing_tx(tx, name)
        registry.add_to_group_tx(tx, "fleet", name)


async def _roll_out(jobs: Jobs, clock: FastClock, job: str, target: str) -> None:
    await jobs.control.create(Wanted(id=job, targets=[target], document='{"do": "it"}', config=CONFIG))
    while jobs.control.get(job).job.rolling:
        await jobs.work_off()
        clock.ahead_ms += 60_000


async def _report(jobs: Jobs, names: list[str]) -> None:
    waiting = iter(names)

    async def device() -> None:
        for name in waiting:
            await jobs.device.update("one", name, {"status": "IN_PROGRESS", "statusDetails": {"step": "fetch"}})
            await jobs.device.update("one", name, {"status": "SUCCEEDED", "expectedVersion": 2})

    async with asyncio.TaskGroup() as group:
        for number in range(DEVICES):
            group.create_task(device(), name=f"device-{number}")


async def _bare(db: Db) -> None:
    """What a report cannot do without, with nothing decided."""
    waiting = iter(range(BARE))

    def work(tx: Tx, at: int) -> None:
        thing = f"t{at % THINGS:05}"
        tx.one("SELECT * FROM job_execution WHERE job = 'two' AND thing = ?", thing)
        tx.execute("UPDATE job_execution SET version = version + 1 WHERE job = 'two' AND thing = ?", thing)
        tx.one("UPDATE job SET updated_ms = ? WHERE id = 'two' RETURNING *", tx.now_ms)
        tx.all("SELECT * FROM job_execution WHERE thing = ? AND status IN ('QUEUED', 'IN_PROGRESS')", thing)
        tx.emit("a/b", b'{"timestamp": 1}')

    async def writer() -> None:
        for at in waiting:
            await db.write(lambda tx, at=at: work(tx, at))  # type: ignore[misc]

    async with asyncio.TaskGroup() as group:
        for number in range(DEVICES):
            group.create_task(writer(), name=f"writer-{number}")


async def _cancel(jobs: Jobs, job: str) -> None:
    await jobs.control.cancel(job, reason_code="", comment="", forced=True)
    await jobs.work_off()


async def _timed(count: int, work: Callable[[], Awaitable[None]]) -> tuple[float, float]:
    """How many a second, and microseconds of CPU time for each."""
    began, spent = time.perf_counter(), time.process_time()
    await work()
    took, spent = time.perf_counter() - began, time.process_time() - spent
    return round(count / took, 1), round(spent / count * 1e6, 1)


if __name__ == "__main__":
    print(main())
