"""Workload: jobs of every kind on their way to a fleet; print what was answered.

argv: variant, folder. Lines: `made JOB`, `done JOB THING STATUS`, `retry JOB THING`, `aborted JOB`, `canceled JOB`,
`deleted JOB`, `follows THING`, `left THING`. Variants but "good" are broken on purpose, so that the sweep can show that it notices.
"""

import asyncio
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from marram.hub.jobs import service, store
from marram.hub.jobs.executions import CHUNK, Executions
from marram.hub.jobs.rolling import Rolling
from marram.hub.jobs.settings import Settings
from marram.hub.jobs.store import Job
from marram.kit.clock import FakeClock, SeededEntropy
from marram.kit.db import Tx
from tests.crash.work import db as databases
from tests.hub.jobs import conftest

MARK = "MARRAM_SWEEP_MARK"
FLEET = [f"t{number:02}" for number in range(24)]
LATE = ["late0", "late1"]
RETRY = {"criteriaList": [{"failureType": "FAILED", "numberOfRetries": 1}]}
ABORT = {
    "criteriaList": [
        {"failureType": "FAILED", "action": "CANCEL", "thresholdPercentage": 40, "minNumberOfExecutedThings": 5}
    ]
}


class TakenFirst(Rolling):
    """Who waits is taken out in one transaction, and has its execution in the next."""

    def __init__(self, *given: object) -> None:
        super().__init__(*given)  # type: ignore[arg-type]
        self._taken: dict[str, list[str]] = {}

    def _active(self, tx: Tx, job: Job) -> None:
        for name in self._taken.pop(job.id, ()):
            self._queue(tx, job, name)
        super()._active(tx, job)

    def _roll(self, tx: Tx, job: Job, wanted: Settings) -> None:
        self._taken[job.id] = store.take_waiting(tx, job.id, CHUNK)
        self._executions.later(tx, job.id, tx.now_ms)


class CancelLater(Executions):
    """The report that reaches the threshold is one transaction, what follows from it another one."""

    def cancel(self, tx: Tx, job: Job, *, reason_code: str, comment: str, forced: bool) -> None:
        if reason_code:
            tx.after_commit(lambda: LATER.append(lambda tx: self._really(tx, job, reason_code)))
        else:
            super().cancel(tx, job, reason_code=reason_code, comment=comment, forced=forced)

    def _really(self, tx: Tx, job: Job, reason_code: str) -> None:
        super().cancel(tx, job, reason_code=reason_code, comment="", forced=False)


LATER: list[object] = []


def say(line: str) -> None:
    print(line, flush=True)


def opened(folder: Path, seed: int) -> conftest.World:
    world = conftest.World(folder, FakeClock(), SeededEntropy(seed))
    world.open()
    return world


def prepare(folder: Path) -> None:
    """A fleet, and events of all that happens to jobs."""

    async def work() -> None:
        world = opened(folder, 1)
        await world.registry.create_group("fleet")
        await world.things(*FLEET, group="fleet")
        await world.things(*LATE)
        await world.registry.events.configure({"JOB": True, "JOB_EXECUTION": True})
        await world.forget_sent()
        world.db.close()

    asyncio.run(work())


async def work(world: conftest.World) -> None:
    Path(os.environ[MARK]).touch()
    await world.create(
        "roll", "thinggroup/fleet", jobExecutionsRolloutConfig={"maximumPerMinute": 10}, jobExecutionsRetryConfig=RETRY
    )
    say("made roll")
    for minute in range(3):
        await world.work(1 if minute else 0)
        for thing in FLEET[10 * minute : 10 * minute + 3]:
            await done(world, "roll", thing, "SUCCEEDED")
        thing = FLEET[10 * minute + 3]
        await world.report("roll", thing, "FAILED")
        say(f"retry roll {thing}")
    await world.create("stop", *(f"thing/{name}" for name in FLEET[:8]), abortConfig=ABORT)
    say("made stop")
    for thing, status in zip(FLEET, ("SUCCEEDED", "SUCCEEDED", "FAILED", "SUCCEEDED"), strict=False):
        await done(world, "stop", thing, status)
    await world.report("stop", FLEET[4], "FAILED")
    for later in LATER:
        await world.db.write(later)  # type: ignore[arg-type]
    say("aborted stop")
    await world.create("follow", "thinggroup/fleet", selection="CONTINUOUS")
    say("made follow")
    for thing in LATE:
        await world.registry.add_to_group("fleet", thing)
        await world.work()
        say(f"follows {thing}")
    await world.registry.remove_from_group("fleet", LATE[0])
    await world.work()
    say(f"left {LATE[0]}")
    for job in ("end", "gone"):
        await world.create(job, "thinggroup/fleet")
        say(f"made {job}")
        await world.work()
    await world.jobs.control.cancel("end", reason_code="", comment="", forced=True)
    say("canceled end")
    await world.jobs.control.delete("gone", forced=True)
    await world.work()
    say("deleted gone")
    await world.work()


async def done(world: conftest.World, job: str, thing: str, status: str) -> None:
    await world.report(job, thing, status)
    say(f"done {job} {thing} {status}")


def main(variant: str, folder: str) -> None:
    match variant:
        case "no-sync":
            conftest.Db = databases.Normal  # type: ignore[misc]
        case "no-transaction":
            conftest.Db = databases.NoTransaction  # type: ignore[misc]
        case "taken-first":
            service.Rolling = TakenFirst  # type: ignore[misc]
        case "abort-later":
            service.Executions = CancelLater  # type: ignore[misc]
        case _:
            assert variant == "good"
    asyncio.run(work(opened(Path(folder), 2)))


if __name__ == "__main__":
    main(*sys.argv[1:])
