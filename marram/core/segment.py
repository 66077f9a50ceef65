"""The journal's format: segments of batches of records, and what a segment still holds after a crash or a bit flip. Pure.

Segment = header (64 bytes), then batches without gaps, then nothing or zeros. All integers little endian.
Header = magic 8s, version u16, size u16, flags u32, segment id u64, base offset u64, previous end u64, created i64 ms,
CRC-32 u32 of what precedes it, zeros.
Batch = magic 4s, body length u32, CRC-32 u32, count u32, base offset u64, synced u64, body. The checksum is seeded with the
segment id and the base offset, so that bytes of another file or another place never pass. `synced` says: when this batch was
written, all records below that offset were on the disk. Count 0 is a batch that only says so.
Record = kind u8, flags u8, topic length u16, meta length u32, payload length u32, time i64 ms, topic, meta, payload.

A batch is there whole or not at all. CRC-32 and not CRC-32C: the standard library has no other.
Not here: files, fsync, rotation (marram.kit.seglog); what kinds and meta mean (the slices that write them). Source: our choice.
"""

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from marram.core.errors import Corrupt, LimitExceeded, Unsupported

VERSION: Final = 1
HEADER_BYTES: Final = 64
SEGMENT_MAGIC: Final = b"MRMSEG\r\n"
BATCH_MAGIC: Final = b"\xb5mrB"
MAX_BATCH_BYTES: Final = 16 << 20

KIND_MESSAGE: Final = 1
KIND_POINT: Final = 2
KIND_SESSION: Final = 3
KIND_CHECKPOINT: Final = 4
KIND_DEAD: Final = 5

_HEADER: Final = struct.Struct("<8sHHIQQQq")
_CRC: Final = struct.Struct("<I")
_BATCH: Final = struct.Struct("<4sIIIQQ")
_COVERED: Final = struct.Struct(
    "<IIQQ"
)  # the fields of a batch header that its checksum covers: all but magic and itself
_SEED: Final = struct.Struct("<QQ")
_RECORD: Final = struct.Struct("<BBHIIq")
BATCH_BYTES: Final = _BATCH.size
RECORD_BYTES: Final = _RECORD.size

Buffer: TypeAlias = bytes | bytearray | memoryview


