"""The control packets of both versions as values, the reason codes, and what is common to their bytes.

One class a packet: what a version lacks stays at its default. AUTH and the packets of QoS 2 are refused by name.
Not frozen: they are made per message and never changed after they were handed over. mypyc compiles this module.
Sources: MQTT 3.1.1 and MQTT 5.0 (OASIS), sections named at the rules.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeAlias, cast

from marram.core.errors import Invalid

V311: Final = 4
V5: Final = 5

CONNECT: Final = 1
CONNACK: Final = 2
PUBLISH: Final = 3
PUBACK: Final = 4
PUBREC: Final = 5
PUBREL: Final = 6
PUBCOMP: Final = 7
SUBSCRIBE: Final = 8
SUBACK: Final = 9
UNSUBSCRIBE: Final = 10
UNSUBACK: Final = 11
PINGREQ: Final = 12
PINGRESP: Final = 13
DISCONNECT: Final = 14
AUTH: Final = 15

NAMES: Final = (
    *("reserved", "CONNECT", "CONNACK", "PUBLISH", "PUBACK", "PUBREC", "PUBREL", "PUBCOMP", "SUBSCRIBE", "SUBACK"),
    *("UNSUBSCRIBE", "UNSUBACK", "PINGREQ", "PINGRESP", "DISCONNECT", "AUTH"),
)

# MQTT 5.0, 2.4: those that Marram sends or gives a meaning to
SUCCESS: Final = 0x00
NORMAL_DISCONNECTION: Final = 0x00
DISCONNECT_WITH_WILL: Final = 0x04
NO_MATCHING_SUBSCRIBERS: Final = 0x10
NO_SUBSCRIPTION_EXISTED: Final = 0x11
UNSPECIFIED_ERROR: Final = 0x80
MALFORMED_PACKET: Final = 0x81
PROTOCOL_ERROR: Final = 0x82
IMPLEMENTATION_SPECIFIC: Final = 0x83
UNSUPPORTED_VERSION: Final = 0x84
CLIENT_ID_NOT_VALID: Final = 0x85
BAD_CREDENTIALS: Final = 0x86
NOT_AUTHORIZED: Final = 0x87
SERVER_UNAVAILABLE: Final = 0x88
SERVER_BUSY: Final = 0x89
SERVER_SHUTTING_DOWN: Final = 0x8B
BAD_AUTHENTICATION_METHOD: Final = 0x8C
KEEP_ALIVE_TIMEOUT: Final = 0x8D
SESSION_TAKEN_OVER: Final = 0x8E
TOPIC_FILTER_INVALID: Final = 0x8F
TOPIC_NAME_INVALID: Final = 0x90
PACKET_ID_IN_USE: Final = 0x91
RECEIVE_MAXIMUM_EXCEEDED: Final = 0x93
TOPIC_ALIAS_INVALID: Final = 0x94
PACKET_TOO_LARGE: Final = 0x95
MESSAGE_RATE_TOO_HIGH: Final = 0x96
QUOTA_EXCEEDED: Final = 0x97
ADMINISTRATIVE_ACTION: Final = 0x98
PAYLOAD_FORMAT_INVALID: Final = 0x99
RETAIN_NOT_SUPPORTED: Final = 0x9A
QOS_NOT_SUPPORTED: Final = 0x9B
SHARED_NOT_SUPPORTED: Final = 0x9E
CONNECTION_RATE_EXCEEDED: Final = 0x9F
SUBSCRIPTION_IDS_NOT_SUPPORTED: Final = 0xA1
WILDCARDS_NOT_SUPPORTED: Final = 0xA2

# MQTT 3.1.1, 3.2.2.3
V311_ACCEPTED: Final = 0
V311_BAD_VERSION: Final = 1
V311_ID_REJECTED: Final = 2
V311_UNAVAILABLE: Final = 3
V311_BAD_CREDENTIALS: Final = 4
V311_NOT_AUTHORIZED: Final = 5
SUBACK_FAILURE: Final = 0x80

MAX_REMAINING: Final = 268_435_455

PropertyValue: TypeAlias = int | str | bytes | list[int] | list[tuple[str, str]]
Properties: TypeAlias = dict[str, PropertyValue]
# A call of `dict[str, PropertyValue]` costs five times as much.
_NO_PROPERTIES: Final = cast("Callable[[], Properties]", dict)
_NO_REASONS: Final = cast("Callable[[], list[int]]", list)


class ProtocolError(Invalid):
    """The peer broke the protocol: the connection ends. `reason` is the MQTT 5 code that says how."""

    def __init__(self, message: str, reason: int = MALFORMED_PACKET) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(slots=True)
class Will:
    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    properties: Properties = field(default_factory=_NO_PROPERTIES)


@dataclass(slots=True)
class Connect:
    client_id: str
    version: int = V311
    clean: bool = True
    keep_alive_s: int = 0
    will: Will | None = None
    user_name: str | None = None
    password: bytes | None = None
    properties: Properties = field(default_factory=_NO_PROPERTIES)


@dataclass(slots=True)
class Connack:
    """`reason`: a return code of 3.1.1 or a reason code of 5."""

    reason: int = 0
    session_present: bool = False
    properties: Properties = field(default_factory=_NO_PROPERTIES)


@dataclass(slots=True)
class Publish:
    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    dup: bool = False
    packet_id: int = 0  # 0 with QoS 0
    properties: Properties = field(default_factory=_NO_PROPERTIES)


@dataclass(slots=True)
class Puback:
    packet_id: int
    reason: int = 0
    properties: Properties = field(default_factory=_NO_PROPERTIES)


@dataclass(slots=True)
class Wish:
    """One filter of a SUBSCRIBE."""

    filter: str
    qos: int = 0
    no_local: bool = False
    retain_as_published: bool = False
    retain_handling: int = 0


@dataclass(slots=True)
class Subscribe:
    packet_id: int
    wishes: list[Wish]
    properties: Properties = field(default_factory=_NO_PROPERTIES)


@dataclass(slots=True)
class Suback:
    packet_id: int
    reasons: list[int]
    properties: Properties = field(default_factory=_NO_PROPERTIES)


@dataclass(slots=True)
class Unsubscribe:
    packet_id: int
    filters: list[str]
    properties: Properties = field(default_factory=_NO_PROPERTIES)


@dataclass(slots=True)
class Unsuback:
    """`reasons` is empty in 3.1.1."""

    packet_id: int
    reasons: list[int] = field(default_factory=_NO_REASONS)
    properties: Properties = field(default_factory=_NO_PROPERTIES)


@dataclass(slots=True)
class Pingreq:
    pass


@dataclass(slots=True)
class Pingresp:
    pass


@dataclass(slots=True)
class Disconnect:
    reason: int = 0
    properties: Properties = field(default_factory=_NO_PROPERTIES)


Packet: TypeAlias = (
    Connect | Connack | Publish | Puback | Subscribe | Suback | Unsubscribe | Unsuback | Pingreq | Pingresp | Disconnect
)


class Reader:
    """A cursor over one packet's body. Every size is checked before anything is copied."""

    __slots__ = ("at", "data", "end")

    def __init__(self, data: bytes, at: int, end: int) -> None:
        self.data = data
        self.at = at
        self.end = end

    def left(self) -> int:
        return self.end - self.at

    def byte(self) -> int:
        if self.at >= self.end:
            raise ProtocolError("packet ends early")
        value = self.data[self.at]
        self.at += 1
        return value

    def u16(self) -> int:
        at = self.at
        if at + 2 > self.end:
            raise ProtocolError("packet ends early")
        self.at = at + 2
        return self.data[at] << 8 | self.data[at + 1]

    def u32(self) -> int:
        return self.u16() << 16 | self.u16()

    def varint(self) -> int:
        """MQTT 5.0, 1.5.5: at most four bytes, the shortest form."""
        value = 0
        shift = 0
        while shift < 28:
            digit = self.byte()
            value |= (digit & 127) << shift
            if digit < 128:
                if digit == 0 and shift > 0:
                    raise ProtocolError("a variable byte integer is longer than it needs to be")
                return value
            shift += 7
        raise ProtocolError("a variable byte integer has more than four bytes")

    def binary(self) -> bytes:
        length = self.u16()
        at = self.at
        if at + length > self.end:
            raise ProtocolError("packet ends early")
        self.at = at + length
        return self.data[at : self.at]

    def text(self) -> str:
        return text(self.binary())

    def rest(self) -> bytes:
        at = self.at
        self.at = self.end
        return self.data[at : self.end]

    def packet_id(self) -> int:
        value = self.u16()
        if value == 0:
            raise ProtocolError("packet identifier 0", PROTOCOL_ERROR)
        return value

    def finish(self) -> None:
        if self.at != self.end:
            raise ProtocolError(f"{self.end - self.at} bytes too many in the packet")


