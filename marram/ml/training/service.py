"""Training jobs: accepted into a queue that survives, run one at a time in worker processes, results in the object store.

A job found running at the start (the hub was killed) begins again from nothing, at most three times; a job's folder is
scratch and never read as a result. A program of somebody's (`marram/python`) runs in a sandbox (kit/sandbox.py) that shows
it the job's folder as /opt/ml and nothing else of the hub's; where there cannot be one, such a job is refused. Containers
and clusters will be other runners behind `_execute`.
"""

import asyncio
import gzip
import hashlib
import io
import os
import re
import signal
import sys
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from marram.core import arn, codec
from marram.core.codec import JsonObject, JsonValue
from marram.core.errors import AlreadyExists, Conflict, Invalid, LimitExceeded, MarramError, NotFound, Unsupported
from marram.hub.objects.service import Objects
from marram.kit import disk, process, sandbox
from marram.kit.clock import Clock
from marram.kit.db import Db, Tx
from marram.kit.log import logger
from marram.ml import access, tasks
from marram.ml.access import Access
from marram.ml.datasets import manifest
from marram.ml.datasets.service import Datasets
from marram.ml.tasks import _options as options
from marram.ml.training import contract, store

log = logger(__name__)

BUCKET: Final = "marram-training"  # inputs/SHA256: what a job was allowed to read, as it was then
IMAGE_PREFIX: Final = "marram/"
SCRIPT_IMAGE: Final = "marram/python"
INSIDE: Final = Path("/opt/ml")
TEMPORARY: Final = "/tmp"  # noqa: S108 - inside, the job's own
ATTEMPTS: Final = 3
STOP_GRACE_S: Final = 120.0
MAX_MODEL: Final = 1 << 30
MAX_CODE: Final = 64 << 20
MAX_LIST: Final = 64 << 20
LOG_BYTES: Final = 1 << 20
MAX_METRICS: Final = 1 << 20
# Sums in another order are other bytes: equal seeds must give equal models, on a machine of any size.
ONE_THREAD: Final[Mapping[str, str]] = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
FINAL: Final = frozenset({"Completed", "Failed", "Stopped"})
HONOURED: Final = frozenset(
    {"TrainingJobName", "HyperParameters", "AlgorithmSpecification", "RoleArn", "InputDataConfig", "OutputDataConfig",
     "ResourceConfig", "StoppingCondition", "Tags", "Environment"}
)  # fmt: skip
_METRIC: Final = re.compile(r"[A-Za-z0-9:_-]{1,255}")


