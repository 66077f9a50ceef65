"""The hub as one process: builds every slice in order, opens the doors, runs what runs, and takes it all down again.

Start: lock, old hub.json away, database, journal, slices, doors, runners, console, hub.json, `marram hub ready`.
Stop (SIGTERM, SIGINT): doors first, then what runs, then the stores. Health: `marram hub status`, /metrics.
"""

import asyncio
import contextlib
import gc
import importlib
import os
import pkgutil
import signal
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from marram.core import sigv4
from marram.core.errors import Unavailable
from marram.hub.border.chain import Api
from marram.hub.border.https import HttpDoor
from marram.hub.border.mqtt import MqttDoor
from marram.hub.broker.service import Broker
from marram.hub.bus import Bus, Outbox
from marram.hub.greengrass.service import Greengrass
from marram.hub.identity.pki import Pki
from marram.hub.identity.service import Identity
from marram.hub.identity.sessions import Sessions
from marram.hub.jobs.service import Jobs
from marram.hub.listing import AsIs
from marram.hub.objects import run as uploads
from marram.hub.objects.service import Objects
from marram.hub.registry.service import Registry
from marram.hub.rules.service import Rules
from marram.hub.shadow.service import Shadows
from marram.hub.timeseries.service import Settings as SeriesSettings
from marram.hub.timeseries.service import TimeSeries
from marram.kit import config, disk, log, metrics, net, registry
from marram.kit.blobs import Blobs
from marram.kit.clock import SystemClock, SystemEntropy
from marram.kit.db import Db, Migrations
from marram.kit.seglog import RESERVE_SHARE, Journal
from marram.kit.tasks import Supervisor, periodic
from marram.serve import folder as folders
from marram.serve import learning, settings
from marram.serve.folder import HubJson
from marram.serve.settings import HubSettings, Place

logger = log.logger(__name__)

SLICES: Final = (
    "identity", "registry", "broker", "shadow", "objects", "timeseries", "jobs", "rules", "greengrass",
)  # fmt: skip
ALPN_MQTT: Final = "x-amzn-mqtt-ca"
ALPN_HTTP: Final = "http/1.1"
LOOPBACK: Final = "127.0.0.1"
PRESIGN_RIGHTS: Final = (
    '{"Version": "2012-10-17", "Statement": '
    '[{"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::marram-*"}]}'
)
COLLECT_AT: Final = (10_000, 20, 20)  # of the collector's three generations
STOP_S: Final = 4.0
DISK_CHECK_S: Final = 1.0
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


@dataclass(frozen=True, slots=True)
class _Signer:
    """Signs the URLs that the hub hands out."""

    held: sigv4.Credentials

    def credentials(self) -> sigv4.Credentials:
        return self.held


def run(options: Options) -> int:
    """The hub in the foreground until a signal. Raises ours when it cannot start."""
    data = options.data.absolute()
    os.umask(0o077)  # whoever made the folder may have let others in; SQLite's side files have no mode of ours
    folders.prepare(data)
    toml = data / "marram.toml"
    config.known_sections(toml, {"hub": HubSettings, "timeseries": SeriesSettings})
    wanted = config.load(HubSettings, "hub", path=toml, environ=os.environ)
    of_series = config.load(SeriesSettings, "timeseries", path=toml, environ=os.environ)
    log.setup(level=wanted.log_level)
    with folders.Lock(data):
        disk.remove(data / folders.HUB_JSON)
        try:
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                return runner.run(_main(options, data, wanted, of_series))
        except Unavailable as exc:
            # SQLite that cannot make the index of its WAL on a full disk calls that an I/O error.
            free, _ = disk.free_share(data)
            if isinstance(exc, disk.DiskFull) or free > STARTING_BYTES:
                raise
            raise disk.DiskFull(f"disk full: {free} bytes are free on the disk of {data} ({exc.message})") from exc


