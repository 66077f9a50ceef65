"""Child processes for components: own process group, limits, death with the parent, output line by line, no orphans.

The child is `python -I -S jail.py` that becomes the program (no preexec_fn: not safe with threads). Its end is seen through
a pidfd; it is reaped only by `close`, so that its group id cannot belong to somebody else while we may still signal it.
Not here: worker processes that speak frames (kit/pool).
"""

import asyncio
import contextlib
import os
import pwd
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from marram.core.errors import Invalid, Unavailable

JAIL: Final = Path(__file__).with_name("jail.py")
MAX_LINE: Final = 8192
READ_BYTES: Final = 65536

Sink = Callable[[bytes], None]  # one line, without its end


_PR_SET_DUMPABLE: Final = 4


def shield() -> None:
    """Keep this process's memory, with its keys, from other processes of the same user, and out of core files.

    It holds until the next exec, so programs that we start are not concerned. Where the system has no such thing (it is
    Linux's), or Python no ctypes, nothing happens.
    """
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import ctypes  # here: an edge core needs it for nothing else

        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def more_files() -> int:
    """Raise the limit of open files to the most that this process may have, for it and those it starts. Returns it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    uid: int
    gid: int
    groups: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Hard limits; None = the parent's. memory_bytes is address space."""

    memory_bytes: int | None = None
    open_files: int | None = None
    core_bytes: int | None = 0

    def settings(self) -> dict[str, int]:
        named = {"RLIMIT_AS": self.memory_bytes, "RLIMIT_NOFILE": self.open_files, "RLIMIT_CORE": self.core_bytes}
        return {name: value for name, value in named.items() if value is not None}


def user(text: str) -> User:
    """`name`, `name:group` or numbers, as runWith.posixUser has them. Raises Invalid when there is no such user."""
    name, _, group = text.partition(":")
    try:
        entry = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
    except KeyError as exc:
        raise Invalid(f"no such user on this device: {name}") from exc
    gid = entry.pw_gid
    if group:
        import grp

        try:
            gid = int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
        except KeyError as exc:
            raise Invalid(f"no such group on this device: {group}") from exc
    return User(uid=entry.pw_uid, gid=gid, groups=tuple(os.getgrouplist(entry.pw_name, gid)))


class Child:
    """A running program. `await wait()` for its exit code (negative = signal), `await close()` always in the end."""

    def __init__(
        self, popen: "subprocess.Popen[bytes]", argv: Sequence[str], out: Sink | None, err: Sink | None
    ) -> None:
        self.pid = popen.pid
        self.argv = tuple(argv)
        self.code: int | None = None
        self._popen = popen
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int] = self._loop.create_future()
        self._pipes: list[_Pipe] = []
        self._closed = False
        for stream, sink in ((popen.stdout, out), (popen.stderr, err)):
            if stream is not None and sink is not None:
                self._pipes.append(_Pipe(os.dup(stream.fileno()), sink, self._loop))
                stream.close()
        self._pidfd = os.pidfd_open(popen.pid)
        self._loop.add_reader(self._pidfd, self._exited)

    async def wait(self) -> int:
        return await asyncio.shield(self._ended)

    def signal(self, number: int) -> None:
        """To the whole group; a group that is gone is fine."""
        if not self._closed:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    async def close(self, grace_s: float = 0.0) -> int:
        """End the whole group: SIGTERM, `grace_s`, SIGKILL; reap. Safe to call twice. Returns the exit code."""
        if self._closed:
            return self._ended.result()
        try:
            if grace_s > 0 and self._group_lives():
                self.signal(signal.SIGTERM)
                deadline = self._loop.time() + grace_s
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(deadline):
                        await self.wait()
                # the others of the group have no pidfd of ours: look, briefly
                while self._group_lives() and self._loop.time() < deadline:
                    await asyncio.sleep(0.01)
        finally:
            self.signal(signal.SIGKILL)
        code = await self.wait()
        if not self._closed:
            self._closed = True
            for pipe in self._pipes:
                pipe.close()
            os.close(self._pidfd)
            self._popen.wait()  # it has ended: this does not block
        return code

    def _exited(self) -> None:
        self._loop.remove_reader(self._pidfd)
        for pipe in self._pipes:
            pipe.drain()
        # WNOWAIT leaves the zombie, and with it the group id, to us until `close`.
        info = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        assert info is not None
        self.code = info.si_status if info.si_code == os.CLD_EXITED else -info.si_status
        if not self._ended.done():
            self._ended.set_result(self.code)

    def _group_lives(self) -> bool:
        """Whether anyone of the group but our zombie is there."""
        if self.code is None:
            return True
        return any(True for _ in group_members(self.pid))

    def __repr__(self) -> str:
        return f"<child {self.pid} {self.code if self.code is not None else 'running'}>"


