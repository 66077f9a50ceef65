"""What a component does next: states, events, and the script to run. A table and a step function; performs nothing. Pure.

Three errors in a row from one state make it BROKEN (`max_errors`), left only by a reinstall; a transition out of a state
without error forgets that state's errors, and so does an hour without one. Source: AWS "component lifecycle"; observed, Java
nucleus 2.18. Ours: RESTART_ASKED from every live state, and waiting before the second restart (`backoff_ms`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final

from marram.core.errors import Invalid


class State(Enum):
    NEW = "NEW"
    INSTALLED = "INSTALLED"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    STOPPING = "STOPPING"
    FINISHED = "FINISHED"
    ERRORED = "ERRORED"
    BROKEN = "BROKEN"


class Event(Enum):
    INSTALL_DONE = "install done"
    DEPENDENCIES_UP = "dependencies up"
    STARTUP_DONE = "startup done"  # startup ended with 0, run was spawned, or the component says RUNNING
    ENDED = "ended"  # run ended with 0, or there is neither startup nor run
    STOP_ASKED = "stop asked"
    RESTART_ASKED = "restart asked"
    SHUTDOWN_DONE = "shutdown done"
    FAILED = "failed"
    RECOVER_DONE = "recover done"
    REINSTALL_ASKED = "reinstall asked"


class Script(Enum):
    INSTALL = "install"
    STARTUP = "startup"
    SHUTDOWN = "shutdown"
    RECOVER = "recover"


S, E = State, Event
UP: Final = frozenset({S.RUNNING, S.FINISHED})  # what a hard dependency must be, and a deployment waits for
SETTLED: Final = frozenset({S.RUNNING, S.FINISHED, S.BROKEN})

NEXT: Final[Mapping[tuple[State, Event], tuple[State, Script | None]]] = {
    (S.NEW, E.INSTALL_DONE): (S.INSTALLED, None),
    (S.NEW, E.FAILED): (S.ERRORED, Script.RECOVER),
    (S.NEW, E.STOP_ASKED): (S.FINISHED, None),
    (S.INSTALLED, E.DEPENDENCIES_UP): (S.STARTING, Script.STARTUP),
    (S.INSTALLED, E.STOP_ASKED): (S.FINISHED, None),
    (S.INSTALLED, E.RESTART_ASKED): (S.INSTALLED, None),
    (S.INSTALLED, E.ENDED): (S.FINISHED, None),
    (S.STARTING, E.STARTUP_DONE): (S.RUNNING, None),
    (S.STARTING, E.FAILED): (S.ERRORED, Script.RECOVER),
    (S.STARTING, E.STOP_ASKED): (S.STOPPING, Script.SHUTDOWN),
    (S.STARTING, E.RESTART_ASKED): (S.STOPPING, Script.SHUTDOWN),
    (S.RUNNING, E.ENDED): (S.STOPPING, Script.SHUTDOWN),
    (S.RUNNING, E.FAILED): (S.ERRORED, Script.RECOVER),
    (S.RUNNING, E.STOP_ASKED): (S.STOPPING, Script.SHUTDOWN),
    (S.RUNNING, E.RESTART_ASKED): (S.STOPPING, Script.SHUTDOWN),
    (S.STOPPING, E.SHUTDOWN_DONE): (S.FINISHED, None),  # or `then`
    (S.STOPPING, E.FAILED): (S.FINISHED, None),  # a failing shutdown script does not keep it alive
    (S.STOPPING, E.STOP_ASKED): (S.STOPPING, None),
    (S.STOPPING, E.RESTART_ASKED): (S.STOPPING, None),
    (S.FINISHED, E.RESTART_ASKED): (S.INSTALLED, None),
    (S.FINISHED, E.STOP_ASKED): (S.FINISHED, None),
    (S.ERRORED, E.RECOVER_DONE): (S.STOPPING, Script.SHUTDOWN),  # NEW when the error was in the install
    (S.ERRORED, E.FAILED): (S.STOPPING, Script.SHUTDOWN),  # the recover script failed: go on all the same
    (S.ERRORED, E.STOP_ASKED): (S.STOPPING, Script.SHUTDOWN),
    (S.ERRORED, E.RESTART_ASKED): (S.ERRORED, None),
    (S.BROKEN, E.STOP_ASKED): (S.BROKEN, None),
    **{(state, E.REINSTALL_ASKED): (S.NEW, Script.INSTALL) for state in (S.NEW, S.INSTALLED, S.FINISHED, S.BROKEN)},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    max_errors: int = 3
    reset_ms: int = 3_600_000
    backoff_ms: int = 250
    longest_ms: int = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifecycle:
    """`errors` counts by the state they happened in; `then` is where STOPPING leads; `failed` the state that failed last."""

    state: State = S.NEW
    then: State = S.FINISHED
    failed: State | None = None
    errors: Mapping[State, int] = field(default_factory=dict[State, int])
    failed_ms: int = 0

    def __repr__(self) -> str:
        counts = ",".join(f"{state.value}:{count}" for state, count in self.errors.items())
        return f"<{self.state.value} then {self.then.value} errors {counts or 0}>"


def step(life: Lifecycle, event: Event, now_ms: int, rules: Rules) -> tuple[Lifecycle, Script | None]:
    """Apply one event. Raises Invalid when it has no meaning in this state; `life` is then still good.

    now_ms: monotonic. BROKEN comes with no script: what runs must be stopped by the caller (Script.SHUTDOWN is not run).
    """
    before = life.state
    found = NEXT.get((before, event))
    if found is None:
        raise Invalid(f"{event.value}: has no meaning in state {before.value}")
    state, script = found
    if event is E.REINSTALL_ASKED:
        return Lifecycle(), script
    if event is E.FAILED and before in (S.NEW, S.STARTING, S.RUNNING):
        fresh = life.failed is not None and now_ms - life.failed_ms >= rules.reset_ms
        count = (0 if fresh else life.errors.get(before, 0)) + 1
        errors = {**({} if fresh else life.errors), before: count}
        broken = count >= rules.max_errors
        after = replace(life, state=S.BROKEN if broken else state, failed=before, errors=errors, failed_ms=now_ms)
        return after, None if broken else script
    then = life.then
    if event is E.STOP_ASKED or (event is E.ENDED and before is S.RUNNING):
        then = S.FINISHED
    elif event is E.RESTART_ASKED or before is S.ERRORED:
        then = S.INSTALLED
    if before is S.STOPPING and state is S.FINISHED:
        state = then
    if before is S.ERRORED and state is S.STOPPING and life.failed is S.NEW:
        if event is E.STOP_ASKED:
            state, script = S.FINISHED, None
        else:
            state, script = S.NEW, Script.INSTALL
    errors = dict(life.errors)
    if before is not S.ERRORED and state is not before:
        errors.pop(before, None)
    return replace(life, state=state, then=then, errors=errors), script


def backoff_ms(life: Lifecycle, rules: Rules) -> int:
    """The pause before the next start: none after the first error in a row, then doubling."""
    count = max(life.errors.values(), default=0)
    if count < 2:
        return 0
    return min(rules.longest_ms, rules.backoff_ms << min(count - 2, 20))
