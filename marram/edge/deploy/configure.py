"""Phase 4: the new configuration trees, computed and not yet active; then install scripts, beside what runs.

Order of one component: running values - reset + the recipe's defaults where nothing is + merge at the deployment's time.
"""

from marram.core import config_tree, recipe
from marram.core.config_tree import Tree
from marram.core.errors import Invalid, MarramError
from marram.core.recipe import Recipe
from marram.edge.deploy.work import Work
from marram.edge.nucleus.component import Component
from marram.edge.nucleus.prepare import Prepared


async def run(work: Work) -> None:
    """Raises StepFailed when an install script fails: nothing has changed then."""
    now_ms = work.document.created_ms or work.row.created_ms
    work.trees = {name: _tree(work, each, now_ms) for name, each in work.made().recipes.items()}
    active = work.tools.supervisor.active()
    prepared: list[Prepared] = []
    for name in work.made().order:
        component = _component(work, work.made().recipes[name], active.get(name))
        prepared.append(work.tools.supervisor.prepare(component, work.trees))
        if any(not step.privileged for step in prepared[-1].lifecycle.steps.values()):
            work.tools.supervisor.user(prepared[-1])  # one that it cannot become is refused before anything stops
    work.prepared = []
    for each in prepared:
        component = await work.tools.supervisor.install(each)
        work.prepared.append(work.tools.supervisor.prepare(component, work.trees))


def _tree(work: Work, each: Recipe, now_ms: int) -> Tree:
    wish = work.document.components.get(each.name)
    try:
        tree = work.tools.config.tree(each.name)
        if wish is not None:
            tree = config_tree.reset(tree, wish.reset)
        tree = config_tree.fill(tree, each.configuration)
        if wish is not None and wish.merge:
            if work.document.local:
                # Whoever stands at the machine means it now, whatever its clock says.
                now_ms = max([now_ms, *(leaf.time_ms for leaf in tree.values())])
            tree = config_tree.merge(tree, (), wish.merge, now_ms)
    except MarramError as exc:
        raise Invalid(f"configuration of {each.name}: {exc.message}", component=each.name) from exc
    return tree


def _component(work: Work, each: Recipe, active: Component | None) -> Component:
    wish = work.document.components.get(each.name)
    run_with = wish.run_with if wish is not None and wish.run_with is not None else active.run_with if active else {}
    artifacts = work.artifacts.get(each.name, {})
    recipe.select(each, work.tools.supervisor.device.attributes)
    return Component(recipe=each, run_with=run_with, artifacts=artifacts, installed=active.installed if active else "")
