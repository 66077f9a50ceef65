"""The registry with many things: registration, DescribeThing, pages of ListThings, bytes a thing, start of the hub; then a bulk
registration task (a template, a file of lines in S3) beside all those things.

A real hub on a real disk, asked over its API port with signed calls on one kept connection. 30,000 things, a million with
MARRAM_FULL=1; `make test` takes some (tests/wire/test_registry_scale.py).
"""

import contextlib
import http.client
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from marram.core import sigv4

FEW = 1_000
CHUNK = 100
CALLS = 2_000
SITES, LINES = 50, 10


TEMPLATE = {
    "Parameters": {"Name": {"Type": "String"}, "Serial": {"Type": "String"}},
    "Resources": {
        "thing": {
            "Type": "AWS::IoT::Thing",
            "Properties": {"ThingName": {"Ref": "Name"}, "AttributePayload": {"serial": {"Ref": "Serial"}}},
        }
    },
}


def main() -> dict[str, Any]:
    things = size()
    return measure(things, lines=things // 10)


def size() -> int:
    """How many things a bench of many takes."""
    return int(os.environ.get("MARRAM_BENCH_THINGS") or (1_000_000 if os.environ.get("MARRAM_FULL") == "1" else 30_000))


def measure(things: int, lines: int = 0) -> dict[str, Any]:
    """`lines`: of the bulk registration task; 0: none."""
    found: dict[str, Any] = {"things": things}
    with tempfile.TemporaryDirectory(prefix="registry-bench-") as name:
        folder = Path(name) / "hub"
        with hub(folder) as api:
            api.call("POST", "/thing-types/pump", body={})
            for line in range(LINES):
                api.call("POST", f"/thing-groups/line-{line}", body={})
            register(api, 0, FEW)
            few = describe(api, FEW)
            began, spent = time.perf_counter(), api.cpu_s()
            say(f"registering {things:,} things")
            register(api, FEW, things)
            found["registered_per_s"] = round((things - FEW) / (time.perf_counter() - began))
            found["registered_per_s_core"] = round((things - FEW) / (api.cpu_s() - spent))
            say("describing and listing them")
            many = describe(api, things)
            found["describe_p99_ms"] = {"at_1000": few[1], "at_all": many[1]}
            found["describe_p50_ms"] = {"at_1000": few[0], "at_all": many[0]}
            found["describe_p99_ratio"] = round(many[1] / few[1], 2)
            found["describe_p50_ratio"] = round(many[0] / few[0], 2)
            found["describe_cpu_us"] = {"at_1000": few[2], "at_all": many[2]}
            found["describe_cpu_ratio"] = round(many[2] / few[2], 2)
            found["list_all"] = pages(api, {})
            found["list_of_type"] = pages(api, {"thingTypeName": "pump"}, limit=40)
            found["list_by_attribute"] = pages(api, {"attributeName": "site", "attributeValue": "site-7"}, limit=40)
            by_prefix = {"attributeName": "serial", "attributeValue": "SN", "usePrefixAttributeValue": "true"}
            found["list_by_prefix"] = pages(api, by_prefix, limit=40)
        held = sum(each.stat().st_size for each in folder.glob("hub.db*"))
        found["bytes_a_thing"] = round(held / things)
        say("starting again")
        began = time.perf_counter()
        with hub(folder) as api:
            found["start_s"] = round(time.perf_counter() - began, 2)
            assert api.call("GET", f"/things/{named(things - 1)}")["attributes"]["serial"] == f"SN{things - 1:010d}"
            if lines:
                say(f"a registration task of {lines:,} lines")
                found["task_lines"], found["task_per_s"] = (
                    lines,
                    task(json.loads((folder / "hub.json").read_text()), lines),
                )
    return found


def task(info: dict[str, Any], lines: int) -> float:
    """Things a second of StartThingRegistrationTask, from the call to Completed; one line of a thousand is bad."""
    import boto3

    session = boto3.session.Session(
        aws_access_key_id=info["admin"]["access_key_id"], aws_secret_access_key=info["admin"]["secret_access_key"],
        region_name=info["region"],
    )  # fmt: skip
    iot, s3 = (session.client(name, endpoint_url=info["endpoints"]["api"]) for name in ("iot", "s3"))
    s3.create_bucket(Bucket="input", CreateBucketConfiguration={"LocationConstraint": info["region"]})
    rows = (
        json.dumps({"Name": f"bulk-{n:07d}", "Serial": str(n)} if n % 1000 else {"Name": "not a name"})
        for n in range(lines)
    )
    s3.put_object(Bucket="input", Key="things.jsonl", Body="\n".join(rows).encode())
    role = f"arn:aws:iam::{info['account_id']}:role/marram-service"
    began = time.perf_counter()
    made = iot.start_thing_registration_task(
        templateBody=json.dumps(TEMPLATE), inputFileBucket="input", inputFileKey="things.jsonl", roleArn=role
    )
    while (seen := iot.describe_thing_registration_task(taskId=made["taskId"]))["status"] == "InProgress":
        time.sleep(0.1)
    took = time.perf_counter() - began
    bad = -(-lines // 1000)
    assert (seen["status"], seen["successCount"], seen["failureCount"]) == ("Completed", lines - bad, bad), seen
    return round(lines / took)


def say(text: str) -> None:
    print(f"   .. {text}", flush=True)


def named(number: int) -> str:
    return f"pump-{number:07d}"


def register(api: "Api", first: int, end: int) -> None:
    for start in range(first, end, CHUNK):
        wanted = [
            {
                "thingName": named(number),
                "thingTypeName": "pump",
                "attributes": {
                    "site": f"site-{number % SITES}",
                    "serial": f"SN{number:010d}",
                    "firmware": f"1.{number % 7}.0",
                },
                "thingGroupNames": [f"line-{number % LINES}"],
            }
            for number in range(start, min(start + CHUNK, end))
        ]
        api.call("POST", "/marram/registry/ImportThings", body={"things": wanted}, service="marram")


def describe(api: "Api", things: int) -> tuple[float, float, float]:
    """(p50, p99) in ms of DescribeThing of things taken at random: of the best of three rounds, as other work on the machine
    shows in the p99 first; and the hub's CPU time of a call in us, which does not know of other work."""
    chosen = random.Random(7)
    rounds: list[tuple[float, float]] = []
    began = api.cpu_s()
    for _ in range(3):
        names = [named(chosen.randrange(things)) for _ in range(CALLS)]
        spent = sorted(api.timed(f"/things/{name}") for name in names)
        rounds.append((round(1000 * spent[CALLS * 99 // 100], 3), round(1000 * spent[CALLS // 2], 3)))
    p99, p50 = min(rounds)
    return p50, p99, round(1e6 * (api.cpu_s() - began) / (3 * CALLS), 1)


def pages(api: "Api", query: dict[str, str], limit: int = 1 << 30) -> dict[str, Any]:
    """Times of the pages of a list: of its first tenth and its last. Flat = their ratio is near 1."""
    spent: list[float] = []
    token, count = "", 0
    while len(spent) < limit:
        asked = {**query, "maxResults": "250"} | ({"nextToken": token} if token else {})
        began = time.perf_counter()
        answer = api.call("GET", "/things", query=asked)
        spent.append(time.perf_counter() - began)
        count += len(answer["things"])
        token = answer.get("nextToken") or ""
        if not token:
            break
    tenth = max(1, len(spent) // 10)
    first, last = statistics.median(spent[:tenth]), statistics.median(spent[-tenth:])
    return {
        "pages": len(spent), "things": count, "first_ms": round(1000 * first, 2), "last_ms": round(1000 * last, 2),
        "ratio": round(last / first, 2),
    }  # fmt: skip


class Api:
    """Signed calls on one connection."""

    def __init__(self, info: dict[str, Any]) -> None:
        host, _, port = info["endpoints"]["api"].rpartition("//")[2].rpartition(":")
        self._host, self._region = f"{host}:{port}", info["region"]
        self._credentials = sigv4.Credentials(info["admin"]["access_key_id"], info["admin"]["secret_access_key"])
        self._connection = http.client.HTTPConnection(host, int(port), timeout=60)
        self._pid = int(info["pid"])

    def cpu_s(self) -> float:
        """CPU time of the hub so far, all its threads."""
        user, system = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def call(
        self, method: str, path: str, *, query: dict[str, str] | None = None, body: Any = None, service: str = "iot"
    ) -> dict[str, Any]:
        status, data = self._send(*self._signed(method, path, query or {}, body, service))
        if status != 200:
            raise RuntimeError(f"{method} {path}: {status} {data[:300]!r}")
        answer: dict[str, Any] = json.loads(data or b"{}")
        return answer

    def timed(self, path: str) -> float:
        """Seconds of one GET, its signature not counted."""
        signed = self._signed("GET", path, {}, None, "iot")
        began = time.perf_counter()
        status, _ = self._send(*signed)
        spent = time.perf_counter() - began
        assert status == 200, path
        return spent

    def close(self) -> None:
        self._connection.close()

    def _signed(
        self, method: str, path: str, query: dict[str, str], body: Any, service: str
    ) -> tuple[str, str, bytes, dict[str, str]]:
        data = b"" if body is None else json.dumps(body).encode()
        headers = {"host": self._host} | ({"content-type": "application/json"} if data else {})
        pairs = list(query.items())
        signed = sigv4.sign(
            self._credentials, method=method, path=path, query=pairs, headers=headers, body=data,
            region=self._region, service=service, now_ms=time.time_ns() // 1_000_000,
        )  # fmt: skip
        return method, f"{path}?{urlencode(pairs, quote_via=quote, safe='-_.~')}" if pairs else path, data, signed

    def _send(self, method: str, target: str, data: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        self._connection.request(method, target, data or None, headers)
        answer = self._connection.getresponse()
        return answer.status, answer.read()


@contextlib.contextmanager
def hub(folder: Path) -> Iterator[Api]:
    """Ready, and stopped by SIGTERM."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "marram.cli.main",
            "hub",
            "up",
            "--data",
            str(folder),
            "--ports",
            "auto",
            "--no-console",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        if not any(line.strip() == "marram hub ready" for line in process.stdout):
            raise RuntimeError(f"the hub ended with {process.wait()}")
        api = Api(json.loads((folder / "hub.json").read_text()))
        try:
            yield api
        finally:
            api.close()
    finally:
        process.terminate()
        process.wait(60)
        if process.stdout is not None:
            process.stdout.close()


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1])), indent=1))
