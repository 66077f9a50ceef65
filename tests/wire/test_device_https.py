"""A device on the https port without MQTT: what AWS's guide types with curl, with the properties of MQTT 5, shadows, jobs.

Source of the commands: AWS IoT Developer Guide, "HTTPS publish" and "Device Shadow REST API".
"""

import base64
import json
import queue
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest

LIMIT_S = 15.0
ARN = "arn:aws:iot:local-1:000000000001:"
RIGHTS = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Action": "iot:Publish", "Resource": [f"{ARN}topic/plant/*", f"{ARN}topic/kept/*"]},
        {"Effect": "Allow", "Action": "iot:RetainPublish", "Resource": f"{ARN}topic/kept/*"},
        {"Effect": "Allow", "Action": ["iot:GetThingShadow", "iot:UpdateThingShadow", "iot:DeleteThingShadow"],
         "Resource": [f"{ARN}thing/pump", f"{ARN}thing/pump/*", f"{ARN}thing/jobs"]},
        {"Effect": "Allow", "Action": "iot:ListNamedShadowsForThing", "Resource": f"{ARN}thing/pump"},
        {"Effect": "Allow", "Action": "iotjobsdata:*",
         "Resource": f"{ARN}thing/pump"},
    ],
}  # fmt: skip
WATCH = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:*", "Resource": "*"}]}


class Site:
    def __init__(self, hub: Any, folder: Path) -> None:
        self.hub, self.folder = hub, folder
        self.ca: str = hub.info["ca_file"]
        self.url: str = hub.info["endpoints"]["https"]
        iot = hub.client("iot")
        for thing in ("pump", "jobs"):
            iot.create_thing(thingName=thing)
        self.device = self.certificate("device", RIGHTS)
        self.watcher = self.certificate("watcher", WATCH)

    def certificate(self, name: str, document: dict[str, object], *, active: bool = True) -> Path:
        iot = self.hub.client("iot")
        made = iot.create_keys_and_certificate(setAsActive=active)
        iot.create_policy(policyName=name, policyDocument=json.dumps(document))
        iot.attach_policy(policyName=name, target=made["certificateArn"])
        (self.folder / f"{name}.pem").write_text(made["certificatePem"])
        (self.folder / f"{name}.key").write_text(made["keyPair"]["PrivateKey"])
        return self.folder / name

    def curl(self, *words: str, path: str, who: Path | None = None, alpn: bool = True) -> tuple[int, bytes]:
        """The status and the body of one `curl` with the device's certificate."""
        who = who or self.device
        done = subprocess.run(
            ["curl", "--silent", "--show-error", "--max-time", "15", *([] if alpn else ["--no-alpn"]), "--tlsv1.2",
             "--cacert", self.ca, "--cert", f"{who}.pem", "--key", f"{who}.key", "--write-out", "\n%{http_code}",
             *words, f"{self.url}{path}"],
            capture_output=True, check=True, timeout=30,
        )  # fmt: skip
        body, _, status = done.stdout.rpartition(b"\n")
        return int(status), body


@pytest.fixture(scope="module")
def site(shared_hub: Any, tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(shared_hub, tmp_path_factory.mktemp("site"))


@pytest.fixture
def watch(site: Site) -> Iterator[Callable[[str], "queue.Queue[Any]"]]:
    """watch(filter) -> the messages that arrive there."""
    clients: list[paho.Client] = []

    def watch(text: str) -> "queue.Queue[Any]":
        got: queue.Queue[Any] = queue.Queue()
        ready: queue.Queue[int] = queue.Queue()
        client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id="watcher", protocol=paho.MQTTv5)
        context = ssl.create_default_context(cafile=site.ca)
        context.load_cert_chain(f"{site.watcher}.pem", f"{site.watcher}.key")
        client.tls_set_context(context)
        client.on_message = lambda _c, _u, message: got.put(message)
        client.on_connect = lambda c, *_: c.subscribe(text, 1)
        client.on_subscribe = lambda *_: ready.put(1)
        client.connect("localhost", site.hub.port("mqtt"), 30)
        client.loop_start()
        clients.append(client)
        ready.get(timeout=LIMIT_S)
        return got

    yield watch
    for client in clients:
        client.disconnect()
        client.loop_stop()


def test_publish_as_the_guide_types_it(site: Site, watch: Callable[[str], Any]) -> None:
    got = watch("plant/#")
    body = '{ "message": "Hello, world" }'
    status, answer = site.curl("--request", "POST", "--data", body, path="/topics/plant/7/temp?qos=1")
    assert (status, answer) == (200, b"")
    message = got.get(timeout=LIMIT_S)
    assert (message.topic, message.payload, message.qos) == ("plant/7/temp", body.encode(), 1)
    status, _ = site.curl("--request", "POST", "--data-binary", "@-", path="/topics/plant%2F7%2Ftemp", alpn=False)
    assert status == 200
    message = got.get(timeout=LIMIT_S)
    assert (message.topic, message.payload, message.qos) == ("plant/7/temp", b"", 0)
    assert site.curl("--http1.0", "--data", "old", path="/topics/plant/old")[0] == 200
    assert got.get(timeout=LIMIT_S).payload == b"old"


def test_the_properties_of_mqtt_5(site: Site, watch: Callable[[str], Any]) -> None:
    got = watch("plant/#")
    users = base64.b64encode(json.dumps([{"unit": "C"}, {"unit": "K"}]).encode()).decode()
    status, answer = site.curl(
        "--data", "21", "-H", f"x-amz-mqtt5-user-properties: {users}",
        "-H", "x-amz-mqtt5-payload-format-indicator: UTF8_DATA", "-H", "x-amz-mqtt5-correlation-data: YWI=",
        path="/topics/plant/t?qos=1&contentType=text%2Fplain&responseTopic=plant%2Fanswer&messageExpiry=60",
    )  # fmt: skip
    assert status == 200, answer
    properties = got.get(timeout=LIMIT_S).properties
    assert properties.UserProperty == [("unit", "C"), ("unit", "K")]
    assert properties.PayloadFormatIndicator == 1 and properties.CorrelationData == b"ab"
    assert properties.ContentType == "text/plain" and properties.ResponseTopic == "plant/answer"
    assert 0 < properties.MessageExpiryInterval <= 60


def test_retained(site: Site, watch: Callable[[str], Any]) -> None:
    assert site.curl("--data", "kept", path="/topics/kept/a?qos=1&retain=true")[0] == 200
    assert watch("kept/a").get(timeout=LIMIT_S).payload == b"kept"
    status, answer = site.curl("--data", "x", path="/topics/plant/a?qos=1&retain=true")
    assert status == 403 and b"iot:RetainPublish" in answer


def test_shadows(site: Site) -> None:
    path = "/things/pump/shadow"
    assert site.curl(path=path)[0] == 404
    status, answer = site.curl("--data", '{"state": {"reported": {"on": true}}}', path=path)
    assert (status, json.loads(answer)["state"]) == (200, {"reported": {"on": True}})
    status, answer = site.curl(path=path)
    assert status == 200 and json.loads(answer)["version"] == 1
    named = f"{path}?name=motor"
    assert site.curl("--data", '{"state": {"desired": {"speed": 3}}}', path=named)[0] == 200
    status, answer = site.curl(path="/api/things/shadow/ListNamedShadowsForThing/pump")
    assert status == 200 and json.loads(answer)["results"] == ["motor"]
    assert site.curl("--data", '{"state": {"desired": {}}, "version": 9}', path=named)[0] == 409
    assert site.curl("-X", "DELETE", path=named)[0] == 200
    assert site.curl(path="/things/other/shadow")[0] == 403


def test_a_thing_named_as_a_route(site: Site) -> None:
    assert site.curl("--data", '{"state": {"reported": {"a": 1}}}', path="/things/jobs/shadow")[0] == 200
    assert json.loads(site.curl(path="/things/jobs/shadow")[1])["state"] == {"reported": {"a": 1}}


def test_jobs(site: Site) -> None:
    site.hub.client("iot").create_job(
        jobId="update-1", targets=[f"{ARN}thing/pump"], document=json.dumps({"operation": "update"})
    )
    path = "/things/pump/jobs"

    def pending() -> Any:
        status, answer = site.curl(path=path)
        assert status == 200, answer
        return json.loads(answer).get("queuedJobs")

    found = next(jobs for _ in range(100) if (jobs := pending()))
    assert [job["jobId"] for job in found] == ["update-1"]
    status, answer = site.curl("-X", "PUT", "--data", "{}", path=f"{path}/$next")
    assert status == 200 and json.loads(answer)["execution"]["jobId"] == "update-1", answer
    status, answer = site.curl(path=f"{path}/$next?includeJobDocument=true")
    assert status == 200 and "update" in str(json.loads(answer)["execution"]["jobDocument"])
    status, answer = site.curl("--data", '{"status": "SUCCEEDED"}', path=f"{path}/update-1")
    assert status == 200, answer
    assert not pending()
    assert site.curl(path="/things/jobs/jobs")[0] == 403


@pytest.mark.parametrize(
    ("words", "path", "status", "says"),
    [
        pytest.param(["--data", "x"], "/topics/other/a?qos=1", 403, b"iot:Publish", id="another topic"),
        pytest.param(["--data", "x"], "/topics/plant/a?qos=2", 400, b"qos", id="QoS 2"),
        pytest.param(["--data", "x"], "/topics/plant/a?qos=one", 400, b"qos", id="QoS one"),
        pytest.param(["--data", "x"], "/topics/plant/a?colour=red", 400, b"colour", id="unknown parameter"),
        pytest.param(["--data", "x"], "/topics/plant/+", 400, b"topic", id="a wildcard"),
        pytest.param(["--data", "x"], "/topics/plant/%00", 400, b"", id="NUL"),
        pytest.param(["--data", "x"], "/topics/plant/%ff", 400, b"UTF-8", id="bad UTF-8"),
        pytest.param(["--data", "x"], "/topics/plant/a/b/c/d/e/f/g/h?qos=1", 400, b"slashes", id="8 slashes"),
        pytest.param(["-X", "PUT", "--data", "x"], "/topics/plant/a", 404, b"PUT", id="another method"),
        pytest.param(["--data", "x"], "/nothing", 404, b"/nothing", id="another path"),
        pytest.param(["--data", "{"], "/things/pump/shadow", 400, b"", id="a broken document"),
        pytest.param(
            ["--data", "x", "-H", "x-amz-customauthorizer-name: mine"], "/topics/plant/a", 501, b"authorizer", id="authorizer"
        ),
    ],
)  # fmt: skip
def test_what_is_refused(site: Site, words: list[str], path: str, status: int, says: bytes) -> None:
    got, answer = site.curl(*words, path=path)
    assert (got, says in answer) == (status, True), answer


def test_a_payload_at_the_limit_and_one_byte_more(site: Site) -> None:
    body = site.folder / "body"
    body.write_bytes(b"x" * (128 << 10))
    assert site.curl("--data-binary", f"@{body}", path="/topics/plant/a")[0] == 200
    body.write_bytes(b"x" * ((128 << 10) + 1))
    status, answer = site.curl("--data-binary", f"@{body}", path="/topics/plant/a")
    assert status == 400 and b"131072" in answer  # the model of Publish has no 413


def test_a_certificate_that_is_not_active(site: Site) -> None:
    resting = site.certificate("resting", RIGHTS, active=False)
    assert site.curl("--data", "x", path="/topics/plant/a", who=resting)[0] == 403
