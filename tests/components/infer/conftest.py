"""A small trained bundle, unpacked, and a nucleus that only remembers."""

import asyncio
import io
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from marram.components.infer import prepare
from marram.core import bundle, codec
from marram.core.codec import JsonObject, JsonValue
from marram.ml.models import archive
from marram.ml.tasks import Sample
from marram.ml.tasks.image_classification import ImageClassification

OPTIONS = {"epochs": "30", "width": "4", "hidden": "16", "size": "8"}


def bar(label: int, seed: int) -> prepare.Image:
    image = np.random.default_rng(seed).integers(0, 60, (16, 16, 1), dtype=np.uint8)
    image[:, 4 * label + 1 : 4 * label + 4] = 255
    return image


def make_bundle(folder: Path, *, canary_labels: list[str] | None = None) -> Path:
    task = ImageClassification()
    samples = [Sample(data=prepare.encode_png(bar(at % 4, at)), label=str(at % 4)) for at in range(80)]
    data = task.prepare(samples, options=OPTIONS)
    exported = task.export(task.calibrate(task.fit(data, seed=1, options=OPTIONS), data))
    files = {"model.onnx": exported.graph}
    canaries = []
    for at in range(8):
        files[f"canary/{at}.png"] = prepare.encode_png(bar(at % 4, 1000 + at))
        canaries.append((f"canary/{at}.png", canary_labels[at] if canary_labels else str(at % 4)))
    manifest = bundle.Manifest(
        model="bars",
        version="1",
        task="image-classification",
        files={name: bundle.describe(content) for name, content in files.items()},
        labels=exported.labels,
        input=exported.input,
        canaries=tuple(canaries),
    )
    packed = archive.pack(manifest, files, lambda data: b"s" * 64)
    assert packed == archive.pack(manifest, files, lambda data: b"s" * 64)
    with zipfile.ZipFile(io.BytesIO(packed)) as opened:
        opened.extractall(folder)
    return folder


@pytest.fixture(scope="session")
def bars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bars"))


class Nucleus:
    """Stands for the nucleus at the IPC border: what it was given, in order."""

    def __init__(self, configuration: JsonValue) -> None:
        self.tree = configuration
        self.local: list[tuple[str, JsonObject]] = []
        self.hub: list[tuple[str, JsonObject]] = []
        self.closed = asyncio.Event()
        self.arrived = asyncio.Event()
        self.changes: asyncio.Queue[JsonObject] = asyncio.Queue()

    async def configuration(self) -> JsonValue:
        return self.tree

    async def publish(self, topic: str, payload: JsonObject) -> None:
        self.local.append((topic, payload))
        self.arrived.set()

    async def publish_to_hub(self, topic: str, payload: JsonObject | bytes, *, qos: int) -> None:
        assert qos == 1
        self.hub.append((topic, codec.loads_object(payload) if isinstance(payload, bytes) else payload))
        self.arrived.set()

    async def subscribe(self, operation: str, request: JsonObject) -> tuple[JsonObject, AsyncIterator[JsonObject]]:
        assert operation == "SubscribeToConfigurationUpdate"

        async def events() -> AsyncIterator[JsonObject]:
            while True:
                yield await self.changes.get()

        return {}, events()


@pytest.fixture(scope="session", name="make_bundle")
def _make_bundle() -> object:
    return make_bundle


@pytest.fixture(scope="session", name="Nucleus")
def _nucleus() -> object:
    return Nucleus
