"""The core as a process: components run, come back, are replaced and rolled back, and survive the core."""

import base64
import hashlib
import io
import itertools
import json
import os
import pwd
import signal
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from marram.core import eventstream


def detail(row: Any) -> str:
    return str(row["detail"].get("detailed-deployment-status"))


def cause(row: Any) -> str:
    return str(row["detail"].get("deployment-failure-cause"))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_two_components_run_in_order_with_what_aws_promises_them(core: Any) -> None:
    core.up(PYTHONPATH="/nowhere", MARRAM_SECRET="x")
    core.artifact(
        "com.ex.A",
        "1.0.0",
        "a.py",
        "import json, os, sys, time\n"
        "print(json.dumps({'argv': sys.argv[1:], 'env': dict(os.environ), 'cwd': os.getcwd(), 'exe': sys.prefix}), flush=True)\n"
        "time.sleep(600)\n",
    )
    core.recipe(
        "com.ex.A",
        "1.0.0",
        {
            "setenv": {"MINE": "{configuration:/who}"},
            "run": "python3 {artifacts:path}/a.py {configuration:/list} {work:path}",
        },
        needs={"com.ex.B": "^1.0.0"},
        artifacts=[{"URI": "s3://bucket/a.py"}],
        ComponentConfiguration={"DefaultConfiguration": {"who": "me", "list": [1, 2]}},
    )
    core.recipe("com.ex.B", "1.2.0", {"startup": "touch started"})
    row = core.deploy(merge={"com.ex.A": "1.0.0"})
    assert (row["status"], detail(row)) == ("SUCCEEDED", "SUCCESSFUL")
    assert {(name, each["version"], each["state"]) for name, each in core.components().items()} == {
        ("com.ex.A", "1.0.0", "RUNNING"),
        ("com.ex.B", "1.2.0", "RUNNING"),
    }
    core.until(lambda: "argv" in core.log("com.ex.A"))
    said = json.loads(core.log("com.ex.A").partition("stdout: ")[2].splitlines()[0])
    assert said["argv"] == ["[1,2]", str(core.root / "work" / "com.ex.A")]
    assert said["cwd"] == str(core.root / "work" / "com.ex.A")
    assert said["env"]["MINE"] == "me"
    assert said["env"]["SVCUID"] == said["env"]["AWS_CONTAINER_AUTHORIZATION_TOKEN"]
    assert said["env"]["GGC_VERSION"]
    assert "PYTHONPATH" not in said["env"] and "MARRAM_SECRET" not in said["env"]
    assert said["exe"] == sys.prefix
    socket = said["env"]["AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT"]
    assert (Path(said["cwd"]) / socket).is_socket()
    lock = json.loads((core.root / "config" / "lock.json").read_text())["components"]
    digest = hashlib.sha256((core.artifacts / "com.ex.A/1.0.0/a.py").read_bytes()).hexdigest()
    assert lock["com.ex.A"]["artifacts"] == {"a.py": digest}


def test_a_killed_component_is_back_at_once_and_the_third_time_broken(core: Any) -> None:
    core.up()
    core.recipe("com.ex.A", "1.0.0", {"run": "sleep 600 & wait"})
    core.deploy(merge={"com.ex.A": "1.0.0"})
    for _ in range(2):
        pid = core.components()["com.ex.A"]["pid"]
        killed = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        core.until(lambda old=pid: core.components()["com.ex.A"]["pid"] not in (None, old))
        assert time.monotonic() - killed < 2
    os.kill(core.components()["com.ex.A"]["pid"], signal.SIGKILL)
    core.until_state("com.ex.A", "BROKEN")
    assert not any("sleep 600" in path.read_text() for path in commands(core))
    core.ask("restart", name="com.ex.A")
    core.until_state("com.ex.A", "RUNNING")


def commands(core: Any) -> list[Path]:
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"MARRAM_COMPONENT_OF={core.root}".encode() in path.read_bytes().split(b"\0"):
                found.append(path.with_name("cmdline"))
        except OSError:
            continue
    return found


