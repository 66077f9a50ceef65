"""What jobs tell: notifications to a device, events for operators on `$aws/events/...`, events on the bus.

Everything that leaves the hub goes by the outbox of the transaction that changed it.
Source: AWS IoT Developer Guide, "Jobs notifications", "Jobs events".
"""

from dataclasses import dataclass
from typing import Final, Protocol

from marram.core import arn, codec
from marram.core.codec import JsonObject, JsonValue
from marram.core.jobs import JobStatus, Status
from marram.hub.bus import Bus
from marram.hub.jobs import shapes, store, store_executions
from marram.hub.jobs.documents import Documents
from marram.hub.jobs.store import Job
from marram.hub.jobs.store_executions import Execution
from marram.kit.db import Tx

LISTED: Final = 10  # pending executions of a notification or a list of them


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionChanged:
    """Told on the bus after the commit."""

    job: str
    thing: str
    status: Status


@dataclass(frozen=True, slots=True, kw_only=True)
class JobChanged:
    """Told on the bus after the commit. A job that is gone has the status DELETION_IN_PROGRESS for the last time."""

    job: str
    status: JobStatus


@dataclass(frozen=True, slots=True)
class QueueAsked:
    """Told on the bus: a thing asked for its queue of a namespace."""

    thing: str
    namespace: str


class Enabled(Protocol):
    """The registry's event configurations."""

    def enabled(self, tx: Tx, kind: str) -> bool: ...


class AllOff:
    def enabled(self, tx: Tx, kind: str) -> bool:
        return False


class Replies(Protocol):
    """The broker: a reply for a connected client that does not subscribe to it."""

    def unsubscribed(self, client_id: str, principal: str, topic: str, payload: bytes) -> bool: ...


class NoReplies:
    def unsubscribed(self, client_id: str, principal: str, topic: str, payload: bytes) -> bool:
        return False


class Told:
    def __init__(self, bus: Bus, documents: Documents, enabled: Enabled, *, account: str, region: str) -> None:
        self._bus, self._documents, self._enabled = bus, documents, enabled
        self._account, self._region = account, region

    def arn(self, resource: str) -> str:
        return arn.build("iot", self._region, self._account, resource)

    # to the device: notify says that the list changed, notify-next that its head is another

    def appeared(self, tx: Tx, thing: str, namespace: str) -> None:
        """A queued execution was added, at the end of the line: it is the head when it is alone there."""
        waiting = store_executions.in_line(tx, thing, namespace, LISTED)
        self._listed(tx, thing, namespace, waiting)
        if len(waiting) == 1:
            self._headed(tx, thing, namespace, waiting[0])

    def left(self, tx: Tx, found: Execution) -> None:
        """`found`, as it was, is in the line no more; its retry may be."""
        waiting = store_executions.in_line(tx, found.thing, found.namespace, LISTED)
        self._listed(tx, found.thing, found.namespace, waiting)
        if not waiting or found.place < waiting[0].place:
            self._headed(tx, found.thing, found.namespace, waiting[0] if waiting else None)

    def began(self, tx: Tx, found: Execution, before: Execution | None) -> None:
        """`found`, as it is, is in progress; `before` was the head of the line. The list is the same."""
        if before is not None and before.key != found.key and found.place < before.place:
            self._headed(tx, found.thing, found.namespace, found)

    def _listed(self, tx: Tx, thing: str, namespace: str, waiting: list[Execution]) -> None:
        body: JsonObject = {"timestamp": tx.now_ms // 1000, "jobs": shapes.by_status(waiting)}
        tx.emit(f"$aws/things/{thing}/jobs/notify{_suffix(namespace)}", body)

    def _headed(self, tx: Tx, thing: str, namespace: str, head: Execution | None) -> None:
        body: JsonObject = {"timestamp": tx.now_ms // 1000}
        if head is not None:
            text = self._documents.delivered(tx, head.job)
            body["execution"] = shapes.execution(head, tx.now_ms, codec.loads(text))
        tx.emit(f"$aws/things/{thing}/jobs/notify-next{_suffix(namespace)}", body)

    # to operators

    def execution(self, tx: Tx, found: Execution, operation: str = "") -> None:
        """An execution has ended, or with `operation` "deleted" is gone."""
        if not self._enabled.enabled(tx, "JOB_EXECUTION"):
            return
        operation = operation or found.status.lower()
        body: JsonObject = {
            "eventType": "JOB_EXECUTION",
            "eventId": tx.new_uuid(),
            "timestamp": tx.now_ms // 1000,
            "operation": operation,
            "jobId": found.job,
            "thingArn": self.arn(f"thing/{found.thing}"),
            "status": str(found.status),
            "statusDetails": dict(found.details),
        }
        tx.emit(f"$aws/events/jobExecution/{found.job}/{operation}", body)

    def job(self, tx: Tx, job: Job, operation: str, status: str) -> None:
        """operation: completed, canceled, deleted, cancellation_in_progress, deletion_in_progress."""
        if not self._enabled.enabled(tx, "JOB"):
            return
        targets: list[JsonValue] = [self.arn(f"{item.kind}/{item.name}") for item in store.targets(tx, job.id)]
        body: JsonObject = {
            "eventType": "JOB",
            "eventId": tx.new_uuid(),
            "timestamp": tx.now_ms // 1000,
            "operation": operation,
            "jobId": job.id,
            "status": status,
            "targetSelection": job.selection,
            "targets": targets,
            "description": job.description,
            "createdAt": job.created_ms,
            "lastUpdatedAt": job.updated_ms,
        }
        if operation == "completed":
            body["completedAt"] = tx.now_ms
            body["jobProcessDetails"] = {
                "numberOfCanceledThings": job.canceled,
                "numberOfRejectedThings": job.rejected,
                "numberOfFailedThings": job.failed,
                "numberOfRemovedThings": job.removed,
                "numberOfSucceededThings": job.succeeded,
                "numberOfTimedOutThings": job.timed_out,
            }
        elif job.comment:
            body["comment"] = job.comment
        tx.emit(f"$aws/events/job/{job.id}/{operation}", body)

    # within the hub

    def changed(self, tx: Tx, found: Execution) -> None:
        event = ExecutionChanged(job=found.job, thing=found.thing, status=found.status)
        tx.after_commit(lambda: self._bus.publish(event))

    def asked(self, thing: str, namespace: str) -> None:
        self._bus.publish(QueueAsked(thing, namespace))

    def job_changed(self, tx: Tx, job: str, status: JobStatus) -> None:
        event = JobChanged(job=job, status=status)
        tx.after_commit(lambda: self._bus.publish(event))


def _suffix(namespace: str) -> str:
    return f"-{namespace}" if namespace else ""
