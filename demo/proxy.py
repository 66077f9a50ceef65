"""The cable between the cores and the hub: TCP ports that pass bytes on, and can swallow all of them without a word.

Started by the demo; one JSON list of targets [[name, host, port], ...] as argument, ports on standard output, commands on
standard input: `cut`, `join`, `count`. While cut nothing passes in either direction and nobody is told: no FIN, no RST
(half-open). A connection that lost bytes is dead for ever, as its peers will find out; one that was opened while the cable
was out (its SYN is still being repeated, so to speak) gets through when the cable is back.
"""

import asyncio
import contextlib
import json
import sys

CHUNK = 1 << 16


class Cable:
    def __init__(self) -> None:
        self.cut = False
        self.joined = asyncio.Event()
        self.joined.set()
        self.passed: dict[str, list[int]] = {}  # name -> bytes up, bytes down
        self.swallowed = 0

    def take(self, command: str) -> None:
        if command == "cut":
            self.cut = True
            self.joined.clear()
        elif command == "join":
            self.cut = False
            self.joined.set()
        said = {"cut": self.cut, "passed": self.passed, "swallowed": self.swallowed}
        print(f"{command} {json.dumps(said)}", flush=True)


class Wire:
    """One connection through the cable."""

    def __init__(self, cable: Cable, name: str) -> None:
        self._cable, self._counts = cable, cable.passed.setdefault(name, [0, 0])
        self._dead = False

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: int) -> None:
        while True:
            data = await reader.read(CHUNK)
            if self._cable.cut:
                if data:
                    self._dead = True
                    self._cable.swallowed += len(data)
                    continue
                await self._cable.joined.wait()  # even the end of a connection is not heard of
            if not data:
                return
            if self._dead:
                self._cable.swallowed += len(data)
                continue
            self._counts[way] += len(data)
            writer.write(data)
            await writer.drain()


async def serve(cable: Cable, name: str, host: str, port: int) -> int:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far: asyncio.StreamWriter | None = None
        with contextlib.suppress(OSError):
            try:
                await cable.joined.wait()
                far_reader, far = await asyncio.open_connection(host, port)
                wire = Wire(cable, name)
                ways = [
                    asyncio.ensure_future(wire.carry(reader, far, 0)),
                    asyncio.ensure_future(wire.carry(far_reader, writer, 1)),
                ]
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                for way in ways:
                    way.cancel()
            finally:
                for each in (writer, far):
                    if each is not None:
                        each.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    made: int = server.sockets[0].getsockname()[1]
    return made


async def main() -> None:
    cable = Cable()
    ports = {name: await serve(cable, name, host, port) for name, host, port in json.loads(sys.argv[1])}
    print(f"ports {json.dumps(ports)}", flush=True)
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    while line := await commands.readline():
        cable.take(line.decode().strip())


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
