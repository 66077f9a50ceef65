"""Phase 1: roots of all targets -> exact versions (core.plan). Asks built-ins, the local folders, then the hub."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

from marram.core import plan, recipe, semver
from marram.core.errors import Invalid, MarramError, NotFound, Unavailable
from marram.core.recipe import Recipe
from marram.edge.deploy import builtin, store
from marram.edge.deploy.document import Document
from marram.edge.deploy.work import Work
from marram.kit import disk, yaml_bounded

RETRY_S = 2.0
SUFFIXES = (".yaml", ".yml", ".json")


async def run(work: Work) -> None:
    tools, document = work.tools, work.document
    # A local deployment asks for no groups: it must not wait for a hub that is half there.
    groups = None if document.local else await tools.source.groups()
    work.roots = wanted_roots(document, tools.db.read_now(store.roots), groups)
    by_component: dict[str, dict[str, str]] = {}
    for target, components in work.roots.items():
        for name, requirement in components.items():
            by_component.setdefault(name, {})[target] = requirement
    for name, wish in document.components.items():
        if name not in by_component and not wish.requirement:
            raise Invalid(f"{name} is configured by the deployment and is on this core neither wanted nor there")
    local = _folder(Path(document.recipes)) if document.recipes else {}
    questions = plan.resolve(by_component)
    try:
        asked = next(questions)
        while True:
            asked = questions.send(await _answer(work, asked, local))
    except StopIteration as stop:
        work.plan = stop.value


def wanted_roots(
    document: Document, saved: Mapping[str, Mapping[str, str]], groups: Sequence[str] | None
) -> dict[str, dict[str, str]]:
    """Saved roots with this document's in place of its target's; groups that the core has left are dropped."""
    made = {target: dict(components) for target, components in saved.items()}
    if groups is not None:
        for target in [target for target in made if target.startswith("thinggroup/") and target not in groups]:
            del made[target]
    named = {name: wish.requirement for name, wish in document.components.items() if wish.requirement}
    if not document.local:
        made[document.target] = named
        return {target: components for target, components in made.items() if components or target == document.target}
    made[document.target] = {**made.get(document.target, {}), **named}
    for name in document.remove:
        if not any(components.pop(name, None) for components in made.values()):
            raise NotFound(f"{name} is no root component of this core: nothing to remove", component=name)
    return made


async def _answer(work: Work, asked: plan.Wanted, local: Mapping[str, list[Recipe]]) -> Recipe | None:
    found = builtin.candidate(asked.name, asked.requirements)
    if found is not None:
        return found
    active = work.tools.supervisor.active().get(asked.name)
    here = list(local.get(asked.name, ()))
    given = _best(here, asked)
    if given is not None:
        return given
    if work.document.local:
        # What runs and still fits stays: a local deployment changes what it names, no more.
        kept = [active.recipe] if active else []
        found = _best(kept, asked) or _best(_packages(work, asked.name), asked)
        if found is not None:
            return found
    answer = await _ask_hub(work, asked, str(active.recipe.version) if active else None)
    if answer is not None:
        return answer
    kept = [*([active.recipe] if active else []), *_packages(work, asked.name)]
    return _best(kept, asked)  # e.g. a root of an earlier local deployment, which no hub knows


async def _ask_hub(work: Work, asked: plan.Wanted, present: str | None) -> Recipe | None:
    attributes = work.tools.supervisor.device.attributes
    while True:  # the phase's deadline ends it
        try:
            document = await work.tools.source.candidate(asked.name, asked.requirements, attributes, present)
        except Unavailable:
            if present is not None and _best(_packages(work, asked.name), asked):
                return None
            await asyncio.sleep(RETRY_S)
            continue
        return recipe.parse(document) if document is not None else None


def _best(recipes: "list[Recipe]", asked: plan.Wanted) -> Recipe | None:
    by_version = {each.version: each for each in recipes}
    best = plan.best(list(by_version), asked.requirements)
    return by_version[best] if best is not None else None


def _packages(work: Work, name: str) -> list[Recipe]:
    """Recipes that were fetched before, and whose artifacts are thus here."""
    made: list[Recipe] = []
    for path in work.tools.root.recipes.glob(f"{name}-*.json"):
        try:
            semver.parse(path.stem[len(name) + 1 :])
            made.append(recipe.parse(yaml_bounded.loads_object(disk.read(path, limit=yaml_bounded.MAX_BYTES))))
        except MarramError:
            continue
    return [each for each in made if each.name == name]


def _folder(folder: Path) -> dict[str, list[Recipe]]:
    """Every recipe in a person's folder. Raises Invalid naming the file."""
    if not folder.is_dir():
        raise Invalid(f"recipes: {folder} is no folder", folder="recipes")
    made: dict[str, list[Recipe]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in SUFFIXES or not path.is_file():
            continue
        try:
            found = recipe.parse(yaml_bounded.loads_object(disk.read(path, limit=yaml_bounded.MAX_BYTES)))
        except Invalid as exc:
            raise Invalid(f"{path.name}: {exc.message}", folder="recipes", file=str(path)) from exc
        made.setdefault(found.name, []).append(found)
    return made
