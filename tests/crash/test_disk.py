"""Files that are replaced and links that are switched: after a power cut the old or the new, whole, and never behind an answer."""

import os
from pathlib import Path

import pytest

from marram.kit import disk
from tests.crash.sweep import python, sweep
from tests.crash.work import disk as workload

WHOLE = {workload.version(number): number for number in range(9)}


def check(root: Path, acks: list[str]) -> None:
    done = {"file": -1, "link": -1} | {line.split()[0]: int(line.split()[1]) for line in acks}
    found = {"file": -1, "link": -1}
    if (root / "file").exists():
        found["file"] = WHOLE.get((root / "file").read_bytes(), -2)
    if (root / "current").is_symlink():
        found["link"] = WHOLE.get((root / "current" / "content").read_bytes(), -2)
        assert os.readlink(root / "current") == f"versions/{found['link']}"
    for name in found:
        assert done[name] <= found[name] <= done[name] + 1, f"{name}: {done[name]} was done, {found[name]} is there"
    disk.write_atomic(root / "file", b"after")
    disk.switch(root / "current", "versions")
    assert (root / "file").read_bytes() == b"after" and os.readlink(root / "current") == "versions"


def test_replaced_files_and_switched_links_survive_a_power_cut_at_any_operation() -> None:
    sweep(python("disk", "good"), check, every=1).assert_clean()


@pytest.mark.parametrize("broken", ["in-place", "no-fsync", "no-folder-fsync", "unlink-first"])
def test_the_sweep_notices(broken: str) -> None:
    sweep(python("disk", broken), check, every=1, stop_after=1).assert_caught()
