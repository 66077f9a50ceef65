"""The memory of hub and core, with their keys, is closed to other processes of the same user (PR_SET_DUMPABLE)."""

import subprocess
import sys

import pytest

LOOK = (
    "import ctypes, sys; look = lambda *_: sys.exit(40 + ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))\n"  # PR_GET_DUMPABLE
)
OPEN, CLOSED = 41, 40
HUB = """
from pathlib import Path
from marram.serve import folder, hub
folder.prepare = look
hub.run(hub.Options(data=Path(".")))
"""
EDGE = """
import asyncio
from pathlib import Path
from marram.edge import main
from marram.kit import disk
disk.make_dirs = look
asyncio.run(main.run(main.Settings(root=Path(".")), lambda: None))
"""


@pytest.mark.parametrize(
    ("program", "found"),
    [
        pytest.param("look()", OPEN, id="as a process begins"),
        pytest.param("from marram.kit import process; process.shield(); look()", CLOSED, id="shielded"),
        pytest.param(HUB, CLOSED, id="hub"),
        pytest.param(EDGE, CLOSED, id="edge core"),
        pytest.param(
            "import subprocess; from marram.kit import process; process.shield();"
            " sys.exit(subprocess.call([sys.executable, '-c', sys.argv[1]]))",
            OPEN,
            id="not those that it starts",
        ),
    ],
)
def test_who_may_look_into_the_process(program: str, found: int) -> None:
    done = subprocess.run([sys.executable, "-c", LOOK + program, LOOK + "look()"], capture_output=True, timeout=30)
    assert done.returncode == found, done.stderr.decode()
