"""kill -9 while a job reaches a group, is reported on, is canceled and is deleted: no execution lost, none twice.

The moments are drawn from a printed seed; MARRAM_SEED repeats a run. Each transaction on purpose: tests/hub/jobs/test_rollout.py.
"""

import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.wire.faults import FULL, Hub, until

THINGS = 2_000 if FULL else 300
KILLS = 8 if FULL else 2
pytestmark = [pytest.mark.xdist_group("faults-kill"), pytest.mark.timeout(240)]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    made = Hub(tmp_path / "hub", tmp_path / "hub.log")
    made.start()
    yield made
    made.close()


def executions(iot: Any, job: str) -> list[tuple[str, str]]:
    pages = iot.get_paginator("list_job_executions_for_job").paginate(jobId=job, PaginationConfig={"PageSize": 250})
    return [
        (item["thingArn"].rpartition("/")[2], item["jobExecutionSummary"]["status"])
        for page in pages
        for item in page["executionSummaries"]
    ]


def test_a_job_survives_kills_at_any_moment(hub: Hub, chance: random.Random) -> None:
    iot = hub.client("iot")
    group = iot.create_thing_group(thingGroupName="fleet")["thingGroupArn"]
    names = [f"d{number:05}" for number in range(THINGS)]
    for name in names:
        iot.create_thing(thingName=name)
        iot.add_thing_to_thing_group(thingGroupName="fleet", thingName=name)

    def kill_sometime() -> None:
        for _ in range(KILLS):
            time.sleep(chance.uniform(0.0, 0.15))
            hub.kill()
            hub.start()

    iot.create_job(jobId="j", targets=[group], document=json.dumps({"do": 1}), targetSelection="CONTINUOUS")
    kill_sometime()
    iot, data = hub.client("iot"), hub.client("iot-jobs-data")
    until(lambda: len(executions(iot, "j")) >= THINGS, "the rollout", 60)
    assert Counter(name for name, _ in executions(iot, "j")) == Counter(names)

    acknowledged = {name: chance.choice(["SUCCEEDED", "FAILED", "IN_PROGRESS"]) for name in chance.sample(names, 40)}
    for name, status in acknowledged.items():
        data.update_job_execution(jobId="j", thingName=name, status=status)
    hub.kill()
    hub.start()
    iot = hub.client("iot")
    found = dict(executions(iot, "j"))
    assert {name: found[name] for name in acknowledged} == acknowledged

    iot.cancel_job(jobId="j", force=True)
    kill_sometime()
    iot = hub.client("iot")

    def ended() -> bool:
        return not {"QUEUED", "IN_PROGRESS"} & {status for _, status in executions(iot, "j")}

    until(ended, "the cancellation", 60)
    count = Counter(status for _, status in executions(iot, "j"))
    kept = Counter(status for status in acknowledged.values() if status != "IN_PROGRESS")
    assert count == kept + Counter(CANCELED=THINGS - kept.total())
    details = iot.describe_job(jobId="j")["job"]["jobProcessDetails"]
    assert details["numberOfCanceledThings"] == count["CANCELED"] and details["numberOfQueuedThings"] == 0

    iot.delete_job(jobId="j")
    kill_sometime()
    iot = hub.client("iot")
    until(lambda: iot.list_jobs()["jobs"] == [], "the deletion", 60)
    assert iot.list_job_executions_for_thing(thingName=names[-1])["executionSummaries"] == []
    assert "Traceback" not in hub.said()
