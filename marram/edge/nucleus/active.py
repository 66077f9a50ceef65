"""The active set, for those who change it inside their own transaction: components and their configuration together."""

from collections.abc import Iterable, Mapping

from marram.core.codec import JsonObject, JsonValue
from marram.core.config_tree import Leaf, Path, Tree
from marram.edge.nucleus import store
from marram.edge.nucleus.component import Component, component_from_json
from marram.edge.nucleus.config import Config
from marram.kit.db import Tx


def components(tx: Tx) -> dict[str, Component]:
    return store.components(tx)


def replace(tx: Tx, config: Config, wanted: Iterable[Component], trees: Mapping[str, Tree]) -> None:
    """Make `wanted` the active set, and `trees` the configuration of the components that they name."""
    store.save_components(tx, wanted)
    for name, tree in trees.items():
        config.replace(tx, name, store.tree(tx, name), tree)


def snapshot(tx: Tx, names: Iterable[str]) -> JsonObject:
    """All components, and the configuration of those named."""
    return {
        "components": [each.as_json() for each in store.components(tx).values()],
        "configuration": {name: _tree_as_json(store.tree(tx, name)) for name in names},
    }


def restore(tx: Tx, config: Config, saved: JsonObject) -> None:
    """Put back what `snapshot` returned."""
    listed, configuration = saved.get("components"), saved.get("configuration")
    assert isinstance(listed, list) and isinstance(configuration, dict)
    wanted = [component_from_json(each) for each in listed if isinstance(each, dict)]
    replace(tx, config, wanted, {name: _tree_from_json(tree) for name, tree in configuration.items()})


def _tree_as_json(tree: Tree) -> JsonValue:
    return [[list(path), leaf.value, leaf.time_ms] for path, leaf in sorted(tree.items())]


def _tree_from_json(value: JsonValue) -> Tree:
    made: dict[Path, Leaf] = {}
    assert isinstance(value, list)
    for entry in value:
        assert isinstance(entry, list)
        path, leaf, time_ms = entry
        assert isinstance(path, list) and isinstance(time_ms, int)
        made[tuple(str(key) for key in path)] = Leaf(leaf, time_ms)
    return made