@pytest.mark.parametrize(
    ("lifecycle", "members", "words"),
    [
        pytest.param({"run": "exit 3"}, {}, "BROKEN: run ended with exit code 3", id="crashes at start"),
        pytest.param({"startup": "exit 3"}, {}, "BROKEN", id="startup fails"),
        pytest.param({"startup": {"script": "sleep 600", "timeout": 0.2}}, {}, "within 0.2 s", id="startup hangs"),
        pytest.param(
            {"run": "sleep 600"},
            {"x-marram": {"health": {"script": "test -f ok", "interval_s": 0.1, "failures": 2}}},
            "not healthy: health script: exit code 1",
            id="starts and answers garbage",
        ),
        pytest.param(
            {"run": "sleep 0.1; exit 1"},
            {"x-marram": {"health": {"errors": 1}}},
            "failed: run ended",
            id="one error is enough",
        ),
    ],
)
def test_a_broken_version_is_rolled_back_by_itself(
    core: Any, lifecycle: Any, members: dict[str, Any], words: str
) -> None:
    core.up()
    core.recipe(
        "com.ex.A",
        "1.0.0",
        {"run": "while true; do date +%s.%N; sleep 0.05; done"},
        ComponentConfiguration={"DefaultConfiguration": {"speed": 1}},
    )
    core.recipe("com.ex.A", "2.0.0", lifecycle, **members)
    core.deploy(merge={"com.ex.A": "1.0.0"})
    row = core.deploy(merge={"com.ex.A": "2.0.0"}, configuration={"com.ex.A": {"MERGE": {"speed": 9}}})
    assert (row["status"], detail(row)) == ("FAILED", "FAILED_ROLLBACK_COMPLETE")
    assert words in cause(row)
    now = core.components()["com.ex.A"]
    assert (now["version"], now["state"]) == ("1.0.0", "RUNNING")
    assert core.ask("lock")["com.ex.A"]["version"] == "1.0.0"
    core.until(lambda: core.log("com.ex.A").rpartition("stdout: ")[2])
    times = [float(line.rpartition("stdout: ")[2]) for line in core.log("com.ex.A").splitlines() if "stdout: 1" in line]
    assert max(after - before for before, after in itertools.pairwise(times)) < 2.0
    # the configuration is the old one too
    again = core.deploy(merge={"com.ex.A": "1.0.0"})
    assert again["detail"]["changes"] == []


def zipped(entries: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return data.getvalue()


WRONG_DIGEST = base64.b64encode(hashlib.sha256(b"other").digest()).decode()


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        pytest.param(
            lambda core: core.recipe("com.ex.A", "2.0.0", {"runn": "x"}),
            "Manifests[0].Lifecycle.runn: unknown key",
            id="unknown key",
        ),
        pytest.param(
            lambda core: core.recipe(
                "com.ex.A", "2.0.0", {"run": "x"}, artifacts=[{"Uri": "s3://b/f", "Digest": WRONG_DIGEST}]
            ),
            "does not have the digest",
            id="bad digest",
        ),
        pytest.param(
            lambda core: core.recipe("com.ex.A", "2.0.0", {"run": "x"}, artifacts=[{"Uri": "s3://b/gone"}]),
            "gone is not in the artifacts folder",
            id="no artifact",
        ),
        pytest.param(
            lambda core: core.recipe("com.ex.A", "2.0.0", {"run": "x"}, needs={"com.ex.Z": "*"}),
            "no version of com.ex.Z fits: com.ex.A requires *",
            id="missing dependency",
        ),
        pytest.param(
            lambda core: (
                core.recipe("com.ex.A", "2.0.0", {"run": "x"}, needs={"com.ex.B": "*"}),
                core.recipe("com.ex.B", "1.0.0", {"run": "x"}, needs={"com.ex.A": "*"}),
            ),
            "circle: com.ex.A -> com.ex.B -> com.ex.A",
            id="circle",
        ),
        pytest.param(
            lambda core: core.recipe("com.ex.A", "2.0.0", {"install": "exit 7", "run": "x"}),
            "install ended with exit code 7",
            id="install fails",
        ),
        pytest.param(
            lambda core: core.recipe(
                "com.ex.A", "2.0.0", {"run": "x"}, artifacts=[{"Uri": "s3://b/z.zip", "Unarchive": "ZIP"}]
            ),
            "leads out",
            id="climbing archive",
        ),
        pytest.param(
            lambda core: core.recipe(
                "com.ex.A", "2.0.0", {"run": "x"}, artifacts=[{"Uri": "s3://b/f", "Unarchive": "ZIP"}]
            ),
            "not a ZIP",
            id="no archive",
        ),
        pytest.param(
            lambda core: None, "no version of com.ex.A fits: LOCAL_DEPLOYMENT requires 2.0.0", id="no such version"
        ),
    ],
)
def test_what_cannot_be_deployed_changes_nothing(core: Any, prepare: Any, words: str) -> None:
    core.up()
    core.recipe("com.ex.A", "1.0.0", {"run": "sleep 600"})
    core.deploy(merge={"com.ex.A": "1.0.0"})
    before = core.components()["com.ex.A"]
    core.artifact("com.ex.A", "2.0.0", "f", b"text")
    core.artifact("com.ex.A", "2.0.0", "z.zip", zipped({"../evil": b"x"}))
    prepare(core)
    row = core.deploy(merge={"com.ex.A": "2.0.0"})
    assert (row["status"], detail(row)) == ("FAILED", "FAILED_NO_STATE_CHANGE")
    assert words in cause(row)
    assert core.components()["com.ex.A"] == before
    assert not list((core.root / "incoming").iterdir())


