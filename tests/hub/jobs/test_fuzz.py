"""Hostile job JSON from a device, for a few seconds (a minute with MARRAM_FULL=1): each request is answered, none breaks a thing.

The seed is printed; MARRAM_SEED repeats a run. What holds: one reply a request, of a known code, and nothing is begun or
ended that the request did not ask for in words that the documentation knows.
"""

import json
import os
import random
import time
from typing import Any

from marram.core.jobs import REPORTED
from marram.hub.identity.service import Subject
from marram.hub.jobs import topics
from marram.hub.slice import TopicMessage
from tests.full import many
from tests.hub.jobs.conftest import World

SECONDS = float(many(3, 60))
PREFIX = "$aws/things/t/jobs/"
SEEDS: tuple[bytes, ...] = (
    b"", b"{}", b'{"clientToken":"a"}', b'{"status":"IN_PROGRESS","statusDetails":{"a":"b"},"stepTimeoutInMinutes":3}',
    b'{"status":"FAILED","expectedVersion":1,"executionNumber":1,"includeJobExecutionState":true,"includeJobDocument":true}',
    b'{"includeJobDocument":false,"executionNumber":"1"}', b'{"status":"SUCCEEDED","clientToken":"\\u0000"}',
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**63, -(2**63), 1e308, "", "1", "\x00", "\ud7ff", "x" * 2000, [], {}, [[]], {"a": {"b": []}},
    "IN_PROGRESS", "SUCCEEDED", "QUEUED", "CANCELED", {"a": "b"}, {"a": 1}, {"": "x"}, {"é": "x"},
)  # fmt: skip
KEYS = (
    "status", "statusDetails", "expectedVersion", "executionNumber", "includeJobExecutionState", "includeJobDocument",
    "stepTimeoutInMinutes", "clientToken", "jobId", "thingName", "", "__proto__",
)  # fmt: skip
CODES = {name for _, _, name in topics.CODES}


def payload(chance: random.Random) -> bytes:
    if chance.random() < 0.5:
        made = {chance.choice(KEYS): chance.choice(VALUES) for _ in range(chance.randrange(6))}
        data = json.dumps(made, ensure_ascii=chance.random() < 0.5).encode("utf-8", "surrogatepass")
    else:
        data = chance.choice(SEEDS)
    for _ in range(chance.choice((0, 0, 1, 3))):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(4):
            case 0:
                data = data[:at] + chance.randbytes(1) + data[at + 1 :]
            case 1:
                data = (
                    data[:at] + chance.choice((b'"', b"{", b"[", b"}", b",", b":", b"1e9", b"NaN", b"\\u")) + data[at:]
                )
            case 2:
                data = data[:at]
            case _:
                data = data[:at] + data[at:] * chance.choice((1, 2, 50))
    return data[: 128 * 1024]


async def test_each_request_is_answered_and_none_does_what_it_does_not_say(world: World) -> None:
    seed = int(os.environ.get("MARRAM_SEED") or random.SystemRandom().randrange(1 << 31))
    print(f"MARRAM_SEED={seed}")
    chance = random.Random(seed)
    await world.things("t", "other")
    await world.create("j", "thing/t", "thing/other", timeoutConfig={"inProgressTimeoutInMinutes": 60})
    subject = Subject(kind="certificate", principal="c", arn="arn", policies=())
    handlers = (
        (topics.get_pending, "get", {}), (topics.get_one, "j/get", {"job": "j"}), (topics.get_one, "$next/get", {"job": "$next"}),
        (topics.start_next, "start-next", {}), (topics.update, "j/update", {"job": "j"}),
        (topics.update, "nope/update", {"job": "nope"}), (topics.unknown, "what/ever", {"first": "what", "second": "ever"}),
    )  # fmt: skip
    count, end = 0, time.monotonic() + SECONDS
    while time.monotonic() < end:
        function, tail, params = chance.choice(handlers)
        body = payload(chance)
        before = world.status("j", "t")
        await world.forget_sent()
        await function(
            world.jobs,
            TopicMessage(
                topic=PREFIX + tail, params={"thing": "t", **params}, payload=body, subject=subject, client_id="c",
                time_ms=world.clock.wall_ms(),
            ),
        )  # fmt: skip
        replies = [
            (topic, json.loads(text))
            for _, topic, text, _ in world.db.outbox_pending(100)
            if topic.startswith(PREFIX + tail + "/")
        ]
        assert len(replies) == 1, body
        topic, reply = replies[0]
        assert topic.endswith("/accepted") or reply["code"] in CODES, reply
        after = world.status("j", "t")
        if after != before:
            said = json.loads(body or b"{}")
            assert topic.endswith("/accepted"), body
            assert (
                after == "IN_PROGRESS"
                if function is topics.start_next
                else after == said["status"] and after in REPORTED
            )
        if after not in ("QUEUED", "IN_PROGRESS"):
            await world.jobs.control.delete("j", forced=True)
            await world.create("j", "thing/t", "thing/other")
        assert world.status("j", "other") == "QUEUED"
        count += 1
    assert count > 100
