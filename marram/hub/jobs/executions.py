"""What happens to executions, and to their job because of it: one function a cause, each within the caller's transaction.

An end counts at once: the report that reaches an abort threshold is the one that cancels the job. What touches many
executions (a cancellation, a deletion) is begun here for as many as one transaction may take; the runner does the rest.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, Protocol

from marram.core import jobs as machine
from marram.core import rollout
from marram.core.jobs import ACTIVE, TERMINAL, JobStatus, Status
from marram.core.rollout import Criterion
from marram.hub.jobs import settings, store, store_executions
from marram.hub.jobs.events import Told
from marram.hub.jobs.store import Job
from marram.hub.jobs.store_executions import Execution
from marram.kit.db import Tx

CHUNK: Final = 20  # executions that one transaction creates or ends: some milliseconds
ABORTED: Final = "ABORT_CRITERIA_MET"


class Index(Protocol):
    """The registry's search index: what became of a thing's executions, by job; None for one that is deleted."""

    def jobs(self, tx: Tx, thing: str, statuses: Mapping[str, str | None]) -> None: ...


class Executions:
    """`wake(at_ms)` tells the runner, after the commit, that something is due then."""

    def __init__(self, told: Told, wake: Callable[[int], None], index: Index) -> None:
        self.told, self._wake, self._index = told, wake, index

    # one execution

    def queue(self, tx: Tx, job: Job, thing: str) -> bool:
        """A thing gets the job. One that left and came back gets it anew; False when it has it or had it."""
        if store_executions.insert(tx, job.id, thing):
            store.count(tx, job.id, queued=1)
            self._index.jobs(tx, thing, {job.id: Status.QUEUED})
        else:
            present = store_executions.one(tx, job.id, thing)
            if present is None or present.status is not Status.REMOVED:
                return False
            self._again(tx, present)
        if job.status is JobStatus.IN_PROGRESS:
            self.told.appeared(tx, thing, job.namespace)
        return True

    def change(
        self,
        tx: Tx,
        job: Job,
        found: Execution,
        after: Status,
        *,
        details: dict[str, str] | None = None,
        step: int | None = None,
        forced: bool = False,
    ) -> Execution:
        """The execution as it is then; a retry of it is another. details: None leaves them. step: minutes of its step timer."""
        wanted = settings.read(job.config)
        began = after is Status.IN_PROGRESS and found.status is not Status.IN_PROGRESS
        expires = tx.now_ms + wanted.timeout_ms if began and wanted.timeout_ms is not None else found.expires_ms
        deadline = machine.deadline(
            tx.now_ms, expires_ms=expires, present_ms=expires if began else found.deadline_ms, step=step
        )
        changed = replace(
            found,
            status=after,
            details=found.details if details is None else details,
            version=found.version + 1,
            started_ms=tx.now_ms if began and found.started_ms is None else found.started_ms,
            updated_ms=tx.now_ms,
            forced=forced,
            expires_ms=expires,
            deadline_ms=None if after in TERMINAL else deadline,
        )
        before = store_executions.first(tx, found.thing, found.namespace) if began else None
        store_executions.write(tx, changed)
        if after is not found.status:
            job = store.count(tx, job.id, **{store.counter(found.status): -1, store.counter(after): 1})
            self._index.jobs(tx, found.thing, {job.id: after})
        self.told.changed(tx, changed)
        if after in TERMINAL:
            self.told.execution(tx, changed)
            goes_on = self._ended(tx, job, changed, wanted)
            self.told.left(tx, found)
            if not goes_on:
                self._complete(tx, job)
        else:
            if changed.deadline_ms is not None:
                self._due(tx, changed.deadline_ms)
            if began:
                self.told.began(tx, changed, before)
        return changed

    def _ended(self, tx: Tx, job: Job, found: Execution, wanted: settings.Settings) -> bool:
        """Give the job up, or try again; True for either. A job that was given up tries nothing again."""
        if job.status not in ACTIVE or (found.status not in rollout.FAILURES and found.status is not Status.SUCCEEDED):
            return False
        # A success counts as well: with it the executions may be enough for the criteria to hold.
        if (criterion := rollout.broken(wanted.abort, job.counts)) is not None:
            self.cancel(tx, job, reason_code=ABORTED, comment=_why(criterion, job), forced=False)
            return True
        if job.stopped or not rollout.tries_again(
            wanted.retries, found.status, failed=found.retries_failed, timed_out=found.retries_timed_out
        ):
            return False
        store_executions.shelve(tx, found.job, found.thing)
        failed, timed_out = found.status is Status.FAILED, found.status is Status.TIMED_OUT
        store_executions.insert(
            tx, found.job, found.thing, number=found.number + 1,
            retries_failed=found.retries_failed + failed, retries_timed_out=found.retries_timed_out + timed_out,
        )  # fmt: skip
        name = store.counter(found.status)
        store.count(tx, found.job, **{name: -1, f"retried_{name}": 1, "queued": 1})
        self._index.jobs(tx, found.thing, {found.job: Status.QUEUED})
        return True

    def _again(self, tx: Tx, present: Execution) -> None:
        """A thing that was removed is back: its next execution, with all its retries before it."""
        store_executions.shelve(tx, present.job, present.thing)
        store_executions.insert(tx, present.job, present.thing, number=present.number + 1)
        store.count(tx, present.job, **{store.counter(present.status): -1, "queued": 1})
        self._index.jobs(tx, present.thing, {present.job: Status.QUEUED})

    def remove(self, tx: Tx, job: Job, thing: str) -> None:
        """The thing is no target any more: its execution, unless it has ended, is REMOVED."""
        store.forget_waiting(tx, job.id, thing)
        found = store_executions.one(tx, job.id, thing)
        if found is not None and not found.final:
            self.change(tx, job, found, Status.REMOVED)
        else:
            self.complete(tx, job.id)

    def forget(self, tx: Tx, job: Job, found: Execution) -> None:
        """Delete the present execution; it does not count any more."""
        store_executions.delete(tx, found.job, found.thing)
        store.count(tx, job.id, **{store.counter(found.status): -1})
        self._index.jobs(tx, found.thing, {job.id: None})
        self.told.execution(tx, found, "deleted")
        if not found.final:
            self.told.left(tx, found)

    # the job

    def complete(self, tx: Tx, job_id: str) -> None:
        """A job that takes no more things is COMPLETED with its last execution."""
        if (job := store.job(tx, job_id)) is not None:
            self._complete(tx, job)

    def _complete(self, tx: Tx, job: Job) -> None:
        if job.status not in ACTIVE or (job.continuous and not job.stopped):
            return
        if job.rolling or job.queued or job.in_progress or not job.spread:
            return
        store.set_job(tx, job.id, status=JobStatus.COMPLETED, completed_ms=tx.now_ms, updated_ms=tx.now_ms, due_ms=None)
        self.told.job(tx, replace(job, updated_ms=tx.now_ms), "completed", "COMPLETED")
        self.told.job_changed(tx, job.id, JobStatus.COMPLETED)

    def cancel(self, tx: Tx, job: Job, *, reason_code: str, comment: str, forced: bool) -> None:
        """From this commit on no device is given it; its executions follow, a piece at once."""
        store.set_job(
            tx, job.id, status=JobStatus.CANCELED, reason_code=reason_code, comment=comment, forced=forced,
            updated_ms=tx.now_ms, spread_at=None, sweep_after=None, announce_after=None, cancel_after=store.FIRST,
        )  # fmt: skip
        changed = self._now(tx, job.id)
        self.told.job(tx, changed, "cancellation_in_progress", "CANCELLATION_IN_PROGRESS")
        self.told.job_changed(tx, job.id, JobStatus.CANCELED)
        self.cancel_some(tx, changed)

    def cancel_some(self, tx: Tx, job: Job) -> None:
        """The next piece of a cancellation."""
        assert job.cancel_after is not None
        if store.take_waiting(tx, job.id, 8 * CHUNK):
            return self.later(tx, job.id, tx.now_ms)
        found = store_executions.open_of_job(tx, job.id, job.cancel_after, CHUNK, begun=job.forced)
        for execution in found:
            self.change(tx, job, execution, Status.CANCELED, forced=job.forced)
        if len(found) == CHUNK:
            store.set_job(tx, job.id, cancel_after=found[-1].thing)
            return self.later(tx, job.id, tx.now_ms)
        store.set_job(tx, job.id, cancel_after=None, due_ms=None)
        self.told.job(tx, self._now(tx, job.id), "canceled", "CANCELED")
        return None

    def delete(self, tx: Tx, job: Job) -> None:
        """It is gone for devices at once, and for good when its executions are."""
        store.set_job(tx, job.id, status=JobStatus.DELETION_IN_PROGRESS, updated_ms=tx.now_ms, spread_at=None)
        self.told.job(tx, self._now(tx, job.id), "deletion_in_progress", "DELETION_IN_PROGRESS")
        self.told.job_changed(tx, job.id, JobStatus.DELETION_IN_PROGRESS)
        self.delete_some(tx, job)

    def delete_some(self, tx: Tx, job: Job) -> None:
        """The next piece of a deletion."""
        found = store_executions.of_job(tx, job.id, limit=CHUNK)
        for execution in found:
            store_executions.delete_past(tx, job.id, execution.thing)
            self.forget(tx, job, execution)
        if len(found) == CHUNK or store.take_waiting(tx, job.id, 8 * CHUNK):
            return self.later(tx, job.id, tx.now_ms)
        self.told.job(tx, self._now(tx, job.id), "deleted", "DELETED")
        store.delete_job(tx, job.id)
        return None

    # when

    def later(self, tx: Tx, job_id: str, at_ms: int | None) -> None:
        """The runner looks at the job then; None: when something happens."""
        store.set_job(tx, job_id, due_ms=at_ms)
        if at_ms is not None:
            self._due(tx, at_ms)

    def _due(self, tx: Tx, at_ms: int) -> None:
        tx.after_commit(lambda: self._wake(at_ms))

    def _now(self, tx: Tx, job_id: str) -> Job:
        job = store.job(tx, job_id)
        assert job is not None
        return job


def _why(criterion: Criterion, job: Job) -> str:
    counts = job.counts
    return (
        f"Aborted: {counts.of(criterion.failure)} of {counts.executed} executions ended {criterion.failure},"
        f" which is {criterion.threshold / 100:g} % or more"
    )
