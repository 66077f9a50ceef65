"""Programs of users: a root of their own with the system, our Python and their folders in it, and nothing else of the machine.

They run as our user, without a capability, in user, mount, process and IPC namespaces (kit/enclosure.py), read-only but for
`write`. Not here: the network (a program may fetch what it needs, and reaches what listens on this machine), memory and CPU.
"""

import asyncio
import glob
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from marram.core.errors import MarramError
from marram.kit import disk, process
from marram.kit.process import Child, Limits, Sink

ENCLOSURE: Final = Path(__file__).with_name("enclosure.py")
SYSTEM: Final = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/gnu/store", "/sys")
# Not the whole of /etc: a hub of root's would show /etc/shadow and the keys of the machine.
ETC: Final = (
    "alternatives", "ca-certificates", "fonts", "group", "gai.conf", "host.conf", "hosts", "ld.so.cache", "ld.so.conf",
    "ld.so.conf.d", "localtime", "magic", "mime.types", "nsswitch.conf", "OpenCL", "passwd", "pki/ca-trust", "pki/tls/certs",
    "protocols", "resolv.conf", "services", "ssl/cert.pem", "ssl/certs", "ssl/openssl.cnf", "timezone", "vulkan",
)  # fmt: skip
DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/dri", "/dev/kfd")
PROBE_S: Final = 20.0


def spawn(
    argv: Sequence[str],
    *,
    cwd: str,
    env: Mapping[str, str],
    scratch: Path,
    write: Mapping[Path, str],
    hide: Path,
    limits: Limits | None = None,
    stdout: Sink | None = None,
    stderr: Sink | None = None,
) -> Child:
    """Start `argv` (absolute) inside; the exit code is the program's, 125 and a line on stderr when there is no enclosure.

    scratch: an empty folder of ours, not seen inside. write: folder outside -> path inside. hide: not there, even where it
    lies below what is shown (a venv, /usr). cwd: inside. Signals go to the whole group as ever. Raises Unavailable.
    """
    root = scratch / "root"
    root.mkdir()
    settings = {
        "root": str(root.resolve()),
        "read": readable(),
        "hide": str(hide.resolve()),
        "devices": [*DEVICES, *sorted(glob.glob("/dev/nvidia*"))],
        "write": [[str(outside.resolve()), inside] for outside, inside in write.items()],
        "cwd": cwd,
        "env": dict(env),
        "argv": list(argv),
    }
    path = scratch / "settings.json"
    path.write_text(json.dumps(settings), encoding="ascii")
    path.chmod(0o600)
    return process.spawn(
        [sys.executable, "-I", "-S", str(ENCLOSURE), str(path)],
        cwd=scratch,
        env={"PATH": os.environ.get("PATH", os.defpath)},
        limits=limits,
        stdout=stdout,
        stderr=stderr,
    )


def readable() -> list[str]:
    """The paths that are shown, outer ones first: the system's, and our Python with its packages."""
    ours = {path for each in (sys.prefix, sys.base_prefix, sys.exec_prefix) for path in (each, os.path.realpath(each))}
    ours.add(str(Path(__file__).resolve().parents[1]))  # the package marram, where it is not among the packages
    python = sys.executable
    while os.path.islink(python):  # each step of a venv's link to its Python
        python = os.path.join(os.path.dirname(python), os.readlink(python))
        if (folder := os.path.dirname(os.path.dirname(os.path.abspath(python)))) != "/":
            ours.add(folder)
    return [*SYSTEM, *(f"/etc/{name}" for name in ETC), *sorted(ours - {"/"})]


_answer: list[str] = []  # of the probe


async def missing() -> str:
    """What this machine lacks for `spawn`, for people; empty when nothing. Found out once, by doing it."""
    if not _answer:
        _answer.append(await _probe())
    return _answer[0]


async def _probe() -> str:
    lines: list[bytes] = []
    with tempfile.TemporaryDirectory(prefix="marram-probe-") as name:
        scratch, work = Path(name, "scratch"), Path(name, "work")
        try:
            for folder in (scratch, work):
                disk.make_dirs(folder)
            child = spawn(
                [sys.executable, "-c", "print('started')"],
                cwd="/opt/ml", env={}, scratch=scratch, write={work: "/opt/ml"}, hide=work,
                stdout=lines.append, stderr=lines.append,
            )  # fmt: skip
            try:
                async with asyncio.timeout(PROBE_S):
                    code = await child.wait()
            finally:
                await child.close()
        except TimeoutError:
            return f"the probe did not end in {PROBE_S:.0f} s"
        except MarramError as exc:
            return exc.message
    if code == 0 and lines == [b"started"]:
        return ""
    said = b" ".join(lines[-3:]).decode(errors="replace")[-300:] or f"the probe ended with {code}"
    return said.removeprefix("not started: ") + _why()


def _why() -> str:
    """What usually forbids it."""
    for path, bad in (
        ("/proc/sys/user/max_user_namespaces", "0"),
        ("/proc/sys/kernel/unprivileged_userns_clone", "0"),
        ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"),
    ):
        try:
            found = Path(path).read_text().strip()
        except OSError:
            continue
        if found == bad:
            return f" ({path} is {bad})"
    return ""
