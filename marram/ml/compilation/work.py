"""Worker process: make and measure the candidates of a model, judge models on samples. Heavy imports live here.

Speeds are medians of interleaved calls in one run, so that a busy minute hits every candidate alike; batch 1, one thread.
int8 is static QDQ with per-channel weights, the CPU speed format; dynamic int8 was 5 to 9 times slower on convolutions and
fp16 is a size format on CPU, so neither is a candidate.
"""

# pyright: basic
# ...because ONNX and ONNX Runtime have no types: strict would report each of its names. mypy checks the rest strictly.

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime import quantization

from marram.components.infer import engine, prepare
from marram.core.codec import JsonObject
from marram.core.errors import Invalid, MarramError
from marram.kit import pool

Floats = NDArray[np.float32]

CALIBRATION_SAMPLES: Final = 200
ROUNDS: Final = 60
BOOTSTRAP: Final = 2000
BINS: Final = 10
MIN_AGREEMENT: Final = 0.98
MAX_LOSS: Final = 0.005


def compile(params: JsonObject) -> JsonObject:
    """{graph, labels, input, samples [[file, label]], folder} -> report; candidates are written as folder/<precision>.onnx."""
    folder = Path(str(params["folder"]))
    path = Path(str(params["graph"]))
    images, targets = _samples(params)
    _check_graph(path)
    candidates: dict[str, Path] = {"fp32": path}
    failures: dict[str, str] = {}
    try:
        candidates["int8"] = _quantise(path, folder / "int8.onnx", images, str(_input(params)["name"]))
    except Exception as exc:  # a net that the quantiser cannot take is shipped as it is; the report says why
        failures["int8"] = str(exc).splitlines()[0][:200] if str(exc) else type(exc).__name__
    sessions = {name: engine.session(found.read_bytes(), 1) for name, found in candidates.items()}
    answers = {name: _answers(made, str(_input(params)["name"]), images) for name, made in sessions.items()}
    speeds = _speeds(sessions, str(_input(params)["name"]), images)
    base = answers["fp32"]
    if base.shape != (len(targets), len(_labels(params))) or not np.all(np.isfinite(base)):
        raise Invalid(f"the model answers {base.shape} with {len(_labels(params))} labels, or with NaN")
    report: list[dict[str, Any]] = []
    for name, found in candidates.items():
        right = answers[name].argmax(axis=1) == targets
        agreement = float((answers[name].argmax(axis=1) == base.argmax(axis=1)).mean())
        loss = float((base.argmax(axis=1) == targets).mean() - right.mean())
        reasons: list[str] = []
        if agreement < MIN_AGREEMENT:
            reasons.append(f"agrees with fp32 on {agreement:.1%}; {MIN_AGREEMENT:.0%} are needed")
        if loss > MAX_LOSS + 1e-9:  # 0.5 points of 200 samples is one sample, not a little more
            reasons.append(f"loses {loss * 100:.2f} points; {MAX_LOSS * 100:.1f} are allowed")
        if name != "fp32" and speeds[name] >= speeds["fp32"]:
            reasons.append(f"not faster than fp32: {speeds[name]:.0f} against {speeds['fp32']:.0f} us")
        report.append(
            {
                "precision": name,
                "bytes": found.stat().st_size,
                "accuracy": round(float(right.mean()), 5),
                "agreement": round(agreement, 5),
                "ece": round(calibration_error(answers[name], targets), 5),
                "p50_us": round(speeds[name], 1),
                "speed": round(speeds["fp32"] / speeds[name], 3),
                "passed": not reasons,
                "reasons": reasons,
            }
        )
    report += [{"precision": name, "passed": False, "reasons": [f"not made: {why}"]} for name, why in failures.items()]
    winner = min((row for row in report if row["passed"]), key=lambda row: float(row["p50_us"]))["precision"]
    return {"winner": winner, "candidates": list(report), "samples": len(targets)}


def evaluate(params: JsonObject) -> JsonObject:
    """{models [{graph, labels, input}], samples} -> each model's figures on the same samples, and the first against the second.

    `lead`: difference of accuracies (first - second) with its paired bootstrap 95 % interval, and the same for each class.
    """
    images, names = _pictures(params)
    models: Any = params["models"]
    rows: list[dict[str, Any]] = []
    rights: list[NDArray[np.bool_]] = []
    sessions: dict[str, Any] = {}
    for at, model in enumerate(models):
        labels = [str(label) for label in model["labels"]]
        shape = model["input"]
        batch = prepare.fit_all(images, int(shape["height"]), int(shape["width"]), int(shape["channels"]))
        made = engine.session(Path(model["graph"]).read_bytes(), 1)
        sessions[str(at)] = (made, str(shape["name"]), batch)
        answers = _answers(made, str(shape["name"]), batch)
        said = np.array([labels[i] for i in answers.argmax(axis=1)])
        right = said == names
        index = np.array([labels.index(name) if name in labels else -1 for name in names])
        rights.append(right)
        rows.append(
            {
                "accuracy": round(float(right.mean()), 5),
                "interval": _interval(right.astype(np.float64)),
                "ece": round(calibration_error(answers, index), 5),
                "finite": bool(np.all(np.isfinite(answers))),
                "classes": {name: round(float(right[names == name].mean()), 5) for name in sorted(set(names.tolist()))},
                "confusion": _confusion(names, said),
            }
        )
    result: dict[str, Any] = {"samples": len(names), "models": rows}
    if len(rights) == 2:
        difference = rights[0].astype(np.float64) - rights[1].astype(np.float64)
        result["lead"] = {"accuracy": round(float(difference.mean()), 5), "interval": _interval(difference)}
        result["slices"] = {
            name: {
                "lead": round(float(difference[names == name].mean()), 5),
                "interval": _interval(difference[names == name]),
                "samples": int((names == name).sum()),
            }
            for name in sorted(set(names.tolist()))
        }
        result["speed"] = _speed_ratio(sessions)
    return result