async def _main(options: Options, data: Path, wanted: HubSettings, of_series: SeriesSettings) -> int:
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[int] = loop.create_future()  # the exit code
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, _finish, stop, 0)
    async with _hub(options, data, wanted, of_series, stop) as hub:
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
async def _hub(
    options: Options, data: Path, wanted: HubSettings, of_series: SeriesSettings, stop: "asyncio.Future[int]"
) -> AsyncGenerator[HubJson]:
    clock, entropy, bus = SystemClock(), SystemEntropy(), Bus()
    async with contextlib.AsyncExitStack() as stack:
        db = stack.enter_context(
            Db.open(data / "hub.db", clock=clock, entropy=entropy, migrations=[*_migrations(), *learning.migrations()])
        )
        place = settings.remember(
            db, wanted, entropy=entropy, auto_ports=options.auto_ports, bind=options.bind, name=options.name
        )
        journal = stack.enter_context(Journal.open(data / "log", clock=clock, entropy=entropy))
        endpoints = _endpoints(place)

        # Slices, in their order: each sees only those before it.
        pages = AsIs()
        pki = Pki.open(data / "pki", clock=clock, entropy=entropy, names=[place.host])
        pki.renew_if_due()
        identity = Identity(
            db, pki, bus, clock=clock, entropy=entropy, account=place.account, region=place.region, pages=pages,
            endpoints=lambda: {"mqtt": endpoints["mqtt"], "https": endpoints["https"], "api": endpoints["api"]},
        )  # fmt: skip
        identity.use_sessions(Sessions(db, pki, identity, clock=clock, entropy=entropy))
        admin = identity.admin_key()
        presigner = identity.own_key("marram-presign", PRESIGN_RIGHTS)
        objects_registry = Registry(
            db, identity, bus, entropy=entropy, pages=pages, endpoint=lambda: (place.host, place.ports["https"])
        )
        broker = Broker(journal=journal, db=db, identity=identity, clock=clock, entropy=entropy, bus=bus)
        shadows = Shadows(db)
        blobs = Blobs(data / "blobs", db, entropy=entropy)
        objects = Objects(
            db, blobs, clock, region=place.region, endpoint=lambda: endpoints["api"],
            signer=_Signer(sigv4.Credentials(presigner.id, presigner.secret)), pages=pages,
        )  # fmt: skip
        series = TimeSeries(
            db=db, journal=journal, clock=clock, folder=data / "ts", entropy=entropy, settings=of_series,
        )  # fmt: skip
        jobs = Jobs(db, bus)
        rules = Rules(
            db=db, journal=journal, broker=broker, timeseries=series, check_role=identity.check_role, clock=clock
        )
        greengrass = Greengrass(
            db, bus, identity, objects_registry, jobs, objects, account=place.account, region=place.region
        )
        services: dict[str, object] = {
            "border": None, "identity": identity, "registry": objects_registry, "broker": broker, "shadow": shadows,
            "objects": objects, "timeseries": series, "jobs": jobs, "rules": rules, "greengrass": greengrass,
        }  # fmt: skip
        learner = learning.build(
            db=db, objects=objects, pki=pki, greengrass=greengrass, clock=clock, folder=data, account=place.account,
            region=place.region,
        )  # fmt: skip
        services |= learner.services
        _declare([*(f"marram.hub.{name}" for name in SLICES), *learner.packages])
        broker.add_handlers(services)

        await series.start()
        stack.push_async_callback(series.stop)
        await broker.start()
        stack.push_async_callback(broker.stop)
        await rules.start()
        stack.push_async_callback(rules.stop)
        # Who reads the journal by a cursor of its own; with each checkpoint the broker trims below all of them and itself.
        broker.keep("timeseries", lambda: series.position)
        broker.keep("rules", lambda: rules.position)
        for close in learner.closers:
            stack.push_async_callback(close)

        # What runs. The outbox goes before the doors: replies of the last life leave first.
        supervisor = await stack.enter_async_context(Supervisor())
        outbox = Outbox(db, broker.publish_outbox)
        watch = _DiskWatch(data)
        await watch.look()
        supervisor.start("database", lambda: _watch_database(db, stop))
        supervisor.start("disk", lambda: periodic("disk.watch", DISK_CHECK_S, watch.look))
        supervisor.start("outbox", outbox.run)
        supervisor.start("broker", broker.run)
        supervisor.start("series", series.run)
        supervisor.start("rules", rules.run)
        supervisor.start("greengrass", greengrass.run)
        supervisor.start("blobs", lambda: periodic("blobs.collect", 30.0, _collect(blobs)))
        supervisor.start(
            "uploads", lambda: periodic("objects.expire", uploads.EVERY_S, lambda: uploads.expire(objects))
        )
        supervisor.start("certificates", lambda: periodic("pki.renew", 3600.0, _renew(pki)))
        for name, run_it in learner.runners:
            supervisor.start(name, run_it)

        # Doors.
        api = Api(
            services=services, identity=identity, clock=clock, entropy=entropy, account=place.account,
            region=place.region, page_key=pki.derived_key("pages"), host_names=("localhost", place.host),
            metrics_text=metrics.render,
        )  # fmt: skip
        door = HttpDoor(api, clock)
        mqtt = MqttDoor(broker=broker, identity=identity, clock=clock, entropy=entropy, host=place.host)
        supervisor.start("http-deadlines", door.run)
        supervisor.start("mqtt-timers", mqtt.run)
        await _open_doors(stack, place, pki, door, mqtt)

        if options.console:
            supervisor.start("console", lambda: _console(place, endpoints, pki))
        yield HubJson(
            pid=os.getpid(),
            account_id=place.account,
            region=place.region,
            endpoints=endpoints,
            ca_file=str(pki.root_path),
            access_key_id=admin.id,
            secret_access_key=admin.secret,
        )
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                await mqtt.close()
                await door.close(1.0)


