"""One MQTT connection without its socket: bytes in, calls out. Server and client side, both versions.

`ServerConnection.receive(data, now_ms, sink)` is the hot path of the hub: a PUBLISH becomes one call with the frame as it
came, so that it can be forwarded unchanged; everything else becomes a packet object. What a frame may carry is checked
here, strictly and by size before anything is copied; topic names (UTF-8, wildcards, limits) are the sink's to check, once
for each new topic. Not here: sockets, timers, policies, sessions. mypyc compiles this module.
"""

from typing import Final, Protocol, TypeAlias

from marram.core.errors import Conflict, Invalid
from marram.core.mqtt import fields, packets, v5, v311
from marram.core.mqtt.packets import (
    PACKET_TOO_LARGE,
    PROTOCOL_ERROR,
    PUBACK,
    PUBLISH,
    TOPIC_ALIAS_INVALID,
    V5,
    V311,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Properties,
    ProtocolError,
    Puback,
    Publish,
    Reader,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
    Wish,
)
from marram.core.mqtt.session import Window

MAX_PACKET: Final = 149_504  # AWS's Maximum Packet Size: a payload of 128 KB and room for the head
TOPIC_ALIASES: Final = 8
HTTP_METHODS: Final = (b"GET", b"POST", b"PUT", b"HEAD", b"DELETE", b"OPTIONS", b"PATCH")
HAS_PROPERTIES: Final = 16  # a bit of `flags` above those of the fixed header


class Sink(Protocol):
    """Who hears what came. It may call `stop` on the connection; nothing more is then read."""

    def publish(self, frame: bytes, topic: bytes, flags: int, packet_id: int, payload_at: int) -> None:
        """`flags`: those of the fixed header, and HAS_PROPERTIES. The frame is whole and has no topic alias."""

    def puback(self, packet_id: int, reason: int) -> None: ...

    def packet(self, packet: Packet) -> None: ...


