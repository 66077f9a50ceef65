"""The journal after a power cut: what was acknowledged is there, what was not is absent or whole, and it goes on."""

import shutil
from pathlib import Path

import pytest

from marram.kit.clock import FakeClock
from marram.kit.seglog import Journal
from tests.crash.sweep import python, sweep
from tests.crash.work import journal as workload


def opened(root: Path, kind: type[Journal] = workload.Small) -> Journal:
    root.mkdir(exist_ok=True)
    settings = dict(workload.SETTINGS)
    if kind is workload.NoCut:
        settings["ahead_bytes"] = 0  # zeros written ahead would wipe the tail out as well
    return kind.open(root / "log", clock=FakeClock(), **settings)


def offsets(journal: Journal) -> list[int]:
    found: list[int] = []
    at = journal.start
    while rows := journal.read(at, 1000):
        for offset, record in rows:
            assert record.payload.decode() == workload.text(offset), f"offset {offset} holds another record"
            found.append(offset)
        at = rows[-1][0] + 1
    return found


def check(root: Path, acks: list[str], kind: type[Journal] = workload.Small) -> None:
    acked = {int(line) for line in acks}
    with opened(root, kind) as journal:
        before = offsets(journal)
        assert not journal.damage, f"damage after a power cut: {journal.damage}"
        assert before == list(range(journal.start, journal.end)), "a hole"
        lost = {offset for offset in acked if offset >= journal.start} - set(before)
        assert not lost, f"acknowledged and lost: {sorted(lost)[:5]}"
        assert journal.start == 0 or journal.start <= max(acked), "trimmed what was not"
        first = journal.append([workload.record(journal.end)])
        journal.flush()
        # Killed again, before anything was tidied up: what the torn tail held must not come back behind the new record.
        shutil.copytree(root, root.with_name(root.name + "-again"))
        second = journal.append([workload.record(journal.end + i) for i in range(2)])
        journal.flush()
    expected = list(range(before[0] if before else 0, first + 1))
    again = root.with_name(root.name + "-again")
    try:
        goes_on(again, kind, expected)
    finally:
        shutil.rmtree(again)
    goes_on(root, kind, [*expected, second, second + 1])


def goes_on(root: Path, kind: type[Journal], expected: list[int]) -> None:
    with opened(root, kind) as journal:
        assert offsets(journal) == expected, "cannot go on"
        assert not journal.damage and not journal.verify()


def test_the_journal_survives_a_power_cut_at_any_operation() -> None:
    sweep(python("journal", "good"), check, every=1, torn=4).assert_clean()


@pytest.mark.parametrize("broken", ["no-sync", "no-folder-sync", "ack-first"])
def test_the_sweep_notices(broken: str) -> None:
    sweep(python("journal", broken), check, every=1, stop_after=1, budget_s=30).assert_caught()


def test_the_sweep_notices_a_torn_tail_that_is_not_cut() -> None:
    def careless(root: Path, acks: list[str]) -> None:
        check(root, acks, workload.NoCut)

    sweep(
        python("journal", "good"), careless, every=1, modes=["torn"], torn=24, stop_after=1, budget_s=40
    ).assert_caught()


def torn(root: Path) -> None:
    """A log whose last process was killed in the middle of a group, as a start finds it."""
    with opened(root) as journal:
        journal.append([workload.record(i) for i in range(10)])
        journal.flush()
        shutil.copytree(root / "log", root / "copy")
    shutil.rmtree(root / "log")
    (root / "copy").rename(root / "log")
    (last,) = (root / "log").glob("*.seg")
    data = last.read_bytes().rstrip(b"\0")
    last.write_bytes(data + data[-900:-100] + bytes(600) + b"\xb5mrB")


def test_recovery_itself_survives_a_power_cut_at_any_operation() -> None:
    sweep(python("journal", "good"), check, every=1, prepare=torn).assert_clean()
