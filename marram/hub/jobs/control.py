"""The operator's side: make a job, change it, end it, look at it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

from marram.core import arn, codec
from marram.core.errors import AlreadyExists, Conflict, Invalid, LimitExceeded, NotFound, VersionConflict
from marram.core.jobs import ACTIVE, JobStatus, Status
from marram.hub.jobs import schedule, settings, store, store_executions
from marram.hub.jobs.documents import Documents
from marram.hub.jobs.executions import Executions
from marram.hub.jobs.rolling import Rolling
from marram.hub.jobs.store import Job, Target
from marram.hub.jobs.store_executions import Execution
from marram.hub.jobs.templates import Tags, Templates
from marram.kit.db import Db, Tx

MAX_TARGETS: Final = 100
MAX_DELETING: Final = 10
SNAPSHOT: Final = "SNAPSHOT"
CONTINUOUS: Final = "CONTINUOUS"
# What UpdateJob may change, and how it is stored.
CHANGEABLE: Final = (
    "presignedUrlConfig", "jobExecutionsRolloutConfig", "abortConfig", "timeoutConfig", "jobExecutionsRetryConfig",
)  # fmt: skip


class Groups(Protocol):
    """What targets are checked against."""

    def exists(self, tx: Tx, name: str) -> bool: ...
    def group_id(self, tx: Tx, name: str) -> str | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """CreateJob. document or source, or a template that has either; config: wire form, over the template's."""

    id: str
    targets: Sequence[str]
    document: str | None = None
    source: str | None = None
    description: str | None = None
    selection: str = SNAPSHOT
    namespace: str = ""
    template: str = ""  # ARN
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    tags: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    job: Job
    targets: list[Target]


