"""The demo's processes: started, waited for until they say they are ready, ended by their own pid, whatever happens."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from demo.show import Stopped

STOP_S = 12.0


def marram() -> list[str]:
    """The command `marram` of this environment."""
    script = Path(sys.executable).with_name("marram")
    return [str(script)] if script.exists() else [sys.executable, "-m", "marram.cli.main"]


def run(*words: object, timeout_s: float = 120.0) -> str:
    """A `marram` command; its standard output. Raises Stopped with what it said."""
    done = subprocess.run([*marram(), *map(str, words)], capture_output=True, text=True, timeout=timeout_s, check=False)
    if done.returncode:
        said = done.stderr.strip() or done.stdout.strip()
        raise Stopped(f"marram {' '.join(map(str, words[:3]))} failed with {done.returncode}: {said[-600:]}")
    return done.stdout


def ask(*words: object) -> Any:
    """A `marram ... --json` command's answer."""
    return json.loads(run(*words, "--json"))


class Child:
    """One process in its own group. Its standard output is read for the ready line, then kept with its errors in `log`."""

    def __init__(self, name: str, argv: list[str], log: Path, *, talk: bool = False) -> None:
        self.name, self.argv, self.log = name, argv, log
        self._talk = talk
        self._errors = log.open("ab")
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE if talk else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
        )
        self._lines: list[str] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, name=f"read-{name}", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._news:
                self._lines.append(line.decode(errors="replace").rstrip())
                self._news.notify_all()
            with contextlib.suppress(ValueError):  # the log was closed at the end
                self._errors.write(line)
                self._errors.flush()
        with self._news:
            self._news.notify_all()

    def wait_line(self, prefix: str, timeout_s: float) -> str:
        """The first line that begins so. Raises Stopped when the process ends or says nothing in time."""
        end = time.monotonic() + timeout_s
        with self._news:
            while (left := end - time.monotonic()) > 0:
                line = next((line for line in self._lines if line.startswith(prefix)), "")
                if line:
                    return line
                if not self.running:
                    break
                self._news.wait(min(left, 0.2))
        why = (
            f"ended with {self._process.poll()}"
            if not self.running
            else f"did not say {prefix!r} within {timeout_s:g} s"
        )
        raise Stopped(f"{self.name} {why}: {self.last_words()} (see {self.log})")

    def forget_lines(self, prefix: str) -> None:
        with self._news:
            self._lines = [line for line in self._lines if not line.startswith(prefix)]

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def last_words(self) -> str:
        with contextlib.suppress(OSError):
            lines = self.log.read_text(errors="replace").strip().splitlines()
            return " | ".join(lines[-2:])[-500:]
        return ""

    def kill(self) -> None:
        """SIGKILL to the process itself, as a power cut would; its children are its own affair."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self._process.wait()
        self._close()

    def terminate(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self.running:
                os.kill(self.pid, signal.SIGTERM)

    def end(self) -> None:
        """SIGTERM, a while later SIGKILL to its whole group."""
        self.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_S)
        if self.running:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()
        self._close()

    def _close(self) -> None:
        self._reader.join(1.0)  # what it left behind may hold the pipe open
        for stream in (self._process.stdin, self._process.stdout if not self._reader.is_alive() else None):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        self._errors.close()


class Family:
    """All children; ended together, newest first."""

    def __init__(self) -> None:
        self._children: list[Child] = []

    def start(self, name: str, argv: list[str], log: Path, *, talk: bool = False) -> Child:
        child = Child(name, argv, log, talk=talk)
        self._children.append(child)
        return child

    def forget(self, child: Child) -> None:
        self._children.remove(child)

    def end(self) -> None:
        for child in reversed(self._children):
            child.terminate()  # all at once: each takes its own time
        for child in reversed(self._children):
            with contextlib.suppress(Exception):
                child.end()
        self._children.clear()

    def pids(self) -> list[int]:
        return [child.pid for child in self._children if child.running]


@contextlib.contextmanager
def family() -> Iterator[Family]:
    """Ends every child, on Ctrl-C and SIGTERM too."""
    made = Family()

    def stop(number: int, _frame: object) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield made
    finally:
        ignored = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, *before)}
        made.end()
        for number, handler in {**ignored, **before}.items():
            signal.signal(number, handler)
