"""Bulk registration with boto3 on a running hub: links that work, kill -9 in the middle, and its speed."""

import json
import os
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

BODY = json.dumps(
    {
        "Parameters": {"Name": {"Type": "String"}, "Serial": {"Type": "String"}},
        "Resources": {
            "thing": {
                "Type": "AWS::IoT::Thing",
                "Properties": {"ThingName": {"Ref": "Name"}, "AttributePayload": {"serial": {"Ref": "Serial"}}},
            }
        },
    }
)
COUNT = 50_000 if os.environ.get("MARRAM_FULL") else 6_000


def start(hub: Any, count: int) -> str:
    s3, role = hub.client("s3"), f"arn:aws:iam::{hub.info['account_id']}:role/marram-service"
    s3.create_bucket(Bucket="input", CreateBucketConfiguration={"LocationConstraint": hub.info["region"]})
    rows = (
        json.dumps({"Name": f"t{n:06d}", "Serial": str(n)} if n % 1000 else {"Name": "not a name"})
        for n in range(count)
    )
    s3.put_object(Bucket="input", Key="things.jsonl", Body="\n".join(rows).encode())
    made = hub.client("iot").start_thing_registration_task(
        templateBody=BODY, inputFileBucket="input", inputFileKey="things.jsonl", roleArn=role
    )
    return str(made["taskId"])


def reported(hub: Any, task: str, kind: str) -> list[dict[str, Any]]:
    pages = hub.client("iot").get_paginator("list_thing_registration_task_reports")
    rows: list[dict[str, Any]] = []
    for page in pages.paginate(taskId=task, reportType=kind):
        for link in page["resourceLinks"]:
            with urllib.request.urlopen(link) as answer:
                rows += [json.loads(line) for line in answer.read().splitlines()]
    return rows


def test_a_kill_in_the_middle_does_no_line_twice_and_misses_none(
    start_hub: Callable[..., Any], wait_for: Callable[..., Any]
) -> None:
    hub = start_hub()
    task = start(hub, COUNT)
    iot = hub.client("iot")
    wait_for(lambda: iot.list_things(maxResults=250).get("nextToken"), "the first things are there")
    hub.kill()
    hub = start_hub(hub.data)
    iot = hub.client("iot")

    def ended() -> Any:
        found = iot.describe_thing_registration_task(taskId=task)
        assert 0 <= found["percentageProgress"] <= 100
        return found if found["status"] != "InProgress" else None

    found = wait_for(ended, "the task ends")
    bad = COUNT // 1000
    assert (found["status"], found["successCount"], found["failureCount"]) == ("Completed", COUNT - bad, bad)
    results, errors = reported(hub, task, "RESULTS"), reported(hub, task, "ERRORS")
    assert sorted(row["lineNumber"] for row in results + errors) == list(range(1, COUNT + 1))
    assert [row["lineNumber"] for row in errors] == list(range(1, COUNT + 1, 1000))
    assert iot.describe_thing(thingName="t000999")["attributes"] == {"serial": "999"}
    assert iot.describe_thing(thingName="t000999")["version"] == 1


@pytest.mark.parametrize("floor", [500])  # 2,000 on a quiet machine, see docs/benchmarks.md; here others run beside it
def test_how_fast(start_hub: Callable[..., Any], wait_for: Callable[..., Any], floor: int) -> None:
    hub = start_hub()
    began = time.monotonic()
    task = start(hub, COUNT)
    iot = hub.client("iot")
    wait_for(lambda: iot.describe_thing_registration_task(taskId=task)["status"] == "Completed", "the task ends", 50)
    rate = COUNT / (time.monotonic() - began)
    print(f"{rate:.0f} things a second")
    assert rate > floor
