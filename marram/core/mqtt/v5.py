"""MQTT 5.0: packet <-> bytes, properties. Section numbers are those of the OASIS text of 7 March 2019. mypyc compiles this module."""

from typing import Final, cast

from marram.core.errors import Invalid
from marram.core.mqtt import fields, packets
from marram.core.mqtt.packets import (
    AUTH,
    BAD_AUTHENTICATION_METHOD,
    CONNACK,
    CONNECT,
    DISCONNECT,
    PINGREQ,
    PINGRESP,
    PROTOCOL_ERROR,
    PUBACK,
    PUBLISH,
    QOS_NOT_SUPPORTED,
    SUBACK,
    SUBSCRIBE,
    UNSUBACK,
    UNSUBSCRIBE,
    V5,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Properties,
    PropertyValue,
    ProtocolError,
    Puback,
    Publish,
    Reader,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
    Will,
    Wish,
)

_BYTE: Final = 0
_U16: Final = 1
_U32: Final = 2
_VARINT: Final = 3
_TEXT: Final = 4
_BINARY: Final = 5
_PAIR: Final = 6

WILL: Final = 0  # not a packet type: the property set of a will

# 2.2.2.2: id -> name, type, where it may stand
TABLE: Final[dict[int, tuple[str, int, tuple[int, ...]]]] = {
    0x01: ("payload_format", _BYTE, (PUBLISH, WILL)),
    0x02: ("message_expiry_s", _U32, (PUBLISH, WILL)),
    0x03: ("content_type", _TEXT, (PUBLISH, WILL)),
    0x08: ("response_topic", _TEXT, (PUBLISH, WILL)),
    0x09: ("correlation_data", _BINARY, (PUBLISH, WILL)),
    0x0B: ("subscription_identifiers", _VARINT, (PUBLISH, SUBSCRIBE)),
    0x11: ("session_expiry_s", _U32, (CONNECT, CONNACK, DISCONNECT)),
    0x12: ("assigned_client_id", _TEXT, (CONNACK,)),
    0x13: ("server_keep_alive_s", _U16, (CONNACK,)),
    0x15: ("authentication_method", _TEXT, (CONNECT, CONNACK, AUTH)),
    0x16: ("authentication_data", _BINARY, (CONNECT, CONNACK, AUTH)),
    0x17: ("request_problem_information", _BYTE, (CONNECT,)),
    0x18: ("will_delay_s", _U32, (WILL,)),
    0x19: ("request_response_information", _BYTE, (CONNECT,)),
    0x1A: ("response_information", _TEXT, (CONNACK,)),
    0x1C: ("server_reference", _TEXT, (CONNACK, DISCONNECT)),
    0x1F: ("reason_string", _TEXT, (CONNACK, PUBACK, SUBACK, UNSUBACK, DISCONNECT, AUTH)),
    0x21: ("receive_maximum", _U16, (CONNECT, CONNACK)),
    0x22: ("topic_alias_maximum", _U16, (CONNECT, CONNACK)),
    0x23: ("topic_alias", _U16, (PUBLISH,)),
    0x24: ("maximum_qos", _BYTE, (CONNACK,)),
    0x25: ("retain_available", _BYTE, (CONNACK,)),
    0x26: (
        "user_properties",
        _PAIR,
        (CONNECT, CONNACK, PUBLISH, WILL, PUBACK, SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK, DISCONNECT, AUTH),
    ),
    0x27: ("maximum_packet_size", _U32, (CONNECT, CONNACK)),
    0x28: ("wildcard_available", _BYTE, (CONNACK,)),
    0x29: ("subscription_identifiers_available", _BYTE, (CONNACK,)),
    0x2A: ("shared_available", _BYTE, (CONNACK,)),
}
_IDS: Final[dict[str, int]] = {row[0]: number for number, row in TABLE.items()}
_BOOLEAN: Final = (0x01, 0x17, 0x19, 0x24, 0x25, 0x28, 0x29, 0x2A)
_NOT_ZERO: Final = (0x0B, 0x21, 0x23, 0x27)


def read_properties(body: Reader, where: int) -> Properties:
    """The length and the properties after it. Raises ProtocolError for one that may not stand there or comes twice."""
    length = body.varint()
    if length == 0:
        return {}
    if length > body.left():
        raise ProtocolError("properties are longer than their packet")
    part = Reader(body.data, body.at, body.at + length)
    body.at += length
    found: Properties = {}
    while part.at < part.end:
        number = part.varint()
        row = TABLE.get(number)
        if row is None or where not in row[2]:
            raise ProtocolError(f"property {number:#x} does not belong here")
        name = row[0]
        kind = row[1]
        if kind == _PAIR:
            key = part.text()
            pairs = cast("list[tuple[str, str]]", found.setdefault(name, []))
            pairs.append((key, part.text()))
            continue
        value: PropertyValue
        if kind == _BYTE:
            value = part.byte()
            if number in _BOOLEAN and value > 1:
                raise ProtocolError(f"{name} is neither 0 nor 1", PROTOCOL_ERROR)
        elif kind == _U16:
            value = part.u16()
        elif kind == _U32:
            value = part.u32()
        elif kind == _VARINT:
            value = part.varint()
        elif kind == _TEXT:
            value = part.text()
        else:
            value = part.binary()
        if number in _NOT_ZERO and value == 0:
            raise ProtocolError(f"{name} 0", PROTOCOL_ERROR)
        if number == 0x0B:
            ids = cast("list[int]", found.setdefault(name, []))
            if ids and where == SUBSCRIBE:
                raise ProtocolError(f"{name} twice", PROTOCOL_ERROR)
            ids.append(cast(int, value))
        elif name in found:
            raise ProtocolError(f"{name} twice", PROTOCOL_ERROR)
        else:
            found[name] = value
    return found


