"""A job to a fleet of simulated devices (`marram sim`, processes of their own, mTLS), 3 % of which fail: it is given up at its
threshold, and not one report before or after.

The threshold is 3 %, from half of the fleet on, so that it is reached by the last device at the latest. What was reported is
read from `$aws/events/...`, which tells it in the order in which it was committed: `aborted_exactly` is 1 when the cancellation
follows the very report that reached the threshold. A job has 1,000 things a minute, its highest pace. Each report is on the disk,
with its notifications, before it is told. 1,000 devices; 10,000 with MARRAM_FULL=1.
"""

import contextlib
import json
import os
import queue
import signal
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from tests.bench import peers

PERCENT: Final = 3  # the threshold, and how many fail
PROFILE: Final = """
[connect]
per_s = 500
keep_alive_s = 600
[telemetry]
every_s = 0
[shadow]
behaviour = "off"
[jobs]
failed = {share}
"""
GROUP: Final = "fleet"
CHUNK: Final = 100
LIMIT_S: Final = 1500.0
ENDS: Final = ("succeeded", "failed", "rejected", "timed_out")

Event = tuple[str, str]  # (job or jobExecution, operation)


def main() -> dict[str, Any]:
    wanted = int(os.environ.get("MARRAM_BENCH_DEVICES") or (10_000 if peers.full() else 1_000))
    return measure(peers.files(wanted) // 100 * 100)


def measure(devices: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="fleet-bench-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        info = stack.enter_context(hub(folder / "hub"))
        iot = client(info)
        group = iot.create_thing_group(thingGroupName=GROUP)["thingGroupArn"]
        iot.update_event_configurations(
            eventConfigurations={"JOB": {"Enabled": True}, "JOB_EXECUTION": {"Enabled": True}}
        )
        fill(folder / "hub", devices)
        told: queue.SimpleQueue[Event] = queue.SimpleQueue()
        stack.enter_context(listener(iot, info, folder, told))
        began = time.monotonic()
        peers.say(f"{devices:,} devices connect")
        stack.enter_context(fleet(folder, devices))
        until(lambda: connected(info) >= devices + 1, f"{devices} devices are connected")
        found: dict[str, Any] = {"devices": devices, "connected_per_s": devices / (time.monotonic() - began)}
        minimum = devices // 2
        criterion = {
            "failureType": "FAILED", "action": "CANCEL", "thresholdPercentage": PERCENT, "minNumberOfExecutedThings": minimum,
        }  # fmt: skip
        peers.say("a job for all of them")
        began, before = time.monotonic(), peers.cpu_s(info["pid"])
        iot.create_job(
            jobId="update", targets=[group], document='{"do": "update"}', abortConfig={"criteriaList": [criterion]}
        )
        ends, after = until_cancelled(told)
        found["job_took_s"] = time.monotonic() - began
        found["hub_cpu_ms_an_execution"] = (peers.cpu_s(info["pid"]) - before) / len(ends) * 1000
        found |= {"executed": len(ends), "failed": ends.count("failed"), "aborted_exactly": int(exactly(ends, minimum))}
        job = iot.describe_job(jobId="update")["job"]
        counts = job["jobProcessDetails"]
        assert (job["status"], job["reasonCode"]) == ("CANCELED", "ABORT_CRITERIA_MET"), job
        assert counts["numberOfQueuedThings"] == 0, counts
        assert counts["numberOfCanceledThings"] == after.count("canceled"), (counts, len(after))
        return found


def exactly(ends: list[str], minimum: int) -> bool:
    """Whether the last end is the first at which the criterion holds."""
    failed = 0
    for executed, how in enumerate(ends, 1):
        failed += how == "failed"
        if executed >= minimum and failed * 100 >= PERCENT * executed:
            return executed == len(ends)
    return False


def until_cancelled(told: "queue.SimpleQueue[Event]") -> tuple[list[str], list[str]]:
    """How executions ended before the job was given up, and after that until its cancellation was complete."""
    ends: list[str] = []
    after: list[str] = []
    into, last = ends, time.monotonic()
    while True:
        kind, operation = told.get(timeout=LIMIT_S)
        if kind == "job" and operation == "cancellation_in_progress":
            into = after
        elif kind == "job" and operation in ("canceled", "completed"):
            return ends, after
        elif kind == "jobExecution" and operation in (*ENDS, "canceled"):
            into.append(operation)
        if time.monotonic() - last > 20:
            last = time.monotonic()
            peers.say(f"{len(ends):,} executions have ended, {ends.count('failed')} failed")


# what it runs on


@contextlib.contextmanager
def hub(folder: Path) -> Iterator[dict[str, Any]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "marram.cli.main", "hub", "up", "--data", str(folder), "--ports", "auto", "--no-console"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        if not any(line.strip() == "marram hub ready" for line in process.stdout):
            raise RuntimeError(f"the hub ended with {process.wait()}")
        yield json.loads((folder / "hub.json").read_text())
    finally:
        process.terminate()
        process.wait(60)
        if process.stdout is not None:
            process.stdout.close()


def client(info: dict[str, Any]) -> Any:
    import boto3

    return boto3.client(
        "iot", endpoint_url=info["endpoints"]["api"], region_name=info["region"],
        aws_access_key_id=info["admin"]["access_key_id"], aws_secret_access_key=info["admin"]["secret_access_key"],
    )  # fmt: skip


def fill(data: Path, devices: int) -> None:
    """The fleet's things, in their group; `marram sim` finds them there."""
    from marram.cli.client import Api

    api = Api.from_data(data)
    for at in range(0, devices, CHUNK):
        some = range(at, min(at + CHUNK, devices))
        things: list[Any] = [{"thingName": f"sim-{number}", "thingGroupNames": [GROUP]} for number in some]
        api.marram("registry/ImportThings", {"things": things})


@contextlib.contextmanager
def fleet(folder: Path, devices: int) -> Iterator[None]:
    profile = folder / "profile.toml"
    profile.write_text(PROFILE.format(share=PERCENT / 100))
    process = subprocess.Popen(
        [sys.executable, "-m", "marram.cli.main", "sim", "run", "--devices", str(devices), "--profile", str(profile),
         "--data", str(folder / "hub"), "--json", "--keep"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield
        if process.poll() is not None:
            raise RuntimeError(f"marram sim ended with code {process.returncode}")
    finally:
        process.send_signal(signal.SIGINT)  # it ends its processes
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def listener(iot: Any, info: dict[str, Any], folder: Path, told: "queue.SimpleQueue[Event]") -> Iterator[None]:
    """A client that hears the events of all jobs, in order."""
    from paho.mqtt import client as paho

    made = iot.create_keys_and_certificate(setAsActive=True)
    allow = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:*", "Resource": "*"}]}
    iot.create_policy(policyName="listener", policyDocument=json.dumps(allow))
    iot.attach_policy(policyName="listener", target=made["certificateArn"])
    pem = folder / "listener.pem"
    pem.write_text(made["certificatePem"] + made["keyPair"]["PrivateKey"])
    context = ssl.create_default_context(cafile=info["ca_file"])
    context.load_cert_chain(pem)
    hears = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id="listener")
    hears.tls_set_context(context)
    subscribed: queue.SimpleQueue[None] = queue.SimpleQueue()
    hears.on_subscribe = lambda *_: subscribed.put(None)
    hears.on_message = lambda _client, _data, message: told.put(event(message.topic))
    host, port = info["endpoints"]["mqtt"].rpartition("//")[2].rsplit(":", 1)
    hears.connect(host, int(port), keepalive=60)
    hears.loop_start()
    try:
        hears.subscribe([("$aws/events/job/+/+", 1), ("$aws/events/jobExecution/+/+", 1)])
        subscribed.get(timeout=20)
        yield
    finally:
        hears.disconnect()
        hears.loop_stop()


def event(topic: str) -> Event:
    """Of `$aws/events/job/update/canceled`: ("job", "canceled")."""
    _, _, kind, _, operation = topic.split("/")
    return kind, operation


def connected(info: dict[str, Any]) -> int:
    with urllib.request.urlopen(f"{info['endpoints']['api']}/metrics", timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    return int(float(next(line for line in lines if line.startswith("marram_mqtt_connections ")).split()[1]))


def until(look: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + LIMIT_S
    while not look():
        if time.monotonic() > end:
            raise RuntimeError(f"not so within {LIMIT_S:.0f} s: {what}")
        time.sleep(0.2)


if __name__ == "__main__":
    print(json.dumps(main(), indent=1))
