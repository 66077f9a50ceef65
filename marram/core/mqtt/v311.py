"""MQTT 3.1.1: packet <-> bytes. Section numbers are those of the OASIS text of 29 October 2014. mypyc compiles this module."""

from marram.core.errors import Invalid, Unsupported
from marram.core.mqtt import fields, packets
from marram.core.mqtt.packets import (
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
    V311,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
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


def decode(first: int, body: Reader) -> Packet:
    """One packet whose fixed header was read. Raises ProtocolError."""
    kind = first >> 4
    flags = first & 15
    if kind == PUBLISH:
        return _publish(flags, body)
    wanted = 2 if kind in (SUBSCRIBE, UNSUBSCRIBE) else 0
    if flags != wanted:
        raise ProtocolError(f"{packets.NAMES[kind]} with flags {flags:#x}")  # 2.2.2
    packet: Packet
    if kind == PUBACK:
        packet = Puback(body.packet_id())
    elif kind == SUBSCRIBE:
        packet = _subscribe(body)
    elif kind == SUBACK:
        packet_id = body.packet_id()
        packet = Suback(packet_id, list(body.rest()))
        if not packet.reasons or any(code not in (0, 1, 2, 0x80) for code in packet.reasons):
            raise ProtocolError("SUBACK with a code that is not defined")  # 3.9.3
    elif kind == UNSUBSCRIBE:
        packet_id = body.packet_id()
        filters: list[str] = []
        while body.left():
            filters.append(body.text())
        if not filters:
            raise ProtocolError("UNSUBSCRIBE without a filter", PROTOCOL_ERROR)  # 3.10.3-2
        packet = Unsubscribe(packet_id, filters)
    elif kind == UNSUBACK:
        packet = Unsuback(body.packet_id())
    elif kind == PINGREQ:
        packet = Pingreq()
    elif kind == PINGRESP:
        packet = Pingresp()
    elif kind == DISCONNECT:
        packet = Disconnect()
    elif kind == CONNECT:
        raise ProtocolError("CONNECT where none may stand", PROTOCOL_ERROR)  # 3.1.0-2
    elif kind == CONNACK:
        present = body.byte()
        if present > 1:
            raise ProtocolError("CONNACK with reserved bits")  # 3.2.2.1
        code = body.byte()
        if code > 5 or (code and present):
            raise ProtocolError("CONNACK with a code that is not defined")  # 3.2.2.3
        packet = Connack(code, present == 1)
    elif kind == 0 or kind == 15:
        raise ProtocolError(f"packet type {kind} is reserved")
    else:
        raise ProtocolError(f"{packets.NAMES[kind]}: QoS 2 is not supported", QOS_NOT_SUPPORTED)
    body.finish()
    return packet


def connect(body: Reader) -> Connect:
    """From behind the protocol level on."""
    flags = body.byte()
    keep_alive_s = body.u16()
    fields.check_connect_flags(flags)
    if not flags & 0x80 and flags & 0x40:
        raise ProtocolError("CONNECT with a password but no user name")  # 3.1.2.9
    client_id = body.text()
    will = None
    if flags & 4:
        topic = body.text()
        will = Will(topic, body.binary(), flags >> 3 & 3, flags & 32 != 0)
    user_name, password = fields.user(body, flags)
    return Connect(client_id, V311, flags & 2 != 0, keep_alive_s, will, user_name, password)


def encode(packet: Packet) -> bytes:
    """Raises Invalid when the packet cannot be said in 3.1.1, Unsupported for properties it does not have."""
    if isinstance(packet, Publish):
        if packet.qos and not packet.packet_id:
            raise Invalid("QoS 1 wants a packet identifier")
        return packets.publish_frame(
            V311, packet.topic.encode(), packet.payload, packet.qos, packet.packet_id, packet.retain, packet.dup, b""
        )
    if isinstance(packet, Puback):
        return b"\x40\x02" + packets.u16(packet.packet_id)
    if isinstance(packet, Connack):
        return bytes((0x20, 2, 1 if packet.session_present else 0, packet.reason))
    if isinstance(packet, Suback):
        return packets.frame(0x90, packets.u16(packet.packet_id) + bytes(packet.reasons))
    if isinstance(packet, Unsuback):
        return b"\xb0\x02" + packets.u16(packet.packet_id)
    if isinstance(packet, Pingreq):
        return b"\xc0\x00"
    if isinstance(packet, Pingresp):
        return b"\xd0\x00"
    if isinstance(packet, Disconnect):
        return b"\xe0\x00"
    if packet.properties:
        raise Unsupported("MQTT 3.1.1 has no properties")
    if isinstance(packet, Subscribe):
        out = packets.u16(packet.packet_id)
        for wish in packet.wishes:
            out += packets.string(wish.filter) + bytes((wish.qos,))
        return packets.frame(0x82, out)
    if isinstance(packet, Unsubscribe):
        out = packets.u16(packet.packet_id)
        for text in packet.filters:
            out += packets.string(text)
        return packets.frame(0xA2, out)
    return packets.frame(0x10, fields.connect_head(packet) + fields.connect_payload(packet, b""))


def _publish(flags: int, body: Reader) -> Publish:
    qos = flags >> 1 & 3
    fields.check_publish_flags(flags)
    topic = body.text()
    packet_id = body.packet_id() if qos else 0
    return Publish(topic, body.rest(), qos, flags & 1 == 1, flags & 8 == 8, packet_id)


def _subscribe(body: Reader) -> Subscribe:
    packet_id = body.packet_id()
    wishes: list[Wish] = []
    while body.left():
        text = body.text()
        qos = body.byte()
        if qos > 2:
            raise ProtocolError("SUBSCRIBE with reserved bits")  # 3.8.3-4
        wishes.append(Wish(text, qos))
    if not wishes:
        raise ProtocolError("SUBSCRIBE without a filter", PROTOCOL_ERROR)  # 3.8.3-3
    return Subscribe(packet_id, wishes)
