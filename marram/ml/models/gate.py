"""The promotion gate: may this model replace that one? Figures in, reasons for a refusal out. Pure.

Source: our choice (reference of the learning loop, section 6): all must hold on the frozen gate set. A class counts as worse
only when its drop is beyond 2 points *and* its interval lies below zero: with 30 samples a class one of them is 3 points.
"""

from collections.abc import Mapping
from typing import Any, Final

MARGIN: Final = 0.002
LOWER_BOUND: Final = -0.01
SLICE_MARGIN: Final = 0.02
MAX_ECE: Final = 0.05
MIN_SPEED: Final = 0.9


def judge(evaluation: Mapping[str, Any], *, least_accuracy: float = 0.0) -> list[str]:
    """`evaluation` of the candidate alone or (candidate, incumbent). An empty list is a pass."""
    candidate = evaluation["models"][0]
    reasons: list[str] = []
    accuracy, ece = float(candidate["accuracy"]), float(candidate["ece"])
    if not candidate["finite"]:
        reasons.append("it answers with NaN or infinity")
    if accuracy < least_accuracy:
        reasons.append(f"accuracy {accuracy:.4f} is under the {least_accuracy:.4f} asked for")
    if not ece <= MAX_ECE:
        reasons.append(f"calibration error {ece:.4f} is over {MAX_ECE}")
    if len(evaluation["models"]) == 1:
        return reasons
    lead, (low, high) = float(evaluation["lead"]["accuracy"]), evaluation["lead"]["interval"]
    if lead < -MARGIN:
        reasons.append(f"accuracy is {-lead * 100:.2f} points under the incumbent's; {MARGIN * 100:.1f} are allowed")
    elif low <= LOWER_BOUND:
        reasons.append(
            f"the lead's interval [{low * 100:.2f}, {high * 100:.2f}] points reaches under {LOWER_BOUND * 100:.0f}"
        )
    for name, part in evaluation["slices"].items():
        if part["lead"] < -SLICE_MARGIN and part["interval"][1] < 0:
            reasons.append(f"class {name} is {-part['lead'] * 100:.1f} points worse, beyond chance")
    if evaluation["speed"] < MIN_SPEED:
        reasons.append(f"speed is {evaluation['speed']:.2f} of the incumbent's; {MIN_SPEED} is needed")
    return reasons
