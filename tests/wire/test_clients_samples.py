"""AWS's published samples, unmodified but for endpoint and credentials: those of the packages that hold any.

They are the samples of the first SDKs for Python and JavaScript; those of the second ones are in no package (docs/clients.md says what
runs in their place). All are started at once, against one hub; each test waits for what its sample has to say.
"""

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.xdist_group("clients-samples")
ROOT = Path(__file__).resolve().parents[2]
CLIENTS = ROOT / ".clients"
PYTHON = CLIENTS / "python" / "samples" / "samples"
NODE = CLIENTS / "node" / "node_modules" / "aws-iot-device-sdk" / "examples"
ANYTHING = json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:*", "Resource": "*"}]})
LIMIT_S = 40.0


@dataclass(frozen=True, kw_only=True)
class Sample:
    """`runs`: per process of it, what it is told beside endpoint and credentials, and what it must say, each a pattern; a process
    begins when the one before has said its first. `thing`, `job`: made beforehand. `follows`: what the operator then finds."""

    file: Path
    runs: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]
    thing: str | None = None
    job: dict[str, Any] | None = None
    follows: Callable[["World"], object] | None = None

    @property
    def name(self) -> str:
        return self.file.name


@dataclass
class World:
    hub: Any
    folder: Path
    iot: Any
    data: Any
    output: dict[tuple[str, int], Path] = field(default_factory=dict)
    processes: "list[subprocess.Popen[bytes]]" = field(default_factory=list)

    def start(self, sample: Sample, number: int) -> None:
        words, _says = sample.runs[number]
        certificate, key = str(self.folder / "device.pem"), str(self.folder / "device.key")
        port, ca = str(self.hub.port("mqtt")), self.hub.info["ca_file"]
        if sample.file.suffix == ".py":
            command = [str(CLIENTS / "python" / "bin" / "python"), "-u", str(sample.file)]
            command += [
                "-e",
                "localhost",
                "-p",
                port,
                "-r",
                ca,
                "-c",
                certificate,
                "-k",
                key,
                "-id",
                f"{sample.name}-{number}",
            ]
        else:
            command = [str(CLIENTS / "bin" / "node"), str(sample.file), "--host-name=localhost", f"--port={port}"]
            command += [f"--ca-certificate={ca}", f"--client-certificate={certificate}", f"--private-key={key}"]
            command += [f"--client-id={sample.name}-{number}"]
        path = self.folder / f"{sample.name}-{number}.txt"
        self.output[sample.name, number] = path
        with path.open("wb") as out, path.with_suffix(".err").open("wb") as errors:
            self.processes.append(
                subprocess.Popen(
                    [*command, *words], stdout=out, stderr=errors, cwd=self.folder, stdin=subprocess.DEVNULL
                )
            )

    def said(self, sample: Sample, number: int, pattern: str) -> bool:
        return re.search(pattern, self.output[sample.name, number].read_text(errors="replace")) is not None

    def desired(self, thing: str, **values: object) -> None:
        self.data.update_thing_shadow(thingName=thing, payload=json.dumps({"state": {"desired": values}}))

    def shadow(self, thing: str) -> dict[str, Any]:
        try:
            return json.load(self.data.get_thing_shadow(thingName=thing)["payload"])
        except self.data.exceptions.ResourceNotFoundException:
            return {"state": {}}

    def execution(self, thing: str) -> dict[str, Any]:
        return self.iot.describe_job_execution(jobId=f"job-of-{thing}", thingName=thing)["execution"]


def echoes(thing: str, world: World) -> bool:
    """What the operator wishes comes back as reported; wished anew each time: the sample may not have subscribed yet."""
    number = world.shadow(thing)["state"].get("desired", {}).get("turn", 0)
    if number and world.shadow(thing)["state"].get("reported") == {"turn": number}:
        return True
    world.desired(thing, turn=number + 1)
    return False


def succeeded(thing: str, world: World) -> bool:
    return world.execution(thing)["status"] == "SUCCEEDED"


