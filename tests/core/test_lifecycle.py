"""The state machine of a component: AWS's table, and that no order of events leaves it stuck or restarting for ever."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from marram.core import lifecycle
from marram.core.errors import Invalid
from marram.core.lifecycle import Event, Lifecycle, Rules, Script, State

E, S = Event, State
START = [E.INSTALL_DONE, E.DEPENDENCIES_UP, E.STARTUP_DONE]
AGAIN = [E.FAILED, E.RECOVER_DONE, E.SHUTDOWN_DONE, E.DEPENDENCIES_UP, E.STARTUP_DONE]


@pytest.mark.parametrize(
    ("events", "state", "script"),
    [
        pytest.param([E.INSTALL_DONE], S.INSTALLED, None, id="installed"),
        pytest.param(START[:2], S.STARTING, Script.STARTUP, id="starting"),
        pytest.param(START, S.RUNNING, None, id="running"),
        pytest.param([*START, E.ENDED], S.STOPPING, Script.SHUTDOWN, id="ended"),
        pytest.param([*START, E.ENDED, E.SHUTDOWN_DONE], S.FINISHED, None, id="finished"),
        pytest.param([E.INSTALL_DONE, E.ENDED], S.FINISHED, None, id="nothing to run"),
        pytest.param([*START, E.FAILED], S.ERRORED, Script.RECOVER, id="an error is recovered"),
        pytest.param([*START, E.FAILED, E.RECOVER_DONE], S.STOPPING, Script.SHUTDOWN, id="then shut down"),
        pytest.param([*START, *AGAIN], S.RUNNING, None, id="and runs again"),
        pytest.param([*START, *AGAIN * 2, E.FAILED], S.BROKEN, None, id="third error breaks"),
        pytest.param([*START, *AGAIN * 2, E.FAILED, E.REINSTALL_ASKED], S.NEW, Script.INSTALL, id="reinstall mends"),
        pytest.param([E.FAILED, E.RECOVER_DONE], S.NEW, Script.INSTALL, id="a failed install is tried again"),
        pytest.param([E.FAILED, E.RECOVER_DONE] * 2 + [E.FAILED], S.BROKEN, None, id="three times"),
        pytest.param([*START, E.STOP_ASKED, E.SHUTDOWN_DONE], S.FINISHED, None, id="stop"),
        pytest.param([*START, E.RESTART_ASKED, E.SHUTDOWN_DONE], S.INSTALLED, None, id="restart"),
        pytest.param(
            [*START, E.RESTART_ASKED, E.STOP_ASKED, E.SHUTDOWN_DONE], S.FINISHED, None, id="stop wins over restart"
        ),
        pytest.param(
            [*START, E.STOP_ASKED, E.RESTART_ASKED, E.SHUTDOWN_DONE], S.INSTALLED, None, id="the later wish counts"
        ),
        pytest.param([*START, E.FAILED, E.STOP_ASKED, E.SHUTDOWN_DONE], S.FINISHED, None, id="stop while recovering"),
        pytest.param(
            [*START, *AGAIN, E.RESTART_ASKED, E.SHUTDOWN_DONE, *START[1:], *AGAIN, E.FAILED],
            S.ERRORED,
            Script.RECOVER,
            id="a clean stop forgets errors",
        ),
    ],
)
def test_lifecycle(events: list[Event], state: State, script: Script | None) -> None:
    life, got = Lifecycle(), None
    for event in events:
        life, got = lifecycle.step(life, event, 0, Rules())
    assert (life.state, got) == (state, script)


def test_an_hour_without_error_forgets() -> None:
    life = Lifecycle()
    now = 0
    for event in [*START, *AGAIN, *AGAIN]:
        life, _ = lifecycle.step(life, event, now, Rules())
    life, script = lifecycle.step(life, E.FAILED, 3_600_000, Rules())
    assert (life.state, script) == (S.ERRORED, Script.RECOVER)


def test_backoff_starts_with_nothing_and_doubles() -> None:
    pauses = [lifecycle.backoff_ms(Lifecycle(errors={S.RUNNING: count}), Rules()) for count in (0, 1, 2, 3, 4, 30)]
    assert pauses == [0, 0, 250, 500, 1000, 60_000]


class AnyOrderOfEvents(RuleBasedStateMachine):
    """Whatever comes: a refused event changes nothing, errors stay under the limit, and a stop always ends it."""

    def __init__(self) -> None:
        super().__init__()
        self.life = Lifecycle()
        self.now = 0

    @rule(event=st.sampled_from(Event), later=st.integers(0, 5_000_000))
    def send(self, event: Event, later: int) -> None:
        before = self.life
        self.now += later
        try:
            self.life, script = lifecycle.step(before, event, self.now, Rules())
        except Invalid:
            assert self.life == before
            return
        if self.life.state is S.BROKEN:
            assert script is None
        if before.state is S.BROKEN and self.life.state is not S.BROKEN:
            assert event is E.REINSTALL_ASKED

    @invariant()
    def errors_are_bounded(self) -> None:
        assert max(self.life.errors.values(), default=0) <= Rules().max_errors
        if self.life.state is not S.BROKEN:
            assert max(self.life.errors.values(), default=0) < Rules().max_errors

    @invariant()
    def a_stop_ends_it(self) -> None:
        life, _ = lifecycle.step(self.life, E.STOP_ASKED, self.now, Rules())
        if life.state is S.STOPPING:
            life, _ = lifecycle.step(life, E.SHUTDOWN_DONE, self.now, Rules())
        assert life.state in (S.FINISHED, S.BROKEN)


AnyOrderOfEvents.TestCase.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
TestAnyOrderOfEvents = AnyOrderOfEvents.TestCase
