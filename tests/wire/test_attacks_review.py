"""Attacks on what devices, keys and operators are trusted with, on a running hub: each was let through once, or might be.

What the hub alone may say, credentials that outlive whom they were given for, rights that are lent and not checked, and
what the audit log was not told.
"""

import contextlib
import http.client
import json
import socket
import ssl
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from botocore.exceptions import ClientError
from paho.mqtt.enums import MQTTProtocolVersion

from marram.cli.client import Api
from marram.core import sigv4, websocket
from marram.core.errors import Denied
from tests.wire.plant import TEMPLATE, signing_request
from tests.wire.test_attacks_policy import REVOKED_S, Site
from tests.wire.test_websocket_clients import Browser
from tests.wire.test_websocket_clients import Site as Web

pytestmark = pytest.mark.xdist_group("attacks-review")
LIMIT_S = 10.0
ACCOUNT = "000000000001"
IAM = f"arn:aws:iam::{ACCOUNT}:"
IOT = f"arn:aws:iot:local-1:{ACCOUNT}:"
ALL = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
CONNECT = b"\x10\x12\x00\x04MQTT\x04\x02\x00\x3c\x00\x06review"
SERVICE_ROLE = f"{IAM}role/marram-service"


@pytest.fixture
def site(shared_hub: Any, tmp_path: Path) -> Iterator[Site]:
    made = Site(shared_hub, tmp_path)
    yield made
    made.close()
    iam = shared_hub.client("iam")
    for found in iam.list_roles()["Roles"]:
        if found["Arn"] != SERVICE_ROLE:
            for policy in iam.list_role_policies(RoleName=found["RoleName"])["PolicyNames"]:
                iam.delete_role_policy(RoleName=found["RoleName"], PolicyName=policy)
            iam.delete_role(RoleName=found["RoleName"])


@pytest.fixture(scope="module")
def web(shared_hub: Any, tmp_path_factory: pytest.TempPathFactory) -> Web:
    return Web(shared_hub, tmp_path_factory.mktemp("web"))


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


