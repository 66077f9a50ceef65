"""`aws iot` as AWS publishes it: the examples in aws-cli's own package, typed as they stand there.

What is replaced: the account, the region, and the ids of certificates, which nobody but AWS can have. Nothing of the examples is in
this file: only their names, in an order in which each finds what it needs, and what they need beforehand. What belongs to operations
that are not there is refused by name.
"""

import json
import os
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.xdist_group("clients-aws-cli")
ROOT = Path(__file__).resolve().parents[2]
CLI = ROOT / ".clients" / "python"
SERVICES = ("iot", "iot-data", "iot-jobs-data")
ANYTHING = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:*", "Resource": "*"}]}
TEMPLATE: dict[str, Any] = {
    "Parameters": {"Serial": {"Type": "String"}},
    "Resources": {
        "thing": {"Type": "AWS::IoT::Thing", "Properties": {"ThingName": {"Ref": "Serial"}}},
        "certificate": {
            "Type": "AWS::IoT::Certificate",
            "Properties": {"CertificateId": {"Ref": "AWS::IoT::Certificate::Id"}, "Status": "ACTIVE"},
        },
    },
}


def trust(service: str) -> dict[str, Any]:
    statement = {"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}
    return {"Version": "2012-10-17", "Statement": [statement]}


@dataclass(frozen=True)
class Step:
    """`example`: file of the package and the number of the command in it, or a command. `before`: what the operator does first.
    `says`: in the answer, `refused`: in the error, when it is one."""

    example: str
    says: str = ""
    refused: str = ""
    before: Callable[["World"], object] | None = None


@dataclass
class World:
    """The hub, aws-cli, and the certificates that stand for AWS's."""

    hub: Any
    folder: Path
    process: "subprocess.Popen[str]"
    iot: Any
    ids: dict[str, str] = field(default_factory=dict)

    def aws(self, words: list[str]) -> tuple[int, str, str]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(words) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        return answer["code"], answer["out"], answer["err"]

    def typed(self, command: str) -> list[str]:
        """The words of an example, for this account."""
        text = re.sub(r"\b\d{12}\b", self.hub.info["account_id"], command)
        text = re.sub(r"\bus-(west|east)-\d\b", self.hub.info["region"], text)
        text = re.sub(r"\b[0-9a-f]{22,64}(EXAMPLE[0-9a-f]+)?\b", lambda found: self.certificate(found[0]), text)
        # A document in double quotes that itself has double quotes is no document in any shell: single ones are meant.
        text = re.sub(r'"(\{".*\})"', r"'\1'", text)
        # AWS has an endpoint of its own for jobs; here it is the one that the environment names.
        text = re.sub(r"--endpoint-url \S+", "", text)
        if "@CA" in text:
            text = text.replace("@CA", self.iot.list_ca_certificates()["certificates"][0]["certificateId"])
        return shlex.split(text)[1:]

    def certificate(self, of_aws: str, *, active: bool = True) -> str:
        if of_aws not in self.ids:
            self.ids[of_aws] = self.iot.create_keys_and_certificate(setAsActive=active)["certificateId"]
        return self.ids[of_aws]

    def arn(self, kind: str, name: str) -> str:
        return f"arn:aws:iot:{self.hub.info['region']}:{self.hub.info['account_id']}:{kind}/{name}"

    def write(self, name: str, content: object) -> None:
        (self.folder / name).write_text(content if isinstance(content, str) else json.dumps(content))

    def things(self, *names: str) -> None:
        for name in names:
            self.iot.create_thing(thingName=name)

    def groups(self, *names: str) -> None:
        for name in names:
            self.iot.create_thing_group(thingGroupName=name)

    def policies(self, *names: str) -> None:
        for name in names:
            self.iot.create_policy(policyName=name, policyDocument=json.dumps(ANYTHING))

    def job(self, name: str, *things: str) -> None:
        self.iot.create_job(jobId=name, targets=[self.arn("thing", thing) for thing in things], document="{}")

    def cancelled(self, name: str, thing: str) -> None:
        self.job(name, thing)
        self.iot.cancel_job_execution(jobId=name, thingName=thing)

    def role(self, name: str, service: str) -> None:
        self.hub.client("iam").create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust(service)))

    def template(self, name: str) -> None:
        self.role("Provision_role", "iot.amazonaws.com")
        self.iot.create_provisioning_template(
            templateName=name, templateBody=json.dumps(TEMPLATE), enabled=True,
            provisioningRoleArn=f"arn:aws:iam::{self.hub.info['account_id']}:role/marram-service",
        )  # fmt: skip

    def openssl(self, *words: str) -> None:
        subprocess.run(["openssl", *words], cwd=self.folder, check=True, capture_output=True, timeout=20)

    def request(self) -> None:
        self.openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "certificate.key")
        self.openssl("req", "-new", "-key", "certificate.key", "-subj", "/CN=device", "-out", "certificate.csr")

    def authority(self) -> None:
        """rootCA.pem and the proof that its key is ours, as the guide makes them."""
        key = ["ecparam", "-name", "prime256v1", "-genkey", "-noout"]
        code = self.iot.get_registration_code()["registrationCode"]
        for name in ("rootCA", "verificationCert", "deviceCert"):
            self.openssl(*key, "-out", f"{name}.key")
        self.openssl(
            "req", "-x509", "-new", "-key", "rootCA.key", "-subj", "/CN=Plant CA", "-days", "2", "-out", "rootCA.pem"
        )
        for name, subject in (("verificationCert", code), ("deviceCert", "device-1")):
            self.openssl("req", "-new", "-key", f"{name}.key", "-subj", f"/CN={subject}", "-out", f"{name}.csr")
            self.openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "rootCA.pem", "-CAkey", "rootCA.key", "-CAcreateserial",
                         "-days", "1", "-out", f"{name}.pem")  # fmt: skip

    def of_authority(self) -> None:
        """AWS's CA of the examples is the one that was just registered."""
        (found,) = self.iot.list_ca_certificates()["certificates"]
        self.ids[AUTHORITY] = found["certificateId"]

    def inactive(self, of_aws: str) -> None:
        self.iot.update_certificate(certificateId=self.certificate(of_aws), newStatus="INACTIVE")

    def attached(self, thing: str, of_aws: str) -> None:
        self.things(thing)
        self.iot.attach_thing_principal(thingName=thing, principal=self.arn("cert", self.certificate(of_aws)))

    def detached(self, policy: str) -> None:
        for target in self.iot.list_targets_for_policy(policyName=policy)["targets"]:
            self.iot.detach_policy(policyName=policy, target=target)

    def custom_fields(self) -> None:
        """What statistics of attributes need ("Custom fields" of the guide); the examples do without."""
        fields = [{"name": "attributes.rackId", "type": "String"}, {"name": "attributes.temperature", "type": "Number"}]
        self.iot.update_indexing_configuration(
            thingIndexingConfiguration={
                "thingIndexingMode": "REGISTRY_AND_SHADOW", "thingConnectivityIndexingMode": "STATUS", "customFields": fields,
            }
        )  # fmt: skip

    def own(self) -> None:
        """A certificate of nobody's CA."""
        self.openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", "own.key",
                     "-subj", "/CN=own", "-days", "1", "-out", "ownCert.pem")  # fmt: skip

    def bucket(self) -> None:
        s3 = self.hub.client("s3")
        s3.create_bucket(Bucket="fleet")
        s3.put_object(Bucket="fleet", Key="things.json", Body=b'{"Serial": "bulk-1"}\n')

    def sensors(self) -> None:
        for number in range(3):
            self.iot.create_thing(
                thingName=f"TempSensor{number}",
                attributePayload={
                    "attributes": {"temperature": str(70 + number), "rackId": f"R{number}", "stateNormal": "false"}
                },
            )


