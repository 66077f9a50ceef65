"""docs/clients.md says what ran: its tables against the guides, the samples, the commands and the installed versions."""

import importlib.util
import json
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "clients.md"
GUIDES = ROOT / "docs" / "devices"
# What a guide must print, in a block whose output is compared, for a "yes" in that column.
SHOWN = {
    "connect": r"(?m)^connected$|CONNACK|^200 ",
    "publish": r"plant/pump-1/status",
    "subscribe": r"(?m)^(heard )?plant/pump-1/(status|commands) (started|stop)$",
    "shadow": r"motor.*version\W+2",
    "job": r"(?m)^firmware-7 SUCCEEDED$",
    "reconnect": r"(?m)^connected again, session kept: (?i:true|yes)$|^plant/pump-1/commands stop$|^200 after a while$",
}


def table(first: str) -> list[dict[str, str]]:
    """The rows of the table whose first column is called so."""
    lines = PAGE.read_text().splitlines()
    begin = next(number for number, line in enumerate(lines) if line.startswith(f"| {first} |"))
    names = [cell.strip() for cell in lines[begin].strip("|").split("|")]
    rows = []
    for line in lines[begin + 2 :]:
        if not line.startswith("|"):
            break
        rows.append(dict(zip(names, (cell.strip() for cell in line.strip("|").split("|")), strict=True)))
    return rows


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"clients_page_{name}", ROOT / "tests" / "wire" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


def test_every_guide_shows_what_the_table_says(runner: ModuleType) -> None:
    linked = set()
    for row in table("client"):
        guide = GUIDES / re.findall(r"\]\(devices/([\w-]+\.md)\)", row["client"])[0]
        linked.add(guide.name)
        shown = "\n".join(
            line
            for block in runner.blocks(guide)
            if block.compare
            for command in block.commands
            for line in command.output
        )
        for column, pattern in SHOWN.items():
            assert (re.search(pattern, shown) is not None) == (row[column] == "yes"), (guide.name, column)
    assert linked == {path.name for path in GUIDES.glob("*.md")} - {"start.md"}


def installed() -> dict[str, str]:
    """Name as on the page -> version: the lock's, those that tools/test_setup.sh installs, Debian's when this is Debian 12."""
    found = {name: metadata.version(name) for name in ("awsiotsdk", "awscrt", "paho-mqtt", "boto3")}
    packages = json.loads((ROOT / "requirements" / "node" / "package-lock.json").read_text())["packages"]
    for name in ("aws-iot-device-sdk", "aws-iot-device-sdk-v2", "aws-crt", "mqtt"):
        found[name] = packages[f"node_modules/{name}"]["version"]
    pinned = dict(re.findall(r"(?m)^([\w-]+)==(\S+)", (ROOT / "requirements" / "clients.txt").read_text()))
    found |= {"aws-cli": pinned["awscli"], "AWSIoTPythonSDK": pinned["awsiotpythonsdk"]}
    release = platform.freedesktop_os_release()
    if (release["ID"], release.get("VERSION_ID")) == ("debian", "12"):
        said = subprocess.run(["mosquitto_rr", "--help"], capture_output=True, text=True, check=False).stdout
        curl = subprocess.run(["curl", "--version"], capture_output=True, text=True, check=True).stdout
        found["mosquitto"], found["libmosquitto"] = re.findall(
            r"version (\S+) running on libmosquitto (\d[\d.]*\d)", said
        )[0]
        found["curl"] = curl.split()[1]
    return found


def test_the_versions_are_those_that_ran() -> None:
    text = PAGE.read_text()
    cells = [part for row in table("client") for part in row["version"].split(", ")]
    cells += re.findall(r"(?m)^\| ((?:boto3|aws-cli) \| \S+) \|", text)
    cells += re.findall(r"`((?:AWSIoTPythonSDK|aws-iot-device-sdk)` [\d.]+\d)", text)
    versions = dict(re.split(r"[ |`]+", cell) for cell in cells)
    there = installed()
    assert set(there) <= set(versions)
    assert {name: versions[name] for name in there} == there


def test_the_samples_are_those_that_ran() -> None:
    samples = load("test_clients_samples")
    wanted = {sample.name: "runs" for sample in samples.SAMPLES}
    wanted |= {name: f"not run: it needs {what}" for name, what in samples.NOT_RUN.items()}
    assert {row["sample"]: row["result"] for row in table("sample")} == wanted


def test_the_commands_are_as_many_as_it_says() -> None:
    commands = load("test_clients_aws_cli")
    said = re.findall(r"(\d+) examples of its own package as typed, and (\d+) commands", PAGE.read_text())
    assert said == [(str(len(commands.STEPS)), str(len(commands.GUIDE)))]


def test_a_table_that_says_too_much_is_found_out(
    runner: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    page = tmp_path / "clients.md"
    page.write_text(PAGE.read_text().replace("no: HTTP has none", "yes"))
    monkeypatch.setattr(sys.modules[__name__], "PAGE", page)
    with pytest.raises(AssertionError, match="subscribe"):
        test_every_guide_shows_what_the_table_says(runner)