async def _open_doors(stack: contextlib.AsyncExitStack, place: Place, pki: Pki, door: HttpDoor, mqtt: MqttDoor) -> None:
    handshakes = stack.enter_context(ThreadPoolExecutor(max_workers=2, thread_name_prefix="tls"))
    outside = place.bind or LOOPBACK

    def https(peer: net.PeerInfo) -> asyncio.Protocol:
        return mqtt.connection(peer) if peer.alpn == ALPN_MQTT else door.connection(secure=True)

    mqtt_context = pki.server_context("required", alpn=[ALPN_MQTT])
    https_context = pki.server_context("optional", alpn=[ALPN_MQTT, ALPN_HTTP])
    api_context = pki.server_context("none", alpn=[ALPN_HTTP])
    servers = [
        await net.serve(LOOPBACK, place.ports["api"], lambda _peer: door.connection(), tls=None, handshakes=None),
        await net.serve(outside, place.ports["mqtt"], mqtt.connection, tls=lambda: mqtt_context, handshakes=handshakes),
        await net.serve(outside, place.ports["https"], https, tls=lambda: https_context, handshakes=handshakes),
    ]
    if place.bind is not None:
        servers.append(
            await net.serve(
                place.bind, place.ports["api"], lambda _peer: door.connection(secure=True), tls=lambda: api_context,
                handshakes=handshakes,
            )
        )  # fmt: skip
    for server in servers:
        stack.callback(server.close)


def _endpoints(place: Place) -> dict[str, str]:
    ports, host = place.ports, place.host
    return {
        "api": f"http://{LOOPBACK}:{ports['api']}" if place.bind is None else f"https://{host}:{ports['api']}",
        "mqtt": f"mqtts://{host}:{ports['mqtt']}",
        "https": f"https://{host}:{ports['https']}",
        "console": f"http://{LOOPBACK}:{ports['console']}",
    }


def _migrations() -> list[Migrations]:
    """Of the slices that have tables, and of this folder."""
    found = [Migrations(slice="serve", package="marram.serve")]
    here = Path(__file__).parent.parent / "hub"
    found += [
        Migrations(slice=name, package=f"marram.hub.{name}") for name in SLICES if (here / name / "migrations").is_dir()
    ]
    return found


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


def _declare(packages: Iterable[str]) -> None:
    """Import what slices declare: `api` and `topics`, and nothing that runs in workers."""
    for package in packages:
        root = importlib.import_module(package)
        for found in pkgutil.iter_modules(root.__path__):
            if found.name.startswith(("api", "topics")):
                module = importlib.import_module(f"{package}.{found.name}")
                if found.ispkg:
                    registry.discover(module.__name__)


def _collect(blobs: Blobs) -> Callable[[], Awaitable[None]]:
    async def work() -> None:
        await blobs.collect()

    return work


def _renew(pki: Pki) -> Callable[[], Awaitable[None]]:
    async def work() -> None:
        if await asyncio.to_thread(pki.renew_if_due):
            logger.warning("pki.restart_wanted", why="the server certificate is new; a restart serves it")

    return work


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    made: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return made
