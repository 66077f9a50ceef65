"""Buckets and objects: what other slices call, and what S3's operations (api.py) are made of.

An object is visible once its bytes are whole, checked and durable, and its row has committed; a reader that has begun keeps
the bytes it began with. Not here: signatures and checksums of requests (hub/border), files (kit/blobs).
"""

import asyncio
import hashlib
import itertools
import os
import re
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Final, Protocol
from urllib.parse import quote

from marram.core import sigv4
from marram.core.errors import AlreadyExists, Conflict, Corrupt, Invalid, LimitExceeded, NotFound
from marram.hub.objects import store
from marram.hub.objects.store import Part, Stored, Upload
from marram.hub.slice import Stream
from marram.kit.blobs import Blobs
from marram.kit.clock import Clock
from marram.kit.db import Db, Tx

MAX_OBJECT: Final = 5 << 40
MAX_PART: Final = 5 << 30
MIN_PART: Final = 5 << 20
MAX_PARTS: Final = 10_000
MAX_KEY_BYTES: Final = 1024
MAX_METADATA_BYTES: Final = 2048
UPLOAD_LIFE_MS: Final = 24 * 3600 * 1000
_PIECE: Final = 256 << 10
_DELETES_A_TX: Final = 100
_BUCKET = re.compile(r"[a-z0-9](?:[a-z0-9.-]{1,61})[a-z0-9]")
_ADDRESS = re.compile(r"\d+\.\d+\.\d+\.\d+")

Source = bytes | AsyncIterator[bytes]
Check = Callable[["Stored | None"], None]


class Signer(Protocol):
    """Who signs the URLs that the hub hands out; filled by the composition root."""

    def credentials(self) -> sigv4.Credentials: ...


@dataclass(frozen=True, slots=True)
class Listed:
    """One page of a listing: objects and common prefixes together count toward the limit."""

    objects: list[Stored]
    prefixes: list[str]
    last: str | None  # where the next page goes on; None at the end


