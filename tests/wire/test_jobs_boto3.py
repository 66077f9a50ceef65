"""Jobs by an unmodified boto3 client: the operations, their errors, and the device's operations over HTTPS by certificate."""

import http.client
import json
import ssl
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

DOCUMENT = json.dumps({"operation": "reboot"})


@pytest.fixture
def hub(start_hub: Callable[..., Any]) -> Any:
    made = start_hub()
    made.iot = made.client("iot")
    made.data = made.client("iot-jobs-data")
    return made


def code(error: "pytest.ExceptionInfo[ClientError]") -> str:
    return str(error.value.response["Error"]["Code"])


def thing(hub: Any, name: str, group: str = "") -> str:
    arn = str(hub.iot.create_thing(thingName=name)["thingArn"])
    if group:
        hub.iot.add_thing_to_thing_group(thingGroupName=group, thingName=name)
    return arn


def test_the_life_of_a_snapshot_job(hub: Any, wait_for: Callable[..., Any]) -> None:
    iot, data = hub.iot, hub.data
    arns = [thing(hub, name) for name in ("a", "b", "c")]
    made = iot.create_job(
        jobId="first", targets=arns, document=DOCUMENT, description="all of them",
        jobExecutionsRolloutConfig={"maximumPerMinute": 100},
        abortConfig={"criteriaList": [
            {"failureType": "FAILED", "action": "CANCEL", "thresholdPercentage": 50.5, "minNumberOfExecutedThings": 3}
        ]},
        timeoutConfig={"inProgressTimeoutInMinutes": 5},
        tags=[{"Key": "stage", "Value": "test"}],
    )  # fmt: skip
    assert made["jobArn"].endswith(":job/first") and made["description"] == "all of them"
    job = iot.describe_job(jobId="first")["job"]
    assert (job["status"], job["targetSelection"], job["targets"]) == ("IN_PROGRESS", "SNAPSHOT", arns)
    assert job["jobProcessDetails"]["numberOfQueuedThings"] == 3
    assert job["abortConfig"]["criteriaList"][0]["thresholdPercentage"] == 50.5
    assert json.loads(iot.get_job_document(jobId="first")["document"]) == {"operation": "reboot"}
    assert iot.list_tags_for_resource(resourceArn=job["jobArn"])["tags"] == [{"Key": "stage", "Value": "test"}]

    pending = data.get_pending_job_executions(thingName="a")
    assert [item["jobId"] for item in pending["queuedJobs"]] == ["first"] and pending["inProgressJobs"] == []
    started = data.start_next_pending_job_execution(
        thingName="a", statusDetails={"step": "one"}, stepTimeoutInMinutes=2
    )
    execution = started["execution"]
    assert (execution["status"], execution["versionNumber"], execution["statusDetails"]) == (
        "IN_PROGRESS",
        2,
        {"step": "one"},
    )
    assert json.loads(execution["jobDocument"]) == {"operation": "reboot"}
    assert 0 < execution["approximateSecondsBeforeTimedOut"] <= 120
    state = data.update_job_execution(jobId="first", thingName="a", status="SUCCEEDED", includeJobExecutionState=True)
    assert state["executionState"]["status"] == "SUCCEEDED" and state["executionState"]["versionNumber"] == 3
    with pytest.raises(ClientError) as refused:
        data.update_job_execution(jobId="first", thingName="a", status="FAILED")
    assert code(refused) == "InvalidStateTransitionException"
    with pytest.raises(ClientError) as refused:
        data.describe_job_execution(jobId="first", thingName="a")
    assert code(refused) == "TerminalStateException"
    for name in ("b", "c"):
        data.update_job_execution(jobId="first", thingName=name, status="SUCCEEDED")
    job = wait_for(
        lambda: (found := iot.describe_job(jobId="first")["job"])["status"] == "COMPLETED" and found, "completion"
    )
    assert job["jobProcessDetails"]["numberOfSucceededThings"] == 3 and "completedAt" in job
    summaries = iot.list_job_executions_for_job(jobId="first", status="SUCCEEDED")["executionSummaries"]
    assert [item["thingArn"] for item in summaries] == arns
    assert iot.list_job_executions_for_thing(thingName="a")["executionSummaries"][0]["jobId"] == "first"
    described = iot.describe_job_execution(jobId="first", thingName="a")["execution"]
    assert described["statusDetails"] == {"detailsMap": {"step": "one"}} and described["executionNumber"] == 1
    iot.delete_job(jobId="first")
    with pytest.raises(ClientError) as refused:
        iot.describe_job(jobId="first")
    assert code(refused) == "ResourceNotFoundException"


