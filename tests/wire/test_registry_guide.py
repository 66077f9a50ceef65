"""`aws iot` commands of AWS's developer guide as typed ("Managing devices", "Thing types", "Static thing groups", "Tagging",
"Event messages"), against a hub with nothing but the environment of `marram hub env`; and the events on a real MQTT client.
"""

import json
import os
import shlex
import shutil
import ssl
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import paho.mqtt.client as paho
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config

AWS = shutil.which("aws")
FULL = bool(os.environ.get("MARRAM_FULL"))
ANYTHING = json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:*", "Resource": "*"}]})
CERTIFICATE = "<the certificate's ARN>"
GROUP = "<the group's ARN>"

# (command, a part of the answer); those of the first list in `make test`, both in `make test-full`: each costs a second of CPU.
GUIDE = [
    ('aws iot create-thing-type --thing-type-name "LightBulb" --thing-type-properties "thingTypeDescription=light bulb type, '
     'searchableAttributes=wattage,model"', "thingtype/LightBulb"),
    ('aws iot create-thing --thing-name "MyLightBulb" --thing-type-name "LightBulb" --attribute-payload '
     r'"{\"attributes\": {\"wattage\":\"75\", \"model\":\"123\"}}"', "thing/MyLightBulb"),
    ('aws iot describe-thing --thing-name "MyLightBulb"', '"defaultClientId": "MyLightBulb"'),
    ('aws iot list-things --attribute-name wattage --attribute-value 75', '"MyLightBulb"'),
    ('aws iot create-thing-group --thing-group-name LightBulbs', "thinggroup/LightBulbs"),
    ('aws iot add-thing-to-thing-group --thing-name MyLightBulb --thing-group-name LightBulbs', ""),
    ('aws iot list-things-in-thing-group --thing-group-name LightBulbs', '"MyLightBulb"'),
    (f'aws iot attach-thing-principal --thing-name "MyLightBulb" --principal "{CERTIFICATE}"', ""),
    ('aws iot list-thing-principals --thing-name "MyLightBulb"', ":cert/"),
]  # fmt: skip
MORE = [
    ('aws iot list-thing-types', '"deprecated": false'),
    ('aws iot describe-thing-type --thing-type-name "LightBulb"', '"light bulb type"'),
    (r'aws iot update-thing --thing-name "MyLightBulb" --attribute-payload "{\"attributes\": {\"wattage\":\"150\", \"model\":\"456\"}}"',
     ""),
    ('aws iot list-things --thing-type-name LightBulb', '"wattage": "150"'),
    ('aws iot list-things --attribute-name model --attribute-value 4 --use-prefix-attribute-value', '"MyLightBulb"'),
    ('aws iot create-thing-group --thing-group-name RedLights --parent-group-name LightBulbs', "thinggroup/RedLights"),
    ('aws iot describe-thing-group --thing-group-name RedLights', '"parentGroupName": "LightBulbs"'),
    (r'aws iot update-thing-group --thing-group-name "LightBulbs" --thing-group-properties '
     r'"thingGroupDescription=\"this is a test group\", attributePayload={attributes={Owner=150,modelNames=456}}"', '"version": 2'),
    ('aws iot list-thing-groups', '"LightBulbs"'),
    ('aws iot list-thing-groups --recursive --parent-group LightBulbs', '"RedLights"'),
    ('aws iot list-thing-groups-for-thing --thing-name MyLightBulb', '"LightBulbs"'),
    ('aws iot update-thing-groups-for-thing --thing-name MyLightBulb --thing-groups-to-add RedLights --thing-groups-to-remove LightBulbs',
     ""),
    ('aws iot list-things-in-thing-group --thing-group-name LightBulbs --recursive', '"MyLightBulb"'),
    (f'aws iot tag-resource --resource-arn "{GROUP}" --tags Key=owner,Value=me', ""),
    (f'aws iot list-tags-for-resource --resource-arn "{GROUP}"', '"owner"'),
    (f'aws iot untag-resource --resource-arn "{GROUP}" --tag-keys owner', ""),
    (r'aws iot update-event-configurations --event-configurations "{\"THING\":{\"Enabled\": true}}"', ""),
    ('aws iot describe-event-configurations', '"THING_GROUP_HIERARCHY"'),
    ('aws iot describe-endpoint --endpoint-type iot:Data-ATS', "localhost"),
    ('aws iot remove-thing-from-thing-group --thing-name MyLightBulb --thing-group-name RedLights', ""),
    ('aws iot delete-thing-group --thing-group-name RedLights', ""),
    (f'aws iot detach-thing-principal --thing-name "MyLightBulb" --principal "{CERTIFICATE}"', ""),
    ('aws iot delete-thing --thing-name "MyLightBulb"', ""),
    ('aws iot deprecate-thing-type --thing-type-name "LightBulb"', ""),
    ('aws iot deprecate-thing-type --thing-type-name "LightBulb" --undo-deprecate', ""),
]  # fmt: skip


