"""Dataset versions: freeze a manifest and its bytes, hand them out by split.

A version's id is the SHA-256 of its canonical manifest, so that the same samples are the same version, whoever adds them. The
bytes are references to blobs the hub has: nothing is copied. Not here: training, labels (marram/ml/labelling).
"""

import asyncio
import hashlib
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from marram.core.codec import JsonObject, JsonValue
from marram.core.errors import Invalid, NotFound
from marram.hub.objects.service import Objects
from marram.kit.db import Db, Tx
from marram.ml import access
from marram.ml.access import Access
from marram.ml.datasets import manifest, store
from marram.ml.datasets.manifest import Entry

BUCKET: Final = "marram-datasets"
MAX_SAMPLE: Final = 8 << 20
TOGETHER: Final = 128
DEFAULT_SHARES: Final[Mapping[str, float]] = {"train": 0.8, "gate": 0.2}
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}")


class Datasets:
    def __init__(self, db: Db, objects: Objects) -> None:
        self._db, self._objects = db, objects

    async def create(
        self,
        name: str,
        manifest_uri: str,
        *,
        label_attribute: str = "label",
        shares: Mapping[str, float] = DEFAULT_SHARES,
        caller: Access = access.HUB,
    ) -> JsonObject:
        """Freeze the manifest at `manifest_uri`. Returns the version's document; the one that is there, if it is the same.

        Raises Invalid (line named), NotFound for a sample that is not there, Denied for what `caller` may not read.
        """
        if not _NAME.fullmatch(name):
            raise Invalid(f"dataset name {name!r}: letters, digits and dashes, at most 63")
        manifest.check_shares(shares)
        manifest.split_uri(manifest_uri)
        come_with_it = caller.manifest(manifest_uri)
        entries = await self.read(manifest_uri, label_attribute=label_attribute)
        if not come_with_it:
            await caller.samples(entry.uri for entry in entries)
        await self._objects.ensure_bucket(BUCKET)
        frozen: list[Entry] = []
        for at in range(0, len(entries), TOGETHER):  # many at once share a commit, and its fsync
            try:
                async with asyncio.TaskGroup() as copies:
                    waiting = [
                        copies.create_task(self._freeze(entry, name, shares), name="dataset-freeze")
                        for entry in entries[at : at + TOGETHER]
                    ]
            except ExceptionGroup as group:
                raise group.exceptions[0] from None  # the caller asked for one dataset and gets one reason
            frozen += [task.result() for task in waiting]
        body = manifest.write(frozen)
        id = hashlib.sha256(body).hexdigest()
        prefix = f"versions/{id}"
        splits: JsonObject = {}
        for split in sorted({entry.split for entry in frozen}):
            part = [entry for entry in frozen if entry.split == split]
            await self._objects.put(BUCKET, f"{prefix}/{split}.jsonl", manifest.write(part))
            classes: dict[str, JsonValue] = {}
            for entry in part:
                label = str(entry.label)
                classes[label] = int(str(classes.get(label, 0))) + 1
            splits[split] = {
                "samples": len(part),
                "uri": f"s3://{BUCKET}/{prefix}/{split}.jsonl",
                "classes": dict(sorted(classes.items())),
            }
        await self._objects.put(BUCKET, f"{prefix}/manifest.jsonl", body)

        def work(tx: Tx) -> JsonObject:
            known = store.load(tx, id)
            if known is not None:
                return known
            document: JsonObject = {
                "datasetId": id,
                "name": name,
                "source": manifest_uri,
                "manifestUri": f"s3://{BUCKET}/{prefix}/manifest.jsonl",
                "samples": len(frozen),
                "bytes": sum(entry.size for entry in frozen),
                "splits": splits,
                "createdMs": tx.now_ms,
            }
            store.insert(tx, id, name, document)
            return document

        return await self._db.write(work)

    async def _freeze(self, entry: Entry, name: str, shares: Mapping[str, float]) -> Entry:
        stored = await self._objects.stat(*manifest.split_uri(entry.uri))
        if stored.size > MAX_SAMPLE:
            raise Invalid(f"{entry.uri} has {stored.size} bytes; a sample has at most {MAX_SAMPLE}")
        key = f"samples/{stored.digest}"
        await self._objects.copy(stored, BUCKET, key)
        known = replace(entry, uri=f"s3://{BUCKET}/{key}", sha256=stored.digest, size=stored.size)
        return replace(known, split=manifest.place(known, shares, name))

    async def describe(self, id: str) -> JsonObject:
        found = await self._db.read(lambda tx: store.load(tx, id))
        if found is None:
            raise NotFound(f"there is no dataset version {id[:80]!r}")
        return found

    async def listing(self, name: str | None, limit: int) -> list[JsonObject]:
        """Newest first."""
        return await self._db.read(lambda tx: store.listing(tx, name, limit))

    async def entries(self, id: str, split: str) -> list[Entry]:
        """The samples of one split. Raises NotFound naming the splits there are."""
        document = await self.describe(id)
        splits = document["splits"]
        assert isinstance(splits, dict)
        if split not in splits:
            raise NotFound(f"dataset version {id} has no split {split!r}; it has {', '.join(splits)}")
        return await self.read(f"s3://{BUCKET}/versions/{id}/{split}.jsonl")

    async def read(self, uri: str, *, label_attribute: str = "label", need_labels: bool = True) -> list[Entry]:
        """The entries of any manifest in the object store."""
        data = await self._objects.get(*manifest.split_uri(uri), max_bytes=manifest.MAX_BYTES)
        return manifest.parse(data, label_attribute=label_attribute, need_labels=need_labels)

    async def stage(self, entries: Sequence[Entry], folder: Path) -> list[Path]:
        """Lay the samples' bytes into `folder`, one file each, as 00000.bin, ...; for a worker process to read."""
        sources = [self._objects.path(await self._objects.stat(*manifest.split_uri(entry.uri))) for entry in entries]

        def copy() -> list[Path]:
            folder.mkdir(parents=True, exist_ok=True)
            paths = [folder / f"{at:05d}.bin" for at in range(len(sources))]
            for source, target in zip(sources, paths, strict=True):
                shutil.copyfile(source, target)  # scratch data of a job that restarts from nothing: no fsync
            return paths

        return await asyncio.to_thread(copy)
