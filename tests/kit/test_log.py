"""Lines that strangers can cause are so many a second; what is left out is counted."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from marram.kit import log


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    stream = io.StringIO()
    log.setup(stream=stream)
    yield stream
    root.handlers[:] = before
    root.setLevel(level)


def test_a_flood_of_one_event_leaves_the_others_alone(lines: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(log.time, "monotonic", lambda: now)
    sparing = log.Sparing(log.logger("test"), per_s=3)
    for number in range(1000):
        sparing.info("door.refused", number=number)
    sparing.info("door.other")
    now = 101.5
    sparing.info("door.refused", number=1000)
    said = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert [line["event"] for line in said] == ["door.refused"] * 3 + ["door.other", "door.refused"]
    assert said[-1]["fields"] == {"number": 1000, "left_out": 997}
    sparing.info("door.refused", number=1001)
    assert "left_out" not in json.loads(lines.getvalue().splitlines()[-1])["fields"]


def test_control_characters_do_not_reach_a_terminal(lines: io.StringIO) -> None:
    log.logger("test").info("door.refused", reason="\x1b[2J\nfake line\u202e")
    assert (
        len(lines.getvalue().splitlines()) == 1 and "\x1b" not in lines.getvalue() and "\u202e" not in lines.getvalue()
    )
