"""The vectors, both ways, in every cut; and whatever bytes there are: a packet or a ProtocolError, nothing else."""

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marram.core.errors import Conflict, Invalid, LimitExceeded
from marram.core.mqtt import packets, v5, v311
from marram.core.mqtt.connection import ClientConnection, ServerConnection, receive_all
from marram.core.mqtt.packets import Connack, Connect, ProtocolError, Publish, Reader, Suback, Subscribe, Will, Wish
from marram.core.mqtt.session import Window

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "mqtt" / "packets.json").read_text())
CODEC = {4: v311, 5: v5}


def server(version: int) -> ServerConnection:
    made = ServerConnection()
    receive_all(made, CODEC[version].encode(Connect("c", version)))
    return made


def plain(packet: object) -> dict[str, object]:
    """A packet as the vectors write it: no defaults, bytes as hex, tuples as lists."""

    def value(given: object) -> object:
        if dataclasses.is_dataclass(given):
            return fields(given)
        if isinstance(given, bytes):
            return given.hex()
        if isinstance(given, list | tuple):
            return [value(item) for item in given]
        return {key: value(item) for key, item in given.items()} if isinstance(given, dict) else given

    def fields(given: object) -> dict[str, object]:
        out = {}
        for item in dataclasses.fields(given):
            found = getattr(given, item.name)
            default = item.default if item.default is not dataclasses.MISSING else None
            if item.default_factory is not dataclasses.MISSING:
                default = item.default_factory()
            if found != default or (default is None and found is not None):
                out[item.name] = value(found)
        return out

    return {type(packet).__name__: fields(packet)}


def expected(row: dict[str, object]) -> dict[str, object]:
    """The vector's packet without members that say the default."""
    [(name, members)] = row["packet"].items()
    blank = {f.name: f.default for f in dataclasses.fields(getattr(packets, name))}
    return {name: {key: item for key, item in members.items() if blank.get(key) != item}}


def decoded(row: dict[str, object], data: bytes) -> packets.Packet:
    at = 1
    while data[at] & 128:
        at += 1
    return CODEC[row["version"]].decode(data[0], Reader(data, at + 1, len(data)))


@pytest.mark.parametrize("row", VECTORS, ids=[f"{r['version']} {r['side']} {r['meaning']}" for r in VECTORS])
def test_vectors(row: dict[str, object]) -> None:
    data = bytes.fromhex(row["hex"])
    if row["side"] == "client":
        if "error" in row:
            with pytest.raises(ProtocolError) as caught:
                decoded(row, data)
            assert caught.value.reason == row["error"]
        else:
            packet = decoded(row, data)
            without = {
                k: v
                for k, v in plain(packet)[type(packet).__name__].items()
                if k != "properties" or "properties" in str(row["packet"])
            }
            assert {type(packet).__name__: without} == expected(row)
            assert CODEC[row["version"]].encode(packet) == data
        return
    is_connect = data[0] >> 4 == 1
    for cut in range(len(data) + 1):
        machine = ServerConnection() if is_connect else server(row["version"])
        if "error" in row:
            with pytest.raises(ProtocolError) as caught:
                receive_all(machine, data[:cut])
                receive_all(machine, data[cut:])
            assert caught.value.reason == row["error"]
        else:
            found = receive_all(machine, data[:cut]) + receive_all(machine, data[cut:])
            assert [plain(packet) for packet in found] == [expected(row)]
            if not isinstance(found[0], packets.Puback):  # its reason string is not handed on
                assert CODEC[row["version"]].encode(found[0]) == data


names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)
publishes = st.builds(
    Publish, names, st.binary(max_size=300), st.just(1), st.booleans(), st.booleans(), st.integers(1, 65535)
) | st.builds(Publish, names, st.binary(max_size=300), st.just(0), st.booleans())
sent = (
    publishes
    | st.builds(packets.Puback, st.integers(1, 65535))
    | st.builds(Subscribe, st.integers(1, 65535), st.lists(st.builds(Wish, names, st.integers(0, 1)), min_size=1))
    | st.builds(packets.Unsubscribe, st.integers(1, 65535), st.lists(names, min_size=1))
    | st.builds(packets.Pingreq)
)


@given(st.sampled_from([4, 5]), st.lists(sent, max_size=8), st.data())
def test_any_cut_of_any_packets_gives_them_back(version: int, given_packets: list, data: st.DataObject) -> None:
    whole = b"".join(CODEC[version].encode(packet) for packet in given_packets)
    machine, found, at = server(version), [], 0
    while at < len(whole):
        size = data.draw(st.integers(1, len(whole) - at))
        found += receive_all(machine, whole[at : at + size])
        at += size
    assert found == given_packets


properties = st.fixed_dictionaries(
    {},
    optional={
        "payload_format": st.just(0),
        "message_expiry_s": st.integers(0, 2**32 - 1),
        "content_type": names,
        "response_topic": names,
        "correlation_data": st.binary(max_size=50),
        "user_properties": st.lists(st.tuples(names, names), min_size=1, max_size=4),
    },
)


@given(publishes, properties)
def test_properties_go_there_and_back(packet: Publish, given_properties: packets.Properties) -> None:
    packet.properties = given_properties
    assert receive_all(server(5), v5.encode(packet)) == [packet]