def post(site: Site, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """To an open route, as nobody."""
    context = ssl.create_default_context(cafile=site.hub.info["ca_file"])
    client = http.client.HTTPSConnection("localhost", site.hub.port("https"), context=context, timeout=10)
    try:
        client.request("POST", path, json.dumps(body))
        answer = client.getresponse()
        return answer.status, json.loads(answer.read())
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


# credentials that outlive whom they were given for


def test_t05_a_websocket_by_credentials_of_a_device_ends_with_its_certificate(site: Site, web: Web) -> None:
    """The device has them for its certificate; a connection made with them must not stay when that is revoked."""
    site.certificate("robot", ALL)
    site.certificate("watching", ALL)
    arn = role(site, "robots", "credentials.iot.amazonaws.com", {"Action": "iot:*"})
    site.iot.create_role_alias(roleAlias="robots", roleArn=arn)
    status, body = https(site, "robot", "GET", "/role-aliases/robots/credentials")
    assert status == 200
    held = json.loads(body)["credentials"]
    credentials = sigv4.Credentials(held["accessKeyId"], held["secretAccessKey"], held["sessionToken"])
    page = Browser(web, web.path(credentials))
    try:
        page.send(CONNECT)
        assert page.frame() == (websocket.BINARY, b"\x20\x02\x00\x00")
        certificate = site.iot.list_thing_principals(thingName="robot")["principals"][0].rpartition("/")[2]
        began = time.monotonic()
        site.iot.update_certificate(certificateId=certificate, newStatus="REVOKED")
        page.socket.settimeout(REVOKED_S + 1)
        assert page.frame()[0] == websocket.CLOSE
        assert time.monotonic() - began < REVOKED_S
    finally:
        page.close()
        site.iot.delete_role_alias(roleAlias="robots")


def test_t05_a_policy_that_narrows_a_session_reaches_its_websocket(site: Site, web: Web) -> None:
    iam = site.hub.client("iam")
    arn = role(site, "wide", "iot.amazonaws.com", {"Action": "iot:*"})
    trust = {"Effect": "Allow", "Principal": {"AWS": f"{IAM}root"}, "Action": "sts:AssumeRole"}
    iam.update_assume_role_policy(
        RoleName="wide", PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    )
    narrow = iam.create_policy(PolicyName="narrow", PolicyDocument=document({"Action": "iot:*"}))["Policy"]["Arn"]
    made = site.hub.client("sts").assume_role(RoleArn=arn, RoleSessionName="page", PolicyArns=[{"arn": narrow}])
    held = made["Credentials"]
    page = Browser(web, web.path(sigv4.Credentials(held["AccessKeyId"], held["SecretAccessKey"], held["SessionToken"])))
    try:
        page.send(CONNECT)
        assert page.frame() == (websocket.BINARY, b"\x20\x02\x00\x00")
        iam.create_policy_version(
            PolicyArn=narrow, PolicyDocument=document({"Action": "iot:Receive"}), SetAsDefault=True
        )
        page.socket.settimeout(REVOKED_S)
        assert page.frame()[0] == websocket.CLOSE
    finally:
        page.close()
        iam.delete_policy_version(PolicyArn=narrow, VersionId="v1")
        iam.delete_policy(PolicyArn=narrow)


# what the audit log is told


def acts(site: Site, **wanted: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = Api.from_data(site.hub.data).marram("audit/ListAuditActs", wanted)["acts"]
    return found


def test_t31_who_gets_in_or_gets_credentials_is_in_the_log(site: Site) -> None:
    admin = Api.from_data(site.hub.data)
    own = key(site, "quiet", {"Action": "*"})
    site.hub.client("sts", **own).get_session_token()
    (act,) = acts(site, operation="sts:GetSessionToken")
    assert (act["principal"], act["outcome"]) == (f"{IAM}user/quiet", "OK")

    link = admin.marram("identity/CreateLoginLink", {})["token"]
    assert post(site, "/marram/session", {"token": link})[0] == 200
    (act,) = acts(site, operation="marram:identity/OpenSession")
    assert act["outcome"] == "OK" and act["sourceIp"] == "127.0.0.1"
    assert act["resources"] == [f"{IAM}user/admin"]

    token = admin.marram("identity/CreateJoinToken", {"thingName": "joined"})["token"]
    status, body = post(site, "/marram/join", {"token": token, "thingName": "joined"})
    assert status == 200
    (act,) = acts(site, operation="marram:identity/Join")
    assert act["resources"] == [f"{IOT}thing/joined", body["certificateArn"]]
    # Who only knocks writes nothing.
    assert post(site, "/marram/join", {"token": token, "thingName": "joined"})[0] == 403
    assert post(site, "/marram/session", {"token": link})[0] == 403
    assert len(acts(site, operation="marram:identity/Join") + acts(site, operation="marram:identity/OpenSession")) == 2


def test_t31_nobody_fills_the_log_with_what_he_may_not_do(site: Site) -> None:
    nobody = site.hub.client("iot", **key(site, "nobody", {"Action": "s3:GetObject"}))
    refused("AccessDeniedException", lambda: nobody.attach_policy(policyName="p", target="x" * 3_000_000))
    (act,) = acts(site, operation="iot:AttachPolicy", principal=f"{IAM}user/nobody")
    assert act["outcome"] == "AccessDeniedException" and len(json.dumps(act)) < 4_000
    assert (site.hub.data.parent / "hub.log").stat().st_size < 1_000_000


# rights that are lent

REGISTRATION = json.dumps(
    {
        "Parameters": {"Name": {"Type": "String"}, "Request": {"Type": "String"}},
        "Resources": {
            "thing": {"Type": "AWS::IoT::Thing", "Properties": {"ThingName": {"Ref": "Name"}}},
            "certificate": {
                "Type": "AWS::IoT::Certificate",
                "Properties": {"CertificateSigningRequest": {"Ref": "Request"}, "Status": "ACTIVE"},
            },
            "policy": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyDocument": json.dumps(ALL)}},
        },
    }
)
NEEDED = ("CreateCertificateFromCsr", "CreateThing", "AttachThingPrincipal", "CreatePolicy", "AttachPolicy")


def test_registering_a_thing_gives_no_rights_that_the_caller_has_not(site: Site) -> None:
    """Else RegisterThing alone would make certificates with policies of the caller's own choice."""
    given = {"Name": "made", "Request": signing_request("made")[0]}

    def register(who: dict[str, str]) -> None:
        site.hub.client("iot", **who).register_thing(templateBody=REGISTRATION, parameters=given)

    for missing in NEEDED:
        rights = ["iot:RegisterThing", *(f"iot:{action}" for action in NEEDED if action != missing)]
        said = refused("AccessDeniedException", lambda: register(key(site, f"no-{missing}", {"Action": rights})))  # noqa: B023
        assert f"iot:{missing}" in said
        assert site.iot.list_things()["things"] == [] and site.iot.list_policies()["policies"] == []
    here = {"IpAddress": {"aws:SourceIp": "127.0.0.0/8"}}
    register(key(site, "from-here", {"Action": "iot:*", "Condition": here}))
    assert site.iot.describe_thing(thingName="made")["thingName"] == "made"


def test_a_registration_task_may_no_more_than_its_role(site: Site, wait_for: Callable[..., Any]) -> None:
    """Whoever may pass a role that reads a file must not make policies with it."""
    s3 = site.hub.client("s3")
    s3.create_bucket(Bucket="lines", CreateBucketConfiguration={"LocationConstraint": site.hub.info["region"]})
    line = json.dumps({"Name": "by-task", "Request": signing_request("by-task")[0]})
    s3.put_object(Bucket="lines", Key="lines", Body=line.encode())
    small = role(site, "small", "iot.amazonaws.com", {"Action": "s3:GetObject"})
    task = site.iot.start_thing_registration_task(
        templateBody=REGISTRATION, inputFileBucket="lines", inputFileKey="lines", roleArn=small
    )["taskId"]
    found = wait_for(
        lambda: (row := site.iot.describe_thing_registration_task(taskId=task))["status"] == "Completed" and row, "end"
    )
    assert (found["successCount"], found["failureCount"]) == (0, 1)
    assert site.iot.list_things()["things"] == []


# what a browser does for a page


def test_t18_a_page_of_another_host_cannot_use_the_certificate_of_who_looks_at_it(site: Site, web: Web) -> None:
    site.certificate("person", ALL)
    own, tls = f"https://localhost:{web.port}", site.tls("person")
    for origin, status in ((own, 101), (None, 101), ("https://evil.example", 403), ("null", 403)):
        page = Browser(web, "/mqtt", tls=tls, Origin=origin)
        page.close()
        assert page.status == status, origin
    for path, method in (("/topics/a?qos=1", "POST"), ("/role-aliases/a/credentials", "GET")):
        assert https(site, "person", method, path, origin="https://evil.example")[0] == 403
        assert https(site, "person", method, path, origin=own)[0] in (200, 404)
    # A signature says that the page was given it.
    page = Browser(web, web.path(), Origin="https://evil.example")
    page.close()
    assert page.status == 101


# who may look at others


def test_a_dry_run_tells_of_nobody_whom_the_caller_may_not_ask_about(site: Site) -> None:
    mine, other = site.certificate("mine", ALL), site.certificate("other", ALL)
    rights = {"Action": "marram:DryRunPolicy", "Resource": [f"{IOT}policy/mine", mine]}
    held = key(site, "curious", rights)
    curious = Api(
        site.hub.info["endpoints"]["api"], "local-1",
        sigv4.Credentials(held["aws_access_key_id"], held["aws_secret_access_key"]),
    )  # fmt: skip

    def ask(principal: str, **more: Any) -> dict[str, Any]:
        request = {"principal": principal, "action": "iot:Publish", "resource": f"{IOT}topic/a"}
        given = {"policyName": "mine", "policyDocument": json.dumps(ALL), "requests": [request], **more}
        return curious.marram("broker/DryRunPolicy", given)

    assert ask(mine)["requests"][0]["before"] == "allowed"
    with pytest.raises(Denied, match=other):
        ask(other)
    with pytest.raises(Denied, match=r"client/\*"):
        ask(mine, live=True)


# what is written down


def test_t30_credentials_that_are_given_out_are_written_nowhere(start_hub: Callable[..., Any], tmp_path: Path) -> None:
    """Role sessions, credentials of devices, keys and tokens of provisioning: in no log, file, metric or line of the audit log."""
    hub = start_hub(tmp_path / "hub", env={"MARRAM_HUB_LOG_LEVEL": "debug"})
    site, secrets = Site(hub, tmp_path), dict[str, str]()

    def keep(what: str, **found: str) -> None:
        secrets.update({f"{what}: {name}": value for name, value in found.items()})

    def keep_key(what: str, pem: str) -> None:
        keep(what, **{f"line {at}": line for at, line in enumerate(pem.splitlines()[1:3])})

    user = key(site, "user", {"Action": "sts:AssumeRole"})
    keep("key", secret=user["aws_secret_access_key"])
    arn = role(site, "both", "credentials.iot.amazonaws.com")
    trusted = [
        {"Effect": "Allow", "Principal": who, "Action": "sts:AssumeRole"}
        for who in ({"AWS": f"{IAM}root"}, {"Service": "credentials.iot.amazonaws.com"})
    ]
    hub.client("iam").update_assume_role_policy(
        RoleName="both", PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": trusted})
    )
    sts = hub.client("sts", **user)
    for what, held in (
        ("AssumeRole", sts.assume_role(RoleArn=arn, RoleSessionName="session")["Credentials"]),
        ("GetSessionToken", sts.get_session_token()["Credentials"]),
    ):
        keep(what, secret=held["SecretAccessKey"], token=held["SessionToken"][:200])
        refused(
            "AccessDeniedException",
            hub.client(
                "iot", aws_access_key_id=held["AccessKeyId"], aws_secret_access_key=held["SecretAccessKey"],
                aws_session_token=held["SessionToken"],
            ).list_things,
        )  # fmt: skip
    site.certificate("robot", ALL)
    site.iot.create_role_alias(roleAlias="both", roleArn=arn)
    given = json.loads(https(site, "robot", "GET", "/role-aliases/both/credentials")[1])["credentials"]
    keep("role alias", secret=given["secretAccessKey"], token=given["sessionToken"][:200])
    keep("registration", code=site.iot.get_registration_code()["registrationCode"])

    site.iot.create_provisioning_template(
        templateName="fleet", templateBody=json.dumps(TEMPLATE), provisioningRoleArn=SERVICE_ROLE, enabled=True
    )
    claim = site.iot.create_provisioning_claim(templateName="fleet")
    keep_key("claim", claim["keyPair"]["PrivateKey"])
    (tmp_path / "claim.pem").write_text(claim["certificatePem"] + claim["keyPair"]["PrivateKey"])
    device = site.connect("claim", "device")
    assert device.subscribe("$aws/certificates/create/json/accepted") == 1
    assert device.subscribe("$aws/provisioning-templates/fleet/provision/json/+") == 1
    device.publish("$aws/certificates/create/json", b"")
    made = json.loads(device.got.get(timeout=LIMIT_S)[1])
    keep_key("device", made["privateKey"])
    keep("device", token=made["certificateOwnershipToken"])
    for serial in ("bad name", "1"):  # refused, then done
        body = {"certificateOwnershipToken": made["certificateOwnershipToken"], "parameters": {"SerialNumber": serial}}
        device.publish("$aws/provisioning-templates/fleet/provision/json", json.dumps(body).encode())
        topic, _ = device.got.get(timeout=LIMIT_S)
        assert topic.endswith("accepted" if serial == "1" else "rejected")
    metrics = urllib.request.urlopen(f"{hub.info['endpoints']['api']}/metrics").read()
    told = json.dumps(acts(site)).encode()
    for client in site.clients:
        client.close()
    hub.stop()
    where = {"metrics": metrics, "audit": told, "log": (tmp_path / "hub.log").read_bytes()}
    for path in (tmp_path / "hub").rglob("*"):
        if path.is_file() and "pki" not in path.parts and path.name != "hub.json":
            where[str(path)] = path.read_bytes()
            assert path.stat().st_mode & 0o077 == 0, path
    # The operator asks for the code by name, and it opens nothing without his right: it may stand in the database.
    found = {
        (what, place) for what, secret in secrets.items() for place, data in where.items() if secret.encode() in data
    }
    assert found <= {("registration: code", str(tmp_path / "hub" / "hub.db"))}
    assert b"robot" in where["log"] or b"provisioning.by_claim" in where["log"]  # it was talkative


def test_t09_an_upgrade_hides_no_request(site: Site) -> None:
    """What follows a refused upgrade is not read, and an upgrade has no body, not even an empty one in chunks."""
    site.certificate("smuggler", ALL)
    head = (
        "GET /mqtt HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\nSec-WebSocket-Key: "
    )
    key_and_body = (b"short\r\n\r\n", b"dGhlIHNhbXBsZSBub25jZQ==\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
    for rest in key_and_body:
        raw = socket.create_connection(("127.0.0.1", site.hub.port("https")), 10)
        with site.tls("smuggler").wrap_socket(raw, server_hostname="localhost") as tls:
            tls.sendall(head.encode() + rest + b"GET /marram/ca HTTP/1.1\r\nHost: a\r\n\r\n")
            answer = b""
            with contextlib.suppress(ConnectionError):
                while piece := tls.recv(65536):
                    answer += piece
        assert answer.startswith(b"HTTP/1.1 400") and b"connection: close" in answer, rest
        assert b"CERTIFICATE" not in answer


def test_a_group_is_made_below_another_only_with_the_right_on_both(site: Site) -> None:
    """Its things have the policies of the groups above."""
    site.iot.create_thing_group(thingGroupName="rulers")
    own = {"Action": "iot:*", "Resource": [f"{IOT}thinggroup/mine*", f"{IOT}thing/mine"]}
    iot = site.hub.client("iot", **key(site, "climber", own))
    iot.create_thing_group(thingGroupName="mine")
    iot.create_thing_group(thingGroupName="mine-2", parentGroupName="mine")
    said = refused(
        "AccessDeniedException", lambda: iot.create_thing_group(thingGroupName="mine-3", parentGroupName="rulers")
    )
    assert "thinggroup/rulers" in said
    for name in ("mine-2", "mine", "rulers"):
        site.iot.delete_thing_group(thingGroupName=name)


def test_a_deployment_needs_the_right_to_a_job_on_its_target(site: Site) -> None:
    """AWS's service authorization reference: CreateDeployment and CancelDeployment depend on iot:CreateJob and iot:CancelJob."""
    for name in ("mine", "theirs"):
        site.iot.create_thing_group(thingGroupName=f"cores-{name}")
    all_of_it = {"Action": "greengrass:*"}
    on_mine = {"Action": ["iot:CreateJob", "iot:CancelJob"], "Resource": [f"{IOT}thinggroup/cores-mine", f"{IOT}job/*"]}
    greengrass = site.hub.client("greengrassv2", **key(site, "deployer", all_of_it, on_mine))
    made = greengrass.create_deployment(targetArn=f"{IOT}thinggroup/cores-mine")
    said = refused(
        "AccessDeniedException", lambda: greengrass.create_deployment(targetArn=f"{IOT}thinggroup/cores-theirs")
    )
    assert "iot:CreateJob" in said and "cores-theirs" in said
    bare = site.hub.client("greengrassv2", **key(site, "bare-deployer", all_of_it))
    said = refused("AccessDeniedException", lambda: bare.cancel_deployment(deploymentId=made["deploymentId"]))
    assert "iot:CancelJob" in said
    greengrass.cancel_deployment(deploymentId=made["deploymentId"])


# what an operator's terminal is told


def test_names_that_somebody_chose_do_not_steer_the_terminal(site: Site, marram: Callable[..., Any]) -> None:
    nobody = site.hub.client("iot", **key(site, "painter", {"Action": "s3:GetObject"}))
    refused(
        "AccessDeniedException", lambda: nobody.attach_policy(policyName="p", target="\x1b]0;owned\x07\x1b[2J\u202e")
    )
    shown = marram("audit", "list", "--data", str(site.hub.data)).stdout
    assert r"\x1b]0;owned\x07\x1b[2J" in shown and "\x1b" not in shown and "\u202e" not in shown
    site.certificate("painter", ALL)
    client = site.connect("painter", "\x1b[2Jpainter")
    assert client.is_up and client.subscribe("a") == 1
    (site.folder / "none.json").write_text(document({"Effect": "Deny", "Action": "iot:*"}))
    tried = marram(
        "policy",
        "try",
        "--name",
        "painter",
        "--document",
        str(site.folder / "none.json"),
        "--live",
        "--data",
        str(site.hub.data),
    )
    assert "painter" in tried.stdout and "\x1b" not in tried.stdout + tried.stderr