def test_archives_are_unpacked_and_old_versions_go(core: Any) -> None:
    core.up()
    for version in ("1.0.0", "1.1.0"):
        core.artifact(
            "com.ex.A",
            version,
            "app.zip",
            zipped({"main.sh": b"exec sleep 600\n", "sub/data.txt": version.encode() + b"\n"}),
        )
        core.recipe(
            "com.ex.A",
            version,
            {"run": "cat {artifacts:decompressedPath}/app/sub/data.txt; sh {artifacts:decompressedPath}/app/main.sh"},
            artifacts=[{"Uri": "s3://b/app.zip", "Unarchive": "ZIP"}],
        )
        assert core.deploy(merge={"com.ex.A": version})["status"] == "SUCCEEDED"
        core.until(lambda text=version: f"stdout: {text}" in core.log("com.ex.A"))
    kept = [path.name for path in (core.root / "packages/artifacts-unarchived/com.ex.A").iterdir()]
    assert kept == ["1.1.0"]


def test_removal_needs_a_name_that_is_there(core: Any) -> None:
    core.up()
    core.recipe("com.ex.A", "1.0.0", {"run": "sleep 600", "uninstall": "touch ../../gone"}, needs={"com.ex.B": "*"})
    core.recipe("com.ex.B", "1.0.0", {"run": "sleep 600"})
    core.deploy(merge={"com.ex.A": "1.0.0"})
    refused = core.deploy(remove=["com.ex.B"])
    assert "no root component" in cause(refused)
    assert core.deploy(remove=["com.ex.A"])["status"] == "SUCCEEDED"
    assert core.components() == {} and (core.root / "gone").exists()


def test_configuration_changes_restart_only_what_reads_it_in_a_script(core: Any) -> None:
    core.up()
    core.recipe(
        "com.ex.A",
        "1.0.0",
        {"run": "echo v={configuration:/v}; sleep 600"},
        ComponentConfiguration={"DefaultConfiguration": {"v": 1, "w": 1}},
    )
    core.recipe("com.ex.B", "1.0.0", {"run": "sleep 600"}, ComponentConfiguration={"DefaultConfiguration": {"v": 1}})
    core.deploy(merge={"com.ex.A": "1.0.0", "com.ex.B": "1.0.0"})
    before = core.components()
    core.deploy(configuration={"com.ex.A": {"MERGE": {"v": 2}}, "com.ex.B": {"MERGE": {"v": 2}}})
    after = core.components()
    assert after["com.ex.A"]["pid"] != before["com.ex.A"]["pid"]
    assert after["com.ex.B"]["pid"] == before["com.ex.B"]["pid"]
    core.until(lambda: "v=2" in core.log("com.ex.A"))
    core.deploy(configuration={"com.ex.A": {"RESET": ["/v"]}})
    core.until(lambda: core.log("com.ex.A").count("v=1") == 2)
    assert "unknown key" in core.deploy(configuration={"com.ex.A": {"MERGED": {}}})["error"]["message"]


