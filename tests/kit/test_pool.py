import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from marram.core.errors import Invalid, LimitExceeded, NotFound, Unavailable
from marram.kit.pool import Limits, Worker

CHILD = (sys.executable, str(Path(__file__).with_name("pool_child.py")))
ROOT = Path(__file__).parents[2]


def make(**options: object) -> Worker:
    return Worker("test", CHILD, env={"PYTHONPATH": str(ROOT)}, **options)  # type: ignore[arg-type]


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    made = make()
    yield made
    await made.close()


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_calls_are_answered_in_order_by_one_process(worker: Worker) -> None:
    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(worker.call("echo", {"n": n, "text": "ü" * n}, 10)) for n in range(20)]
    assert [task.result() for task in asked] == [{"n": n, "text": "ü" * n} for n in range(20)]
    pid = worker.pid
    await worker.call("echo", {}, 10)
    assert worker.pid == pid


async def test_large_frames_pass_both_ways(worker: Worker) -> None:
    big = "x" * (3 << 20)
    assert await worker.call("echo", {"big": big}, 20) == {"big": big}


@pytest.mark.parametrize("n", [0, 1, 2_000_000])
async def test_bytes_come_beside_the_result(worker: Worker, n: int) -> None:
    assert await worker.call_raw("raw", {"n": n}, 20) == ({"seen": {"n": n}}, b"ab" * n + b"\0\xff")
    assert await worker.call("raw", {"n": n}, 20) == {"seen": {"n": n}}
    assert await worker.call_raw("echo", {"n": n}, 20) == ({"n": n}, b"")


async def test_bytes_over_the_limit_are_refused_and_the_worker_goes_on(worker: Worker) -> None:
    with pytest.raises(LimitExceeded, match="over 268435456"):
        await worker.call_raw("raw too large", {}, 20)
    assert await worker.call("echo", {}, 10) == {}


async def test_what_a_library_prints_does_not_reach_the_frames(worker: Worker) -> None:
    assert await worker.call("print", {"a": 1}, 10) == {"a": 1}
    assert await worker.call("text", {}, 10) == [1, "rendered"]


async def test_errors_of_the_handler_keep_their_class(worker: Worker) -> None:
    with pytest.raises(NotFound, match="no such thing"):
        await worker.call("missing", {}, 10)
    with pytest.raises(Invalid, match="no method nothing"):
        await worker.call("nothing", {}, 10)
    with pytest.raises(RuntimeError, match="ZeroDivisionError: oops"):
        await worker.call("bug", {}, 10)
    assert await worker.call("echo", {}, 10) == {}


async def test_a_death_is_unavailable_and_the_next_call_has_a_new_process(worker: Worker) -> None:
    await worker.call("echo", {}, 10)
    first = worker.pid
    with pytest.raises(Unavailable, match="exit status 7"):
        await worker.call("die", {}, 10)
    assert await worker.call("echo", {"again": True}, 10) == {"again": True}
    assert worker.pid != first


async def test_a_death_between_calls_is_not_seen_by_the_next(worker: Worker) -> None:
    await worker.call("echo", {}, 10)
    process = worker._process
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    await process.wait()
    assert await worker.call("echo", {"a": 1}, 10) == {"a": 1}


async def test_a_call_over_its_time_kills_the_worker(worker: Worker) -> None:
    await worker.call("echo", {}, 10)
    pid = worker.pid
    assert pid is not None
    with pytest.raises(Unavailable, match=r"did not answer sleep in 0\.1 s"):
        await worker.call("sleep", {"s": 60}, 0.1)
    await _until(lambda: not is_running(pid))
    assert await worker.call("echo", {}, 10) == {}


async def test_a_cancelled_call_does_not_shift_the_next_answer(worker: Worker) -> None:
    await worker.call("echo", {}, 10)
    task = asyncio.get_running_loop().create_task(worker.call("sleep", {"s": 60}, 100))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await worker.call("echo", {"n": 1}, 10) == {"n": 1}


async def test_limits_hold_in_the_child() -> None:
    worker = make(limits=Limits(address_bytes=256 << 20))
    try:
        with pytest.raises(LimitExceeded, match="memory"):
            await worker.call("allocate", {"bytes": 1 << 30}, 10)
        assert await worker.call("allocate", {"bytes": 1 << 20}, 10) == 1 << 20
    finally:
        await worker.close()


async def test_the_environment_of_the_parent_stays_with_it(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    seen = await worker.call("environment", {}, 10)
    assert isinstance(seen, dict)
    assert "AWS_SECRET_ACCESS_KEY" not in seen


async def test_close_ends_the_process_and_refuses_calls() -> None:
    worker = make()
    await worker.call("echo", {}, 10)
    pid = worker.pid
    await worker.close()
    assert pid is not None and not is_running(pid)
    with pytest.raises(Unavailable, match="closed"):
        await worker.call("echo", {}, 10)


async def test_a_command_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="cannot be started"):
        await Worker("test", ("/no/such/program",)).call("echo", {}, 10)


def test_a_worker_dies_with_its_parent() -> None:
    script = (
        "import asyncio, sys\n"
        "from marram.kit.pool import Worker\n"
        "async def main():\n"
        f"    worker = Worker('w', {CHILD!r}, env={{'PYTHONPATH': {str(ROOT)!r}}})\n"
        "    await worker.call('echo', {}, 10)\n"
        "    print(worker.pid, flush=True)\n"
        "    await worker.call('sleep', {'s': 60}, 100)\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=ROOT) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 10
    while is_running(pid):
        assert time.monotonic() < deadline, "the worker outlived its parent"
        time.sleep(0.01)


async def _until(claim: object) -> None:
    async with asyncio.timeout(10):
        while not claim():  # type: ignore[operator]
            await asyncio.sleep(0.01)
