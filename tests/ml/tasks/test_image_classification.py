"""The contract of a task: same seed same bytes, exported agrees with trained, bad data refused by name."""

import numpy as np
import onnxruntime
import pytest

from marram.components.infer import prepare
from marram.core.errors import Invalid, Unsupported
from marram.ml import tasks
from marram.ml.tasks import Sample
from marram.ml.tasks.image_classification import ImageClassification, expected_calibration_error

OPTIONS = {"epochs": "6", "width": "4", "hidden": "16", "size": "8"}


def samples(count: int = 60, classes: int = 3, seed: int = 1) -> list[Sample]:
    """Bars at a place that depends on the class, in noise."""
    rng = np.random.default_rng(seed)
    made = []
    for at in range(count):
        image = rng.integers(0, 60, (8, 8, 1), dtype=np.uint8)
        image[:, 2 * (at % classes) + 1] = 255
        made.append(Sample(data=prepare.encode_png(image), label=f"bar{at % classes}", name=f"s{at}"))
    return made


def test_task_is_found_by_name() -> None:
    assert "image-classification" in tasks.names()
    assert isinstance(tasks.load("image-classification"), ImageClassification)
    with pytest.raises(Unsupported, match="image-classification"):
        tasks.load("telepathy")


def test_learns_and_same_seed_gives_same_bytes() -> None:
    task = ImageClassification()
    data = task.prepare(samples(), options=OPTIONS)
    graphs = [task.export(task.fit(data, seed=7, options=OPTIONS)).graph for _ in range(2)]
    other = task.export(task.fit(data, seed=8, options=OPTIONS)).graph
    assert graphs[0] == graphs[1]
    assert graphs[0] != other
    held_out = task.prepare(samples(90, seed=2), options=OPTIONS, labels=data.labels)
    model = task.fit(data, seed=7, options={**OPTIONS, "epochs": "40"})
    assert task.evaluate(model, held_out)["accuracy"] > 0.9


@pytest.mark.parametrize("channels", ["1", "3"])
def test_exported_graph_agrees_with_trained_net(channels: str) -> None:
    task = ImageClassification()
    options = {**OPTIONS, "channels": channels, "size": "12"}
    data = task.prepare(samples(), options=options)
    model = task.calibrate(task.fit(data, seed=3, options=options), data)
    session = onnxruntime.InferenceSession(task.export(model).graph, providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {"image": data.images})
    np.testing.assert_allclose(answer, task.probabilities(model, data.images), atol=1e-5)


def test_calibration_keeps_every_answer_and_lowers_the_loss() -> None:
    task = ImageClassification()
    data = task.prepare(samples(), options=OPTIONS)
    raw = task.fit(data, seed=3, options=OPTIONS)
    made = task.calibrate(raw, data)
    before, after = task.evaluate(raw, data), task.evaluate(made, data)
    assert after["accuracy"] == before["accuracy"]
    assert after["loss"] <= before["loss"] + 1e-6


def test_one_class_is_refused() -> None:
    task = ImageClassification()
    with pytest.raises(Invalid, match="at least 2 classes"):
        task.fit(task.prepare(samples(classes=1), options=OPTIONS), seed=1, options=OPTIONS)


def test_tiny_data_train() -> None:
    task = ImageClassification()
    model = task.fit(task.prepare(samples(2, classes=2), options=OPTIONS), seed=1, options=OPTIONS)
    assert model.labels == ("bar0", "bar1")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        pytest.param({"epochs": "nan"}, "epochs", id="NaN"),
        pytest.param({"epochs": "many"}, "not a number", id="text"),
        pytest.param({"size": "18"}, "multiple of 4", id="size"),
        pytest.param({"learning_rate": "-1"}, "learning_rate", id="range"),
    ],
)
def test_bad_options_are_refused(options: dict[str, str], words: str) -> None:
    task = ImageClassification()
    with pytest.raises(Invalid, match=words):
        task.fit(task.prepare(samples(), options=options), seed=1, options=options)


def test_bad_samples_are_named() -> None:
    task = ImageClassification()
    good = samples()
    with pytest.raises(Invalid, match="s-bad"):
        task.prepare([*good, Sample(data=b"GIF89a", label="bar0", name="s-bad")], options=OPTIONS)
    with pytest.raises(Invalid, match="weight"):
        task.prepare([Sample(data=good[0].data, label="a", weight=float("nan"))], options=OPTIONS)
    with pytest.raises(Invalid, match="'bar2'"):
        task.prepare(good, options=OPTIONS, labels=("bar0", "bar1"))
    with pytest.raises(Invalid, match="no samples"):
        task.prepare([], options=OPTIONS)


def test_calibration_error_of_a_liar() -> None:
    sure = np.array([[0.99, 0.01]] * 10, np.float32)
    assert expected_calibration_error(sure, np.array([0] * 5 + [1] * 5)) == pytest.approx(0.49, abs=1e-3)
