"""Small images to one of a few classes: a convolutional net of two stages, trained with numpy, exported as ONNX.

For crops up to 64x64 and some thousand samples: trains in seconds on one core, needs no framework. Not here: detection,
big images, transfer learning (a task of its own once extra `torch` is in). Equal seed, data and options give equal bytes:
the arithmetic is single-threaded (the worker sets OPENBLAS_NUM_THREADS=1).

Net: uint8 NHWC -> cast, scale -> conv 3x3, relu, max pool -> conv 3x3, relu, max pool -> dense, relu -> dense -> softmax of
logits over the temperature. Adam (Kingma and Ba 2015), cosine rate, dropout, label smoothing, small affine augmentation.
"""

# pyright: basic
# ...because ONNX has no types and numpy's are too wide: strict would report each of its names. mypy checks the rest strictly.

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from marram.components.infer import prepare as pixels
from marram.core.errors import Invalid, LimitExceeded, MarramError
from marram.ml.tasks import Exported, Sample, _options, task

Array = NDArray[np.float32]
Ints = NDArray[np.int64]

MEAN: Final = 0.2
SCALE: Final = 3.0
MAX_SAMPLES: Final = 50_000
MAX_CLASSES: Final = 100
OPSET: Final = 17


_option = partial(_options.value, "image-classification")


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    images: NDArray[np.uint8]  # (count, size, size, channels)
    targets: Ints
    weights: Array
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    weights: tuple[Array, ...]
    labels: tuple[str, ...]
    temperature: float = 1.0
    baseline: tuple[float, ...] = ()  # share of each tenth of brightness in the training images, for drift