def test_who_joins_the_group_of_a_continuous_job_gets_it(hub: Any, wait_for: Callable[..., Any]) -> None:
    iot, data = hub.iot, hub.data
    outer = iot.create_thing_group(thingGroupName="site")["thingGroupArn"]
    iot.create_thing_group(thingGroupName="line", parentGroupName="site")
    iot.create_job(jobId="always", targets=[outer], document=DOCUMENT, targetSelection="CONTINUOUS")
    thing(hub, "late", "line")
    wait_for(lambda: data.get_pending_job_executions(thingName="late")["queuedJobs"], "the job of a late thing")
    iot.remove_thing_from_thing_group(thingGroupName="line", thingName="late")

    def status() -> str:
        return str(iot.describe_job_execution(jobId="always", thingName="late")["execution"]["status"])

    wait_for(lambda: status() == "REMOVED", "the execution of a thing that left")
    more = iot.create_thing_group(thingGroupName="more")["thingGroupArn"]
    thing(hub, "other", "more")
    iot.associate_targets_with_job(jobId="always", targets=[more])
    wait_for(lambda: data.get_pending_job_executions(thingName="other")["queuedJobs"], "the job of another group")
    found = iot.list_jobs(thingGroupName="more", targetSelection="CONTINUOUS", status="IN_PROGRESS")["jobs"]
    assert [job["jobId"] for job in found] == ["always"]
    iot.cancel_job(jobId="always", reasonCode="ENOUGH", comment="no more", force=True)
    job = iot.describe_job(jobId="always")["job"]
    assert (job["status"], job["reasonCode"], job["comment"], job["forceCanceled"]) == (
        "CANCELED",
        "ENOUGH",
        "no more",
        True,
    )


def test_pages_templates_and_documents_from_s3(hub: Any) -> None:
    iot, s3 = hub.iot, hub.client("s3")
    arn = thing(hub, "a")
    s3.create_bucket(Bucket="jobs")
    s3.put_object(Bucket="jobs", Key="do.json", Body=DOCUMENT.encode())
    s3.put_object(Bucket="jobs", Key="fw 1.bin", Body=b"firmware")
    source = f"https://s3.{hub.info['region']}.amazonaws.com/jobs/do.json"
    template = iot.create_job_template(
        jobTemplateId="reboot", documentSource=source, description="a reboot",
        timeoutConfig={"inProgressTimeoutInMinutes": 7},
    )  # fmt: skip
    shown = iot.describe_job_template(jobTemplateId="reboot")
    assert json.loads(shown["document"]) == {"operation": "reboot"} and shown["documentSource"] == source
    assert [item["jobTemplateId"] for item in iot.list_job_templates()["jobTemplates"]] == ["reboot"]
    for number in range(5):
        iot.create_job(jobId=f"j{number}", targets=[arn], jobTemplateArn=template["jobTemplateArn"])
    assert iot.describe_job(jobId="j0")["job"]["timeoutConfig"] == {"inProgressTimeoutInMinutes": 7}
    pages = iot.get_paginator("list_jobs").paginate(PaginationConfig={"PageSize": 2})
    assert [job["jobId"] for page in pages for job in page["jobs"]] == ["j4", "j3", "j2", "j1", "j0"]
    pages = iot.get_paginator("list_job_executions_for_thing").paginate(thingName="a", PaginationConfig={"PageSize": 2})
    assert len([item for page in pages for item in page["executionSummaries"]]) == 5
    iot.delete_job_template(jobTemplateId="reboot")

    role = f"arn:aws:iam::{hub.info['account_id']}:role/marram-service"
    document = {"url": "${aws:iot:s3-presigned-url-v2:https://jobs.s3.amazonaws.com/fw%201.bin}", "deep": [{"same": 1}]}
    for number in range(5):
        iot.cancel_job(jobId=f"j{number}")
    iot.create_job(
        jobId="ota", targets=[arn], document=json.dumps(document),
        presignedUrlConfig={"roleArn": role, "expiresInSec": 60},
    )  # fmt: skip
    execution = hub.data.describe_job_execution(jobId="$next", thingName="a")["execution"]
    delivered = json.loads(execution["jobDocument"])
    with urllib.request.urlopen(delivered["url"]) as answer:
        assert answer.read() == b"firmware"
    assert delivered["deep"] == [{"same": 1}]
    assert json.loads(iot.get_job_document(jobId="ota")["document"]) == document


def test_the_device_asks_over_https_by_its_certificate(hub: Any, tmp_path: Path) -> None:
    iot = hub.iot
    arn = thing(hub, "dev")
    keys = iot.create_keys_and_certificate(setAsActive=True)
    policy = {"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": ["iotjobsdata:GetPendingJobExecutions", "iotjobsdata:UpdateJobExecution"], "Resource": arn}
    ]}  # fmt: skip
    iot.create_policy(policyName="dev", policyDocument=json.dumps(policy))
    iot.attach_policy(policyName="dev", target=keys["certificateArn"])
    (tmp_path / "c.pem").write_text(keys["certificatePem"] + keys["keyPair"]["PrivateKey"])
    iot.create_job(jobId="j", targets=[arn], document=DOCUMENT)
    context = ssl.create_default_context(cafile=hub.info["ca_file"])
    context.load_cert_chain(tmp_path / "c.pem")

    def call(method: str, path: str, body: object = None) -> tuple[int, Any]:
        connection = http.client.HTTPSConnection("localhost", hub.port("https"), context=context)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    status, pending = call("GET", "/things/dev/jobs")
    assert (status, [item["jobId"] for item in pending["queuedJobs"]]) == (200, ["j"])
    status, answer = call("POST", "/things/dev/jobs/j", {"status": "SUCCEEDED", "includeJobExecutionState": True})
    assert (status, answer["executionState"]["status"]) == (200, "SUCCEEDED")
    assert call("GET", "/things/dev/jobs/$next")[0] in (400, 403), "its policy does not allow DescribeJobExecution"
    assert call("GET", "/things/other/jobs")[0] in (400, 403)
