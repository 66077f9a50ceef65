"""The gateway against mosquitto with an ACL file, and amqtt: CPU per delivery in one interleaved run, each on one core, the load
on the other.

Marram is the whole hub (gateway_server.py) with a real policy on every publish and receive, a rule that matches nothing (the
fsynced path: a consumer that wants every message), rates off, uvloop, plain TCP. mosquitto keeps QoS 1 in memory: it syncs
nothing. amqtt runs without policies. `ratio` is the peer's CPU per delivery over ours: above 1 we need less. Lower of the
rounds, as contention only adds. `compiled_...` is the compiled build (tools/compiled.py), in the same turns. `p99`: delivery at
2,000 messages a second. `policy_on_over_off`: CPU with policy over CPU without.
"""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from tests.bench import peers
from tests.bench.peers import Missing, Peer
from tools import compiled

HERE: Final = Path(__file__).resolve().parent
ROUNDS: Final = 2
SECONDS: Final = 1.0
IDLE: Final = 2_000  # connections
MODES: Final = {  # name -> arguments of mqttload
    "qos0_fleet_1000_to_1": "-q 0 -p 1000 -s 1 -k 1 -w 500",
    "qos0_firehose": "-q 0 -p 1 -s 1 -w 1000",
    "qos0_fan_in_100_to_1": "-q 0 -p 100 -s 1 -w 1000",
    "qos0_fan_out_1_to_1000": "-q 0 -p 1 -s 1000 -w 4000",
    "qos1_window_100": "-q 1 -p 1 -s 1 -w 100",
    "qos1_fleet_window_1": "-q 1 -p 1000 -s 1 -w 1",
    "qos1_fleet_fsynced": "-q 1 -p 1000 -s 1 -w 1",
}
AMQTT_MODES: Final = ("qos0_fleet_1000_to_1", "qos0_fan_in_100_to_1", "qos1_window_100")
POLICY_MODES: Final = ("qos0_fleet_1000_to_1", "qos0_fan_in_100_to_1", "qos1_fleet_window_1")
POLICY_ROUNDS: Final = 3
PACED: Final = "-p 100 -s 1 -w 1000 -r 2000"
PACED_S: Final = 3.0


def main() -> dict[str, object]:
    count = min(IDLE, peers.files(IDLE))
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        load = folder / "mqttload"
        try:
            subprocess.run(["gcc", "-O2", "-o", str(load), str(HERE / "mqttload.c")], check=True)
        except (OSError, subprocess.CalledProcessError) as exc:
            raise SystemExit(f"the load generator is not built: {exc} (apt-get install gcc libc6-dev)") from exc
        brokers = {kind: stack.enter_context(marram(folder, kind)) for kind in ("memory", "durable", "open")}
        if (code := compile_it(folder / "compiled")) is not None:
            for kind in ("memory", "durable"):
                brokers[f"compiled {kind}"] = stack.enter_context(marram(folder, kind, code))
        for kind, make in (("mosquitto", lambda: peers.mosquitto(folder / "mosquitto")), ("amqtt", peers.amqtt)):
            try:
                brokers[kind] = stack.enter_context(make())  # type: ignore[operator]
            except Missing as why:
                peers.miss(kind, why)
        return {
            "fdatasync": probe(folder),
            "idle_plain": idle(load, brokers, count),
            **modes(load, brokers, count),
            "p99": paced(load, brokers),
            "policy_on_over_off": policy(load, brokers, count),
        }


def compile_it(folder: Path) -> Path | None:
    peers.say("compiling")
    try:
        compiled.build(folder)
    except compiled.CompileError as why:
        peers.miss("the compiled build", why)
        return None
    return folder


@contextlib.contextmanager
def marram(folder: Path, kind: str, code: Path = peers.ROOT) -> Any:
    """`code`: where the package is taken from."""
    port = peers.free_port()
    command = [sys.executable, str(HERE / "gateway_server.py"), str(port), str(folder / f"{kind}-{port}"), kind]
    # The loop alone is held to one core, by the child itself.
    with peers.running(f"marram, {kind}", command, port, env={**os.environ, "PYTHONPATH": str(code)}) as peer:
        yield peer


def modes(load: Path, brokers: dict[str, Peer], count: int) -> dict[str, dict[str, float]]:
    """Those for which `count` connections are enough."""
    out: dict[str, dict[str, float]] = {}
    for mode, arguments in MODES.items():
        if " 1000 " in arguments and count < 1_100:
            peers.miss(mode, f"it needs 1,001 connections, and the limit of open files allows {count}")
            continue
        peers.say(mode)
        ours = "durable" if mode.endswith("fsynced") else "memory"
        names = ["mosquitto", ours, f"compiled {ours}"] + ["amqtt"] * (mode in AMQTT_MODES)
        best = lowest(load, arguments, {name: brokers[name] for name in names if name in brokers})
        out[mode] = compared(best, ours)
    return out


def lowest(
    load: Path, arguments: str, brokers: dict[str, Peer], rounds: int = ROUNDS, seconds: float = SECONDS
) -> dict[str, dict[str, float]]:
    """Of each broker the round with the lowest CPU per delivery. One that fails is missed, unless it is ours."""
    best: dict[str, dict[str, float]] = {}
    out: set[str] = set()
    for _ in range(rounds):
        for name, peer in brokers.items():
            if name in out:
                continue
            try:
                row = run(load, arguments, peer, seconds)
            except RuntimeError as exc:
                if name not in ("mosquitto", "amqtt"):
                    raise
                peers.miss(name, exc)
                out.add(name)
                best.pop(name, None)
                continue
            if name not in best or row["cpu_us_dlv"] < best[name]["cpu_us_dlv"]:
                best[name] = row
    return {"compiled" if name.startswith("compiled") else name: row for name, row in best.items()}


