import pytest
from hypothesis import given
from hypothesis import strategies as st

from marram.core import segment
from marram.core.errors import Corrupt, LimitExceeded, Unsupported
from marram.core.segment import Batch, Gap, Header, Record

ID = 0x1122334455667788
BASE = 40

records = st.builds(
    Record,
    kind=st.integers(1, 5),
    flags=st.integers(0, 255),
    time_ms=st.integers(-(1 << 63), (1 << 63) - 1),
    topic=st.binary(max_size=40),
    meta=st.binary(max_size=40),
    payload=st.one_of(st.binary(max_size=60), st.just(segment.BATCH_MAGIC * 3)),
)
batches = st.lists(st.lists(records, min_size=1, max_size=3), min_size=1, max_size=6)


def written(groups: list[list[Record]], *, mark: bool = False) -> tuple[bytes, list[int]]:
    """A segment in which each batch was synced before the next was written, and where each batch ends."""
    header = Header(segment_id=ID, base=BASE, previous_end=BASE, created_ms=7)
    data, ends, base = segment.encode_header(header), [], BASE
    for group in groups:
        data += segment.encode_batch(group, segment_id=ID, base=base, synced=base)
        base += len(group)
        ends.append(len(data))
    if mark:
        data += segment.encode_batch((), segment_id=ID, base=base, synced=base)
    return data, ends


def held(data: bytes, found: tuple[Batch, ...]) -> list[Record]:
    return [record for batch in found for record in segment.decode_records(data, batch)]


def flat(groups: list[list[Record]]) -> list[Record]:
    return [record for group in groups for record in group]


@given(batches)
def test_what_is_written_is_read(groups: list[list[Record]]) -> None:
    data, ends = written(groups)
    state = segment.recover(data, ID, BASE)
    assert held(data, state.batches) == flat(groups)
    assert (state.keep_bytes, state.end, state.damage, state.whole) == (ends[-1], BASE + len(flat(groups)), (), True)


@given(st.lists(records, max_size=5), st.integers(-(1 << 63), (1 << 63) - 1))
def test_in_pieces_it_is_the_same_with_times_that_never_go_back(group: list[Record], last_ms: int) -> None:
    parts: list[bytes] = [b"before"]
    nbytes, latest = segment.encode_into(parts, group, last_ms)
    times = [last_ms, *(record.time_ms for record in group)]
    assert times == sorted(times) and latest == times[-1]
    assert b"".join(parts[1:]) == b"".join(map(segment.encode_record, group))
    assert nbytes == len(b"".join(parts[1:]))


@given(batches, st.data())
def test_a_cut_anywhere_leaves_a_prefix_of_whole_batches(groups: list[list[Record]], data: st.DataObject) -> None:
    whole, ends = written(groups)
    cut = data.draw(st.integers(segment.HEADER_BYTES, len(whole)))
    zeros = data.draw(st.sampled_from([0, 1, 700]))  # written ahead, or a size that reached the disk before the bytes
    state = segment.recover(whole[:cut] + bytes(zeros), ID, BASE)
    kept = sum(end <= cut for end in ends)
    assert held(whole, state.batches) == flat(groups[:kept])
    # a cut that loses a batch which the one after it calls synced cannot be told from a tail, as that one is lost too
    assert state.damage == ()
    assert state.keep_bytes == ([segment.HEADER_BYTES, *ends])[kept]


@given(batches, st.data())
def test_a_flipped_bit_below_synced_is_found_and_the_rest_is_kept(
    groups: list[list[Record]], data: st.DataObject
) -> None:
    whole, ends = written(groups, mark=True)
    at = data.draw(st.integers(segment.HEADER_BYTES, ends[-1] - 1))
    bad = bytearray(whole)
    bad[at] ^= 1 << data.draw(st.integers(0, 7))
    hit = sum(end <= at for end in ends)
    state = segment.recover(bytes(bad), ID, BASE)
    first = BASE + len(flat(groups[:hit]))
    lost = len(groups[hit])
    assert [(gap.first, gap.end) for gap in state.damage] == [(first, first + lost)]
    assert held(whole, state.batches) == flat(groups[:hit]) + flat(groups[hit + 1 :])
    assert state.end == BASE + len(flat(groups))
    assert state.whole