def calibration_error(answers: Floats, targets: NDArray[np.int64]) -> float:
    """Expected calibration error, ten equal bins of the highest probability."""
    confidence = answers.max(axis=1)
    right = answers.argmax(axis=1) == targets
    place = np.clip((confidence * BINS).astype(int), 0, BINS - 1)
    total = 0.0
    for at in range(BINS):
        inside = place == at
        if inside.any():
            total += float(inside.mean() * abs(right[inside].mean() - confidence[inside].mean()))
    return total


def _interval(values: NDArray[np.float64]) -> list[float]:
    rng = np.random.default_rng(0)  # the same figures for the same answers
    means = values[rng.integers(0, len(values), (BOOTSTRAP, len(values)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5]).tolist()
    return [round(low, 5), round(high, 5)]


def _confusion(names: "NDArray[np.str_]", said: "NDArray[np.str_]") -> dict[str, dict[str, int]]:
    table: dict[str, dict[str, int]] = {}
    for wanted, got in zip(names.tolist(), said.tolist(), strict=True):
        row = table.setdefault(wanted, {})
        row[got] = row.get(got, 0) + 1
    return table


def _quantise(path: Path, target: Path, images: prepare.Image, name: str) -> Path:
    logging.getLogger().setLevel(logging.ERROR)  # the quantiser warns about every missing pre-processing step
    quantization.quantize_static(
        str(path),
        str(target),
        _Reader(images[:CALIBRATION_SAMPLES], name),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        op_types_to_quantize=["Conv", "Gemm", "MatMul", "MaxPool", "Relu"],
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        extra_options={"ActivationSymmetric": False, "WeightSymmetric": True},
    )
    return target


class _Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # the library has no types
    def __init__(self, images: prepare.Image, name: str) -> None:
        self._left = iter(images)
        self._name = name

    def get_next(self) -> dict[str, prepare.Image] | None:
        image = next(self._left, None)
        return None if image is None else {self._name: image[None]}


def _check_graph(path: Path) -> None:
    try:
        onnx.checker.check_model(onnx.load(str(path)))
    except Exception as exc:  # protobuf and checker errors have no common base
        raise Invalid(
            f"model.onnx is not an ONNX model: {str(exc).splitlines()[0][:200] or type(exc).__name__}"
        ) from exc


def _answers(made: Any, name: str, images: prepare.Image) -> Floats:
    return np.concatenate([made.run(None, {name: images[at : at + 64]})[0] for at in range(0, len(images), 64)])


def _speeds(sessions: dict[str, Any], name: str, images: prepare.Image) -> dict[str, float]:
    times: dict[str, list[int]] = {key: [] for key in sessions}
    for turn in range(ROUNDS + 10):
        image = images[turn % len(images)][None]
        for key, made in sessions.items():
            began = time.perf_counter_ns()
            for _ in range(5):
                made.run(None, {name: image})
            if turn >= 10:
                times[key].append((time.perf_counter_ns() - began) // 5)
    return {key: sorted(values)[len(values) // 2] / 1000 for key, values in times.items()}


def _speed_ratio(sessions: dict[str, Any]) -> float:
    """How much faster the first is than the second; the best of three runs, since noise only ever slows."""
    best = 0.0
    for _ in range(3):
        times: dict[str, list[int]] = {key: [] for key in sessions}
        for _turn in range(ROUNDS):
            for key, (made, name, batch) in sessions.items():
                began = time.perf_counter_ns()
                for _ in range(5):
                    made.run(None, {name: batch[:1]})
                times[key].append(time.perf_counter_ns() - began)
        medians = {key: sorted(values)[len(values) // 2] for key, values in times.items()}
        best = max(best, medians["1"] / medians["0"])
    return round(best, 3)


def _samples(params: JsonObject) -> tuple[prepare.Image, NDArray[np.int64]]:
    images, names = _pictures(params)
    shape = _input(params)
    labels = _labels(params)
    unknown = sorted(set(names.tolist()) - set(labels))
    if unknown:
        raise Invalid(f"the samples have the label {unknown[0]!r}, which the model does not know")
    batch = prepare.fit_all(images, int(shape["height"]), int(shape["width"]), int(shape["channels"]))
    return batch, np.array([labels.index(name) for name in names], np.int64)


def _pictures(params: JsonObject) -> "tuple[list[prepare.Image], NDArray[np.str_]]":
    samples: Any = params["samples"]
    images: list[prepare.Image] = []
    for file, _ in samples:
        try:
            images.append(prepare.decode(Path(file).read_bytes()))
        except MarramError as exc:
            raise Invalid(f"sample {Path(file).name}: {exc.message}") from exc
    return images, np.array([str(label) for _, label in samples])


def _input(params: JsonObject) -> Any:
    return params["input"]


def _labels(params: JsonObject) -> Sequence[str]:
    labels: Any = params["labels"]
    return [str(label) for label in labels]


if __name__ == "__main__":
    pool.serve({"compile": compile, "evaluate": evaluate})
