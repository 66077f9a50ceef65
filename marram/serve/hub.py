"""The hub as one process: builds every slice in order, opens the doors, runs what runs, and takes it all down again.

Start: lock, old hub.json away, database, journal, slices, doors, runners, console, hub.json, `marram hub ready`.
Stop (SIGTERM, SIGINT): doors first, then what runs, then the stores. Health: `marram hub status`, /metrics.
"""

import asyncio
import contextlib
import gc
import os
import signal
import sys
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from marram.core.errors import Unavailable
from marram.hub.bus import Bus
from marram.hub.identity.pki import Pki
from marram.kit import disk, log, metrics, process
from marram.kit.clock import SystemClock, SystemEntropy
from marram.kit.db import Db
from marram.kit.seglog import RESERVE_SHARE, Journal
from marram.kit.tasks import Supervisor, periodic
from marram.serve import doors, settings, slices
from marram.serve import folder as folders
from marram.serve.folder import HubJson
from marram.serve.settings import LOOPBACK, Place, Sections

logger = log.logger(__name__)

COLLECT_AT: Final = (10_000, 20, 20)  # of the collector's three generations
DISK_CHECK_S: Final = 1.0
FEW_FILES: Final = 4096
STARTING_BYTES: Final = 256 << 10

_disk_free: Final = metrics.gauge("marram_disk_free_bytes", "Free on the disk of the hub's folder")
_disk_full: Final = metrics.gauge("marram_disk_full", "1 while the disk is at its reserve, and new data is refused")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line gave."""

    data: Path
    bind: str | None = None
    name: str | None = None
    auto_ports: bool = False
    console: bool = True


def run(options: Options) -> int:
    """The hub in the foreground until a signal. Raises ours when it cannot start."""
    data = options.data.absolute()
    os.umask(0o077)  # whoever made the folder may have let others in; SQLite's side files have no mode of ours
    process.shield()
    files = process.more_files()
    folders.prepare(data)
    toml = data / "marram.toml"
    wanted = settings.load(toml, os.environ)
    log.setup(level=wanted.hub.log_level)
    if files < FEW_FILES:
        logger.warning(
            "hub.few_files", limit=files, why="each connection is an open file; raise the limit of the service"
        )
    with folders.Lock(data):
        disk.remove(data / folders.HUB_JSON)
        try:
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                return runner.run(_main(options, data, wanted))
        except Unavailable as exc:
            # SQLite that cannot make the index of its WAL on a full disk calls that an I/O error.
            free, _ = disk.free_share(data)
            if isinstance(exc, disk.DiskFull) or free > STARTING_BYTES:
                raise
            raise disk.DiskFull(f"disk full: {free} bytes are free on the disk of {data} ({exc.message})") from exc


async def _main(options: Options, data: Path, wanted: Sections) -> int:
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[int] = loop.create_future()  # the exit code
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, _finish, stop, 0)
    async with _hub(options, data, wanted, stop) as hub:
        folders.write_hub_json(data, hub)
        print("marram hub ready", flush=True)
        logger.info("hub.ready", endpoints=hub.endpoints)
        spare_collector()
        code = await stop
        logger.info("hub.stopping")
    logger.info("hub.stopped")
    return code


def spare_collector() -> None:
    """What the start has made stays for good: the collector need not look at it again, nor at every 700 objects of a busy loop."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AT)


def _finish(stop: "asyncio.Future[int]", code: int) -> None:
    if not stop.done():
        stop.set_result(code)


async def _watch_database(db: Db, stop: "asyncio.Future[int]") -> None:
    """After an I/O error in a commit nothing can be written until the file is opened anew: end, and be started again."""
    while db.failed is None:
        await asyncio.sleep(1.0)
    logger.error("hub.database_failed", why=db.failed)
    _finish(stop, 1)


class _DiskWatch:
    """Says when the disk reaches its reserve and when it has room again; the stores refuse and take data by themselves."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._is_full = False

    async def look(self) -> None:
        free, share = await asyncio.to_thread(disk.free_share, self._folder)
        is_full = share < RESERVE_SHARE
        _disk_free.set(free)
        _disk_full.set(is_full)
        if is_full and not self._is_full:
            logger.error("hub.disk_full", folder=str(self._folder), free_bytes=free, reserve_share=RESERVE_SHARE)
        elif self._is_full and not is_full:
            logger.warning("hub.disk_has_room", folder=str(self._folder), free_bytes=free)
        self._is_full = is_full


@contextlib.asynccontextmanager
async def _hub(options: Options, data: Path, wanted: Sections, stop: "asyncio.Future[int]") -> AsyncGenerator[HubJson]:
    clock, entropy = SystemClock(), SystemEntropy()
    async with contextlib.AsyncExitStack() as stack:
        db = stack.enter_context(Db.open(data / "hub.db", clock=clock, entropy=entropy, migrations=slices.migrations()))
        place = settings.remember(
            db, wanted.hub, entropy=entropy, auto_ports=options.auto_ports, bind=options.bind, name=options.name
        )
        base = slices.Base(
            data=data, clock=clock, entropy=entropy, bus=Bus(), db=db, place=place, endpoints=_endpoints(place),
            journal=stack.enter_context(Journal.open(data / "log", clock=clock, entropy=entropy)), settings=wanted,
        )  # fmt: skip
        made = slices.build(base)
        await slices.start(made, stack)

        supervisor = await stack.enter_async_context(Supervisor())
        watch = _DiskWatch(data)
        await watch.look()
        supervisor.start("database", lambda: _watch_database(db, stop))
        supervisor.start("disk", lambda: periodic("disk.watch", DISK_CHECK_S, watch.look))
        for name, run_it in slices.runners(base, made):
            supervisor.start(name, run_it)
        opened = doors.build(base, made)
        for name, run_it in opened.runners:
            supervisor.start(name, run_it)
        await doors.listen(base, made, opened, stack)
        if options.console:
            supervisor.start("console", lambda: _console(place, base.endpoints, made.pki))
        yield HubJson(
            pid=os.getpid(),
            account_id=place.account,
            region=place.region,
            endpoints=base.endpoints,
            ca_file=str(made.pki.root_path),
            access_key_id=made.admin.id,
            secret_access_key=made.admin.secret,
        )
        await opened.close()


def _endpoints(place: Place) -> dict[str, str]:
    ports, host = place.ports, place.host
    return {
        "api": f"http://{LOOPBACK}:{ports['api']}" if place.bind is None else f"https://{host}:{ports['api']}",
        "mqtt": f"mqtts://{host}:{ports['mqtt']}",
        "https": f"https://{host}:{ports['https']}",
        "console": f"http://{LOOPBACK}:{ports['console']}",
    }


async def _console(place: Place, endpoints: dict[str, str], pki: Pki) -> None:
    """The console's process; it ends with us by the end of its standard input. Raises when it ends by itself."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "marram.console", "--follow-stdin",
        "--api", f"http://{LOOPBACK}:{place.ports['api']}", "--https", f"https://localhost:{place.ports['https']}",
        "--ca", str(pki.root_path), "--region", place.region, "--port", str(place.ports["console"]),
        stdin=asyncio.subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        code = await child.wait()
        raise Unavailable(f"the console ended with code {code}")
    finally:
        if child.returncode is None:
            child.terminate()
            try:
                async with asyncio.timeout(2.0):
                    await child.wait()
            except TimeoutError:
                child.kill()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    made: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return made
