"""Profiles: what files say, what they may not say, and who misbehaves."""

from pathlib import Path

import pytest

from marram.components.sim import profile as profiles
from marram.components.sim.profile import BUILT_IN, JobUse, Profile, ShadowUse
from marram.core.errors import Invalid


def test_a_file_changes_what_it_names(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[connect]\nversion = 4\npattern = "duty"\n\n[jobs]\nfailed = 0.25\n')
    found = profiles.load(str(path))
    assert (found.connect.version, found.connect.pattern, found.jobs.failed) == (4, "duty", 0.25)
    assert found.telemetry == Profile().telemetry


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("[connect]\nspeed = 1\n", "line 2: .connect. has no key 'speed'", id="unknown key"),
        pytest.param("[conect]\n", "line 1: no section .conect.", id="unknown section"),
        pytest.param("[jobs]\nfailed = 1.5\n", "share between 0 and 1", id="over 1"),
        pytest.param("[jobs]\nfailed = 0.6\nrejected = 0.6\n", "together at most 1", id="together over 1"),
        pytest.param('[connect]\npattern = "sometimes"\n', "pattern", id="unknown pattern"),
        pytest.param("[connect]\nversion = 3\n", "version is 4", id="version"),
        pytest.param("[telemetry]\nqos = 2\n", "qos is 0 or 1", id="qos 2"),
        pytest.param("[telemetry]\nsize = 10\n", "size is 60", id="size"),
        pytest.param("[line]\ndelay_ms = -1\n", "at least 0", id="negative delay"),
        pytest.param("[connect\n", "mine.toml", id="not TOML"),
    ],
)
def test_a_bad_file_is_refused_by_place(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(Invalid, match=says):
        profiles.load(str(path))


def test_a_name_that_is_no_profile_names_those_there_are() -> None:
    with pytest.raises(Invalid, match="steady, idle, battery"):
        profiles.load("nothing")


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_the_built_in_ones_load(name: str) -> None:
    assert profiles.load(name) is BUILT_IN[name]


@pytest.mark.parametrize("devices", [1, 10, 1000, 10_000])
def test_shares_are_whole_devices_drawn_once_for_the_fleet(devices: int) -> None:
    use = Profile(jobs=JobUse(failed=0.03, rejected=0.02, silent=0.01), shadow=ShadowUse(stuck=0.5))
    drawn = profiles.roles(use, devices, 7)
    assert len(drawn.failed) == round(devices * 0.03)
    assert len(drawn.failed | drawn.rejected | drawn.silent) == round(devices * 0.06)
    assert not drawn.failed & drawn.rejected and not drawn.rejected & drawn.silent
    assert len(drawn.stuck) == round(devices * 0.5)
    assert profiles.roles(use, devices, 7) == drawn
    if devices >= 1000:
        assert profiles.roles(use, devices, 8) != drawn
