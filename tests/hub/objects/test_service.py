"""Objects over the real database and blob store: what is visible when, listings against a plain model, what is kept."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from marram.core import sigv4
from marram.core.errors import Conflict, Invalid, LimitExceeded, NotFound, VersionConflict
from marram.hub.objects import service, store
from marram.hub.objects.service import Objects
from marram.kit.blobs import Blobs
from marram.kit.clock import FakeClock
from marram.kit.db import Db, Migrations

DAY_MS = 24 * 3600 * 1000


class Signer:
    def credentials(self) -> sigv4.Credentials:
        return sigv4.Credentials("AK", "secret")


class Made:
    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock()
        self.db = Db.open(
            folder / "hub.db", clock=self.clock, migrations=[Migrations(slice="objects", package="marram.hub.objects")]
        )
        self.blobs = Blobs(folder / "blobs", self.db)
        self.objects = Objects(
            self.db, self.blobs, self.clock, region="local-1", endpoint=lambda: "http://127.0.0.1:1", signer=Signer(),
        )  # fmt: skip

    async def collected(self) -> int:
        """Blobs that go when a day has passed."""
        self.clock.advance(DAY_MS + 1000)
        await self.blobs.collect()
        return await self.blobs.collect() + 0


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Made]:
    hub = Made(tmp_path)
    await hub.objects.create_bucket("bucket")
    yield hub
    hub.db.close()


async def broken() -> AsyncIterator[bytes]:
    yield b"new bytes"
    raise Invalid("the body did not agree with its hash", kind="digest")


async def test_a_body_that_fails_its_check_changes_nothing(made: Made) -> None:
    await made.objects.put("bucket", "k", b"old")
    with pytest.raises(Invalid):
        await made.objects.put("bucket", "k", broken())
    with pytest.raises(Invalid):
        await made.objects.put("bucket", "other", broken())
    assert await made.objects.get("bucket", "k") == b"old"
    with pytest.raises(NotFound):
        await made.objects.stat("bucket", "other")


async def test_a_reader_keeps_the_bytes_it_began_with(made: Made) -> None:
    old = await made.objects.put("bucket", "k", b"a" * 600_000)
    stream = await made.objects.open(old)
    await made.objects.put("bucket", "k", b"b")
    await made.objects.delete("bucket", ["k"])
    await made.collected()
    assert b"".join([piece async for piece in stream.chunks]) == b"a" * 600_000


async def test_bytes_stay_while_an_object_names_them_and_go_when_none_does(made: Made) -> None:
    first = await made.objects.put("bucket", "a", b"shared")
    await made.objects.copy(first, "bucket", "b")
    path = made.objects.path(first)
    await made.objects.delete("bucket", ["a"])
    await made.collected()
    assert path.exists() and await made.objects.get("bucket", "b") == b"shared"
    await made.objects.put("bucket", "b", b"other")
    await made.collected()
    assert not path.exists()
    assert await made.objects.get("bucket", "b") == b"other"


async def test_a_write_may_depend_on_what_is_there(made: Made) -> None:
    def must_be_new(before: store.Stored | None) -> None:
        if before is not None:
            raise VersionConflict("exists")

    await made.objects.put("bucket", "k", b"first", check=must_be_new)
    with pytest.raises(VersionConflict):
        await made.objects.put("bucket", "k", b"second", check=must_be_new)
    assert await made.objects.get("bucket", "k") == b"first"


async def test_an_upload_that_nobody_finishes_is_dropped_after_a_day(made: Made) -> None:
    upload = await made.objects.create_upload("bucket", "k", {})
    part = await made.objects.put_part(upload, 1, b"x" * 10)
    made.clock.advance(DAY_MS - 1000)
    assert await made.objects.expire_uploads() == 0
    made.clock.advance(2000)
    assert await made.objects.expire_uploads() == 1
    with pytest.raises(NotFound):
        await made.objects.upload(upload.id, "bucket", "k")
    await made.collected()
    assert not made.blobs.path(part.digest).exists()


async def test_an_upload_belongs_to_its_key(made: Made) -> None:
    upload = await made.objects.create_upload("bucket", "k", {})
    with pytest.raises(NotFound):
        await made.objects.upload(upload.id, "bucket", "other")
    for number in (0, 10_001):
        with pytest.raises(Invalid):
            await made.objects.put_part(upload, number, b"")


async def test_a_completed_upload_is_one_object(made: Made) -> None:
    upload = await made.objects.create_upload("bucket", "k", {"ContentType": "a/b"})
    await made.objects.put_part(upload, 1, b"replaced")
    parts = [await made.objects.put_part(upload, 1, b"a" * (5 << 20)), await made.objects.put_part(upload, 7, b"b")]
    done = await made.objects.complete(upload, [(part.number, f'"{part.etag}"') for part in parts])
    assert done.headers == {"ContentType": "a/b"} and done.size == (5 << 20) + 1
    assert made.objects.path(done).read_bytes() == b"a" * (5 << 20) + b"b"
    with pytest.raises(NotFound):
        await made.objects.complete(upload, [(1, parts[0].etag)])


async def test_small_parts_and_strangers_are_refused(made: Made) -> None:
    upload = await made.objects.create_upload("bucket", "k", {})
    a, b = await made.objects.put_part(upload, 1, b"a"), await made.objects.put_part(upload, 2, b"b")
    for wanted, kind in (
        ([(1, a.etag), (2, b.etag)], "part_size"), ([(2, b.etag), (1, a.etag)], "part_order"), ([(3, a.etag)], "part"),
        ([(1, b.etag)], "part"), ([], "malformed_xml"),
    ):  # fmt: skip
        with pytest.raises(Invalid) as caught:
            await made.objects.complete(upload, wanted)
        assert caught.value.data["kind"] == kind


async def test_a_bucket_with_objects_stays(made: Made) -> None:
    await made.objects.put("bucket", "k", b"")
    with pytest.raises(Conflict):
        await made.objects.delete_bucket("bucket")
    await made.objects.delete("bucket", ["k"])
    await made.objects.delete_bucket("bucket")
    with pytest.raises(NotFound):
        await made.objects.put("bucket", "k", b"")


async def test_get_has_a_limit(made: Made) -> None:
    await made.objects.put("bucket", "k", b"12345")
    with pytest.raises(LimitExceeded):
        await made.objects.get("bucket", "k", max_bytes=4)


@pytest.mark.parametrize(
    "name",
    ["", "ab", "A-b", "a..b", "-ab", "ab-", "1.2.3.4", "a" * 64, "a_b", "xn--a", "marram-x", "a/b", "ä-b", "../x"],
)
def test_bucket_names_that_are_refused(name: str) -> None:
    with pytest.raises(Invalid):
        service.check_bucket(name)


def model(keys: list[str], prefix: str, delimiter: str) -> tuple[list[str], list[str]]:
    """What S3 says of a listing, in the plainest form."""
    objects, prefixes = [], []
    for key in sorted(keys, key=str.encode):
        if key.startswith(prefix):
            at = key.find(delimiter, len(prefix)) if delimiter else -1
            if at < 0:
                objects.append(key)
            elif key[: at + len(delimiter)] not in prefixes:
                prefixes.append(key[: at + len(delimiter)])
    return objects, prefixes


texts = st.text(alphabet="ab/-é\U0001f600", max_size=6)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    keys=st.sets(texts.filter(bool), max_size=12),
    prefix=texts,
    delimiter=st.sampled_from(["", "/", "a", "--"]),
    size=st.integers(1, 4),
)
def test_pages_together_are_the_listing(
    tmp_path_factory: pytest.TempPathFactory, keys: set[str], prefix: str, delimiter: str, size: int
) -> None:
    db = Db.open(
        tmp_path_factory.mktemp("list") / "hub.db",
        clock=FakeClock(),
        migrations=[Migrations(slice="objects", package="marram.hub.objects")],
    )
    try:
        for key in keys:
            stored = store.Stored(bucket="b", key=key, id=key, digest="0" * 64, size=0, etag="e")
            db.write_sync(lambda tx, stored=stored: store.save(tx, stored))
        objects: list[str] = []
        prefixes: list[str] = []
        start, pages = "", 0
        while True:
            page = db.read_now(lambda tx, start=start: service._page(tx, "b", prefix, delimiter, start, size))
            assert len(page.objects) + len(page.prefixes) <= size
            objects += [item.key for item in page.objects]
            prefixes += page.prefixes
            pages += 1
            assert pages <= len(keys) + 1
            if page.last is None:
                break
            start = page.last
        assert (objects, prefixes) == model(list(keys), prefix, delimiter)
    finally:
        db.close()
