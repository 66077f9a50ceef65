"""A really full disk (a small tmpfs, so root) under hub and core: refused with the right words, nothing lost, well again alone."""

import contextlib
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from tests.wire.faults import FULL, Hub, Paho, marram, until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: a full disk needs root, to mount a small one"),
    pytest.mark.xdist_group("faults-disk"),
]


class Disk:
    """A file system of its own, with a file that takes what is left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ballast = folder / "ballast"

    def fill(self, leave_bytes: int = 0) -> None:
        with self.ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                stat = os.statvfs(self.folder)
                room = stat.f_bavail * stat.f_frsize - leave_bytes
                if room <= 0:
                    return
                file.write(b"\0" * min(room, 1 << 20))

    def free(self) -> None:
        self.ballast.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"NOT TESTED: a full disk; no tmpfs can be mounted here: {done.stderr.strip()}")
    yield Disk(folder)
    subprocess.run(["umount", "-l", str(folder)], check=True)


class Load:
    """One publisher of MQTT 5, which counts what is acknowledged and what is refused."""

    def __init__(self, hub: Hub, device: object, topic: str) -> None:
        self.client = Paho(hub, device, f"load-{topic}", v5=True)
        self.topic, self.sent = topic, dict[int, int]()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        number = 0
        while not self._stop.is_set():
            time.sleep(0.002)  # a session keeps 10,000 messages, and no more
            if len(self.sent) - len(self.client.acks) < 40:
                self.sent[self.client.publish(self.topic, f"{number}:" + "x" * 1000)] = number
                number += 1

    def numbers(self, code: int) -> set[int]:
        return {self.sent[mid] for mid, reason, _ in list(self.client.acks) if reason == code and mid in self.sent}

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(10)
        until(lambda: len(self.client.acks) >= len(self.sent) or self.client.ends, "the last acknowledgements")
        self.client.close()


def refused(call: object, **parameters: object) -> tuple[int, str]:
    with pytest.raises(ClientError) as caught:
        call(**parameters)
    return caught.value.response["ResponseMetadata"]["HTTPStatusCode"], str(caught.value)


@pytest.mark.parametrize("leave", [0, 2 << 20] if FULL else [0])  # to the last byte; to the reserve
def test_a_full_disk_under_the_hub(tmp_path: Path, disk: Disk, leave: int) -> None:
    hub = Hub(disk.folder / "hub", tmp_path / "hub.log")
    hub.keys = tmp_path
    hub.start()
    try:
        device = hub.device("all")
        s3, iot, data = hub.client("s3"), hub.client("iot"), hub.client("iot-data")
        s3.create_bucket(Bucket="held")
        s3.put_object(Bucket="held", Key="a", Body=b"a" * 100_000)
        iot.create_thing(thingName="known")
        keeper = Paho(hub, device, "keeper", v5=True, clean=False)
        keeper.subscribe("load/#")
        keeper.close()
        load = Load(hub, device, "load/5")
        until(lambda: len(load.numbers(0)) > 50, "acknowledged messages")

        disk.fill(leave)
        until(lambda: len(load.numbers(0x97)) > 20, "PUBACK 0x97")
        why = next(why for _, code, why in load.client.acks if code == 0x97)
        assert "reserve" in why or "No space left" in why
        assert not load.client.ends
        old = Paho(hub, device, "old")
        old.publish("load/3", "x")
        until(lambda: old.ends, "the end of the 3.1.1 connection")
        assert old.acks == []
        old.close()
        status, why = refused(s3.put_object, Bucket="held", Key="b", Body=b"b" * 300_000)
        assert status == 507, why
        status, why = refused(data.publish, topic="load/http", qos=1, payload=b"x")
        assert status == 507, why
        if not leave:
            status, why = refused(iot.create_thing, thingName="new", attributePayload={"attributes": {"a": "b" * 700}})
            assert status == 507, why
        # reads go on
        assert s3.get_object(Bucket="held", Key="a")["Body"].read() == b"a" * 100_000
        assert iot.describe_thing(thingName="known")["thingName"] == "known"
        assert [item["Key"] for item in s3.list_objects_v2(Bucket="held")["Contents"]] == ["a"]
        # and it is seen
        until(lambda: hub.metrics().get("marram_disk_full") == 1, "the gauge", 5)
        assert hub.metrics()["marram_mqtt_append_refused_total"] > 0
        health = marram("hub", "status", "--data", hub.folder, "--json")
        assert health.returncode == 1 and "reserve" in json.loads(health.stdout)["problem"], health.stdout

        disk.free()
        before = len(load.numbers(0))
        began = time.monotonic()
        until(lambda: len(load.numbers(0)) > before + 50, "acknowledged messages again", 30)
        assert time.monotonic() - began < 10
        s3.put_object(Bucket="held", Key="b", Body=b"b")
        iot.create_thing(thingName="new")
        until(lambda: marram("hub", "status", "--data", hub.folder).returncode == 0, "health", 10)

        # once more, and killed while it is full: what was acknowledged is there after all
        disk.fill(leave)
        refused_before = len(load.numbers(0x97))
        until(lambda: len(load.numbers(0x97)) > refused_before, "PUBACK 0x97")
        hub.kill()
        load.stop()
        disk.free()
        hub.start()
        keeper = Paho(hub, device, "keeper", v5=True, clean=False)
        assert keeper.present
        acked = load.numbers(0)
        missing = set(acked)
        with contextlib.suppress(AssertionError):
            until(lambda: not missing.difference_update(map(_number, _of(keeper))) and not missing, "all", 25)
        assert not missing, (len(acked), len(missing), min(missing), max(missing), keeper.ends)
        got = [_number(m) for m in _of(keeper) if not m.dup]
        assert len(got) == len(set(got)) and not load.numbers(0x97) & set(got)
        assert not [m for m in keeper.got if m.topic != "load/5"]  # what was refused is nowhere
        keeper.close()
        assert "Traceback" not in hub.said(), hub.said()[-3000:]
    finally:
        hub.close()


def _of(client: Paho) -> list[object]:
    return [message for message in list(client.got) if message.topic == "load/5"]


def _number(message: object) -> int:
    return int(message.payload.partition(b":")[0])


def test_a_hub_does_not_start_on_a_full_disk_and_says_so(tmp_path: Path, disk: Disk) -> None:
    hub = Hub(disk.folder / "hub", tmp_path / "hub.log")
    hub.start()
    hub.close()
    disk.fill()
    done = marram("hub", "up", "--data", hub.folder, "--ports", "auto", "--no-console")
    assert done.returncode == 1 and "full" in done.stderr and "Traceback" not in done.stderr, done.stderr
    disk.free()
    hub.start()
    hub.close()
