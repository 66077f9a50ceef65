import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from marram.core.errors import Corrupt, Invalid, LimitExceeded, NotFound
from marram.kit.blobs import KEPT_MS, KEPT_SHORT_MS, Blobs
from marram.kit.clock import FakeClock
from marram.kit.db import Db
from marram.kit.disk import DiskFull


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def db(tmp_path: Path, clock: FakeClock) -> Iterator[Db]:
    with Db.open(tmp_path / "hub.db", clock=clock) as opened:
        yield opened


@pytest.fixture
def blobs(tmp_path: Path, db: Db) -> Blobs:
    return Blobs(tmp_path / "blobs", db)


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def files(blobs: Blobs) -> list[Path]:
    return sorted(path for path in blobs.folder.rglob("*") if path.is_file())


async def test_bytes_come_back_under_their_digest(blobs: Blobs) -> None:
    digest = await blobs.put(b"hello")
    assert (digest.sha256, digest.size) == (hashlib.sha256(b"hello").hexdigest(), 5)
    assert blobs.path(digest).read_bytes() == b"hello"
    assert await blobs.put(chunks(b"he", b"l" * 1, b"lo")) == digest
    assert await blobs.check(digest) == digest
    big = await blobs.put(chunks(*[b"x" * 700_000] * 5))
    assert blobs.path(big).stat().st_size == big.size == 3_500_000
    assert len(files(blobs)) == 2


async def test_what_is_refused_leaves_nothing(blobs: Blobs, tmp_path: Path, db: Db) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"x"
        raise ConnectionResetError

    with pytest.raises(LimitExceeded):
        await blobs.put(chunks(b"12345", b"6"), limit=5)
    with pytest.raises(LimitExceeded):
        await blobs.put(b"123456", limit=5)
    with pytest.raises(Exception):  # noqa: B017 - whatever the peer's failure is
        await blobs.put(broken())
    with pytest.raises(DiskFull):
        await Blobs(tmp_path / "full", db, reserve_share=1.1).put(b"x")
    assert files(blobs) == []


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 64, "a" * 63, "a" * 64 + "\n", "a" * 62 + "/."])
def test_only_a_digest_becomes_a_path(blobs: Blobs, name: str) -> None:
    with pytest.raises(Invalid):
        blobs.path(name)


async def test_a_blob_goes_a_day_after_its_last_reference(blobs: Blobs, db: Db, clock: FakeClock) -> None:
    digest = await blobs.put(b"kept")
    await db.write(lambda tx: blobs.ref(tx, digest, "a"))
    await db.write(lambda tx: blobs.ref(tx, digest, "a"))
    await db.write(lambda tx: blobs.ref(tx, digest, "b"))
    clock.advance(KEPT_MS * 2)
    assert await blobs.collect() == 0
    await db.write(lambda tx: blobs.unref(tx, digest, "a"))
    await db.write(lambda tx: blobs.unref(tx, digest, "nobody"))
    await db.write(lambda tx: blobs.unref(tx, digest, "b"))
    assert await blobs.collect() == 0
    clock.advance(KEPT_MS - 1)
    assert await blobs.collect() == 0
    clock.advance(1)
    assert await blobs.collect() == 1
    assert files(blobs) == []
    with pytest.raises(NotFound):
        await db.write(lambda tx: blobs.ref(tx, digest, "c"))


async def test_an_upload_renews_a_blob_nobody_refers_to(blobs: Blobs, clock: FakeClock) -> None:
    digest = await blobs.put(b"x")
    clock.advance(KEPT_MS - 1)
    await blobs.put(b"x")
    clock.advance(KEPT_MS - 1)
    assert await blobs.collect() == 0
    assert blobs.path(digest).exists()


@pytest.mark.parametrize("deleted", [False, True])
async def test_a_dying_blob_cannot_be_referred_to_but_an_upload_brings_it_back(
    blobs: Blobs, db: Db, clock: FakeClock, deleted: bool
) -> None:
    digest = await blobs.put(b"x")
    await db.write(lambda tx: tx.execute("UPDATE blob SET dying = 1"))  # as after a crash between mark and deletion
    if deleted:
        blobs.path(digest).unlink()
    with pytest.raises(NotFound):
        await db.write(lambda tx: blobs.ref(tx, digest, "a"))
    await blobs.put(b"x")
    await db.write(lambda tx: blobs.ref(tx, digest, "a"))
    clock.advance(KEPT_MS * 2)
    await blobs.collect()
    assert blobs.path(digest).read_bytes() == b"x"


async def test_uploads_race_with_collection_and_never_lose_the_file(blobs: Blobs, db: Db, clock: FakeClock) -> None:
    for _ in range(30):
        digest = await blobs.put(b"contested")
        clock.advance(KEPT_MS)
        await asyncio.gather(blobs.collect(), blobs.put(b"contested"), blobs.collect())
        await db.write(lambda tx, digest=digest: blobs.ref(tx, digest, "a"))
        assert blobs.path(digest).read_bytes() == b"contested"
        await db.write(lambda tx, digest=digest: blobs.unref(tx, digest, "a"))


async def test_leftovers_of_a_crash_go(blobs: Blobs, db: Db, clock: FakeClock) -> None:
    stray = hashlib.sha256(b"stray").hexdigest()
    blobs.path(stray).parent.mkdir()
    blobs.path(stray).write_bytes(b"stray")
    (blobs.folder / "incoming" / "half").write_bytes(b"half")
    again = Blobs(blobs.folder, db)
    assert files(again) == [blobs.path(stray)]
    for _ in range(16):
        await again.collect()
    clock.advance(KEPT_MS)
    assert await again.collect() == 1
    assert files(again) == []


async def test_a_rotten_blob_is_named_and_healed_by_an_upload(blobs: Blobs) -> None:
    digest = await blobs.put(b"fresh")
    blobs.path(digest).write_bytes(b"fresj")
    with pytest.raises(Corrupt):
        await blobs.check(digest)
    await blobs.put(b"fresh")
    await blobs.check(digest)


async def test_near_the_reserve_a_minute_must_do(tmp_path: Path, db: Db, clock: FakeClock) -> None:
    blobs = Blobs(tmp_path / "short", db, reserve_share=0.0)
    digest = await blobs.put(b"made room for")
    blobs._reserve_share = 1.0  # from now on the disk counts as nearly full
    clock.advance(KEPT_SHORT_MS - 1)
    assert await blobs.collect() == 0
    clock.advance(2)
    assert await blobs.collect() == 1
    assert not blobs.path(digest.sha256).exists()