def environment(hub: Any) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return clean | {
        "AWS_ENDPOINT_URL": hub.info["endpoints"]["api"], "AWS_DEFAULT_REGION": hub.info["region"],
        "AWS_ACCESS_KEY_ID": hub.info["admin"]["access_key_id"], "AWS_PAGER": "",
        "AWS_SECRET_ACCESS_KEY": hub.info["admin"]["secret_access_key"], "AWS_CONFIG_FILE": "/dev/null",
    }  # fmt: skip


@pytest.mark.skipif(AWS is None, reason="the aws command is not installed: the guide's commands were not run")
def test_the_commands_of_the_guide_as_typed(shared_hub: Any) -> None:
    iot = shared_hub.client("iot")
    arns = {
        CERTIFICATE: iot.create_keys_and_certificate(setAsActive=True)["certificateArn"],
        GROUP: f"arn:aws:iot:{shared_hub.info['region']}:{shared_hub.info['account_id']}:thinggroup/LightBulbs",
    }
    for typed, expected in GUIDE + (MORE if FULL else []):
        command = typed
        for name, value in arns.items():
            command = command.replace(name, value)
        done = subprocess.run(
            shlex.split(command), env=environment(shared_hub), capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        assert expected in done.stdout, f"{command}\n{done.stdout}"


def test_registry_events_reach_a_subscriber(shared_hub: Any, tmp_path: Path) -> None:
    iot = shared_hub.client("iot")
    iot.update_event_configurations(
        eventConfigurations={"THING": {"Enabled": True}, "THING_GROUP_MEMBERSHIP": {"Enabled": True}}
    )
    iot.create_policy(policyName="events", policyDocument=ANYTHING)
    made = iot.create_keys_and_certificate(setAsActive=True)
    iot.attach_policy(policyName="events", target=made["certificateArn"])
    (tmp_path / "c.pem").write_text(made["certificatePem"])
    (tmp_path / "k.pem").write_text(made["keyPair"]["PrivateKey"])
    context = ssl.create_default_context(cafile=shared_hub.info["ca_file"])
    context.load_cert_chain(tmp_path / "c.pem", tmp_path / "k.pem")
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id="listener")
    client.tls_set_context(context)
    subscribed, three = threading.Event(), threading.Event()
    heard: list[tuple[str, str]] = []

    def on_message(_client: Any, _data: Any, message: Any) -> None:
        heard.append((message.topic, json.loads(message.payload)["operation"]))
        if len(heard) == 3:
            three.set()

    client.on_connect = lambda *_: client.subscribe(
        [("$aws/events/thing/#", 1), ("$aws/events/thingGroupMembership/#", 1)]
    )
    client.on_subscribe = lambda *_: subscribed.set()
    client.on_message = on_message
    host, _, port = shared_hub.info["endpoints"]["mqtt"].rpartition("//")[2].rpartition(":")
    client.connect(host, int(port))
    client.loop_start()
    try:
        assert subscribed.wait(10)
        iot.create_thing_group(thingGroupName="heard")
        iot.create_thing(thingName="heard-1")
        iot.add_thing_to_thing_group(thingGroupName="heard", thingName="heard-1")
        iot.delete_thing_group(thingGroupName="heard")
        assert three.wait(10), heard
    finally:
        client.disconnect()
        client.loop_stop()
    assert heard == [
        ("$aws/events/thing/heard-1/created", "CREATED"),
        ("$aws/events/thingGroupMembership/thingGroup/heard/thing/heard-1/added", "ADDED"),
        ("$aws/events/thingGroupMembership/thingGroup/heard/thing/heard-1/removed", "REMOVED"),
    ]


# CSV


def fleet(path: Path, lines: int, bad: dict[int, str] | None = None) -> Path:
    """A file with a header and `lines` things; `bad` replaces lines by their number in the file."""
    rows = ["name,type,attr:site,groups"]
    rows += [f"imported-{number:05d},ImportedPump,site-{number % 7},imported" for number in range(2, lines + 2)]
    for number, text in (bad or {}).items():
        rows[number - 1] = text
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture
def importable(shared_hub: Any) -> Any:
    iot = shared_hub.client("iot")
    iot.create_thing_type(thingTypeName="ImportedPump")
    iot.create_thing_group(thingGroupName="imported")
    return iot


def count(iot: Any) -> int:
    pages = iot.get_paginator("list_things").paginate(thingTypeName="ImportedPump")
    return sum(len(page["things"]) for page in pages)


