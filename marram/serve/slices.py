"""Every slice of the hub, built in order: each sees only those before it.

A new slice: its name in NAMES, its field in `Slices`, its line in `build`; what it starts and runs in `start` and `runners`.
Not here: doors (doors.py), the process (hub.py).
"""

import asyncio
import contextlib
import importlib
import pkgutil
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from marram.core import sigv4
from marram.hub.audit.service import HEAD_EVERY_S, Audit
from marram.hub.broker.service import Broker
from marram.hub.bus import Bus, Outbox
from marram.hub.greengrass.service import Greengrass
from marram.hub.identity.pki import Pki
from marram.hub.identity.service import Identity, Key, Trust
from marram.hub.jobs.service import Jobs
from marram.hub.jobs.signing import RoleSigner
from marram.hub.objects import run as uploads
from marram.hub.objects.service import Objects
from marram.hub.provisioning.service import Provisioning
from marram.hub.registry.service import Registry
from marram.hub.rules.service import Rules
from marram.hub.shadow import run as watching
from marram.hub.shadow.service import Shadows
from marram.hub.timeseries.service import TimeSeries
from marram.kit import log, registry
from marram.kit.blobs import Blobs
from marram.kit.clock import Clock, Entropy
from marram.kit.db import Db, Migrations
from marram.kit.seglog import Journal
from marram.kit.tasks import periodic
from marram.serve import learning
from marram.serve.learning import Learner
from marram.serve.settings import Place, Sections

logger = log.logger(__name__)

NAMES: Final = (
    "audit", "identity", "registry", "broker", "shadow", "objects", "timeseries", "jobs", "rules", "greengrass",
    "provisioning",
)  # fmt: skip
PRESIGN_RIGHTS: Final = (
    '{"Version": "2012-10-17", "Statement": '
    '[{"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::marram-*"}]}'
)
JOB_FILE_RIGHTS: Final = (
    '{"Version": "2012-10-17", "Statement": '
    '[{"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::*"}]}'
)
KEYS_USED_EVERY_S: Final = 60.0

