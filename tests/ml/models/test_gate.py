"""Each reason of the gate, alone."""

from typing import Any

import pytest

from marram.core import recipe
from marram.ml.models import gate, service


def evaluation(**change: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "models": [{"accuracy": 0.95, "ece": 0.02, "finite": True}, {"accuracy": 0.94, "ece": 0.02, "finite": True}],
        "lead": {"accuracy": 0.01, "interval": [-0.005, 0.03]},
        "slices": {"7": {"lead": 0.0, "interval": [-0.05, 0.05]}},
        "speed": 1.0,
    }
    candidate = {key: change.pop(key) for key in ("accuracy", "ece", "finite") if key in change}
    base["models"][0] |= candidate
    return base | change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param({}, None, id="passes"),
        pytest.param({"ece": 0.051}, "calibration", id="uncalibrated"),
        pytest.param({"ece": float("nan")}, "calibration", id="NaN"),
        pytest.param({"finite": False}, "NaN", id="answers NaN"),
        pytest.param({"lead": {"accuracy": -0.003, "interval": [-0.005, 0.0]}}, "under the incumbent", id="worse"),
        pytest.param({"lead": {"accuracy": -0.001, "interval": [-0.02, 0.02]}}, "interval", id="not sure"),
        pytest.param({"slices": {"7": {"lead": -0.1, "interval": [-0.2, -0.01]}}}, "class 7", id="a class is worse"),
        pytest.param({"slices": {"7": {"lead": -0.033, "interval": [-0.1, 0.0]}}}, None, id="one sample is chance"),
        pytest.param({"speed": 0.8}, "speed", id="slow"),
    ],
)
def test_gate(change: dict[str, Any], words: str | None) -> None:
    reasons = gate.judge(evaluation(**change))
    assert (not reasons) if words is None else (len(reasons) == 1 and words in reasons[0])


def test_first_version_needs_no_incumbent_but_its_least_accuracy() -> None:
    alone = {"models": [{"accuracy": 0.9, "ece": 0.01, "finite": True}]}
    assert gate.judge(alone) == []
    assert "0.9700" in gate.judge(alone, least_accuracy=0.97)[0]


def test_recipe_of_a_model_is_one_that_a_core_takes() -> None:
    made = service.recipe("com.example.m", "1.0.0", "s3://b/k.zip", {"name": "m", "version": 1}, {"regions": []})
    parsed = recipe.parse(made)
    assert parsed.health.errors == 1 and "{work:path}/ready" in parsed.health.script
