import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from marram.core.codec import JsonObject
from marram.core.errors import AlreadyExists, Invalid, NotFound, Unavailable
from marram.edge.link.fleet_status import Component, FleetStatus
from marram.edge.link.jobs import Jobs, job_of
from marram.edge.link.ledger import MIGRATIONS, Ledger
from marram.edge.pubsub.hub import Hub, Message
from marram.kit.clock import FakeClock, SeededEntropy
from marram.kit.db import Db

PREFIX = "$aws/things/T/jobs/"
SPACE = "namespace-aws-gg-deployment"


@dataclass
class FakeHub:
    """Answers jobs requests as the hub does; `queue` is what $next gives."""

    queue: list[JsonObject] = field(default_factory=list)
    updates: list[tuple[str, JsonObject]] = field(default_factory=list)
    sent: list[tuple[str, JsonObject]] = field(default_factory=list)
    refuse: tuple[str, str] | None = None
    up: bool = True
    hub: Hub = field(default_factory=Hub)
    watchers: list[Callable[[bool], None]] = field(default_factory=list)
    moved: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, topic: str, payload: bytes) -> None:
        if not self.up:
            raise Unavailable("down")
        body = json.loads(payload)
        self.sent.append((topic, body))
        answer: JsonObject = {"clientToken": body.get("clientToken"), "timestamp": 1}
        outcome = "accepted"
        if topic.endswith("/get"):
            answer["execution"] = self.queue[0] if self.queue else None
        elif topic.endswith("/update"):
            job = topic.split("/")[4]
            self.updates.append((job, body))
            if self.refuse:
                outcome, answer["code"], answer["message"] = "rejected", self.refuse[0], self.refuse[1]
            elif body["status"] != "IN_PROGRESS":
                self.queue[:] = [each for each in self.queue if each["jobId"] != job]
        self.moved.set()
        asyncio.get_running_loop().call_soon(
            lambda: self.hub.publish(Message(f"{topic}/{outcome}", json.dumps(answer).encode()))
        )

    def notify(self) -> None:
        body = {"timestamp": 1} | ({"execution": self.queue[0]} if self.queue else {})
        self.hub.publish(Message(f"{PREFIX}notify-next-{SPACE}", json.dumps(body).encode()))

    async def subscribe(self, filter: str, qos: int, deliver: Callable[[Message], None]) -> Callable[[], None]:
        return self.hub.subscribe(filter, deliver).cancel

    def watch(self, changed: Callable[[bool], None]) -> Callable[[], None]:
        self.watchers.append(changed)
        changed(self.up)
        return lambda: self.watchers.remove(changed)

    async def until(self, ready: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not ready():
                self.moved.clear()
                await self.moved.wait()


@dataclass
class FakeEngine:
    hub: FakeHub
    got: list[tuple[JsonObject, str]] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)

    async def submit(self, document: JsonObject, source: str) -> str:
        self.hub.moved.set()
        if document.get("bad"):
            raise Invalid("bad document")
        if any(each[0] == document for each in self.got):
            raise AlreadyExists("known")
        self.got.append((document, source))
        return str(document["deploymentId"])

    async def cancel(self, deployment_id: str) -> None:
        self.cancelled.append(deployment_id)
        self.hub.moved.set()
        if deployment_id == "ended":
            raise NotFound("no such deployment")


def job(name: str, **more: object) -> JsonObject:
    return {"jobId": name, "jobDocument": {"deploymentId": f"d-{name}", **more}}  # type: ignore[dict-item]


@contextlib.asynccontextmanager
async def running(hub: FakeHub) -> AsyncIterator[tuple[Jobs, FakeEngine]]:
    engine = FakeEngine(hub)
    jobs = Jobs(hub, engine, thing="T", entropy=SeededEntropy(1))
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(jobs.run())
        try:
            yield jobs, engine
        finally:
            task.cancel()


async def test_a_waiting_job_is_taken_run_and_reported() -> None:
    hub = FakeHub(queue=[job("1")])
    async with running(hub) as (jobs, engine):
        await hub.until(lambda: bool(hub.updates))
        assert engine.got == [({"deploymentId": "d-1"}, "job:1")] and job_of("job:1") == "1" and job_of("local") is None
        assert hub.updates[0][1]["status"] == "IN_PROGRESS"
        await jobs.report("1", "SUCCEEDED", {"detailed-deployment-status": "SUCCESSFUL"})
        assert hub.updates[1][1]["status"] == "SUCCEEDED"
        hub.queue.append(job("2"))
        hub.notify()
        await hub.until(lambda: len(hub.updates) == 3)
        assert engine.got[1][1] == "job:2" and engine.cancelled == []


