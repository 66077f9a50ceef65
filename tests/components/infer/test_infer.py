"""The component as a whole, with generated frames, against a nucleus that remembers."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from marram.components.infer import engine, main, probe
from marram.core import recipe
from marram.core.errors import Corrupt, Invalid
from marram.kit import yaml_bounded

BASE: dict[str, Any] = {
    "source": {"kind": "generated", "fps": 0, "frames": 60, "loop": True},
    "queue": {"policy": "block"},
    "engine": {"threads": 1},
    "results": {"batch": 7, "wait_ms": 20, "ledger": True},
    "feedback": {"enabled": False},
}


@pytest.fixture(name="run")
def _run(Nucleus: Any) -> Any:
    async def run(bars: Path, work: Path, tree: dict[str, Any]) -> tuple[Any, int]:
        nucleus = Nucleus(tree)
        made = main.Infer(nucleus, main.parse(tree), bars, work, "box-1")
        async with asyncio.timeout(20):
            return nucleus, await made.run()

    return run


def numbers(messages: list[dict[str, Any]]) -> list[int]:
    return [frame["frame"] for message in messages for frame in message["frames"]]


async def test_every_frame_is_published_exactly_once_and_right(bars: Path, tmp_path: Path, run: Any) -> None:
    nucleus, code = await run(bars, tmp_path, BASE)
    assert code == main.STOPPED
    messages = [message for _, message in nucleus.hub]
    assert numbers(messages) == list(range(60))
    assert {topic for topic, _ in nucleus.hub} == {"marram/box-1/predictions"}
    first = messages[0]
    assert first["ids"] == f"{first['run']}:0-6" and first["count"] == 7 and first["readings"].startswith("0,1,2,3")
    seen = first["frames"][0]["objects"][0]
    assert seen["label"] == "0" and 0 < seen["confidence"] <= 1 and seen["box"] == [0, 0, 16, 16]
    lines = (tmp_path / "frames.log").read_text().splitlines()
    assert [line.split()[0] for line in lines[:2]] == ["sending", "sent"]
    assert messages[-1]["read"] == 60 and messages[-1]["dropped"] == 0 and messages[-1]["raw_bytes"] == 60 * 256


async def test_frames_that_stay_local_never_leave(bars: Path, tmp_path: Path, run: Any) -> None:
    nucleus, _ = await run(bars, tmp_path, {**BASE, "stay_local": {"every": 10, "canary": "CANARY-1"}})
    left = numbers([message for _, message in nucleus.hub])
    stayed = [message for topic, message in nucleus.local if topic == "marram/local/predictions"]
    assert sorted(numbers(stayed)) == list(range(9, 60, 10))
    assert sorted(left + numbers(stayed)) == list(range(60))
    assert all(message["canary"] == "CANARY-1" for message in stayed)
    assert "CANARY-1" not in str(nucleus.hub)


async def test_a_label_at_a_place_sets_off_a_local_message(bars: Path, tmp_path: Path, run: Any) -> None:
    decision = {"topic": "relays/{thing}/set", "label": "2", "region": 0.0, "payload": {"state": "open"}}
    nucleus, _ = await run(bars, tmp_path, {**BASE, "decisions": [decision]})
    fired = [message for topic, message in nucleus.local if topic == "relays/box-1/set"]
    assert [message["frame"] for message in fired] == list(range(2, 60, 4))
    assert fired[0]["state"] == "open" and fired[0]["label"] == "2" and fired[0]["due_ns"] > 0


async def test_feedback_leaves_within_the_budget(bars: Path, tmp_path: Path, Nucleus: Any) -> None:
    feedback = {"every": 1, "window_s": 0.05, "per_window": 5, "near": 0.0, "bytes_per_day": 1500}
    source = {"kind": "generated", "fps": 200.0, "frames": 0}
    tree = {**BASE, "source": source, "feedback": feedback}
    nucleus = Nucleus(tree)
    made = main.Infer(nucleus, main.parse(tree), bars, tmp_path, "box-1")
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(made.run())
        while not any("feedback" in topic for topic, _ in nucleus.hub):
            nucleus.arrived.clear()
            await nucleus.arrived.wait()
        nucleus.closed.set()
        assert await running == main.LOST
    sent = [message for topic, message in nucleus.hub if topic == "$marram/things/box-1/feedback"]
    assert sent and sum(len(str(message)) for message in sent) < 3000
    assert {"sha256", "image", "propensity", "reason", "model", "thing"} <= set(sent[0])


async def test_new_configuration_is_taken_while_running(bars: Path, tmp_path: Path, Nucleus: Any) -> None:
    tree = {**BASE, "source": {"kind": "generated", "fps": 200.0}}
    nucleus = Nucleus(tree)
    made = main.Infer(nucleus, main.parse(tree), bars, tmp_path, "box-1")
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(made.run())
        await nucleus.arrived.wait()
        while not (tmp_path / "ready").exists():  # the sign of life that the recipe's health script looks for
            nucleus.arrived.clear()
            await nucleus.arrived.wait()
        assert (tmp_path / "ready").read_text() == f"{bars}\n"
        nucleus.tree = {**tree, "results": {**BASE["results"], "topic": "other/{thing}"}}
        nucleus.changes.put_nowait({})
        while not any(topic == "other/box-1" for topic, _ in nucleus.hub):
            nucleus.arrived.clear()
            await nucleus.arrived.wait()
        made._finish(main.STOPPED)
        assert await running == main.STOPPED
    got = numbers([message for _, message in nucleus.hub])
    assert got == list(range(len(got)))


async def test_a_broken_source_ends_the_process_for_a_restart(bars: Path, tmp_path: Path, run: Any) -> None:
    pytest.importorskip("av")
    tree = {**BASE, "source": {"kind": "pyav", "uri": str(tmp_path / "absent.mp4")}}
    _, code = await run(bars, tmp_path, tree)
    assert code == main.LOST


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        pytest.param({"sources": {}}, "unknown key 'sources'", id="unknown key"),
        pytest.param({"source": {"fps": "fast"}}, "source.fps", id="type"),
        pytest.param({"queue": {"policy": "maybe"}}, "latest or block", id="policy"),
        pytest.param({"regions": [[1, 2, 0, 4]]}, "regions", id="empty region"),
        pytest.param({"decisions": [{"topic": "a"}]}, "label", id="decision"),
        pytest.param({"results": {"batch": 0}}, "batch", id="range"),
    ],
)
def test_bad_configuration_is_refused_by_name(tree: dict[str, Any], words: str) -> None:
    with pytest.raises(Invalid, match=words):
        main.parse(tree)


def test_the_recipes_configuration_is_accepted() -> None:
    text = (Path(main.__file__).parent / "recipe.yaml").read_bytes()
    parsed = recipe.parse(yaml_bounded.loads(text))
    tree = parsed.document["ComponentConfiguration"]["DefaultConfiguration"]
    assert main.parse(tree).batch == 15
    assert "accessControl" in tree


def test_garbage_is_caught_before_it_runs(make_bundle: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_bundle(tmp_path, canary_labels=["3", "2", "1", "0"] * 2)
    with pytest.raises(engine.GarbageModel, match="canaries"):
        engine.load(folder, threads=1)
    assert probe.main([str(folder)]) == 1
    assert "MRM-5001" in capsys.readouterr().err


def test_probe_and_damage(bars: Path, make_bundle: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert probe.main([str(bars)]) == 0
    assert '"right": 8' in capsys.readouterr().out
    folder = make_bundle(tmp_path)
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:-1])
    with pytest.raises(Corrupt):
        engine.load(folder)


def test_a_file_that_is_not_onnx_is_refused() -> None:
    with pytest.raises(Invalid, match="not an ONNX model"):
        engine.session(b"PK\x03\x04 not a model", 1)