def test_a_deployment_is_cancelled_before_and_after_its_switch(core: Any) -> None:
    core.up()
    core.recipe("com.ex.A", "1.0.0", {"run": "sleep 600"})
    core.deploy(merge={"com.ex.A": "1.0.0"})
    before = core.components()["com.ex.A"]
    core.recipe("com.ex.A", "2.0.0", {"install": "touch going; sleep 600", "run": "sleep 600"})
    first = core.deploy(wait=False, merge={"com.ex.A": "2.0.0"})
    waiting = core.deploy(wait=False, remove=["com.ex.A"])
    core.until(lambda: (core.root / "work/com.ex.A/going").exists())
    assert core.ask("cancel", id=waiting)["status"] == "CANCELED"
    core.ask("cancel", id=first)
    row = core.ask("wait", id=first, timeout_s=20)
    assert (row["status"], detail(row)) == ("CANCELED", "FAILED_NO_STATE_CHANGE")
    assert core.components()["com.ex.A"] == before
    core.recipe("com.ex.A", "2.1.0", {"startup": "touch started; sleep 600"})
    second = core.deploy(wait=False, merge={"com.ex.A": "2.1.0"})
    core.until(lambda: (core.root / "work/com.ex.A/started").exists())
    core.ask("cancel", id=second)
    row = core.ask("wait", id=second, timeout_s=20)
    assert (row["status"], detail(row)) == ("CANCELED", "FAILED_ROLLBACK_COMPLETE")
    assert core.components()["com.ex.A"]["version"] == "1.0.0"
    assert core.ask("cancel", id=second)["error"]["kind"] == "Conflict"


def test_a_killed_core_leaves_nothing_running_and_comes_back_with_everything(core: Any) -> None:
    core.up()
    core.recipe(
        "com.ex.A", "1.0.0", {"install": "echo >> installs", "run": "sleep 600 & sleep 601"}, needs={"com.ex.B": "*"}
    )
    core.recipe("com.ex.B", "1.0.0", {"run": "exec sleep 600"})
    core.deploy(merge={"com.ex.A": "1.0.0"})
    before = [each["pid"] for each in core.components().values()]
    core.kill()
    core.recipes.rename(core.base / "gone")
    core.until(lambda: not any(alive(pid) for pid in before))
    core.up()
    for name in ("com.ex.A", "com.ex.B"):
        core.until_state(name, "RUNNING")
    core.until(lambda: len(commands(core)) == 4)  # sh and two sleeps, and one sleep: none from before
    assert (core.root / "work/com.ex.A/installs").read_text() == "\n"


def test_a_stop_runs_the_shutdown_steps_dependants_first(core: Any) -> None:
    core.up()
    core.recipe("com.ex.A", "1.0.0", {"run": "sleep 600", "shutdown": "echo A >> ../../order"}, needs={"com.ex.B": "*"})
    core.recipe("com.ex.B", "1.0.0", {"run": "sleep 600", "shutdown": "echo B >> ../../order"})
    core.deploy(merge={"com.ex.A": "1.0.0"})
    assert core.down() == 0
    assert (core.root / "order").read_text() == "A\nB\n"
    assert commands(core) == []


def test_a_hard_dependency_that_restarts_takes_its_dependants_along(core: Any) -> None:
    core.up()
    core.recipe("com.ex.A", "1.0.0", {"run": "sleep 600"}, needs={"com.ex.B": "*"})
    core.recipe("com.ex.B", "1.0.0", {"run": "sleep 600"})
    core.deploy(merge={"com.ex.A": "1.0.0"})
    before = core.components()
    core.ask("restart", name="com.ex.B")
    core.until(lambda: all(each["pid"] not in (None, before[name]["pid"]) for name, each in core.components().items()))
    core.ask("stop", name="com.ex.B")
    assert {each["state"] for each in core.components().values()} == {"FINISHED"}
    assert core.ask("stop", name="nobody")["error"]["kind"] == "NotFound"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