class Training:
    def __init__(
        self,
        db: Db,
        objects: Objects,
        datasets: Datasets,
        folder: Path,
        clock: Clock,
        *,
        account: str,
        region: str,
        check_role: Callable[[str], None],
    ) -> None:
        """`folder`: DIR/jobs. check_role: raises Invalid for a role that is not there or not for training."""
        self._db, self._objects, self._datasets, self._clock = db, objects, datasets, clock
        self._folder = folder
        self._account, self._region = account, region
        self._check_role = check_role
        self._wake = asyncio.Event()
        self._changed = asyncio.Condition()
        self._running: tuple[str, process.Child | None] | None = None

    def arn(self, name: str) -> str:
        return arn.build("sagemaker", self._region, self._account, f"training-job/{name}")

    async def create(self, request: Mapping[str, Any], caller: Access = access.HUB) -> str:
        """Accept a job; its ARN. Raises Invalid, Unsupported (by name), NotFound for input that is not there, AlreadyExists,
        Denied for what `caller` may not read or write.

        The list of what a channel reads is kept as it is now: the rights are looked at once, and what comes later to a prefix
        or into a manifest was not part of the question.
        """
        self._check(request)
        name = str(request["TrainingJobName"])
        caller.write(_model_uri(request))
        if request["AlgorithmSpecification"]["TrainingImage"] == SCRIPT_IMAGE:
            caller.read(request["HyperParameters"]["sagemaker_submit_directory"])
            if lacks := await sandbox.missing():
                raise Unsupported(
                    f"TrainingImage {SCRIPT_IMAGE} needs namespaces, which this machine does not give: {lacks}"
                )
        await self._objects.ensure_bucket(BUCKET)
        inputs: JsonObject = {
            str(channel["ChannelName"]): await self._check_channel(channel, caller)
            for channel in request.get("InputDataConfig", [])
        }

        def work(tx: Tx) -> None:
            if store.load(tx, name) is not None:
                raise AlreadyExists(f"training job {name} exists: names are used once")
            document: JsonObject = {
                "request": dict(request),
                "status": "InProgress",
                "secondary": "Starting",
                "transitions": [["Starting", tx.now_ms, None, "Waiting for a worker"]],
                "inputs": inputs,
                "attempts": 0,
                "createdMs": tx.now_ms,
                "changedMs": tx.now_ms,
            }
            store.insert(tx, name, document)

        await self._db.write(work)
        self._wake.set()
        return self.arn(name)

    async def describe(self, name: str) -> JsonObject:
        found = await self._db.read(lambda tx: store.load(tx, name))
        if found is None:
            raise NotFound(f"there is no training job {name!r}")
        return found

    async def listing(self, limit: int) -> list[JsonObject]:
        return await self._db.read(lambda tx: store.listing(tx, limit))

    async def stop(self, name: str) -> None:
        """SIGTERM, after 120 s SIGKILL. Raises NotFound, Conflict when it has finished."""

        def work(tx: Tx) -> None:
            document = store.load(tx, name)
            if document is None:
                raise NotFound(f"there is no training job {name!r}")
            if document["status"] in FINAL:
                raise Conflict(f"training job {name} has finished: {document['status']}")
            document["status"] = "Stopping"
            store.save(tx, name, document)

        await self._db.write(work)
        if self._running is not None and self._running[0] == name and self._running[1] is not None:
            child = self._running[1]
            child.signal(signal.SIGTERM)
            asyncio.get_running_loop().call_later(STOP_GRACE_S, child.signal, signal.SIGKILL)
        self._wake.set()

    async def finished(self, name: str) -> JsonObject:
        """Wait until a job has ended; its document."""
        async with self._changed:
            while (document := await self.describe(name))["status"] not in FINAL:
                await self._changed.wait()
        return document

    async def model(self, name: str) -> dict[str, bytes]:
        """The files of a completed job's model.tar.gz. Raises Conflict while it has none."""
        document = await self.describe(name)
        if document["status"] != "Completed":
            raise Conflict(f"training job {name} is {document['status']}: it has no model")
        data = await self._objects.get(*manifest.split_uri(str(document["model"])), max_bytes=MAX_MODEL)
        return await asyncio.to_thread(_untar, data, MAX_MODEL)

    async def run(self) -> None:
        """Work off the queue until cancelled."""
        while True:
            self._wake.clear()
            for name in await self._db.read(store.open_jobs):
                await self._one(name)
            await self._wake.wait()

    async def _one(self, name: str) -> None:
        document = await self.describe(name)
        attempts = int(str(document["attempts"])) + 1
        if document["status"] == "Stopping":
            await self._end(name, "Stopped", "Stopped", "Stopped before or while it ran")
            return
        if attempts > ATTEMPTS:
            await self._end(name, "Failed", "Failed", f"The hub ended {ATTEMPTS} times while this job ran")
            return
        await self._step(name, "Downloading", "Laying out the input", attempts=attempts)
        folder = self._folder / name
        self._running = (name, None)
        try:
            await asyncio.to_thread(disk.remove_tree, folder)
            await asyncio.to_thread(disk.make_dirs, folder)
            fields = await self._execute(name, document, folder)
            if (await self.describe(name))["status"] == "Stopping":
                await self._end(name, "Stopped", "Stopped", "Stopped on request")
            else:
                await self._end(name, "Completed", "Completed", "", **fields)
        except MarramError as exc:
            stopping = (await self.describe(name))["status"] == "Stopping"
            state = "Stopped" if stopping else "Failed"
            await self._end(name, state, state, "Stopped on request" if stopping else exc.message)
        finally:
            self._running = None

    async def _execute(self, name: str, document: Mapping[str, Any], folder: Path) -> dict[str, JsonValue]:
        request: Mapping[str, Any] = document["request"]
        root = folder / "opt/ml"
        hyper: dict[str, str] = dict(request.get("HyperParameters") or {})
        channels = {str(channel["ChannelName"]): channel for channel in request.get("InputDataConfig", [])}
        described: dict[str, JsonObject] = {
            key: {
                "ContentType": channel.get("ContentType", ""),
                "TrainingInputMode": "File",
                "S3DistributionType": "FullyReplicated",
                "RecordWrapperType": "None",
            }
            for key, channel in channels.items()
        }
        contract.lay_out(root, hyperparameters=hyper, channels=described)
        for key, channel in channels.items():
            await self._stage(channel, document["inputs"][key], root / "input/data" / key)
        image = str(request["AlgorithmSpecification"]["TrainingImage"])
        own = image == SCRIPT_IMAGE
        if own:
            program = contract.check_program(hyper["sagemaker_program"])
            code = await self._objects.get(*manifest.split_uri(hyper["sagemaker_submit_directory"]), max_bytes=MAX_CODE)
            await asyncio.to_thread(_unpack, code, root / "code")
            argv = [sys.executable, str(INSIDE / "code" / program), *contract.arguments(hyper)]
        else:
            program = "marram.ml.training.work"
            argv = [sys.executable, "-m", program, image.removeprefix(IMAGE_PREFIX)]
        env = contract.environment(
            root,
            seen=INSIDE if own else root,
            job=name,
            job_arn=self.arn(name),
            hyperparameters=hyper,
            channels=described,
            program=program,
            cpus=os.cpu_count() or 1,
            instance_type=str(request["ResourceConfig"].get("InstanceType", "local")),
        )
        passed = ("PATH", "LANG") if own else ("PATH", "LANG", "TMPDIR", "PYTHONPATH")
        env |= {key: os.environ[key] for key in passed if key in os.environ} | {"PYTHONUNBUFFERED": "1"}
        await self._step(name, "Training", "The program runs")
        limit_s = int(request["StoppingCondition"].get("MaxRuntimeInSeconds", 86_400))
        lines = _Log(folder / "train.log")
        if own:
            scratch, temporary = folder / "sandbox", folder / "tmp"
            for each in (scratch, temporary):
                each.mkdir()
            child = sandbox.spawn(
                argv,
                cwd=str(INSIDE / "code"),
                env=env | {"HOME": TEMPORARY, **request.get("Environment", {})},
                scratch=scratch,
                write={root: str(INSIDE), temporary: TEMPORARY},
                hide=self._folder.parent,
                limits=process.Limits(),
                stdout=lines.write,
                stderr=lines.write,
            )
        else:
            child = process.spawn(
                argv,
                cwd=root / "code",
                env=env | {"HOME": str(folder), **ONE_THREAD},
                limits=process.Limits(),
                stdout=lines.write,
                stderr=lines.write,
            )
        self._running = (name, child)
        try:
            async with asyncio.timeout(limit_s):
                code_of = await child.wait()
        except TimeoutError:
            raise Invalid(f"MaxRuntimeExceeded: the job ran longer than {limit_s} s") from None
        finally:
            # Cancelled at the stop of the hub: the job is in the queue and begins again at the next start.
            await asyncio.shield(child.close(0.0))
            lines.close()
        if code_of != 0:
            said = contract.failure(root) or lines.tail()
            raise Invalid(f"AlgorithmError: exit code {code_of}: {said}"[:1024])
        await self._step(name, "Uploading", "The model goes to the object store")
        return await self._collect(request, root)

    async def _collect(self, request: Mapping[str, Any], root: Path) -> dict[str, JsonValue]:
        bucket, prefix = manifest.split_uri(_model_uri(request))
        packed = await asyncio.to_thread(_tar, contract.check_folder(root, "model"))
        stored = await self._objects.put(bucket, prefix, packed)
        metrics: list[JsonValue] = []
        said = contract.left(root, "output/data/metrics.json", MAX_METRICS)
        if said is not None:
            found = codec.loads_object(said)
            for key, value in found.items():
                if _METRIC.fullmatch(key) and isinstance(value, (int, float)):
                    metrics.append([key, float(value), self._clock.wall_ms()])
        return {"model": f"s3://{bucket}/{prefix}", "modelSha256": stored.digest, "metrics": metrics}

    async def _stage(self, channel: Mapping[str, Any], pinned: str, folder: Path) -> None:
        """`pinned`: the key of the manifest, or of the list of keys, that the job was accepted with."""
        source = channel["DataSource"]["S3DataSource"]
        if source["S3DataType"] == "AugmentedManifestFile":
            entries = await self._datasets.read(f"s3://{BUCKET}/{pinned}", label_attribute=_label_attribute(source))
            paths = await self._datasets.stage(entries, folder)
            lines = [
                codec.dumps({"file": path.name, "label": entry.label, "weight": entry.weight})
                for path, entry in zip(paths, entries, strict=True)
            ]
            (folder / "manifest.jsonl").write_bytes(b"\n".join(lines))
            return
        bucket, prefix = manifest.split_uri(str(source["S3Uri"]))
        kept = await self._objects.get(BUCKET, pinned, max_bytes=MAX_LIST)
        for line in kept.splitlines():
            key = str(codec.loads(line))
            # The key below the prefix is somebody's text: it must stay below the folder.
            relative = Path(key.removeprefix(prefix).lstrip("/") or Path(key).name)
            if relative.is_absolute() or ".." in relative.parts:
                raise Invalid(f"the key {key!r} cannot be a file name")
            stored = await self._objects.stat(bucket, key)
            await asyncio.to_thread(_copy, self._objects.path(stored), folder / relative)

    async def _step(self, name: str, secondary: str, message: str, *, attempts: int | None = None) -> None:
        def work(tx: Tx) -> None:
            document = store.load(tx, name)
            assert document is not None
            _turn(document, secondary, message, tx.now_ms)
            if attempts is not None:
                document["attempts"] = attempts
                document.setdefault("startedMs", tx.now_ms)
            store.save(tx, name, document)

        await self._db.write(work)

    async def _end(self, name: str, status: str, secondary: str, reason: str, **fields: JsonValue) -> None:
        def work(tx: Tx) -> None:
            document = store.load(tx, name)
            assert document is not None
            _turn(document, secondary, reason, tx.now_ms)
            document |= {"status": status, "endedMs": tx.now_ms, **fields}
            if status == "Failed":
                document["failure"] = reason
            store.save(tx, name, document)

        await self._db.write(work)
        log.info("training.ended", job=name, status=status)
        async with self._changed:
            self._changed.notify_all()

    def _check(self, request: Mapping[str, Any]) -> None:
        for key, value in request.items():
            # False, 0 and empty are SageMaker's defaults spelt out: they ask for nothing.
            if key not in HONOURED and value:
                raise Unsupported(f"CreateTrainingJob with {key} is not supported")
        access.check_role(self._check_role, request)
        algorithm = request["AlgorithmSpecification"]
        image = str(algorithm.get("TrainingImage", ""))
        known = [IMAGE_PREFIX + name for name in tasks.names()]
        if image not in (*known, SCRIPT_IMAGE):
            raise Invalid(f"TrainingImage {image!r} is not one of {', '.join([*known, SCRIPT_IMAGE])}")
        extra = sorted(set(algorithm) - {"TrainingImage", "TrainingInputMode"})
        if extra:
            raise Unsupported(f"AlgorithmSpecification.{extra[0]} is not supported")
        if algorithm.get("TrainingInputMode", "File") != "File":
            raise Unsupported("TrainingInputMode is File only")
        if int(request["ResourceConfig"].get("InstanceCount", 1)) != 1:
            raise Unsupported("InstanceCount is 1 only")
        hyper: Mapping[str, str] = request.get("HyperParameters") or {}
        channels: list[Mapping[str, Any]] = request.get("InputDataConfig") or []
        if image == SCRIPT_IMAGE:
            if not all(hyper.get(key) for key in contract.RESERVED):
                raise Invalid(
                    f"TrainingImage {SCRIPT_IMAGE} needs the hyper-parameters {' and '.join(contract.RESERVED)}"
                )
            contract.check_program(hyper["sagemaker_program"])
            manifest.split_uri(hyper["sagemaker_submit_directory"])
        elif request.get("Environment"):
            # It would be the loader's and the interpreter's too (LD_PRELOAD): the built-in tasks run outside of a sandbox.
            raise Unsupported(f"Environment is supported with TrainingImage {SCRIPT_IMAGE} only")
        else:
            options.check(image.removeprefix(IMAGE_PREFIX), hyper)
        if image != SCRIPT_IMAGE and not any(channel.get("ChannelName") == "train" for channel in channels):
            raise Invalid("InputDataConfig has no channel named train")
        manifest.split_uri(_model_uri(request))

    async def _check_channel(self, channel: Mapping[str, Any], caller: Access) -> str:
        """The key in BUCKET of what the channel will read."""
        where = f"InputDataConfig {channel['ChannelName']}"
        source = channel["DataSource"].get("S3DataSource")
        if source is None:
            raise Unsupported(f"{where}: S3DataSource only")
        if channel.get("InputMode", "File") != "File" or channel.get("CompressionType", "None") != "None":
            raise Unsupported(f"{where}: InputMode is File and CompressionType None only")
        if channel.get("ShuffleConfig") or channel.get("RecordWrapperType", "None") != "None":
            raise Unsupported(f"{where}: ShuffleConfig and RecordWrapperType are not supported")
        bucket, key = manifest.split_uri(source["S3Uri"])
        match source["S3DataType"]:
            case "AugmentedManifestFile":
                return await self._pin_manifest(source, caller)
            case "S3Prefix":
                keys = await self._list(bucket, key, caller)
                if not keys:
                    raise NotFound(f"{where}: nothing lies below {source['S3Uri']}")
                lines = b"\n".join(codec.dumps(each) for each in keys)
                pinned = f"inputs/{hashlib.sha256(lines).hexdigest()}"
                await self._objects.put(BUCKET, pinned, lines)
                return pinned
            case other:
                raise Unsupported(
                    f"{where}: S3DataType {other} is not supported; S3Prefix and AugmentedManifestFile are"
                )

    async def _pin_manifest(self, source: Mapping[str, Any], caller: Access) -> str:
        uri, attribute = str(source["S3Uri"]), _label_attribute(source)
        come_with_it = caller.manifest(uri)
        stored = await self._objects.stat(*manifest.split_uri(uri))
        pinned = f"inputs/{stored.digest}"
        await self._objects.copy(stored, BUCKET, pinned)  # checked below is what will be read, whatever `uri` becomes
        if not come_with_it:
            entries = await self._datasets.read(f"s3://{BUCKET}/{pinned}", label_attribute=attribute)
            await caller.samples(entry.uri for entry in entries)
        return pinned

    async def _list(self, bucket: str, prefix: str, caller: Access) -> list[str]:
        caller.list_bucket(bucket)
        keys: list[str] = []
        after = ""
        while True:
            page = await self._objects.listing(bucket, prefix=prefix, start_after=after)
            keys += [stored.key for stored in page.objects]
            if len(keys) > manifest.MAX_SAMPLES:
                raise LimitExceeded(f"more than {manifest.MAX_SAMPLES} objects lie below s3://{bucket}/{prefix}")
            if not page.objects or page.last is None:
                break
            after = page.last
        await caller.samples(f"s3://{bucket}/{key}" for key in keys)
        return keys


