"""The cable out, half-open, with a core killed in the dark and a hub killed under load: ids compared one by one."""

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

COMPONENT = """
import json, os, sys, time
from awsiot.greengrasscoreipc.clientv2 import GreengrassCoreIPCClientV2
from awsiot.greengrasscoreipc.model import QOS
client = GreengrassCoreIPCClientV2()
work = sys.argv[1]
path = os.path.join(work, "sent")
at = 0
if os.path.exists(path):
    lines = open(path).read().split()
    at = int(lines[-1]) + 1 if lines else 0
log = open(path, "a", buffering=1)
print("from", at, flush=True)
while True:
    client.publish_to_iot_core(topic_name="dt/core-1/readings", qos=QOS.AT_LEAST_ONCE, payload=json.dumps({"id": at}).encode())
    log.write(f"{at}\\n")  # acknowledged: on this device's disk
    at += 1
    time.sleep(0.02)
"""
RECIPE = {
    "RecipeFormatVersion": "2020-01-25",
    "ComponentName": "com.example.Reader",
    "ComponentVersion": "1.0.0",
    "ComponentConfiguration": {
        "DefaultConfiguration": {
            "accessControl": {
                "aws.greengrass.ipc.mqttproxy": {
                    "reader:1": {"operations": ["aws.greengrass#PublishToIoTCore"], "resources": ["dt/#", "dt/*"]}
                }
            }
        }
    },
    "Manifests": [
        {
            "Platform": {"os": "linux"},
            "Artifacts": [{"URI": "s3://artifacts/reader/main.py"}],
            "Lifecycle": {"run": "exec python3 {artifacts:path}/main.py {work:path}"},
        }
    ],
}


class Cable:
    """TCP relays on a loop of their own. `out` swallows what comes, both ways, and resets nothing: a cable, not a crash."""

    def __init__(self, targets: dict[str, int]) -> None:
        self.is_out = False
        self._targets = targets
        self.ports: dict[str, int] = {}
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._relays: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(10)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._main())

    async def _main(self) -> None:
        self._stop = asyncio.Event()
        async with contextlib.AsyncExitStack() as stack:
            for name, port in self._targets.items():
                server = await asyncio.start_server(lambda r, w, port=port: self._relay(r, w, port), "127.0.0.1", 0)
                stack.callback(server.close)
                self.ports[name] = server.sockets[0].getsockname()[1]
            self._ready.set()
            await self._stop.wait()
        relays = list(self._relays)
        for relay in relays:
            relay.cancel()
        await asyncio.gather(*relays, return_exceptions=True)
        await asyncio.sleep(0.1)  # what was aborted is closed in a later turn

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._relays.add(task)
        held = [writer]
        try:
            with contextlib.suppress(OSError):
                while self.is_out:  # nobody answers at the other end
                    await asyncio.sleep(0.05)
                far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
                held.append(far_writer)
                await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))
            for each in held:
                each.close()
        except BaseException:  # cancelled at the end of the test: nothing may be left to the garbage collector
            for each in held:
                each.transport.abort()
            raise
        finally:
            self._relays.discard(task)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        dead = False
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                dead = dead or self.is_out  # what was swallowed never comes again: the connection is lost for good
                if not dead:
                    writer.write(data)
                    await writer.drain()
        if not dead:
            with contextlib.suppress(OSError, RuntimeError):
                writer.close()


