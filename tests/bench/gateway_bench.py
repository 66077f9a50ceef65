"""The gateway against mosquitto with an ACL file: CPU per delivery in one interleaved run, both on one core, the load on the other.

Marram has a real policy on every publish and receive, a rules consumer that matches nothing (but for the fsynced path, where
it wants every message), rates off, the pure-Python build, uvloop, plain TCP. mosquitto keeps QoS 1 in memory: it syncs nothing.
`ratio` is mosquitto's CPU per delivery over ours: above 1 we need less. Lower of the rounds, as contention only adds.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
ROUNDS = 2
IDLE = 900  # connections: a limit of 1,024 open files is common
# name -> (arguments of mqttload, floor of the ratio in the pure-Python build)
MODES = {
    "qos0_fleet_1000_to_1": ("-q 0 -p 1000 -s 1 -k 1 -w 500", 1.0),
    "qos0_firehose": ("-q 0 -p 1 -s 1 -w 1000", 2.5),
    "qos0_fan_in_100_to_1": ("-q 0 -p 100 -s 1 -w 1000", 2.0),
    "qos0_fan_out_1_to_1000": ("-q 0 -p 1 -s 1000 -w 4000", 2.0),
    "qos1_window_100": ("-q 1 -p 1 -s 1 -w 100", 3.0),
    "qos1_fleet_window_1": ("-q 1 -p 1000 -s 1 -w 1", 1.0),
    "qos1_fleet_fsynced": ("-q 1 -p 1000 -s 1 -w 1", 0.7),
}
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


def main() -> dict[str, object]:
    if shutil.which("mosquitto") is None:
        raise SystemExit("mosquitto is not installed: apt-get install mosquitto")
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as name:
        folder = Path(name)
        load = folder / "mqttload"
        subprocess.run(["gcc", "-O2", "-o", str(load), str(HERE / "mqttload.c")], check=True)
        brokers = {"mosquitto": _mosquitto(folder), "marram": _marram(folder, False), "durable": _marram(folder, True)}
        try:
            idle = _idle(load, {name: brokers[name] for name in ("mosquitto", "marram")})
            return {"idle_plain": idle, **_measure(load, brokers, folder)}
        finally:
            for process, _ in brokers.values():
                process.send_signal(signal.SIGTERM)
            for process, _ in brokers.values():
                process.wait(10)


def _measure(load: Path, brokers: dict[str, tuple[subprocess.Popen[bytes], int]], folder: Path) -> dict[str, object]:
    out: dict[str, object] = {"fdatasync_p50_ms": _probe(folder)}
    for mode, (arguments, floor) in MODES.items():
        ours = "durable" if mode.endswith("fsynced") else "marram"
        best: dict[str, dict[str, float]] = {}
        for _ in range(ROUNDS):
            for name in ("mosquitto", ours):
                process, port = brokers[name]
                row = _run(load, arguments, port, process.pid)
                if name not in best or row["cpu_us_dlv"] < best[name]["cpu_us_dlv"]:
                    best[name] = row
        out[mode] = {
            "ratio": best["mosquitto"]["cpu_us_dlv"] / max(best[ours]["cpu_us_dlv"], 1e-9),
            "floor": floor,
            "marram_us": best[ours]["cpu_us_dlv"],
            "mosquitto_us": best["mosquitto"]["cpu_us_dlv"],
            "marram_per_s": best[ours]["delivered_s"],
            "mosquitto_per_s": best["mosquitto"]["delivered_s"],
            "lost": best[ours]["lost"],
        }
    return out


def _idle(load: Path, brokers: dict[str, tuple[subprocess.Popen[bytes], int]]) -> dict[str, float]:
    """Memory of a plain connection that sends nothing: before anything else, for freed memory hides what it costs."""
    found: dict[str, float] = {}
    for name, (process, port) in brokers.items():
        subprocess.run([str(load), "-P", str(port), "-n", "50", "-H", "0.2"], capture_output=True, timeout=30)
        before = _pss_kb(process.pid)
        with subprocess.Popen(
            [str(load), "-P", str(port), "-n", str(IDLE), "-H", "3"], stdout=subprocess.DEVNULL
        ) as run:
            time.sleep(2.5)  # states of connections are written once a second, and forgotten then
            found[f"{name}_kb"] = (_pss_kb(process.pid) - before) / IDLE
            run.wait(30)
    return found


def _pss_kb(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Pss:")).split()[1])


def _run(load: Path, arguments: str, port: int, pid: int) -> dict[str, float]:
    command = [str(load), "-P", str(port), *arguments.split(), "-d", "1", "-W", "0.4", "-i", str(pid)]
    done = subprocess.run(_pinned(1, command), capture_output=True, text=True, timeout=30)
    if done.returncode:
        raise RuntimeError(f"mqttload {arguments}: {done.stderr[-500:]}")
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _pinned(core: int, command: list[str]) -> list[str]:
    return ["taskset", "-c", str(core), *command] if (os.cpu_count() or 1) > 1 else command


def _probe(folder: Path) -> float:
    """fdatasync after a small write to a file that has its length: what a commit cannot be quicker than."""
    path = folder / "probe"
    path.write_bytes(bytes(1 << 20))
    times = []
    with open(path, "r+b") as file:
        for number in range(40):
            os.pwrite(file.fileno(), b"x" * 4096, number * 4096)
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - began)
    return sorted(times)[len(times) // 2] * 1000


def _mosquitto(folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    port = _free_port()
    (folder / "acl").write_text("topic readwrite bench/#\ntopic read other/#\n")
    os.chmod(folder / "acl", 0o644)
    os.chmod(folder, 0o755)
    (folder / "mosquitto.conf").write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\nacl_file {folder}/acl\npersistence false\n"
        "max_queued_messages 0\nmax_inflight_messages 100\nset_tcp_nodelay true\nlog_dest none\n"
    )
    process = subprocess.Popen(_pinned(0, ["mosquitto", "-c", str(folder / "mosquitto.conf")]))
    _wait(port, process)
    return process, port


def _marram(folder: Path, durable: bool) -> tuple[subprocess.Popen[bytes], int]:
    port = _free_port()
    data = folder / ("durable" if durable else "memory")
    command = [sys.executable, str(Path(__file__)), str(port), str(data), "durable" if durable else "memory"]
    # The journal's thread may run beside the loop: only the loop is held to one core, by the child itself.
    process = subprocess.Popen(command)
    _wait(port, process)
    return process, port


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(400):
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None:
            raise RuntimeError("a broker did not start")
        time.sleep(0.025)
    raise RuntimeError("a broker does not listen")


async def _serve(port: int, data: Path, durable: bool) -> None:
    import asyncio

    from marram.core.policy import evaluate
    from marram.hub.border.mqtt import MqttDoor
    from marram.hub.broker.service import Broker
    from marram.hub.bus import Bus
    from marram.hub.identity.pki import Pki
    from marram.hub.identity.service import Identity, Subject
    from marram.kit import net
    from marram.kit.clock import SystemClock, SystemEntropy
    from marram.kit.db import Db, Migrations
    from marram.kit.seglog import Journal
    from marram.serve import hub

    clock, entropy, bus = SystemClock(), SystemEntropy(), Bus()
    data.mkdir()
    migrations = [Migrations(slice=name, package=f"marram.hub.{name}") for name in ("identity", "broker")]
    db = Db.open(data / "hub.db", clock=clock, entropy=entropy, migrations=migrations)
    journal = Journal.open(data / "log", clock=clock, entropy=entropy)
    identity = Identity(
        db, Pki.open(data / "pki", clock=clock, entropy=entropy), bus, clock=clock, entropy=entropy,
        account="000000000001", region="local-1",
    )  # fmt: skip
    broker = Broker(journal=journal, db=db, identity=identity, clock=clock, entropy=entropy, bus=bus)
    broker.add_consumer("rules", lambda topic: durable)
    broker.keep("rules", lambda: journal.synced)
    compiled = evaluate.compile_policy("bench", json.dumps(POLICY))
    device = Subject(
        kind="role", principal="bench", arn="arn:aws:iot:local-1:000000000001:cert/bench", policies=(compiled,)
    )
    door = MqttDoor(broker=broker, identity=identity, clock=clock, entropy=entropy, anonymous=device)
    await broker.start()
    hub.spare_collector()
    async with asyncio.TaskGroup() as group:
        group.create_task(broker.run())
        group.create_task(door.run())
        os.sched_setaffinity(0, {0})  # this thread: the loop
        await net.serve("127.0.0.1", port, door.connection, tls=None, handshakes=None)


if __name__ == "__main__":
    import uvloop

    from marram.kit import log

    log.setup(level="error")
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    uvloop.run(_serve(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "durable"))
