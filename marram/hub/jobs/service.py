"""The face of the slice: jobs for operators (`control`, `templates`), for devices (`device`), for other slices, and what runs.

`create`, `extend`, `cancel` and `remove` join the caller's transaction: a deployment and its job are one commit. Such a job
is driven by its caller, who says which things it has; all else of it is as of any other job.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

from marram.core import codec
from marram.core.codec import JsonObject
from marram.core.jobs import ACTIVE, JobStatus, Status
from marram.hub.bus import Bus
from marram.hub.jobs import settings, store, store_executions
from marram.hub.jobs.control import CONTINUOUS, SNAPSHOT, Control, Described, Wanted
from marram.hub.jobs.device import Device, whole
from marram.hub.jobs.documents import Documents, NoSigner, Signer
from marram.hub.jobs.events import AllOff, Enabled, ExecutionChanged, JobChanged, NoReplies, QueueAsked, Replies, Told
from marram.hub.jobs.executions import CHUNK, Executions
from marram.hub.jobs.rolling import Rolling
from marram.hub.jobs.store import Job, Target, Template
from marram.hub.jobs.store_executions import Execution
from marram.hub.jobs.templates import Templates
from marram.hub.objects.service import Objects
from marram.hub.registry.service import GroupMembershipChanged, Registry, ThingDeleted
from marram.kit.db import Db, Tx
from marram.kit.log import logger

log = logger(__name__)

__all__ = [
    "CONTINUOUS", "SNAPSHOT", "Described", "Execution", "ExecutionChanged", "Job", "JobChanged", "Jobs", "QueueAsked", "Target", "Template",
    "Wanted", "whole",
]  # fmt: skip

FOLLOW_MS: Final = (
    300_000  # how often jobs that follow groups are compared with them, should an announcement be missing
)
MAX_MOVED: Final = 20_000  # announcements kept one by one; beyond it everything is compared
FAR: Final = 1 << 62
T = TypeVar("T")


class Jobs:
    def __init__(
        self, db: Db, bus: Bus, registry: Registry, *, objects: Objects | None = None, signer: Signer | None = None,
        events: Enabled | None = None, replies: Replies | None = None,
    ) -> None:  # fmt: skip
        self._db, self._registry = db, registry
        self.replies: Replies = replies or NoReplies()
        account, region = registry.account, registry.region
        documents = Documents(objects, signer or NoSigner())
        told = Told(bus, documents, events or AllOff(), account=account, region=region)
        self._executions = Executions(told, self._wake_at, registry.index)
        self._rolling = Rolling(self._executions, registry)
        self.arn = told.arn
        self.templates = Templates(db, documents, registry.tags, account=account, region=region)
        self.control = Control(
            db,
            self._executions,
            self._rolling,
            documents,
            self.templates,
            registry,
            registry.tags,
            account=account,
            region=region,
        )
        self.device = Device(db, self._executions, documents)
        self._wake = asyncio.Event()
        self._asleep_until = FAR
        self._moved: set[str] = set()
        self._deleted: set[str] = set()
        self._follow_at_ms = 0  # at the start: what happened while nobody listened
        registry.index.use_sources(jobs=store_executions.statuses)
        registry.tags.declare("job", _job_bearer)
        registry.tags.declare("jobtemplate", _template_bearer)
        bus.subscribe(GroupMembershipChanged, self._on_moved)
        bus.subscribe(ThingDeleted, self._on_deleted)

    # for other slices, in their transactions

    def create(
        self, tx: Tx, job: str, *, namespace: str, document: JsonObject, things: Iterable[str],
        targets: Iterable[Target] = (), continuous: bool = True, config: Mapping[str, Any] | None = None,
        description: str = "",
    ) -> None:  # fmt: skip
        """config: wire form of settings, checked by `check_config`."""
        made = Job(
            id=job, namespace=namespace, status=JobStatus.IN_PROGRESS, driven=True, spread=True, created_ms=tx.now_ms,
            updated_ms=tx.now_ms, selection=CONTINUOUS if continuous else SNAPSHOT, description=description,
            config=codec.dumps(config or {}).decode(),
        )  # fmt: skip
        store.insert_job(tx, made, codec.dumps(document))
        store.add_targets(tx, job, targets)
        self.extend(tx, job, things)

    def check_config(self, config: Mapping[str, Any]) -> None:
        """Raises Invalid."""
        settings.parse(config)

    def extend(self, tx: Tx, job: str, things: Iterable[str]) -> None:
        """Add executions for things that have none, at the job's pace if it was given one; an ended job takes no more."""
        found = store.job(tx, job)
        if found is None or found.status is not JobStatus.IN_PROGRESS:
            return
        names = sorted(set(things))
        if settings.read(found.config).paced:
            new = [name for name in names if store_executions.one(tx, job, name) is None]
            store.add_waiting(tx, job, new)
            self._executions.later(tx, job, tx.now_ms)
            names = sorted(set(names).difference(new))
        for thing in names:
            self._executions.queue(tx, found, thing)

    def cancel(self, tx: Tx, job: str, reason: str) -> None:
        """End the job: what is queued is canceled; what a device has begun may still report. A job unknown is fine."""
        found = store.job(tx, job)
        if found is not None and found.status in ACTIVE:
            self._executions.cancel(tx, found, reason_code="", comment=reason, forced=False)

    def remove(self, tx: Tx, job: str, thing: str) -> None:
        """The thing left the target: its execution, unless it ended, is REMOVED."""
        found = store.job(tx, job)
        if found is not None:
            self._executions.remove(tx, found, thing)

    def job(self, tx: Tx, job: str) -> Job | None:
        return store.job(tx, job)

    def executions(self, tx: Tx, job: str) -> list[Execution]:
        return store_executions.of_job(tx, job)

    def execution(self, tx: Tx, job: str, thing: str) -> Execution | None:
        return store_executions.one(tx, job, thing)

    # what runs

    async def run(self) -> None:
        """Rollouts, timers, cancellations and deletions, as they fall due; until cancelled."""
        await self._forget_deleted()
        while True:
            self._wake.clear()
            self._asleep_until = 0
            due_ms, now_ms = await self.work_off()
            self._asleep_until = due_ms
            pause_s = min(60.0, max(0.0, (due_ms - now_ms) / 1000))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()

    async def work_off(self) -> tuple[int, int]:
        """Do all that is due, in pieces of one transaction each. (when the next is due, now)."""
        while True:
            await self._follow()
            due_ms, now_ms = self._db.read_now(lambda tx: (store.next_due(tx), tx.now_ms))
            if due_ms is None or due_ms > now_ms:
                return min(due_ms if due_ms is not None else FAR, self._follow_at_ms), now_ms
            await self._db.write(self._piece)

    def _piece(self, tx: Tx) -> None:
        found = store_executions.expired(tx, CHUNK)
        for execution in found:
            job = store.job(tx, execution.job)
            assert job is not None
            self._executions.change(tx, job, execution, Status.TIMED_OUT)
        if not found and (job := store.due_job(tx, tx.now_ms)) is not None:
            self._rolling.advance(tx, job)

    async def _follow(self) -> None:
        """What the registry has announced, and from time to time all that it may have announced to nobody."""
        now_ms = self._db.read_now(lambda tx: tx.now_ms)
        if now_ms >= self._follow_at_ms or len(self._moved) > MAX_MOVED:
            self._follow_at_ms = now_ms + FOLLOW_MS
            self._moved.clear()
            if self._db.read_now(store.following):
                await self._db.write(store.follow_groups)
        await self._in_pieces(self._deleted, self._rolling.deleted)
        if self._moved and not self._db.read_now(store.following):
            self._moved.clear()
        await self._in_pieces(self._moved, self._rolling.moved)

    async def _in_pieces(self, names: set[str], work: Callable[[Tx, list[str]], None]) -> None:
        while names:
            some = sorted(names)[: CHUNK // 2]
            names.difference_update(some)
            try:
                await self._db.write(lambda tx, some=some: work(tx, some))  # type: ignore[misc]  # bound early
            except BaseException:
                names.update(some)
                raise

    async def _forget_deleted(self) -> None:
        """Things that went while nobody listened, and left executions behind."""
        after = ""
        while found := await self._db.read(lambda tx, after=after: self._open_page(tx, after)):  # type: ignore[misc]  # bound early
            self._deleted.update(name for name, exists in found if not exists)
            after = found[-1][0]

    def _open_page(self, tx: Tx, after: str) -> list[tuple[str, bool]]:
        return [(name, self._registry.exists(tx, name)) for name in store_executions.things_open(tx, after, 1000)]

    def _on_moved(self, event: GroupMembershipChanged) -> None:
        self._moved.add(event.thing)
        self._wake.set()

    def _on_deleted(self, event: ThingDeleted) -> None:
        self._deleted.add(event.thing)
        self._wake.set()

    def _wake_at(self, at_ms: int) -> None:
        if at_ms < self._asleep_until:
            self._wake.set()

    async def write(self, work: Callable[[Tx], T]) -> T:
        """A transaction of this slice's topics."""
        return await self._db.write(work)


def _job_bearer(tx: Tx, name: str) -> str | None:
    found = store.job(tx, name)
    return f"{found.seq}-{found.created_ms}" if found is not None else None


def _template_bearer(tx: Tx, name: str) -> str | None:
    found = store.template(tx, name)
    return str(found.created_ms) if found is not None else None
