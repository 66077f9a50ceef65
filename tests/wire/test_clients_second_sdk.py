"""AWS's samples for the second SDKs cannot be told a port or a root certificate: they want 8883, 443 and the system's trust.

A hub with these ports, and its root among the system's, in namespaces of their own; and a program of ours that makes the same calls.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("unshare") is None,
        reason="NOT TESTED: the usual ports and the system's trust need root and iproute2",
    ),
]
TRUST = Path("/etc/ssl/certs/ca-certificates.crt")
PREPARE = """
import boto3, json
iot = boto3.client("iot")
iot.create_thing(thingName="sample")
made = iot.create_keys_and_certificate(setAsActive=True)
iot.create_policy(policyName="all", policyDocument=json.dumps({"Version": "2012-10-17", "Statement": [
    {"Effect": "Allow", "Action": "iot:*", "Resource": "*"}]}))
iot.attach_policy(policyName="all", target=made["certificateArn"])
trust = {"Effect": "Allow", "Principal": {"Service": "credentials.iot.amazonaws.com"}, "Action": "sts:AssumeRole"}
role = boto3.client("iam").create_role(
    RoleName="sampler", AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]}))["Role"]["Arn"]
iot.create_role_alias(roleAlias="samples", roleArn=role)
iot.attach_thing_principal(thingName="sample", principal=made["certificateArn"])
open("c.pem", "w").write(made["certificatePem"])
open("c.key", "w").write(made["keyPair"]["PrivateKey"])
print(iot.describe_endpoint(endpointType="iot:Data-ATS")["endpointAddress"])
"""


@pytest.fixture
def apart() -> Iterator[str]:
    """A network namespace with a loopback of its own: every port is free there."""
    name = f"mrm-sdk-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode or not TRUST.exists():
        pytest.skip(f"NOT TESTED: no network namespace, or no {TRUST}: {made.stderr.strip()}")
    try:
        subprocess.run(["ip", "netns", "exec", name, "ip", "link", "set", "lo", "up"], check=True)
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False)


@contextlib.contextmanager
def running(apart: str, data: Path) -> Iterator[dict[str, object]]:
    process = subprocess.Popen(
        ["ip", "netns", "exec", apart, sys.executable, "-m", "marram.cli.main", "hub", "up", "--data", str(data), "--no-console"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert any(line.strip() == "marram hub ready" for line in process.stdout)
        yield json.loads((data / "hub.json").read_text())
    finally:
        process.terminate()
        process.communicate(timeout=15)


def test_the_samples_of_the_second_sdk(apart: str, tmp_path: Path) -> None:
    data = tmp_path / "hub"
    data.mkdir()
    (data / "marram.toml").write_text("[hub]\nhttps_port = 443\n")
    with running(apart, data) as hub:
        env = os.environ | {
            "AWS_ENDPOINT_URL": hub["endpoints"]["api"], "AWS_DEFAULT_REGION": hub["region"],
            "AWS_ACCESS_KEY_ID": hub["admin"]["access_key_id"], "AWS_SECRET_ACCESS_KEY": hub["admin"]["secret_access_key"],
        }  # fmt: skip
        trust = tmp_path / "trust.crt"
        trust.write_text(TRUST.read_text() + Path(hub["ca_file"]).read_text())

        def run(*words: str) -> str:
            inside = f'mount --bind {trust} {TRUST} && exec "$@"'
            done = subprocess.run(
                ["ip", "netns", "exec", apart, "unshare", "--mount", "sh", "-c", inside, "sh", sys.executable, *words],
                cwd=tmp_path, env=env, capture_output=True, text=True, timeout=50, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout

        endpoint = run("-c", PREPARE).strip()
        assert endpoint == "localhost"  # without a port, as the samples need it
        said = run(str(Path(__file__).with_name("second_sdk.py")), endpoint, "c.pem", "c.key", "sample").splitlines()
    assert said[:2] == ["connected as mqtt5-sample", "heard Hello [5]"]
    assert said[2].startswith("connected as ") and len(said[2]) > len("connected as ")  # an id of the hub's choice
    assert said[3:] == [
        "delta {'color': 'green'} updated 1",
        "shadow 2",
        "next job-1 changed ['QUEUED']",
        "pending 1",
        "job IN_PROGRESS",
        "next None",
        "acts as sampler",
    ]
