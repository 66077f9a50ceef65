"""Real processes for every suite: a hub started by its command line, with the clients to talk to it."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

READY_S = 30.0
# Clients that tools/test_setup.sh installs apart: aws, node. What a machine has of its own stands behind.
os.environ["PATH"] = f"{Path(__file__).parents[1] / '.clients' / 'bin'}:{os.environ['PATH']}"


@dataclass
class HubProcess:
    """`marram hub up` on a folder; `kill` is SIGKILL, `stop` is SIGTERM and returns the exit code."""

    data: Path
    process: "subprocess.Popen[str]"
    info: dict[str, Any] = field(default_factory=dict)
    clients: list[Any] = field(default_factory=list)

    def client(self, service: str, **changes: Any) -> Any:
        """An unmodified boto3 client for the running hub."""
        import boto3
        from botocore.config import Config

        options = {
            "endpoint_url": self.info["endpoints"]["api"],
            "region_name": self.info["region"],
            "aws_access_key_id": self.info["admin"]["access_key_id"],
            "aws_secret_access_key": self.info["admin"]["secret_access_key"],
            "config": Config(retries={"max_attempts": 1}),
        }
        made = boto3.session.Session().client(service, **{**options, **changes})
        self.clients.append(made)
        return made

    def port(self, door: str) -> int:
        return int(self.info["endpoints"][door].rpartition(":")[2])

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(15)

    def close(self) -> None:
        for client in self.clients:
            client.close()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        if self.process.stdout is not None:
            self.process.stdout.close()


@pytest.fixture
def start_hub(tmp_path: Path) -> Iterator[Callable[..., HubProcess]]:
    """start_hub(data=folder, env={...}, args=[...]) -> a ready hub; all are ended afterwards."""
    with hubs(tmp_path) as start:
        yield start


@pytest.fixture
def chance() -> random.Random:
    """Moments for kills: the seed is printed, MARRAM_SEED repeats a run."""
    seed = int(os.environ.get("MARRAM_SEED") or random.SystemRandom().randrange(1 << 31))
    print(f"MARRAM_SEED={seed}")
    return random.Random(seed)


@pytest.fixture(scope="module")
def shared_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """One hub for a file of tests that do not stop it."""
    with hubs(tmp_path_factory.mktemp("shared")) as start:
        yield start()


@contextlib.contextmanager
def hubs(tmp_path: Path) -> Iterator[Callable[..., HubProcess]]:
    with contextlib.ExitStack() as stack:

        def start(
            data: Path | None = None, *, env: dict[str, str] | None = None, args: tuple[str, ...] = ()
        ) -> HubProcess:
            folder = data or tmp_path / "hub"
            log = (tmp_path / "hub.log").open("a")
            stack.callback(log.close)
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "marram.cli.main",
                    "hub",
                    "up",
                    "--data",
                    str(folder),
                    "--ports",
                    "auto",
                    "--no-console",
                    *args,
                ],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, **(env or {})},
            )
            made = HubProcess(folder, process)
            stack.callback(made.close)
            assert process.stdout is not None
            began = time.monotonic()
            for line in process.stdout:
                if line.strip() == "marram hub ready":
                    break
                assert time.monotonic() - began < READY_S, "the hub did not get ready"
            else:
                raise AssertionError(
                    f"the hub ended with {process.wait()}: {(tmp_path / 'hub.log').read_text()[-3000:]}"
                )
            made.info = json.loads((folder / "hub.json").read_text())
            return made

        yield start


@dataclass
class EdgeProcess:
    """`marram edge up` on a folder."""

    root: Path
    process: "subprocess.Popen[str]"

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)
        if self.process.stdout is not None:
            self.process.stdout.close()


@pytest.fixture
def start_edge(tmp_path: Path) -> Iterator[Callable[..., EdgeProcess]]:
    """start_edge(root) -> a running core on a folder that has joined; all are ended afterwards."""
    with contextlib.ExitStack() as stack:

        def start(root: Path) -> EdgeProcess:
            log = (tmp_path / f"{root.name}.log").open("a")
            stack.callback(log.close)
            process = subprocess.Popen(
                [sys.executable, "-m", "marram.cli.main", "edge", "up", "--root", str(root), "--ports", "auto"],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
            made = EdgeProcess(root, process)
            stack.callback(made.close)
            assert process.stdout is not None
            for line in process.stdout:
                if line.strip() == "marram edge ready":
                    return made
            raise AssertionError(f"the core ended with {process.wait()}: {Path(log.name).read_text()[-3000:]}")

        yield start


def wait_for(look: Callable[[], Any], what: str, timeout_s: float = 30.0) -> Any:
    """Poll a real process until `look` gives something true."""
    end = time.monotonic() + timeout_s
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < end, f"{what} did not happen within {timeout_s:g} s"
        time.sleep(0.05)


@pytest.fixture(name="wait_for")
def _wait_for() -> Callable[..., Any]:
    return wait_for


@pytest.fixture
def marram() -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """marram("hub", "status", ...) runs the command line."""

    def run(*words: str, timeout: float = 50, **options: Any) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "marram.cli.main", *map(str, words)],
            capture_output=True,
            text=True,
            timeout=timeout,
            **options,
        )

    return run
