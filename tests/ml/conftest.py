"""A hub's stores without its doors: database, blobs, objects, and the slices of the learning loop on them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from marram.components.infer import prepare
from marram.core.errors import Invalid
from marram.hub.objects.service import Objects
from marram.kit.blobs import Blobs
from marram.kit.clock import SystemClock
from marram.kit.db import Db, Migrations
from marram.ml.compilation.service import Compilation
from marram.ml.datasets.service import Datasets
from marram.ml.feedback.service import Feedback
from marram.ml.labelling.service import Labelling
from marram.ml.models.service import Models
from marram.ml.training.service import Training

SLICES = ("hub.objects", "ml.datasets", "ml.training", "ml.compilation", "ml.models", "ml.feedback", "ml.labelling")
OPTIONS = {"epochs": "25", "width": "4", "hidden": "16", "size": "8"}
ROLE = "arn:aws:iam::000000000001:role/marram-service"


class Registry:
    """Stands for greengrass: what was published."""

    def __init__(self) -> None:
        self.recipes: list[bytes] = []

    async def create(self, recipe: bytes) -> str:
        self.recipes.append(recipe)
        return "arn:of:component"


class Stores:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        clock = SystemClock()
        kept = [Migrations(slice=name.split(".")[1], package=f"marram.{name}") for name in SLICES]
        self.db = Db.open(folder / "hub.db", clock=clock, migrations=kept)
        nothing: Any = None
        self.objects = Objects(
            self.db,
            Blobs(folder / "blobs", self.db),
            clock,
            region="local-1",
            endpoint=str,
            signer=nothing,
        )
        self.datasets = Datasets(self.db, self.objects)

        def check_role(role_arn: str) -> None:
            if role_arn != ROLE:
                raise Invalid(f"{role_arn} does not exist; {ROLE} does")

        where: dict[str, Any] = {"account": "000000000001", "region": "local-1", "check_role": check_role}
        self.training = Training(self.db, self.objects, self.datasets, folder / "jobs", clock, **where)
        self.compilation = Compilation(self.db, self.objects, self.datasets, self.training, folder / "jobs")
        self.registry = Registry()
        self.models = Models(
            self.db, self.objects, self.datasets, self.training, self.compilation, self.registry,
            sign=lambda data: b"s" * 64,
        )  # fmt: skip
        self.feedback = Feedback(self.db, self.objects)
        self.labelling = Labelling(self.db, self.objects, clock, **where)

    async def close(self) -> None:
        await self.compilation.close()
        self.db.close()

    def job(self, name: str, train: str, **more: Any) -> dict[str, Any]:
        channels = {"train": train, **more.pop("channels", {})}
        return {
            "TrainingJobName": name,
            "AlgorithmSpecification": {"TrainingImage": "marram/image-classification", "TrainingInputMode": "File"},
            "RoleArn": ROLE,
            "InputDataConfig": [
                {
                    "ChannelName": channel,
                    "DataSource": {
                        "S3DataSource": {
                            "S3DataType": "AugmentedManifestFile",
                            "S3Uri": uri,
                            "AttributeNames": ["source-ref", "label"],
                        }
                    },
                }
                for channel, uri in channels.items()
            ],
            "OutputDataConfig": {"S3OutputPath": "s3://work/out"},
            "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
            "StoppingCondition": {"MaxRuntimeInSeconds": 60},
            "HyperParameters": {**OPTIONS, "seed": "1"},
            **more,
        }

    async def pictures(self, prefix: str, count: int, *, seed: int = 1, shuffled: bool = False) -> str:
        """Labelled bars in bucket `work`; the manifest's URI."""
        lines = []
        rng = np.random.default_rng(seed)
        for at in range(count):
            image = rng.integers(0, 60, (8, 8, 1), dtype=np.uint8)
            image[:, 2 * (at % 4)] = 255
            key = f"{prefix}/{at}.png"
            await self.objects.put("work", key, prepare.encode_png(image))
            label = (at + (int(rng.integers(1, 4)) if shuffled else 0)) % 4
            lines.append({"source-ref": f"s3://work/{key}", "label": label, "group": f"{prefix}{at // 2}"})
        uri = f"{prefix}/manifest.jsonl"
        await self.objects.put("work", uri, b"\n".join(json.dumps(line).encode() for line in lines))
        return f"s3://work/{uri}"


@pytest.fixture
async def stores(tmp_path: Path) -> Any:
    made = Stores(tmp_path)
    await made.objects.create_bucket("work")
    yield made
    await made.close()
