"""What this core tells the hub about itself: its components and how they are. `$aws/things/T/greengrassv2/health/json`.

COMPLETE at launch and once a day, PARTIAL at changes and after a reconnect; changes are gathered for a moment, so that ten
components that start cost one message. Not spooled: a newer one always says it all. Source: observed, nucleus 2.18 and lite 2.6.0.
"""

import asyncio
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from marram.core import codec
from marram.core.codec import JsonObject, JsonValue
from marram.core.errors import MarramError
from marram.edge.link import store
from marram.kit.db import Db
from marram.kit.log import logger

log = logger(__name__)

GATHER_S: Final = 1.0
CADENCE_S: Final = 86_400.0
MAX_BYTES: Final = 120 * 1024
VERSION: Final = "2.18.0"  # what AWS's components compare their requirement on aws.greengrass.Nucleus with
RUNTIME: Final = "aws_nucleus_lite"
ARCHITECTURES: Final[Mapping[str, str]] = {
    "x86_64": "amd64",
    "aarch64": "aarch64",
    "armv7l": "arm",
    "armv6l": "arm",
    "i686": "x86",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """`targets`: ARNs of the configurations that want it."""

    name: str
    version: str
    state: str
    targets: Sequence[str] = ()
    is_root: bool = False
    details: JsonObject = field(default_factory=dict[str, JsonValue])


class Link(Protocol):
    async def send(self, topic: str, payload: bytes) -> None: ...
    def watch(self, changed: Callable[[bool], None]) -> Callable[[], None]: ...


class FleetStatus:
    """`components` gives the present ones. `run` until cancelled; `changed()` whenever one has another state or version."""

    def __init__(
        self,
        db: Db,
        link: Link,
        components: Callable[[], Iterable[Component]],
        *,
        thing: str,
        wall_ms: Callable[[], int],
    ) -> None:
        self._db = db
        self._link = link
        self._components = components
        self._thing = thing
        self._wall_ms = wall_ms
        self._told: dict[str, tuple[str, str]] = {}
        self._wake = asyncio.Event()
        self._trigger = ""
        self._deployment: JsonObject | None = None
        self._up = False
        self._launched = False

    def changed(self) -> None:
        self._ask("COMPONENT_STATUS_CHANGE")

    def deployed(self, *, kind: str, information: JsonObject) -> None:
        """After a deployment. `kind`: LOCAL_DEPLOYMENT, THING_DEPLOYMENT or THING_GROUP_DEPLOYMENT."""
        self._deployment = information
        self._ask(kind)

    async def run(self) -> None:
        cancel = self._link.watch(self._connected)
        try:
            while True:
                try:
                    async with asyncio.timeout(CADENCE_S):
                        await self._wake.wait()
                except TimeoutError:
                    self._trigger = "CADENCE"
                await asyncio.sleep(GATHER_S)
                self._wake.clear()
                if not self._up:
                    continue
                trigger = "NUCLEUS_LAUNCH" if not self._launched else self._trigger or "COMPONENT_STATUS_CHANGE"
                self._trigger = ""
                try:
                    await self._send(trigger)
                except MarramError as exc:  # the next connection sends it anew
                    log.info("fleet_status.not_sent", why=exc.message)
        finally:
            cancel()

    def _connected(self, up: bool) -> None:
        self._up = up
        if up:
            self._ask("RECONNECT")

    def _ask(self, trigger: str) -> None:
        if self._trigger in ("", "COMPONENT_STATUS_CHANGE"):
            self._trigger = trigger
        self._wake.set()

    async def _send(self, trigger: str) -> None:
        complete = trigger in ("NUCLEUS_LAUNCH", "CADENCE", "NETWORK_RECONFIGURE")
        present = list(self._components())
        now = {each.name: (each.version, each.state) for each in present}
        listed = [_row(each) for each in present if complete or self._told.get(each.name) != now[each.name]]
        listed += [
            _row(Component(name=name, version=version, state="UNINSTALLED"))
            for name, (version, _) in self._told.items()
            if name not in now
        ]
        deployment, self._deployment = self._deployment, None
        if not listed and not complete and deployment is None:
            return  # nothing has changed while we were away: no bytes for that
        broken = any(each.state == "BROKEN" for each in present)
        sequence = await self._db.write(lambda tx: store.next_number(tx, "fleet_status"))
        body: JsonObject = {
            "ggcVersion": VERSION,
            "platform": "linux",
            "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
            "runtime": RUNTIME,
            "thing": self._thing,
            "sequenceNumber": sequence,
            "timestamp": self._wall_ms(),
            "messageType": "COMPLETE" if complete else "PARTIAL",
            "trigger": trigger,
            "overallDeviceStatus": "UNHEALTHY" if broken else "HEALTHY",
        }
        if deployment is not None:
            body["deploymentInformation"] = deployment
        chunks = _chunks(listed)
        for number, chunk in enumerate(chunks, 1):
            body["components"] = list(chunk)
            body["chunkInfo"] = {"chunkId": number, "totalChunks": len(chunks)}
            await self._link.send(f"$aws/things/{self._thing}/greengrassv2/health/json", codec.dumps(body))
        self._told = now
        self._launched = True


def _row(component: Component) -> JsonObject:
    row: JsonObject = {
        "componentName": component.name,
        "version": component.version,
        "fleetConfigArns": list(component.targets),
        "isRoot": component.is_root,
        "status": component.state,
    }
    if component.details:
        row["componentStatusDetails"] = component.details
    return row


def _chunks(rows: list[JsonObject]) -> list[list[JsonObject]]:
    """At least one, each under MAX_BYTES."""
    chunks: list[list[JsonObject]] = [[]]
    size = 0
    for row in rows:
        length = len(codec.dumps(row)) + 1
        if size + length > MAX_BYTES and chunks[-1]:
            chunks.append([])
            size = 0
        chunks[-1].append(row)
        size += length
    return chunks