AUTHORITY = "f4efed62c0142f16af278166f61962501165c4f0536295207426460058cd1467"
STEPS = [
    # things, types, groups
    Step("iot/create-thing-type", "thingtype/LightBulb"),
    Step("iot/create-thing", "thing/SampleIoTThing"),
    Step("iot/create-thing:1", "thing/MyLightBulb"),
    Step("iot/describe-thing", '"wattage": "75"'),
    Step("iot/list-things", "SampleIoTThing"),
    Step("iot/list-things:1", "MyLightBulb"),
    Step("iot/update-thing", before=lambda w: w.things("MyOtherLightBulb")),
    Step("iot/list-thing-types", "LightBulb"),
    Step("iot/describe-thing-type", '"light bulb type"'),
    Step("iot/create-thing-group", "thinggroup/LightBulbs"),
    Step("iot/create-thing-group:1", "thinggroup/HalogenBulbs"),
    Step("iot/describe-thing-group", '"parentGroupName": "LightBulbs"'),
    Step("iot/update-thing-group", '"version": 2'),
    Step("iot/list-thing-groups", "HalogenBulbs"),
    Step("iot/add-thing-to-thing-group"),
    Step("iot/list-things-in-thing-group", "MyLightBulb"),
    Step("iot/list-thing-groups-for-thing", "LightBulbs"),
    Step("iot/update-thing-groups-for-thing", before=lambda w: w.groups("DeadBulbs", "replaceableItems")),
    Step("iot/remove-thing-from-thing-group", before=lambda w: w.things("bulb7")),
    Step("iot/tag-resource"),
    Step("iot/list-tags-for-resource", '"Fact1NW"'),
    Step("iot/delete-thing-group", before=lambda w: w.groups("DefectiveBulbs")),
    Step("iot/delete-thing", before=lambda w: w.things("FourthBulb")),
    Step("iot/deprecate-thing-type", before=lambda w: w.iot.create_thing_type(thingTypeName="obsoleteThingType")),
    Step("iot/delete-thing-type", refused="deprecated"),  # five minutes after it was deprecated: as AWS
    Step("iot/deprecate-thing-type:1"),
    Step("iot/describe-endpoint", "localhost"),
    Step("iot/describe-endpoint:1", "localhost"),
    Step("iot/describe-event-configurations", '"THING_GROUP_HIERARCHY"'),
    Step("iot/update-event-configurations", refused="CA_CERTIFICATE"),
    # the index
    Step("iot/get-indexing-configuration", '"thingIndexingMode": "OFF"', before=World.sensors),
    Step("iot/update-indexing-configuration"),
    Step("iot/list-indices", "AWS_Things"),
    Step("iot/describe-index", '"REGISTRY_AND_SHADOW'),
    Step("iot/search-index", "MyLightBulb"),
    Step("iot/get-statistics", '"count": '),
    Step("iot/get-cardinality", '"cardinality": 3', before=World.custom_fields),
    Step("iot/get-percentiles", '"percent": 50.0'),
    Step("iot/create-dynamic-thing-group", '"attributes.temperature>60"'),
    Step("iot/update-dynamic-thing-group", '"version": 2'),
    Step("iot/delete-dynamic-thing-group"),
    # policies
    Step("iot/create-policy", '"policyVersionId": "1"'),
    Step(
        "iot/create-policy-version",
        '"isDefaultVersion": true',
        before=lambda w: w.policies("UpdateDeviceCertPolicy", "LightBulbPolicy", "MyFirstGroup_Core-policy"),
    ),
    Step("iot/list-policies", "TemperatureSensorPolicy"),
    Step("iot/list-policy-versions", '"isDefaultVersion": true'),
    Step("iot/set-default-policy-version"),
    Step("iot/get-policy", "UpdateDeviceCertPolicy"),
    Step("iot/attach-policy"),
    Step("iot/attach-policy:1"),
    Step("iot/list-attached-policies", "UpdateDeviceCertPolicy"),
    Step("iot/list-attached-policies:1", '"policies": []'),
    Step("iot/list-targets-for-policy", "thinggroup/LightBulbs"),
    Step("iot/get-effective-policies", "effectivePolicies", before=lambda w: w.things("TemperatureSensor-001")),
    Step("iot/test-authorization", '"authDecision": "IMPLICIT_DENY"'),
    Step("iot/detach-policy"),
    Step("iot/detach-policy:1"),
    Step(
        "iot/delete-policy-version",
        before=lambda w: w.iot.set_default_policy_version(policyName="UpdateDeviceCertPolicy", policyVersionId="1"),
    ),
    Step("iot/delete-policy", before=lambda w: w.detached("UpdateDeviceCertPolicy")),
    # certificates
    Step("iot/create-keys-and-certificate", "-----BEGIN CERTIFICATE-----"),
    Step("iot/create-certificate-from-csr", "-----BEGIN CERTIFICATE-----", before=World.request),
    Step("iot/describe-certificate", '"status": "ACTIVE"'),
    Step("iot/update-certificate"),
    Step("iot/list-certificates", "INACTIVE"),
    Step(
        "iot/delete-certificate",
        before=lambda w: w.inactive("c0c57bbc8baaf4631a9a0345c957657f5e710473e3ddbee1428d216d54d53ac9"),
    ),
    Step("iot/attach-thing-principal", before=lambda w: w.things("MyTemperatureSensor")),
    Step("iot/list-principal-things", "MyTemperatureSensor"),
    Step(
        "iot/list-thing-principals",
        ":cert/",
        before=lambda w: w.attached(
            "MyRaspberryPi", "2e1eb273792174ec2b9bf4e9b37e6c6c692345499506002a35159767055278e8"
        ),
    ),
    Step(
        "iot/detach-thing-principal",
        before=lambda w: w.iot.attach_thing_principal(
            thingName="MyLightBulb",
            principal=w.arn("cert", w.certificate("604c48437a57b7d5fc5d137c5be75011c6ee67c9a6943683a1acb4b1626bac36")),
        ),
    ),
    # certificate authorities
    Step("iot/get-registration-code", '"registrationCode"'),
    Step("iot/register-ca-certificate", ":cacert/", before=World.authority),
    Step("iot/list-ca-certificates", ":cacert/"),
    Step("iot/describe-ca-certificate", '"status": "INACTIVE"', before=World.of_authority),
    Step("iot/update-ca-certificate"),
    Step("iot/register-certificate", ":cert/"),
    Step("iot/list-certificates-by-ca", ":cert/"),
    Step(
        "iot/delete-ca-certificate",
        before=lambda w: w.iot.update_ca_certificate(certificateId=w.ids[AUTHORITY], newStatus="INACTIVE"),
    ),
    Step("iot/delete-registration-code"),
    # jobs
    Step("iot/create-job", '"example job test"'),
    Step("iot/create-job:1", "job/example-job-04"),
    Step("iot/update-job", '"IN_PROGRESS"'),  # the example has describe-job
    Step("iot/describe-job", '"numberOfQueuedThings": 1'),
    Step("iot/describe-job-execution", '"QUEUED"'),
    Step("iot/get-job-document", "document"),
    Step("iot/list-jobs", "example-job-04"),
    Step("iot/list-job-executions-for-thing", "example-job-01"),
    Step("iot/list-job-executions-for-job", '"QUEUED"', before=lambda w: w.job("my-ota-job", "MyRaspberryPi")),
    Step("iot/associate-targets-with-job", "example-job-04"),
    Step(
        "iot/cancel-job-execution",
        before=lambda w: (w.things("MyRPi"), w.job("example-job-03", "MyRPi", "MyLightBulb")),
    ),
    Step("iot/cancel-job", '"example-job-03"'),
    Step("iot/delete-job-execution", before=lambda w: w.cancelled("example-job-02", "MyRaspberryPi")),
    Step("iot/delete-job"),
    Step(
        "iot-jobs-data/get-pending-job-executions",
        '"SampleJob"',
        before=lambda w: (w.things("MotionSensor1"), w.job("SampleJob", "MotionSensor1")),
    ),
    Step("iot-jobs-data/start-next-pending-job-execution", '"IN_PROGRESS"'),
    Step("iot-jobs-data/describe-job-execution", '"SampleJob"'),
    Step("iot-jobs-data/update-job-execution", refused="REMOVED"),  # no state that a device may report, says the guide
    # shadows
    Step("iot-data/update-thing-shadow"),
    Step("iot-data/get-thing-shadow"),
    Step("iot-data/delete-thing-shadow"),
    # provisioning
    Step(
        "iot/create-provisioning-template", "widget-template", before=lambda w: w.template("MyTestProvisioningTemplate")
    ),
    Step("iot/describe-provisioning-template", "MyTestProvisioningTemplate"),
    Step("iot/describe-provisioning-template-version", '"versionId": 1'),
    Step("iot/create-provisioning-template-version", '"versionId": 2'),
    Step("iot/list-provisioning-template-versions", '"versionId": 2'),
    Step("iot/list-provisioning-templates", "widget-template"),
    Step("iot/update-provisioning-template"),
    Step("iot/create-provisioning-claim", "-----BEGIN CERTIFICATE-----"),
    Step("iot/delete-provisioning-template-version"),
    Step("iot/delete-provisioning-template"),
    Step(
        "iot/register-thing",
        "thing/Register-thing-trial-1",
        before=lambda w: (w.policies("MyIotPolicy"), w.iot.create_thing_type(thingTypeName="VirtualThings")),
    ),
    # role aliases
    Step(
        "iot/create-role-alias",
        "rolealias/LightBulbRole",
        before=lambda w: w.role("lightbulbrole-001", "credentials.iot.amazonaws.com"),
    ),
    Step("iot/describe-role-alias", '"credentialDurationSeconds": 3600'),
    Step("iot/list-role-aliases", "LightBulbRole"),
    Step("iot/update-role-alias", "LightBulbRole"),
    Step("iot/delete-role-alias"),
    Step("iot/list-topic-rules", '"rules"'),
]
# From AWS's developer guide, for what the package has no example of ("Authorizing direct calls to AWS services", "Register a client
# certificate", "Bulk registration", "Job templates", "Device Shadow REST API"); file names are ours.
ROLE = "arn:aws:iam::123456789012:role"
GUIDE = [
    Step(
        "aws iam create-role --role-name dvs-role --assume-role-policy-document file://trustpolicyforiot.json",
        "role/dvs-role",
    ),
    Step(
        "aws iam put-role-policy --role-name dvs-role --policy-name dvs --policy-document file://accesspolicyfordvs.json"
    ),
    Step(
        f"aws iot create-role-alias --role-alias dvs-alias --role-arn {ROLE}/dvs-role --credential-duration-seconds 3600",
        "rolealias/dvs-alias",
    ),
    Step("aws iot describe-endpoint --endpoint-type iot:CredentialProvider", "localhost"),
    Step("aws iot describe-endpoint --endpoint-type iot:Jobs", "localhost"),
    Step(
        "aws iot register-certificate-without-ca --certificate-pem file://ownCert.pem --status ACTIVE",
        ":cert/",
        before=World.own,
    ),
    Step(
        "aws iot register-ca-certificate --ca-certificate file://rootCA.pem --verification-cert file://verificationCert.pem "
        "--set-as-active --allow-auto-registration",
        ":cacert/",
        before=World.authority,
    ),
    Step("aws iot update-ca-certificate --certificate-id @CA --new-auto-registration-status DISABLE"),
    Step(
        "aws iot create-job-template --job-template-id reboot --description 'reboots' --document file://example-job.json",
        "jobtemplate/reboot",
    ),
    Step("aws iot list-job-templates", "reboot"),
    Step(
        f"aws iot start-thing-registration-task --template-body file://bulk.json --input-file-bucket fleet "
        f"--input-file-key things.json --role-arn {ROLE}/marram-service",
        "taskId",
        before=World.bucket,
    ),
    Step("aws iot list-thing-registration-tasks", "taskIds"),
    Step("aws iot-data publish --topic test/topic --qos 1 --payload hello"),
    Step(
        """aws iot-data update-thing-shadow --thing-name MyRPi --shadow-name motor --payload '{"state":{"desired":{"on":true}}}' out.json"""
    ),
    Step("aws iot-data list-named-shadows-for-thing --thing-name MyRPi", '"motor"'),
    Step("aws sts get-caller-identity", "user/admin"),
]
# Examples of other subjects, and of operations that are not there: Device Defender, logging, billing groups, OTA, ...
ELSEWHERE = re.compile(r"topic-rule$|topic-rule-dest|stream|ota-update|audit|mitigation|billing|metric|dimension|security-profile|violation"
                       r"|domain-conf|authorizer|logging|behavior-model|transfer|outgoing|untag|get-policy-version")  # fmt: skip