@given(batches, st.data())
def test_a_flipped_bit_never_changes_a_record(groups: list[list[Record]], data: st.DataObject) -> None:
    whole, _ = written(groups)
    at = data.draw(st.integers(segment.HEADER_BYTES, len(whole) - 1))
    bad = bytearray(whole)
    bad[at] ^= 1 << data.draw(st.integers(0, 7))
    state = segment.recover(bytes(bad), ID, BASE)
    all_records = flat(groups)
    for batch in state.batches:
        assert (
            segment.decode_records(bytes(bad), batch)
            == all_records[batch.base - BASE : batch.base - BASE + batch.count]
        )


@given(st.binary(max_size=400))
def test_any_bytes_are_read_without_another_error(data: bytes) -> None:
    """As what they are: no record at all. A batch or a header by chance would have to meet its checksum."""
    found = list(segment.scan(data, ID, BASE, 0))
    assert found == ([segment.Gap(0, BASE, None)] if data.strip(b"\0") else [])
    state = segment.recover(bytes(segment.HEADER_BYTES) + data, ID, BASE)
    assert (list(state.batches), list(state.damage), state.end) == ([], [], BASE)
    assert state.keep_bytes == segment.HEADER_BYTES
    with pytest.raises((Corrupt, Unsupported)):
        segment.decode_header(data)


def test_a_batch_that_was_whole_behind_a_torn_one_is_void() -> None:
    # both were written in one window; the disk kept the second alone, and nobody was told of either
    one, two = (Record(1, 0, 0, b"t", b"", bytes([n])) for n in (1, 2))
    torn = bytearray(segment.encode_batch([one], segment_id=ID, base=BASE, synced=BASE))
    torn[-1] ^= 1
    data = (
        bytes(segment.HEADER_BYTES)
        + bytes(torn)
        + segment.encode_batch([two], segment_id=ID, base=BASE + 1, synced=BASE)
    )
    state = segment.recover(data, ID, BASE)
    assert (state.keep_bytes, state.end, state.damage, state.batches) == (segment.HEADER_BYTES, BASE, (), ())


def test_a_lost_end_below_synced_keeps_its_offsets() -> None:
    data, ends = written([[Record(1, 0, 0, b"", b"", b"x")]] * 3, mark=True)
    bad = bytearray(data)
    bad[ends[1] + 40] ^= 1  # the third batch; then the mark says that it was synced
    state = segment.recover(bytes(bad), ID, BASE)
    assert [(gap.first, gap.end) for gap in state.damage] == [(BASE + 2, BASE + 3)]
    assert state.end == BASE + 3


def test_bytes_of_another_segment_or_place_never_pass() -> None:
    batch = segment.encode_batch([Record(1, 0, 0, b"", b"", b"x")], segment_id=ID, base=BASE, synced=BASE)
    assert segment.batch_at(batch, 0, ID) is not None
    assert segment.batch_at(batch, 0, ID + 1) is None
    assert list(segment.scan(batch, ID, BASE + 1, 0)) == [Gap(0, BASE + 1, None)]


def test_a_header_is_checked_and_a_later_format_named() -> None:
    header = Header(segment_id=ID, base=BASE, previous_end=39, created_ms=-5)
    data = bytearray(segment.encode_header(header))
    assert segment.decode_header(data) == header
    data[20] ^= 1
    with pytest.raises(Corrupt):
        segment.decode_header(data)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(LimitExceeded):
        segment.encode_batch([Record(1, 0, 0, b"t" * 65_536, b"", b"")], segment_id=ID, base=0, synced=0)
    with pytest.raises(LimitExceeded):
        segment.encode_batch([Record(1, 0, 0, b"", b"", bytes(17 << 20))], segment_id=ID, base=0, synced=0)