def compared(best: dict[str, dict[str, float]], ours: str) -> dict[str, float]:
    row: dict[str, float] = {}
    for mine, prefix in ((ours, ""), ("compiled", "compiled_")):
        for peer, kind in (("mosquitto", "ratio"), ("amqtt", "amqtt_ratio")):
            if mine in best and peer in best:
                row[prefix + kind] = best[peer]["cpu_us_dlv"] / max(best[mine]["cpu_us_dlv"], 1e-9)
    for name, found in best.items():
        label = "marram" if name == ours else name
        row |= {f"{label}_us": found["cpu_us_dlv"], f"{label}_per_s": found["delivered_s"]}
    return row | {"lost": best[ours]["lost"]}


def paced(load: Path, brokers: dict[str, Peer]) -> dict[str, Any]:
    """Delivery at 2,000 messages a second from 100 clients, in ms; the better of two rounds, as contention only adds."""
    out: dict[str, Any] = {}
    for name, qos, ours in (("qos0", 0, "memory"), ("qos1", 1, "memory"), ("qos1_fsynced", 1, "durable")):
        peers.say(f"2,000 messages a second, {name}")
        rows: dict[str, dict[str, float]] = {}
        for _ in range(ROUNDS):
            for kind in ("mosquitto", ours):
                if kind in brokers:
                    row = run(load, f"-q {qos} {PACED}", brokers[kind], PACED_S)
                    if kind not in rows or row["p99_ms"] < rows[kind]["p99_ms"]:
                        rows[kind] = row
        mine = rows[ours]
        found = {"marram_p50_ms": mine["p50_ms"], "marram_p99_ms": mine["p99_ms"]}
        if "mosquitto" in rows:
            theirs = rows["mosquitto"]
            found |= {"mosquitto_p50_ms": theirs["p50_ms"], "mosquitto_p99_ms": theirs["p99_ms"]}
            found["ratio"] = mine["p99_ms"] / theirs["p99_ms"]
        if ours == "durable":
            found |= {"puback_p50_ms": mine["ack_p50_ms"], "puback_p99_ms": mine["ack_p99_ms"]}
        out[name] = found
    return out


def policy(load: Path, brokers: dict[str, Peer], count: int) -> dict[str, float]:
    """Pairs of runs, one beside the other; the median of their ratios."""
    out: dict[str, float] = {}
    for mode in POLICY_MODES:
        if " 1000 " in MODES[mode] and count < 1_100:
            continue
        peers.say(f"{mode}, policy on and off")
        ratios = []
        for _ in range(POLICY_ROUNDS):
            on, off = (run(load, MODES[mode], brokers[kind])["cpu_us_dlv"] for kind in ("memory", "open"))
            ratios.append(on / max(off, 1e-9))
        out[mode] = statistics.median(ratios)
    return out


def idle(load: Path, brokers: dict[str, Peer], count: int) -> dict[str, float]:
    """Memory of a plain connection that sends nothing: before anything else, for freed memory hides what it costs."""
    found: dict[str, float] = {}
    labels = {"mosquitto": "mosquitto_kb", "memory": "marram_kb", "compiled memory": "compiled_kb"}
    for name, label in labels.items():
        if name not in brokers:
            continue
        peers.say(f"{count} idle connections, {name}")
        peer = brokers[name]
        subprocess.run([str(load), "-P", str(peer.port), "-n", "50", "-H", "0.2"], capture_output=True, timeout=30)
        before = peers.pss_kb(peer.pid)
        command = [str(load), "-P", str(peer.port), "-n", str(count), "-H", "6"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as holding:
            time.sleep(5)  # the state of a connection is written within a second, and forgotten then
            if holding.poll() is not None:
                raise RuntimeError(f"{name} does not hold {count} connections: {holding.communicate()[0][-300:]}")
            found[label] = (peers.pss_kb(peer.pid) - before) / count
            holding.communicate(timeout=30)
    return found


def run(load: Path, arguments: str, peer: Peer, seconds: float = SECONDS) -> dict[str, float]:
    command = [
        str(load),
        "-P",
        str(peer.port),
        *arguments.split(),
        "-d",
        str(seconds),
        "-W",
        "0.4",
        "-i",
        str(peer.pid),
    ]
    try:
        done = subprocess.run(peers.pinned(1, command), capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired as exc:
        raise RuntimeError(f"mqttload {arguments} did not end within {exc.timeout:.0f} s") from exc
    if done.returncode:
        raise RuntimeError(f"mqttload {arguments}: code {done.returncode} {done.stderr[-500:]}")
    found: dict[str, float] = json.loads(done.stdout)
    return found


def probe(folder: Path) -> dict[str, float]:
    """fdatasync after a small write to a file that has its length: what a commit cannot be quicker than."""
    path = folder / "probe"
    path.write_bytes(bytes(4 << 20))
    times = []
    with open(path, "r+b") as file:
        for number in range(1000):
            os.pwrite(file.fileno(), b"x" * 4096, number * 4096)
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - began)
    times.sort()
    return {"p50_ms": times[len(times) // 2] * 1000, "p99_ms": times[len(times) * 99 // 100] * 1000}


if __name__ == "__main__":
    print(json.dumps(main(), indent=1))