@dataclass(slots=True)
class Record:
    """One entry. Not frozen for speed: whoever hands it over never changes it again. `meta` is a compact JSON object."""

    kind: int
    flags: int
    time_ms: int
    topic: bytes
    meta: bytes
    payload: bytes


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a result came from: the `index`-th result of position `position` of `source`. Progress is the highest one."""

    source: str
    position: int
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """`previous_end`: the segment before ends there. It differs from `base` when the offsets between were void."""

    segment_id: int
    base: int
    previous_end: int
    created_ms: int


@dataclass(frozen=True, slots=True)
class Batch:
    """A good batch in a buffer: its bytes are `buffer[position:end]`, its offsets `base` up to `base + count`."""

    position: int
    end: int
    base: int
    count: int
    synced: int


@dataclass(frozen=True, slots=True)
class Gap:
    """Bytes that hold no good batch: offsets `first` up to `end` are lost (`end` None = nothing good follows)."""

    position: int
    first: int
    end: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """What the last segment is after a crash.

    keep_bytes: the file's length to cut it to; above it lies a torn tail. end: the next offset to hand out. damage: lost
    ranges below what was synced. whole: it may be appended to at `keep_bytes`, which is where offset `end` belongs.
    stated: the position in bytes up to which a batch in the file says that it was synced.
    """

    keep_bytes: int
    end: int
    damage: tuple[Gap, ...]
    whole: bool
    stated: int
    batches: tuple[Batch, ...]


def encode_header(header: Header) -> bytes:
    fields = _HEADER.pack(
        SEGMENT_MAGIC,
        VERSION,
        HEADER_BYTES,
        0,
        header.segment_id,
        header.base,
        header.previous_end,
        header.created_ms,
    )
    return (fields + _CRC.pack(zlib.crc32(fields))).ljust(HEADER_BYTES, b"\0")


def decode_header(data: Buffer) -> Header:
    """Raises Corrupt when it is damaged, Unsupported when a later Marram wrote it."""
    fields = bytes(data[: _HEADER.size])
    if len(data) < HEADER_BYTES or _CRC.unpack_from(data, _HEADER.size)[0] != zlib.crc32(fields):
        raise Corrupt("segment header damaged")
    magic, version, size, _, segment_id, base, previous_end, created_ms = _HEADER.unpack(fields)
    if magic != SEGMENT_MAGIC:
        raise Corrupt("not a segment")
    if version != VERSION or size != HEADER_BYTES:
        raise Unsupported(f"segment format {version}: a later Marram wrote it")
    return Header(segment_id=segment_id, base=base, previous_end=previous_end, created_ms=created_ms)


def encode_record(record: Record) -> bytes:
    """Its part of a body. Raises LimitExceeded when the topic is over 65,535 bytes or another field out of its range."""
    topic, meta, payload = record.topic, record.meta, record.payload
    try:
        head = _RECORD.pack(record.kind, record.flags, len(topic), len(meta), len(payload), record.time_ms)
    except struct.error as exc:
        raise LimitExceeded(f"a record does not fit the format: {exc}") from exc
    return head + topic + meta + payload


def encode_into(parts: list[bytes], records: Sequence[Record], last_ms: int) -> tuple[int, int]:
    """Add what the records are in a body to `parts`; times that go back are put right first, to `last_ms` or the one before.

    Returns (bytes, time of the last record). One loop and no copy: the journal's hot path. Raises as `encode_record`;
    `parts` is then of no use.
    """
    pack = _RECORD.pack
    nbytes = 0
    try:
        for record in records:
            time_ms = record.time_ms
            if time_ms < last_ms:
                record.time_ms = time_ms = last_ms
            last_ms = time_ms
            topic, meta, payload = record.topic, record.meta, record.payload
            topic_bytes, meta_bytes, payload_bytes = len(topic), len(meta), len(payload)
            head = pack(record.kind, record.flags, topic_bytes, meta_bytes, payload_bytes, time_ms)
            parts += (head, topic, meta, payload)
            nbytes += RECORD_BYTES + topic_bytes + meta_bytes + payload_bytes
    except struct.error as exc:
        raise LimitExceeded(f"a record does not fit the format: {exc}") from exc
    return nbytes, last_ms


def frame_batch(body: bytes, count: int, *, segment_id: int, base: int, synced: int) -> bytes:
    """The batch of `count` records whose parts, joined, are `body`. Raises LimitExceeded over MAX_BATCH_BYTES."""
    if len(body) > MAX_BATCH_BYTES:
        raise LimitExceeded(f"a batch of {len(body)} bytes is over {MAX_BATCH_BYTES}", limit=MAX_BATCH_BYTES)
    crc = _checksum(segment_id, len(body), count, base, synced, body)
    return _BATCH.pack(BATCH_MAGIC, len(body), crc, count, base, synced) + body


def encode_batch(records: Sequence[Record], *, segment_id: int, base: int, synced: int) -> bytes:
    body = b"".join(map(encode_record, records))
    return frame_batch(body, len(records), segment_id=segment_id, base=base, synced=synced)


def batch_at(data: Buffer, position: int, segment_id: int) -> Batch | None:
    """The good batch that starts at `position`, or None."""
    body = position + BATCH_BYTES
    if body > len(data):
        return None
    magic, length, crc, count, base, synced = _BATCH.unpack_from(data, position)
    end = body + length
    if magic != BATCH_MAGIC or end > len(data):
        return None
    with memoryview(data) as view, view[body:end] as content:
        if _checksum(segment_id, length, count, base, synced, content) != crc:
            return None
    return Batch(position, end, base, count, synced)


def batch_length(data: Buffer, position: int) -> int | None:
    """How many bytes the batch at `position` claims to take, header included; None when no batch can start there.

    The claim is unchecked but bounded: a reader fetches so much and then asks `batch_at`.
    """
    if position + BATCH_BYTES > len(data):
        return None
    magic, length, *_ = _BATCH.unpack_from(data, position)
    if magic != BATCH_MAGIC or length > MAX_BATCH_BYTES:
        return None
    return BATCH_BYTES + int(length)


def decode_records(data: Buffer, batch: Batch) -> list[Record]:
    """The records of a batch that `batch_at` found good. Raises Corrupt when its lengths disagree: a writer's mistake."""
    records: list[Record] = []
    at = batch.position + BATCH_BYTES
    unpack = _RECORD.unpack_from
    with memoryview(data) as view:
        for _ in range(batch.count):
            if at + RECORD_BYTES > batch.end:
                raise Corrupt("a record runs over its batch")
            kind, flags, topic_length, meta_length, payload_length, time_ms = unpack(data, at)
            topic_at = at + RECORD_BYTES
            meta_at = topic_at + topic_length
            payload_at = meta_at + meta_length
            at = payload_at + payload_length
            if at > batch.end:
                raise Corrupt("a record runs over its batch")
            topic, meta, payload = (
                bytes(view[topic_at:meta_at]),
                bytes(view[meta_at:payload_at]),
                bytes(view[payload_at:at]),
            )
            records.append(Record(kind, flags, time_ms, topic, meta, payload))
    if at != batch.end:
        raise Corrupt("a batch is longer than its records")
    return records