Runner = tuple[str, Callable[[], Awaitable[None]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """What all slices stand on. `endpoints`: what clients are told, by door."""

    data: Path
    clock: Clock
    entropy: Entropy
    bus: Bus
    db: Db
    journal: Journal
    place: Place
    endpoints: dict[str, str]
    settings: Sections


@dataclass(frozen=True, slots=True, kw_only=True)
class Slices:
    """The services; fields named in NAMES are the slices."""

    pki: Pki
    admin: Key
    blobs: Blobs
    learner: Learner
    audit: Audit
    identity: Identity
    registry: Registry
    broker: Broker
    shadow: Shadows
    objects: Objects
    timeseries: TimeSeries
    jobs: Jobs
    rules: Rules
    greengrass: Greengrass
    provisioning: Provisioning

    @property
    def services(self) -> dict[str, object]:
        """By slice name: what operations, topics and routes are called with."""
        return {"border": None, **{name: getattr(self, name) for name in NAMES}, **self.learner.services}


@dataclass(frozen=True, slots=True)
class _Signer:
    """Signs the URLs that the hub hands out."""

    held: sigv4.Credentials

    def credentials(self) -> sigv4.Credentials:
        return self.held


def build(base: Base) -> Slices:
    """Nothing runs yet but what a constructor reads."""
    db, journal, bus, place, endpoints = base.db, base.journal, base.bus, base.place, base.endpoints
    clock, entropy = base.clock, base.entropy
    pki = Pki.open(base.data / "pki", clock=clock, entropy=entropy, names=[place.host])
    pki.renew_if_due()
    audit = Audit(db, key=pki.derived_key("audit"), folder=base.data / "audit")
    identity = Identity(
        db, pki, bus, clock=clock, entropy=entropy, account=place.account, region=place.region,
        endpoints=lambda: {"mqtt": endpoints["mqtt"], "https": endpoints["https"], "api": endpoints["api"]},
    )  # fmt: skip
    admin = identity.admin_key()
    presigner = identity.own_key("marram-presign", PRESIGN_RIGHTS)
    things = Registry(db, identity, bus, entropy=entropy, endpoint=lambda: (place.host, place.ports["https"]))
    broker = Broker(
        journal=journal, db=db, identity=identity, clock=clock, entropy=entropy, bus=bus,
        settings=base.settings.limits.broker,
    )  # fmt: skip
    broker.use_index(things.index)
    things.index.use_sources(connectivity=broker.connectivity_of)
    shadows = Shadows(db, bus, settings=base.settings.shadow, index=things.index, is_heard=broker.is_heard)
    things.index.use_sources(shadows=shadows.searchable)
    blobs = Blobs(base.data / "blobs", db, entropy=entropy)
    objects = Objects(
        db, blobs, clock, region=place.region, endpoint=lambda: endpoints["api"],
        signer=_Signer(sigv4.Credentials(presigner.id, presigner.secret)),
    )  # fmt: skip
    series = TimeSeries(
        db=db, journal=journal, clock=clock, folder=base.data / "ts", entropy=entropy, settings=base.settings.timeseries
    )
    job_files = identity.own_key("marram-job-files", JOB_FILE_RIGHTS)
    jobs = Jobs(
        db, bus, things, objects=objects, events=things.events, replies=broker,
        signer=RoleSigner(identity, objects, sigv4.Credentials(job_files.id, job_files.secret)),
    )  # fmt: skip
    rules = Rules(
        db=db, journal=journal, broker=broker, timeseries=series, check_role=identity.check_role, act_as=identity.act_as,
        clock=clock, tags=things.tags,
    )  # fmt: skip
    greengrass = Greengrass(db, bus, identity, things, jobs, objects, account=place.account, region=place.region)
    provisioning = Provisioning(db, identity, things, objects, broker, clock=clock, settings=base.settings.provisioning)
    learner = learning.build(
        db=db, objects=objects, identity=identity, pki=pki, greengrass=greengrass, clock=clock, folder=base.data, account=place.account,
        region=place.region,
    )  # fmt: skip
    made = Slices(
        pki=pki, admin=admin, blobs=blobs, learner=learner, audit=audit, identity=identity, registry=things, broker=broker,
        shadow=shadows, objects=objects, timeseries=series, jobs=jobs, rules=rules, greengrass=greengrass,
        provisioning=provisioning,
    )  # fmt: skip
    _declare([*(f"marram.hub.{name}" for name in NAMES), *learner.packages])
    broker.add_handlers(made.services)
    return made


async def start(slices: Slices, stack: contextlib.AsyncExitStack) -> None:
    """What must be there before anything runs; `stack` takes it down again, in the opposite order."""
    series, broker, rules = slices.timeseries, slices.broker, slices.rules
    stack.push_async_callback(slices.identity.keys.flush)
    stack.push_async_callback(slices.audit.stop)
    await series.start()
    stack.push_async_callback(series.stop)
    await broker.start()
    stack.push_async_callback(broker.stop)
    await rules.start()
    stack.push_async_callback(rules.stop)
    # Who reads the journal by a cursor of its own; with each checkpoint the broker trims below all of them and itself.
    broker.keep("timeseries", lambda: series.position)
    broker.keep("rules", lambda: rules.position)
    for close in slices.learner.closers:
        stack.push_async_callback(close)


def runners(base: Base, slices: Slices) -> list[Runner]:
    """What runs as long as the hub. The outbox is first: replies of the last life leave before a door opens."""
    return [
        ("outbox", Outbox(base.db, slices.broker.publish_outbox).run),
        ("broker", slices.broker.run),
        ("index", slices.registry.index.run),
        ("dynamic-groups", slices.registry.dynamic.run),
        ("deleted-groups", slices.registry.leaving.run),
        ("shadows", lambda: watching.run(slices.shadow)),
        ("series", slices.timeseries.run),
        ("rules", slices.rules.run),
        ("jobs", slices.jobs.run),
        ("greengrass", slices.greengrass.run),
        ("tls-trust", slices.identity.trust.run),
        ("keys", lambda: periodic("keys.used", KEYS_USED_EVERY_S, slices.identity.keys.flush)),
        ("arrivals", slices.provisioning.arrivals.run),
        ("registration-tasks", slices.provisioning.bulk.run),
        ("provisioning", lambda: periodic("provisioning.tend", 5.0, slices.provisioning.tend)),
        ("audit", lambda: periodic("audit.tend", HEAD_EVERY_S, slices.audit.tend)),
        ("blobs", lambda: periodic("blobs.collect", 30.0, _collect(slices.blobs))),
        ("uploads", lambda: periodic("objects.expire", uploads.EVERY_S, lambda: uploads.expire(slices.objects))),
        ("certificates", lambda: periodic("pki.renew", 3600.0, _renew(slices.pki, slices.identity.trust))),
        *slices.learner.runners,
    ]


def migrations() -> list[Migrations]:
    """Of the slices that have tables, and of marram/serve."""
    here = Path(__file__).parent.parent / "hub"
    return [
        Migrations(slice="serve", package="marram.serve"),
        *(
            Migrations(slice=name, package=f"marram.hub.{name}")
            for name in NAMES
            if (here / name / "migrations").is_dir()
        ),
        *learning.migrations(),
    ]


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


def _renew(pki: Pki, trust: Trust) -> Callable[[], Awaitable[None]]:
    async def work() -> None:
        if await asyncio.to_thread(pki.renew_if_due):
            trust.renew()

    return work
