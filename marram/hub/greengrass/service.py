"""The face of the slice: components, deployments and devices, and what runs behind them."""

import asyncio
import contextlib

from marram.core import arn
from marram.core.codec import JsonObject, JsonValue
from marram.core.errors import Denied, Invalid
from marram.hub.bus import Bus
from marram.hub.greengrass.components import Components
from marram.hub.greengrass.deployments import NAMESPACE, Deployments
from marram.hub.greengrass.devices import Devices
from marram.hub.identity.service import Identity, Subject
from marram.hub.jobs.service import ExecutionChanged, Jobs, QueueAsked
from marram.hub.objects.service import Objects
from marram.hub.registry.service import GroupMembershipChanged, Registry
from marram.kit.db import Db

LOOK_S = 0.5  # how often a baking canary is looked at


class Greengrass:
    def __init__(
        self,
        db: Db,
        bus: Bus,
        identity: Identity,
        registry: Registry,
        jobs: Jobs,
        objects: Objects,
        *,
        account: str,
        region: str,
    ) -> None:
        self.account, self.region = account, region
        self.components = Components(db, objects, account=account, region=region)
        self.deployments = Deployments(db, jobs, registry, account=account, region=region)
        self.devices = Devices(db, registry)
        self._identity, self._registry = identity, registry
        self._joined = True  # whatever changed before the start
        self._wake = asyncio.Event()
        bus.subscribe(GroupMembershipChanged, self._membership_changed)
        bus.subscribe(ExecutionChanged, lambda _event: self._wake.set())
        self._askers: set[str] = set()  # things that asked for deployments: cores, known or not
        self._asked: set[str] = set()  # of them those that nobody has looked at yet
        bus.subscribe(QueueAsked, self._queue_asked)

    async def run(self) -> None:
        """Canaries and group membership, until cancelled."""
        while True:
            self._wake.clear()
            while self._asked:
                self._joined |= await self.devices.asked(self._asked.pop())
            if self._joined:
                self._joined = False
                await self.deployments.reconcile()
            await self.deployments.watch_canaries()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._wake.wait()

    def _queue_asked(self, event: QueueAsked) -> None:
        if event.namespace == NAMESPACE and event.thing not in self._askers:
            self._askers.add(event.thing)
            self._asked.add(event.thing)
            self._wake.set()

    def _membership_changed(self, _event: GroupMembershipChanged) -> None:
        self._joined = True
        self._wake.set()

    def check_core(self, subject: Subject | None, thing: str) -> None:
        """The certificate must be attached to the thing it asks about. Raises Denied."""
        if subject is None or self._identity.with_client(subject, thing).thing != thing:
            raise Denied(f"the certificate is not attached to thing {thing}")

    async def groups(self, thing: str) -> list[JsonValue]:
        """Thing groups of a core in the form that nuclei ask for."""
        out: list[JsonValue] = []
        for name in await self._registry.groups_of(thing):
            out.append(
                {
                    "thingGroupName": name,
                    "thingGroupArn": f"arn:aws:iot:{self.region}:{self.account}:thinggroup/{name}",
                    "rootToParentThingGroups": [],
                }
            )
        return out

    async def members(self, group_arn: str) -> list[str]:
        """Things of a group given by ARN. Raises Invalid, NotFound."""
        kind, _, name = arn.parse(group_arn).resource.partition("/")
        if kind != "thinggroup":
            raise Invalid(f"{group_arn!r} is not the ARN of a thing group")
        return await self._registry.things_in(name)

    async def client_devices(self, core: str) -> list[JsonValue]:
        """What a core's local broker must know to let its devices in while the hub is away."""
        out: list[JsonValue] = []
        for thing, _since in await self.devices.clients(core):
            certificates: list[JsonValue] = list(await self._registry.certificates_of(thing))
            entry: JsonObject = {"thingName": thing, "certificateIds": certificates}
            out.append(entry)
        return out
