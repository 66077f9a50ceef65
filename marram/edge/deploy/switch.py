"""Phase 5: one transaction makes the new set, its configuration and its roots the active ones; then the processes follow.

Before the commit a power cut finds the old set, after it the new one with the deployment in phase `watch`. The snapshot
in the same row is what a rollback restores.
"""

from collections.abc import Mapping

from marram.core import codec, config_tree
from marram.core.codec import JsonObject
from marram.core.config_tree import Tree
from marram.edge.deploy import store
from marram.edge.deploy.work import Work
from marram.edge.nucleus import store as nucleus
from marram.edge.nucleus.config import Config
from marram.edge.nucleus.store import Component
from marram.kit.db import Tx

FORMAT = 1


async def run(work: Work) -> None:
    wanted = {each.component.name: each.component for each in work.prepared}
    gone = work.tools.supervisor.active().keys() - wanted.keys()
    trees: dict[str, Tree] = {**work.trees, **dict.fromkeys(gone, config_tree.EMPTY)}

    def commit(tx: Tx) -> None:
        before = snapshot(tx, trees)
        activate(tx, work.tools.config, wanted, trees, work.roots)
        store.enter(tx, work.row.id, "watch", snapshot=before)
        store.note(tx, work.row.id, work.detail)

    await work.tools.db.write(commit)
    await work.tools.supervisor.apply(work.prepared)


def snapshot(tx: Tx, touched: Mapping[str, Tree]) -> JsonObject:
    """What is active now, as far as the deployment changes it."""
    return {
        "format": FORMAT,
        "components": [each.as_json() for each in nucleus.components(tx).values()],
        "configuration": {name: nucleus.tree_as_json(nucleus.tree(tx, name)) for name in touched},
        "roots": {target: dict(components) for target, components in store.roots(tx).items()},
    }


def activate(
    tx: Tx,
    config: Config,
    components: Mapping[str, Component],
    trees: Mapping[str, Tree],
    roots: Mapping[str, Mapping[str, str]],
) -> None:
    nucleus.save_components(tx, components.values())
    for name, tree in trees.items():
        config.replace(tx, name, nucleus.tree(tx, name), tree)
    store.save_roots(tx, roots)


def restore(tx: Tx, config: Config, saved: JsonObject) -> dict[str, Component]:
    """Put a snapshot back; the components it holds."""
    components = [nucleus.component_from_json(each) for each in _list(saved, "components") if isinstance(each, dict)]
    configuration, roots = saved.get("configuration"), saved.get("roots")
    assert isinstance(configuration, dict) and isinstance(roots, dict), codec.kind(configuration)
    by_name = {each.name: each for each in components}
    activate(
        tx,
        config,
        by_name,
        {name: nucleus.tree_from_json(tree) for name, tree in configuration.items()},
        {
            target: {name: str(text) for name, text in members.items()}
            for target, members in roots.items()
            if isinstance(members, dict)
        },
    )
    return by_name


def _list(value: JsonObject, key: str) -> list[codec.JsonValue]:
    found = value.get(key)
    assert isinstance(found, list)
    return found
