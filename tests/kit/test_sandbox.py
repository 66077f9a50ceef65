"""Sandboxes: what is not listed is not there, and whatever a program starts ends with it, with a stop and with the hub."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from marram.kit import process, sandbox
from marram.kit.process import Child

READ = """
import glob, sys
for path in [*sys.argv[1:], *(f"{at}{path}" for at in glob.glob("/proc/[0-9]*/root") for path in sys.argv[1:])]:
    try:
        print("read", open(path, "rb").read().decode())
    except OSError as exc:
        print(type(exc).__name__)
"""


def start(
    folder: Path,
    script: str,
    lines: list[bytes],
    *,
    argv: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    hide: Path | None = None,
) -> Child:
    scratch, work = folder / "scratch", folder / "work"
    scratch.mkdir(parents=True)
    work.mkdir(exist_ok=True)
    return sandbox.spawn(
        [sys.executable, "-c", script, *argv],
        cwd="/opt/ml", env=env or {}, scratch=scratch, write={work: "/opt/ml"}, hide=hide or folder,
        stdout=lines.append, stderr=lines.append,
    )  # fmt: skip


async def ran(folder: Path, script: str, **more: object) -> tuple[int, list[bytes]]:
    lines: list[bytes] = []
    child = start(folder, script, lines, **more)  # type: ignore[arg-type]
    async with asyncio.timeout(30):
        await child.wait()
    return await child.close(), lines


async def said(lines: list[bytes], word: bytes) -> None:
    async with asyncio.timeout(20):
        while word not in lines:
            await asyncio.sleep(0.01)


def living(marker: str) -> list[int]:
    """Processes with `marker` among their arguments, zombies left out."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if marker.encode() in (path / "cmdline").read_bytes() and int(path.name) != os.getpid():
                found.append(int(path.name))
        except OSError:
            continue
    return found


