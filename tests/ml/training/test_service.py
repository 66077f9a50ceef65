"""Programs of users as training jobs: SageMaker's paths are there, the hub's are not, and nothing of it comes out by a link."""

import asyncio
import io
import json
import tarfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from marram.core.errors import Conflict, Invalid, Unsupported
from marram.kit import sandbox
from marram.ml.training import contract


@asynccontextmanager
async def running(stores: Any) -> Any:
    task = asyncio.ensure_future(stores.training.run())
    try:
        async with asyncio.timeout(30):
            yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def submit(stores: Any, name: str, script: str, **more: Any) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        entry = tarfile.TarInfo("train.py")
        entry.size = len(script.encode())
        archive.addfile(entry, io.BytesIO(script.encode()))
    await stores.objects.put("work", f"{name}.tar.gz", buffer.getvalue())
    await stores.objects.put("work", "data/a.csv", b"1")
    request = stores.job(name, "s3://work/data/", **more)
    request["AlgorithmSpecification"]["TrainingImage"] = "marram/python"
    source = {"S3DataType": "S3Prefix", "S3Uri": "s3://work/data/"}
    request["InputDataConfig"][0]["DataSource"]["S3DataSource"] = source
    request["HyperParameters"] = {
        "sagemaker_program": "train.py", "sagemaker_submit_directory": f"s3://work/{name}.tar.gz", "epochs": "3",
    }  # fmt: skip
    await stores.training.create(request)


async def test_a_program_with_sagemakers_paths_written_into_it_trains(stores: Any) -> None:
    await submit(
        stores,
        "paths",
        """
import json, os, tempfile
assert json.load(open("/opt/ml/input/config/hyperparameters.json"))["epochs"] == "3"
assert json.load(open("/opt/ml/input/config/resourceconfig.json"))["current_host"] == "algo-1"
assert os.getcwd() == "/opt/ml/code" and __file__ == "/opt/ml/code/train.py"
paths = {key: value for key, value in os.environ.items() if key.startswith("SM_") and value.startswith("/")}
assert all(value.startswith("/opt/ml/") and os.path.isdir(value) for value in paths.values()), paths
assert paths["SM_CHANNEL_TRAIN"] == "/opt/ml/input/data/train" and paths["SM_MODEL_DIR"] == "/opt/ml/model"
tempfile.TemporaryFile().write(b"x")
open(os.path.expanduser("~/.cache"), "w")
json.dump({"accuracy": 0.5}, open("/opt/ml/output/data/metrics.json", "w"))
open("/opt/ml/model/weights", "w").write(open("/opt/ml/input/data/train/a.csv").read() + os.environ["MINE"])
""",
        Environment={"MINE": "!"},
    )
    async with running(stores):
        ended = await stores.training.finished("paths")
        assert ended["status"] == "Completed", ended
        assert await stores.training.model("paths") == {"weights": b"1!"}
        assert [metric[:2] for metric in ended["metrics"]] == [["accuracy", 0.5]]


async def test_a_program_sees_nothing_of_the_hub(stores: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARRAM_SECRET", "of-the-hub")
    secrets = [stores.folder / name for name in ("pki/master.key", "hub.json", "hub.db", "jobs/other/opt/ml/model/m")]
    for path in secrets:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.exists() or path.write_text("secret")
    look = f"""
import os, sys
found = [p for p in {[str(path) for path in secrets]!r} if os.path.exists(p)]
found += [k for k, v in os.environ.items() if "of-the-hub" in v or {str(stores.folder)!r} in v]
"""
    seen: dict[str, Any] = {}
    exec(look, seen)
    assert len(seen["found"]) >= len(secrets) + 1, "the same look finds them outside"
    await submit(stores, "look", look + "open('/opt/ml/model/found', 'w').write(repr(found))")
    async with running(stores):
        await stores.training.finished("look")
        assert await stores.training.model("look") == {"found": b"[]"}


async def test_links_that_a_program_leaves_are_not_followed(stores: Any) -> None:
    secret = stores.folder / "pki"
    secret.mkdir()
    (secret / "failure").write_text("master-secret")
    (secret / "data").mkdir()
    (secret / "data/metrics.json").write_text('{"secret": 42}')
    await submit(stores, "model", f"import os; os.rmdir('/opt/ml/model'); os.symlink({str(secret)!r}, '/opt/ml/model')")
    await submit(
        stores,
        "failure",
        f"import os; os.symlink({str(secret / 'failure')!r}, '/opt/ml/output/failure'); raise SystemExit(1)",
    )
    await submit(
        stores,
        "output",
        "import os; os.rename('/opt/ml/output', '/opt/ml/o'); "
        f"os.symlink({str(secret)!r}, '/opt/ml/output'); os.symlink({str(secret / 'failure')!r}, '/opt/ml/model/m')",
    )
    async with running(stores):
        ended = await stores.training.finished("model")
        assert ended["status"] == "Failed" and "/opt/ml/model cannot be read: a link" in ended["failure"]
        ended = await stores.training.finished("failure")
        assert ended["status"] == "Failed" and "exit code 1" in ended["failure"] and "secret" not in ended["failure"]
        ended = await stores.training.finished("output")
        assert ended["status"] == "Completed" and ended["metrics"] == []
        assert await stores.training.model("output") == {}
        with pytest.raises(Conflict):
            await stores.training.model("model")


async def test_a_stop_ends_a_program(stores: Any) -> None:
    await submit(stores, "long", "import time; open('/opt/ml/model/up', 'w'); time.sleep(600)")
    async with running(stores):
        while not (stores.folder / "jobs/long/opt/ml/model/up").exists():
            await asyncio.sleep(0.01)
        await stores.training.stop("long")
        assert (await stores.training.finished("long"))["status"] == "Stopped"


async def test_without_namespaces_programs_are_refused_by_name_and_built_in_tasks_are_not(
    stores: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "_answer", ["no user namespaces here"])
    with pytest.raises(Unsupported, match=r"marram/python needs .*: no user namespaces here"):
        await submit(stores, "no", "")
    await stores.training.create(stores.job("yes", await stores.pictures("good", 8)))


async def test_an_environment_never_reaches_a_process_outside_of_a_sandbox(stores: Any) -> None:
    uri = await stores.pictures("good", 8)
    with pytest.raises(Unsupported, match="Environment"):
        await stores.training.create(stores.job("preload", uri, Environment={"LD_PRELOAD": "/tmp/x.so"}))


def test_what_a_program_left_is_read_when_it_is_a_file(tmp_path: Path) -> None:
    import os

    (tmp_path / "output").mkdir()
    os.mkfifo(tmp_path / "output/failure")
    assert contract.failure(tmp_path) == "", "a FIFO would block the hub for ever"
    (tmp_path / "output/failure").unlink()
    (tmp_path / "output/failure").write_text("x" * 5000)
    assert contract.failure(tmp_path) == "x" * 1024
    with pytest.raises(Invalid):
        contract.check_folder(tmp_path, "model")
    assert json.loads(contract.left(tmp_path, "none/there", 10) or b"null") is None
