"""Supervised tasks: what runs for the life of a process, with a name, restarted with backoff, stopped in order."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, cast

from marram.core.errors import MarramError
from marram.kit.log import logger

log = logger(__name__)

BACKOFF_S: Final = (0.1, 0.5, 1.0, 5.0, 30.0)


async def forever(name: str, run: Callable[[], Awaitable[None]]) -> None:
    """Run `run`; when it fails, log why (a fault with its traceback), wait, run it again. Returns when it returns. Cancel to stop."""
    failures = 0
    while True:
        began = asyncio.get_running_loop().time()
        try:
            await run()
        except asyncio.CancelledError:
            raise
        except Exception as exc:  # a supervisor: the one place that may catch all
            if asyncio.get_running_loop().time() - began > 60:
                failures = 0
            pause = BACKOFF_S[min(failures, len(BACKOFF_S) - 1)]
            failures += 1
            why = _reason(exc)
            trace = None if why else exc
            log.error("task.failed", exc_info=trace, task=name, why=why, failures=failures, restart_in_s=pause)
            await asyncio.sleep(pause)
        else:
            return


def _reason(exc: BaseException) -> str:
    """What ours say, which is all there is to say; empty for a fault that needs its traceback."""
    if isinstance(exc, BaseExceptionGroup):
        inner = cast("BaseExceptionGroup[BaseException]", exc).exceptions
        said = [_reason(each) for each in inner]
        return "; ".join(said) if all(said) else ""
    return exc.message if isinstance(exc, MarramError) else ""


async def periodic(name: str, every_s: float, work: Callable[[], Awaitable[None]]) -> None:
    """Call `work` every `every_s` seconds until cancelled; a failure is logged and the next turn comes all the same."""
    while True:
        await asyncio.sleep(every_s)
        try:
            await work()
        except asyncio.CancelledError:
            raise
        except Exception as exc:  # a supervisor
            log.error("task.failed", exc_info=exc, task=name)


class Supervisor:
    """Starts named long-lived tasks in one TaskGroup; leaving the context cancels them and waits."""

    def __init__(self) -> None:
        self._group = asyncio.TaskGroup()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Supervisor":
        await self._group.__aenter__()
        return self

    def start(self, name: str, run: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        task = self._group.create_task(forever(name, run), name=name)
        self._tasks.append(task)
        return task

    async def __aexit__(self, *exc: object) -> None:
        for task in reversed(self._tasks):
            task.cancel()
        await self._group.__aexit__(None, None, None)
