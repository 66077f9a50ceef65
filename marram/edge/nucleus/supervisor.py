"""All components of this core: who runs, in which order, what a new set changes, who asks with which token.

The active set is in state.db and was put there by a deployment (edge.deploy); `boot` starts it without hub, DNS or a right
clock. `apply` makes the running set the wanted one with the shortest gap: what is new was installed before (`install`), and
an old version ends just before the new one starts.
"""

import asyncio
import os
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from marram.core import lifecycle, plan
from marram.core.codec import JsonObject
from marram.core.config_tree import Tree
from marram.core.errors import Conflict, Invalid, NotFound, Unavailable
from marram.core.lifecycle import State
from marram.edge.nucleus import prepare, store
from marram.edge.nucleus.component import Component, with_installed
from marram.edge.nucleus.config import Config
from marram.edge.nucleus.prepare import Device, Prepared
from marram.edge.nucleus.runner import Runner
from marram.kit import disk, metrics, process
from marram.kit.clock import Clock, Entropy
from marram.kit.db import Db
from marram.kit.log import logger
from marram.kit.process import RollingLog, User

log = logger(__name__)

_restarts: Final = metrics.counter("marram_component_errors_total", "Errors of components", ("component",))

Listener = Callable[[str, str, str], None]  # component, state before, state after (equal: its health changed)


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentStatus:
    """`state` is a word of core.lifecycle.State; `healthy` None where no probe has answered."""

    name: str
    version: str
    state: str
    healthy: bool | None
    errors: int
    last_error: str
    pid: int | None
    root: bool = False

    def as_json(self) -> JsonObject:
        return {
            "name": self.name,
            "version": self.version,
            "state": self.state,
            "healthy": self.healthy,
            "errors": self.errors,
            "last_error": self.last_error,
            "pid": self.pid,
        }


