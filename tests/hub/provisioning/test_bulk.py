"""Bulk registration: every line once, bad lines named, over stops and starts."""

import asyncio
import contextlib
import json

import pytest

from marram.core.errors import Invalid, NotFound
from marram.hub.provisioning import bulk as bulks
from marram.hub.provisioning.service import Settings
from tests.wire.plant import signing_request

BODY = json.dumps(
    {
        "Parameters": {"Name": {"Type": "String"}, "Serial": {"Type": "String", "Default": "0"}},
        "Resources": {
            "thing": {
                "Type": "AWS::IoT::Thing",
                "Properties": {"ThingName": {"Ref": "Name"}, "AttributePayload": {"serial": {"Ref": "Serial"}}},
            }
        },
    }
)


async def start(plant, text, body=BODY):
    with contextlib.suppress(Exception):
        await plant.objects.create_bucket("input")
    await plant.objects.put("input", "things.jsonl", text if isinstance(text, bytes) else text.encode())
    made = await plant.call(
        "StartThingRegistrationTask", templateBody=body, inputFileBucket="input", inputFileKey="things.jsonl",
        roleArn=plant.role,
    )  # fmt: skip
    return made["taskId"]


async def finish(plant, task_id):
    """Run until the task has ended; its description."""
    runner = asyncio.ensure_future(plant.provisioning.bulk.run())
    try:
        async with asyncio.timeout(30):
            while True:
                found = await plant.call("DescribeThingRegistrationTask", taskId=task_id)
                if found["status"] not in ("InProgress", "Cancelling"):
                    return found
                if runner.done():
                    runner.result()
                await asyncio.sleep(0.01)
    finally:
        runner.cancel()
        await asyncio.gather(runner, return_exceptions=True)


async def report(plant, task_id, kind):
    """The rows of all parts, by the links that are given out."""
    answer = await plant.call("ListThingRegistrationTaskReports", taskId=task_id, reportType=kind)
    rows = []
    for link in answer["resourceLinks"]:
        assert "X-Amz-Signature" in link
        key = link.partition("/marram-provisioning/")[2].partition("?")[0]
        rows += [json.loads(line) for line in (await plant.objects.get("marram-provisioning", key)).splitlines()]
    return rows


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


async def test_things_without_certificates(plant):
    task = await start(plant, lines(*({"Name": f"t{n}", "Serial": str(n)} for n in range(600))))
    found = await finish(plant, task)
    assert (found["status"], found["successCount"], found["failureCount"], found["percentageProgress"]) == (
        "Completed",
        600,
        0,
        100,
    )
    assert plant.registry.thing("t599").attributes == {"serial": "599"}
    rows = await report(plant, task, "RESULTS")
    assert [row["lineNumber"] for row in rows] == list(range(1, 601))
    assert rows[7]["response"]["ResourceArns"] == {"thing": "arn:aws:iot:local-1:000000000001:thing/t7"}
    assert await report(plant, task, "ERRORS") == []
    assert (await plant.call("ListThingRegistrationTasks"))["taskIds"] == [task]
    assert (await plant.call("ListThingRegistrationTasks", status="Failed"))["taskIds"] == []
    await plant.provisioning.bulk.sweep()  # what the end of the task does, or the next start
    with pytest.raises(NotFound):
        await plant.objects.stat("marram-provisioning", f"inputs/{task}")


async def test_bad_lines_are_named_and_leave_nothing(plant):
    bad = {
        2: "{",
        3: '{"Name": "a", "Name": "b"}',
        4: '["Name"]',
        5: "{}",
        6: '{"Name": "no name"}',
        7: '{"Name": 7}',
        8: '{"Name": "x", "Color": "red"}',
        10: '{"Name": "good"}',  # again, with another serial
        11: '{"Name": "' + "x" * (300 << 10) + '"}',
        12: "\\xff",
    }
    text = [
        '{"Name": "good", "Serial": "1"}',
        *(bad[n] for n in range(2, 9)),
        "",
        *(bad[n] for n in (10, 11, 12)),
        '{"Name": "last"}',
    ]
    task = await start(plant, "\n".join(text))  # the last line without its end
    found = await finish(plant, task)
    assert (found["status"], found["successCount"], found["failureCount"]) == ("Completed", 2, len(bad))
    errors = await report(plant, task, "ERRORS")
    assert [row["lineNumber"] for row in errors] == sorted(bad)
    assert all(row["errorCode"] and row["errorMessage"] for row in errors)
    offsets = [row["offset"] for row in errors]
    assert offsets[0] == len(text[0]) + 1 and offsets == sorted(offsets)
    assert [row["lineNumber"] for row in await report(plant, task, "RESULTS")] == [1, 13]
    assert plant.left()["registry_thing"] == ["good", "last"]


async def test_with_certificates(plant):
    body = json.loads(BODY)
    body["Parameters"]["CSR"] = {"Type": "String"}
    body["Resources"]["certificate"] = {
        "Type": "AWS::IoT::Certificate",
        "Properties": {"CertificateSigningRequest": {"Ref": "CSR"}},
    }
    rows = [{"Name": f"t{n}", "CSR": signing_request()[0]} for n in range(3)] + [{"Name": "t3", "CSR": "x"}]
    task = await start(plant, lines(*rows), json.dumps(body))
    found = await finish(plant, task)
    assert (found["successCount"], found["failureCount"]) == (3, 1)
    result = (await report(plant, task, "RESULTS"))[1]["response"]
    assert plant.device(plant.der(result["CertificatePem"]), "t1").thing == "t1"
    assert "t3" not in plant.left()["registry_thing"]


