"""Deployments of this core: the queue, one at a time, newest wins for each target, cancellable, reported until heard."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

from marram.core.codec import JsonObject
from marram.core.errors import Conflict, MarramError, Unsupported
from marram.edge.deploy import document, engine, record, report, store
from marram.edge.deploy.document import LOCAL
from marram.edge.deploy.ports import Reporter
from marram.edge.deploy.record import Deployment
from marram.edge.deploy.work import Tools
from marram.kit.clock import Clock, Entropy, uuid4
from marram.kit.db import Tx
from marram.kit.log import logger

log = logger(__name__)

AGAIN_S = 2.0
REPORT_AGAIN_S = 15.0
Listener = Callable[[Deployment], None]


class Deployments:
    """`run` for the life of the core. Everything else may be called before it."""

    def __init__(self, tools: Tools, reporter: Reporter, *, clock: Clock, entropy: Entropy) -> None:
        self.tools = tools
        self._reporter = reporter
        self._clock = clock
        self._entropy = entropy
        self._work = asyncio.Event()
        self._to_report = asyncio.Event()
        self._changed = asyncio.Event()
        self._current: str | None = None
        self._cancel = asyncio.Event()
        self._listeners: list[Listener] = []

    async def submit(self, value: JsonObject, source: str) -> str:
        """Queue a deployment document; its id. Raises Invalid, Unsupported, AlreadyExists (the same id again).

        Of the same target, what waits is cancelled, and what is in progress too: the newest is what is wanted.
        """
        parsed = document.parse(value)
        if parsed.local and parsed.not_supported:
            raise Unsupported(f"not supported here: {', '.join(parsed.not_supported)}")

        def work(tx: Tx) -> list[str]:
            overtaken: list[str] = []
            if parsed.target != LOCAL:
                for each in store.waiting(tx, parsed.target):
                    detail: JsonObject = {"deployment-failure-cause": f"overtaken by {parsed.id}"}
                    store.end(tx, each.id, record.CANCELED, detail)
                    overtaken.append(each.id)
                current = store.next_open(tx)
                if current is not None and current.target == parsed.target:
                    overtaken.append(current.id)
            store.add(tx, parsed.id, parsed.target, source, value)
            return overtaken

        overtaken = await self.tools.db.write(work)
        log.info("deployment.accepted", deployment=parsed.id, target=parsed.target, components=len(parsed.components))
        if self._current in overtaken:
            self._cancel.set()
        self._work.set()
        self._to_report.set()
        return parsed.id

    async def submit_local(
        self,
        *,
        add: Mapping[str, str],
        remove: Sequence[str] = (),
        configuration: Mapping[str, JsonObject] | None = None,
        run_with: Mapping[str, JsonObject] | None = None,
        recipes: str = "",
        artifacts: str = "",
        rollback: bool = True,
    ) -> str:
        value = document.local(
            uuid4(self._entropy),
            add=add,
            remove=remove,
            configuration=configuration,
            run_with=run_with,
            recipes=recipes,
            artifacts=artifacts,
            rollback=rollback,
            created_ms=self._clock.wall_ms(),
        )
        return await self.submit(value, "LOCAL")

    async def cancel(self, deployment_id: str) -> None:
        """One that waits ends at once; one in progress before its switch changes nothing; after it is rolled back.

        Raises NotFound, Conflict when it has ended.
        """

        def work(tx: Tx) -> None:
            row = store.get(tx, deployment_id)
            if row.ended:
                raise Conflict(f"deployment {deployment_id} has ended: {row.status}")
            if row.status == record.QUEUED:
                store.end(tx, deployment_id, record.CANCELED, {"deployment-failure-cause": "cancelled"})

        await self.tools.db.write(work)
        if self._current == deployment_id:
            self._cancel.set()
        self._note(deployment_id)

    def status(self, deployment_id: str) -> Deployment:
        """Raises NotFound."""
        return self.tools.db.read_now(lambda tx: store.get(tx, deployment_id))

    def list(self, limit: int = 10) -> Sequence[Deployment]:
        """Newest first."""
        return self.tools.db.read_now(lambda tx: store.newest(tx, limit))

    def roots(self) -> Mapping[str, Mapping[str, str]]:
        """target -> component -> requirement."""
        return self.tools.db.read_now(store.roots)

    def lock(self) -> JsonObject:
        """Exact versions and digests of what is active."""
        return report.lock(self.tools.supervisor.active())

    async def ended(self, deployment_id: str) -> Deployment:
        """Waits for its end; the caller sets the limit."""
        while True:
            row = self.status(deployment_id)
            if row.ended:
                return row
            await self._changed.wait()

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Called at the start and the end of each deployment."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._reports(), name="deployment-reports")
            while True:
                self._work.clear()
                row = self.tools.db.read_now(store.next_open)
                if row is None:
                    await self._work.wait()
                    continue
                self._cancel.clear()
                self._current = row.id
                if self._overtaken(row):
                    self._cancel.set()
                self._tell(row)
                try:
                    await engine.run(row, self.tools, self._cancel)
                except MarramError as exc:  # state.db cannot be written now: the row still says where to go on
                    log.error("deployment.stalled", deployment=row.id, why=exc.message)
                    await asyncio.sleep(AGAIN_S)
                    continue
                finally:
                    self._current = None
                self._note(row.id)

    def _overtaken(self, row: Deployment) -> bool:
        """After a restart in mid-deployment: somebody newer waits for the same target."""
        waiting = self.tools.db.read_now(lambda tx: store.waiting(tx, row.target))
        return row.target != LOCAL and any(each.number > row.number for each in waiting)  # it may wait itself

    def _note(self, deployment_id: str) -> None:
        row = self.status(deployment_id)
        if row.ended:
            log.info("deployment.ended", deployment=row.id, status=row.status, detail=row.detail)
            self._to_report.set()
        self._tell(row)
        self._changed.set()
        self._changed = asyncio.Event()

    def _tell(self, row: Deployment) -> None:
        for listener in list(self._listeners):
            try:
                listener(row)
            except Exception as exc:  # a border
                log.error("deployment.listener_failed", exc_info=exc)

    async def _reports(self) -> None:
        while True:
            self._to_report.clear()
            left = False
            for row in self.tools.db.read_now(store.unreported):
                try:
                    if row.source != "LOCAL":
                        await self._reporter.report(row)
                    await self.tools.db.write(lambda tx, key=row.id: store.set_reported(tx, key))  # type: ignore[misc]
                except Exception as exc:  # a border: whatever the link says, it is told again
                    log.warning("deployment.not_reported", deployment=row.id, why=str(exc))
                    left = True
            try:
                async with asyncio.timeout(REPORT_AGAIN_S if left else None):
                    await self._to_report.wait()
            except TimeoutError:
                continue
