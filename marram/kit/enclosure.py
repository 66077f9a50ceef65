"""Runs as `python -I -S enclosure.py SETTINGS` below kit/jail: the namespaces, a root with what is listed alone, the program.

Three processes: this one waits and passes the exit on; the first of the new process namespace mounts and reaps; its child
becomes the program. When any of the first two ends, the kernel ends all that is inside, whatever group or session it is in.
The environment of the program is in SETTINGS and not ours: an LD_PRELOAD in it must take effect inside only.

SETTINGS: a JSON file (kit.sandbox writes it): root (empty folder, becomes the root), read (paths as they are, read-only),
hide (folder that is not there whatever `read` says; what `read` lists below it is), devices, write ([outside, inside]),
cwd, env, argv. Exit codes of its own: 125 no enclosure, 126 and 127 as the shell has them. Linux 5.12 or newer.
Nothing is hidden by being covered: the old root is taken away (pivot_root), so that no unmounting brings it back.
"""

import ctypes
import json
import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NEWNS, NEWIPC, NEWUSER, NEWPID = 0x20000, 0x8000000, 0x10000000, 0x20000000
RDONLY, NOSUID, NODEV, NOEXEC, BIND, REC, PRIVATE = 1, 2, 4, 8, 4096, 16384, 1 << 18
DETACH = 2
SET_PDEATHSIG, CAPBSET_DROP, SET_NO_NEW_PRIVS = 1, 24, 38
SYS_MOUNT_SETATTR = 442  # the same number on every architecture
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
LINKS = {"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"}

libc = ctypes.CDLL(None, use_errno=True)


def main() -> int:
    try:
        return _outside()
    except (OSError, ValueError, KeyError, IndexError) as exc:
        sys.stderr.write(f"not started: {exc}\n")
        return 125


