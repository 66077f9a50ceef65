"""API calls, CPU time of the server for each: a hub on a real disk with signed calls, beside moto and ministack.

The same requests to all, by 16 kept connections (moto closes each, so it gets new ones), a thing for each connection. Ours
checks signature and policy of each and has a write on the disk before it answers; the peers do neither, and hold everything
in memory. `per_s_core`: calls in a second of CPU time. Wall-clock rates are shown only; on a shared machine they say little.
`<peer>_ratio`: the peer's CPU time for the call over ours.
"""

import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from marram.core import sigv4
from tests.bench import peers
from tests.bench.peers import Missing

CONNECTIONS: Final = 16
ROUNDS: Final = 2
SECONDS: Final = 1.0
THING: Final = b'{"attributePayload": {"attributes": {"model": "bench"}}}'
SHADOW: Final = b'{"state": {"reported": {"temperature": 21.5, "fan": "on"}}}'
FORM: Final = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class Ask:
    """One call; {thing} stands for the connection's own."""

    method: str
    path: str
    service: str = "iot"
    body: bytes = b""
    query: tuple[tuple[str, str], ...] = ()
    kind: str = "application/json"


CALLS: Final = {
    "DescribeThing": Ask("GET", "/things/{thing}"),
    "ListThings": Ask("GET", "/things", query=(("maxResults", "16"),)),
    "UpdateThing": Ask("PATCH", "/things/{thing}", body=THING),
    "GetThingShadow": Ask("GET", "/things/{thing}/shadow", service="iotdata"),
    "UpdateThingShadow": Ask("POST", "/things/{thing}/shadow", service="iotdata", body=SHADOW),
    "GetCallerIdentity": Ask("POST", "/", "sts", b"Action=GetCallerIdentity&Version=2011-06-15", kind=FORM),
}
SETUP: Final = (Ask("POST", "/things/{thing}", body=THING), CALLS["UpdateThingShadow"])


@dataclass(frozen=True, slots=True)
class Server:
    pid: int
    port: int
    key: str = "AKIAIOSFODNN7EXAMPLE"
    secret: str = "secret"
    region: str = "us-east-1"


def main() -> dict[str, Any]:
    with contextlib.ExitStack() as stack:
        servers: dict[str, Server] = {}
        for name in ("marram", "ministack", "moto"):
            try:
                servers[name] = stack.enter_context(_server(name))
            except Missing as why:
                peers.miss(name, why)
        calls = asyncio.run(_measure(servers))
        rss = {name: round(peers.rss_kb(server.pid) / 1024, 1) for name, server in servers.items()}
    return {"calls": calls, "connections": CONNECTIONS, "rss_mb": rss}


@contextlib.contextmanager
def _server(name: str) -> Iterator[Server]:
    if name == "marram":
        with _hub() as server:
            yield server
    else:
        with peers.moto() if name == "moto" else peers.ministack() as peer:
            yield Server(peer.pid, peer.port)


@contextlib.contextmanager
def _hub() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="api-bench-") as name:
        folder = Path(name) / "hub"
        process = subprocess.Popen(
            [sys.executable, "-m", "marram.cli.main", "hub", "up", "--data", str(folder), "--ports", "auto", "--no-console"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            if not any(line.strip() == "marram hub ready" for line in process.stdout):
                raise RuntimeError(f"the hub ended with {process.wait()}")
            info = json.loads((folder / "hub.json").read_text())
            port = int(info["endpoints"]["api"].rpartition(":")[2])
            admin = info["admin"]
            yield Server(process.pid, port, admin["access_key_id"], admin["secret_access_key"], info["region"])
        finally:
            process.terminate()
            process.wait(60)
            if process.stdout is not None:
                process.stdout.close()


async def _measure(servers: dict[str, Server]) -> dict[str, dict[str, float]]:
    """By call; the servers in turn, and of each the round with the lowest CPU time, as contention only adds."""
    for server in servers.values():
        for ask in SETUP:
            for number in range(CONNECTIONS):
                await _Connection(server).some(_signed(server, ask, number), 1)
    out: dict[str, dict[str, float]] = {}
    for call, ask in CALLS.items():
        peers.say(call)
        best: dict[str, tuple[float, float]] = {}
        for _ in range(ROUNDS):
            for name, server in servers.items():
                try:
                    row = await _round(server, ask)
                except Refused as why:
                    peers.miss(f"{call} of {name}", why)
                    continue
                best[name] = min(row, best.get(name, row))
        mine, rate = best.pop("marram")
        out[call] = {"per_s_core": round(1e6 / mine), "us_cpu": round(mine, 1), "wall_per_s": round(rate)}
        for name, (theirs, _) in best.items():
            out[call] |= {f"{name}_us_cpu": round(theirs, 1), f"{name}_ratio": theirs / mine}
    return out


async def _round(server: Server, ask: Ask) -> tuple[float, float]:
    """CPU time of the server for one call, in us; calls a second by the clock on the wall. Raises Refused."""
    connections = [_Connection(server) for _ in range(CONNECTIONS)]
    requests = [_signed(server, ask, number) for number in range(CONNECTIONS)]
    try:
        await connections[0].some(requests[0], 20)  # warm: plans, closures, caches
        before, began = peers.cpu_s(server.pid), time.monotonic()
        counts: list[int] = await asyncio.gather(
            *(one.until(request, began + SECONDS) for one, request in zip(connections, requests, strict=True))
        )
    finally:
        for one in connections:
            one.close()
    return (peers.cpu_s(server.pid) - before) / sum(counts) * 1e6, sum(counts) / (time.monotonic() - began)


def _signed(server: Server, ask: Ask, number: int) -> bytes:
    path, headers = ask.path.replace("{thing}", f"bench-{number}"), {"host": f"127.0.0.1:{server.port}"}
    if ask.body:
        headers["content-type"] = ask.kind
    signed = sigv4.sign(
        sigv4.Credentials(server.key, server.secret), method=ask.method, path=path, query=list(ask.query),
        headers=headers, body=ask.body, region=server.region, service=ask.service, now_ms=time.time_ns() // 1_000_000,
    )  # fmt: skip
    if ask.body:
        signed["content-length"] = str(len(ask.body))
    target = path + ("?" + "&".join(f"{key}={value}" for key, value in ask.query) if ask.query else "")
    lines = [f"{ask.method} {target} HTTP/1.1", *(f"{key}: {value}" for key, value in signed.items())]
    return "\r\n".join([*lines, "", ""]).encode() + ask.body


class Refused(Exception):
    """The server answers something else than 200."""


class _Connection:
    """One client: keeps its connection as long as the server does."""

    def __init__(self, server: Server) -> None:
        self._port = server.port
        self._open: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def some(self, request: bytes, count: int) -> None:
        for _ in range(count):
            await self._once(request)
        self.close()

    async def until(self, request: bytes, end: float) -> int:
        count = 0
        while time.monotonic() < end:
            await self._once(request)
            count += 1
        return count

    async def _once(self, request: bytes) -> None:
        if self._open is None:
            self._open = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._open
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        headers = dict(line.split(": ", 1) for line in head.split("\r\n")[1:-2])
        body = await reader.readexactly(int(headers["content-length"]))
        if head.split()[1] != "200":
            raise Refused(f"{head.splitlines()[0]} {body[:200]!r}")
        if headers.get("connection") == "close":
            self.close()

    def close(self) -> None:
        if self._open is not None:
            self._open[1].close()
            self._open = None


if __name__ == "__main__":
    print(json.dumps(main(), indent=1))
