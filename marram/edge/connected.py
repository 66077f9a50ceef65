"""What a core has beside its nucleus: local messages and shadows always, the link and the local broker once it has joined a hub.

Read from the configuration, under the names that Greengrass gives them:
- the nucleus: iotDataEndpoint, greengrassDataPlanePort, awsRegion, mqtt {port, keepAliveTimeoutMs, pingTimeoutMs,
  spooler.maxSizeInBytes}, marram {accountId, localServerCertificatePath, localMqtt {port, bind}, spool {whenFull, lanes,
  drainPerSecond, window}};
- aws.greengrass.ShadowManager: synchronize {shadowDocuments, direction}; this core and its client devices are always synchronised;
- aws.greengrass.clientdevices.Auth: deviceGroups, clientDevices {certificate fingerprint: thing};
- aws.greengrass.clientdevices.mqtt.Bridge: mqttTopicMapping.
A change of the last three counts at once; one of the first at the next start. What is malformed is refused with its place in the
log, and what was there before stays.
"""

import asyncio
import contextlib
import re
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

from marram.core import arn, codec
from marram.core.codec import JsonObject, JsonValue
from marram.core.errors import Invalid, MarramError, NotFound, Unavailable
from marram.edge.broker import devices as broker_devices
from marram.edge.broker.bridge import Bridge, parse
from marram.edge.broker.devices import Devices
from marram.edge.broker.policy import Policy
from marram.edge.broker.service import LocalBroker, server_context
from marram.edge.broker.service import Settings as BrokerSettings
from marram.edge.deploy.ports import Nowhere, Reporter, Source
from marram.edge.deploy.record import Deployment
from marram.edge.deploy.service import Deployments
from marram.edge.link import ledger
from marram.edge.link.dataplane import DataPlane
from marram.edge.link.dataplane import Hub as HubAddress
from marram.edge.link.fleet_status import Component, FleetStatus
from marram.edge.link.jobs import Jobs, job_of
from marram.edge.link.ledger import Ledger
from marram.edge.link.mqtt import Link
from marram.edge.link.mqtt import Settings as LinkSettings
from marram.edge.nucleus.config import SYSTEM, Config
from marram.edge.nucleus.root import Root
from marram.edge.nucleus.supervisor import Supervisor
from marram.edge.pubsub.hub import Hub
from marram.edge.shadow import service as shadow_service
from marram.edge.shadow.merge import Direction
from marram.edge.shadow.service import Shadows
from marram.edge.shadow.sync import Settings as SyncSettings
from marram.edge.shadow.sync import Sync
from marram.edge.spool import service as spool_service
from marram.edge.spool.service import Spool
from marram.kit import disk, net
from marram.kit.clock import Clock, Entropy
from marram.kit.db import Db
from marram.kit.log import logger

log = logger(__name__)

MIGRATIONS: Final = (
    spool_service.MIGRATIONS,
    ledger.MIGRATIONS,
    shadow_service.MIGRATIONS,
    broker_devices.MIGRATIONS,
)
AUTH: Final = "aws.greengrass.clientdevices.Auth"
BRIDGE: Final = "aws.greengrass.clientdevices.mqtt.Bridge"
SHADOW_MANAGER: Final = "aws.greengrass.ShadowManager"
REFRESH_S: Final = 86_400.0
REFRESH_AGAIN_S: Final = (1.0, 60.0)
DEFAULT_PORT: Final = 8883
WHEN_FULL: Final[tuple[Literal["reject", "drop_oldest"], ...]] = ("reject", "drop_oldest")
DIRECTIONS: Final[tuple[Direction, ...]] = ("betweenDeviceAndCloud", "deviceToCloud", "cloudToDevice")
CERTIFICATES: Final = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n?", re.DOTALL)

Service = tuple[str, Callable[[], Awaitable[None]]]