class Objects:
    def __init__(
        self,
        db: Db,
        blobs: Blobs,
        clock: Clock,
        *,
        region: str,
        endpoint: Callable[[], str],
        signer: Signer,
    ) -> None:
        """endpoint: the URL of the API that presigned URLs name, known once the listeners are up."""
        self._db = db
        self._blobs = blobs
        self._clock = clock
        self._region = region
        self._endpoint = endpoint
        self._signer = signer

    # Buckets.

    async def create_bucket(self, name: str, *, internal: bool = False) -> None:
        """Internal buckets belong to slices: their names begin with "marram-" and users cannot make or list them."""
        if not internal:
            check_bucket(name)

        def work(tx: Tx) -> None:
            if store.bucket_exists(tx, name):
                raise AlreadyExists(f"the bucket {name} exists already and is yours")
            store.add_bucket(tx, name, internal=internal)

        await self._db.write(work)

    async def ensure_bucket(self, name: str) -> None:
        """An internal bucket, made when it is not there yet."""

        def work(tx: Tx) -> None:
            if not store.bucket_exists(tx, name):
                store.add_bucket(tx, name, internal=True)

        await self._db.write(work)

    async def delete_bucket(self, name: str) -> None:
        def work(tx: Tx) -> None:
            _need_bucket(tx, name)
            if not store.is_empty(tx, name):
                raise Conflict(f"the bucket {name} is not empty: delete its objects first", kind="bucket_not_empty")
            for upload in store.uploads(tx, name, 1000):
                self._drop_upload(tx, upload.id)
            store.delete_bucket(tx, name)

        await self._db.write(work)

    async def buckets(self) -> list[tuple[str, int]]:
        return await self._db.read(store.buckets)

    async def need_bucket(self, name: str) -> None:
        """Raises NotFound (kind "bucket")."""
        await self._db.read(lambda tx: _need_bucket(tx, name))

    # Objects.

    async def put(
        self,
        bucket: str,
        key: str,
        source: Source,
        *,
        headers: Mapping[str, object] | None = None,
        check: Check | None = None,
    ) -> Stored:
        """Store an object; one of that key is replaced. `check` sees the object that is there and may refuse (raise).

        An iterator that raises leaves everything as it was. Raises NotFound (kind "bucket"), Invalid for a key that S3 has not.
        """
        check_key(key)
        await self.need_bucket(bucket)
        digest, size, etag = await self._store(source, MAX_OBJECT)

        def work(tx: Tx) -> Stored:
            _need_bucket(tx, bucket)
            stored = Stored(
                bucket=bucket, key=key, id=tx.new_id("object"), digest=digest, size=size, etag=etag, headers=headers or {},
                modified_ms=tx.now_ms,
            )  # fmt: skip
            self._replace(tx, stored, check)
            return stored

        return await self._db.write(work)

    async def _store(self, source: Source, limit: int) -> tuple[str, int, str]:
        """(digest, size, MD5 in hex) of what is in the blob store afterwards, not yet referenced."""
        md5 = hashlib.md5(usedforsecurity=False)
        if isinstance(source, bytes):
            await asyncio.to_thread(md5.update, source) if len(source) > _PIECE else md5.update(source)
            made = await self._blobs.put(source)
        else:
            made = await self._blobs.put(_counted(source, md5, limit))
        return made.sha256, made.size, md5.hexdigest()

    def _replace(self, tx: Tx, stored: Stored, check: Check | None) -> None:
        before = store.load(tx, stored.bucket, stored.key)
        if check is not None:
            check(before)
        self._blobs.ref(tx, stored.digest, _owner(stored.id))
        store.save(tx, stored)
        if before is not None:
            self._blobs.unref(tx, before.digest, _owner(before.id))

    async def stat(self, bucket: str, key: str) -> Stored:
        """Raises NotFound: kind "bucket" or none, for the key."""

        def work(tx: Tx) -> Stored:
            found = store.load(tx, bucket, key)
            if found is None:
                _need_bucket(tx, bucket)
                raise NotFound(f"The specified key does not exist: {bucket}/{key[:200]}")
            return found

        return await self._db.read(work)

    async def get(self, bucket: str, key: str, *, max_bytes: int = 64 << 20) -> bytes:
        """A small object whole. Raises NotFound, LimitExceeded."""
        found = await self.stat(bucket, key)
        if found.size > max_bytes:
            raise LimitExceeded(
                f"{bucket}/{key} has {found.size} bytes, over the limit of {max_bytes}", limit=max_bytes
            )
        stream = await self.open(found)
        return b"".join([piece async for piece in stream.chunks])

    async def open(self, stored: Stored, start: int = 0, end: int | None = None) -> Stream:
        """Bytes `start` to `end` (exclusive) of an object. The file is open when this returns: a delete cannot take it away."""
        stop = stored.size if end is None else end
        try:
            file = await asyncio.to_thread(self.path(stored).open, "rb")
        except OSError as error:
            raise Corrupt(f"the bytes of {stored.bucket}/{stored.key} are not in the blob store") from error
        if os.fstat(file.fileno()).st_size != stored.size:
            file.close()
            raise Corrupt(f"the bytes of {stored.bucket}/{stored.key} in the blob store are not {stored.size}")
        return Stream(length=stop - start, chunks=_read(file, start, stop))

    def path(self, stored: Stored) -> Path:
        """The file that holds the object's bytes, for workers; read only, good while the object exists."""
        return self._blobs.path(stored.digest)

    async def copy(
        self,
        source: Stored,
        bucket: str,
        key: str,
        *,
        headers: Mapping[str, object] | None = None,
        check: Check | None = None,
    ) -> Stored:
        """No bytes move. `headers` None keeps the source's."""
        check_key(key)

        def work(tx: Tx) -> Stored:
            _need_bucket(tx, bucket)
            now = store.load(tx, source.bucket, source.key)
            if now is None or now.id != source.id:
                raise NotFound(f"The source of the copy is gone: {source.bucket}/{source.key[:200]}")
            made = replace(
                source, bucket=bucket, key=key, id=tx.new_id("object"), modified_ms=tx.now_ms,
                headers=source.headers if headers is None else headers,
            )  # fmt: skip
            self._replace(tx, made, check)
            return made

        return await self._db.write(work)

    async def delete(self, bucket: str, keys: Sequence[str]) -> None:
        """Keys that are not there are no error."""
        for at in range(0, max(len(keys), 1), _DELETES_A_TX):
            batch = keys[at : at + _DELETES_A_TX]
            await self._db.write(lambda tx, batch=batch: self._delete_all(tx, bucket, batch))  # type: ignore[misc]

    def _delete_all(self, tx: Tx, bucket: str, keys: Sequence[str]) -> None:
        _need_bucket(tx, bucket)
        for key in keys:
            self._delete(tx, bucket, key)

    def _delete(self, tx: Tx, bucket: str, key: str) -> None:
        found = store.load(tx, bucket, key)
        if found is not None:
            self._blobs.unref(tx, found.digest, _owner(found.id))
            store.delete(tx, bucket, key)

    async def listing(
        self, bucket: str, *, prefix: str = "", delimiter: str = "", start_after: str = "", limit: int = 1000
    ) -> Listed:
        """Keys above `start_after`, at most `limit` of objects and common prefixes together, in the order of their bytes.

        `start_after` may be a common prefix that an earlier page returned: all below it is skipped.
        """

        def work(tx: Tx) -> Listed:
            _need_bucket(tx, bucket)
            return _page(tx, bucket, prefix, delimiter, start_after, limit)

        return await self._db.read(work)

    def presign(
        self, bucket: str, key: str, expires_s: int, *, method: str = "GET", signer: Signer | None = None
    ) -> str:
        """A URL that whoever has it may use until it expires. 1 s to 7 days. signer: another than the hub's own."""
        endpoint = self._endpoint().rstrip("/")
        host = endpoint.partition("://")[2]
        path = f"/{quote(bucket, safe='')}/{quote(key, safe='/-_.~')}"
        query = sigv4.presign(
            (signer or self._signer).credentials(), method=method, host=host, path=path, region=self._region,
            expires_s=expires_s, now_ms=self._clock.wall_ms(),
        )  # fmt: skip
        return f"{endpoint}{path}?{query}"

    # Uploads in parts.

    async def create_upload(self, bucket: str, key: str, headers: Mapping[str, object]) -> Upload:
        check_key(key)

        def work(tx: Tx) -> Upload:
            _need_bucket(tx, bucket)
            made = Upload(id=tx.new_id("upload"), bucket=bucket, key=key, headers=headers, created_ms=tx.now_ms)
            store.add_upload(tx, made)
            return made

        return await self._db.write(work)

    async def upload(self, upload_id: str, bucket: str, key: str) -> Upload:
        """Raises NotFound (kind "upload") also when it is another object's."""
        return await self._db.read(lambda tx: _need_upload(tx, upload_id, bucket, key))

    async def put_part(self, upload: Upload, number: int, source: Source) -> Part:
        if not 1 <= number <= MAX_PARTS:
            raise Invalid(f"the part number must be 1 to {MAX_PARTS}, not {number}")
        digest, size, etag = await self._store(source, MAX_PART)

        def work(tx: Tx) -> Part:
            _need_upload(tx, upload.id, upload.bucket, upload.key)
            before = store.part(tx, upload.id, number)
            made = Part(number=number, id=tx.new_id("part"), digest=digest, size=size, etag=etag, modified_ms=tx.now_ms)
            self._blobs.ref(tx, digest, _owner(made.id))
            store.save_part(tx, upload.id, made)
            if before is not None:
                self._blobs.unref(tx, before.digest, _owner(before.id))
            return made

        return await self._db.write(work)

    async def parts(self, upload: Upload, after_number: int, limit: int) -> list[Part]:
        return await self._db.read(lambda tx: store.parts(tx, upload.id, after_number, limit))

    async def uploads(self, bucket: str, limit: int) -> list[Upload]:
        def work(tx: Tx) -> list[Upload]:
            _need_bucket(tx, bucket)
            return store.uploads(tx, bucket, limit)

        return await self._db.read(work)

    async def complete(
        self, upload: Upload, wanted: Sequence[tuple[int, str]], *, check: Check | None = None
    ) -> Stored:
        """wanted: (part number, ETag). The object appears whole or not at all. Raises Invalid (kinds part, part_order, part_size)."""

        def present(tx: Tx) -> dict[int, Part]:
            _need_upload(tx, upload.id, upload.bucket, upload.key)
            return {part.number: part for part in store.parts(tx, upload.id)}

        have = await self._db.read(present)
        chosen = _chosen(have, wanted)
        made = await self._blobs.put(self._joined(chosen))
        if made.size != sum(part.size for part in chosen):
            raise Corrupt(f"the parts of upload {upload.id} do not have their stated sizes")
        etag = _etag(chosen)

        def work(tx: Tx) -> Stored:
            _need_upload(tx, upload.id, upload.bucket, upload.key)
            _need_bucket(tx, upload.bucket)
            if [store.part(tx, upload.id, part.number) for part in chosen] != chosen:
                raise Conflict("a part was replaced while the upload was being completed: complete it again")
            stored = Stored(
                bucket=upload.bucket, key=upload.key, id=tx.new_id("object"), digest=made.sha256, size=made.size, etag=etag,
                headers=upload.headers, modified_ms=tx.now_ms,
            )  # fmt: skip
            self._replace(tx, stored, check)
            self._drop_upload(tx, upload.id)
            return stored

        return await self._db.write(work)

    async def _joined(self, parts: Iterable[Part]) -> AsyncIterator[bytes]:
        for part in parts:
            file = await asyncio.to_thread(self._blobs.path(part.digest).open, "rb")
            async for piece in _read(file, 0, part.size):
                yield piece

    async def abort(self, upload: Upload) -> None:
        def work(tx: Tx) -> None:
            _need_upload(tx, upload.id, upload.bucket, upload.key)
            self._drop_upload(tx, upload.id)

        await self._db.write(work)

    async def expire_uploads(self) -> int:
        """Drops uploads begun over 24 h ago; their parts would never be seen and count to the disk. Returns how many."""
        before_ms = self._clock.wall_ms() - UPLOAD_LIFE_MS
        old = await self._db.read(lambda tx: store.uploads_before(tx, before_ms, 100))
        for upload_id in old:
            await self._db.write(lambda tx, upload_id=upload_id: self._drop_upload(tx, upload_id))  # type: ignore[misc]
        return len(old)

    def _drop_upload(self, tx: Tx, upload_id: str) -> None:
        for part in store.parts(tx, upload_id):
            self._blobs.unref(tx, part.digest, _owner(part.id))
        store.delete_upload(tx, upload_id)


