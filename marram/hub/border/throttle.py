"""Rates of the API door: calls of one operation, and calls of one address to what anybody may call.

A bucket of tokens each, as AWS describes its own; there is none for a rate that is off. Not here: the figures (limits.py).
"""

from typing import Final

from marram.core.errors import LimitExceeded
from marram.hub.border.limits import Limits
from marram.hub.broker.rates import Bucket
from marram.kit import metrics
from marram.kit.clock import Clock

JOIN_BURST: Final = 10  # seconds' worth that may come at once
MAX_ADDRESSES: Final = 10_000

_hits: Final = metrics.counter("marram_limit_hits_total", "What was over a limit, by limit", ("limit",))


class Throttle:
    def __init__(self, clock: Clock, limits: Limits) -> None:
        self._clock, self._limits = clock, limits
        self._operations: dict[tuple[str, str], Bucket | None] = {}
        self._addresses: dict[str, tuple[float, int]] = {}  # tokens left, and when that was

    def operation(self, service: str, name: str) -> None:
        """Raises LimitExceeded (rate) when there were too many calls of this operation."""
        key = (service, name)
        if key not in self._operations:
            rate = self._limits.rate_of(service, name)
            self._operations[key] = Bucket(self._clock, rate, "api_per_s") if rate else None
        bucket = self._operations[key]
        if bucket is not None and not bucket.take():
            raise LimitExceeded(
                f"Rate exceeded: {service}:{name} may be called {bucket.rate} times a second; try again later",
                kind="rate",
            )

    def address(self, address: str) -> None:
        """One call of an open route. Raises LimitExceeded (rate)."""
        rate = self._limits.join_per_address_per_s
        if not rate:
            return
        burst, now_ns = float(rate * JOIN_BURST), self._clock.mono_ns()
        left, before_ns = self._addresses.pop(address, (burst, now_ns))
        left = min(burst, left + (now_ns - before_ns) / 1e9 * rate) - 1
        if len(self._addresses) >= MAX_ADDRESSES:
            del self._addresses[next(iter(self._addresses))]  # the one that was silent longest
        self._addresses[address] = (max(left, 0.0), now_ns)
        if left < 0:
            _hits.inc(limit="join_per_address_per_s")
            raise LimitExceeded("too many attempts from this address: wait a little", kind="rate")
