"""A job on its way to its things, in pieces: each `advance` is some milliseconds of one transaction and says when the next is due.

Where it stands is in the job's row, so a hub that is killed goes on where the last commit was: no execution lost, none twice.
Walks: spread (targets to things that wait), roll (waiting things get executions, at the job's pace), sweep (executions whose
thing left), announce (a maintenance window opens), cancel and delete (executions.py).
"""

from typing import Final, Protocol

from marram.core import rollout
from marram.core.jobs import ACTIVE, JobStatus
from marram.hub.jobs import schedule, settings, store, store_executions
from marram.hub.jobs.executions import CHUNK, Executions
from marram.hub.jobs.schedule import Schedule
from marram.hub.jobs.store import Job, Target
from marram.kit.db import Tx

PAGE: Final = 256  # names of a group that one transaction makes wait
AT_ONCE: Final = 6  # pieces within the transaction that makes a job; no second one of the rollout


class Fleet(Protocol):
    """The registry's side."""

    def exists(self, tx: Tx, name: str) -> bool: ...
    def members_page(self, tx: Tx, group: str, after: str, limit: int) -> list[str]:
        """Things of a group and of those below it, by name; none of a group that does not exist."""
        ...

    def groups_above(self, tx: Tx, thing: str) -> set[str]:
        """The groups of a thing and all above them."""
        ...


