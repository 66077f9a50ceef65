"""One component as processes: performs what core.lifecycle asks for and tells it what happened.

No task waits for a component's state: scripts run in one short task each, an event moves the state, and the state says what
to perform next. A component's group of processes is ended whole when it stops. Not here: order among components (supervisor).
"""

import asyncio
import os
import shutil
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Final, Protocol

from marram.core import lifecycle, recipe
from marram.core.errors import Invalid, MarramError
from marram.core.lifecycle import Event, Lifecycle, Rules, Script, State
from marram.core.recipe import Skip, Step
from marram.edge.nucleus.prepare import Prepared
from marram.kit import disk, process
from marram.kit.log import logger
from marram.kit.process import Child, Limits, RollingLog, User

log = logger(__name__)

GRACE_S: Final = 5.0
STATES_REPORTED: Final = {"RUNNING": State.RUNNING, "ERRORED": State.ERRORED}


class Surroundings(Protocol):
    """What a runner needs of its supervisor."""

    def start(self, name: str, work: Coroutine[object, object, None]) -> "asyncio.Task[None]": ...
    def mono_ms(self) -> int: ...
    def dependencies_up(self, name: str) -> bool: ...
    def state_changed(self, name: str, before: State, after: State, then: State) -> None: ...
    def installed(self, name: str, signature: str) -> None: ...
    def unhealthy(self, name: str) -> bool:
        """True when somebody watches the component and will decide; else it is restarted."""
        ...

    def user(self, prepared: Prepared) -> User | None: ...
    def work_folder(self, name: str) -> Path: ...


class StepFailed(MarramError):
    """A script of a component ended with an error or did not end in time."""

    code = "MRM-4004"


