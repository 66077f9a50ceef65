"""A disk that fails while the power stays on: nothing acknowledged is lost, what was refused is not there or whole, and when
the fault passes, the store goes on without help."""

import random
import subprocess
from pathlib import Path

import pytest

from marram.kit.clock import FakeClock
from marram.kit.db import Db
from marram.kit.seglog import Journal
from tests.crash.sweep import FULL, faulty_env, python
from tests.crash.tools import images
from tests.crash.work import faults as workload

ONCE = ["data:ENOSPC", "data:EIO", "data:SHORT", "sync:EIO", "create:ENOSPC", "rename:EIO", "ftruncate:EIO"]
FOR_GOOD = ["data:ENOSPC", "sync:EIO"]


def run(tmp_path: Path, store: str, fault: str, path: str) -> tuple[list[list[str]], Path, Path]:
    root, shadow = tmp_path / "root", tmp_path / "shadow"
    root.mkdir()
    program = subprocess.run(
        [*python("faults", store), str(root)],
        env=faulty_env(root, shadow, fault, path=path),
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert program.returncode == 0, f"{fault}: {program.stderr[-2000:]}"
    lines = [line.split() for line in program.stdout.splitlines()]
    recovered = ["recovered"] in lines
    assert recovered or fault.endswith("sticky"), f"{fault}: refuses for ever"
    for mode in ("keep", "drop"):
        images.build(root, shadow, tmp_path / mode, mode)
    return [line for line in lines if line != ["recovered"]], tmp_path / "keep", tmp_path / "drop"


def places(fault: str, sticky: bool) -> list[int]:
    """At which visit the fault strikes: a few, or all."""
    if FULL:
        return list(range(1, 60))
    count = 2 if sticky else 3
    return random.Random(f"{fault}{random.SystemRandom().random()}").sample(range(1, 25), count)


@pytest.mark.parametrize("fault", ONCE + [f"{fault}+" for fault in FOR_GOOD])
def test_the_journal_loses_nothing_acknowledged_when_the_disk_fails(tmp_path: Path, fault: str) -> None:
    kind, sticky = fault.rstrip("+"), fault.endswith("+")
    for number in places(kind, sticky):
        setting = f"{kind}:{number}" + (":sticky" if sticky else "")
        acks, *disks = run_in(tmp_path / f"{number}", "journal", setting, "/log/")
        for disk in disks:
            with Journal.open(disk / "log", clock=FakeClock()) as journal:
                held = {offset: record.payload for offset, record in journal.read(0, 10_000)}
                assert not journal.damage and not journal.verify(), setting
            lost = [ack for ack in acks if held.get(int(ack[0])) != workload.text(int(ack[1]))]
            assert not lost, f"{setting} {disk.name}: acknowledged and lost: {lost[:3]}"


@pytest.mark.parametrize("fault", ["data:ENOSPC", "data:EIO", "data:SHORT", "sync:EIO", "data:ENOSPC+", "sync:EIO+"])
def test_the_database_loses_nothing_acknowledged_when_the_disk_fails(tmp_path: Path, fault: str) -> None:
    kind, sticky = fault.rstrip("+"), fault.endswith("+")
    for number in places(kind, sticky):
        # beyond the tables of kit itself: a start that fails is refused, and there is nothing to lose then
        setting = f"{kind}:{number + (8 if kind.startswith('sync') else 30)}" + (":sticky" if sticky else "")
        acks, *disks = run_in(tmp_path / f"{number}", "database", setting, "-wal")
        for disk in disks:
            with Db.open(disk / "hub.db", clock=FakeClock()) as db:
                assert db.read_now(lambda tx: tx.one("PRAGMA integrity_check")) == ("ok",)
                held = dict(db.read_now(lambda tx: tx.all("SELECT number, body FROM t"))) if acks else {}
            lost = [ack for ack in acks if held.get(int(ack[0])) != workload.text(int(ack[0]))]
            assert not lost, f"{setting} {disk.name}: acknowledged and lost: {lost[:3]}"


def run_in(folder: Path, store: str, setting: str, path: str) -> tuple[list[list[str]], Path, Path]:
    folder.mkdir()
    acks, keep, drop = run(folder, store, setting, path)
    return acks, keep, drop