JSON = r"\{.*\}"
SAMPLES = [
    Sample(
        file=PYTHON / "basicPubSub" / "basicPubSub.py",
        runs=((("-t", "sync/1"), (r'Received a new message: \nb?\'?\{"message": "Hello World!", .*\}', "from topic: \nsync/1")),),
    ),
    Sample(
        file=PYTHON / "basicPubSub" / "basicPubSubAsync.py",
        runs=((("-t", "async/1"), ("Granted QoS: \n.*1", "Received PUBACK packet id", "from topic: \nasync/1")),),
    ),
    Sample(
        file=PYTHON / "basicPubSub" / "basicPubSub_APICallInCallback.py",
        runs=((("-t", "inside/1"), ("Forwarding message from: inside/1 to inside/1/republish", "from topic: \ninside/1/republish")),),
    ),
    Sample(
        file=PYTHON / "basicShadow" / "basicShadowUpdater.py",
        thing="Bot",
        runs=((("-n", "Bot"), ("Delete request .* (accepted|rejected)!", "Update request .* accepted!", "property: 0")),),
        follows=lambda world: "property" in world.shadow("Bot")["state"].get("desired", {}),
    ),
    Sample(
        file=PYTHON / "basicShadow" / "basicShadowDeltaListener.py",
        thing="Bot",
        runs=((("-n", "Bot"), (r"\+DELTA\+", r"property: \d")),),
    ),
    Sample(
        file=PYTHON / "ThingShadowEcho" / "ThingShadowEcho.py",
        thing="EchoPython",
        runs=((("-n", "EchoPython"), ("Received a delta message:", "Sent.")),),
        follows=partial(echoes, "EchoPython"),
    ),
    Sample(
        file=PYTHON / "jobs" / "jobsSample.py",
        thing="JobsPython",
        job={"operation": "anything"},
        runs=(((("-n", "JobsPython")), (f"With jobDocument: {JSON}", '"jobsStarted": 1, "jobsSucceeded": 1, "jobsRejected": 0')),),
        follows=partial(succeeded, "JobsPython"),
    ),
    Sample(
        file=NODE / "device-example.js",
        runs=(
            (("--test-mode=1", "--delay-ms=250"), ("connect", f"message topic_1 {JSON}")),
            (("--test-mode=2", "--delay-ms=250"), ("connect", f"message topic_2 {JSON}")),
        ),
    ),
    Sample(
        file=NODE / "echo-example.js",
        thing="EchoNode",
        runs=((("--thing-name=EchoNode",), ("received delta on EchoNode",)),),
        follows=partial(echoes, "EchoNode"),
    ),
    Sample(
        file=NODE / "thing-example.js",
        thing="RGBLedLamp",
        runs=(
            (("--test-mode=1",), ("Mobile thing registered", f"delta on: RGBLedLamp{JSON}")),
            (("--test-mode=2",), ("Device thing registered", "got 'accepted' status on: RGBLedLamp", "updated state to thing shadow")),
        ),
    ),
    Sample(
        file=NODE / "thing-passthrough-example.js",
        thing="thingShadow1",
        runs=(
            (("--test-mode=1",), ("connected to AWS IoT", "received delta on thingShadow1, publishing on non-thing topic")),
            (("--test-mode=2",), ("got 'accepted' status on: thingShadow1", "received on 'nonThingTopic1': .*value")),
        ),
    ),
    Sample(
        file=NODE / "jobs-example.js",
        thing="JobsNode",
        job={"operation": "customJob"},
        runs=((("--thing-name=JobsNode",), ("startJobNotifications completed", "customJob operation handler invoked")),),
        follows=partial(succeeded, "JobsNode"),
    ),
    Sample(
        file=NODE / "jobs-agent.js",
        thing="AgentNode",
        job={"operation": "systemStatus"},
        runs=((("--thing-name=AgentNode", "--debug"), ("agent connected", "startJobNotifications completed")),),
        follows=partial(succeeded, "AgentNode"),
    ),
]  # fmt: skip
# In the packages too, and not run: why.
NOT_RUN = {
    "basicPubSubProxy.py": "a SOCKS proxy",
    "basicPubSub_CognitoSTS.py": "Cognito",
    "basicDiscovery.py": "discovery of Greengrass cores",
    "temperature-control.js": "packages of its own",
    "browser/": "a browser and Cognito",
}


@pytest.fixture(scope="module")
def world(shared_hub: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    missing = [name for name in ("python", "node") if not (CLIENTS / name / "stamp").exists()]
    if missing:
        pytest.skip(f".clients/{missing[0]} is not installed (tools/test_setup.sh): AWS's samples were not run")
    made = World(
        shared_hub, tmp_path_factory.mktemp("samples"), shared_hub.client("iot"), shared_hub.client("iot-data")
    )
    keys = made.iot.create_keys_and_certificate(setAsActive=True)
    made.iot.create_policy(policyName="samples", policyDocument=ANYTHING)
    made.iot.attach_policy(policyName="samples", target=keys["certificateArn"])
    (made.folder / "device.pem").write_text(keys["certificatePem"])
    (made.folder / "device.key").write_text(keys["keyPair"]["PrivateKey"])
    for sample in SAMPLES:
        if sample.thing is not None:
            arn = made.iot.create_thing(thingName=sample.thing)["thingArn"]
            if sample.job is not None:
                made.iot.create_job(jobId=f"job-of-{sample.thing}", targets=[arn], document=json.dumps(sample.job))
        made.start(sample, 0)
    yield made
    for process in made.processes:
        process.terminate()
    for process in made.processes:
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_a_published_sample(sample: Sample, world: World, wait_for: Callable[..., Any]) -> None:
    for number in range(1, len(sample.runs)):
        wait_for(
            partial(world.said, sample, number - 1, sample.runs[number - 1][1][0]),
            f"the beginning of run {number - 1}",
            LIMIT_S,
        )
        world.start(sample, number)
    try:
        if sample.follows is not None:
            wait_for(partial(sample.follows, world), f"what follows from {sample.name}", LIMIT_S)
        for number, (_words, says) in enumerate(sample.runs):
            for pattern in says:
                wait_for(
                    partial(world.said, sample, number, pattern), f"{sample.name}, run {number}: {pattern}", LIMIT_S
                )
    except AssertionError as exc:
        shown = "\n".join(
            f"-- {path.name}\n{path.read_text()[-1500:]}\n{path.with_suffix('.err').read_text()[-1500:]}"
            for (name, _), path in world.output.items()
            if name == sample.name
        )
        raise AssertionError(f"{exc}\n{shown}") from exc


def test_no_sample_of_the_packages_is_left_out(world: World) -> None:
    there = {path.name for path in PYTHON.rglob("*.py")}
    for path in NODE.rglob("*.js"):
        place = path.relative_to(NODE).parts
        if place[0] == "browser":
            there.add("browser/")
        elif place[0] != "lib":
            there.add(path.name)
    assert there == {sample.name for sample in SAMPLES} | set(NOT_RUN)
