"""Good clients, as a process of their own: `python good.py PORT CA CERTIFICATE PAIRS RATE`.

PAIRS publishers and as many subscribers send RATE messages a second in all, QoS 1, for as long as standard input lasts. A line
`mark` on it ends a phase: the process says in JSON how many were sent, how many arrived, and their delays.
"""

import asyncio
import json
import ssl
import struct
import sys
import threading
import time

from marram.core.mqtt.connection import ClientConnection
from marram.core.mqtt.packets import Connack, Connect, Puback, Publish, Suback, Wish
from marram.kit import net

LIMIT_S = 60.0


class Client(asyncio.Protocol):
    def __init__(self, name: str) -> None:
        self.machine = ClientConnection(Connect(name, keep_alive_s=1200))
        self.ready = asyncio.get_running_loop().create_future()
        self.delays: list[float] = []
        self.arrived = self.acked = self.sent = 0
        self.is_lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self.machine.start(now()))

    def data_received(self, data: bytes) -> None:
        for packet in self.machine.receive(data, now()):
            if isinstance(packet, Connack | Suback):
                if not self.ready.done():
                    self.ready.set_result(packet)
            elif isinstance(packet, Publish):
                self.arrived += 1
                self.delays.append(time.monotonic() - struct.unpack("d", packet.payload[:8])[0])
                if packet.qos:
                    self.transport.write(self.machine.ack(packet.packet_id, now()))
            elif isinstance(packet, Puback):
                self.acked += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True

    def send(self, topic: str) -> None:
        self.sent += 1
        self.transport.write(self.machine.publish(Publish(topic, struct.pack("d", time.monotonic()), 1), now()))


def now() -> int:
    return time.monotonic_ns() // 1_000_000


async def main(port: int, ca: str, certificate: str, pairs: int, rate: int) -> None:
    context = ssl.create_default_context(cafile=ca)
    context.load_cert_chain(certificate)

    async def client(name: str) -> Client:
        _, made = await net.connect(
            "127.0.0.1", port, lambda: Client(name), tls=context, server_hostname="localhost", timeout_s=LIMIT_S
        )
        await asyncio.wait_for(made.ready, LIMIT_S)
        return made

    senders = [await client(f"good-p{number}") for number in range(pairs)]
    takers = [await client(f"good-s{number}") for number in range(pairs)]
    for number, taker in enumerate(takers):
        taker.ready = asyncio.get_running_loop().create_future()
        taker.transport.write(taker.machine.subscribe([Wish(f"good/{number}", 1)], now())[1])
        await asyncio.wait_for(taker.ready, LIMIT_S)
    print("ready", flush=True)

    lines: asyncio.Queue[str] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def read() -> None:
        for line in sys.stdin:
            loop.call_soon_threadsafe(lines.put_nowait, line.strip())
        loop.call_soon_threadsafe(lines.put_nowait, "")

    threading.Thread(target=read, daemon=True).start()
    number, due = 0, time.monotonic()
    while True:
        while lines.empty():
            senders[number % pairs].send(f"good/{number % pairs}")
            number += 1
            due = max(due + 1 / rate, time.monotonic() - 1)
            await asyncio.sleep(max(due - time.monotonic(), 0))
        if not lines.get_nowait():
            return
        sent = sum(each.sent for each in senders)
        end = time.monotonic() + LIMIT_S
        while sum(each.arrived for each in takers) < sent and time.monotonic() < end:
            await asyncio.sleep(0.01)
        delays = sorted(delay for each in takers for delay in each.delays)
        said = {
            "sent": sent, "arrived": sum(each.arrived for each in takers), "acked": sum(each.acked for each in senders),
            "lost": sum(each.is_lost for each in (*senders, *takers)),
            "p50_ms": delays[len(delays) // 2] * 1000, "p99_ms": delays[len(delays) * 99 // 100] * 1000,
        }  # fmt: skip
        print(json.dumps(said), flush=True)
        for taker in takers:
            taker.delays.clear()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])))
