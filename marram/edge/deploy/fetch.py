"""Phase 2: every artifact that is not here yet into incoming/<deployment>, from the given folder or from the hub."""

import asyncio
import hashlib
import os
import shutil
from pathlib import Path

from marram.core import recipe
from marram.core.errors import Conflict, Invalid, NotFound, Unavailable
from marram.core.recipe import Artifact, Recipe
from marram.edge.deploy.work import Work
from marram.kit import disk

RETRY_S = 2.0
BROKEN_ANSWERS = 3
CHUNK = 1 << 20


async def run(work: Work) -> None:
    """Fills `work.artifacts` with the digests of all files, old and new."""
    disk.make_dirs(work.folder)
    for name, each in work.made().recipes.items():
        chosen = recipe.select(each, work.tools.supervisor.device.attributes)
        work.artifacts[name] = {}
        for artifact in chosen.artifacts:
            work.artifacts[name][artifact.name] = await _one(work, each, artifact)


def place(work: Work, each: Recipe, artifact: Artifact) -> Path:
    return work.folder / each.name / str(each.version) / artifact.name


async def _one(work: Work, each: Recipe, artifact: Artifact) -> str:
    version = str(each.version)
    kept = work.tools.root.artifacts(each.name, version) / artifact.name
    here = await asyncio.to_thread(digest_of, kept) if kept.exists() else ""
    given = Path(work.document.artifacts) / each.name / version / artifact.name if work.document.artifacts else None
    if given is not None and given.is_file():
        fresh = await asyncio.to_thread(digest_of, given)
        if artifact.digest and artifact.digest != fresh:
            raise Invalid(
                f"{each.name} {version}: artifact {artifact.name} does not have the digest that its recipe states",
                folder="artifacts",
            )
        if fresh == here:
            return here
        active = work.tools.supervisor.active().get(each.name)
        if here and active is not None and active.version == version:
            raise Conflict(
                f"{each.name} {version} is active with another {artifact.name}; a changed artifact needs a new version"
            )
        target = place(work, each, artifact)
        disk.make_dirs(target.parent)
        await asyncio.to_thread(_copy, given, target, work.tools.limits.artifact_bytes)
        return fresh
    if here and (not artifact.digest or artifact.digest == here):
        return here
    target = place(work, each, artifact)
    disk.make_dirs(target.parent)
    if target.exists() and artifact.digest and await asyncio.to_thread(digest_of, target) == artifact.digest:
        return artifact.digest  # fetched before the core was interrupted
    if not artifact.digest and not work.document.local:
        raise Invalid(f"{each.name} {version}: artifact {artifact.name} has no digest; the hub's recipes have one")
    failures = 0
    while True:  # the phase's deadline ends it
        try:
            await work.tools.source.artifact(each.name, version, artifact.uri, target, work.tools.limits.artifact_bytes)
        except Unavailable as exc:
            if isinstance(exc, disk.DiskFull):
                raise
            # A hub that cannot be reached comes back. One that says that it cannot read its own copy says so again.
            failures = failures + 1 if exc.data.get("status") == 500 else 0
            if failures >= BROKEN_ANSWERS:
                raise NotFound(
                    f"{each.name} {version}: the hub cannot give artifact {artifact.name}: {exc.message}"
                ) from exc
            await asyncio.sleep(RETRY_S)
            continue
        break
    if not target.exists():
        raise NotFound(f"{each.name} {version}: artifact {artifact.name} was not delivered")
    return await asyncio.to_thread(digest_of, target)


def digest_of(path: Path) -> str:
    """Lower-case hex SHA-256. Blocking."""
    state = hashlib.sha256()
    with disk.errors_of(path), path.open("rb") as file:
        while block := file.read(CHUNK):
            state.update(block)
    return state.hexdigest()


def _copy(source: Path, target: Path, limit: int) -> None:
    with disk.errors_of(target):
        if source.stat().st_size > limit:
            raise Invalid(f"{source} is larger than {limit} bytes", folder="artifacts")
        with source.open("rb") as reader, target.open("wb") as writer:
            shutil.copyfileobj(reader, writer, CHUNK)
            writer.flush()
            os.fsync(writer.fileno())
