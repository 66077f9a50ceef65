"""`marram hub up` as a process: start, stop, health, and the folders it must refuse."""

import json
import os
import socket
import sqlite3
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def test_start_says_ready_after_hub_json_and_stops_cleanly(
    start_hub: Callable[..., Any], marram: Callable[..., Any]
) -> None:
    hub = start_hub()
    assert hub.info["pid"] == hub.process.pid
    assert stat.S_IMODE((hub.data / "hub.json").stat().st_mode) == 0o600
    assert stat.S_IMODE((hub.data / "pki").stat().st_mode) == 0o700
    done = marram("hub", "status", "--data", hub.data, "--json")
    assert (done.returncode, json.loads(done.stdout)["healthy"]) == (0, True)
    began = time.monotonic()
    assert hub.stop() == 0
    assert time.monotonic() - began < 5.0
    assert marram("hub", "status", "--data", hub.data).returncode == 1


def test_no_other_user_reads_a_file_of_the_hub_wherever_its_folder_lies(
    start_hub: Callable[..., Any], tmp_path: Path
) -> None:
    data = tmp_path / "open"
    data.mkdir(mode=0o755)
    start_hub(data).client("iot").create_thing(thingName="t")
    found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in data.iterdir()}
    assert "hub.db-wal" in found
    assert {name: oct(mode) for name, mode in found.items() if mode & 0o077} == {}


def test_ports_and_keys_are_kept(start_hub: Callable[..., Any]) -> None:
    first = start_hub()
    first.stop()
    second = start_hub(first.data)
    assert second.info["endpoints"] == first.info["endpoints"]
    assert second.info["admin"] == first.info["admin"]
    assert second.client("sts").get_caller_identity()["Account"] == "000000000001"


def test_a_port_of_the_settings_is_taken_and_kept(start_hub: Callable[..., Any], marram: Callable[..., Any]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    first = start_hub()
    first.stop()
    settings = first.data / "marram.toml"
    settings.write_text(f"[hub]\nhttps_port = {port}\n")
    second = start_hub(first.data)
    assert second.info["endpoints"] == {**first.info["endpoints"], "https": f"https://localhost:{port}"}
    second.stop()
    settings.unlink()
    third = start_hub(first.data)
    assert third.info["endpoints"] == second.info["endpoints"]
    third.stop()
    for line, word in ((f"mqtt_port = {port}\nhttps_port = {port}", "different"), ("api_port = 70000", "65535")):
        settings.write_text(f"[hub]\n{line}\n")
        done = marram("hub", "up", "--data", first.data)
        assert done.returncode == 1 and word in done.stderr, done.stderr


def test_a_second_hub_on_one_folder_is_refused(start_hub: Callable[..., Any], marram: Callable[..., Any]) -> None:
    hub = start_hub()
    done = marram("hub", "up", "--data", hub.data)
    assert done.returncode == 1
    assert f"pid {hub.process.pid}" in done.stderr
    assert (hub.data / "hub.json").exists()
    hub.client("sts").get_caller_identity()


def test_everything_binds_to_loopback(start_hub: Callable[..., Any]) -> None:
    hub = start_hub()
    inodes = {
        os.readlink(f"/proc/{hub.process.pid}/fd/{name}")[8:-1]
        for name in os.listdir(f"/proc/{hub.process.pid}/fd")
        if os.readlink(f"/proc/{hub.process.pid}/fd/{name}").startswith("socket:")
    }
    listening = [
        line.split()[1]
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        if line.split()[3] == "0A" and line.split()[9] in inodes
    ]
    assert len(listening) == 3
    assert {address.partition(":")[0] for address in listening} == {"0100007F"}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        pytest.param("marram.toml", "[hub]\nregoin = 'x'\n", ("line 2", "regoin"), id="unknown key"),
        pytest.param("marram.toml", "[hubb]\n", ("line 1", "hubb"), id="unknown section"),
        pytest.param("marram.toml", "[hub\n", ("marram.toml",), id="not TOML"),
        pytest.param("marram.toml", "[timeseries]\nflush_s = 'soon'\n", ("flush_s", "float"), id="wrong type"),
        pytest.param("marram.toml", "[timeseries]\nflush_s = 0\n", ("flush_s", "0.1"), id="no time between flushes"),
        pytest.param("marram.toml", "[timeseries]\nquery_memory = 'lots'\n", ("query_memory",), id="no size"),
        pytest.param("marram.toml", "[provisioning]\nreport_days = -1\n", ("report_days", "36500"), id="no age"),
        pytest.param("marram.toml", "[hub]\naccount_id = '1'\n", ("12 digits",), id="bad account"),
        pytest.param(
            "hub.db", "this is no database, but long enough to be looked at" * 40, ("hub.db",), id="not SQLite"
        ),
    ],
)
def test_folders_that_are_refused(
    tmp_path: Path, marram: Callable[..., Any], name: str, content: str, words: tuple[str, ...]
) -> None:
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / name).write_text(content)
    done = marram("hub", "up", "--data", tmp_path / "hub", "--ports", "auto")
    assert done.returncode == 1
    assert all(word in done.stderr for word in words), done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "hub" / "hub.json").exists()