class ServerConnection:
    """The server's side. The first packet is CONNECT, and there is one."""

    __slots__ = ("_aliases", "_checks_format", "_need", "_rest", "_stopped", "last_ms", "max_packet", "version")

    def __init__(self, max_packet: int = MAX_PACKET, *, checks_format: bool = True) -> None:
        """`checks_format`: refuse a payload that says it is UTF-8 and is not."""
        self.version = 0  # 0: no CONNECT yet
        self.max_packet = max_packet
        self.last_ms = 0
        self._checks_format = checks_format
        self._aliases: dict[int, bytes] | None = None  # made with the first: most connections use none
        self._rest = bytearray()
        self._need = 0
        self._stopped = False

    def __repr__(self) -> str:
        return f"ServerConnection(version={self.version}, waiting={len(self._rest)})"

    def stop(self) -> None:
        self._stopped = True
        self._rest.clear()

    def receive(self, data: bytes, now_ms: int, sink: Sink) -> None:
        """Take what the socket gave. Raises ProtocolError; the connection is then at its end."""
        self.last_ms = now_ms
        if self._stopped:
            return
        if self._rest:
            self._rest += data
            if len(self._rest) < self._need:
                return
            data = bytes(self._rest)
            self._rest.clear()
            self._need = 0
        try:
            self._parse(data, sink)
        except ProtocolError:
            self.stop()
            raise

    def _parse(self, data: bytes, sink: Sink) -> None:
        at = 0
        end = len(data)
        while end - at >= 2:
            first = data[at]
            length = data[at + 1]
            body = at + 2
            if length > 127:
                length &= 127
                shift = 7
                while True:
                    if body >= end:
                        self._keep(data, at, 0)
                        return
                    digit = data[body]
                    body += 1
                    length |= (digit & 127) << shift
                    if digit < 128:
                        if digit == 0:
                            raise ProtocolError("the remaining length is longer than it needs to be")
                        break
                    shift += 7
                    if shift > 21:
                        raise ProtocolError("the remaining length has more than four bytes")
            stop = body + length
            if stop - at > self.max_packet:
                raise ProtocolError(f"packet of {stop - at} bytes; the limit is {self.max_packet}", PACKET_TOO_LARGE)
            if self.version == 0 and first != 0x10:
                if data[at : at + 8].split(b" ", 1)[0] in HTTP_METHODS:
                    raise ProtocolError("HTTP on the MQTT port", PROTOCOL_ERROR)
                raise ProtocolError(f"the first packet is not CONNECT but {packets.NAMES[first >> 4]}", PROTOCOL_ERROR)
            if stop > end:
                self._keep(data, at, stop - at)
                return
            kind = first >> 4
            if kind == PUBLISH:
                flags = first & 15
                qos = flags & 6
                if qos > 2:
                    if qos == 6:
                        raise ProtocolError("QoS 3")
                    raise ProtocolError("QoS 2 is not supported", packets.QOS_NOT_SUPPORTED)
                if length < 2:
                    raise ProtocolError("packet ends early")
                topic_at = body + 2
                payload_at = topic_at + (data[body] << 8 | data[body + 1])
                packet_id = 0
                topic_end = payload_at
                if qos:
                    payload_at += 2
                    if payload_at > stop:
                        raise ProtocolError("packet ends early")
                    packet_id = data[topic_end] << 8 | data[topic_end + 1]
                    if packet_id == 0:
                        raise ProtocolError("packet identifier 0", PROTOCOL_ERROR)
                elif payload_at > stop:
                    raise ProtocolError("packet ends early")
                elif flags & 8:
                    raise ProtocolError("DUP with QoS 0")
                if self.version == V5:
                    if payload_at >= stop:
                        raise ProtocolError("packet ends early")
                    if data[payload_at] == 0 and topic_end > topic_at:
                        payload_at += 1
                    else:
                        self._publish5(data, first, topic_at, topic_end, packet_id, payload_at, stop, sink)
                        at = stop
                        if self._stopped:
                            return
                        continue
                sink.publish(data[at:stop], data[topic_at:topic_end], flags, packet_id, payload_at - at)
            elif kind == PUBACK and length == 2 and first == 0x40:
                packet_id = data[body] << 8 | data[body + 1]
                if packet_id == 0:
                    raise ProtocolError("packet identifier 0", PROTOCOL_ERROR)
                sink.puback(packet_id, 0)
            else:
                self._other(first, Reader(data, body, stop), sink)
            at = stop
            if self._stopped:
                return
        if at < end:
            self._keep(data, at, 0)

    def _keep(self, data: bytes, at: int, need: int) -> None:
        self._rest += data[at:] if at else data
        self._need = need

    def _other(self, first: int, body: Reader, sink: Sink) -> None:
        if first == 0x10:
            if self.version:
                raise ProtocolError("a second CONNECT", PROTOCOL_ERROR)
            version = fields.protocol(body)
            connect = v5.connect(body) if version == V5 else v311.connect(body)
            self.version = version
            sink.packet(connect)
            return
        packet = v5.decode(first, body) if self.version == V5 else v311.decode(first, body)
        if isinstance(packet, Puback):
            sink.puback(packet.packet_id, packet.reason)
            return
        if isinstance(packet, (Connack, Suback, Unsuback, Pingresp)):
            raise ProtocolError(f"{packets.NAMES[first >> 4]} from a client", PROTOCOL_ERROR)
        sink.packet(packet)

    def _publish5(
        self,
        data: bytes,
        first: int,
        topic_at: int,
        topic_end: int,
        packet_id: int,
        props_at: int,
        stop: int,
        sink: Sink,
    ) -> None:
        """A PUBLISH with properties, or without a topic: an alias goes in or out of the table and out of the frame."""
        body = Reader(data, props_at, stop)
        properties = v5.read_properties(body, PUBLISH)
        if "subscription_identifiers" in properties:
            raise ProtocolError("a subscription identifier from a client", PROTOCOL_ERROR)
        payload = data[body.at : stop]
        if self._checks_format:
            v5.check_format(properties, payload)
        topic = data[topic_at:topic_end]
        alias = properties.pop("topic_alias", None)
        if isinstance(alias, int):
            if alias > TOPIC_ALIASES:
                raise ProtocolError(f"topic alias {alias}; the maximum is {TOPIC_ALIASES}", TOPIC_ALIAS_INVALID)
            aliases = self._aliases
            if aliases is None:
                aliases = self._aliases = {}
            if topic:
                aliases[alias] = topic
            else:
                known = aliases.get(alias)
                if known is None:
                    raise ProtocolError(f"topic alias {alias} is not known", PROTOCOL_ERROR)
                topic = known
        elif not topic:
            raise ProtocolError("PUBLISH without a topic", PROTOCOL_ERROR)
        qos = first >> 1 & 3
        encoded = v5.write_properties(properties, PUBLISH)
        frame = packets.publish_frame(V5, topic, payload, qos, packet_id, first & 1 == 1, first & 8 == 8, encoded)
        flags = first & 15 | (HAS_PROPERTIES if encoded else 0)
        sink.publish(frame, topic, flags, packet_id, len(frame) - len(payload))


