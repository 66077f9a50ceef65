"""Rows of the nucleus in state.db: configuration leaves, the active components, single facts."""

from collections.abc import Iterable

from marram.core import codec, config_tree
from marram.core.config_tree import Leaf, Tree
from marram.edge.nucleus.component import Component, component_from_json
from marram.kit.db import Tx


def trees(tx: Tx) -> dict[str, Tree]:
    made: dict[str, dict[config_tree.Path, Leaf]] = {}
    for component, path, value, time_ms in tx.all("SELECT component, path, value, time_ms FROM config_leaf"):
        made.setdefault(component, {})[_path(path)] = Leaf(codec.loads(value), time_ms)
    return dict(made.items())


def tree(tx: Tx, component: str) -> Tree:
    rows = tx.all("SELECT path, value, time_ms FROM config_leaf WHERE component = ?", component)
    return {_path(path): Leaf(codec.loads(value), time_ms) for path, value, time_ms in rows}


def save_tree(tx: Tx, component: str, before: Tree, after: Tree) -> None:
    for path in before.keys() - after.keys():
        tx.execute("DELETE FROM config_leaf WHERE component = ? AND path = ?", component, _text(path))
    for path, leaf in after.items():
        if before.get(path) != leaf or type(before[path].value) is not type(leaf.value):
            tx.execute(
                "INSERT INTO config_leaf (component, path, value, time_ms) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (component, path) DO UPDATE SET value = excluded.value, time_ms = excluded.time_ms",
                component,
                _text(path),
                codec.dumps(leaf.value).decode(),
                leaf.time_ms,
            )


def components(tx: Tx) -> dict[str, Component]:
    made: dict[str, Component] = {}
    for name, document, run_with, artifacts, installed in tx.all(
        "SELECT name, recipe, run_with, artifacts, installed FROM component ORDER BY name"
    ):
        made[name] = component_from_json(
            {
                "recipe": codec.loads(document),
                "runWith": codec.loads(run_with),
                "artifacts": codec.loads(artifacts),
                "installed": installed,
            }
        )
    return made


def save_components(tx: Tx, wanted: Iterable[Component]) -> None:
    """Replace the active set."""
    tx.execute("DELETE FROM component")
    for each in wanted:
        tx.execute(
            "INSERT INTO component (name, version, recipe, run_with, artifacts, installed) VALUES (?, ?, ?, ?, ?, ?)",
            each.name,
            each.version,
            codec.dumps(each.recipe.document).decode(),
            codec.dumps(each.run_with).decode(),
            codec.dumps(dict(each.artifacts)).decode(),
            each.installed,
        )


def set_installed(tx: Tx, name: str, signature: str) -> None:
    tx.execute("UPDATE component SET installed = ? WHERE name = ?", signature, name)


def fact(tx: Tx, name: str) -> str:
    row = tx.one("SELECT value FROM nucleus_fact WHERE name = ?", name)
    return str(row[0]) if row else ""


def set_fact(tx: Tx, name: str, value: str) -> None:
    tx.execute(
        "INSERT INTO nucleus_fact (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        name,
        value,
    )


def _text(path: config_tree.Path) -> str:
    return codec.dumps(list(path)).decode()


def _path(text: str) -> config_tree.Path:
    value = codec.loads(text)
    assert isinstance(value, list)
    return tuple(str(key) for key in value)
