"""What the steps share: the folder, the running hub and cores, the clients. Speaks boto3 and the command line only."""

import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import yaml
from botocore.config import Config

from demo import processes
from demo.processes import Child, Family
from demo.show import Show, Stopped

COMPONENT = "demo.MeterReader"
SITE = "meter-site"  # both groups below; deployments go to the cores alone
GROUP = "meter-line"
DEVICES = "meter-machines"
BUCKET = "meter"
SERIES = "line.readings"
TELEMETRY = "line.telemetry"
FPS = (60, 10, 10)
CANARY_CORE = 1  # index of the box that gets new things first
NUCLEUS = "aws.greengrass.NucleusLite"


@dataclass
class Core:
    """One box: its core, and the sensor and relay behind it."""

    number: int
    root: Path
    fps: int
    child: Child | None = None
    port_file: Path = Path()

    @property
    def thing(self) -> str:
        return f"meter-{self.number}"

    @property
    def sensor(self) -> str:
        return f"sensor-{self.number}"

    @property
    def relay(self) -> str:
        return f"relay-{self.number}"


@dataclass
class World:
    show: Show
    family: Family
    folder: Path
    hub: Child | None = None
    cable: Child | None = None
    devices: Child | None = None
    info: dict[str, Any] = field(default_factory=dict)
    cores: list[Core] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    _clients: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.cores = [Core(number, self.folder / f"meter-{number}", fps) for number, fps in enumerate(FPS, start=1)]

    # places

    @property
    def hub_dir(self) -> Path:
        return self.folder / "hub"

    @property
    def clip(self) -> Path:
        return self.folder / "camera"

    @property
    def machines(self) -> Path:
        return self.folder / "devices"

    @property
    def role(self) -> str:
        return f"arn:aws:iam::{self.info['account_id']}:role/marram-service"

    @property
    def group_arn(self) -> str:
        return f"arn:aws:iot:{self.info['region']}:{self.info['account_id']}:thinggroup/{GROUP}"

    # processes

    def start_hub(self) -> None:
        argv = [*processes.marram(), "hub", "up", "--data", str(self.hub_dir), "--ports", "auto"]
        self.hub = self.family.start("hub", argv, self.folder / "hub.log")

    def hub_ready(self, timeout_s: float = 30.0) -> None:
        assert self.hub is not None
        self.hub.wait_line("marram hub ready", timeout_s)
        self.info = json.loads((self.hub_dir / "hub.json").read_text())
        self._clients.clear()

    def kill_hub(self) -> None:
        assert self.hub is not None
        self.hub.kill()
        self.family.forget(self.hub)

    def start_core(self, core: Core) -> None:
        argv = [*processes.marram(), "edge", "up", "--root", str(core.root), "--ports", "auto"]
        core.child = self.family.start(core.thing, argv, self.folder / f"{core.thing}.log")

    def core_ready(self, core: Core, timeout_s: float = 30.0) -> None:
        """Ready, and the port of its local broker told to the machines behind it."""
        assert core.child is not None
        core.child.wait_line("marram edge ready", timeout_s)
        end = time.monotonic() + timeout_s
        while True:
            url = self.edge_status(core)["endpoints"].get("mqtt", "")
            if url:
                break
            if time.monotonic() > end:
                raise Stopped(f"{core.thing} has no local MQTT listener")
            time.sleep(0.1)
        core.port_file.parent.mkdir(parents=True, exist_ok=True)
        core.port_file.write_text(re.sub(r".*:", "", url))

    def edge_status(self, core: Core) -> dict[str, Any]:
        found: dict[str, Any] = processes.ask("edge", "status", "--root", core.root)
        return found

    def cable_do(self, command: str) -> dict[str, Any]:
        assert self.cable is not None
        self.cable.forget_lines(command)
        self.cable.tell(command)
        found: dict[str, Any] = json.loads(self.cable.wait_line(f"{command} ", 5.0).partition(" ")[2])
        return found

    def route_through_cable(self, core: Core, ports: dict[str, int]) -> None:
        """Write the cable's ports into the core's configuration, and what is special on this box (its camera's rate, its relay)."""
        path = core.root / "config" / "config.yaml"
        document = yaml.safe_load(path.read_text())
        nucleus = document["services"][NUCLEUS]["configuration"]
        https = ports[f"{core.thing}/https"]
        nucleus["mqtt"]["port"] = ports[f"{core.thing}/mqtt"]
        nucleus["greengrassDataPlanePort"] = https
        nucleus["iotCredEndpoint"] = f"{nucleus['iotDataEndpoint']}:{https}"
        # The fast camera shows the whole clip in ten seconds: its box chooses among all of it at once.
        own = {
            "source": {"fps": float(core.fps)},
            "feedback": {"per_window": 130 if core.fps == max(FPS) else 12},
            "stay_local": {"canary": self.facts["canary"]},  # known to the boxes alone: a deployment would tell the hub
        }
        document["services"][COMPONENT] = {"configuration": own}
        document["services"]["aws.greengrass.ShadowManager"] = {
            "configuration": {"synchronize": {"shadowDocuments": [{"thingName": core.relay, "classic": True}]}}
        }
        path.write_text(yaml.safe_dump(document, sort_keys=False))
        path.chmod(0o600)

    # clients

    def aws(self, service: str) -> Any:
        """A boto3 client of the hub; `marram` too, by the model that ships with it."""
        if service not in self._clients:
            if "AWS_DATA_PATH" not in os.environ:
                os.environ["AWS_DATA_PATH"] = processes.ask("hub", "env", "--data", self.hub_dir)["AWS_DATA_PATH"]
            self._clients[service] = boto3.session.Session().client(
                service,
                endpoint_url=self.info["endpoints"]["api"],
                region_name=self.info["region"],
                aws_access_key_id=self.info["admin"]["access_key_id"],
                aws_secret_access_key=self.info["admin"]["secret_access_key"],
                config=Config(
                    retries={"max_attempts": 4},
                    s3={"addressing_style": "path"},
                    connect_timeout=5,
                    read_timeout=60,
                    max_pool_connections=16,
                    parameter_validation=False,
                ),
            )
        return self._clients[service]

    def rows(self, series: str, **where: str) -> list[dict[str, Any]]:
        """All rows of a series, page by page."""
        return list(self.pages(series, where))

    def pages(self, series: str, where: dict[str, str], from_ms: int = 0) -> Iterator[dict[str, Any]]:
        token: str | None = None
        while True:
            request: dict[str, Any] = {"series": series, "limit": 1000, "from_ms": from_ms}
            if where:
                request["where"] = where
            if token:
                request["nextToken"] = token
            answer = self.aws("marram").query(**request)
            yield from answer["rows"]
            token = answer.get("nextToken")
            if not token:
                return

    def notes(self, thing: str) -> list[dict[str, Any]]:
        """What a machine behind a core has noted."""
        path = self.machines / f"{thing}.jsonl"
        if not path.exists():
            return []
        lines = path.read_text().splitlines()
        return [json.loads(line) for line in lines if line.endswith("}")]
