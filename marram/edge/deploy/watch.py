"""Phase 6: the health gate. Everything of the set must be up, and healthy where its recipe has a probe, for as long as it says.

Fails at the first component that is BROKEN, unhealthy, or has erred as often as its recipe allows during a deployment.
"""

import asyncio
from collections.abc import Collection, Sequence

from marram.core import lifecycle
from marram.core.errors import NotFound
from marram.core.lifecycle import State
from marram.core.recipe import Recipe
from marram.edge.deploy.work import DeploymentFailed
from marram.edge.nucleus.supervisor import ComponentStatus, Supervisor

UP = frozenset(state.value for state in lifecycle.UP)


async def gate(supervisor: Supervisor, names: Sequence[str], changed: Collection[str], limit_s: float) -> None:
    """Returns when all are well, those that changed for as long as their recipes say.

    Raises DeploymentFailed naming the component and why; at the latest after `limit_s`.
    """
    active = supervisor.active()
    recipes = {name: active[name].recipe for name in names if name in active}
    begun = {name: supervisor.status(name).errors for name in recipes}
    settle_s = max((each.health.settle_s for name, each in recipes.items() if name in changed), default=0.0)
    loop = asyncio.get_running_loop()
    well_since: float | None = None
    release = supervisor.watch(list(recipes))
    try:
        async with asyncio.timeout(limit_s):
            while True:
                statuses = [_status(supervisor, name) for name in recipes]
                for each in statuses:
                    _check(each, recipes[each.name], begun[each.name])
                if all(_is_well(each, recipes[each.name]) for each in statuses):
                    well_since = loop.time() if well_since is None else well_since
                    rest_s = well_since + settle_s - loop.time()
                    if rest_s <= 0:
                        return
                else:
                    well_since, rest_s = None, limit_s
                try:
                    async with asyncio.timeout(rest_s):
                        await supervisor.change()
                except TimeoutError:
                    continue
    except TimeoutError as exc:
        late = [
            each.name
            for each in (_status(supervisor, name) for name in recipes)
            if not _is_well(each, recipes[each.name])
        ]
        raise DeploymentFailed(f"not up within {limit_s:g} s: {', '.join(late)}") from exc
    finally:
        release()


def _status(supervisor: Supervisor, name: str) -> ComponentStatus:
    try:
        return supervisor.status(name)
    except NotFound as exc:
        raise DeploymentFailed(f"{name} could not be prepared to run") from exc


def _check(status: ComponentStatus, each: Recipe, errors_before: int) -> None:
    why = f": {status.last_error}" if status.last_error else ""
    if status.state == State.BROKEN.value:
        raise DeploymentFailed(f"{status.name} {status.version} is BROKEN{why}", component=status.name)
    if status.healthy is False:
        raise DeploymentFailed(f"{status.name} {status.version} is not healthy{why}", component=status.name)
    if each.health.errors and status.errors - errors_before >= each.health.errors:
        raise DeploymentFailed(f"{status.name} {status.version} failed{why}", component=status.name)


def _is_well(status: ComponentStatus, each: Recipe) -> bool:
    if status.state not in UP:
        return False
    return status.healthy is True or not each.health.script or status.state == State.FINISHED.value