class Supervisor:
    """Use as `async with supervisor:`; leaving stops every component and waits."""

    def __init__(self, *, db: Db, config: Config, device: Device, clock: Clock, entropy: Entropy) -> None:
        self._db = db
        self._config = config
        self._clock = clock
        self._entropy = entropy
        self._runners: dict[str, Runner] = {}
        self._tokens: dict[str, Runner] = {}
        self._listeners: list[Listener] = []
        self._watched: set[str] = set()
        self._group = asyncio.TaskGroup()
        self._changed = asyncio.Event()
        self._closing = False
        self.device = device

    async def __aenter__(self) -> "Supervisor":
        await self._group.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._closing = True
        try:
            await self._stop_all(self._runners)
        finally:
            await self._group.__aexit__(None, None, None)

    # what others see

    def components(self) -> Sequence[ComponentStatus]:
        return [self.status(name) for name in sorted(self._runners)]

    def status(self, name: str) -> ComponentStatus:
        runner = self._runner(name)
        return ComponentStatus(
            name=name,
            version=runner.prepared.component.version,
            state=runner.state.value,
            healthy=runner.healthy,
            errors=runner.total_errors,
            last_error=runner.last_error,
            pid=runner.pid,
        )

    def active(self) -> Mapping[str, Component]:
        return {name: runner.prepared.component for name, runner in self._runners.items()}

    def token_owner(self, auth_token: str, uid: int) -> str | None:
        """None for a token that nobody has, and for a user that the component was never started as."""
        runner = self._tokens.get(auth_token)
        return runner.name if runner is not None and uid in {0, os.geteuid(), *runner.uids} else None

    def report_state(self, component: str, state: str) -> None:
        self._runner(component).report(state)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    async def change(self) -> None:
        """Returns at the next change of any component's state or health."""
        await self._changed.wait()

    async def restart(self, name: str) -> None:
        self._runner(name).restart()

    async def stop(self, name: str) -> None:
        """Stop it and all that depend hard on it; they stay so until restarted, redeployed, or the core starts again."""
        names = self._dependants(self._runner(name).name) | {name}
        await self._stop_all({each: self._runners[each] for each in names})

    # the set

    async def boot(self) -> None:
        """Start the active set as state.db has it. What an earlier life of this core left running is ended first."""
        ended = process.end_leftovers(f"{prepare.MARKER}={self.device.root.path}")
        if ended:
            log.warning("component.leftovers_ended", processes=ended)
        for component in self._db.read_now(store.components).values():
            try:
                self._add(self.prepare(component))
            except Invalid as exc:  # the configuration or the machine changed under it; the others must run
                log.error("component.not_preparable", component=component.name, why=exc.message)
        for runner in list(self._runners.values()):
            runner.begin()

    def prepare(self, component: Component, trees: Mapping[str, Tree] | None = None) -> Prepared:
        """trees: configuration that is not active yet."""

        def tree(name: str) -> Tree:
            return trees[name] if trees is not None and name in trees else self._config.tree(name)

        return prepare.prepare(component, self.device, tree)

    async def install(self, prepared: Prepared) -> Component:
        """Run bootstrap and install, beside whatever runs; the component marked as installed. Raises StepFailed."""
        if prepared.component.installed == prepared.install_signature:
            return prepared.component
        runner = self._new_runner(prepared)
        try:
            await runner.install()
        finally:
            self._tokens.pop(runner.token, None)
            runner.output.close()
        return with_installed(prepared.component, prepared.install_signature)

    async def apply(self, wanted: Sequence[Prepared]) -> None:
        """Make the running set this one. Returns when the old is gone and the new was told to start."""
        if self._closing:
            raise Unavailable("the core is stopping")
        by_name = {each.component.name: each for each in wanted}
        gone = {name: runner for name, runner in self._runners.items() if name not in by_name}
        changed = {
            name: runner
            for name, runner in self._runners.items()
            if name in by_name and not _same(runner, by_name[name])
        }
        await self._stop_all({**gone, **changed})
        for runner in gone.values():
            if runner.prepared.step("uninstall"):
                await runner.uninstall()
        for name, runner in {**gone, **changed}.items():
            self._tokens.pop(runner.token, None)
            runner.output.close()
            del self._runners[name]
        started: list[Runner] = []
        for name, each in by_name.items():
            runner_now = self._runners.get(name)
            if runner_now is None:
                started.append(self._add(each))
            else:
                runner_now.prepared = each
        for runner in started:
            runner.begin()
        self._poke()

    def watch(self, names: Sequence[str]) -> Callable[[], None]:
        """While watched, an unhealthy component is only marked: a deployment decides. Returns the way to end it."""
        self._watched |= set(names)
        return lambda: self._watched.difference_update(names)

    # for the runners

    def start(self, name: str, work: Coroutine[object, object, None]) -> "asyncio.Task[None]":
        return self._group.create_task(_guarded(name, work), name=name)

    def mono_ms(self) -> int:
        return self._clock.mono_ns() // 1_000_000

    def dependencies_up(self, name: str) -> bool:
        if self._closing:
            return False
        for other, dependency in self._runner(name).prepared.component.recipe.dependencies.items():
            runner = self._runners.get(other)
            if dependency.hard and runner is not None and runner.state not in lifecycle.UP:
                return False
        return True

    def state_changed(self, name: str, before: State, after: State, then: State) -> None:
        if name not in self._runners:
            return
        if after is State.ERRORED or (after is State.BROKEN and before is not after):
            _restarts.inc(component=name)
        left = after is State.ERRORED or (
            after is State.STOPPING and then is State.INSTALLED and before is State.RUNNING
        )
        if left and before is not after:
            for other in self._dependants(name):
                if self._runners[other].state in (State.STARTING, State.RUNNING):
                    self._runners[other].restart()
        if after in lifecycle.UP:
            self._poke()
        self._changed.set()
        self._changed = asyncio.Event()
        for listener in list(self._listeners):
            try:
                listener(name, before.value, after.value)
            except Exception as exc:  # a border
                log.error("component.listener_failed", exc_info=exc, component=name)

    def installed(self, name: str, signature: str) -> None:
        runner = self._runners.get(name)
        if runner is not None:
            component = with_installed(runner.prepared.component, signature)
            runner.prepared = self.prepare(component)
            self._db.write_sync(lambda tx: store.set_installed(tx, name, signature))

    def unhealthy(self, name: str) -> bool:
        return name in self._watched

    def user(self, prepared: Prepared) -> User | None:
        name = prepared.component.run_with.get("posixUser") or self._config.nucleus("runWithDefault", "posixUser")
        if not isinstance(name, str) or not name:
            return None
        found = process.user(name)
        if found.uid == os.geteuid():
            return None
        if os.geteuid() != 0:
            raise Invalid(f"runWith {name!r}: only a core that runs as root can start components as another user")
        return found

    def work_folder(self, name: str) -> Path:
        folder = self.device.root.work(name)
        disk.make_dirs(folder, mode=0o750)
        return folder

    # inside

    def _runner(self, name: str) -> Runner:
        runner = self._runners.get(name)
        if runner is None:
            raise NotFound(f"no component {name!r} on this core", component=name)
        return runner

    def _add(self, prepared: Prepared) -> Runner:
        name = prepared.component.name
        if name in self._runners:
            raise Conflict(f"{name} is there already")
        runner = self._runners[name] = self._new_runner(prepared)
        return runner

    def _new_runner(self, prepared: Prepared) -> Runner:
        token = self._entropy.bytes(16).hex().upper()
        runner = self._tokens[token] = Runner(prepared, token, self._log_of(prepared.component.name), self)
        return runner

    def _log_of(self, name: str) -> RollingLog:
        kilobytes = self._config.nucleus("logging", "fileSizeKB", default=1024)
        size = int(kilobytes) << 10 if isinstance(kilobytes, int | float) and kilobytes >= 1 else 1 << 20
        return RollingLog(path=self.device.root.log(name), file_bytes=size)

    def _dependants(self, name: str) -> set[str]:
        """All that depend hard on `name`, directly or not."""
        found: set[str] = set()
        queue = [name]
        while queue:
            wanted = queue.pop()
            for other, runner in self._runners.items():
                dependency = runner.prepared.component.recipe.dependencies.get(wanted)
                if other not in found and dependency is not None and dependency.hard:
                    found.add(other)
                    queue.append(other)
        return found

    def _poke(self) -> None:
        for runner in list(self._runners.values()):
            runner.poke()

    async def _stop_all(self, runners: Mapping[str, Runner]) -> None:
        """Dependants first, else side by side."""
        order = plan.order({name: runner.prepared.component.recipe for name, runner in runners.items()})
        done = {name: asyncio.Event() for name in order}

        async def stop(name: str) -> None:
            try:
                for other, runner in runners.items():
                    if name in runner.prepared.component.recipe.dependencies:
                        await done[other].wait()
                await runners[name].stop()
            finally:
                done[name].set()

        async with asyncio.TaskGroup() as group:
            for name in order:
                group.create_task(stop(name), name=f"stop-{name}")


def _same(runner: Runner, other: Prepared) -> bool:
    now = runner.prepared
    return (
        now.install_signature == other.install_signature
        and now.run_signature == other.run_signature
        and runner.state is not State.BROKEN
    )


async def _guarded(name: str, work: Coroutine[object, object, None]) -> None:
    try:
        await work
    except asyncio.CancelledError:
        raise
    except Exception as exc:  # a supervisor: one component's fault must not end the others
        log.error("component.task_failed", exc_info=exc, task=name)