def test_a_bad_line_9999_of_10000_leaves_nothing(
    shared_hub: Any, importable: Any, marram: Callable[..., Any], tmp_path: Path
) -> None:
    before = count(importable)
    data = ("--data", str(shared_hub.data))
    file = fleet(tmp_path / "fleet.csv", 10_000, {9_999: "a/b,ImportedPump,s,imported"})
    done = marram("things", "import", str(file), *data)
    assert done.returncode == 1 and "line 9999: 'a/b' is not a thing name" in done.stderr and "MRM-4010" in done.stderr
    assert count(importable) == before


def test_a_file_is_imported_again_and_exported(
    shared_hub: Any, importable: Any, marram: Callable[..., Any], tmp_path: Path
) -> None:
    data = ("--data", str(shared_hub.data))
    file = fleet(tmp_path / "fleet.csv", 350)
    assert json.loads(marram("things", "import", str(file), "--dry-run", "--json", *data).stdout) == {
        "things": 350, "problems": [],
    }  # fmt: skip
    first = json.loads(marram("things", "import", str(file), "--json", *data).stdout)
    assert (first["things"], first["created"]) == (350, 350)
    again = json.loads(marram("things", "import", str(file), "--json", *data).stdout)
    assert (again["things"], again["created"]) == (350, 0)
    shown = json.loads(marram("things", "show", "imported-00007", "--json", *data).stdout)
    assert (shown["attributes"], shown["groups"]) == ({"site": "site-0"}, ["imported"])
    exported = tmp_path / "out.csv"
    assert marram("things", "export", "--output", str(exported), *data).returncode == 0
    text = exported.read_text()
    assert "imported-00350,ImportedPump" in text
    assert marram("things", "delete", "imported-00002", *data).returncode == 0
    assert marram("things", "import", str(exported), *data).returncode == 0
    assert count(importable) >= 350


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        pytest.param("type\npump\n", 1, "`name` must be one", id="no name column"),
        pytest.param("name,colour\nx,red\n", 1, "'colour' is not a column", id="unknown column"),
        pytest.param("name,type,type\nx,a,b\n", 1, "twice", id="column twice"),
        pytest.param("name,type\ngood\n", 2, "1 cells", id="too few cells"),
        pytest.param('name\n"open\n', 2, "unexpected end of data", id="open quote"),
        pytest.param("name\ngood\ngood\n", 3, "on line 2 already", id="name twice"),
        pytest.param("name,attr:a b\ngood,1\n", 2, "attribute name", id="attribute name"),
        pytest.param("name,attr:a\ngood,caf\u00e9\n", 2, "the value", id="attribute value"),
        pytest.param("name\n${iot:ClientId}\n", 2, "not a thing name", id="policy variable"),
        pytest.param(f"name\n{'x' * 129}\n", 2, "not a thing name", id="129 characters"),
        pytest.param("name,type\ngood,NoSuchType\n", 2, "thing type NoSuchType does not exist", id="unknown type"),
        pytest.param(
            "name,groups\ngood,NoSuchGroup\n", 2, "thing group NoSuchGroup does not exist", id="unknown group"
        ),
        pytest.param("name,attr:a,attr:b,attr:c,attr:d\ngood,1,2,3,4\n", 2, "at most 3", id="four attributes, no type"),
        pytest.param("name,csr\ngood,none.csr\n", 2, "neither PEM nor a file", id="no such request"),
        pytest.param(
            "name,certificate\ngood,/etc/hostname\n", 2, "neither PEM nor a file", id="a file of somebody else"
        ),
        pytest.param(
            f"name,certificate\ngood,{'../' * 30}etc/hostname\n", 2, "neither PEM nor a file", id="a file above"
        ),
        pytest.param(f"name,certificate\ngood,{'x' * 5000}\n", 2, "neither PEM nor a file", id="no name of a file"),
        pytest.param(
            "name,csr\ngood,-----BEGIN CERTIFICATE REQUEST-----\n", 2, "--certificates", id="nowhere to put it"
        ),
    ],
)
def test_lines_that_are_refused(
    shared_hub: Any, marram: Callable[..., Any], tmp_path: Path, text: str, line: int, word: str
) -> None:
    (tmp_path / "fleet.csv").write_text(text)
    done = marram("things", "import", str(tmp_path / "fleet.csv"), "--data", str(shared_hub.data))
    assert done.returncode == 1
    assert f"line {line}: " in done.stderr and word in done.stderr
    with pytest.raises(Exception, match="does not exist"):
        shared_hub.client("iot").describe_thing(thingName="good")


