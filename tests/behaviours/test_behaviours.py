"""Every row against a hub of this build, and the page that the rows write."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.behaviours import page
from tests.behaviours.row import Row
from tests.behaviours.world import Endpoint, World, opened

ROWS = page.load()


@pytest.fixture(scope="module")
def world(shared_hub: Any) -> Iterator[World]:
    with opened(Endpoint.of_hub(shared_hub.info)) as made:
        yield made


@pytest.mark.parametrize("row", [pytest.param(row, id=row.id) for row in ROWS])
def test_row(world: World, row: Row) -> None:
    if row.slow and not os.environ.get("MARRAM_FULL"):
        pytest.skip("slow: runs in make test-full")
    try:
        if row.differs:
            with pytest.raises(Exception):  # noqa: B017 - whatever it is that the row says
                row.run(world)
        else:
            row.run(world)
    finally:
        world.end_row()


def test_the_page_is_as_the_rows_write_it() -> None:
    text = page.PAGE.read_text()
    assert text == page.written(ROWS, text), "run: python -m tests.behaviours --write"


def test_a_row_that_is_wrong_fails(world: World) -> None:
    """The harness itself: an assertion of a row, and a call that is answered where a refusal is expected."""
    with pytest.raises(AssertionError, match="was answered"), world.refused("ResourceNotFoundException"):
        world.iot.list_things()
    with pytest.raises(AssertionError, match="code is"), world.refused("ThrottlingException"):
        world.iot.describe_thing(thingName="nobody")


def test_the_command_runs_rows_against_an_endpoint(world: World, tmp_path: Path) -> None:
    at = world.endpoint
    began = time.monotonic()
    run = subprocess.run(
        [sys.executable, "-m", "tests.behaviours", "--endpoint", str(at.api), "--region", at.region, "--json",
         "--mqtt", f"{at.mqtt[0]}:{at.mqtt[1]}", "--https", f"{at.https[0]}:{at.https[1]}",
         "--ca-file", str(at.ca_file), "--only", "things-create"],
        env={**os.environ, "AWS_ACCESS_KEY_ID": at.access_key_id, "AWS_SECRET_ACCESS_KEY": at.secret_access_key},
        capture_output=True, text=True, timeout=50, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert run.returncode == 0, run.stderr + run.stdout
    results = json.loads(run.stdout)
    assert results and all(result["result"] == "same" for result in results), results
    assert time.monotonic() - began < 50
