"""A core on another machine: a network namespace of its own, joined by token over a veth pair, to a hub bound to that address."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.wire.faults import Edge, Hub, marram, until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        os.geteuid() != 0 or shutil.which("ip") is None,
        reason="NOT TESTED: a core in another network namespace needs root and iproute2",
    ),
    pytest.mark.xdist_group("faults-namespace"),
]
HOST = "hub.marram.example"


@dataclass
class Elsewhere:
    """The namespace; `here` is the address of this end of the cable."""

    name: str
    here: str

    @property
    def prefix(self) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.name)

    def run(self, *words: object, timeout: float = 30) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*self.prefix, *map(str, words)], capture_output=True, text=True, timeout=timeout, check=False
        )


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Elsewhere]:
    number = os.getpid() % 16000
    name, near, far = f"mrm-{os.getpid()}", f"mrmn{number}", f"mrmf{number}"
    net = f"10.{200 + number // 4096}.{number // 16 % 256}.{number % 16 * 16}"
    base, _, last = net.rpartition(".")
    here, there = f"{base}.{int(last) + 1}", f"{base}.{int(last) + 2}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"NOT TESTED: no network namespace can be made here: {made.stderr.strip()}")
    hosts = Path("/etc/netns") / name
    try:
        for words in (
            f"link add {near} type veth peer name {far} netns {name}",
            f"addr add {here}/28 dev {near}",
            f"link set {near} up",
            f"-n {name} addr add {there}/28 dev {far}",
            f"-n {name} link set {far} up",
            f"-n {name} link set lo up",
        ):
            subprocess.run(["ip", *words.split()], check=True)
        hosts.mkdir(parents=True)
        (hosts / "hosts").write_text(f"127.0.0.1 localhost\n{here} {HOST}\n")
        yield Elsewhere(name, here)
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False)
        subprocess.run(["ip", "link", "del", near], check=False, capture_output=True)
        shutil.rmtree(hosts, ignore_errors=True)


@pytest.fixture(scope="module")
def hub(elsewhere: Elsewhere, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("bound")
    made = Hub(folder / "hub", folder / "hub.log", "--bind", elsewhere.here, "--name", HOST)
    made.start()
    yield made
    made.close()
    assert "Traceback" not in made.said()


@pytest.fixture(scope="module")
def endpoint(hub: Hub) -> str:
    assert hub.info["endpoints"]["https"] == f"https://{HOST}:{hub.port('https')}"
    return str(hub.info["endpoints"]["https"])


def token_of(hub: Hub, *words: str) -> str:
    done = marram("hub", "join-token", "--data", hub.folder, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_commands_with_data_work_where_the_name_does_not_resolve(hub: Hub) -> None:
    """The hub's own machine need not know the name that others use."""
    done = marram("hub", "status", "--data", hub.folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert token_of(hub).startswith("mrm1.")


def test_the_hub_says_its_name(hub: Hub) -> None:
    for kind in ("iot:Data-ATS", "iot:CredentialProvider"):
        assert hub.client("iot").describe_endpoint(endpointType=kind)["endpointAddress"].partition(":")[0] == HOST


def test_nothing_plaintext_is_served_off_loopback(hub: Hub, elsewhere: Elsewhere) -> None:
    for door in ("api", "mqtt", "https"):
        url = f"http://{HOST}:{hub.port(door)}/"
        done = elsewhere.run("curl", "-sS", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}", url)
        assert done.stdout in ("000", "400"), (door, done)
    done = elsewhere.run("curl", "-sS", "-m", "10", f"http://127.0.0.1:{hub.port('api')}/")
    assert done.returncode == 7, done  # the far loopback is another one
    for door in ("console",):
        assert elsewhere.run("curl", "-sS", "-m", "10", f"http://{HOST}:{hub.port(door)}/").returncode == 7


def test_the_api_is_there_by_tls(hub: Hub, elsewhere: Elsewhere) -> None:
    program = (
        "import boto3, sys; c = boto3.client('sts', endpoint_url=sys.argv[1], verify=sys.argv[2], region_name='local-1',"
        " aws_access_key_id=sys.argv[3], aws_secret_access_key=sys.argv[4]); print(c.get_caller_identity()['Account'])"
    )
    admin = hub.info["admin"]
    words = (hub.info["endpoints"]["api"], hub.ca, admin["access_key_id"], admin["secret_access_key"])
    done = elsewhere.run(sys.executable, "-c", program, *words)
    assert done.stdout.strip() == hub.info["account_id"], done.stderr
    done = elsewhere.run("curl", "-sS", "--cacert", hub.ca, f"{hub.info['endpoints']['api']}/metrics")
    assert "marram_" not in done.stdout  # on loopback only, without a token


def test_tokens_that_are_refused(hub: Hub, elsewhere: Elsewhere, endpoint: str, tmp_path: Path) -> None:
    from marram.cli import client

    good = token_of(hub)
    _, secret, fingerprint = good.split(".")
    bound = token_of(hub, "--thing", "only-me")
    api = client.Api.from_data(hub.folder)
    old = str(api.marram("identity/CreateJoinToken", {"expiresInSeconds": 1})["token"])
    time.sleep(1.1)

    def refused(token: str, words: str, where: str = endpoint) -> None:
        root = tmp_path / "refused"
        begun = ("edge", "join", "--endpoint", where, "--token", token, "--thing", "stranger", "--root", root)
        done = marram(*begun, prefix=elsewhere.prefix)
        assert done.returncode != 0 and words in done.stderr, (words, done.stderr)
        assert len(done.stderr.splitlines()) == 1 and "Traceback" not in done.stderr
        assert not (root / "config" / "config.yaml").exists()

    refused(f"mrm1.{secret[::-1]}.{fingerprint}", "wrong, used or over")
    refused(f"mrm1.{secret}.{fingerprint[::-1]}", "root certificate is another")
    refused(old, "wrong, used or over")
    refused(bound, "for thing only-me")
    refused("nonsense", "not a join token")
    refused(good, "", f"https://{HOST}:9")
    # None of that used it up; joining does.
    root = tmp_path / "second"
    words = ("edge", "join", "--endpoint", endpoint, "--token", good, "--thing", "second", "--root", root)
    done = marram(*words, prefix=elsewhere.prefix)
    assert done.returncode == 0, done.stderr
    refused(good, "wrong, used or over")
    assert [t["thingName"] for t in hub.client("iot").list_things()["things"] if t["thingName"] == "stranger"] == []


def test_a_core_joins_runs_and_is_deployed_to(hub: Hub, elsewhere: Elsewhere, endpoint: str, tmp_path: Path) -> None:
    root = tmp_path / "far"
    begun = ("edge", "join", "--endpoint", endpoint, "--token", token_of(hub), "--thing", "far", "--root", root)
    done = marram(*begun, prefix=elsewhere.prefix)
    assert done.returncode == 0, done.stderr
    assert HOST in (root / "config" / "config.yaml").read_text()
    edge = Edge(root, tmp_path / "far.log", prefix=elsewhere.prefix)
    edge.start()
    try:
        s3, greengrass = hub.client("s3"), hub.client("greengrassv2")
        s3.create_bucket(Bucket="artifacts")
        body = os.urandom(600_000)
        s3.put_object(Bucket="artifacts", Key="far/data.bin", Body=body)
        recipe = {
            "RecipeFormatVersion": "2020-01-25",
            "ComponentName": "com.example.Far",
            "ComponentVersion": "1.0.0",
            "Manifests": [
                {
                    "Platform": {"os": "linux"},
                    "Artifacts": [{"URI": "s3://artifacts/far/data.bin"}],
                    "Lifecycle": {"run": "readlink /proc/self/ns/net > {work:path}/net; exec sleep 600"},
                }
            ],
        }
        greengrass.create_component_version(inlineRecipe=json.dumps(recipe).encode())
        deployment = greengrass.create_deployment(
            targetArn=hub.client("iot").describe_thing(thingName="far")["thingArn"],
            components={"com.example.Far": {"componentVersion": "1.0.0"}},
        )["deploymentId"]

        def status() -> str:
            found = greengrass.list_effective_deployments(coreDeviceThingName="far")["effectiveDeployments"]
            return next((i["coreDeviceExecutionStatus"] for i in found if i["deploymentId"] == deployment), "")

        until(lambda: status() in ("SUCCEEDED", "FAILED"), "the deployment", 40)
        assert status() == "SUCCEEDED", edge.said()[-3000:]
        found = root / "packages" / "artifacts" / "com.example.Far" / "1.0.0" / "data.bin"
        assert found.read_bytes() == body
        inside = until((root / "work" / "com.example.Far" / "net").read_text, "the component's own word").strip()
        assert inside != os.readlink("/proc/self/ns/net")
        assert greengrass.get_core_device(coreDeviceThingName="far")["status"] == "HEALTHY"
        assert "Traceback" not in edge.said()
    finally:
        edge.close()


def test_a_device_elsewhere_speaks_mqtt(hub: Hub, elsewhere: Elsewhere) -> None:
    device = hub.device("roaming")
    words = [word if word != "localhost" else HOST for word in hub.mosquitto(device, "mosquitto_pub", "-V", "5")]
    done = elsewhere.run(*words, "-q", "1", "-t", "far/away", "-m", "hello", "-i", "roaming")
    assert done.returncode == 0, done.stderr
