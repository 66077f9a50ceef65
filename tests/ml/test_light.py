"""The hub's process loads the learning slices without one heavy package."""

import subprocess
import sys

HEAVY = {"numpy", "onnx", "onnxruntime", "sklearn", "skl2onnx", "scipy", "av", "duckdb", "pyarrow"}
PROGRAM = """
import importlib, sys
for name in ("datasets", "training", "compilation", "models", "feedback", "labelling"):
    importlib.import_module(f"marram.ml.{name}")
    importlib.import_module(f"marram.ml.{name}.service")
    importlib.import_module(f"marram.ml.{name}.api")
import marram.ml.feedback.topics
print(*sorted({name.split(".")[0] for name in sys.modules}))
"""


def test_no_heavy_import_in_the_hub_process() -> None:
    out = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout
    assert not HEAVY & set(out.split())
