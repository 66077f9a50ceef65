"""Hyper-parameters of the tasks: names, defaults and ranges. Light, so that the hub refuses a wrong one when it is asked.

SageMaker's hyper-parameters are strings; every one of ours is a number. `seed` is of all tasks.
"""

from collections.abc import Mapping
from typing import Final

from marram.core.errors import Invalid

SEED: Final = "seed"
OPTIONS: Final[Mapping[str, Mapping[str, tuple[float, float, float]]]] = {  # task -> name -> default, least, most
    "image-classification": {
        "epochs": (60, 1, 1000),
        "batch_size": (32, 1, 1024),
        "learning_rate": (0.002, 1e-6, 1.0),
        "size": (16, 8, 64),
        "channels": (1, 1, 3),
        "width": (16, 2, 64),
        "hidden": (96, 4, 1024),
        "rotation": (4.0, 0.0, 180.0),
        "shift": (0.06, 0.0, 0.5),
        "dropout": (0.3, 0.0, 0.9),
        "smoothing": (0.02, 0.0, 0.5),
    },
}


def check(task: str, options: Mapping[str, str]) -> None:
    """Raises Invalid naming the first that the task does not know, or whose value it does not take."""
    known = OPTIONS[task]
    for name, text in options.items():
        if name == SEED:
            if not (text.isascii() and text.isdecimal()):
                raise Invalid(f"hyper-parameter seed: {text[:40]!r} is not a whole number")
        elif name not in known:
            raise Invalid(f"hyper-parameter {name[:80]!r} is not one of {', '.join(sorted([*known, SEED]))}")
        else:
            value(task, options, name)


def value(task: str, options: Mapping[str, str], name: str) -> float:
    """One as a number within its range, or its default. Raises Invalid."""
    default, least, most = OPTIONS[task][name]
    text = options.get(name)
    if text is None:
        return default
    try:
        number = float(text)
    except ValueError as exc:
        raise Invalid(f"hyper-parameter {name}: {text[:40]!r} is not a number") from exc
    if not least <= number <= most:  # false for NaN too
        raise Invalid(f"hyper-parameter {name}: {text[:40]} is not within {least:g} to {most:g}")
    return number
