"""Bulk registration: an object of JSON lines, a thing each, by one template; results and errors as objects beside it.

Every line is one transaction that leaves its own row, so that a start after a crash does no line twice and misses none; the
database commits many of them at once. Rows become a pair of reports (results, errors) every 10,000 lines. The input is held
as it was when the task was started. One task at a time. The task's role bounds what its lines make, as a template's does.
Sources: AWS IoT Core developer guide, "Bulk registration"; botocore model of iot. Layout of the reports: unconfirmed.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO, Final

from marram.core import codec
from marram.core.errors import Corrupt, Denied, Invalid, LimitExceeded, MarramError, NotFound, Unavailable
from marram.core.provisioning import Kind
from marram.core.provisioning import Template as ReadTemplate
from marram.hub.identity.service import Identity, Subject
from marram.hub.objects.service import Objects
from marram.hub.provisioning import store
from marram.hub.provisioning.claims import by_operator
from marram.hub.provisioning.making import Making, Prepared, check_given
from marram.hub.provisioning.store import Task
from marram.hub.provisioning.templates import parse
from marram.kit.db import Db, Tx
from marram.kit.log import logger

log = logger(__name__)

BUCKET: Final = "marram-provisioning"
INPUTS: Final = "inputs/"
LINES_AT_ONCE: Final = 250
LINES_A_REPORT: Final = 10_000
MAX_LINE: Final = 256 << 10
LINK_LIFE_S: Final = 3600
DAY_MS: Final = 24 * 3600 * 1000
REPORTS_AT_ONCE: Final = 100
RUNNING: Final = "InProgress"
CANCELLING: Final = "Cancelling"


@dataclass(frozen=True, slots=True)
class Line:
    number: int
    start: int
    end: int
    data: bytes | None  # None: longer than a line may be


class Bulk:
    def __init__(self, db: Db, identity: Identity, objects: Objects, making: Making) -> None:
        self._db, self._identity, self._objects, self._making = db, identity, objects, making
        self._wake = asyncio.Event()
        self._wake.set()  # what the last life left

    async def start(self, *, template: str, bucket: str, key: str, role: str) -> str:
        """The id of the task. Raises BadTemplate; NotFound for the object; Invalid while another task runs."""
        parse(template, Kind.REGISTRATION)
        self._identity.check_role(role, action="s3:GetObject", resource=f"arn:aws:s3:::{bucket}/{key}")
        try:
            stored = await self._objects.stat(bucket, key)
        except NotFound as exc:
            raise Invalid(f"inputFileBucket, inputFileKey: {exc.message}") from exc
        await self._objects.ensure_bucket(BUCKET)
        task_id = await self._db.write(lambda tx: tx.new_uuid())
        held = await self._objects.copy(stored, BUCKET, _input(task_id))

        def work(tx: Tx) -> None:
            other = store.unfinished(tx)
            if other is not None:
                raise Invalid(f"registration task {other.id} is in progress: one at a time")
            made = Task(
                id=task_id, template=template, bucket=bucket, object=key, role=role, status=RUNNING, size=held.size,
                created_ms=tx.now_ms, modified_ms=tx.now_ms,
            )  # fmt: skip
            store.save_task(tx, made)

        try:
            await self._db.write(work)
        except MarramError:
            await self._objects.delete(BUCKET, [held.key])
            raise
        self._wake.set()
        return task_id

    async def stop(self, task_id: str) -> None:
        """Lines under way are finished. One that has ended stays as it is."""

        def work(tx: Tx) -> None:
            present = self._get(tx, task_id)
            if present.status == RUNNING:
                store.save_task(tx, replace(present, status=CANCELLING, modified_ms=tx.now_ms))

        await self._db.write(work)
        self._wake.set()

    async def task(self, task_id: str) -> Task:
        return self._db.read_now(lambda tx: self._get(tx, task_id))

    async def page(self, status: str | None, after: tuple[int, str] | None, limit: int) -> list[tuple[int, str]]:
        return await self._db.read(lambda tx: store.task_ids(tx, status, after, limit))

    async def reports(self, task_id: str, kind: str, after: int, limit: int) -> list[tuple[int, str]]:
        """(number, link) of the parts that are there; links are good for an hour."""

        def work(tx: Tx) -> list[tuple[int, str]]:
            self._get(tx, task_id)
            return store.reports(tx, task_id, kind, after, limit)

        found = await self._db.read(work)
        return [(number, self._objects.presign(BUCKET, key, LINK_LIFE_S)) for number, key in found]

    async def run(self) -> None:
        """Works tasks off. Returns when cancelled."""
        await self.sweep()
        while True:
            await self._wake.wait()
            self._wake.clear()
            while (task := self._db.read_now(store.unfinished)) is not None:
                await self._work_off(task)

    async def sweep(self) -> None:
        """Inputs that are held for no task: it ended, or was never recorded, when the last life did."""
        current = self._db.read_now(store.unfinished)
        kept = _input(current.id) if current is not None else ""
        try:
            found = await self._objects.listing(BUCKET, prefix=INPUTS)
        except NotFound:
            return  # no task yet
        left = [stored.key for stored in found.objects if stored.key != kept]
        if left:
            await self._objects.delete(BUCKET, left)

    async def expire_reports(self, days: int) -> int:
        """Delete reports of tasks that ended so many days ago, some at once; how many. Their tasks stay. 0 days: never."""
        if not days:
            return 0
        now_ms = self._db.read_now(lambda tx: tx.now_ms)
        old = self._db.read_now(lambda tx: store.old_reports(tx, now_ms - days * DAY_MS, REPORTS_AT_ONCE))
        if old:
            # The object first: a report that is listed and gone answers 404, one that is not listed would stay for ever.
            await self._objects.delete(BUCKET, [key for _, key in old])
            await self._db.write(lambda tx: store.delete_reports(tx, old))
            log.info("provisioning.reports_expired", count=len(old))
        return len(old)

    async def _work_off(self, task: Task) -> None:
        try:
            template = parse(task.template, Kind.REGISTRATION)
            stored = await self._objects.stat(BUCKET, _input(task.id))
            file = await asyncio.to_thread(self._objects.path(stored).open, "rb")
        except (NotFound, Invalid, Corrupt, OSError) as exc:
            await self._end(task.id, "Failed", f"the input or the template is gone: {exc}")
            return
        try:
            await self._all_lines(task, template, file)
        finally:
            file.close()

    async def _all_lines(self, task: Task, template: ReadTemplate, file: BinaryIO) -> None:
        """From the last report on, over lines that a last life has done."""
        # By the writer, behind what a run that was cut short has left in its queue: a reader would not see those lines yet.
        done = {number for number, _, _ in await self._db.write(lambda tx: store.lines(tx, task.id))}
        position, number = task.position, task.line
        since = 0
        while True:
            lines = await asyncio.to_thread(_read, file, position, number)
            if lines:
                await self._some_lines(task, template, [line for line in lines if line.number not in done])
                position, number = lines[-1].end, lines[-1].number
                since += len(lines)
            current = await self.task(task.id)
            ended = not lines or current.status == CANCELLING
            if since >= LINES_A_REPORT or (ended and since):
                await self._report(task.id, position, number)
                since = 0
                done.clear()
            if ended:
                cancelled = bool(lines) and current.status == CANCELLING
                await self._end(task.id, "Cancelled" if cancelled or current.status == CANCELLING else "Completed", "")
                return

    async def _some_lines(self, task: Task, template: ReadTemplate, lines: list[Line]) -> None:
        prepared: list[tuple[Line, Prepared | MarramError]]
        try:
            by = self._making.acting(task.role)
        except Denied as exc:
            prepared = [(line, exc) for line in lines]
        else:
            prepared = await asyncio.to_thread(self._prepare, template, lines, by)
        async with asyncio.TaskGroup() as group:
            for line, ready in prepared:
                group.create_task(self._one_line(task.id, line, ready), name="provisioning-line")

    def _prepare(
        self, template: ReadTemplate, lines: list[Line], by: Subject
    ) -> list[tuple[Line, Prepared | MarramError]]:
        """In a thread."""
        found: list[tuple[Line, Prepared | MarramError]] = []
        for line in lines:
            try:
                if line.data is None:
                    raise LimitExceeded(f"the line is over {MAX_LINE} bytes", limit=MAX_LINE)
                body = codec.loads_object(line.data, what="the line", max_bytes=MAX_LINE, max_depth=2)
                found.append((line, self._making.prepare(template, check_given(body, "the line"), {}, by=by)))
            except MarramError as exc:
                found.append((line, exc))
        return found

    async def _one_line(self, task_id: str, line: Line, ready: Prepared | MarramError) -> None:
        refused: MarramError
        if isinstance(ready, Prepared):
            try:
                await self._db.write(lambda tx: self._make(tx, task_id, line, ready))
                by_operator.inc()
                return
            except Unavailable:
                raise  # not the line's fault: the task goes on after the next start of this runner
            except MarramError as exc:
                refused = exc
        else:
            refused = ready
        report = codec.dumps(
            {
                "lineNumber": line.number,
                "offset": line.start,
                "errorCode": type(refused).__name__,
                "errorMessage": refused.message,
            }
        ).decode()
        await self._db.write(lambda tx: self._note(tx, task_id, line, report, failed=True))

    def _make(self, tx: Tx, task_id: str, line: Line, ready: Prepared) -> None:
        made = self._making.make(tx, ready)
        response: dict[str, object] = {"ResourceArns": dict(made.arns)}
        if ready.issued is not None:
            response["CertificatePem"] = ready.issued.pem
        report = {"lineNumber": line.number, "offset": line.start, "response": response}
        self._note(tx, task_id, line, codec.dumps(report).decode(), failed=False)

    def _note(self, tx: Tx, task_id: str, line: Line, report: str, *, failed: bool) -> None:
        store.add_line(tx, task_id, line.number, report, failed=failed)

    async def _report(self, task_id: str, position: int, number: int) -> None:
        """Turn the rows into two objects; the rows go in the commit that says how far the task is."""
        rows = await self._db.read(lambda tx: store.lines(tx, task_id))
        part = await self._db.read(lambda tx: store.last_report(tx, task_id)) + 1
        keys: list[tuple[str, str]] = []
        for kind, failed in (("RESULTS", False), ("ERRORS", True)):
            text = "".join(f"{report}\n" for _, is_failed, report in rows if is_failed is failed)
            if text:
                key = f"{task_id}/{kind.lower()}-{part:06d}.jsonl"
                await self._objects.put(BUCKET, key, text.encode())
                keys.append((kind, key))

        def work(tx: Tx) -> None:
            present = self._get(tx, task_id)
            failures = sum(1 for _, failed, _ in rows if failed)
            for kind, key in keys:
                store.add_report(tx, task_id, part, kind, key)
            store.delete_lines(tx, task_id)
            changed = replace(
                present, position=position, line=number, failures=present.failures + failures,
                successes=present.successes + len(rows) - failures, modified_ms=tx.now_ms,
            )  # fmt: skip
            store.save_task(tx, changed)

        await self._db.write(work)

    async def _end(self, task_id: str, status: str, message: str) -> None:
        def work(tx: Tx) -> Task:
            present = replace(self._get(tx, task_id), status=status, message=message, modified_ms=tx.now_ms)
            store.save_task(tx, present)
            return present

        ended = await self._db.write(work)
        await self._objects.delete(BUCKET, [_input(task_id)])
        log.info("provisioning.task_ended", task=task_id, status=status, successes=ended.successes,
                 failures=ended.failures)  # fmt: skip

    def _get(self, tx: Tx, task_id: str) -> Task:
        found = store.task(tx, task_id)
        if found is None:
            raise NotFound(f"thing registration task {task_id} does not exist")
        return found


def _input(task_id: str) -> str:
    """Where the input of a task is held."""
    return f"{INPUTS}{task_id}"


def _read(file: BinaryIO, position: int, number: int) -> list[Line]:
    """The next lines; blank ones count and are not among them, but for the last. In a thread."""
    file.seek(position)
    found: list[Line] = []
    for line in _lines(file, position, number):
        found.append(line)
        if len(found) >= LINES_AT_ONCE:
            break
    return found


def _lines(file: BinaryIO, position: int, number: int) -> Iterator[Line]:
    while True:
        start = position
        data = file.readline(MAX_LINE + 1)
        if not data:
            return
        number += 1
        position += len(data)
        if len(data) > MAX_LINE and not data.endswith(b"\n"):
            while piece := file.readline(1 << 20):  # the rest of it
                position += len(piece)
                if piece.endswith(b"\n"):
                    break
            yield Line(number, start, position, None)
        elif data.strip():
            yield Line(number, start, position, data)
