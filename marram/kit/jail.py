"""Runs as `python -I -S jail.py SETTINGS -- argv...` between fork and the program: limits, death with the parent, user.

A program of its own because code between fork and exec in a process with threads is not safe. It is started for every
script of every component, so it imports next to nothing (json alone would double its 10 ms), and nothing at all after the
change of user, who may not be able to read our library. SETTINGS: `key=value` joined by `;` (kit.process writes them):
parent (pid), uid, gid, groups and unset (comma lists), RLIMIT_... (number).
Exit codes of its own: 125 refused settings, 126 not executable, 127 not found (as the shell has them).
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PR_SET_PDEATHSIG = 1
_SIGKILL = 9


def main() -> int:
    try:
        settings = dict(part.split("=", 1) for part in sys.argv[1].split(";") if part)
        argv = sys.argv[3:]
        limits = [(name, int(value)) for name, value in settings.items() if name.startswith("RLIMIT_")]
        if limits:
            import resource

            for name, value in limits:
                resource.setrlimit(getattr(resource, name), (value, value))
        parent = int(settings.get("parent", "0"))
        prctl = _prctl() if parent else None
        # Python sets these to "ignore"; programs expect the default.
        import signal

        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        if "uid" in settings:
            os.setgroups([int(group) for group in settings["groups"].split(",") if group])
            os.setgid(int(settings["gid"]))
            os.setuid(int(settings["uid"]))
        # After setuid: a change of user clears it. Then look whether the parent died before.
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
            if os.getppid() != parent:
                return 125
        os.umask(0o027)
        for name in settings.get("unset", "").split(","):
            os.environ.pop(name, None)
    except (OSError, ValueError, KeyError, IndexError, AttributeError) as exc:
        sys.stderr.write(f"not started: {exc}\n")
        return 125
    return _exec(argv)


def _exec(argv: "list[str]") -> int:
    """As os.execvp, which imports at this point."""
    code, why = 127, "no such program"
    folders = [""] if "/" in argv[0] else os.environ.get("PATH", os.defpath).split(":")
    for folder in folders:
        try:
            os.execv(f"{folder}/{argv[0]}" if folder else argv[0], argv)  # noqa: S606 - that is what it is for
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as exc:
            code, why = 126, exc.strerror or ""
    sys.stderr.write(f"not started: {argv[0]}: {why}\n")
    return code


def _prctl() -> "Any":
    """The C function; None where Python was built without ctypes."""
    try:
        import ctypes
    except ImportError:
        return None  # the next start of the core ends what is left (kit.process.end_leftovers)
    return ctypes.CDLL(None).prctl


if __name__ == "__main__":
    sys.exit(main())
