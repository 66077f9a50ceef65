"""The model on this machine: open a bundle, check its files, load the graph, find the best thread count, answer.

The bundle's signature was checked by the nucleus before anything was stopped; hashes are checked again here, because time
and other processes lie between. Engine: ONNX Runtime, CPU. Spinning is off: it would steal the decoder's core.
"""

# pyright: basic
# ...because ONNX Runtime has no types: strict would report each of its names. mypy checks the rest strictly.

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from marram.components.infer import prepare
from marram.core import bundle
from marram.core.errors import Corrupt, Invalid
from marram.kit import disk

Probabilities = NDArray[np.float32]

GRAPH_LIMIT: Final = 512 << 20
WARM_UPS: Final = 5
PLAN_NS: Final = 150_000_000  # spent on each thread count
MIN_CANARIES_RIGHT: Final = 0.6


class GarbageModel(Corrupt):
    """The model loads, answers, and is wrong on pictures with known answers. It must not run."""

    code = "MRM-5001"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    right: int
    of: int


class Engine:
    """One session. `predict` may be called from any thread, one at a time."""

    def __init__(self, manifest: bundle.Manifest, graph: bytes, *, threads: int = 0, batch: int = 1) -> None:
        """`threads` 0: measured for `batch` images. Raises Invalid when the graph is not what the manifest says."""
        self.manifest = manifest
        self.height, self.width, self.channels = (_number(manifest, key) for key in ("height", "width", "channels"))
        self._input = str(manifest.input.get("name", "image"))
        self.threads = threads or _plan(graph, self._blank(batch), self._input)
        self._session = session(graph, self.threads)
        self._check_signature()
        for _ in range(WARM_UPS):
            self.predict(self._blank(batch))

    def predict(self, images: prepare.Image) -> Probabilities:
        """uint8 (count, height, width, channels) -> float32 (count, classes), calibrated, rows sum to 1."""
        answer: Probabilities = self._session.run(None, {self._input: images})[0]
        return answer

    def fit(self, crops: list[prepare.Image]) -> prepare.Image:
        return prepare.fit_all(crops, self.height, self.width, self.channels)

    def check(self, canaries: Sequence[tuple[bytes, str]], *, least: float = MIN_CANARIES_RIGHT) -> Checked:
        """Answer the bundle's pictures of known answers. Raises GarbageModel when under `least` of them are right."""
        if not canaries:
            return Checked(right=0, of=0)
        answers = self.predict(self.fit([prepare.decode(data) for data, _ in canaries]))
        if not np.all(np.isfinite(answers)):
            raise GarbageModel("the model answers with NaN or infinity")
        labels = [self.manifest.labels[at] for at in answers.argmax(axis=1).tolist()]
        right = sum(label == wanted for label, (_, wanted) in zip(labels, canaries, strict=True))
        if right < least * len(canaries):
            raise GarbageModel(
                f"model {self.manifest.model} {self.manifest.version} is right on {right} of {len(canaries)} canaries;"
                f" at least {least:.0%} are needed",
                right=right,
                of=len(canaries),
            )
        return Checked(right=right, of=len(canaries))

    def _blank(self, batch: int) -> prepare.Image:
        return np.zeros((max(1, batch), self.height, self.width, self.channels), np.uint8)

    def _check_signature(self) -> None:
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or inputs[0].name != self._input or inputs[0].type != "tensor(uint8)":
            raise Invalid(f"the graph must take one uint8 tensor {self._input!r}")
        shape = self.predict(self._blank(2)).shape
        if shape != (2, len(self.manifest.labels)):
            names = [output.name for output in outputs]
            raise Invalid(f"the graph gives {names} of shape {shape}; {len(self.manifest.labels)} labels were promised")


def session(graph: bytes, threads: int) -> Any:
    """An ONNX Runtime session. Raises Invalid when `graph` is not an ONNX model that it can run."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # the engine has no common base class for its errors
        raise Invalid(f"not an ONNX model that ONNX Runtime {onnxruntime.__version__} can run: {_first(exc)}") from exc


def open_bundle(folder: Path) -> tuple[bundle.Manifest, bytes, list[tuple[bytes, str]]]:
    """(manifest, graph, canaries as (picture, label)) with every hash checked. Raises Corrupt, Invalid, NotFound."""
    manifest = bundle.parse(disk.read(folder / bundle.MANIFEST, limit=1 << 20))

    def read(name: str) -> bytes:
        data = disk.read(folder / name, limit=GRAPH_LIMIT)
        bundle.check(manifest, name, data)
        return data

    return manifest, read(manifest.graph), [(read(name), label) for name, label in manifest.canaries]


def load(folder: Path, *, threads: int = 0, batch: int = 1) -> Engine:
    """Open, load, warm up and check a bundle: an engine that may serve."""
    manifest, graph, canaries = open_bundle(folder)
    engine = Engine(manifest, graph, threads=threads, batch=batch)
    engine.check(canaries)
    return engine


def measure(run: Callable[[], object], *, for_ns: int = PLAN_NS, least: int = 10) -> float:
    """Median microseconds of one call."""
    times: list[int] = []
    end = time.monotonic_ns() + for_ns
    while len(times) < least or time.monotonic_ns() < end:
        began = time.perf_counter_ns()
        run()
        times.append(time.perf_counter_ns() - began)
    times.sort()
    return times[len(times) // 2] / 1000


def _plan(graph: bytes, images: prepare.Image, name: str) -> int:
    """1 or 2 threads, whichever answers a batch sooner. A second thread must pay by 15 %: the decoder wants a core too."""
    speed: dict[int, float] = {}
    for threads in (1, 2):
        made = session(graph, threads)
        run = _runner(made, name, images)
        run()
        speed[threads] = measure(run, for_ns=PLAN_NS // 3)
        if speed[threads] < 500:  # microseconds: nothing to gain from a second thread
            return threads
    return 2 if speed[2] < 0.85 * speed[1] else 1


def _runner(made: Any, name: str, images: prepare.Image) -> Callable[[], object]:
    return lambda: made.run(None, {name: images})


def _number(manifest: bundle.Manifest, key: str) -> int:
    value = manifest.input.get(key)
    if not isinstance(value, int) or not 1 <= value <= 4096:
        raise Invalid(f"bundle manifest: input.{key} is {value!r}, not a size in pixels")
    return value


def _first(exc: Exception) -> str:
    return str(exc).splitlines()[0][:200] if str(exc) else type(exc).__name__
