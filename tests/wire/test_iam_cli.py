"""`marram user`, `marram key`, `marram role` against a running hub."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]
LIST = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:ListThings", "Resource": "*"}]}


@pytest.fixture
def run(shared_hub: Any, marram: Run) -> Callable[..., Any]:
    """The answer of a command, as JSON when it asks for that."""

    def run(*words: str, code: int = 0) -> Any:
        done = marram(*words, "--data", str(shared_hub.data))
        assert done.returncode == code, (done.stdout, done.stderr)
        return json.loads(done.stdout) if "--json" in words and done.stdout else done.stdout + done.stderr

    return run


def exported(text: str) -> dict[str, str]:
    """boto3's parameters out of the exports."""
    names = {
        "ACCESS_KEY_ID": "aws_access_key_id",
        "SECRET_ACCESS_KEY": "aws_secret_access_key",
        "SESSION_TOKEN": "aws_session_token",
    }
    rows = [line.removeprefix("export AWS_").partition("=") for line in text.splitlines()]
    return {names[name]: value.strip("'") for name, _, value in rows}


def test_a_user_changes_keys_and_goes(shared_hub: Any, run: Callable[..., Any], tmp_path: Path) -> None:
    document = tmp_path / "list.json"
    document.write_text(json.dumps(LIST))
    run("user", "create", "anna", "--path", "/team/", "--policy", str(document), "--attach", "AmazonS3ReadOnlyAccess")
    old = exported(run("key", "create", "--user", "anna"))
    new = exported(run("key", "create", "--user", "anna"))
    assert "AccessKeysPerUser" in run("key", "create", "--user", "anna", code=1)
    assert shared_hub.client("iot", **new).list_things()["things"] == []
    run("key", "deactivate", old["aws_access_key_id"])
    listed = {row["accessKeyId"]: row for row in run("key", "list", "--json")}
    assert (listed[old["aws_access_key_id"]]["status"], listed[new["aws_access_key_id"]]["status"]) == (
        "Inactive",
        "Active",
    )
    assert listed[new["aws_access_key_id"]]["lastUsedService"] == "iot"
    with pytest.raises(Exception, match="UnrecognizedClient"):
        shared_hub.client("iot", **old).list_things()
    run("key", "activate", old["aws_access_key_id"])
    shared_hub.client("s3", **old).list_buckets()
    run("user", "detach", "anna", "AmazonS3ReadOnlyAccess")
    with pytest.raises(Exception, match="AccessDenied"):
        shared_hub.client("s3", **old).list_buckets()
    (row,) = [row for row in run("user", "list", "--json") if row["UserName"] == "anna"]
    assert (row["Path"], row["policies"], row["inlinePolicies"]) == ("/team/", [], ["own"])
    assert "must delete access keys first" in run("user", "delete", "anna", code=1)
    run("user", "delete", "anna", "--force")
    assert "cannot be found" in run("user", "delete", "anna", code=3)


def test_a_role_is_made_for_a_user_and_assumed(shared_hub: Any, run: Callable[..., Any], tmp_path: Path) -> None:
    admin = run("role", "create", "reader", "--user", "admin", "--attach", "AWSIoTConfigReadOnlyAccess", "--json")
    assert admin["Arn"].endswith(":role/reader")
    held = exported(run("role", "assume", "reader", "--session", "me"))
    assert shared_hub.client("sts", **held).get_caller_identity()["Arn"].endswith("assumed-role/reader/me")
    shared_hub.client("iot", **held).list_things()
    assert "900" in run("role", "assume", "reader", "--duration", "5", code=1)
    assert "MaxSessionDuration" in run("role", "assume", "reader", "--duration", "7200", code=1)
    run("role", "create", "devices", "--service", "credentials.iot.amazonaws.com")
    assert "not authorized" in run("role", "assume", "devices", code=4)
    names = [row["RoleName"] for row in run("role", "list", "--json")]
    assert {"reader", "devices", "marram-service"} <= set(names)
    assert "comes with Marram" in run("role", "delete", "marram-service", "--force", code=1)
    run("role", "delete", "reader", "--force")
    run("role", "delete", "devices")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        pytest.param(("user", "create", "b", "--attach", "NoSuchPolicy"), 1, "ReadOnlyAccess", id="no such policy"),
        pytest.param(("user", "create", "a b"), 1, "UserName", id="bad name"),
        pytest.param(("role", "create", "r", "--service", "ec2.amazonaws.com"), 1, "invalid principal", id="service"),
        pytest.param(("role", "create", "r", "--user", "nobody"), 1, "there is no such user", id="trust in nobody"),
        pytest.param(("role", "assume", "nobody"), 3, "cannot be found", id="no such role"),
        pytest.param(("key", "create"), 2, "--user", id="key for nobody"),
        pytest.param(("key", "create", "--user", "a", "--name", "b"), 2, "--user", id="key for two"),
        pytest.param(("key", "create", "--user", "nobody"), 3, "cannot be found", id="key of nobody"),
        pytest.param(("key", "deactivate", "MRAKAAAAAAAAAAAAAAAA"), 3, "cannot be found", id="no such key"),
    ],
)
def test_refusals(run: Callable[..., Any], words: tuple[str, ...], code: int, said: str) -> None:
    assert said in run(*words, code=code)