def examples() -> dict[str, str]:
    """Name -> command, for each command of each example: lines that belong together are one, with a backslash or without."""
    found: dict[str, str] = {}
    folder = next(CLI.glob("lib/python3*/site-packages/awscli/examples"))
    for service in SERVICES:
        for path in sorted((folder / service).glob("*.rst")):
            blocks = re.findall(r"(?m)^    aws .*\n(?: {4,}\S.*\n)*", path.read_text())
            for number, block in enumerate(blocks):
                lines = (line.strip().removesuffix("\\").strip() for line in block.splitlines())
                found[f"{service}/{path.stem}" + (f":{number}" if number else "")] = " ".join(lines)
    return found


@pytest.fixture(scope="module")
def commands() -> dict[str, str]:
    if not (CLI / "stamp").exists():
        pytest.skip("aws-cli is not installed (tools/test_setup.sh): AWS's examples of it were not run")
    return examples()


@pytest.fixture(scope="module")
def world(commands: dict[str, str], shared_hub: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("aws")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    process = subprocess.Popen(
        [str(CLI / "bin" / "python"), str(Path(__file__).with_name("aws_server.py"))],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder,
        env=clean | {
            "AWS_ENDPOINT_URL": shared_hub.info["endpoints"]["api"], "AWS_DEFAULT_REGION": shared_hub.info["region"],
            "AWS_ACCESS_KEY_ID": shared_hub.info["admin"]["access_key_id"], "AWS_PAGER": "", "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SECRET_ACCESS_KEY": shared_hub.info["admin"]["secret_access_key"],
        },
    )  # fmt: skip
    made = World(shared_hub, folder, process, shared_hub.client("iot"))
    made.write("policy.json", ANYTHING)
    made.write("template.json", TEMPLATE)
    made.write("bulk.json", {**TEMPLATE, "Resources": {"thing": TEMPLATE["Resources"]["thing"]}})
    made.write("trustpolicyforiot.json", trust("credentials.iot.amazonaws.com"))
    made.write(
        "accesspolicyfordvs.json",
        {**ANYTHING, "Statement": [{"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"}]},
    )
    made.write("example-job.json", {"operation": "customJob", "otherInfo": "someValue"})
    yield made
    process.communicate()


@pytest.mark.timeout(120)
def test_the_examples_of_aws_cli(world: World, commands: dict[str, str]) -> None:
    wrong: list[str] = []
    for step in (*STEPS, *GUIDE):
        if step.before is not None:
            step.before(world)
        code, out, err = world.aws(world.typed(commands.get(step.example, step.example)))
        if not (code != 0 and step.refused in err if step.refused else code == 0 and step.says in out):
            wrong.append(f"{step.example}: {commands.get(step.example, '')}\n  exit code {code}\n{out}{err}")
    assert not wrong, "\n".join(wrong)


def test_no_example_is_left_out(commands: dict[str, str]) -> None:
    run = {step.example for step in STEPS}
    assert run - set(commands) == set()
    assert {name for name in commands if not ELSEWHERE.search(name.partition(":")[0])} - run == set()