class _Pipe:
    """Reads one output without blocking and cuts it into lines; a line over the limit is cut into several."""

    def __init__(self, fd: int, sink: Sink, loop: asyncio.AbstractEventLoop) -> None:
        self._fd = fd
        self._sink = sink
        self._loop = loop
        self._rest = b""
        os.set_blocking(fd, False)
        loop.add_reader(fd, self._read)

    def _read(self) -> bool:
        try:
            data = os.read(self._fd, READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self.close()
            return False
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            self._line(line)
        while len(self._rest) > MAX_LINE:
            self._line(self._rest[:MAX_LINE])
            self._rest = self._rest[MAX_LINE:]
        return True

    def _line(self, line: bytes) -> None:
        for at in range(0, max(1, len(line)), MAX_LINE):
            self._sink(line[at : at + MAX_LINE])

    def drain(self) -> None:
        """What is in the pipe now, at most 1 MB: a grandchild may hold the other end and write for ever."""
        for _ in range(16):
            if self._fd < 0 or not self._read():
                return

    def close(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
            if self._rest:
                self._line(self._rest)
                self._rest = b""


def spawn(
    argv: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    user: User | None = None,
    limits: Limits | None = None,
    stdout: Sink | None = None,
    stderr: Sink | None = None,
) -> Child:
    """Start `argv` in its own process group; standard input is empty. Call on the loop. Raises Unavailable.

    user: only root may give another. `env` is the whole environment of the program.
    """
    settings = {
        "parent": str(os.getpid()),
        **{name: str(each) for name, each in (limits or Limits()).settings().items()},
    }
    if user is not None:
        settings |= {"uid": str(user.uid), "gid": str(user.gid), "groups": ",".join(map(str, user.groups))}
    if "LC_CTYPE" not in env:
        settings["unset"] = "LC_CTYPE"  # CPython sets it itself in the C locale
    text = ";".join(f"{key}={value}" for key, value in settings.items())
    command = [sys.executable, "-I", "-S", str(JAIL), text, "--", *argv]
    try:
        popen = subprocess.Popen(
            command,
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if stdout else subprocess.DEVNULL,
            stderr=subprocess.PIPE if stderr else subprocess.DEVNULL,
            process_group=0,
        )
    except OSError as exc:
        raise Unavailable(f"cannot start {argv[0]}: {exc.strerror}") from exc
    return Child(popen, argv, stdout, stderr)


def group_members(group: int) -> Iterable[int]:
    """Process ids of a group, zombies left out."""
    for pid, fields in _processes():
        if fields[0] != "Z" and int(fields[2]) == group:
            yield pid


def end_leftovers(marker: str) -> int:
    """SIGKILL every process whose environment has the line `marker`; how many. For the start after a crash of ours."""
    wanted = marker.encode()
    ended = 0
    for pid, _ in list(_processes()):
        if pid == os.getpid():
            continue
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        if wanted in environment.split(b"\0"):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
                ended += 1
    return ended


def _processes() -> Iterable[tuple[int, list[str]]]:
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError, IndexError):
                text = Path(f"/proc/{name}/stat").read_text(errors="replace")
                yield int(name), text.rpartition(")")[2].split()


@dataclass(slots=True, kw_only=True)
class RollingLog:
    """`path` and older `path.1` ... up to `files`, each at most `file_bytes`. A full disk loses lines, counted, never raises."""

    path: Path
    file_bytes: int = 1 << 20
    files: int = 4
    lost: int = 0
    _fd: int = field(default=-1, init=False)
    _size: int = field(default=0, init=False)

    def write(self, level: str, line: bytes, stream: str = "stdout") -> None:
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
        data = f"{stamp} [{level}] {stream}: ".encode() + _printable(line) + b"\n"
        try:
            if self._fd < 0:
                self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
                self._size = os.fstat(self._fd).st_size
            if self._size + len(data) > self.file_bytes and self._size:
                self._roll()
            os.write(self._fd, data)
            self._size += len(data)
        except OSError:
            self.lost += 1

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _roll(self) -> None:
        self.close()
        for number in range(self.files - 1, 0, -1):
            older = self.path.with_name(f"{self.path.name}.{number}")
            newer = self.path if number == 1 else self.path.with_name(f"{self.path.name}.{number - 1}")
            with contextlib.suppress(FileNotFoundError):
                os.rename(newer, older)
        self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o640)
        self._size = 0


def _printable(line: bytes) -> bytes:
    # ESC and other control characters of a component must not reach the terminal of whoever reads its log.
    if line.isascii() and line.decode("ascii").isprintable():
        return line
    return line.decode(errors="replace").translate(_CONTROL).encode()


_CONTROL: Final = {number: f"\\x{number:02x}" for number in (*range(9), *range(10, 32), *range(127, 160))}
