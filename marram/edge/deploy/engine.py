"""Runs one deployment through its phases. The phase is in state.db before its first deed; a start after any cut resumes here.

    resolve -> fetch -> verify -> configure -> switch -> watch -> report
                (nothing that runs is touched)       \\-> rollback -> report

Up to `configure` a cut or a cancellation changes nothing and the work is repeated; from the commit of `switch` on, the new
set is watched or the old one restored. Each phase has a deadline.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from marram.core.codec import JsonObject
from marram.core.errors import Corrupt, Denied, Invalid, MarramError, Unsupported
from marram.edge.deploy import (
    configure,
    document,
    fetch,
    record,
    report,
    resolve,
    rollback,
    store,
    switch,
    verify,
    watch,
)
from marram.edge.deploy.record import Deployment
from marram.edge.deploy.work import (
    NO_STATE_CHANGE,
    ROLLBACK_COMPLETE,
    ROLLBACK_NOT_REQUESTED,
    SUCCESSFUL,
    UNABLE_TO_ROLLBACK,
    DeploymentFailed,
    Tools,
    Work,
)
from marram.kit import disk
from marram.kit.disk import failpoint
from marram.kit.log import logger

log = logger(__name__)

BEFORE_SWITCH: Final[tuple[tuple[str, Callable[[Work], Awaitable[None]]], ...]] = (
    ("resolve", resolve.run),
    ("fetch", fetch.run),
    ("verify", verify.run),
    ("configure", configure.run),
)


async def run(row: Deployment, tools: Tools, cancelled: asyncio.Event) -> None:
    """Ends with a terminal status in state.db, whatever happens. Cancelling the task leaves it to the next start."""
    try:
        work = Work(row=row, document=document.parse(row.document), tools=tools, detail=dict(row.detail))
        if work.document.not_supported:
            work.detail["notSupported"] = list(work.document.not_supported)
    except MarramError as exc:
        refusal = _failure(exc, NO_STATE_CHANGE)
        await tools.db.write(lambda tx: store.end(tx, row.id, record.REJECTED, refusal))
        return
    if row.phase == "rollback":
        await _roll_back(work, "", resumed=True)
        return
    if row.phase != "watch" and not await _prepare(work, cancelled):
        return
    log.info("deployment.watch", deployment=row.id)
    try:
        failpoint("deploy.watch.begin")
        await _until(cancelled, watch.gate(tools.supervisor, _names(work), work.changed(), tools.limits.watch_s))
    except _Cancelled:
        await _roll_back(work, "cancelled")
    except DeploymentFailed as exc:
        if work.document.rollback:
            await _roll_back(work, exc.message)
        else:
            work.detail |= _failure(exc, ROLLBACK_NOT_REQUESTED)
            await report.run(work, record.FAILED)
    else:
        work.detail["detailed-deployment-status"] = SUCCESSFUL
        failpoint("deploy.report.begin")
        await report.run(work, record.SUCCEEDED)


async def _prepare(work: Work, cancelled: asyncio.Event) -> bool:
    """Everything up to and with the switch. False when the deployment has ended with nothing changed."""
    limits = {"resolve": work.tools.limits.resolve_s, "fetch": work.tools.limits.fetch_s}
    row_id = work.row.id
    phase = "resolve"
    try:
        for phase, run_phase in BEFORE_SWITCH:
            await work.tools.db.write(lambda tx, phase=phase: store.enter(tx, row_id, phase))  # type: ignore[misc]
            failpoint(f"deploy.{phase}.begin")
            log.info("deployment.phase", deployment=row_id, phase=phase)
            async with asyncio.timeout(limits.get(phase)):
                await _until(cancelled, run_phase(work))
            failpoint(f"deploy.{phase}.end")
        work.detail["changes"] = report.difference(
            work.tools.supervisor.active(), {each.component.name: each.component for each in work.prepared}
        )
        phase = "switch"
        failpoint("deploy.switch.begin")
        if cancelled.is_set():
            raise _Cancelled
        # Not cancellable from here to the commit's answer: the row then says `watch`.
        await switch.run(work)
        failpoint("deploy.switch.end")
        return True
    except _Cancelled:
        work.detail |= {"detailed-deployment-status": NO_STATE_CHANGE, "deployment-failure-cause": "cancelled"}
        await report.run(work, record.CANCELED)
    except TimeoutError:
        fault = DeploymentFailed(f"{phase} did not end within {limits.get(phase, 0):g} s")
        work.detail |= _failure(fault, NO_STATE_CHANGE)
        await report.run(work, record.FAILED)
    except Exception as exc:  # a supervisor: a deployment always ends
        if not isinstance(exc, MarramError | OSError):
            log.error("deployment.fault", exc_info=exc, deployment=row_id, phase=phase)
        error = _ours(exc, work)
        if work.tools.db.read_now(lambda tx: store.get(tx, row_id)).phase == "watch":
            await _roll_back(work, error.message)  # the switch was committed and could not be followed
            return False
        log.warning("deployment.failed", deployment=row_id, phase=phase, why=error.message)
        work.detail |= _failure(error, NO_STATE_CHANGE)
        await report.run(work, record.FAILED)
    return False


async def _roll_back(work: Work, why: str, *, resumed: bool = False) -> None:
    log.warning("deployment.rollback", deployment=work.row.id, why=why)
    was_cancelled = why == "cancelled" or work.detail.get("deployment-failure-cause") == "cancelled"
    try:
        failpoint("deploy.rollback.begin")
        if not resumed:
            await rollback.enter(work, why)
        failpoint("deploy.rollback.entered")
        await rollback.see_it_up(work)
    except MarramError as exc:
        work.detail["detailed-deployment-status"] = UNABLE_TO_ROLLBACK
        work.detail["rollback-failure-cause"] = exc.message
        await report.run(work, record.FAILED)
        return
    work.detail["detailed-deployment-status"] = ROLLBACK_COMPLETE
    await report.run(work, record.CANCELED if was_cancelled else record.FAILED)


def _ours(exc: Exception, work: Work) -> MarramError:
    if isinstance(exc, MarramError):
        return exc
    return disk.failure(exc, work.folder) if isinstance(exc, OSError) else DeploymentFailed(f"internal fault: {exc!r}")


def _names(work: Work) -> list[str]:
    return sorted(rollback.active(work))


def _failure(error: MarramError, detailed: str) -> JsonObject:
    kinds = {Invalid: "RECIPE_ERROR", Denied: "PERMISSION_ERROR", Corrupt: "DEVICE_ERROR", Unsupported: "REQUEST_ERROR"}
    kind = next((text for each, text in kinds.items() if isinstance(error, each)), "COMPONENT_ERROR")
    return {
        "detailed-deployment-status": detailed,
        "deployment-failure-cause": error.message,
        "deployment-error-types": [kind],
        "deployment-error-stack": [type(error).__name__, *([error.code] if error.code else [])],
    }


class _Cancelled(Exception):
    """Somebody cancelled the deployment (not the task)."""


async def _until(cancelled: asyncio.Event, work: Awaitable[None]) -> None:
    """Await `work` unless `cancelled` is set first: then end it and raise _Cancelled."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(_plain(work), name="deployment-phase")
        flag = group.create_task(_flag(cancelled), name="deployment-cancel")
        await asyncio.wait([task, flag], return_when=asyncio.FIRST_COMPLETED)
        task.cancel()
        flag.cancel()
    outcome = task.result() if task.done() and not task.cancelled() else _Outcome(cancelled=True)
    if outcome.error is not None:
        raise outcome.error
    if outcome.cancelled:
        raise _Cancelled


class _Outcome:
    def __init__(self, error: BaseException | None = None, *, cancelled: bool = False) -> None:
        self.error = error
        self.cancelled = cancelled


async def _plain(work: Awaitable[None]) -> _Outcome:
    """Errors as values: a task group would wrap them."""
    try:
        await work
    except asyncio.CancelledError:
        raise
    except Exception as exc:  # handed on below
        return _Outcome(exc)
    return _Outcome()


async def _flag(cancelled: asyncio.Event) -> None:
    await cancelled.wait()
