"""API rate per core: signed calls against the real store, the server in a process of its own, its CPU time counted.

`main()` returns {"calls": {name: {"per_s_core", "us_cpu", "wall_per_s"}}, "handle_us": ..., "loop": ...}. Wall-clock rates are
shown only; on a shared machine they say little.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from marram.core import codec, http1, sigv4

REGION, ACCOUNT = "local-1", "000000000001"
CONNECTIONS = 16
SECONDS = 3.0


def main() -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        server = subprocess.Popen(
            [sys.executable, __file__, "serve", folder], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
        )
        assert server.stdout is not None and server.stdin is not None
        try:
            started = json.loads(server.stdout.readline())
            calls = {}
            for name, (method, path, service, body) in {
                "DescribeThing": ("GET", "/things/bench", "iot", b""),
                "GetCallerIdentity": ("POST", "/", "sts", b"Action=GetCallerIdentity&Version=2011-06-15"),
            }.items():
                calls[name] = asyncio.run(_load(server.pid, started, method, path, service, body))
            rss_mb = _rss_mb(server.pid)
        finally:
            server.stdin.close()
            server.wait(10)
    found: dict[str, Any] = {"calls": calls, "loop": started["loop"], "connections": CONNECTIONS, "rss_mb": rss_mb}
    if (peer := _moto()) is not None:
        found["moto_DescribeThing"] = peer
        found["ratio_to_moto"] = round(calls["DescribeThing"]["per_s_core"] / peer["per_s_core"], 1)
    return found


def _moto() -> dict[str, float] | None:
    """moto's server on the same call, unsigned as it checks no signatures; None where its environment is not installed."""
    python = Path(__file__).resolve().parents[2] / ".venv-bench" / "bin" / "python"
    if not python.exists():
        return None
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    server = subprocess.Popen(
        [str(python), "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        return asyncio.run(_load_moto(server.pid, port))
    finally:
        server.terminate()
        server.wait(10)


async def _load_moto(pid: int, port: int) -> dict[str, float]:
    scope = "Credential=AKIAIOSFODNN7EXAMPLE/20260101/us-east-1/iot/aws4_request, SignedHeaders=host, Signature=0"
    common = f"Host: 127.0.0.1:{port}\r\nAuthorization: AWS4-HMAC-SHA256 {scope}\r\nConnection: close\r\n"
    for _ in range(100):
        try:
            await _ask(port, f"POST /things/bench HTTP/1.1\r\n{common}Content-Length: 2\r\n\r\n{{}}".encode())
            break
        except OSError:
            await asyncio.sleep(0.1)
    request = f"GET /things/bench HTTP/1.1\r\n{common}\r\n".encode()

    async def some(seconds: float) -> int:
        until, count = time.monotonic() + seconds, 0
        while time.monotonic() < until:
            answer = await _ask(port, request)
            assert b" 200 " in answer[:20] and b"bench" in answer, answer[:300]
            count += 1
        return count

    await some(0.3)
    before, began = _cpu_s(pid), time.monotonic()
    total = sum(await asyncio.gather(*(some(SECONDS) for _ in range(4))))
    spent, wall = _cpu_s(pid) - before, time.monotonic() - began
    return {
        "per_s_core": round(total / spent),
        "us_cpu": round(spent / total * 1e6, 1),
        "wall_per_s": round(total / wall),
    }


async def _ask(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        return await reader.read(-1)
    finally:
        writer.close()


async def _load(
    pid: int, started: dict[str, Any], method: str, path: str, service: str, body: bytes
) -> dict[str, float]:
    port = int(started["port"])
    headers = {"host": f"127.0.0.1:{port}"}
    if body:
        headers["content-type"] = "application/x-www-form-urlencoded"
    signed = sigv4.sign(
        sigv4.Credentials(started["key"], started["secret"]), method=method, path=path, query=[], headers=headers, body=body,
        region=REGION, service=service, now_ms=time.time_ns() // 1_000_000,
    )  # fmt: skip
    if body:
        signed["content-length"] = str(len(body))
    request = (
        f"{method} {path} HTTP/1.1\r\n".encode()
        + b"".join(f"{k}: {v}\r\n".encode() for k, v in signed.items())
        + b"\r\n"
        + body
    )
    await _one(port, request, 0.3)  # warm: plans, closures, caches
    before, began = _cpu_s(pid), time.monotonic()
    counts = await asyncio.gather(*(_one(port, request, SECONDS) for _ in range(CONNECTIONS)))
    spent, wall = _cpu_s(pid) - before, time.monotonic() - began
    total = sum(counts)
    return {
        "per_s_core": round(total / spent),
        "us_cpu": round(spent / total * 1e6, 1),
        "wall_per_s": round(total / wall),
    }


async def _one(port: int, request: bytes, seconds: float) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    until, count = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        writer.write(request)
        raw = await reader.readuntil(b"\r\n\r\n")
        head = http1.parse_response(raw[:-4], method="GET")
        answer = await reader.readexactly(head.length)
        assert head.status == 200, answer
        count += 1
    writer.close()
    return count


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rss_mb(pid: int) -> float:
    return round(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


def _serve(folder: Path) -> None:
    try:
        import uvloop

        runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    except ImportError:
        runner = asyncio.Runner()
    with runner:
        runner.run(_server(folder))


async def _server(folder: Path) -> None:
    from marram.hub.border.chain import Api
    from marram.hub.border.https import HttpDoor
    from marram.hub.bus import Bus
    from marram.hub.identity import api as _identity  # noqa: F401
    from marram.hub.identity.pki import Pki
    from marram.hub.identity.service import Identity
    from marram.hub.registry.service import Registry
    from marram.hub.slice import OPERATIONS
    from marram.kit import net, registry
    from marram.kit.clock import SystemClock, SystemEntropy
    from marram.kit.db import Db, Migrations

    clock, entropy, bus = SystemClock(), SystemEntropy(), Bus()
    slices = ("identity", "registry")
    migrations = [Migrations(slice=name, package=f"marram.hub.{name}") for name in slices]
    db = Db.open(folder / "hub.db", clock=clock, migrations=migrations)
    pki = Pki.open(folder / "pki", clock=clock, entropy=entropy, names=["localhost"])
    identity = Identity(db, pki, bus, clock=clock, entropy=entropy, account=ACCOUNT, region=REGION)
    things = Registry(db, identity, bus, entropy=entropy, endpoint=lambda: ("localhost", 8443))
    registry.discover("marram.hub.registry")
    key = identity.admin_key()
    api = Api(
        services={"identity": identity, "registry": things}, identity=identity, clock=clock, entropy=entropy, account=ACCOUNT,
        region=REGION, page_key=entropy.bytes(32), routes={},
        operations={name: item for name, item in OPERATIONS.items() if item.slice in slices},
    )  # fmt: skip
    door = HttpDoor(api, clock)
    server = await net.serve("127.0.0.1", 0, lambda _: door.connection(), tls=None, handshakes=None)
    await _create_thing(server.port, key.id, key.secret)
    print(
        json.dumps(
            {
                "port": server.port,
                "key": key.id,
                "secret": key.secret,
                "loop": type(asyncio.get_running_loop()).__module__,
            }
        ),
        flush=True,
    )
    await asyncio.to_thread(sys.stdin.read)
    server.close()
    await door.close()
    db.close()


async def _create_thing(port: int, key: str, secret: str) -> None:
    from marram.kit import http

    body = codec.dumps({"attributePayload": {"attributes": {"model": "bench"}}})
    headers = sigv4.sign(
        sigv4.Credentials(key, secret), method="POST", path="/things/bench", query=[], headers={"host": f"127.0.0.1:{port}"},
        body=body, region=REGION, service="iot", now_ms=time.time_ns() // 1_000_000,
    )  # fmt: skip
    answer = await http.request("POST", f"http://127.0.0.1:{port}/things/bench", headers=headers, body=body)
    assert answer.status == 200, answer


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        _serve(Path(sys.argv[2]))
    else:
        print(json.dumps(main(), indent=1))
