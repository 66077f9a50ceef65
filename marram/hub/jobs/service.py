"""Use cases of jobs. `create`, `extend` and `cancel` join the caller's transaction: a deployment and its job are one commit.

Notifications leave by the outbox of the same transaction, to the topics of the job's namespace.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from marram.core import codec
from marram.core import jobs as machine
from marram.core.codec import JsonObject, JsonValue
from marram.core.errors import Conflict, Invalid, NotFound, VersionConflict
from marram.core.jobs import Status
from marram.hub.bus import Bus
from marram.hub.jobs import store
from marram.hub.jobs.store import Execution
from marram.kit.db import Db, Tx


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionChanged:
    """Told on the bus after the commit."""

    job: str
    thing: str
    status: Status


class Jobs:
    def __init__(self, db: Db, bus: Bus) -> None:
        self._db, self._bus = db, bus

    def create(self, tx: Tx, job: str, *, namespace: str, document: JsonObject, things: Iterable[str]) -> None:
        store.insert_job(tx, job, namespace, codec.dumps(document))
        self.extend(tx, job, namespace, things)

    def extend(self, tx: Tx, job: str, namespace: str, things: Iterable[str]) -> None:
        """Add executions for things that have none; a job that has ended takes no more."""
        if store.job_status(tx, job) != "IN_PROGRESS":
            return
        for thing in sorted(set(things)):
            before = store.next_execution(tx, thing, namespace)
            if store.insert_execution(tx, job, thing):
                self._tell(tx, thing, namespace, before)

    def cancel(self, tx: Tx, job: str, reason: str) -> None:
        """End the job: what is queued is canceled; what a device has begun may still report. A job unknown is fine."""
        if store.job_status(tx, job) != "IN_PROGRESS":
            return
        store.set_job_status(tx, job, "CANCELED")
        for found in store.open_executions(tx, job):
            if found.status is Status.QUEUED:
                before = store.next_execution(tx, found.thing, found.namespace)
                store.set_execution(tx, found, Status.CANCELED, {"reason": reason[: machine.MAX_DETAIL_VALUE]})
                self._tell(tx, found.thing, found.namespace, before)
                self._changed(tx, found.job, found.thing, Status.CANCELED)

    def remove(self, tx: Tx, job: str, thing: str) -> None:
        """The thing left the target: its execution, unless it ended, is REMOVED."""
        found = store.execution(tx, job, thing)
        if found is None or found.final:
            return
        before = store.next_execution(tx, thing, found.namespace)
        store.set_execution(tx, found, Status.REMOVED, found.details)
        self._tell(tx, thing, found.namespace, before)
        self._changed(tx, job, thing, Status.REMOVED)

    def executions(self, tx: Tx, job: str) -> list[Execution]:
        return store.executions(tx, job)

    async def next(self, thing: str, namespace: str) -> Execution | None:
        return await self._db.read(lambda tx: store.next_execution(tx, thing, namespace))

    async def pending(self, thing: str, namespace: str) -> list[Execution]:
        return await self._db.read(lambda tx: store.pending(tx, thing, namespace))

    async def get(self, job: str, thing: str) -> Execution:
        """Raises NotFound."""
        return _found(await self._db.read(lambda tx: store.execution(tx, job, thing)), job, thing)

    async def start_next(self, thing: str, namespace: str, status_details: Mapping[str, str]) -> Execution | None:
        """The next execution, IN_PROGRESS from now on."""

        def work(tx: Tx) -> Execution | None:
            found = store.next_execution(tx, thing, namespace)
            if found is None or found.status is Status.IN_PROGRESS:
                return found
            changed = store.set_execution(tx, found, Status.IN_PROGRESS, {**found.details, **status_details})
            self._changed(tx, found.job, thing, Status.IN_PROGRESS)
            return changed

        return await self._db.write(work)

    async def update(self, job: str, thing: str, request: Mapping[str, JsonValue]) -> Execution:
        """A device's report. Raises NotFound, Invalid, VersionConflict, or Conflict out of a final state."""
        status, expected = request.get("status"), request.get("expectedVersion")
        details = machine.details(request.get("statusDetails"))
        if not isinstance(status, str):
            raise Invalid("status is required")
        # lite sends the version as text, which AWS takes as well (observed, aws-greengrass-lite 2.6.0)
        if isinstance(expected, str) and expected.isdecimal():
            expected = int(expected)
        if expected is not None and not isinstance(expected, int):
            raise Invalid("expectedVersion must be a number")

        def work(tx: Tx) -> Execution:
            found = _found(store.execution(tx, job, thing), job, thing)
            if expected is not None and expected != found.version:
                raise VersionConflict("expectedVersion is not the execution's", expected=expected, actual=found.version)
            if found.final and found.status == status:
                return found  # the same report again: a device that rebooted before it saw our answer
            after = machine.report(found.status, status)
            before = store.next_execution(tx, thing, found.namespace)
            changed = store.set_execution(tx, found, after, {**found.details, **details})
            self._tell(tx, thing, found.namespace, before)
            self._changed(tx, job, thing, after)
            return changed

        return await self._db.write(work)

    async def answer(self, topic: str, body: JsonObject) -> None:
        """Send a reply behind the changes that were before it."""
        await self._db.write(lambda tx: tx.emit(topic, body))

    def _changed(self, tx: Tx, job: str, thing: str, status: Status) -> None:
        event = ExecutionChanged(job=job, thing=thing, status=status)
        tx.after_commit(lambda: self._bus.publish(event))

    def _tell(self, tx: Tx, thing: str, namespace: str, before: Execution | None) -> None:
        """notify: the list changed; notify-next: the head of it did."""
        suffix = f"-{namespace}" if namespace else ""
        waiting = store.pending(tx, thing, namespace)
        lists: dict[str, JsonValue] = {}
        for status in (Status.IN_PROGRESS, Status.QUEUED):
            if chosen := [summary(item) for item in waiting if item.status is status]:
                lists[str(status)] = list[JsonValue](chosen)
        stamp = tx.now_ms // 1000
        tx.emit(f"$aws/things/{thing}/jobs/notify{suffix}", {"timestamp": stamp, "jobs": lists})
        after = store.next_execution(tx, thing, namespace)
        if (after and after.job) != (before and before.job):
            body: JsonObject = {"timestamp": stamp}
            if after is not None:
                body["execution"] = execution_body(after)
            tx.emit(f"$aws/things/{thing}/jobs/notify-next{suffix}", body)


def summary(found: Execution) -> JsonObject:
    body: JsonObject = {
        "jobId": found.job,
        "queuedAt": found.queued_ms // 1000,
        "lastUpdatedAt": found.updated_ms // 1000,
        "executionNumber": found.number,
        "versionNumber": found.version,
    }
    if found.started_ms is not None:
        body["startedAt"] = found.started_ms // 1000
    return body


def execution_body(found: Execution, *, with_document: bool = True) -> JsonObject:
    body = summary(found) | {"thingName": found.thing, "status": str(found.status)}
    if found.details:
        body["statusDetails"] = dict(found.details)
    if with_document:
        body["jobDocument"] = codec.loads(found.document)
    return body


def _found(found: Execution | None, job: str, thing: str) -> Execution:
    if found is None:
        raise NotFound(f"there is no job {job} for thing {thing}")
    return found


__all__ = ["Conflict", "Execution", "ExecutionChanged", "Jobs", "execution_body", "summary"]
