"""Promises and progress as a log file sees them."""

import pytest

from demo.show import Show, Stopped


def test_a_broken_promise_is_remembered_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    show = Show()
    with show.step(1, "a step"):
        assert show.promise(True, "this holds")
        assert not show.promise(False, "p99 is 30 ms")
    assert (show.kept, show.failed) == (1, ["p99 is 30 ms"])
    out = capsys.readouterr().out
    assert "[1/7] a step" in out and "ok    this holds" in out and "FAIL  p99 is 30 ms" in out


def test_waiting_ends_with_a_reason() -> None:
    answers = iter([False, True])
    assert Show().wait("it comes", lambda: next(answers), 5.0, every_s=0.001) < 5.0
    with pytest.raises(Stopped, match=r"it never comes: not within 0\.01 s"):
        Show().wait("it never comes", lambda: False, 0.01, every_s=0.001)


def test_a_table_is_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    Show().table("title", ("a", "b"), [("long cell", "1")])
    assert capsys.readouterr().out == "\ntitle\n  a          b\n  long cell  1\n"
