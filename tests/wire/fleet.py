"""Many idle MQTT clients over mTLS, as a process of their own: `python fleet.py PORT CA CERTIFICATE COUNT [NAME]`.

Says `ready SECONDS` when all have their CONNACK, then holds them until its standard input ends; then says `lost N`: how many
had been closed on it by then. A client costs it some 30 KB, as a connection does at the hub.
"""

import asyncio
import resource
import ssl
import sys
import time

from marram.kit import net

AT_ONCE = 64
LIMIT_S = 300.0


class Client(asyncio.Protocol):
    def __init__(self) -> None:
        self.answered = asyncio.get_running_loop().create_future()
        self.is_lost = False

    def data_received(self, data: bytes) -> None:
        if not self.answered.done():
            self.answered.set_result(data[:4])

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        if not self.answered.done():
            self.answered.set_result(b"")


def connect(name: str) -> bytes:
    body = b"\x00\x04MQTT\x04\x02\x04\xb0" + len(name).to_bytes(2) + name.encode()
    return b"\x10" + bytes([len(body)]) + body


async def main(port: int, ca: str, certificate: str, count: int, name: str) -> None:
    context = ssl.create_default_context(cafile=ca)
    context.load_cert_chain(certificate)
    gate = asyncio.Semaphore(AT_ONCE)
    held: list[tuple[net.Transport, Client]] = []

    async def one(number: int) -> None:
        async with gate:
            transport, client = await net.connect(
                "127.0.0.1", port, Client, tls=context, server_hostname="localhost", timeout_s=LIMIT_S
            )
            transport.write(connect(f"{name}-{number}"))
            assert await asyncio.wait_for(client.answered, LIMIT_S) == b"\x20\x02\x00\x00"
            held.append((transport, client))

    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(one(number))
    print(f"ready {time.monotonic() - began:.2f}", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    print(f"lost {sum(client.is_lost for _, client in held)}", flush=True)
    for transport, _ in held:
        transport.abort()
    await asyncio.sleep(0)


if __name__ == "__main__":
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), (sys.argv[5:] or ["idle"])[0]))
