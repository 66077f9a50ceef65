"""Versions are what is in them; groups are never torn; a bad line is named."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marram.core.errors import Invalid, NotFound
from marram.ml.datasets import manifest
from marram.ml.datasets.manifest import Entry


async def test_the_same_samples_are_the_same_version(stores: Any) -> None:
    uri = await stores.pictures("a", 40)
    first = await stores.datasets.create("bars", uri)
    again = await stores.datasets.create("bars", uri)
    assert first == again and first["samples"] == 40
    assert sum(split["samples"] for split in first["splits"].values()) == 40
    other = await stores.datasets.create("bars", await stores.pictures("b", 41))
    assert other["datasetId"] != first["datasetId"]
    assert [one["datasetId"] for one in await stores.datasets.listing("bars", 10)][-1] == first["datasetId"]


async def test_a_version_keeps_its_bytes_when_the_source_changes(stores: Any) -> None:
    made = await stores.datasets.create("bars", await stores.pictures("a", 10))
    before = await stores.datasets.entries(made["datasetId"], "train")
    old = await stores.objects.get(*manifest.split_uri(before[0].uri))
    await stores.objects.delete("work", [f"a/{at}.png" for at in range(10)])
    assert await stores.objects.get(*manifest.split_uri(before[0].uri)) == old


async def test_missing_samples_and_splits_are_named(stores: Any) -> None:
    line = json.dumps({"source-ref": "s3://work/absent.png", "label": 1})
    await stores.objects.put("work", "m.jsonl", line.encode())
    with pytest.raises(NotFound, match="absent"):
        await stores.datasets.create("x", "s3://work/m.jsonl")
    made = await stores.datasets.create("bars", await stores.pictures("a", 10))
    with pytest.raises(NotFound, match="train"):
        await stores.datasets.entries(made["datasetId"], "final")


@given(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=50))
def test_a_group_lies_in_one_split(groups: list[str]) -> None:
    shares = {"train": 0.5, "gate": 0.3, "final": 0.2}
    for group in groups:
        places = {
            manifest.place(Entry(uri=f"s3://bucket/{at}", group=group, sha256=str(at)), shares, "d") for at in range(5)
        }
        assert len(places) == 1 and places <= set(shares)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        pytest.param(b"{", "line 1", id="json"),
        pytest.param(b'{"label": 1}', "source-ref", id="no source"),
        pytest.param(b'{"source-ref": "file:///etc/passwd", "label": 1}', "s3://", id="not s3"),
        pytest.param(b'{"source-ref": "s3://bucket/a"}', "label", id="no label"),
        pytest.param(b'{"source-ref": "s3://bucket/a", "label": 1, "weight": -1}', "weight", id="weight"),
        pytest.param(b"\n\n", "no samples", id="empty"),
    ],
)
def test_bad_manifests(line: bytes, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        manifest.parse(line)


def test_class_names_of_ground_truth_are_the_labels() -> None:
    line = b'{"source-ref": "s3://bucket/a", "digit": 3, "digit-metadata": {"class-name": "seven"}, "weight": 3}'
    (entry,) = manifest.parse(line, label_attribute="digit")
    assert entry.label == "seven" and entry.weight == 3.0
    assert manifest.parse(manifest.write([entry]))[0] == entry
