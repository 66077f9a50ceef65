"""The device's side: its queue, what it asks for and reports. The same over MQTT (topics.py) and HTTPS (api/device.py)."""

from collections.abc import Mapping
from dataclasses import replace

from marram.core import jobs as machine
from marram.core.codec import JsonValue
from marram.core.errors import Conflict, Invalid, MarramError, NotFound, VersionConflict
from marram.core.jobs import JobStatus, Status
from marram.hub.jobs import shapes, store, store_executions
from marram.hub.jobs.documents import Documents
from marram.hub.jobs.events import LISTED
from marram.hub.jobs.executions import Executions
from marram.hub.jobs.store import Job
from marram.hub.jobs.store_executions import Execution
from marram.kit.db import Db, Tx


class Device:
    """Each use case twice: within a transaction (`..._tx`), as a request over MQTT is with its reply, and by itself.

    Those within a transaction raise before they write, so that the refusal can be a reply of the same transaction.
    """

    def __init__(self, db: Db, executions: Executions, documents: Documents) -> None:
        self._db, self._executions, self._documents = db, executions, documents

    def asked(self, thing: str, namespace: str) -> None:
        """Say on the bus that the thing asks for its queue."""
        self._executions.told.asked(thing, namespace)

    def pending(self, thing: str, namespace: str) -> list[Execution]:
        return self._db.read_now(lambda tx: self.pending_tx(tx, thing, namespace))

    def pending_tx(self, tx: Tx, thing: str, namespace: str) -> list[Execution]:
        """The first ones that are not final, those begun before those in the queue."""
        return store_executions.in_line(tx, thing, namespace, LISTED)

    def next(self, thing: str, namespace: str) -> Execution | None:
        return self._db.read_now(lambda tx: self.next_tx(tx, thing, namespace))

    def next_tx(self, tx: Tx, thing: str, namespace: str) -> Execution | None:
        return store_executions.first(tx, thing, namespace)

    def get(self, job_id: str, thing: str, number: int | None = None) -> Execution:
        return self._db.read_now(lambda tx: self.get_tx(tx, job_id, thing, number))

    def get_tx(self, tx: Tx, job_id: str, thing: str, number: int | None) -> Execution:
        """One that is not final. Raises NotFound, or Conflict (kind terminal)."""
        found, _ = _seen(tx, job_id, thing, number)
        if found.final:
            error = Conflict(f"job {job_id} is {found.status} for thing {thing}, which is final", kind="terminal")
            raise _with_state(error, found)
        return found

    def document(self, job_id: str) -> bytes:
        return self._db.read_now(lambda tx: self.document_tx(tx, job_id))

    def document_tx(self, tx: Tx, job_id: str) -> bytes:
        """The document with its URLs, as JSON text."""
        return self._documents.delivered(tx, job_id)

    async def start_next(
        self, thing: str, namespace: str, details: dict[str, str] | None, step: int | None
    ) -> Execution | None:
        return await self._db.write(lambda tx: self.start_next_tx(tx, thing, namespace, details, step))

    def start_next_tx(
        self, tx: Tx, thing: str, namespace: str, details: dict[str, str] | None, step: int | None
    ) -> Execution | None:
        """The next execution, IN_PROGRESS from now on. One that is so already stays as it is."""
        found = store_executions.first(tx, thing, namespace)
        if found is None or found.status is Status.IN_PROGRESS:
            return found
        return self._executions.change(tx, _job(tx, found.job), found, Status.IN_PROGRESS, details=details, step=step)

    async def update(self, job_id: str, thing: str, request: Mapping[str, JsonValue]) -> Execution:
        return await self._db.write(lambda tx: self.update_tx(tx, job_id, thing, request))

    def update_tx(self, tx: Tx, job_id: str, thing: str, request: Mapping[str, JsonValue]) -> Execution:
        """A report. Raises NotFound, Invalid, VersionConflict, or Conflict; the last two with the state as it is."""
        status = request.get("status")
        if not isinstance(status, str):
            raise Invalid("status is required")
        details = machine.details(request.get("statusDetails"))
        step = machine.step_minutes(request.get("stepTimeoutInMinutes"), may_cancel=True)
        expected, number = whole(request, "expectedVersion"), whole(request, "executionNumber")
        found, job = _seen(tx, job_id, thing, number)
        if expected is not None and expected != found.version:
            error = VersionConflict("expectedVersion is not the execution's", expected=expected, actual=found.version)
            raise _with_state(error, found)
        try:
            after = machine.report(found.status, status)
        except Conflict as error:
            raise _with_state(error, found) from None
        if found.status is Status.QUEUED and job.status is JobStatus.SCHEDULED:
            raise _with_state(Conflict("the job waits for its next maintenance window"), found)
        return self._executions.change(tx, job, found, after, details=details, step=step)


def whole(request: Mapping[str, JsonValue], name: str) -> int | None:
    """A whole number, or None. Raises Invalid."""
    value = request.get(name)
    # nucleus lite sends it as text, which AWS takes as well (observed, aws-greengrass-lite 2.6.0)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19:
        return int(value)
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63):
        return value
    raise Invalid(f"{name} must be a whole number of 64 bits")


def _seen(tx: Tx, job_id: str, thing: str, number: int | None) -> tuple[Execution, Job]:
    """As devices see it: what its job's cancellation has not reached yet is canceled all the same. Raises NotFound."""
    found = store_executions.one(tx, job_id, thing, number)
    job = store.job(tx, job_id)
    if found is None or job is None or job.status is JobStatus.DELETION_IN_PROGRESS:
        raise NotFound(f"there is no job {job_id} for thing {thing}" + (f" of number {number}" if number else ""))
    if job.status is JobStatus.CANCELED and (found.status is Status.QUEUED or (job.forced and not found.final)):
        return replace(found, status=Status.CANCELED), job
    return found, job


def _with_state(error: MarramError, found: Execution) -> MarramError:
    error.data["state"] = shapes.state(found)
    return error


def _job(tx: Tx, job_id: str) -> Job:
    job = store.job(tx, job_id)
    assert job is not None
    return job
