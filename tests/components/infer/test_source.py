"""Pace and slots: what is late is counted, never hidden."""

import threading
from pathlib import Path

import numpy as np
import pytest

from marram.components.infer import source


def frame(number: int) -> source.Frame:
    return source.Frame(number, 0.0, 0, 0, np.zeros((1, 1, 1), np.uint8))


def test_latest_drops_the_oldest_and_counts() -> None:
    slots = source.Slots(2, "latest")
    for number in range(5):
        slots.put(frame(number))
    got = [slots.get(), slots.get()]
    assert [one.number for one in got if one] == [3, 4] and slots.dropped == 3


def test_block_makes_the_decoder_wait() -> None:
    slots = source.Slots(1, "block")
    slots.put(frame(0))
    thread = threading.Thread(target=lambda: slots.put(frame(1)))
    thread.start()
    assert (slots.get() or frame(9)).number == 0
    thread.join(5)
    assert (slots.get() or frame(9)).number == 1 and slots.dropped == 0


def test_closed_slots_end_both_sides() -> None:
    slots = source.Slots(1, "block")
    slots.close()
    assert slots.get() is None and slots.put(frame(0)) is False


def test_pace_counts_what_it_could_not_read() -> None:
    now = [0]
    pace = source.Pace(10, now_ns=lambda: now[0], wait=lambda s: now.__setitem__(0, now[0] + int(s * 1e9)))
    assert [pace.next() for _ in range(3)] == [(0, 100_000_000), (1, 200_000_000), (2, 300_000_000)]
    now[0] += 2_000_000_000  # a stall of 2 s
    number, due = pace.next()
    assert number == 3 + pace.skipped and pace.skipped == 19 and due <= now[0]


def test_video_loops_and_frame_numbers_go_on(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for at in range(4):
            picture = av.VideoFrame.from_ndarray(np.full((48, 64), at * 60, np.uint8), format="gray")
            container.mux(stream.encode(picture.reformat(format="yuv420p")))
        container.mux(stream.encode(None))
    settings = source.Settings(kind="pyav", uri=str(path), frames=10)
    got = list(source.frames(settings, source.Pace(0), 1, []))
    assert [one.number for one in got] == list(range(10))
    levels = [int(one.image.mean()) for one in got]
    assert levels[:4] == levels[4:8] and levels[3] > 150 and got[0].image.shape == (48, 64, 1)