class Runner:
    def __init__(self, prepared: Prepared, token: str, log_to: RollingLog, around: Surroundings) -> None:
        self.prepared = prepared
        self.token = token
        self.uids: set[int] = set()  # who its processes were started as, when not as the core
        self.life = Lifecycle()
        self.healthy: bool | None = None  # None: there is no probe, or it has not answered since the start
        self.wanted = True
        self.total_errors = 0
        self.last_error = ""
        self.output = log_to
        self._around = around
        self._main: Child | None = None
        self._task: asyncio.Task[None] | None = None
        self._probe: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()
        restart = prepared.component.recipe.restart
        self._rules = Rules(
            max_errors=restart.max_errors,
            reset_ms=int(restart.reset_s * 1000),
            backoff_ms=int(restart.backoff_s * 1000),
        )

    @property
    def name(self) -> str:
        return self.prepared.component.name

    @property
    def state(self) -> State:
        return self.life.state

    @property
    def pid(self) -> int | None:
        return self._main.pid if self._main and self._main.code is None else None

    # what others ask for

    def begin(self) -> None:
        """From here on the component lives: install if it is not, then start when its dependencies are up."""
        if self.prepared.component.installed == self.prepared.install_signature:
            self.post(Event.INSTALL_DONE)
        else:
            self._perform(Script.INSTALL)

    def poke(self) -> None:
        """Something it waits for may be there now."""
        if self.state is not State.INSTALLED or not self.wanted or self._timer is not None:
            return
        if self._around.dependencies_up(self.name):
            has_work = self.prepared.step("startup") or self.prepared.step("run")
            self.post(Event.DEPENDENCIES_UP if has_work else Event.ENDED)

    def restart(self) -> None:
        """Stop and start. One that is BROKEN is installed anew: the way out of it by hand."""
        self.wanted = True
        if self.state is State.BROKEN or (self.state is State.FINISHED and not self._is_installed()):
            self.post(Event.REINSTALL_ASKED)
        elif self.state is not State.NEW:
            self.post(Event.RESTART_ASKED)

    async def stop(self) -> None:
        """Returns when nothing of it runs. Its shutdown step and the grace bound the time."""
        self.wanted = False
        self._cancel_timer()
        if self.state not in (State.FINISHED, State.BROKEN):
            self.post(Event.STOP_ASKED)
        while self.state not in (State.FINISHED, State.BROKEN):
            await self.changed()
        await self._end_task()
        await self._end_main()

    async def close(self) -> None:
        await self.stop()
        self.output.close()

    async def changed(self) -> None:
        await self._changed.wait()

    def report(self, state: str) -> None:
        """UpdateState of IPC: STARTING -> RUNNING or ERRORED, RUNNING -> ERRORED (or RUNNING again: nothing)."""
        wanted = STATES_REPORTED.get(state)
        if wanted is None:
            raise Invalid(f"state {state!r} cannot be reported; RUNNING and ERRORED can")
        if self.state is wanted:
            return
        if self.state not in (State.STARTING, State.RUNNING):
            raise Invalid(f"{self.name} is {self.state.value}: it cannot report {state}")
        if wanted is State.RUNNING:
            self.post(Event.STARTUP_DONE)
        else:
            self._failed("reported ERRORED")

    # the machine

    def post(self, event: Event) -> None:
        before = self.life
        try:
            self.life, script = lifecycle.step(before, event, self._around.mono_ms(), self._rules)
        except Invalid:
            return  # late news of a process that was ended meanwhile
        after = self.life
        if after.state is not before.state:
            log.info("component.state", component=self.name, state=after.state.value, before=before.state.value)
            self._changed.set()
            self._changed = asyncio.Event()
            if before.state is State.RUNNING:
                self._end_probe()
            if after.state is State.STARTING:
                self.healthy = None
            if after.state is State.RUNNING and self.prepared.step("health"):
                self._probe = self._around.start(f"health-{self.name}", self._probes())
        if script is not None:
            self._perform(script)
        elif after.state in (State.FINISHED, State.BROKEN):
            self._perform_nothing()
        if after.state is not before.state:
            self._around.state_changed(self.name, before.state, after.state, after.then)
        if after.state is State.INSTALLED and self.life is after:
            pause = lifecycle.backoff_ms(after, self._rules)
            if pause:
                self._cancel_timer()
                self._timer = asyncio.get_running_loop().call_later(pause / 1000, self._backoff_over)
            else:
                self.poke()

    def _failed(self, why: str) -> None:
        self.total_errors += 1
        self.last_error = why
        log.warning("component.failed", component=self.name, state=self.state.value, why=why, errors=self.total_errors)
        self.output.write("ERROR", why.encode(), "nucleus")
        self.post(Event.FAILED)

    def _backoff_over(self) -> None:
        self._timer = None
        self.poke()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _perform(self, script: Script) -> None:
        old = self._task
        self._task = self._around.start(f"{script.value}-{self.name}", self._performed(script, old))

    def _perform_nothing(self) -> None:
        """FINISHED or BROKEN: nothing of it may run any more."""
        old = self._task
        if old is asyncio.current_task() and self._main is None:
            return
        self._task = self._around.start(f"end-{self.name}", self._ended(old))

    async def _ended(self, old: "asyncio.Task[None] | None") -> None:
        await _cancelled(old)
        await self._end_main()

    async def _performed(self, script: Script, old: "asyncio.Task[None] | None") -> None:
        await _cancelled(old)
        try:
            match script:
                case Script.INSTALL:
                    await self.install()
                    self._around.installed(self.name, self.prepared.install_signature)
                    self.post(Event.INSTALL_DONE)
                case Script.STARTUP:
                    await self._start()
                case Script.RECOVER:
                    await self._quietly("recover")
                    self.post(Event.RECOVER_DONE)
                case Script.SHUTDOWN:
                    if self.life.failed is not State.NEW:
                        await self._quietly("shutdown")
                    await self._end_main()
                    self.post(Event.SHUTDOWN_DONE)
        except MarramError as exc:
            self._failed(exc.message)

    async def install(self) -> None:
        """The bootstrap and install scripts. Raises StepFailed."""
        code = await self._script("bootstrap")
        if code in (100, 101):
            raise StepFailed(
                f"{self.name}: bootstrap ended with {code} (restart of nucleus or device): not supported here"
            )
        if code:
            raise StepFailed(f"{self.name}: bootstrap ended with {_code(code)}")
        if code := await self._script("install"):
            raise StepFailed(f"{self.name}: install ended with {_code(code)}")

    async def uninstall(self) -> None:
        await self._quietly("uninstall")

    async def _start(self) -> None:
        await self._end_main()
        name = "run" if self.prepared.step("run") else "startup"
        step = self.prepared.step(name)
        assert step is not None
        if await self._skipped(step):
            self.post(Event.STARTUP_DONE)
            if name == "run":
                self.post(Event.ENDED)
            return
        child = self._main = self._spawn(name, step)
        timeout_s = _timeout(name, step)
        if name == "run":
            self.post(Event.STARTUP_DONE)
        try:
            async with asyncio.timeout(timeout_s):
                code = await child.wait()
        except TimeoutError:
            if self.state is State.STARTING or name == "run":
                self._failed(f"{name} did not end within {timeout_s:g} s")
            return
        if code:
            self._failed(f"{name} ended with {_code(code)}")
        elif name == "run":
            self.post(Event.ENDED)
        else:
            self.post(Event.STARTUP_DONE)

    async def _quietly(self, name: str) -> None:
        """A step whose failure changes nothing."""
        try:
            if code := await self._script(name):
                self.output.write("WARN", f"{name} ended with {_code(code)}".encode(), "nucleus")
        except MarramError as exc:
            self.output.write("WARN", exc.message.encode(), "nucleus")

    async def _script(self, name: str) -> int:
        """Run a step to its end; 0 when there is none. Raises StepFailed when it takes too long."""
        step = self.prepared.step(name)
        if step is None or not step.script.strip() or await self._skipped(step):
            return 0
        timeout_s = _timeout(name, step)
        child = self._spawn(name, step)
        try:
            async with asyncio.timeout(timeout_s):
                return await child.wait()
        except TimeoutError as exc:
            raise StepFailed(f"{self.name}: {name} did not end within {timeout_s:g} s") from exc
        finally:
            await child.close()

    def _spawn(self, name: str, step: Step) -> Child:
        folder = self._around.work_folder(self.name)
        user = None if step.privileged else self._around.user(self.prepared)
        environment = dict(self.prepared.environment)
        environment |= {"SVCUID": self.token, "AWS_CONTAINER_AUTHORIZATION_TOKEN": self.token, **step.environment}
        if user is not None:
            self.uids.add(user.uid)
            try:
                os.chown(folder, user.uid, user.gid)
            except OSError as exc:
                raise disk.failure(exc, folder) from exc
        return process.spawn(
            ["sh", "-c", step.script],
            cwd=folder,
            env=environment,
            user=user,
            limits=_limits(self.prepared),
            stdout=lambda line: self.output.write("INFO", line, "stdout"),
            stderr=lambda line: self.output.write("WARN", line, "stderr"),
        )

    async def _skipped(self, step: Step) -> bool:
        return step.skip is not None and _applies(step.skip, self.prepared.environment)

    async def _probes(self) -> None:
        """Ask the health script while RUNNING."""
        health = self.prepared.component.recipe.health
        step = self.prepared.step("health")
        assert step is not None
        failures = 0
        while True:
            await asyncio.sleep(health.interval_s)
            child = self._spawn("health", step)
            code: int | None = None
            try:
                async with asyncio.timeout(health.timeout_s):
                    code = await child.wait()
            except TimeoutError:
                pass
            finally:
                await child.close()
            if code == 0:
                failures = 0
                if not self.healthy:
                    self.healthy = True
                    self._around.state_changed(self.name, self.state, self.state, self.life.then)
                continue
            failures += 1
            if failures < health.failures:
                continue
            failures = 0
            self.healthy = False
            why = f"health script: {_code(code) if code is not None else 'no answer in time'}"
            if self._around.unhealthy(self.name):
                self.last_error = why
                self.output.write("ERROR", why.encode(), "nucleus")
                self._around.state_changed(self.name, self.state, self.state, self.life.then)
            else:
                self._failed(why)
                return

    def _is_installed(self) -> bool:
        return self.prepared.component.installed == self.prepared.install_signature

    def _end_probe(self) -> None:
        if self._probe is not None and self._probe is not asyncio.current_task():
            self._probe.cancel()
        self._probe = None

    async def _end_task(self) -> None:
        if self._task is not None and self._task is not asyncio.current_task():
            await _settled(self._task)

    async def _end_main(self) -> None:
        child = self._main
        if child is not None:
            await child.close(GRACE_S)
            if self._main is child:
                self._main = None


async def _cancelled(task: "asyncio.Task[None] | None") -> None:
    """A script's task that is overtaken: cancel it and wait until its process is gone."""
    if task is None or task is asyncio.current_task() or task.done():
        return
    task.cancel()
    await _settled(task)


async def _settled(task: "asyncio.Task[None]") -> None:
    await asyncio.wait([task])


def _timeout(name: str, step: Step) -> float | None:
    return float(step.timeout) if step.timeout else recipe.TIMEOUTS_S.get(name)


def _limits(prepared: Prepared) -> Limits:
    limits = prepared.component.run_with.get("systemResourceLimits")
    if isinstance(limits, Mapping):
        memory = limits.get("memory")
        if isinstance(memory, int | float) and memory > 0:
            return Limits(memory_bytes=int(memory) * 1024)
    return Limits()


def _applies(skip: Skip, environment: Mapping[str, str]) -> bool:
    where = environment.get("PATH")
    there = (
        shutil.which(skip.argument, path=where) is not None if skip.kind == "onpath" else Path(skip.argument).exists()
    )
    return there is not skip.negated


def _code(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
