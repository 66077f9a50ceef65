"""Deployments with real components, for the crash sweep: v1, v2 (configuration too), v3 that fails and is rolled back, v4.

    deploy.py good|two-commits|unsynced|no-snapshot LAST FOLDER

Recipes and artifacts lie in FOLDER/in (`prepare`). A line "k" says that deployment k has ended and was acknowledged.
"""

import asyncio
import contextlib
import io
import itertools
import json
import os
import sys
import zipfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from marram.edge.deploy import record, store, switch, unzip
from marram.edge.deploy.ports import Nowhere
from marram.edge.deploy.service import Deployments
from marram.edge.deploy.work import Limits, Tools, Work
from marram.edge.main import MIGRATIONS
from marram.edge.nucleus import active
from marram.edge.nucleus import prepare as nucleus_prepare
from marram.edge.nucleus.config import Config
from marram.edge.nucleus.prepare import Device
from marram.edge.nucleus.root import Root
from marram.edge.nucleus.supervisor import Supervisor
from marram.kit import disk
from marram.kit.clock import SystemClock, SystemEntropy
from marram.kit.db import Db, Tx

NAME, OTHER = "com.ex.A", "com.ex.B"
# What must be active when deployment k was the last to end: component -> version.
SETS: Sequence[dict[str, str]] = (
    {},
    {NAME: "1.0.0"},
    {NAME: "2.0.0"},
    {NAME: "2.0.0"},
    {NAME: "4.0.0", OTHER: "1.0.0"},
    {NAME: "5.0.0", OTHER: "1.0.0"},
)


def prepare(folder: Path) -> None:
    recipes, artifacts = folder / "in" / "recipes", folder / "in" / "artifacts"
    recipes.mkdir(parents=True)
    for number in range(1, 6):
        version = f"{number}.0.0"
        check = f"test $(cat {{artifacts:decompressedPath}}/app/data) = {number}"
        write(recipes, NAME, version, "false" if number == 3 else check, {OTHER: "*"} if number >= 4 else {})
        place = artifacts / NAME / version
        place.mkdir(parents=True)
        data = io.BytesIO()
        with zipfile.ZipFile(data, "w") as archive:
            archive.writestr("data", f"{number}\n")
            archive.writestr("filler", bytes([number]) * 9000)
        (place / "app.zip").write_bytes(data.getvalue())
    write(recipes, OTHER, "1.0.0", "true", {})
    for place in (artifacts / OTHER / "1.0.0",):
        place.mkdir(parents=True)
        with zipfile.ZipFile(place / "app.zip", "w") as archive:
            archive.writestr("data", "x\n")


def write(folder: Path, name: str, version: str, script: str, needs: dict[str, str]) -> None:
    document = {
        "RecipeFormatVersion": "2020-01-25",
        "ComponentName": name,
        "ComponentVersion": version,
        "ComponentDependencies": {other: {"VersionRequirement": text} for other, text in needs.items()},
        "ComponentConfiguration": {"DefaultConfiguration": {"default": 1}},
        "Manifests": [
            {
                "Artifacts": [{"Uri": "s3://b/app.zip", "Unarchive": "ZIP"}],
                "Lifecycle": {"startup": {"Script": script, "Timeout": 7200}},
            }
        ],
        "x-marram": {"health": {"settle_s": 0, "errors": 1}},
    }
    (folder / f"{name}-{version}.json").write_text(json.dumps(document))


SOON = Limits(watch_s=10.0)


@contextlib.asynccontextmanager
async def core(folder: Path, *, limits: Limits = SOON) -> AsyncIterator[Deployments]:
    """As edge.main puts it together, without its doors."""
    os.umask(0o077)
    root = Root(folder / "root")
    disk.make_dirs(root.path)
    root.prepare()
    clock, entropy = SystemClock(), SystemEntropy()
    db = Db.open(root.state_db, clock=clock, entropy=entropy, migrations=MIGRATIONS)
    try:
        config = Config(db)
        device = Device(
            root=root,
            thing="",
            region="",
            root_ca="",
            path_first="",
            attributes=nucleus_prepare.device_attributes(),
            extra={},
        )
        supervisor = Supervisor(db=db, config=config, device=device, clock=clock, entropy=entropy)
        nowhere = Nowhere()
        tools = Tools(db=db, config=config, supervisor=supervisor, root=root, source=nowhere, limits=limits)
        deployments = Deployments(tools, nowhere, clock=clock, entropy=entropy)
        async with supervisor:
            await supervisor.boot()
            async with asyncio.TaskGroup() as group:
                task = group.create_task(deployments.run(), name="deployments")
                yield deployments
                task.cancel()
    finally:
        db.close()


async def deploy(
    deployments: Deployments, folder: Path, number: int, limit_s: float | None = 20.0
) -> record.Deployment:
    deployment = await deployments.submit_local(
        add={NAME: f"{number}.0.0"},
        configuration={NAME: {"MERGE": {"number": number}}},
        recipes=str(folder / "in" / "recipes"),
        artifacts=str(folder / "in" / "artifacts"),
    )
    async with asyncio.timeout(limit_s):
        return await deployments.ended(deployment)


async def run(folder: Path, last: int) -> None:
    # No limit of its own: a full sweep holds it at every operation for as long as the checks take.
    async with core(folder, limits=Limits()) as deployments:
        for number in range(1, last + 1):
            row = await deploy(deployments, folder, number, None)
            wanted = record.FAILED if number == 3 else record.SUCCEEDED
            assert row.status == wanted, row.detail
            print(number, flush=True)


def mark() -> None:
    """From here on the sweep looks."""
    Path(os.environ["MARRAM_SWEEP_MARK"]).touch()


def sabotage(how: str) -> None:
    """Engines broken on purpose."""
    if how == "two-commits":

        async def run(work: Work) -> None:
            wanted = {each.component.name: each.component for each in work.prepared}
            before = work.tools.db.read_now(lambda tx: switch.snapshot(tx, work.trees))
            await work.tools.db.write(lambda tx: store.enter(tx, work.row.id, "watch", snapshot=before))
            mark()
            await work.tools.db.write(lambda tx: active.replace(tx, work.tools.config, wanted.values(), work.trees))
            await work.tools.db.write(lambda tx: store.save_roots(tx, work.roots))
            await work.tools.supervisor.apply(work.prepared)

        switch.run = run
    elif how == "unsynced":
        unzip.os = _Os()  # type: ignore[attr-defined]
    elif how == "no-snapshot":
        real, calls = switch.snapshot, itertools.count(1)

        def snapshot(tx: Tx, touched: Any) -> Any:
            if next(calls) == 3:  # the one that is rolled back
                mark()
            return {**real(tx, touched), "components": []}

        switch.snapshot = snapshot


class _Os:
    """The module `os` with an fsync that does nothing."""

    def __getattr__(self, name: str) -> Any:
        return (lambda handle: mark()) if name == "fsync" else getattr(os, name)


if __name__ == "__main__":
    sabotage(sys.argv[1])
    asyncio.run(run(Path(sys.argv[3]), int(sys.argv[2])))
