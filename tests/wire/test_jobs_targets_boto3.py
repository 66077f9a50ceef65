"""Jobs with what other slices have: dynamic groups as targets, roles of the operator's, deployments as jobs; by boto3."""

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

DOCUMENT = json.dumps({"operation": "reboot"})
RECIPE = json.dumps(
    {
        "RecipeFormatVersion": "2020-01-25",
        "ComponentName": "com.example.Hello",
        "ComponentVersion": "1.0.0",
        "Manifests": [{"Platform": {"os": "linux"}, "Lifecycle": {"run": "sleep 1000"}}],
    }
).encode()


@pytest.fixture
def hub(shared_hub: Any) -> Any:
    shared_hub.iot = shared_hub.client("iot")
    shared_hub.data = shared_hub.client("iot-jobs-data")
    return shared_hub


def refused(call: Callable[..., Any], **params: Any) -> tuple[str, str]:
    with pytest.raises(ClientError) as caught:
        call(**params)
    error = caught.value.response["Error"]
    return error["Code"], error["Message"]


# dynamic groups


@pytest.fixture
def warm(hub: Any, wait_for: Callable[..., Any]) -> Any:
    """A group of things that report over 60 degrees: two of four."""
    iot, data = hub.iot, hub.client("iot-data")
    iot.update_indexing_configuration(thingIndexingConfiguration={"thingIndexingMode": "REGISTRY_AND_SHADOW"})
    wait_for(lambda: iot.describe_index(indexName="AWS_Things")["indexStatus"] == "ACTIVE", "the index is built")

    def report(thing: str, celsius: int) -> None:
        payload = json.dumps({"state": {"reported": {"celsius": celsius}}})
        data.update_thing_shadow(thingName=thing, payload=payload)

    for number, celsius in enumerate((50, 70, 80, 20)):
        iot.create_thing(thingName=f"room{number}")
        report(f"room{number}", celsius)
    made = iot.create_dynamic_thing_group(thingGroupName="warm", queryString="shadow.reported.celsius>60")
    wait_for(lambda: iot.describe_thing_group(thingGroupName="warm")["status"] == "ACTIVE", "the group is active")
    hub.report, hub.group = report, made["thingGroupArn"]
    yield hub
    for job in iot.list_jobs()["jobs"]:
        iot.delete_job(jobId=job["jobId"], force=True)
    iot.delete_dynamic_thing_group(thingGroupName="warm")
    for number in range(4):
        iot.delete_thing(thingName=f"room{number}")


def executions(hub: Any, job: str) -> dict[str, str]:
    """Status by thing."""
    found = hub.iot.list_job_executions_for_job(jobId=job)["executionSummaries"]
    return {each["thingArn"].rpartition("/")[2]: each["jobExecutionSummary"]["status"] for each in found}


def pending(hub: Any, thing: str) -> list[str]:
    found = hub.data.get_pending_job_executions(thingName=thing)
    return [each["jobId"] for each in (*found["inProgressJobs"], *found["queuedJobs"])]


def test_a_continuous_job_follows_a_query(warm: Any, wait_for: Callable[..., Any]) -> None:
    hub, iot = warm, warm.iot
    iot.create_job(jobId="cool", targets=[hub.group], document=DOCUMENT, targetSelection="CONTINUOUS")
    assert executions(hub, "cool") == {"room1": "QUEUED", "room2": "QUEUED"}
    hub.report("room0", 61)
    wait_for(lambda: pending(hub, "room0") == ["cool"], "a thing that the query finds now has the job")
    hub.report("room1", 59)
    wait_for(lambda: executions(hub, "cool")["room1"] == "REMOVED", "a thing that it does not find has it no more")
    assert pending(hub, "room1") == []
    hub.data.update_job_execution(jobId="cool", thingName="room2", status="SUCCEEDED")
    hub.report("room2", 10)
    hub.report("room1", 65)
    wait_for(lambda: executions(hub, "cool")["room1"] == "QUEUED", "one that is back has it again")
    assert executions(hub, "cool") == {"room0": "QUEUED", "room1": "QUEUED", "room2": "SUCCEEDED"}
    iot.update_dynamic_thing_group(
        thingGroupName="warm", thingGroupProperties={}, queryString="shadow.reported.celsius<30"
    )
    wait_for(lambda: pending(hub, "room3") == ["cool"], "another query has other things")
    wait_for(lambda: executions(hub, "cool")["room0"] == "REMOVED", "and those of the old one leave")
    assert iot.describe_job(jobId="cool")["job"]["status"] == "IN_PROGRESS"
    found = iot.list_jobs(thingGroupName="warm")["jobs"]
    assert [job["jobId"] for job in found] == ["cool"]


def test_a_snapshot_job_is_for_those_that_were_found_when_it_was_made(warm: Any, wait_for: Callable[..., Any]) -> None:
    hub, iot = warm, warm.iot
    iot.create_job(jobId="once", targets=[hub.group], document=DOCUMENT)
    hub.report("room1", 10)
    hub.report("room0", 99)
    wait_for(
        lambda: iot.list_things_in_thing_group(thingGroupName="warm")["things"] == ["room0", "room2"], "the group moves"
    )
    assert executions(hub, "once") == {"room1": "QUEUED", "room2": "QUEUED"}
    for thing in ("room1", "room2"):
        hub.data.update_job_execution(jobId="once", thingName=thing, status="SUCCEEDED")
    wait_for(lambda: iot.describe_job(jobId="once")["job"]["status"] == "COMPLETED", "it ends with them")
    assert pending(hub, "room0") == []


