"""The worker of test_pool.py."""

import os
import sys
import time

from marram.core.errors import NotFound
from marram.kit import pool


def _print(params: dict[str, object]) -> object:
    print("to the frames?", flush=True)
    return params


def _missing(_params: dict[str, object]) -> object:
    raise NotFound("no such thing")


def _bug(_params: dict[str, object]) -> object:
    raise ZeroDivisionError("oops")


def _allocate(params: dict[str, object]) -> object:
    return len(bytearray(int(str(params["bytes"]))))


def _die(_params: dict[str, object]) -> object:
    os._exit(7)


def _modules(_params: dict[str, object]) -> object:
    return sorted(sys.modules)


if __name__ == "__main__":
    pool.serve(
        {
            "echo": lambda params: params,
            "print": _print,
            "missing": _missing,
            "bug": _bug,
            "allocate": _allocate,
            "die": _die,
            "sleep": lambda params: time.sleep(float(str(params["s"]))),
            "environment": lambda _params: dict(os.environ),
            "modules": _modules,
            "raw": lambda params: pool.Raw({"seen": params}, [b"ab" * int(str(params["n"])), memoryview(b"\0\xff")]),
            "raw too large": lambda _params: pool.Raw(None, [bytes(pool.MAX_FRAME + 1)]),
            "text": lambda _params: b'[1,"rendered"]',
        }
    )
