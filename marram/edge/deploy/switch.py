"""Phase 5: one transaction makes the new set, its configuration and its roots the active ones; then the processes follow.

Before the commit a power cut finds the old set, after it the new one with the deployment in phase `watch`. The snapshot
in the same row is what a rollback restores.
"""

from collections.abc import Iterable

from marram.core import config_tree
from marram.core.codec import JsonObject
from marram.core.config_tree import Tree
from marram.edge.deploy import store
from marram.edge.deploy.work import Work
from marram.edge.nucleus import active
from marram.edge.nucleus.config import Config
from marram.kit.db import Tx

FORMAT = 1


async def run(work: Work) -> None:
    wanted = {each.component.name: each.component for each in work.prepared}
    gone = work.tools.supervisor.active().keys() - wanted.keys()
    trees: dict[str, Tree] = {**work.trees, **dict.fromkeys(gone, config_tree.EMPTY)}

    def commit(tx: Tx) -> None:
        before = snapshot(tx, trees)
        active.replace(tx, work.tools.config, wanted.values(), trees)
        store.save_roots(tx, work.roots)
        store.enter(tx, work.row.id, "watch", snapshot=before)
        store.note(tx, work.row.id, work.detail)

    await work.tools.db.write(commit)
    await work.tools.supervisor.apply(work.prepared)


def snapshot(tx: Tx, touched: Iterable[str]) -> JsonObject:
    """What is active now, as far as the deployment changes it."""
    roots: JsonObject = {target: dict(components) for target, components in store.roots(tx).items()}
    return {"format": FORMAT, **active.snapshot(tx, touched), "roots": roots}


def restore(tx: Tx, config: Config, saved: JsonObject) -> None:
    """Put a snapshot back."""
    active.restore(tx, config, saved)
    roots = saved.get("roots")
    assert isinstance(roots, dict)
    store.save_roots(
        tx,
        {
            target: {name: str(text) for name, text in members.items()}
            for target, members in roots.items()
            if isinstance(members, dict)
        },
    )