async def test_the_hubs_folder_is_not_there(tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    secrets = [hub / name for name in ("pki/master.key", "hub.json", "hub.db", "jobs/other/opt/ml/model/m")]
    for secret in secrets:
        secret.parent.mkdir(parents=True, exist_ok=True)
        secret.write_text("secret")
    argv = [str(secret) for secret in secrets]
    open_lines: list[bytes] = []
    child = process.spawn([sys.executable, "-c", READ, *argv], cwd=hub, env={}, stdout=open_lines.append)
    await child.wait()
    await child.close()
    assert open_lines.count(b"read secret") >= len(secrets), "the same program reads them without a sandbox"
    code, lines = await ran(hub / "jobs/one", READ, argv=argv, hide=hub)
    assert code == 0 and len(lines) > 2 * len(secrets) and set(lines) <= {b"FileNotFoundError", b"PermissionError"}, (
        lines
    )


async def test_the_hubs_folder_is_not_there_even_below_what_is_shown(tmp_path: Path) -> None:
    script = "import os; print(os.listdir('/usr/share')); print(len(os.listdir('/usr')) > 1)"
    assert await ran(tmp_path, script, hide=Path("/usr/share")) == (0, [b"[]", b"True"])


async def test_nothing_is_writable_but_its_own(tmp_path: Path) -> None:
    script = f"""
import os, sys
for path in (
    "/x", "/usr/x", "/etc/x", "/dev/x", "/sys/x", "/proc/sys/kernel/core_pattern", {sys.prefix + "/x"!r},
    {str(sandbox.ENCLOSURE)!r}, "/proc/sysrq-trigger",
):
    try:
        open(path, "r+" if os.path.exists(path) else "w")
        print("opened", path)
    except OSError as exc:
        pass
open("/opt/ml/mine", "w").write("1")
open("/dev/shm/mine", "w").write("1")
for private in ("/etc/shadow", "/root/.ssh", "/home", "/var", "/run", "/dev/sda", "/dev/vda", "/dev/tty"):
    if os.path.exists(private):
        print("there is", private)
import ctypes
for flags, what in ((32 | 4096, "remounted"), (0, "mounted")):
    if ctypes.CDLL(None).mount(b"tmpfs", b"/opt/ml", b"tmpfs", flags, None) == 0:
        print(what)
print(os.getpid(), sorted(int(n) for n in os.listdir("/proc") if n.isdecimal()))
"""
    assert await ran(tmp_path, script) == (0, [b"2 [1, 2]"])
    assert (tmp_path / "work/mine").read_text() == "1"


async def test_two_at_once_have_each_their_own_folder(tmp_path: Path) -> None:
    script = """
import os, time
name = open("/opt/ml/name").read()
print("up", flush=True)
while not os.path.exists("/opt/ml/go"):
    time.sleep(0.01)
open("/opt/ml/out", "w").write(name * 2)
"""
    outputs: dict[str, list[bytes]] = {"a": [], "b": []}
    children: list[Child] = []
    for name, lines in outputs.items():
        (tmp_path / name / "work").mkdir(parents=True)
        (tmp_path / name / "work/name").write_text(name)
        children.append(start(tmp_path / name, script, lines))
    for lines in outputs.values():
        await said(lines, b"up")
    for name in outputs:
        (tmp_path / name / "work/go").touch()
    async with asyncio.timeout(20):
        assert [await child.wait() for child in children] == [0, 0]
    for child in children:
        await child.close()
    assert [(tmp_path / name / "work/out").read_text() for name in outputs] == ["aa", "bb"]


@pytest.mark.parametrize(
    ("script", "code"),
    [
        pytest.param("pass", 0, id="ends well"),
        pytest.param("raise SystemExit(7)", 7, id="exit code"),
        pytest.param("import os; os.kill(os.getpid(), 9)", -9, id="killed"),
        pytest.param("import os; os.abort()", -6, id="aborted"),
    ],
)
async def test_exit_codes(tmp_path: Path, script: str, code: int) -> None:
    assert (await ran(tmp_path, script))[0] == code


async def test_its_environment_is_what_was_given_and_takes_effect_inside_only(tmp_path: Path) -> None:
    script = "import os; print(sorted(os.environ)); print(os.environ['A'])"
    code, lines = await ran(tmp_path, script, env={"A": "é=1", "LD_PRELOAD": "/no/such.so"})
    assert code == 0
    assert lines[-2:] in (
        [b"['A', 'LC_CTYPE', 'LD_PRELOAD']", "é=1".encode()],
        [b"['A', 'LD_PRELOAD']", "é=1".encode()],
    )
    assert sum(b"/no/such.so" in line for line in lines) == 1, "the loader of the program alone has seen it"


async def test_a_stop_reaches_the_program_and_the_rest_goes_with_it(tmp_path: Path) -> None:
    marker = f"marker-{tmp_path.name}-{os.getpid()}"
    script = f"""
import os, signal, subprocess, sys, time
def stop(*_):
    print("asked", flush=True)
    os._exit(3)
signal.signal(signal.SIGTERM, stop)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", {marker!r}], start_new_session=True)
print("up", flush=True)
time.sleep(600)
"""
    lines: list[bytes] = []
    child = start(tmp_path, script, lines)
    await said(lines, b"up")
    assert living(marker)
    child.signal(signal.SIGTERM)
    async with asyncio.timeout(20):
        assert await child.wait() == 3
    assert b"asked" in lines
    assert not living(marker), "what left the group has ended before the program counts as ended"
    await child.close()


async def test_close_ends_one_that_does_not_listen_and_what_left_its_group(tmp_path: Path) -> None:
    marker = f"marker-{tmp_path.name}-{os.getpid()}"
    script = f"""
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", {marker!r}], start_new_session=True)
print("up", flush=True)
time.sleep(600)
"""
    lines: list[bytes] = []
    child = start(tmp_path, script, lines)
    await said(lines, b"up")
    assert await child.close(0.2) == -signal.SIGKILL
    async with asyncio.timeout(10):
        while living(marker):
            await asyncio.sleep(0.01)


def test_kill_of_the_hub_leaves_no_orphan(tmp_path: Path) -> None:
    marker = f"marker-{tmp_path.name}-{os.getpid()}"
    inside = f"""
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", {marker!r}], start_new_session=True)
print("up", flush=True)
time.sleep(600)
"""
    program = textwrap.dedent(f"""
        import asyncio, os, signal, sys
        from pathlib import Path
        from marram.kit import sandbox
        folder = Path({str(tmp_path)!r})
        async def main():
            (folder / "scratch").mkdir(); (folder / "work").mkdir()
            up = asyncio.Event()
            sandbox.spawn(
                [sys.executable, "-c", {inside!r}, {marker!r}], cwd="/opt/ml", env={{}}, scratch=folder / "scratch",
                write={{folder / "work": "/opt/ml"}}, hide=folder, stdout=lambda line: up.set(),
            )
            await up.wait()
            for _ in range(200):  # a process that has just begun has no words yet
                found = len([p for p in os.listdir("/proc") if p.isdecimal() and {marker!r}.encode() in
                             Path("/proc", p, "cmdline").read_bytes() and int(p) != os.getpid()])
                if found >= 2:
                    break
                await asyncio.sleep(0.05)
            print(found, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        asyncio.run(main())
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert int(done.stdout) >= 2
    until = time.monotonic() + 10
    while left := living(marker):
        assert time.monotonic() < until, f"outlived the hub: {left}"
        time.sleep(0.01)


async def test_this_machine_gives_sandboxes() -> None:
    assert await sandbox.missing() == ""


def test_a_machine_without_namespaces_says_what_is_missing() -> None:
    ask = "import asyncio, json; from marram.kit import sandbox; print(json.dumps(asyncio.run(sandbox.missing())))"
    limited = f"echo 0 > /proc/sys/user/max_user_namespaces && exec {sys.executable} -c '{ask}'"
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "sh", "-c", limited],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    answer = json.loads(done.stdout)
    assert "user, mount and process namespaces" in answer and "max_user_namespaces is 0" in answer