class Connected:
    """Made before the deployments (which need `source` and `reporter`); `attach` them, then run `services`."""

    def __init__(
        self, *, root: Root, config: Config, db: Db, clock: Clock, entropy: Entropy, auto_ports: bool = False
    ) -> None:
        self._root, self._config, self._db, self._clock, self._entropy = root, config, db, clock, entropy
        self._auto_ports = auto_ports
        self._deployments: Deployments | None = None
        self._jobs: Jobs | None = None
        self._status: FleetStatus | None = None
        self._reconfigure = asyncio.Event()
        self._refresh = asyncio.Event()
        self.pubsub = Hub()
        self.local_mqtt = Hub(parent=True)
        self.shadows = Shadows(db, [self.pubsub, self.local_mqtt], wall_ms=clock.wall_ms)
        self.ledger = Ledger(db, wall_ms=clock.wall_ms)
        self.spool: Spool | None = None
        self.link: Link | None = None
        self.sync: Sync | None = None
        self.data_plane: DataPlane | None = None
        self.reporter: Reporter = Nowhere()
        self.source: Source = Nowhere()
        host = config.nucleus("iotDataEndpoint")
        if isinstance(host, str) and host and config.thing_name:
            self._join(host.partition(":")[0])
        self.devices = Devices(db)
        self.bridge = Bridge(self.local_mqtt, self.pubsub, self.link)
        self.broker = self._local_broker()
        config.on_change(lambda _: self._reconfigure.set())

    def attach(self, supervisor: Supervisor, deployments: Deployments) -> None:
        """Let jobs reach the deployments, and the hub hear how components are."""
        self._deployments = deployments
        if self.link is None:
            return
        thing = self._config.thing_name
        self._jobs = Jobs(self.link, deployments, thing=thing, entropy=self._entropy)
        self._status = status = FleetStatus(
            self._db, self.link, lambda: self._components(supervisor), thing=thing, wall_ms=self._clock.wall_ms
        )
        supervisor.subscribe(lambda name, before, after: status.changed() if before != after else None)
        deployments.subscribe(self._deployed)

    def services(self) -> Sequence[Service]:
        """What to run for the life of the core, by name; each may be started again when it fails."""
        made: list[Service] = [("bridge", self.bridge.run), ("settings", self._follow_settings)]
        if self.link is not None and self.sync is not None:
            made += [
                ("link", self.link.run),
                ("shadow-sync", self.sync.run),
                ("ledger", self.ledger.run),
                ("client-devices", self._follow_devices),
            ]
        if self._jobs is not None and self._status is not None:
            made += [("jobs", self._jobs.run), ("fleet-status", self._status.run)]
        if self.broker is not None:
            made.append(("local-mqtt", self.broker.run))
        return made

    async def listening(self, limit_s: float = 1.0) -> None:
        """Returns when the local broker listens, or cannot in time: a core starts without it too."""
        if self.broker is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(limit_s):
                    await self.broker.ready.wait()

    def endpoints(self) -> JsonObject:
        if self.broker is None or not self.broker.ready.is_set():
            return {}
        return {"mqtt": f"mqtts://localhost:{self.broker.port}"}

    def status(self) -> JsonObject:
        """For `marram edge status`."""
        if self.link is None or self.spool is None:
            return {"hub": None}
        return {
            "hub": {
                "host": self.link.settings.host,
                "port": self.link.settings.port,
                "connected": self.link.connected,
                "waiting": self.spool.waiting,
                "spool_bytes": self.spool.bytes_on_disk,
            },
            "ledger": {
                destination: {"sent": sent, "received": received}
                for destination, (sent, received) in sorted(self.ledger.totals().items())
            },
        }

    async def close(self) -> None:
        """After the services have ended."""
        self.bridge.close()
        if self.spool is not None:
            await self.spool.close()

    # Reporter

    async def report(self, deployment: Deployment) -> None:
        job = job_of(deployment.source)
        if job is None:
            return
        if self._jobs is None:
            raise Unavailable("the link is not there yet")
        details = {
            key: value if isinstance(value, str) else codec.dumps(value).decode()
            for key, value in deployment.detail.items()
            if key != "changes"
        }
        await self._jobs.report(job, deployment.status, details)

    # made from the configuration

    def _join(self, host: str) -> None:
        nucleus, thing = self._config.nucleus, self._config.thing_name
        self.spool = Spool.open(
            self._root.path / "spool",
            self._db,
            clock=self._clock,
            entropy=self._entropy,
            settings=self._spool_settings(),
        )
        self.link = Link(
            LinkSettings(
                host=host,
                port=_integer(nucleus("mqtt", "port"), DEFAULT_PORT),
                thing=thing,
                keep_alive_s=max(5, _integer(nucleus("mqtt", "keepAliveTimeoutMs"), 60_000) // 1000),
                ping_s=max(0.5, _integer(nucleus("mqtt", "pingTimeoutMs"), 3_000) / 1000),
                dedup=isinstance(nucleus("marram"), dict),  # the hub is Marram, not AWS
            ),
            self.spool,
            self.ledger,
            tls=self._own_tls,
            entropy=self._entropy,
        )
        self.sync = Sync(
            self._db, self.shadows, self.link, entropy=self._entropy, settings=SyncSettings(things=[thing])
        )
        self.data_plane = DataPlane(
            HubAddress(
                host=host,
                port=_integer(nucleus("greengrassDataPlanePort"), 8443),
                thing=thing,
                region=str(nucleus("awsRegion", default="local-1")),
                account=str(nucleus("marram", "accountId", default="")),
            ),
            self.ledger,
            own=self._own_tls,
            pinned=self._pinned_tls,
        )
        self.source = self.data_plane
        self.reporter = self

    def _spool_settings(self) -> spool_service.Settings:
        own = self._config.nucleus("marram", "spool", default={})
        own = own if isinstance(own, dict) else {}
        wanted = own.get("whenFull", "reject")
        full: Literal["reject", "drop_oldest"] | None = next((each for each in WHEN_FULL if each == wanted), None)
        if full is None:
            raise Invalid(f"marram.spool.whenFull: {wanted!r}; {' and '.join(WHEN_FULL)} are known")
        lanes = own.get("lanes", {})
        if not isinstance(lanes, dict):
            raise Invalid("marram.spool.lanes: must be an object of topic filters and lanes")
        return spool_service.Settings(
            budget_bytes=_integer(self._config.nucleus("mqtt", "spooler", "maxSizeInBytes"), 64 << 20),
            when_full=full,
            lanes=[(filter, str(lane)) for filter, lane in lanes.items()],
            window=min(100, max(1, _integer(own.get("window"), 100))),
            drain_per_s=max(0, _integer(own.get("drainPerSecond"), 0)),
        )

    def _local_broker(self) -> LocalBroker | None:
        certificate = self._config.nucleus("marram", "localServerCertificatePath")
        if not isinstance(certificate, str) or self.link is None:
            return None
        local = self._config.nucleus("marram", "localMqtt", default={})
        local = local if isinstance(local, dict) else {}
        port = 0 if self._auto_ports else _integer(local.get("port"), DEFAULT_PORT)
        listener = _Listener(Path(certificate), Path(self._path("privateKeyPath")), Path(self._path("rootCaPath")))
        return LocalBroker(
            BrokerSettings(host=str(local.get("bind", "127.0.0.1")), port=port),
            self._db,
            self.local_mqtt,
            self.devices,
            bridge=self.bridge,
            shadows=self.shadows,
            tls=listener.context,
            entropy=self._entropy,
        )

    # what follows changes

    async def _follow_settings(self) -> None:
        seen: dict[str, JsonValue] = {}
        value = self._config.value
        while True:
            self._reconfigure.clear()
            await self._apply("deviceGroups", value(AUTH, "deviceGroups"), seen, self._set_policy)
            await self._apply("clientDevices", value(AUTH, "clientDevices"), seen, self._set_devices)
            await self._apply("mqttTopicMapping", value(BRIDGE, "mqttTopicMapping"), seen, self._set_bridge)
            await self._apply("synchronize", value(SHADOW_MANAGER, "synchronize"), seen, self._set_sync)
            await self._reconfigure.wait()

    async def _apply(
        self, key: str, value: JsonValue, seen: dict[str, JsonValue], use: Callable[[JsonValue], Awaitable[None]]
    ) -> None:
        if key in seen and seen[key] == value:
            return
        seen[key] = value
        try:
            await use(value)
        except MarramError as exc:
            log.error("settings.refused", key=key, why=exc.message)

    async def _set_policy(self, value: JsonValue) -> None:
        policy = Policy(value)
        if self.broker is not None:
            self.broker.configure(policy)

    async def _set_devices(self, value: JsonValue) -> None:
        self.devices.configure(value)
        await self._devices_changed()

    async def _set_bridge(self, value: JsonValue) -> None:
        await self.bridge.configure(parse(value))

    async def _set_sync(self, value: JsonValue) -> None:
        if self.sync is not None:
            await self.sync.configure(self._sync_settings(value))

    def _sync_settings(self, value: JsonValue) -> SyncSettings:
        value = value if isinstance(value, dict) else {}
        wanted = value.get("direction", DIRECTIONS[0])
        direction: Direction | None = next((each for each in DIRECTIONS if each == wanted), None)
        if direction is None:
            raise Invalid(f"synchronize.direction: {wanted!r}; {', '.join(DIRECTIONS)} are known")
        things = {self._config.thing_name, *self.devices.things}
        documents = value.get("shadowDocuments")
        for each in documents if isinstance(documents, list) else ():
            if isinstance(each, dict) and isinstance(each.get("thingName"), str):
                things.add(str(each["thingName"]))
        return SyncSettings(things=sorted(things), direction=direction)

    async def _devices_changed(self) -> None:
        if self.broker is not None:
            self.broker.configure(self.broker.policy)
        if self.sync is not None:
            await self.sync.configure(self._sync_settings(self._config.value(SHADOW_MANAGER, "synchronize")))

    async def _follow_devices(self) -> None:
        """Ask the hub at a connection, once a day, and when somebody came who is not known here."""
        assert self.link is not None and self.data_plane is not None
        self.devices.on_unknown = self._refresh.set
        up = asyncio.Event()
        low, high = REFRESH_AGAIN_S
        pause_s = low  # grows while strangers knock in vain

        def changed(connected: bool) -> None:
            nonlocal pause_s
            if connected:
                pause_s = low
                up.set()
                self._refresh.set()
            else:
                up.clear()

        cancel = self.link.watch(changed)
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(REFRESH_S):
                        await self._refresh.wait()
                await up.wait()
                self._refresh.clear()
                try:
                    found = await self.data_plane.client_devices()
                except NotFound:
                    log.info("client_devices.not_served")  # AWS: devices come by configuration alone
                    await asyncio.sleep(REFRESH_S)
                except MarramError as exc:
                    log.warning("client_devices.not_fetched", why=exc.message)
                else:
                    pairs = [(certificate, each.thing) for each in found for certificate in each.certificates]
                    pause_s = min(high, pause_s * 2)
                    if await self.devices.replace(pairs):
                        pause_s = low
                        log.info("client_devices.changed", certificates=len(pairs))
                        await self._devices_changed()
                await asyncio.sleep(pause_s)
        finally:
            cancel()

    # for fleet status

    def _components(self, supervisor: Supervisor) -> list[Component]:
        assert self._deployments is not None
        targets: dict[str, list[str]] = {}
        region, account = str(self._config.nucleus("awsRegion")), str(self._config.nucleus("marram", "accountId"))
        for target, components in self._deployments.roots().items():
            named = arn.build("greengrass", region, account, f"configuration:{target}") if "/" in target else target
            for name in components:
                targets.setdefault(name, []).append(named)
        return [
            Component(
                name=each.name,
                version=each.version,
                state=each.state,
                targets=targets.get(each.name, []),
                is_root=each.name in targets,
                details={"statusReason": each.last_error[:500]} if each.last_error else {},
            )
            for each in supervisor.components()
        ]

    def _deployed(self, row: Deployment) -> None:
        if not row.ended or self._status is None:
            return
        kinds: Mapping[str, str] = {"thing": "THING_DEPLOYMENT", "thinggroup": "THING_GROUP_DEPLOYMENT"}
        details: JsonObject = {}
        for key, name in (
            ("detailed-deployment-status", "detailedStatus"),
            ("deployment-failure-cause", "failureCause"),
        ):
            if isinstance(value := row.detail.get(key), str):
                details[name] = value
        self._refresh.set()  # whoever deploys may have changed the devices too
        self._status.deployed(
            kind=kinds.get(row.target.partition("/")[0], "LOCAL_DEPLOYMENT"),
            information={
                "deploymentId": row.id,
                "status": row.status,
                "fleetConfigurationArnForStatus": str(row.document.get("configurationArn", "")),
                "statusDetails": details,
            },
        )

    # TLS towards the hub

    def _path(self, key: str) -> str:
        value = self._config.value(SYSTEM, key)
        if not isinstance(value, str) or not value:
            raise Invalid(f"system.{key} is not set; `marram edge join` writes it")
        return value

    def _pinned_tls(self) -> ssl.SSLContext:
        try:
            return net.harden(ssl.create_default_context(cafile=self._path("rootCaPath")))
        except (OSError, ssl.SSLError) as exc:
            raise Unavailable(f"the hub's root certificate cannot be read: {exc}") from exc

    def _own_tls(self) -> ssl.SSLContext:
        context = self._pinned_tls()
        try:
            context.load_cert_chain(self._path("certificateFilePath"), self._path("privateKeyPath"))
        except (OSError, ssl.SSLError) as exc:
            raise Unavailable(f"this core's key or certificate cannot be read: {exc}") from exc
        return context


class _Listener:
    """The local broker's TLS context, made anew when one of its files has changed."""

    def __init__(self, certificate: Path, key: Path, root: Path) -> None:
        self._certificate, self._key, self._root = certificate, key, root
        self._seen: tuple[int, int] | None = None
        self._context: ssl.SSLContext | None = None

    def context(self) -> ssl.SSLContext:
        with disk.errors_of(self._certificate):
            seen = self._certificate.stat().st_mtime_ns, self._root.stat().st_mtime_ns
        if self._context is None or seen != self._seen:
            chain = CERTIFICATES.findall(disk.read(self._certificate).decode())
            # Behind our own certificate comes the authority that issues; the devices have theirs from it too.
            authorities = "".join([disk.read(self._root).decode(), *chain[1:]])
            try:
                self._context = server_context(str(self._certificate), str(self._key), authorities)
            except (OSError, ssl.SSLError) as exc:
                raise Unavailable(f"the local broker's certificate cannot be used: {exc}") from exc
            self._seen = seen
        return self._context


def _integer(value: JsonValue, default: int) -> int:
    """A whole number, also as text (recipes and configurations have both)."""
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) else default
