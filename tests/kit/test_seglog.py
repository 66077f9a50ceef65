import asyncio
import errno
import os
from pathlib import Path

import pytest

from marram.core import segment
from marram.core.errors import LimitExceeded, Unavailable
from marram.core.segment import Record
from marram.kit.clock import FakeClock, SeededEntropy
from marram.kit.disk import DiskFull
from marram.kit.seglog import Journal, JournalDamaged


def record(text: str | int, *, time_ms: int = 0, size: int = 0) -> Record:
    return Record(segment.KIND_MESSAGE, 0, time_ms, b"plant/7", b"{}", str(text).encode() + b" " * size)


def open_journal(tmp_path: Path, cls: type[Journal] = Journal, **options: object) -> Journal:
    settings: dict[str, object] = {"segment_bytes": 4096, "budget_bytes": 1 << 30, "ahead_bytes": 512} | options
    return cls.open(tmp_path / "log", clock=FakeClock(), entropy=SeededEntropy(1), **settings)  # type: ignore[arg-type]


def texts(journal: Journal, offset: int = 0, count: int = 1_000_000) -> list[tuple[int, str]]:
    """All from `offset` on, read in pages."""
    found: list[tuple[int, str]] = []
    while rows := journal.read(offset, min(100, count - len(found)), 2_000):
        found += [(at, row.payload.decode().strip()) for at, row in rows]
        offset = rows[-1][0] + 1
    return found


def segments(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "log").glob("*.seg"))


async def fill(journal: Journal, count: int, *, size: int = 50) -> None:
    for i in range(journal.end, journal.end + count):
        await journal.append_synced([record(i, size=size)])


@pytest.mark.parametrize("tail_bytes", [pytest.param(0, id="from files"), pytest.param(1 << 20, id="from memory")])
async def test_records_are_read_back_in_order_and_after_reopening(tmp_path: Path, tail_bytes: int) -> None:
    with open_journal(tmp_path, tail_bytes=tail_bytes) as journal:
        await fill(journal, 200)
        expected = [(i, str(i)) for i in range(200)]
        assert texts(journal) == expected
        assert texts(journal, 77) == expected[77:]
        assert journal.read(5, 3)[0] == (5, record(5, size=50))
    assert len(segments(tmp_path)) > 3
    with open_journal(tmp_path) as again:
        assert (again.start, again.end, again.synced) == (0, 200, 200)
        assert texts(again) == expected
        assert again.verify() == again.damage == []
        await fill(again, 10)
        assert texts(again, 195) == [(i, str(i)) for i in range(195, 210)]


async def test_reads_are_bounded_by_count_and_bytes_but_give_one(tmp_path: Path) -> None:
    for tail_bytes in (0, 1 << 20):
        with open_journal(tmp_path / str(tail_bytes), tail_bytes=tail_bytes) as journal:
            await journal.append_synced([record(i, size=100) for i in range(10)])
            assert len(journal.read(0, 4)) == 4
            assert len(journal.read(0, 10, max_bytes=1)) == 1
            assert len(journal.read(0, 10, max_bytes=300)) == 2
            assert journal.read(10, 10) == []


async def test_concurrent_appends_share_syncs(tmp_path: Path) -> None:
    class Counting(Journal):
        syncs = 0

        def _sync(self, handle: int) -> None:
            Counting.syncs += 1
            super()._sync(handle)

    with open_journal(tmp_path, Counting, segment_bytes=1 << 20) as journal:
        await asyncio.gather(*(journal.append_synced([record(i)]) for i in range(1000)))
        assert journal.synced == 1000
        assert Counting.syncs < 100


async def test_callbacks_come_on_the_loop_after_the_sync(tmp_path: Path) -> None:
    told: list[int] = []
    with open_journal(tmp_path) as journal:
        journal.on_synced(told.append)
        await fill(journal, 5)
        assert told[-1] == 5
        assert told == sorted(told)


async def test_times_never_go_back_even_over_a_restart(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal:
        await journal.append_synced([record(0, time_ms=50), record(1, time_ms=40)])
    with open_journal(tmp_path) as journal:
        await journal.append_synced([record(2, time_ms=45)])
        assert [row.time_ms for _, row in journal.read(0, 9)] == [50, 50, 50]


async def test_trim_drops_whole_segments_and_keeps_the_last(tmp_path: Path) -> None:
    with open_journal(tmp_path, tail_bytes=0) as journal:
        await fill(journal, 200)
        before = journal.bytes_on_disk
        journal.trim(120)
        await fill(journal, 1)
        assert 60 < journal.start <= 120
        assert journal.bytes_on_disk < before
        assert texts(journal)[0][0] == journal.start
        journal.trim(10_000)
        await fill(journal, 1)
        assert len(segments(tmp_path)) == 1
    with open_journal(tmp_path) as journal:
        assert journal.end == 202


async def test_a_torn_tail_is_cut_and_the_log_goes_on(tmp_path: Path) -> None:
    with open_journal(tmp_path, segment_bytes=1 << 20) as journal:
        await fill(journal, 10)
    path = segments(tmp_path)[-1]
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - segment.BATCH_BYTES - 7] + b"garbage")
    with open_journal(tmp_path, segment_bytes=1 << 20) as journal:
        assert (journal.end, journal.damage) == (9, [])
        await fill(journal, 2)
        assert texts(journal) == [(i, str(i)) for i in range(11)]
    with open_journal(tmp_path) as journal:
        assert texts(journal) == [(i, str(i)) for i in range(11)]


