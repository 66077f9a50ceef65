"""TLS: handshakes, full and resumed; records, small and large, beside asyncio's own TLS; memory and CPU of idle mTLS connections,
beside mosquitto's.

Servers are processes of their own, their CPU is read from /proc; `_ratio` is asyncio's over ours, in this run. 10,000 idle
connections of a hub where the limit of open files allows it, else what it allows. Memory is the share of the process (PSS),
before and after.
"""

import asyncio
import json
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.bench import peers
from tests.bench.peers import Missing, cpu_s

HERE = Path(__file__).resolve().parent
FLEET = HERE.parent / "wire" / "fleet.py"
IDLE = 10_000
IDLE_MOSQUITTO = 3_000
WARM = 50
HANDSHAKES = 400
SMALL, SMALL_COUNT = 128, 40_000
LARGE, LARGE_COUNT = 64 << 10, 1_000


def main() -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="marram-bench-") as name:
        folder = Path(name)
        paths = certificates(folder)
        figures: dict[str, Any] = {}
        for kind in ("ours", "asyncio"):
            with server(kind, paths) as (process, port):
                figures[kind] = asyncio.run(measure(process.pid, port, paths))
        ours, theirs = figures["ours"], figures["asyncio"]
        ratios = {f"{key.removesuffix('_us')}_ratio": theirs[key] / ours[key] for key in ours if key.endswith("_us")}
        mine = idle(folder)
        try:
            theirs = idle_mosquitto(folder, paths)
        except Missing as why:
            peers.miss("mosquitto", why)
            return {**ours, **ratios, **mine}
        over = {
            "idle_mtls_kb_over_mosquitto": mine["idle_mtls_kb_each"] / theirs["mosquitto_idle_mtls_kb_each"],
            "mqtt_connect_ms_over_mosquitto": mine["mqtt_connect_ms"] / theirs["mosquitto_connect_ms"],
        }
        return {**ours, **ratios, **mine, **theirs, **over}


def certificates(folder: Path) -> dict[str, Path]:
    from marram.hub.identity.pki import Pki
    from marram.kit.clock import SystemClock, SystemEntropy

    pki = Pki.open(folder / "pki", clock=SystemClock(), entropy=SystemEntropy(), names=["localhost"])
    pki.renew_if_due()
    device = pki.issue_device()
    (folder / "device.pem").write_text(device.pem + str(device.private_key_pem))
    (folder / "trusted.pem").write_text(pki.trusted_pem)
    return {
        "pki": folder / "pki", "ca": pki.root_path, "device": folder / "device.pem", "trusted": folder / "trusted.pem",
    }  # fmt: skip