def test_a_job_whose_dynamic_group_is_deleted_has_no_things(warm: Any, wait_for: Callable[..., Any]) -> None:
    hub, iot = warm, warm.iot
    made = iot.create_dynamic_thing_group(thingGroupName="cold", queryString="shadow.reported.celsius<60")
    wait_for(lambda: iot.describe_thing_group(thingGroupName="cold")["status"] == "ACTIVE", "the group is active")
    iot.create_job(jobId="heat", targets=[made["thingGroupArn"]], document=DOCUMENT, targetSelection="CONTINUOUS")
    assert executions(hub, "heat") == {"room0": "QUEUED", "room3": "QUEUED"}
    iot.delete_dynamic_thing_group(thingGroupName="cold")
    wait_for(lambda: set(executions(hub, "heat").values()) == {"REMOVED"}, "its executions are removed")
    assert refused(iot.create_job, jobId="more", targets=[made["thingGroupArn"]], document=DOCUMENT)[0] == (
        "ResourceNotFoundException"
    )


# roles for signed URLs


@pytest.fixture
def files(hub: Any) -> Any:
    """Two objects, and a role that may read one of them."""
    iam, s3 = hub.client("iam"), hub.client("s3")
    s3.create_bucket(Bucket="firmware")
    for key in ("v1/image.bin", "secret/key.pem"):
        s3.put_object(Bucket="firmware", Key=key, Body=key.encode())
    trust = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Principal": {"Service": "iot.amazonaws.com"}, "Action": "sts:AssumeRole"}],
    }
    rights = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::firmware/v1/*"}],
    }
    made = iam.create_role(RoleName="job-files", AssumeRolePolicyDocument=json.dumps(trust))
    iam.put_role_policy(RoleName="job-files", PolicyName="read", PolicyDocument=json.dumps(rights))
    hub.iam, hub.role, hub.trust = iam, made["Role"]["Arn"], trust
    hub.thing = hub.iot.create_thing(thingName="dev")["thingArn"]
    return hub


def image(key: str) -> str:
    return json.dumps({"image": f"${{aws:iot:s3-presigned-url:https://s3.amazonaws.com/firmware/{key}}}"})


def delivered(hub: Any, job: str) -> str:
    found = hub.data.describe_job_execution(jobId=job, thingName="dev", includeJobDocument=True)
    return str(json.loads(found["execution"]["jobDocument"])["image"])


def test_a_url_is_signed_for_what_the_role_may_read(files: Any) -> None:
    hub, iot = files, files.iot

    def create(job: str, key: str, role: str = "") -> Any:
        return iot.create_job(
            jobId=job, targets=[hub.thing], document=image(key), presignedUrlConfig={"roleArn": role or hub.role}
        )

    create("install", "v1/image.bin")
    url = delivered(hub, "install")
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == b"v1/image.bin"
    with pytest.raises(urllib.error.HTTPError) as denied:
        urllib.request.urlopen(url.replace("v1/image.bin", "secret/key.pem"))
    assert denied.value.code == 403
    denied.value.close()

    code, message = refused(create, job="steal", key="secret/key.pem")
    assert code == "InvalidRequestException" and "s3:GetObject" in message and "secret/key.pem" in message
    code, message = refused(create, job="nobody", key="v1/image.bin", role=hub.role + "-of-nobody")
    assert code == "InvalidRequestException" and "does not exist" in message
    hub.trust["Statement"][0]["Principal"] = {"Service": "greengrass.amazonaws.com"}
    hub.iam.create_role(RoleName="not-iot", AssumeRolePolicyDocument=json.dumps(hub.trust))
    code, message = refused(create, job="other", key="v1/image.bin", role=hub.role.replace("job-files", "not-iot"))
    assert code == "InvalidRequestException" and "cannot be assumed" in message

    # What the role loses, devices do not get any more.
    hub.iam.delete_role_policy(RoleName="job-files", PolicyName="read")
    assert delivered(hub, "install").startswith("${aws:iot:s3-presigned-url:")
    assert refused(create, job="late", key="v1/image.bin")[0] == "InvalidRequestException"


# deployments


def test_a_deployment_is_a_job(hub: Any) -> None:
    iot, greengrass = hub.iot, hub.client("greengrassv2")
    thing = iot.create_thing(thingName="core")["thingArn"]
    greengrass.create_component_version(inlineRecipe=RECIPE)
    made = greengrass.create_deployment(
        targetArn=thing, deploymentName="hello", components={"com.example.Hello": {"componentVersion": "1.0.0"}},
        iotJobConfiguration={"jobExecutionsRolloutConfig": {"maximumPerMinute": 50}},
    )  # fmt: skip
    job = iot.describe_job(jobId=made["iotJobId"])["job"]
    assert (job["jobArn"], job["status"], job["targets"]) == (made["iotJobArn"], "IN_PROGRESS", [thing])
    assert job["jobExecutionsRolloutConfig"] == {"maximumPerMinute": 50}
    assert made["iotJobId"] in [each["jobId"] for each in iot.list_jobs(status="IN_PROGRESS")["jobs"]]
    assert made["iotJobId"] in [each["jobId"] for each in iot.list_jobs(namespaceId="aws-gg-deployment")["jobs"]]
    assert greengrass.get_deployment(deploymentId=made["deploymentId"])["iotJobId"] == made["iotJobId"]
    greengrass.cancel_deployment(deploymentId=made["deploymentId"])
    assert iot.describe_job(jobId=made["iotJobId"])["job"]["status"] == "CANCELED"
