"""What devices send is kept once, with its propensity, under the thing that sent it."""

import base64
import json
from typing import Any

import pytest

from marram.core.errors import Invalid, NotFound


def item(at: int, **change: Any) -> bytes:
    made = {
        "sha256": f"{at:064x}", "image": base64.b64encode(b"png%d" % at).decode(), "reason": "margin", "propensity": None,
        "thing": "a-lie", "label": "3", "margin": 0.1, "frame": f"r:{at}", "region": 0,
    }  # fmt: skip
    return json.dumps(made | change).encode()


async def test_items_are_kept_once(stores: Any) -> None:
    assert await stores.feedback.receive("box-1", item(1)) is True
    assert await stores.feedback.receive("box-1", item(1)) is False
    other = base64.b64encode(b"another picture").decode()
    assert await stores.feedback.receive("box-3", item(1, image=other)) is False
    assert await stores.feedback.receive("box-2", item(2, reason="random", propensity=0.15)) is True
    found = await stores.feedback.listing()
    assert [(one["thing"], one["reason"], one["propensity"]) for one in found] == [
        ("box-1", "margin", None), ("box-2", "random", 0.15),
    ]  # fmt: skip
    assert await stores.objects.get("marram-feedback", f"items/{1:064x}.png") == b"png1"
    last = found[0]
    rest = await stores.feedback.listing(after=(last["receivedMs"], last["sha256"]))
    assert [one["sha256"] for one in rest] == [f"{2:064x}"]
    assert await stores.feedback.listing("box-2") == found[1:]


async def test_export_is_a_manifest_for_labelling(stores: Any) -> None:
    with pytest.raises(NotFound):
        await stores.feedback.export("s3://work/to-label.jsonl")
    for at in range(3):
        await stores.feedback.receive("box-1", item(at))
    assert await stores.feedback.export("s3://work/to-label.jsonl", limit=2) == 2
    lines = (await stores.objects.get("work", "to-label.jsonl")).splitlines()
    assert json.loads(lines[0])["source-ref"] == f"s3://marram-feedback/items/{0:064x}.png"
    assert json.loads(lines[0])["feedback"]["frame"] == "r:0"


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"[]", id="array"),
        pytest.param(item(1, sha256="../../etc"), id="path"),
        pytest.param(item(1, image="%%%"), id="base64"),
        pytest.param(item(1, image="A" * 140_000), id="large"),
        pytest.param(item(1, reason="because"), id="reason"),
        pytest.param(item(1, reason="random"), id="random without propensity"),
        pytest.param(item(1, propensity=1.5), id="propensity"),
    ],
)
async def test_what_is_not_an_item_is_refused(stores: Any, payload: bytes) -> None:
    with pytest.raises(Invalid):
        await stores.feedback.receive("box-1", payload)
    assert await stores.feedback.count() == 0