@contextmanager
def server(kind: str, paths: dict[str, Path]) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    made = subprocess.Popen(
        [sys.executable, __file__, kind, str(paths["pki"])], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert made.stdout is not None
    try:
        yield made, int(made.stdout.readline())
    finally:
        made.communicate(timeout=20)


async def serve(kind: str, folder: str) -> None:
    """An echo over mTLS, by kit.net or by the loop's own `ssl=`."""
    from concurrent.futures import ThreadPoolExecutor

    from marram.hub.identity.pki import Pki
    from marram.kit import net
    from marram.kit.clock import SystemClock, SystemEntropy

    class Echo(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.write(data)  # type: ignore[attr-defined]

    pki = Pki.open(Path(folder), clock=SystemClock(), entropy=SystemEntropy(), names=["localhost"])
    context = pki.server_context("required")
    if kind == "ours":
        made = await net.serve(
            "127.0.0.1", 0, lambda _: Echo(), tls=lambda: context, handshakes=ThreadPoolExecutor(2),
            accept=net.Accept(half_open_per_address=0),
        )  # fmt: skip
        print(made.port, flush=True)
    else:
        plain = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0, ssl=context)
        print(plain.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


async def measure(pid: int, port: int, paths: dict[str, Path]) -> dict[str, float]:
    """CPU of the server, in microseconds a handshake or a message."""
    context = ssl.create_default_context(cafile=str(paths["ca"]))
    context.load_cert_chain(paths["device"])
    out: dict[str, float] = {}

    async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")

    _, writer = await connect()
    writer.close()
    before, began = cpu_s(pid), time.monotonic()
    for _ in range(HANDSHAKES):
        _, writer = await connect()
        writer.transport.abort()
    out["handshake_us"] = (cpu_s(pid) - before) / HANDSHAKES * 1e6
    out["handshakes_a_second_one_by_one"] = HANDSHAKES / (time.monotonic() - began)
    out["resumed_handshake_us"] = await asyncio.to_thread(resumed, pid, port, context)
    for name, size, count in (("small_record", SMALL, SMALL_COUNT), ("large_record", LARGE, LARGE_COUNT)):
        reader, writer = await connect()
        before, began = cpu_s(pid), time.monotonic()
        await echo(reader, writer, size, count)
        out[f"{name}_us"] = (cpu_s(pid) - before) / count * 1e6
        out[f"{name}_mb_s"] = size * count / (time.monotonic() - began) / 1e6
        writer.close()
    return out


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, size: int, count: int) -> None:
    """32 messages are under way."""
    body, window = b"x" * size, 32

    async def take() -> None:
        for _ in range(count):
            await reader.readexactly(size)
            gate.release()

    gate = asyncio.Semaphore(window)
    async with asyncio.TaskGroup() as group:
        group.create_task(take())
        for _ in range(count):
            await gate.acquire()
            writer.write(body)


def resumed(pid: int, port: int, context: ssl.SSLContext) -> float:
    import socket

    def once(session: ssl.SSLSession | None) -> tuple[ssl.SSLSession | None, bool]:
        with context.wrap_socket(
            socket.create_connection(("127.0.0.1", port), 10), server_hostname="localhost", session=session
        ) as tls:
            tls.sendall(b"x")
            tls.recv(1)  # the ticket of TLS 1.3 comes with the first data
            return tls.session, bool(tls.session_reused)

    session, _ = once(None)
    before = cpu_s(pid)
    for _ in range(HANDSHAKES):
        found, reused = once(session)
        assert reused
        session = found or session
    return (cpu_s(pid) - before) / HANDSHAKES * 1e6


def idle(folder: Path) -> dict[str, float]:
    """A hub with as many idle clients as it may have."""
    import boto3

    count = peers.files(IDLE)
    peers.say(f"{count} idle connections of a hub")
    hub = subprocess.Popen(
        [sys.executable, "-m", "marram.cli.main", "hub", "up", "--data", str(folder / "hub"), "--ports", "auto", "--no-console"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        assert hub.stdout is not None
        while hub.stdout.readline().strip() != "marram hub ready":
            assert hub.poll() is None
        info = json.loads((folder / "hub" / "hub.json").read_text())
        iot = boto3.client(
            "iot", endpoint_url=info["endpoints"]["api"], region_name=info["region"],
            aws_access_key_id=info["admin"]["access_key_id"], aws_secret_access_key=info["admin"]["secret_access_key"],
        )  # fmt: skip
        made = iot.create_keys_and_certificate(setAsActive=True)
        allow = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:*", "Resource": "*"}]}
        iot.create_policy(policyName="idle", policyDocument=json.dumps(allow))
        iot.attach_policy(policyName="idle", target=made["certificateArn"])
        path = folder / "idle.pem"
        path.write_text(made["certificatePem"] + made["keyPair"]["PrivateKey"])
        port = info["endpoints"]["mqtt"].rpartition(":")[2]
        with fleet(port, info["ca_file"], path, WARM, "warm"):
            before_kb, before_cpu = peers.pss_kb(hub.pid), cpu_s(hub.pid)
            with fleet(port, info["ca_file"], path, count, "idle") as took_s:
                connecting_s = cpu_s(hub.pid) - before_cpu
                each_kb = (peers.pss_kb(hub.pid) - before_kb) / count
                began, before_cpu = time.monotonic(), cpu_s(hub.pid)
                time.sleep(10)
                share = (cpu_s(hub.pid) - before_cpu) / (time.monotonic() - began)
        return {
            "idle_mtls_connections": count, "idle_mtls_kb_each": each_kb, "idle_cpu_share": share,
            "mqtt_connects_a_second": count / took_s, "mqtt_connect_ms": connecting_s / count * 1000,
        }  # fmt: skip
    finally:
        hub.terminate()
        hub.wait(30)


def idle_mosquitto(folder: Path, paths: dict[str, Path]) -> dict[str, float]:
    """The same clients at mosquitto."""
    server = paths["pki"] / "server.pem"
    tls = {"ca": paths["trusted"], "certificate": server, "key": server}
    count = min(IDLE_MOSQUITTO, peers.files(IDLE_MOSQUITTO))
    peers.say(f"{count} idle connections of mosquitto")
    with peers.mosquitto(folder / "mosquitto", tls) as peer:
        with fleet(str(peer.port), str(paths["ca"]), paths["device"], WARM, "warm"):
            before_kb, before_cpu = peers.pss_kb(peer.pid), cpu_s(peer.pid)
            with fleet(str(peer.port), str(paths["ca"]), paths["device"], count, "idle") as took_s:
                return {
                    "mosquitto_idle_mtls_kb_each": (peers.pss_kb(peer.pid) - before_kb) / count,
                    "mosquitto_connects_a_second": count / took_s,
                    "mosquitto_connect_ms": (cpu_s(peer.pid) - before_cpu) / count * 1000,
                }


@contextmanager
def fleet(port: str, ca: str, certificate: Path, count: int, name: str) -> Iterator[float]:
    made = subprocess.Popen(
        [sys.executable, str(FLEET), port, ca, str(certificate), str(count), name],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert made.stdout is not None
    try:
        ready = made.stdout.readline().split()
        if ready[:1] != ["ready"]:
            raise RuntimeError(f"the clients are not connected: code {made.wait(60)}")
        yield float(ready[1])
    finally:
        made.communicate(timeout=60)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2]))
