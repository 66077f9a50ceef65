"""The configuration tree on disk: read from config.yaml once and when it changes, kept over restarts, told to listeners."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from marram.core.errors import Invalid, NotFound, VersionConflict
from marram.edge.main import MIGRATIONS
from marram.edge.nucleus.config import Config
from marram.kit.clock import FakeClock
from marram.kit.db import Db

YAML = """
system:
  thingName: core-1
  rootCaPath: /x/ca.pem
services:
  aws.greengrass.NucleusLite:
    componentType: NUCLEUS
    configuration:
      awsRegion: local-1
      mqtt: {port: 8883}
  com.ex.A:
    configuration: {a: [1, 2], b: {c: yes}}
"""


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def db(tmp_path: Path, clock: FakeClock) -> Iterator[Db]:
    made = Db.open(tmp_path / "state.db", clock=clock, migrations=MIGRATIONS)
    yield made
    made.close()


async def test_the_file_is_read_and_survives_a_restart(tmp_path: Path, db: Db) -> None:
    (tmp_path / "config.yaml").write_text(YAML)
    Config(db).read_file(tmp_path)
    (tmp_path / "config.yaml").unlink()
    again = Config(db)
    again.read_file(tmp_path)
    assert again.thing_name == "core-1"
    assert again.nucleus("mqtt", "port") == 8883
    assert again.get("com.ex.A") == {"a": [1, 2], "b": {"c": "yes"}}
    with pytest.raises(NotFound):
        again.get("com.ex.B")
    with pytest.raises(NotFound):
        again.get("com.ex.A", ["b", "d"])


async def test_what_a_person_changed_in_the_file_counts_and_the_rest_stays(
    tmp_path: Path, db: Db, clock: FakeClock
) -> None:
    (tmp_path / "config.yaml").write_text(YAML)
    config = Config(db)
    config.read_file(tmp_path)
    await config.update("com.ex.A", ["own"], 7, clock.wall_ms())
    clock.advance(1000)
    config.read_file(tmp_path)
    (tmp_path / "config.yaml").write_text(YAML.replace("port: 8883", "port: 1883"))
    config.read_file(tmp_path)
    assert config.nucleus("mqtt", "port") == 1883
    assert config.get("com.ex.A", ["own"]) == 7


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("sistem: {}", "sistem: unknown key", id="top"),
        pytest.param("system: {thing: x}", "system.thing: unknown key", id="system"),
        pytest.param("services: {a: {config: {}}}", "services.a.config: unknown key", id="service"),
        pytest.param("services: {a: {configuration: []}}", "services.a.configuration", id="configuration"),
        pytest.param("a: [", "not YAML", id="torn"),
    ],
)
async def test_a_bad_file_is_refused_with_its_place(tmp_path: Path, db: Db, text: str, words: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    config = Config(db)
    with pytest.raises(Invalid, match=words):
        config.read_file(tmp_path)
    assert config.components() == []


async def test_listeners_hear_what_they_asked_for(db: Db) -> None:
    config = Config(db)
    heard: list[tuple[str, Sequence[str]]] = []
    end = config.subscribe("a", ["x"], lambda component, leaf: heard.append((component, leaf)))
    config.subscribe("a", [], lambda component, leaf: 1 / 0)  # another's fault is not ours
    await config.update("a", [], {"x": {"y": 1}, "z": 1}, 10)
    await config.update("a", ["x", "y"], 1, 20)  # the same value: nobody is told
    await config.update("b", ["x"], 1, 20)
    end()
    await config.update("a", ["x"], 2, 30)
    assert heard == [("a", ("x", "y"))]
    assert config.get("a") == {"x": 2, "z": 1}


async def test_a_stale_update_changes_nothing(db: Db) -> None:
    config = Config(db)
    await config.update("a", ["x"], 1, 100)
    with pytest.raises(VersionConflict):
        await config.update("a", [], {"x": 2, "new": 1}, 99)
    assert config.get("a") == Config(db).get("a") == {"x": 1}
