"""Child processes: they end as a group, their output arrives whole, limits and the environment are what was asked for."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from marram.core.errors import Invalid
from marram.kit import process
from marram.kit.process import Child, Limits, RollingLog

ENVIRONMENT = {"PATH": os.environ["PATH"], "LANG": "C"}


def start(script: str, lines: list[bytes] | None = None, **more: object) -> Child:
    sink = lines.append if lines is not None else None
    return process.spawn(["sh", "-c", script], cwd=Path("/"), env=ENVIRONMENT, stdout=sink, stderr=sink, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("script", "code"),
    [
        pytest.param("true", 0, id="ends well"),
        pytest.param("exit 7", 7, id="exit code"),
        pytest.param("kill -9 $$", -9, id="signal"),
        pytest.param("kill -TERM $$", -15, id="default signals"),
    ],
)
async def test_exit_codes(script: str, code: int) -> None:
    child = start(script)
    assert await child.wait() == code
    assert await child.close() == code


async def test_a_program_that_is_not_there_says_so() -> None:
    lines: list[bytes] = []
    child = process.spawn(["/no/such"], cwd=Path("/"), env=ENVIRONMENT, stdout=lines.append, stderr=lines.append)
    assert await child.wait() == 127
    await child.close()
    assert any(b"/no/such" in line for line in lines)


async def test_all_output_arrives_in_lines_and_long_ones_are_cut() -> None:
    lines: list[bytes] = []
    child = start(f"{sys.executable} -c \"print('a'); print('x' * 20000); print('end', end='')\"; echo err >&2", lines)
    await child.wait()
    await child.close()
    assert lines[0] == b"a" and b"err" in lines and lines[-1] in (b"end", b"err")
    assert max(map(len, lines)) <= process.MAX_LINE
    assert b"".join(lines).count(b"x") == 20000


async def test_closing_ends_the_whole_group_and_asks_first() -> None:
    lines: list[bytes] = []
    child = start("trap 'echo asked; exit 0' TERM; sleep 600 & echo up; wait", lines)
    while b"up" not in lines:
        await asyncio.sleep(0.01)
    members = list(process.group_members(child.pid))
    assert len(members) == 2
    assert await child.close(5.0) == 0
    assert b"asked" in lines
    assert not list(process.group_members(child.pid))


async def test_who_does_not_listen_is_killed_after_the_grace() -> None:
    lines: list[bytes] = []
    child = start("trap '' TERM; echo up; while true; do sleep 0.05; done", lines)
    while b"up" not in lines:
        await asyncio.sleep(0.01)
    assert await child.close(0.2) == -signal.SIGKILL


async def test_what_a_leader_left_behind_goes_with_close() -> None:
    child = start("sleep 600 & exit 0")
    assert await child.wait() == 0
    assert len(list(process.group_members(child.pid))) == 1
    await child.close()
    async with asyncio.timeout(10):  # SIGKILL was sent; nobody tells us when another's child has gone
        while list(process.group_members(child.pid)):
            await asyncio.sleep(0.01)


async def test_limits_and_environment() -> None:
    lines: list[bytes] = []
    child = start("ulimit -n; ulimit -c; env", lines, limits=Limits(open_files=64))
    await child.wait()
    await child.close()
    assert lines[:2] == [b"64", b"0"]
    names = {line.partition(b"=")[0] for line in lines[2:]}
    assert names <= {b"PATH", b"LANG", b"PWD", b"SHLVL", b"_", b"OLDPWD"}


@pytest.mark.root
async def test_another_user_when_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    lines: list[bytes] = []
    child = start("id -un", lines, user=process.user("nobody"))
    code = await child.wait()
    await child.close()
    assert (code, lines) == (0, [b"nobody"])
    with pytest.raises(Invalid):
        process.user("nobody-of-this-name")


def test_the_death_of_the_parent_is_the_childs(tmp_path: Path) -> None:
    program = textwrap.dedent(f"""
        import asyncio, os, signal
        from pathlib import Path
        from marram.kit import process
        async def main():
            child = process.spawn(["sleep", "600"], cwd=Path("/"), env={ENVIRONMENT!r}, stdout=None, stderr=None)
            print(child.pid, flush=True)
            while Path(f"/proc/{{child.pid}}/comm").read_text() != "sleep\\n":
                await asyncio.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        asyncio.run(main())
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    pid = int(done.stdout)
    for _ in range(500):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return
        except FileNotFoundError:
            return
        time.sleep(0.01)
    raise AssertionError("the child outlived its parent")


def test_a_rolling_log_is_bounded_and_free_of_control_characters(tmp_path: Path) -> None:
    log = RollingLog(path=tmp_path / "c.log", file_bytes=1000, files=3)
    for number in range(200):
        log.write("INFO", f"line {number} \x1b[31mred".encode())
    log.close()
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["c.log", "c.log.1", "c.log.2"]
    assert all(path.stat().st_size <= 1000 for path in tmp_path.iterdir())
    assert "line 199" in (tmp_path / "c.log").read_text() and "\x1b" not in (tmp_path / "c.log").read_text()


def test_a_log_that_cannot_be_written_loses_lines_and_counts_them(tmp_path: Path) -> None:
    log = RollingLog(path=tmp_path / "no" / "c.log")
    log.write("INFO", b"x")
    assert log.lost == 1