def text(raw: bytes) -> str:
    """A UTF-8 string by MQTT 5.0, 1.5.4: no NUL, no surrogates (Python's decoder refuses them)."""
    try:
        value = raw.decode()
    except UnicodeDecodeError as exc:
        raise ProtocolError(f"a string is not UTF-8 at byte {exc.start}") from exc
    if "\0" in value:
        raise ProtocolError("a string has a NUL character")
    return value


def varint(value: int) -> bytes:
    if value < 128:
        return bytes((value,))
    if value > MAX_REMAINING:
        raise Invalid(f"{value} is too large for a variable byte integer")
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def u16(value: int) -> bytes:
    return bytes((value >> 8 & 255, value & 255))


def binary(raw: bytes) -> bytes:
    if len(raw) > 65535:
        raise Invalid("a string or binary field is over 65535 bytes")
    return u16(len(raw)) + raw


def string(value: str) -> bytes:
    try:
        return binary(value.encode())
    except UnicodeEncodeError as exc:
        raise Invalid(f"{value!r} is not a string that UTF-8 has") from exc


def frame(first: int, body: bytes) -> bytes:
    return bytes((first,)) + varint(len(body)) + body


def publish_frame(
    version: int, topic: bytes, payload: bytes, qos: int, packet_id: int, retain: bool, dup: bool, properties: bytes
) -> bytes:
    """`properties`: encoded, without their length; left out in 3.1.1."""
    first = 0x30 | qos << 1 | (1 if retain else 0) | (8 if dup else 0)
    size = len(topic)
    head = topic
    if qos:
        head += bytes((packet_id >> 8 & 255, packet_id & 255))
    if version == V5:
        head += varint(len(properties)) + properties
    length = 2 + len(head) + len(payload)
    if length < 128:
        return bytes((first, length, size >> 8 & 255, size & 255)) + head + payload
    if length < 16384:
        return bytes((first, length & 127 | 128, length >> 7, size >> 8 & 255, size & 255)) + head + payload
    return bytes((first,)) + varint(length) + u16(size) + head + payload