class _Log:
    """The program's output, its first megabyte in the file and its last lines in memory."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._left = LOG_BYTES
        self._last: list[bytes] = []

    def write(self, line: bytes) -> None:
        self._last = [*self._last[-9:], line[:500]]
        if self._left > 0:
            self._left -= self._file.write(line + b"\n")

    def tail(self) -> str:
        return b"\n".join(self._last).decode(errors="replace")[-800:]

    def close(self) -> None:
        self._file.close()


def _turn(document: JsonObject, secondary: str, message: str, now_ms: int) -> None:
    transitions = document["transitions"]
    assert isinstance(transitions, list)
    if transitions and isinstance(transitions[-1], list):
        transitions[-1][2] = now_ms
    transitions.append([secondary, now_ms, None, message[:1024]])
    del transitions[:-50]
    document |= {"secondary": secondary, "changedMs": now_ms}


def _model_uri(request: Mapping[str, Any]) -> str:
    base = str(request["OutputDataConfig"]["S3OutputPath"]).rstrip("/")
    return f"{base}/{request['TrainingJobName']}/output/model.tar.gz"


def _label_attribute(source: Mapping[str, Any]) -> str:
    names = list(source.get("AttributeNames") or [])
    if len(names) != 2 or names[0] != "source-ref":
        raise Invalid('AttributeNames of an AugmentedManifestFile must be ["source-ref", LABEL]')
    return str(names[1])


def _tar(folder: Path) -> bytes:
    """The model folder; fixed owner and times, so that equal files are equal bytes."""
    buffer = io.BytesIO()
    total = 0
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.is_symlink():
                total += path.stat().st_size
                if total > MAX_MODEL:
                    raise Invalid(f"the model is larger than {MAX_MODEL} bytes", limit=MAX_MODEL)
                entry = tarfile.TarInfo(str(path.relative_to(folder)))
                entry.size, entry.mode = path.stat().st_size, 0o644
                with path.open("rb") as file:
                    archive.addfile(entry, file)
    return gzip.compress(buffer.getvalue(), mtime=0)


def _untar(data: bytes, limit: int) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    total = 0
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
            for entry in archive:
                if not entry.isfile():
                    continue
                total += entry.size
                if total > limit:
                    raise Invalid(f"the archive holds more than {limit} bytes", limit=limit)
                opened = archive.extractfile(entry)
                if opened is not None:
                    files[entry.name] = opened.read()
    except (tarfile.TarError, OSError, EOFError) as exc:
        raise Invalid(f"not a tar.gz archive: {exc}") from exc
    return files


def _unpack(data: bytes, folder: Path) -> None:
    for name, content in _untar(data, MAX_CODE * 4).items():
        path = Path(name)
        if path.is_absolute() or ".." in path.parts:
            raise Invalid(f"the archive holds {name!r}, which leads outside its folder")
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(source.read_bytes())