@task("image-classification")
class ImageClassification:
    def prepare(self, samples: Iterable[Sample], *, options: Mapping[str, str], labels: tuple[str, ...] = ()) -> Data:
        """Decode, scale to the net's size. `labels` fixes the classes and their order; else they are what is seen, sorted.

        Raises Invalid for an unreadable image (named), a bad weight, a label outside `labels`, no samples.
        """
        size, channels = int(_option(options, "size")), int(_option(options, "channels"))
        if size % 4 or channels == 2:
            raise Invalid(f"size must be a multiple of 4 and channels 1 or 3, not {size} and {channels}")
        images: list[NDArray[np.uint8]] = []
        names: list[str] = []
        weights: list[float] = []
        for sample in samples:
            if len(images) == MAX_SAMPLES:
                raise LimitExceeded(f"more than {MAX_SAMPLES} samples", limit=MAX_SAMPLES)
            if not 0 < sample.weight <= 1000:
                raise Invalid(f"sample {sample.name}: weight {sample.weight} is not within 0 to 1000")
            try:
                images.append(pixels.fit(pixels.decode(sample.data), size, size, channels))
            except MarramError as exc:
                raise Invalid(f"sample {sample.name}: {exc.message}") from exc
            names.append(sample.label)
            weights.append(sample.weight)
        if not images:
            raise Invalid("no samples")
        classes = labels or tuple(sorted(set(names)))
        index = {label: at for at, label in enumerate(classes)}
        unknown = sorted(set(names) - set(classes))
        if unknown:
            raise Invalid(f"label {unknown[0]!r} is not one of the model's: {', '.join(classes)}")
        if len(classes) > MAX_CLASSES:
            raise LimitExceeded(f"{len(classes)} classes; the most is {MAX_CLASSES}", limit=MAX_CLASSES)
        return Data(
            images=np.stack(images),
            targets=np.array([index[name] for name in names], np.int64),
            weights=np.array(weights, np.float32),
            labels=classes,
        )

    def fit(
        self, data: Data, *, seed: int, options: Mapping[str, str], log: Callable[[str], None] = lambda line: None
    ) -> Model:
        """Raises Invalid when there are fewer than two classes: nothing could be learnt, any net would look perfect."""
        present = len(set(data.targets.tolist()))
        if present < 2:
            raise Invalid(f"training needs at least 2 classes, the data have {present}")
        epochs, batch = int(_option(options, "epochs")), int(_option(options, "batch_size"))
        rate, smoothing = _option(options, "learning_rate"), _option(options, "smoothing")
        rotation, shift = _option(options, "rotation"), _option(options, "shift") * data.images.shape[1]
        dropout = _option(options, "dropout")
        rng = np.random.default_rng(seed)
        count, size, _, channels = data.images.shape
        params = _start(
            rng, size, channels, int(_option(options, "width")), int(_option(options, "hidden")), len(data.labels)
        )
        moments = [(np.zeros_like(p), np.zeros_like(p)) for p in params]
        goal = np.eye(len(data.labels), dtype=np.float32)[data.targets] * (1 - smoothing) + smoothing / len(data.labels)
        chance = data.weights / data.weights.sum()
        even = bool(np.all(data.weights == data.weights[0]))
        steps = epochs * -(-count // batch)
        done = 0
        for epoch in range(epochs):
            # Uneven weights are drawn, not multiplied: a heavy sample then meets many augmentations, not one big step.
            order: Ints = rng.permutation(count) if even else np.asarray(rng.choice(count, count, p=chance))
            loss = 0.0
            for begin in range(0, count, batch):
                rows = order[begin : begin + batch]
                images = _augment(data.images[rows], rng, rotation, shift)
                cost, slopes = _slopes(params, images, goal[rows], rng, dropout)
                loss += cost * len(rows)
                done += 1
                _adam(params, slopes, moments, done, rate * 0.5 * (1 + np.cos(np.pi * done / steps)))
            if not np.isfinite(loss):
                raise Invalid("training diverged: the loss is not a number; try a smaller learning_rate")
            log(f"epoch={epoch + 1} loss={loss / count:.5f}")
        bins = np.histogram(data.images, bins=10, range=(0, 256))[0] / data.images.size
        return Model(
            weights=tuple(params), labels=data.labels, baseline=tuple(round(float(share), 6) for share in bins)
        )

    def calibrate(self, model: Model, data: Data) -> Model:
        """One temperature for all classes, by least negative log likelihood (Guo et al. 2017). Accuracy does not change."""
        logits = self.logits(model, data.images)
        rows = np.arange(len(logits))
        tried = np.exp(np.linspace(np.log(0.2), np.log(8.0), 120))
        costs = [-np.log(_softmax(logits / t)[rows, data.targets] + 1e-12).mean() for t in tried]
        return replace(model, temperature=float(tried[int(np.argmin(costs))]))

    def logits(self, model: Model, images: NDArray[np.uint8]) -> Array:
        parts = [
            _forward(model.weights, images[at : at + 256].astype(np.float32), None, 0.0)[0]
            for at in range(0, len(images), 256)
        ]
        return np.concatenate(parts)

    def probabilities(self, model: Model, images: NDArray[np.uint8]) -> Array:
        return _softmax(self.logits(model, images) / np.float32(model.temperature))

    def evaluate(self, model: Model, data: Data) -> Mapping[str, float]:
        probabilities = self.probabilities(model, data.images)
        right = probabilities.argmax(axis=1) == data.targets
        likelihood = probabilities[np.arange(len(right)), data.targets]
        return {
            "accuracy": float(right.mean()),
            "loss": float(-np.log(likelihood + 1e-12).mean()),
            "ece": expected_calibration_error(probabilities, data.targets),
        }

    def export(self, model: Model) -> Exported:
        size, channels = _sizes(model.weights)
        return Exported(
            graph=_graph(model, size, channels).SerializeToString(deterministic=True),
            labels=model.labels,
            input={"name": "image", "height": size, "width": size, "channels": channels},
            calibration={"temperature": model.temperature},
            baseline={"brightness": list(model.baseline)},
        )


def expected_calibration_error(probabilities: Array, targets: Ints, bins: int = 10) -> float:
    """Guo et al. 2017, equal-width bins of the highest probability."""
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == targets
    place = np.clip((confidence * bins).astype(int), 0, bins - 1)
    total = 0.0
    for at in range(bins):
        inside = place == at
        if inside.any():
            total += float(inside.mean() * abs(right[inside].mean() - confidence[inside].mean()))
    return total


def _start(rng: np.random.Generator, size: int, channels: int, width: int, hidden: int, classes: int) -> list[Array]:
    def he(rows: int, columns: int) -> Array:
        made: Array = (rng.standard_normal((rows, columns)) * np.sqrt(2 / rows)).astype(np.float32)
        return made

    flat = (size // 4) ** 2 * width * 2
    shapes = [(9 * channels, width), (9 * width, 2 * width), (flat, hidden), (hidden, classes)]
    params: list[Array] = []
    for rows, columns in shapes:
        params += [he(rows, columns), np.zeros(columns, np.float32)]
    return params


def _sizes(weights: tuple[Array, ...]) -> tuple[int, int]:
    channels = weights[0].shape[0] // 9
    return round(float(weights[4].shape[0] / weights[2].shape[1]) ** 0.5) * 4, channels


def _augment(images: NDArray[np.uint8], rng: np.random.Generator, rotation: float, shift: float) -> Array:
    """Each image turned, scaled by up to 8 %, moved by up to `shift` pixels, lit by 0.85 to 1.1; bilinear, edges repeated."""
    count, size = images.shape[:2]
    turn = np.deg2rad(rng.uniform(-rotation, rotation, count))
    scale = rng.uniform(0.92, 1.08, count)
    move = rng.uniform(-shift, shift, (2, count, 1, 1))
    centre = (size - 1) / 2
    y, x = np.mgrid[:size, :size].astype(np.float32) - centre
    cos, sin = (np.cos(turn) / scale)[:, None, None], (np.sin(turn) / scale)[:, None, None]
    from_x = np.clip(cos * x - sin * y + centre + move[0], 0, size - 1.001)
    from_y = np.clip(sin * x + cos * y + centre + move[1], 0, size - 1.001)
    left, top = from_x.astype(np.int64), from_y.astype(np.int64)
    ax, ay = (from_x - left).astype(np.float32)[..., None], (from_y - top).astype(np.float32)[..., None]
    which = np.arange(count)[:, None, None]
    whole = images.astype(np.float32)
    upper = whole[which, top, left] * (1 - ax) + whole[which, top, left + 1] * ax
    lower = whole[which, top + 1, left] * (1 - ax) + whole[which, top + 1, left + 1] * ax
    light = np.asarray(rng.uniform(0.85, 1.1, count), np.float32)[:, None, None, None]
    made: Array = np.clip((upper * (1 - ay) + lower * ay) * light, 0, 255)
    return made


def _columns(x: Array) -> Array:
    """3x3 neighbourhoods, zero padded: (count * height * width, 9 * channels), order (row, column, channel)."""
    count, height, width, channels = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    view = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    flat: Array = np.ascontiguousarray(view.transpose(0, 1, 2, 4, 5, 3)).reshape(count * height * width, 9 * channels)
    return flat


def _uncolumns(slope: Array, shape: tuple[int, ...]) -> Array:
    count, height, width, channels = shape
    parts = slope.reshape(count, height, width, 3, 3, channels)
    out = np.zeros((count, height + 2, width + 2, channels), np.float32)
    for row in range(3):
        for column in range(3):
            out[:, row : row + height, column : column + width] += parts[:, :, :, row, column]
    return out[:, 1:-1, 1:-1]


def _pool(x: Array) -> tuple[Array, NDArray[np.bool_]]:
    count, height, width, channels = x.shape
    view = x.reshape(count, height // 2, 2, width // 2, 2, channels)
    peak: Array = view.max(axis=(2, 4))
    return peak, view == peak[:, :, None, :, None]


def _unpool(slope: Array, mask: NDArray[np.bool_]) -> Array:
    count, height, _, width, _, channels = mask.shape
    made: Array = (slope[:, :, None, :, None] * mask).reshape(count, height * 2, width * 2, channels)
    return made


@dataclass(slots=True)
class _Trace:
    """What the way back needs."""

    columns1: Array
    active1: Array
    pooled1: Array
    mask1: NDArray[np.bool_]
    columns2: Array
    active2: Array
    mask2: NDArray[np.bool_]
    flat: Array
    hidden: Array
    kept: Array | None


def _forward(
    params: "tuple[Array, ...] | list[Array]", images: Array, rng: np.random.Generator | None, dropout: float
) -> tuple[Array, _Trace]:
    """`images`: float32 in 0..255. Dropout only with `rng`."""
    x = (images * np.float32(1 / 255) - np.float32(MEAN)) * np.float32(SCALE)
    count, size = x.shape[:2]
    columns1 = _columns(x)
    active1 = np.maximum(columns1 @ params[0] + params[1], 0).reshape(count, size, size, -1)
    pooled1, mask1 = _pool(active1)
    columns2 = _columns(pooled1)
    active2 = np.maximum(columns2 @ params[2] + params[3], 0).reshape(count, size // 2, size // 2, -1)
    pooled2, mask2 = _pool(active2)
    flat = pooled2.reshape(count, -1)
    hidden = np.maximum(flat @ params[4] + params[5], 0)
    kept: Array | None = None
    if rng is not None and dropout:
        kept = (rng.random(hidden.shape, np.float32) > dropout).astype(np.float32) / np.float32(1 - dropout)
        hidden = hidden * kept
    logits: Array = hidden @ params[6] + params[7]
    return logits, _Trace(columns1, active1, pooled1, mask1, columns2, active2, mask2, flat, hidden, kept)


def _slopes(
    params: list[Array], images: Array, goal: Array, rng: np.random.Generator, dropout: float
) -> tuple[float, list[Array]]:
    logits, trace = _forward(params, images, rng, dropout)
    probabilities = _softmax(logits)
    cost = float(-(goal * np.log(probabilities + 1e-12)).sum() / len(goal))
    back: Array = (probabilities - goal) / np.float32(len(goal))
    last, last_bias = trace.hidden.T @ back, back.sum(axis=0)
    back = (back @ params[6].T) * (trace.hidden > 0)
    if trace.kept is not None:
        back = back * trace.kept
    dense, dense_bias = trace.flat.T @ back, back.sum(axis=0)
    mask2 = trace.mask2
    back = (back @ params[4].T).reshape(mask2.shape[0], mask2.shape[1], mask2.shape[3], mask2.shape[5])
    back = (_unpool(back, mask2) * (trace.active2 > 0)).reshape(len(trace.columns2), -1)
    second, second_bias = trace.columns2.T @ back, back.sum(axis=0)
    back = _uncolumns(back @ params[2].T, trace.pooled1.shape)
    back = (_unpool(back, trace.mask1) * (trace.active1 > 0)).reshape(len(trace.columns1), -1)
    first, first_bias = trace.columns1.T @ back, back.sum(axis=0)
    return cost, [first, first_bias, second, second_bias, dense, dense_bias, last, last_bias]


def _adam(params: list[Array], slopes: list[Array], moments: list[tuple[Array, Array]], step: int, rate: float) -> None:
    for at, slope in enumerate(slopes):
        mean, square = moments[at]
        mean += np.float32(0.1) * (slope - mean)
        square += np.float32(0.001) * (slope * slope - square)
        spread: Array = np.sqrt(square / np.float32(1 - 0.999**step)) + np.float32(1e-8)
        scaled: Array = np.float32(rate) * (mean / np.float32(1 - 0.9**step))
        moved: Array = scaled / spread
        params[at] = params[at] - moved


def _softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    made: Array = powers / powers.sum(axis=1, keepdims=True)
    return made


def _graph(model: Model, size: int, channels: int) -> onnx.ModelProto:
    first, first_bias, second, second_bias, dense, dense_bias, last, last_bias = model.weights
    width = first.shape[1]

    def kernel(matrix: Array, inputs: int) -> Array:  # (row, column, in) x out -> ONNX's out, in, row, column
        made: Array = np.ascontiguousarray(matrix.reshape(3, 3, inputs, -1).transpose(3, 2, 0, 1))
        return made

    # The graph flattens channel first, training flattened channel last: permute the rows of the dense layer once, here.
    quarter = size // 4
    moved = dense.reshape(quarter, quarter, 2 * width, -1).transpose(2, 0, 1, 3).reshape(dense.shape)
    constants = {
        "scale": np.array(SCALE / 255, np.float32),
        "offset": np.array(MEAN * SCALE, np.float32),
        "conv1.weight": kernel(first, channels),
        "conv1.bias": first_bias,
        "conv2.weight": kernel(second, width),
        "conv2.bias": second_bias,
        "dense.weight": np.ascontiguousarray(moved),
        "dense.bias": dense_bias,
        "last.weight": last,
        "last.bias": last_bias,
        "temperature": np.array(model.temperature, np.float32),
    }
    conv: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    pool: dict[str, Any] = {"kernel_shape": [2, 2], "strides": [2, 2]}
    nodes = [
        helper.make_node("Cast", ["image"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["cast", "scale"], ["scaled"]),
        helper.make_node("Sub", ["scaled", "offset"], ["normal"]),
        helper.make_node("Transpose", ["normal"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["nchw", "conv1.weight", "conv1.bias"], ["conv1"], **conv),
        helper.make_node("Relu", ["conv1"], ["relu1"]),
        helper.make_node("MaxPool", ["relu1"], ["pool1"], **pool),
        helper.make_node("Conv", ["pool1", "conv2.weight", "conv2.bias"], ["conv2"], **conv),
        helper.make_node("Relu", ["conv2"], ["relu2"]),
        helper.make_node("MaxPool", ["relu2"], ["pool2"], **pool),
        helper.make_node("Flatten", ["pool2"], ["flat"]),
        helper.make_node("Gemm", ["flat", "dense.weight", "dense.bias"], ["dense"]),
        helper.make_node("Relu", ["dense"], ["hidden"]),
        helper.make_node("Gemm", ["hidden", "last.weight", "last.bias"], ["logits"]),
        helper.make_node("Div", ["logits", "temperature"], ["calibrated"]),
        helper.make_node("Softmax", ["calibrated"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "image-classification",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", size, size, channels])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", len(model.labels)])],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="marram")
    made.ir_version = 8  # what engines of 2023 and later read
    onnx.checker.check_model(made)
    return made
