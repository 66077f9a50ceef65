"""What a replay makes of the records since the last checkpoint."""

from marram.core.codec import JsonValue
from marram.hub.broker import recovery
from marram.hub.broker.settings import Settings

MAX_QUEUE = Settings().queue


def test_a_busy_session_keeps_its_newest_though_more_was_delivered_than_a_queue_holds() -> None:
    """Acknowledgements lie behind their messages: a limit applied too early would lose what is still to be delivered."""
    replay = recovery.Replay(0, MAX_QUEUE)
    replay.change(0, {"o": [[recovery.BEGIN, "busy", 5, 600, "p", "certificate"]]})
    for offset in range(1, MAX_QUEUE + 501):
        replay.message(offset, {"s": ["busy"]})
    acked: list[JsonValue] = list(range(1, MAX_QUEUE + 1))
    replay.change(MAX_QUEUE + 501, {"o": [[recovery.ACKED, "busy", acked]]})
    replay.finish()
    assert list(replay.sessions["busy"].queue) == list(range(MAX_QUEUE + 1, MAX_QUEUE + 501))


def test_a_session_that_was_away_keeps_as_many_as_a_queue_holds() -> None:
    replay = recovery.Replay(0, MAX_QUEUE)
    replay.change(0, {"o": [[recovery.BEGIN, "away", 5, 600, "p", "certificate"]]})
    for offset in range(1, MAX_QUEUE + 10):
        replay.message(offset, {"s": ["away"]})
    replay.finish()
    assert len(replay.sessions["away"].queue) == MAX_QUEUE
