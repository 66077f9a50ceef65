"""What both versions have in common inside their packets: the head of CONNECT, its flags, its payload, the flags of PUBLISH. Pure.

Sections are those of MQTT 3.1.1; 5.0 says the same. What only one version has is in v311.py or v5.py. mypyc compiles this module.
"""

from marram.core.mqtt import packets
from marram.core.mqtt.packets import UNSUPPORTED_VERSION, V5, V311, Connect, ProtocolError, Reader


def protocol(body: Reader) -> int:
    """The protocol level at the beginning of a CONNECT: 4 or 5. Raises ProtocolError, UNSUPPORTED_VERSION for another one."""
    if body.binary() != b"MQTT":
        raise ProtocolError("the protocol name is not MQTT", UNSUPPORTED_VERSION)  # 3.1.2.1
    version = body.byte()
    if version not in (V311, V5):
        raise ProtocolError(f"protocol level {version} is not supported: 4 (MQTT 3.1.1) and 5 are", UNSUPPORTED_VERSION)
    return version


def check_connect_flags(flags: int) -> None:
    """3.1.2.3 to 3.1.2.6."""
    if flags & 1:
        raise ProtocolError("CONNECT with the reserved flag")
    if flags & 4:
        if flags & 0x18 == 0x18:
            raise ProtocolError("Will QoS 3")
    elif flags & 0x38:
        raise ProtocolError("Will QoS or Will Retain without a will")


def check_publish_flags(flags: int) -> None:
    if flags & 6 == 6:
        raise ProtocolError("QoS 3")  # 3.3.1-4
    if flags & 14 == 8:
        raise ProtocolError("DUP with QoS 0")  # 3.3.1-2


def user(body: Reader, flags: int) -> tuple[str | None, bytes | None]:
    """User name and password: the end of a CONNECT."""
    name = body.text() if flags & 0x80 else None
    password = body.binary() if flags & 0x40 else None
    body.finish()
    return name, password


def connect_head(packet: Connect) -> bytes:
    flags = 2 if packet.clean else 0
    if packet.will is not None:
        flags |= 4 | packet.will.qos << 3 | (32 if packet.will.retain else 0)
    if packet.user_name is not None:
        flags |= 0x80
    if packet.password is not None:
        flags |= 0x40
    return b"\x00\x04MQTT" + bytes((packet.version, flags)) + packets.u16(packet.keep_alive_s)


def connect_payload(packet: Connect, will_properties: bytes) -> bytes:
    out = packets.string(packet.client_id)
    if packet.will is not None:
        out += will_properties + packets.string(packet.will.topic) + packets.binary(packet.will.payload)
    if packet.user_name is not None:
        out += packets.string(packet.user_name)
    if packet.password is not None:
        out += packets.binary(packet.password)
    return out