async def test_a_document_that_is_wrong_is_rejected_with_the_reason() -> None:
    hub = FakeHub(queue=[job("1", bad=True)])
    async with running(hub):
        await hub.until(lambda: bool(hub.updates))
    assert hub.updates[0][1]["status"] == "REJECTED"
    details = hub.updates[0][1]["statusDetails"]
    assert isinstance(details, dict) and details["deployment-failure-cause"] == "bad document"


async def test_a_job_that_vanishes_cancels_its_deployment() -> None:
    hub = FakeHub(queue=[job("1")])
    async with running(hub) as (_, engine):
        await hub.until(lambda: bool(hub.updates))
        hub.queue[:] = [job("2")]
        hub.notify()
        await hub.until(lambda: len(engine.got) == 2)
        assert engine.cancelled == ["d-1"]


async def test_a_job_that_is_delivered_again_is_run_once() -> None:
    hub = FakeHub(queue=[job("1")])
    async with running(hub) as (_, engine):
        await hub.until(lambda: bool(hub.updates))
        hub.notify()
        for changed in hub.watchers:
            changed(False)
        await asyncio.sleep(0)
        for changed in hub.watchers:
            changed(True)
        await hub.until(lambda: sum(topic.endswith("/get") for topic, _ in hub.sent) == 2)
        assert len(engine.got) == 1 and engine.cancelled == []


async def test_a_report_without_link_is_unavailable_and_one_for_a_job_that_is_gone_is_done() -> None:
    hub = FakeHub()
    async with running(hub) as (jobs, _):
        hub.up = False
        with pytest.raises(Unavailable):
            await jobs.report("1", "FAILED", {})
        hub.up = True
        hub.refuse = ("ResourceNotFound", "gone")
        await jobs.report("1", "FAILED", {})
        hub.refuse = ("InternalError", "later")
        with pytest.raises(Unavailable):
            await jobs.report("1", "CANCELED", {"x": "y" * 5000, "cause": "line\none", "empty": ""})
        details = hub.updates[-1][1]["statusDetails"]
        assert hub.updates[-1][1]["status"] == "FAILED"
        assert isinstance(details, dict) and len(str(details["x"])) == 1024
        assert (details["cause"], "empty" in details) == ("line one", False), "as a hub takes them"


async def test_fleet_status_says_all_first_then_what_changed(tmp_path: Path) -> None:
    clock = FakeClock()
    hub = FakeHub()
    present = [Component(name="a", version="1", state="RUNNING"), Component(name="b", version="1", state="RUNNING")]
    with Db.open(tmp_path / "state.db", clock=clock, migrations=[MIGRATIONS]) as db:
        status = FleetStatus(db, hub, lambda: present, thing="T", wall_ms=clock.wall_ms)
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(status.run())
            await hub.until(lambda: len(hub.sent) == 1)
            present[:] = [Component(name="b", version="1", state="BROKEN")]
            status.changed()
            await hub.until(lambda: len(hub.sent) == 2)
            task.cancel()
    (topic, first), (_, second) = hub.sent
    assert topic == "$aws/things/T/greengrassv2/health/json"
    assert (first["messageType"], first["trigger"], first["overallDeviceStatus"]) == (
        "COMPLETE",
        "NUCLEUS_LAUNCH",
        "HEALTHY",
    )
    assert (second["messageType"], second["overallDeviceStatus"], second["sequenceNumber"]) == (
        "PARTIAL",
        "UNHEALTHY",
        2,
    )
    rows = {str(row["componentName"]): row["status"] for row in second["components"]}  # type: ignore[union-attr, index, call-overload]
    assert rows == {"a": "UNINSTALLED", "b": "BROKEN"}


async def test_the_ledger_adds_up_by_day_and_survives(tmp_path: Path) -> None:
    clock = FakeClock()
    for _ in range(2):
        with Db.open(tmp_path / "state.db", clock=clock, migrations=[MIGRATIONS]) as db:
            ledger = Ledger(db, wall_ms=clock.wall_ms)
            ledger.add("mqtt", 10, 5)
            ledger.meter("artifacts")(1, 100)
            ledger.add("mqtt", 1, 1)
            rows = await ledger.spent(2)
            clock.advance(86_400_000)
    assert [(row.destination, row.sent, row.received) for row in rows] == [
        ("artifacts", 1, 100),
        ("mqtt", 11, 6),
        ("artifacts", 1, 100),
        ("mqtt", 11, 6),
    ]
