"""A hostile crowd, as a process of its own: `python crowd.py MQTT HTTPS API CA STRANGER DEVICE COUNT RATE`.

From 127.0.0.2 to .250 it opens COUNT connections of all kinds and holds those that are not closed on it: silent TCP, half a
ClientHello, garbage, plain MQTT and HTTP on TLS ports, wrong certificates (RATE a second), a good certificate and then no
CONNECT, a packet of 268 MB or garbage behind it, HTTP byte by byte, heads without an end. Says `ready`, and at the end of its
standard input how many of each kind it opened.
"""

import asyncio
import contextlib
import itertools
import json
import resource
import ssl
import sys
import threading
import time
from collections import Counter

HELLO = bytes.fromhex("160301020001000001fc0303") + bytes(200)
LENGTH_BOMB = b"\x30\xff\xff\xff\x7f"
opened: Counter[str] = Counter()
held: list[asyncio.StreamWriter] = []
addresses = itertools.cycle(f"127.0.0.{number}" for number in range(2, 251))


class Crowd:
    def __init__(self, words: list[str]) -> None:
        self.mqtt, self.https, self.api = (int(word) for word in words[:3])
        self.ca, self.stranger, self.device = words[3:6]
        self.count, self.rate = int(words[6]), int(words[7])
        self.stop = asyncio.Event()
        self.with_stranger = self.context(self.stranger)
        self.with_device = self.context(self.device)

    def context(self, certificate: str) -> ssl.SSLContext:
        made = ssl.create_default_context(cafile=self.ca)
        made.load_cert_chain(certificate)
        return made

    async def open(
        self, kind: str, port: int, data: bytes = b"", *, tls: ssl.SSLContext | None = None
    ) -> asyncio.StreamWriter | None:
        with contextlib.suppress(OSError, ssl.SSLError, TimeoutError):
            async with asyncio.timeout(20):
                _, writer = await asyncio.open_connection(
                    "127.0.0.1", port, local_addr=(next(addresses), 0), ssl=tls,
                    server_hostname="localhost" if tls else None,
                )  # fmt: skip
                opened[kind] += 1
                held.append(writer)
                if data:
                    writer.write(data)
                return writer
        opened[f"{kind} refused"] += 1
        return None

    async def cheap(self, number: int) -> None:
        match number % 8:
            case 0 | 1:
                await self.open("silent", (self.mqtt, self.https, self.api)[number // 8 % 3])
            case 2:
                await self.open("half a hello", self.mqtt, HELLO[: 6 + number % 190])
            case 3:
                await self.open("garbage", self.https, bytes((number * 7 + at) & 255 for at in range(300)))
            case 4:
                await self.open("plain MQTT", self.mqtt, b"\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04test")
            case 5:
                await self.open("plain HTTP", self.https, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            case 6:
                writer = await self.open("a head without an end", self.api, b"GET / HTTP/1.1\r\nHost: a\r\n")
                if writer is not None:
                    writer.write(b"X: %b\r\n" % (b"y" * 3000))
            case _:
                await self.open("HTTP byte by byte", self.api, b"G")

    async def strangers(self) -> None:
        while not self.stop.is_set():
            began = time.monotonic()
            for _ in range(max(self.rate // 10, 1)):
                await self.open("wrong certificate", self.mqtt, b"x", tls=self.with_stranger)
            await asyncio.sleep(max(0.1 - (time.monotonic() - began), 0))

    async def insiders(self) -> None:
        """They have a certificate, and use it badly."""
        for number in range(max(self.count // 100, 10)):
            data = (b"", LENGTH_BOMB, b"\xff" * 100, b"\x10\xff\xff\xff\x7f")[number % 4]
            await self.open("insider", self.mqtt, data, tls=self.with_device)

    async def drip(self) -> None:
        """One byte each to all that are still there, again and again."""
        while not self.stop.is_set():
            for writer in list(held):
                if writer.is_closing():
                    held.remove(writer)
                elif writer.get_extra_info("ssl_object") is None and writer.get_extra_info("peername")[1] == self.api:
                    writer.write(b"E")
            await asyncio.sleep(0.5)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        threading.Thread(
            target=lambda: (sys.stdin.read(), loop.call_soon_threadsafe(self.stop.set)), daemon=True
        ).start()
        async with asyncio.TaskGroup() as group:
            busy = [group.create_task(work()) for work in (self.strangers, self.insiders, self.drip)]
            for start in range(0, self.count, 50):
                async with asyncio.TaskGroup() as wave:
                    for number in range(start, min(start + 50, self.count)):
                        wave.create_task(self.cheap(number))
            print("ready", flush=True)
            await self.stop.wait()
            for task in busy:
                task.cancel()
        print(json.dumps(opened), flush=True)
        for writer in held:
            writer.transport.abort()
        await asyncio.sleep(0)


if __name__ == "__main__":
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    async def main() -> None:
        await Crowd(sys.argv[1:]).run()

    asyncio.run(main())
