"""Which crops are labelled, and what they weigh."""

from typing import Any

from demo import step5_retrain as step


def item(label: str, margin: float, reason: str = "margin") -> dict[str, Any]:
    return {"label": label, "margin": margin, "reason": reason}


def test_every_class_has_its_turn_random_ones_first_then_the_hardest() -> None:
    hard = [item("7", 0.1), item("7", 0.2), item("7", 0.3), item("0", 0.8), item("0", 0.9, "random")]
    chosen = step._choose(hard, 4)
    assert [(each["label"], each["margin"]) for each in chosen] == [("0", 0.9), ("7", 0.1), ("0", 0.8), ("7", 0.2)]
    assert len(step._choose(hard, 99)) == 5


def test_each_class_weighs_the_same() -> None:
    lines = [
        {"source-ref": f"s3://b/{at}", "group": str(at), "label-metadata": {"class-name": label}}
        for at, label in enumerate("777110")
    ]
    made = step._weighted(lines)
    total = {label: sum(line["weight"] for line in made if line["label"] == label) for label in "710"}
    assert all(abs(weight - step.WEIGHT * 2) < 0.01 for weight in total.values())
    assert {line["split"] for line in made} == {"train"}