def write_properties(properties: Properties, where: int) -> bytes:
    """Without their length, in the order of the mapping. Raises Invalid for one that may not stand there."""
    if not properties:
        return b""
    out = bytearray()
    for name, value in properties.items():
        number = _IDS.get(name)
        if number is None or where not in TABLE[number][2]:
            raise Invalid(f"property {name} does not belong there")
        kind = TABLE[number][1]
        if kind == _PAIR:
            for key, text in cast("list[tuple[str, str]]", value):
                out.append(number)
                out += packets.string(key)
                out += packets.string(text)
        elif kind == _VARINT:
            for identifier in cast("list[int]", value):
                out.append(number)
                out += packets.varint(identifier)
        else:
            out.append(number)
            if kind == _BYTE:
                out.append(cast(int, value))
            elif kind == _U16:
                out += packets.u16(cast(int, value))
            elif kind == _U32:
                out += cast(int, value).to_bytes(4, "big")
            elif kind == _TEXT:
                out += packets.string(cast(str, value))
            else:
                out += packets.binary(cast(bytes, value))
    return bytes(out)


def with_length(properties: bytes) -> bytes:
    return packets.varint(len(properties)) + properties


def decode(first: int, body: Reader) -> Packet:
    """One packet whose fixed header was read. Raises ProtocolError."""
    kind = first >> 4
    flags = first & 15
    if kind == PUBLISH:
        return _publish(flags, body)
    wanted = 2 if kind in (SUBSCRIBE, UNSUBSCRIBE) else 0
    if flags != wanted:
        raise ProtocolError(f"{packets.NAMES[kind]} with flags {flags:#x}")
    packet: Packet
    if kind == PUBACK:
        packet_id = body.packet_id()
        reason = body.byte() if body.left() else 0  # 3.4.2.1
        packet = Puback(packet_id, reason, read_properties(body, PUBACK) if body.left() else {})
    elif kind == SUBSCRIBE:
        packet = _subscribe(body)
    elif kind == SUBACK:
        packet_id = body.packet_id()
        properties = read_properties(body, SUBACK)
        packet = Suback(packet_id, list(body.rest()), properties)
        if not packet.reasons:
            raise ProtocolError("SUBACK without a code", PROTOCOL_ERROR)
    elif kind == UNSUBSCRIBE:
        packet_id = body.packet_id()
        properties = read_properties(body, UNSUBSCRIBE)
        filters: list[str] = []
        while body.left():
            filters.append(body.text())
        if not filters:
            raise ProtocolError("UNSUBSCRIBE without a filter", PROTOCOL_ERROR)
        packet = Unsubscribe(packet_id, filters, properties)
    elif kind == UNSUBACK:
        packet_id = body.packet_id()
        properties = read_properties(body, UNSUBACK)
        packet = Unsuback(packet_id, list(body.rest()), properties)
        if not packet.reasons:
            raise ProtocolError("UNSUBACK without a code", PROTOCOL_ERROR)
    elif kind == PINGREQ:
        packet = Pingreq()
    elif kind == PINGRESP:
        packet = Pingresp()
    elif kind == DISCONNECT:
        reason = body.byte() if body.left() else 0  # 3.14.2.1
        packet = Disconnect(reason, read_properties(body, DISCONNECT) if body.left() else {})
    elif kind == CONNECT:
        raise ProtocolError("CONNECT where none may stand", PROTOCOL_ERROR)
    elif kind == CONNACK:
        present = body.byte()
        if present > 1:
            raise ProtocolError("CONNACK with reserved bits")
        code = body.byte()
        packet = Connack(code, present == 1, read_properties(body, CONNACK) if body.left() else {})
    elif kind == 0:
        raise ProtocolError("packet type 0 is reserved")
    elif kind == AUTH:
        raise ProtocolError("AUTH is not supported", BAD_AUTHENTICATION_METHOD)
    else:
        raise ProtocolError(f"{packets.NAMES[kind]}: QoS 2 is not supported", QOS_NOT_SUPPORTED)
    body.finish()
    return packet


