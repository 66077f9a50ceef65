"""What benches compare with: mosquitto, amqtt, moto, ministack, each a process of its own that ends with its `with` block.

A peer that is not installed or does not come up is `Missing`: the bench says so by `miss` and leaves its rows out. Also here:
what /proc says of a process. Python peers live in .venv-bench (requirements/bench.txt), mosquitto is a Debian package.
"""

import contextlib
import os
import resource
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
PYTHON: Final = ROOT / ".venv-bench" / "bin" / "python"
START_S: Final = 40.0
STOP_S: Final = 10.0
SPARE_FILES: Final = 200

AMQTT: Final = """
import asyncio, logging, sys
from amqtt.broker import Broker

async def main():
    logging.disable(logging.CRITICAL)
    broker = Broker({
        "listeners": {"default": {"type": "tcp", "bind": "127.0.0.1:" + sys.argv[1]}},
        "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
    })
    await broker.start()
    await asyncio.Event().wait()

asyncio.run(main())
"""


class Missing(Exception):
    """The peer is not here; why."""


@dataclass(frozen=True, slots=True)
class Peer:
    pid: int
    port: int


def miss(name: str, why: object) -> None:
    """Loudly: `make bench` says it again at its end."""
    print(f"MISSING {name}: {why}", flush=True)


def say(text: str) -> None:
    print(f"   .. {text}", flush=True)


def full() -> bool:
    return os.environ.get("MARRAM_FULL") == "1"


# processes


@contextlib.contextmanager
def running(name: str, command: Sequence[str], port: int, **options: object) -> Iterator[Peer]:
    """`command` listens on `port`. Raises Missing when it does not."""
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, **options)  # type: ignore[call-overload]
    except OSError as exc:
        raise Missing(f"{name} cannot be started: {exc}") from exc
    try:
        _wait(name, port, process)
        yield Peer(process.pid, port)
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(name: str, port: int, process: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None:
            raise Missing(f"{name} ended with code {process.returncode} instead of listening")
        time.sleep(0.025)
    raise Missing(f"{name} did not listen within {START_S:.0f} s")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def pinned(core: int, command: Sequence[str]) -> list[str]:
    """Held to the first (0) or second (1) core that we may use, where there are two."""
    cores = sorted(os.sched_getaffinity(0))
    return ["taskset", "-c", str(cores[core]), *command] if len(cores) > 1 else list(command)


# brokers


@contextlib.contextmanager
def mosquitto(folder: Path, tls: Mapping[str, Path] | None = None) -> Iterator[Peer]:
    """With an ACL file, QoS 1 in memory. tls: `ca`, `certificate` and `key` of the server; clients then need certificates."""
    if shutil.which("mosquitto") is None and not Path("/usr/sbin/mosquitto").exists():
        raise Missing("mosquitto is not installed: apt-get install mosquitto")
    folder.mkdir(exist_ok=True)
    port, conf, acl = free_port(), folder / "mosquitto.conf", folder / "acl"
    lines = [
        f"listener {port} 127.0.0.1", "allow_anonymous true", f"acl_file {acl}", "persistence false",
        "max_queued_messages 0", "max_inflight_messages 100", "set_tcp_nodelay true", "log_dest none",
    ]  # fmt: skip
    if tls is not None:
        lines += [
            f"cafile {tls['ca']}", f"certfile {tls['certificate']}", f"keyfile {tls['key']}", "require_certificate true",
        ]  # fmt: skip
    if os.geteuid() == 0:
        lines.append("user root")  # it would give up its rights, and could not read the folder
    acl.write_text("topic readwrite bench/#\ntopic read other/#\n")
    acl.chmod(0o600)
    conf.write_text("\n".join(lines) + "\n")
    binary = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
    with running("mosquitto", pinned(0, [binary, "-c", str(conf)]), port, stderr=subprocess.DEVNULL) as peer:
        yield peer


@contextlib.contextmanager
def amqtt() -> Iterator[Peer]:
    """Without policies and without anything that writes a log."""
    port = free_port()
    with _python("amqtt", ["-c", AMQTT, str(port)], port, pin=True) as peer:
        yield peer


# API


@contextlib.contextmanager
def moto() -> Iterator[Peer]:
    port = free_port()
    with _python("moto", ["-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], port) as peer:
        yield peer


@contextlib.contextmanager
def ministack() -> Iterator[Peer]:
    """Without the doors that no bench asks at, and without Docker."""
    port = free_port()
    off = {"IOT_MTLS_ENABLED": "0", "SFTP_ENABLED": "0", "LOG_LEVEL": "ERROR", "DOCKER_HOST": "unix:///nonexistent"}
    given = {"GATEWAY_PORT": str(port), "BIND_HOST": "127.0.0.1", **off}
    with _python("ministack", ["-m", "ministack"], port, given) as peer:
        yield peer


@contextlib.contextmanager
def _python(
    name: str, arguments: Sequence[str], port: int, given: Mapping[str, str] | None = None, *, pin: bool = False
) -> Iterator[Peer]:
    """A program of .venv-bench, in a folder of its own that goes with it."""
    if not PYTHON.exists():
        raise Missing(
            f"{name} is not installed: .venv-bench is not there (make bench makes it from requirements/bench.txt)"
        )
    if subprocess.run([str(PYTHON), "-c", f"import {name}"], capture_output=True, check=False).returncode:
        raise Missing(f"{name} is not installed in .venv-bench (requirements/bench.txt)")
    command = [str(PYTHON), *arguments]
    with tempfile.TemporaryDirectory(prefix=f"bench-{name}-", ignore_cleanup_errors=True) as folder:
        environ = {**os.environ, "HOME": folder, "TMPDIR": folder, **(given or {})}
        environ.pop("PYTHONPATH", None)
        with running(
            name, pinned(0, command) if pin else command, port, env=environ, cwd=folder, stderr=subprocess.DEVNULL
        ) as peer:
            yield peer


# what /proc knows


def cpu_s(pid: int) -> float:
    """CPU time of the process so far, all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_kb(pid: int) -> int:
    return _field(f"/proc/{pid}/status", "VmRSS:")


def pss_kb(pid: int) -> int:
    return _field(f"/proc/{pid}/smaps_rollup", "Pss:")


def _field(path: str, name: str) -> int:
    return int(next(line for line in Path(path).read_text().splitlines() if line.startswith(name)).split()[1])


def files(wanted: int) -> int:
    """Raise the limit of open files, here and so in children; how many connections of `wanted` it allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and hard - SPARE_FILES < wanted:
        miss(f"{wanted} connections", f"the limit of open files is {hard} (ulimit -n)")
        return hard - SPARE_FILES
    return wanted