def test_an_alias_stands_for_its_topic() -> None:
    machine = server(5)
    first = Publish("a/b", b"1", properties={"topic_alias": 2, "content_type": "x"})
    second = Publish("", b"2", 1, packet_id=7, properties={"topic_alias": 2})
    got = receive_all(machine, v5.encode(first) + v5.encode(second))
    assert got == [Publish("a/b", b"1", properties={"content_type": "x"}), Publish("a/b", b"2", 1, packet_id=7)]


@settings(max_examples=300)
@given(st.sampled_from([0, 4, 5]), st.binary(max_size=200), st.integers(0, 200))
def test_no_bytes_escape_with_another_error(version: int, data: bytes, cut: int) -> None:
    machine = server(version) if version else ServerConnection()
    try:
        receive_all(machine, data[:cut])
        receive_all(machine, data[cut:])
    except ProtocolError:
        assert receive_all(machine, b"\xc0\x00") == []  # it stays at its end


flips = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=4)


@settings(max_examples=400)
@given(st.sampled_from(VECTORS), flips, st.integers(0, 40))
def test_no_damaged_packet_escapes_with_another_error(row, changes, cut: int) -> None:
    data = bytearray.fromhex(row["hex"])
    for at, byte in changes:
        data[at % len(data)] = byte
    for machine in (ServerConnection(), server(4), server(5)):
        try:
            receive_all(machine, bytes(data[:cut]))
            receive_all(machine, bytes(data[cut:]))
        except ProtocolError:
            pass
    for version in (4, 5):
        client = ClientConnection(Connect("c", version))
        client.start(0)
        try:
            client.receive(CODEC[version].encode(Connack()) + bytes(data), 0)
        except ProtocolError:
            assert not client.is_open


def test_size_is_checked_before_anything_is_kept() -> None:
    machine = server(4)
    with pytest.raises(ProtocolError) as caught:
        receive_all(machine, b"\x30\xff\xff\xff\x7f")
    assert caught.value.reason == packets.PACKET_TOO_LARGE
    machine = server(4)
    receive_all(machine, b"\x30\xff\xff\x08")  # 147,455 bytes are to come
    for _ in range(147_454):
        receive_all(machine, b"\0")  # byte by byte: no copy of what is there for each
    [packet] = receive_all(machine, b"\0")
    assert isinstance(packet, Publish)


# the client's side


def opened(version: int = 4, **properties: object) -> ClientConnection:
    client = ClientConnection(Connect("c", version, keep_alive_s=10))
    client.start(0)
    client.receive(CODEC[version].encode(Connack(0, False, dict(properties))), 0)
    return client


def test_client_and_server_machine_understand_each_other() -> None:
    for version in (4, 5):
        client, machine = ClientConnection(Connect("c", version, will=Will("w", b"x"))), ServerConnection()
        assert receive_all(machine, client.start(0)) == [Connect("c", version, will=Will("w", b"x"))]
        client.receive(CODEC[version].encode(Connack()), 0)
        packet_id, data = client.subscribe([Wish("a", 1)], 0)
        assert receive_all(machine, data) == [Subscribe(packet_id, [Wish("a", 1)])]
        assert client.receive(CODEC[version].encode(Suback(packet_id, [1])), 0) == [Suback(packet_id, [1])]
        packet = Publish("a", b"x", 1)
        assert receive_all(machine, client.publish(packet, 0)) == [packet] and len(client.unacked) == 1
        client.receive(CODEC[version].encode(packets.Puback(packet.packet_id)), 0)
        assert len(client.unacked) == 0


@pytest.mark.parametrize(
    "answer",
    [b"\xd0\x00", b"\x40\x02\x00\x01", b"\x20\x02\x00\x00"],
    ids=["before CONNACK", "PUBACK for nothing", "CONNACK twice"],
)
def test_servers_that_break_the_rules(answer: bytes) -> None:
    client = ClientConnection(Connect("c")) if answer[0] == 0xD0 else opened()
    if answer[0] == 0xD0:
        client.start(0)
    with pytest.raises(ProtocolError):
        client.receive(answer, 0)
    assert not client.is_open
    with pytest.raises(Conflict):
        client.publish(Publish("a", b""), 0)


def test_keep_alive_of_the_client() -> None:
    client = opened()
    assert client.next_timer_ms() == 10_000 and client.on_timer(9_999) == b""
    assert client.on_timer(10_000) == b"\xc0\x00"
    client.receive(b"\xd0\x00", 10_001)
    assert client.on_timer(20_000) == b"\xc0\x00"
    with pytest.raises(ProtocolError):
        client.on_timer(25_001)
    assert opened(5, server_keep_alive_s=3).next_timer_ms() == 3_000


def test_the_servers_limits_are_kept() -> None:
    client = opened(5, receive_maximum=2, maximum_packet_size=50)
    client.publish(Publish("a", b"", 1), 0)
    with pytest.raises(Invalid):
        client.publish(Publish("a", b"x" * 60, 1), 0)
    client.publish(Publish("a", b"", 1), 0)
    with pytest.raises(LimitExceeded):
        client.publish(Publish("a", b"", 1), 0)


def test_window_hands_out_what_is_free() -> None:
    window: Window[str] = Window(65535)
    window.take("a")
    for _ in range(65534):
        window.take("b")
    with pytest.raises(LimitExceeded):
        window.take("c")
    assert window.done(7) == "b" and window.done(7) is None
    assert window.take("c") == 7
