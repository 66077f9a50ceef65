"""Composition root of the edge core: one asyncio process, standard library and YAML only.

Order of a start: lock, state.db, configuration, IPC, components from the last deployment (no hub, no DNS, no right clock
needed), then deployments and the link. SIGTERM ends the components by their shutdown steps, then the core.
"""

import asyncio
import base64
import binascii
import contextlib
import fcntl
import os
import signal
from collections.abc import Awaitable, Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TextIO

from marram import VERSION
from marram.core import ed25519
from marram.core.codec import JsonObject, JsonValue
from marram.core.errors import Conflict, Invalid
from marram.edge.connected import MIGRATIONS as CONNECTED_MIGRATIONS
from marram.edge.connected import Connected
from marram.edge.control import Control
from marram.edge.deploy.service import Deployments
from marram.edge.deploy.work import Tools
from marram.edge.ipc.build import build_ipc
from marram.edge.nucleus import prepare
from marram.edge.nucleus.config import Config
from marram.edge.nucleus.prepare import Device
from marram.edge.nucleus.root import Root
from marram.edge.nucleus.supervisor import Supervisor
from marram.kit import disk, process
from marram.kit.clock import Clock, Entropy, SystemClock, SystemEntropy
from marram.kit.db import Db, Migrations
from marram.kit.log import logger
from marram.kit.tasks import forever

log = logger(__name__)

MIGRATIONS: Final = (
    Migrations(slice="nucleus", package="marram.edge.nucleus"),
    Migrations(slice="deploy", package="marram.edge.deploy"),
    *CONNECTED_MIGRATIONS,
)


class AlreadyRunning(Conflict):
    """Another core runs on this ROOT."""

    code = "MRM-4001"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """`python_first`: put the folder of the core's interpreter first in the components' PATH."""

    root: Path
    ports: str = ""
    python_first: bool = True


async def run(settings: Settings, ready: Callable[[], None]) -> None:
    """Until SIGTERM or SIGINT. Raises AlreadyRunning, Invalid for a bad config.yaml, NewerDatabase."""
    os.umask(0o077)
    process.shield()
    root = Root(settings.root.absolute())
    disk.make_dirs(root.path)
    with _locked(root):
        root.prepare()
        clock, entropy = SystemClock(), SystemEntropy()
        db = Db.open(root.state_db, clock=clock, entropy=entropy, migrations=MIGRATIONS)
        try:
            await _run(root, db, clock, entropy, settings, ready)
        finally:
            db.close()


async def _run(
    root: Root, db: Db, clock: Clock, entropy: Entropy, settings: Settings, ready: Callable[[], None]
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    config = Config(db)
    config.read_file(root.config)
    supervisor = Supervisor(db=db, config=config, device=_device(root, config, settings), clock=clock, entropy=entropy)
    connected = Connected(
        root=root, config=config, db=db, clock=clock, entropy=entropy, auto_ports=settings.ports == "auto"
    )
    tools = Tools(
        db=db,
        config=config,
        supervisor=supervisor,
        root=root,
        source=connected.source,
        verify_signature=_pinned(config.nucleus("marram", "signingKey")),
    )
    deployments = Deployments(tools, connected.reporter, clock=clock, entropy=entropy)
    connected.attach(supervisor, deployments)
    ipc = build_ipc(
        root=root,
        config=config,
        supervisor=supervisor,
        deployments=deployments,
        pubsub=connected.pubsub,
        clock=clock,
        entropy=entropy,
        iot_core=connected.link,
        shadows=connected.shadows,
    )

    def status() -> JsonObject:
        return {
            "version": VERSION,
            "pid": os.getpid(),
            "root": str(root.path),
            "thing": supervisor.device.thing,
            "endpoints": connected.endpoints(),
            **connected.status(),
            "deployments_open": any(not each.ended for each in deployments.list()),
        }

    control = Control(root, supervisor, deployments, status)
    services: Sequence[tuple[str, Callable[[], Awaitable[None]]]] = (
        ("ipc", ipc.run),
        ("control", control.run),
        *connected.services(),
    )
    async with asyncio.TaskGroup() as outer:
        tasks = [outer.create_task(forever(name, work), name=name) for name, work in services]
        try:
            async with supervisor:
                await ipc.ready.wait()
                await supervisor.boot()
                await connected.listening()
                deploying = outer.create_task(forever("deployments", deployments.run), name="deployments")
                log.info("edge.ready", root=str(root.path), thing=supervisor.device.thing, version=VERSION)
                ready()
                await stop.wait()
                log.info("edge.stopping")
                # Before the components: a deployment that sees them stop must not take it for a failure.
                deploying.cancel()
                await asyncio.wait([deploying])
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await connected.close()


def _device(root: Root, config: Config, settings: Settings) -> Device:
    override = config.nucleus("platformOverride")
    attributes = {key: str(value) for key, value in override.items()} if isinstance(override, dict) else {}
    ca = config.value("system", "rootCaPath")
    region = config.nucleus("awsRegion")
    return Device(
        root=root,
        thing=config.thing_name,
        region=region if isinstance(region, str) else "",
        root_ca=ca if isinstance(ca, str) else "",
        path_first=prepare.interpreter_folder() if settings.python_first else "",
        attributes=prepare.device_attributes(attributes),
        extra={},
    )


def _pinned(value: JsonValue) -> Callable[[bytes, bytes], bool] | None:
    """The hub's signing key as join wrote it: 64 hex digits or base64 of 32 bytes. Raises Invalid."""
    if value is None:
        return None
    try:
        text = str(value)
        key = bytes.fromhex(text) if len(text) == 64 else base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error) as exc:
        raise Invalid("marram.signingKey in the configuration is no Ed25519 public key") from exc
    if len(key) != 32:
        raise Invalid("marram.signingKey in the configuration is no Ed25519 public key")
    return partial(ed25519.verify, key)


@contextlib.contextmanager
def _locked(root: Root) -> Generator[TextIO]:
    file = (root.path / "lock").open("w")
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise AlreadyRunning(f"another edge core runs on {root.path}") from exc
        yield file
    finally:
        file.close()
