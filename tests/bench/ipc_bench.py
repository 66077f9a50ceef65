"""IPC publish to subscribe, 256 B: the awsiotsdk client one at a time (p50, p99) and pipelined, and raw frames.

Server, raw load and SDK load are own processes. `python tests/bench/ipc_bench.py` prints the JSON; about 12 s.
"""

import asyncio
import json
import queue
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PAYLOAD = b"x" * 256


def serve(path: str) -> None:
    from marram.edge.ipc.authorisation import Authorisation
    from marram.edge.ipc.ports import Core
    from marram.edge.ipc.server import Server
    from marram.edge.pubsub.hub import Hub

    class Owner:
        def token_owner(self, auth_token: str, uid: int) -> str | None:
            return auth_token

    policy = {"aws.greengrass.ipc.pubsub": {"p": {"operations": ["*"], "resources": ["bench/*"]}}}
    nobody = Owner()
    core = Core(
        pubsub=Hub(),
        authorisation=Authorisation(lambda component: policy),  # type: ignore[arg-type, return-value]
        tokens=nobody,
        configuration=nobody,  # type: ignore[arg-type]
        components=nobody,  # type: ignore[arg-type]
    )

    async def main() -> None:
        server = Server(Path(path), core)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(server.run())
            await server.ready.wait()
            print("ready", flush=True)

    asyncio.run(main())


def sdk(path: str) -> dict[str, float]:
    from awsiot import greengrasscoreipc
    from awsiot.greengrasscoreipc import model
    from awsiot.greengrasscoreipc.clientv2 import GreengrassCoreIPCClientV2

    client = GreengrassCoreIPCClientV2(
        client=greengrasscoreipc.connect(ipc_socket=path, authtoken="com.bench", timeout=10)
    )
    got: queue.SimpleQueue[int] = queue.SimpleQueue()
    client.subscribe_to_topic(topic="bench/t", on_stream_event=lambda event: got.put(time.perf_counter_ns()))
    message = model.PublishMessage(binary_message=model.BinaryMessage(message=PAYLOAD))
    times = []
    for turn in range(2200):
        began = time.perf_counter_ns()
        client.publish_to_topic_async(topic="bench/t", publish_message=message)
        arrived = got.get(timeout=5)
        if turn >= 200:
            times.append(arrived - began)
    times.sort()
    count, window = 10_000, 256
    began = time.perf_counter()
    sent = 0
    for received in range(count):
        while sent < count and sent - received < window:
            client.publish_to_topic_async(topic="bench/t", publish_message=message)
            sent += 1
        got.get(timeout=5)
    rate = count / (time.perf_counter() - began)
    client.close()
    return {"p50_us": times[1000] / 1000, "p99_us": times[1980] / 1000, "sdk_per_s": rate}


def raw(path: str) -> dict[str, float]:
    """Frames made beforehand, 4 publishers with 64 in flight each, one subscriber; nothing is decoded but lengths."""
    from marram.core import codec
    from marram.core import eventstream as es
    from marram.edge.ipc import model

    connect = es.encode(
        {":version": "0.1.0", ":message-type": 4, ":message-flags": 0, ":stream-id": 0}, b'{"authToken":"com.raw"}'
    )
    body = codec.dumps({"topic": "bench/raw", "publishMessage": {"binaryMessage": {"message": model.blob(PAYLOAD)}}})
    operation = es.header_block({"operation": "aws.greengrass#PublishToTopic"})

    async def frames(reader: asyncio.StreamReader, rest: bytes) -> tuple[int, bytes]:
        data = rest + await reader.read(1 << 18)
        if not data:
            raise EOFError
        count = at = 0
        while len(data) - at >= 4:
            size = int.from_bytes(data[at : at + 4], "big")
            if len(data) - at < size:
                break
            at += size
            count += 1
        return count, data[at:]

    async def main() -> dict[str, float]:
        async def opened() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            reader, writer = await asyncio.open_unix_connection(path, limit=1 << 20)
            writer.write(connect)
            await frames(reader, b"")
            return reader, writer

        reader, writer = await opened()
        subscribe = es.application_block(0, 0, 1) + es.header_block({"operation": "aws.greengrass#SubscribeToTopic"})
        writer.write(es.frame(subscribe, b'{"topic":"bench/raw"}'))
        await frames(reader, b"")
        each, publishers, window = 15_000, 4, 64

        async def publish() -> None:
            source, sink = await opened()
            ready = [es.frame(es.application_block(0, 0, n + 1) + operation, body) for n in range(each)]
            sent = acked = 0
            rest = b""
            while acked < each:
                upto = min(each, acked + window)
                if upto > sent:
                    sink.write(b"".join(ready[sent:upto]))
                    sent = upto
                count, rest = await frames(source, rest)
                acked += count
            sink.close()

        async def receive() -> float:
            count, rest = 0, b""
            while count < each * publishers:
                new, rest = await frames(reader, rest)
                count += new
            return time.perf_counter()

        async with asyncio.TaskGroup() as tasks:
            done = tasks.create_task(receive())
            began = time.perf_counter()
            for _ in range(publishers):
                tasks.create_task(publish())
        writer.close()
        return {"raw_per_s": each * publishers / (done.result() - began)}

    return asyncio.run(main())


def main() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/ipc.socket"
        server = subprocess.Popen([sys.executable, __file__, "serve", path], stdout=subprocess.PIPE)
        try:
            assert server.stdout is not None
            server.stdout.readline()
            result: dict[str, float] = {}
            for load in ("sdk", "raw"):
                out = subprocess.run([sys.executable, __file__, load, path], stdout=subprocess.PIPE, check=True).stdout
                result.update(json.loads(out))
            status = Path(f"/proc/{server.pid}/status").read_text()
            result["server_rss_mb"] = int(status.split("VmRSS:")[1].split()[0]) / 1024
            return {name: round(value, 1) for name, value in result.items()}
        finally:
            server.terminate()
            server.wait()
            if server.stdout is not None:
                server.stdout.close()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", path]:
            serve(path)
        case ["sdk", path]:
            print(json.dumps(sdk(path)))
        case ["raw", path]:
            print(json.dumps(raw(path)))
        case _:
            print(json.dumps(main(), indent=1))