def _outside() -> int:
    with open(sys.argv[1], encoding="ascii") as file:
        settings = json.load(file)
    hub = os.getppid()
    uid, gid = os.geteuid(), os.getegid()
    _call("user, mount and process namespaces", libc.unshare, NEWUSER | NEWNS | NEWPID | NEWIPC)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    libc.prctl(SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # again: a change of credentials may clear it
    if os.getppid() != hub:
        return 125
    ready, status = os.pipe()
    us = os.getpid()
    first = os.fork()
    if first == 0:
        os.close(ready)
        _first(settings, status)
    os.close(status)
    # Until the program runs, SIGTERM ends us; from then on it is the program's to obey.
    if os.read(ready, 1):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
    said = os.read(ready, 16)
    _, ended = os.waitpid(first, 0)  # returns when all that was inside has ended
    code = os.waitstatus_to_exitcode(int(said) if said else ended)
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(us, -code)
    return code


def _first(settings: "dict[str, Any]", status: int) -> None:
    """The first process of the new namespace. Signals without a handler do not reach it, but for SIGKILL from outside."""
    try:
        libc.prctl(SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        _build(settings)
        program = os.fork()
        if program == 0:
            _program(settings)
        os.write(status, b"+")  # fails when nobody waits any more: the end of us is the program's
        while True:
            pid, ended = os.wait()  # also those whose parent has gone
            if pid == program:
                os.write(status, str(ended).encode())
                os._exit(0)
    except (OSError, ValueError, KeyError) as exc:
        sys.stderr.write(f"not started: {exc}\n")
        sys.stderr.flush()
    os._exit(125)


def _program(settings: "dict[str, Any]") -> None:
    argv = settings["argv"]
    code = 125
    try:
        # uid 0 would get the capabilities of the namespace again with the exec.
        for capability in range(64):
            if libc.prctl(CAPBSET_DROP, capability, 0, 0, 0):
                break
        libc.prctl(SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        os.chdir(settings["cwd"])
        os.execve(argv[0], argv, settings["env"])  # noqa: S606 - that is what it is for
    except (FileNotFoundError, NotADirectoryError) as exc:
        code, why = 127, exc.strerror
    except PermissionError as exc:
        code, why = 126, exc.strerror
    except (OSError, ValueError) as exc:
        why = str(exc)
    sys.stderr.write(f"not started: {argv[0]}: {why}\n")
    sys.stderr.flush()
    os._exit(code)


def _build(settings: "dict[str, Any]") -> None:
    root, hide = settings["root"], settings["hide"]
    _mount(None, "/", None, REC | PRIVATE)
    _mount("tmpfs", root, "tmpfs", NOSUID | NODEV, "mode=0755")
    os.umask(0o022)
    below = f"{hide}/"
    paths = [path for path in settings["read"] if os.path.exists(path)]
    # What lies below a folder of the program's own (a venv in /tmp) is shown after that folder is there, else it would be covered.
    covered = tuple(f"{inside}/" for _, inside in settings["write"])
    late = [path for path in paths if path.startswith(covered)]
    paths = [path for path in paths if not path.startswith(covered)]
    for path in paths:
        if not path.startswith(below):
            _show(root, path)
    if os.path.isdir(root + hide):
        _mount("tmpfs", root + hide, "tmpfs", NOSUID | NODEV, "mode=0755")
    for path in paths:
        if path.startswith(below):
            _show(root, path)
    for folder in ("/proc", "/dev", *(inside for _, inside in settings["write"])):
        os.makedirs(root + folder, exist_ok=True)
    # A hub of root's is root in files even without a capability: not /proc/sys, not /sys, not the programs of the machine.
    _set(root, RDONLY | NOSUID | NODEV)
    _mount("proc", f"{root}/proc", "proc", NOSUID | NODEV | NOEXEC | RDONLY)
    _devices(root, settings["devices"])
    for outside, inside in settings["write"]:
        _mount(outside, root + inside, None, BIND | REC)
        _set(root + inside, NOSUID | NODEV)
    for path in late:
        _show(root, path)
        _set(root + path, RDONLY | NOSUID | NODEV)
    os.chdir(root)
    _call("pivot_root", libc.pivot_root, b".", b".")
    _call("unmount the old root", libc.umount2, b".", DETACH)
    os.chdir("/")
    os.umask(0o027)


def _devices(root: str, devices: "list[str]") -> None:
    _mount("tmpfs", f"{root}/dev", "tmpfs", NOSUID, "mode=0755")
    for path in devices:
        if os.path.exists(path):
            _show(root, path)
    os.mkdir(f"{root}/dev/shm")  # noqa: S108 - a mount of the program's own
    for name, target in LINKS.items():
        os.symlink(target, f"{root}/dev/{name}")
    _set(f"{root}/dev", RDONLY | NOSUID | NOEXEC)
    _mount("tmpfs", f"{root}/dev/shm", "tmpfs", NOSUID | NODEV, "mode=1777")  # noqa: S108


def _show(root: str, path: str) -> None:
    """Bind what `path` leads to at the same path; a link at the top (/bin -> usr/bin) stays one."""
    target = root + path
    if os.path.lexists(target):
        return
    if os.path.islink(path) and os.path.dirname(path) == "/" and not os.path.isabs(os.readlink(path)):
        os.symlink(os.readlink(path), target)
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.isdir(path):
        os.mkdir(target)
    else:
        with open(target, "x"):
            pass
    _mount(path, target, None, BIND | REC)


def _mount(source: "str | None", target: str, kind: "str | None", flags: int, data: "str | None" = None) -> None:
    arguments = [None if each is None else os.fsencode(each) for each in (source, target, kind, data)]
    _call(
        f"mount {kind or source or 'private'} on {target}",
        libc.mount,
        *arguments[:3],
        ctypes.c_ulong(flags),
        arguments[3],
    )


def _set(path: str, flags: int) -> None:
    """Attributes of a mount and all below it. struct mount_attr: set, clear, propagation, userns_fd."""
    attributes = (ctypes.c_uint64 * 4)(flags, 0, 0, 0)  # MOUNT_ATTR_... of these four are MS_...
    _call(
        f"mount_setattr {path}",
        libc.syscall,
        ctypes.c_long(SYS_MOUNT_SETATTR),
        ctypes.c_int(AT_FDCWD),
        os.fsencode(path),
        ctypes.c_uint(AT_RECURSIVE),
        ctypes.byref(attributes),
        ctypes.c_size_t(ctypes.sizeof(attributes)),
    )


def _call(what: str, function: "Any", *arguments: object) -> None:
    if function(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(f"{what}: {os.strerror(number)}")


if __name__ == "__main__":
    sys.exit(main())
