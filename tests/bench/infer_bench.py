"""The inference pipeline against the raw engine: H.265 480p, five crops a frame, all in this process.

Law (reference of the learning loop): the pipeline reaches at least 0.85 of its budget, the smaller of cores / sum of stage
times and 1 / slowest stage (a stage is one thread). Its ratio to the raw engine alone is unfair to a fast net, because each
frame must be decoded first, and is given beside it. The net is
the digit reader, briefly trained: speed does not depend on what it learnt. Paced: 60 frames/s, slot queue `latest`.
"""

import importlib.util
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[2]
FREE_FRAMES = 600
PACED_S = 5.0


def main() -> dict[str, Any]:
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    from marram.components.infer import engine, feedback, pipeline, source

    sys.setswitchinterval(0.0005)
    clip = _clip_module()
    scans = clip.scans()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = Path(folder) / "clip.mp4"
        numbers = scans.sets["stream"][:60]
        frames = [clip.frame([scans.images[n] for n in numbers[at : at + 5]]) for at in range(0, 60, 5)]
        encoder = clip.encode(frames, 5, path)
        made = _engine(clip, scans)
        images = made.fit([clip.clean(scans.images[n])[:, :, None] for n in numbers[:5]])
        raw_us = engine.measure(lambda: made.predict(images), for_ns=500_000_000)

        def run(
            settings: source.Settings, policy: source.Policy
        ) -> tuple[list[pipeline.Reading], pipeline.Pipeline, float]:
            readings: list[pipeline.Reading] = []
            ages: list[float] = []
            ended = threading.Event()

            def emit(reading: pipeline.Reading) -> None:
                readings.append(reading)
                ages.append((time.monotonic_ns() - reading.due_ns) / 1e6)

            running = pipeline.Pipeline(
                made, [], pipeline.Settings(
                    source=settings, regions=tuple(clip.places()), policy=policy, feedback=feedback.Settings(enabled=False)
                ), emit, run_id="bench", ended=lambda error: ended.set(),
            )  # fmt: skip
            began = time.monotonic()
            running.start()
            ended.wait(60)
            took = time.monotonic() - began
            running.stop()
            readings_ages[id(readings)] = ages
            return readings, running, took

        readings_ages: dict[int, list[float]] = {}
        free, _, took = run(source.Settings(uri=str(path), frames=FREE_FRAMES), "block")
        paced, running, paced_took = run(source.Settings(uri=str(path), fps=60.0, frames=int(60 * PACED_S)), "latest")
    stages = {
        "decode_ms": _mean([reading.decode_us for reading in free]),
        "crop_ms": _mean([reading.crop_us for reading in free]),
        "infer_ms": _mean([reading.infer_us for reading in free]),
    }
    cores = os.cpu_count() or 1
    fps = len(free) / took
    slowest = max(stages["decode_ms"], stages["crop_ms"] + stages["infer_ms"])
    budget = min(cores * 1000 / sum(stages.values()), 1000 / slowest)
    ages = sorted(readings_ages[id(paced)])
    return {
        "encoder": encoder,
        "raw_engine_fps": round(1e6 / raw_us, 1),
        "pipeline_fps": round(fps, 1),
        "ratio_to_raw_engine": round(fps * raw_us / 1e6, 3),
        "budget_fps": round(budget, 1),
        "ratio_to_budget": round(fps / budget, 3),
        **stages,
        "paced_fps": round(len(paced) / paced_took, 2),
        "paced_dropped": running.dropped + running.skipped,
        "paced_age_p50_ms": round(ages[len(ages) // 2], 2),
        "paced_age_p99_ms": round(ages[int(len(ages) * 0.99)], 2),
    }


def _engine(clip: Any, scans: Any) -> Any:
    from marram.components.infer import engine
    from marram.core import bundle
    from marram.ml.tasks import Sample
    from marram.ml.tasks.image_classification import ImageClassification

    task = ImageClassification()
    samples = [
        Sample(data=clip.pgm(clip.clean(scans.images[n])), label=str(scans.digits[n])) for n in scans.sets["train"]
    ]
    options = {"epochs": "2"}
    exported = task.export(task.fit(task.prepare(samples, options=options), seed=1, options=options))
    manifest = bundle.Manifest(
        model="bench", version="1", task="image-classification", files={"model.onnx": bundle.describe(exported.graph)},
        labels=exported.labels, input=exported.input,
    )  # fmt: skip
    return engine.Engine(manifest, exported.graph, threads=1, batch=5)


def _clip_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo_clip", ROOT / "demo" / "clip.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _mean(micros: list[int]) -> float:
    return round(sum(micros) / len(micros) / 1000, 3)


if __name__ == "__main__":
    for key, value in main().items():
        print(f"{key:22} {value}")
