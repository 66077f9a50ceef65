"""Jobs on real stores: identity, registry and jobs around one database and a clock that stands still."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from marram.core.codec import JsonObject
from marram.hub.bus import Bus
from marram.hub.identity.pki import Pki
from marram.hub.identity.service import Identity
from marram.hub.jobs.service import Described, ExecutionChanged, JobChanged, Jobs, Wanted
from marram.hub.registry.service import Registry
from marram.kit.clock import FakeClock, SeededEntropy
from marram.kit.db import Db, Migrations

ACCOUNT, REGION = "000000000001", "local-1"
MINUTE_MS = 60_000
SLICES = ("identity", "registry", "jobs")


@dataclass
class World:
    """`reopen` is what a restart leaves: everything that is not on the disk is gone."""

    folder: Path
    clock: FakeClock
    entropy: SeededEntropy

    def open(self) -> None:
        self.bus = Bus()
        self.heard: list[object] = []
        for kind in (ExecutionChanged, JobChanged):
            self.bus.subscribe(kind, self.heard.append)
        migrations = [Migrations(slice=name, package=f"marram.hub.{name}") for name in SLICES]
        self.db = Db.open(self.folder / "hub.db", clock=self.clock, entropy=self.entropy, migrations=migrations)
        pki = Pki.open(self.folder / "pki", clock=self.clock, entropy=self.entropy)
        identity = Identity(
            self.db, pki, self.bus, clock=self.clock, entropy=self.entropy, account=ACCOUNT, region=REGION
        )
        self.registry = Registry(self.db, identity, self.bus, entropy=self.entropy)
        self.jobs = Jobs(self.db, self.bus, self.registry, events=self.registry.events)

    async def reopen(self) -> None:
        self.db.close()
        self.open()

    def arn(self, resource: str) -> str:
        return f"arn:aws:iot:{REGION}:{ACCOUNT}:{resource}"

    async def things(self, *names: str, group: str = "") -> None:
        for name in names:
            await self.registry.create_thing(name)
            if group:
                await self.registry.add_to_group(group, name)

    async def create(self, job: str, *targets: str, **options: Any) -> None:
        """Targets as `thing/a`, `thinggroup/g`; options are those of CreateJob's settings, or fields of Wanted."""
        fields = {
            name: options.pop(name) for name in ("selection", "namespace", "template", "description") if name in options
        }
        document = options.pop("document", '{"do": 1}')
        await self.jobs.control.create(
            Wanted(
                id=job, targets=[self.arn(target) for target in targets], document=document, config=options, **fields
            )
        )

    async def work(self, minutes: float = 0) -> None:
        """Let time pass, and do what fell due."""
        self.clock.advance(int(minutes * MINUTE_MS))
        await self.jobs.work_off()

    def job(self, job: str) -> Any:
        found: Described = self.jobs.control.get(job)
        return found.job

    def status(self, job: str, thing: str) -> str:
        return str(self.jobs.control.execution(job, thing, None).status)

    async def report(self, job: str, thing: str, status: str, **more: Any) -> Any:
        return await self.jobs.device.update(job, thing, {"status": status, **more})

    async def start(self, thing: str) -> Any:
        return await self.jobs.device.start_next(thing, "", None, None)

    def sent(self, tail: str) -> list[JsonObject]:
        """What has left on topics that end so, and stays to be seen again."""
        return [json.loads(body) for _, topic, body, _ in self.db.outbox_pending(100_000) if topic.endswith(tail)]

    async def forget_sent(self) -> None:
        rows = self.db.outbox_pending(1_000_000)
        if rows:
            await self.db.outbox_done(rows[-1][0])


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path, FakeClock(), SeededEntropy(1))
    made.open()
    yield made
    made.db.close()