def check_bucket(name: str) -> None:
    """Raises Invalid (kind "bucket_name"). Source: S3 user guide, general purpose bucket naming rules."""
    if (
        _BUCKET.fullmatch(name) is None
        or ".." in name
        or _ADDRESS.fullmatch(name)
        or name.startswith(("xn--", "marram-"))
    ):
        raise Invalid(
            f"The specified bucket is not valid: {name[:80]!r}. 3 to 63 of a-z, 0-9, '-' and '.', beginning and ending with a"
            " letter or digit, no IP address, not beginning with xn-- or marram-",
            kind="bucket_name",
        )


def check_key(key: str) -> None:
    """Raises Invalid. Anything else is data: dots and slashes mean nothing here."""
    size = len(key.encode())
    if size > MAX_KEY_BYTES:
        raise Invalid(f"Your key is too long: {size} bytes, at most {MAX_KEY_BYTES}", kind="key_length")
    if not key or "\0" in key:
        raise Invalid("a key has at least one character and no NUL")


def _need_bucket(tx: Tx, name: str) -> None:
    if not store.bucket_exists(tx, name):
        raise NotFound(f"The specified bucket does not exist: {name[:80]}", kind="bucket")


def _need_upload(tx: Tx, upload_id: str, bucket: str, key: str) -> Upload:
    found = store.upload(tx, upload_id)
    if found is None or found.bucket != bucket or found.key != key:
        raise NotFound("The specified upload does not exist: it may have been completed or aborted.", kind="upload")
    return found