def test_a_folder_of_a_newer_version_is_refused(start_hub: Callable[..., Any], marram: Callable[..., Any]) -> None:
    hub = start_hub()
    hub.stop()
    with sqlite3.connect(hub.data / "hub.db") as db:
        tables = {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        table = next(name for name in tables if "migration" in name)
        columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
        row = dict(zip(columns, db.execute(f"SELECT * FROM {table} LIMIT 1").fetchone(), strict=True))
        changed = {key: "9.9.0" if value == "0.1.0" else value for key, value in row.items()}
        changed |= {key: 9999 if key == "number" else "future" for key in row if key in ("number", "name")}
        marks = ", ".join("?" * len(columns))
        db.execute(f"INSERT INTO {table} VALUES ({marks})", [changed[key] for key in columns])
    db.close()
    done = marram("hub", "up", "--data", hub.data)
    assert done.returncode == 1
    assert "changed by Marram 9.9.0" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_the_account_cannot_change(start_hub: Callable[..., Any], marram: Callable[..., Any]) -> None:
    hub = start_hub()
    hub.stop()
    (hub.data / "marram.toml").write_text("[hub]\naccount_id = '123456789012'\n")
    done = marram("hub", "up", "--data", hub.data)
    assert done.returncode == 1
    assert "000000000001" in done.stderr


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}', '{"pid": "x"}', "\x00\x01"])
def test_a_corrupt_hub_json(tmp_path: Path, marram: Callable[..., Any], content: str) -> None:
    (tmp_path / "hub.json").write_text(content)
    done = marram("hub", "status", "--data", tmp_path)
    assert done.returncode == 1
    assert "hub.json" in done.stderr
    assert "restart the hub" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_hub_there(tmp_path: Path, marram: Callable[..., Any]) -> None:
    done = marram("hub", "status", "--data", tmp_path)
    assert done.returncode == 3
    assert "start the hub first" in done.stderr


def test_bind_needs_a_name(tmp_path: Path, marram: Callable[..., Any]) -> None:
    done = marram("hub", "up", "--data", tmp_path / "hub", "--bind", "127.0.0.2", "--ports", "auto")
    assert done.returncode == 1
    assert "--name" in done.stderr


def test_bound_elsewhere_the_api_is_tls_there_and_plain_on_loopback_only(start_hub: Callable[..., Any]) -> None:
    hub = start_hub(args=("--bind", "127.0.0.2", "--name", "localhost"))
    assert hub.info["endpoints"]["api"] == f"https://localhost:{hub.port('api')}"
    plain = hub.client("sts", endpoint_url=f"http://127.0.0.1:{hub.port('api')}")
    assert plain.get_caller_identity()["Account"] == "000000000001"
    import boto3
    import botocore.exceptions

    secure = boto3.session.Session().client(
        "sts", endpoint_url=f"https://127.0.0.2:{hub.port('api')}", region_name="local-1", verify=hub.info["ca_file"],
        aws_access_key_id=hub.info["admin"]["access_key_id"], aws_secret_access_key=hub.info["admin"]["secret_access_key"],
    )  # fmt: skip
    hub.clients.append(secure)
    with pytest.raises(botocore.exceptions.SSLError):  # the certificate carries the name, not this address
        secure.get_caller_identity()


def test_metrics_without_a_signature_on_loopback(start_hub: Callable[..., Any]) -> None:
    import urllib.request

    hub = start_hub()
    with urllib.request.urlopen(hub.info["endpoints"]["api"] + "/metrics", timeout=5) as answer:
        assert b"marram_api_calls_total" in answer.read()


def test_the_hub_process_loads_no_data_engine(start_hub: Callable[..., Any]) -> None:
    hub = start_hub()
    maps = Path(f"/proc/{hub.process.pid}/maps").read_text()
    for package in ("duckdb", "pyarrow", "numpy", "onnxruntime", "sklearn"):
        assert package not in maps