class Rolling:
    def __init__(self, executions: Executions, fleet: Fleet) -> None:
        self._executions, self._fleet = executions, fleet

    def advance(self, tx: Tx, job: Job) -> None:
        """One piece."""
        if job.status is JobStatus.DELETION_IN_PROGRESS:
            self._executions.delete_some(tx, job)
        elif job.cancel_after is not None:
            self._executions.cancel_some(tx, job)
        elif job.status in ACTIVE and (job.waiting or not job.driven):
            self._active(tx, job)
        else:
            self._executions.later(tx, job.id, None)

    def begin(self, tx: Tx, job_id: str) -> None:
        """What of a new job fits into the transaction that makes it: all of a small one."""
        for _ in range(AT_ONCE):
            job = store.job(tx, job_id)
            if job is None or job.due_ms is None or job.due_ms > tx.now_ms:
                return
            self.advance(tx, job)
            if job.spread and job.waiting:
                return

    def _active(self, tx: Tx, job: Job) -> None:
        wanted = settings.read(job.config)
        plan, now = wanted.schedule, tx.now_ms
        if plan.end_ms is not None and now >= plan.end_ms and not job.stopped:
            return self._at_end(tx, job, plan)
        until = None if job.stopped else plan.open_until(now)
        if until is None and not job.stopped:
            if job.status is JobStatus.IN_PROGRESS:
                self._set_status(tx, job, JobStatus.SCHEDULED)
            return self._executions.later(tx, job.id, _earlier(plan.opens_after(now), plan.end_ms))
        if job.status is JobStatus.SCHEDULED:
            self._set_status(tx, job, JobStatus.IN_PROGRESS)
            store.set_job(tx, job.id, announce_after=store.FIRST if job.queued else None)
            return self._executions.later(tx, job.id, now)
        if job.stopped and job.waiting:
            store.take_waiting(tx, job.id, PAGE)
        elif job.announce_after is not None:
            self._announce(tx, job, job.announce_after)
        elif job.spread_at is not None:
            self._spread(tx, job, job.spread_at)
        elif job.sweep_after is not None:
            self._sweep(tx, job, job.sweep_after)
        elif job.waiting:
            return self._roll(tx, job, wanted)
        else:
            self._executions.later(tx, job.id, until if until is not None and until < schedule.LATEST_MS else None)
            return self._executions.complete(tx, job.id)
        return self._executions.later(tx, job.id, now)

    def _set_status(self, tx: Tx, job: Job, status: JobStatus) -> None:
        store.set_job(tx, job.id, status=status, updated_ms=tx.now_ms)
        self._executions.told.job_changed(tx, job.id, status)

    def _at_end(self, tx: Tx, job: Job, plan: Schedule) -> None:
        if plan.at_end != schedule.STOP_ROLLOUT:
            forced = plan.at_end == schedule.FORCE_CANCEL
            return self._executions.cancel(tx, job, reason_code="END_TIME_REACHED", comment="", forced=forced)
        if job.status is JobStatus.SCHEDULED:
            self._set_status(tx, job, JobStatus.IN_PROGRESS)
        announce = store.FIRST if job.status is JobStatus.SCHEDULED and job.queued else None
        store.set_job(tx, job.id, stopped=True, spread=True, spread_at=None, sweep_after=None, announce_after=announce)
        return self._executions.later(tx, job.id, tx.now_ms)

    # walks

    def _spread(self, tx: Tx, job: Job, at: int) -> None:
        targets = store.targets(tx, job.id)
        if at >= len(targets):
            return store.set_job(tx, job.id, spread_at=None, spread=True)
        size = CHUNK if job.spread else PAGE
        following, after = at + 1, store.FIRST
        if targets[at].kind == "thing":
            while following < len(targets) and targets[following].kind == "thing" and following - at < size:
                following += 1
            names = [target.name for target in targets[at:following]]
        else:
            names = self._fleet.members_page(tx, targets[at].name, job.spread_after, size)
            if len(names) == size:
                following, after = at, names[-1]
        if job.spread:  # who joins a job that is under way is given it at once, as AWS does
            for name in names:
                if not store.waits(tx, job.id, name):
                    self._queue(tx, job, name)
        else:
            store.add_waiting(tx, job.id, names)
        return store.set_job(tx, job.id, spread_at=following, spread_after=after)

    def _roll(self, tx: Tx, job: Job, wanted: settings.Settings) -> None:
        minute = rollout.minute_at(wanted.pace, job.minute, tx.now_ms, notified=job.notified, succeeded=job.succeeded)
        taken = store.take_waiting(tx, job.id, min(minute.left, CHUNK)) if minute.left else []
        begun = sum(self._queue(tx, job, name) for name in taken)
        store.set_job(
            tx, job.id, minute_ms=minute.began_ms, minute_limit=minute.limit, minute_used=minute.used + begun,
            notified=job.notified + begun,
        )  # fmt: skip
        assert minute.began_ms is not None
        waits_for_minute = minute.left <= begun and job.waiting > len(taken)
        self._executions.later(tx, job.id, minute.began_ms + rollout.MINUTE_MS if waits_for_minute else tx.now_ms)

    def _queue(self, tx: Tx, job: Job, thing: str) -> bool:
        return self._fleet.exists(tx, thing) and self._executions.queue(tx, job, thing)

    def _sweep(self, tx: Tx, job: Job, after: str) -> None:
        found = store_executions.open_of_job(tx, job.id, after, CHUNK)
        targets = store.targets(tx, job.id)
        for execution in found:
            if not self._is_target(tx, targets, execution.thing):
                self._executions.remove(tx, job, execution.thing)
        store.set_job(tx, job.id, sweep_after=found[-1].thing if len(found) == CHUNK else None)

    def _announce(self, tx: Tx, job: Job, after: str) -> None:
        found = store_executions.open_of_job(tx, job.id, after, CHUNK, begun=False)
        for execution in found:
            self._executions.told.appeared(tx, execution.thing, job.namespace)
        store.set_job(tx, job.id, announce_after=found[-1].thing if len(found) == CHUNK else None)

    # what the registry announces

    def moved(self, tx: Tx, things: list[str]) -> None:
        """These things are in other groups than before: jobs that follow groups come to them, or leave them."""
        jobs = store.following(tx)
        for job in jobs:
            targets = store.targets(tx, job.id)
            for thing in things:
                if not self._is_target(tx, targets, thing):
                    self._executions.remove(tx, job, thing)
                elif job.spread and not store.waits(tx, job.id, thing):
                    self._executions.queue(tx, job, thing)
                elif not job.spread:  # the walk over the targets may have passed its place
                    store.add_waiting(tx, job.id, [thing])

    def deleted(self, tx: Tx, things: list[str]) -> None:
        """These things are gone, unless somebody has made them anew: no job waits for them."""
        for thing in things:
            if self._fleet.exists(tx, thing):
                continue
            names = {found.job for found in store_executions.open_of_thing(tx, thing)}
            for name in sorted(names.union(store_executions.waiting_jobs(tx, thing))):
                job = store.job(tx, name)
                assert job is not None
                self._executions.remove(tx, job, thing)

    def _is_target(self, tx: Tx, targets: list[Target], thing: str) -> bool:
        if not self._fleet.exists(tx, thing):
            return False
        if any(target.kind == "thing" and target.name == thing for target in targets):
            return True
        above = self._fleet.groups_above(tx, thing)
        return any(target.kind == "thinggroup" and target.name in above for target in targets)


def _earlier(one: int | None, other: int | None) -> int | None:
    return min((at for at in (one, other) if at is not None), default=None)
