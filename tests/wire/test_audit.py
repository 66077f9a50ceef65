"""The audit log of a real hub: boto3 acts, the command line looks, an edit of the database is noticed."""

import json
import sqlite3
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError


def test_acts_are_there_after_a_kill_and_an_edit_is_noticed(
    start_hub: Callable[..., Any], marram: Callable[..., Any]
) -> None:
    hub = start_hub()
    iot = hub.client("iot")
    iot.create_thing(thingName="lamp")
    iot.describe_thing(thingName="lamp")
    with pytest.raises(ClientError):
        iot.create_thing(thingName="lamp", attributePayload={"attributes": {"a": "1"}})
    nobody = json.loads(
        marram(
            "key", "create", "--policy", _policy(hub.data.parent), "--name", "nobody", "--data", hub.data, "--json"
        ).stdout
    )
    other = hub.client("iot", aws_access_key_id=nobody["accessKeyId"], aws_secret_access_key=nobody["secretAccessKey"])
    with pytest.raises(ClientError, match="not authorized"):
        other.delete_thing(thingName="lamp")
    hub.kill()

    hub = start_hub(hub.data)
    acts = json.loads(marram("audit", "list", "--data", hub.data, "--json").stdout)
    seen = [(act["operation"], act["outcome"]) for act in acts]
    assert seen[:1] == [("iot:DeleteThing", "AccessDeniedException")]
    assert ("iot:CreateThing", "OK") in seen and ("iot:CreateThing", "ResourceAlreadyExistsException") in seen
    assert not any("DescribeThing" in operation for operation, _ in seen)
    assert acts[0]["resources"] == [f"arn:aws:iot:{hub.info['region']}:{hub.info['account_id']}:thing/lamp"]
    assert acts[0]["sourceIp"] == "127.0.0.1" and acts[0]["key"] == nobody["accessKeyId"]
    assert nobody["secretAccessKey"] not in json.dumps(acts)

    text = marram("audit", "list", "--operation", "iot:DeleteThing", "--limit", "1", "--data", hub.data).stdout
    assert "AccessDeniedException" in text and "thing/lamp" in text
    whole = marram("audit", "verify", "--data", hub.data)
    assert whole.returncode == 0 and "are whole" in whole.stdout, whole.stderr
    assert hub.stop() == 0

    connection = sqlite3.connect(hub.data / "hub.db")
    with connection:
        connection.execute("DELETE FROM audit WHERE operation = 'iot:DeleteThing'")
    connection.close()
    hub = start_hub(hub.data)
    broken = marram("audit", "verify", "--data", hub.data, "--json")
    assert broken.returncode == 8
    assert "cut off" in json.loads(broken.stdout)["problem"]


def _policy(folder: Any) -> Any:
    path = folder / "nobody.json"
    path.write_text(
        '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:List*", "Resource": "*"}]}'
    )
    return path