@pytest.fixture
def cable_site(
    start_hub: Callable[..., Any], start_edge: Callable[..., Any], marram: Callable[..., Any], tmp_path: Path
) -> Iterator[Any]:
    hub = start_hub()
    cable = Cable({door: hub.port(door) for door in ("mqtt", "https")})
    root = tmp_path / "core-1"
    joined = marram("edge", "join", "--hub-json", hub.data / "hub.json", "--thing", "core-1", "--root", root)
    assert joined.returncode == 0, joined.stderr
    config = (root / "config" / "config.yaml").read_text()
    for door in ("mqtt", "https"):  # the core goes through the cable
        assert str(hub.port(door)) in config
        config = config.replace(str(hub.port(door)), str(cable.ports[door]))
    (root / "config" / "config.yaml").write_text(config)
    role = f"arn:aws:iam::{hub.info['account_id']}:role/marram-service"
    hub.client("iot").create_topic_rule(
        ruleName="readings",
        topicRulePayload={
            "sql": "SELECT id FROM 'dt/+/readings'",
            "awsIotSqlVersion": "2016-03-23",
            "actions": [
                {
                    "timestream": {
                        "roleArn": role,
                        "databaseName": "line",
                        "tableName": "readings",
                        "dimensions": [{"name": "core", "value": "${topic(2)}"}],
                    }
                }
            ],
        },
    )
    s3, greengrass, iot = hub.client("s3"), hub.client("greengrassv2"), hub.client("iot")
    s3.create_bucket(Bucket="artifacts")
    s3.put_object(Bucket="artifacts", Key="reader/main.py", Body=COMPONENT.encode())
    greengrass.create_component_version(inlineRecipe=json.dumps(RECIPE).encode())
    hub.edge = start_edge(root)
    hub.cable = cable
    greengrass.create_deployment(
        targetArn=iot.describe_thing(thingName="core-1")["thingArn"],
        components={"com.example.Reader": {"componentVersion": "1.0.0"}},
    )
    yield hub
    cable.close()


def stored(hub: Any) -> list[int]:
    """Every id in the series, with repeats, read by pages through the public operation."""
    from marram.cli import client

    api, request, ids = client.Api.from_data(hub.data), {"series": "line.readings", "limit": 1000}, list[int]()
    while True:
        answer = api.marram("timeseries/Query", request)
        ids += [int(row["fields"]["id"]) for row in answer["rows"]]
        if not answer.get("nextToken"):
            return ids
        request["nextToken"] = answer["nextToken"]


def sent(hub: Any) -> list[int]:
    path = hub.edge.root / "work" / "com.example.Reader" / "sent"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def settled(hub: Any, wait_for: Callable[..., Any]) -> tuple[list[int], list[int]]:
    """Stop the component's core, wait until what it had acknowledged is on the hub; (sent, stored)."""
    acknowledged = sent(hub)
    wait_for(lambda: len(set(stored(hub))) >= len(acknowledged), f"{len(acknowledged)} readings on the hub", 40)
    return acknowledged, stored(hub)


@pytest.mark.timeout(150)
def test_nothing_lost_and_nothing_twice(
    cable_site: Any, start_hub: Callable[..., Any], start_edge: Callable[..., Any], wait_for: Callable[..., Any]
) -> None:
    hub = cable_site
    wait_for(lambda: len(sent(hub)) > 30, "the first readings")
    wait_for(lambda: len(stored(hub)) > 10, "readings on the hub")

    hub.cable.is_out = True
    before = len(sent(hub))
    wait_for(lambda: len(sent(hub)) > before + 80, "readings in the dark")
    hub.edge.kill()  # and a cold start with nobody to ask
    dark = len(sent(hub))
    hub.edge = start_edge(hub.edge.root)
    wait_for(lambda: len(sent(hub)) > dark + 40, "readings after a cold start in the dark")
    assert max(stored(hub)) < dark

    hub.cable.is_out = False
    wait_for(lambda: max(stored(hub)) >= dark, "the backlog", 60)

    hub.kill()
    time.sleep(1.0)  # the world goes on while it is away
    again = start_hub(hub.data)
    again.edge, again.cable = hub.edge, hub.cable
    wait_for(lambda: max(stored(again)) > max(sent(again)[:-1], default=0) - 50, "readings after the hub's return", 40)

    again.edge.stop()
    acknowledged = sent(again)
    again.edge = start_edge(again.edge.root)  # what was still in the spool leaves now
    wait_for(lambda: set(acknowledged) <= set(stored(again)), "every acknowledged reading on the hub", 40)
    found = stored(again)
    assert len(found) == len(set(found)), "twice: " + str(sorted(x for x in set(found) if found.count(x) > 1)[:10])
    assert not set(acknowledged) - set(found)
    unknown = set(found) - set(sent(again))
    assert len(unknown) <= 3, unknown  # published, and killed before it was written down: at most one a life
