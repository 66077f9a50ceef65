"""A sample of the bench of searches, for what it asks and not for how long that takes; all of it with MARRAM_FULL=1."""

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

FULL = bool(os.environ.get("MARRAM_FULL"))
BENCH = Path(__file__).resolve().parents[1] / "bench" / "search_bench.py"


@pytest.fixture
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("search_bench", BENCH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["search_bench"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.timeout(1800 if FULL else 60)
def test_searches_of_a_large_fleet_find_what_is_there(bench: ModuleType) -> None:
    found = bench.measure(1_000_000 if FULL else 10_000, calls=200 if FULL else 5)
    assert found["built_per_s"] > 0  # the index of things that were there before it, and of those that came after
    if FULL:
        assert all(found[name]["p99_ms"] <= 50 for name in bench.QUERIES), found
        assert found["dynamic_group_of_a_tenth_s"] <= 5, found
