"""Labelling jobs: image classification with one label a sample, from an input manifest to Ground Truth's output manifest.

The job is SageMaker's; who labels is not a workforce there but whoever may call ListLabelTasks and SubmitLabel (a person at
a page, a script). A task may be answered again until its job is complete: the last answer counts. Not here: consensus of
several labellers, boxes, ranges.
"""

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from marram.core import arn, codec
from marram.core.codec import JsonObject
from marram.core.errors import AlreadyExists, Conflict, Invalid, LimitExceeded, NotFound, Unsupported
from marram.hub.objects.service import Objects
from marram.kit.clock import Clock
from marram.kit.db import Db, Tx
from marram.kit.log import logger
from marram.ml import access
from marram.ml.access import Access
from marram.ml.datasets import manifest
from marram.ml.labelling import store

log = logger(__name__)

MAX_TASKS: Final = 10_000
MAX_CLASSES: Final = 100
FINAL: Final = frozenset({"Completed", "Failed", "Stopped"})
HONOURED: Final = frozenset(
    {"LabelingJobName", "LabelAttributeName", "InputConfig", "OutputConfig", "RoleArn", "LabelCategoryConfigS3Uri",
     "HumanTaskConfig", "Tags"}
)  # fmt: skip
_ATTRIBUTE: Final = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,126}")