def properties_of(frame: bytes, topic: bytes, flags: int, payload_at: int) -> bytes:
    """The encoded properties of a PUBLISH of MQTT 5, without their length."""
    if not flags & HAS_PROPERTIES:
        return b""
    at = 1
    while frame[at] > 127:
        at += 1
    at += 1 + 2 + len(topic) + (2 if flags & 6 else 0)
    while frame[at] > 127:
        at += 1
    return frame[at + 1 : payload_at]


class Collected:
    """A sink that keeps packets: for tests, and for those who are in no hurry."""

    def __init__(self, version: int) -> None:
        self.version = version
        self.packets: list[Packet] = []

    def publish(self, frame: bytes, topic: bytes, flags: int, packet_id: int, payload_at: int) -> None:
        properties: Properties = {}
        if flags & HAS_PROPERTIES:
            encoded = properties_of(frame, topic, flags, payload_at)
            body = v5.with_length(encoded)
            properties = v5.read_properties(Reader(body, 0, len(body)), PUBLISH)
        self.packets.append(
            Publish(
                packets.text(topic),
                frame[payload_at:],
                flags >> 1 & 3,
                flags & 1 == 1,
                flags & 8 == 8,
                packet_id,
                properties,
            )
        )

    def puback(self, packet_id: int, reason: int) -> None:
        self.packets.append(Puback(packet_id, reason))

    def packet(self, packet: Packet) -> None:
        self.packets.append(packet)


def receive_all(connection: ServerConnection, data: bytes, now_ms: int = 0) -> list[Packet]:
    """`receive` as a list. Raises ProtocolError; topics that are not strings too."""
    sink = Collected(connection.version)
    connection.receive(data, now_ms, sink)
    return sink.packets


Pending: TypeAlias = Publish | Subscribe | Unsubscribe


