"""Compilations: a queue that survives, one worker process, candidates and report in the object store and the database.

Also judges models on dataset splits for the promotion gate (`evaluate`), in the same worker. Models are loaded in that
process only: an ONNX file is somebody's input, and the hub process imports no engine.
"""

import asyncio
import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from marram.core import codec
from marram.core.codec import JsonObject, JsonValue
from marram.core.errors import Conflict, Invalid, MarramError, NotFound, Unavailable
from marram.hub.objects.service import Objects
from marram.kit import disk, pool
from marram.kit.db import Db, Tx
from marram.kit.log import logger
from marram.ml import access
from marram.ml.access import Access
from marram.ml.compilation import store
from marram.ml.datasets.manifest import Entry
from marram.ml.datasets.service import Datasets
from marram.ml.training.service import Training

log = logger(__name__)

BUCKET: Final = "marram-models"
TIMEOUT_S: Final = 600.0
ATTEMPTS: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """A model's file and how to feed it."""

    data: bytes
    labels: Sequence[str]
    input: JsonObject


class Compilation:
    def __init__(self, db: Db, objects: Objects, datasets: Datasets, training: Training, folder: Path) -> None:
        """`folder`: DIR/jobs; scratch."""
        self._db, self._objects, self._datasets, self._training = db, objects, datasets, training
        self._folder = folder / "compile"
        # One thread: equal input gives equal files, and a compilation leaves the other core to the hub.
        self._worker = pool.Worker(
            "compile",
            pool.python_module("marram.ml.compilation.work"),
            env={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            limits=pool.Limits(nice=5),
        )
        self._wake = asyncio.Event()
        self._changed = asyncio.Condition()

    async def create(self, training_job: str, dataset: str, split: str, caller: Access = access.HUB) -> JsonObject:
        """Queue a compilation of a completed job's model, judged on a split. Raises NotFound, Conflict, Denied."""
        caller.dataset(dataset)
        described = await self._training.describe(training_job)
        if described["status"] != "Completed":
            raise Conflict(f"training job {training_job} is {described['status']}: it has no model")
        caller.read(str(described["model"]))
        await self._datasets.entries(dataset, split)

        def work(tx: Tx) -> JsonObject:
            document: JsonObject = {
                "compilationId": tx.new_id("compilation"),
                "status": "InProgress",
                "trainingJobName": training_job,
                "datasetId": dataset,
                "split": split,
                "attempts": 0,
                "createdMs": tx.now_ms,
            }
            store.insert(tx, str(document["compilationId"]), document)
            return document

        document = await self._db.write(work)
        self._wake.set()
        return document

    async def describe(self, id: str) -> JsonObject:
        found = await self._db.read(lambda tx: store.load(tx, id))
        if found is None:
            raise NotFound(f"there is no compilation {id[:80]!r}")
        return found

    async def finished(self, id: str) -> JsonObject:
        async with self._changed:
            while (document := await self.describe(id))["status"] == "InProgress":
                await self._changed.wait()
        return document

    async def graph(self, id: str) -> Graph:
        """The winner of a finished compilation. Raises Conflict while there is none."""
        document: Any = await self.describe(id)
        if document["status"] != "Completed":
            raise Conflict(f"compilation {id} is {document['status']}: it has no winner")
        data = await self._objects.get(BUCKET, f"graphs/{document['graphSha256']}.onnx")
        return Graph(data=data, labels=document["labels"], input=document["input"])

    async def evaluate(self, graphs: Sequence[Graph], dataset: str, split: str) -> JsonObject:
        """Figures of one or two models on a split; of two, also the lead of the first with its interval."""
        entries = await self._datasets.entries(dataset, split)
        await asyncio.to_thread(disk.make_dirs, self._folder)
        with tempfile.TemporaryDirectory(dir=self._folder) as scratch:
            folder = Path(scratch)
            models: list[JsonValue] = []
            for at, graph in enumerate(graphs):
                path = folder / f"{at}.onnx"
                await asyncio.to_thread(path.write_bytes, graph.data)
                models.append({"graph": str(path), "labels": list(graph.labels), "input": graph.input})
            params: JsonObject = {"models": models, "samples": await self._stage(entries, folder / "samples")}
            return _object(await self._worker.call("evaluate", params, TIMEOUT_S))

    async def run(self) -> None:
        """Work off the queue until cancelled."""
        while True:
            self._wake.clear()
            for id in await self._db.read(store.open_ids):
                await self._one(id)
            await self._wake.wait()

    async def close(self) -> None:
        await self._worker.close()

    async def _one(self, id: str) -> None:
        document = await self.describe(id)
        attempts = int(str(document["attempts"])) + 1
        try:
            if attempts > ATTEMPTS:
                raise Unavailable(f"the compiler's process ended {ATTEMPTS} times")
            await self._save(id, {"attempts": attempts})
            fields = await self._compile(document)
            await self._save(id, {"status": "Completed", **fields})
        except Unavailable as exc:
            if attempts < ATTEMPTS:
                self._wake.set()
                return
            await self._save(id, {"status": "Failed", "failure": exc.message})
        except MarramError as exc:
            await self._save(id, {"status": "Failed", "failure": exc.message})
        log.info("compilation.ended", compilation=id)
        async with self._changed:
            self._changed.notify_all()

    async def _compile(self, document: JsonObject) -> JsonObject:
        files = await self._training.model(str(document["trainingJobName"]))
        if "model.onnx" not in files or "model.json" not in files:
            raise Invalid("the training job's model folder must hold model.onnx and model.json")
        described = codec.loads_object(files["model.json"], what="model.json")
        labels, shape = described.get("labels"), described.get("input")
        if not isinstance(labels, list) or not labels or not isinstance(shape, dict):
            raise Invalid("model.json must have labels (a list) and input (an object)")
        if not {"name", "height", "width", "channels"} <= set(shape):
            raise Invalid("model.json: input must have name, height, width and channels")
        entries = await self._datasets.entries(str(document["datasetId"]), str(document["split"]))
        await asyncio.to_thread(disk.make_dirs, self._folder)
        with tempfile.TemporaryDirectory(dir=self._folder) as scratch:
            folder = Path(scratch)
            await asyncio.to_thread((folder / "fp32.onnx").write_bytes, files["model.onnx"])
            params: JsonObject = {
                "graph": str(folder / "fp32.onnx"),
                "labels": labels,
                "input": shape,
                "samples": await self._stage(entries, folder / "samples"),
                "folder": scratch,
            }
            report = _object(await self._worker.call("compile", params, TIMEOUT_S))
            await self._objects.ensure_bucket(BUCKET)
            winner = await asyncio.to_thread((folder / f"{report['winner']}.onnx").read_bytes)
            digest = hashlib.sha256(winner).hexdigest()
            await self._objects.put(BUCKET, f"graphs/{digest}.onnx", winner)
        return {
            "report": report,
            "graphSha256": digest,
            "bytes": len(winner),
            "labels": labels,
            "input": shape,
            "task": described.get("task", ""),
            "calibration": described.get("calibration", {}),
            "baseline": described.get("baseline", {}),
            "modelSha256": hashlib.sha256(files["model.onnx"]).hexdigest(),
        }

    async def _stage(self, entries: Sequence[Entry], folder: Path) -> list[JsonValue]:
        paths = await self._datasets.stage(entries, folder)
        return [[str(path), str(entry.label)] for path, entry in zip(paths, entries, strict=True)]

    async def _save(self, id: str, fields: JsonObject) -> None:
        def work(tx: Tx) -> None:
            document = store.load(tx, id)
            assert document is not None
            store.save(tx, id, {**document, **fields, "changedMs": tx.now_ms})

        await self._db.write(work)


def _object(value: JsonValue) -> JsonObject:
    assert isinstance(value, dict)
    return value
