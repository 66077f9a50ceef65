"""Which versions run together: roots and their dependencies -> one version of each component, and the order to start. Pure.

Breadth first, one component at a time, as AWS does; all requirements on a component hold together. Who finds recipes (local
folder, hub) is the caller's: `resolve` is a generator that asks. No backtracking: the answer to a question is final for
that set of requirements; a set that cannot be met is a conflict that names everyone who required something.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from marram.core import semver
from marram.core.errors import Conflict, LimitExceeded
from marram.core.recipe import Recipe

MAX_COMPONENTS: Final = 1000


class Unresolvable(Conflict):
    """The wanted components cannot run together; the message names the components and their requirements."""

    code = "MRM-4003"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A question: a recipe of `name` that satisfies all `requirements` (by whom -> range), please; None if there is none."""

    name: str
    requirements: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`order`: every component after those it depends on."""

    recipes: Mapping[str, Recipe]
    order: tuple[str, ...]
    roots: frozenset[str]


Roots = Mapping[str, Mapping[str, str]]  # component -> by whom (a target) -> requirement


def resolve(roots: Roots) -> Generator[Wanted, Recipe | None, Plan]:
    """Raises Unresolvable: no version fits, a circle, more than one nucleus."""
    chosen: dict[str, Recipe] = {}
    asked: dict[tuple[str, tuple[tuple[str, str], ...]], Recipe] = {}
    for _ in range(MAX_COMPONENTS * 4):
        requirements = _requirements(roots, chosen)
        name = next((each for each in requirements if not _holds(chosen.get(each), requirements[each])), None)
        if name is None:
            live = {each: chosen[each] for each in requirements}
            _one_nucleus(live)
            return Plan(recipes=live, order=order(live), roots=frozenset(roots))
        if len(chosen) > MAX_COMPONENTS:
            raise LimitExceeded(f"a deployment has at most {MAX_COMPONENTS} components", limit=MAX_COMPONENTS)
        key = (name, tuple(sorted(requirements[name].items())))
        found = asked.get(key)
        if found is None:
            answer = yield Wanted(name=name, requirements=requirements[name])
            if answer is None or answer.name != name or not _holds(answer, requirements[name]):
                raise Unresolvable(f"no version of {name} fits: {_said(requirements[name])}", component=name)
            found = asked[key] = answer
        chosen[name] = found
    raise Unresolvable("the requirements change each other without end: " + ", ".join(sorted(chosen)))


def order(recipes: Mapping[str, Recipe]) -> tuple[str, ...]:
    """Dependencies first, else by name. Raises Unresolvable naming a circle (of hard and soft dependencies)."""
    done: list[str] = []
    state: dict[str, int] = {}  # 1 = being visited, 2 = done
    for start in sorted(recipes):
        stack: list[tuple[str, list[str]]] = []
        if start not in state:
            stack.append((start, _needs(recipes, start)))
            state[start] = 1
        while stack:
            name, rest = stack[-1]
            if not rest:
                stack.pop()
                state[name] = 2
                done.append(name)
                continue
            inner = rest.pop(0)
            if state.get(inner) == 1:
                path = [each for each, _ in stack]
                circle = [*path[path.index(inner) :], inner]
                raise Unresolvable("the components depend on each other in a circle: " + " -> ".join(circle))
            if inner not in state:
                state[inner] = 1
                stack.append((inner, _needs(recipes, inner)))
    return tuple(done)


def best(versions: Sequence[semver.Version], requirements: Mapping[str, str]) -> semver.Version | None:
    """The highest version that all requirements cover."""
    ranges = [semver.parse_range(text) for text in requirements.values()]
    fitting = [version for version in versions if all(each.covers(version) for each in ranges)]
    return max(fitting, default=None)


def _needs(recipes: Mapping[str, Recipe], name: str) -> list[str]:
    return [each for each in sorted(recipes[name].dependencies) if each in recipes]


def _requirements(roots: Roots, chosen: Mapping[str, Recipe]) -> dict[str, dict[str, str]]:
    """Everyone reachable from the roots through what is chosen so far, in breadth-first order."""
    made: dict[str, dict[str, str]] = {name: dict(by) for name, by in sorted(roots.items())}
    queue = list(made)
    for name in queue:
        recipe = chosen.get(name)
        if recipe is None:
            continue
        for other, dependency in recipe.dependencies.items():
            if other not in made:
                made[other] = {}
                queue.append(other)
            made[other][name] = dependency.requirement
    return made


def _holds(recipe: Recipe | None, requirements: Mapping[str, str]) -> bool:
    if recipe is None:
        return False
    return all(semver.parse_range(text).covers(recipe.version) for text in requirements.values())


def _one_nucleus(recipes: Mapping[str, Recipe]) -> None:
    nuclei = sorted(name for name, recipe in recipes.items() if recipe.kind == "aws.greengrass.nucleus")
    if len(nuclei) > 1:
        raise Unresolvable(f"more than one nucleus: {', '.join(nuclei)}")


def _said(requirements: Mapping[str, str]) -> str:
    return ", ".join(f"{by} requires {text or '*'}" for by, text in sorted(requirements.items()))
