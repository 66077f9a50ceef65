"""The hub of the gateway's benches, whole, with one door more: plain MQTT, whose clients are all one principal with a real policy.

`python -m tests.bench.gateway_server PORT FOLDER KIND`. KIND: memory (a rule is there, and matches nothing), durable (somebody
wants every message, so QoS 1 is fsynced before its PUBACK), open (as memory, and everything is allowed without a look at a
policy). The loop is held to the first core; the threads of journal and database may run beside it.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import uvloop

from marram.core.policy import evaluate
from marram.hub.border.mqtt import MqttDoor
from marram.hub.bus import Bus
from marram.hub.identity.service import Subject
from marram.kit import log, net, process
from marram.kit.clock import SystemClock, SystemEntropy
from marram.kit.db import Db
from marram.kit.seglog import Journal
from marram.kit.tasks import Supervisor
from marram.serve import folder as folders
from marram.serve import hub, settings, slices

POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Action": "iot:Connect", "Resource": "arn:aws:iot:*:*:client/*"},
        {
            "Effect": "Allow",
            "Action": ["iot:Publish", "iot:Receive"],
            "Resource": ["arn:aws:iot:local-1:*:topic/bench/*/t", "arn:aws:iot:*:*:topic/own/${iot:ClientId}/*"],
        },
        {"Effect": "Allow", "Action": "iot:Subscribe", "Resource": "arn:aws:iot:*:*:topicfilter/bench/*"},
        {"Effect": "Deny", "Action": "iot:*", "Resource": "arn:aws:iot:*:*:topic/bench/secret/*"},
    ],
}


async def serve(port: int, data: Path, kind: str) -> None:
    clock, entropy = SystemClock(), SystemEntropy()
    folders.prepare(data)
    async with contextlib.AsyncExitStack() as stack:
        db = stack.enter_context(Db.open(data / "hub.db", clock=clock, entropy=entropy, migrations=slices.migrations()))
        wanted = settings.load(data / "marram.toml", {})
        place = settings.remember(db, wanted.hub, entropy=entropy, auto_ports=True, bind=None, name=None)
        nowhere = dict.fromkeys(("api", "mqtt", "https", "console"), "http://127.0.0.1:1")
        base = slices.Base(
            data=data, clock=clock, entropy=entropy, bus=Bus(), db=db, place=place, endpoints=nowhere,
            journal=stack.enter_context(Journal.open(data / "log", clock=clock, entropy=entropy)), settings=wanted,
        )  # fmt: skip
        made = slices.build(base)
        await slices.start(made, stack)
        await add_rule(made)
        if kind == "durable":
            made.broker.add_consumer("bench", lambda topic: True)
            made.broker.keep("bench", lambda: base.journal.synced)
        if kind == "open":
            made.identity.may = _yes  # type: ignore[method-assign]
        door = MqttDoor(
            broker=made.broker, identity=made.identity, clock=clock, entropy=entropy, anonymous=device(place.account)
        )
        supervisor = await stack.enter_async_context(Supervisor())
        for name, run in [*slices.runners(base, made), ("mqtt-timers", door.run)]:
            supervisor.start(name, run)
        hub.spare_collector()
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # this thread: the loop
        await net.serve("127.0.0.1", port, door.connection, tls=None, handshakes=None)
        await asyncio.Event().wait()


def device(account: str) -> Subject:
    compiled = evaluate.compile_policy("bench", json.dumps(POLICY))
    return Subject(
        kind="role", principal="bench", arn=f"arn:aws:iot:local-1:{account}:cert/bench", policies=(compiled,)
    )


async def add_rule(made: slices.Slices) -> None:
    """On topics that nobody publishes on."""
    role = f"arn:aws:iam::{settings.ACCOUNT}:role/marram-service"
    action = {"republish": {"roleArn": role, "topic": "other/out"}}
    await made.rules.create("bench", {"sql": "SELECT * FROM 'other/+/t' WHERE n > 1", "actions": [action]})


def _yes(*_: Any, **__: Any) -> bool:
    return True


if __name__ == "__main__":
    log.setup(level="error")
    process.more_files()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    uvloop.run(serve(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))
