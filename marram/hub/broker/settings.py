"""What of the broker can be set: counts, times, rates. Sizes and counts are AWS's; a rate of 0 is off, and all are by default.

`AWS_RATES` are the rates of AWS's quota page. Who reads marram.toml is the border (limits).
"""

from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    expiry_s: int = 3600  # of a 3.1.1 session with clean session 0
    max_expiry_s: int = 7 * 24 * 3600
    queue: int = 10_000  # messages that wait for a session, or for a shared subscription; what comes later is dropped
    in_flight: int = 100  # QoS 1 without PUBACK, each way
    subscriptions: int = 50  # of a session
    will_bytes: int = 64 << 20  # of all wills together: they are in memory as long as their clients are here
    publish_per_s: int = 0  # of a connection; more is discarded: MQTT 5 with QoS 1 is told 0x97, others nothing
    delivery_per_s: int = 0  # to a connection; QoS 0 is discarded, QoS 1 waits in the queue of a persistent session
    bytes_per_s: int = 0  # from a connection; more is read later
    connects_per_s: int = 0  # of the hub
    connect_per_client_id_per_s: int = 0
    stored_drain_per_s: int = 0  # messages that waited, to one session; what is new then goes beside them, not behind
    shared_drain_per_s: int = 0  # messages that waited for a shared subscription, to one of its members
    subscriptions_per_s: int = 0  # filters, of the hub


AWS_RATES: Final[dict[str, Any]] = {
    "publish_per_s": 100,
    "delivery_per_s": 100,
    "bytes_per_s": 512 << 10,
    "connects_per_s": 500,
    "connect_per_client_id_per_s": 1,
    "stored_drain_per_s": 10,
    "shared_drain_per_s": 20,
    "subscriptions_per_s": 500,
}
