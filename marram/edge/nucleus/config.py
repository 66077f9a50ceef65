"""The configuration tree of the core: in memory for reading, a row for each leaf in state.db, listeners after the commit.

`system` and the nucleus are components here too. ROOT/config/config.yaml (nucleus lite's schema) is merged at the first
start and whenever the file has changed since; after that state.db is the truth.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path as FolderPath
from typing import Final

from marram.core import config_tree
from marram.core.codec import JsonObject, JsonValue
from marram.core.config_tree import Path, Tree
from marram.core.errors import Invalid, NotFound
from marram.edge.nucleus import store
from marram.kit import disk, yaml_bounded
from marram.kit.db import Db, Tx
from marram.kit.log import logger

log = logger(__name__)

SYSTEM: Final = "system"
NUCLEI: Final = ("aws.greengrass.NucleusLite", "aws.greengrass.Nucleus")
SYSTEM_KEYS: Final = frozenset(
    {"privateKeyPath", "certificateFilePath", "rootCaPath", "rootpath", "rootPath", "thingName"}
)

Changed = Callable[[str, Sequence[str]], None]  # component, path of one changed leaf


class Config:
    """Open with a Db that has the nucleus's migrations. Belongs to the loop."""

    def __init__(self, db: Db) -> None:
        self._db = db
        self._trees: dict[str, Tree] = db.read_now(store.trees)
        self._listeners: dict[int, tuple[str, Path, Changed]] = {}
        self._next = 0
        self._watchers: list[Callable[[str], None]] = []

    def read_file(self, folder: FolderPath) -> None:
        """Merge config.yaml when it is new or changed. Raises Invalid naming file and key; nothing is merged then."""
        file = folder / "config.yaml"
        try:
            data = disk.read(file, limit=yaml_bounded.MAX_BYTES)
        except NotFound:
            return
        digest = hashlib.sha256(data).hexdigest()
        if self._db.read_now(lambda tx: store.fact(tx, "config.yaml")) == digest:
            return
        try:
            parts = _parts(yaml_bounded.loads_object(data, what="config.yaml"))
        except Invalid as exc:
            raise Invalid(f"{file}: {exc.message}") from exc

        def work(tx: Tx) -> None:
            for component, value in parts.items():
                before = store.tree(tx, component)
                self.replace(tx, component, before, config_tree.merge(before, (), value, tx.now_ms))
            store.set_fact(tx, "config.yaml", digest)

        self._db.write_sync(work)
        log.info("config.read", file=str(file), components=sorted(parts))

    @property
    def thing_name(self) -> str:
        value = self.value(SYSTEM, "thingName")
        return value if isinstance(value, str) else ""

    def value(self, component: str, *path: str, default: JsonValue = None) -> JsonValue:
        """As `get`, `default` where there is nothing."""
        try:
            return self.get(component, path)
        except NotFound:
            return default

    def nucleus(self, *path: str, default: JsonValue = None) -> JsonValue:
        """A setting of the nucleus, under whichever of its names it was given."""
        for name in NUCLEI:
            found = self.value(name, *path)
            if found is not None:
                return found
        return default

    def get(self, component: str, path: Sequence[str] = ()) -> JsonValue:
        """Raises NotFound when the component has no configuration or nothing at `path`."""
        tree = self._trees.get(component)
        if tree is None:
            raise NotFound(f"no configuration of a component {component!r}")
        return config_tree.get(tree, path)

    def tree(self, component: str) -> Tree:
        return self._trees.get(component, config_tree.EMPTY)

    def components(self) -> Sequence[str]:
        return sorted(self._trees)

    async def update(self, component: str, path: Sequence[str], value: JsonValue, timestamp_ms: int) -> None:
        """Merge. Raises VersionConflict when a leaf is newer, Invalid or LimitExceeded for a value that does not fit."""

        def work(tx: Tx) -> None:
            before = store.tree(tx, component)
            self.replace(
                tx, component, before, config_tree.merge(before, tuple(path), value, timestamp_ms, strict=True)
            )

        await self._db.write(work)

    def replace(self, tx: Tx, component: str, before: Tree, after: Tree) -> None:
        """Join a transaction: the rows now, memory and listeners after its commit."""
        store.save_tree(tx, component, before, after)
        tx.after_commit(lambda: self._became(component, after))

    def subscribe(self, component: str, path: Sequence[str], changed: Changed) -> Callable[[], None]:
        """`changed(component, leaf)` for each leaf at, below or above `path` that changes. Returns the way to end it."""
        number = self._next
        self._next += 1
        self._listeners[number] = (component, tuple(path), changed)
        return lambda: self._listeners.pop(number, None) and None

    def on_change(self, changed: Callable[[str], None]) -> None:
        """`changed(component)` after each commit that changed anything of it; before the listeners of `subscribe`."""
        self._watchers.append(changed)

    def _became(self, component: str, after: Tree) -> None:
        before = self._trees.get(component, config_tree.EMPTY)
        if after:
            self._trees[component] = after
        else:
            self._trees.pop(component, None)
        changes = config_tree.changes(before, after)
        if not changes:
            return
        for watcher in self._watchers:
            watcher(component)
        for wanted, path, changed in list(self._listeners.values()):
            if wanted != component:
                continue
            for leaf in changes:
                size = min(len(leaf), len(path))
                if leaf[:size] == path[:size]:
                    try:
                        changed(component, leaf)
                    except Exception as exc:  # a border: one listener's fault is not the writer's
                        log.error("config.listener_failed", exc_info=exc, component=component)


def _parts(document: JsonObject) -> Mapping[str, JsonObject]:
    """Nucleus lite's config.yaml -> configuration by component. Raises Invalid at an unknown key."""
    made: dict[str, JsonObject] = {}
    for key, value in document.items():
        if not isinstance(value, dict):
            raise Invalid(f"{key}: must be a mapping")
        if key == "system":
            for name in value:
                if name not in SYSTEM_KEYS:
                    raise Invalid(f"system.{name}: unknown key; known here: {', '.join(sorted(SYSTEM_KEYS))}")
            made[SYSTEM] = value
        elif key == "services":
            for name, service in value.items():
                if not isinstance(service, dict):
                    raise Invalid(f"services.{name}: must be a mapping")
                for inner in service:
                    if inner not in ("configuration", "componentType", "version", "dependencies", "lifecycle"):
                        raise Invalid(f"services.{name}.{inner}: unknown key; 'configuration' holds the settings")
                configuration = service.get("configuration", {})
                if not isinstance(configuration, dict):
                    raise Invalid(f"services.{name}.configuration: must be a mapping")
                made[name] = configuration
        else:
            raise Invalid(f"{key}: unknown key; known here: system, services")
    return made
