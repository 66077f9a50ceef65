"""The built-in algorithms as a SageMaker program: reads its channels and SM_* variables, writes the model folder.

Runs as `python -m marram.ml.training.work TASK` in a worker process. A channel is a folder with `manifest.jsonl` ({file,
label, weight?}) or with one subfolder a label. Channel `train` is fitted, `validation` (else `train`) calibrates, every
other one is only evaluated. Exit 0, or 1 with the reason in output/failure.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from marram.core import codec
from marram.core.errors import Invalid, MarramError
from marram.ml import tasks
from marram.ml.tasks import Sample, _options


def main() -> int:
    root = Path(os.environ["SM_OUTPUT_DIR"])
    try:
        train(sys.argv[1])
    except MarramError as error:
        (root / "failure").write_text(error.message)
        sys.stderr.write(f"{error.message}\n")
        return 1
    return 0


def train(task_name: str) -> None:
    task = tasks.load(task_name)
    options: dict[str, str] = json.loads(os.environ["SM_HPS"])
    _options.check(task_name, options)
    seed = options.pop(_options.SEED, "0")
    channels: list[str] = json.loads(os.environ["SM_CHANNELS"])
    if "train" not in channels:
        raise Invalid("there is no channel named train")
    began = time.monotonic()
    data = task.prepare(_samples("train"), options=options)
    others = {
        name: task.prepare(_samples(name), options=options, labels=data.labels) for name in channels if name != "train"
    }
    model = task.fit(data, seed=int(seed), options=options, log=print)
    model = task.calibrate(model, others.get("validation", data))
    metrics = {"train:seconds": time.monotonic() - began}
    for name, each in {"train": data, **others}.items():
        for metric, value in task.evaluate(model, each).items():
            metrics[f"{name}:{metric}"] = value
            print(f"{name}:{metric}={value:.6f}")
    exported = task.export(model)
    target = Path(os.environ["SM_MODEL_DIR"])
    (target / "model.onnx").write_bytes(exported.graph)
    document = {
        "format": 1,
        "task": task_name,
        "labels": list(exported.labels),
        "input": dict(exported.input),
        "calibration": dict(exported.calibration),
        "baseline": dict(exported.baseline),
        "options": options,
        "seed": int(seed),
    }
    (target / "model.json").write_bytes(codec.canonical(document))
    (Path(os.environ["SM_OUTPUT_DATA_DIR"]) / "metrics.json").write_bytes(codec.canonical(metrics))


def _samples(channel: str) -> Iterator[Sample]:
    folder = Path(os.environ[f"SM_CHANNEL_{channel.upper().replace('-', '_')}"])
    listed = folder / "manifest.jsonl"
    if listed.exists():
        for line in listed.read_bytes().splitlines():
            entry = json.loads(line)
            path = folder / entry["file"]
            yield Sample(
                data=path.read_bytes(), label=entry["label"], name=entry["file"], weight=float(entry.get("weight", 1))
            )
        return
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield Sample(data=path.read_bytes(), label=path.parent.name, name=path.name)


if __name__ == "__main__":
    sys.exit(main())
