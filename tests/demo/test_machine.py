"""Whose CPU it was."""

import pytest

from demo import machine
from demo.machine import Sample


def test_own_is_the_whole_family_and_nobody_else() -> None:
    processes = {1: (0, 1000), 10: (1, 5), 11: (10, 7), 12: (11, 100), 20: (1, 50)}
    assert machine.own_ticks(10, processes) == 5 + 7 + 100
    assert machine.own_ticks(99, processes) == 0


def test_others_are_all_but_own() -> None:
    before, after = Sample(0.0, 100.0, 40.0), Sample(10.0, 112.0, 45.0)
    assert machine.others(before, after) == pytest.approx(0.7)
    assert machine.others(after, after) == 0.0
    assert machine.others(before, Sample(10.0, 101.0, 45.0)) == 0.0  # ticks are coarse


def test_a_sample_of_this_machine() -> None:
    first = machine.sample()
    sum(range(200_000))
    second = machine.sample()
    assert second.at_s >= first.at_s and second.all_s >= first.all_s and second.own_s >= first.own_s