async def test_what_is_refused_at_the_start(plant):
    with pytest.raises(Invalid, match="Resources"):
        await start(plant, "{}", "{}")
    for bucket, key in (("input", "nothing"), ("nobucket", "things.jsonl")):
        with pytest.raises(Invalid, match="inputFile"):
            await plant.call(
                "StartThingRegistrationTask",
                templateBody=BODY,
                inputFileBucket=bucket,
                inputFileKey=key,
                roleArn=plant.role,
            )
    with pytest.raises(Invalid, match="nobody"):
        await plant.call(
            "StartThingRegistrationTask", templateBody=BODY, inputFileBucket="input", inputFileKey="things.jsonl",
            roleArn="arn:aws:iam::000000000001:role/nobody",
        )  # fmt: skip
    task = await start(plant, lines({"Name": "a"}))
    with pytest.raises(Invalid, match="one at a time"):
        await start(plant, lines({"Name": "b"}))
    for operation in ("DescribeThingRegistrationTask", "StopThingRegistrationTask"):
        with pytest.raises(NotFound):
            await plant.call(operation, taskId="nobody")
    assert (await finish(plant, task))["status"] == "Completed"
    assert (await finish(plant, await start(plant, "")))["successCount"] == 0


async def test_the_input_is_as_it_was_when_the_task_was_started(plant):
    task = await start(plant, lines({"Name": "first"}))
    await plant.objects.put("input", "things.jsonl", lines({"Name": "second"}).encode())
    assert (await finish(plant, task))["successCount"] == 1
    assert plant.left()["registry_thing"] == ["first"]


async def test_a_task_that_is_stopped(plant, monkeypatch):
    monkeypatch.setattr(bulks, "LINES_AT_ONCE", 10)
    task = await start(plant, lines(*({"Name": f"t{n}"} for n in range(200))))
    runner = asyncio.ensure_future(plant.provisioning.bulk.run())
    while not plant.left()["registry_thing"]:
        await asyncio.sleep(0)
    await plant.call("StopThingRegistrationTask", taskId=task)
    runner.cancel()
    await asyncio.gather(runner, return_exceptions=True)
    found = await finish(plant, task)
    assert found["status"] == "Cancelled"
    things = plant.left()["registry_thing"]
    assert 0 < len(things) < 200
    assert found["successCount"] == len(things) == len(await report(plant, task, "RESULTS"))
    await plant.call("StopThingRegistrationTask", taskId=task)  # again is fine
    assert (await plant.call("DescribeThingRegistrationTask", taskId=task))["status"] == "Cancelled"


@pytest.mark.parametrize("after", [1, 17, 55, 99])
async def test_a_cut_anywhere_does_no_line_twice_and_misses_none(plant, monkeypatch, after):
    """The runner is stopped in mid-work again and again; each line is a thing, and one row of the reports."""
    monkeypatch.setattr(bulks, "LINES_AT_ONCE", 20)
    monkeypatch.setattr(bulks, "LINES_A_REPORT", 30)
    rows = [{"Name": f"t{n:03d}"} if n % 10 else {"Nome": "x"} for n in range(100)]
    task = await start(plant, lines(*rows))
    runner = asyncio.ensure_future(plant.provisioning.bulk.run())
    while len(plant.left()["registry_thing"]) < min(after, 90):
        await asyncio.sleep(0)
    runner.cancel()
    await asyncio.gather(runner, return_exceptions=True)
    await plant.reopen()
    found = await finish(plant, task)
    assert (found["status"], found["successCount"], found["failureCount"]) == ("Completed", 90, 10)
    numbers = [row["lineNumber"] for kind in ("RESULTS", "ERRORS") for row in await report(plant, task, kind)]
    assert sorted(numbers) == list(range(1, 101))
    assert all(plant.registry.thing(f"t{n:03d}").version == 1 for n in range(100) if n % 10)


async def test_an_input_that_is_gone_fails_the_task(plant):
    task = await start(plant, lines({"Name": "a"}))
    await plant.objects.delete("marram-provisioning", [f"inputs/{task}"])
    found = await finish(plant, task)
    assert (found["status"], "gone" in found["message"]) == ("Failed", True)


async def test_reports_have_an_age(plant, monkeypatch):
    monkeypatch.setattr(bulks, "REPORTS_AT_ONCE", 1)
    old = await start(plant, lines({"Name": "a"}, {"Name": "no name"}))
    await finish(plant, old)
    plant.clock.advance(10 * 24 * 3600 * 1000)
    new = await start(plant, lines({"Name": "b"}))
    await finish(plant, new)
    keys = [stored.key for stored in (await plant.objects.listing(bulks.BUCKET)).objects]
    assert len(keys) == 3
    assert await plant.provisioning.bulk.expire_reports(0) == 0
    assert await plant.provisioning.bulk.expire_reports(11) == 0
    while await plant.provisioning.bulk.expire_reports(10 - 1):
        pass
    assert [stored.key for stored in (await plant.objects.listing(bulks.BUCKET)).objects] == [
        key for key in keys if key.startswith(new)
    ]
    for kind in ("RESULTS", "ERRORS"):
        answer = await plant.call("ListThingRegistrationTaskReports", taskId=old, reportType=kind)
        assert answer["resourceLinks"] == []
    assert (await plant.call("DescribeThingRegistrationTask", taskId=old))["failureCount"] == 1
    assert [row["lineNumber"] for row in await report(plant, new, "RESULTS")] == [1]
    plant.clock.advance(plant.provisioning.settings.report_days * 24 * 3600 * 1000 + 1)
    await plant.provisioning.tend()
    assert (await plant.objects.listing(bulks.BUCKET)).objects == []


@pytest.mark.parametrize("days", [-1, 40_000])
def test_ages_that_cannot_be(days):
    with pytest.raises(Invalid, match="report_days"):
        Settings(report_days=days)