def scan(data: Buffer, segment_id: int, base: int, position: int = HEADER_BYTES) -> Iterator[Batch | Gap]:
    """All that is in a segment: its good batches in order, and a Gap wherever one should be and none is.

    base: the offset that belongs at `position`. After a gap the reader looks for the magic again; the batches that follow
    count when they are good and do not go back. Ends silently where only zeros are left.
    """
    raw = bytes(data) if isinstance(data, memoryview) else data
    expected = base
    while position < len(raw):
        batch = batch_at(raw, position, segment_id)
        if batch is not None and batch.base == expected:
            yield batch
            position, expected = batch.end, batch.base + batch.count
            continue
        if not raw[position] and not raw[position:].strip(b"\0"):
            return
        found = _resynchronise(raw, position, segment_id, expected)
        yield Gap(position, expected, None if found is None else found.base)
        if found is None:
            return
        position, expected = found.position, found.base


def recover(data: Buffer, segment_id: int, base: int) -> Recovery:
    """Decide what the last segment of a log holds after a crash.

    A gap below the highest `synced` that any good batch states is damage: the records were on the disk once. The first gap at
    or above it is a torn tail, and void with all that follows, even batches that are whole: nobody was told of them.
    """
    found = list(scan(data, segment_id, base))
    synced = max([base, *(item.synced for item in found if isinstance(item, Batch))])
    batches: list[Batch] = []
    damage: list[Gap] = []
    keep, end, whole = HEADER_BYTES, base, True
    for item in found:
        if isinstance(item, Batch):
            batches.append(item)
            keep, end = item.end, item.base + item.count
        elif item.first >= synced:
            break
        elif item.end is None:
            damage.append(Gap(item.position, item.first, synced))
            end, whole = synced, False  # what is lost keeps its offsets; the next segment goes on above them
        else:
            damage.append(item)
    else:
        if end < synced:  # cut short at the edge of a batch: nothing bad to see, but not all that was synced
            damage.append(Gap(keep, end, synced))
            end, whole = synced, False
    stated = HEADER_BYTES
    for batch in batches:
        if batch.base + batch.count <= synced:
            stated = batch.end
    return Recovery(keep_bytes=keep, end=end, damage=tuple(damage), whole=whole, stated=stated, batches=tuple(batches))


def _resynchronise(data: bytes | bytearray, position: int, segment_id: int, expected: int) -> Batch | None:
    at = position
    while (at := data.find(BATCH_MAGIC, at + 1)) >= 0:
        batch = batch_at(data, at, segment_id)
        if batch is not None and batch.base >= expected:
            return batch
    return None


def _checksum(segment_id: int, length: int, count: int, base: int, synced: int, body: Buffer) -> int:
    seed = zlib.crc32(_SEED.pack(segment_id, base))
    return zlib.crc32(body, zlib.crc32(_COVERED.pack(length, count, base, synced), seed))
