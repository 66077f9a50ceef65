"""The compiled build: what it compiles is there, and behaves as the pure one does by the same suite (MARRAM_FULL=1: it takes a minute)."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.full import FULL
from tools import compiled

ROOT = Path(__file__).resolve().parents[2]
SUITE = ("core/mqtt", "core/test_topic.py", "hub/broker")
SEEN = """
import json, sys
sys.modules["mypy_extensions"] = None  # is not installed with the wheel
import importlib
print(json.dumps([importlib.import_module(name).__file__ for name in sys.argv[1:]]))
"""


def test_the_modules_of_the_way_of_a_message_are_compiled() -> None:
    found = compiled.modules()
    assert {"marram/core/topic.py", "marram/hub/broker/route.py", "marram/hub/broker/session.py"} <= set(found)
    assert {path.name for path in (ROOT / "marram/core/mqtt").glob("*.py")} == {
        Path(path).name for path in found if path.startswith("marram/core/mqtt/")
    }


def test_a_module_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.marram]\ncompiled = ["marram/core/topics.py"]\n')
    with pytest.raises(compiled.CompileError, match=r"marram/core/topics\.py"):
        compiled.modules(tmp_path)


@pytest.mark.skipif(not FULL, reason="MARRAM_FULL=1: compiles, and runs the suite of broker and codec once more")
@pytest.mark.timeout(600)
def test_the_same_suite_passes_on_the_compiled_build(tmp_path: Path) -> None:
    made = compiled.build(tmp_path)
    assert len(made) == len(compiled.modules()) + 1  # and the one that holds the code
    environ = {**os.environ, "PYTHONPATH": str(tmp_path)}
    environ.pop("MARRAM_FULL")
    names = ["marram.core.topic", "marram.core.mqtt.connection", "marram.hub.broker.session", "marram.hub.broker.route"]
    seen = subprocess.run(
        [sys.executable, "-c", SEEN, *names], cwd=tmp_path, env=environ, capture_output=True, text=True, check=True
    )
    assert all(path.startswith(str(tmp_path)) and path.endswith(".so") for path in json.loads(seen.stdout))
    shutil.copytree(ROOT / "tests", tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__", "bench"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    suite = [str(tmp_path / "tests" / name) for name in SUITE]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", f"--basetemp={tmp_path / 'base'}", *suite],
        cwd=tmp_path, env=environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
