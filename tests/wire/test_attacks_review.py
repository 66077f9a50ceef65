"""Attacks on what devices, keys and operators are trusted with, on a running hub: each was let through once, or might be.

What the hub alone may say, credentials that outlive whom they were given for, rights that are lent and not checked, and
what the audit log was not told.
"""

import http.client
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from botocore.exceptions import ClientError
from paho.mqtt.enums import MQTTProtocolVersion

from marram.cli.client import Api
from tests.wire.test_attacks_policy import Site

pytestmark = pytest.mark.xdist_group("attacks-review")
LIMIT_S = 10.0
ACCOUNT = "000000000001"
IAM = f"arn:aws:iam::{ACCOUNT}:"
IOT = f"arn:aws:iot:local-1:{ACCOUNT}:"
ALL = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
SERVICE_ROLE = f"{IAM}role/marram-service"


@pytest.fixture
def site(shared_hub: Any, tmp_path: Path) -> Iterator[Site]:
    made = Site(shared_hub, tmp_path)
    yield made
    made.close()


def document(*statements: dict[str, Any]) -> str:
    """Statements allow unless they say otherwise."""
    return json.dumps(
        {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Resource": "*", **row} for row in statements]}
    )


def key(site: Site, name: str, *statements: dict[str, Any]) -> dict[str, str]:
    """Credentials of a new user with just these rights, as boto3 takes them."""
    made = Api.from_data(site.hub.data).marram("identity/CreateKey", {"name": name, "policy": document(*statements)})
    return {"aws_access_key_id": made["accessKeyId"], "aws_secret_access_key": made["secretAccessKey"]}


def role(site: Site, name: str, service: str, *statements: dict[str, Any]) -> str:
    trust = {"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}
    iam = site.hub.client("iam")
    made = iam.create_role(
        RoleName=name, AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    )
    if statements:
        iam.put_role_policy(RoleName=name, PolicyName="p", PolicyDocument=document(*statements))
    return str(made["Role"]["Arn"])


def refused(code: str, call: Callable[[], object]) -> str:
    with pytest.raises(ClientError) as caught:
        call()
    assert caught.value.response["Error"]["Code"] == code, caught.value
    return str(caught.value)


def https(site: Site, name: str, method: str, path: str, **headers: str) -> tuple[int, bytes]:
    client = http.client.HTTPSConnection("localhost", site.hub.port("https"), context=site.tls(name), timeout=10)
    try:
        client.request(method, path, b"{}" if method == "POST" else None, headers)
        answer = client.getresponse()
        return answer.status, answer.read()
    finally:
        client.close()


# what the hub alone may say

HUBS_OWN = [
    "$aws/things/victim/jobs/notify",
    "$aws/things/victim/jobs/notify-next",
    "$aws/things/victim/jobs/notify-next-namespace-a",
    "$aws/things/victim/jobs/get/accepted",
    "$aws/things/victim/jobs/start-next/accepted",
    "$aws/things/victim/jobs/job/update/accepted",
    "$aws/things/victim/jobs/job/update/rejected",
    "$aws/things/victim/shadow/update/delta",
    "$aws/things/victim/shadow/update/accepted",
    "$aws/things/victim/shadow/name/a/update/documents",
    "$aws/events/presence/connected/victim",
    "$aws/certificates/create/json/accepted",
    "$aws/provisioning-templates/t/provision/json/accepted",
    "$marram/anything",
    "$share/group/topic",
]


def test_t01_nobody_speaks_as_the_hub(site: Site) -> None:
    """A device obeys these: a job that nobody created would be run, a delta that nobody wanted followed."""
    site.certificate("victim", ALL)
    site.certificate("liar", ALL)
    victim = site.connect("victim")
    for topic in HUBS_OWN:
        if not topic.startswith("$share"):
            assert victim.subscribe(topic) == 1
    assert victim.subscribe("mark") == 1
    newer = site.connect("liar", "liar-5", MQTTProtocolVersion.MQTTv5)
    for topic in HUBS_OWN:
        assert site.connect("liar").publish(topic, b"do as I say") == "closed", topic
        assert newer.publish(topic, b"do as I say") == "refused", topic
        assert https(site, "liar", "POST", f"/topics/{quote(topic, safe='')}?qos=1")[0] == 403, topic
        refused("ForbiddenException", lambda: site.data.publish(topic=topic, payload=b"x"))  # noqa: B023
        refused("ForbiddenException", lambda: site.data.send_direct_message(clientId="victim", topic=topic))  # noqa: B023
    site.data.publish(topic="mark", qos=1, payload=b"after")
    assert victim.got.get(timeout=LIMIT_S) == ("mark", b"after")
    assert victim.got.empty()
