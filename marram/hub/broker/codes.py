"""Reason codes as AWS sends them: those of MQTT 5 that it does not have are said by the nearest that it has.

Source: AWS IoT Developer Guide, "MQTT", MQTT 5 supported features (reason codes). The log and the reason string stay exact.
"""

from collections.abc import Mapping
from typing import Final

from marram.core.mqtt import packets

_CONNACK: Final[Mapping[int, int]] = {
    packets.CONNECTION_RATE_EXCEEDED: packets.QUOTA_EXCEEDED,
    packets.BAD_AUTHENTICATION_METHOD: packets.UNSPECIFIED_ERROR,
}
_DISCONNECT: Final[Mapping[int, int]] = {
    packets.PACKET_TOO_LARGE: packets.QUOTA_EXCEEDED,
    packets.PAYLOAD_FORMAT_INVALID: packets.MALFORMED_PACKET,
    packets.BAD_AUTHENTICATION_METHOD: packets.PROTOCOL_ERROR,
    packets.MESSAGE_RATE_TOO_HIGH: packets.QUOTA_EXCEEDED,
}


def connack(reason: int) -> int:
    return _CONNACK.get(reason, reason)


def disconnect(reason: int) -> int:
    return _DISCONNECT.get(reason, reason)