def _chosen(have: Mapping[int, Part], wanted: Sequence[tuple[int, str]]) -> list[Part]:
    if not wanted:
        raise Invalid("at least one part must be named", kind="malformed_xml")
    numbers = [number for number, _ in wanted]
    if any(later <= earlier for earlier, later in itertools.pairwise(numbers)):
        raise Invalid("The list of parts was not in ascending order.", kind="part_order")
    chosen: list[Part] = []
    for number, etag in wanted:
        part = have.get(number)
        if part is None or part.etag != etag.strip('"'):
            raise Invalid(f"Part {number} was not uploaded, or its ETag is another.", kind="part")
        chosen.append(part)
    for part in chosen[:-1]:
        if part.size < MIN_PART:
            raise Invalid(
                f"Part {part.number} has {part.size} bytes; all but the last need at least {MIN_PART}.",
                kind="part_size",
            )
    return chosen


def _etag(parts: Sequence[Part]) -> str:
    joined = hashlib.md5(b"".join(bytes.fromhex(part.etag) for part in parts), usedforsecurity=False)
    return f"{joined.hexdigest()}-{len(parts)}"


def _page(tx: Tx, bucket: str, prefix: str, delimiter: str, start_after: str, limit: int) -> Listed:
    objects: list[Stored] = []
    prefixes: list[str] = []
    last: str | None = None
    start, inclusive = start_after, False
    if start < prefix:
        start, inclusive = prefix, True
    elif delimiter and start.endswith(delimiter) and start.startswith(prefix) and start != prefix:
        cut = start.find(delimiter, len(prefix))
        if cut + len(delimiter) == len(start):  # an earlier page's common prefix
            end = store.end_of(start)
            if end is None:
                return Listed([], [], None)
            start, inclusive = end, True
    while True:
        room = limit - len(objects) - len(prefixes)
        found = store.after(tx, bucket, prefix, start, inclusive=inclusive, limit=room + 1)
        if room == 0:
            return Listed(objects, prefixes, last if found else None)
        common = None
        for item in found[:room] if not delimiter else found:
            at = item.key.find(delimiter, len(prefix)) if delimiter else -1
            if at >= 0:
                common = item.key[: at + len(delimiter)]
                break
            if len(objects) + len(prefixes) == limit:
                return Listed(objects, prefixes, last)
            objects.append(item)
            last = start = item.key
            inclusive = False
        if common is not None:
            if len(objects) + len(prefixes) == limit:
                return Listed(objects, prefixes, last)
            prefixes.append(common)
            last = common
            end = store.end_of(common)
            if end is None:
                return Listed(objects, prefixes, None)
            start, inclusive = end, True
        elif len(found) <= room:
            return Listed(objects, prefixes, None)


async def _counted(source: AsyncIterator[bytes], md5: sigv4.Checksum, limit: int) -> AsyncIterator[bytes]:
    size = 0
    async for piece in source:
        size += len(piece)
        if size > limit:
            raise LimitExceeded(f"the body is over the limit of {limit} bytes", limit=limit)
        if len(piece) > _PIECE:
            await asyncio.to_thread(md5.update, piece)
        else:
            md5.update(piece)
        yield piece


async def _read(file: BinaryIO, start: int, stop: int) -> AsyncIterator[bytes]:
    try:
        if start:
            file.seek(start)
        left = stop - start
        while left > 0:
            piece = await asyncio.to_thread(file.read, min(_PIECE, left))
            if not piece:
                raise Corrupt("an object's file is shorter than its size")
            left -= len(piece)
            yield piece
    finally:
        file.close()


def _owner(identity: str) -> str:
    return f"objects/{identity}"
