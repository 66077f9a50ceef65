"""Rates: buckets of tokens, those of a connection, those of the hub. Nothing of it exists for a rate that is off.

A bucket holds one second's worth. Time is the clock's, in nanoseconds. Not here: what happens to what is over the rate.
"""

from typing import Final

from marram.hub.broker.settings import Settings
from marram.kit import metrics
from marram.kit.clock import Clock

SECOND_NS: Final = 1_000_000_000
MAX_CLIENTS: Final = 100_000

hits: Final = metrics.counter("marram_limit_hits_total", "What was over a limit, by limit", ("limit",))


class Bucket:
    """`take` what may go now; `owe` what has gone already, and learn how long to wait."""

    __slots__ = ("_at_ns", "_clock", "_hits", "_tokens", "rate")

    def __init__(self, clock: Clock, rate: int, limit: str) -> None:
        self.rate = rate
        self._clock = clock
        self._tokens = float(rate)
        self._at_ns = clock.mono_ns()
        self._hits = hits.labels(limit=limit)

    def take(self, count: int = 1) -> bool:
        self._fill()
        if self._tokens < count:
            self._hits.inc()
            return False
        self._tokens -= count
        return True

    def has(self) -> bool:
        """Whether `take` would give one. Does not count as a hit."""
        self._fill()
        return self._tokens >= 1

    def owe(self, count: int) -> float:
        """Take it in any case; the seconds until the debt is paid, 0 when there is none."""
        self._fill()
        self._tokens -= count
        if self._tokens >= 0:
            return 0.0
        self._hits.inc()
        return -self._tokens / self.rate

    def _fill(self) -> None:
        now_ns = self._clock.mono_ns()
        self._tokens = min(float(self.rate), self._tokens + (now_ns - self._at_ns) * self.rate / SECOND_NS)
        self._at_ns = now_ns


class LinkRates:
    """The buckets of one connection; None where the rate is off."""

    __slots__ = ("bytes_in", "delivery", "publish", "shared", "stored")

    def __init__(self, clock: Clock, settings: Settings) -> None:
        self.publish = _bucket(clock, settings.publish_per_s, "publish_per_s")
        self.delivery = _bucket(clock, settings.delivery_per_s, "delivery_per_s")
        self.bytes_in = _bucket(clock, settings.bytes_per_s, "bytes_per_s")
        self.stored = _bucket(clock, settings.stored_drain_per_s, "stored_drain_per_s")
        self.shared = _bucket(clock, settings.shared_drain_per_s, "shared_drain_per_s")

    def may_deliver(self) -> bool:
        return self.delivery is None or self.delivery.take()


class HubRates:
    """What counts for the hub as a whole, and makes the buckets of connections."""

    def __init__(self, clock: Clock, settings: Settings) -> None:
        self._clock, self._settings = clock, settings
        self._connects = _bucket(clock, settings.connects_per_s, "connects_per_s")
        self._subscriptions = _bucket(clock, settings.subscriptions_per_s, "subscriptions_per_s")
        self._seen_ns: dict[str, int] = {}  # by client id: its last CONNECT
        self._has_any = bool(
            settings.publish_per_s
            or settings.delivery_per_s
            or settings.bytes_per_s
            or settings.stored_drain_per_s
            or settings.shared_drain_per_s
        )

    def of_link(self) -> LinkRates | None:
        return LinkRates(self._clock, self._settings) if self._has_any else None

    def may_connect(self, client_id: str) -> str:
        """The name of the rate that does not allow it, or nothing."""
        if self._connects is not None and not self._connects.take():
            return "connects_per_s"
        rate = self._settings.connect_per_client_id_per_s
        if rate:
            now_ns = self._clock.mono_ns()
            if now_ns - self._seen_ns.get(client_id, -SECOND_NS) < SECOND_NS // rate:
                hits.inc(limit="connect_per_client_id_per_s")
                return "connect_per_client_id_per_s"
            if len(self._seen_ns) >= MAX_CLIENTS:
                self._seen_ns.clear()
            self._seen_ns[client_id] = now_ns
        return ""

    def may_subscribe(self) -> bool:
        return self._subscriptions is None or self._subscriptions.take()

    def tend(self) -> None:
        """Once a second: forget the clients of before."""
        if self._seen_ns:
            past_ns = self._clock.mono_ns() - SECOND_NS
            self._seen_ns = {client_id: at for client_id, at in self._seen_ns.items() if at > past_ns}


def _bucket(clock: Clock, rate: int, limit: str) -> Bucket | None:
    return Bucket(clock, rate, limit) if rate else None