def connect(body: Reader) -> Connect:
    """From behind the protocol level on."""
    flags = body.byte()
    keep_alive_s = body.u16()
    fields.check_connect_flags(flags)
    properties = read_properties(body, CONNECT)
    if "authentication_data" in properties and "authentication_method" not in properties:
        raise ProtocolError("authentication data without a method", PROTOCOL_ERROR)  # 3.1.2.11.10
    client_id = body.text()
    will = None
    if flags & 4:
        will_properties = read_properties(body, WILL)
        topic = body.text()
        will = Will(topic, body.binary(), flags >> 3 & 3, flags & 32 != 0, will_properties)
        check_format(will_properties, will.payload)
    user_name, password = fields.user(body, flags)
    return Connect(client_id, V5, flags & 2 != 0, keep_alive_s, will, user_name, password, properties)


def encode(packet: Packet) -> bytes:
    """Raises Invalid when the packet cannot be said."""
    if isinstance(packet, Publish):
        if packet.qos and not packet.packet_id:
            raise Invalid("QoS 1 wants a packet identifier")
        return packets.publish_frame(
            V5,
            packet.topic.encode(),
            packet.payload,
            packet.qos,
            packet.packet_id,
            packet.retain,
            packet.dup,
            write_properties(packet.properties, PUBLISH),
        )
    if isinstance(packet, Puback):
        if not packet.reason and not packet.properties:
            return b"\x40\x02" + packets.u16(packet.packet_id)
        body = packets.u16(packet.packet_id) + bytes((packet.reason,))
        if packet.properties:
            body += with_length(write_properties(packet.properties, PUBACK))
        return packets.frame(0x40, body)
    if isinstance(packet, Connack):
        body = bytes((1 if packet.session_present else 0, packet.reason))
        return packets.frame(0x20, body + with_length(write_properties(packet.properties, CONNACK)))
    if isinstance(packet, Suback):
        properties = with_length(write_properties(packet.properties, SUBACK))
        return packets.frame(0x90, packets.u16(packet.packet_id) + properties + bytes(packet.reasons))
    if isinstance(packet, Unsuback):
        properties = with_length(write_properties(packet.properties, UNSUBACK))
        return packets.frame(0xB0, packets.u16(packet.packet_id) + properties + bytes(packet.reasons))
    if isinstance(packet, Pingreq):
        return b"\xc0\x00"
    if isinstance(packet, Pingresp):
        return b"\xd0\x00"
    if isinstance(packet, Disconnect):
        if not packet.reason and not packet.properties:
            return b"\xe0\x00"
        body = bytes((packet.reason,))
        if packet.properties:
            body += with_length(write_properties(packet.properties, DISCONNECT))
        return packets.frame(0xE0, body)
    if isinstance(packet, Subscribe):
        body = packets.u16(packet.packet_id) + with_length(write_properties(packet.properties, SUBSCRIBE))
        for wish in packet.wishes:
            options = wish.qos | (4 if wish.no_local else 0) | (8 if wish.retain_as_published else 0)
            body += packets.string(wish.filter) + bytes((options | wish.retain_handling << 4,))
        return packets.frame(0x82, body)
    if isinstance(packet, Unsubscribe):
        body = packets.u16(packet.packet_id) + with_length(write_properties(packet.properties, UNSUBSCRIBE))
        for text in packet.filters:
            body += packets.string(text)
        return packets.frame(0xA2, body)
    will = with_length(write_properties(packet.will.properties, WILL)) if packet.will is not None else b""
    properties = with_length(write_properties(packet.properties, CONNECT))
    return packets.frame(0x10, fields.connect_head(packet) + properties + fields.connect_payload(packet, will))


def check_format(properties: Properties, payload: bytes) -> None:
    """3.3.2.3.2: a payload that says it is text must be text."""
    if properties.get("payload_format") == 1:
        try:
            payload.decode()
        except UnicodeDecodeError as exc:
            raise ProtocolError("the payload is not the UTF-8 it says it is", packets.PAYLOAD_FORMAT_INVALID) from exc


def _publish(flags: int, body: Reader) -> Publish:
    fields.check_publish_flags(flags)
    qos = flags >> 1 & 3
    topic = body.text()
    packet_id = body.packet_id() if qos else 0
    properties = read_properties(body, PUBLISH)
    return Publish(topic, body.rest(), qos, flags & 1 == 1, flags & 8 == 8, packet_id, properties)


def _subscribe(body: Reader) -> Subscribe:
    packet_id = body.packet_id()
    properties = read_properties(body, SUBSCRIBE)
    wishes: list[Wish] = []
    while body.left():
        text = body.text()
        options = body.byte()
        if options & 0xC0 or options & 3 == 3:
            raise ProtocolError("SUBSCRIBE with reserved bits")  # 3.8.3.1
        handling = options >> 4 & 3
        if handling == 3:
            raise ProtocolError("Retain Handling 3", PROTOCOL_ERROR)
        no_local = options & 4 != 0
        if no_local and text.startswith("$share/"):
            raise ProtocolError("No Local on a shared subscription", PROTOCOL_ERROR)  # 3.8.3-4
        wishes.append(Wish(text, options & 3, no_local, options & 8 != 0, handling))
    if not wishes:
        raise ProtocolError("SUBSCRIBE without a filter", PROTOCOL_ERROR)
    return Subscribe(packet_id, wishes, properties)