def test_requests_are_signed_and_certificates_attached(
    shared_hub: Any, marram: Callable[..., Any], tmp_path: Path
) -> None:
    data = ("--data", str(shared_hub.data))
    for name in ("one", "two"):
        subprocess.run(
            ["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}",
             "-keyout", str(tmp_path / f"{name}.key"), "-out", str(tmp_path / f"{name}.csr")], check=True, capture_output=True,
        )  # fmt: skip
    known = shared_hub.client("iot").create_keys_and_certificate(setAsActive=True)
    (tmp_path / "known.pem").write_text(known["certificatePem"])
    (tmp_path / "fleet.csv").write_text(
        "name,csr,certificate\nwith-csr-1,one.csr,\nwith-csr-2,two.csr,\nwith-certificate,,known.pem\n"
    )
    out = tmp_path / "certificates"
    out.mkdir()
    words = ("things", "import", str(tmp_path / "fleet.csv"), "--certificates", str(out), "--json", *data)
    assert json.loads(marram(*words).stdout)["certificates"] == 2
    iot = shared_hub.client("iot")
    assert iot.list_thing_principals(thingName="with-certificate")["principals"] == [known["certificateArn"]]
    assert len(iot.list_thing_principals(thingName="with-csr-1")["principals"]) == 1
    context = ssl.create_default_context(cafile=shared_hub.info["ca_file"])
    context.load_cert_chain(out / "with-csr-1.pem", tmp_path / "one.key")  # fails unless it is of this key
    assert json.loads(marram(*words).stdout)["certificates"] == 0
    assert len(iot.list_thing_principals(thingName="with-csr-1")["principals"]) == 1
    done = marram("things", "delete", "with-csr-1", *data)
    assert done.returncode == 1 and "attached" in done.stderr
    assert marram("things", "delete", "with-csr-1", "--detach", *data).returncode == 0
    assert marram("things", "show", "with-csr-1", *data).returncode == 3


def test_the_own_operation_with_boto3(shared_hub: Any, importable: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    models = Path(__file__).resolve().parents[2] / "marram/hub/border/models"
    monkeypatch.setenv("AWS_DATA_PATH", str(models))
    admin = shared_hub.info["admin"]
    client = boto3.Session().client(
        "marram", endpoint_url=shared_hub.info["endpoints"]["api"], region_name=shared_hub.info["region"],
        aws_access_key_id=admin["access_key_id"], aws_secret_access_key=admin["secret_access_key"],
        config=Config(retries={"max_attempts": 0}),
    )  # fmt: skip
    things = [{"thingName": "own-1", "thingTypeName": "ImportedPump"}, {"thingName": "own 2"}]
    found = client.import_things(things=things, dryRun=True)
    assert [(each["index"], each["thingName"]) for each in found["problems"]] == [(1, "own 2")]
    with pytest.raises(client.exceptions.ClientError, match=r"things\[1\]"):
        client.import_things(things=things)
    with pytest.raises(Exception, match="does not exist"):
        importable.describe_thing(thingName="own-1")
    client.close()


def test_a_certificate_is_attached_by_who_may(shared_hub: Any, marram: Callable[..., Any], tmp_path: Path) -> None:
    known = shared_hub.client("iot").create_keys_and_certificate(setAsActive=True)
    rights = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": ["marram:ImportThings", "iot:CreateThing"], "Resource": "*"}],
    }
    (tmp_path / "importer.json").write_text(json.dumps(rights))
    words = ("key", "create", "--policy", str(tmp_path / "importer.json"), "--name", "importer")
    key = json.loads(marram(*words, "--data", str(shared_hub.data), "--json").stdout)
    client = boto3.Session().client(
        "iot", endpoint_url=shared_hub.info["endpoints"]["api"], region_name=shared_hub.info["region"],
        aws_access_key_id=key["accessKeyId"], aws_secret_access_key=key["secretAccessKey"],
    )  # fmt: skip
    signer = client._request_signer._credentials

    def call(things: list[dict[str, str]]) -> tuple[int, str]:
        request = AWSRequest(
            "POST", shared_hub.info["endpoints"]["api"] + "/marram/registry/ImportThings",
            data=json.dumps({"things": things}), headers={"content-type": "application/json"},
        )  # fmt: skip
        SigV4Auth(signer, "marram", shared_hub.info["region"]).add_auth(request)
        sent = urllib.request.Request(request.url, request.data.encode(), dict(request.headers), method="POST")
        try:
            with urllib.request.urlopen(sent, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, refused.read().decode()

    status, text = call([{"thingName": "bare"}])
    assert status == 200, text
    status, text = call([{"thingName": "armed", "certificatePem": known["certificatePem"]}])
    assert status == 403 and "iot:AttachThingPrincipal" in text and known["certificateId"] in text, text
    status, text = call([{"thingName": "odd", "certificatePem": "no PEM"}])
    assert status == 400 and "things[0] 'odd'" in text, text
    client.close()
