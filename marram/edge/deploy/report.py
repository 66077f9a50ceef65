"""Phase 7: the end on record, the lockfile, what nothing refers to removed, and whoever asked told."""

import asyncio
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from marram.core import codec
from marram.core.codec import JsonObject, JsonValue
from marram.core.errors import MarramError
from marram.edge.deploy import store
from marram.edge.deploy.work import Work
from marram.edge.nucleus import active as nucleus
from marram.edge.nucleus.component import Component
from marram.edge.nucleus.root import Root
from marram.kit import disk
from marram.kit.log import logger

log = logger(__name__)

FORMAT = 1


async def run(work: Work, status: str) -> None:
    await work.tools.db.write(lambda tx: store.end(tx, work.row.id, status, work.detail))
    try:
        await asyncio.to_thread(clean, work.tools.root, work.tools.db.read_now(nucleus.components), work.folder)
    except MarramError as exc:  # what is left over costs space, not correctness; the next deployment tries again
        log.warning("deployment.not_cleaned", deployment=work.row.id, why=exc.message)


def lock(components: Mapping[str, Component]) -> JsonObject:
    """Exact versions and digests of a set."""
    made: JsonObject = {}
    for name, each in sorted(components.items()):
        artifacts: JsonObject = dict(sorted(each.artifacts.items()))
        made[name] = {"version": each.version, "recipe": _recipe_digest(each), "artifacts": artifacts}
    return made


def difference(before: Mapping[str, Component], after: Mapping[str, Component]) -> list[JsonValue]:
    """What a deployment changes, a line for each component: {component, from, to} with null for none."""
    old, new = lock(before), lock(after)
    made: list[JsonValue] = []
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            entry: JsonObject = {
                "component": name,
                "from": before[name].version if name in before else None,
                "to": after[name].version if name in after else None,
            }
            made.append(entry)
    return made


def clean(root: Root, active: Mapping[str, Component], folder: Path) -> None:
    """Write the lockfile, remove the incoming folder and every version that is not active. Blocking."""
    disk.write_atomic(
        root.config / "lock.json", codec.canonical({"format": FORMAT, "components": lock(active)}), mode=0o644
    )
    if folder.exists():
        disk.remove_tree(folder)
    kept = {(each.name, each.version) for each in active.values()}
    for base in (root.artifacts("x", "y").parent.parent, root.unarchived("x", "y").parent.parent):
        for name, version, path in _versions(base):
            if (name, version) not in kept:
                disk.remove_tree(path)
    wanted = {root.recipe(name, version).name for name, version in kept}
    for path in root.recipes.glob("*.json"):
        if path.name not in wanted:
            disk.remove(path)


def _versions(base: Path) -> Iterator[tuple[str, str, Path]]:
    for component in base.iterdir() if base.is_dir() else ():
        for version in component.iterdir() if component.is_dir() else ():
            yield component.name, version.name, version


def _recipe_digest(component: Component) -> str:
    return hashlib.sha256(codec.canonical(component.recipe.document)).hexdigest()