class Labelling:
    def __init__(
        self,
        db: Db,
        objects: Objects,
        clock: Clock,
        *,
        account: str,
        region: str,
        check_role: Callable[[str], None],
    ) -> None:
        """check_role: raises Invalid for a role that is not there or not for labelling."""
        self._db, self._objects, self._clock = db, objects, clock
        self._account, self._region = account, region
        self._check_role = check_role
        self._wake = asyncio.Event()
        self._changed = asyncio.Condition()

    def arn(self, name: str) -> str:
        return arn.build("sagemaker", self._region, self._account, f"labeling-job/{name}")

    async def create(self, request: Mapping[str, Any], caller: Access = access.HUB) -> str:
        """Raises Invalid, Unsupported (by name), NotFound, AlreadyExists, Denied for what `caller` may not. Returns the ARN.

        The samples themselves are not read here: whoever labels fetches them with rights of their own.
        """
        self._check(request)
        name = str(request["LabelingJobName"])
        source = request["InputConfig"]["DataSource"]["S3DataSource"]["ManifestS3Uri"]
        manifest.split_uri(source)
        caller.manifest(source)
        caller.write(_output(request))
        data = await self._objects.get(*manifest.split_uri(source), max_bytes=manifest.MAX_BYTES)
        manifest.parse(data, label_attribute=request["LabelAttributeName"], need_labels=False)
        lines = [line for line in data.splitlines() if line.strip()]
        if len(lines) > MAX_TASKS:
            raise LimitExceeded(f"a labelling job has at most {MAX_TASKS} samples", limit=MAX_TASKS)
        categories = await self._categories(request, caller)

        def work(tx: Tx) -> None:
            if store.load(tx, name) is not None:
                raise AlreadyExists(f"labelling job {name} exists: names are used once")
            document: JsonObject = {
                "request": dict(request),
                "status": "InProgress",
                "categories": list(categories),
                "reference": tx.new_id("labelling"),
                "createdMs": tx.now_ms,
                "changedMs": tx.now_ms,
            }
            store.insert(tx, name, document, lines)

        await self._db.write(work)
        return self.arn(name)

    async def describe(self, name: str) -> tuple[JsonObject, int, int]:
        """(document, tasks, labelled)."""

        def work(tx: Tx) -> tuple[JsonObject, int, int]:
            return _need(tx, name), *store.counts(tx, name)

        return await self._db.read(work)

    async def tasks(
        self, name: str, *, open_only: bool = True, after: int = -1, limit: int = 100
    ) -> tuple[list[str], list[store.Task]]:
        """(categories, tasks in order after number `after`)."""

        def work(tx: Tx) -> tuple[list[str], list[store.Task]]:
            document: Any = _need(tx, name)
            return list(document["categories"]), store.tasks(tx, name, open_only=open_only, after=after, limit=limit)

        return await self._db.read(work)

    async def submit(self, name: str, labels: Mapping[int, str], labeller: str) -> int:
        """Answer tasks; how many are still open. Raises Invalid for a label outside the categories, Conflict when finished.

        All or none of `labels` are taken.
        """

        def work(tx: Tx) -> int:
            document: Any = _need(tx, name)
            if document["status"] != "InProgress":
                raise Conflict(f"labelling job {name} is {document['status']}")
            for number, value in labels.items():
                if value not in document["categories"]:
                    raise Invalid(f"label {value!r} is not one of {', '.join(document['categories'])}")
                if not store.label(tx, name, number, value, labeller):
                    raise NotFound(f"labelling job {name} has no task {number}")
            total, done = store.counts(tx, name)
            if total == done:
                store.save(tx, name, {**document, "status": "Writing", "changedMs": tx.now_ms})
            return total - done

        left = await self._db.write(work)
        if left == 0:
            await self._write(name)
        return left

    async def finished(self, name: str) -> JsonObject:
        async with self._changed:
            while (document := (await self.describe(name))[0])["status"] not in FINAL:
                await self._changed.wait()
        return document

    async def recover(self) -> None:
        """At the start: jobs whose last answer was kept and whose output may not be there. Writing it again changes nothing."""
        for name in await self._db.read(lambda tx: store.with_status(tx, "Writing")):
            await self._write(name)

    async def _write(self, name: str) -> None:
        document: Any = (await self.describe(name))[0]
        request = document["request"]
        attribute = str(request["LabelAttributeName"])
        categories: list[str] = document["categories"]
        lines: list[bytes] = []
        _, all_tasks = await self.tasks(name, open_only=False, limit=MAX_TASKS)
        for task in all_tasks:
            label = str(task.label)
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S.000000", time.gmtime((task.labelled_ms or 0) / 1000))
            metadata: JsonObject = {
                "class-name": label,
                "confidence": 1.0,
                "type": "groundtruth/image-classification",
                "job-name": f"labeling-job/{name}",
                "human-annotated": "yes",
                "creation-date": stamp,
                "labeller": task.labeller,
            }
            lines.append(
                codec.dumps({**task.line, attribute: categories.index(label), f"{attribute}-metadata": metadata})
            )
        uri = _output(request)
        await self._objects.put(*manifest.split_uri(uri), b"\n".join(lines) + b"\n")

        def work(tx: Tx) -> None:
            now = _need(tx, name)
            store.save(tx, name, {**now, "status": "Completed", "output": uri, "changedMs": tx.now_ms})

        await self._db.write(work)
        log.info("labelling.completed", job=name, labels=len(lines))
        async with self._changed:
            self._changed.notify_all()

    async def _categories(self, request: Mapping[str, Any], caller: Access) -> list[str]:
        uri = request.get("LabelCategoryConfigS3Uri")
        if not uri:
            raise Invalid("LabelCategoryConfigS3Uri is needed: the labels to choose from")
        bucket, key = manifest.split_uri(uri)
        caller.read(uri)
        document = codec.loads_object(await self._objects.get(bucket, key, max_bytes=1 << 20))
        labels = document.get("labels")
        found: list[str] = []
        for entry in labels if isinstance(labels, list) else []:
            label = entry.get("label") if isinstance(entry, dict) else None
            if not isinstance(label, str) or not label or label in found:
                raise Invalid(f'{uri}: labels must be [{{"label": TEXT}}, ...], each once')
            found.append(label)
        if not 2 <= len(found) <= MAX_CLASSES:
            raise Invalid(f"{uri}: {len(found)} labels; 2 to {MAX_CLASSES} are possible")
        return found

    def _check(self, request: Mapping[str, Any]) -> None:
        for key, value in request.items():
            if key not in HONOURED and value:
                raise Unsupported(f"CreateLabelingJob with {key} is not supported")
        access.check_role(self._check_role, request)
        attribute = str(request["LabelAttributeName"])
        if not _ATTRIBUTE.fullmatch(attribute) or attribute.endswith(("-metadata", "-ref")):
            raise Invalid(f"LabelAttributeName {attribute!r} is not allowed")
        if "S3DataSource" not in request["InputConfig"]["DataSource"]:
            raise Unsupported("InputConfig.DataSource: S3DataSource only")
        manifest.split_uri(_output(request))


def _output(request: Mapping[str, Any]) -> str:
    base = str(request["OutputConfig"]["S3OutputPath"]).rstrip("/")
    return f"{base}/{request['LabelingJobName']}/manifests/output/output.manifest"


def _need(tx: Tx, name: str) -> JsonObject:
    found = store.load(tx, name)
    if found is None:
        raise NotFound(f"there is no labelling job {name[:80]!r}")
    return found