class ClientConnection:
    """The client's side: a state, packets to send as bytes, and the packets that came.

    Order: `start`, CONNACK by `receive`, then the rest. A PUBLISH with QoS 1 is acknowledged by whoever got it, with `ack`.
    """

    __slots__ = (
        "_connect",
        "_ping_sent_ms",
        "_rest",
        "_sent_ms",
        "_state",
        "connack",
        "keep_alive_ms",
        "max_packet",
        "unacked",
        "version",
    )

    def __init__(self, connect: Connect, *, max_packet: int = packets.MAX_REMAINING) -> None:
        self.version = connect.version
        self.max_packet = max_packet
        self.unacked: Window[Pending] = Window(100)
        self.connack: Connack | None = None
        self.keep_alive_ms = connect.keep_alive_s * 1000
        self._connect = connect
        self._rest = bytearray()
        self._state = "new"  # new, connecting, open, closed
        self._sent_ms = 0
        self._ping_sent_ms = 0  # 0: none is on its way

    def __repr__(self) -> str:
        return f"ClientConnection({self._state}, version={self.version}, unacked={len(self.unacked)})"

    @property
    def is_open(self) -> bool:
        return self._state == "open"

    def start(self, now_ms: int) -> bytes:
        """The CONNECT. A connection object lives for one connection."""
        if self._state != "new":
            raise Conflict("this connection was started before")
        self._state = "connecting"
        self._sent_ms = now_ms
        return self._encode(self._connect)

    def publish(self, packet: Publish, now_ms: int) -> bytes:
        """Its packet id is set when the QoS is 1. Raises LimitExceeded when the window is full, Invalid, Conflict."""
        self._want_open(now_ms)
        if packet.qos:
            packet.packet_id = self.unacked.take(packet)
        try:
            return self._checked(self._encode(packet))
        except Invalid:
            if packet.qos:
                self.unacked.done(packet.packet_id)
            raise

    def subscribe(self, wishes: list[Wish], now_ms: int, properties: Properties | None = None) -> tuple[int, bytes]:
        self._want_open(now_ms)
        packet = Subscribe(0, wishes, properties if properties is not None else {})
        packet.packet_id = self.unacked.take(packet)
        return packet.packet_id, self._checked(self._encode(packet))

    def unsubscribe(self, filters: list[str], now_ms: int) -> tuple[int, bytes]:
        self._want_open(now_ms)
        packet = Unsubscribe(0, filters)
        packet.packet_id = self.unacked.take(packet)
        return packet.packet_id, self._checked(self._encode(packet))

    def ack(self, packet_id: int, now_ms: int, reason: int = 0) -> bytes:
        self._want_open(now_ms)
        return self._encode(Puback(packet_id, reason))

    def disconnect(self, reason: int = 0) -> bytes:
        if self._state == "closed":
            return b""
        self._state = "closed"
        return self._encode(Disconnect(reason))

    def next_timer_ms(self) -> int | None:
        """When `on_timer` wants to be called, in the time that `now_ms` has; None = never."""
        if self._state != "open" or self.keep_alive_ms == 0:
            return None
        if self._ping_sent_ms:
            return self._ping_sent_ms + self.keep_alive_ms // 2 + 1
        return self._sent_ms + self.keep_alive_ms

    def on_timer(self, now_ms: int) -> bytes:
        """Bytes to send, perhaps none. Raises ProtocolError when the server does not answer pings."""
        due = self.next_timer_ms()
        if due is None or now_ms < due:
            return b""
        if self._ping_sent_ms:
            self._state = "closed"
            raise ProtocolError("the server does not answer", packets.KEEP_ALIVE_TIMEOUT)
        self._ping_sent_ms = now_ms or 1
        self._sent_ms = now_ms
        return self._encode(Pingreq())

    def receive(self, data: bytes, now_ms: int) -> list[Packet]:
        """The packets that are whole now. Raises ProtocolError; the connection is then at its end."""
        if self._state in ("new", "closed"):
            return []
        self._rest += data
        found: list[Packet] = []
        try:
            while True:
                packet = self._next()
                if packet is None:
                    return found
                self._note(packet)
                found.append(packet)
                if self._state == "closed":
                    return found
        except ProtocolError:
            self._state = "closed"
            self._rest.clear()
            raise

    def _next(self) -> Packet | None:
        rest = self._rest
        body = 1
        length = 0
        shift = 0
        while True:
            if body >= len(rest):
                return None
            digit = rest[body]
            body += 1
            length |= (digit & 127) << shift
            if digit < 128:
                if digit == 0 and shift:
                    raise ProtocolError("the remaining length is longer than it needs to be")
                break
            shift += 7
            if shift > 21:
                raise ProtocolError("the remaining length has more than four bytes")
        stop = body + length
        if stop > self.max_packet:
            raise ProtocolError(f"packet of {stop} bytes; the limit is {self.max_packet}", PACKET_TOO_LARGE)
        if stop > len(rest):
            return None
        reader = Reader(bytes(rest[:stop]), body, stop)
        first = rest[0]
        del rest[:stop]
        return v5.decode(first, reader) if self.version == V5 else v311.decode(first, reader)

    def _note(self, packet: Packet) -> None:
        if self._state == "connecting":
            if not isinstance(packet, Connack):
                raise ProtocolError("the first answer is not CONNACK", PROTOCOL_ERROR)
            self.connack = packet
            self._state = "closed" if packet.reason else "open"
            keep_alive_s = packet.properties.get("server_keep_alive_s")
            if isinstance(keep_alive_s, int):
                self.keep_alive_ms = keep_alive_s * 1000
            limit = packet.properties.get("receive_maximum")
            self.unacked.limit = min(limit, 65535) if isinstance(limit, int) else (65535 if self.version == V5 else 100)
        elif isinstance(packet, (Connack, Connect, Subscribe, Unsubscribe, Pingreq)):
            raise ProtocolError(f"{type(packet).__name__} from a server", PROTOCOL_ERROR)
        elif isinstance(packet, Publish):
            if packet.qos == 2:
                raise ProtocolError("QoS 2 is not supported", packets.QOS_NOT_SUPPORTED)
            if not packet.topic:
                raise ProtocolError("topic aliases were not offered", TOPIC_ALIAS_INVALID)
        elif isinstance(packet, (Puback, Suback, Unsuback)):
            sent = self.unacked.done(packet.packet_id)
            wanted = Publish if isinstance(packet, Puback) else Subscribe if isinstance(packet, Suback) else Unsubscribe
            if not isinstance(sent, wanted):
                raise ProtocolError(f"{type(packet).__name__} for nothing that was sent", PROTOCOL_ERROR)
            if isinstance(packet, Suback) and isinstance(sent, Subscribe) and len(packet.reasons) != len(sent.wishes):
                raise ProtocolError("SUBACK with another number of codes", PROTOCOL_ERROR)
        elif isinstance(packet, Pingresp):
            self._ping_sent_ms = 0
        else:
            if self.version == V311:
                raise ProtocolError("DISCONNECT from a server", PROTOCOL_ERROR)
            self._state = "closed"

    def _want_open(self, now_ms: int) -> None:
        if self._state != "open":
            raise Conflict("there is no connection")
        self._sent_ms = now_ms

    def _encode(self, packet: Packet) -> bytes:
        return v5.encode(packet) if self.version == V5 else v311.encode(packet)

    def _checked(self, frame: bytes) -> bytes:
        limit = self.connack.properties.get("maximum_packet_size") if self.connack is not None else None
        if isinstance(limit, int) and len(frame) > limit:
            raise Invalid(f"packet of {len(frame)} bytes; the server takes {limit}", limit=limit)
        return frame
