"""Model versions: judged by the gate when they are made, immutable, published as signed bundles in components.

A version is Approved or Rejected once and for all; a rejected one is published only with `force`, and its bundle says so.
Not here: rollout to devices (greengrass deployments with a canary), what is learnt (marram/ml/tasks).
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from marram.core import bundle, codec
from marram.core.codec import JsonObject
from marram.core.errors import Conflict, Invalid, NotFound
from marram.hub.objects.service import Objects
from marram.kit.db import Db, Tx
from marram.kit.log import logger
from marram.ml.compilation.service import Compilation, Graph
from marram.ml.datasets import manifest
from marram.ml.datasets.service import Datasets
from marram.ml.models import archive, gate, store
from marram.ml.training.service import Training

log = logger(__name__)

BUCKET: Final = "marram-models"
CANARIES_A_CLASS: Final = 3
CANARIES: Final = 40
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}")
_COMPONENT: Final = re.compile(r"[a-zA-Z0-9-_.]{1,128}")


class Components(Protocol):
    """What this slice needs of greengrass: register a recipe (its artifacts are read from s3:// then)."""

    async def create(self, text: bytes) -> object: ...


class Models:
    def __init__(
        self,
        db: Db,
        objects: Objects,
        datasets: Datasets,
        training: Training,
        compilation: Compilation,
        components: Components,
        *,
        sign: Callable[[bytes], bytes],
    ) -> None:
        """sign: Ed25519 with the hub's signing key, 64 bytes."""
        self._db, self._objects, self._datasets = db, objects, datasets
        self._training, self._compilation, self._components = training, compilation, components
        self._sign = sign

    async def create(self, name: str, compilation: str, *, least_accuracy: float = 0.0) -> JsonObject:
        """Judge a compiled model against the newest approved version of `name` on the compilation's set; keep the verdict."""
        if not _NAME.fullmatch(name):
            raise Invalid(f"model name {name!r}: letters, digits and dashes, at most 63")
        compiled: Any = await self._compilation.describe(compilation)
        graphs = [await self._compilation.graph(compilation)]
        incumbent = await self._db.read(lambda tx: store.incumbent(tx, name))
        if incumbent is not None:
            graphs.append(await self._graph(incumbent))
        evaluation = await self._compilation.evaluate(graphs, compiled["datasetId"], compiled["split"])
        reasons = gate.judge(evaluation, least_accuracy=least_accuracy)
        job: Any = await self._training.describe(str(compiled["trainingJobName"]))

        def work(tx: Tx) -> JsonObject:
            version = store.next_version(tx, name)
            document: JsonObject = {
                "name": name,
                "version": version,
                "status": "Rejected" if reasons else "Approved",
                "reasons": list(reasons),
                "incumbent": None if incumbent is None else incumbent["version"],
                "evaluation": evaluation,
                "compilationId": compilation,
                "graphSha256": compiled["graphSha256"],
                "labels": compiled["labels"],
                "input": compiled["input"],
                "task": compiled["task"],
                "calibration": compiled["calibration"],
                "baseline": compiled["baseline"],
                "gate": {"datasetId": compiled["datasetId"], "split": compiled["split"]},
                "lineage": {
                    "trainingJobName": compiled["trainingJobName"],
                    "compilationId": compilation,
                    "precision": compiled["report"]["winner"],
                    "modelSha256": compiled["modelSha256"],
                    "hyperParameters": job["request"].get("HyperParameters", {}),
                    "inputs": [
                        channel["DataSource"]["S3DataSource"]["S3Uri"]
                        for channel in job["request"].get("InputDataConfig", [])
                    ],
                    "gateDatasetId": compiled["datasetId"],
                },
                "published": [],
                "createdMs": tx.now_ms,
            }
            store.insert(tx, name, version, document)
            return document

        made = await self._db.write(work)
        log.info("model.judged", model=name, version=made["version"], status=made["status"])
        return made

    async def describe(self, name: str, version: int) -> JsonObject:
        found = await self._db.read(lambda tx: store.load(tx, name, version))
        if found is None:
            raise NotFound(f"there is no version {version} of model {name!r}")
        return found

    async def listing(self, name: str | None, limit: int) -> list[JsonObject]:
        """Newest first."""
        return await self._db.read(lambda tx: store.listing(tx, name, limit))

    async def evaluate(self, name: str, version: int, dataset: str, split: str, against: int | None) -> JsonObject:
        """Figures on any split, for reports; decides nothing. With `against`, the lead over that version and its interval."""
        graphs = [await self._graph(await self.describe(name, version))]
        if against is not None:
            graphs.append(await self._graph(await self.describe(name, against)))
        return await self._compilation.evaluate(graphs, dataset, split)

    async def publish(
        self,
        name: str,
        version: int,
        component: str,
        component_version: str,
        configuration: Mapping[str, Any],
        *,
        force: bool = False,
    ) -> JsonObject:
        """Sign the bundle, store it, register the component `component` that runs it. Returns where it lies.

        Raises Conflict for a rejected version without `force`, AlreadyExists for a component version that is taken.
        """
        if not _COMPONENT.fullmatch(component):
            raise Invalid(f"component name {component!r}: letters, digits, dash, underscore and dot, at most 128")
        document: Any = await self.describe(name, version)
        if document["status"] != "Approved" and not force:
            raise Conflict(f"version {version} of {name} was rejected: {'; '.join(document['reasons'])}")
        packed = await self._pack(document, forced=document["status"] != "Approved")
        key = f"bundles/{component}/{component_version}/bundle.zip"
        await self._objects.ensure_bucket(BUCKET)
        stored = await self._objects.put(BUCKET, key, packed)
        await self._components.create(
            codec.dumps(recipe(component, component_version, f"s3://{BUCKET}/{key}", document, configuration))
        )
        published: JsonObject = {
            "componentName": component,
            "componentVersion": component_version,
            "bundleUri": f"s3://{BUCKET}/{key}",
            "bundleSha256": stored.digest,
            "bytes": stored.size,
            "forced": document["status"] != "Approved",
        }

        def work(tx: Tx) -> None:
            now = store.load(tx, name, version)
            assert now is not None and isinstance(now["published"], list)
            now["published"].append(published)
            store.save(tx, name, version, now)

        await self._db.write(work)
        return published

    async def _pack(self, document: Any, *, forced: bool) -> bytes:
        graph = await self._graph(document)
        files = {"model.onnx": graph.data}
        canaries: list[tuple[str, str]] = []
        taken: dict[str, int] = {}
        # True labels from the frozen gate set, not the model's own answers: a model that learnt nonsense fails on them.
        entries = await self._datasets.entries(document["gate"]["datasetId"], document["gate"]["split"])
        for entry in sorted(entries, key=lambda entry: entry.sha256):
            label = str(entry.label)
            if taken.get(label, 0) == CANARIES_A_CLASS or len(canaries) == CANARIES:
                continue
            taken[label] = taken.get(label, 0) + 1
            file = f"canary/{len(canaries):02d}.img"
            files[file] = await self._objects.get(*manifest.split_uri(entry.uri))
            canaries.append((file, label))
        made = bundle.Manifest(
            model=document["name"],
            version=str(document["version"]),
            task=document["task"] or "image-classification",
            files={file: bundle.describe(data) for file, data in files.items()},
            labels=tuple(document["labels"]),
            input=document["input"],
            calibration=document["calibration"],
            baseline=document["baseline"],
            lineage={**document["lineage"], **({"forced": True} if forced else {})},
            canaries=tuple(canaries),
        )
        return archive.pack(made, files, self._sign)

    async def _graph(self, document: JsonObject) -> Graph:
        data = await self._objects.get(BUCKET, f"graphs/{document['graphSha256']}.onnx")
        values: Any = document
        return Graph(data=data, labels=values["labels"], input=values["input"])


# Healthy = the bundle passed its canaries and frames are being read. It is what a deployment waits for: a build that starts
# and answers garbage never gets there, and one failed start is enough to take it back.
HEALTH: Final[JsonObject] = {
    "script": 'grep -qxF "{artifacts:decompressedPath}/bundle" "{work:path}/ready" &&'
    ' test -n "$(find "{work:path}/ready" -newermt "-10 seconds")"',
    "interval_s": 2,
    "timeout_s": 5,
    "failures": 4,
    "settle_s": 1,
    "errors": 1,
}


def recipe(
    component: str, version: str, uri: str, document: Mapping[str, Any], configuration: Mapping[str, Any]
) -> JsonObject:
    """The component that runs a bundle with the stock inference program; `configuration` goes over the defaults."""
    access: JsonObject = {
        "aws.greengrass.ipc.pubsub": {
            f"{component}:pubsub:1": {"operations": ["aws.greengrass#PublishToTopic"], "resources": ["*"]}
        },
        "aws.greengrass.ipc.mqttproxy": {
            f"{component}:mqttproxy:1": {"operations": ["aws.greengrass#PublishToIoTCore"], "resources": ["*"]}
        },
    }
    return {
        "RecipeFormatVersion": "2020-01-25",
        "ComponentName": component,
        "ComponentVersion": version,
        "ComponentDescription": f"Inference with model {document['name']} version {document['version']}",
        "ComponentPublisher": "Marram",
        "ComponentConfiguration": {"DefaultConfiguration": {"accessControl": access, **configuration}},
        "x-marram": {"health": HEALTH},
        "Manifests": [
            {
                "Platform": {"os": "linux"},
                "Artifacts": [{"Uri": uri, "Unarchive": "ZIP"}],
                "Lifecycle": {
                    "run": "exec python3 -m marram.components.infer.main {artifacts:decompressedPath}/bundle"
                    " --work {work:path} --thing {iot:thingName}"
                },
            }
        ],
    }
