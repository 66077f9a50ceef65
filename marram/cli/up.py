"""`marram up`: a hub and one edge core on this machine, the first-run experience."""

import argparse
import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Final

from marram.cli.main import DONE, FAILED, command
from marram.core.errors import MarramError, Unavailable

READY_S: Final = 30.0
STOP_S: Final = 20.0
THING: Final = "gateway-1"


@command("up", help="a hub and one edge core on this machine")
def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, default=Path("marram-data"), metavar="DIR", help="default: ./marram-data")
    parser.epilog = "example: marram up --data var"
    parser.set_defaults(run=_up)


def _up(given: argparse.Namespace) -> int:
    import importlib.util

    if importlib.util.find_spec("cryptography") is None or importlib.util.find_spec("uvicorn") is None:
        sys.stderr.write('marram: the hub needs its packages: pip install "marram[hub]"\n')
        return FAILED
    hub_dir, root = given.data / "hub", given.data / THING
    given.data.mkdir(parents=True, exist_ok=True)
    stop = _Stop()
    with _child("hub", "up", "--data", str(hub_dir), "--ports", "auto") as hub:
        _wait_ready(hub, "marram hub ready", stop)
        if not (root / "config" / "config.yaml").exists():
            _run("edge", "join", "--hub-json", str(hub_dir / "hub.json"), "--thing", THING, "--root", str(root))
        with _child("edge", "up", "--root", str(root), "--ports", "auto") as edge:
            _wait_ready(edge, "marram edge ready", stop)
            print(f'hub:     {hub_dir}   (eval "$(marram hub env --data {hub_dir})" for AWS clients)')
            print(f"core:    {root}   (marram edge status --root {root})")
            print(f"console: {_link(hub_dir)}")
            print("Ctrl-C stops both.", flush=True)
            while not stop.asked:
                time.sleep(0.2)
                for name, child in (("hub", hub), ("edge core", edge)):
                    if child.poll() is not None:
                        sys.stderr.write(f"marram: the {name} ended with code {child.returncode}\n")
                        return FAILED
    return DONE


class _Stop:
    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)

    def _ask(self, _number: int, _frame: object) -> None:
        self.asked = True


@contextlib.contextmanager
def _child(*words: str) -> Generator["subprocess.Popen[str]"]:
    """Ends with us: SIGTERM, and SIGKILL when it takes too long."""
    child = subprocess.Popen(
        [sys.executable, "-m", "marram.cli.main", *words], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(STOP_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _wait_ready(child: "subprocess.Popen[str]", line: str, stop: _Stop) -> None:
    assert child.stdout is not None
    for got in child.stdout:
        if got.strip() == line:
            return
        if stop.asked:
            break
    raise Unavailable(f"it ended before it said {line!r}: see the messages above")


def _run(*words: str) -> None:
    if subprocess.run([sys.executable, "-m", "marram.cli.main", *words], check=False).returncode:
        raise Unavailable(f"marram {words[0]} {words[1]} failed: see the message above")


def _link(hub_dir: Path) -> str:
    from marram.cli import login

    try:
        return login.login_link(hub_dir)
    except MarramError as error:
        return f"not there: {error.message}"
