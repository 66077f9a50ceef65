"""A labelling job from manifest to manifest, with a script in the place of the person."""

import asyncio
import json
from typing import Any

import pytest

from marram.core.errors import AlreadyExists, Conflict, Invalid, NotFound, Unsupported
from marram.ml.datasets import manifest


async def request(stores: Any, name: str = "job", count: int = 3, **change: Any) -> dict[str, Any]:
    lines = []
    for at in range(count):
        await stores.objects.put("work", f"crops/{at}.png", b"png")
        lines.append(json.dumps({"source-ref": f"s3://work/crops/{at}.png", "feedback": {"frame": f"r:{at}"}}))
    await stores.objects.put("work", "input.jsonl", "\n".join(lines).encode())
    categories = {"document-version": "2018-11-28", "labels": [{"label": str(at)} for at in range(10)]}
    await stores.objects.put("work", "categories.json", json.dumps(categories).encode())
    return {
        "LabelingJobName": name,
        "LabelAttributeName": "digit",
        "InputConfig": {"DataSource": {"S3DataSource": {"ManifestS3Uri": "s3://work/input.jsonl"}}},
        "OutputConfig": {"S3OutputPath": "s3://work/labels/"},
        "RoleArn": "arn:aws:iam::000000000001:role/marram-service",
        "LabelCategoryConfigS3Uri": "s3://work/categories.json",
        "HumanTaskConfig": {"TaskTitle": "Digits"},
        **change,
    }


async def test_flow(stores: Any) -> None:
    service = stores.labelling
    assert (await service.create(await request(stores))).endswith(":labeling-job/job")
    with pytest.raises(AlreadyExists):
        await service.create(await request(stores))
    categories, tasks = await service.tasks("job")
    assert categories == [str(at) for at in range(10)] and [task.number for task in tasks] == [0, 1, 2]
    assert await service.submit("job", {0: "7", 2: "1"}, "key") == 1
    assert [task.number for task in (await service.tasks("job"))[1]] == [1]
    assert (await service.describe("job"))[1:] == (3, 2)
    with pytest.raises(Invalid, match="'x'"):
        await service.submit("job", {1: "x"}, "key")
    with pytest.raises(NotFound, match="task 9"):
        await service.submit("job", {1: "2", 9: "2"}, "key")
    assert (await service.describe("job"))[1:] == (3, 2), "all or none"
    assert await service.submit("job", {0: "8"}, "key") == 1, "an answer may be corrected"
    assert await service.submit("job", {1: "2"}, "key") == 0
    async with asyncio.timeout(5):
        document = await service.finished("job")
    assert document["output"] == "s3://work/labels/job/manifests/output/output.manifest"
    data = await stores.objects.get(*manifest.split_uri(document["output"]))
    assert [entry.label for entry in manifest.parse(data, label_attribute="digit")] == ["8", "2", "1"]
    first = json.loads(data.splitlines()[0])
    assert first["digit"] == 8 and first["feedback"] == {"frame": "r:0"}
    assert first["digit-metadata"]["human-annotated"] == "yes"
    with pytest.raises(Conflict):
        await service.submit("job", {1: "3"}, "key")


async def test_output_is_written_after_a_crash_before_it(stores: Any) -> None:
    await stores.labelling.create(await request(stores, count=1))

    def last_answer(tx: Any) -> None:
        tx.execute("UPDATE labelling_task SET label = '5', labelled_ms = 1000")
        row = tx.one("SELECT document FROM labelling_job")
        document = json.loads(row[0]) | {"status": "Writing"}
        tx.execute("UPDATE labelling_job SET status = 'Writing', document = ?", json.dumps(document).encode())

    await stores.db.write(last_answer)
    await stores.labelling.recover()
    assert (await stores.labelling.describe("job"))[0]["status"] == "Completed"


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        pytest.param({"RoleArn": "arn:aws:iam::1:role/x"}, Invalid, "marram-service", id="role"),
        pytest.param({"LabelingJobAlgorithmsConfig": {"a": 1}}, Unsupported, "Algorithms", id="algorithms"),
        pytest.param({"LabelAttributeName": "x-ref"}, Invalid, "x-ref", id="attribute"),
        pytest.param({"LabelCategoryConfigS3Uri": None}, Invalid, "LabelCategory", id="categories"),
        pytest.param({"LabelCategoryConfigS3Uri": "s3://work/input.jsonl"}, Invalid, "JSON", id="not categories"),
    ],
)
async def test_refusals(stores: Any, change: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        await stores.labelling.create(await request(stores, **change))