def test_a_stolen_token_is_worth_nothing_to_another_user(core: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = pwd.getpwnam("nobody").pw_uid
    core.recipe("com.a", "1.0.0", {"run": "echo token=$SVCUID; exec sleep 1000"})
    core.up()
    assert core.deploy(merge={"com.a": "1.0.0"})["status"] == "SUCCEEDED"
    core.until(lambda: "token=" in core.log("com.a"))
    token = core.log("com.a").rpartition("token=")[2].split()[0]
    core.root.chmod(0o711)
    monkeypatch.chdir(core.root)  # the folders above are root's

    def accepted(uid: int) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(5)
            os.seteuid(uid)
            try:
                connection.connect("ipc.socket")
            finally:
                os.seteuid(0)
            headers: dict[str, eventstream.HeaderValue] = {":message-type": 4, ":message-flags": 0, ":stream-id": 0}
            body = json.dumps({"authToken": token}).encode()
            connection.sendall(eventstream.encode({**headers, ":version": "0.1.0"}, body))
            [answer] = eventstream.Decoder().receive(connection.recv(65536))
            assert answer.number(":message-type") == eventstream.MessageType.CONNECT_ACK
            return bool(answer.number(":message-flags") & eventstream.Flag.CONNECTION_ACCEPTED)

    assert accepted(0)
    assert not accepted(nobody)


def test_a_second_core_on_one_root_is_refused(core: Any) -> None:
    core.up()
    second = subprocess.run(
        [sys.executable, "-m", "marram.cli.main", "edge", "up", "--root", str(core.root)],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert second.returncode == 1 and "another edge core runs" in second.stderr and "MRM-4001" in second.stderr


def test_built_ins_resolve_under_aws_names(core: Any) -> None:
    core.up()
    core.recipe("com.ex.A", "1.0.0", {"run": "sleep 600"}, needs={"aws.greengrass.Nucleus": ">=2.0.0 <3.0.0"})
    assert core.deploy(merge={"com.ex.A": "1.0.0"})["status"] == "SUCCEEDED"
    assert core.components()["aws.greengrass.Nucleus"]["state"] == "FINISHED"


def test_the_core_imports_the_standard_library_and_yaml_only() -> None:
    listed = subprocess.run(
        [sys.executable, "-c", "import sys, marram.edge.main; print('\\n'.join(sys.modules))"],
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    plain = subprocess.run(
        [sys.executable, "-c", "import sys; print('\\n'.join(sys.modules))"],
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    top = {name.partition(".")[0] for name in listed.stdout.split()} - {
        name.partition(".")[0] for name in plain.stdout.split()
    }
    assert top - set(sys.stdlib_module_names) <= {"marram", "yaml", "_yaml"}
    assert not {
        name for name in listed.stdout.split() if name.startswith(("marram.hub", "marram.ml", "marram.components"))
    }


POINTS = [
    *(
        f"deploy.{phase}.{edge}"
        for phase in ("resolve", "fetch", "verify", "configure", "switch")
        for edge in ("begin", "end")
    ),
    *("deploy.watch.begin", "deploy.report.begin", "deploy.rollback.begin", "deploy.rollback.entered"),
]


FEW = {"deploy.fetch.end", "deploy.switch.begin", "deploy.switch.end", "deploy.report.begin", "deploy.rollback.entered"}


@pytest.mark.parametrize("point", POINTS if os.environ.get("MARRAM_FULL") == "1" else sorted(FEW))
def test_kill_9_of_the_core_at_each_phase_ends_with_old_or_new_whole(core: Any, point: str) -> None:
    core.up()
    core.recipe("com.ex.A", "1.0.0", {"run": "sleep 600"}, **{"x-marram": {"health": {"settle_s": 0}}})
    core.deploy(merge={"com.ex.A": "1.0.0"})
    core.kill()
    broken = "rollback" in point
    core.recipe(
        "com.ex.A", "2.0.0", {"startup": "false" if broken else "true"}, **{"x-marram": {"health": {"settle_s": 0}}}
    )
    core.up(MARRAM_FAILPOINTS=f"{point}=kill")
    deployment = core.deploy(wait=False, merge={"com.ex.A": "2.0.0"})
    assert core.process.wait(20) == -signal.SIGKILL
    core.process.stdout.close()
    core.up()
    row = core.ask("wait", id=deployment, timeout_s=20)
    assert row["status"] == ("FAILED" if broken else "SUCCEEDED"), row
    assert detail(row) == ("FAILED_ROLLBACK_COMPLETE" if broken else "SUCCESSFUL")
    now = core.components()["com.ex.A"]
    assert (now["version"], now["state"]) == ("1.0.0" if broken else "2.0.0", "RUNNING")
    assert core.deploy(remove=["com.ex.A"])["status"] == "SUCCEEDED"