@pytest.mark.parametrize("which", [pytest.param(1, id="an older segment"), pytest.param(-1, id="the last segment")])
async def test_damage_below_synced_is_an_alarm_and_a_gap(tmp_path: Path, which: int) -> None:
    with open_journal(tmp_path) as journal:
        await fill(journal, 100)
    path = segments(tmp_path)[which]
    data = bytearray(path.read_bytes())
    data[segment.HEADER_BYTES + 40] ^= 4
    path.write_bytes(data)
    with open_journal(tmp_path) as journal:
        found = texts(journal)
        (damage,) = journal.damage
        assert damage.end - damage.first == 1
        assert found == [(i, str(i)) for i in range(100) if i != damage.first]
        assert journal.verify() == [damage]
        assert journal.past_gap(damage.first) == damage.end


async def test_a_damaged_header_costs_no_record(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal:
        await fill(journal, 100)
    for path in segments(tmp_path):
        path.write_bytes(bytes(64) + path.read_bytes()[64:])
    with open_journal(tmp_path) as journal:
        await fill(journal, 1)
        assert texts(journal) == [(i, str(i)) for i in range(101)]


async def test_a_lost_segment_is_an_alarm(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal:
        await fill(journal, 150)
    segments(tmp_path)[1].unlink()
    with open_journal(tmp_path) as journal:
        found = texts(journal)
        assert len(journal.damage) == 1
        assert found == [(i, str(i)) for i in range(150) if not journal.damage[0].first <= i < journal.damage[0].end]


async def test_a_cursor_above_the_end_is_named(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal:
        await fill(journal, 3)
        journal.check_cursors({"rules": 3})
        with pytest.raises(JournalDamaged, match=r"consumer rules .*offset 4.*ends at 3"):
            journal.check_cursors({"rules": 4})
        with pytest.raises(JournalDamaged):
            journal.read(4, 1)


class Failing(Journal):
    """`fail` disk calls fail with `error` at `at`."""

    fail = 0
    error = errno.EIO
    at = "sync"

    def _step(self, name: str) -> None:
        if self.at == name and self.fail:
            self.fail -= 1
            raise OSError(self.error, os.strerror(self.error))

    def _sync(self, handle: int) -> None:
        self._step("sync")
        super()._sync(handle)

    def _start_segment(self, base: int) -> None:
        self._step("start")
        super()._start_segment(base)


@pytest.mark.parametrize("times", [1, 3])
async def test_a_failed_fsync_voids_the_group_seals_the_segment_and_reuses_no_offset(
    tmp_path: Path, times: int
) -> None:
    clock = FakeClock()
    void: list[tuple[int, int]] = []
    with Failing.open(tmp_path / "log", clock=clock, segment_bytes=4096, budget_bytes=1 << 30) as journal:
        journal.on_void(lambda first, end: void.append((first, end)))
        await fill(journal, 3)
        journal.fail = times
        for _ in range(times):
            outcomes = await asyncio.gather(
                *(journal.append_synced([record("lost")]) for _ in range(2)), return_exceptions=True
            )
            assert all(isinstance(outcome, Unavailable) for outcome in outcomes)
            with pytest.raises(Unavailable):
                journal.append([record("refused at once")])
            clock.advance(1000)
        with pytest.raises(Unavailable):
            await journal.wait_synced(3)
        first = await journal.append_synced([record("after")])
        assert first == 3 + 2 * times
        assert texts(journal) == [(0, "0"), (1, "1"), (2, "2"), (first, "after")]
        assert sum(end - begin for begin, end in void) == 2 * times
    with open_journal(tmp_path) as journal:
        assert texts(journal) == [(0, "0"), (1, "1"), (2, "2"), (first, "after")]
        assert journal.damage == journal.verify() == []


async def test_a_full_disk_refuses_and_recovers_alone(tmp_path: Path) -> None:
    clock = FakeClock()
    with Failing.open(tmp_path / "log", clock=clock, segment_bytes=4096, budget_bytes=1 << 30) as journal:
        journal.error, journal.at, journal.fail = errno.ENOSPC, "start", 2
        for _ in range(2):
            with pytest.raises(DiskFull):
                await journal.append_synced([record("lost")])
            clock.advance(1000)
        await journal.append_synced([record("after")])
        assert texts(journal) == [(2, "after")]
    with open_journal(tmp_path) as journal:
        assert journal.end == 3


async def test_budget_and_reserve_refuse_at_append(tmp_path: Path) -> None:
    with open_journal(tmp_path / "a", budget_bytes=10_000) as journal:
        with pytest.raises(LimitExceeded, match="budget"):
            await fill(journal, 1000)
        journal.trim(journal.end)
        kept = journal.end
        while journal.start < kept - 60:
            await asyncio.sleep(0)
        await fill(journal, 1)
    with open_journal(tmp_path / "b", reserve_share=1.1) as journal, pytest.raises(DiskFull, match="reserve"):
        journal.append([record("x")])


async def test_what_is_too_large_is_refused(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal:
        with pytest.raises(LimitExceeded):
            journal.append([record("x", size=17 << 20)])
        with pytest.raises(LimitExceeded):
            journal.append([Record(1, 0, 0, b"t" * 65_536, b"", b"")])
        large = await journal.append_synced([record("big", size=1 << 20)])  # larger than a segment: it gets its own
        assert journal.read(large, 1)[0][1].payload.startswith(b"big")


async def test_closing_syncs_what_waits(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    waiting = asyncio.ensure_future(journal.append_synced([record("last")]))
    await asyncio.sleep(0)
    journal.close()
    assert await waiting == 0
    with pytest.raises(Unavailable):
        journal.append([record("late")])


def test_flush_needs_no_loop(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal:
        journal.append([record("x")])
        journal.flush()
        assert texts(journal) == [(0, "x")]


async def test_waiting_for_what_was_never_appended_is_our_mistake(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal, pytest.raises(RuntimeError, match="never appended"):
        await journal.wait_synced(0)
