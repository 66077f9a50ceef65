"""Supervised tasks come back, and say in one line what a person can act on."""

import asyncio
import json

import pytest

from marram.core.errors import Unavailable
from marram.kit import log, tasks


async def fails_once(error: BaseException, capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    """The log line of a task that fails once and then returns."""
    log.setup(level="info")
    turns = iter([error, None])

    async def run() -> None:
        given = next(turns)
        if given is not None:
            raise given

    async with asyncio.timeout(5):
        await tasks.forever("door", run)
    line: dict[str, object] = json.loads(capsys.readouterr().err.strip().splitlines()[-1])
    assert line["event"] == "task.failed"
    return line


async def test_what_ours_say_needs_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    taken = ExceptionGroup("group", [ExceptionGroup("inner", [Unavailable("port 1 is taken")])])
    line = await fails_once(taken, capsys)
    assert line["fields"]["why"] == "port 1 is taken" and "trace" not in line  # type: ignore[index]


async def test_a_fault_keeps_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    line = await fails_once(ExceptionGroup("group", [Unavailable("away"), KeyError("k")]), capsys)
    assert "KeyError" in str(line["trace"])
