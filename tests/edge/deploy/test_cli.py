"""`marram edge`: exit codes and output that scripts rely on."""

import json
import subprocess
import sys
from typing import Any


def marram(core: Any, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "marram.cli.main", "edge", *words, "--root", str(core.root)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_local_tool_from_deploy_to_logs(core: Any) -> None:
    core.up()
    core.recipe("com.ex.A", "1.0.0", {"run": "echo hello; sleep 600"})
    core.recipe("com.ex.A", "2.0.0", {"startup": "echo sorry >&2; exit 1"})
    folders = ("--recipes", str(core.recipes), "--artifacts", str(core.artifacts))
    done = marram(core, "deploy", *folders, "--merge", "com.ex.A=1.0.0")
    assert done.returncode == 0 and "SUCCEEDED" in done.stdout, done.stderr
    rows = json.loads(marram(core, "component", "list", "--json").stdout)
    assert [(row["name"], row["version"], row["state"]) for row in rows] == [("com.ex.A", "1.0.0", "RUNNING")]
    core.until(lambda: "hello" in marram(core, "logs", "com.ex.A").stdout)
    back = marram(core, "deploy", *folders, "--merge", "com.ex.A=2.0.0")
    assert back.returncode == 7 and "FAILED_ROLLBACK_COMPLETE" in back.stdout and "exit code 1" in back.stderr
    refused = marram(core, "deploy", *folders, "--merge", "com.ex.A=3.0.0", "--json")
    assert refused.returncode == 1 and json.loads(refused.stdout)["status"] == "FAILED"
    quick = marram(core, "deploy", *folders, "--merge", "com.ex.A=1.0.0", "--no-wait")
    assert quick.returncode == 0 and len(quick.stdout.strip()) == 36
    core.ask("wait", id=quick.stdout.strip(), timeout_s=20)
    stopped = marram(core, "component", "stop", "com.ex.A", "--json")
    assert json.loads(stopped.stdout)["state"] == "FINISHED"
    assert marram(core, "component", "restart", "com.ex.B").returncode == 3
    assert marram(core, "logs", "com.ex.B").returncode == 3
    status = json.loads(marram(core, "status", "--json").stdout)
    assert status["pid"] == core.process.pid and status["endpoints"] == {}
    assert "com.ex.A" in json.loads(marram(core, "lock").stdout)
    assert marram(core, "deployments").stdout.count("LOCAL_DEPLOYMENT") == 4


def test_wrong_usage_and_nobody_there(core: Any) -> None:
    assert marram(core, "deploy", "--merge", "nonsense").returncode == 2
    assert marram(core, "deploy").returncode == 2
    nobody = marram(core, "status")
    assert nobody.returncode == 1 and "marram edge up" in nobody.stderr
    assert marram(core, "sql", "SELECT 1").returncode == 1
