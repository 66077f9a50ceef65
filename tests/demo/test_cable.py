"""The cable: passes both ways, swallows both ways without a word, and comes back."""

import json
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.processes import Child, family
from demo.show import Stopped

WAIT_S = 10.0


def echo() -> tuple[socket.socket, int]:
    server = socket.create_server(("127.0.0.1", 0))

    def answer(peer: socket.socket) -> None:
        with peer:
            while data := peer.recv(4096):
                peer.sendall(data)

    def accept() -> None:
        while True:
            try:
                peer, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(peer,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return server, server.getsockname()[1]


@pytest.fixture
def cable(tmp_path: Path) -> Iterator[tuple[Child, int]]:
    server, port = echo()
    with server, family() as children:
        argv = [sys.executable, "-m", "demo.proxy", json.dumps([["hub", "127.0.0.1", port]])]
        child = children.start("cable", argv, tmp_path / "cable.log", talk=True)
        yield child, json.loads(child.wait_line("ports ", WAIT_S).partition(" ")[2])["hub"]
        server.shutdown(socket.SHUT_RDWR)


def say(child: Child, command: str) -> dict[str, object]:
    child.forget_lines(command)
    child.tell(command)
    found: dict[str, object] = json.loads(child.wait_line(f"{command} ", WAIT_S).partition(" ")[2])
    return found


def ask(peer: socket.socket, data: bytes) -> bytes:
    peer.sendall(data)
    return peer.recv(4096)


def test_cut_swallows_and_a_connection_that_lost_bytes_stays_dead(cable: tuple[Child, int]) -> None:
    child, port = cable
    with (
        socket.create_connection(("127.0.0.1", port), WAIT_S) as lost,
        socket.create_connection(("127.0.0.1", port), WAIT_S) as quiet,
    ):
        assert ask(lost, b"before") == b"before" and ask(quiet, b"too") == b"too"
        say(child, "cut")
        lost.sendall(b"gone")
        with socket.create_connection(("127.0.0.1", port), WAIT_S) as opened:
            opened.sendall(b"hello")
            for peer in (lost, opened):
                peer.settimeout(0.3)
                with pytest.raises(TimeoutError):  # no answer, no FIN, no RST
                    peer.recv(1)
                peer.settimeout(WAIT_S)
            assert say(child, "join")["swallowed"] == 4
            assert opened.recv(4096) == b"hello"  # its SYN got through at last
        assert ask(quiet, b"still here") == b"still here"
        lost.sendall(b"more")
        lost.settimeout(0.3)
        with pytest.raises(TimeoutError):
            lost.recv(1)
    passed = say(child, "count")["passed"]
    assert passed == {"hub": [6 + 3 + 5 + 10, 6 + 3 + 5 + 10]}


def test_children_end_whatever_happens(tmp_path: Path) -> None:
    sleeper = [sys.executable, "-c", "import time; print('ready', flush=True); time.sleep(60)"]
    with pytest.raises(ZeroDivisionError), family() as children:
        made = [children.start(name, sleeper, tmp_path / name) for name in ("one", "two")]
        for child in made:
            child.wait_line("ready", WAIT_S)
        _ = 1 / 0
    assert not any(child.running for child in made)


def test_a_child_that_ends_early_is_named_with_its_last_words(tmp_path: Path) -> None:
    with family() as children:
        child = children.start("hub", [sys.executable, "-c", "raise SystemExit('no disk')"], tmp_path / "log")
        with pytest.raises(Stopped, match="hub ended with 1: no disk"):
            child.wait_line("ready", WAIT_S)
