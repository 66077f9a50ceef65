"""A hundred thousand things, a tenth of what `make bench` takes: registered, described, listed, and a hub that starts with them."""

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

THINGS = 1_000_000 if os.environ.get("MARRAM_FULL") else 100_000
BENCH = Path(__file__).resolve().parents[1] / "bench" / "registry_bench.py"


@pytest.fixture
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("registry_bench", BENCH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["registry_bench"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.timeout(900 if os.environ.get("MARRAM_FULL") else 180)
def test_a_large_registry_is_as_quick_as_a_small_one(bench: ModuleType) -> None:
    found = bench.measure(THINGS)
    # By the hub's CPU time and by medians: other tests run beside this one. `make bench` has the wall clock and the p99.
    assert found["registered_per_s_core"] >= 2_000, found
    assert found["describe_cpu_ratio"] <= 2, found
    assert found["bytes_a_thing"] <= 2_048, found
    assert found["start_s"] <= 10, found
    for name in ("list_all", "list_of_type", "list_by_attribute", "list_by_prefix"):
        assert found[name]["ratio"] <= 30, found  # the goal is 2; a list that reads what it skips would show hundreds
    assert found["list_all"]["things"] == THINGS
