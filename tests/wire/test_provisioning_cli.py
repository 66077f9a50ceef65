"""`marram provisioning template` against a running hub: what is made is there, what is wrong has its exit code."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.hub.provisioning.conftest import template


def test_templates_come_and_go(shared_hub: Any, marram: Callable[..., Any], tmp_path: Path) -> None:
    body, data = tmp_path / "template.json", shared_hub.data
    body.write_text(template())

    def run(*words: str) -> Any:
        return marram("provisioning", "template", *words, "--data", data)

    made = run("create", "lamps", "--body", str(body), "--json")
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["templateName"] == "lamps"
    assert run("create", "factory", "--body", str(body), "--jitp", "--disabled", "--description", "d").returncode == 0
    found = {row["templateName"]: row for row in json.loads(run("list", "--json").stdout)}
    assert (found["lamps"]["type"], found["lamps"]["enabled"]) == ("FLEET_PROVISIONING", True)
    assert (found["factory"]["type"], found["factory"]["enabled"], found["factory"]["description"]) == (
        "JITP",
        False,
        "d",
    )
    iot = shared_hub.client("iot")
    role = iot.describe_provisioning_template(templateName="lamps")["provisioningRoleArn"]
    assert role.endswith(":role/marram-service")
    assert run("list").stdout.split() == [
        "TEMPLATE", "TYPE", "STATE", "factory", "JITP", "disabled", "lamps", "FLEET_PROVISIONING", "enabled",
    ]  # fmt: skip
    assert run("delete", "lamps").returncode == 0
    assert [row["templateName"] for row in json.loads(run("list", "--json").stdout)] == ["factory"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        pytest.param(("delete", "nobody"), 3, "nobody", id="unknown"),
        pytest.param(("create", "bad", "--body", "{bad}"), 1, "JSON", id="no template"),
        pytest.param(("create", "x", "--body", "{good}", "--role", "nobody"), 1, "role", id="unknown role"),
        pytest.param(("create", "x", "--body", "nowhere.json"), 3, "nowhere.json", id="no file"),
        pytest.param(("create", "x"), 2, "--body", id="no body"),
    ],
)
def test_what_is_refused(
    shared_hub: Any, marram: Callable[..., Any], tmp_path: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    (tmp_path / "good.json").write_text(template())
    (tmp_path / "bad.json").write_text("{")
    files = {"{good}": str(tmp_path / "good.json"), "{bad}": str(tmp_path / "bad.json")}
    ended = marram("provisioning", "template", *(files.get(word, word) for word in words), "--data", shared_hub.data)
    assert ended.returncode == code, ended.stderr
    assert said in ended.stderr and "Traceback" not in ended.stderr
