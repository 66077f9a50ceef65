"""Instead of phase 7: put the previous set back, and see it up again."""

from marram.core.errors import Invalid
from marram.edge.deploy import store, switch, watch
from marram.edge.deploy.work import Work
from marram.edge.nucleus import active as nucleus
from marram.edge.nucleus.component import Component
from marram.edge.nucleus.prepare import Prepared
from marram.kit.db import Tx
from marram.kit.log import logger

log = logger(__name__)


async def enter(work: Work, why: str) -> None:
    """One transaction: the old set is the active one again, the deployment is in phase `rollback`."""
    work.detail["deployment-failure-cause"] = why

    def commit(tx: Tx) -> None:
        row = store.get(tx, work.row.id)
        switch.restore(tx, work.tools.config, row.snapshot)
        store.enter(tx, work.row.id, "rollback")
        store.note(tx, work.row.id, work.detail)

    await work.tools.db.write(commit)
    await work.tools.supervisor.apply(_prepared(work, active(work)))


async def see_it_up(work: Work) -> None:
    """Raises DeploymentFailed when the old set does not come up again."""
    await watch.gate(work.tools.supervisor, sorted(active(work)), work.changed(), work.tools.limits.watch_s)


def active(work: Work) -> dict[str, Component]:
    return work.tools.db.read_now(nucleus.components)


def _prepared(work: Work, components: dict[str, Component]) -> list[Prepared]:
    made: list[Prepared] = []
    for component in components.values():
        try:
            made.append(work.tools.supervisor.prepare(component))
        except Invalid as exc:
            log.error("component.not_preparable", component=component.name, why=exc.message)
    return made
