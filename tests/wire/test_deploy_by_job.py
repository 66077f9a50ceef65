"""A component written with the unmodified awsiotsdk, deployed with boto3, by job, to RUNNING; replaced; rolled back."""

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

COMPONENT = """
import sys, time
from awsiot.greengrasscoreipc.clientv2 import GreengrassCoreIPCClientV2
from awsiot.greengrasscoreipc.model import QOS
client = GreengrassCoreIPCClientV2()
version = sys.argv[1]
if version == "3.0.0":
    sys.exit("this build crashes at start")
while True:
    client.publish_to_iot_core(topic_name="hello/core-1", qos=QOS.AT_LEAST_ONCE, payload=version.encode())
    time.sleep(0.2)
"""


def recipe(version: str) -> bytes:
    return json.dumps(
        {
            "RecipeFormatVersion": "2020-01-25",
            "ComponentName": "com.example.Hello",
            "ComponentVersion": version,
            "ComponentConfiguration": {
                "DefaultConfiguration": {
                    "accessControl": {
                        "aws.greengrass.ipc.mqttproxy": {
                            "com.example.Hello:1": {
                                "operations": ["aws.greengrass#PublishToIoTCore"],
                                "resources": ["hello/{iot:thingName}"],
                            }
                        }
                    }
                }
            },
            "Manifests": [
                {
                    "Platform": {"os": "linux"},
                    "Artifacts": [{"URI": "s3://artifacts/hello/main.py"}],
                    "Lifecycle": {"run": f"exec python3 {{artifacts:path}}/main.py {version}"},
                }
            ],
        }
    ).encode()


@pytest.fixture
def site(
    start_hub: Callable[..., Any], start_edge: Callable[..., Any], marram: Callable[..., Any], tmp_path: Path
) -> Any:
    """A hub with one core in a group, and the component's versions registered."""
    hub = start_hub()
    joined = marram(
        "edge", "join", "--hub-json", hub.data / "hub.json", "--thing", "core-1", "--root", tmp_path / "core-1"
    )
    assert joined.returncode == 0, joined.stderr
    iot, s3 = hub.client("iot"), hub.client("s3")
    hub.group = iot.create_thing_group(thingGroupName="line")["thingGroupArn"]
    iot.add_thing_to_thing_group(thingGroupName="line", thingName="core-1")
    s3.create_bucket(Bucket="artifacts")
    s3.put_object(Bucket="artifacts", Key="hello/main.py", Body=COMPONENT.encode())
    hub.greengrass = hub.client("greengrassv2")
    for version in ("1.0.0", "2.0.0", "3.0.0"):
        hub.greengrass.create_component_version(inlineRecipe=recipe(version))
    hub.edge = start_edge(tmp_path / "core-1")
    return hub


def deploy(hub: Any, version: str) -> str:
    answer = hub.greengrass.create_deployment(
        targetArn=hub.group, components={"com.example.Hello": {"componentVersion": version}}
    )
    return str(answer["deploymentId"])


def status_of(hub: Any, deployment: str) -> str:
    try:
        found = hub.greengrass.list_effective_deployments(coreDeviceThingName="core-1")["effectiveDeployments"]
    except hub.greengrass.exceptions.ResourceNotFoundException:
        return ""  # it has not said a word yet
    return next((str(item["coreDeviceExecutionStatus"]) for item in found if item["deploymentId"] == deployment), "")


def running(hub: Any) -> set[tuple[str, str]]:
    try:
        listed = hub.greengrass.list_installed_components(coreDeviceThingName="core-1", topologyFilter="ALL")
    except hub.greengrass.exceptions.ResourceNotFoundException:
        return set()
    return {
        (item["componentVersion"], item["lifecycleState"])
        for item in listed["installedComponents"]
        if item["componentName"] == "com.example.Hello"
    }


def test_by_job_to_running_replaced_and_rolled_back(site: Any, wait_for: Callable[..., Any]) -> None:
    first = deploy(site, "1.0.0")
    wait_for(lambda: status_of(site, first) == "SUCCEEDED", "the first deployment")
    wait_for(lambda: running(site) == {("1.0.0", "RUNNING")}, "version 1 running on the hub's list")

    second = deploy(site, "2.0.0")
    wait_for(lambda: status_of(site, second) == "SUCCEEDED", "the second deployment")
    wait_for(lambda: running(site) == {("2.0.0", "RUNNING")}, "version 2")

    third = deploy(site, "3.0.0")
    wait_for(lambda: status_of(site, third) == "FAILED", "the refusal of the broken build")
    wait_for(lambda: running(site) == {("2.0.0", "RUNNING")}, "version 2 back")
    found = site.greengrass.list_effective_deployments(coreDeviceThingName="core-1")["effectiveDeployments"]
    assert next(item["reason"] for item in found if item["deploymentId"] == third)


def test_what_it_publishes_reaches_a_subscriber(site: Any, tmp_path: Path) -> None:
    iot = site.client("iot")
    keys = iot.create_keys_and_certificate(setAsActive=True)
    document = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:*", "Resource": "*"}]}
    iot.create_policy(policyName="all", policyDocument=json.dumps(document))
    iot.attach_policy(policyName="all", target=keys["certificateArn"])
    (tmp_path / "c.pem").write_text(keys["certificatePem"])
    (tmp_path / "k.pem").write_text(keys["keyPair"]["PrivateKey"])
    deploy(site, "1.0.0")
    done = subprocess.run(
        ["mosquitto_sub", "-h", "localhost", "-p", str(site.port("mqtt")), "--cafile", site.info["ca_file"],
         "--cert", str(tmp_path / "c.pem"), "--key", str(tmp_path / "k.pem"), "-q", "1", "-t", "hello/+", "-C", "3", "-W", "40",
         "-i", "watcher", "-F", "%t %p"],
        capture_output=True, text=True, timeout=50,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["hello/core-1 1.0.0"] * 3, done.stderr


def test_the_core_killed_in_the_middle_of_a_deployment_ends_it_all_the_same(
    site: Any, start_edge: Callable[..., Any], wait_for: Callable[..., Any]
) -> None:
    first = deploy(site, "1.0.0")
    wait_for(lambda: status_of(site, first) == "SUCCEEDED", "the first deployment")
    second = deploy(site, "2.0.0")
    wait_for(lambda: status_of(site, second) in ("IN_PROGRESS", "SUCCEEDED"), "the second deployment begun")
    killed = site.edge
    killed.kill()
    assert killed.process.returncode == -signal.SIGKILL, "it was still there to be killed"
    site.edge = start_edge(killed.root)
    wait_for(lambda: status_of(site, second) == "SUCCEEDED", "the second deployment")
    wait_for(lambda: running(site) == {("2.0.0", "RUNNING")}, "version 2")
    assert [status_of(site, each) for each in (first, second)] == ["SUCCEEDED"] * 2
    assert (site.edge.root / "packages" / "artifacts" / "com.example.Hello" / "2.0.0").is_dir()


def test_cancel_before_the_core_is_there(
    site: Any, start_edge: Callable[..., Any], wait_for: Callable[..., Any]
) -> None:
    first = deploy(site, "1.0.0")
    wait_for(lambda: status_of(site, first) == "SUCCEEDED", "the first deployment")
    site.edge.stop()
    second = deploy(site, "2.0.0")
    site.greengrass.cancel_deployment(deploymentId=second)
    site.edge = start_edge(site.edge.root)
    wait_for(lambda: running(site) == {("1.0.0", "RUNNING")}, "version 1 still")
    assert status_of(site, second) == "CANCELED"
