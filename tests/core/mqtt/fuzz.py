"""The fuzz target of the MQTT codec: any bytes, to both sides of both versions, in any pieces.

`one_input(data)` raises when the codec lets anything but a ProtocolError out, when the pieces in which bytes arrive make a
difference, when a packet that was read is written as another, or when an input holds more memory than it is long.
`mutations` makes inputs from the vectors: most of random bytes end at the first of them. As a program with atheris, where that
is installed: python -m tests.core.mqtt.fuzz CORPUS; else it runs `mutations` for the seconds given.
"""

import json
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from marram.core.errors import Invalid
from marram.core.mqtt import packets, v5, v311
from marram.core.mqtt.connection import ClientConnection, ServerConnection, receive_all
from marram.core.mqtt.packets import Connack, Connect, Packet, ProtocolError, Subscribe, Unsubscribe, Wish

CODEC = {4: v311, 5: v5}
SLOW_S = 0.05  # for one input
VECTORS = Path(__file__).parents[2] / "vectors" / "mqtt" / "packets.json"
SPECIAL = (0x00, 0x01, 0x02, 0x04, 0x10, 0x26, 0x32, 0x7F, 0x80, 0x82, 0xC0, 0xE0, 0xED, 0xFF)


def one_input(data: bytes) -> None:
    for version in (0, 4, 5):
        _server(data, version)
    for version in (4, 5):
        _client(data, version)


def _server(data: bytes, version: int) -> None:
    whole = _read(_connected(version), [data])
    cut = len(data) // 2
    assert _read(_connected(version), [data[:cut], data[cut:]]) == whole, "two pieces make a difference"
    if len(data) < 80:
        assert _read(_connected(version), [bytes((byte,)) for byte in data]) == whole, "bytes make a difference"
    for packet, frame in zip(whole[0], _frames(data), strict=False):
        _again(packet, frame, version or getattr(packet, "version", 0))


def _frames(data: bytes) -> Iterator[bytes]:
    """The packets that are whole, by their lengths alone."""
    at = 0
    while at < len(data):
        length, shift, body = 0, 0, at + 1
        while True:
            if body >= len(data):
                return
            length |= (data[body] & 127) << shift
            shift += 7
            body += 1
            if data[body - 1] < 128:
                break
        if body + length > len(data):
            return
        yield data[at : body + length]
        at = body + length


def _connected(version: int) -> ServerConnection:
    machine = ServerConnection()
    if version:
        receive_all(machine, CODEC[version].encode(Connect("c", version)))
    return machine


def _read(machine: ServerConnection, pieces: list[bytes]) -> tuple[list[Packet], int]:
    """The packets until the end or the first fault, and the reason of that."""
    found: list[Packet] = []

    class Sink:
        def publish(self, frame: bytes, topic: bytes, flags: int, packet_id: int, payload_at: int) -> None:
            assert 0 < payload_at <= len(frame) and packet_id in range(65_536)
            found.append(packets.Publish(topic.hex(), frame[payload_at:], packet_id=packet_id))

        def puback(self, packet_id: int, reason: int) -> None:
            found.append(packets.Puback(packet_id, reason))

        def packet(self, packet: Packet) -> None:
            found.append(packet)

    sink = Sink()
    for piece in pieces:
        try:
            machine.receive(piece, 0, sink)
        except ProtocolError as exc:
            return found, exc.reason
        assert len(machine._rest) <= sum(map(len, pieces)), "it holds more than it was given"
    return found, 0


def _again(packet: Packet, frame: bytes, version: int) -> None:
    """What was read is written as it came; MQTT 5 may put its properties into another order, which is as long."""
    if not version or not isinstance(packet, (Connect, Subscribe, Unsubscribe)):
        return
    data = CODEC[version].encode(packet)
    assert len(data) == len(frame) and (version == 5 or data == frame), f"read as {packet}, written as {data.hex()}"
    machine = ServerConnection() if isinstance(packet, Connect) else _connected(version)
    assert receive_all(machine, data) == [packet], "read as another packet"


def _client(data: bytes, version: int) -> None:
    """Bytes of a server, at our own client."""
    seen = []
    for pieces in ([data], [data[:7], data[7:]]):
        client = ClientConnection(Connect("c", version))
        client.start(0)
        client.receive(CODEC[version].encode(Connack()), 0)
        client.subscribe([Wish("a", 1)], 0)
        found: list[Packet] = []
        reason = 0
        for piece in pieces:
            try:
                found += client.receive(piece, 0)
            except ProtocolError as exc:
                reason = exc.reason
                break
            except Invalid as exc:
                raise AssertionError("a fault of the peer is a ProtocolError") from exc
        seen.append(reason)
    assert seen[0] == seen[1], "two pieces make a difference"


def mutations(seed: int) -> Iterator[bytes]:
    """Without end: packets of the vectors, some in a row, cut, doubled, with bytes, lengths and properties changed."""
    rnd = random.Random(seed)
    corpus = [bytes.fromhex(row["hex"]) for row in json.loads(VECTORS.read_text())]
    corpus = [data for data in corpus if len(data) < 2000]
    while True:
        data = bytearray(b"".join(rnd.choice(corpus) for _ in range(rnd.randint(1, 3))))
        for _ in range(rnd.randint(0, 4)):
            at = rnd.randrange(len(data)) if data else 0
            how = rnd.randrange(7)
            if how == 0 and data:
                data[at] = rnd.choice(SPECIAL)
            elif how == 1 and data:
                data[at] ^= 1 << rnd.randrange(8)
            elif how == 2:
                del data[at : at + rnd.randint(1, 4)]
            elif how == 3:
                data[at:at] = bytes(rnd.choice(SPECIAL) for _ in range(rnd.randint(1, 4)))
            elif how == 4:
                other = rnd.choice(corpus)
                start = rnd.randrange(len(other))
                data[at:at] = other[start : start + rnd.randint(1, 12)]
            elif how == 5 and len(data) > 2 and data[at] < 128 and data[1] < 127:
                data[at : at + 1] = bytes((data[at] | 128, 0))  # the same number, were it one of variable length
                data[1] += 1
            elif len(data) > 2:
                data[1] = min(255, len(data) - 2 + rnd.randint(-2, 2)) & 127
        yield bytes(data[:4000])


def run(seconds: float, seed: int) -> tuple[int, float]:
    """(inputs tried, the slowest in seconds). Raises what `one_input` raises, with the input."""
    count, slowest, end = 0, 0.0, time.perf_counter() + seconds
    for data in mutations(seed):
        began = time.perf_counter()
        try:
            one_input(data)
        except Exception as exc:
            raise AssertionError(f"seed {seed}, input {count}: {data.hex()}") from exc
        now = time.perf_counter()
        slowest, count = max(slowest, now - began), count + 1
        if now > end:
            return count, slowest
    raise AssertionError("mutations end")


def main() -> None:
    try:
        import atheris
    except ImportError:
        count, slowest = run(float(sys.argv[1]) if len(sys.argv) > 1 else 10.0, 1)
        print(f"{count} inputs, slowest {slowest:.4f} s")
        return
    atheris.instrument_all()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