class Control:
    def __init__(
        self, db: Db, executions: Executions, rolling: Rolling, documents: Documents, templates: Templates, groups: Groups,
        tags: Tags, *, account: str, region: str,
    ) -> None:  # fmt: skip
        self._db, self._executions, self._rolling, self._documents = db, executions, rolling, documents
        self._templates, self._groups, self._tags = templates, groups, tags
        self._account, self._region = account, region

    async def create(self, wanted: Wanted) -> Job:
        """Raises AlreadyExists for a known id, NotFound for a target, Invalid, Denied for a role that may not read."""
        if wanted.document is not None and wanted.source is not None:
            raise Invalid("give document or documentSource, not both")
        template = self._templates.of_arn(wanted.template) if wanted.template else None
        if template is not None:
            if wanted.document is not None or wanted.source is not None:
                raise Invalid("the document is the template's: leave document and documentSource out")
            text, source = template.document, template.source
        elif wanted.document is not None:
            text, source = wanted.document.encode(), ""
        elif wanted.source is not None:
            text, source = await self._documents.fetch(wanted.source), wanted.source
        else:
            raise Invalid("document, documentSource or jobTemplateArn is needed")
        config = _merged(template.config if template is not None else {}, wanted.config)
        asked = settings.parse(config)
        self._documents.check(text, asked.role)
        targets = self._targets(wanted.targets)
        if len(targets) > MAX_TARGETS:
            raise LimitExceeded(f"a job has at most {MAX_TARGETS} targets", limit=MAX_TARGETS)
        description = wanted.description
        if description is None:
            description = template.description if template is not None else ""

        def work(tx: Tx) -> Job:
            present = store.job(tx, wanted.id)
            if present is not None:
                raise AlreadyExists(
                    f"job {wanted.id} exists",
                    resourceId=wanted.id,
                    resourceArn=self._executions.told.arn(f"job/{wanted.id}"),
                )
            found = [self._known(tx, target) for target in targets]
            schedule.check(asked.schedule, tx.now_ms)
            is_open = asked.schedule.open_until(tx.now_ms) is not None
            job = Job(
                id=wanted.id,
                namespace=wanted.namespace,
                status=JobStatus.IN_PROGRESS if is_open else JobStatus.SCHEDULED,
                selection=wanted.selection,
                description=description,
                source=source,
                template=wanted.template,
                config=codec.dumps(config).decode(),
                created_ms=tx.now_ms,
                updated_ms=tx.now_ms,
                spread_at=0,
            )
            store.insert_job(tx, job, text)
            store.add_targets(tx, job.id, found)
            self._tags.tag_tx(tx, "job", job.id, wanted.tags)
            self._executions.told.job_changed(tx, job.id, job.status)
            self._executions.later(tx, job.id, tx.now_ms)
            self._rolling.begin(tx, job.id)
            return job

        return await self._db.write(work)

    def get(self, job_id: str) -> Described:
        """Raises NotFound."""
        return self._db.read_now(lambda tx: Described(job=_job(tx, job_id), targets=store.targets(tx, job_id)))

    def document(self, job_id: str) -> bytes:
        """As it was given, placeholders and all. Raises NotFound."""

        def work(tx: Tx) -> bytes:
            _job(tx, job_id)
            return store.document(tx, job_id)

        return self._db.read_now(work)

    async def page(
        self, *, status: str, selection: str, namespace: str | None, group: str, group_id: str, before: int, limit: int
    ) -> list[Job]:
        """Newest first."""

        def work(tx: Tx) -> list[Job]:
            return store.jobs(
                tx, status=status, selection=selection, namespace=namespace, group=group, group_id=group_id,
                before=before, limit=limit,
            )  # fmt: skip

        return await self._db.read(work)

    async def update(self, job_id: str, description: str | None, config: Mapping[str, Any]) -> None:
        """What is given replaces what is there; what runs keeps its timers. Raises NotFound, Invalid; Conflict when it has ended."""

        def work(tx: Tx) -> None:
            job = _job(tx, job_id)
            if job.status not in ACTIVE:
                raise Conflict(f"job {job_id} is {job.status} and cannot be updated")
            merged = codec.loads_object(job.config) | {name: config[name] for name in CHANGEABLE if name in config}
            asked = settings.parse(merged)
            self._documents.check(store.document(tx, job_id), asked.role)
            store.set_job(
                tx, job_id, config=codec.dumps(merged).decode(), updated_ms=tx.now_ms,
                description=job.description if description is None else description,
            )  # fmt: skip
            if not job.driven:
                self._executions.later(tx, job_id, tx.now_ms)

        await self._db.write(work)

    async def cancel(self, job_id: str, *, reason_code: str, comment: str, forced: bool) -> Job:
        """Forced: what devices have begun too, also when the job was canceled without force. Raises NotFound, Conflict."""

        def work(tx: Tx) -> Job:
            job = _job(tx, job_id)
            again = job.status is JobStatus.CANCELED and forced and not job.forced
            if job.status not in ACTIVE and not again:
                raise Conflict(f"job {job_id} is {job.status} and cannot be canceled")
            self._executions.cancel(tx, job, reason_code=reason_code, comment=comment, forced=forced)
            return job

        return await self._db.write(work)

    async def delete(self, job_id: str, *, forced: bool) -> None:
        """Raises NotFound; Conflict when it is active and not forced, or is being deleted; LimitExceeded."""

        def work(tx: Tx) -> None:
            job = _job(tx, job_id)
            if job.status is JobStatus.DELETION_IN_PROGRESS:
                raise Conflict(f"job {job_id} is being deleted")
            if job.status in ACTIVE and not forced:
                raise Conflict(f"job {job_id} is {job.status}: cancel it first, or delete it with force")
            if store.deleting(tx) >= MAX_DELETING:
                raise LimitExceeded(f"{MAX_DELETING} jobs are being deleted already", limit=MAX_DELETING)
            self._executions.delete(tx, job)

        await self._db.write(work)

    async def associate(self, job_id: str, target_arns: Sequence[str], comment: str) -> Job:
        """More groups for a continuous job. Raises NotFound, Invalid, LimitExceeded."""
        targets = self._targets(target_arns)
        if any(target.kind != "thinggroup" for target in targets):
            raise Invalid("only thing groups can be associated with a job")

        def work(tx: Tx) -> Job:
            job = _job(tx, job_id)
            if not job.continuous or job.status is not JobStatus.IN_PROGRESS or job.driven:
                raise Invalid(f"job {job_id} is not a CONTINUOUS job IN_PROGRESS")
            before = len(store.targets(tx, job_id))
            if store.add_targets(tx, job_id, [self._known(tx, target) for target in targets]) > MAX_TARGETS:
                raise LimitExceeded(f"a job has at most {MAX_TARGETS} targets", limit=MAX_TARGETS)
            changes: dict[str, object] = {"updated_ms": tx.now_ms}
            if comment:
                changes["comment"] = comment
            if job.spread_at is None:
                changes |= {"spread_at": before, "spread_after": store.FIRST}
            store.set_job(tx, job_id, **changes)
            self._executions.later(tx, job_id, tx.now_ms)
            return job

        return await self._db.write(work)

    # executions

    def execution(self, job_id: str, thing: str, number: int | None) -> Execution:
        """Raises NotFound."""
        return self._db.read_now(lambda tx: _execution(tx, job_id, thing, number))

    async def executions_of_job(
        self, job_id: str, *, status: str, after: tuple[str, int], limit: int
    ) -> list[Execution]:
        def work(tx: Tx) -> list[Execution]:
            _job(tx, job_id)
            return store_executions.page_of_job(tx, job_id, status, after, limit)

        return await self._db.read(work)

    async def executions_of_thing(
        self, thing: str, *, status: str, namespace: str | None, job: str, before: tuple[int, str, int], limit: int
    ) -> list[Execution]:
        """Newest first. Raises NotFound for an unknown thing."""

        def work(tx: Tx) -> list[Execution]:
            if not self._groups.exists(tx, thing):
                raise NotFound(f"thing {thing} does not exist")
            return store_executions.page_of_thing(
                tx, thing, status=status, namespace=namespace, job=job, before=before, limit=limit
            )

        return await self._db.read(work)

    async def cancel_execution(
        self, job_id: str, thing: str, *, forced: bool, expected_version: int | None, details: dict[str, str] | None
    ) -> None:
        """Raises NotFound, VersionConflict; Conflict when it has ended, or has begun and is not forced."""

        def work(tx: Tx) -> None:
            found = _execution(tx, job_id, thing, None)
            if expected_version is not None and expected_version != found.version:
                raise VersionConflict(
                    f"the job execution has version {found.version}, not {expected_version}", actual=found.version
                )
            if found.final:
                raise Conflict(f"the job execution is {found.status}, which is final", kind="transition")
            if found.status is Status.IN_PROGRESS and not forced:
                raise Conflict("the job execution is IN_PROGRESS: it is canceled with force only", kind="transition")
            self._executions.change(tx, _job(tx, job_id), found, Status.CANCELED, details=details, forced=forced)

        await self._db.write(work)

    async def delete_execution(self, job_id: str, thing: str, number: int, *, forced: bool) -> None:
        """Raises NotFound; Conflict when it has not ended and is not forced."""

        def work(tx: Tx) -> None:
            found = _execution(tx, job_id, thing, number)
            if not found.final and not forced:
                raise Conflict(f"the job execution is {found.status}: it is deleted with force only", kind="transition")
            job = _job(tx, job_id)
            present = store_executions.one(tx, job_id, thing)
            if present is None or present.number != number:
                store_executions.delete_past(tx, job_id, thing, number)
                return
            self._executions.forget(tx, job, found)
            self._executions.complete(tx, job_id)

        await self._db.write(work)

    # small things

    def _targets(self, arns: Sequence[str]) -> list[Target]:
        found: list[Target] = []
        for text in arns:
            parsed = arn.parse(text)
            kind, _, name = parsed.resource.partition("/")
            if parsed.service != "iot" or kind not in ("thing", "thinggroup") or not name:
                raise Invalid(f"target {text!r} is not the ARN of a thing or thing group")
            if (parsed.region, parsed.account) != (self._region, self._account):
                raise NotFound(f"target {text} is not of this hub ({self._region}, {self._account})")
            found.append(Target(kind, name))
        return list(dict.fromkeys(found))

    def _known(self, tx: Tx, target: Target) -> Target:
        """Raises NotFound."""
        if target.kind == "thing":
            if not self._groups.exists(tx, target.name):
                raise NotFound(f"thing {target.name} does not exist")
            return target
        group_id = self._groups.group_id(tx, target.name)
        if group_id is None:
            raise NotFound(f"thing group {target.name} does not exist")
        return replace(target, group_id=group_id)


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """A template's settings under a request's; its maintenance windows hold unless the request has some."""
    merged = {**base, **over}
    scheduled: Mapping[str, Any] = base.get("schedulingConfig") or {}
    windows = scheduled.get("maintenanceWindows")
    if windows and "schedulingConfig" in over:
        merged["schedulingConfig"] = {"maintenanceWindows": windows, **over["schedulingConfig"]}
    return merged


def _job(tx: Tx, job_id: str) -> Job:
    found = store.job(tx, job_id)
    if found is None:
        raise NotFound(f"job {job_id} does not exist")
    return found


def _execution(tx: Tx, job_id: str, thing: str, number: int | None) -> Execution:
    found = store_executions.one(tx, job_id, thing, number)
    if found is None:
        raise NotFound(
            f"there is no execution of job {job_id} for thing {thing}" + (f" of number {number}" if number else "")
        )
    return found
