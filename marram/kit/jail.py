"""Runs as `python -I -S jail.py SETTINGS -- argv...` between fork and the program: limits, death with the parent, user.

A program of its own because code between fork and exec in a process with threads is not safe. Standard library only, few
imports: it is started for every script of every component. Settings: JSON {parent, limits {name: number}, uid, gid, groups, unset}.
Exit codes of its own: 125 refused settings, 126 not executable, 127 not found (as the shell has them).
"""

import json
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def _prctl():  # type: ignore[no-untyped-def] # a C function, or None where Python was built without ctypes
    try:
        import ctypes
    except ImportError:
        return None  # the next start of the core ends what is left (kit.process.end_leftovers)
    return ctypes.CDLL(None).prctl


def main() -> int:
    try:
        settings = json.loads(sys.argv[1])
        argv = sys.argv[3:]
        if settings["limits"]:
            import resource

            for name, value in settings["limits"].items():
                resource.setrlimit(getattr(resource, name), (value, value))
        prctl = _prctl() if settings["parent"] else None  # before the change of user, who may not read our library
        if settings["uid"] is not None:
            os.setgroups(settings["groups"])
            os.setgid(settings["gid"])
            os.setuid(settings["uid"])
        os.umask(0o027)
        for name in settings["unset"]:  # CPython sets LC_CTYPE itself in the C locale
            os.environ.pop(name, None)
        # After setuid: a change of user clears it. Then look whether the parent died before.
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != settings["parent"]:
                return 125
        # Python sets these to "ignore"; programs expect the default.
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
    except (OSError, ValueError, KeyError, IndexError, AttributeError) as exc:
        sys.stderr.write(f"not started: {exc}\n")
        return 125
    try:
        os.execvp(argv[0], argv)  # noqa: S606 - that is what it is for
    except FileNotFoundError as exc:
        sys.stderr.write(f"not started: {argv[0]}: {exc.strerror}\n")
        return 127
    except OSError as exc:
        sys.stderr.write(f"not started: {argv[0]}: {exc.strerror}\n")
        return 126


if __name__ == "__main__":
    sys.exit(main())
